"""The minibatches of a search: one epoch after another in an order of its own, all of it drawn from the seed."""

from __future__ import annotations

import numpy as np

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.face_input import draw_crops
from emotiw_keras.pathnet.search import Search

MOST_BYTES = 64 * 2**20
"""Of images that are handed over at once."""


class Stream:
    """An endless list of training images; a minibatch is known by its number, so a checkpoint needs no more than that.

    Args:
        pool: the training images.
        search: its batch size, crops and mirror count.
        room: largest offset of a crop, `FaceInput.room`.
        seed: whole numbers that name the search: the run's seed, the search's number.
    """

    def __init__(self, pool: Pool, search: Search, room: int, seed: tuple[int, int]) -> None:
        self.pool, self.search, self.room, self.seed = pool, search, room, seed
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def together(self) -> int:
        """Minibatches that fit into `MOST_BYTES`."""
        return max(1, MOST_BYTES // (self.search.batch_size * int(np.prod(self.pool.shape))))

    def minibatches(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Minibatches `first`, `first` + 1, ...: images uint8 (count, batch, height, width, channels), crops int32 (count,
        batch, 3) and labels int32 (count, batch)."""
        size, n = self.search.batch_size, len(self.pool)
        places = np.arange(first * size, (first + count) * size)
        positions, crops = np.empty(len(places), np.int64), np.empty((len(places), 3), np.int32)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            order, draws = self._epoch(int(epoch))
            here = places // n == epoch
            positions[here] = order[places[here] % n]
            crops[here] = draws[positions[here]]
        images = self.pool.gather(positions).reshape(count, size, *self.pool.shape)
        return images, crops.reshape(count, size, 3), self.pool.labels[positions].reshape(count, size)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch, and the crop of each image in it."""
        if epoch not in self._epochs:
            n = len(self.pool)
            order = np.random.Generator(np.random.PCG64((*self.seed, epoch, 0))).permutation(n)
            draws = draw_crops(n, self.room, mirror=self.search.mirror, seed=(*self.seed, epoch, 1))
            if not self.search.random_crop:
                draws[:, :2] = self.room // 2
            self._epochs = {key: value for key, value in self._epochs.items() if key >= epoch - 1}
            self._epochs[epoch] = (order, draws)
        return self._epochs[epoch]
