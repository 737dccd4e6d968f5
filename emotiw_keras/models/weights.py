"""Putting stored weights into a network: strictly, by layer name and shape, or with an error."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.files import check_room
from emotiw_keras.formats.foreign import Limits, check_floats
from emotiw_keras.formats.hdf5 import Hdf5, open_hdf5
from emotiw_keras.formats.hdf5_trial import rehearse
from emotiw_keras.formats.keras_h5 import is_rescaling, read_keras_h5
from emotiw_keras.models.parts import in_place, zeros

SUFFIX = ".weights.h5"
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
        if not name:
            raise wrong("its layers have no names, as in Keras 2: save it there as .h5 and give that")
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


def rescaling_layers(path: Path) -> tuple[str, ...]:
    """Names of the layers of a Keras `.weights.h5` file that rescale images: they hold no variables.

    Raises ModelError as `stored_layers`.
    """
    with open_hdf5(path, Limits()) as file:
        layers = file.child(file.root, "layers")
        groups = _layer_groups(file, layers) if isinstance(layers, h5py.Group) else ()
        own = [(place, file.child(group, "vars")) for place, group in groups if is_rescaling(place.rpartition("/")[2])]
        return tuple("".join((held is not None and file.texts_of(held, "name")) or (place,)) for place, held in own)


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


def load_strict(model: keras.Model, path: Path, behind: Collection[str] = ()) -> None:
    """Loads a `.weights.h5` file written by `model.save_weights`; names, order and shapes of the layers must be equal, but that
    the file may have the layers `behind` the model's own.

    Keras alone matches layers by class and order, so weights of one layer can slip into another of the same shape.
    Raises ModelError naming the first layer that differs.
    """
    found, wanted = stored_layers(path), _model_layers(model)
    for name in (*wanted, *found):
        there, here = found.get(name), wanted.get(name)
        if there == here or (here is None and name in behind):
            continue
        misfit = f"{path} does not fit {model.name}: layer {name}"
        if there and here and there[1] == here[1]:
            kinds = [re.sub(r"_\d+$", "", place) for place in (there[0], here[0])]
            why = "they are in another order" if kinds[0] == kinds[1] else "another network with the same names saved it"
            raise ModelError(
                f"{misfit} is {there[0]} in the file and {here[0]} in the model: {why}; `emotiw convert` makes a file for this "
                "one of it, if it computes the same"
            )
        raise ModelError(
            f"{misfit} holds {shapes_text(there)} in the file, {shapes_text(here)} in the model; "
            "give the classes, width and input shape it was saved with"
        )
    fill(model, path)


@contextmanager
def without_optimizer(model: keras.Model) -> Iterator[None]:
    """Within, a network has no optimizer: Keras saves its state with the weights, and overwrites it where it loads them."""
    given = getattr(model, "optimizer", None)
    if given is not None:
        model.optimizer = None
    try:
        yield
    finally:
        if given is not None:
            model.optimizer = given


def load_given(model: keras.Model, path: Path) -> None:
    """Loads a `.weights.h5` file into a network of the user's own, nested ones included, which has the variables it was saved
    with (see `keras_names.fingerprint`).

    Raises ModelError if the file cannot be read so.
    """
    rehearse(read_keras_h5, path, Limits())
    try:
        with without_optimizer(model):
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
                check_numbers(path, layer.name, variable, array)
                variable.assign(in_place(array))


def check_numbers(path: Path, layer: str, variable: keras.Variable, array: np.ndarray) -> None:
    """Raise ModelError unless the numbers that a file has for a variable are of its kind, and float32 can hold them."""
    if keras.backend.is_float_dtype(variable.dtype):
        check_floats(path.name, layer, array)


def shapes_text(entry: tuple[str, list[tuple[int, ...]]] | None) -> str:
    return "nothing" if entry is None else " and ".join("x".join(map(str, shape)) for shape in entry[1])
