"""What tells a network of a user's own from another with weights of the same names and shapes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras

from emotiw_keras.keras_names import unnumbered

_ASIDE = ("name", "dtype", "trainable", "seed", "lora_rank", "lora_alpha")
"""Settings in which one network made twice may differ: where it computes, what is frozen, names given as they come."""


def architecture(model: keras.Model) -> str:
    """A hash of a network's layers: their classes, and of their settings the numbers and words, such as that of an activation.

    What is code (a function, an object) does not count, nor how layers are connected: a network stays the same whichever file
    makes it, and whether or not Keras can write it down.

    Example:
        >>> def net(activation):
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation)])
        >>> architecture(net("relu")) == architecture(net("relu")), architecture(net("relu")) == architecture(net("tanh"))
        (True, False)
    """
    layers = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.layers.InputLayer)]
    text = json.dumps([(type(layer).__name__, _settings(layer)) for layer in layers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
