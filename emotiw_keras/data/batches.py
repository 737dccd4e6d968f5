"""Images of one or more sets as `tf.data` batches of bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.errors import DataError

Batches = Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


class Source(Protocol):
    """What batches are made of: a `Pool` of images, or features computed from one."""

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


def batches(pool: Source, order: np.ndarray, draws: np.ndarray | None, batch_size: int, start: int = 0) -> Batches:
    """Batches of a pool in a given order.

    Args:
        pool: the images, or features of images.
        order: positions in the pool, one epoch's worth.
        draws: (len(pool), columns) by position, such as int32 from `draw_crops`, or None for zeros, int32 (len(pool), 3).
        batch_size: images in a batch; the last may be smaller.
        start: batches to leave out at the start.

    Yields:
        What the pool holds, draws (batch, columns), labels int32 (batch,); a `Pool` holds images, uint8 (batch, height, width,
        channels).

    Raises:
        DataError: an image that could be read before cannot be read now.
    """
    order = np.asarray(order, np.int64)[start * batch_size :]
    drawn = np.zeros((len(order), 3), np.int32) if draws is None else draws[order]
    table = tf.data.Dataset.from_tensor_slices((order, drawn, pool.labels[order])).batch(batch_size)

    failed: list[DataError] = []

    def gather(positions: np.ndarray) -> np.ndarray:
        try:
            return pool.gather(positions)
        except DataError as error:
            failed.append(error)
            raise

    def read(positions: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images = tf.numpy_function(gather, [positions], pool.dtype, stateful=False)
        return tf.ensure_shape(images, (None, *pool.shape)), draws, labels

    # There is nothing to tune here, and a tuning thread that misses the end of the data sleeps on for up to a minute, while the
    # end of the epoch waits for it.
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    try:
        yield from table.map(read, num_parallel_calls=1, deterministic=True).prefetch(2).with_options(untuned)
    except tf.errors.OpError as error:
        if failed:
            raise failed[0] from error  # TensorFlow makes an error of its own of what a Python function raises
        raise
