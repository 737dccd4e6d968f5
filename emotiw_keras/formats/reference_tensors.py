"""ONNX's operators on tensors of any shape and on their sizes, in NumPy: what exporters write around the layers.

Source: `Operators.md` of ONNX. A node of the kind "tensor" names its operator in `type`, has its settings beside it, and in
`constants` the operands that the file gives: pairs of a place and an array, None where an operand is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.reference_checks import bounded

Operands = list[Any]
DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float32", 11: "float32", 16: "float32"}
"""Numbers of ONNX's types -> what is computed in their place: all real numbers are float32 here."""


def operands(node: Node, given: Sequence[np.ndarray]) -> Operands:
    """The node's tensors and its constants, each in its place."""
    held = dict(node.attrs.get("constants", ()))
    rest = iter(given)
    return [held[place] if place in held else next(rest) for place in range(len(held) + len(given))]


def compute(node: Node, given: Sequence[np.ndarray]) -> np.ndarray:
    """The result of a "tensor" node.

    Raises:
        ModelError: its operands do not fit together, or the result would be larger than is allowed.
    """
    kind, found = node.attrs["type"], operands(node, given)
    try:
        return np.asarray(STEPS[kind](node, found))
    except ModelError:  # a ValueError, too, that says more
        raise
    except (ValueError, IndexError, TypeError, KeyError, OverflowError, AttributeError) as error:
        shapes = ", ".join("nothing" if x is None else "x".join(map(str, x.shape)) or "one value" for x in found)
        raise ModelError(f"layer {node.name} ({kind}) gets {shapes}, which do not fit together") from error


def choose(node: Node, given: Sequence[np.ndarray]) -> np.ndarray:
    """The result of an "if" node: of the branch that its first tensor, of one value, says.

    Raises ModelError as `compute` does, or if the branch does not make what it gives.
    """
    if given[0].size != 1:
        raise ModelError(f"layer {node.name} (If) gets {given[0].size} conditions, expected one")
    steps, output = node.attrs["then" if given[0].reshape(-1)[0] else "else"]
    tensors = dict(zip(node.inputs, given, strict=True))
    for step in steps:
        absent = [name for name in step.inputs if name not in tensors]
        if absent:
            raise ModelError(f"layer {step.name} takes {absent[0]}, which nothing before it makes")
        taken = [tensors[name] for name in step.inputs]
        tensors[step.outputs[0]] = taken[0] if step.op == "identity" else compute(step, taken)
    if output not in tensors:
        raise ModelError(f"layer {node.name} (If) gives {output}, which nothing in it makes")
    return tensors[output]


def _list(array: Any) -> list[int]:
    values = np.asarray(array)
    if values.dtype.kind not in "iu" or values.size > 64:
        raise ValueError("no sizes")
    return [int(value) for value in values.reshape(-1)]


def _optional(found: Operands, place: int) -> Any:
    return found[place] if place < len(found) else None


def _elementwise(make: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Node, Operands], np.ndarray]:
    def step(node: Node, found: Operands) -> np.ndarray:
        first, second = found
        bounded(node, *np.broadcast_shapes(first.shape, second.shape))
        return make(first, second)

    return step


