"""The networks of `keras.applications` under a classifier of ours, as one flat model that recipes name the layers of.

Keras builds the trunk (`include_top=False`) and fetches ImageNet's weights. A run stores no architecture, only what builds the
same one again, so two things are put right: the names that Keras gives to layers without one do not depend on what else was
built before, and preprocessing that Keras puts into the network is left to `FaceInput`. (EfficientNet's would be another with
ImageNet's weights than without, and takes its mean and deviation when Keras loads a file, not when a variable is assigned.)
"""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import keras
import numpy as np
from keras import layers
from keras.src.backend.common import global_state
from keras.src.utils import file_utils

from emotiw_keras.conversion.matching import prepared
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.files import local_path
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.hdf5_trial import rehearse
from emotiw_keras.formats.keras_h5 import description_of, is_rescaling, read_keras_h5, rescaling_in, unpacked
from emotiw_keras.formats.reading import sniff
from emotiw_keras.models import weights as stored
from emotiw_keras.models.applications import APPLICATIONS, TORCH_MEAN, TORCH_STD
from emotiw_keras.models.parts import Shape, classifier
from emotiw_keras.models.registry import ModelSpec
from emotiw_keras.models.weights_argument import ForClasses, say_kept
from emotiw_keras.text import shown
from emotiw_keras.weights.fetch import offline

WEIGHTS = "imagenet"
_NAMES = "object_name_uids"


def application(
    spec: ModelSpec,
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = WEIGHTS,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    width: float = 1.0,
) -> keras.Model:
    """A network of `keras.applications`: its trunk, the mean of its maps, and a float32 `Dense` called "classifier".

    Args:
        spec: facts of the network, from `registry.get_spec`.
        include_top: with the classifier; without it the output is the trunk's.
        weights: None (random), "imagenet" (Keras' download, of the trunk), or the path of a `.weights.h5`, `.h5` or `.keras`
            file of this network, with its own top or without. The classifier is new, unless such a file has one that this
            function made.
        input_shape: (height, width, 3); the published size if None.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of the classifier.
        classifier_activation: of the output; None gives logits.
        name: of the model; that of Keras' function if None.
        width: 1, there are no others.

    Returns:
        A model from float (batch, height, width, 3), prepared as `spec` says, to float32 (batch, classes). EfficientNet,
        MobileNetV3 and ConvNeXt come without the preprocessing that Keras builds into them.

    Raises:
        ModelError: weights that are missing, cannot be fetched or do not fit; an impossible input shape.
        UsageError: an argument has an impossible value.

    Example:
        >>> from emotiw_keras.models import get_spec
        >>> application(get_spec("keras:MobileNetV2"), weights=None, classes=7, input_shape=(32, 32, 3)).output_shape
        (None, 7)
    """
    if width != 1:
        raise UsageError(f"{spec.name}: width is {width:g}; a network of keras.applications has one width, expected 1")
    if pooling not in (None, "avg", "max"):
        raise UsageError(f"pooling is {pooling!r}, expected None, 'avg' or 'max'")
    asked: tuple[Any, ...] = tuple(input_shape or (spec.input_size, spec.input_size, 3))
    shape = _checked_shape(spec, asked)
    file = None if weights in (None, WEIGHTS) else _existing(spec, weights)
    trunk = _trunk(spec, weights == WEIGHTS, shape, "avg" if include_top else pooling)
    output = classifier(trunk.output, classes, classifier_activation, spec.classifier) if include_top else trunk.output
    model = keras.Model(trunk.input, output, name=name or spec.class_name)
    new = weights == WEIGHTS if file is None else _load(spec, trunk, model, file)
    if include_top and not new and file is not None and isinstance(weights, ForClasses):
        say_kept(spec.name, file, spec.classifier)
    if include_top and new:
        source = WEIGHTS if file is None else file.name
        print(f"{spec.name}: weights of {source}, but a new {spec.classifier} with {classes} classes", file=sys.stderr)
    return model


def _checked_shape(spec: ModelSpec, shape: tuple[int, ...]) -> Shape:
    if keras.config.image_data_format() != "channels_last":
        raise UsageError(
            f"{spec.name} needs Keras' image_data_format channels_last; see keras.config.set_image_data_format, or keras.json"
        )
    if len(shape) != 3 or shape[2] != 3:
        raise ModelError(f"{spec.name}: input shape {shape}, expected (height, width, 3)")
    smallest = APPLICATIONS[spec.name].smallest
    if min(shape[:2]) < smallest:
        raise ModelError(f"{spec.name}: input {shape[0]}x{shape[1]} is too small, expected at least {smallest}x{smallest}")
    return shape[0], shape[1], shape[2]


def _existing(spec: ModelSpec, weights: Any) -> Path:
    path = local_path(weights)
    if not path.is_file():
        raise ModelError(f"no weights file at {path}; expected None, '{WEIGHTS}' or a Keras weight file of {spec.name}")
    return path


