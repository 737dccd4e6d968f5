"""Images of one or more sets as `tf.data` batches of bytes."""

from __future__ import annotations

import hashlib
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
        self.labels = np.concatenate([faces.label[index] for faces, index in self.parts]).astype(np.int32)
        self._part = np.repeat(np.arange(len(self.parts)), [len(index) for _, index in self.parts])
        self._index = np.concatenate([index for _, index in self.parts])

    def __len__(self) -> int:
        return len(self.labels)

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
    source: Source, batch_size: int, *, shuffle: bool = False, seed: int = 0, shard: tuple[int, int] = (0, 1)
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


def batches(source: Source, order: np.ndarray, draws: np.ndarray | None, batch_size: int, start: int = 0) -> Batches:
    """Batches of a source in a given order.

    Args:
        source: the images, or features of images.
        order: positions in the source, one epoch's worth.
        draws: (len(source), columns) by position, such as int32 from `draw_crops`, or None for zeros, int32 (len(source), 3).
        batch_size: images in a batch; the last may be smaller.
        start: batches to leave out at the start.

    Yields:
        What the source holds, draws (batch, columns), labels int32 (batch,); a `Pool` holds uint8 (batch, height, width,
        channels).

    Raises:
        DataError: an image that could be read before cannot be read now.
    """

    def make(positions: np.ndarray) -> tuple[np.ndarray, ...]:
        drawn = np.zeros((len(positions), 3), np.int32) if draws is None else draws[positions]
        return source.gather(positions), drawn, source.labels[positions]

    columns, kind = (3, np.int32) if draws is None else (draws.shape[1], draws.dtype)
    labels = tf.TensorSpec((None, *source.labels.shape[1:]), source.labels.dtype)
    signature = (tf.TensorSpec((None, *source.shape), source.dtype), tf.TensorSpec((None, columns), kind), labels)
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
    count = max(0, -(-len(order) // batch_size) - start)
    maker, dataset = _traced(owner, signature)

    def made(number: np.ndarray) -> tuple[np.ndarray, ...]:
        if number >= count:  # looked for ahead, and never asked for
            return tuple(np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype) for spec in signature)
        first = (start + int(number)) * batch_size
        return make(order[first : first + batch_size])

    maker.make, maker.error = made, None
    # What `iter(dataset)` and `next` do, without their packing and unpacking of structures in Python, which together with a
    # dataset of its own length for every epoch took a tenth of a small step's time.
    kind = {"output_types": [spec.dtype for spec in signature], "output_shapes": [spec.shape for spec in signature]}
    iterator = tf.raw_ops.AnonymousIteratorV3(**kind)
    try:
        tf.raw_ops.MakeIterator(dataset=dataset, iterator=iterator)
        for _ in range(count):
            yield tuple(tf.raw_ops.IteratorGetNext(iterator=iterator, **kind))
    except tf.errors.OpError as error:
        if maker.error is not None:
            raise maker.error from error
        raise
    finally:
        del iterator  # and with it the thread that calls the maker
        maker.make = None


class _Maker:
    """A function for `tf.numpy_function` that keeps the error it raised: TensorFlow hands on no more than its text."""

    def __init__(self, make: Callable[[np.ndarray], tuple[np.ndarray, ...]] | None = None) -> None:
        self.make = make
        self.error: Exception | None = None

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            assert self.make is not None
            return self.make(positions)
        except Exception as error:
            self.error = error
            raise


_TRACED: WeakKeyDictionary[Any, dict[Signature, tuple[_Maker, tf.Tensor]]] = WeakKeyDictionary()


def _traced(owner: object, signature: Signature) -> tuple[_Maker, tf.Tensor]:
    """An endless dataset, as TensorFlow's operations know one, of what a maker gives; nobody uses either at the moment."""
    known = {} if owner is None else _TRACED.setdefault(owner, {})
    if signature not in known or known[signature][0].make is not None:
        maker = _Maker()
        dataset = _prepared(tf.data.Dataset.range(2**62), maker, signature)
        known[signature] = (maker, tf.data.experimental.to_variant(dataset))
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
