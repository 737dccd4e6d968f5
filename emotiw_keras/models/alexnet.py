"""AlexNet and CaffeNet as Caffe released them (BVLC `models/bvlc_alexnet`, `models/bvlc_reference_caffenet`).

Both take BGR images of 227x227, 0..255 minus the mean. They differ in one thing: AlexNet normalises before it pools,
CaffeNet after. The paper (Krizhevsky et al. 2012) ran conv2, conv4 and conv5 on two GPUs: here they have two groups.
Its LRN had k = 2; the released nets have Caffe's default k = 1 and alpha 1e-4 / 5.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import layers

from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import GroupedConv2D, LocalResponseNormalization
from emotiw_keras.models.parts import RELU, Shape, Tensor, Top, head, image_input, model_of, scaled
from emotiw_keras.models.pooling import CaffeMaxPooling2D
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing

__all__ = ["AlexNet", "CaffeNet", "decode_predictions", "preprocess_input"]

SMALLEST = 55
preprocess_input = preprocessing("alexnet")

# Our names are Caffe's, which MatConvNet and TensorFlow ports kept.
FOREIGN_NAMES: tuple[dict[str, str], ...] = ()


def _conv(filters: int, size: int, groups: int, name: str) -> GroupedConv2D:
    return GroupedConv2D(filters, size, padding="same", groups=groups, name=name, **RELU)


def _norm_and_pool(x: Tensor, network: str, number: str) -> Tensor:
    norm = LocalResponseNormalization(depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75, name=f"norm{number}")
    pool = CaffeMaxPooling2D(3, 2, name=f"pool{number}")
    return norm(pool(x)) if network == "caffenet" else pool(norm(x))


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
    image = image_input(network, input_tensor, input_shape, SMALLEST, width, top.include_top)
    scale = functools.partial(scaled, width=width, groups=2)

    conv1 = layers.Conv2D(scale(96), 11, strides=4, data_format="channels_last", name="conv1", **RELU)
    x = conv1(image)
    x = _norm_and_pool(x, network, "1")
    x = _conv(scale(256), 5, 2, "conv2")(x)
    x = _norm_and_pool(x, network, "2")
    x = _conv(scale(384), 3, 1, "conv3")(x)
    x = _conv(scale(384), 3, 2, "conv4")(x)
    x = _conv(scale(256), 3, 2, "conv5")(x)
    x = CaffeMaxPooling2D(3, 2, name="pool5")(x)
    x = head(x, top, scaled(4096, width), scaled(4096, width))

    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, network, width)
    return model


def AlexNet(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "alexnet",
    width: float = 1.0,
) -> keras.Model:
    """AlexNet in the order of Caffe's `bvlc_alexnet`: conv, ReLU, normalise, pool. 60,965,224 parameters.

    Args:
        include_top: with fc6, fc7 and fc8; without them the output is pool5, float (batch, 6, 6, 256).
        weights: None (random), "imagenet", or the path of a `.weights.h5` file that fits in every layer.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 55x55; (227, 227, 3) if None. Without the top height and
            width may be None, for any.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of fc8. With weights for another number, fc8 alone is new.
        classifier_activation: "softmax", or None for logits.
        name: the model's name.
        width: multiplier of channels and units.

    Input: float (batch, height, width, channels), BGR, 0..255 minus the mean (`preprocess_input`). Output: float32
    (batch, classes). Raises ModelError for weights that are missing or do not fit and for too small an image.

    Source: Krizhevsky et al. 2012; BVLC `models/bvlc_alexnet`.

    Example:
        >>> AlexNet(weights=None, classes=7, input_shape=(67, 67, 1), width=0.1).output_shape
        (None, 7)
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("alexnet", top, weights, input_tensor, input_shape, name, width)


def CaffeNet(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "caffenet",
    width: float = 1.0,
) -> keras.Model:
    """CaffeNet, Caffe's `bvlc_reference_caffenet`: AlexNet that pools before it normalises. 60,965,224 parameters.

    Arguments, input, output and errors as for `AlexNet`. Source: BVLC `models/bvlc_reference_caffenet`.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("caffenet", top, weights, input_tensor, input_shape, name, width)