@contextmanager
def _names_from_zero() -> Iterator[None]:
    """Layers built inside are numbered from zero; those built later get none of their numbers."""
    before = global_state.get_global_attribute(_NAMES) or {}
    inside: defaultdict[str, int] = defaultdict(int)
    global_state.set_global_attribute(_NAMES, inside)
    try:
        yield
    finally:
        merged = {key: max(before.get(key, 0), inside.get(key, 0)) for key in {*before, *inside}}
        global_state.set_global_attribute(_NAMES, defaultdict(int, merged))


def _trunk(spec: ModelSpec, published: bool, shape: Shape, pooling: str | None) -> keras.Model:
    function = getattr(keras.applications, spec.class_name)
    arguments = {"include_top": False, "input_shape": shape, "pooling": pooling, "weights": WEIGHTS if published else None}
    if "include_preprocessing" in inspect.signature(function).parameters:
        arguments["include_preprocessing"] = False
    with _names_from_zero():
        trunk = _fetched(spec, function, arguments) if published else function(**arguments)
        own = next((layer for layer in trunk.layers if isinstance(layer, layers.Normalization)), None)
        if own is None:
            return trunk
        if published:
            _check_statistics(f"the {WEIGHTS} weights of {spec.name}", own.get_weights())
        return _without_preprocessing(trunk)


