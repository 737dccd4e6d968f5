"""One head of a network that has several, or all of them by name, as a network of its own on the same trunk."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from emotiw_keras.heads import Head
from emotiw_keras.models.features import classifier_of


def one_head(model: keras.Model, head: Head) -> keras.Model:
    """A network that gives the probabilities of one head.

    Args:
        model: returns the logits of all heads side by side, by a Dense layer that ends it.
        head: which.

    Returns:
        A network of the same layers and variables, the classifier's apart: float32 (batch, classes of the head).

    Raises:
        ModelError: a network that ends otherwise.
    """
    return _answering(model, [head], [classifier_of(model).name])


def all_heads(model: keras.Model, heads: Sequence[Head], first: str) -> keras.Model:
    """A network that gives the probabilities of all heads, in a list, those of the head `first` in front."""
    ordered = sorted(heads, key=lambda head: head.name != first)
    return _answering(model, ordered, [f"head_{head.name}" for head in ordered])


def _answering(model: keras.Model, heads: Sequence[Head], names: Sequence[str]) -> keras.Model:
    old = classifier_of(model)
    values = old.get_weights()
    layers = []
    for head, name in zip(heads, names, strict=True):
        changes = {"name": name, "units": len(head.labels), "activation": "softmax", "kernel_initializer": "zeros"}
        layers.append(type(old).from_config({**old.get_config(), **changes}))
    outputs = [layer(old.input) for layer in layers]
    net = keras.Model(model.inputs[0], outputs if len(outputs) > 1 else outputs[0], name=model.name)
    net.dtype_policy = model.dtype_policy
    for layer, head in zip(layers, heads, strict=True):
        layer.set_weights([value[..., head.columns] for value in values])
    return net
