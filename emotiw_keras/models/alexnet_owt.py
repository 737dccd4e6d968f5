"""AlexNet of "One weird trick" (Krizhevsky 2014), as torchvision has it: no normalisation, no groups.

It takes RGB images of 224x224, normalised by ImageNet's mean and standard deviation (torchvision's, times 255).
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import layers

from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import Dense, GroupedConv2D
from emotiw_keras.models.parts import RELU, Shape, Tensor, classifier, image_input, model_of, pooled, scaled
from emotiw_keras.models.pooling import AdaptiveMeanPooling2D
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing
from emotiw_keras.models.registry import LAYERS

__all__ = ["AlexNetOWT", "decode_predictions", "preprocess_input"]

SMALLEST = 63
preprocess_input = preprocessing("alexnet_owt")

# torchvision numbers the modules of its two sequences.
TORCHVISION = (*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6)))
FOREIGN_NAMES = (dict(zip(LAYERS, TORCHVISION, strict=True)),)


def _conv(filters: int, size: int, stride: int, padding: int, name: str) -> GroupedConv2D:
    # Padding in numbers: with stride 4, Keras' "same" would pad 224 by 3 and 4 where torchvision pads 2 and 2.
    return GroupedConv2D(filters, size, strides=stride, padding=padding, name=name, **RELU)


def _pool(name: str) -> layers.MaxPooling2D:
    return layers.MaxPooling2D(3, 2, data_format="channels_last", name=name)


def AlexNetOWT(
    include_top: bool = True,
    weights: Any = "imagenet",
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "alexnet_owt",
    width: float = 1.0,
) -> keras.Model:
    """AlexNet as in torchvision. 61,100,840 parameters.

    Arguments and errors as for `AlexNet`; input_shape is (224, 224, 3) if None, at least 63x63. Without the top the
    output is pool5, float (batch, 6, 6, 256) at 224. With it, the maps are averaged to 6x6 whatever their size.

    Input: float (batch, height, width, channels), RGB, normalised (`preprocess_input`). Output: float32
    (batch, classes).

    Source: Krizhevsky 2014, arXiv:1404.5997; torchvision `models/alexnet.py`, which starts conv1 at 64 channels.
    """
    stored.find(weights, "alexnet_owt")  # before anything large is built
    image = image_input("alexnet_owt", input_tensor, input_shape, SMALLEST, width, include_top)
    scale = functools.partial(scaled, width=width)

    x = _conv(scale(64), 11, 4, 2, "conv1")(image)
    x = _pool("pool1")(x)
    x = _conv(scale(192), 5, 1, 2, "conv2")(x)
    x = _pool("pool2")(x)
    x = _conv(scale(384), 3, 1, 1, "conv3")(x)
    x = _conv(scale(256), 3, 1, 1, "conv4")(x)
    x = _conv(scale(256), 3, 1, 1, "conv5")(x)
    x = _pool("pool5")(x)
    if include_top:
        x = AdaptiveMeanPooling2D(6, name="avg_pool")(x)
        x = layers.Flatten(data_format="channels_last", name="flatten")(x)
        x = layers.Dropout(0.5, name="drop6")(x)
        x = Dense(scale(4096), name="fc6", **RELU)(x)
        x = layers.Dropout(0.5, name="drop7")(x)
        x = Dense(scale(4096), name="fc7", **RELU)(x)
        x = classifier(x, classes, classifier_activation)
    else:
        x = pooled(x, pooling)

    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, "alexnet_owt", width)
    return model
