"""Keras' files: the old `.h5` of weights or of a whole model, the `.weights.h5` of Keras 3, and its `.keras` of a whole model.

Nothing is run. The description of the layers that a whole model carries (JSON that can name code to run, as a Lambda layer
does) is searched for "channels_first" and for what changes images ahead of the first weights, and handed on as text. Sources:
Keras' `legacy/saving/legacy_h5_format.py` and `saving/saving_lib.py`; Keras 2's `utils/conv_utils.py` (`convert_kernel`).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.hdf5 import Hdf5, open_hdf5
from emotiw_keras.formats.hdf5_trial import rehearse

ROLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "mean",
    "moving_variance": "variance",
}
WEIGHTS_ENTRY = "model.weights.h5"
UNPACKED = "emotiw_keras_unpacked_"
"""How the folders start, among the system's temporary ones, in which such an entry lies while it is read."""
_BATCH_NORM = ("gamma", "beta", "mean", "variance")
_OLD_NAME = re.compile(r"(?:.*_)?(W|b)(?:_\d+)?")
_DESCRIPTION = "a description of layers; settings are compared where a network is converted, nothing is run"
_TRAINING = "how it was trained; only arrays are read"
_OPTIMIZER = "the optimizer's state, which only training needs"
_CHANNELS_FIRST = re.compile(r'"data_format"\s*:\s*"channels_first"')
_LAYER = re.compile(r'"class_name"\s*:\s*"(?:[^">]*>)?(\w+)"(?:\s*,\s*"config"\s*:\s*\{\s*"name"\s*:\s*"([^"]*)")?')
_RESCALES = ("Rescaling", "Normalization")
_WEIGHS = re.compile(r"\w*Conv\w*|Dense|EinsumDense|BatchNormalization|LayerNormalization|Embedding")
_CHANGES = {
    "Lambda", "TFOpLambda", "SlicingOpLambda", "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "FloorDivide", "Negative",
    "Power", "Square", "Sqrt", "Log", "Absolute", "Mean", "Std", "Var", "Maximum", "Minimum", "Clip", "GetItem", "Flip",
}  # fmt: skip
"""What changes images where it stands before the first layer with weights; behind it is the network's own."""
_SPATIAL_KERNEL = 4
"""Axes, at least, of a kernel that is turned; of three may also be one of a layer that is no convolution."""


def read_keras_h5(path: Path, limits: Limits | None = None, *, trusted: bool = False) -> Foreign:
    """The arrays of a Keras HDF5 file, named `<layer>.weight`, `.bias`, `.gamma`, `.beta`, `.mean`, `.variance`.

    Kernels are (height, width, in, out), fully connected ones (in, out). Weights of other names keep them. Those of Keras 2 on
    Theano, whose convolutions turn their kernels by 180 degrees, come turned, as Keras 2 loaded them elsewhere. A `.weights.h5`
    file of Keras 3 numbers a layer's variables instead of naming them: a kernel and a vector are called weight and bias,
    the four of a batch normalisation by their order, all others by their numbers.

    Args:
        path: the file.
        limits: bounds of what is read; the defaults of `Limits` if None.
        trusted: whether it came with the package, so that no other process need try it first.

    Returns:
        layout "hwio" (None for files of Keras 1, which could be either), no nodes. `flattening_open` where a file of Keras 2
        does not say that its channels are last: with them first, early Flattens gave (channels, height, width).

    Raises:
        ModelError: the file is damaged, unsafe (see `hdf5.open_hdf5`), or no weight file of Keras.

    Example:
        >>> read_keras_h5(Path("vgg.h5")).arrays["conv1.weight"].shape  # doctest: +SKIP
        (3, 3, 3, 64)
    """
    bounds = limits or Limits()
    if not trusted:
        rehearse(read_keras_h5, path, bounds)
    with open_hdf5(path, bounds, rehearsed=True) as file:
        top = file.children(file.root)
        foreign = Foreign(format="Keras weights", path=path, arrays={}, layout="hwio")
        for name, why in (("model_config", _DESCRIPTION), ("training_config", _TRAINING)):
            if file.has(file.root, name):
                foreign.ignored[name] = why
        whole = top.get("model_weights")
        weights = whole if isinstance(whole, h5py.Group) else file.root
        layers = _texts(file, weights, "layer_names")
        if layers is not None:
            version = file.texts_of(file.root, "keras_version") or file.texts_of(weights, "keras_version") or ("1",)
            if "".join(version).startswith("1"):
                foreign.layout = None
            foreign.format = f"Keras {'model' if weights is whole else 'weights'} (HDF5)"
            text = _described(file)
            foreign.flattening_open = text is None or _CHANNELS_FIRST.search(text) is not None
            foreign.description = text or ""
            foreign.rescales = rescaling_in(foreign.description) or tuple(filter(is_rescaling, layers))
            backend = file.texts_of(file.root, "backend") or file.texts_of(weights, "backend") or ()
            turned = backend == ("theano",) and foreign.layout is not None
            if foreign.layout is None and backend != ("tensorflow",):
                why = "not named by Keras 1; kernels of Theano are turned by 180 degrees: look with --check IMAGE=CLASS"
                foreign.ignored["backend"] = why
            if turned:
                foreign.format += " of the Theano backend, kernels turned by 180 degrees"
            _read_named(file, weights, layers, foreign, turned)
        elif isinstance(top.get("layers"), h5py.Group) or "_layer_checkpoint_dependencies" in top:
            foreign.format = "Keras 3 weights (HDF5)"
            _read_numbered(file, foreign)
        else:
            found = ", ".join(map(repr, [*top][:8])) or "nothing"
            raise ModelError(f"{path.name} holds {found}; expected Keras' layer_names, model_weights or layers")
        for name in top:
            if "optimizer" in name:
                foreign.ignored[name] = _OPTIMIZER
        return foreign


