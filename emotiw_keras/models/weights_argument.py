"""What `weights=` of a network of the zoo means: nothing, published weights, or a file in any known format."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from emotiw_keras.conversion.convert import convert
from emotiw_keras.conversion.described import check_described
from emotiw_keras.conversion.matching import check_unscaled
from emotiw_keras.errors import ModelError
from emotiw_keras.files import local_path
from emotiw_keras.formats.foreign import Foreign
from emotiw_keras.formats.keras_h5 import ROLES
from emotiw_keras.formats.reading import read
from emotiw_keras.labels import class_key
from emotiw_keras.models.registry import ModelSpec, get_spec
from emotiw_keras.models.weights import (
    SUFFIX,
    check_numbers,
    load_strict,
    rescaling_layers,
    shapes_text,
    stored_layers,
    survives,
)
from emotiw_keras.talk import most
from emotiw_keras.text import shown
from emotiw_keras.weights.cache import cache_dir

DATA_SETS = {"imagenet": "ImageNet", "vggface2": "VGGFace2"}
"""Words for the published weights of networks, each of one data set (`ModelSpec.trained_on`)."""


@dataclass(frozen=True)
class ForClasses:
    """A weight file for a network whose outputs stand for these classes, in this order; `weights=` takes it as a path."""

    path: str
    labels: tuple[str, ...]

    def __fspath__(self) -> str:
        return self.path


def _published(spec: ModelSpec) -> Path:
    """Where the fetched and converted weights of a network are."""
    return cache_dir() / f"{spec.weights}{SUFFIX}"


def find(weights: str | os.PathLike[str] | None, name: str, none: str = "weights=None") -> Path | None:
    """The file that `weights` means for the network of the registry name `name`; None for None, and for the published weights
    of a network of `keras.applications`, which Keras fetches itself.

    The word of `DATA_SETS` that is the network's is the fetched and converted file in the cache, anything else the path of a
    `.weights.h5` file or of a weight file in a foreign format. Raises ModelError if it is missing, or for another word; `none`
    is how its advice says "without weights".
    """
    spec = get_spec(name)
    if weights is None or (spec.is_application and weights == spec.trained_on):
        return None
    if weights in DATA_SETS and not spec.weights:
        raise ModelError(f"no {DATA_SETS[str(weights)]} weights of {name} are published; give {none}, or a {SUFFIX} file")
    if weights == spec.trained_on:
        path = _published(spec)
        if not path.is_file():
            how = f"get them with `emotiw weights fetch {name}` or give {none}"
            raise ModelError(f"no {DATA_SETS[spec.trained_on]} weights of {name} at {path}; {how}")
        return path
    if weights in DATA_SETS:
        raise ModelError(
            f"{name} has no {DATA_SETS[str(weights)]} weights; expected '{spec.trained_on}', None or the path of a weight file"
        )
    path = local_path(weights)
    if not path.exists():
        raise ModelError(f"no weights file at {path}; expected None, '{spec.trained_on}' or the path of a weight file")
    return path


def load(model: keras.Model, weights: str | os.PathLike[str] | None, name: str, width: float = 1.0) -> None:
    """Fills `model`, a network of the registry name `name` and of `width`, as `weights` says.

    None leaves the initial values. A word of `DATA_SETS` takes the fetched file. From it, as from the path of any
    `.weights.h5` file, every layer must fit. From any other file of Keras (.keras, .h5) the layers of the model's own names are
    filled, which must fit. The path of a foreign file is converted, and proven, on the way (see `conversion.convert`), for the
    model's width and images.
    From every file, where the model has another number of classes, or no classifier, the trunk alone is filled, as from a file
    that holds no classifier; a line on stderr tells of the layers that are new, and of a classifier that is kept. Where
    `weights` says which classes the outputs stand for (`ForClasses`) and the file names its own, it is put into their order, or
    is new where they are others.

    Raises ModelError if the file is missing, damaged, or does not fit. Never leaves random weights silently.
    """
    path = find(weights, name)
    if path is None:
        return
    labels = weights.labels if isinstance(weights, ForClasses) else ()
    if not path.name.endswith(SUFFIX):
        _load_foreign(model, path, name, width, labels)
        return
    spec = get_spec(name)
    if weights != spec.trained_on:
        survives(path)
        check_unscaled(name, shown(path.name), rescaling_layers(path))
    last, held = spec.classifier, stored_layers(path)
    target = {layer.name: layer for layer in model.layers}
    if last not in target:
        named = [layer for _, layers in spec.groups for layer in layers if layer in held]
        load_strict(model, path, [layer for layer in named if layer == last or len(held[layer][1][0]) == 2])
        return
    shapes = [tuple(variable.shape) for variable in target[last].weights]
    # Of a Dense as of a convolution, the last axis of the kernel is the outputs.
    classes = shapes[0][-1]
    stored = held[last][1] if last in held else None
    if stored is None or (stored[0][-1:] != (classes,) and [(*shape[:-1], classes) for shape in stored] == shapes):
        load_strict(keras.Model(model.inputs, target[last].input, name=model.name), path, [last])
        if stored is None:
            print(f"{name}: {shown(path.name)} holds no {last}, so a new one with {classes} classes", file=sys.stderr)
        else:
            _say_new(name, path, [last], classes)
        return
    load_strict(model, path)
    if labels:
        say_kept(name, path, last)


def say_kept(name: str, path: Path, last: str, classes: Sequence[str] | None = None) -> None:
    """A classifier of a file stays, its outputs in the file's order, which is that of `classes` if the file names them."""
    order = f"the file's order: {_listed(classes)}" if classes else "the file's order, whose classes it does not name"
    print(f"{name}: {last} of {shown(path.name)} is kept, its outputs in {order}", file=sys.stderr)


