"""HTML pages that are self-contained: escaped by construction, no script, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from emotiw_keras.text import shown_lines

MOST_ON_A_PHONE = 3
"""Columns that fit side by side on a phone."""
WRAPPED = 12
"""Characters of a cell from which on it may take several lines."""
LYING = 12
"""Columns of small cells whose headings fit beside each other."""
VOID = frozenset({"img", "meta"})
# Shapes of SVG must be closed, or the next one lies inside of them.
SHAPES = frozenset({"line", "rect", "polyline", "circle"})

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --panel: #f6f8fa; --ink: #1f2328; --quiet: #59636e; --line: #d1d9e0;
  --blue: #0969da; --orange: #bc4c00; --green: #1a7f37; --warn: #fff8c5; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --panel: #161b22; --ink: #e6edf3; --quiet: #9da7b1;
  --line: #3d444d; --blue: #4493f8; --orange: #f0883e; --green: #3fb950; --warn: #3b2e0a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 78rem; margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem) 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 0.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p { max-width: 46rem; margin: 0.5rem 0; }
.quiet, figcaption { color: var(--quiet); }
figure.table { margin: 1rem 0; } figure.table figcaption { max-width: 46rem; font-size: 0.925rem; }
.note { background: var(--warn); border-left: 4px solid var(--orange); padding: 0.5rem 0.75rem; border-radius: 4px; }
.scroll { overflow-x: auto; margin: 0.375rem 0 0.75rem; }
.scroll:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.925rem; }
th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 7rem; }
td.long { white-space: normal; min-width: 4.5rem; }
th.left, td.left { text-align: left; }
thead th { border-bottom-width: 2px; vertical-align: bottom; white-space: normal; overflow-wrap: normal; }
tbody th { font-weight: 500; }
td.shade { background: color-mix(in srgb, var(--blue) calc(var(--share) * 60%), transparent); text-align: center;
  min-width: 3rem; }
.upright { font-size: 0.8rem; } .upright td.shade { min-width: 1.75rem; padding: 0.3rem 0.15rem; }
.upright th:first-child { min-width: 12rem; position: sticky; left: 0; background: var(--paper); }
.upright thead th:not(:first-child) { padding: 0.2rem; }
.upright thead span { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; max-height: 12rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
td.right { outline: 1px solid var(--line); outline-offset: -1px; font-weight: 600; }
td.bar { min-width: 7rem; background: linear-gradient(to right, color-mix(in srgb, var(--blue) 35%, transparent) var(--share),
  transparent var(--share)); }
.wide { font-size: 0.85rem; } .wide th, .wide td { padding: 0.3rem 0.4rem; } .wide td.bar { min-width: 4.5rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 0.75rem; margin: 1rem 0;
  padding: 0; list-style: none; }
.cards li { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem 0.8rem; }
.cards .value { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cards small { color: var(--quiet); display: block; }
.faces { grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
.faces figure { display: grid; grid-template-columns: 1fr 1fr; gap: 0.4rem; margin: 0; }
img { max-width: 100%; height: auto; }
.faces img { width: 100%; aspect-ratio: 1; border-radius: 4px; display: block; background: #808080; }
.faces figcaption { grid-column: 1 / -1; font-size: 0.875rem; overflow-wrap: anywhere; color: var(--ink); }
.faces div { font-size: 0.875rem; } .faces p { margin: 0 0 0.25rem; }
.faces .path { color: var(--quiet); font-size: 0.8rem; display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
.charts figure, figure.chart { margin: 0.5rem 0; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 14px system-ui, sans-serif; }
svg .quiet { fill: var(--quiet); }
svg .axis { stroke: var(--quiet); } svg .grid { stroke: var(--line); }
svg .band { fill: var(--panel); }
svg .train { stroke: var(--blue); } svg .val { stroke: var(--orange); stroke-dasharray: 6 3; }
svg .train, svg .val { fill: none; stroke-width: 2.5; }
svg .dot { stroke-dasharray: none; } svg .dot.train { fill: var(--blue); } svg .dot.val { fill: var(--orange); }
svg .kept { fill: var(--blue); fill-opacity: 0.55; } svg .count { fill: var(--quiet); fill-opacity: 0.4; }
svg .ideal { stroke: var(--orange); stroke-width: 2; stroke-dasharray: 5 4; }
.key { display: inline-block; width: 1.6rem; border-top: 3px solid var(--blue); vertical-align: middle;
  margin: 0 0.3rem 0 0.8rem; }
.key.val { border-top: 3px dashed var(--orange); }
.better { color: var(--green); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem; overflow-x: auto;
  font-size: 0.85rem; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
pre code { overflow-wrap: normal; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr); gap: 0.25rem 1rem; margin: 0.75rem 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; }
@media (max-width: 30rem) { body { font-size: 15px; } th, td { padding: 0.3rem 0.4rem; }
  .matrix { width: 100%; font-size: 0.75rem; } .matrix td.shade { min-width: 0; padding: 0.3rem 0.1rem; }
  .matrix th:first-child { min-width: 0; } .upright th:first-child { min-width: 8rem; }
  .matrix thead th:not(:first-child) { padding: 0.2rem; }
  .matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
  .wide, .wide tbody, .wide tr, .wide th, .wide td { display: block; } .wide thead { display: none; }
  .wide tr { padding: 0.4rem 0; border-bottom: 1px solid var(--line); }
  .wide { font-size: 0.925rem; } .wide tbody th { font-weight: 700; }
  .wide tbody th, .wide td { border: 0; padding: 0.1rem 0; white-space: normal; }
  .wide td { display: flex; justify-content: space-between; gap: 1rem; text-align: right; }
  .wide td::before { content: attr(data-of); color: var(--quiet); text-align: left; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.5rem; } }
@media print { .scroll, pre { overflow: visible; } pre code { white-space: pre-wrap; overflow-wrap: anywhere; }
  .upright th:first-child { position: static; } }
"""
# Nothing but what the page itself holds: a browser refuses the rest, whatever a file's name may have smuggled in.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MARK = html.escape(POLICY)
"""What every page holds, those of earlier versions too."""


