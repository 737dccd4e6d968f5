"""The page of `emotiw summary --html`: counts, expressions, films over time, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from emotiw_keras.bulk.job import PREPARE
from emotiw_keras.bulk.summary import BINS, TENTHS, Film, Summary, faces_counted, side_names, where_faces_are
from emotiw_keras.html import Html, bar, joined, page, table, tag
from emotiw_keras.text import number_of

# Of middle lightness, so that they are seen on white and on black.
COLOURS = ("#d1495b", "#7a9e3b", "#8d6cab", "#e0a100", "#3d7fc1", "#2a9d8f", "#8a8f98", "#c26a2d", "#b5538c", "#5b7553")
_WIDE, _HIGH = 600, 120


TITLE = "emotiw summary of "


def summary_page(summary: Summary, name: str) -> str:
    """A whole document of what `summarise` found in the folder `name`."""
    cards = [tag("li", tag("span", f"{count:,}", class_="value"), tag("small", key)) for key, count in summary.counts.items()]
    parts = [tag("h1", f"Parts of emotiw {summary.command}"), tag("p", name, class_="quiet"), tag("ul", cards, class_="cards")]
    if summary.command == PREPARE:
        head = ("class", "split", "inputs", "faces", "without a face", "unreadable")
        groups = [group for _, group in sorted(summary.groups.items())]
        rows = [
            (
                group.label or "-",
                group.split or "-",
                *(f"{n:,}" for n in (group.pictures, group.faces, group.without_face, group.unreadable)),
            )
            for group in groups
        ]
        parts += [
            tag("h2", "Faces by class"),
            table(head, rows, "Inputs of each class and split, and what came of them.", left=(0, 1)),
        ]
    else:
        parts += _predicted(summary)
    if summary.failures:
        parts.append(tag("h2", "What could not be read"))
        parts.append(
            _bars("reason", list(summary.failures), list(summary.failures.values()), "Images by the reason; # is a number.")
        )
    return page(f"{TITLE}{name}", *parts)


def _predicted(summary: Summary) -> list[Html]:
    labels = [label for label, _ in summary.labels.most_common()]
    faces = faces_counted(summary).capitalize()
    parts = [
        *(tag("p", line, class_="note") for line in where_faces_are(summary)),
        tag("h2", "Expressions"),
        _bars("expression", labels, [summary.labels[each] for each in labels], f"{faces}."),
    ]
    tenths = [f"{10 * i} to {10 * i + 10} %" for i in range(TENTHS)]
    parts += [
        tag("h2", "Histograms"),
        _bars("largest probability", tenths, summary.certainty, f"{faces}, by how sure the network is."),
        _bars("pixels", side_names(), summary.sides, f"{faces}, by the shorter side of their box."),
        _bars("faces", [*"01234", "5 and more"], summary.per_image, "Images and frames by their number of faces."),
    ]
    if summary.doubts:
        parts.append(_bars("doubt", list(summary.doubts), list(summary.doubts.values()), "Faces whose answer is doubtful."))
    if summary.films:
        parts += [tag("h2", "Films over time"), _legend(labels), *(_chart(film, labels) for film in summary.films)]
        more = summary.film_count - len(summary.films)
        parts.append(tag("p", f"and {more:,} more films", class_="quiet") if more else Html(""))
    return parts


def _bars(head: str, names: Sequence[str], numbers: Sequence[int], caption: str) -> Html:
    most, total = max(numbers, default=0) or 1, sum(numbers) or 1
    rows = [(name, f"{n:,}", bar(f"{n / total:.1%}", n / most)) for name, n in zip(names, numbers, strict=True)]
    return table((head, "number", "share"), rows, caption)


def _colour(label: str, labels: Sequence[str]) -> str:
    return COLOURS[sorted(labels).index(label) % len(COLOURS)]


def _legend(labels: Sequence[str]) -> Html:
    words = [joined(tag("span", "\u25a0", style=f"color: {_colour(label, labels)}"), f" {label}  ") for label in sorted(labels)]
    return tag("p", words)


def _chart(film: Film, labels: Sequence[str]) -> Html:
    """Faces of each expression in each span of a film, stacked."""
    most = max((sum(span.values()) for span in film.spans), default=0) or 1
    shapes, step = [], _WIDE / BINS
    for place, span in enumerate(film.spans):
        top = float(_HIGH)
        for label, count in sorted(span.items()):
            height = _HIGH * count / most
            top -= height
            box = {"x": f"{place * step:.1f}", "y": f"{top:.1f}", "width": f"{step * 0.9:.1f}", "height": f"{height:.1f}"}
            shapes.append(tag("rect", fill=_colour(label, labels), **box))
    counts = f"{number_of(film.frames, 'frames')}, {number_of(film.faces, 'faces')}, {film.failed:,} unreadable"
    words = f"{film.path}: {counts}; a column is {film.width:g} {film.unit}"
    return tag(
        "figure",
        tag("svg", shapes, viewBox=f"0 0 {_WIDE} {_HIGH}", role="img", aria_label=words),
        tag("figcaption", words),
        class_="chart",
    )
