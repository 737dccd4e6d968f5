"""What a part of the benchmark hands back, and how it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import KINDS

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass
class Options:
    """How much is measured.

    Attributes:
        quick: only see that everything runs: small networks, few images, one round.
        rounds: figures per contestant.
        run: a finished run for the forward part; None makes one with random weights.
        faces: FER-2013 in any layout, or None.
        photos: a folder of photos to make frames of, or None for drawn ones.
        networks, batches: those of the train part.
    """

    quick: bool = False
    rounds: int = 5
    run: Path | None = None
    faces: Path | None = None
    photos: Path | None = None
    networks: Sequence[str] = ("alexnet", "vgg_cnn_m_2048")
    batches: Sequence[int] = (64, 256)


@dataclass
class Table:
    """A part's table: a line above it, the columns, the rows as text, lines below it, and every figure for the JSON file."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Markdown, aligned so that it reads as text too."""
        cells = [list(self.columns), *[list(row) for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        shown = []
        for first, *others in cells:
            padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            shown.append(f"| {' | '.join([first.ljust(widths[0]), *padded])} |")
        rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
        return [f"**{self.title}**", "", shown[0], rule, *shown[1:], *(line for note in self.notes for line in ("", note))]


def write_results(part: str, tables: Sequence[Table], machine: str, kind: str) -> None:
    """Replace a part's section for a kind of processor in RESULTS.md, which begins and ends with a comment of both names; one
    that is not there yet, and the heading of the kind, are made."""
    text = RESULTS.read_text("utf-8")
    begin, end = f"<!-- {kind} {part} -->", f"<!-- /{kind} {part} -->"
    body = "\n\n".join("\n".join(table.lines()) for table in tables)
    section = f"{begin}\n{machine}\n\n{body}\n{end}"
    if begin in text and end in text:
        RESULTS.write_text(re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: section, text, flags=re.DOTALL), "utf-8")
        return
    kinds = re.search(r"<!-- kinds -->.*?(?=<!-- /kinds -->)", text, flags=re.DOTALL)
    if kinds is None:
        raise SystemExit(f"{RESULTS} has no place between <!-- kinds --> and <!-- /kinds --> for {begin}")
    title = KINDS[kind][1]
    heading = f"## {title}\n"
    first, found, rest = kinds.group().partition(heading)
    own, following, others = rest.partition("\n## ")
    new = f"{own.rstrip()}\n\n### {part.capitalize()}: {title.removeprefix('Processors with ')}\n\n{section}\n\n".lstrip("\n")
    placed = f"{first.rstrip()}\n\n{found or heading}\n{new}{following.lstrip()}{others}"
    RESULTS.write_text(text[: kinds.start()] + placed + text[kinds.end() :], "utf-8")


def write_json(path: Path, machine: dict[str, Any], parts: dict[str, Sequence[Table]]) -> None:
    """Every figure of every part."""
    told = {name: [{"title": table.title, **table.figures} for table in tables] for name, tables in parts.items()}
    path.write_text(json.dumps({"machine": machine, "parts": told}, indent=1) + "\n", "utf-8")


def spread(figures: dict[str, Any], digits: int = 1) -> tuple[str, str]:
    """Median, and least to most, as text."""
    return f"{figures['median']:.{digits}f}", f"{figures['least']:.{digits}f} - {figures['most']:.{digits}f}"
