"""SENet-50: SE-ResNet-50 (Hu, Shen, Sun 2018), exactly the Caffe network that was released with VGGFace2 (Cao et al. 2018).

It takes BGR images of 224x224, 0..255 minus a mean pixel. Strides stand on the first 1x1 convolution of a block and on its
projection, convolutions pad alike on all sides, the pooling after conv1 rounds up (112 -> 56), batch normalisation has Caffe's
epsilon of 1e-5. keras-vggface's port differs in all but the strides; its weight file fits all the same. The last pooling takes
the mean of the whole maps, which at 224 is the prototxt's window of 7x7.

Layers are called as in Caffe, `_` in place of `/`; a BatchNormalization is Caffe's BatchNorm and Scale together.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import BatchNormalization, Conv2D, GroupedConv2D
from emotiw_keras.models.originals.senet import CONV1, EPSILON, blocks
from emotiw_keras.models.parts import (
    Shape,
    Tensor,
    Top,
    classifier,
    image_input,
    model_of,
    pooled,
    scaled,
)
from emotiw_keras.models.pooling import CaffeMaxPooling2D
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing

__all__ = ["AFTER_TRUNK", "FOREIGN_NAMES", "OTHER_INPUTS", "SENet50", "decode_predictions", "preprocess_input"]

preprocess_input = preprocessing("senet50")

SMALLEST = 5
"""The smallest image it takes: the pooling after conv1 needs three rows."""
IDENTITIES = 8631
"""Persons in the training part of VGGFace2, the classes of the released networks."""
REDUCTION = 16
_EXPANSION = 4
_NORMALISED = ("1x1_reduce", "3x3", "1x1_increase", "1x1_proj")
_GATE = ("1x1_down", "1x1_up")


def _caffe_names() -> dict[str, str]:
    """Caffe's; keras-vggface's files have them too."""
    normalised = {CONV1: "conv1/7x7_s2"}
    names = {"classifier": "classifier"}
    for block, _, _, projected in blocks():
        normalised |= {f"{block}_{part}": f"{block}_{part}" for part in _NORMALISED[: 4 if projected else 3]}
        names |= {f"{block}_{part}": f"{block}_{part}" for part in _GATE}
    for ours, theirs in normalised.items():
        names |= {ours: theirs, f"{ours}_bn": f"{theirs}/bn", f"{ours}_bn_scale": f"{theirs}/bn/scale"}
    return names


def _torch_names() -> dict[str, str]:
    """Those of cydonia999/VGGFace2-pytorch, which its pickled dictionaries have."""
    names = {CONV1: "conv1", f"{CONV1}_bn": "bn1", "classifier": "fc"}
    for block, _, _, projected in blocks():
        stage, number = block.removeprefix("conv").split("_")
        there = f"layer{int(stage) - 1}.{int(number) - 1}."
        for i, part in enumerate(_NORMALISED[:3], 1):
            names |= {f"{block}_{part}": f"{there}conv{i}", f"{block}_{part}_bn": f"{there}bn{i}"}
        names |= {f"{block}_{part}": f"{there}conv{i}" for i, part in enumerate(_GATE, 4)}
        if projected:
            names |= {f"{block}_1x1_proj": f"{there}downsample.0", f"{block}_1x1_proj_bn": f"{there}downsample.1"}
    return names


FOREIGN_NAMES: tuple[dict[str, str], ...] = (_caffe_names(), _torch_names())
"""Our layers -> theirs, one for each naming; `<layer>_bn_scale` is the layer of factors where it is one of its own."""

OTHER_INPUTS = "SE-ResNet-50 of timm takes RGB, 0..1, less a mean and divided by a deviation"
"""How others prepare the images of this network; see `conversion.matching.other_inputs`."""

AFTER_TRUNK = ("feat_extract",)
"""Layers that the released 256 and 128 networks have between the trunk and their classifier."""


def _conv(filters: int, size: int, name: str, strides: int = 1, **kwargs: Any) -> layers.Layer:
    settings = {"kernel_initializer": f"{PACKAGE}>HeNormal", "data_format": "channels_last", "name": name, **kwargs}
    return Conv2D(filters, size, strides=strides, padding="same" if size == 3 else "valid", **settings)


def _normalised(x: Tensor, conv: layers.Layer, relu: str = "") -> Tensor:
    """A convolution without bias, its normalisation, and a ReLU if one is named."""
    x = BatchNormalization(axis=-1, epsilon=EPSILON, name=f"{conv.name}_bn")(conv(x))
    return layers.Activation("relu", name=relu)(x) if relu else x


def _block(x: Tensor, name: str, channels: int, expanded: int, reduced: int, stride: int, projected: bool) -> Tensor:
    """Three convolutions whose result is weighted channel by channel, and a shortcut."""
    first = _conv(channels, 1, f"{name}_1x1_reduce", stride, use_bias=False)
    second = _conv(channels, 3, f"{name}_3x3", use_bias=False)
    y = _normalised(_normalised(x, first, f"{first.name}_relu"), second, f"{second.name}_relu")
    y = _normalised(y, _conv(expanded, 1, f"{name}_1x1_increase", use_bias=False))
    gate = layers.GlobalAveragePooling2D(data_format="channels_last", keepdims=True, name=f"{name}_global_pool")(y)
    gate = _conv(reduced, 1, f"{name}_1x1_down", activation="relu")(gate)
    gate = _conv(expanded, 1, f"{name}_1x1_up", activation="sigmoid")(gate)
    shortcut = _normalised(x, _conv(expanded, 1, f"{name}_1x1_proj", stride, use_bias=False)) if projected else x
    y = layers.Add(name=name)([layers.Multiply(name=f"{name}_scale")([gate, y]), shortcut])
    return layers.Activation("relu", name=f"{name}_relu")(y)


def _build(
    top: Top, weights: Any, input_tensor: Tensor | None, input_shape: Shape | None, name: str, width: float
) -> keras.Model:
    stored.find(weights, "senet50")  # before anything large is built
    image = image_input("senet50", input_tensor, input_shape, SMALLEST, width, top.include_top)

    conv1 = GroupedConv2D(
        scaled(64, width), 7, 2, padding=3, use_bias=False, kernel_initializer=f"{PACKAGE}>HeNormal", name=CONV1
    )
    x = _normalised(image, conv1, "conv1_relu_7x7_s2")
    x = CaffeMaxPooling2D(3, 2, name="pool1_3x3_s2")(x)
    for block, channels, stride, projected in blocks():
        expanded = channels * _EXPANSION
        narrow, wide, reduced = (scaled(count, width) for count in (channels, expanded, expanded // REDUCTION))
        x = _block(x, block, narrow, wide, reduced, stride, projected)
    if top.include_top:
        x = layers.GlobalAveragePooling2D(data_format="channels_last", name="pool5_7x7_s1")(x)
        x = classifier(x, top.classes, top.activation, "classifier")
    else:
        x = pooled(x, top.pooling)

    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, "senet50", width)
    return model


def SENet50(
    include_top: bool = True,
    weights: Any = "vggface2",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = IDENTITIES,
    classifier_activation: Any = "softmax",
    name: str = "senet50",
    width: float = 1.0,
) -> keras.Model:
    """SENet-50 as released with VGGFace2: 43,777,063 parameters with its 8631 identities, 53,120 of them batch statistics.

    Args:
        include_top: with the classifier; without it the output is conv5_3's, float (batch, 7, 7, 2048).
        weights: None (random), "vggface2", the path of a `.weights.h5` file that fits in every layer, or of a weight file in a
            foreign format. There are none of ImageNet.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 5x5; (224, 224, 3) if None. Without the top height and
            width may be None, for any.
        pooling: without the top: None, "avg" (the 2048 features of a face) or "max".
        classes: outputs of the classifier. With weights for another number, the classifier alone is new.
        classifier_activation: of the output; None gives logits.
        name: of the model.
        width: multiplier of all channels, above 0.

    Returns:
        A model from float (batch, 224, 224, 3), BGR, 0..255 minus the mean pixel (91.4953, 103.8827, 131.0912), to float32
        (batch, classes).

    Raises:
        ModelError: the weights are missing, of another data set, or do not fit; the input shape cannot be used.
        UsageError: an argument has an impossible value.

    Source: hujie-frank/SENet `models/SE-ResNet-50.prototxt`; ox-vgg/vgg_face2.

    Example:
        >>> SENet50(weights=None, classes=7, input_shape=(64, 64, 1), width=0.1).output_shape
        (None, 7)
    """
    top = Top(include_top, pooling, classes, classifier_activation)
    return _build(top, weights, input_tensor, input_shape, name, width)
