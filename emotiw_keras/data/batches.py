"""Images of one or more sets as `tf.data` batches of bytes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf

from emotiw_keras.data.resize import resize, to_grey

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet

WAITING = 2
"""Batches that are made before they are asked for."""
Batches = Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
Make = Callable[[np.ndarray], tuple[np.ndarray, ...]]
Share = Callable[[np.ndarray], np.ndarray]
Signature = tuple[tf.TensorSpec, ...]


class Source(Protocol):
    """What batches are made of: a `Pool` of images, arrays, or features computed from either."""

    shape: tuple[int, ...]
    dtype: np.dtype
    labels: np.ndarray

    def __len__(self) -> int: ...

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The items at `positions`: `dtype` (n, *shape)."""
        ...


class Pool:
    """Images of several sets in one numbered list.

    Sets that share one size travel at that size; otherwise each image is brought to `side` x `side` on the host, by the shared
    resize, which gives the bytes the device would have computed.

    Args:
        parts: (set, positions in it) pairs.
        side: the size for sets that differ.
        grey: whether one channel is enough.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Sequence[tuple[FaceSet, np.ndarray]], side: int, grey: bool) -> None:
        self.parts = [(faces, np.asarray(index, np.int64)) for faces, index in parts if len(index)]
        shapes = {faces.pixels.shape for faces, _ in self.parts}
        channels = 1 if grey or all(shape[2] == 1 for shape in shapes) else 3
        same = len({shape[:2] for shape in shapes}) == 1
        height, width = next(iter(shapes))[:2] if same else (side, side)
        self.shape: tuple[int, ...] = (height, width, channels)
        self.drawn: slice | None = None
        """Columns of labels that are shares, of which training draws one in each epoch."""
        self.labels = np.concatenate([faces.label[index] for faces, index in self.parts]).astype(np.int32)
        self._part = np.repeat(np.arange(len(self.parts)), [len(index) for _, index in self.parts])
        self._index = np.concatenate([index for _, index in self.parts])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def label_spec(self) -> tf.TensorSpec:
        """What a batch's labels are: int32 (batch,), or rows of numbers where they were replaced by such."""
        return tf.TensorSpec((None, *self.labels.shape[1:]), self.labels.dtype)

    def fingerprint(self) -> str:
        """A hash of the pixels, their order and the size they travel at."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for faces, index in self.parts:
            for identity in faces.identities(index):
                digest.update(f"{identity} ".encode())
        return digest.hexdigest()

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The images at `positions`: uint8 (n, height, width, channels)."""
        if len(self.parts) == 1:
            return self._fitted(self.parts[0][0].pixels.gather(self._index[positions]))
        result = np.empty((len(positions), *self.shape), np.uint8)
        for number, (faces, _) in enumerate(self.parts):
            chosen = np.flatnonzero(self._part[positions] == number)
            if len(chosen):
                result[chosen] = self._fitted(faces.pixels.gather(self._index[positions[chosen]]))
        return result

    def _fitted(self, images: np.ndarray) -> np.ndarray:
        height, width, channels = self.shape
        if channels == 1:
            images = to_grey(images)
        if images.shape[1:3] != (height, width):
            images = np.stack([resize(image, height, width) for image in images])
        return np.repeat(images, 3, axis=3) if images.shape[3] < channels else images


