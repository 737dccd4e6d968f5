"""Protocol buffers written by hand: messages as lists of pieces, so that large arrays are not copied for every level."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Pieces = list[Any]
"""Bytes-like pieces of one message, in order."""


def varint(value: int) -> bytes:
    """An integer; negative ones take ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def integer(number: int, value: int) -> Pieces:
    return [tag(number, 0) + varint(value)]


def integers(number: int, values: Iterable[int], packed: bool = True) -> Pieces:
    if packed:
        return block(number, [b"".join(varint(value) for value in values)])
    return [tag(number, 0) + varint(value) for value in values]


def single(number: int, value: float) -> Pieces:
    return [tag(number, 5) + np.float32(value).tobytes()]


def text(number: int, value: str) -> Pieces:
    return block(number, [value.encode()])


def block(number: int, pieces: Pieces) -> Pieces:
    """A message, string or packed list as a field."""
    return [tag(number, 2) + varint(sum(len(piece) for piece in pieces)), *pieces]


def numbers(number: int, values: np.ndarray, packed: bool = True) -> Pieces:
    """float32 or float64 of any shape, in one piece or as one field for each."""
    flat = np.ascontiguousarray(values).reshape(-1).astype(values.dtype.newbyteorder("<"), copy=False)
    if packed:
        return block(number, [flat.view(np.uint8).data]) if flat.size else []
    head = np.frombuffer(tag(number, 5 if flat.itemsize == 4 else 1), np.uint8)
    rows = np.empty((flat.size, head.size + flat.itemsize), np.uint8)
    rows[:, : head.size] = head
    rows[:, head.size :] = flat.view(np.uint8).reshape(flat.size, flat.itemsize)
    return [rows.reshape(-1).data]
