"""EfficientNet-Lite0 as Google released it for small devices: no squeeze and excitation, ReLU6 in place of swish.

It takes RGB images of 224x224, 0..255 minus 127, divided by 128. Sixteen blocks widen the maps by 1x1 convolutions, look
around in each channel by itself, and narrow them again; where the size stays they add to what they were given. Training here
drops no blocks at random, as the authors' did.

Source: Tan and Le 2019, arXiv:1905.11946; tensorflow/tpu `models/official/efficientnet/lite`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import BatchNormalization, Conv2D, GroupedConv2D
from emotiw_keras.models.originals.efficientnet_lite import EPSILON, HEAD, STEM, blocks
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
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing

__all__ = ["FOREIGN_NAMES", "OTHER_INPUTS", "SMALLEST", "EfficientNetLite0", "decode_predictions", "preprocess_input"]

preprocess_input = preprocessing("efficientnet_lite0")

SMALLEST = 32
"""The smallest image it takes: five layers halve it."""


def _torch_names() -> dict[str, str]:
    """Those of ml-illustrated's EfficientNet-Lite for PyTorch."""
    names = {"stem": "_conv_stem", "stem_bn": "_bn0", "head": "_conv_head", "head_bn": "_bn1", "classifier": "_fc"}
    for number, block in enumerate(blocks()):
        for n, part in enumerate(("expand", "depthwise", "project")):
            names |= {
                f"{block.name}_{part}": f"_blocks.{number}._{part}_conv",
                f"{block.name}_{part}_bn": f"_blocks.{number}._bn{n}",
            }
    return names


FOREIGN_NAMES: tuple[dict[str, str], ...] = (_torch_names(),)
"""Our layers -> theirs."""

OTHER_INPUTS = "timm's efficientnet_lite0 takes RGB, 0..1, less ImageNet's mean and divided by its deviation"
"""How others prepare the images of this network; see `conversion.matching.other_inputs`."""


def _normalised(x: Tensor, conv: layers.Layer, relu: bool = True) -> Tensor:
    x = BatchNormalization(axis=-1, epsilon=EPSILON, name=f"{conv.name}_bn")(conv(x))
    return layers.Activation("relu6", name=f"{conv.name}_relu6")(x) if relu else x


def EfficientNetLite0(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "efficientnet_lite0",
    width: float = 1.0,
) -> keras.Model:
    """EfficientNet-Lite0: 4.7 million parameters, 0.4 billion multiplications, 75 % of ImageNet.

    Args:
        include_top: with the mean over the image, dropout and the classifier; without them the output is float (batch, 7, 7,
            1280).
        weights: None (random), "imagenet", the path of a `.weights.h5` file that fits in every layer, or of a weight file in a
            foreign format.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 32x32; (224, 224, 3) if None. Without the top height and
            width may be None, for any.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of the classifier. With weights for another number, the classifier alone is new.
        classifier_activation: "softmax", or None for logits.
        name: the model's name.
        width: multiplier of channels.

    Input: float (batch, height, width, channels), RGB, 0..255 minus 127, divided by 128 (`preprocess_input`). Output: float32
    (batch, classes). Raises ModelError for weights that are missing or do not fit and for too small an image.

    Source: Tan and Le 2019, arXiv:1905.11946; tensorflow/tpu `models/official/efficientnet/lite`.

    Example:
        >>> EfficientNetLite0(weights=None, classes=7, input_shape=(48, 48, 1), width=0.1).output_shape
        (None, 7)
    """
    stored.find(weights, "efficientnet_lite0")  # before anything large is built
    image = image_input("efficientnet_lite0", input_tensor, input_shape, SMALLEST, width, include_top)
    settings: dict[str, Any] = {"use_bias": False, "kernel_initializer": f"{PACKAGE}>HeNormal"}

    def conv(filters: int, size: int, layer: str, strides: int = 1) -> layers.Layer:
        return Conv2D(filters, size, strides, padding="same", data_format="channels_last", name=layer, **settings)

    x = _normalised(image, conv(scaled(STEM, width), 3, "stem", 2))
    for block in blocks():
        given, channels = x.shape[-1], scaled(block.channels, width)
        y = _normalised(x, conv(given * block.wider, 1, f"{block.name}_expand")) if block.wider > 1 else x
        depthwise = GroupedConv2D(
            given * block.wider,
            block.kernel,
            block.stride,
            "same",
            groups=given * block.wider,
            name=f"{block.name}_depthwise",
            **settings,
        )
        y = _normalised(_normalised(y, depthwise), conv(channels, 1, f"{block.name}_project"), relu=False)
        x = layers.Add(name=block.name)([x, y]) if block.stride == 1 and block.channels == block.given else y
    x = _normalised(x, conv(scaled(HEAD, width), 1, "head"))
    x = _head(x, Top(include_top, pooling, classes, classifier_activation))

    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, "efficientnet_lite0", width)
    return model


def _head(x: Tensor, top: Top) -> Tensor:
    if not top.include_top:
        return pooled(x, top.pooling)
    x = layers.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool")(x)
    x = layers.Dropout(0.2, name="drop")(x)
    return classifier(x, top.classes, top.activation, "classifier")
