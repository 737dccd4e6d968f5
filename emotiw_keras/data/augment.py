"""Changes of training images beyond crop and mirror, computed on the device from numbers drawn on the host.

As with crops, nothing random happens here: `draw_changes` draws for every image of an epoch from a seed, so a resumed run sees
the same images, and nothing of it needs a checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from emotiw_keras.data import degrade
from emotiw_keras.data.resize import resize_weights

if TYPE_CHECKING:
    from emotiw_keras.data.face_input import FaceInput

COLUMNS = (
    "angle", "zoom", "down", "right", "brightness", "contrast", "top", "left", "height", "width", "resample",
    "low_light", "blur", "noise", "noise_place", "jpeg", "band_top", "band_left", "band_height", "band_width", "band_level",
)  # fmt: skip
ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Share of the image, and height by width, of what is blanked: Zhong et al. 2020, arXiv:1708.04896, and half of their area."""
RESAMPLE_STEPS = 8
BAND = (0.15, 0.4)
"""Share of the face's side that a band over it is wide: a hand, a mask, dark glasses, the edge of a door."""


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
    low_light: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int = degrade.UNTOUCHED
    degrade: float = 0.5
    occlude: float = 0.0

    @property
    def degrades(self) -> bool:
        """Whether anything happens to the grey levels of a face as a camera would have it."""
        return bool(self.low_light or self.blur or self.noise or self.jpeg < degrade.UNTOUCHED or self.occlude)

    @property
    def spoils(self) -> bool:
        """Whether anything hides a face: what `Augment.unspoilt` leaves out."""
        return self.resample > 1 or self.degrades