def read_keras_archive(path: Path, limits: Limits | None = None) -> Foreign:
    """The arrays of a `.keras` file, a zip with a `.weights.h5` file in it; named as in `read_keras_h5`.

    Raises:
        ModelError: as `read_keras_h5`; or the zip is damaged or holds no weights, or there is no room to unpack them.
    """
    from emotiw_keras.formats.zipped import Zip

    bounds = limits or Limits()
    with unpacked(path, bounds) as weights:
        held = read_keras_h5(weights, bounds.of_file(path.stat().st_size))
    archive = Zip(path, bounds)
    config = description_of(path, bounds)
    others = {name: _DESCRIPTION for name in archive.sizes if name == "config.json"}
    others |= {name: "nothing about weights" for name in archive.sizes if name not in (WEIGHTS_ENTRY, "config.json")}
    first = _CHANNELS_FIRST.search(config) is not None
    return replace(
        held,
        format="Keras 3 model",
        path=path,
        ignored=held.ignored | others,
        flattening_open=first,
        description=config,
        rescales=rescaling_in(config) or held.rescales,
    )


@contextmanager
def unpacked(path: Path, limits: Limits) -> Iterator[Path]:
    """The `.weights.h5` file in a `.keras` file, as a file: the HDF5 library reads nothing else. Its name, by which
    errors call it, is that of the whole.

    Raises:
        ModelError: the zip is damaged or holds no weights, or there is no room to unpack them.
    """
    from emotiw_keras.formats.zipped import Zip

    archive = Zip(path, limits)
    if WEIGHTS_ENTRY not in archive.sizes:
        raise ModelError(f"{path.name} holds no {WEIGHTS_ENTRY}, as a .keras file does; save the model again as one file")
    content = archive.read(WEIGHTS_ENTRY)
    folder = Path(tempfile.mkdtemp(prefix=UNPACKED))
    file = folder / path.name
    try:
        try:
            file.write_bytes(content)
        except OSError as error:
            raise ModelError(f"{path.name} cannot be unpacked in {folder}: {error.strerror}; make room there") from error
        yield file
    finally:
        file.unlink(missing_ok=True)
        folder.rmdir()


def _texts(file: Hdf5, group: h5py.Group, name: str) -> tuple[str, ...] | None:
    """An attribute of names; Keras splits long ones into name0, name1, ..."""
    whole = file.texts_of(group, name)
    if whole is not None:
        return whole
    parts: list[str] = []
    number = 0
    while (part := file.texts_of(group, f"{name}{number}")) is not None:
        parts += part
        number += 1
    return tuple(parts) if number else None


def _dataset(file: Hdf5, group: h5py.Group, place: str) -> h5py.Dataset:
    """The dataset at a path below a group, step by step, so that nothing but checked links is followed."""
    above, _, last = place.rpartition("/")
    holder = _group(file, group, above) if above else group
    item = None if holder is None else file.child(holder, last)
    if not isinstance(item, h5py.Dataset):
        raise ModelError(f"{file.name} is damaged: no weight {place!r} in {group.name!r}, which lists it; fetch it again")
    return item


def _group(file: Hdf5, group: h5py.Group, place: str) -> h5py.Group | None:
    """The group at a path below a group, step by step; None if there is none."""
    item: h5py.Group | h5py.Dataset | None = group
    for part in place.split("/"):
        item = file.child(item, part) if isinstance(item, h5py.Group) else None
    return item if isinstance(item, h5py.Group) else None


