"""ONNX models: initialisers as arrays, the graph as nodes.

Source: `onnx.proto` (ModelProto, GraphProto, TensorProto) and `Operators.md` of ONNX. Kernels are (out, in / groups, height,
width) and tensors (batch, channels, height, width). Of subgraphs the branches of an If are read, functions are not entered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import FACTS, Foreign, Limits
from emotiw_keras.formats.onnx_attributes import Attribute, Branch, Graph, OnnxNode
from emotiw_keras.formats.onnx_external import ExternalFiles
from emotiw_keras.formats.onnx_nodes import convert
from emotiw_keras.formats.protobuf import Message, Schema, Spec, Wire, last, map_file

_DEFAULTS = Limits()
_TYPES = {1: "float", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "double", 16: "bfloat16"}
_OTHER_TYPES = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 8: "string", 12: "uint32", 13: "uint64"}
_OTHER_TYPES |= {14: "complex64", 15: "complex128"}
_STORED = {"float": "<f4", "int32": "<i4", "int64": "<i8", "float16": "<f2", "double": "<f8", "bool": "?", "bfloat16": "<u2"}

_MODEL: Schema = {7: Spec("graph", "message"), 8: Spec("opset_import", "message", True), 14: Spec("metadata", "message", True)}
_PROPERTY: Schema = {1: Spec("key", "str")}
_OPSET: Schema = {1: Spec("domain", "str"), 2: Spec("version", "int")}
_GRAPH: Schema = {
    1: Spec("node", "message", True),
    5: Spec("initializer", "message", True),
    11: Spec("input", "message", True),
    12: Spec("output", "message", True),
    15: Spec("sparse_initializer", "message", True),
}
_NODE: Schema = {
    1: Spec("input", "str", True),
    2: Spec("output", "str", True),
    3: Spec("name", "str"),
    4: Spec("op_type", "str"),
    5: Spec("attribute", "message", True),
    7: Spec("domain", "str"),
}
_ATTRIBUTE: Schema = {
    1: Spec("name", "str"),
    2: Spec("f", "float"),
    3: Spec("i", "int"),
    4: Spec("s", "message"),
    5: Spec("t", "message"),
    6: Spec("g", "message"),
    7: Spec("floats", "float", True),
    8: Spec("ints", "int", True),
    20: Spec("type", "int"),
}
_TENSOR: Schema = {
    1: Spec("dims", "int", True),
    2: Spec("data_type", "int"),
    3: Spec("segment", "message"),
    4: Spec("float_data", "data", True),
    5: Spec("int32_data", "data", True),
    7: Spec("int64_data", "data", True),
    8: Spec("name", "str"),
    9: Spec("raw_data", "message"),
    10: Spec("double_data", "data", True),
    13: Spec("external_data", "message", True),
    14: Spec("data_location", "int"),
}
_ENTRY: Schema = {1: Spec("key", "str"), 2: Spec("value", "str")}
_VALUE_INFO: Schema = {1: Spec("name", "str"), 2: Spec("type", "message")}
_TYPE: Schema = {1: Spec("tensor_type", "message")}
_TENSOR_TYPE: Schema = {1: Spec("elem_type", "int"), 2: Spec("shape", "message")}
_SHAPE: Schema = {1: Spec("dim", "message", True)}
_DIM: Schema = {1: Spec("dim_value", "int")}


def read_onnx(path: Path, limits: Limits = _DEFAULTS) -> Foreign:
    """An `.onnx` model.

    Arrays keep the names of their initialisers and their stored kind of number; those that only give shapes, or that no node
    uses, are in `ignored`. Arrays are read-only views of the mapped file where it keeps them in one piece, or of the file
    beside it (see `onnx_external`); bfloat16 becomes float32. A fully connected weight that is stored (in, out) has the node
    attribute layout "io".

    Args:
        path: the file.
        limits: bounds on its size, its arrays and its nodes.

    Raises:
        ModelError: the file is missing, too large or damaged, keeps arrays outside its folder, or has numbers of another kind
            than float, double, float16, bfloat16, int32, int64 and bool.
    """
    wire, view = Wire(path.name), map_file(path, limits)
    model = wire.decode(view, _MODEL)
    if not model.get("graph"):
        wire.fault("no graph in it, expected an ONNX model")
    message = wire.decode(model["graph"][-1], _GRAPH)
    parts, tensors = message.get("node", []), message.get("initializer", [])
    if not parts:
        wire.fault("no nodes in its graph, expected an ONNX model")
    for count, what in ((len(parts), "nodes"), (len(tensors), "arrays")):
        if count > limits.arrays:
            raise ModelError(f"{path.name} has {count:,} {what}, more than the {limits.arrays:,} allowed")
    if message.get("sparse_initializer"):
        raise ModelError(f"{path.name} has sparse arrays; expected dense ones, export the model again without them")
    reader = _Tensors(wire, limits, path)
    for part in tensors:
        reader.add(*reader.read(part, "an array without a name"))
    nodes = [_node(wire, reader, part) for part in parts]
    inputs = _inputs(wire, message, reader.arrays)
    graph = Graph(
        where=path.name,
        opset=_opset(wire, model),
        # Constants that are arrays by now are no nodes any more.
        nodes=[node for node in nodes if node.op != "Constant" or reader.arrays.keys().isdisjoint(node.outputs)],
        arrays=reader.arrays,
        inputs=inputs,
    )
    converted, ignored = convert(graph)
    ours = any(last(wire.decode(part, _PROPERTY), "key") == FACTS for part in model.get("metadata", ()))
    return Foreign(
        format=f"ONNX (opset {graph.opset}{', by `emotiw export`' if ours else ''})",
        path=path,
        arrays={name: array for name, array in reader.arrays.items() if name not in ignored},
        layout="oihw",
        nodes=converted,
        inputs=inputs,
        ignored=ignored,
        exported=ours,
    )


def _opset(wire: Wire, model: Message) -> int:
    for part in model.get("opset_import", ()):
        fields = wire.decode(part, _OPSET)
        if last(fields, "domain", "") in ("", "ai.onnx"):
            return int(last(fields, "version", 1))
    return 1


class _Tensors:
    """Reads the arrays of one file and counts their bytes against the limit."""

    def __init__(self, wire: Wire, limits: Limits, path: Path) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._wire, self._limits, self._bytes = wire, limits, 0
        self._external = ExternalFiles(path, limits)

    def add(self, name: str, array: np.ndarray) -> None:
        if not name or name in self.arrays:
            self._wire.fault(f"two arrays named {name!r}" if name else "an array without a name")
        if len(self.arrays) >= self._limits.arrays:
            raise ModelError(f"{self._wire.where} has more than the {self._limits.arrays:,} arrays allowed")
        self.arrays[name] = array

    def read(self, view: memoryview, name: str) -> tuple[str, np.ndarray]:
        """The name and the array of a TensorProto."""
        wire = self._wire
        fields = wire.decode(view, _TENSOR)
        stored = last(fields, "name", "")
        name = stored or name
        number = last(fields, "data_type", 0)
        kind = _TYPES.get(number)
        if kind is None:
            word = _OTHER_TYPES.get(number, f"type {number}")
            raise ModelError(f"{wire.where}: {name} holds {word} numbers, expected one of {', '.join(_TYPES.values())}")
        if "segment" in fields:
            raise ModelError(f"{wire.where} keeps {name} in segments; export the model with whole arrays")
        dims = fields.get("dims", [])
        if len(dims) > 8 or min(dims, default=0) < 0:
            wire.fault(f"{name} has {len(dims)} sizes, the least {min(dims)}; expected at most 8 of 0 or more")
        count = 1
        for size in dims:
            count *= size
        self._bytes += count * (4 if kind == "bfloat16" else np.dtype(_STORED[kind]).itemsize)
        if self._bytes > self._limits.total_bytes:
            raise ModelError(
                f"{wire.where}: its arrays have {self._bytes:,} bytes up to {name}, more than the "
                f"{self._limits.total_bytes:,} allowed"
            )
        values = self._values(fields, kind, count, name)
        if kind == "bfloat16":  # the upper half of a float
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return stored, wire.shaped(values, dims, name)

    def _values(self, fields: Message, kind: str, count: int, name: str) -> np.ndarray:
        wire, stored = self._wire, np.dtype(_STORED[kind])
        if last(fields, "data_location", 0) or fields.get("external_data"):
            entries = [wire.decode(part, _ENTRY) for part in fields.get("external_data", ())]
            places = {last(entry, "key", ""): last(entry, "value", "") for entry in entries}
            return np.frombuffer(self._external.read(name, places, count * stored.itemsize), stored)
        if "raw_data" in fields:
            raw = fields["raw_data"][-1]
            if len(raw) != count * stored.itemsize:
                wire.fault(f"{name} has {len(raw):,} bytes, its shape {count * stored.itemsize:,}")
            return np.frombuffer(raw, stored)
        if kind == "float":
            return wire.floats(fields.get("float_data", ()), "<f4", name)
        if kind == "double":
            return wire.floats(fields.get("double_data", ()), "<f8", name)
        if kind in ("float16", "bfloat16"):
            # Each number stands in the lower half of an integer.
            bits = wire.int_array(fields.get("int32_data", []), count, np.dtype("<u2"), name)
            return bits.view(stored)
        return wire.int_array(fields.get("int64_data" if kind == "int64" else "int32_data", []), count, stored, name)


def _inputs(wire: Wire, graph: Message, arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    inputs = {}
    for part in graph.get("input", ()):
        fields = wire.decode(part, _VALUE_INFO)
        name = last(fields, "name", "")
        if name in arrays:
            continue
        shape: list[int] = []
        for kind in fields.get("type", ()):
            for tensor in wire.decode(kind, _TYPE).get("tensor_type", ()):
                for sizes in wire.decode(tensor, _TENSOR_TYPE).get("shape", ()):
                    for dim in wire.decode(sizes, _SHAPE).get("dim", ()):
                        size = last(wire.decode(dim, _DIM), "dim_value", 0)
                        shape.append(size if 0 <= size < 1 << 31 else 0)
        if len(shape) > 8:
            wire.fault(f"input {name} has {len(shape)} sizes, expected at most 8")
        inputs[name] = tuple(shape)
    return inputs


def _node(wire: Wire, reader: _Tensors, view: memoryview, branches: bool = True) -> OnnxNode:
    fields = wire.decode(view, _NODE)
    outputs = tuple(fields.get("output", ()))
    op = last(fields, "op_type", "")
    domain = last(fields, "domain", "")
    node = OnnxNode(
        op=op if domain in ("", "ai.onnx") else f"{domain}.{op}",
        name=last(fields, "name", "") or (outputs[0] if outputs else ""),
        inputs=tuple(fields.get("input", ())),
        outputs=outputs,
    )
    for part in fields.get("attribute", ()):
        name, value = _attribute(wire, reader, part, node, branches)
        node.attributes[name] = value
    if op == "Constant" and outputs:
        held = next((node.attributes[key] for key in _CONSTANTS if node.attributes.get(key) is not None), None)
        if isinstance(held, (np.ndarray, tuple, int, float)):
            reader.add(outputs[0], held if isinstance(held, np.ndarray) else _numbers(held))
    return node


_CONSTANTS = ("value", "value_int", "value_ints", "value_float", "value_floats")


def _numbers(value: tuple[Any, ...] | float) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32)


def _attribute(wire: Wire, reader: _Tensors, view: memoryview, node: OnnxNode, branches: bool) -> tuple[str, Attribute]:
    fields: dict[str, Any] = wire.decode(view, _ATTRIBUTE)
    name = last(fields, "name", "")
    # Of floating-point and whole numbers, the file has the kind that is not zero, or says which.
    kind = last(fields, "type", 0)
    for key, number in (("i", 2), ("f", 1)):
        if key in fields and kind in (0, number):
            return name, last(fields, key)
    if "s" in fields:
        return name, bytes(last(fields, "s")[:200]).decode("ascii", "replace")
    if "t" in fields and node.op in ("Constant", "ConstantOfShape"):
        return name, reader.read(last(fields, "t"), node.name)[1]
    if "g" in fields and node.op == "If" and branches:
        return name, _branch(wire, reader, last(fields, "g"))
    if "t" in fields or "g" in fields:
        return name, None
    return name, tuple(fields.get("ints") or fields.get("floats") or ())


def _branch(wire: Wire, reader: _Tensors, view: memoryview) -> Branch | None:
    """One of the graphs within an If; None if it gives not one tensor. Graphs within it are not entered."""
    message = wire.decode(view, _GRAPH)
    for part in message.get("initializer", ()):
        reader.add(*reader.read(part, "an array without a name"))
    nodes = [_node(wire, reader, part, branches=False) for part in message.get("node", ())]
    outputs = [last(wire.decode(part, _VALUE_INFO), "name", "") for part in message.get("output", ())]
    return Branch([node for node in nodes if node.op != "Constant"], outputs[0]) if len(outputs) == 1 else None
