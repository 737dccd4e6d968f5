"""What every network of the zoo does alike: its input, its width, its classifier head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import initializers, layers, ops

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.models.layers import Dense
from emotiw_keras.models.registry import LARGEST_WIDTH, get_spec

Tensor = Any
Shape = tuple[int | None, int | None, int]
"""(height, width, channels)"""
_EMPTY = ContextVar("empty", default=False)
# TensorFlow copies an array that does not start at a multiple of so many bytes.
ALIGNMENT = 64


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array of `shape`, all zeros, that `in_place` takes as it lies; the system gives it memory page by page as it is first
    written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    block = np.zeros(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)


def in_place(array: np.ndarray) -> Tensor:
    """An array of `zeros` as a tensor, on TensorFlow the same memory: fresh pages of AlexNet's size cost a quarter of a second.
    The array must not be written to any more."""
    if keras.backend.backend() != "tensorflow":
        return ops.convert_to_tensor(array)
    import tensorflow as tf

    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


@contextmanager
def empty_networks() -> Iterator[None]:
    """Networks built inside start from zeros that take no memory. For those alone whose every variable is filled next:
    drawing AlexNet's random values takes twice its memory."""
    token = _EMPTY.set(True)
    try:
        yield
    finally:
        _EMPTY.reset(token)


def _empty(shape: tuple[int, ...], dtype: Any) -> Tensor:
    return in_place(zeros(shape)) if dtype in (None, "float32") else ops.zeros(shape, dtype)


def fill(layer: keras.layers.Layer, kernel: np.ndarray, bias: np.ndarray | None) -> None:
    """Gives a convolution or a Dense layer its kernel and bias; with LoRA they are all that it computes with, as in a file."""
    layer.load_own_variables({"0": kernel} if bias is None else {"0": kernel, "1": bias})


@contextmanager
def computing_in(policy: str) -> Iterator[None]:
    """Networks built inside have this dtype policy; the one that was set comes back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@keras.saving.register_keras_serializable(package=PACKAGE)
class HeNormal(initializers.HeNormal):
    """Keras' `HeNormal`, or zeros within `empty_networks`."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        return _empty(shape, dtype) if _EMPTY.get() else super().__call__(shape, dtype)


@keras.saving.register_keras_serializable(package=PACKAGE)
class VarianceScaling(initializers.VarianceScaling):
    """Keras' `VarianceScaling`, or zeros within `empty_networks`."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        return _empty(shape, dtype) if _EMPTY.get() else super().__call__(shape, dtype)


@keras.saving.register_keras_serializable(package=PACKAGE)
class RandomNormal(initializers.RandomNormal):
    """Keras' `RandomNormal`, or zeros within `empty_networks`."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        return _empty(shape, dtype) if _EMPTY.get() else super().__call__(shape, dtype)


# Caffe's gaussian fillers (0.01, and 0.005 in fc6 and fc7) shrink the signal at every layer: they learn from a million
# images, but from thirty thousand the loss does not leave its plateau. He's keeps the signal's size through ReLUs.
# That holds for the input's size too: pixels of 0..255 reach fc8 some sixty times too large for a learning rate of
# 0.01, so training from random weights should divide them by about 64 (`std` in the preprocessing); ImageNet weights
# forbid that.
RELU: dict[str, Any] = {"activation": "relu", "kernel_initializer": f"{PACKAGE}>HeNormal"}


@dataclass(frozen=True)
class Top:
    """What stands on a trunk: fc6 to fc8 (include_top), or nothing but a pooling. Fields as in keras.applications."""

    include_top: bool = True
    pooling: str | None = None
    classes: int = 1000
    activation: Any = "softmax"


def classifier_kernel() -> initializers.Initializer:
    """Caffe's filler for a classifier, and for one made anew for fine-tuning (finetune_flickr_style): gaussian 0.01."""
    return RandomNormal(stddev=0.01)


def scaled(count: int, width: float, groups: int = 1) -> int:
    """`count` channels or units times `width`, rounded to a multiple of `groups`, at least `groups`."""
    return max(1, round(count * width / groups)) * groups


