"""The steps and arrays of a network in a TFLite file, read without TensorFlow.

Source: TensorFlow's `schema.fbs`, and FlatBuffers' "Internals" for how tables and vectors lie in the bytes. Those operators
are known that MediaPipe's networks for faces are made of.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError

_OPERATORS = {
    0: "add", 2: "concat", 3: "conv", 4: "depthwise", 6: "dequantize", 17: "max_pool", 19: "relu", 22: "reshape",
    23: "resize_bilinear", 34: "pad", 54: "prelu",
}  # fmt: skip
# Places of numbers in the table of an operator's settings: name -> (field, whether it is one byte).
_SETTINGS: Mapping[str, Mapping[str, tuple[int, bool]]] = {
    "conv": {"valid": (0, True), "stride_x": (1, False), "stride_y": (2, False), "activation": (3, True)},
    "depthwise": {"valid": (0, True), "stride_x": (1, False), "stride_y": (2, False), "activation": (4, True)},
    "max_pool": {
        "valid": (0, True), "stride_x": (1, False), "stride_y": (2, False), "width": (3, False), "height": (4, False),
        "activation": (5, True),
    },
    "add": {"activation": (0, True)},
    "concat": {"axis": (0, False), "activation": (1, True)},
    "resize_bilinear": {"align_corners": (2, True), "half_pixel": (3, True)},
}  # fmt: skip
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4"}


@dataclass(frozen=True)
class Step:
    """One operator: what it does, the tensors that it takes and the one that it makes, and its numbers."""

    op: str
    inputs: tuple[str, ...]
    output: str
    settings: Mapping[str, int]


@dataclass
class Network:
    """Steps in their order; shapes (batch, height, width, channels) of all tensors; arrays of those that are stored."""

    input: str
    steps: list[Step] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def read_tflite(data: bytes, called: str) -> Network:
    """Read a network with one input.

    Args:
        data: the file.
        called: what errors call it.

    Returns:
        Its steps without those that turn stored half precision into float32, which the arrays have.

    Raises:
        ModelError: it is damaged, or has steps or types that are not known here.
    """
    try:
        return _Reader(data).network()
    except (struct.error, IndexError, KeyError, ValueError, OverflowError) as error:
        raise ModelError(f"{called}: no TFLite network that can be read here ({type(error).__name__}: {error})") from error


class _Reader:
    """Tables are known by where they begin."""

    def __init__(self, data: bytes) -> None:
        if data[4:8] != b"TFL3":
            raise ValueError("it does not begin as one")
        self._data = data

    def _unpack(self, layout: str, at: int) -> Any:
        return struct.unpack_from(layout, self._data, at)

    def _pointed(self, at: int) -> int:
        return at + self._unpack("<I", at)[0]

    def _field(self, table: int, number: int) -> int | None:
        """Where a field lies; None if it has its default."""
        listing = table - self._unpack("<i", table)[0]
        if 4 + 2 * number >= self._unpack("<H", listing)[0]:
            return None
        offset = self._unpack("<H", listing + 4 + 2 * number)[0]
        return table + offset if offset else None

    def _number(self, table: int, number: int, byte: bool = False) -> int:
        at = self._field(table, number)
        return 0 if at is None else self._unpack("<b" if byte else "<i", at)[0]

    def _vector(self, table: int, number: int) -> tuple[int, int]:
        """Where a vector's items begin, and how many there are."""
        at = self._field(table, number)
        if at is None:
            return 0, 0
        start = self._pointed(at)
        return start + 4, self._unpack("<I", start)[0]

    def _tables(self, table: int, number: int) -> list[int]:
        start, count = self._vector(table, number)
        if start + 4 * count > len(self._data):
            raise ValueError("it is cut short")
        return [self._pointed(start + 4 * index) for index in range(count)]

    def _bytes(self, table: int, number: int, size: int = 1) -> bytes:
        start, count = self._vector(table, number)
        found = self._data[start : start + size * count]
        if len(found) != size * count:
            raise ValueError("it is cut short")
        return found

    def _numbers(self, table: int, number: int) -> tuple[int, ...]:
        return tuple(np.frombuffer(self._bytes(table, number, 4), "<i4").tolist())

    def network(self) -> Network:
        """All of it."""
        model = self._pointed(0)
        codes = [max(self._number(code, 0, True), self._number(code, 3)) for code in self._tables(model, 1)]
        (graph,) = self._tables(model, 2)
        buffers = self._tables(model, 4)
        tensors = self._tables(graph, 0)
        names = [self._bytes(tensor, 3).decode() for tensor in tensors]
        (first,) = self._numbers(graph, 1)
        found = Network(names[first])
        for name, tensor in zip(names, tensors, strict=True):
            found.shapes[name] = self._numbers(tensor, 0)
            content = self._bytes(buffers[self._number(tensor, 2)], 0)
            if content:
                stored = np.frombuffer(content, _DTYPES[self._number(tensor, 1, True)])
                found.arrays[name] = stored.reshape(found.shapes[name])
        for operator in self._tables(graph, 3):
            op = _OPERATORS[codes[self._number(operator, 0)]]
            inputs = tuple(names[index] for index in self._numbers(operator, 1))
            output = names[self._numbers(operator, 2)[0]]
            if op == "dequantize":
                found.arrays[output] = found.arrays[inputs[0]].astype(np.float32)
                continue
            at = self._field(operator, 4)
            table = None if at is None else self._pointed(at)
            places = {} if table is None else _SETTINGS.get(op, {})
            settings = {name: self._number(table, *place) for name, place in places.items() if table is not None}
            if settings.get("activation"):
                raise ValueError(f"an activation inside of {op}")
            found.steps.append(Step(op, inputs, output, settings))
        return found
