"""One MatConvNet layer -> nodes and named arrays.

Sources: MatConvNet's `vl_nnconv.m`, `vl_nnpool.m`, `vl_nnnormalize.m`, `vl_nnbnorm.m`, `vl_nnrelu.m` and the classes of
`+dagnn`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.mat_files import Unread, Value

_LARGEST = 1 << 20
"""Of a stride, a padding or a window; anything larger is a damaged file."""
_AXES = {1: 2, 2: 3, 3: 1, 4: 0}
"""MATLAB's axis of (height, width, channels, images) -> that of (batch, channels, height, width)."""
# SimpleNN's words for what DagNN's classes are called in small letters.
_KINDS = {"normalize": "lrn", "pooling": "pool", "batchnorm": "bnorm", "softmaxloss": "softmax"}
_SETTINGS = 4
"""Values that a setting may have; a longer field is an array."""


@dataclass(frozen=True)
class Layer:
    """A layer of a SimpleNN or a DagNN: its own word for its kind, tensors, settings, and weights with their names if any."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Value]
    weights: list[Value]
    weight_names: list[str]

    @property
    def kind(self) -> str:
        """The kind in one spelling; SimpleNN's `softmaxloss` is a softmax at test time, DagNN's losses are not computed."""
        word = self.type.lower()
        return _KINDS.get(word, word)

    @property
    def only_trains(self) -> bool:
        """Whether the layer is a loss or an error, which takes labels."""
        return "loss" in self.kind or self.kind.endswith(("error", "accuracy", "pdist"))


class LayerReader:
    """Turns layers, in their order, into nodes, and keeps their arrays; `channels` follows each tensor through the net."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.arrays: dict[str, np.ndarray] = {}
        self.ignored: dict[str, str] = {}
        self.channels: dict[str, int] = {}

    def nodes(self, layer: Layer) -> list[Node]:
        """The nodes of a layer: one, two for batch normalisation, none for what only training needs."""
        self._leave_out(layer)
        if layer.only_trains:
            self.ignored[layer.name] = f"a layer of the kind {layer.type!r}, which only training needs"
            return []
        if not layer.inputs or len(layer.outputs) != 1:
            raise self.misfit(
                layer, f"has {len(layer.inputs)} inputs and {len(layer.outputs)} outputs", "at least one, and one"
            )
        special = _SPECIAL.get(layer.kind)
        if special is not None:
            return special(self, layer)
        if layer.kind in ("relu", "softmax", "sigmoid", "dropout", "sum"):
            known = next((self.channels[name] for name in layer.inputs if name in self.channels), None)
            if known is not None:
                self.channels[layer.outputs[0]] = known
        if layer.kind == "relu":
            slope = self.numbers(layer, "leak", self.option(layer, "leak", (0.0,), 1), 1)
            return [_node("relu", layer, slope=slope[0])]
        if layer.kind == "softmax":
            return [_node("softmax", layer, axis=1)]
        op = {"sigmoid": "sigmoid", "dropout": "identity", "sum": "add"}.get(layer.kind)
        return [_node(op, layer)] if op else self.unsupported(layer)

    def _leave_out(self, layer: Layer) -> None:
        for key, value in layer.settings.items():
            size = _size(value)
            if key not in ("weights", "filters", "biases") and size > _SETTINGS and not _is_text(value):
                self.ignored[f"{layer.name}.{key}"] = f"{size:,} values that only training needs"

    def misfit(self, layer: Layer, seen: str, expected: str) -> ModelError:
        """The error of a layer whose fields contradict each other."""
        return ModelError(f"{self.file}: layer {layer.name!r} ({layer.type}) {seen}, expected {expected}")

    def numbers(self, layer: Layer, key: str, default: tuple[float, ...], *counts: int) -> tuple[float, ...]:
        """A setting of as many finite numbers as one of `counts`."""
        return self._finite(layer, key, layer.settings.get(key), default, counts)

    def option(self, layer: Layer, key: str, default: tuple[float, ...], *counts: int) -> tuple[float, ...]:
        """The same for a setting that stands in the list `opts` behind its name."""
        options = layer.settings.get("opts")
        if isinstance(options, list):
            for name, value in zip(options, options[1:], strict=False):
                if isinstance(name, str) and name.lower() == key:
                    return self._finite(layer, key, value, default, counts)
        return default

    def _finite(
        self, layer: Layer, key: str, value: Value | None, default: tuple[float, ...], counts: tuple[int, ...]
    ) -> tuple[float, ...]:
        if value is None:
            return default
        if not isinstance(value, np.ndarray) or value.size not in counts or not np.isfinite(value).all():
            raise self.misfit(layer, f"has the {key} {_shown(value)}", f"{' or '.join(map(str, counts))} finite numbers")
        return tuple(float(x) for x in value.ravel(order="F"))

    def whole(self, layer: Layer, key: str, values: tuple[float, ...], least: int) -> tuple[int, ...]:
        """`values` as whole numbers."""
        if any(x != int(x) or not least <= x <= _LARGEST for x in values):
            raise self.misfit(layer, f"has the {key} {values}", f"whole numbers from {least} to {_LARGEST:,}")
        return tuple(int(x) for x in values)

    def pair(self, layer: Layer, key: str, values: tuple[float, ...]) -> tuple[int, int]:
        """One number for both directions, or (height, width)."""
        whole = self.whole(layer, key, values, 1)
        return whole[0], whole[-1]

    def pads(self, layer: Layer) -> tuple[int, int, int, int]:
        """(top, bottom, left, right); one number stands for all, two for (top and bottom, left and right)."""
        values = self.whole(layer, "pad", self.numbers(layer, "pad", (0.0,), 1, 2, 4), 0)
        if len(values) == 4:
            return values[0], values[1], values[2], values[3]
        return values[0], values[0], values[-1], values[-1]

    def weight(self, layer: Layer, index: int) -> np.ndarray | None:
        """A weight of floating-point numbers; None where the layer has none at this place."""
        value = layer.weights[index] if index < len(layer.weights) else None
        if isinstance(value, Unread):
            advice = "move the net to the CPU (vl_simplenn_move) and save it again"
            raise ModelError(f"{self.file}: a weight of layer {layer.name!r} is a MATLAB {value.kind}; {advice}")
        if value is None or (isinstance(value, np.ndarray) and not value.size):
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise self.misfit(layer, f"has the weight {_shown(value)}", "an array of single or double")
        return value

    def keep(self, layer: Layer, what: str, array: np.ndarray) -> str:
        """Stores an array under the layer's name."""
        name = f"{layer.name}.{what}"
        self.arrays[name] = array
        return name

    def unsupported(self, layer: Layer) -> list[Node]:
        """A node of a kind that is not known; its arrays keep the file's names."""
        names = []
        for i, value in enumerate(layer.weights):
            if isinstance(value, np.ndarray) and value.size:
                names.append(self.keep(layer, layer.weight_names[i] or f"weights{i + 1}", value))
            elif _size(value) or isinstance(value, Unread):
                self.ignored[f"{layer.name}.weights{i + 1}"] = "no array of numbers"
        return [Node("unsupported", layer.name, layer.inputs, layer.outputs, tuple(names), {"type": layer.type})]

    def conv(self, layer: Layer) -> list[Node]:
        kernel = self.weight(layer, 0)
        if kernel is None or kernel.ndim > 4:
            raise self.misfit(layer, f"has {'no kernel' if kernel is None else f'a kernel {kernel.shape}'}", "4 axes or less")
        kernel = kernel.reshape(*kernel.shape, *(1,) * (4 - kernel.ndim), order="F")
        depth, out = kernel.shape[2:]
        coming = self.channels.setdefault(layer.inputs[0], depth)
        if coming % depth or out % (coming // depth or 1):
            raise self.misfit(layer, f"has a kernel {kernel.shape} for {coming} channels", "its third size to divide them")
        names = [self.keep(layer, "weight", kernel)]
        bias = self.weight(layer, 1)
        if bias is not None:
            if bias.size != out:
                raise self.misfit(layer, f"has {bias.size} biases", f"{out}, one for each filter")
            names.append(self.keep(layer, "bias", bias.reshape(-1)))
        self.channels[layer.outputs[0]] = out
        dilation = self.numbers(layer, "dilate", self.option(layer, "dilate", (1.0,), 1, 2), 1, 2)
        attrs: dict[str, Any] = {
            "stride": self.pair(layer, "stride", self.numbers(layer, "stride", (1.0,), 1, 2)),
            "pad": self.pads(layer),
            "groups": coming // depth,
            "dilation": self.pair(layer, "dilate", dilation),
        }
        return [Node("conv", layer.name, layer.inputs, layer.outputs, tuple(names), attrs)]

    def pool(self, layer: Layer) -> list[Node]:
        method = layer.settings.get("method", "max")
        op = {"max": "max_pool", "avg": "mean_pool"}.get(method) if isinstance(method, str) else None
        if op is None:
            raise self.misfit(layer, f"has the method {_shown(method)}", "max or avg")
        self._same(layer)
        key = "pool" if "pool" in layer.settings else "poolSize"
        attrs: dict[str, Any] = {
            "size": self.pair(layer, key, self.numbers(layer, key, (1.0,), 1, 2)),
            "stride": self.pair(layer, "stride", self.numbers(layer, "stride", (1.0,), 1, 2)),
            "pad": self.pads(layer),
            "rounding": "floor",
        }
        if op == "mean_pool":
            attrs["count_pad"] = False
        return [_node(op, layer, **attrs)]

    def global_pool(self, layer: Layer) -> list[Node]:
        method = layer.settings.get("method", "avg")
        op = {"max": "global_max", "avg": "global_mean"}.get(method) if isinstance(method, str) else None
        if op is None:
            raise self.misfit(layer, f"has the method {_shown(method)}", "max or avg")
        self._same(layer)
        return [_node(op, layer)]

    def lrn(self, layer: Layer) -> list[Node]:
        """MatConvNet's alpha is a factor of the sum over the window, a node's of its mean."""
        size, kappa, alpha, beta = self.numbers(layer, "param", (5.0, 1.0, 0.0001 / 5, 0.75), 4)
        window = self.whole(layer, "param", (size,), 1)[0]
        self._same(layer)
        return [_node("lrn", layer, size=window, alpha=alpha * window, beta=beta, k=kappa)]

    def bnorm(self, layer: Layer) -> list[Node]:
        gamma, beta, moments = (self.weight(layer, i) for i in range(3))
        if gamma is None or beta is None or moments is None:
            return self.unsupported(layer)
        channels = gamma.size
        if beta.size != channels or moments.shape != (channels, 2):
            seen = f"has {channels} multipliers, {beta.size} biases and moments {moments.shape}"
            raise self.misfit(layer, seen, f"{channels} biases and moments ({channels}, 2)")
        self.channels[layer.outputs[0]] = channels
        with np.errstate(over="ignore"):
            variance = np.square(moments[:, 1])
        statistics = (self.keep(layer, "mean", moments[:, 0]), self.keep(layer, "variance", variance))
        factors = (self.keep(layer, "gamma", gamma.reshape(-1)), self.keep(layer, "beta", beta.reshape(-1)))
        between = (f"{layer.outputs[0]}/normalised",)
        return [
            Node("batch_norm", layer.name, layer.inputs, between, statistics, {"epsilon": 0.0}),
            Node("scale", f"{layer.name}/scale", between, layer.outputs, factors),
        ]

    def scale(self, layer: Layer) -> list[Node]:
        gamma, beta = self.weight(layer, 0), self.weight(layer, 1)
        if gamma is None or max(gamma.shape) != gamma.size or (beta is not None and beta.size != gamma.size):
            return self.unsupported(layer)  # it multiplies two tensors, or has a factor for each place
        self._same(layer)
        names = [self.keep(layer, "gamma", gamma.reshape(-1))]
        if beta is not None:
            names.append(self.keep(layer, "beta", beta.reshape(-1)))
        return [Node("scale", layer.name, layer.inputs, layer.outputs, tuple(names))]

    def axpy(self, layer: Layer) -> list[Node]:
        """mcnSENets' `vl_nnaxpy`: channels of the second input times the first, plus the third."""
        if len(layer.inputs) != 3:
            raise self.misfit(layer, f"has {len(layer.inputs)} inputs", "three")
        known = next((self.channels[name] for name in layer.inputs if name in self.channels), None)
        if known is not None:
            self.channels[layer.outputs[0]] = known
        return [_node("axpy", layer)]

    def reshape(self, layer: Layer) -> list[Node]:
        """One to (1, 1, channels), which MatConvNet's global poolings give already; others are not known."""
        shape = layer.settings.get("shape")
        sizes: list[Value] = [np.array(size) for size in np.ravel(shape)] if isinstance(shape, np.ndarray) else []
        sizes = shape if isinstance(shape, list) else sizes
        ones = [isinstance(size, np.ndarray) and size.size == 1 and size.item() == 1 for size in sizes]
        if len(sizes) != 3 or not all(ones[:2]):
            return self.unsupported(layer)
        self._same(layer)
        return [_node("identity", layer)]

    def concat(self, layer: Layer) -> list[Node]:
        axis = _AXES.get(int(self.numbers(layer, "dim", (3.0,), 1)[0]))
        if axis is None:
            raise self.misfit(layer, f"has the dim {layer.settings.get('dim')}", "1 to 4")
        counts = [self.channels.get(name) for name in layer.inputs]
        known = [count for count in counts if count is not None]
        if len(known) == len(counts):
            self.channels[layer.outputs[0]] = sum(known) if axis == 1 else known[0]
        return [_node("concat", layer, axis=axis)]

    def _same(self, layer: Layer) -> None:
        if layer.inputs[0] in self.channels:
            self.channels[layer.outputs[0]] = self.channels[layer.inputs[0]]


_SPECIAL: dict[str, Callable[[LayerReader, Layer], list[Node]]] = {
    "conv": LayerReader.conv,
    "pool": LayerReader.pool,
    "globalpooling": LayerReader.global_pool,
    "lrn": LayerReader.lrn,
    "bnorm": LayerReader.bnorm,
    "scale": LayerReader.scale,
    "concat": LayerReader.concat,
    "axpy": LayerReader.axpy,
    "reshape": LayerReader.reshape,
}


def _node(op: str, layer: Layer, **attrs: Any) -> Node:
    return Node(op, layer.name, layer.inputs, layer.outputs, (), attrs)


def _is_text(value: Value) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(isinstance(part, str) for part in value))


def _size(value: Value) -> int:
    """How many numbers a value holds."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, list):
        return sum(_size(part) for part in value)
    return sum(_size(part) for part in value.values()) if isinstance(value, dict) else 0


def _shown(value: Value | None) -> str:
    if isinstance(value, np.ndarray):
        return f"{[float(x) for x in value.ravel()]}" if value.size <= 8 else f"of the shape {value.shape} of {value.dtype}"
    return repr(value)[:60] if isinstance(value, str) else f"that is no array ({type(value).__name__})"
