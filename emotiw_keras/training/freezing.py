"""Rules that freeze layers, set their rates and initialise them anew; and the check that they did."""

from __future__ import annotations

import fnmatch
import hashlib
import zlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from emotiw_keras.errors import ModelError, UsageError


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that hold weights, in the order of the network."""
    return [layer for layer in model.layers if layer.weights]


CLASSIFIER = "classifier"
"""The pattern that means the last layer with weights, whatever the network calls it."""


def _matching(layers: Sequence[keras.layers.Layer], pattern: str) -> set[str]:
    """The names of the layers that a pattern means."""
    if pattern == CLASSIFIER:
        return {layers[-1].name} if layers else set()
    return {layer.name for layer in layers if fnmatch.fnmatchcase(layer.name, pattern)}


def apply_rules(model: keras.Model, rules: Sequence[tuple[str, float]], where: str) -> dict[str, float]:
    """Set which layers train, and give the rate of each variable.

    Args:
        model: its layers' `trainable` flags are set.
        rules: ordered (pattern of layer names, rate) pairs; the first match counts, rate 0 freezes. "classifier" is the
            last layer with weights. A frozen BatchNormalization also keeps its moving statistics.
        where: how messages name the rules.

    Returns:
        Variable path -> factor on the learning rate, trainable variables only.

    Raises:
        UsageError: a pattern that matches no layer, or layers that no pattern matches.
    """
    layers = weighted_layers(model)
    names = ", ".join(layer.name for layer in layers)
    meant = [(_matching(layers, pattern), rate) for pattern, rate in rules]
    for (pattern, _), (found, _) in zip(rules, meant, strict=True):
        if not found:
            raise UsageError(f"rules of {where}: {pattern!r} matches no layer of {model.name}; its layers are {names}")
    rates: dict[str, float] = {}
    trains = True
    for layer in model.layers:
        if not layer.weights:
            layer.trainable = trains  # as the layer before it: what is frozen is computed in one way, kept or anew
            continue
        rate = next((rate for found, rate in meant if layer.name in found), None)
        if rate is None:
            raise UsageError(f"rules of {where} do not cover layer {layer.name!r}; end them with the pair ['*', 1.0]")
        layer.trainable = trains = rate > 0
        rates.update({variable.path: rate for variable in layer.trainable_variables})
    return rates


def initialise_layers(model: keras.Model, patterns: Sequence[str], seed: int, where: str) -> list[str]:
    """Give layers new initial weights, from their own initialisers and a seed.

    Returns:
        The names of the layers.

    Raises:
        UsageError: a pattern that matches no layer.
        ModelError: a layer whose weights have no known initialiser.
    """
    done = []
    layers = weighted_layers(model)
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matching(layers, pattern)
        if not found:
            names = ", ".join(layer.name for layer in layers)
            raise UsageError(f"initialise of {where}: {pattern!r} matches no layer of {model.name}; its layers are {names}")
        chosen |= found
    for layer in layers:
        if layer.name in chosen:
            for variable in layer.weights:
                initializer = _initializer(layer, variable.name)
                if initializer is None:
                    raise ModelError(f"layer {layer.name!r} does not say how {variable.name!r} is initialised")
                config = initializer.get_config()
                if "seed" in config:
                    config["seed"] = zlib.crc32(f"{seed}/{where}/{variable.path}".encode())
                variable.assign(type(initializer).from_config(config)(variable.shape, variable.dtype))
            done.append(layer.name)
    return done


def _initializer(layer: keras.layers.Layer, variable: str) -> keras.initializers.Initializer | None:
    """What a layer fills a variable with at first; depthwise and separable convolutions call theirs by half of its name."""
    halves = (variable, variable.removesuffix("_kernel"), "depthwise")
    return next(filter(None, (getattr(layer, f"{half}_initializer", None) for half in halves)), None)


def digests(model: keras.Model) -> dict[str, str]:
    """A short hash of each weight, by path: what moved and what did not."""
    return {
        weight.path: hashlib.blake2b(np.ascontiguousarray(weight.numpy()).tobytes(), digest_size=8).hexdigest()
        for layer in weighted_layers(model)
        for weight in layer.weights
    }


def check_moved(model: keras.Model, before: Mapping[str, str], where: str) -> list[str]:
    """Compare weights with what they were before a stage.

    Returns:
        Paths of trainable variables that did not move.

    Raises:
        ModelError: a frozen weight moved.
    """
    after = digests(model)
    still = []
    for layer in weighted_layers(model):
        for weight in layer.weights:
            moved = before[weight.path] != after[weight.path]
            if not layer.trainable and moved:
                raise ModelError(f"{where}: {weight.path} was frozen but has moved; this is a defect, please report it")
            if weight.trainable and layer.trainable and not moved:
                still.append(weight.path)
    return still
