"""Arrays of a foreign file in the layout and the sizes of Keras' variables. It needs no Keras."""

from __future__ import annotations

import numpy as np

from emotiw_keras.conversion.matching import Match
from emotiw_keras.errors import ModelError
from emotiw_keras.formats import layout as change
from emotiw_keras.formats.foreign import Foreign, Layout


def layout_of(foreign: Foreign, first: Match) -> Layout:
    """The layout of the file's kernels: as its format has it, else as the shape of the first kernel tells."""
    if foreign.layout is not None:
        return foreign.layout
    shape = foreign.arrays[first.weight].shape
    oihw = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
    hwio = len(shape) == 4 and shape[2] in (1, 3) and shape[0] == shape[1]
    if oihw == hwio:
        raise ModelError(
            f"{foreign.path.name}: {first.weight} has the shape {shape}; expected (filters, 1 or 3, size, size) or "
            "(size, size, 1 or 3, filters), and not both at once"
        )
    return "oihw" if oihw else "hwio"


def to_keras(
    match: Match, foreign: Foreign, layout: Layout, wanted: tuple[int, ...], maps: tuple[int, ...] | None
) -> np.ndarray:
    """The weight of `match` as a Keras kernel of shape `wanted`, a view where the layout allows.

    `maps` is the (height, width, channels) that a first fully connected layer flattens, None for every other layer.
    Raises ModelError if the shapes cannot agree.
    """
    array = foreign.arrays[match.weight]
    node = next((n for n in foreign.nodes or () if match.weight in n.arrays), None)
    if len(wanted) == 2 and array.ndim == 4:
        kernel = array if layout == "hwio" else change.kernel_to_hwio(array)
        result = change.kernel_to_dense(kernel) if kernel.shape[:3] == (maps or (1, 1, wanted[0])) else kernel
    elif array.ndim == 4:
        result = array if layout == "hwio" else change.kernel_to_hwio(array)
    elif array.ndim == 2 and len(wanted) == 4:
        # a fully connected layer in place of a convolution of one place
        stored_io = layout == "hwio" or (node is not None and node.attrs.get("layout") == "io")
        result = (array if stored_io else array.T)[None, None]
    elif array.ndim == 2 and layout == "oihw":
        weight = array.T if node is not None and node.attrs.get("layout") == "io" else array
        fits = maps is not None and weight.shape[1] == np.prod(maps)
        result = change.flat_chw_to_hwc(weight, (maps[0], maps[1], maps[2])) if maps and fits else change.dense_to_io(weight)
    else:
        result = array
    if result.shape != wanted:
        raise ModelError(
            f"{foreign.path.name}: {match.weight} has the shape {array.shape} ({layout}), which does not give {match.ours}'s "
            f"kernel of {wanted}; it belongs to another network, width or number of classes"
        )
    return result


def normalisation_to_keras(match: Match, foreign: Foreign, channels: int, epsilon: float) -> list[np.ndarray]:
    """gamma, beta, mean and variance, float64 (channels,) each, of our normalisation with its own `epsilon`.

    Caffe keeps sums and what to divide them by; MatConvNet the root of variance and epsilon together, so that the variance
    that is left here can be below zero by rounding. A bias before the normalisation is taken off the mean.
    Raises ModelError if an array is of another size.
    """
    norm = match.normalisation
    assert norm is not None

    def values(key: str) -> np.ndarray:
        array = np.asarray(foreign.arrays[key], np.float64).reshape(-1)
        if array.size != channels:
            raise ModelError(f"{foreign.path.name}: {key} has {array.size} values, expected {channels}")
        return array

    divisor = float(np.asarray(foreign.arrays[norm.factor]).reshape(-1)[0]) if norm.factor else 1.0
    factor = 1 / divisor if divisor else 0.0  # batch_norm_layer.cpp
    mean = np.zeros(channels) if norm.mean is None else values(norm.mean) * factor
    variance = np.ones(channels) if norm.variance is None else values(norm.variance) * factor
    variance = variance + (norm.epsilon - epsilon)
    if match.bias is not None:
        mean = mean - values(match.bias)
    gamma, beta = np.ones(channels), np.zeros(channels)
    for scale, offset in norm.scales:
        gamma, beta = gamma * values(scale), beta * values(scale) + (0.0 if offset is None else values(offset))
    return [gamma, beta, mean, variance]
