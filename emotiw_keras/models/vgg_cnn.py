"""VGG-CNN-F, -M and -S of "Return of the Devil in the Details" (Chatfield et al. 2014), as released for Caffe.

All take BGR images of 224x224, 0..255 minus the released 224x224 mean image (or its mean pixel). Their poolings round
up, as Caffe's do. LRN: Caffe's n = 5, alpha = 5e-4, k = 2, beta = 0.75. M-2048, M-1024 and M-128 are M with a
narrower fc7.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import GroupedConv2D, LocalResponseNormalization
from emotiw_keras.models.parts import RELU, Shape, Tensor, Top, head, image_input, model_of, scaled
from emotiw_keras.models.pooling import CaffeMaxPooling2D
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing
from emotiw_keras.models.registry import LAYERS

__all__ = [
    "VGGCNNF",
    "VGGCNNM",
    "VGGCNNM128",
    "VGGCNNM1024",
    "VGGCNNM2048",
    "VGGCNNS",
    "decode_predictions",
    "preprocess_input",
]

Scale = Callable[[int], int]
preprocess_input = preprocessing("vgg_cnn_m")

# Our names are those of the released Caffe and MatConvNet files; this is Cadene's port of M to PyTorch.
CADENE = (*(f"features.{i}" for i in (0, 4, 8, 10, 12)), *(f"classif.{i}" for i in (0, 3, 6)))
FOREIGN_NAMES = (dict(zip(LAYERS, CADENE, strict=True)),)


def _conv(filters: int, size: int, stride: int, padding: int, name: str) -> GroupedConv2D:
    # Padding in numbers: in conv2 of M, Keras' "same" would give 27 where Caffe's pad 1 gives 26.
    return GroupedConv2D(filters, size, strides=stride, padding=padding, name=name, **RELU)


def _norm(name: str) -> LocalResponseNormalization:
    return LocalResponseNormalization(depth_radius=2, bias=2.0, alpha=5e-4 / 5, beta=0.75, name=name)


def _trunk_f(x: Tensor, scale: Scale) -> Tensor:
    x = _conv(scale(64), 11, 4, 0, "conv1")(x)
    x = _norm("norm1")(x)
    x = CaffeMaxPooling2D(3, 2, name="pool1")(x)
    x = _conv(scale(256), 5, 1, 2, "conv2")(x)
    x = _norm("norm2")(x)
    x = CaffeMaxPooling2D(3, 2, name="pool2")(x)
    x = _conv(scale(256), 3, 1, 1, "conv3")(x)
    x = _conv(scale(256), 3, 1, 1, "conv4")(x)
    x = _conv(scale(256), 3, 1, 1, "conv5")(x)
    return CaffeMaxPooling2D(3, 2, name="pool5")(x)


def _trunk_m(x: Tensor, scale: Scale) -> Tensor:
    x = _conv(scale(96), 7, 2, 0, "conv1")(x)
    x = _norm("norm1")(x)
    x = CaffeMaxPooling2D(3, 2, name="pool1")(x)
    x = _conv(scale(256), 5, 2, 1, "conv2")(x)
    x = _norm("norm2")(x)
    x = CaffeMaxPooling2D(3, 2, name="pool2")(x)
    x = _conv(scale(512), 3, 1, 1, "conv3")(x)
    x = _conv(scale(512), 3, 1, 1, "conv4")(x)
    x = _conv(scale(512), 3, 1, 1, "conv5")(x)
    return CaffeMaxPooling2D(3, 2, name="pool5")(x)


def _trunk_s(x: Tensor, scale: Scale) -> Tensor:
    # No norm2: neither table 1 of the paper nor the released net has one (Lasagne's port of the weights has none
    # either); MatConvNet's training script adds one.
    x = _conv(scale(96), 7, 2, 0, "conv1")(x)
    x = _norm("norm1")(x)
    x = CaffeMaxPooling2D(3, 3, name="pool1")(x)
    x = _conv(scale(256), 5, 1, 0, "conv2")(x)
    x = CaffeMaxPooling2D(2, 2, name="pool2")(x)
    x = _conv(scale(512), 3, 1, 1, "conv3")(x)
    x = _conv(scale(512), 3, 1, 1, "conv4")(x)
    x = _conv(scale(512), 3, 1, 1, "conv5")(x)
    return CaffeMaxPooling2D(3, 3, name="pool5")(x)


# trunk, the smallest image it takes, units of fc7
NETWORKS: dict[str, tuple[Callable[[Tensor, Scale], Tensor], int, int]] = {
    "vgg_cnn_f": (_trunk_f, 55, 4096),
    "vgg_cnn_m": (_trunk_m, 57, 4096),
    "vgg_cnn_m_2048": (_trunk_m, 57, 2048),
    "vgg_cnn_m_1024": (_trunk_m, 57, 1024),
    "vgg_cnn_m_128": (_trunk_m, 57, 128),
    "vgg_cnn_s": (_trunk_s, 55, 4096),
}


def _build(
    network: str,
    top: Top,
    weights: Any,
    input_tensor: Tensor | None,
    input_shape: Shape | None,
    name: str,
    width: float,
) -> keras.Model:
    stored.find(weights, network)  # before anything large is built
    trunk, smallest, fc7 = NETWORKS[network]
    image = image_input(network, input_tensor, input_shape, smallest, width, top.include_top)
    scale = functools.partial(scaled, width=width)
    x = head(trunk(image, scale), top, scale(4096), scale(fc7))

    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, network, width)
    return model


def VGGCNNM2048(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg_cnn_m_2048",
    width: float = 1.0,
) -> keras.Model:
    """VGG-CNN-M-2048, the second network of Ng et al. 2015: fc7 has 2048 units. 92,469,864 parameters.

    Args:
        include_top: with fc6, fc7 and fc8; without them the output is pool5, float (batch, 6, 6, 512).
        weights: None (random), "imagenet", or the path of a `.weights.h5` file that fits in every layer.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 57x57; (224, 224, 3) if None. Without the top height and
            width may be None, for any.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of fc8. With weights for another number, fc8 alone is new.
        classifier_activation: "softmax", or None for logits.
        name: the model's name.
        width: multiplier of channels and units.

    Input: float (batch, height, width, channels), BGR, 0..255 minus the mean (`preprocess_input`). Output: float32
    (batch, classes). Raises ModelError for weights that are missing or do not fit and for too small an image.

    Source: Chatfield et al. 2014, table 1; gist.github.com/ksimonyan/78047f3591446d1d7b91.

    Example:
        >>> VGGCNNM2048(weights=None, classes=7, input_shape=(64, 64, 1), width=0.1).output_shape
        (None, 7)
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("vgg_cnn_m_2048", top, weights, input_tensor, input_shape, name, width)