def _read_named(file: Hdf5, weights: h5py.Group, layers: tuple[str, ...], foreign: Foreign, turned: bool) -> None:
    # The slash in a layer's name makes a group of its first part.
    listed = {layer.partition("/")[0] for layer in layers}
    for layer in layers:
        group = _group(file, weights, layer)
        if group is None:
            raise ModelError(f"{file.name} is damaged: no group of layer {layer!r}, which layer_names lists; fetch it again")
        names = _texts(file, group, "weight_names") or ()
        roles = [_role(name) for name in names]
        clear = len(set(roles)) == len(roles)
        for name, role in zip(names, roles, strict=True):
            # A model within the model has many kernels: there the weight's own path tells them apart.
            inner = name.removesuffix(":0").rpartition("/")[0]
            key = f"{layer}.{role}" if clear or not inner else f"{inner}.{role}"
            if key in foreign.arrays:
                key = f"{layer}/{name}"
            if key in foreign.arrays:
                raise ModelError(f"{file.name} lists the weight {name!r} of layer {layer!r} twice; save it again")
            array = file.array(_dataset(file, group, name))
            kernel = turned and role == "weight" and array.ndim >= _SPATIAL_KERNEL
            foreign.arrays[key] = np.flip(array, tuple(range(array.ndim - 2))) if kernel else array
    for name, item in file.children(weights).items():
        if name not in listed and "optimizer" not in name and not (isinstance(item, h5py.Group) and not file.children(item)):
            foreign.ignored[name] = "not listed in layer_names"


def _described(file: Hdf5) -> str | None:
    """The description of the layers, if there is one that can be read."""
    try:
        texts = file.texts_of(file.root, "model_config")
    except ModelError:
        return None
    return None if texts is None else "".join(texts)


def rescaling_in(description: str) -> tuple[str, ...]:
    """The layers and operations in a description of layers that change the images by what no array holds, or a layer ahead of
    the network.

    Example:
        >>> rescaling_in('{"class_name": "Rescaling", "config": {"name": "to_one", "scale": 0.004}}')
        ('to_one',)
    """
    found, before = [], True
    for match in _LAYER.finditer(description):
        before = before and not _WEIGHS.fullmatch(match[1])
        if match[1] in _RESCALES or (before and match[1] in _CHANGES):
            found.append(match[2] or match[1])
    return tuple(found)


def is_rescaling(name: str) -> bool:
    """Whether it is the name that Keras gives to a layer that changes images, and to its group in a `.weights.h5` file: what a
    Lambda changes there is not told. Operations such as `x / 255` stand in no file of weights alone."""
    return re.fullmatch(r"(rescaling|normalization|lambda)(_\d+)?", name) is not None


def description_of(path: Path, limits: Limits) -> str:
    """The description of the layers in a `.keras` file, "" where it has none. Raises ModelError if the zip is damaged."""
    from emotiw_keras.formats.zipped import Zip

    archive = Zip(path, limits)
    return str(archive.read("config.json"), "utf-8", "replace") if "config.json" in archive.sizes else ""


def _role(name: str) -> str:
    last = name.rpartition("/")[2].removesuffix(":0")
    old = _OLD_NAME.fullmatch(last)
    if old:
        return {"W": "weight", "b": "bias"}[old[1]]
    return ROLES.get(last, last)


def _read_numbered(file: Hdf5, foreign: Foreign) -> None:
    waiting: list[tuple[str, h5py.Group]] = [("", file.root)]
    while waiting:
        place, group = waiting.pop()
        for name, item in reversed(file.children(group).items()):
            inside = f"{place}/{name}" if place else name
            if isinstance(item, h5py.Group) and name != "vars":
                # A model within the model that was compiled has its own; what lies in a group "layers" is a layer.
                if place and name == "optimizer" and not place.endswith("layers"):
                    foreign.ignored[inside] = _OPTIMIZER
                elif place or "optimizer" not in name:
                    waiting.append((inside, item))
            elif isinstance(item, h5py.Dataset):
                foreign.ignored[inside] = "a dataset outside of a layer's variables"
            else:
                _read_variables(file, place, item, foreign)


def _read_variables(file: Hdf5, place: str, group: h5py.Group, foreign: Foreign) -> None:
    if is_rescaling(place.rpartition("/")[2]):
        foreign.rescales += ("".join(file.texts_of(group, "name") or (place,)),)
    items = file.children(group)
    if not items:
        return
    wrong = [key for key, item in items.items() if not key.isdecimal() or not isinstance(item, h5py.Dataset)]
    if wrong:
        raise ModelError(f"{file.name}: {group.name!r} holds {wrong[0]!r}, expected numbered variables 0, 1, ...")
    datasets = [item for _, item in sorted(items.items(), key=lambda pair: int(pair[0])) if isinstance(item, h5py.Dataset)]
    if "seed_generator" in place:
        foreign.ignored[place] = "the state of a random generator"
        return
    ranks = [len(item.shape or ()) for item in datasets]
    kind = place.rpartition("/")[2]
    roles = tuple(sorted(items, key=int))
    if ranks[0] > 1 and ranks[1:] in ([], [1]):
        roles = ("weight", "bias")[: len(ranks)]
    elif re.fullmatch(r"batch_normalization(_\d+)?", kind) and len(ranks) == 4:
        roles = _BATCH_NORM
    layer = "".join(file.texts_of(group, "name") or (place,))
    if any(f"{layer}.{role}" in foreign.arrays for role in roles):
        layer = place
    for role, dataset in zip(roles, datasets, strict=True):
        foreign.arrays[f"{layer}.{role}"] = file.array(dataset)
