"""Batch normalisation computed into the layer before it: what is constant in a finished network need not be repeated."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np

from emotiw_keras.models.parts import empty_networks, fill

LINEAR = (keras.layers.Conv2D, keras.layers.Dense)
"""Layers that are a kernel, a bias and an activation."""


def fold_normalisations(net: keras.Model) -> keras.Model:
    """The same network, its first convolution with a bias, and without the batch normalisations that need not be there.

    A BatchNormalization scales and shifts each channel by constants. After a convolution or a Dense layer without activation,
    whose output nothing else reads, it is as exact in that layer's kernel and bias. One that stands elsewhere stays.

    Args:
        net: a functional network, each of its layers called once; left as it is.

    Returns:
        A copy, whose layers keep their names and whose outputs differ by rounding only; or `net` itself where there is
        nothing to fold.

    Source: Ioffe and Szegedy 2015, algorithm 2.

    Example:
        >>> image = keras.Input((9, 9, 3))
        >>> maps = keras.layers.Conv2D(2, 3, use_bias=False)(image)
        >>> net = keras.Model(image, keras.layers.BatchNormalization()(maps))
        >>> [type(layer).__name__ for layer in fold_normalisations(net).layers]
        ['InputLayer', 'Conv2D']
    """
    folded = _foldable(net)
    first = next((layer for layer in net.layers if layer.weights), None)
    biased = {layer.name for layer in folded}
    if isinstance(first, keras.layers.Conv2D) and not first.use_bias:
        biased.add(first.name)
    if not biased:
        return net
    gone = {normalisation.name for normalisation in folded.values()}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "use_bias": True} if layer.name in biased else config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    with empty_networks():
        copy = keras.models.clone_model(net, clone_function=clone, call_function=call)
    for layer in net.layers:
        if layer.weights and layer.name not in gone:
            if layer.name in biased:
                fill(copy.get_layer(layer.name), *_folded(layer, folded.get(layer)))
            else:
                copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _foldable(net: keras.Model) -> dict[keras.layers.Layer, keras.layers.BatchNormalization]:
    """Layers with a kernel, each with the normalisation that goes into it."""
    computing = [layer for layer in net.layers if not isinstance(layer, keras.layers.InputLayer)]
    readers = Counter(id(tensor) for layer in computing for tensor in keras.tree.flatten(layer.input))
    readers.update(id(tensor) for tensor in net.outputs)
    # The whole numbers of a quantised kernel are no kernel that factors could go into.
    source = {id(layer.output): layer for layer in computing if isinstance(layer, LINEAR) and layer.quantization_mode is None}
    found = {}
    for layer in computing:
        if not isinstance(layer, keras.layers.BatchNormalization) or layer.axis not in (-1, len(layer.input.shape) - 1):
            continue
        before = source.get(id(layer.input))
        if before is None or readers[id(layer.input)] != 1 or before.activation is not keras.activations.linear:
            continue
        if getattr(before, "data_format", "channels_last") == "channels_last":
            found[before] = layer
    return found


def _folded(layer: Any, normalisation: keras.layers.BatchNormalization | None) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, those of `normalisation` within."""
    kernel, bias = _values(layer.kernel, 1.0), _values(layer.bias, 0.0)
    bias = np.broadcast_to(bias, kernel.shape[-1:])
    if normalisation is not None:
        factor, offset = scale_and_shift(normalisation)
        kernel, bias = kernel * factor, bias * factor + offset
    return kernel.astype(np.float32), bias.astype(np.float32)


def scale_and_shift(normalisation: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """float64 (channels,) twice: a finished normalisation is `factor * x + offset`."""
    gamma, beta = _values(normalisation.gamma, 1.0), _values(normalisation.beta, 0.0)
    mean, variance = _values(normalisation.moving_mean, 0.0), _values(normalisation.moving_variance, 1.0)
    factor = gamma / np.sqrt(variance + normalisation.epsilon)
    return factor, beta - mean * factor


def _values(variable: keras.Variable | None, default: float) -> np.ndarray:
    return np.array(default) if variable is None else keras.ops.convert_to_numpy(variable).astype(np.float64)
