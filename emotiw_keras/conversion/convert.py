"""A foreign weight file becomes a network of the zoo, and is proven to compute what the original computes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.conversion.described import OUTPUT, check_described
from emotiw_keras.conversion.into_keras import layout_of, normalisation_to_keras, to_keras
from emotiw_keras.conversion.matching import Match, check_scale, check_unscaled, match_layers, other_inputs
from emotiw_keras.conversion.original_computation import (
    fitted_original,
    image_shape,
    original_arrays,
    trunk_of,
    until_scores,
    with_rows,
)
from emotiw_keras.conversion.record import TOLERANCE, Conversion, Order, RowOrder
from emotiw_keras.errors import ModelError
from emotiw_keras.files import local_path
from emotiw_keras.formats import layout as change
from emotiw_keras.formats import reference
from emotiw_keras.formats.foreign import Foreign, Limits, beyond_float32, release_pages
from emotiw_keras.formats.reading import read
from emotiw_keras.models.registry import ModelSpec, build, get_spec
from emotiw_keras.weights.imagenet import imagenet_synsets

if TYPE_CHECKING:
    import keras

_DEFAULTS = Limits()


def probe_image(spec: ModelSpec, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """The image that networks are compared on: float32 (1, height, width, channels) of `shape`, the network's own if None, in
    its channel order, normalised.

    Blobs and noise of different colours with no symmetry, so that a swapped axis or channel shows.
    """
    height, width, channels = shape or (spec.input_size, spec.input_size, 3)
    rng = np.random.default_rng(2015)
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    waves = [np.sin(2 * np.pi * (a * rows + b * columns) + c) for a, b, c in rng.uniform(0.5, 4.0, (3, 3))]
    image = 128 + 70 * np.stack(waves, -1) + rng.normal(0, 20, (height, width, 3))
    pixels = np.clip(image, 0, 255)
    return ((pixels - np.asarray(spec.mean)) / np.asarray(spec.std)).astype("float32")[None, ..., :channels]


def convert(
    name: str,
    source: str | os.PathLike[str] | Foreign,
    *,
    structure: str | os.PathLike[str] | None = None,
    channel_order: Order | None = None,
    width: float = 1.0,
    input_shape: tuple[int, ...] | None = None,
    rows: RowOrder | None = None,
    limits: Limits = _DEFAULTS,
) -> tuple[keras.Model, Conversion]:
    """The network `name` with the weights of a foreign file.

    Args:
        name: registry name.
        source: a weight file in any format that `formats.reading` knows, or what it read of one.
        structure: a .prototxt that says how the layers of `source` are connected, where it does not say so itself.
        channel_order: of the images the original takes, where the file does not say; the network's own if None. Of a network
            whose publishers prepare images otherwise, a file of unknown names is doubted without it.
        width: the width of the network.
        input_shape: (height, width, channels) of the images of a file that states none and does not fit the network's own.
        rows: the order of the rows of the first fully connected layer, if the file leaves it open: "chw", "hwc", or None for
            that of its kernels: (out, in, height, width) go with "chw", (height, width, in, out) with "hwc".
        limits: bounds on what is read.

    Returns:
        The network, returning logits (or the mean of its last maps, where the trunk alone is converted), and the report.

    Raises:
        ModelError: the file is damaged, holds another network, or the converted network computes something else.
    """
    spec = get_spec(name)
    if spec.is_application:
        how = "with `emotiw fit --weights FILE`; no others are converted"
        raise ModelError(f"{name} takes Keras' own .h5 and .weights.h5 files as they are, {how}")
    foreign = source if isinstance(source, Foreign) else read(local_path(source), limits)
    try:
        return _converted(spec, foreign, structure, channel_order, width, input_shape, rows, limits)
    except ModelError as error:
        if not foreign.exported and not foreign.path.with_name("run.json").is_file():
            raise
        what = "was written by `emotiw export`" if foreign.exported else "is a run's, whose classifier may be of its own kind"
        how = "give the run folder where weights or a model are asked for: it needs no conversion"
        raise ModelError(f"{foreign.path} {what} ({error}); {how}") from error


def _converted(
    spec: ModelSpec,
    foreign: Foreign,
    structure: str | os.PathLike[str] | None,
    channel_order: Order | None,
    width: float,
    input_shape: tuple[int, ...] | None,
    rows: RowOrder | None,
    limits: Limits,
) -> tuple[keras.Model, Conversion]:
    name = spec.name
    if not foreign.arrays:
        raise ModelError(f"{foreign.path.name} ({foreign.format}) holds no weights; give the file that does")
    check_unscaled(name, foreign.path.name, foreign.rescales)
    if structure is not None:
        from emotiw_keras.formats.caffe import with_prototxt

        foreign = with_prototxt(foreign, read(local_path(structure), limits))
    if channel_order and foreign.channel_order and channel_order != foreign.channel_order:
        stated = foreign.channel_order.upper()
        raise ModelError(f"{foreign.path.name} takes {stated}, as its format says; leave out --channel-order")
    order: Order = foreign.channel_order or channel_order or spec.channel_order
    matching = match_layers(name, foreign)
    check_scale(name, foreign.path.name, foreign.images)
    others = other_inputs(name, foreign, matching, channel_order)
    matches, foreign = matching.matches, trunk_of(foreign, matching, spec)
    _check_numbers(foreign, matches)
    layout = layout_of(foreign, matches[0])
    last = foreign.arrays[matches[-1].bias or matches[-1].weight].size if matching.beyond is None else None
    own = foreign.nodes is not None
    reordered = None if last is None else _class_order(foreign, last)
    shape = image_shape(foreign, name, matches, layout, input_shape)
    foreign, taken = with_rows(foreign, name, matches, layout, shape, rows)
    conversion = Conversion(
        name, foreign, matches, matching.how, layout, order, last, own, reordered, taken, shape, other_inputs=others
    )

    # First the original, so that its temporary arrays are gone when the network's come.
    expected = _original(conversion, spec)
    from emotiw_keras.models.parts import computing_in, empty_networks

    release_pages(foreign.arrays[matches[0].weight])
    top = {"include_top": False, "pooling": "avg"} if last is None else {"classes": last, "classifier_activation": None}
    # Compared in float32, whatever the network that takes the weights will compute in.
    with computing_in("float32"), empty_networks():
        model = build(name, weights=None, width=width, input_shape=shape, **top)
    if foreign.description:
        uncompared = check_described(name, foreign.path.name, foreign.description, model, _names(conversion))
        conversion = replace(conversion, uncompared=uncompared)
    _fill(model, conversion, spec)
    conversion.parity.update(_compare(model, conversion, expected, spec))
    return model, conversion


def _names(conversion: Conversion) -> dict[str, str]:
    """Our layers with weights -> the file's."""
    names = {match.ours: match.theirs for match in conversion.matches}
    norms = [match.normalisation for match in conversion.matches if match.normalisation is not None]
    names |= {norm.ours: norm.mean.rpartition(".")[0] for norm in norms if norm.mean is not None}
    return names if conversion.classes is None else {**names, OUTPUT: OUTPUT}


