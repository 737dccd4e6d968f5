"""Layers that users bring, and networks of keras.applications, as ONNX: what two engines compute of it is what Keras does."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import cv2
import keras
import numpy as np
import pytest

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.protobuf import Wire
from emotiw_keras.models import build
from emotiw_keras.serving import exported
from emotiw_keras.serving.exported_graph import _shape, _Tensor, bytes_of_face
from emotiw_keras.serving.folding import fold

if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
    pytest.skip("onnx or onnxruntime is not installed (the extra [onnx])", allow_module_level=True)

Layer = Callable[[keras.KerasTensor], keras.KerasTensor]


def check_same(net: keras.Model, face_input: FaceInput, faces: np.ndarray, tolerance: float) -> None:
    """ONNX Runtime and OpenCV answer as Keras does, and the file is one that `predict` takes."""
    import onnx
    import onnxruntime

    from emotiw_keras.serving.onnx_graph import onnx_model

    expected = keras.ops.convert_to_numpy(net(face_input(faces), training=False))
    classes = expected.shape[-1]
    assert 1.5 / classes < expected.max() < 0.99, "one class has all, or none has more: nothing is compared"
    model = onnx_model(fold(net, face_input), classes, {"emotiw": "{}"})
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    wire = Wire("net.onnx")
    bytes_of_face("net.onnx", wire, wire.decode(memoryview(content), exported._MODEL, closed=True), faces.shape[1:])
    found = onnxruntime.InferenceSession(content).run(["probabilities"], {"pixels": faces})[0]
    np.testing.assert_allclose(found, expected, atol=tolerance)
    opencv = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    opencv.setInput(faces.astype(np.float32))
    np.testing.assert_allclose(opencv.forward(), expected, atol=tolerance)


def stir(net: keras.Model, faces: np.ndarray) -> None:
    """Statistics and shifts that are not those of a new network, and scores that are apart by about 1."""
    draw = np.random.default_rng(0)
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                around_1 = variable.name in ("gamma", "moving_variance")
                variable.assign(draw.uniform(0.9, 1.1, variable.shape) if around_1 else draw.normal(0, 0.02, variable.shape))
    last = net.layers[-1]
    features = keras.ops.convert_to_numpy(keras.Model(net.inputs, last.input)(faces, training=False))
    kernel = draw.normal(0, 1, last.kernel.shape)
    last.kernel.assign(kernel / (features @ kernel).std())


@pytest.mark.parametrize(
    ("name", "side", "mean"),
    [
        ("MobileNetV2", 32, (104, 117, 123)),  # ReLU up to 6, depthwise convolutions, at the end of a single pixel
        ("EfficientNetB0", 32, (104, 117, 123)),  # SiLU, layers that do nothing
        ("DenseNet121", 32, (104, 117, 123)),  # zeros around the image
        ("DenseNet121 grey", 32, (127.5,) * 3),
        ("DenseNet121 grey", 32, (0.0,) * 3),  # nothing to subtract, and three channels to make of one
        ("MobileNetV3Small", 32, (104, 117, 123)),  # x + 3 and x * y, which are no layers
        ("InceptionV3", 75, (104, 117, 123)),  # means at the edge of what is there alone
        ("InceptionResNetV2", 75, (104, 117, 123)),
        ("Xception", 71, (104, 117, 123)),  # separable convolutions
        ("NASNetMobile", 32, (104, 117, 123)),  # cropping
        ("ConvNeXtTiny grey", 32, (104, 117, 123)),
        ("ConvNeXtTiny", 32, (104, 117, 123)),  # a `Sequential` at its beginning; normalised layers, GELU
    ],
)
def test_networks_of_keras_applications_are_the_same(name: str, side: int, mean: tuple[float, float, float]) -> None:
    keras.utils.set_random_seed(2)
    name, _, grey = name.partition(" ")
    net = build(f"keras:{name}", weights=None, classes=7, input_shape=(side, side, 3))
    face_input = FaceInput(channels=grey or "rgb", resize=side + 4, crop=side, mean=mean, std=(50, 60, 70))
    faces = np.random.default_rng(1).integers(0, 256, (2, side + 4, side + 4, 1 if grey else 3), np.uint8)
    stir(net, face_input(faces))
    check_same(net, face_input, faces, 1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Activation("gelu"),
        keras.layers.Activation("hard_silu"),
        keras.layers.Activation("tanh"),
        keras.layers.MaxPooling2D(3, 2, padding="same"),
        keras.layers.AveragePooling2D(3, 2, padding="same"),
        keras.layers.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2),
        keras.layers.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
        keras.layers.Cropping2D(((1, 2), (0, 3))),
        keras.layers.LayerNormalization(gamma_initializer="random_normal", beta_initializer="random_normal"),
        keras.layers.LayerNormalization(center=False, scale=False),
        keras.layers.Dense(3, "relu", bias_initializer="random_normal"),
        lambda x: 3 + x * 0.5,
        lambda x: x * x + x,
        lambda x: keras.layers.DepthwiseConv2D(3, padding="same")(keras.layers.AveragePooling2D((7, 3))(x)),  # one row alone
        lambda x: keras.layers.DepthwiseConv2D(5, (1, 2), padding="same")(keras.layers.AveragePooling2D((3, 7))(x)),
        keras.layers.RandomFlip(),
        lambda x: keras.layers.LayerNormalization()(keras.layers.GlobalAveragePooling2D()(x)),
        keras.Sequential(
            [keras.layers.Conv2D(4, 3), keras.Sequential([keras.layers.ReLU(), keras.layers.BatchNormalization()])]
        ),
    ],
)
def test_layers_are_the_same(layer: Layer) -> None:
    keras.utils.set_random_seed(3)
    image = keras.Input((9, 9, 3))
    x = keras.layers.Flatten()(layer(keras.layers.Conv2D(4, 3)(image)))
    net = keras.Model(image, keras.layers.Dense(5, "softmax", name="classifier")(x))
    face_input = FaceInput(channels="rgb", resize=9, crop=9, mean=(104, 117, 123), std=(50, 60, 70))
    faces = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3), np.uint8)
    stir(net, face_input(faces))
    check_same(net, face_input, faces, 1e-6)


def nested(name: str = "maps") -> keras.Sequential:
    return keras.Sequential([keras.layers.Conv2D(3, 3, padding="same", name=name), keras.layers.ReLU(name="cut")])


def twice(x: keras.KerasTensor) -> keras.KerasTensor:
    layer = nested()
    return layer(layer(x))


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Conv2D(4, 3)],
        [nested()],
        [nested(), nested()],
        [keras.Sequential([keras.layers.RandomFlip()]), nested()],
        [twice],
    ],
)
@pytest.mark.parametrize("sequential", [True, False])
def test_networks_within_are_taken_for_their_layers(layers: list[Layer], sequential: bool) -> None:
    keras.utils.set_random_seed(3)
    if sequential and layers == [twice]:
        pytest.skip("a Sequential has no functions")
    end = [keras.layers.Flatten(), keras.layers.Dense(5, "softmax", name="classifier")]
    image = keras.Input((9, 9, 3))
    outputs = functools.reduce(lambda x, layer: layer(x), [*layers, *end], image)
    net = keras.Sequential([image, *layers, *end]) if sequential else keras.Model(image, outputs)
    face_input = FaceInput(channels="rgb", resize=9, crop=9, mean=(104, 117, 123), std=(50, 60, 70))
    faces = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3), np.uint8)
    stir(net, face_input(faces))
    check_same(net, face_input, faces, 1e-6)


def test_what_stands_before_the_first_convolution_is_named() -> None:
    image = keras.Input((9, 9, 3))
    for start in (lambda x: x + 3, lambda x: keras.layers.ZeroPadding2D()(x) * 2):
        net = keras.Model(image, keras.layers.Conv2D(2, 3)(start(image)))
        with pytest.raises(
            ModelError, match=r"begins with (add|multiply)\w* \((Add|Multiply)\); only a network whose first layer"
        ):
            fold(net, FaceInput(channels="rgb", resize=9, crop=9))


def test_a_file_of_what_opencv_reads_beyond_the_image_for_is_refused() -> None:
    settings = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (1, 1), "dilations": (1, 1), "group": 4}
    step = Node("Conv", "c", ("x", "k"), ("y",), attrs=settings)
    kernel = _Tensor((4, 1, 3, 3), False)
    assert _shape(step, [_Tensor((1, 4, 2, 2), True), kernel])[0] == (1, 4, 2, 2)
    for size in ((1, 1), (1, 3), (3, 1)):
        with pytest.raises(ValueError):
            _shape(step, [_Tensor((1, 4, *size), True), kernel])


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (keras.layers.LayerNormalization(axis=1, name="odd"), r"layer odd on axis \[?1\]? of 4"),
        (keras.layers.UnitNormalization(name="odd"), r"layer odd \(UnitNormalization\)"),
        (keras.layers.BatchNormalization(axis=1, name="odd"), "layer odd on axis 1"),
        (keras.layers.ReLU(6, negative_slope=0.1, name="odd"), "slope and threshold of layer odd"),
        (keras.layers.Reshape((7, 14), name="odd"), r"layer odd from \(7, 7, 2\) to \(7, 14\)"),
        (keras.layers.Activation("mish", name="odd"), "activation mish of layer odd"),
        (lambda x: keras.layers.Dense(3, name="odd")(x[:, 0]), "layer get_item"),
        (lambda x: x - 3, r"layer subtract\w* \(Subtract\)"),
        (lambda x: x + np.ones((1, 7, 7, 1), "float32"), r"operator add\w* on"),
    ],
)
def test_what_has_no_known_form_is_refused_by_name(layer: Layer, said: str) -> None:
    from emotiw_keras.serving.onnx_graph import onnx_model

    image = keras.Input((9, 9, 3))
    net = keras.Model(image, layer(keras.layers.Conv2D(2, 3)(image)))
    with pytest.raises(ModelError, match=said):
        onnx_model(fold(net, FaceInput(channels="rgb", resize=9, crop=9)), 2, {})


def test_a_product_of_other_ranks_is_refused_by_name() -> None:
    from emotiw_keras.serving.onnx_graph import onnx_model

    image = keras.Input((9, 9, 3))
    maps = keras.layers.Conv2D(2, 3)(image)
    net = keras.Model(image, keras.layers.Multiply(name="odd")([maps, keras.layers.GlobalAveragePooling2D()(maps)]))
    with pytest.raises(ModelError, match=r"layer odd on \(None, 7, 7, 2\) and \(None, 2\)"):
        onnx_model(fold(net, FaceInput(channels="rgb", resize=9, crop=9)), 2, {})
