"""Images of one or more sets as batches of bytes, made in another thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from emotiw_keras.data.ahead import ahead
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.resize import resize, to_grey

AHEAD = 2
"""Batches that wait to be taken."""
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

    def made() -> Batches:
        for first in range(0, len(order), batch_size):
            positions = order[first : first + batch_size]
            drawn = np.zeros((len(positions), 3), np.int32) if draws is None else draws[positions]
            images, labels = pool.gather(positions), pool.labels[positions]
            yield tf.convert_to_tensor(images), tf.convert_to_tensor(drawn), tf.convert_to_tensor(labels)

    # Not `tf.data`: it makes nothing that Python does faster and takes 17 ms an epoch to set up. Its tuning thread takes a
    # twelfth of a small step from the network, and where it misses the end of the data the epoch waits for up to a minute.
    return ahead(made(), AHEAD)