def VGGCNNF(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg_cnn_f",
    width: float = 1.0,
) -> keras.Model:
    """VGG-CNN-F ("fast"): conv1 64 at stride 4. Images of at least 55x55.

    Arguments, input, output and errors as for `VGGCNNM2048`.

    Source: Chatfield et al. 2014, table 1; gist.github.com/ksimonyan/a32c9063ec8e1118221a.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("vgg_cnn_f", top, weights, input_tensor, input_shape, name, width)


def VGGCNNM(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg_cnn_m",
    width: float = 1.0,
) -> keras.Model:
    """VGG-CNN-M ("medium"): fc7 has 4096 units.

    Arguments, input, output and errors as for `VGGCNNM2048`.

    Source: Chatfield et al. 2014, table 1; gist.github.com/ksimonyan/f194575702fae63b2829.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("vgg_cnn_m", top, weights, input_tensor, input_shape, name, width)


def VGGCNNM1024(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg_cnn_m_1024",
    width: float = 1.0,
) -> keras.Model:
    """VGG-CNN-M-1024: fc7 has 1024 units.

    Arguments, input, output and errors as for `VGGCNNM2048`.

    Source: Chatfield et al. 2014, table 1; gist.github.com/ksimonyan/f0f3d010e6d5f0100274.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("vgg_cnn_m_1024", top, weights, input_tensor, input_shape, name, width)


def VGGCNNM128(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg_cnn_m_128",
    width: float = 1.0,
) -> keras.Model:
    """VGG-CNN-M-128: fc7 has 128 units.

    Arguments, input, output and errors as for `VGGCNNM2048`.

    Source: Chatfield et al. 2014, table 1; gist.github.com/ksimonyan/976847408258292576a1.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("vgg_cnn_m_128", top, weights, input_tensor, input_shape, name, width)


def VGGCNNS(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "vgg_cnn_s",
    width: float = 1.0,
) -> keras.Model:
    """VGG-CNN-S ("slow"): poolings of 3/3, 2/2 and 3/3, one LRN. Images of at least 55x55.

    Arguments, input, output and errors as for `VGGCNNM2048`.

    Source: Chatfield et al. 2014, table 1; gist.github.com/ksimonyan/fd8800eeb36e276cd6f9.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("vgg_cnn_s", top, weights, input_tensor, input_shape, name, width)
