"""What is run as the original and on which images: the computation in a foreign file, or the authors' own. No Keras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from emotiw_keras.conversion.matching import WEIGHTED, Match, Matching, original_nodes, trunk_length
from emotiw_keras.conversion.record import RowOrder
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Foreign, Layout, Node
from emotiw_keras.models.registry import LARGEST_SIDE, ModelSpec, get_spec


def trunk_of(foreign: Foreign, matching: Matching, spec: ModelSpec) -> Foreign:
    """Without what lies behind the trunk, which is listed as ignored; as it is where the network is matched whole."""
    if matching.beyond is None:
        return foreign
    arrays = {key: array for key, array in foreign.arrays.items() if key not in matching.beyond}
    ignored = foreign.ignored | dict.fromkeys(matching.beyond, matching.why)
    if not matching.beyond:
        ignored[spec.classifier] = "not in the file; the trunk alone is converted"
    nodes = None if foreign.nodes is None else _without(foreign.nodes, set(matching.beyond))
    return replace(foreign, arrays=arrays, ignored=ignored, nodes=nodes)


def _without(nodes: Iterable[Node], arrays: set[str]) -> tuple[Node, ...]:
    """The nodes that need none of these arrays, nor what the nodes that do have made."""
    kept, gone = [], set[str]()
    for node in nodes:
        if arrays.intersection(node.arrays) or gone.intersection(node.inputs):
            gone.update(node.outputs)
        else:
            gone.difference_update(node.outputs)
            kept.append(node)
    return tuple(kept)


def original_arrays(foreign: Foreign, matches: Sequence[Match]) -> dict[str, np.ndarray]:
    """The file's arrays under the names that the original has for them."""
    arrays = {}
    for match in matches:
        arrays[f"{match.ours}.weight"] = foreign.arrays[match.weight]
        if match.bias is not None:
            arrays[f"{match.ours}.bias"] = foreign.arrays[match.bias]
        norm = match.normalisation
        if norm is not None:
            keys = {"mean": norm.mean, "variance": norm.variance, "gamma": norm.scales[0][0], "beta": norm.scales[0][1]}
            arrays |= {f"{norm.ours}.{role}": foreign.arrays[key] for role, key in keys.items() if key is not None}
            if norm.factor is not None:
                arrays[f"{norm.ours}.factor"] = foreign.arrays[norm.factor]
    return arrays


def fitted_original(name: str, arrays: Mapping[str, np.ndarray], *, whole: bool) -> tuple[Node, ...]:
    """The nodes of the network `name` as its authors defined it, for arrays in the form that a file has them in.

    Without the classifier unless `whole`. A fully connected layer with a kernel of four axes is a convolution over its whole
    input; statistics with a factor beside them are divided by it.
    """
    nodes = original_nodes(name)
    if not whole:
        behind = [node for node in nodes if node.op in WEIGHTED][trunk_length(name) :]
        nodes = _without(nodes, {f"{node.name}.weight" for node in behind})
    fitted = []
    for node in nodes:
        if node.op == "fc" and arrays[node.arrays[0]].ndim == 4:
            node = replace(node, op="conv")
        elif node.op == "batch_norm" and f"{node.name}.factor" in arrays:
            node = replace(node, arrays=(*node.arrays, f"{node.name}.factor"))
        fitted.append(node)
    return tuple(fitted)


