"""Which crop of each image an epoch takes, all of it drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emotiw_keras.data.device import draw_crops
from emotiw_keras.training.stage import Stage


@dataclass(frozen=True)
class StageCrops:
    """The crops of a stage.

    Attributes:
        stage: its `random_crop`, `mirror` and `crops_per_image` count.
        images: how many it trains on.
        room: largest offset, `FaceInput.room`.
        seed: whole numbers that name the stage: the run's seed, the stage's number.
    """

    stage: Stage
    images: int
    room: int
    seed: tuple[int, int]

    @property
    def per_image(self) -> int:
        """From how many crops of an image each epoch takes one; 0 where they are drawn anew."""
        if self._random:
            return self.stage.crops_per_image
        return 2 if self.stage.mirror else 1

    @property
    def _random(self) -> bool:
        return self.stage.random_crop and self.room > 0

    def kept(self) -> np.ndarray:
        """All crops that epochs choose from: int32 (per_image, images, 3) of top, left, mirror."""
        if self._random:
            return np.stack([self._drawn(number, 3) for number in range(self.per_image)])
        crops = np.full((self.per_image, self.images, 3), self.room // 2, np.int32)
        crops[..., 2] = np.arange(self.per_image)[:, None]
        return crops

    def chosen(self, epoch: int) -> np.ndarray:
        """Which of the kept crops an epoch takes of each image: whole numbers below `per_image`, (images,)."""
        if self._random:
            return np.random.Generator(np.random.PCG64((*self.seed, epoch, 2))).integers(0, self.per_image, self.images)
        return self._drawn(epoch, 1)[:, 2]

    def of_epoch(self, epoch: int) -> np.ndarray:
        """The crop an epoch takes of each image: int32 (images, 3)."""
        if not self.per_image:
            return self._drawn(epoch, 1)
        return self.kept()[self.chosen(epoch), np.arange(self.images)]

    def _drawn(self, number: int, purpose: int) -> np.ndarray:
        return draw_crops(self.images, self.room, mirror=self.stage.mirror, seed=(*self.seed, number, purpose))