def draw_changes(count: int, changes: Changes, seed: tuple[int, ...]) -> np.ndarray:
    """Draw what happens to each of `count` images, one and the same on every platform and backend.

    Args:
        count: images of the set.
        changes: how far.
        seed: whole numbers that name the draw: seed, stage, epoch.

    Returns:
        float32 (count, 21), the columns of `COLUMNS`: radians, factor, two shares of the side, share of the range of grey
        levels, factor, four shares of the side (all 0 where nothing is blanked), number of the step of resampling, share of the
        light, pixels, grey levels, place in the bank of noise, quality, four shares of the side, grey level of the band.

    Example:
        >>> draw_changes(2, Changes(rotate=10.0), (0, 1, 0)).shape
        (2, 21)
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
    _draw_degradations(drawn, changes, np.random.Generator(np.random.PCG64((*seed, 1))))
    return drawn


def _draw_degradations(drawn: np.ndarray, changes: Changes, generator: np.random.Generator) -> None:
    """The columns from 11 on; from a generator of their own, so that the ones before are what they always were."""
    count = len(drawn)

    def some(share: float) -> np.ndarray:
        return generator.uniform(0, 1, count) < share

    for column, limit in ((11, changes.low_light), (12, changes.blur), (13, changes.noise)):
        drawn[:, column] = np.where(some(changes.degrade), limit * generator.uniform(0, 1, count), 0)
    drawn[:, 14] = generator.integers(0, degrade.NOISE_VALUES, count)
    qualities = generator.integers(min(changes.jpeg, degrade.UNTOUCHED - 1), degrade.UNTOUCHED, count)
    touched = some(changes.degrade) & (changes.jpeg < degrade.UNTOUCHED)
    drawn[:, 15] = np.where(touched, qualities, degrade.UNTOUCHED)
    wide, across = generator.uniform(*BAND, count), some(0.5)
    start = generator.uniform(0, 1, count) * (1 - wide)
    whole, level = np.ones(count), generator.uniform(0, 255, count)
    lying, standing = (start, 0 * start, wide, whole, level), (0 * start, start, whole, wide, level)
    bands = np.where(across, lying, standing).T
    drawn[:, 16:21] = np.where(some(changes.occlude)[:, None], bands, 0)


class Augment:
    """Change images as drawn: shrink and enlarge, turn, zoom and move, brighten, blank a rectangle, and then what a camera does
    to a face: a band over it, little light, blur, noise, JPEG.

    Args:
        changes: how far, as given to `draw_changes`; what it leaves out is not computed.
        std: what the images were divided by, per channel: grey levels to one unit of their values.
        mean: what was subtracted before, in grey levels: per channel, float (side, side, channels), or for images with crops of
            their own a function of these, as `FaceInput.mean_under`.
        grey: whether the channels, if there are several, are all the same.
        channel_order: "rgb" or "bgr".

    Example:
        >>> images = np.zeros((2, 48, 48, 1), np.float32)
        >>> Augment(Changes(rotate=10.0), (64.0,))(images, draw_changes(2, Changes(rotate=10.0), (0, 1, 0))).shape
        TensorShape([2, 48, 48, 1])
    """

    def __init__(
        self, changes: Changes, std: tuple[float, ...], mean: Any = 0.0, *, grey: bool = True, channel_order: str = "rgb"
    ) -> None:
        self.changes, self.std, self.grey, self.bgr = changes, tuple(std), grey, channel_order == "bgr"
        self._mean_under = mean if callable(mean) else lambda _: ops.convert_to_tensor(mean, "float32")

    @classmethod
    def of(cls, changes: Changes, face_input: FaceInput) -> Augment:
        """The changes of what a layer makes of faces."""
        grey = face_input.channels == "grey"
        return cls(changes, face_input.std, face_input.mean_under, grey=grey, channel_order=face_input.channel_order)

    def __call__(self, images: Any, drawn: Any, crops: Any = None) -> Any:
        """Change a batch.

        Args:
            images: float32 (batch, side, side, channels), the mean subtracted: what comes in from outside the image and what
                is blanked is 0, the mean.
            drawn: float32 (batch, 21), from `draw_changes`.
            crops: those that the images were made with: under them lay the mean, where it is an image; None for the centre.

        Returns:
            float32 (batch, side, side, channels).
        """
        if self.changes.resample > 1:
            images = self._resampled(images, ops.cast(drawn[:, 10], "int32"), images.shape[1])
        images = self.unspoilt(images, drawn)
        return self._degraded(images, drawn, crops) if self.changes.degrades else images

    def unspoilt(self, images: Any, drawn: Any) -> Any:
        """The same without what hides a face: neither shrunk nor behind a band, dark, blurred, noisy or compressed.

        Arguments and result are those of a call; where the crops lay does not matter.
        """
        changes, side = self.changes, images.shape[1]
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
            images = images * ops.cast(ops.logical_not(_rectangles(drawn[:, 6:10], side)), "float32")
        return images

    def _degraded(self, images: Any, drawn: Any, crops: Any) -> Any:
        """What a camera would have made of the images, in whole grey levels; others are left alone."""
        changes, side = self.changes, images.shape[1]
        faces = self.levels(images, crops)
        if changes.occlude:
            faces = ops.where(_rectangles(drawn[:, 16:20], side), ops.reshape(drawn[:, 20], (-1, 1, 1, 1)), faces)
        if changes.low_light:
            faces = degrade.darkened(faces, drawn[:, 11])
        if changes.blur:
            faces = degrade.blurred(faces, drawn[:, 12], changes.blur)
        if changes.noise:
            faces = degrade.noisy(faces, drawn[:, 13], drawn[:, 14])
        faces = ops.clip(ops.round(faces), 0.0, 255.0)
        if changes.jpeg < degrade.UNTOUCHED:
            touched = ops.reshape(drawn[:, 15] < degrade.UNTOUCHED, (-1, 1, 1, 1))
            faces = ops.where(touched, degrade.compressed(faces, drawn[:, 15]), faces)
        if self.bgr and not self.grey:
            faces = ops.flip(faces, axis=-1)
        happened = ops.sum(drawn[:, 11:14], axis=1) + drawn[:, 18] + ops.cast(drawn[:, 15] < degrade.UNTOUCHED, "float32")
        inputs = (faces - self._mean_under(crops)) / ops.convert_to_tensor(self.std, "float32")
        return ops.where(ops.reshape(happened > 0, (-1, 1, 1, 1)), inputs, images)

    def levels(self, images: Any, crops: Any = None) -> Any:
        """Images with mean and deviation put back: grey levels, float32 (batch, side, side, 1 or 3), grey or RGB.

        Args:
            images, crops: as for a call.
        """
        faces = images * ops.convert_to_tensor(self.std, "float32") + self._mean_under(crops)
        if self.grey:
            return faces[..., :1]
        return ops.flip(faces, axis=-1) if self.bgr else faces

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


def _rectangles(places: Any, side: int) -> Any:
    """Whether a pixel lies in its image's rectangle, of top, left, height and width (batch, 4): bool (batch, side, side, 1)."""
    place = (ops.arange(side, dtype="float32") + 0.5) / side
    rows = ops.logical_and(place >= places[:, 0:1], place < places[:, 0:1] + places[:, 2:3])
    columns = ops.logical_and(place >= places[:, 1:2], place < places[:, 1:2] + places[:, 3:4])
    return ops.logical_and(rows[:, :, None], columns[:, None, :])[..., None]
