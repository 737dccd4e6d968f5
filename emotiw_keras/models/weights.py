"""Putting stored weights into a network: strictly, by layer name and shape, or with an error."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import keras
import numpy as np

from emotiw_keras.converters.foreign import Foreign, Limits
from emotiw_keras.converters.hdf5 import Hdf5, open_hdf5
from emotiw_keras.converters.hdf5_trial import rehearse
from emotiw_keras.converters.keras_h5 import ROLES, read_keras_h5
from emotiw_keras.converters.reading import read
from emotiw_keras.errors import ModelError
from emotiw_keras.files import check_room
from emotiw_keras.models.parts import in_place, zeros
from emotiw_keras.models.registry import ModelSpec, get_spec
from emotiw_keras.text import shown
from emotiw_keras.weights.cache import cache_dir

SUFFIX = ".weights.h5"
DATA_SETS = {"imagenet": "ImageNet", "vggface2": "VGGFace2"}
"""Words for the published weights of networks, each of one data set (`ModelSpec.trained_on`)."""
ROWS_BYTES = 16 << 20
"""A large array goes into a variable or a file in blocks of rows of this size."""


Stored = dict[str, tuple[str, list[tuple[int, ...]]]]


def stored_layers(path: Path) -> Stored:
    """Layer name -> (its place in the file, shapes of its variables) in a Keras `.weights.h5` file.

    Layers without variables are left out. Raises ModelError if the file is missing, unsafe (see `hdf5.open_hdf5`) or no such
    file.
    """
    if not path.is_file():
        raise ModelError(f"no weights file at {path}")
    with open_hdf5(path, Limits()) as file:
        layers = _variables(file, path).items()
        return {name: (place, [tuple(array.shape) for array in arrays]) for place, (name, arrays) in layers}


def _variables(file: Hdf5, path: Path) -> dict[str, tuple[str, list[h5py.Dataset]]]:
    """Place -> name and arrays of each layer with variables."""

    def wrong(what: str) -> ModelError:
        return ModelError(f"{path} is not a Keras weights file ({what})")

    layers = file.child(file.root, "layers")
    if not isinstance(layers, h5py.Group):
        raise wrong("it holds no group 'layers'")
    found = {}
    for place, group in _layer_groups(file, layers):
        variables = file.child(group, "vars")
        arrays = file.children(variables) if isinstance(variables, h5py.Group) else {}
        if not arrays or variables is None:
            continue
        name = file.texts_of(variables, "name") or ()
        ordered = [arrays.get(str(number)) for number in range(len(arrays))]
        if len(name) != 1 or not all(isinstance(array, h5py.Dataset) and array.shape is not None for array in ordered):
            raise wrong(f"{place!r} holds no name, or something that is no numbered array")
        found[place] = (name[0], ordered)
    return found


def _layer_groups(file: Hdf5, layers: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    """The groups of layers and, below them, those of the layers in a layer, one level deep."""
    for place, group in file.children(layers).items():
        if isinstance(group, h5py.Group):
            yield place, group
            inside = file.child(group, "layers")
            if isinstance(inside, h5py.Group):
                parts = file.children(inside).items()
                yield from ((f"{place}/layers/{inner}", part) for inner, part in parts if isinstance(part, h5py.Group))


def places(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, str]]:
    """The layers and their groups in a file of `model`; Keras numbers them within each class of layers.

    A `Sequential` within the model, as in ConvNeXt, stands there layer by layer.
    """
    count: dict[str, int] = {}
    for layer in model.layers:
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)).lower()
        place = f"{kind}_{count[kind]}" if kind in count else kind
        count[kind] = count.get(kind, 0) + 1
        if isinstance(layer, keras.Sequential):
            yield from ((inner, f"{place}/layers/{below}") for inner, below in places(layer))
        else:
            yield layer, place


def _model_layers(model: keras.Model) -> Stored:
    """What `stored_layers` would find in a file of `model`."""
    return {layer.name: (place, [tuple(w.shape) for w in layer.weights]) for layer, place in places(model) if layer.weights}


def weight_bytes(model: keras.Model) -> int:
    """Bytes that the weights of a network take in a file, at least."""
    return sum(math.prod(each.shape) * (2 if "16" in str(each.dtype) else 4) for each in model.weights)


def save(model: keras.Model, path: Path) -> None:
    """Writes the file that `model.save_weights(path)` writes, one array at a time in blocks: Keras copies each array twice."""
    check_room(path, weight_bytes(model))
    with h5py.File(path, "w") as file:
        file.create_group("vars").attrs["name"] = model.name
        for layer, place in places(model):
            group = file.create_group(f"layers/{place}/vars")
            group.attrs["name"] = layer.name
            for number, variable in enumerate(layer.weights):
                stored = group.create_dataset(str(number), tuple(variable.shape), variable.dtype)
                rows = max(1, ROWS_BYTES * variable.shape[0] // max(1, 4 * math.prod(variable.shape)))
                for start in range(0, variable.shape[0], rows):
                    stored[start : start + rows] = keras.ops.convert_to_numpy(variable.value[start : start + rows])


def survives(path: Path) -> None:
    """Let a process of its own read a stranger's file first: it may crash the HDF5 library. Raises ModelError if it does."""
    rehearse(read_keras_h5, path, Limits())


