"""Which array of a foreign file belongs to which layer of ours. It needs no Keras."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Foreign, Images, Node
from emotiw_keras.models.originals import original
from emotiw_keras.models.registry import ModelSpec, get_spec
from emotiw_keras.text import shown

WEIGHTED = ("conv", "fc")


@dataclass(frozen=True)
class Normalisation:
    """The arrays of a batch normalisation: `ours` is our layer's name, the others are keys.

    `scales` are pairs of factors and offsets (None without), applied one after the other; `epsilon` is the file's. Where the
    file has it folded into the convolution before it, mean and variance are None, and it changes nothing but adds the bias.
    """

    ours: str
    mean: str | None
    variance: str | None
    factor: str | None
    scales: tuple[tuple[str, str | None], ...]
    epsilon: float

    @property
    def keys(self) -> tuple[str, ...]:
        """All its arrays."""
        found = (self.mean, self.variance, self.factor, *(key for pair in self.scales for key in pair))
        return tuple(key for key in found if key is not None)


@dataclass(frozen=True)
class Match:
    """The arrays of one of our layers: `theirs` is the foreign layer's name, `weight` and `bias` are keys of its arrays.

    `normalisation` is what follows a convolution of ours; its `bias` is then None, or goes into the normalisation's mean.
    """

    ours: str
    theirs: str
    weight: str
    bias: str | None
    normalisation: Normalisation | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """All its arrays."""
        bias = () if self.bias is None else (self.bias,)
        return (self.weight, *bias, *(self.normalisation.keys if self.normalisation else ()))


@dataclass(frozen=True)
class Matching:
    """How a file fits a network: by "name", by "order", or by "name and order", where only its trunk has known names; and which
    of its arrays lie behind the trunk, and why.

    `beyond` is None where the network is matched whole; otherwise the layers behind the trunk are without a match.
    """

    matches: tuple[Match, ...]
    how: str
    beyond: tuple[str, ...] | None = None
    why: str = "behind the trunk, which alone is converted"


def original_nodes(name: str) -> tuple[Node, ...]:
    """The network `name` as its authors defined it; see `models.originals`."""
    return original(name)


def _module(name: str) -> ModuleType:
    return importlib.import_module(get_spec(name).module)


def normalisation_after(nodes: Sequence[Node], node: Node) -> tuple[Node | None, list[Node]]:
    """The batch normalisation that takes what `node` makes, and the scales after it."""
    tensor, normalised, scales = node.outputs[0], None, []
    for after in nodes[next(i for i, other in enumerate(nodes) if other is node) + 1 :]:
        if tensor not in after.inputs:
            continue
        if after.op == "identity":
            pass
        elif after.op == "batch_norm" and normalised is None:
            normalised = after
        elif after.op == "scale" and normalised is not None:
            scales.append(after)
        else:
            break
        tensor = after.outputs[0]
    return normalised, scales


@dataclass(frozen=True)
class _Layer:
    """What the original says of one of our layers."""

    name: str
    bias: bool
    normalisation: Node | None


def _layers(nodes: Sequence[Node]) -> list[_Layer]:
    weighted = [node for node in nodes if node.op in WEIGHTED]
    return [_Layer(node.name, len(node.arrays) > 1, normalisation_after(nodes, node)[0]) for node in weighted]


def match_layers(name: str, foreign: Foreign) -> Matching:
    """The layers of the network `name`, each with its arrays in the file.

    Names decide where the file uses one of the namings that the network is known by. Otherwise its convolutions and fully
    connected layers are taken in the order of its computation, if it holds one. A file that lacks the classifier, or has other
    layers before it (AFTER_TRUNK in the network's module), gives the trunk: all before the first fully connected layer.

    Raises ModelError if a layer finds no arrays, or an array no layer.
    """
    module = _module(name)
    try:
        original = original_nodes(name)
    except ModelError as error:
        raise ModelError(f"{foreign.path.name} is not converted: {error}") from error
    layers = _layers(original)
    own = {layer.name: layer.name for layer in layers}
    own |= {each.normalisation.name: each.normalisation.name for each in layers if each.normalisation}
    namings: list[Mapping[str, str]] = [*module.FOREIGN_NAMES, own]
    after: tuple[str, ...] = getattr(module, "AFTER_TRUNK", ())
    between = [key for key in foreign.arrays if key.rpartition(".")[0] in after]
    trunk = layers[: trunk_length(name)]
    matches, how, beyond = None, "name", None
    if not between:
        matches = _by_name(layers, namings, foreign)
    if matches is None:
        behind = [key for naming in namings for key in _keys_of(naming[layers[-1].name], foreign)]
        if between or not behind:
            matches = _by_name(trunk, namings, foreign)
            names = {naming[layer.name] for naming in namings for layer in layers[len(trunk) :]}
            beyond = (*between, *(key for each in names for key in _keys_of(each, foreign)))
    weighted = sum(node.op in WEIGHTED for node in foreign.nodes or ())
    if matches is not None and beyond is not None and weighted == len(layers) and _left(foreign, matches, beyond):
        # Behind a known trunk are layers of other names, but as many as there should be.
        matches, how, beyond = _by_order(name, layers, foreign), "name and order", None
    if matches is None and foreign.nodes is not None:
        whole = weighted != len(trunk)
        matches, how, beyond = _by_order(name, layers if whole else trunk, foreign), "order", None if whole else ()
    if matches is None:
        _refuse_others(name, layers, foreign)
        expected = ", ".join(dict.fromkeys(f"{naming[layers[0].name]} and {naming[layers[1].name]}" for naming in namings))
        first = ", ".join(list(foreign.arrays)[:4]) or "none"
        raise ModelError(
            f"{foreign.path.name} does not hold {name}: no known naming fits its {len(foreign.arrays)} arrays, which start "
            f"with {first}; expected {expected}, ... with .weight and .bias each{_lacking(layers, namings, foreign)}"
        )
    left = _left(foreign, matches, beyond or ())
    strange = next((node for node in foreign.nodes or () if node.op == "unsupported" and set(left) & set(node.arrays)), None)
    if strange is not None:
        kind = strange.attrs["type"]
        mode = "; export the network in evaluation mode" if "training mode" in kind else ""
        raise ModelError(
            f"{foreign.path.name} is not converted: its node {strange.name} is {kind}, which is not computed here{mode}"
        )
    if left:
        way = ""
        if beyond is not None and foreign.nodes is None:
            way = "; export the network as ONNX, where what follows the trunk is matched by its order, or save it without them"
        raise ModelError(
            f"{foreign.path.name} does not hold {name}: {len(left)} arrays have no place in it, the first is {left[0]} of "
            f"shape {foreign.arrays[left[0]].shape}{way}"
        )
    border = _other_border(original, matches, foreign) if beyond is None else None
    if border is not None:
        keys = tuple(key for match in matches[len(trunk) :] for key in match.keys)
        return Matching(tuple(matches[: len(trunk)]), how, keys, f"{border}; the trunk alone is converted")
    return Matching(tuple(matches), how, beyond)


def prepared(spec: ModelSpec) -> str:
    """How a network's images are prepared, in words.

    Example:
        >>> prepared(get_spec("squeezenet"))
        'BGR, 0..255 less 104, 117, 123'
    """
    less, by = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    return f"{spec.channel_order.upper()}, 0..255 less {less}" + ("" if set(spec.std) == {1.0} else f", divided by {by}")


def _left(foreign: Foreign, matches: Sequence[Match], beyond: Sequence[str]) -> list[str]:
    """The arrays of a file that have no place."""
    used = {key for match in matches for key in match.keys} | set(beyond)
    return [key for key in foreign.arrays if key not in used]


def other_inputs(name: str, foreign: Foreign, matching: Matching, stated: str | None) -> str | None:
    """How publishers of a network prepare its images otherwise (OTHER_INPUTS in its module), where a file does not say how its
    own were; None where whoever converts has `stated` the order of the channels.

    Names of layers tell the publisher; a file that was matched by the order of its computation has none that is known.
    """
    others: str | None = getattr(_module(name), "OTHER_INPUTS", None)
    return others if matching.how == "order" and foreign.channel_order is None and stated is None else None


def check_unscaled(name: str, file: str, rescales: Sequence[str]) -> None:
    """Raise ModelError where a file has layers (`Foreign.rescales`) that change its images and are no part of the network."""
    if rescales:
        raise ModelError(
            f"{file} changes what it is given by its layer {shown(rescales[0])}, which would be lost: {name} takes "
            f"{prepared(get_spec(name))}; save the network without that layer if that is what it was given, otherwise "
            "change its first convolution for such images"
        )


def check_scale(name: str, file: str, images: Sequence[Images]) -> None:
    """Raise ModelError where a file says (`Foreign.images`) that its images are scaled otherwise than the network's."""
    spec = get_spec(name)
    if any(not abs(each.scale * deviation - 1) < 1e-3 for each in images for deviation in spec.std):
        raise ModelError(
            f"{file} was trained on images of {' and '.join(map(str, images))}, as its data layers say: {name} takes "
            f"{prepared(spec)}; change its first convolution for such images, and the scale of its data layers with it"
        )


def _refuse_others(name: str, layers: Sequence[_Layer], foreign: Foreign) -> None:
    """Raise ModelError for arrays under names by which the same layers take images that are prepared otherwise."""
    naming = getattr(_module(name), "TORCHVISION_NAMES", {}).get(name)
    if naming is not None and _by_name(layers[: trunk_length(name)], [naming], foreign) is not None:
        raise ModelError(
            f"{foreign.path.name} holds torchvision's layers of {name}, whose images are prepared otherwise: "
            f"{_module(name).OTHER_INPUTS}, ours {prepared(get_spec(name))}; change its first convolution for such images, "
            "export it as ONNX and convert that with --channel-order"
        )


def _other_border(original: Sequence[Node], matches: Sequence[Match], foreign: Foreign) -> str | None:
    """How the file's classifier differs, if it is a convolution that pads its input as ours does not (torchvision's
    `squeezenet1_0`): other scores from the same weights, which ours cannot give."""
    last = matches[-1]
    ours = next(node for node in original if node.name == last.ours)
    theirs = next((node for node in foreign.nodes or () if node.name == last.theirs), None)
    if theirs is None or {ours.op, theirs.op} != {"conv"} or ours.attrs["pad"] == theirs.attrs["pad"]:
        return None
    return f"{last.theirs} pads its input by {theirs.attrs['pad'][0]}, {last.ours} by {ours.attrs['pad'][0]}"


def trunk_length(name: str) -> int:
    """How many of the convolutions and fully connected layers of the network `name` its trunk has."""
    weighted = [node for node in original_nodes(name) if node.op in WEIGHTED]
    last = get_spec(name).classifier
    return next((i for i, node in enumerate(weighted) if node.op == "fc" or node.name == last), len(weighted))


def _keys_of(layer: str, foreign: Foreign) -> list[str]:
    """The arrays of the file that a layer of this name has."""
    keys = [key for key in foreign.arrays if key.rpartition(".")[0] in (layer, layer.replace("/", "."))]
    node = _nodes_by_name(foreign).get(layer)
    return list(dict.fromkeys((*keys, *(node.arrays if node else ()))))


def _lacking(layers: Sequence[_Layer], namings: Sequence[Mapping[str, str]], foreign: Foreign) -> str:
    """The first array that is missing of the naming that fits best, as a part of a sentence."""
    best: tuple[int, str] = (0, "")
    for naming in namings:
        wanted = [f"{naming[layer.name]}.{what}" for layer in layers for what in ("weight", "bias")[: 1 + layer.bias]]
        missing = [key for key in wanted if key not in foreign.arrays and key.replace("/", ".") not in foreign.arrays]
        if missing and len(wanted) - len(missing) > best[0]:
            best = len(wanted) - len(missing), f"; {missing[0]} is not among them"
    return best[1]


def _nodes_by_name(foreign: Foreign) -> dict[str, Node]:
    """The convolutions and fully connected layers of a file by every name they go by: the node's, that of the module it was
    exported from, and that of its weights' layer."""
    found: dict[str, Node] = {}
    for node in foreign.nodes or ():
        if node.op in WEIGHTED:
            weights = node.arrays[0].rpartition(".")[0] if node.arrays else ""
            for name in (node.name, exported_module(node.name), weights):
                found.setdefault(name, node)
    return found


def exported_module(name: str) -> str:
    """The module that PyTorch's exporter names a node after.

    Example:
        >>> exported_module("/layer1/layer1.0/conv1/Conv")
        'layer1.0.conv1'
    """
    path, before = "", ""
    for part in name.split("/")[1:-1]:
        path = path[: -len(before)] + part if before and part.startswith(f"{before}.") else f"{path}.{part}"
        before = part
    return path.removeprefix(".")


def _by_name(layers: Sequence[_Layer], namings: Sequence[Mapping[str, str]], foreign: Foreign) -> list[Match] | None:
    of_node = _nodes_by_name(foreign)
    for naming in namings:
        found = []
        for layer in layers:
            # Archives of arrays write the slash of Caffe's names as a dot.
            for slash in ("/", "."):
                theirs = naming[layer.name].replace("/", slash)
                if foreign.nodes is None:
                    match = _of_names(layer, theirs, naming, slash, foreign.arrays)
                else:
                    match = _of_node(layer, of_node[theirs], foreign) if theirs in of_node else None
                if match is not None:
                    found.append(match)
                    break
            else:
                break
        if len(found) == len(layers):
            return found
    return None


def _of_node(layer: _Layer, node: Node, foreign: Foreign) -> Match | None:
    """The match of a layer and a node of the file; None where arrays are missing or there are too many."""
    weight, bias = (*node.arrays, None, None)[:2]
    normalisation = None
    if layer.normalisation is not None:
        found, scales = normalisation_after(foreign.nodes or (), node)
        if found is None and bias is None:
            return None
        if found is None:
            normalisation = Normalisation(layer.normalisation.name, None, None, None, (), 0.0)
        else:
            mean, variance = found.arrays[:2]
            factor = found.arrays[2] if len(found.arrays) > 2 else None
            pairs = tuple((scale.arrays[0], (*scale.arrays, None)[1]) for scale in scales)
            epsilon = float(found.attrs["epsilon"])
            normalisation = Normalisation(layer.normalisation.name, mean, variance, factor, pairs, epsilon)
    match = Match(layer.name, node.name, weight, bias, normalisation) if weight else None
    return match if match and _complete(match, layer, foreign.arrays) else None


def _of_names(layer: _Layer, theirs: str, naming: Mapping[str, str], slash: str, arrays: Collection[str]) -> Match | None:
    """The match of a layer and bare arrays."""
    bias = f"{theirs}.bias" if layer.bias else None
    normalisation = None
    if layer.normalisation is not None:
        ours = layer.normalisation.name
        places = [naming[key].replace("/", slash) for key in (ours, f"{ours}_scale") if key in naming]
        bn, epsilon = places[0], float(layer.normalisation.attrs["epsilon"])
        mean, variance = f"{bn}.mean", f"{bn}.variance"
        if f"{bn}.running_mean" in arrays:
            mean, variance = f"{bn}.running_mean", f"{bn}.running_var"
        words = (("gamma", "beta"), ("weight", "bias"))
        pairs = tuple((f"{at}.{one}", f"{at}.{two}") for at in places for one, two in words if f"{at}.{one}" in arrays)
        factor = f"{bn}.factor" if f"{bn}.factor" in arrays else None
        normalisation = Normalisation(ours, mean, variance, factor, pairs[:1], epsilon)
    match = Match(layer.name, theirs, f"{theirs}.weight", bias, normalisation)
    return match if _complete(match, layer, arrays) and (normalisation is None or normalisation.scales) else None


def _complete(match: Match, layer: _Layer, arrays: Collection[str]) -> bool:
    """Whether all arrays are there; a bias may stand before a normalisation, and must where ours has one."""
    fits = (match.bias is not None) == layer.bias or (match.normalisation is not None)
    return fits and all(key in arrays for key in match.keys)


def _by_order(name: str, layers: Sequence[_Layer], foreign: Foreign) -> list[Match]:
    nodes = [node for node in foreign.nodes or () if node.op in WEIGHTED]
    matches = [_of_node(layer, node, foreign) for layer, node in zip(layers, nodes, strict=False)]
    found = [match for match in matches if match is not None]
    if len(nodes) != len(layers) or len(found) < len(layers):
        lacking = ""
        for layer, node, match in zip(layers, nodes, matches, strict=False):
            if match is None:
                what = "batch normalisation" if layer.normalisation is not None else "bias"
                lacking = f"; {node.name} has no {what}"
                break
        raise ModelError(
            f"{foreign.path.name} does not hold {name}: it has {len(nodes)} convolutions and fully connected layers, "
            f"expected {len(layers)} with a bias or a batch normalisation each "
            f"({', '.join(layer.name for layer in layers)}){lacking}"
        )
    return found
