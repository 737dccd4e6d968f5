"""A run's network with what is constant computed once: grey, channel order, mean and deviation in the first convolution."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.models.grey_folding import fold_to_grey
from emotiw_keras.models.layers import GroupedConv2D
from emotiw_keras.models.normalisations import fold_normalisations
from emotiw_keras.models.parts import empty_networks

if TYPE_CHECKING:
    from emotiw_keras.data.face_input import FaceInput


ONLY = "only a network whose first layer is a convolution is exported so"


@dataclass(frozen=True)
class Folded:
    """The network and the steps that remain before it, in this order: stretch, crop, subtract.

    Attributes:
        net: float (batch, crop, crop, 1 or 3), RGB -> probabilities (batch, classes); a copy.
        side: pixels a side of the face that comes in, uint8 (batch, side, side, channels).
        channels: 1 (grey) or 3 (RGB).
        start: first row and column of the crop.
        crop: pixels a side of the network's input.
        min_max: whether each face is stretched to 0..255 before the crop.
        subtract: float32 (crop, crop, 1 or 3) or (1, 1, 1 or 3), or None where nothing is left to subtract.
    """

    net: keras.Model
    side: int
    channels: int
    start: int
    crop: int
    min_max: bool
    subtract: np.ndarray | None


def fold(net: keras.Model, face_input: FaceInput) -> Folded:
    """Move what `face_input` does into the first convolution wherever that is exact; `net` is left as it is.

    Batch normalisations go into the convolutions before them; a first convolution without a bias gets one.
    A network for colour that is given grey faces gets one channel. Red and blue change places in the kernel. The deviation
    divides the kernel. The mean goes into the bias, but not where zeros are put around the image: they stand for the mean,
    which a bias cannot give. A mean image always stays, being different from place to place.

    Args:
        net: float (batch, crop, crop, input channels) in the order of `face_input` -> probabilities.
        face_input: the layer that prepares faces for it, which the centre crop is taken from.

    Raises:
        ModelError: the network does not begin with a convolution.

    Example:
        >>> folded = fold(predictor.net, predictor.face_input)                 # doctest: +SKIP
        >>> folded.net.input_shape, folded.subtract                            # doctest: +SKIP
        ((None, 227, 227, 1), None)
    """
    grey = face_input.channels == "grey"
    mean, std, image = np.array(face_input.mean), np.array(face_input.std), _cropped_mean(face_input)
    net = fold_normalisations(_unnested(net))
    firsts = _first_layers(net)
    for first in firsts:
        if not isinstance(first, (keras.layers.Conv2D, GroupedConv2D)) or first.groups != 1:
            found = f"{first.name} ({type(first).__name__})"
            raise ModelError(f"{net.name} begins with {found}; {ONLY}")
    if firsts[0].input is not net.inputs[0]:  # `x + 3` is no layer
        for step in net.operations[: net.operations.index(firsts[0])]:
            if not isinstance(step, keras.layers.Layer):
                raise ModelError(f"{net.name} begins with {step.name} ({type(step).__name__}); {ONLY}")
    pads = [first.padding for first in firsts]
    before = net.layers[: net.layers.index(firsts[0])]
    around = any(isinstance(layer, keras.layers.ZeroPadding2D) for layer in before)
    padded = around or any(pad != "valid" if isinstance(pad, str) else any(map(any, pad)) for pad in pads)
    if grey and len(mean) == 3 and image is None and not (around or (padded and len(set(mean)) > 1)):
        copy = fold_to_grey(net, face_input.mean, face_input.std)
        mean, std = mean[:1], std[:1]
    else:
        with empty_networks():
            copy = keras.models.clone_model(net)
        copy.set_weights(net.get_weights())
    turned = not grey and face_input.channel_order == "bgr"
    if turned:
        mean, std = mean[::-1], std[::-1]
        image = None if image is None else image[..., ::-1]
    spread = grey and copy.input_shape[-1] == 3  # zeros are enough to make three channels of one
    subtract = image if image is not None else mean[None, None] if padded and (mean.any() or spread) else None
    for first in (copy.get_layer(layer.name) for layer in firsts):
        kernel, bias = (value.astype(np.float64) for value in first.get_weights())
        kernel = (kernel[:, :, ::-1] if turned else kernel) / std[:, None]
        if subtract is None:
            bias = bias - np.einsum("hwio,i->o", kernel, mean)
        first.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return Folded(
        net=copy,
        side=face_input.resize,
        channels=1 if grey else 3,
        start=face_input.room // 2,
        crop=face_input.crop,
        min_max=face_input.min_max,
        subtract=None if subtract is None else np.ascontiguousarray(subtract, np.float32),
    )


def _unnested(net: keras.Model) -> keras.Model:
    """The same network with the layers of each `Sequential` in its place, as those of ConvNeXt; itself where it is none and has
    none."""
    if isinstance(net, keras.Sequential):
        net = keras.Model(net.inputs, net.outputs, name=net.name)
    if not any(isinstance(layer, keras.Sequential) for layer in net.layers):
        return net
    names = {step.name for step in net.operations}
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Sequential):
            return layer
        copy = layer.__class__.from_config(layer.get_config())
        pairs.append((layer, copy))
        return copy

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.Sequential):
            return layer(*args, **kwargs)
        return functools.reduce(lambda x, within: call(inner(within), x), layer.layers, *args)

    def inner(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = clone(layer)
        if copy is not layer:
            copy.name = next(name for name in _numbered(copy.name) if name not in names)
            names.add(copy.name)
        return copy

    with empty_networks():
        flat = keras.models.clone_model(net, clone_function=clone, call_function=call)
    for layer, copy in pairs:
        if getattr(layer, "weights", ()):  # `x + 3` has none
            copy.set_weights(layer.get_weights())
    return flat


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(1))


def _first_layers(net: keras.Model) -> list[keras.layers.Layer]:
    """The first layer with weights; where it takes the image itself, every layer that does."""
    weighted = [layer for layer in net.layers if layer.weights]
    if not weighted:
        raise ModelError(f"{net.name} begins with nothing; {ONLY}")
    takers = [step for step in net.operations[1:] if any(tensor is net.inputs[0] for tensor in keras.tree.flatten(step.input))]
    return takers if weighted[0] in takers else weighted[:1]


def _cropped_mean(face_input: FaceInput) -> np.ndarray | None:
    """The mean image under the centre crop, float32 (crop, crop, channels)."""
    image, start = face_input.mean_image, face_input.room // 2
    if image is None or face_input.mean_image_at == "crop":
        return image
    return image[start : start + face_input.crop, start : start + face_input.crop]
