"""Which array of a foreign file belongs to which layer of ours, and in which layout. It needs no Keras."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emotiw_keras.converters import layout as change
from emotiw_keras.converters.foreign import Foreign, Layout, Node
from emotiw_keras.errors import ModelError
from emotiw_keras.models.registry import get_spec

WEIGHTED = ("conv", "fc")


@dataclass(frozen=True)
class Match:
    """The arrays of one of our layers: `theirs` is the foreign layer's name, `weight` and `bias` keys of its arrays."""

    ours: str
    theirs: str
    weight: str
    bias: str


def original_nodes(name: str) -> tuple[Node, ...]:
    """The network `name` as its authors defined it; see `models.originals`."""
    return importlib.import_module(get_spec(name).module).original(name)


def match_layers(name: str, foreign: Foreign) -> tuple[list[Match], str]:
    """The layers of the network `name`, each with its arrays in the file, and how they were found: "name" or "order".

    Names decide where the file uses one of the namings that the network is known by. Otherwise its convolutions and fully
    connected layers are taken in the order of its computation, if it holds one.

    Raises ModelError if a layer finds no arrays, or an array no layer.
    """
    layers = [node.name for node in original_nodes(name) if node.op in WEIGHTED]
    own = {layer: layer for layer in layers}
    namings: list[Mapping[str, str]] = [*importlib.import_module(get_spec(name).module).FOREIGN_NAMES, own]
    matches, how = _by_name(layers, namings, foreign), "name"
    if matches is None and foreign.nodes is not None:
        matches, how = _by_order(name, layers, foreign), "order"
    if matches is None:
        expected = ", ".join(dict.fromkeys(f"{naming[layers[0]]} and {naming[layers[1]]}" for naming in namings))
        first = ", ".join(list(foreign.arrays)[:4]) or "none"
        raise ModelError(
            f"{foreign.path.name} does not hold {name}: no known naming fits its {len(foreign.arrays)} arrays, which start "
            f"with {first}; expected layers called {expected}, ..."
        )
    left = [key for key in foreign.arrays if key not in {m.weight for m in matches} | {m.bias for m in matches}]
    if left:
        raise ModelError(
            f"{foreign.path.name} does not hold {name}: {len(left)} arrays have no place in it, the first is {left[0]} of "
            f"shape {foreign.arrays[left[0]].shape}"
        )
    return matches, how


def _by_name(layers: Sequence[str], namings: Sequence[Mapping[str, str]], foreign: Foreign) -> list[Match] | None:
    of_node = {node.name: node.arrays for node in foreign.nodes or () if node.op in WEIGHTED}
    for naming in namings:
        found = []
        for layer in layers:
            theirs = naming[layer]
            # Archives of arrays write the slash of Caffe's names as a dot.
            for spelled in (theirs, theirs.replace("/", ".")):
                keys = of_node.get(spelled, ())
                weight, bias = keys if len(keys) == 2 else (f"{spelled}.weight", f"{spelled}.bias")
                if weight in foreign.arrays and bias in foreign.arrays:
                    found.append(Match(layer, spelled, weight, bias))
                    break
        if len(found) == len(layers):
            return found
    return None


def _by_order(name: str, layers: Sequence[str], foreign: Foreign) -> list[Match]:
    nodes = [node for node in foreign.nodes or () if node.op in WEIGHTED]
    without = [node.name for node in nodes if len(node.arrays) != 2]
    if len(nodes) != len(layers) or without:
        lacking = f"; {without[0]} has no bias" if without else ""
        raise ModelError(
            f"{foreign.path.name} does not hold {name}: it has {len(nodes)} convolutions and fully connected layers, "
            f"expected {len(layers)} with a bias each ({', '.join(layers)}){lacking}"
        )
    return [Match(layer, node.name, *node.arrays) for layer, node in zip(layers, nodes, strict=True)]


def layout_of(foreign: Foreign, first: Match) -> Layout:
    """The layout of the file's kernels: as its format has it, else as the shape of the first kernel tells."""
    if foreign.layout is not None:
        return foreign.layout
    shape = foreign.arrays[first.weight].shape
    oihw = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
    hwio = len(shape) == 4 and shape[2] in (1, 3) and shape[0] == shape[1]
    if oihw == hwio:
        raise ModelError(
            f"{foreign.path.name}: {first.weight} has the shape {shape}; expected (filters, 1 or 3, size, size) or "
            "(size, size, 1 or 3, filters), and not both at once"
        )
    return "oihw" if oihw else "hwio"


def to_keras(
    match: Match, foreign: Foreign, layout: Layout, wanted: tuple[int, ...], maps: tuple[int, ...] | None
) -> np.ndarray:
    """The weight of `match` as a Keras kernel of shape `wanted`, a view where the layout allows.

    `maps` is the (height, width, channels) that a first fully connected layer flattens, None for every other layer.
    Raises ModelError if the shapes cannot agree.
    """
    array = foreign.arrays[match.weight]
    node = next((n for n in foreign.nodes or () if match.weight in n.arrays), None)
    if len(wanted) == 2 and array.ndim == 4:
        kernel = array if layout == "hwio" else change.kernel_to_hwio(array)
        result = change.kernel_to_dense(kernel) if kernel.shape[:3] == (maps or (1, 1, wanted[0])) else kernel
    elif array.ndim == 4:
        result = array if layout == "hwio" else change.kernel_to_hwio(array)
    elif array.ndim == 2 and layout == "oihw":
        weight = array.T if node is not None and node.attrs.get("layout") == "io" else array
        fits = maps is not None and weight.shape[1] == np.prod(maps)
        result = change.flat_chw_to_hwc(weight, (maps[0], maps[1], maps[2])) if maps and fits else change.dense_to_io(weight)
    else:
        result = array
    if result.shape != wanted:
        raise ModelError(
            f"{foreign.path.name}: {match.weight} has the shape {array.shape} ({layout}), which does not give {match.ours}'s "
            f"kernel of {wanted}; it belongs to another network, width or number of classes"
        )
    return result
