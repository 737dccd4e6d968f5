"""MatConvNet's networks, SimpleNN and DagNN, from MATLAB files of level 5 and of version 7.3.

Sources: MatConvNet's `vl_simplenn.m`, `vl_simplenn_tidy.m` (the fields of old files), `+dagnn/@DagNN/saveobj.m` and
`loadobj.m`. A file holds the network as the variable `net`, or its fields as variables, as the released ones do.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Foreign, Limits, Node
from emotiw_keras.formats.mat_files import Unread, Value, read_mat5
from emotiw_keras.formats.mat_hdf5 import read_mat73
from emotiw_keras.formats.matconvnet_layers import Layer, LayerReader
from emotiw_keras.formats.protobuf import checked_name

_SYNSET = re.compile(r"n\d{8}")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
Fields = Mapping[str, Value]


def read_matconvnet(path: Path, limits: Limits | None = None) -> Foreign:
    """A MatConvNet network: its arrays by layer, and its computation.

    Kernels are (height, width, in, out), also where MATLAB has dropped trailing axes of length 1; biases (out,). Fully
    connected layers are convolutions. Batch normalisation is two nodes: MatConvNet stores the mean and
    sigma = sqrt(variance + epsilon), so `variance` is sigma squared and the node's epsilon 0.

    Args:
        path: the `.mat` file.
        limits: bounds of what is read; the defaults of `Limits` if None.

    Returns:
        layout "hwio", channel_order "rgb" (None for grey images), `inputs` and `mean` from the net's normalisation,
        `classes` from its class descriptions. Tensors of a SimpleNN are x0, x1, ...

    Raises:
        ModelError: the file is damaged, no MATLAB file, holds no network or one that contradicts itself, or is larger
            than `limits` allow.

    Example:
        >>> net = read_matconvnet(Path("imagenet-vgg-f.mat"))  # doctest: +SKIP
        >>> net.arrays["conv1.weight"].shape  # doctest: +SKIP
        (11, 11, 3, 64)
    """
    variables, version = _variables(path, limits or Limits())
    net, ignored = _network(path.name, variables)
    dag = isinstance(net.get("params"), list | dict) or _is_dag(net["layers"])
    meta = _meta(net)
    reader = LayerReader(path.name)
    layers = _dag_layers(path.name, net) if dag else _simple_layers(path.name, net)
    if not layers:
        raise ModelError(f"{path.name} holds a network without layers")
    layers = _in_order(path.name, layers)
    made = {name for layer in layers for name in layer.outputs}
    shapes = _inputs(meta, [name for layer in layers if not layer.only_trains for name in layer.inputs if name not in made])
    nodes: list[Node] = []
    reader.channels = {name: shape[1] for name, shape in shapes.items() if shape[1]}
    for layer in layers:
        nodes += reader.nodes(layer)
    shapes = {name: (0, reader.channels.get(name, 0), *shape[2:]) for name, shape in shapes.items()}
    ignored |= reader.ignored
    if dag:
        used = {key for layer in layers for key in layer.weight_names}
        ignored |= {key: "a parameter that no layer has" for key in _params(path.name, net) if key not in used}
    mean = _mean(meta, net, ignored)
    grey = (mean is not None and mean.shape[-1] == 1) or any(shape[1] == 1 for shape in shapes.values())
    return Foreign(
        format=f"MatConvNet {'DagNN' if dag else 'SimpleNN'} (MATLAB {version})",
        path=path,
        arrays=reader.arrays,
        layout="hwio",
        nodes=tuple(nodes),
        inputs=shapes,
        channel_order=None if grey else "rgb",
        mean=mean,
        ignored=ignored,
        classes=_classes(meta, ignored),
    )


def _variables(path: Path, limits: Limits) -> tuple[dict[str, Value], str]:
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if _HDF5_MAGIC in (head[:8], head[512:]):
        return read_mat73(path, limits), "7.3"
    return read_mat5(path, limits), "5"


def _network(name: str, variables: Fields) -> tuple[Fields, dict[str, str]]:
    """The network's fields, and what else the file holds."""
    net = variables.get("net")
    if isinstance(net, Unread):
        raise ModelError(f"{name}: net is a MATLAB {net.kind}; save net.saveobj() for a DagNN, and the net moved to the CPU")
    if not isinstance(net, dict) and "layers" not in variables:
        structures = [value for value in variables.values() if isinstance(value, dict) and "layers" in value]
        net = structures[0] if structures else None
    if isinstance(net, dict):
        others = {key: "a variable beside the network" for key, value in variables.items() if value is not net}
    else:
        net, others = dict(variables), {}
    if "layers" not in net:
        raise ModelError(
            f"{name} holds {', '.join(map(repr, [*variables][:8])) or 'nothing'}; expected net, or layers and meta"
        )
    return net, others


def _is_dag(layers: Value) -> bool:
    return isinstance(layers, list) and bool(layers) and isinstance(layers[0], dict) and "block" in layers[0]


def _structures(name: str, what: str, value: Value | None) -> list[Fields]:
    """A structure, or a list of them, as a list."""
    if isinstance(value, np.ndarray) and not value.size or value is None:
        return []
    found = value if isinstance(value, list) else [value]
    structures = [part for part in found if isinstance(part, dict)]
    if len(structures) != len(found):
        raise ModelError(f"{name}: {what} holds something that is no structure; expected MatConvNet's layers and params")
    return list(structures)


def _texts(value: Value | None) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else [value]
    return tuple(checked_name(part, "MATLAB text") for part in parts if isinstance(part, str) and part)


def _word(fields: Fields, key: str) -> str:
    value = fields.get(key)
    return checked_name(value, f"MATLAB field {key}") if isinstance(value, str) else ""


