"""One Caffe layer -> one node, with the defaults of `caffe.proto`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.caffe_layers import Layer
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.protobuf import last

ROLES = {
    "Convolution": ("weight", "bias"),
    "Deconvolution": ("weight", "bias"),
    "InnerProduct": ("weight", "bias"),
    "BatchNorm": ("mean", "variance", "factor"),
    "Scale": ("gamma", "beta"),
    "PReLU": ("slope",),
}
"""Layer type -> what its arrays are, in the order of the file."""
_LARGEST_SETTING = 1 << 20
Attributes = dict[str, Any]


class _Unsupported(Exception):
    """A setting that no kind of node has; the argument says which."""


def node_of(layer: Layer, where: str) -> Node:
    """The node of a layer; "unsupported" if no kind of node does what its settings say.

    Raises:
        ModelError: a setting is missing or out of range.
    """
    inputs, outputs = layer.bottoms, layer.tops
    if layer.type == "SoftmaxWithLoss":
        # Its first result is the loss; the second, rarely asked for, the probabilities.
        inputs, outputs = inputs[:1], (outputs[1:2] or outputs[:1] or (layer.name,))
    try:
        make = _KINDS.get(layer.type)
        if make is None:
            raise _Unsupported("")
        if layer.type == "Axpy":
            if len(inputs) != 3:
                raise _Unsupported(f"with {len(inputs)} inputs")
        elif not inputs or (len(inputs) > 1 and layer.type not in ("Concat", "Eltwise")):
            raise _Unsupported(f"with {len(inputs)} inputs")
        if not outputs or (len(outputs) > 1 and layer.type != "Split"):
            raise _Unsupported(f"with {len(outputs)} outputs")
        op, attrs = make(_Settings(layer, where))
    except _Unsupported as reason:
        op, attrs = "unsupported", {"type": f"{layer.type or 'without a type'} {reason}".strip()}
        return Node(op, layer.name, inputs, outputs, tuple(array_names(layer)), attrs)
    return Node(op, layer.name, inputs, outputs, tuple(expected_arrays(layer)), attrs)


def array_names(layer: Layer) -> list[str]:
    """The names of the arrays that a layer of a file has."""
    roles = ROLES.get(layer.type, ())
    return [f"{layer.name}.{roles[i] if i < len(roles) else f'blob{i}'}" for i in range(len(layer.blobs))]


def expected_arrays(layer: Layer) -> list[str]:
    """The names of the arrays that its settings ask for."""
    roles = ROLES.get(layer.type, ())
    if "bias" in roles and not last(layer.settings, "bias_term", True):
        roles = roles[:1]
    if "beta" in roles and not last(layer.settings, "bias_term", False):
        roles = roles[:1]
    return [f"{layer.name}.{role}" for role in roles]


class _Settings:
    """The settings of one layer, checked as they are asked for."""

    def __init__(self, layer: Layer, where: str) -> None:
        self._layer, self._where = layer, where

    def get(self, name: str, default: Any = None) -> Any:
        return last(self._layer.settings, name, default)

    def all(self, name: str) -> list[Any]:
        return self._layer.settings.get(name, [])

    def integer(self, name: str, default: int, least: int) -> int:
        return self._bounded(name, self.get(name, default), least)

    def number(self, name: str, default: float) -> float:
        value = float(self.get(name, default))
        if not math.isfinite(value):
            raise ModelError(f"{self._where}: layer {self._layer.name} has {name} {value}, expected a finite number")
        return value

    def pair(self, name: str, short: str, default: int | None, least: int) -> tuple[int, int]:
        """(height, width) of a setting that is given once, twice, or as its _h and _w forms."""
        settings = self._layer.settings
        values = settings.get(name, [])
        if f"{short}_h" in settings or f"{short}_w" in settings:
            if values:
                raise ModelError(
                    f"{self._where}: layer {self._layer.name} has {name} and {short}_h or {short}_w, expected one form"
                )
            values = [self.get(f"{short}_h", default), self.get(f"{short}_w", default)]
        elif not values:
            values = [default]
        if len(values) > 2:
            raise _Unsupported(f"over {len(values)} axes")
        if any(value is None for value in values):
            raise ModelError(f"{self._where}: layer {self._layer.name} has no {name}, expected one of at least {least}")
        for value in values:
            self._bounded(name, value, least)
        return values[0], values[-1]

    def _bounded(self, name: str, value: int, least: int) -> int:
        if not least <= value <= _LARGEST_SETTING:
            raise ModelError(
                f"{self._where}: layer {self._layer.name} has {name} {value}, expected {least} to {_LARGEST_SETTING:,}"
            )
        return value

    def only(self, name: str, default: Any, *allowed: Any) -> None:
        """Nodes have no other value of this setting."""
        value = self.get(name, default)
        if value not in (default, *allowed):
            raise _Unsupported(f"with {name} {value}")


def _around(pad: tuple[int, int]) -> tuple[int, int, int, int]:
    return pad[0], pad[0], pad[1], pad[1]


def _conv(given: _Settings) -> tuple[str, Attributes]:
    given.only("axis", 1)
    attrs = {
        "out": given.integer("num_output", 0, 1),
        "size": given.pair("kernel_size", "kernel", None, 1),
        "stride": given.pair("stride", "stride", 1, 1),
        "pad": _around(given.pair("pad", "pad", 0, 0)),
        "groups": given.integer("group", 1, 1),
        "dilation": given.pair("dilation", "dilation", 1, 1),
    }
    return "conv", attrs


def _fc(given: _Settings) -> tuple[str, Attributes]:
    given.only("axis", 1)
    attrs: Attributes = {"out": given.integer("num_output", 0, 1)}
    return "fc", attrs | ({"layout": "io"} if given.get("transpose", False) else {})


def _lrn(given: _Settings) -> tuple[str, Attributes]:
    given.only("norm_region", "ACROSS_CHANNELS")
    size = given.integer("local_size", 5, 1)
    if size % 2 == 0:
        raise _Unsupported(f"over {size} channels, an even number")
    return "lrn", {
        "size": size,
        "alpha": given.number("alpha", 1.0),
        "beta": given.number("beta", 0.75),
        "k": given.number("k", 1.0),
    }


def _pool(given: _Settings) -> tuple[str, Attributes]:
    given.only("pool", "MAX", "AVE")
    mean = given.get("pool") == "AVE"
    if given.get("global_pooling", False):
        return "global_mean" if mean else "global_max", {}
    attrs: Attributes = {
        "size": given.pair("kernel_size", "kernel", None, 1),
        "stride": given.pair("stride", "stride", 1, 1),
        "pad": _around(given.pair("pad", "pad", 0, 0)),
        "rounding": "floor" if given.get("round_mode") == "FLOOR" else "ceil",
    }
    return ("mean_pool", attrs | {"count_pad": True}) if mean else ("max_pool", attrs)


def _relu(given: _Settings) -> tuple[str, Attributes]:
    return "relu", {"slope": given.number("negative_slope", 0.0)}


def _batch_norm(given: _Settings) -> tuple[str, Attributes]:
    given.only("use_global_stats", True)
    return "batch_norm", {"epsilon": given.number("eps", 1e-5)}


def _scale(given: _Settings) -> tuple[str, Attributes]:
    given.only("axis", 1)
    given.only("num_axes", 1)
    return "scale", {}


def _eltwise(given: _Settings) -> tuple[str, Attributes]:
    given.only("operation", "SUM")
    if any(value != 1 for value in given.all("coeff")):
        raise _Unsupported("with coefficients")
    return "add", {}


def _axis(op: str) -> Callable[[_Settings], tuple[str, Attributes]]:
    def make(given: _Settings) -> tuple[str, Attributes]:
        axis = given.get("axis", given.get("concat_dim", 1))
        if not -4 <= axis < 4:
            raise _Unsupported(f"over axis {axis}")
        return op, {"axis": axis}

    return make


def _flatten(given: _Settings) -> tuple[str, Attributes]:
    given.only("axis", 1)
    given.only("end_axis", -1)
    return "flatten", {}


def _reshape(given: _Settings) -> tuple[str, Attributes]:
    given.only("axis", 0)
    given.only("num_axes", -1)
    shape = tuple(given.all("shape"))
    if not 1 <= len(shape) <= 8 or min(shape) < -1 or max(shape) > _LARGEST_SETTING:
        raise _Unsupported(f"to the shape {shape[:8]}")
    return "reshape", {"shape": shape}


def _dropout(given: _Settings) -> tuple[str, Attributes]:
    given.only("scale_train", True)
    return "identity", {}


_KINDS: dict[str, Callable[[_Settings], tuple[str, Attributes]]] = {
    "Axpy": lambda given: ("axpy", {}),
    "BatchNorm": _batch_norm,
    "Concat": _axis("concat"),
    "Convolution": _conv,
    "Dropout": _dropout,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "InnerProduct": _fc,
    "LRN": _lrn,
    "PReLU": lambda given: ("prelu", {}),
    "Pooling": _pool,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": lambda given: ("sigmoid", {}),
    "Softmax": _axis("softmax"),
    "SoftmaxWithLoss": _axis("softmax"),
    "Split": lambda given: ("identity", {}),
}