class Html(str):
    """Text that is markup already; every other string is escaped where it becomes part of a page."""


Part = Any  # Html, text, a number, None (nothing), or an iterable of such


def _escaped(value: Any) -> str:
    # A file's name may hold bytes that are no text.
    return html.escape(shown_lines(str(value)))


def joined(*parts: Part) -> Html:
    """Parts in their order, each escaped unless it is `Html`."""
    text = []
    for part in parts:
        if part is None:
            continue
        if isinstance(part, Html):
            text.append(str(part))
        elif isinstance(part, str) or not isinstance(part, Iterable):
            text.append(_escaped(part))
        else:
            text.append(joined(*part))
    return Html("".join(text))


def tag(name: str, /, *parts: Part, **attributes: Any) -> Html:
    """An element; an attribute's `_` stands for `-`, a last `_` is dropped, None leaves it out.

    Example:
        >>> tag("a", "<b>", class_="x", aria_label='"')
        '<a class="x" aria-label="&quot;">&lt;b&gt;</a>'
    """
    written = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in SHAPES:
        return Html(f"<{name}{written}/>")
    start = Html(f"<{name}{written}>")
    return start if name in VOID else joined(start, *parts, Html(f"</{name}>"))


def scrolling(table: Html, label: str) -> Html:
    """A wide element that scrolls by itself, by the keyboard too, so that the page does not."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def table(
    head: Sequence[Part],
    rows: Iterable[Sequence[Part]],
    caption: str,
    *,
    left: Sequence[int] = (),
    label: str | None = None,
    matrix: bool = False,
) -> Html:
    """A table with a heading in each row; a cell that is a `td` already is taken as it is.

    Args:
        head: of the columns.
        rows: cells; the first is the row's heading.
        caption: what it shows.
        left: columns of words, which start at the left.
        label: for readers of the screen, if the caption is long.
        matrix: whether it is one of small cells, whose headings stand upright on a phone, and everywhere where they are many
            or have long words; of other tables with many columns each row becomes a list there.
    """

    def cell(place: int, value: Part) -> Html:
        if place and isinstance(value, Html) and value.startswith("<td"):
            return Html(f'<td data-of="{_escaped(head[place])}"{value[3:]}') if wide else value
        kind = " ".join(["left"] * (place in left) + ["long"] * (place > 0 and _wraps(value))) or None
        if place == 0:
            return tag("th", value, scope="row", class_=kind)
        return tag("td", value, class_=kind, data_of=head[place] if wide else None)

    wide = len(head) > MOST_ON_A_PHONE and not matrix
    upright = matrix and (len(head) > LYING or any(len(word) > WRAPPED for value in head[1:] for word in str(value).split()))
    told = [tag("span", value, title=value) if matrix and i else value for i, value in enumerate(head)]
    heads = [tag("th", value, scope="col", class_="left" if i in left else None) for i, value in enumerate(told)]
    body = [tag("tr", [cell(i, value) for i, value in enumerate(row)]) for row in rows]
    # The caption is outside the part that scrolls, so that its lines can wrap.
    kind = "matrix upright" if upright else "matrix" if matrix else "wide" if wide else None
    whole = tag("table", tag("thead", tag("tr", heads)), tag("tbody", body), aria_label=label or caption, class_=kind)
    return tag("figure", tag("figcaption", caption), scrolling(whole, label or caption), class_="table")


def _wraps(value: Part) -> bool:
    return isinstance(value, str) and not isinstance(value, Html) and len(value) > WRAPPED


def shaded(value: Part, share: float, right: bool = False) -> Html:
    """A cell whose colour shows a share of 0..1."""
    return tag("td", value, class_="shade right" if right else "shade", style=f"--share: {share:.3f}")


def bar(value: Part, share: float) -> Html:
    """A cell with a bar, of 0..1 of its width, under the value."""
    return tag("td", value, class_="bar long" if _wraps(value) else "bar", style=f"--share: {100 * share:.1f}%")


def image_tag(pixels: np.ndarray, alt: str) -> Html:
    """An image inside the page: uint8 (height, width, 1 or 3)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "JPEG", quality=88)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return tag("img", src=source, alt=alt, width=pixels.shape[1], height=pixels.shape[0])


def page(title: str, *parts: Part) -> str:
    """A whole document.

    Args:
        title: of the window; parts of the page itself come after.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("main", *parts)), lang="en") + "\n"
