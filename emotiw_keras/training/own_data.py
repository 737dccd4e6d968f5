"""What a Keras user trains on besides faces in files: arrays, `tf.data.Dataset`s, `keras.utils.PyDataset`s."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.data.duplicates import pixel_hash
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.talk import Notice
from emotiw_keras.text import briefly, number_of
from emotiw_keras.training.class_weights import classes_of
from emotiw_keras.training.epoch_progress import silent
from emotiw_keras.training.stage import SPLITS, Stage

TELL_SECONDS = 10.0
_LOOKED_AT = 256  # items at once
_NO_NUMBERS = "OUSMmc"
"""Kinds of NumPy's types that no network takes: complex ones would lose a part."""
ROUNDED = 1e-6
"""Shares that are computed may lie so far below 0."""
DEFAULT_BATCH = 64
"""`Stage.batch_size` where nobody set it."""


class Arrays:
    """Inputs and labels in memory: a `Source`, so that training on them resumes at any step.

    Args:
        name: what errors call them.
        x: (items, ...); uint8 (items, height, width, 1 or 3) are faces, anything else goes in as it is.
        y: whole numbers (items,), or rows (items, classes).

    Raises:
        DataError: they do not belong together.
    """

    kind = "arrays"

    def __init__(self, name: str, x: Any, y: Any) -> None:
        self.name = name
        try:
            self.x, labels = np.asarray(x), np.asarray(y)
        except ValueError as error:
            told = f"{name}: {error}; expected arrays (x, y), x of one shape for all items"
            pairs = all(isinstance(each, tuple | list) and len(each) == 2 for each in (x, y))
            raise DataError(
                f"{told}. Two pairs are told apart by name: {{'train': (x, y), 'test': (x, y)}}" if pairs else told
            ) from error
        if not _are_numbers(self.x.dtype):
            raise DataError(f"{name}: x holds {self.x.dtype}, which no network takes; expected numbers")
        if labels.ndim == 2 and labels.shape[1] == 1 and np.issubdtype(labels.dtype, np.integer):
            labels = labels[:, 0]  # a class each, as `keras.datasets` have them
        if self.x.ndim < 2 or labels.ndim not in (1, 2) or len(self.x) != len(labels) or not len(labels):
            raise DataError(f"{name}: x has shape {self.x.shape}, y {labels.shape}; expected as many labels as inputs")
        if labels.dtype.kind in _NO_NUMBERS or (labels.ndim == 1 and not np.issubdtype(labels.dtype, np.integer)):
            raise DataError(f"{name}: y holds {labels.dtype}; expected whole numbers (items,) or rows (items, classes)")
        if labels.ndim == 1 and not -(1 << 31) <= labels.min() <= labels.max() < 1 << 31:
            raise DataError(f"{name} has labels from {labels.min()} to {labels.max()}; expected those of the network's outputs")
        self.labels = labels.astype(np.int32 if labels.ndim == 1 else np.float32)
        for start in range(0, len(self.x) if self.x.dtype.kind == "f" else 0, _LOOKED_AT):  # x may be as large as memory
            finite = np.isfinite(self.x[start : start + _LOOKED_AT]).all(axis=tuple(range(1, self.x.ndim)))
            if not finite.all():
                number = start + int(np.argmin(finite))
                raise DataError(f"{name}: x[{number}] holds nan or infinity; expected finite numbers")
        self.odd_row = _odd_row(self.labels, f"{name}: y", 0)
        """The first item whose row of labels is no share of each class: one below 0, or all 0."""
        self.shape: tuple[int, ...] = self.x.shape[1:]
        self.dtype = self.x.dtype.newbyteorder("=")  # TensorFlow hands on bytes as they lie, in whatever order
        self.whole: Arrays | None = None
        """Of what `without` made, what it was made of."""
        self.left_out = np.zeros(len(self.labels), bool)
        """Items that are not trained on: bool, of all in `x`."""
        self._taken = np.arange(len(self.labels))
        self._identities: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def without(self, left_out: np.ndarray) -> Arrays:
        """The same arrays less some items: bool (items,). Nothing is copied but labels."""
        part = copy(self)
        part.whole = self
        part.left_out, part._taken, part.labels = left_out, np.flatnonzero(~left_out), self.labels[~left_out]
        return part

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The inputs at `positions`."""
        return self.x[self._taken[positions]].astype(self.dtype, copy=False)

    @property
    def label_spec(self) -> tf.TensorSpec:
        """What a batch's labels are."""
        return tf.TensorSpec((None, *self.labels.shape[1:]), self.labels.dtype)

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest label."""
        return (0, self.labels.shape[1] - 1) if self.labels.ndim == 2 else (int(self.labels.min()), int(self.labels.max()))

    def identities(self) -> list[str]:
        """What tells each input from others."""
        if self._identities is None:
            if are_faces(self.shape, self.dtype):
                self._identities = [pixel_hash(image) for image in self.x]
            else:
                rows = (np.ascontiguousarray(row, self.dtype).tobytes() for row in self.x)
                self._identities = [hashlib.blake2b(row, digest_size=16).hexdigest() for row in rows]
        return self._identities

    def fingerprint(self) -> str:
        """A hash of inputs, labels and their order."""
        digest = hashlib.sha256(repr((self.x.shape, str(self.dtype))).encode())
        digest.update(np.ascontiguousarray(self.x, self.dtype).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """What run.json says of them; a run goes on only with arrays that say the same."""
        return {"layout": self.kind, "images": len(self), "fingerprint": self.fingerprint()}

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """(path, pixel hash, label) of each, for data.csv."""
        for number, (identity, label) in enumerate(zip(self.identities(), classes_of(self.labels).tolist(), strict=True)):
            yield f"{self.name}[{number}]", identity, label


class Batches:
    """A `tf.data.Dataset` or `keras.utils.PyDataset` of (x, y) batches. It cannot be entered in the middle of an epoch.

    It is gone through once beforehand, which counts batches and looks at labels: one that draws its order anew in each epoch,
    by a seed, trains in the orders from the second on.

    Args:
        name: what errors call it.
        batches: the dataset.
        say: takes a line for people where the counting takes long.

    Raises:
        DataError: it is not batched, does not end, or holds other things than x and y.
    """

    def __init__(self, name: str, batches: Any, say: Callable[[str], None] = silent) -> None:
        self.name, self._batches = name, batches
        self.kind = "tf.data.Dataset" if isinstance(batches, tf.data.Dataset) else "keras.utils.PyDataset"
        if isinstance(batches, tf.data.Dataset):
            spec = batches.element_spec
            if batches.cardinality() == tf.data.INFINITE_CARDINALITY:
                raise DataError(f"{name} never ends; expected one epoch: leave out .repeat(), or add .take(STEPS)")
        else:
            if batches.num_batches is None:
                raise DataError(f"{name} never ends; expected one epoch: let its num_batches be a number")
            if not batches.num_batches:
                raise DataError(f"{name} is empty; expected batches (x, y)")
            if batches.use_multiprocessing and batches.workers > 0:
                threads = number_of(batches.workers, "threads")
                say(Notice(f"{name}: use_multiprocessing is not heeded: {threads} get its batches"))
            if batches.workers > 1:
                say(
                    Notice(
                        f"{name}: {number_of(batches.workers, 'threads')} get its batches: what __getitem__ draws from one "
                        "generator depends on which comes first; with workers=1 it is the same each time"
                    )
                )
            spec = tuple(tf.TensorSpec(part.shape, part.dtype) for part in self._held(0, batches[0]))
        if not isinstance(spec, tuple) or len(spec) != 2 or not all(isinstance(part, tf.TensorSpec) for part in spec):
            raise DataError(
                f"{name} holds {spec}; expected batches (x, y) of one input and its labels (weights of single images are not "
                "heeded: use class_weight, or a loss of your own)"
            )
        x, y = spec
        if y.shape.rank not in (1, 2) or x.shape.rank is None or x.shape.rank < 2 or None in x.shape[1:].as_list():
            raise DataError(f"{name} holds x {x.shape} and y {y.shape}; expected batches of one size, as .batch(64) makes")
        kinds = [np.dtype(part.dtype.as_numpy_dtype).kind for part in spec]
        if kinds[0] in _NO_NUMBERS:
            raise DataError(f"{name}: x holds {x.dtype.name}, which no network takes; expected numbers")
        if kinds[1] in _NO_NUMBERS or (y.shape.rank == 1 and not y.dtype.is_integer):
            raise DataError(f"{name} holds labels of {y.dtype.name}; expected whole numbers (batch,) or rows (batch, classes)")
        self.shape: tuple[int, ...] = tuple(x.shape[1:])
        self.dtype = np.dtype(x.dtype.as_numpy_dtype)
        self._column = y.shape.rank == 2 and y.shape[1] == 1 and y.dtype.is_integer  # a class each, as `keras.datasets` have it
        single = y.shape.rank == 1 or self._column
        self._row = y.shape[1:]
        """The shape of the labels of one item."""
        self.label_spec = tf.TensorSpec((None,) if single else (None, y.shape[1]), tf.int32 if single else tf.float32)
        self.ends = (0, 0)
        """The least and the largest label."""
        self.passed_over = False
        """Whether epochs were, and nobody was told yet."""
        self.odd_row: int | None = None
        """As that of `Arrays`."""
        self.steps, self._images = self._counted(say)

    def _counted(self, say: Callable[[str], None]) -> tuple[int, int]:
        """(batches, images) of an epoch, by going through it once."""
        sizes, ends = list[int](), list[int]()
        told = time.monotonic() + TELL_SECONDS
        for _, labels in self._parts():
            odd = _odd_row(np.asarray(labels), f"{self.name}: label", sum(sizes))
            self.odd_row = odd if self.odd_row is None else self.odd_row
            sizes.append(len(labels))
            rows = self.label_spec.shape.rank == 2
            ends += [0, int(labels.shape[1]) - 1] if rows else [int(np.min(labels)), int(np.max(labels))]
            if time.monotonic() > told:
                say(Notice(f"{self.name}: {len(sizes):,} batches so far, counted once; if it never ends, add .take(STEPS)"))
                told = math.inf
        if not sizes:
            raise DataError(f"{self.name} is empty; expected batches (x, y)")
        self.ends = min(ends), max(ends)
        return len(sizes), sum(sizes)

    def __len__(self) -> int:
        return self._images

    def _parts(self) -> Iterator[tuple[Any, Any]]:
        """One epoch, as it comes."""
        held = self._batches
        if isinstance(held, tf.data.Dataset):
            for number, part in enumerate(held):
                yield self._checked(number, part)
            return

        def batch(number: int) -> tuple[Any, Any]:
            return self._checked(number, held[number])

        held.on_epoch_begin()
        numbers, threads = range(held.num_batches), min(held.workers, max(held.max_queue_size, 1))
        yield from map(batch, numbers) if threads < 2 else map_ahead(batch, numbers, threads)
        held.on_epoch_end()

    def _held(self, number: int, batch: Any) -> tuple[Any, ...]:
        """What a batch holds, as tensors or arrays; DataError for what cannot be one."""
        if not isinstance(batch, tuple | list):
            raise DataError(f"{self.name}: batch {number} is {briefly(batch)}; expected (x, y)")
        try:
            parts = tuple(part if isinstance(part, tf.Tensor) else np.asarray(part) for part in batch)
        except ValueError as error:
            raise DataError(f"{self.name}: batch {number}: {error}; expected arrays (x, y)") from error
        for part in parts:
            if isinstance(part, np.ndarray) and not _are_numbers(part.dtype):
                raise DataError(f"{self.name}: batch {number} holds {part.dtype}, which no network takes; expected numbers")
        return parts

    def _checked(self, number: int, batch: Any) -> tuple[Any, Any]:
        """x and y of a batch; DataError where it is empty or not as the first."""
        parts, single = self._held(number, batch), self.label_spec.shape.rank == 1
        kinds = [tf.as_dtype(part.dtype) for part in parts]
        if (
            len(parts) != 2
            or (kinds[0], tuple(parts[0].shape[1:])) != (tf.as_dtype(self.dtype), self.shape)
            or not (self._row.is_compatible_with(parts[1].shape[1:]) and (kinds[1].is_integer or not single))
            or tuple(parts[0].shape[:1]) != tuple(parts[1].shape[:1])
            or not len(parts[0])
        ):
            told = ", ".join(f"{kind.name} {tuple(part.shape)}" for kind, part in zip(kinds, parts, strict=True))
            x, y = (", ".join(map(str, ("batch", *shape))) for shape in (self.shape, self._row))
            like = f"{self.dtype} ({x}) and as many labels, {'whole ' if single else ''}numbers ({y}), as in batch 0"
            raise DataError(f"{self.name}: batch {number} holds {told}; expected {like}")
        self._row = tf.TensorShape(parts[1].shape[1:])
        return parts[0], parts[1]

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """One epoch."""
        for x, y in self._parts():
            labels = tf.cast(y, self.label_spec.dtype)
            yield tf.convert_to_tensor(x), labels[:, 0] if self._column else labels

    def pass_over(self, epochs: int) -> None:
        """Begin epochs without taking a batch: what shuffles with a seed then goes on as if they had been trained on. What else
        it draws as batches are taken does not."""
        self.passed_over = self.passed_over or epochs > 0
        for _ in range(epochs):
            if isinstance(self._batches, tf.data.Dataset):
                iter(self._batches)
            else:
                self._batches.on_epoch_begin()
                self._batches.on_epoch_end()

    def facts(self) -> dict[str, Any]:
        """What run.json says of it; the pixels are not known before they come."""
        return {"layout": self.kind, "images": len(self), "batches": self.steps}

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Nothing: which images these are is not known."""
        return iter(())


