"""Changes of training images beyond crop and mirror, computed on the device from numbers drawn on the host.

As with crops, nothing random happens here: `draw_changes` draws for every image of an epoch from a seed, so a resumed run sees
the same images, and nothing of it needs a checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from emotiw_keras.data.resize import resize_weights

COLUMNS = ("angle", "zoom", "down", "right", "brightness", "contrast", "top", "left", "height", "width", "resample")
ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Share of the image, and height by width, of what is blanked: Zhong et al. 2020, arXiv:1708.04896, and half of their area."""
RESAMPLE_STEPS = 8


@dataclass(frozen=True)
class Changes:
    """How far images are changed: the settings of a `Stage` of the same names."""

    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erase: float = 0.0
    resample: float = 1.0


def draw_changes(count: int, changes: Changes, seed: tuple[int, ...]) -> np.ndarray:
    """Draw what happens to each of `count` images, one and the same on every platform and backend.

    Args:
        count: images of the set.
        changes: how far.
        seed: whole numbers that name the draw: seed, stage, epoch.

    Returns:
        float32 (count, 11), the columns of `COLUMNS`: radians, factor, two shares of the side, share of the range of grey
        levels, factor, four shares of the side (all 0 where nothing is blanked), number of the step of resampling.

    Example:
        >>> draw_changes(2, Changes(rotate=10.0), (0, 1, 0)).shape
        (2, 11)
    """
    generator = np.random.Generator(np.random.PCG64(seed))

    def spread(limit: float) -> np.ndarray:
        return limit * generator.uniform(-1, 1, count)

    drawn = np.zeros((count, len(COLUMNS)), np.float32)
    drawn[:, 0] = np.deg2rad(spread(changes.rotate))
    drawn[:, 1] = 1 + spread(changes.zoom)
    drawn[:, 2], drawn[:, 3] = spread(changes.shift), spread(changes.shift)
    drawn[:, 4] = spread(changes.brightness)
    drawn[:, 5] = 1 + spread(changes.contrast)
    area = generator.uniform(*ERASED_AREA, count)
    aspect = np.exp(generator.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1]), count))
    height, width = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    places = generator.uniform(0, 1, (count, 2)) * (1 - np.stack([height, width], axis=1))
    chosen = generator.uniform(0, 1, count) < changes.erase
    drawn[chosen, 6:10] = np.stack([*places.T, height, width], axis=1)[chosen]
    drawn[:, 10] = generator.integers(0, RESAMPLE_STEPS, count)
    return drawn


class Augment:
    """Change images as drawn: shrink and enlarge, turn, zoom and move, brighten, blank a rectangle.

    Args:
        changes: how far, as given to `draw_changes`; what it leaves out is not computed.
        std: what the images were divided by, per channel: grey levels to one unit of their values.

    Example:
        >>> images = np.zeros((2, 48, 48, 1), np.float32)
        >>> Augment(Changes(rotate=10.0), (64.0,))(images, draw_changes(2, Changes(rotate=10.0), (0, 1, 0))).shape
        TensorShape([2, 48, 48, 1])
    """

    def __init__(self, changes: Changes, std: tuple[float, ...]) -> None:
        self.changes, self.std = changes, tuple(std)

    def __call__(self, images: Any, drawn: Any) -> Any:
        """Change a batch.

        Args:
            images: float32 (batch, side, side, channels), the mean subtracted: what comes in from outside the image and what
                is blanked is 0, the mean.
            drawn: float32 (batch, 11), from `draw_changes`.

        Returns:
            float32 (batch, side, side, channels).
        """
        changes, side = self.changes, images.shape[1]
        if changes.resample > 1:
            images = self._resampled(images, ops.cast(drawn[:, 10], "int32"), side)
        if changes.rotate or changes.zoom or changes.shift:
            images = ops.image.affine_transform(
                images, _transforms(drawn, side), interpolation="bilinear", fill_mode="constant", fill_value=0.0,
                data_format="channels_last",
            )  # fmt: skip
        if changes.brightness or changes.contrast:
            shape = (-1, 1, 1, 1)
            added = ops.reshape(drawn[:, 4], shape) * (255.0 / ops.convert_to_tensor(self.std, "float32"))
            images = images * ops.reshape(drawn[:, 5], shape) + added
        if changes.erase:
            images = images * ops.cast(ops.logical_not(_rectangles(drawn, side)), "float32")
        return images

    def _resampled(self, images: Any, steps: Any, side: int) -> Any:
        factors = np.linspace(1, self.changes.resample, RESAMPLE_STEPS)
        sizes = [max(1, round(side / factor)) for factor in factors]
        matrices = np.stack([resize_weights(size, side) @ resize_weights(side, size) for size in sizes]).astype(np.float32)
        chosen = ops.take(ops.convert_to_tensor(matrices), steps, axis=0)
        return ops.einsum("brwc,bkw->brkc", ops.einsum("brh,bhwc->brwc", chosen, images), chosen)


def _transforms(drawn: Any, side: int) -> Any:
    """Of each image, where an output pixel comes from, as `affine_transform` takes it: float32 (batch, 8)."""
    cosine, sine = ops.cos(drawn[:, 0]) / drawn[:, 1], ops.sin(drawn[:, 0]) / drawn[:, 1]
    middle = (side - 1) / 2
    right, down = middle + drawn[:, 3] * side, middle + drawn[:, 2] * side
    zero = ops.zeros_like(cosine)
    across = middle - cosine * right + sine * down
    along = middle - sine * right - cosine * down
    return ops.stack([cosine, -sine, across, sine, cosine, along, zero, zero], axis=1)


def _rectangles(drawn: Any, side: int) -> Any:
    """Whether a pixel lies in its image's blanked rectangle: bool (batch, side, side, 1)."""
    place = (ops.arange(side, dtype="float32") + 0.5) / side
    rows = ops.logical_and(place >= drawn[:, 6:7], place < drawn[:, 6:7] + drawn[:, 8:9])
    columns = ops.logical_and(place >= drawn[:, 7:8], place < drawn[:, 7:8] + drawn[:, 9:10])
    return ops.logical_and(rows[:, :, None], columns[:, None, :])[..., None]