def face_dataset(
    source: Source, batch_size: int, *, shuffle: bool = False, seed: int | None = 0, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """All items of a source as `tf.data.Dataset`; see `FaceSet.dataset`."""
    index, count = shard
    positions = tf.data.Dataset.range(len(source))
    if shuffle:
        positions = positions.shuffle(max(1, len(source)), seed=seed, reshuffle_each_iteration=True)
    make = _Maker(lambda chosen: (source.gather(chosen), source.labels[chosen]))
    signature = (tf.TensorSpec((None, *source.shape), source.dtype), tf.TensorSpec((None,), tf.int32))
    # of each batch of all hosts this one's share, so that N hosts together see the batches of one
    return _prepared(positions.batch(batch_size).map(lambda chosen: chosen[index::count]), make, signature)


def batches(
    source: Source,
    order: np.ndarray,
    draws: np.ndarray | None,
    batch_size: int,
    start: int = 0,
    share: Share | None = None,
    labels: np.ndarray | None = None,
) -> Batches:
    """Batches of a source in a given order.

    Args:
        source: the images, or features of images.
        order: positions in the source, one epoch's worth.
        draws: (len(source), columns) by position, such as int32 from `draw_crops`, or None for zeros, int32 (len(source), 3).
        batch_size: images in a batch; the last may be smaller.
        start: batches to leave out at the start.
        share: positions of a batch -> those that are read here, with their draws; its labels come all.
        labels: by position, in place of the source's.

    Yields:
        What the source holds, draws (batch, columns), labels int32 (batch,); a `Pool` holds uint8 (batch, height, width,
        channels).

    Raises:
        DataError: an image that could be read before cannot be read now.
    """

    told = source.labels if labels is None else labels

    def make(positions: np.ndarray) -> tuple[np.ndarray, ...]:
        read = positions if share is None else share(positions)
        drawn = np.zeros((len(read), 3), np.int32) if draws is None else draws[read]
        return source.gather(read), drawn, told[positions]

    columns, kind = (3, np.int32) if draws is None else (draws.shape[1], draws.dtype)
    spec = tf.TensorSpec((None, *told.shape[1:]), told.dtype)
    signature = (tf.TensorSpec((None, *source.shape), source.dtype), tf.TensorSpec((None, columns), kind), spec)
    return made_batches(make, order, batch_size, signature, start, owner=source)


def made_batches(
    make: Make, order: np.ndarray, batch_size: int, signature: Signature, start: int = 0, owner: object = None
) -> Iterator[Any]:
    """What `make` gives for each batch of positions, through `tf.data`; an error of `make` rises as it is.

    Args:
        make: positions int64 (batch,) -> arrays of `signature`; called in a thread, a few batches before they are asked for.
        order: positions.
        batch_size: positions in a batch; the last may be smaller.
        signature: what `make` gives.
        start: batches to leave out at the start.
        owner: whose batches these are: those of one owner and signature are traced once, which takes as long as several small
            steps.
    """
    order = np.asarray(order, np.int64)
    firsts = range(start * batch_size, len(order), batch_size)
    feed = _feed_of(owner, signature)
    feed.begin(make, (order[first : first + batch_size] for first in firsts))
    try:
        for _ in firsts:
            yield feed.take()
    finally:
        feed.end()


class _Maker:
    """A function for `tf.numpy_function` that keeps the error it raised: TensorFlow hands on no more than its text."""

    def __init__(self, make: Callable[[np.ndarray], tuple[np.ndarray, ...]]) -> None:
        self.make = make
        self.error: Exception | None = None

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return self.make(positions)
        except Exception as error:
            self.error = error
            raise


class _Feed:
    """An endless dataset of what is made for one epoch after another, and one iterator over it.

    A dataset and an iterator of its own for each epoch, and `next` with its packing of structures in Python, took a tenth of a
    small step's time. What is made ahead for an epoch that is over carries that epoch's number and is passed over.
    """

    def __init__(self, signature: Signature) -> None:
        self._nothing = tuple(np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype) for spec in signature)
        self._lock = threading.Lock()
        self._epoch = 0
        self._make: Make | None = None
        self._left: Iterator[np.ndarray] = iter(())
        self._maker = _Maker(self._next)
        numbered = (tf.TensorSpec((), tf.int64), *signature)
        self._dataset = _prepared(tf.data.Dataset.range(2**62), self._maker, numbered)
        self._kind = {"output_types": [spec.dtype for spec in numbered], "output_shapes": [spec.shape for spec in numbered]}
        self._iterator: tf.Tensor | None = None

    @property
    def busy(self) -> bool:
        """Whether an epoch is under way."""
        return self._make is not None

    def begin(self, make: Make, batches: Iterator[np.ndarray]) -> None:
        """An epoch: what `make` gives for each of these batches of positions."""
        with self._lock:
            self._epoch, self._make, self._left = self._epoch + 1, make, batches
        self._maker.error = None
        if self._iterator is None:
            self._iterator = tf.raw_ops.AnonymousIteratorV3(**self._kind)
            tf.raw_ops.MakeIterator(dataset=tf.data.experimental.to_variant(self._dataset), iterator=self._iterator)

    def _next(self, _: np.ndarray) -> tuple[np.ndarray, ...]:
        with self._lock:
            epoch, make, positions = self._epoch, self._make, next(self._left, None)
        made = self._nothing if make is None or positions is None else make(positions)
        return np.int64(epoch), *made

    def take(self) -> tuple[tf.Tensor, ...]:
        """The next batch of the epoch."""
        try:
            while True:
                number, *parts = tf.raw_ops.IteratorGetNext(iterator=self._iterator, **self._kind)
                if int(number) == self._epoch:
                    return tuple(parts)
        except tf.errors.OpError as error:
            self._iterator = None  # it is of no use after an error
            if self._maker.error is not None:
                raise self._maker.error from error
            raise

    def end(self) -> None:
        """The epoch is over, or left early."""
        with self._lock:
            self._epoch, self._make, self._left = self._epoch + 1, None, iter(())


_FEEDS: WeakKeyDictionary[Any, dict[Signature, _Feed]] = WeakKeyDictionary()


def _feed_of(owner: object, signature: Signature) -> _Feed:
    """One that nobody uses at the moment."""
    known = {} if owner is None else _FEEDS.setdefault(owner, {})
    if signature not in known or known[signature].busy:
        known[signature] = _Feed(signature)
    return known[signature]


def _prepared(positions: tf.data.Dataset, maker: _Maker, signature: Signature) -> tf.data.Dataset:
    return positions.map(_calling(maker, signature)).prefetch(WAITING).with_options(_options())


def _calling(maker: _Maker, signature: Signature) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """What calls a maker in a graph."""

    def made(chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = tf.numpy_function(maker, [chosen], [spec.dtype for spec in signature], stateful=True)
        return tuple(tf.ensure_shape(part, spec.shape) for part, spec in zip(parts, signature, strict=True))

    return made


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Its tuning thread takes a twelfth of a small step, and where it misses the end of the data the epoch waits for a minute.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.deterministic = True
    return options
