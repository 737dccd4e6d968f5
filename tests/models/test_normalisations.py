"""A network with batch normalisation, sums and gates: what is folded, and that ONNX and TFLite answer as Keras does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.models.layers import GroupedConv2D
from emotiw_keras.models.normalisations import fold_normalisations
from emotiw_keras.serving.folding import fold
from emotiw_keras.serving.tflite_graph import tflite_model

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")),
    reason="onnx or onnxruntime is not installed (the extra [onnx])",
)
SIDE = 19
FOLDED = ("stem_bn", "wide_bn", "grouped_bn", "units_bn")
KEPT = ("sum_bn", "relu_bn", "shared_bn")
SETTINGS = [
    {"mean": (104.0, 117.0, 123.0), "std": (57.0, 58.0, 60.0)},
    {"mean": (104.0, 117.0, 123.0), "std": (57.0, 58.0, 60.0), "channels": "rgb"},
    {"mean": (110.0,) * 3, "channels": "rgb", "channel_order": "rgb"},
]


def network(padding: str = "valid") -> keras.Model:
    """A stem, a residual block with a gate, normalisations that can be folded and ones that cannot; random statistics."""
    keras.utils.set_random_seed(3)
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, strides=2, padding=padding, use_bias=False, name="stem")(image)
    x = layers.Activation("relu")(layers.BatchNormalization(epsilon=1e-5, name="stem_bn")(x))
    y = layers.BatchNormalization(center=False, name="wide_bn")(layers.Conv2D(8, 3, padding="same", name="wide")(x))
    y = layers.ReLU()(y)
    y = GroupedConv2D(8, 3, padding=1, groups=2, use_bias=False, name="grouped")(y)
    y = layers.BatchNormalization(scale=False, name="grouped_bn")(y)
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(y))
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.BatchNormalization(name="sum_bn")(layers.Add(name="sum")([layers.Multiply()([y, gate]), x]))
    x = layers.BatchNormalization(name="relu_bn")(layers.Conv2D(8, 1, activation="relu", name="relu_conv")(x))
    shared = layers.Conv2D(8, 1, name="shared")(layers.ZeroPadding2D(((1, 0), (0, 2)))(x))
    x = layers.Add()([layers.BatchNormalization(name="shared_bn")(shared), shared])
    x = layers.Reshape((-1,))(layers.AveragePooling2D(3, 2)(x))
    x = layers.BatchNormalization(name="units_bn")(layers.Dense(12, use_bias=False, name="units")(x))
    net = keras.Model(image, layers.Dense(5, name="scores")(x))
    generator = np.random.default_rng(1)
    for layer in net.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                low, high = (0.3, 2.0) if variable.name in ("gamma", "moving_variance") else (-0.5, 0.5)
                variable.assign(generator.uniform(low, high, variable.shape))
    return net


def kept(net: keras.Model) -> tuple[str, ...]:
    return tuple(layer.name for layer in net.layers if isinstance(layer, layers.BatchNormalization))


def answers(net: keras.Model, faces: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(net(faces, training=False))


def test_only_what_follows_a_linear_layer_alone_is_folded() -> None:
    net = network()
    before = net.get_weights()
    small = fold_normalisations(net)
    assert set(kept(net)) == {*FOLDED, *KEPT} and set(kept(small)) == set(KEPT)
    assert all(small.get_layer(name).use_bias for name in ("stem", "wide", "grouped", "units"))
    x = np.random.default_rng(0).normal(0, 3, (4, SIDE, SIDE, 3)).astype("float32")
    expected = answers(net, x)
    np.testing.assert_allclose(answers(small, x), expected, atol=1e-5 * np.abs(expected).max())
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # The epsilon counts: a fold that left it out would differ by more than the tolerance above.
    stem_bn = net.get_layer("stem_bn")
    stem_bn.epsilon = 1e-2
    assert np.abs(answers(net, x) - expected).max() > 1e-3 * np.abs(expected).max()


def test_nothing_to_fold_is_the_network_itself() -> None:
    image = keras.Input((9, 9, 3))
    net = keras.Model(image, layers.Dense(2)(layers.Flatten()(layers.Conv2D(2, 3)(image))))
    assert fold_normalisations(net) is net


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_first_convolution_without_a_bias_gets_one(settings: dict, padding: str) -> None:
    net = network(padding)
    face_input = FaceInput(resize=SIDE, crop=SIDE, **{"channels": "grey", **settings})
    faces = np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 1 if face_input.channels == "grey" else 3), np.uint8)
    folded = fold(net, face_input)
    assert folded.net.get_layer("stem").use_bias and (folded.subtract is None) == (padding == "valid")
    pixels = faces.astype(np.float32) - (0 if folded.subtract is None else folded.subtract)
    expected = answers(net, face_input(faces))
    np.testing.assert_allclose(answers(folded.net, pixels), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_tflite_answers_as_keras_does(settings: dict) -> None:
    net = network("same")
    face_input = FaceInput(resize=SIDE, crop=SIDE, **{"channels": "grey", **settings})
    faces = np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 1 if face_input.channels == "grey" else 3), np.uint8)
    runner = tf.lite.Interpreter(model_content=tflite_model(fold(net, face_input))).get_signature_runner()
    expected = answers(net, face_input(faces))
    np.testing.assert_allclose(runner(pixels=faces)["probabilities"], expected, atol=2e-5 * np.abs(expected).max())


@needs_onnx
@pytest.mark.parametrize("settings", SETTINGS[:2])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_onnx_answers_as_keras_does(settings: dict, padding: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    from emotiw_keras.serving.onnx_graph import onnx_model

    net = network(padding)
    face_input = FaceInput(resize=SIDE, crop=SIDE, **{"channels": "grey", **settings})
    faces = np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 1 if face_input.channels == "grey" else 3), np.uint8)
    model = onnx_model(fold(net, face_input), 5, {})
    onnx.checker.check_model(model, full_check=True)
    # Folded convolutions are followed by no scaling of their own; the three that cannot be are.
    assert [node.op_type for node in model.graph.node].count("Mul") == len(KEPT) + 1
    expected = answers(net, face_input(faces))
    for count in (3, 1):
        found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"pixels": faces[:count]})[0]
        np.testing.assert_allclose(found, expected[:count], atol=2e-5 * np.abs(expected).max())
