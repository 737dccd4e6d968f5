"""A network for colour images that only ever sees grey ones, as one that takes a single channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from emotiw_keras import config
from emotiw_keras.errors import ModelError
from emotiw_keras.models.kernels import space_to_depth
from emotiw_keras.models.layers import Tensor
from emotiw_keras.models.parts import fill


def fold_to_grey(model: keras.Model, mean: Sequence[float], std: Sequence[float] = (1.0, 1.0, 1.0)) -> keras.Model:
    """The same network with one input channel, equal on grey images; its first convolution does a third of the work.

    A grey image reaches `model` as three channels `(grey - mean[c]) / std[c]`. The first kernel is summed over them, and
    what their means differ by goes into the bias. The new network takes the first of these channels alone,
    `(grey - mean[0]) / std[0]`: what `FaceInput` gives with the same mean and std and `input_channels=1`.

    Args:
        model: a network with one input, float (batch, height, width, 3), and a convolution first; left as it is.
        mean: three numbers, in the order of the model's channels: those its images were normalised with.
        std: three numbers above 0, likewise.

    Returns a new model, float (batch, height, width, 1) to the same outputs, with copies of the weights, and layers of the
    same names: its weight file fits the network built for one channel.

    Raises ModelError if the model begins otherwise, or if its first convolution pads with zeros while the channel means
    differ: a zero at the border then stands for three grey levels at once, which no single channel can give. Networks
    normalised by a mean image whose channels differ from place to place cannot be folded for the same reason.

    Example:
        >>> from emotiw_keras.models import build, get_spec
        >>> model = build("alexnet", weights=None, classes=7, input_shape=(67, 67, 3), width=0.1)
        >>> fold_to_grey(model, get_spec("alexnet").mean).input_shape
        (None, 67, 67, 1)
    """
    means, spreads = np.asarray(mean, "float64"), np.asarray(std, "float64")
    if means.shape != (3,) or spreads.shape != (3,) or not np.isfinite(means).all() or not (spreads > 0).all():
        raise ModelError(f"{model.name}: mean {mean} and std {std}, expected three numbers each, std above 0")
    firsts = first_convolutions(model)
    folded = {first.name: _folded(model.name, first, means, spreads) for first in firsts}

    image = keras.layers.Input((*model.input_shape[1:3], 1), name=model.inputs[0].name)
    grey = keras.models.clone_model(model, input_tensors=image)
    for old, new in zip(model.layers, grey.layers, strict=True):
        if old.weights and old.name not in folded:
            new.set_weights(old.get_weights())
    for name, (kernel, bias) in folded.items():
        fill(grey.get_layer(name), kernel, bias)
    return grey


def first_convolutions(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that take the model's three channels: convolutions, one or several side by side.

    Raises ModelError if there are none, or other layers among them.
    """
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[-1] != 3:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        raise ModelError(
            f"{model.name} takes {shapes}; only a network of one input (batch, height, width, 3) is folded to grey"
        )
    takers = [
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
        and any(tensor is model.inputs[0] for tensor in keras.tree.flatten(layer.input))
    ]
    if not takers or not all(isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == 3 for layer in takers):
        found = " and ".join(f"{layer.name} ({type(layer).__name__})" for layer in takers) or "nothing"
        raise ModelError(
            f"{model.name} gives its input to {found}; only a network whose first layer is a convolution over all three "
            "channels is folded to grey"
        )
    return takers


