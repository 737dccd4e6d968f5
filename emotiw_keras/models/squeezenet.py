"""SqueezeNet v1.0 and v1.1 (Iandola et al. 2016) as released for Caffe (`forresti/SqueezeNet`).

Both take BGR images of 227x227, 0..255 minus a mean pixel. A fire module squeezes to few channels by a 1x1 convolution
and expands to many by 1x1 and 3x3 convolutions side by side. The classifier is a convolution too, averaged over the image.
Poolings round up, as Caffe's do.

Layers are called as in Caffe, `_` in place of `/`: conv1, fire2_squeeze1x1, fire2_expand1x1, fire2_expand3x3, ..., conv10.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import layers

from emotiw_keras.errors import UsageError
from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import Conv2D, GroupedConv2D
from emotiw_keras.models.originals.squeezenet import FIRES, NETWORKS
from emotiw_keras.models.parts import (
    RELU,
    Shape,
    Tensor,
    Top,
    classifier_kernel,
    image_input,
    model_of,
    pooled,
    scaled,
)
from emotiw_keras.models.pooling import CaffeMaxPooling2D
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing

__all__ = [
    "FOREIGN_NAMES",
    "OTHER_INPUTS",
    "TORCHVISION_NAMES",
    "SqueezeNet",
    "SqueezeNetV1_1",
    "decode_predictions",
    "preprocess_input",
]

preprocess_input = preprocessing("squeezenet")


_PARTS = ("squeeze1x1", "expand1x1", "expand3x3")


def _names(fire: str, parts: tuple[str, str, str], conv10: str) -> dict[str, str]:
    ours = [(f"fire{n}_{part}", fire.format(n) + there) for n in FIRES for part, there in zip(_PARTS, parts, strict=True)]
    return {"conv1": "conv1", **dict(ours), "conv10": conv10}


def _torchvision_names(*places: int) -> dict[str, str]:
    """`places` are those of fire2 to fire9 in `features`."""
    fires = {
        f"fire{n}_{part}": f"features.{place}.{part.replace('squeeze1x1', 'squeeze')}"
        for n, place in zip(FIRES, places, strict=True)
        for part in _PARTS
    }
    return {"conv1": "features.0", **fires, "conv10": "classifier.1"}


FOREIGN_NAMES: tuple[dict[str, str], ...] = (
    _names("fire{}/", _PARTS, "conv10"),
    _names("fire{}/", ("conv1x1_1", "conv1x1_2", "conv3x3_2"), "conv_final"),
)
"""Our layers -> Caffe's, one for each naming: that of the released nets, and of the first v1.0 file (called FireNet)."""

TORCHVISION_NAMES: dict[str, dict[str, str]] = {
    "squeezenet": _torchvision_names(3, 4, 5, 7, 8, 9, 10, 12),
    "squeezenet_v1_1": _torchvision_names(3, 4, 6, 7, 9, 10, 11, 12),
}
"""Our layers -> torchvision's in `squeezenet1_0` and `squeezenet1_1`. Not among FOREIGN_NAMES, as the names alone do not make
those nets these: they take RGB images divided by a standard deviation, and `squeezenet1_0` does not pad conv10."""

OTHER_INPUTS = "torchvision's takes RGB, 0..1, less a mean and divided by a deviation"
"""How others prepare the images of this network; see `conversion.matching.other_inputs`."""


def _conv(filters: int, size: int, name: str, **kwargs: Any) -> layers.Conv2D:
    return Conv2D(filters, size, data_format="channels_last", name=name, **RELU, **kwargs)


def _fire(x: Tensor, number: int, squeeze: int, expand: int) -> Tensor:
    name = f"fire{number}_"
    x = _conv(squeeze, 1, name + "squeeze1x1")(x)
    one = _conv(expand, 1, name + "expand1x1")(x)
    three = _conv(expand, 3, name + "expand3x3", padding="same")(x)
    return layers.Concatenate(axis=-1, name=name + "concat")([one, three])


def _head(x: Tensor, top: Top, border: int) -> Tensor:
    """drop9, conv10 and its mean over the image, float32 under every policy as all classifiers; or the maps pooled."""
    if not top.include_top:
        return pooled(x, top.pooling)
    if top.classes < 1:
        raise UsageError(f"classes is {top.classes}, expected at least 1")
    x = layers.Dropout(0.5, name="drop9")(x)
    kernel = classifier_kernel()
    conv10 = GroupedConv2D(
        top.classes, 1, padding=border, activation="relu", kernel_initializer=kernel, dtype="float32", name="conv10"
    )
    x = layers.GlobalAveragePooling2D(data_format="channels_last", dtype="float32", name="pool10")(conv10(x))
    return x if top.activation is None else layers.Activation(top.activation, dtype="float32", name="prob")(x)


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
    (channels, size), smallest, pools, border = NETWORKS[network]
    image = image_input(network, input_tensor, input_shape, smallest, width, top.include_top)
    scale = functools.partial(scaled, width=width)

    x = _conv(scale(channels), size, "conv1", strides=2)(image)
    x = CaffeMaxPooling2D(3, 2, name="pool1")(x)
    for number, (squeeze, expand) in FIRES.items():
        x = _fire(x, number, scale(squeeze), scale(expand))
        if number in pools:
            x = CaffeMaxPooling2D(3, 2, name=f"pool{number}")(x)
    x = _head(x, top, border)

    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, network, width)
    return model


def SqueezeNet(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "squeezenet",
    width: float = 1.0,
) -> keras.Model:
    """SqueezeNet v1.0: AlexNet's accuracy with 1,248,424 parameters.

    Args:
        include_top: with conv10 and its mean; without them the output is fire9, float (batch, 13, 13, 512).
        weights: None (random), "imagenet", or the path of a `.weights.h5` file that fits in every layer.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 29x29; (227, 227, 3) if None. Without the top height and
            width may be None, for any.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of conv10. With weights for another number, conv10 alone is new.
        classifier_activation: "softmax", or None for logits: the means of conv10, at least 0 as a ReLU precedes them.
        name: the model's name.
        width: multiplier of channels.

    Input: float (batch, height, width, channels), BGR, 0..255 minus the mean (`preprocess_input`). Output: float32
    (batch, classes). Raises ModelError for weights that are missing or do not fit and for too small an image.

    Source: Iandola et al. 2016, arXiv:1602.07360; forresti/SqueezeNet `SqueezeNet_v1.0`. It pads conv10 by 1, which
    torchvision's `squeezenet1_0` does not: weights of that net give other scores here.

    Example:
        >>> SqueezeNet(weights=None, classes=7, input_shape=(64, 64, 1), width=0.1).output_shape
        (None, 7)
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("squeezenet", top, weights, input_tensor, input_shape, name, width)


def SqueezeNetV1_1(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "squeezenet_v1_1",
    width: float = 1.0,
) -> keras.Model:
    """SqueezeNet v1.1: a smaller conv1 and earlier poolings, 2.4 times less work. 1,235,496 parameters.

    Arguments, input, output and errors as for `SqueezeNet`; images of at least 25x25. Without the top the output is float
    (batch, 14, 14, 512) at 227.

    Source: forresti/SqueezeNet `SqueezeNet_v1.1`.
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build("squeezenet_v1_1", top, weights, input_tensor, input_shape, name, width)
