"""A classifier that reads several layers of a network instead of its last one, as part of the network."""

from __future__ import annotations

import keras
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.models.originals.features import CONCATENATED, grid


def with_features(model: keras.Model, count: int) -> keras.Model:
    """The same network with a classifier that reads its last `count` activations, and what it has read so far, side by side.

    An activation is the output of a ReLU or of a layer with an activation of its own; where it has maps, these are averaged
    over the nine parts of a grid. On few images a linear classifier on these is worth more than one on the last layer alone,
    which the network's first task has shaped.

    The new classifier has the name, the activation and the precision of the old one. Its weights give what the old one gave:
    those of what that had read are taken, all others are zero. A network whose classifier is new anyway gets zeros throughout
    if `model` was built without weights.

    Args:
        model: functional, its classifier the last layer with weights, a Dense layer that reads (batch, units).
        count: how many, at least 1; a network that has fewer is read at all of them.

    Returns:
        A network of the same layers and variables, the classifier's apart.

    Raises:
        ModelError: a network that ends otherwise.

    Example:
        >>> from emotiw_keras.models import FaceVGG
        >>> net = with_features(FaceVGG(weights=None, classes=7, width=0.25), 5)
        >>> tuple(net.get_layer("classifier").kernel.shape)    # 9 * (32 + 32 + 64 + 64 + 64), and the 64 it has read so far
        (2368, 7)
    """
    old = classifier_of(model)
    read = _before_dropout(old.input)
    before = model.layers[: model.layers.index(old)]
    taps = [layer for layer in before if _activates(layer) and layer.output is not read][-count:]
    joined = keras.layers.Concatenate(name=CONCATENATED)([*map(_parts, taps), read]) if taps else read
    config = {**old.get_config(), "kernel_initializer": "zeros"}
    new = type(old).from_config(config)
    net = keras.Model(model.inputs[0], new(joined), name=model.name)
    net.dtype_policy = model.dtype_policy
    new.set_weights(wider(old.get_weights(), new.kernel.shape[0]))
    return net


def classifier_of(model: keras.Model) -> keras.layers.Dense:
    """The classifier of a network whose last layer with weights is a Dense layer that ends it.

    Raises:
        ModelError: it ends otherwise.
    """
    last = next((layer for layer in reversed(model.layers) if layer.weights), None)
    if not isinstance(last, keras.layers.Dense) or last.output is not model.outputs[0] or len(last.input.shape) != 2:
        found = "nothing" if last is None else f"{last.name} ({type(last).__name__})"
        raise ModelError(
            f"{model.name} ends with {found}; a head on features needs a Dense layer that reads (batch, units): set "
            "model.features = 0, and kind = 'gradient' in stages of kind 'head'"
        )
    return last


def wider(weights: list[np.ndarray], rows: int) -> list[np.ndarray]:
    """The weights of a classifier for one that reads more: zeros for what stands before what it had read."""
    kernel, *bias = weights
    return [np.concatenate([np.zeros((rows - len(kernel), kernel.shape[1]), kernel.dtype), kernel]), *bias]


def _before_dropout(tensor: keras.KerasTensor) -> keras.KerasTensor:
    while isinstance(tensor._keras_history.operation, keras.layers.Dropout):
        tensor = tensor._keras_history.operation.input
    return tensor


def _activates(layer: keras.layers.Layer) -> bool:
    """Whether a layer ends in something that is not linear."""
    if isinstance(layer, keras.layers.Activation | keras.layers.ReLU | keras.layers.LeakyReLU | keras.layers.PReLU):
        return len(layer.output.shape) in (2, 4)
    activation = getattr(layer, "activation", None)
    return activation not in (None, keras.activations.linear) and len(layer.output.shape) in (2, 4)


def _parts(layer: keras.layers.Layer) -> keras.KerasTensor:
    """An activation as (batch, units): maps by their means over the parts of a grid, which cover the whole of them."""
    shape = layer.output.shape
    if len(shape) == 2:
        return layer.output
    sizes, strides = zip(*map(grid, shape[1:3]), strict=True)
    pool = keras.layers.AveragePooling2D(sizes, strides, data_format="channels_last", name=f"{layer.name}_grid")
    return keras.layers.Flatten(data_format="channels_last", name=f"{layer.name}_parts")(pool(layer.output))
