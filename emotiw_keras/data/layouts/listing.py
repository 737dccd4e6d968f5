"""What a reader of one layout hands over: names, class names and splits, and a way to get at the pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from emotiw_keras.data.archive import Archive, ArchiveImages, printable
from emotiw_keras.errors import DataError
from emotiw_keras.labels import class_key
from emotiw_keras.talk import most
from emotiw_keras.text import number_of

SPLITS = ("train", "val", "test")
SPLIT_NAMES: dict[str, str] = {
    "training": "train", "publictest": "val", "privatetest": "test",
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
_SET = re.compile(r"[ _-]?(set|images|data)$")


def split_named(word: str) -> str | None:
    """train, val or test if that is what a word means, else None.

    Example:
        >>> split_named("PublicTest"), split_named("train_set"), split_named("Validation Set"), split_named("trained")
        ('val', 'train', 'val', None)
    """
    plain = word.strip().lower()
    return SPLIT_NAMES.get(plain) or SPLIT_NAMES.get(_SET.sub("", plain))


class Images(Protocol):
    """The images of a listing by index; ImageError is about one image, DataError about the whole source."""

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, channels) without decoding."""
        ...

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1) grey or (height, width, 3) RGB."""
        ...


@dataclass
class Listing:
    """Every labelled image of a source, one entry an image; `split` is all "" where the source has none."""

    layout: str
    images: Images
    names: list[str]
    classes: list[str]
    split: list[str]
    subject: list[str]
    notes: list[str] = field(default_factory=list)
    guess: str = ""
    """How persons were read, or why not, from names of folders or files, which a `subject_pattern` overrides; "" where the data
    themselves say who is shown, or nothing does."""
    reading: str = ""
    """How aligned faces were cut (`faces.alignment.READINGS`); "" for images of another kind."""
    used: set[str] = field(default_factory=set)
    """Files that were read, images among them; all others are reported as left out, unless `whole`."""
    whole: bool = False
    """Whether what else lies there is no part of the data set, and need not be told."""
    index: np.ndarray | None = None
    """Which of `images` these are; all in order if None."""
    votes: np.ndarray | None = None
    """int32 (images, 10): votes for each image (`data.votes`), zeros where it has none; None where nobody gave any."""

    def first_seen(self) -> dict[str, str]:
        """Each class name -> the first image that carries it."""
        seen: dict[str, str] = {}
        for name, class_name in zip(self.names, self.classes, strict=True):
            seen.setdefault(class_name, name)
        return seen


def list_images(layout: str, archive: Archive, members: list[str]) -> Listing:
    """A listing of files that are images, without classes so far."""
    return Listing(
        layout, ArchiveImages(archive, members), list(members), [], [""] * len(members), [""] * len(members), used={*members}
    )


def class_names(of: Listing | Sequence[str]) -> set[str]:
    """The package's names of classes, or their own in small letters where they are no expressions."""
    return {class_key(name) for name in (of.classes if isinstance(of, Listing) else of)}


def without_classes(listing: Listing, leave_out: Sequence[str], path: object) -> Listing:
    """The listing without the images of some classes, which a note counts.

    Raises:
        DataError: a class that does not occur, or no image that is left.
    """
    if not leave_out:
        return listing
    unwanted = class_names(leave_out)
    found = {name: class_key(name) for name in set(listing.classes)}
    missing = unwanted - set(found.values())
    if missing:
        there = and_more(sorted(found))
        raise DataError(f"{path}: leave_out names {sorted(missing)[0]!r}, which is none of its classes {there}")
    rows = [i for i, name in enumerate(listing.classes) if found[name] not in unwanted]
    if not rows:
        raise DataError(f"{path}: leave_out leaves none of its {len(listing.names):,} images")
    told = f"classes left out: {', '.join(sorted(unwanted))} ({number_of(len(listing.names) - len(rows), 'images')})"
    return replace(
        listing,
        index=np.array(rows),
        names=[listing.names[i] for i in rows],
        classes=[listing.classes[i] for i in rows],
        split=[listing.split[i] for i in rows],
        subject=[listing.subject[i] for i in rows],
        votes=None if listing.votes is None else listing.votes[rows],
        notes=[*listing.notes, told],
    )


def and_more(names: list[str], shown: int = 5) -> str:
    """The first names of a list and how many follow."""
    told = names[: most(shown)]
    rest = len(names) - len(told)
    return ", ".join(map(printable, told)) + (f" and {rest:,} more" if rest > 0 else "")
