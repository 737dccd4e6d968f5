"""The computation of a Caffe network at test time: its layers as nodes, without what only training needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.caffe_layers import Layer, Network
from emotiw_keras.formats.caffe_nodes import ROLES, node_of
from emotiw_keras.formats.foreign import Images, Node
from emotiw_keras.formats.protobuf import last

_MOST_REASONS = 8
"""Why one name is ignored, as told; a file may have any number of layers of one name."""
DATA = ("Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData", "AnnotatedData")


def only_trains(kind: str) -> bool:
    """Whether a layer type feeds, measures or ends training and computes nothing of the answer."""
    if kind == "SoftmaxWithLoss":
        return False
    return kind in (*DATA, "Accuracy", "Silence", "HDF5Output") or kind.endswith("Loss")


def note(ignored: dict[str, str], name: str, reason: str) -> None:
    """Add a reason; a name that stands there already keeps its other reasons."""
    known = ignored.get(name)
    if known is None:
        ignored[name] = reason
    elif len(reasons := known.split("; ")) < _MOST_REASONS and reason not in reasons:
        ignored[name] = f"{known}; {reason}"


def build(network: Network, where: str) -> tuple[tuple[Node, ...], dict[str, tuple[int, ...]]]:
    """The nodes of the test phase and the input tensors; what is left out goes to `network.ignored` with the reason.

    Raises:
        ModelError: two layers with arrays share a name, or a setting is out of range.
    """
    kept = []
    for layer in network.layers:
        if layer.dropped:
            note(network.ignored, layer.name or layer.type, layer.dropped)
        else:
            kept.append(layer)
    for name, count in Counter(layer.name for layer in kept if layer.blobs or layer.type in ROLES).items():
        if count > 1 or not name:
            raise ModelError(f"{where}: {count} layers with arrays have the name {name!r}, expected each to have its own")
    live = _live(kept)
    nodes, inputs = [], dict(network.inputs)
    data = {name for layer in network.layers if layer.type in DATA for name in layer.tops}
    made = set(inputs)
    for layer, needed in zip(kept, live, strict=True):
        if only_trains(layer.type):
            note(network.ignored, layer.name or layer.type, f"only training needs it ({layer.type})")
        elif layer.type == "Input":
            continue
        elif not needed:
            note(network.ignored, layer.name or layer.type, f"{layer.type} of what only training needs")
        else:
            node = node_of(layer, where)
            for name in node.inputs:
                if name not in made and name in data:
                    inputs[name] = (0, 0, 0, 0)
                    made.add(name)
            made.update(node.outputs)
            nodes.append(node)
    return tuple(nodes), inputs


def images_of(network: Network, inputs: Collection[str]) -> tuple[Images, ...]:
    """How the layers that feed these inputs say that they prepare images, those of the training phase too; each way once."""
    found = []
    for layer in network.layers:
        given = layer.settings
        if layer.type in DATA and set(layer.tops[:1]) & set(inputs) and given.keys() & {"scale", "mean_value", "mean_file"}:
            mean = tuple(given.get("mean_value", ()))
            found.append(Images(last(given, "scale", 1.0), mean, last(given, "mean_file", "")))
    return tuple(dict.fromkeys(found))


def mean_of(images: Sequence[Images]) -> np.ndarray | None:
    """The mean pixel, float32 of one value or three, that all of them say."""
    means = {(each.mean, each.mean_file) for each in images}
    mean = next(iter(means))[0] if len(means) == 1 else ()
    return np.array(mean, np.float32) if len(mean) in (1, 3) and all(abs(value) <= 255 for value in mean) else None


def _live(layers: list[Layer]) -> list[bool]:
    """Which layers the answer needs: those with weights, those whose result is the last or a prediction, and what they use."""
    latest: dict[str, int] = {}
    users: list[list[tuple[int, int]]] = [[] for _ in layers]
    used: list[set[str]] = [set() for _ in layers]
    for i, layer in enumerate(layers):
        for place, name in enumerate(layer.bottoms):
            if name in latest:
                users[latest[name]].append((i, place))
                used[latest[name]].add(name)
        for name in layer.tops:
            latest[name] = i
    live = [False] * len(layers)
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        if only_trains(layer.type):
            continue
        result = set(layer.tops) - used[i] or not layer.tops
        live[i] = bool(result or layer.blobs or layer.type in ROLES) or any(
            # What a loss compares, its first input, is an answer; the labels it is compared with are not.
            place == 0 if layers[j].type.endswith("Loss") else live[j]
            for j, place in users[i]
        )
    return live


def check_arrays(nodes: Iterable[Node], shapes: dict[str, tuple[int, ...]], where: str) -> None:
    """Raise ModelError unless the arrays of every node are there and have the sizes that its settings say."""
    for node in nodes:
        for name in node.arrays:
            if name not in shapes:
                raise ModelError(f"{where}: layer {node.name} ({node.op}) needs the array {name}, which the file does not hold")
        if node.op not in ("conv", "fc"):
            continue
        shape, out = shapes[node.arrays[0]], node.attrs["out"]
        if node.op == "conv":
            fits = len(shape) == 4 and (shape[0], *shape[2:]) == (out, *node.attrs["size"])
            expected = f"{out} filters of {'x'.join(map(str, node.attrs['size']))}"
        else:
            outputs = 1 if node.attrs.get("layout") == "io" else 0
            fits = len(shape) == 2 and shape[outputs] == out
            expected = f"{out} outputs"
        fits = fits and all(math.prod(shapes[name]) == out for name in node.arrays[1:])
        if not fits:
            found = " and ".join("x".join(map(str, shapes[name])) for name in node.arrays)
            raise ModelError(f"{where}: layer {node.name} has arrays of {found}, its settings ask for {expected}")
