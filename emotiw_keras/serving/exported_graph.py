"""The graph of an exported ONNX file, held to what `onnx_graph` writes: its operators and arrays, and the memory that it takes.

Files come from strangers, and engines compute whatever a file says: a few operators of a few bytes could ask for any size, and
what is not looked at here could stand for anything. So a graph may hold nothing beyond what is checked.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.protobuf import Message, Schema, Spec, Wire, last
from emotiw_keras.formats.reference_checks import LARGEST_TENSOR, bounded

OPERATORS = frozenset(
    "Add AveragePool Cast Clip Concat Conv Div Erf Flatten Gemm GlobalAveragePool Identity LRN LayerNormalization MatMul Max "
    "MaxPool Mean Mul Pad ReduceMax ReduceMin Relu Reshape Sigmoid Slice Softmax Sub Tanh Transpose".split()
)
LARGEST_TOGETHER = 4 * LARGEST_TENSOR
"""Bytes of all tensors that are kept at one time for later steps."""
LARGEST_WORK = 1 << 40
"""Multiplications for one face; VGG-16 needs 2^34, or 2^39 at the largest side."""
_SETTINGS = frozenset(
    "alpha axes axis beta bias ceil_mode dilations epsilon group keepdims kernel_shape pads perm size strides to transB".split()
)
_TOGETHER = ("Add", "Div", "Max", "Mean", "Mul", "Sub")
_ALIKE = ("Clip", "Erf", "Identity", "Relu", "Sigmoid", "Softmax", "Tanh")
_OPSET, _FLOAT, _UINT8 = 17, 1, 2
_KINDS = {1: "f", 2: "i", 7: "ints"}
_STORED = {1: "<f4", 7: "<i8"}

_VERSION: Schema = {1: Spec("domain", "str"), 2: Spec("version", "int")}
_GRAPH: Schema = {
    1: Spec("node", "message", True),
    2: Spec("name", "any"),
    5: Spec("initializer", "message", True),
    10: Spec("doc_string", "any"),
    11: Spec("input", "message", True),
    12: Spec("output", "message", True),
}
_NODE: Schema = {
    1: Spec("input", "str", True),
    2: Spec("output", "str", True),
    3: Spec("name", "any"),
    4: Spec("op", "str"),
    5: Spec("attribute", "message", True),
    6: Spec("doc_string", "any"),
    7: Spec("domain", "str"),
}
_ATTRIBUTE: Schema = {
    1: Spec("name", "str"),
    2: Spec("f", "float"),
    3: Spec("i", "int"),
    8: Spec("ints", "int", True),
    20: Spec("type", "int"),
}
_TENSOR: Schema = {
    1: Spec("dims", "int", True),
    2: Spec("kind", "int"),
    8: Spec("name", "str"),
    9: Spec("raw", "message"),
    13: Spec("external", "message", True),
    14: Spec("location", "int"),
}
_VALUE: Schema = {1: Spec("name", "str"), 2: Spec("type", "message")}
_TYPE: Schema = {1: Spec("tensor", "message")}
_ARRAY: Schema = {1: Spec("kind", "int"), 2: Spec("shape", "message")}
_SHAPE: Schema = {1: Spec("dim", "message", True)}
_DIM: Schema = {1: Spec("size", "int"), 2: Spec("name", "any")}


@dataclass(frozen=True)
class _Tensor:
    """`faces`: whether its first axis counts faces, of which there is one here. `numbers`: of few whole numbers that are
    stored."""

    shape: tuple[int, ...]
    faces: bool
    numbers: tuple[int, ...] = ()


def bytes_of_face(path: Path, wire: Wire, model: Message, given: tuple[int, int, int]) -> int:
    """How many bytes of tensors an engine keeps at one time for each face.

    Args:
        path, wire: the file.
        model: its `graph` and `opset`.
        given: height, width and channels of a face.

    Raises:
        ModelError: it holds what the export does not write, does not fit together, or takes too much.
    """
    versions = [wire.decode(part, _VERSION, closed=True) for part in model.get("opset", ())]
    if [(last(each, "domain", ""), last(each, "version", 0)) for each in versions] != [("", _OPSET)]:
        raise ModelError(f"{path} is not of the ONNX operators {_OPSET}, which `emotiw export` writes; export the run again")
    graph = wire.decode(last(model, "graph", memoryview(b"")), _GRAPH, closed=True)
    steps = [_step(path, wire, part) for part in graph.get("node", ())]
    if not steps:
        raise ModelError(f"{path} holds no operators; expected a file of `emotiw export --format onnx`")
    tensors = {"pixels": _Tensor((1, *given), True)}
    if [_declared(wire, part) for part in graph.get("input", ())] != [("pixels", _UINT8, (0, *given))]:
        raise ModelError(f"{path} does not take what it says, pixels of {'x'.join(map(str, given))}; export the run again")
    for part in graph.get("initializer", ()):
        name, tensor = _stored(path, wire, part)
        if name in tensors:
            wire.fault(f"two tensors named {name!r}")
        tensors[name] = tensor
    left = Counter(name for node in steps for name in node.inputs)
    left.update(_declared(wire, part)[0] for part in graph.get("output", ()))
    most = together = math.prod(given)
    work = 0
    for node in steps:
        try:
            (output,) = node.outputs
            if output in tensors:
                raise ValueError
            sources = [tensors[name] for name in node.inputs]
            shape, cost = _shape(node, sources)
            # Engines compute once what comes of stored arrays alone, and keep it.
            tensors[output] = _Tensor(shape, any(each.faces for each in sources))
            bounded(node, *shape)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            what = f"{node.name} ({node.op})"
            raise ModelError(
                f"{path} is damaged: its step {what} does not fit what it is given; export the run again"
            ) from error
        together += math.prod(shape)
        most, work = max(most, together), work + math.prod(shape) * cost
        for name in node.inputs:
            left[name] -= 1
            if not left[name] and tensors[name].faces:
                together -= math.prod(tensors[name].shape)
    if 4 * most > LARGEST_TOGETHER or work > LARGEST_WORK:
        raise ModelError(
            f"{path} takes {4 * most:,} bytes and {work:,} multiplications for each face, more than the "
            f"{LARGEST_TOGETHER:,} and {LARGEST_WORK:,} allowed; use a smaller network"
        )
    return 4 * most


def _step(path: Path, wire: Wire, view: memoryview) -> Node:
    fields = wire.decode(view, _NODE, closed=True)
    op, settings = last(fields, "op", ""), {}
    if op not in OPERATORS or last(fields, "domain", ""):
        raise ModelError(f"{path} holds the operator {op!r}, which `emotiw export` does not write; export the run again")
    for part in fields.get("attribute", ()):
        held = wire.decode(part, _ATTRIBUTE, closed=True)
        name, kind = last(held, "name", ""), _KINDS.get(last(held, "type", 0), "")
        if name not in _SETTINGS or name in settings or held.keys() != {"name", "type", kind}:
            raise ModelError(f"{path} sets {name!r} of {op}, which `emotiw export` does not write so; export the run again")
        settings[name] = tuple(held["ints"]) if kind == "ints" else last(held, kind)
    if op.startswith("Reduce") and len(settings.get("axes", ())) > 1:
        # OpenCV computes it wrong, and says nothing; what stretched faces was written so once.
        raise ModelError(f"{path} was written by an older version of emotiw; export the run again")
    outputs = tuple(fields.get("output", ()))
    return Node(op, outputs[0] if outputs else "", tuple(fields.get("input", ())), outputs, attrs=settings)


def _declared(wire: Wire, view: memoryview) -> tuple[str, int, tuple[int, ...]]:
    """Name, type and sizes of an input; any size is 0."""
    nothing = memoryview(b"")
    fields = wire.decode(view, _VALUE)
    kind = wire.decode(last(wire.decode(last(fields, "type", nothing), _TYPE), "tensor", nothing), _ARRAY)
    dims = wire.decode(last(kind, "shape", nothing), _SHAPE).get("dim", ())
    return last(fields, "name", ""), last(kind, "kind", 0), tuple(last(wire.decode(dim, _DIM), "size", 0) for dim in dims)


def _stored(path: Path, wire: Wire, view: memoryview) -> tuple[str, _Tensor]:
    fields = wire.decode(view, _TENSOR, closed=True)
    name, dims, raw = last(fields, "name", ""), tuple(fields.get("dims", ())), last(fields, "raw", memoryview(b""))
    if "external" in fields or last(fields, "location", 0):
        raise ModelError(f"{path} keeps {name or 'an array'} in another file; export the run again")
    dtype = np.dtype(_STORED.get(last(fields, "kind", 0), "V1"))
    if dtype.kind == "V" or min(dims, default=0) < 0 or math.prod(dims) * dtype.itemsize != len(raw):
        wire.fault(f"{name or 'an array'} of the shape {dims[:8]} has {len(raw):,} bytes, or numbers of an unknown kind")
    few = dtype.kind == "i" and len(raw) <= 256
    return name, _Tensor(dims, False, tuple(np.frombuffer(raw, dtype).tolist()) if few else ())


def _need(fits: bool) -> None:
    if not fits:
        raise ValueError


def _shape(node: Node, given: Sequence[_Tensor]) -> tuple[tuple[int, ...], int]:
    """The shape that a step makes, and the multiplications for each of its values.

    Raises:
        ModelError: it takes more than allowed on the way.
        ValueError and the like: it does not fit what it is given, or its first axis would not count faces any more.
    """
    op, settings = node.op, node.attrs
    x, others = given[0], given[1:]
    shape = x.shape
    if op in _TOGETHER:
        return _broadcast(given), 1
    _need(x.faces or not any(each.faces for each in others) or op == "MatMul")
    if op == "Concat":
        axis = range(len(shape))[settings["axis"]]
        _need(axis > 0 and all(each.faces == x.faces and len(each.shape) == len(shape) for each in others))
        _need(all(each.shape[:axis] + each.shape[axis + 1 :] == shape[:axis] + shape[axis + 1 :] for each in others))
        return (*shape[:axis], sum(each.shape[axis] for each in given), *shape[axis + 1 :]), 1
    if op == "MatMul":
        (y,) = others
        _need(len(shape) >= 2 and len(y.shape) >= 2 and shape[-1] == y.shape[-2])
        # Rows and columns are no faces, but of the first of two tables.
        _need(not (x.faces and len(shape) == 2 and len(y.shape) > 2) and not (y.faces and len(y.shape) == 2))
        front = _broadcast([_Tensor(each.shape[:-2], each.faces and len(each.shape) > 2) for each in given])
        return (*front, shape[-2], y.shape[-1]), shape[-1]
    _need(not any(each.faces for each in others))
    if op == "LRN":
        _need(settings["size"] > 0)
        return shape, settings["size"]
    if op == "LayerNormalization":
        _need(settings["axis"] == -1 and [each.shape for each in others] == [shape[-1:]] * 2)
        return shape, 4
    if op in _ALIKE:
        return shape, 1
    if op == "Cast":
        _need(settings["to"] == _FLOAT)
        return shape, 1
    if op == "Conv":
        kernel = others[0].shape
        _need(len(kernel) == 4 and kernel[2:] == settings["kernel_shape"] and shape[1] == kernel[1] * settings["group"])
        # OpenCV 4.14 reads beyond the image there.
        _need(settings["group"] == 1 or not any(s == 1 < k for s, k in zip(shape[2:], kernel[2:], strict=True)))
        return (*shape[:1], kernel[0], *_windows(node, shape)), math.prod(kernel[1:])
    if op in ("MaxPool", "AveragePool"):
        return (*shape[:2], *_windows(node, shape)), math.prod(settings["kernel_shape"])
    if op == "GlobalAveragePool":
        return (*shape[:2], *[1] * len(shape[2:])), math.prod(shape[2:])
    if op == "Gemm":
        rows, columns = others[0].shape[:: -1 if settings.get("transB") else 1]
        _need(len(shape) == 2 and shape[1] == rows and all(each.shape in ((), (columns,)) for each in others[1:]))
        return (shape[0], columns), rows
    if op == "Flatten":
        _need(settings["axis"] == 1)
        return (shape[0], math.prod(shape[1:])), 1
    if op in ("ReduceMax", "ReduceMin"):
        _need(settings["axes"] == (1,) and settings["keepdims"] == 1 and not others)
        return (shape[0], 1, *shape[2:]), shape[1]
    if op == "Transpose":
        perm = settings["perm"]
        _need(sorted(perm) == list(range(len(shape))) and not (x.faces and perm[0]))
        return tuple(shape[axis] for axis in perm), 1
    numbers = [each.numbers for each in others]
    _need(all(numbers) and x.faces)
    if op == "Reshape":
        (wanted,) = numbers
        _need(wanted[0] == 0 and min(wanted) >= 0 and len(wanted) <= 8)
        made = tuple(size or shape[axis] for axis, size in enumerate(wanted))
        _need(math.prod(made) == math.prod(shape))
        return made, 1
    if op == "Pad":
        (pads,) = numbers
        _need(len(pads) == 2 * len(shape) and min(pads) >= 0 and not pads[0] and not pads[len(shape)])
        return tuple(size + pads[axis] + pads[axis + len(shape)] for axis, size in enumerate(shape)), 1
    _need(op == "Slice")
    sizes = list(shape)
    starts, stops, axes = numbers[:3]
    _need(numbers[3:] in ([], [(1,) * len(axes)]))
    for start, stop, axis in zip(starts, stops, axes, strict=True):
        _need(axis > 0 and len(set(axes)) == len(axes))
        sizes[axis] = len(range(*slice(start, stop).indices(sizes[axis])))
    return tuple(sizes), 1


def _broadcast(given: Sequence[_Tensor]) -> tuple[int, ...]:
    """The shape of several put together value by value, whose first axis goes on to count faces if one's does."""
    rank = max(len(each.shape) for each in given)
    if any(each.faces for each in given):
        _need(
            all(len(each.shape) == rank if each.faces else each.shape[:1] == (1,) or len(each.shape) < rank for each in given)
        )
    sizes = []
    for row in itertools.zip_longest(*(each.shape[::-1] for each in given), fillvalue=1):
        (size,) = set(row) - {1} or {1}
        sizes.append(size)
    return tuple(sizes[::-1])


def _windows(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the windows over a padded image."""
    settings: dict[str, Any] = node.attrs
    (channels, *image), (height, width) = shape[1:], settings["kernel_shape"]
    top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
    padded = (image[0] + top + bottom, image[1] + left + right)
    steps, spread = settings.get("strides", (1, 1)), settings.get("dilations", (1, 1))
    _need(len(image) == 2 and min(top, left, bottom, right) >= 0 and min(height, width, *steps, *spread) > 0)
    bounded(node, channels, *padded)
    counts = []
    for size, kernel, step, each in zip(padded, (height, width), steps, spread, strict=True):
        over = size - (kernel - 1) * each - 1
        _need(over >= 0)
        counts.append((-(-over // step) if settings.get("ceil_mode") else over // step) + 1)
    return counts[0], counts[1]
