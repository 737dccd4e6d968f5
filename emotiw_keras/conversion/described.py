"""What a Keras file's description of its layers says of their settings, held against ours: the arrays do not tell them.

The description is read as JSON; no class or function that it names is looked up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import ModelError
from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.sealed import strict_json
from emotiw_keras.talk import most
from emotiw_keras.text import shown

if TYPE_CHECKING:
    import keras

_TOLD = 4
_MOST = 256
"""Layers without weights between two with weights, and ways between them, that are followed."""
_WEIGHED = ("Conv", "Dense", "BatchNormalization")
_KERAS = re.compile(r"(tensorflow\.(python\.)?|tf_)?keras(_core)?(\.|$)")
"""How Keras has called its modules."""
_IDLE = ("Dropout", "Random", "Flatten", "Reshape", "Identity", "ActivityRegularization", "GaussianNoise")
"""Parts of the names of layers that change no number in prediction, nor the order of any."""
_PLAIN = {
    "LocalResponseNormalization": ("depth_radius", "bias", "alpha", "beta"),
    "AdaptiveMeanPooling2D": ("size",),
    "GlobalAveragePooling2D": (),
    "GlobalMaxPooling2D": (),
    **dict.fromkeys(("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"), ()),
}
"""Layers that are told by these settings."""
_EARLY = ("relu", "relu6")
"""What gives the same ahead of a maximum, a concatenation and zeros around the maps as behind them."""
_LATE = ("MaxPooling2D", "GlobalMaxPooling2D", "Concatenate", "zeros")

_NONE = ((0, 0), (0, 0))
_SCORES = ("linear", "softmax", "sigmoid")
"""Activations of a layer whose output may be that of the network, which converted ones are without, or another layer's."""
_IMAGE = "the image"
OUTPUT = "the output"
"""Stands for a layer that reads what a model gives."""

Step = tuple[str, Any]
"""What a layer without weights does, and what may be said in several ways: how a pooling treats the edge; or which zeros."""
_Way = tuple[str, list[Step]]
"""From a layer with weights, or the image, through steps."""


@dataclass(frozen=True)
class _Layer:
    """Class, settings, and the layers that are read; None where it is called more than once."""

    kind: str
    config: Mapping[str, Any]
    reads: tuple[str, ...] | None


_Layers = Mapping[str, _Layer]


def _sources(calls: Any) -> Iterator[str]:
    """The layers whose outputs a call takes, as Keras 3 and Keras 2 write them."""
    if isinstance(calls, list) and len(calls) > 2 and isinstance(calls[0], str):
        yield calls[0]
    elif isinstance(calls, dict) and "keras_history" in calls:
        yield calls["keras_history"][0]
    else:
        for part in calls.values() if isinstance(calls, dict) else calls if isinstance(calls, list) else ():
            yield from _sources(part)


def _class(described: Mapping[str, Any]) -> str:
    """The class of a layer, "package>class" where it is neither one of Keras nor ours, whatever it is called."""
    package, _, name = str(described["class_name"]).rpartition(">")
    package = package or str(described.get("registered_name")).rpartition(">")[0]
    module = package or str(described.get("module") or "keras")
    known = package == PACKAGE if package else _KERAS.match(module)
    return name if known else f"{module}>{name}"


def _layers(config: Any) -> dict[str, _Layer]:
    """The layers of a model, and of models within it, by name."""
    found = {_IMAGE: _Layer("InputLayer", {}, ())}
    before: tuple[str, ...] = (_IMAGE,)
    for each in config if isinstance(config, list) else config["layers"]:
        kind, settings, calls = _class(each), each["config"], each.get("inbound_nodes")
        if isinstance(settings, list) or "layers" in settings:
            found = {**_layers(settings), **found}
        name = each.get("name") or settings["name"]
        # an operation, unlike a layer, may take constants
        kind = f"operation {kind}" if ".ops." in str(each.get("module")) else kind
        reads = before if calls is None else tuple(_sources(calls))
        found[name] = _Layer(kind, settings, reads if calls is None or len(calls) < 2 else None)
        before = (name,)
    last = tuple(_sources(config["output_layers"])) if "output_layers" in config else before
    return {**found, OUTPUT: _Layer(OUTPUT, {}, last)}


