"""A classifier that reads several activations, as `models.features` makes it, in the terms of `formats.foreign.Node`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from emotiw_keras.formats.foreign import Node

GRID = 3
"""Maps are averaged over the parts of a grid of so many rows and columns, which tell the mouth from the eyes."""
CONCATENATED = "features"
"""What the classifier reads."""
_Size = tuple[int, int] | None


def grid(side: int) -> tuple[int, int]:
    """Size and stride of the windows that cover the rows, or the columns, of a map.

    Example:
        >>> grid(12), grid(7), grid(2)
        ((4, 4), (3, 2), (1, 1))
    """
    stride = max(1, side // GRID)
    return side - stride * (min(side, GRID) - 1), stride


def reading_features(
    nodes: tuple[Node, ...], shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int], count: int
) -> tuple[Node, ...]:
    """The network whose classifier reads its last `count` activations, and what it has read so far, side by side.

    Args:
        nodes: a network that ends in its classifier, an "fc"; its activations are its "relu".
        shapes: of the arrays that the nodes name, kernels as Keras has them (height, width, in, out).
        size: height and width of the images.
        count: of activations; a network that has fewer is read at all of them.
    """
    *before, classifier = nodes
    (read,) = classifier.inputs
    sizes = _sizes(before, shapes, size)
    taps = [node.outputs[0] for node in before if node.op == "relu" and node.outputs[0] != read][-count:]
    added: list[Node] = []
    parts: list[str] = []
    for tap in taps:
        side = sizes[tap]
        if side is None:
            parts.append(tap)
            continue
        (height, down), (width, along) = map(grid, side)
        pooling = {"size": (height, width), "stride": (down, along), "pad": (0,) * 4, "rounding": "floor", "count_pad": False}
        added.append(Node("mean_pool", f"{tap}_grid", (tap,), (f"{tap}_grid",), (), pooling))
        added.append(Node("flatten", f"{tap}_parts", (f"{tap}_grid",), (f"{tap}_parts",)))
        parts.append(f"{tap}_parts")
    if sizes[read] is not None:
        added.append(Node("flatten", f"{read}_parts", (read,), (f"{read}_parts",)))
        read = f"{read}_parts"
    added.append(Node("concat", CONCATENATED, (*parts, read), (CONCATENATED,), (), {"axis": 1}))
    return (*before, *added, dataclasses.replace(classifier, inputs=(CONCATENATED,)))


def _sizes(nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int]) -> dict[str, _Size]:
    """Height and width of every tensor; None of one that has no maps."""
    sizes: dict[str, _Size] = {"data": size}
    for node in nodes:
        before = sizes[node.inputs[0]]
        after = before
        if node.op == "fc":
            after = None
        elif before is not None and node.op == "global_mean":
            after = (1, 1)
        elif before is not None and node.op in ("conv", "max_pool", "mean_pool"):
            window = shapes[node.arrays[0]][:2] if node.op == "conv" else node.attrs["size"]
            up = node.attrs.get("rounding") == "ceil"
            top, bottom, left, right = node.attrs["pad"]
            room = (before[0] + top + bottom - window[0], before[1] + left + right - window[1])
            (down, along), (rows, columns) = node.attrs["stride"], room
            after = ((rows + up * (down - 1)) // down + 1, (columns + up * (along - 1)) // along + 1)
        sizes[node.outputs[0]] = after
    return sizes