def _folded(name: str, first: keras.layers.Layer, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel (height, width, 1, out) and bias (out,), or None where there is none, of the convolution over one channel."""
    same_means = (mean == mean[0]).all()
    padded = first.padding != "valid" if isinstance(first.padding, str) else any(map(any, first.padding))
    if padded and not same_means:
        means = ", ".join(f"{value:g}" for value in mean)
        raise ModelError(
            f"{name}: {first.name} pads with zeros, which stand for other grey levels in each channel as the means differ "
            f"({means}): no network of one channel gives the same; keep three channels, or fine-tune with equal means"
        )
    kernel = keras.ops.convert_to_numpy(first.kernel).astype("float64")
    summed = (kernel * (std[0] / std)[:, None]).sum(axis=2, keepdims=True)
    bias = None if first.bias is None else keras.ops.convert_to_numpy(first.bias).astype("float64")
    if not same_means:
        if bias is None:
            raise ModelError(f"{name}: {first.name} has no bias to hold what the channel means differ by; give it one")
        bias = bias + (kernel.sum(axis=(0, 1)) * ((mean[0] - mean) / std)[:, None]).sum(axis=0)
    return summed.astype("float32"), None if bias is None else bias.astype("float32")


class GreyStart(keras.layers.Layer):
    """The first convolution of a colour network on grey images, with that layer's own variables: they train as they would.

    The three channels of a grey image are `(grey - mean[c]) / std[c]`: one is enough, and the kernel is summed. Automatic
    differentiation goes back through the sum, so that each channel of the kernel gets the gradient it would have had.

    Input: float (batch, height, width, 1), the first of the channels. Output: what `first` makes of all three.
    """

    def __init__(self, first: keras.layers.Layer, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        # The sums are float32 under every policy, as the variables are.
        super().__init__(dtype=first.dtype_policy, autocast=False, **kwargs)
        self.first = first
        spreads, means = np.asarray(std, "float64"), np.asarray(mean, "float64")
        self._share = (spreads[0] / spreads).astype("float32")[:, None]
        self._shift = ((means[0] - means) / spreads).astype("float32")[:, None]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        first = self.first
        kernel = ops.convert_to_tensor(first.kernel)
        summed = ops.cast(ops.sum(kernel * self._share, axis=2, keepdims=True), self.compute_dtype)
        x = ops.cast(inputs, self.compute_dtype)
        if first.trainable and space_to_depth.suits(x, summed, first.strides, "valid", bool(training)):
            y = space_to_depth.convolve(x, summed, first.strides[0])
        else:
            y = ops.conv(x, summed, strides=first.strides, padding="valid", data_format="channels_last")
        bias = ops.convert_to_tensor(first.bias) + ops.sum(kernel * self._shift, axis=(0, 1, 2))
        return first.activation(ops.add(y, ops.cast(bias, self.compute_dtype)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.first.compute_output_shape((*input_shape[:3], 3))


def grey_twin(model: keras.Model, mean: Sequence[float], std: Sequence[float] = (1.0, 1.0, 1.0)) -> keras.Model | None:
    """`model` for grey images of one channel, with the layers and variables of `model` itself; None where that cannot be,
    or fast kernels are switched off.

    To train: an update of the twin's variables is one of the model's. The twin's input is that of `fold_to_grey`, its outputs
    are equal on grey images, and its first convolution does a third of the work, forward and backward.

    Args:
        model: a network with one input, float (batch, height, width, 3), and a convolution with a bias and no padding first.
        mean, std: as for `fold_to_grey`.

    Example:
        >>> from emotiw_keras.models import build, get_spec
        >>> model = build("alexnet", weights=None, classes=7, input_shape=(67, 67, 3), width=0.1)
        >>> twin = grey_twin(model, get_spec("alexnet").mean)
        >>> twin.input_shape, twin.trainable_variables[0] is model.trainable_variables[0]
        ((None, 67, 67, 1), True)
    """
    if not config.fast_kernels():
        return None
    try:
        first, *others = first_convolutions(model)
        _folded(model.name, first, np.asarray(mean, "float64"), np.asarray(std, "float64"))
    except ModelError:
        return None
    padded = first.padding != "valid" if isinstance(first.padding, str) else any(map(any, first.padding))
    if others or padded or first.bias is None or first.groups != 1 or first.dilation_rate != (1, 1):
        return None
    if first.activity_regularizer is not None:  # which its own call adds, and that of `GreyStart` would not
        return None
    image = keras.layers.Input((*model.input_shape[1:3], 1), name=model.inputs[0].name)
    maps = GreyStart(first, mean, std, name=f"grey_{first.name}")(image)
    if model.outputs[0] is not first.output:
        rest = keras.Model(first.output, model.outputs[0], name="rest")
        rest.dtype_policy = model.dtype_policy
        # whoever asks the last layer whether it gives logits is told what the model's own would say
        rest.activation = getattr(model.layers[-1], "activation", None)
        maps = rest(maps)
    return keras.Model(image, maps, name=model.name)