def _listed(names: Sequence[str]) -> str:
    told = names[: most(8)]
    return ", ".join(map(shown, told)) + (", ..." if len(told) < len(names) else "")


def _settle_classifier(
    held: dict[str, list[np.ndarray]], model: keras.Model, foreign: Foreign, name: str, labels: Sequence[str]
) -> None:
    """What becomes of a classifier in a file that fits: it is put into the order of `labels`, goes where its classes are
    others, and stays where the file does not name them or nobody says what they should be. A line on stderr tells."""
    last = get_spec(name).classifier
    mine = next((layer for layer in model.layers if layer.name == last), None)
    values = held.get(last)
    if mine is None or values is None or not _fits(mine, values):
        return
    known, wanted = ([class_key(each) for each in names] for names in (foreign.classes or (), labels))
    if not known or not wanted or known == wanted:
        if labels or values[0].shape[-1] != get_spec(name).classes:
            say_kept(name, foreign.path, last, foreign.classes)
    elif sorted(known) == sorted(wanted):
        held[last] = [value[..., [known.index(key) for key in wanted]] for value in values]
        print(f"{name}: outputs of {last} of {shown(foreign.path.name)} taken by class name", file=sys.stderr)
    else:
        del held[last]
        classes = f"{_listed(foreign.classes or ())}; asked for are {_listed(labels)}"
        print(f"{name}: {last} of {shown(foreign.path.name)} has the classes {classes}", file=sys.stderr)


def _fits(layer: keras.layers.Layer, values: Sequence[np.ndarray] | None) -> bool:
    return values is not None and [each.shape for each in values] == [tuple(each.shape) for each in layer.weights]


