"""Settings of the layer from bytes to network input, as plain data; needs no framework."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.arguments import is_number, is_whole, items_of, whole_number
from emotiw_keras.errors import DataError
from emotiw_keras.files import NUMPY_UNREADABLE
from emotiw_keras.models.registry import LARGEST_SIDE, ModelSpec
from emotiw_keras.text import briefly

CHANNELS = ("grey", "rgb")
CHANNEL_ORDERS = ("rgb", "bgr")
MEAN_IMAGE_PLACES = ("resize", "crop")


def settings_for(
    spec: ModelSpec, *, crop: int | None = None, input_channels: int | None = None, **changes: Any
) -> dict[str, Any]:
    """`FaceInput` settings of a zoo model: its size, channel order and mean from its `ModelSpec`.

    Args:
        spec: the model's facts.
        crop: side of the network's input where it is not the published one; the resize side shrinks in proportion.
        input_channels: 3 or 1 where it is not the published one.
        **changes: settings that differ from the published ones (`channels`, `min_max`, `mean`, ...); None means unchanged.

    Returns:
        Settings for `FaceInput.from_settings`.

    Raises:
        DataError: the crop is no whole number above 0.
    """
    side = spec.input_size if crop is None else whole_number("face input: crop", crop, 1, DataError, LARGEST_SIDE)
    settings = {
        "channels": "grey",
        "resize": max(side, round(spec.resize * side / spec.input_size)),
        "crop": side,
        "min_max": False,
        "channel_order": spec.channel_order,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "mean_image_at": spec.mean_image or "resize",
        "input_channels": spec.input_channels if input_channels is None else input_channels,
    }
    return {**settings, **{key: value for key, value in changes.items() if value is not None}}


def check_settings(
    *,
    channels: str,
    resize: int,
    crop: int,
    channel_order: str,
    mean: Sequence[float],
    std: Sequence[float],
    mean_image: np.ndarray | None,
    mean_image_at: str,
    input_channels: int,
) -> None:
    """Refuse settings of `FaceInput` that contradict each other.

    Raises:
        DataError: a setting that cannot be meant.
    """
    if channels not in CHANNELS or channel_order not in CHANNEL_ORDERS or mean_image_at not in MEAN_IMAGE_PLACES:
        raise DataError(
            f"face input: channels={channels!r}, channel_order={channel_order!r}, mean_image_at={mean_image_at!r}; allowed "
            f"are {CHANNELS}, {CHANNEL_ORDERS} and {MEAN_IMAGE_PLACES}"
        )
    whole_number("face input: resize", resize, 1, DataError, 2 * LARGEST_SIDE)
    whole_number("face input: crop", crop, 1, DataError, LARGEST_SIDE)
    if crop > resize:
        raise DataError(f"face input: crop={crop} must lie between 1 and resize={resize}")
    for key, values in (("mean", mean), ("std", std)):
        each = items_of(values)
        if len(each) not in (1, 3) or not all(map(is_number, each)) or (key == "std" and min(each) <= 0):
            bound = " above 0" if key == "std" else ""
            raise DataError(f"face input: {key} = {briefly(values)}: expected a finite number{bound} for each channel")
    if not is_whole(input_channels) or input_channels not in (1, 3) or (input_channels == 1 and channels != "grey"):
        raise DataError(f"face input: input_channels={input_channels} with channels={channels!r}; 1 needs channels='grey'")
    side = resize if mean_image_at == "resize" else crop
    if mean_image is not None and mean_image.shape != (side, side, input_channels):
        raise DataError(f"face input: the mean image has shape {mean_image.shape}, expected {(side, side, input_channels)}")


def load_mean_image(path: str | Path) -> np.ndarray:
    """Read a mean image: `.npy`, float (side, side, 3) or Caffe's (3, side, side), in the network's channel order.

    Raises:
        DataError: the file is missing or is no such array.
    """
    try:
        # Mapped, so that a size that the file only claims takes no memory.
        image = np.load(path, mmap_mode="r", allow_pickle=False)
    except NUMPY_UNREADABLE as error:
        why = error if isinstance(error, OSError) else "no whole .npy file"
        raise DataError(
            f"mean image {path}: {why}; expected .npy, (side, side, 3) or (3, side, side); `emotiw convert` makes it of Caffe's"
        ) from error
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiu" or not np.isfinite(image).all():
        raise DataError(f"mean image {path} is no .npy file of finite numbers")
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.shape[0] != image.shape[1]:
        raise DataError(f"mean image {path} has shape {image.shape}; expected (side, side, 3) or (3, side, side)")
    return image.astype(np.float32)


def ten_crops(room: int) -> np.ndarray:
    """The four corners and the centre, plain and mirrored (Krizhevsky et al. 2012, section 4.1): int32 (10, 3)."""
    places = [(0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)]
    return np.array([(top, left, mirror) for mirror in (0, 1) for top, left in places], np.int32)


def crop_places(room: int, crops: int) -> np.ndarray:
    """What is averaged over at evaluation and prediction: the centre, the centre and its mirror image, or `ten_crops`.

    Args:
        room: largest offset, `FaceInput.room`.
        crops: 1, 2 or 10.

    Returns:
        int32 (crops, 3): top, left, mirror.
    """
    return ten_crops(room) if crops == 10 else np.array([(room // 2, room // 2, mirror) for mirror in range(crops)], np.int32)