def _check_numbers(foreign: Foreign, matches: Sequence[Match]) -> None:
    """Raise ModelError unless all weights are floating-point numbers, at least one each, that float32 can hold."""
    for key in (key for match in matches for key in match.keys):
        array = foreign.arrays[key]
        if not array.size:
            shape = "x".join(map(str, array.shape))
            raise ModelError(f"{foreign.path.name}: {key} is empty ({shape}), expected weights; save or fetch it anew")
        if array.dtype.kind != "f":
            raise ModelError(
                f"{foreign.path.name}: {key} is of {array.dtype}, expected floating-point numbers; save its weights as "
                "float32, not quantised and not as a mask"
            )
        _check_range(f"{foreign.path.name}: {key}", array)
        release_pages(array)


def _check_range(what: str, array: np.ndarray) -> None:
    value = beyond_float32(array)
    if value is not None:
        raise ModelError(f"{what} holds {value:g}, expected finite numbers within float32's 3.4e38; fetch or train it anew")


def _original(conversion: Conversion, spec: ModelSpec) -> dict[str, np.ndarray]:
    """Our layer -> what the original computes there on the probe image; `conversion.last` for the end."""
    foreign = conversion.foreign
    if foreign.nodes is not None:
        nodes, arrays = foreign.nodes, foreign.arrays
    else:
        arrays = original_arrays(foreign, conversion.matches)
        nodes = fitted_original(conversion.name, arrays, whole=conversion.classes is not None)
    nodes, last = until_scores(nodes)
    made = {name for node in nodes for name in node.outputs}
    starts = list(dict.fromkeys(name for node in nodes for name in node.inputs if name not in made))
    if len(starts) != 1:
        raise ModelError(f"{foreign.path.name} has {len(starts)} inputs ({', '.join(starts)}), expected one image")
    image = probe_image(spec, conversion.input_shape)
    if conversion.channel_order != spec.channel_order:
        image = image[..., ::-1]
    try:
        outputs, layers = reference.run(nodes, arrays, {starts[0]: image.transpose(0, 3, 1, 2)}, conversion.layout)
    except ModelError as error:
        raise ModelError(f"{foreign.path.name}: {error}") from error
    scores = outputs[last]
    if conversion.classes is None and scores.ndim == 4:
        scores = scores.mean(axis=(2, 3))
    theirs = {m.ours: (m.theirs if foreign.nodes is not None else m.ours) for m in conversion.matches}
    absent = [name for name in theirs.values() if name not in layers]
    if absent:
        raise ModelError(f"{foreign.path.name}: the layer {absent[0]} is no part of what gives its {conversion.last}")
    found = {ours: _hwc(layers[name]) for ours, name in theirs.items()} | {conversion.last: scores.reshape(1, -1)}
    if conversion.reordered:
        for layer in (conversion.matches[-1].ours, conversion.last):
            classes_last = found[layer].reshape(-1, len(conversion.reordered))
            found[layer] = classes_last[:, conversion.reordered].reshape(1, -1)
    return found