def _fetched(spec: ModelSpec, function: Callable[..., keras.Model], arguments: dict[str, Any]) -> keras.Model:
    """What `function` builds with the weights that it fetches, or finds in Keras' own cache."""

    def refuse(address: str, *_: Any) -> None:
        raise ModelError(
            f"the {WEIGHTS} weights of {spec.name} are not in Keras' cache and EMOTIW_OFFLINE forbids downloads; unset it, or "
            f"get {address} in another way and give its path with --weights"
        )

    with ExitStack() as stack:
        # Keras' progress; stdout is the command's, and offline it announces what will not be.
        stack.enter_context(redirect_stdout(io.StringIO() if offline() else sys.stderr))
        stack.enter_context(warnings.catch_warnings())
        # There is one file of trunk weights for inputs of every size.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        if offline():
            stack.enter_context(mock.patch.object(file_utils, "urlretrieve", refuse))
        try:
            return function(**arguments)
        except Exception as error:
            # Keras raises a bare Exception where an address does not answer, the HDF5 library OSError for a file cut short.
            if not isinstance(error, OSError | ValueError) and not str(error).startswith("URL fetch failure"):
                raise
            raise ModelError(
                f"the {WEIGHTS} weights of {spec.name} could not be fetched or read: {_line(error)}; try again (a damaged file "
                "in ~/.keras/models has to be deleted first), or get the file in another way and give its path with --weights"
            ) from error


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_preprocessing(trunk: keras.Model) -> keras.Model:
    """A copy of `trunk` with `Identity` in place of the rescaling and normalisation it begins with."""
    own = (layers.Rescaling, layers.Normalization)

    def kept(layer: layers.Layer) -> layers.Layer:
        if isinstance(layer, own):
            return layers.Identity(name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(trunk, clone_function=kept)
    copy.set_weights([value for layer in trunk.layers if not isinstance(layer, own) for value in layer.get_weights()])
    return copy


def _check_statistics(what: str, values: Sequence[np.ndarray]) -> None:
    """Raise if an EfficientNet stood behind another mean and deviation than the published ones, which `FaceInput` has."""
    mean, spread = (np.asarray(value, np.float64).reshape(-1) for value in values[:2])
    expected, deviation = np.array(TORCH_MEAN) / 255, np.array(TORCH_STD) / 255
    # Published files hold the deviation where Keras' layer expects its square; a further layer of Keras' mends that.
    known = [(expected, deviation), (expected, deviation**2)]
    if not any(np.shape(mean) == (3,) and np.allclose([mean, spread], each, atol=1e-3) for each in known):
        raise ModelError(
            f"{what} belong behind a Normalization of mean {mean.round(4).tolist()} and variance {spread.round(4).tolist()}; "
            f"expected ImageNet's, {expected.tolist()} and {(deviation**2).round(4).tolist()}"
        )


def _prepares(spec: ModelSpec, trunk: keras.Model) -> bool:
    """Whether files of Keras have the network behind layers of its own that rescale images."""
    published = "include_preprocessing" in inspect.signature(getattr(keras.applications, spec.class_name)).parameters
    # of EfficientNet, whose own stand first in every file, an Identity is left
    return published or any(is_rescaling(layer.name) for layer in trunk.layers)


def _tell_rescaling(spec: ModelSpec, trunk: keras.Model, path: Path, rescales: Sequence[str]) -> None:
    """Say on stderr if the network stood behind a layer of its user's that changes images, which is not taken along."""
    if _prepares(spec, trunk):
        own = [each for each in rescales if re.search(r"rescaling|normalization|^tf\.", each)]
        rescales = [*(each for each in rescales if each not in own), *[each for each in own if "normalization" in each][1:]]
    for layer in rescales[:1]:
        had = f"{shown(path.name)} has the layer {shown(layer)}, which changes images and is not taken"
        print(f"{spec.name}: {had}; here the network takes {prepared(spec)}", file=sys.stderr)


def _load(spec: ModelSpec, trunk: keras.Model, model: keras.Model, path: Path) -> bool:
    """Fill the trunk from a file of Keras, and the classifier if it fits in the file's; whether the classifier is still new."""
    kind = sniff(path)
    if kind == "Keras model":
        limits = Limits().of_file(path.stat().st_size)
        with unpacked(path, limits) as weights:
            try:
                return _load_hdf5(spec, trunk, model, weights, limits, rescaling_in(description_of(path, limits)))
            except ModelError as error:
                raise ModelError(str(error).replace(str(weights), str(path))) from error
    if kind != "Keras HDF5":
        raise ModelError(f"{path} is a file of {kind}; expected a .weights.h5, .h5 or .keras file of Keras for {spec.name}")
    return _load_hdf5(spec, trunk, model, path)


def _load_hdf5(
    spec: ModelSpec, trunk: keras.Model, model: keras.Model, path: Path, limits: Limits | None = None, told: Sequence[str] = ()
) -> bool:
    rehearse(read_keras_h5, path, limits or Limits())  # a stranger's file may crash the HDF5 library or point at other files
    with h5py.File(path, "r") as file:
        numbered = isinstance(file.get("layers"), h5py.Group) and "layer_names" not in file.attrs
    return _load_numbered(spec, trunk, model, path, told) if numbered else _load_listed(spec, trunk, path)


def _load_numbered(spec: ModelSpec, trunk: keras.Model, model: keras.Model, path: Path, told: Sequence[str]) -> bool:
    """From a `.weights.h5` file of Keras 3, by the layers' places in it; names must agree where the network gives them."""
    there = {place: (name, shapes) for name, (place, shapes) in stored.stored_layers(path).items()}
    for layer, place in stored.places(trunk):
        if layer.weights:
            name, shapes = there.get(place, ("nothing", []))
            _check_layer(spec, path, layer, name, shapes)
    _tell_rescaling(spec, trunk, path, told or stored.rescaling_layers(path))
    with h5py.File(path, "r") as file:
        for place in filter(_is_normalization, there if _prepares(spec, trunk) else ()):
            _check_statistics(f"the weights in {path}", [file[f"layers/{place}/vars/{number}"][()] for number in range(2)])
    head = next((layer for layer in model.layers if layer.name == spec.classifier), None)
    wanted = None if head is None else (head.name, [tuple(weight.shape) for weight in head.weights])
    whole = wanted in there.values()
    stored.fill(model if whole else trunk, path)
    return not whole


def _load_listed(spec: ModelSpec, trunk: keras.Model, path: Path) -> bool:
    """From an `.h5` file of earlier Keras, which lists the layers in the network's order; what follows the trunk is its top."""
    statistics: list[np.ndarray] = []
    found: list[tuple[str, np.ndarray]] = []
    foreign = read_keras_h5(path)
    _tell_rescaling(spec, trunk, path, foreign.rescales)
    for key, array in foreign.arrays.items():
        layer = key.rpartition(".")[0]
        if _is_normalization(layer):
            statistics.append(array)
        else:
            found.append((layer, array))
    if statistics and _prepares(spec, trunk):
        _check_statistics(f"the weights in {path}", statistics)
    start = 0
    for layer in trunk.layers:
        if not layer.weights:
            continue
        part = found[start : start + len(layer.weights)]
        start += len(layer.weights)
        _check_layer(spec, path, layer, part[0][0] if part else "nothing", [array.shape for _, array in part])
        for variable, (_, array) in zip(layer.weights, part, strict=True):
            stored.check_numbers(path, layer.name, variable, array)
        layer.set_weights([array for _, array in part])
    return True


def _is_normalization(layer: str) -> bool:
    return bool(re.fullmatch(r"normalization(_\d+)?", layer))


def _check_layer(spec: ModelSpec, path: Path, layer: layers.Layer, name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise unless a layer of the file has the shapes of ours and its name, which counts where the network gives one."""
    kind = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)).lower()
    numbered = re.fullmatch(rf"{kind}(_\d+)?", layer.name)
    wanted = [tuple(weight.shape) for weight in layer.weights]
    if list(shapes) != wanted or not (numbered or _spelt(name) == _spelt(layer.name)):
        raise ModelError(
            f"{path} does not fit {spec.name}: in the place of layer {layer.name} with {_shapes(wanted)} it holds {name} with "
            f"{_shapes(shapes)}; expected a weight file of keras.applications.{spec.class_name}, or a run folder"
        )


def _spelt(name: str) -> str:
    """A layer's name however the versions of Keras spell it: DenseNet has conv1/conv in Keras 2 and conv1_conv in Keras 3,
    MobileNetV3 Conv/BatchNorm and conv_bn."""
    return name.lower().replace("/", "_").replace("batchnorm", "bn")


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes) or "no weights"
