"""A data set in memory: labels, splits, identities, a way to the pixels, and a report of what was decided."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.arguments import is_whole, items_of, whole_number, whole_or_none
from emotiw_keras.data.columns import pick
from emotiw_keras.data.layouts.listing import SPLITS
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.text import briefly

if TYPE_CHECKING:
    import tensorflow as tf

    from emotiw_keras.data.near.groups import NearTwins
    from emotiw_keras.data.pixel_stores import PixelStore

OK = "ok"
HELD_OUT = "held out"
Progress = Callable[[int, int], None]


@dataclass
class FaceSet:
    """Labelled images of one data set; lists and arrays have one entry an image, in the order of the source.

    Attributes:
        name: what the data set is called, such as "fer".
        source: the path as given.
        layout: what its layout is called (`layouts.TABLE`), such as "split folders".
        labels: label names; a label id is a position here.
        paths: each image's name inside the source.
        label: int (images,), -1 where the status is not "ok", or where votes are the labels and have no majority.
        split: "<U5" (images,): "train", "val" or "test"; "" for an unreadable image of a source without splits.
        subject: the person, "" if unknown.
        guessed_persons: whether only names of folders or files tell the persons.
        pixel_hash: the identity of the decoded pixels (`duplicates.pixel_hash`), "" where unreadable.
        status: "ok", or why the image cannot be used.
        pixels: the images themselves.
        report: what was decided, for a person to read.
        constant: bool (images,): every pixel is the same.
        reading: how `emotiw prepare` cut them, "" if it did not.
        near: which of them are near duplicates; None where that was not looked for.
        votes: int32 (images, 10), how many raters gave each image which class (`data.votes.VOTED`); zeros where it has none,
            None where no image has any.
    """

    name: str
    source: str
    layout: str
    labels: tuple[str, ...]
    paths: Sequence[str]
    label: np.ndarray
    split: np.ndarray
    subject: Sequence[str]
    pixel_hash: Sequence[str]
    status: Sequence[str]
    pixels: PixelStore
    report: list[str]
    constant: np.ndarray = field(repr=False)
    reading: str = ""
    near: NearTwins | None = field(default=None, repr=False)
    votes: np.ndarray | None = field(default=None, repr=False)
    guessed_persons: bool = False

    def indices(self, split: str) -> np.ndarray:
        """The usable images of "train", "val", "test" or "all", in file order.

        Returns:
            int64 (images of the split,).

        Raises:
            DataError: the split has no usable images; those that have are named.
        """
        usable = self.label >= 0
        chosen = np.flatnonzero(usable if split == "all" else usable & (self.split == split))
        if not chosen.size:
            there = [name for name in SPLITS if (usable & (self.split == name)).any()]
            way = "; a val_share above 0 makes one of a part of train" if split == "val" and "train" in there else ""
            raise DataError(f"{self.name}: no split {split!r} in {self.source}; it has {', '.join(there)}, and all{way}")
        return chosen

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have usable images, in the order train, val, test."""
        return tuple(self.counts())

    def dataset(
        self,
        split: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """The images of a split as batches of bytes: `tf.data.Dataset` of (uint8 (batch, height, width, channels), int32
        (batch,)); `FaceInput` turns the bytes into what a network takes, on the device.

        Args:
            split: "train", "val", "test" or "all".
            batch_size: images in a batch; the last may be smaller.
            shuffle: a new order each time it is gone through, drawn from `seed`; otherwise the order of the source.
            seed: of the order; the same seed gives the same sequence of orders, None others each time.
            shard: (index, count) of a host among several: of each batch it gets every `count`-th image from `index` on.

        Raises:
            DataError: the split has no usable images.
            UsageError: a batch size, a seed or a shard that cannot be meant.

        Example:
            >>> from emotiw_keras.data import load_faces
            >>> faces = load_faces("generated:small", limit=14)
            >>> [tuple(images.shape) for images, labels in faces.dataset("train", batch_size=8)]
            [(8, 96, 96, 1), (6, 96, 96, 1)]
        """
        from emotiw_keras.data.batches import Pool, face_dataset

        batch_size = whole_number("batch_size", batch_size, 1)
        seed = whole_or_none("seed", seed, 0)
        given = items_of(shard)
        if len(given) != 2 or not all(map(is_whole, given)) or not 0 <= given[0] < given[1]:
            raise UsageError(f"shard = {briefly(shard)}: expected (index, count), whole numbers with index < count")
        pool = Pool([(self, self.indices(split))], max(self.pixels.shape[:2]), self.pixels.shape[-1] == 1)
        return face_dataset(pool, batch_size, shuffle=shuffle, seed=seed, shard=shard)

    def counts(self) -> dict[str, dict[str, int]]:
        """Usable images: split -> label -> number, for the splits that exist."""
        table: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            ids = self.label[(self.label >= 0) & (self.split == split)]
            if ids.size:
                numbers = np.bincount(ids, minlength=len(self.labels)).tolist()
                table[split] = dict(zip(self.labels, numbers, strict=True))
        return table

    def unreadable(self) -> list[tuple[str, str]]:
        """(path, why) of the images that cannot be used."""
        return [(path, status) for path, status in zip(self.paths, self.status, strict=True) if status != OK]

    def identities(self, rows: np.ndarray) -> Iterator[str]:
        """What tells the images at `rows` from others: the same word, the same pixels."""
        return (self.pixel_hash[i] for i in rows)

    def facts(self) -> dict[str, Any]:
        """What run.json says of the set; a run goes on only with data that say the same."""
        digest = hashlib.sha256()
        for row in zip(self.paths, self.pixel_hash, self.label.tolist(), self.split.tolist(), strict=True):
            digest.update(repr(row).encode())
        if self.votes is not None:
            digest.update(np.ascontiguousarray(self.votes, "<i4").tobytes())
        return {"layout": self.layout, "images": len(self.paths), "fingerprint": digest.hexdigest()[:16]}

    def records(self, roles: Mapping[str, np.ndarray]) -> Iterator[dict[str, str]]:
        """Rows of data.csv, without their stage.

        Args:
            roles: status -> int, the images that have it; the last one counts, an image without one is held out.
        """
        status = np.array([text if text != OK else HELD_OUT for text in self.status], object)
        for role, rows in roles.items():
            status[rows] = role
        for i, path in enumerate(self.paths):
            yield {
                "data": self.name,
                "path": path,
                "pixel_hash": self.pixel_hash[i],
                "label": self.labels[self.label[i]] if self.label[i] >= 0 else "",
                "subject": self.subject[i],
                "split": str(self.split[i]),
                "status": str(status[i]),
            }

    def take(self, rows: np.ndarray) -> FaceSet:
        """The set of some of the images, numbered anew from 0."""
        return replace(
            self,
            paths=pick(self.paths, rows),
            label=self.label[rows],
            split=self.split[rows],
            subject=pick(self.subject, rows),
            pixel_hash=pick(self.pixel_hash, rows),
            status=pick(self.status, rows),
            pixels=self.pixels.select(rows),
            constant=self.constant[rows],
            near=None if self.near is None else self.near.take(rows),
            votes=None if self.votes is None else self.votes[rows],
        )