def _labelled(name: str, net: Fields) -> Iterator[tuple[str, Fields]]:
    """The layers with their names, or their numbers where they have none of their own."""
    taken: set[str] = set()
    for i, fields in enumerate(_structures(name, "layers", net["layers"]), 1):
        label = _word(fields, "name")
        if not label or label in taken:
            label = f"layer{i}"
        taken.add(label)
        yield label, fields


def _simple_layers(name: str, net: Fields) -> list[Layer]:
    layers: list[Layer] = []
    for i, (label, fields) in enumerate(_labelled(name, net), 1):
        weights = fields.get("weights")
        if weights is None and "filters" in fields:
            weights = [fields["filters"], fields.get("biases", np.empty(0))]
        values = weights if isinstance(weights, list) else []
        before, after = (layers[-1].outputs if layers else ("x0",)), (f"x{i}",)
        layers.append(Layer(_word(fields, "type"), label, before, after, fields, values, [""] * len(values)))
    return layers


def _params(name: str, net: Fields) -> dict[str, Value]:
    return {_word(part, "name"): part.get("value", np.empty(0)) for part in _structures(name, "params", net.get("params"))}


def _dag_layers(name: str, net: Fields) -> list[Layer]:
    params = _params(name, net)
    layers: list[Layer] = []
    for label, fields in _labelled(name, net):
        names = _texts(fields.get("params"))
        missing = [key for key in names if key not in params]
        if missing:
            raise ModelError(f"{name}: layer {label!r} has the parameter {missing[0]!r}, which is not among net.params")
        block = fields.get("block")
        settings: Fields = block if isinstance(block, dict) else {}
        kind = _word(fields, "type").removeprefix("dagnn.")
        inputs, outputs = _texts(fields.get("inputs")), _texts(fields.get("outputs"))
        layers.append(Layer(kind, label, inputs, outputs, settings, [params[key] for key in names], list(names)))
    return layers


def _in_order(name: str, layers: Sequence[Layer]) -> list[Layer]:
    """The layers so that each follows what it takes; their order in the file where that is possible."""
    ahead = {key for layer in layers for key in layer.outputs}
    takers: dict[str, list[int]] = {key: [] for key in ahead}
    missing = []
    for place, layer in enumerate(layers):
        needed = ahead.intersection(layer.inputs)
        missing.append(len(needed))
        for key in needed:
            takers[key].append(place)
    # As if the file were gone through again and again, and each layer taken when all that it needs is there: (round, place).
    ready = [(0, place) for place, count in enumerate(missing) if not count]
    ordered = []
    while ready:
        turn, place = heapq.heappop(ready)
        ordered.append(layers[place])
        for key in layers[place].outputs:
            for taker in takers.pop(key, ()):
                missing[taker] -= 1
                if not missing[taker]:
                    heapq.heappush(ready, (turn + (taker < place), taker))
    if len(ordered) < len(layers):
        blocked = next(layer for layer, count in zip(layers, missing, strict=True) if count)
        raise ModelError(f"{name}: layer {blocked.name!r} waits for its own output; the network has a circle")
    return ordered


def _meta(net: Fields) -> Fields:
    meta = net.get("meta")
    old = {key: net[key] for key in ("normalization", "classes") if key in net}
    return {**old, **meta} if isinstance(meta, dict) else old


def _part(fields: Fields, key: str) -> Fields:
    value = fields.get(key)
    return value if isinstance(value, dict) else {}


def _inputs(meta: Fields, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The tensors that no layer makes; the first has the declared size of the images."""
    declared = meta.get("inputs")
    parts = declared if isinstance(declared, list) else [declared]
    sizes = {_word(part, "name"): part.get("size") for part in parts if isinstance(part, dict)}
    image = _part(meta, "normalization").get("imageSize")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if name not in shapes:
            size = sizes.get(name, image if not shapes else None)
            values = [float(x) for x in size.ravel()] if isinstance(size, np.ndarray) and size.size <= 4 else []
            whole = [int(x) if math.isfinite(x) and 0 < x <= 1 << 20 else 0 for x in (*values, 0, 0, 0)]
            shapes[name] = (0, whole[2], whole[0], whole[1])
    return shapes


def _mean(meta: Fields, net: Fields, ignored: dict[str, str]) -> np.ndarray | None:
    value = _part(meta, "normalization").get("averageImage", net.get("imageMean"))
    if not isinstance(value, np.ndarray) or not value.size:
        return None
    if not np.abs(value).max() <= 255:
        ignored["averageImage"] = "values that are no grey levels of 0..255"
        return None
    if value.size in (1, 3):
        return value.reshape(-1).astype(np.float32)
    if value.ndim == 2:
        value = value[:, :, None]
    if value.ndim == 3 and value.shape[2] in (1, 3):
        return value.astype(np.float32)
    ignored["averageImage"] = f"has the shape {value.shape}, expected (height, width, 3)"
    return None


def _classes(meta: Fields, ignored: dict[str, str]) -> tuple[str, ...] | None:
    classes = _part(meta, "classes")
    named = classes.get("name")
    synsets = isinstance(named, list) and all(isinstance(part, str) and _SYNSET.fullmatch(part) for part in named)
    described = named if synsets else classes.get("description", named)
    if not isinstance(described, list) or not described:
        return None
    names = tuple(part for part in described if isinstance(part, str))
    if len(names) != len(described):
        ignored["classes"] = f"{len(described) - len(names)} of its {len(described)} descriptions are no texts"
        return None
    if not all(name.isprintable() for name in names):
        ignored["classes"] = "descriptions that cannot be printed in one line"
        return None
    return names