def _read(text: str) -> dict[str, _Layer]:
    try:
        return _layers(strict_json(text)["config"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _named(layers: _Layers, name: str) -> str:
    """The layer that the name of an array means: to those of a model within the model a path leads."""
    while name not in layers and "/" in name:
        name = name.partition("/")[2]
    return name


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value, value)


def _activation(layer: _Layer) -> str | None:
    """The activation in a layer's settings in a word, "linear" for none; None if it is code, has settings or is not told."""
    config = layer.config
    if layer.kind == "ReLU":
        most = config.get("max_value")
        if config.get("negative_slope") or config.get("threshold"):
            return None
        return "relu" if most is None else f"relu{most:g}"
    if "Normalization" in layer.kind:
        return "linear"
    word = config["activation"] or "linear" if "activation" in config else None
    word = word.get("config") if isinstance(word, dict) and word.get("class_name") == "function" else word
    return word if isinstance(word, str) else None


def _step(layer: _Layer, place: int) -> Step | None:
    """What a layer without weights does, ("linear", "") for nothing; None where it is not known. `place` is that of the input
    that is followed, among those of a concatenation."""
    kind, config = layer.kind, layer.config
    if kind in ("Activation", "ReLU", "Softmax"):
        word = "softmax" if kind == "Softmax" else _activation(layer)
        return None if word is None else (word, "")
    if kind in ("MaxPooling2D", "CaffeMaxPooling2D", "AveragePooling2D"):
        size, strides = (_pair(config[key]) for key in ("pool_size", "strides"))
        kind = kind.removeprefix("Caffe")
        return f"{kind} of {size[0]}x{size[1]} by {strides[0]}x{strides[1]}", config.get("padding", "ceil")
    if kind == "ZeroPadding2D":
        return "zeros", tuple(_pair(side) for side in _pair(config["padding"]))
    if kind in _PLAIN:
        number = f" {place + 1}" if kind == "Concatenate" else ""
        return kind + number + "".join(f" {key}={config[key]:g}" for key in _PLAIN[kind]), ""
    return ("linear", "") if any(part in kind for part in _IDLE) and not set(kind) & {" ", ">"} else None


def _ordered(steps: Sequence[Step]) -> list[Step]:
    """Steps in the one order that stands for all that compute the same."""
    found: list[Step] = []
    for step in steps:
        place = len(found)
        if step[0] in _EARLY:
            while place and found[place - 1][0].startswith(_LATE):
                place -= 1
            if place and found[place - 1] == step:
                continue
        elif "Pooling2D of" in step[0] and found and found[-1][0] == "zeros":
            step = (step[0], (found.pop()[1], step[1]))
            place = len(found)
        if step[0] != "linear":
            found.insert(place, step)
    return found


def _ways(layers: _Layers, name: str) -> list[_Way] | None:
    """From the layers with weights, or the image, to the layer `name`: where each way starts and its steps; None where a layer
    on one of them is not known."""
    found: list[_Way] = []
    waiting: list[tuple[str, tuple[Step, ...]]] = [(each, ()) for each in layers[name].reads or ()]
    while waiting:
        place, steps = waiting.pop()
        layer = layers.get(place)
        if layer is None or layer.reads is None or len(steps) > _MOST or len(waiting) + len(found) > _MOST:
            return None
        if any(word in layer.kind for word in _WEIGHED):
            word = _activation(layer)
            if word is None:
                return None
            found.append((place, _ordered([(word, ""), *steps])))
        elif layer.kind == "InputLayer":
            found.append((_IMAGE, _ordered(steps)))
        else:
            for number, each in enumerate(layer.reads):
                step = _step(layer, number)
                if step is None:
                    return None
                waiting.append((each, (step, *steps)))
            if not layer.reads:
                return None
    return found


def _settings(layer: _Layer, zeros: Any) -> dict[str, Any]:
    """Of a layer with weights, those that two layers which compute the same have alike; `zeros` are around what it takes."""
    config = layer.config
    found: dict[str, Any] = {key: _pair(config[key]) for key in ("strides", "dilation_rate") if key in config}
    found |= {key: config[key] for key in ("groups", "epsilon") if key in config}
    word = _activation(layer)
    if word is not None and word not in _SCORES:
        found["activation"] = word
    padding = config.get("padding") if "kernel_size" in config else None
    if padding is not None:
        spans = [
            (n - 1) * rate for n, rate in zip(_pair(config["kernel_size"]), found.get("dilation_rate", (1, 1)), strict=True)
        ]
        if padding == "same" and (found["strides"] == (1, 1) or not any(spans)):
            padding = [(span // 2, span - span // 2) for span in spans]
        padding = _NONE if padding == "valid" else padding
        sides = zip(padding, zeros or _NONE, strict=True)
        found["padding"] = padding if padding == "same" else tuple((a + c, b + d) for (a, b), (c, d) in sides)
    return found


def check_described(name: str, file: str, theirs: str, model: keras.Model, names: Mapping[str, str]) -> str:
    """Hold the layers of a file's description against those of ours.

    Args:
        name: of the network.
        file: its name.
        theirs: the JSON text in the file.
        model: our network.
        names: our layers with weights -> the file's, and OUTPUT -> OUTPUT where both end alike.

    Returns:
        What could not be compared, in words.

    Raises:
        ModelError: a setting of a layer, or what stands before it, is another one.
    """
    try:
        ours = model.to_json()
    except (NotImplementedError, TypeError, ValueError):  # a layer of a user's own is among it
        ours = ""
    there, here = _read(theirs), _read(ours)
    known = {mine: _named(there, other) for mine, other in names.items()}
    back = {other: mine for mine, other in known.items()}
    left: list[str] = []
    for mine, other in known.items():
        try:
            left += _compare((there, other), (here, mine), back)
        except _Other as error:
            raise ModelError(
                f"{file} computes something else than {name}: {error}; give a file of {name}, or the network that it holds"
            ) from None
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError):  # not there, of another kind, or damaged
            left.append(shown(other))
    told = left[: most(_TOLD)]
    return ", ".join(told) + (f", and {len(left) - len(told)} more" if len(told) < len(left) else "")


class _Other(Exception):
    """A layer of the file is not as ours."""


def _compare(theirs: tuple[_Layers, str], ours: tuple[_Layers, str], back: Mapping[str, str]) -> list[str]:
    """What of two layers could not be compared. Raises _Other where they differ."""
    layer, kind = shown(theirs[1]), theirs[0][theirs[1]].kind
    left = [layer] if ">" in kind else []
    (found, settings), (wanted, own) = _facts(*theirs, back), _facts(*ours, {})
    for key in (key for key in own if key in settings and settings[key] != own[key]):
        if key == "padding" and (found is None or wanted is None or "same" in (settings[key], own[key])):
            left.append(f"the padding of {layer}")
        elif key != "epsilon" or not math.isclose(settings[key], own[key], rel_tol=1e-6):
            raise _Other(f"layer {layer} has {key} {settings[key]}, ours {own[key]}")
    if found is None or wanted is None:
        return [*left, f"what leads to {layer}"]
    for one, other in zip_longest(found, wanted):
        if one is None or other is None or one[0] != other[0]:
            takes, own_takes = ("nothing more" if way is None else shown(way[0]) for way in (one, other))
            raise _Other(f"layer {layer} takes {takes}, ours {own_takes}")
        for step, own_step in zip_longest(one[1], _needed(other[1], one[1], kind == "Dense")):
            if _rough(step) != _rough(own_step):
                has, own_has = (shown(each[0]) if each else "nothing" for each in (step, own_step))
                raise _Other(f"between {shown(one[0])} and {layer} it has {has}, ours {own_has}")
    return left if found == wanted else [*left, f"the pooling before {layer}"]


def _facts(layers: _Layers, name: str, names: Mapping[str, str]) -> tuple[list[_Way] | None, dict[str, Any]]:
    """The ways to a layer in one order, which start at layers by their `names`, and its settings."""
    ways, layer, zeros = _ways(layers, name), layers[name], None
    for _, steps in ways or ():
        if steps and steps[-1][0] == ("zeros" if "kernel_size" in layer.config else "softmax" if name == OUTPUT else ""):
            zeros = steps.pop()[1]
    ordered = None if ways is None else sorted([(names.get(start, start), steps) for start, steps in ways], key=repr)
    return ordered, _settings(layer, zeros)


def _needed(steps: Sequence[Step], theirs: Sequence[Step], dense: bool) -> Sequence[Step]:
    """Our steps without a mean over parts of the maps, where a file has none straight before a dense layer: its kernel fits,
    so that the maps have the size that the mean gives, and it is idle."""
    lacking = not theirs or _rough(theirs[-1]) != "mean"
    return steps[:-1] if dense and lacking and steps and steps[-1][0].startswith("AdaptiveMeanPooling2D") else steps


def _rough(step: Step | None) -> str | None:
    """A step without what may be said in several ways: how a pooling treats the edge, and a mean over all of the maps."""
    return None if step is None else "mean" if "Average" in step[0] or "Mean" in step[0] else step[0]
