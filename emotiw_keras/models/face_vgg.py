"""FaceVGG: a small plain network of 3x3 convolutions for single grey faces of 48x48, the size of FER-2013.

Four levels of 48x48, 24x24, 12x12 and 6x6 with two or three 3x3 convolutions each, batch normalisation and ReLU behind each of
them and maximum pooling between the levels (Simonyan and Zisserman 2015, arXiv:1409.1556), then the mean over the maps, dropout
and a classifier. Two layers look at the whole image before anything of it is thrown away: 160 million multiplications a face.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from emotiw_keras.errors import UsageError
from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.layers import BatchNormalization, Conv2D
from emotiw_keras.models.parts import (
    Shape,
    Tensor,
    Top,
    classifier_kernel,
    image_input,
    model_of,
    pooled,
    scaled,
)
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing
from emotiw_keras.models.registry import FACE_VGG_EPSILON, FACE_VGG_LEVELS

__all__ = ["SMALLEST", "FaceVGG", "decode_predictions", "preprocess_input"]

preprocess_input = preprocessing("face_vgg")

SMALLEST = 8
"""The smallest image it takes: every level halves it."""
DROPOUT = 0.3


FOREIGN_NAMES: tuple[dict[str, str], ...] = ()


def _convolved(x: Tensor, filters: int, name: str) -> Tensor:
    """A 3x3 convolution without bias, which the normalisation behind it has, that normalisation and ReLU."""
    x = Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        kernel_initializer=f"{PACKAGE}>HeNormal",
        name=name,
    )(x)
    return layers.ReLU(name=f"{name}_relu")(BatchNormalization(momentum=0.9, epsilon=FACE_VGG_EPSILON, name=f"{name}_bn")(x))


def FaceVGG(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "face_vgg",
    width: float = 1.0,
) -> keras.Model:
    """FaceVGG: 1.92 million parameters, 160 million multiplications for a face of 48x48.

    Args:
        include_top: with the mean over the image, dropout and the classifier; without them the output is float (batch, 6,
            6, 256).
        weights: None (random), or the path of a `.weights.h5` file that fits in every layer. There are none from ImageNet.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 8x8; (48, 48, 1) if None. Without the top height and
            width may be None, for any.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of the classifier.
        classifier_activation: "softmax", or None for logits.
        name: the model's name.
        width: multiplier of channels.

    Input: float (batch, height, width, channels), 0..255 minus the mean, divided by the deviation (`preprocess_input`). Output:
    float32 (batch, classes). Raises ModelError for weights that are missing or do not fit and for too small an image.

    Example:
        >>> FaceVGG(weights=None, classes=7, width=0.25).output_shape
        (None, 7)
    """
    stored.find(weights, "face_vgg")  # before anything is built
    x = image = image_input("face_vgg", input_tensor, input_shape or (48, 48, 1), SMALLEST, width, include_top)
    for level, (channels, convolutions) in enumerate(FACE_VGG_LEVELS, 1):
        if level > 1:
            x = layers.MaxPooling2D(data_format="channels_last", name=f"pool{level - 1}")(x)
        for number in range(1, convolutions + 1):
            x = _convolved(x, scaled(channels, width), f"conv{level}_{number}")
    x = _head(x, Top(include_top, pooling, classes, classifier_activation))
    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, "face_vgg", width)
    return model


def _head(x: Tensor, top: Top) -> Tensor:
    if not top.include_top:
        return pooled(x, top.pooling)
    if top.classes < 1:
        raise UsageError(f"classes is {top.classes}, expected at least 1")
    x = layers.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool")(x)
    x = layers.Dropout(DROPOUT, name="drop")(x)
    return layers.Dense(
        top.classes, activation=top.activation, kernel_initializer=classifier_kernel(), dtype="float32", name="classifier"
    )(x)
