"""Which images an epoch takes, in which order, cropped and changed how: all of it drawn from the seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from emotiw_keras.data.augment import Changes, draw_changes
from emotiw_keras.data.face_input import draw_crops
from emotiw_keras.training.class_weights import classes_of
from emotiw_keras.training.stage import Stage


@dataclass(frozen=True)
class StageCrops:
    """The crops of a stage.

    Attributes:
        stage: its `random_crop`, `mirror`, `crops_per_image`, `sampling` and what changes images count.
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

    def draws_of_epoch(self, epoch: int) -> np.ndarray:
        """What happens to each image in an epoch: its crop, int32 (images, 3); where the stage augments, its crop and
        `draw_changes`, float32 (images, 3 + 21)."""
        crops = self.of_epoch(epoch)
        return self.augmented(crops, (*self.seed, epoch, 4)) if self.stage.augmented else crops

    def augmented(self, crops: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Crops int32 (n, 3) and what else happens to each image, float32 (n, 3 + 21)."""
        return np.concatenate([crops.astype(np.float32), draw_changes(len(crops), changes_of(self.stage), seed)], axis=1)

    def order(self, epoch: int, labels: np.ndarray) -> np.ndarray:
        """Positions of the images in the order of an epoch: each once, or drawn so that every class present comes as often."""
        generator = np.random.Generator(np.random.PCG64((*self.seed, epoch, 0)))
        if self.stage.sampling == "all":
            return generator.permutation(self.images)
        present, classes = np.unique(classes_of(labels), return_inverse=True)
        chance = 1 / (len(present) * np.bincount(classes)[classes])
        return generator.choice(self.images, self.images, p=chance)

    def _drawn(self, number: int, purpose: int) -> np.ndarray:
        return draw_crops(self.images, self.room, mirror=self.stage.mirror, seed=(*self.seed, number, purpose))


def changes_of(stage: Stage) -> Changes:
    """How far a stage changes its training images."""
    return Changes(**{field.name: getattr(stage, field.name) for field in dataclasses.fields(Changes)})
