"""How many images gave a face, by class and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from emotiw_keras.data.layouts.listing import SPLITS
from emotiw_keras.data.layouts.prepared import OK
from emotiw_keras.data.prepare.faces import CENTRE, UNREADABLE, Row


@dataclass
class Group:
    """Images of one class in one split.

    Attributes:
        images: all of them; the sum of the next three.
        with_face: at least one face was cut out.
        without_face: none was found, or none that could be cut out.
        unreadable: the file could not be read, or a video not to its end, which may have given faces before.
        faces: faces cut out.
        centres: centre squares cut out instead of a face.
    """

    split: str = ""
    label: str = ""
    pictures: int = 0
    with_face: int = 0
    without_face: int = 0
    unreadable: int = 0
    faces: int = 0
    centres: int = 0

    @property
    def coverage(self) -> float:
        """Share of the images that gave a face, 0..1."""
        return self.with_face / self.pictures if self.pictures else 0.0

    def count(self, rows: Sequence[Row]) -> None:
        """Add one image by its rows."""
        faces = sum(row["status"] == OK for row in rows)
        self.pictures += 1
        self.faces += faces
        self.centres += sum(row["status"] == CENTRE for row in rows)
        if any(map(is_unreadable, rows)):
            self.unreadable += 1
        elif faces:
            self.with_face += 1
        else:
            self.without_face += 1

    def as_dict(self) -> dict[str, Any]:
        """As plain data, coverage included."""
        return {**asdict(self), "coverage": round(self.coverage, 4)}


@dataclass
class Summary:
    """What a preparation came to.

    Attributes:
        total: all images together.
        groups: by split and class, splits in their order, classes sorted.
        unreadable: path and reason of each image that could not be read.
        new: images that this call read; the others were done before.
        seconds: of worker time in this call, by step; of several workers together.
    """

    total: Group
    groups: list[Group]
    unreadable: list[tuple[str, str]]
    new: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain data; the same for the same images, whatever way they were done in."""
        total = {name: value for name, value in self.total.as_dict().items() if name not in ("split", "label")}
        return {**total, "groups": [group.as_dict() for group in self.groups]}

    def table(self) -> list[str]:
        """Lines for a person."""
        head = ("split", "class", "pictures", "with face", "coverage", "no face", "unreadable", "faces", "centres")
        lines = [head, *(_cells(group) for group in self.groups)]
        if len(self.groups) > 1:
            lines.append(("all", "", *_cells(self.total)[2:]))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        aligned = [str.ljust, str.ljust] + [str.rjust] * (len(head) - 2)
        texts = [[pad(cell, width) for pad, cell, width in zip(aligned, line, widths, strict=True)] for line in lines]
        return ["  ".join(cells).rstrip() for cells in texts]


def is_unreadable(row: Row) -> bool:
    """Whether a row says that its image could not be read, or its video not to the end, behind the faces before."""
    return row["status"].startswith(UNREADABLE)


def _cells(group: Group) -> tuple[str, ...]:
    counts = (group.without_face, group.unreadable, group.faces, group.centres)
    start = (group.split or "-", group.label or "-", f"{group.pictures:,}", f"{group.with_face:,}", f"{group.coverage:.1%}")
    return (*start, *(f"{count:,}" for count in counts))


def summarise(rows_of: Sequence[Sequence[Row]]) -> Summary:
    """Count the rows of each image."""
    total = Group()
    groups: dict[tuple[str, str], Group] = {}
    unreadable = []
    for rows in rows_of:
        split, label = rows[0]["split"], rows[0]["label"]
        groups.setdefault((split, label), Group(split, label)).count(rows)
        total.count(rows)
        bad = list(filter(is_unreadable, rows))
        unreadable += [(row["path"], row["status"].removeprefix(UNREADABLE)) for row in bad[:1]]
    order = {name: number for number, name in enumerate(SPLITS)}
    ordered = sorted(groups.values(), key=lambda group: (order.get(group.split, len(order)), group.label))
    return Summary(total, ordered, unreadable)
