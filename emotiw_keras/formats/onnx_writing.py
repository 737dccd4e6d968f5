"""A network as an ONNX model, written without the package `onnx`: the way back from `Node`s and arrays to a file's bytes.

Source: `onnx.proto` and `Operators.md` of ONNX, operators of version 17; the wire format of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import protobuf_writing as wire
from emotiw_keras.formats.foreign import Node

INPUT, OUTPUT = "faces", "probabilities"
OPSET, IR_VERSION = 17, 8
MOST_BYTES = 2**31 - 2**20
"""A message of protocol buffers has less than 2 GiB; all but the arrays is far below a mebibyte."""
_FLOAT = 1
_TYPES = {"float32": _FLOAT, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_FLOAT_TYPE, _INT_TYPE, _TEXT_TYPE, _INTS_TYPE = 1, 2, 3, 7


def onnx_bytes(nodes: Iterable[Node], arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int], classes: int) -> bytes:
    """The model from `faces`, float32 (batch, channels, height, width), to `probabilities`, float32 (batch, classes).

    Args:
        nodes: the steps from the tensor "data" to the class scores or probabilities.
        arrays: the weights that they name, as Keras has them (layout "hwio").
        shape: (height, width, channels) of the faces.
        classes: how many there are.

    Raises:
        ModelError: a step that is not known here, an array that is missing, or more than 2 GB of them.

    Example:
        >>> fc = Node("fc", "fc8", ("data",), ("fc8",), ("fc8.weight",))
        >>> onnx_bytes([fc], {"fc8.weight": np.zeros((12, 7))}, (2, 2, 3), 7)[:2]
        b'\\x08\\x08'
    """
    writer = Writer(arrays)
    writer.steps(nodes)
    return writer.network(shape, classes)


class Graph:
    """The operators and arrays of a model in the making."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._stored: list[list[bytes | memoryview]] = []

    def emit(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Append an operator; returns the name of its output."""
        output = output or f"{op.lower()}_{len(self._nodes)}"
        body = [wire.text(1, name) for name in inputs] + [wire.text(2, output), wire.text(3, output), wire.text(4, op)]
        self._nodes.append(b"".join(body + [wire.block(5, _attribute(*item)) for item in attributes.items()]))
        return output

    def store(self, name: str, values: np.ndarray) -> str:
        """Append an array, of whole numbers as it is if ONNX has their type, others as float32; returns its name."""
        kind = values.dtype.name if values.dtype.name in _TYPES else "float32"
        stored = np.asarray(values, np.dtype(kind).newbyteorder("<"), order="C")
        head = b"".join(wire.number(1, size) for size in stored.shape) + wire.number(2, _TYPES[kind])
        content = stored.data.cast("B") if stored.size else b""
        self._stored.append([head + wire.text(8, name), wire.tag(9, 2), wire.varint(stored.nbytes), content])
        return name

    def written(self, inputs: Mapping[str, list[int | str]], outputs: Mapping[str, list[int | str]]) -> bytes:
        """The whole file; inputs and outputs with their shapes, in which a name stands for any size."""
        graph: list[bytes | memoryview] = [*(wire.block(1, node) for node in self._nodes), wire.text(2, "network")]
        for parts in self._stored:
            graph += [wire.tag(5, 2), wire.varint(sum(map(len, parts))), *parts]
        graph += [wire.block(11, _value(name, shape)) for name, shape in inputs.items()]
        graph += [wire.block(12, _value(name, shape)) for name, shape in outputs.items()]
        head = wire.number(1, IR_VERSION) + wire.text(2, "emotiw_keras") + wire.block(8, wire.number(2, OPSET))
        return b"".join([head, wire.tag(7, 2), wire.varint(sum(map(len, graph))), *graph])


class Writer(Graph):
    """Nodes and arrays in the making. A tensor that is written over gets a new name: in ONNX each is made once.

    Raises:
        ModelError: more than 2 GB of arrays.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        size = sum(4 * array.size for array in arrays.values())
        if size > MOST_BYTES:
            raise ModelError(f"the weights have {size / 1e9:.1f} GB, an ONNX model holds 2")
        self._arrays = arrays
        self._flat: set[str] = set()
        self._normalised: dict[str, Node] = {}
        self.tensors = {"data": INPUT}
        self.last = "data"
        self.ends_in_softmax = False

    def steps(self, nodes: Iterable[Node]) -> None:
        """Append what nodes compute, up to the probabilities."""
        for node in nodes:
            self.step(node)
        if not self.ends_in_softmax:
            self.step(Node("softmax", "softmax", (self.last,), ("softmax",)))
        self.emit("Identity", [self.tensors[self.last]], OUTPUT)

    def network(self, shape: tuple[int, int, int], classes: int, more: Mapping[str, list[int | str]] | None = None) -> bytes:
        """The whole file, of which `more` are further outputs with their shapes; see `onnx_bytes`."""
        height, width, channels = shape
        return self.written({INPUT: ["batch", channels, height, width]}, {OUTPUT: ["batch", classes], **(more or {})})

    def step(self, node: Node) -> None:
        """Append what a node computes."""
        make = getattr(self, f"_{node.op}", None)
        if make is None:
            raise ModelError(f"layer {node.name}: no ONNX is known here for {node.op}")
        self.tensors[node.outputs[0]] = make(node, [self.tensors[name] for name in node.inputs])
        self.last, self.ends_in_softmax = node.outputs[0], node.op == "softmax"

    def array_of(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise ModelError(f"the array {name} is missing")
        return self._arrays[name]

    def kernel_of(self, node: Node, *axes: int) -> np.ndarray:
        """The kernel of a node, its axes in this order."""
        kernel = self.array_of(node.arrays[0])
        if kernel.ndim != (len(axes) or 2):
            raise ModelError(f"layer {node.name} has weights of {kernel.ndim} axes")
        return kernel.transpose(axes) if axes else kernel

    def _weights(self, node: Node, inputs: list[str], *axes: int) -> list[str]:
        first, *rest = node.arrays
        stored = self.store(first, self.kernel_of(node, *axes))
        return [stored, *(self.store(name, self.array_of(name)) for name in rest)]

    def _conv(self, node: Node, inputs: list[str]) -> str:
        top, bottom, left, right = node.attrs["pad"]
        weights = self._weights(node, inputs, 3, 2, 0, 1)
        return self.emit(
            "Conv",
            [*inputs, *weights],
            kernel_shape=list(self.array_of(node.arrays[0]).shape[:2]),
            strides=list(node.attrs["stride"]),
            pads=[top, left, bottom, right],
            dilations=list(node.attrs["dilation"]),
            group=node.attrs["groups"],
        )

    def _fc(self, node: Node, inputs: list[str]) -> str:
        flat = self._flatten(node, inputs)
        y = self.emit("Gemm", [flat, *self._weights(node, [flat])])
        self._flat.add(y)
        return y

    def _flatten(self, node: Node, inputs: list[str]) -> str:
        (x,) = inputs
        if x not in self._flat:  # Keras counts the channels first, then columns, then rows
            x = self.emit("Flatten", [self.emit("Transpose", [x], perm=[0, 2, 3, 1])], axis=1)
            self._flat.add(x)
        return x

    def _relu(self, node: Node, inputs: list[str]) -> str:
        if node.attrs.get("slope"):
            raise ModelError(f"layer {node.name}: no ONNX is known here for a slope")
        if "limit" not in node.attrs:
            return self._as(inputs, self.emit("Relu", inputs))
        limits = {"low": 0.0, "high": node.attrs["limit"]}
        stored = [self.store(f"{node.name}.{name}", np.array(limit)) for name, limit in limits.items()]
        return self._as(inputs, self.emit("Clip", [*inputs, *stored]))

    def _as(self, inputs: list[str], y: str) -> str:
        """`y`, which has as many axes as what it was made of."""
        if inputs[0] in self._flat:
            self._flat.add(y)
        return y

    def _lrn(self, node: Node, inputs: list[str]) -> str:
        size, alpha, beta, k = (node.attrs[key] for key in ("size", "alpha", "beta", "k"))
        return self.emit("LRN", inputs, size=int(size), alpha=float(alpha), beta=float(beta), bias=float(k))

    def _pool(self, op: str, node: Node, inputs: list[str], **more: Any) -> str:
        top, bottom, left, right = node.attrs["pad"]
        return self.emit(
            op,
            inputs,
            kernel_shape=list(node.attrs["size"]),
            strides=list(node.attrs["stride"]),
            pads=[top, left, bottom, right],
            ceil_mode=int(node.attrs["rounding"] == "ceil"),
            **more,
        )

    def _max_pool(self, node: Node, inputs: list[str]) -> str:
        return self._pool("MaxPool", node, inputs)

    def _mean_pool(self, node: Node, inputs: list[str]) -> str:
        return self._pool("AveragePool", node, inputs, count_include_pad=int(node.attrs["count_pad"]))

    def _global_mean(self, node: Node, inputs: list[str]) -> str:
        return self.emit("GlobalAveragePool", inputs)

    def _batch_norm(self, node: Node, inputs: list[str]) -> str:
        self._normalised[node.outputs[0]] = node
        return inputs[0]  # computed by the scale that follows

    def _scale(self, node: Node, inputs: list[str]) -> str:
        before = self._normalised.get(node.inputs[0])
        if before is None:
            raise ModelError(f"layer {node.name}: no ONNX is known here for a scale without a normalisation before it")
        values = [self.store(name, self.array_of(name)) for name in (*node.arrays, *before.arrays)]
        return self.emit("BatchNormalization", [*inputs, *values], epsilon=float(before.attrs["epsilon"]))

    def _add(self, node: Node, inputs: list[str]) -> str:
        return self.emit("Add", inputs)

    def _axpy(self, node: Node, inputs: list[str]) -> str:
        return self.emit("Add", [self.emit("Mul", inputs[:2]), inputs[2]])

    def _concat(self, node: Node, inputs: list[str]) -> str:
        return self._as(inputs, self.emit("Concat", inputs, axis=int(node.attrs["axis"])))

    def _sigmoid(self, node: Node, inputs: list[str]) -> str:
        return self._as(inputs, self.emit("Sigmoid", inputs))

    def _softmax(self, node: Node, inputs: list[str]) -> str:
        x = inputs[0] if inputs[0] in self._flat else self.emit("Flatten", inputs, axis=1)
        return self.emit("Softmax", [x], axis=1)

    def _identity(self, node: Node, inputs: list[str]) -> str:
        return inputs[0]


def _attribute(name: str, value: Any) -> bytes:
    if isinstance(value, float):
        return wire.text(1, name) + wire.single(2, value) + wire.number(20, _FLOAT_TYPE)
    if isinstance(value, str):
        return wire.text(1, name) + wire.text(4, value) + wire.number(20, _TEXT_TYPE)
    if isinstance(value, int):
        return wire.text(1, name) + wire.number(3, value) + wire.number(20, _INT_TYPE)
    return wire.text(1, name) + b"".join(wire.number(8, each) for each in value) + wire.number(20, _INTS_TYPE)


def _value(name: str, sizes: list[int | str]) -> bytes:
    dims = b"".join(wire.block(1, wire.number(1, size) if isinstance(size, int) else wire.text(2, size)) for size in sizes)
    return wire.text(1, name) + wire.block(2, wire.block(1, wire.number(1, _FLOAT) + wire.block(2, dims)))