def _are_numbers(dtype: np.dtype) -> bool:
    """Whether a network can take numbers of a type."""
    try:
        return dtype.kind not in _NO_NUMBERS and tf.as_dtype(dtype) is not None
    except TypeError:  # float128, tables
        return False


def _odd_row(labels: np.ndarray, name: str, start: int) -> int | None:
    """The number, from `start`, of the first row of labels that is no share of each class; DataError for one of nan."""
    if labels.ndim == 1 or labels.shape[1] == 1 and labels.dtype.kind in "iu":  # a class each
        return None
    rows = np.asarray(labels, np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise DataError(f"{name}[{start + int(np.argmin(finite))}] holds nan or infinity; expected finite numbers")
    odd = (rows < -ROUNDED).any(axis=1) | (rows <= ROUNDED).all(axis=1)
    return start + int(np.argmax(odd)) if odd.any() else None


Own = Arrays | Batches
OwnData = Mapping[str, Mapping[str, Own]]
"""Data set name -> split -> what it holds."""


def are_faces(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether items are images as bytes, which go through the run's `FaceInput`."""
    return np.dtype(dtype) == np.uint8 and len(shape) == 3 and shape[-1] in (1, 3)


def are_images_as_numbers(part: Own) -> bool:
    """Whether items are images that were made numbers of already, so that nothing says how a face's bytes become them."""
    return len(part.shape) == 3 and part.shape[-1] in (1, 3) and not are_faces(part.shape, part.dtype)


def own_splits(name: str, value: Any, say: Callable[[str], None] = silent) -> dict[str, Own]:
    """What a value of `data` holds, by split; without splits it is all "train".

    Raises:
        DataError: it is none of arrays (x, y), a dataset of Keras or TensorFlow, or a table of these by split.
    """
    if isinstance(value, Mapping):
        unknown = [split for split in value if split not in SPLITS[:-1]]
        if unknown or not value:
            raise DataError(f"data {name!r} has the splits {', '.join(map(str, value))}; expected train, val, test")
        return {split: _own(f"{name}:{split}", part, say, "arrays (x, y)") for split, part in value.items()}
    return {"train": _own(name, value, say, "a path, load_faces(...), arrays (x, y)")}


def _own(name: str, value: Any, say: Callable[[str], None], expected: str) -> Own:
    if isinstance(value, tf.data.Dataset | keras.utils.PyDataset):
        return Batches(name, value, say)
    if isinstance(value, tuple | list) and len(value) == 2:
        return Arrays(name, *value)
    raise DataError(
        f"data {name!r} is {briefly(value)}; expected {expected}, a tf.data.Dataset or a keras.utils.PyDataset; arrays and "
        "datasets may come as {'train': ..., 'val': ...}"
    )


def stage_data(stage: Stage, own: OwnData) -> tuple[Own | None, Own | None]:
    """What a stage trains on and selects on, where that is own data; None for faces in files.

    Raises:
        UsageError: several sets at once, or settings that need the images in hand.
        DataError: a split that is not there.
    """
    found: dict[str, Own | None] = {}
    for key, references in (("train", stage.train), ("val", stage.val)):
        named = [reference.partition(":") for reference in references]
        mine = [(name, split) for name, _, split in named if name in own]
        if not mine:
            found[key] = None
            continue
        if len(named) > 1:
            raise UsageError(f"{key} of stage {stage.name!r} names {', '.join(references)}; expected one such set")
        name, split = mine[0]
        if split not in own[name]:
            raise DataError(f"data {name!r} has no split {split!r}; it has {', '.join(own[name])}")
        found[key] = own[name][split]
    train = found["train"]
    if train is not None:
        _check(stage, train)
    for part in found.values():
        if part is not None and part.odd_row is not None and isinstance(stage.loss, str):
            raise DataError(
                f"{part.name}: the labels of item {part.odd_row} are all 0 or below 0 in part; expected a share of each class, "
                f"for loss = {stage.loss!r} of stage {stage.name!r}, or a loss of your own for such rows"
            )
    return train, found["val"]


def without_twins(train: Own, own: OwnData) -> Own:
    """What a stage trains on, without items of arrays that also stand in a val or test split of arrays."""
    if not isinstance(train, Arrays):
        return train
    parts = [part for splits in own.values() for split, part in splits.items() if split != "train" and part is not train]
    held = {identity for part in parts if isinstance(part, Arrays) for identity in part.identities()}
    twins = np.array([identity in held for identity in train.identities()], bool) if held else np.zeros(len(train), bool)
    return train.without(twins) if twins.any() else train


def check_left(name: str, train: Arrays, say: Callable[[str], None]) -> None:
    """Say how many items of arrays a stage leaves out; DataError where nothing is left."""
    count = int(train.left_out.sum())
    if not len(train):
        raise DataError(
            f"all {count:,} items of {train.name} stand in val or test, too; take them out there, or train on them with "
            'duplicates="keep"'
        )
    if count:
        why = "left out of training because the same stand in val or test"
        say(Notice(f"stage {name}: {count:,} items of {train.name} {why}"))


def _check(stage: Stage, train: Own) -> None:
    """Refuse settings that cannot be honoured on this data."""
    refused: dict[str, str] = {}
    if stage.train_share < 1:
        refused["train_share"] = "pass fewer items yourself"
    if stage.cache_features is True:
        refused["cache_features"] = "only features of faces in files are kept"
    if isinstance(train, Batches):
        if stage.batch_size != DEFAULT_BATCH:
            refused["batch_size"] = "the dataset has its own batches"
        if stage.class_weight != "none":
            refused["class_weight"] = "the counts of classes are not known before the batches come; give arrays"
        if stage.sampling != "all":
            refused["sampling"] = "the dataset chooses its items itself"
    if stage.crops_per_image and (isinstance(train, Batches) or not are_faces(train.shape, train.dtype)):
        refused["crops_per_image"] = "only faces in files and uint8 arrays have kept crops"
    if not are_faces(train.shape, train.dtype):
        if stage.augmented:
            refused[", ".join(stage.augmentations)] = "only bytes, uint8, are faces to change"
        if stage.teachers:
            refused["teachers"] = "they see faces as bytes, uint8"
    for key, why in refused.items():
        raise UsageError(f"stage {stage.name!r} sets {key}, which {train.kind} {train.name!r} cannot heed: {why}")