def flattened(name: str, arrays: Mapping[str, np.ndarray], layout: Layout, size: tuple[int, int]) -> tuple[int, int] | None:
    """(height, width) of the maps that reach the first fully connected layer of the network `name`; None if it has none.

    Args:
        name: registry name.
        arrays: as `original_arrays` gives them.
        layout: of the kernels.
        size: height and width of the image.
    """
    nodes = original_nodes(name)
    sizes = {nodes[0].inputs[0]: size}
    for node in nodes:
        high, wide = sizes[node.inputs[-1]]
        if node.op == "fc":
            return high, wide
        if node.op in ("conv", "max_pool", "mean_pool"):
            window = node.attrs.get("size", ())
            if node.op == "conv":
                shape = arrays[node.arrays[0]].shape
                window = shape[2:] if layout == "oihw" else shape[:2]
            top, bottom, left, right = node.attrs["pad"]
            room = [high + top + bottom - window[0], wide + left + right - window[1]]
            up = node.attrs.get("rounding") == "ceil"
            high, wide = (-(-n // s) + 1 if up else n // s + 1 for n, s in zip(room, node.attrs["stride"], strict=True))
        elif node.op in ("global_mean", "global_max"):
            high, wide = 1, 1
        sizes[node.outputs[0]] = (high, wide)
    return None


def turned_rows(weight: np.ndarray, layout: Layout, maps: tuple[int, int]) -> np.ndarray:
    """A fully connected weight in the order of inputs that `layout` has, of one whose inputs are in the other order.

    Args:
        weight: "oihw": (out, in) over (height, width, channels); "hwio": (in, out) over (channels, height, width).
        layout: of the file.
        maps: (height, width) of what it takes.
    """
    high, wide = maps
    if layout == "oihw":
        turned = weight.reshape(len(weight), high, wide, -1).transpose(0, 3, 1, 2)
    else:
        turned = weight.reshape(-1, high, wide, weight.shape[1]).transpose(1, 2, 0, 3)
    return turned.reshape(weight.shape)


def image_shape(
    foreign: Foreign, name: str, matches: tuple[Match, ...], layout: Layout, wanted: tuple[int, ...] | None
) -> tuple[int, int, int]:
    """(height, width, channels) of the images: as the file declares them, else the network's own, else `wanted` if that alone
    fits the first fully connected layer. The channels are those of the first kernel."""
    first, spec = foreign.arrays[matches[0].weight], get_spec(name)
    channels = first.shape[1 if layout == "oihw" else 2] if first.ndim == 4 else 0
    if channels not in (1, 3):
        raise ModelError(f"{foreign.path.name}: {matches[0].weight} takes {channels} channels, expected images of 3 or 1")
    own = (spec.input_size, spec.input_size)
    declared = next(iter(foreign.inputs.values())) if len(foreign.inputs) == 1 else ()
    if foreign.nodes is not None:
        stated = len(declared) == 4 and declared[1] == channels and min(declared[2:]) > 0
        if stated and max(declared[2:]) > LARGEST_SIDE:
            size = f"{declared[2]}x{declared[3]}"
            raise ModelError(
                f"{foreign.path.name} takes images of {size}, expected at most {LARGEST_SIDE} a side; give it the size of the "
                "images that its network was trained on"
            )
        return (*((declared[2], declared[3]) if stated else own), channels)
    dense = next((foreign.arrays[match.weight] for match in matches if foreign.arrays[match.weight].ndim == 2), None)
    arrays = original_arrays(foreign, matches)
    if dense is not None and wanted is not None and len(wanted) == 3 and wanted[:2] != own:
        inputs = dense.shape[1 if layout == "oihw" else 0]
        before = foreign.arrays[matches[trunk_length(name) - 1].weight].shape[0 if layout == "oihw" else 3]
        fits = [flattened(name, arrays, layout, (size[0], size[1])) for size in (own, wanted)]
        if [maps is not None and maps[0] * maps[1] * before == inputs for maps in fits] == [False, True]:
            return wanted[0], wanted[1], channels
    return (*own, channels)


def with_rows(
    foreign: Foreign,
    name: str,
    matches: tuple[Match, ...],
    layout: Layout,
    shape: tuple[int, int, int],
    rows: RowOrder | None,
) -> tuple[Foreign, RowOrder | None]:
    """The file with the rows of its first fully connected layer in the order that goes with its kernels, and the order they are
    taken in; None where the file states it, or there is no more than one place."""
    dense = next((match for match in matches if foreign.arrays[match.weight].ndim == 2), None)
    stated = foreign.layout is not None and not foreign.flattening_open
    if foreign.nodes is not None or stated or dense is None:
        return foreign, None
    maps = flattened(name, original_arrays(foreign, matches), layout, shape[:2])
    usual: RowOrder = "chw" if layout == "oihw" else "hwc"
    weight = foreign.arrays[dense.weight]
    places = maps[0] * maps[1] if maps else 1
    if maps is None or places == 1 or weight.shape[1 if layout == "oihw" else 0] % places:
        return foreign, None
    if rows in (None, usual):
        return foreign, usual
    return replace(foreign, arrays=foreign.arrays | {dense.weight: turned_rows(weight, layout, maps)}), rows


def until_scores(nodes: Iterable[Node]) -> tuple[tuple[Node, ...], str]:
    """What leads to the class scores, and their name: without the softmax at the end, if there is one, since small
    probabilities hide differences, and without changes of their shape."""
    steps = list(nodes)
    scores, end = steps[-1].outputs[0], len(steps)
    while end > 1:
        last = next((i for i in reversed(range(end)) if scores in steps[i].outputs), 0)
        node = steps[last]
        reshaped = node.op == "tensor" and node.attrs["type"] in ("Reshape", "Squeeze", "Unsqueeze")
        if not node.inputs or not (node.op in ("softmax", "identity", "flatten") or reshaped):
            break
        scores, end = node.inputs[0], last
    # backwards, as a tensor may be written over
    kept, needed = [], {scores}
    for node in reversed(steps[:end]):
        if needed.intersection(node.outputs):
            needed.difference_update(node.outputs)
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept)), scores
