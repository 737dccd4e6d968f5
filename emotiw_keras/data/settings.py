"""Settings of the layer from bytes to network input, as plain data; needs no framework."""

from __future__ import annotations

from typing import Any

from emotiw_keras.models.registry import ModelSpec


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
    """
    side = spec.input_size if crop is None else crop
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