def _class_order(foreign: Foreign, classes: int) -> tuple[int, ...] | None:
    """Where the file has each ImageNet class, if it names all of them by their synsets and in another order."""
    usual = imagenet_synsets()
    if foreign.classes is None or len(foreign.classes) != classes or sorted(foreign.classes) != sorted(usual):
        return None
    return None if foreign.classes == usual else tuple(foreign.classes.index(synset) for synset in usual)


def _hwc(tensor: np.ndarray) -> np.ndarray:
    return np.moveaxis(tensor, 1, -1).reshape(tensor.shape[0], -1)


def _fill(model: keras.Model, conversion: Conversion, spec: ModelSpec) -> None:
    """Every variable of the network gets its array; each once."""
    file, foreign = conversion.foreign.path.name, conversion.foreign
    open_variables = {variable.path for variable in model.weights}
    maps: tuple[int, ...] | None = None
    if any(layer.name == "flatten" for layer in model.layers):
        maps = tuple(model.get_layer("flatten").input.shape[1:])
    for number, match in enumerate(conversion.matches):
        layer = model.get_layer(match.ours)
        kernel = layer.kernel
        dense = len(kernel.shape) == 2
        values = to_keras(match, foreign, conversion.layout, tuple(kernel.shape), maps if dense else None)
        if dense:
            maps = None
        if number == 0 and conversion.channel_order != spec.channel_order:
            values = change.swap_red_and_blue(values)
        # a bias before a normalisation is none of ours: it goes into the mean
        own_bias = match.bias if match.normalisation is None else None
        offsets = None if own_bias is None else np.asarray(foreign.arrays[own_bias]).reshape(-1)
        if offsets is not None and offsets.shape != tuple(layer.bias.shape):
            raise ModelError(f"{file}: {match.bias} has {offsets.size} values, expected {layer.bias.shape[0]}")
        if conversion.reordered and number == len(conversion.matches) - 1:
            values = values[..., conversion.reordered]
            offsets = None if offsets is None else offsets[list(conversion.reordered)]
        filled = [(kernel, values)] if offsets is None else [(kernel, values), (layer.bias, offsets)]
        if match.normalisation is not None:
            norm = model.get_layer(match.normalisation.ours)
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
                statistics = normalisation_to_keras(match, foreign, values.shape[-1], norm.epsilon)
            computed = [*zip((norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance), statistics, strict=True)]
            for variable, array in computed:
                _check_range(f"{file}: what {match.theirs}'s normalisation gives for {variable.path}", array)
            filled += computed
        for variable, array in filled:
            _assign(variable, array)
            open_variables.remove(variable.path)
        release_pages(foreign.arrays[match.weight])
    if open_variables:
        raise ModelError(f"{conversion.name}: nothing in {file} fills {', '.join(sorted(open_variables))}")


