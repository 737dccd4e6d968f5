"""The operators of ONNX as nodes, with the defaults of its `Operators.md`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.onnx_attributes import LARGEST_SETTING, AttributeReader, Graph, OnnxNode, Unsupported
from emotiw_keras.formats.onnx_tensors import REALS, Folded
from emotiw_keras.formats.reference_tensors import STEPS

Attributes = dict[str, Any]
LARGEST_FLOAT = float(np.finfo(np.float32).max)
"""What bounds nothing."""
# Since version 13 Softmax is over one axis; before, over all from its axis on.
_ONE_AXIS_SOFTMAX = 13


def convert(graph: Graph) -> tuple[tuple[Node, ...], dict[str, str]]:
    """The computation, and the arrays of the file that are no weights of it with the reasons.

    Arrays that are made of others, as a transposed weight, are among the graph's arrays from then on.

    Raises:
        ModelError: a setting is out of range.
    """
    return _Converter(graph).run()


class _Converter(AttributeReader):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.where)
        self.graph = graph
        self.arrays = graph.arrays
        self.stored = list(graph.arrays)
        self.folded = Folded(graph)
        self.steps = self.folded.nodes
        self.shapes_only: set[str] = set()
        self._nodes: list[Node] = []
        self._layers: set[str] = set()
        # Tensors of one value for each unit, that is (batch, units) or (batch, units, 1, 1).
        self._flat = {name for name, shape in graph.inputs.items() if len(shape) == 2 or (shape[2:] == (1, 1))}
        # Tensors that are known to have more than two axes.
        self._maps = {name for name, shape in graph.inputs.items() if len(shape) > 2} - self._flat
        self._uses = Counter(name for node in self.steps for name in node.inputs)
        self._add_after: dict[str, int] = {}
        for place, node in enumerate(self.steps):
            if node.op == "Add":
                self._add_after.update({name: place for name in node.inputs if name not in self.arrays})
        self._merged: set[int] = set()
        self._place = 0

    def run(self) -> tuple[tuple[Node, ...], dict[str, str]]:
        for place, node in enumerate(self.steps):
            if place in self._merged:
                continue
            self._place = place
            make = _KINDS.get(node.op)
            try:
                if make is None:
                    raise Unsupported("")
                if any(name for name in node.outputs[1:]) and node.op not in ("Dropout", "BatchNormalization"):
                    raise Unsupported(f"with {len(node.outputs)} outputs")
                if not node.outputs or not node.outputs[0]:
                    raise Unsupported("without an output")
                make(self, node)
            except Unsupported as reason:
                kind = f"{node.op or 'without a type'} {reason}".strip()
                self._emit(node, "unsupported", self._tensors(node), self._arrays_of(node), {"type": kind}, node.outputs)
        used = {name for node in self._nodes for name in node.arrays}
        for name in self.folded.made - used:
            del self.arrays[name]
        return tuple(self._nodes), {name: self._reason(name) for name in self.stored if name not in used}

    def _reason(self, name: str) -> str:
        """Why an array of the file is not among the weights."""
        if name in self.shapes_only | self.folded.sources and self.arrays[name].dtype.kind != "f":
            return "only gives a shape"
        if name in self.shapes_only:
            return "a number of the computation, no weight"
        return "another array is made of it" if name in self.folded.sources else "no node uses it"

    def _emit(
        self,
        node: OnnxNode,
        op: str,
        inputs: tuple[str, ...],
        arrays: tuple[str, ...],
        attrs: Attributes,
        outputs: tuple[str, ...] = (),
    ) -> None:
        outputs = outputs or node.outputs[:1]
        name = node.name
        if op in ("conv", "fc"):  # layers are told apart by their names
            name = name if name not in self._layers else f"{name} ({outputs[0]})"
            self._layers.add(name)
        self._nodes.append(Node(op, name, inputs, outputs, arrays, attrs))
        flat = op in ("fc", "flatten", "global_mean", "global_max")
        unknown = op in ("unsupported", "concat", "tensor", "if")
        spatial = op in ("conv", "max_pool", "mean_pool", "lrn")
        kept = not (unknown or spatial) and self._flat.issuperset(inputs)
        same = not (unknown or flat) and bool(self._maps.intersection(inputs))
        self._flat.difference_update(outputs)
        self._maps.difference_update(outputs)
        if flat or kept:
            self._flat.update(outputs)
        elif spatial or same:
            self._maps.update(outputs)

    def _tensors(self, node: OnnxNode) -> tuple[str, ...]:
        return tuple(name for name in node.inputs if name and name not in self.arrays)

    def _arrays_of(self, node: OnnxNode) -> tuple[str, ...]:
        return tuple(name for name in node.inputs if name in self.arrays)

    def _one_input(self, node: OnnxNode, weights: int = 0, optional: int = 0) -> tuple[tuple[str], tuple[str, ...]]:
        """The input tensor, and the `weights` arrays after it of which the last `optional` may be missing."""
        names = node.inputs
        while names and not names[-1]:
            names = names[:-1]
        if not names or names[0] in self.arrays or not weights - optional <= len(names) - 1 <= weights:
            raise Unsupported(f"with {len(names)} inputs")
        computed = [name for name in names[1:] if name not in self.arrays]
        if computed:
            raise Unsupported(f"with {computed[0] or 'a left out input'} in place of an array of the file")
        return (names[0],), names[1:]

    def conv(self, node: OnnxNode) -> None:
        inputs, arrays = self._one_input(node, 2, 1)
        shape = self.arrays[arrays[0]].shape
        if len(shape) != 4 or (len(arrays) > 1 and self.arrays[arrays[1]].shape != shape[:1]):
            raise Unsupported(f"with a kernel of {len(shape)} axes")
        if self.integers(node, "kernel_shape", shape[2:], 1) != shape[2:]:
            raise self.wrong(node, "kernel_shape", node.attributes["kernel_shape"], f"that of its kernel, {shape[2:]}")
        groups = self.integer(node, "group", 1)
        if not 1 <= groups <= max(1, shape[0]):
            raise self.wrong(node, "group", groups, f"1 to its {shape[0]} filters")
        self._emit(node, "conv", inputs, arrays, {"out": shape[0]} | self.window(node, shape[2:]) | {"groups": groups})

    def gemm(self, node: OnnxNode) -> None:
        inputs, arrays = self._one_input(node, 2, 1)
        for name, value in (("alpha", 1.0), ("beta", 1.0)):
            if self.number(node, name, value) != 1:
                raise Unsupported(f"with {name} {self.number(node, name, value):g}")
        self.only(node, "transA", 0)
        self._fc(node, inputs, arrays, bool(self.integer(node, "transB", 0)))

    def _fc(
        self, node: OnnxNode, inputs: tuple[str], arrays: tuple[str, ...], out_first: bool, outputs: tuple[str, ...] = ()
    ) -> None:
        shape = self.arrays[arrays[0]].shape
        out = shape[0 if out_first else -1] if len(shape) == 2 else -1
        fits = len(arrays) == 1 or self.arrays[arrays[1]].shape in ((out,), (1, out))
        if out < 0 or not fits:
            found = " and ".join("x".join(map(str, self.arrays[name].shape)) for name in arrays)
            raise Unsupported(f"with arrays of {found}")
        attrs: Attributes = {"out": out} | ({} if out_first else {"layout": "io"})
        if inputs[0] not in self._flat:
            attrs["rank"] = 2  # found out where it is computed
        self._emit(node, "fc", inputs, arrays, attrs, outputs)

    def matmul(self, node: OnnxNode) -> None:
        inputs, arrays = self._one_input(node, 1)
        if inputs[0] in self._maps:
            raise Unsupported("of a tensor of more than two axes")
        output = node.outputs[0]
        place = self._add_after.get(output)
        if place is not None and place > self._place and self._uses[output] == 1:
            after = self.steps[place]
            bias = self._arrays_of(after)
            units = self.arrays[arrays[0]].shape[-1:]
            if len(after.inputs) == 2 and len(bias) == 1 and self.arrays[bias[0]].shape in (units, (1, *units)):
                self._fc(node, inputs, (*arrays, *bias), False, after.outputs[:1])
                self._merged.add(place)
                return
        self._fc(node, inputs, arrays, False)

    def prelu(self, node: OnnxNode) -> None:
        inputs, arrays = self._one_input(node, 1)
        shape = self.arrays[arrays[0]].shape
        # A slope is laid over the last axes: for one slope a channel the maps' axes follow.
        if math.prod(shape) != 1 and shape[-2:] != (1, 1) and not (len(shape) == 1 and inputs[0] in self._flat):
            raise Unsupported(f"with slopes of {'x'.join(map(str, shape))}")
        self._emit(node, "prelu", inputs, arrays, {})

    def lrn(self, node: OnnxNode) -> None:
        inputs, _ = self._one_input(node)
        size = self.integer(node, "size", 0)
        if not 1 <= size <= LARGEST_SETTING:
            raise self.wrong(node, "size", size, "at least 1")
        alpha, beta = self.number(node, "alpha", 1e-4), self.number(node, "beta", 0.75)
        self._emit(node, "lrn", inputs, (), {"size": size, "alpha": alpha, "beta": beta, "k": self.number(node, "bias", 1.0)})

    def pool(self, node: OnnxNode) -> None:
        shape = node.attributes.get("kernel_shape")
        if node.op == "AveragePool" and isinstance(shape, tuple) and len(shape) == 3:
            self.tensor(node)
            return
        inputs, _ = self._one_input(node)
        size = self.integers(node, "kernel_shape", (0, 0), 1)
        attrs = self.window(node, size)
        if attrs.pop("dilation") != (1, 1):
            raise Unsupported("with dilations")
        attrs["rounding"] = "ceil" if self.integer(node, "ceil_mode", 0) else "floor"
        if node.op == "AveragePool":
            attrs["count_pad"] = bool(self.integer(node, "count_include_pad", 0))
        self._emit(node, "max_pool" if node.op == "MaxPool" else "mean_pool", inputs, (), attrs)

    def dropout(self, node: OnnxNode) -> None:
        # From version 12 on, the ratio and the training mode are inputs.
        self.shapes_only.update(node.inputs[1:])
        mode = self.arrays.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if not node.inputs or node.inputs[0] in self.arrays or (mode is not None and mode.any()):
            raise Unsupported("in training mode")
        self._emit(node, "identity", node.inputs[:1], (), {})

    def identity(self, node: OnnxNode) -> None:
        self._emit(node, "identity", self._one_input(node)[0], (), {})

    def flatten(self, node: OnnxNode) -> None:
        self.only(node, "axis", 1)
        self._emit(node, "flatten", self._one_input(node)[0], (), {})

    def reshape(self, node: OnnxNode) -> None:
        shape: tuple[int, ...] = ()
        named = node.inputs[1] if len(node.inputs) > 1 else ""
        values = np.asarray(node.attributes["shape"]) if "shape" in node.attributes else self.arrays.get(named)
        if values is not None and values.ndim == 1 and values.size <= 8 and values.dtype.kind == "i":
            shape = tuple(values.tolist())
        whole_batch = ((1, -1) if node.attributes.get("allowzero") else (0, 1, -1)) + (self.folded.batch or 1,)
        if len(shape) != 2 or shape[0] not in whole_batch or self._tensors(node)[:1] != node.inputs[:1]:
            self.tensor(node)
            return
        self.shapes_only.update(node.inputs[1:])
        self._emit(node, "flatten", node.inputs[:1], (), {})

    def tensor(self, node: OnnxNode) -> None:
        made = self.folded.tensor(node)
        if not made.inputs:
            raise Unsupported("of arrays of the file")
        self.shapes_only.update(self._arrays_of(node))
        self._emit(node, made.op, made.inputs, (), made.attrs)

    def cast(self, node: OnnxNode) -> None:
        tensors = self._tensors(node)
        if tensors[:1] == node.inputs[:1] and (node.op == "CastLike" or node.attributes.get("to") in REALS):
            self._emit(node, "identity", tensors[:1], (), {})
        else:
            self.tensor(node)

    def choice(self, node: OnnxNode) -> None:
        made = self.folded.choice(node)
        self._emit(node, made.op, made.inputs, (), made.attrs)

    def softmax(self, node: OnnxNode) -> None:
        inputs, _ = self._one_input(node)
        modern = self.graph.opset >= _ONE_AXIS_SOFTMAX
        axis = self.integer(node, "axis", -1 if modern else 1)
        if not -4 <= axis < 4 or not (modern or (axis == 1 and inputs[0] in self._flat)):
            raise Unsupported(f"over axis {axis}" + ("" if modern else " and all after it"))
        self._emit(node, "softmax", inputs, (), {"axis": axis} | ({"log": True} if node.op == "LogSoftmax" else {}))

    def concat(self, node: OnnxNode) -> None:
        axis = self.integer(node, "axis", 1)
        if not -4 <= axis < 4 or not node.inputs:
            raise Unsupported("over an unknown axis")
        if self._tensors(node) != node.inputs:
            self.tensor(node)
            return
        self._emit(node, "concat", node.inputs, (), {"axis": axis})

    def add(self, node: OnnxNode) -> None:
        self.only(node, "broadcast", 0)
        if not node.inputs or self._tensors(node) != node.inputs:
            self.tensor(node)
            return
        self._emit(node, "add", node.inputs, (), {})

    def batch_norm(self, node: OnnxNode) -> None:
        inputs, arrays = self._one_input(node, 4)
        self.only(node, "training_mode", 0)
        self.only(node, "spatial", 1)
        shapes = {self.arrays[name].shape for name in arrays}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise Unsupported("with arrays of unequal sizes")
        gamma, beta, mean, variance = arrays
        between = f"{node.outputs[0]}/normalised"
        while between in self._uses or between in self.arrays:
            between += "_"
        epsilon = self.number(node, "epsilon", 1e-5)
        self._emit(node, "batch_norm", inputs, (mean, variance), {"epsilon": epsilon}, (between,))
        self._emit(node, "scale", (between,), (gamma, beta), {})

    def relu(self, node: OnnxNode) -> None:
        slope = self.number(node, "alpha", 0.01) if node.op == "LeakyRelu" else 0.0
        self._emit(node, "relu", self._one_input(node)[0], (), {"slope": slope})

    def clip(self, node: OnnxNode) -> None:
        """ReLU6 and its like; since version 11 the bounds are inputs."""
        names = (*node.inputs[1:], "", "")[:2]
        inputs, given = self._tensors(node), [self.arrays[name] for name in names if name in self.arrays]
        if len(node.inputs) > 3 or inputs != node.inputs[:1] or any(each.size != 1 for each in given):
            raise Unsupported("between bounds that the file does not hold as numbers")
        bounds = self.number(node, "min", -LARGEST_FLOAT), self.number(node, "max", LARGEST_FLOAT)
        low, high = (float(self.arrays[name].item()) if name else bound for name, bound in zip(names, bounds, strict=True))
        if low != 0 or not high > 0:
            raise Unsupported(f"between {low:g} and {high:g}; with bounds of 0 and above it is computed, as a ReLU6 is")
        self.shapes_only.update(name for name in names if name)
        self._emit(node, "relu", inputs, (), {"slope": 0.0} | ({"limit": high} if high < LARGEST_FLOAT else {}))

    def plain(self, node: OnnxNode) -> None:
        op = {"GlobalAveragePool": "global_mean", "GlobalMaxPool": "global_max", "Sigmoid": "sigmoid"}[node.op]
        self._emit(node, op, self._one_input(node)[0], (), {})


_TENSORS: dict[str, Callable[[_Converter, OnnxNode], None]] = dict.fromkeys(STEPS, _Converter.tensor)
_KINDS: dict[str, Callable[[_Converter, OnnxNode], None]] = _TENSORS | {
    "Add": _Converter.add,
    "AveragePool": _Converter.pool,
    "BatchNormalization": _Converter.batch_norm,
    "Cast": _Converter.cast,
    "CastLike": _Converter.cast,
    "Clip": _Converter.clip,
    "Concat": _Converter.concat,
    "Conv": _Converter.conv,
    "Dropout": _Converter.dropout,
    "Flatten": _Converter.flatten,
    "Gemm": _Converter.gemm,
    "GlobalAveragePool": _Converter.plain,
    "GlobalMaxPool": _Converter.plain,
    "Identity": _Converter.identity,
    "If": _Converter.choice,
    "LRN": _Converter.lrn,
    "LeakyRelu": _Converter.relu,
    "LogSoftmax": _Converter.softmax,
    "MatMul": _Converter.matmul,
    "MaxPool": _Converter.pool,
    "PRelu": _Converter.prelu,
    "Relu": _Converter.relu,
    "Reshape": _Converter.reshape,
    "Sigmoid": _Converter.plain,
    "Softmax": _Converter.softmax,
    "Sum": _Converter.add,
}
