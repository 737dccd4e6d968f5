"""Heads: several answers of one network to one face, each with classes of its own, from one trunk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
"""What a head may be called: outputs of exported models carry it."""


@dataclass(frozen=True)
class Head:
    """One answer.

    Attributes:
        name: what it is called.
        labels: its classes, in the order of its outputs.
        start: its first column among the outputs of the whole network, which has those of all heads side by side.
    """

    name: str
    labels: tuple[str, ...]
    start: int

    @property
    def columns(self) -> slice:
        """Its columns among the outputs of the whole network."""
        return slice(self.start, self.start + len(self.labels))


def side_by_side(labels: Mapping[str, Sequence[str]]) -> tuple[Head, ...]:
    """Heads in order, by name and classes.

    Example:
        >>> [head.columns for head in side_by_side({"fer": ("sad", "happy"), "votes": ("sad", "happy", "contempt")})]
        [slice(0, 2, None), slice(2, 5, None)]
    """
    heads: list[Head] = []
    for name, classes in labels.items():
        heads.append(Head(name, tuple(classes), sum(len(head.labels) for head in heads)))
    return tuple(heads)


def heads_of(info: Mapping[str, Any]) -> tuple[Head, ...]:
    """The heads that run.json names; none of a network with one answer."""
    return side_by_side({each["name"]: each["labels"] for each in info.get("heads", ())})