def _quotient(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.dtype.kind in "iu" and second.dtype.kind in "iu":
        return np.asarray(np.trunc(first / second)).astype(first.dtype)
    return first / second


def _reshape(node: Node, found: Operands) -> np.ndarray:
    x, wanted = found[0], _list(found[1])
    if not node.attrs.get("allowzero"):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    result: np.ndarray = x.reshape(wanted)
    return result


def _squeeze(node: Node, found: Operands) -> np.ndarray:
    axes = _optional(found, 1)
    return np.squeeze(found[0], None if axes is None else tuple(_list(axes)))


def _unsqueeze(node: Node, found: Operands) -> np.ndarray:
    axes = _list(found[1])
    if found[0].ndim + len(axes) > 8:
        raise ValueError("too many axes")
    return np.expand_dims(found[0], tuple(axes))


def _shape(node: Node, found: Operands) -> np.ndarray:
    return np.array(found[0].shape[slice(node.attrs.get("start", 0), node.attrs.get("end"))], np.int64)


def _gather(node: Node, found: Operands) -> np.ndarray:
    x, places = found[0], np.asarray(found[1])
    if places.dtype.kind not in "iu":
        raise TypeError("no places")
    axis = node.attrs.get("axis", 0)
    bounded(node, *np.delete(x.shape, axis).tolist(), places.size)
    return np.take(x, places, axis=axis)


def _slice(node: Node, found: Operands) -> np.ndarray:
    x, starts, ends = found[0], _list(found[1]), _list(found[2])
    axes, steps = _optional(found, 3), _optional(found, 4)
    along = range(len(starts)) if axes is None else _list(axes)
    paces = [1] * len(starts) if steps is None else _list(steps)
    cut = [slice(None)] * x.ndim
    for axis, start, end, pace in zip(along, starts, ends, paces, strict=True):
        cut[axis] = slice(start, end, pace)
    result: np.ndarray = x[tuple(cut)]
    return result


def _concat(node: Node, found: Operands) -> np.ndarray:
    bounded(node, sum(x.size for x in found))
    return np.concatenate(found, axis=node.attrs["axis"])


def _transpose(node: Node, found: Operands) -> np.ndarray:
    return np.transpose(found[0], node.attrs.get("perm"))


def _cast(node: Node, found: Operands) -> np.ndarray:
    result: np.ndarray = found[0].astype(DTYPES[node.attrs["to"]], copy=False)
    return result


def _constant_of_shape(node: Node, found: Operands) -> np.ndarray:
    sizes, value = _list(found[0]), node.attrs.get("value")
    if min(sizes, default=0) < 0 or len(sizes) > 8:
        raise ValueError("no shape")
    bounded(node, *sizes)
    return np.zeros(sizes, np.float32) if value is None else np.full(sizes, np.asarray(value).reshape(-1)[0])


def _expand(node: Node, found: Operands) -> np.ndarray:
    x, sizes = found[0], _list(found[1])
    shape = np.broadcast_shapes(x.shape, tuple(sizes))
    bounded(node, *shape)
    return np.broadcast_to(x, shape)


def _pad(node: Node, found: Operands) -> np.ndarray:
    x, pads, value, axes = found[0], _list(found[1]), _optional(found, 2), _optional(found, 3)
    along = range(x.ndim) if axes is None else _list(axes)
    around = [(0, 0)] * x.ndim
    for i, axis in enumerate(along):
        around[axis] = (pads[i], pads[i + len(pads) // 2])
    if len(pads) != 2 * len(along):
        raise ValueError("no padding for each axis")
    bounded(node, *(size + before + after for size, (before, after) in zip(x.shape, around, strict=True)))
    return np.pad(x, around, constant_values=0 if value is None else np.asarray(value).reshape(-1)[0])


def _mean(node: Node, found: Operands) -> np.ndarray:
    axes = _optional(found, 1)
    if axes is None and node.attrs.get("noop_with_empty_axes"):
        result: np.ndarray = found[0]
        return result
    along = None if axes is None else tuple(_list(axes))
    return np.asarray(np.mean(found[0], axis=along, keepdims=bool(node.attrs.get("keepdims", 1))))


def _mean_over_channels(node: Node, found: Operands) -> np.ndarray:
    """Means of `size` neighbours along the third axis of five, the outer ones of fewer or of zeros: torch's LRN."""
    (x,) = found
    size, (before, after) = node.attrs["size"], node.attrs["pad"]
    if x.ndim != 5:
        raise ValueError("no five axes")
    bounded(node, *x.shape[:2], x.shape[2] + before + after, *x.shape[3:])
    around = ((0, 0), (0, 0), (before + 1, after), (0, 0), (0, 0))
    running = np.cumsum(np.pad(x, around), axis=2, dtype=np.float64)
    total = running[:, :, size:] - running[:, :, : running.shape[2] - size]
    if node.attrs["count_pad"]:
        return (total / size).astype(np.float32)
    ones = np.cumsum(np.pad(np.ones(x.shape[2]), (before + 1, after)))
    counts = np.maximum(ones[size:] - ones[: len(ones) - size], 1)
    return (total / counts[:, None, None]).astype(np.float32)


STEPS: Mapping[str, Callable[[Node, Operands], np.ndarray]] = {
    "Add": _elementwise(np.add),
    "AveragePool": _mean_over_channels,
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_quotient),
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Gather": _gather,
    "Mul": _elementwise(np.multiply),
    "Pad": _pad,
    "Pow": _elementwise(lambda first, second: np.power(first, second.astype(first.dtype, copy=False))),
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Sqrt": lambda node, found: np.sqrt(found[0]),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def work(node: Node, given: Sequence[np.ndarray]) -> int:
    """What the result costs, at most, in single multiplications."""
    if node.op == "if":
        return sum(x.size for x in given) * (1 + max(len(node.attrs[word][0]) for word in ("then", "else")))
    shapes = [x.shape for x in operands(node, given) if x is not None]
    try:
        largest = math.prod(np.broadcast_shapes(*shapes))
    except ValueError:
        largest = 0
    return largest + sum(math.prod(shape) for shape in shapes)
