"""One head of a network that has several, or all of them side by side, as a network of its own on the same trunk."""

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
    old = classifier_of(model)
    return _network(model, _split_off(old, head, old.name)(old.input))


def all_heads(model: keras.Model, heads: Sequence[Head]) -> keras.Model:
    """A network that gives the probabilities of all heads side by side, in their order: float32 (batch, columns).

    Args, errors: as `one_head`.
    """
    old = classifier_of(model)
    answers = [_split_off(old, head, f"head_{head.name}")(old.input) for head in heads]
    return _network(model, keras.layers.Concatenate(name="heads", dtype="float32")(answers) if len(answers) > 1 else answers[0])


def _split_off(old: keras.layers.Dense, head: Head, name: str) -> keras.layers.Dense:
    """The part of a classifier that gives a head's answer."""
    config = {**old.get_config(), "name": name, "units": len(head.labels), "activation": "softmax"}
    new = type(old).from_config({**config, "kernel_initializer": "zeros"})
    new.build(old.input.shape)
    new.set_weights([value[..., head.columns] for value in old.get_weights()])
    return new


def _network(model: keras.Model, outputs: keras.KerasTensor) -> keras.Model:
    net = keras.Model(model.inputs[0], outputs, name=model.name)
    net.dtype_policy = model.dtype_policy
    return net
