"""What `FaceInput` does with faces that have their size already, in NumPy: for engines that know no Keras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.data.preprocessing_settings import check_settings, load_mean_image


class HostFaceInput:
    """Turn uint8 faces of the run's size into what its network takes.

    Args:
        settings: those of the run (`FaceInput.settings`), with the name of its mean image, if it has one.
        folder: where that image lies.

    Raises:
        DataError: a setting that cannot be meant, or a mean image that cannot be read.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        file = settings.get("mean_image")
        self._image = load_mean_image(folder / file) if file else None
        channels = settings.get("input_channels", 3)
        self.resize, self.crop, self._min_max = settings["resize"], settings["crop"], settings["min_max"]
        self._flip = settings["channel_order"] == "bgr"
        self._image_at = settings.get("mean_image_at", "resize")
        self._mean = np.array(settings["mean"][:channels], np.float32)
        self._std = np.array(settings.get("std", [1.0] * channels)[:channels], np.float32)
        check_settings(
            channels=settings["channels"],
            resize=self.resize,
            crop=self.crop,
            channel_order=settings["channel_order"],
            mean=settings["mean"],
            std=settings.get("std", [1.0] * channels),
            mean_image=self._image,
            mean_image_at=self._image_at,
            input_channels=channels,
        )

    @property
    def room(self) -> int:
        """Largest offset of a crop, in pixels."""
        return int(self.resize - self.crop)

    def __call__(self, faces: np.ndarray, place: np.ndarray) -> np.ndarray:
        """One crop of each face of a batch.

        Args:
            faces: uint8 0..255, (batch, resize, resize, 1 or 3), grey or RGB as the run has them.
            place: int (3,): top, left, and whether it is mirrored.

        Returns:
            float32 (batch, channels, crop, crop).
        """
        values = faces.astype(np.float32)
        if self._min_max:
            low, high = (reduce(axis=(1, 2, 3), keepdims=True) for reduce in (values.min, values.max))
            values = (values - low) * (np.float32(255) / np.maximum(high - low, np.float32(1)))
        if self._image is not None and self._image_at == "resize":
            values = self._cropped(self._ordered(values) - self._image, place)
        else:
            mean = self._mean if self._image is None else self._image
            values = self._ordered(self._cropped(values, place)) - mean
        return np.ascontiguousarray((values / self._std).transpose(0, 3, 1, 2))

    def _ordered(self, values: np.ndarray) -> np.ndarray:
        return values[..., ::-1] if self._flip and values.shape[-1] == 3 else values

    def _cropped(self, values: np.ndarray, place: np.ndarray) -> np.ndarray:
        top, left, mirrored = place
        cut = values[:, top : top + self.crop, left : left + self.crop]
        return cut[:, :, ::-1] if mirrored else cut
