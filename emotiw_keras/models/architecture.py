"""What tells the code of a network of a user's own from that of another with weights of the same names and shapes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras

from emotiw_keras.keras_names import named, unnumbered

_ASIDE = ("dtype", "trainable", "seed", "build_config", "name")
"""What one network made twice may differ in: where it computes, what is frozen, names that Keras gives as they come."""


def architecture(model: keras.Model) -> str:
    """A hash of a network's layers, their settings and connections, as far as its configuration says them: of code of its own
    (a subclass without `get_config`) the layers alone.

    Example:
        >>> def net(activation):
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation)])
        >>> architecture(net("relu")) == architecture(net("relu")), architecture(net("relu")) == architecture(net("tanh"))
        (True, False)
    """
    config = _config(model)
    if config is None or "layers" not in config:
        config = [(type(layer).__qualname__, _config(layer)) for layer in model._flatten_layers(include_self=False)]
    text = json.dumps(_reduced(json.loads(json.dumps(config, default=named))), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _config(layer: keras.layers.Layer) -> Any:
    try:
        return layer.get_config()
    except NotImplementedError:  # Keras' way to say that there is none
        return None


def _reduced(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in _ASIDE and not key.endswith("_initializer")}
        return {key: _reduced(each) for key, each in kept.items()}
    if isinstance(value, list):
        return [_reduced(each) for each in value]
    return unnumbered(value) if isinstance(value, str) else value