def image_input(
    model: str,
    input_tensor: Tensor | None,
    input_shape: Shape | None,
    smallest: int,
    width: float,
    include_top: bool,
) -> Tensor:
    """The input of a network, float (batch, height, width, channels) already normalised; of the network's own size and 3
    channels where no shape is given.

    Raises UsageError if width is not above 0 and at most LARGEST_WIDTH, ModelError if the image is smaller than `smallest` or
    not 3-D, or if with a classifier its height or width is None, which stands for any.
    """
    if not 0 < width <= LARGEST_WIDTH:
        raise UsageError(f"{model}: width is {width}, expected a multiplier above 0 and up to {LARGEST_WIDTH:g}, e.g. 0.1")
    if input_tensor is not None and not keras.backend.is_keras_tensor(input_tensor):
        kind = type(input_tensor).__name__
        raise ModelError(f"{model}: input_tensor is a {kind}, expected a keras.Input or a layer's output")
    side = get_spec(model).input_size
    shape = tuple(input_tensor.shape[1:]) if input_tensor is not None else tuple(input_shape or (side, side, 3))
    whole = [isinstance(size, int) and size >= 1 for size in shape]
    if len(shape) != 3 or not whole[2] or not all(ok or size is None for ok, size in zip(whole, shape, strict=True)):
        raise ModelError(f"{model}: input shape {shape}, expected (height, width, channels) in whole numbers")
    if include_top and None in shape:
        raise ModelError(f"{model}: input shape {shape} goes with include_top=False; give a height and width to the classifier")
    if min(size or smallest for size in shape[:2]) < smallest:
        raise ModelError(f"{model}: input {shape[0]}x{shape[1]} is too small, expected at least {smallest}x{smallest}")
    return input_tensor if input_tensor is not None else layers.Input(shape, name="image")


def pooled(x: Tensor, pooling: str | None) -> Tensor:
    """The output without a classifier: the maps as they are (None), or their mean or maximum: float (batch, channels).

    Raises UsageError for another word.
    """
    if pooling is None:
        return x
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(data_format="channels_last", name="avg_pool")(x)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(data_format="channels_last", name="max_pool")(x)
    raise UsageError(f"pooling is {pooling!r}, expected None, 'avg' or 'max'")


def classifier(x: Tensor, classes: int, activation: Any, name: str = "fc8") -> Tensor:
    """The classifier on units (batch, units): float32 (batch, classes), logits where `activation` is None.

    It computes in float32 under every policy: a softmax in half precision loses small probabilities.
    Raises UsageError if there is not at least one class.
    """
    if classes < 1:
        raise UsageError(f"classes is {classes}, expected at least 1")
    kernel = classifier_kernel()
    return layers.Dense(classes, activation=activation, kernel_initializer=kernel, dtype="float32", name=name)(x)


def head(x: Tensor, top: Top, fc6: int, fc7: int) -> Tensor:
    """fc6, drop6, fc7, drop7 and the classifier fc8 on the maps of the last pooling, or the maps pooled: see `Top`."""
    if not top.include_top:
        return pooled(x, top.pooling)
    x = layers.Flatten(data_format="channels_last", name="flatten")(x)
    x = Dense(fc6, name="fc6", **RELU)(x)
    x = layers.Dropout(0.5, name="drop6")(x)
    x = Dense(fc7, name="fc7", **RELU)(x)
    x = layers.Dropout(0.5, name="drop7")(x)
    return classifier(x, top.classes, top.activation)


def model_of(image: Tensor, output: Tensor, input_tensor: Tensor | None, name: str) -> keras.Model:
    """The functional model from `image`, or from what `input_tensor` was itself computed from, to `output`."""
    inputs = keras.utils.get_source_inputs(input_tensor) if input_tensor is not None else image
    if isinstance(inputs, list) and len(inputs) == 1:
        inputs = inputs[0]
    return keras.Model(inputs, output, name=name)