def _take(model: keras.Model, held: Mapping[str, list[np.ndarray]], path: Path, name: str) -> None:
    """The weights of a network of the same name into every layer that both have; what is new behind the trunk is told of.

    Raises ModelError if a layer of the trunk is missing, any but the classifier is of another shape, or a layer has no place.
    """
    spec = get_spec(name)
    last = spec.classifier
    new, classes = [], 0
    mine = {layer.name: layer for layer in model.layers if layer.weights}
    for layer in mine.values():
        stored, shapes = held.get(layer.name), [tuple(variable.shape) for variable in layer.weights]
        found = None if stored is None else [array.shape for array in stored]
        behind = layer.name == last or len(shapes[0]) == 2
        if layer.name == last:
            classes = shapes[0][-1]
        if stored is not None and found == shapes:
            layer.set_weights(stored)
        elif layer.name == last or (stored is None and behind):
            new.append(layer.name)
        else:
            texts = [shapes_text(None if of is None else ("", of)) for of in (found, shapes)]
            raise ModelError(
                f"{shown(path.name)} does not fit {model.name}: layer {layer.name} holds {texts[0]} there, {texts[1]} here; "
                "give the width and input shape that the file was made for"
            )
    groups = {layer for _, layers in spec.groups for layer in layers}
    strange = [layer for layer in held if layer not in mine and layer not in groups]
    if strange:
        raise ModelError(f"{shown(path.name)} does not fit {model.name}, which has no layer {strange[0]}")
    if new:
        _say_new(name, path, new, classes)


def _say_new(name: str, path: Path, new: Sequence[str], classes: int) -> None:
    spec = get_spec(name)
    source = f"{DATA_SETS[spec.trained_on]} weights" if path == _published(spec) else f"weights of {shown(path.name)}"
    print(f"{name}: {source}, but a new {', '.join(new)} with {classes} classes", file=sys.stderr)


def _own_layers(model: keras.Model, foreign: Foreign, last: str) -> dict[str, list[np.ndarray]] | None:
    """The weights of a file that Keras wrote, by layers in the order of the model's variables; None if it has other names."""
    if not foreign.format.startswith("Keras"):
        return None
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for key, array in foreign.arrays.items():
        layer, _, role = key.rpartition(".")
        by_layer.setdefault(layer, {})[role] = array
    held = {}
    for layer in model.layers:
        roles = [ROLES.get(variable.name, variable.name) for variable in layer.weights]
        there = by_layer.get(layer.name)
        if roles and there is None and layer.name != last and len(layer.weights[0].shape) != 2:
            return None
        if roles and there is not None:
            if set(roles) != there.keys():
                return None
            held[layer.name] = [there[role] for role in roles]
            for variable, array in zip(layer.weights, held[layer.name], strict=True):
                check_numbers(foreign.path, layer.name, variable, array)
    return held | {name: [*arrays.values()] for name, arrays in by_layer.items() if name not in held}


def _load_foreign(model: keras.Model, path: Path, name: str, width: float, labels: Sequence[str]) -> None:
    foreign = read(path)
    check_unscaled(name, shown(path.name), foreign.rescales)
    # What may lie in another order is converted, which says so, even where its layers have our names.
    uncompared = ""
    held = None if foreign.flattening_open else _own_layers(model, foreign, get_spec(name).classifier)
    if held is None:
        shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else ()
        source, found = convert(name, foreign, width=width, input_shape=shape if len(shape) == 3 and all(shape) else None)
        if found.rows_assumed is not None and any(len(layer.weights[0].shape) == 2 for layer in model.layers if layer.weights):
            how = "the other fits as well: settle it with `emotiw convert --check IMAGE=CLASS` and give what it writes"
            print(f"{name}: {shown(path.name)}: {found.rows_assumed}; {how}", file=sys.stderr)
        if found.other_inputs is not None:
            print(f"{name}: {shown(path.name)}: {found.inputs_assumed}", file=sys.stderr)
        held = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
        uncompared = found.uncompared
    elif foreign.description:
        names = {layer.name: layer.name for layer in model.layers if layer.weights and _fits(layer, held.get(layer.name))}
        uncompared = check_described(name, shown(path.name), foreign.description, model, names)
    if uncompared:
        said = "by its description of its layers it computes the same, as far as compared; not compared are"
        print(f"{name}: {shown(path.name)}: {said} {uncompared}", file=sys.stderr)
    _settle_classifier(held, model, foreign, name, labels)
    _take(model, held, path, name)
