"""Rules that freeze layers, set their rates and initialise them anew; and the check that they did."""

from __future__ import annotations

import fnmatch
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.models.architecture import called, noise
from emotiw_keras.training.stage import Stage


def inner_layers(model: keras.layers.Layer, outside: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Name and layer of all layers of a network, in its order; in place of a nested network its own, named `outer/inner`.

    Example:
        >>> trunk = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="fc")], name="trunk")
        >>> [name for name, _ in inner_layers(keras.Sequential([trunk, keras.layers.Dense(3, name="head")]))]
        ['trunk/fc', 'head']
    """
    inside = model.layers if isinstance(model, keras.Model) else model._flatten_layers(include_self=False, recursive=False)
    for layer in inside:
        own = layer._trainable_variables or layer._non_trainable_variables
        nested = isinstance(layer, keras.Model) or any(layer._flatten_layers(include_self=False, recursive=False))
        if nested and not own:
            yield from inner_layers(layer, f"{outside}{layer.name}/")
        else:
            yield f"{outside}{layer.name}", layer


def weighted_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers that hold weights by their names, in the order of the network.

    Raises:
        UsageError: two of one name.
    """
    found: dict[str, keras.layers.Layer] = {}
    for name, layer in inner_layers(model):
        if layer.weights:
            if name in found and found[name] is not layer:
                raise UsageError(f"{model.name} has two layers named {name!r}; give each a name of its own")
            found[name] = layer
    return found


CLASSIFIER = "classifier"
"""The pattern that means the last layer with weights, whatever the network calls it."""


def _matching(names: Sequence[str], pattern: str) -> set[str]:
    """The names of the layers that a pattern means: by their whole name, or that within their nested network."""
    if pattern == CLASSIFIER:
        return {names[-1]} if names else set()
    return {n for n in names if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n.rpartition("/")[2], pattern)}


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
    names = ", ".join(layers)
    meant = [(_matching(list(layers), pattern), rate) for pattern, rate in rules]
    for (pattern, _), (found, _) in zip(rules, meant, strict=True):
        if not found:
            raise UsageError(f"rules of {where}: {pattern!r} matches no layer of {model.name}; its layers are {names}")
    rates: dict[str, float] = {}
    trains = True
    model.trainable = True  # nested networks included; what is frozen is so layer by layer
    for name, layer in inner_layers(model):
        if not layer.weights:
            layer.trainable = trains  # as the layer before it: what is frozen is computed in one way, kept or anew
            continue
        rate = next((rate for found, rate in meant if name in found), None)
        if rate is None:
            raise UsageError(f"rules of {where} do not cover layer {name!r}; end them with the pair ['*', 1.0]")
        layer.trainable = trains = rate > 0
        for variable in layer.trainable_variables:
            if rates.setdefault(variable.path, rate) != rate:
                raise UsageError(f"rules of {where} give two variables called {variable.path} different rates; rename a layer")
    return rates


def layers_named(model: keras.Model, patterns: Sequence[str], where: str) -> set[str]:
    """The names of the layers that patterns mean; raises UsageError for one that matches no layer."""
    layers = weighted_layers(model)
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matching(list(layers), pattern)
        if not found:
            names = ", ".join(layers)
            raise UsageError(f"initialise of {where}: {pattern!r} matches no layer of {model.name}; its layers are {names}")
        chosen |= found
    return chosen


def check_layers(model: keras.Model, stages: Sequence[Stage]) -> None:
    """UsageError for rules, or layers to initialise, that do not fit the network; of stages that are left out, too, where they
    are a mistake all the same."""
    for stage in stages:
        layers_named(model, stage.initialise, stage.where)
        apply_rules(model, stage.rules, stage.where)


def initialise_layers(model: keras.Model, patterns: Sequence[str], seed: int, where: str) -> list[str]:
    """Give layers new initial weights, from their own initialisers and a seed.

    Returns:
        The names of the layers.

    Raises:
        UsageError: a pattern that matches no layer.
        ModelError: a layer whose weights have no known initialiser.
    """
    done = []
    chosen = layers_named(model, patterns, where)
    for name, layer in weighted_layers(model).items():
        if name in chosen:
            for variable in layer.weights:
                initializer = _initializer(layer, variable.name)
                if initializer is None:
                    raise ModelError(f"layer {name!r} does not say how {variable.name!r} is initialised")
                config = initializer.get_config()
                if "seed" in config:
                    config["seed"] = zlib.crc32(f"{seed}/{where}/{variable.path}".encode())
                variable.assign(type(initializer).from_config(config)(variable.shape, variable.dtype))
            done.append(name)
    return done


def _initializer(layer: keras.layers.Layer, variable: str) -> keras.initializers.Initializer | None:
    """What a layer fills a variable with at first; depthwise and separable convolutions call theirs by half of its name."""
    halves = (variable, variable.removesuffix("_kernel"), "depthwise")
    return next(filter(None, (getattr(layer, f"{half}_initializer", None) for half in halves)), None)


def _named_weights(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer, keras.Variable]]:
    """Each weight under a name of its own: its path, or where nested networks repeat that, its layer's name and its own."""
    weights = [(name, layer, weight) for name, layer in weighted_layers(model).items() for weight in layer.weights]
    count = Counter(weight.path for _, _, weight in weights)
    for name, layer, weight in weights:
        yield weight.path if count[weight.path] == 1 else f"{name}/{weight.name}", layer, weight


def digests(model: keras.Model) -> dict[str, str]:
    """A short hash of each weight, by name: what moved and what did not."""
    return {
        name: hashlib.blake2b(np.ascontiguousarray(weight.numpy()).tobytes(), digest_size=8).hexdigest()
        for name, _, weight in _named_weights(model)
    }


def check_moved(model: keras.Model, before: Mapping[str, str], where: str) -> tuple[list[str], list[str]]:
    """Compare weights with what they were before a stage.

    Returns:
        Names of trainable variables that did not move, and of those of frozen layers that their layers' own calls moved: what
        a layer counts or keeps of a batch, it keeps in `model.fit`, too, whether or not it is frozen.

    Raises:
        ModelError: another frozen weight moved.
    """
    after = digests(model)
    still, moved = [], {}
    for name, layer, weight in _named_weights(model):
        if not layer.trainable and before[name] != after[name]:
            moved[name] = weight
        if weight.trainable and layer.trainable and before[name] == after[name]:
            still.append(name)
    own = (
        {id(variable) for variable in called(model, noise(model, model.input_shape[1:]), training=True)[1]} if moved else set()
    )
    for name, weight in moved.items():
        if id(weight) not in own:
            raise ModelError(f"{where}: {name} was frozen but has moved; this is a defect, please report it")
    return still, list(moved)
