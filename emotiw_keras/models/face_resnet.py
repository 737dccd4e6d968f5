"""FaceResNet: a small residual network for single grey faces of 48x48, the size of FER-2013.

A first convolution that halves the picture, then three levels of 24x24, 12x12 and 6x6 with residual blocks of two 3x3
convolutions (He et al. 2016, arXiv:1512.03385, in their order: convolution, batch normalisation, ReLU), the mean over the maps,
dropout and a classifier. Sized for a laptop's processor: 93 million multiplications a face.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from emotiw_keras.errors import UsageError
from emotiw_keras.models import weights as stored
from emotiw_keras.models.layers import BatchNormalization, Conv2D
from emotiw_keras.models.parts import PACKAGE, Shape, Tensor, Top, classifier_kernel, image_input, model_of, pooled, scaled
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing
from emotiw_keras.models.registry import FACE_RESNET_BLOCKS

__all__ = ["SMALLEST", "FaceResNet", "decode_predictions", "preprocess_input"]

preprocess_input = preprocessing("face_resnet")

SMALLEST = 8
"""The smallest picture it takes: every level halves it."""
CHANNELS = (32, 96, 192)
DROPOUT = 0.3


def _conv(x: Tensor, filters: int, size: int, stride: int, name: str) -> Tensor:
    """A convolution without bias, which the normalisation behind it has, and that normalisation."""
    x = Conv2D(
        filters,
        size,
        stride,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        kernel_initializer=f"{PACKAGE}>HeNormal",
        name=name,
    )(x)
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _block(x: Tensor, filters: int, name: str) -> Tensor:
    y = layers.ReLU(name=f"{name}_relu1")(_conv(x, filters, 3, 1, f"{name}_conv1"))
    y = _conv(y, filters, 3, 1, f"{name}_conv2")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, y]))


def FaceResNet(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "face_resnet",
    width: float = 1.0,
) -> keras.Model:
    """FaceResNet: 1.21 million parameters, 93 million multiplications for a face of 48x48.

    Args:
        include_top: with the mean over the picture, dropout and the classifier; without them the output is float (batch, 6,
            6, 192).
        weights: None (random), or the path of a `.weights.h5` file that fits in every layer. There are none from ImageNet.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels), at least 8x8; (48, 48, 1) if None.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of the classifier.
        classifier_activation: "softmax", or None for logits.
        name: the model's name.
        width: multiplier of channels.

    Input: float (batch, height, width, channels), 0..255 minus the mean, divided by the deviation (`preprocess_input`). Output:
    float32 (batch, classes). Raises ModelError for weights that are missing or do not fit and for too small a picture.

    Example:
        >>> FaceResNet(weights=None, classes=7, width=0.25).output_shape
        (None, 7)
    """
    stored.find(weights, "face_resnet")  # before anything is built
    image = image_input("face_resnet", input_tensor, input_shape or (48, 48, 1), 48, SMALLEST, width)
    x = layers.ReLU(name="conv1_relu")(_conv(image, scaled(CHANNELS[0], width), 5, 2, "conv1"))
    for level, (channels, blocks) in enumerate(zip(CHANNELS, FACE_RESNET_BLOCKS, strict=True), 1):
        filters = scaled(channels, width)
        if level > 1:
            x = layers.ReLU(name=f"down{level}_relu")(_conv(x, filters, 3, 2, f"down{level}"))
        for number in range(1, blocks + 1):
            x = _block(x, filters, f"level{level}_block{number}")
    x = _head(x, Top(include_top, pooling, classes, classifier_activation))
    model = model_of(image, x, input_tensor, name)
    shape = tuple(image.shape[1:])
    stored.load(model, weights, "face_resnet", lambda: FaceResNet(weights=None, input_shape=shape, width=width))
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
