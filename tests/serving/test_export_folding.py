"""What is folded into the first convolution changes no answer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import ModelError
from emotiw_keras.models import build
from emotiw_keras.serving.folding import Folded, fold

MEAN, STD = (104.0, 117.0, 123.0), (57.0, 58.0, 60.0)


def network(name: str = "alexnet", channels: int = 3) -> keras.Model:
    keras.utils.set_random_seed(1)
    return build(name, weights=None, classes=5, input_shape=(67, 67, channels), width=0.1)


def answers(folded: Folded, faces: np.ndarray) -> np.ndarray:
    """What the folded network says, the steps before it in NumPy."""
    values = faces.astype(np.float32)
    if folded.min_max:
        low, high = (edge(values, axis=(1, 2, 3), keepdims=True) for edge in (np.min, np.max))
        values = (values - low) * (255 / np.maximum(high - low, 1))
    stop = folded.start + folded.crop
    values = values[:, folded.start : stop, folded.start : stop]
    if folded.subtract is not None:
        values = values - folded.subtract
    return keras.ops.convert_to_numpy(folded.net(values, training=False))


@pytest.mark.parametrize(
    ("name", "settings", "left", "channels"),
    [
        ("alexnet", {"mean": MEAN}, None, 1),
        ("alexnet", {"mean": MEAN, "std": STD, "min_max": True}, None, 1),
        ("alexnet", {"channels": "rgb", "mean": MEAN, "std": STD}, None, 3),
        ("alexnet", {"channels": "rgb", "channel_order": "rgb", "mean": MEAN, "std": STD}, None, 3),
        ("alexnet", {"mean_image_at": "resize"}, (67, 67, 3), 3),
        ("alexnet", {"channels": "rgb", "mean_image_at": "crop", "std": STD}, (67, 67, 3), 3),
        ("alexnet", {"input_channels": 1, "mean": MEAN}, None, 1),
        # Its first convolution pads: zeros stand for the mean, which stays outside.
        ("alexnet_owt", {"mean": MEAN, "std": STD}, (1, 1, 3), 3),
        ("alexnet_owt", {"mean": (120.0,) * 3, "std": STD}, (1, 1, 1), 1),
        ("alexnet_owt", {"channels": "rgb", "mean": MEAN, "std": STD}, (1, 1, 3), 3),
    ],
)
def test_every_setting_gives_the_same_answers(
    name: str, settings: dict[str, Any], left: tuple[int, ...] | None, channels: int
) -> None:
    generator = np.random.default_rng(3)
    settings = {"resize": 76, "crop": 67, **settings}
    if place := settings.get("mean_image_at"):
        side = settings[place]
        settings["mean_image"] = generator.uniform(90, 130, (side, side, 3)).astype(np.float32)
    face_input = FaceInput(**settings)
    net = network(name, face_input.input_channels)
    # Probabilities would hide differences where one class has all.
    net.layers[-1].activation = keras.activations.linear
    before = [weight.copy() for weight in net.get_weights()]
    faces = generator.integers(20, 200, (3, 76, 76, 1 if face_input.channels == "grey" else 3), np.uint8)
    folded = fold(net, face_input)
    expected = keras.ops.convert_to_numpy(net(face_input(faces), training=False))
    np.testing.assert_allclose(answers(folded, faces), expected, atol=2e-5 * np.abs(expected).max())
    assert (None if folded.subtract is None else folded.subtract.shape) == left
    assert folded.net.input_shape == (None, 67, 67, channels)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # Another order of channels or another mean would have been seen.
    wrong = FaceInput(**{**settings, "mean": (90.0, 140.0, 60.0), "mean_image": None, "mean_image_at": "resize"})
    other = keras.ops.convert_to_numpy(net(wrong(faces), training=False))
    assert np.abs(other - expected).max() > 1e-3 * np.abs(expected).max()


def test_a_network_that_begins_otherwise_is_refused() -> None:
    net = keras.Sequential([keras.Input((67, 67, 3)), keras.layers.Flatten(), keras.layers.Dense(2, name="scores")])
    with pytest.raises(ModelError, match=r"begins with scores \(Dense\)"):
        fold(net, FaceInput(resize=67, crop=67))
