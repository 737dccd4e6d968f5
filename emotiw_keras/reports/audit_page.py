"""An audit as Markdown tables, for a terminal and for files, and as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emotiw_keras.audit.faces import LABELS
from emotiw_keras.html import Part, bar, page, scrolling, table, tag
from emotiw_keras.reports.score_tables import percent, three
from emotiw_keras.text import markdown_words

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]
"""Heading, and the figure of a row: {"value", "ci95"}, a number, or None."""

MACRO_F1 = "macro F1"
LEAKS: tuple[Column, ...] = (
    ("all", lambda r: r["all"]),
    ("without equal twins", lambda r: r["without_twins"]),
    ("nor near twins", lambda r: r["without_near_twins"]),
    (MACRO_F1, lambda r: r["macro_f1"]),
    ("ECE", lambda r: r["ece"]),
)
VOTES: tuple[Column, ...] = (
    ("majority of 8", lambda r: r.get("ferplus_8")),
    ("of 7, without contempt", lambda r: r.get("ferplus_7")),
    ("8 of 10 agree", lambda r: r.get("ferplus_agreed")),
    ("with a rater", lambda r: r.get("with_a_rater")),
    ("ECE", lambda r: r.get("ferplus_ece")),
)
ROBUST: tuple[Column, ...] = (
    ("as it is", lambda r: r["all"]),
    ("noise", lambda r: r["robust"]["noise"]),
    ("blur", lambda r: r["robust"]["blur"]),
    ("24 pixels", lambda r: r["robust"]["small"]),
)
CLASSES: tuple[Column, ...] = tuple((label, lambda r, label=label: r["recall"][label]) for label in LABELS)  # type: ignore[misc]
TABLES = (
    ("leaks", "Accuracy on FER-2013's own labels, and what leaks are worth", LEAKS),
    ("votes", "What ten people said of the same faces (FER+)", VOTES),
    ("robust", "Accuracy where the picture is worse", ROBUST),
    ("classes", "Recall of each class, all faces", CLASSES),
)


def _cell(value: Any, heading: str = "") -> str:
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return three(value)
    low, high = value["ci95"]
    if heading == MACRO_F1:
        return f"{three(value['value'])} ({three(low)} - {three(high)})"
    return f"{percent(value['value'])} ({100 * low:.1f} - {100 * high:.1f})"


def _captions(result: dict[str, Any]) -> dict[str, str]:
    """What each table counts, with the numbers of faces."""
    of = result["data"]["faces"]
    part = "a part of PrivateTest" if result["data"]["limited"] else "PrivateTest"
    near = f", {of['near_twins']:,} more nearly so" if "near_twins" in of else "; near twins were not looked for"
    leaks = (
        f"{part}, {of['all']:,} faces; {of['twins']:,} of them stand in Training or PublicTest pixel for pixel{near}. In "
        "brackets 95 % intervals (Wilson's; macro F1: bootstrap). ECE: calibration error in 15 bins."
    )
    if "with_votes" in of:
        votes = (
            f"{of['with_a_majority']:,} faces have a majority among FER+'s eight classes, single votes not counted; of "
            f"{of['agreed']:,} at least 8 of 10 agree. A reader of seven classes never says contempt. With a rater: "
            f"what share of the ten votes says the reader's answer, mean over {of['with_votes']:,} faces."
        )
        people = result["humans"]
        votes += (
            f" Of people, one rater agrees with another in {_cell(people['one_rater_with_another'])}, and the answer that most "
            f"raters gave, which nothing can exceed, with one in {_cell(people['best_answer_with_a_rater'])}."
        )
    else:
        votes = "No votes were given."
    worse = "; ".join(f"{name}: {words}" for name, words in result["conditions"].items())
    robust = f"The same {of['all']:,} faces. {worse}."
    return {"leaks": leaks, "votes": votes, "robust": robust, "classes": "In brackets 95 % intervals."}


def _scored(result: dict[str, Any]) -> list[Row]:
    return [row for row in result["models"] if "error" not in row]


def _facts(row: Row) -> list[str]:
    """What is known of how a reader came about, and how it was asked."""
    size = "-" if "bytes" not in row else f"{row['bytes'] / 1e6:.2f}"
    if "error" in row:
        return ["-", f"could not be asked: {row['error']}", row["trained_on"], row["selected_on"], "-", "-"]
    lost = "" if row["found"] == row["all"]["n"] else f"; no face found in {row['all']['n'] - row['found']:,}, counted as wrong"
    others = [label for label in row["labels"] if label not in LABELS and len(row["labels"]) > len(LABELS)]
    more = f"; {len(row['labels'])} classes" if others else ""
    named = ", ".join(row[key] for key in ("version", "licence") if key in row) or "-"
    return [
        named,
        row.get("how", "not told") + more + lost,
        row["trained_on"],
        row["selected_on"],
        row.get("source", "-"),
        size,
    ]


FACTS = ("version, licence", "how a face reaches it", "trained on", "selected on", "known from", "MB")


def _shown(result: dict[str, Any], key: str, columns: Sequence[Column]) -> bool:
    return key != "votes" or any(get(row) is not None for row in _scored(result) for _, get in columns)


def audit_text(result: dict[str, Any]) -> str:
    """Markdown: a table for each question."""
    captions, parts = _captions(result), []
    for key, title, columns in TABLES:
        if not _shown(result, key, columns):
            continue
        rows = [[row["name"], *(_cell(get(row), name) for name, get in columns)] for row in _scored(result)]
        parts += [f"## {title}", captions[key], _markdown(["", *(name for name, _ in columns)], rows, right=True)]
    facts = [[row["name"], *_facts(row)] for row in result["models"]]
    parts += ["## Who they are, and what they were chosen on", _markdown(["", *FACTS], facts, right=False)]
    return "\n\n".join(parts)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool) -> str:
    # Words of strangers: no cell ends early, nothing is HTML, an image or a link.
    plain = [[markdown_words(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(head, *plain, strict=True)]
    align = [place > 0 and right for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        words = [cell.rjust(n) if far else cell.ljust(n) for cell, n, far in zip(cells, widths, align, strict=True)]
        return "| " + " | ".join(words) + " |"

    rule = "|" + "|".join("-" * (n + 1) + (":" if far else "-") for n, far in zip(widths, align, strict=True)) + "|"
    return "\n".join([line(head), rule, *map(line, plain)])


def audit_page(result: dict[str, Any], command: str) -> str:
    """One HTML document that is self-contained.

    Args:
        result: from `audit`.
        command: the command that gives it again.
    """
    captions = _captions(result)
    parts: list[Part] = [
        tag("h1", "An audit on FER-2013"),
        tag("p", "Every reader was asked about the same faces. Nothing here was chosen on them: they were only read."),
    ]
    if result["data"]["limited"]:
        faces = f"{result['data']['faces']['all']:,}"
        parts.append(tag("p", f"Only {faces} faces of the split were asked about (--limit).", class_="note"))
    failed = [row for row in result["models"] if "error" in row]
    parts += [tag("p", f"{row['name']} could not be asked: {row['error']}", class_="note") for row in failed]
    for key, title, columns in TABLES:
        if not _shown(result, key, columns):
            continue
        rows = [(row["name"], *(_bar(get(row), name) for name, get in columns)) for row in _scored(result)]
        parts += [tag("h2", title), table(["reader", *(name for name, _ in columns)], rows, captions[key], label=title)]
    parts.append(tag("h2", "Who they are, and what they were chosen on"))
    facts = [(row["name"], *_facts(row)) for row in result["models"]]
    left = tuple(range(1, len(FACTS)))  # words; the last column is a size
    wrapped = [
        (name, *(tag("td", text, class_="left", style="white-space: normal; min-width: 9rem") for text in words), size)
        for name, *words, size in facts
    ]
    caption = "Unknown means that no public code or record says it."
    parts.append(table(["reader", *FACTS], wrapped, caption, left=left, label="Who they are"))
    parts += [tag("h2", "How to reproduce this"), scrolling(tag("pre", tag("code", command)), "command")]
    return page("An audit on FER-2013", *parts)


def _bar(value: Any, heading: str) -> Part:
    return bar(_cell(value, heading), value["value"]) if isinstance(value, dict) else _cell(value)