def _assign(variable: keras.Variable, array: np.ndarray) -> None:
    """`array` into `variable`, on TensorFlow some rows at a time: it copies what it is given twice on the way."""
    import keras

    if keras.backend.backend() != "tensorflow":
        variable.assign(np.ascontiguousarray(array, "float32"))
        return
    import tensorflow as tf

    from emotiw_keras.models.weights import ROWS_BYTES

    rows = max(1, ROWS_BYTES * len(array) // max(1, 4 * array.size))
    for start in range(0, len(array), rows):
        block = np.ascontiguousarray(array[start : start + rows], "float32")
        end = start + len(block)
        tf.raw_ops.ResourceStridedSliceAssign(ref=variable.value.handle, begin=[start], end=[end], strides=[1], value=block)


def _after(model: keras.Model, tensor: Any) -> Any:
    """What a layer's output becomes through the normalisation and the activation that alone read it."""
    import keras

    computing = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    readers = Counter(id(read) for layer in computing for read in keras.tree.flatten(layer.input))
    following = {
        id(layer.input): layer.output
        for layer in computing
        if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU))
    }
    while readers[id(tensor)] == 1 and id(tensor) in following:
        tensor = following[id(tensor)]
    return tensor


def _compare(model: keras.Model, conversion: Conversion, expected: dict[str, np.ndarray], spec: ModelSpec) -> dict[str, float]:
    """The differences of all layers; ModelError where one is larger than TOLERANCE."""
    import keras

    file = conversion.foreign.path.name
    outputs = {m.ours: _after(model, model.get_layer(m.ours).output) for m in conversion.matches}
    outputs[conversion.last] = model.output
    computed = keras.Model(model.inputs[0], outputs)(probe_image(spec, conversion.input_shape), training=False)
    parity = {}
    for layer, reference_values in expected.items():
        ours = keras.ops.convert_to_numpy(computed[layer]).reshape(1, -1)
        if ours.shape != reference_values.shape:
            raise ModelError(
                f"{file} is not {conversion.name}: {layer} gives {reference_values.size:,} values there and "
                f"{ours.size:,} here; choose the network it holds (--model)"
            )
        beyond = [value for values in (reference_values, ours) for value in values[~np.isfinite(values)][:1].tolist()]
        if beyond:
            raise ModelError(
                f"{file}: {layer} gives {beyond[0]:g} for the probe image, so nothing can be proved; nothing was written. Its "
                "weights, or those of a layer before it, are too large to compute with: fetch or train it anew"
            )
        largest = float(np.abs(reference_values).max())
        if not largest:
            conversion.silent.append(layer)
            largest = 1.0
        parity[layer] = float(np.abs(np.subtract(ours, reference_values, dtype=np.float64)).max()) / largest
        if not parity[layer] <= TOLERANCE:
            raise ModelError(
                f"{file} converted to {conversion.name} computes something else: {layer} differs by {parity[layer]:.1e} of its "
                f"largest value, allowed {TOLERANCE:.0e}; nothing was written. Its structure, channel "
                "order or normalisation is another one: look at it with --inspect"
            )
    return parity


def write_weights(model: keras.Model, out: str | os.PathLike[str], *, new: bool = False) -> Path:
    """The weights of a network as a `.weights.h5` file, which appears whole or not at all.

    Raises ModelError for another suffix, OutputError if it cannot be written, or with `new` if something is there.
    """
    from emotiw_keras.files import atomic_path
    from emotiw_keras.locking import sweep_beside
    from emotiw_keras.models.weights import SUFFIX, save

    path = local_path(out)
    if not path.name.endswith(SUFFIX):
        raise ModelError(f"cannot write weights to {path.name}; expected a name that ends in {SUFFIX}")
    sweep_beside(path)
    with atomic_path(path, new=new) as temporary:
        save(model, temporary)
    return path


def convert_to_cache(name: str, source: Path, say: Callable[[str], None] = print) -> Path:
    """Converts the published weights of `name` into the cache, where `weights="imagenet"` and the like find them."""
    from emotiw_keras.models.weights import SUFFIX
    from emotiw_keras.weights.cache import cache_dir

    model, conversion = convert(name, source)
    for line in conversion.lines():
        say(line)
    return write_weights(model, cache_dir() / f"{get_spec(name).weights}{SUFFIX}")
