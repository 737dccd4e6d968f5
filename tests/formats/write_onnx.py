"""ONNX models written by hand: nodes and initialisers as a ModelProto, and helpers for the operators of these networks.

Numbers of fields are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .write_protobuf import Pieces, block, integer, integers, numbers, single, text

DATA_TYPES = {"float32": 1, "int32": 6, "int64": 7, "float16": 10, "float64": 11, "uint8": 2, "bool": 9}


@dataclass
class Op:
    """One node. `arrays` are the initialisers it brings along, by name; name them in `inputs` too.

    Example:
        >>> Op("Relu", ["conv1"], ["relu1"])
    """

    type: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = ""
    domain: str = ""


@dataclass
class SubGraph:
    """A graph within a node, as a branch of an If: its nodes and the tensor that it gives."""

    ops: Sequence[Op]
    output: str


def conv(name: str, source: str, kernel: np.ndarray, bias: np.ndarray | None, **attributes: Any) -> Op:
    """Conv: kernel (out, in / groups, height, width), bias (out,); attributes strides, pads (top, left, bottom, right),
    group, dilations, auto_pad."""
    arrays = {f"{name}_w": kernel} | ({} if bias is None else {f"{name}_b": bias})
    settings = {"kernel_shape": list(kernel.shape[2:]), **attributes}
    return Op("Conv", [source, *arrays], [name], settings, arrays, name)


def gemm(name: str, source: str, weight: np.ndarray, bias: np.ndarray | None, *, out_first: bool = True) -> Op:
    """Gemm: weight (out, in) with transB=1, or (in, out) with transB=0."""
    arrays = {f"{name}_w": weight} | ({} if bias is None else {f"{name}_b": bias})
    return Op("Gemm", [source, *arrays], [name], {"transB": int(out_first)}, arrays, name)


def relu(name: str, source: str) -> Op:
    return Op("Relu", [source], [name], name=name)


def lrn(name: str, source: str, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Op:
    return Op("LRN", [source], [name], {"size": size, "alpha": alpha, "beta": beta, "bias": k}, name=name)


def max_pool(name: str, source: str, size: int, stride: int, *, pads: Sequence[int] = (0, 0, 0, 0), ceil: bool = False) -> Op:
    """MaxPool; pads are (top, left, bottom, right)."""
    settings = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": list(pads)}
    return Op("MaxPool", [source], [name], settings | ({"ceil_mode": 1} if ceil else {}), name=name)


def flatten(name: str, source: str) -> Op:
    return Op("Flatten", [source], [name], {"axis": 1}, name=name)


def softmax(name: str, source: str, axis: int = 1) -> Op:
    return Op("Softmax", [source], [name], {"axis": axis}, name=name)


def concat(name: str, sources: Sequence[str], axis: int = 1) -> Op:
    return Op("Concat", sources, [name], {"axis": axis}, name=name)


def global_mean(name: str, source: str) -> Op:
    return Op("GlobalAveragePool", [source], [name], name=name)


def write_onnx(
    path: Path,
    ops: Sequence[Op],
    *,
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str] | Mapping[str, Sequence[int]],
    opset: int = 12,
    raw: bool = True,
    packed: bool = True,
    external: str = "",
) -> Path:
    """Write a model.

    Args:
        path: the new file.
        ops: the nodes in order.
        inputs: names and shapes of the inputs; 0 for a size that is not known.
        outputs: names of the results, with their shapes where OpenCV is to read the file.
        opset: version of the operators.
        raw: arrays as `raw_data`, else in the fields of their kind.
        packed: with raw=False, values in one piece, else one field each.
        external: the file beside it that holds the arrays of more than one axis.
    """
    beside = bytearray()
    graph = [piece for op in ops for piece in block(1, _node(op))] + text(2, "net")
    for op in ops:
        for name, array in op.arrays.items():
            if external and array.ndim > 1:
                graph += block(5, outside(name, array, external, len(beside)))
                beside += array.tobytes() + bytes(-array.nbytes % 64)
            else:
                graph += block(5, tensor(name, array, raw=raw, packed=packed))
    for name, shape in inputs.items():
        graph += block(11, _value_info(name, shape))
    for name in outputs:
        graph += block(12, _value_info(name, outputs[name] if isinstance(outputs, Mapping) else None))
    model = integer(1, 7) + text(2, "tests") + block(8, integer(2, opset)) + block(7, graph)
    with path.open("wb") as file:
        file.writelines(model)
    if external:
        path.with_name(external).write_bytes(beside)
    return path


def outside(name: str, array: np.ndarray, location: str, offset: int) -> Pieces:
    """A TensorProto whose bytes are in another file."""
    pieces = integers(1, array.shape) + integer(2, DATA_TYPES[array.dtype.name]) + text(8, name) + integer(14, 1)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
        pieces += block(13, text(1, key) + text(2, value))
    return pieces


def tensor(name: str, array: np.ndarray, *, raw: bool = True, packed: bool = True) -> Pieces:
    """A TensorProto."""
    pieces = integers(1, array.shape, packed) if array.ndim else []
    pieces += integer(2, DATA_TYPES[array.dtype.name]) + text(8, name)
    if raw:
        flat = np.ascontiguousarray(array).reshape(-1)
        return pieces + block(9, [flat.view(np.uint8).data])
    if array.dtype == np.float16:
        return pieces + integers(5, np.ascontiguousarray(array).view(np.uint16).reshape(-1).tolist(), packed)
    if array.dtype.kind == "i":
        return pieces + integers(7 if array.dtype == np.int64 else 5, array.reshape(-1).tolist(), packed)
    return pieces + numbers(4 if array.dtype == np.float32 else 10, array, packed)


def _node(op: Op) -> Pieces:
    pieces = [piece for name in op.inputs for piece in text(1, name)]
    pieces += [piece for name in op.outputs for piece in text(2, name)]
    pieces += text(3, op.name) + text(4, op.type)
    for name, value in op.attributes.items():
        pieces += block(5, _attribute(name, value))
    return pieces + (text(7, op.domain) if op.domain else [])


def _attribute(name: str, value: Any) -> Pieces:
    pieces = text(1, name)
    if isinstance(value, np.ndarray):
        return pieces + block(5, tensor("", value)) + integer(20, 4)
    if isinstance(value, SubGraph):
        graph = [piece for op in value.ops for piece in block(1, _node(op))] + text(2, "branch")
        return pieces + block(6, graph + block(12, _value_info(value.output, None))) + integer(20, 5)
    if isinstance(value, str):
        return pieces + text(4, value) + integer(20, 3)
    if isinstance(value, float):
        return pieces + single(2, value) + integer(20, 1)
    if isinstance(value, int):
        return pieces + integer(3, value) + integer(20, 2)
    return pieces + integers(8, value, packed=False) + integer(20, 7)


def _value_info(name: str, shape: Sequence[int] | None) -> Pieces:
    kind = integer(1, 1)
    if shape is not None:
        dims = [block(1, integer(1, size) if size else text(2, "N")) for size in shape]
        kind += block(2, [piece for dim in dims for piece in dim])
    return text(1, name) + block(2, block(1, kind))