def load_strict(model: keras.Model, path: Path) -> None:
    """Loads a `.weights.h5` file written by `model.save_weights`; names, order and shapes of the layers must be equal.

    Keras alone matches layers by class and order, so weights of one layer can slip into another of the same shape.
    Raises ModelError naming the first layer that differs.
    """
    found, wanted = stored_layers(path), _model_layers(model)
    for name in (*wanted, *found):
        there, here = found.get(name), wanted.get(name)
        if there == here:
            continue
        misfit = f"{path} does not fit {model.name}: layer {name}"
        if there and here and there[1] == here[1]:
            raise ModelError(f"{misfit} is {there[0]} in the file and {here[0]} in the model: they are in another order")
        raise ModelError(
            f"{misfit} holds {_shapes(there)} in the file, {_shapes(here)} in the model; "
            "give the classes, width and input shape it was saved with"
        )
    fill(model, path)


def load_given(model: keras.Model, path: Path) -> None:
    """Loads a `.weights.h5` file into a network of the user's own, nested ones included, which has the variables it was saved
    with (see `runs.fingerprint`).

    Raises ModelError if the file cannot be read so.
    """
    rehearse(read_keras_h5, path, Limits())
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} could not be loaded into {model.name}: {str(error).splitlines()[0]}") from error


def fill(model: keras.Model, path: Path) -> None:
    """What `model.load_weights(path)` does, each array read to where its variable will hold it: Keras copies it once more."""
    with open_hdf5(path, Limits()) as file:
        variables = _variables(file, path)
        for layer, place in places(model):
            for number, variable in enumerate(layer.weights):
                stored = variables[place][1][number]
                array = zeros(stored.shape, stored.dtype)
                file.read_into(stored, array)
                if array.size and not (math.isfinite(array.min()) and math.isfinite(array.max())):
                    raise ModelError(f"{path.name} holds nan or infinite numbers in layer {layer.name}; train or fetch it anew")
                variable.assign(in_place(array))


def _shapes(entry: tuple[str, list[tuple[int, ...]]] | None) -> str:
    return "nothing" if entry is None else " and ".join("x".join(map(str, shape)) for shape in entry[1])


def _published(spec: ModelSpec) -> Path:
    """Where the fetched and converted weights of a network are."""
    return cache_dir() / f"{spec.weights}{SUFFIX}"


def find(weights: str | os.PathLike[str] | None, name: str, none: str = "weights=None") -> Path | None:
    """The file that `weights` means for the network of the registry name `name`; None for None.

    The word of `DATA_SETS` that is the network's is the fetched and converted file in the cache, anything else the path of a
    `.weights.h5` file or of a weight file in a foreign format. Raises ModelError if it is missing, or for another word; `none`
    is how its advice says "without weights".
    """
    if weights is None:
        return None
    spec = get_spec(name)
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
    path = Path(weights).expanduser()
    if not path.exists():
        raise ModelError(f"no weights file at {path}; expected None, '{spec.trained_on}' or the path of a weight file")
    return path


def load(
    model: keras.Model,
    weights: str | os.PathLike[str] | None,
    name: str,
    reference: Callable[[], keras.Model],
    width: float = 1.0,
) -> None:
    """Fills `model`, a network of the registry name `name`, as `weights` says.

    None leaves the initial values. A word of `DATA_SETS` takes the fetched file. The path of a `.weights.h5` file must fit in
    every layer. From any other file of Keras (.keras, .h5) the layers of the model's own names are filled, which must fit. The
    path of a foreign file is converted, and proven, on the way (see `models.convert`), for the model's width and pictures. From
    published, other Keras and foreign weights, where the model has another number of classes, or no classifier, the trunk alone
    is filled, as from a file that holds no classifier; a line on stderr tells of the layers that are new.

    `reference` builds the same network with the classifier of its published weights; it is called where the trunk alone is
    wanted; `width` is that of both.
    Raises ModelError if the file is missing, damaged, or does not fit. Never leaves random weights silently.
    """
    path = find(weights, name)
    if path is None:
        return
    if not path.name.endswith(SUFFIX):
        _load_foreign(model, path, name, width)
        return
    spec = get_spec(name)
    published = weights == spec.trained_on
    if not published:
        survives(path)
    last = spec.classifier
    target = {layer.name: layer for layer in model.layers}
    # Of a Dense as of a convolution, the last axis of the kernel is the outputs.
    classes = target[last].kernel.shape[-1] if last in target else None
    if last not in stored_layers(path):
        trunk = model if classes is None else keras.Model(model.inputs, target[last].input, name=model.name)
        load_strict(trunk, path)
        if classes is not None:
            print(f"{name}: {shown(path.name)} holds no {last}, so a new one with {classes} classes", file=sys.stderr)
        return
    if not published or classes == spec.classes:
        load_strict(model, path)
        return
    source = reference()
    load_strict(source, path)
    _take(model, {layer.name: layer.get_weights() for layer in source.layers if layer.weights}, path, name)


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
            texts = [_shapes(None if of is None else ("", of)) for of in (found, shapes)]
            raise ModelError(
                f"{shown(path.name)} does not fit {model.name}: layer {layer.name} holds {texts[0]} there, {texts[1]} here; "
                "give the width and input shape that the file was made for"
            )
    groups = {layer for _, layers in spec.groups for layer in layers}
    strange = [layer for layer in held if layer not in mine and layer not in groups]
    if strange:
        raise ModelError(f"{shown(path.name)} does not fit {model.name}, which has no layer {strange[0]}")
    if new:
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
    return held | {name: [*arrays.values()] for name, arrays in by_layer.items() if name not in held}


def _load_foreign(model: keras.Model, path: Path, name: str, width: float) -> None:
    foreign = read(path)
    held = _own_layers(model, foreign, get_spec(name).classifier)
    if held is None:
        from emotiw_keras.models.convert import convert

        shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else ()
        source, _ = convert(name, foreign, width=width, input_shape=shape if len(shape) == 3 and all(shape) else None)
        held = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    _take(model, held, path, name)
