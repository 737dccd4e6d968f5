"""The wire format of protocol buffers, written. Source: "Encoding", protobuf.dev."""

from __future__ import annotations

import struct


def varint(value: int) -> bytes:
    """A whole number of 0 or more.

    Example:
        >>> varint(150)
        b'\\x96\\x01'
    """
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def tag(field: int, wire: int) -> bytes:
    """What stands before a value: the number of its field and how it is written (0 number, 2 block, 5 float)."""
    return varint(field << 3 | wire)


def number(field: int, value: int) -> bytes:
    """A field that is a whole number."""
    return tag(field, 0) + varint(value)


def single(field: int, value: float) -> bytes:
    """A field that is a float32."""
    return tag(field, 5) + struct.pack("<f", value)


def block(field: int, content: bytes) -> bytes:
    """A field that is a message or bytes."""
    return tag(field, 2) + varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    """A field that is a text."""
    return block(field, value.encode())
