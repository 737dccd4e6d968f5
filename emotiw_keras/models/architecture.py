"""What tells a network of a user's own from another with weights of the same names and shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from emotiw_keras.keras_names import unnumbered
from emotiw_keras.models.parts import computing_in

_ASIDE = ("name", "dtype", "trainable", "seed", "lora_rank", "lora_alpha")
"""Settings in which one network made twice may differ: where it computes, what is frozen, names given as they come."""


def architecture(model: keras.Model) -> str:
    """A hash of a network's layers: their classes, and of their settings the numbers and words, such as that of an activation.

    What is code (a function, an object) does not count, nor how layers are connected (`connections` tells that): a network
    stays the same whichever file makes it, and whether or not Keras can write it down.

    Example:
        >>> def net(activation):
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation)])
        >>> architecture(net("relu")) == architecture(net("relu")), architecture(net("relu")) == architecture(net("tanh"))
        (True, False)
    """
    layers = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.layers.InputLayer)]
    text = json.dumps([(type(layer).__name__, _settings(layer)) for layer in layers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def connections(model: keras.Model) -> str:
    """A hash of what goes into what in the functional networks that a network holds, itself among them.

    Example:
        >>> def net(second):
        ...     x = keras.Input((4,))
        ...     y = keras.layers.Dense(4)(x)
        ...     return keras.Model(x, keras.layers.Add()([y, x if second else y]))
        >>> connections(net(True)) == connections(net(True)), connections(net(True)) == connections(net(False))
        (True, False)
    """
    found = [_graph(each) for each in model._flatten_layers() if hasattr(each, "_nodes_by_depth")]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def copied(model: keras.Model) -> keras.Model | None:
    """A network of the same layers with weights of its own, which are not those of `model` yet; None where Keras cannot make
    it from the settings of its layers, such as that of a class without `get_config`."""
    compiled, model.compiled = model.compiled, False  # else Keras makes its optimizer, too
    try:
        with computing_in(model.dtype_policy.name):
            copy = keras.models.clone_model(model, recursive=True)
    except Exception:  # whatever a user's class raises
        return None
    finally:
        model.compiled = compiled
    return copy if type(copy) is type(model) and architecture(copy) == architecture(model) else None


def _graph(model: keras.Model) -> list[Any]:
    """Of each operation of a functional network, in its order: its class, and for each use in it where its inputs come from."""
    inside = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}
    uses = [[node for node in each._inbound_nodes if id(node) in inside] for each in model.operations]
    places = {id(node): (number, use) for number, nodes in enumerate(uses) for use, node in enumerate(nodes)}

    def sources(tensors: Sequence[Any]) -> list[Any]:
        origins = [tensor._keras_history for tensor in tensors]
        return [(places.get(id(of.operation._inbound_nodes[of.node_index])), of.tensor_index) for of in origins]

    names = [type(each).__name__ for each in model.operations]
    return [names, [[sources(node.input_tensors) for node in nodes] for nodes in uses], sources(model.outputs)]


def answers_to_noise(model: keras.Model, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a network says of `noise`, by which another is known to compute the same with its weights, whatever the code is.

    Args:
        model: with its weights.
        about: its input shape and whether it returns logits, as run.json's `model` has them.

    Returns:
        Probabilities of each item, and within how much another processor, or a network that is made in another type of numbers,
        says the same; None where answers are random, change the network or are none, or a side of the input is free.
    """
    import tensorflow as tf

    if None in about["input_shape"]:
        return None
    exact = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # products of GPUs with a tenth of the digits
    try:
        outputs, assigned = called(model, noise(model, about["input_shape"]), training=False)
        found = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(exact)
    if about.get("logits"):
        found = np.exp(found - found.max(axis=-1, keepdims=True))
        found /= found.sum(axis=-1, keepdims=True)
    if assigned or not np.isfinite(found).all():
        return None
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model._flatten_layers())
    return {"probabilities": found.round(6).tolist(), "within": 0.2 if half else 1e-3}


def same_twice(ask: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """What is answered, as by `answers_to_noise`; None where it is answered otherwise when asked again."""
    once, again = ask(), ask()
    return None if again is None or apart(once, again) else once


def apart(one: dict[str, Any] | None, other: dict[str, Any] | None) -> float:
    """By how much of probability two `answers_to_noise` differ; 0 where that is within what both allow or one is not known."""
    if one is None or other is None:
        return 0.0
    most = float(np.abs(np.subtract(one["probabilities"], other["probabilities"])).max())
    return most if most > max(one["within"], other["within"]) else 0.0


def noise(model: keras.Model, shape: Sequence[int | None]) -> np.ndarray:
    """Four items of a shape for a network, the same in every process: numbers around zero up to those of pixels. A side that is
    free is 32."""
    draw, given = np.random.default_rng(0), getattr(model, "inputs", None)
    dtype = given[0].dtype if given else "float32"
    items = draw.uniform(-0.3, 1, (4, *(side or 32 for side in shape)))
    items *= np.reshape([1, 8, 64, 255], (4,) + (1,) * (items.ndim - 1))
    if dtype == "uint8":
        return items.clip(0).astype(dtype)
    return items.astype("float32") if "float" in dtype else draw.integers(0, 2, items.shape).astype(dtype)


def called(model: keras.Model, inputs: Any, training: bool) -> tuple[Any, list[keras.Variable]]:
    """What a network returns, and the variables that its layers assign meanwhile; all of them keep their values.

    Example:
        >>> net = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
        >>> [variable.name for variable in called(net, keras.ops.ones((2, 4)), training=True)[1]]
        ['moving_mean', 'moving_variance']
    """
    with keras.StatelessScope() as scope:
        outputs = model(inputs, training=training)
    return outputs, [variable for variable in model.variables if scope.get_current_value(variable) is not None]


def _settings(layer: keras.layers.Layer) -> dict[str, Any]:
    """The settings of a layer that are plain values."""
    try:
        config = layer.get_config()
    except Exception:  # a user's own code, which nothing but Keras' saving calls: then the class alone counts
        return {}
    kept = {str(key): _plain(value) for key, value in config.items() if key not in _ASIDE}
    return {key: value for key, value in kept.items() if value is not None}


def _plain(value: Any) -> Any:
    """Numbers, words, and lists of them; None for anything else."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return unnumbered(value)
    if isinstance(value, list | tuple):
        parts = [_plain(each) for each in value]
        return None if None in parts else parts
    return None
