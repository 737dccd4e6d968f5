"""MATLAB's file format of level 5: bytes -> nested Python values, without a copy where the file is not compressed.

Only what weight files hold is read: numbers, text, cells and structures. Every element is checked to lie within its parent
and to have the size that its dimensions say before it is touched, so no file can make the reader take more memory than
`Limits` allows. Source: "MAT-File Format", The MathWorks, chapter 1 (level 5).
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.budget import Budget
from emotiw_keras.formats.foreign import Limits

DEPTH = 32
"""Levels of cells and structures; MatConvNet's nets have about six."""
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x800
_DEFLATE_RATIO = 1032
"""Deflate's greatest; a longer content is a lie."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Unread:
    """A value of a MATLAB class that weights do not need: an object, a function handle, a sparse or complex matrix."""

    kind: str


Value: TypeAlias = "np.ndarray | str | list[Value] | dict[str, Value] | Unread"
"""Numbers are arrays of MATLAB's shape (column-major), text is str, or a list of its rows; a structure is a dict, an array of
structures or a cell array a list in MATLAB's (column-major) order. Logical values are uint8."""


def read_mat5(path: Path, limits: Limits) -> dict[str, Value]:
    """The variables of a MATLAB file of level 5 (versions 5 to 7.2), by name.

    Raises:
        ModelError: the file is of another level or byte order, damaged, or larger unpacked than `limits` allow.

    Example:
        >>> from pathlib import Path
        >>> net = read_mat5(Path("imagenet-vgg-f.mat"), Limits())  # doctest: +SKIP
        >>> net["layers"][0]["weights"][0].shape  # doctest: +SKIP
        (11, 11, 3, 64)
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER)
            if len(head) < _HEADER:
                raise ModelError(f"{path.name} has {len(head)} bytes, a MATLAB file has at least {_HEADER}; fetch it again")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if head[126:128] == b"MI":
        raise ModelError(f"{path.name} is a MATLAB file in big-endian byte order, expected little-endian; save it on a PC")
    version = struct.unpack("<H", head[124:126])[0]
    if head[126:128] != b"IM" or version != 0x100:
        raise ModelError(f"{path.name} is no MATLAB file of level 5 (version {version:#x}); save it in MATLAB with `-v7`")
    return _Reader(Budget(path.name, limits.of_file(len(data)))).variables(data)


class _Reader:
    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.name = budget.name

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.name} is damaged: {what}; fetch it again")

    def variables(self, data: memoryview) -> dict[str, Value]:
        found: dict[str, Value] = {}
        at = _HEADER
        while at < len(data):
            kind, body, at = self.element(data, at)
            if kind == _COMPRESSED:
                kind, body, _ = self.element(self.inflate(body), 0)
            else:
                self.budget.take(len(body), "a variable")
            if kind != _MATRIX:
                raise self.damaged(f"a variable of the type {kind}, expected {_MATRIX}")
            name, value = self.matrix(body, 0)
            if name:  # MATLAB keeps the insides of its objects in variables without one
                found[name] = value
        return found

    def element(self, view: memoryview, at: int) -> tuple[int, memoryview, int]:
        """Type and content of the element at `at`, and where the next one starts."""
        if len(view) - at < 8:
            raise self.damaged(f"it ends within an element ({len(view) - at} bytes left, expected at least 8)")
        kind, size = struct.unpack_from("<II", view, at)
        if kind >> 16:  # four bytes or less stand within the tag
            size, kind = kind >> 16, kind & 0xFFFF
            if size > 4:
                raise self.damaged(f"a small element of {size} bytes, expected at most 4")
            return kind, view[at + 4 : at + 4 + size], at + 8
        start, end = at + 8, at + 8 + size
        if end > len(view):
            raise self.damaged(f"an element of {size:,} bytes where {len(view) - start:,} are left")
        return kind, view[start:end], end if kind == _COMPRESSED else min(len(view), end + -size % 8)

    def inflate(self, packed: memoryview) -> memoryview:
        """The one element that a compressed variable holds, with its tag."""
        unpacker = zlib.decompressobj()
        parts = (packed[at : at + _CHUNK] for at in range(0, len(packed), _CHUNK))
        try:
            feed: bytes | memoryview = next(parts, b"")
            tag = unpacker.decompress(feed, 8)
            if len(tag) < 8:
                raise self.damaged("a compressed variable ends within its first 8 bytes")
            size = struct.unpack_from("<I", tag, 4)[0]
            if size > len(packed) * _DEFLATE_RATIO:
                raise self.damaged(f"{len(packed):,} compressed bytes that would unpack to {size:,}, which they cannot")
            self.budget.take(size, "a compressed variable")
            content = np.empty(8 + size, np.uint8)
            content[:8] = np.frombuffer(tag, np.uint8)
            at, feed = 8, unpacker.unconsumed_tail
            while at < len(content):
                piece = unpacker.decompress(feed, min(len(content) - at, 1 << 20))
                content[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
                feed = unpacker.unconsumed_tail
                if not feed and not piece:
                    feed = next(parts, b"")
                    if not feed:
                        raise self.damaged(f"a compressed variable ends after {at:,} of {len(content):,} bytes")
            # The checksum stands at the end, and is compared when it has been fed.
            while not unpacker.eof:
                if unpacker.decompress(feed, 1):
                    raise self.damaged("a compressed variable is longer than it says")
                feed = unpacker.unconsumed_tail or next(parts, b"")
                if not feed and not unpacker.eof:
                    raise self.damaged("a compressed variable ends before its checksum")
        except zlib.error as error:
            raise self.damaged(f"a compressed variable cannot be unpacked ({error})") from error
        return content.data

    def matrix(self, body: memoryview, depth: int) -> tuple[str, Value]:
        """Name and value of an array element."""
        self.budget.count()
        if depth > DEPTH:
            raise ModelError(f"{self.name}: cells and structures within each other {depth} deep, expected at most {DEPTH}")
        if not len(body):  # an empty cell, written short
            return "", np.empty((0, 0))
        _, flags, at = self.element(body, 0)
        if len(flags) != 8:
            raise self.damaged(f"array flags of {len(flags)} bytes, expected 8")
        word = struct.unpack_from("<I", flags)[0]
        kind = word & 0xFF
        if kind == _OPAQUE:
            _, name, _ = self.element(body, at)
            return str(name, "latin-1"), Unread("object")
        shape, at = self.shape(body, at)
        _, name, at = self.element(body, at)
        return str(name, "latin-1"), self.value(body, at, kind, word, shape, depth)

    def shape(self, body: memoryview, at: int) -> tuple[tuple[int, ...], int]:
        kind, sizes, at = self.element(body, at)
        if kind != 5 or len(sizes) % 4 or not 8 <= len(sizes) <= 4 * 32:
            raise self.damaged(f"dimensions of the type {kind} in {len(sizes)} bytes, expected 2 to 32 whole numbers")
        shape = struct.unpack(f"<{len(sizes) // 4}i", sizes)
        if min(shape) < 0:
            raise self.damaged(f"an array of the shape {shape}")
        return shape, at

    def value(self, body: memoryview, at: int, kind: int, word: int, shape: tuple[int, ...], depth: int) -> Value:
        if kind in _CLASSES:
            return Unread("complex matrix") if word & _COMPLEX else self.numbers(body, at, np.dtype(_CLASSES[kind]), shape)
        if kind == _CHAR:
            return self.text(body, at, shape)
        if kind == _CELL:
            return [value for value, _ in self.matrices(body, at, math.prod(shape), depth)]
        if kind == _STRUCT:
            return self.structure(body, at, shape, depth)
        unread = {_OBJECT: "object", _SPARSE: "sparse matrix", _FUNCTION: "function handle"}.get(kind)
        if unread is None:
            raise self.damaged(f"an array of the unknown class {kind}")
        return Unread(unread)

    def numbers(self, body: memoryview, at: int, wanted: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.empty((0, 0), wanted)
        kind, data, _ = self.element(body, at)
        if kind not in _NUMBERS:
            raise self.damaged(f"numbers of the unknown type {kind}")
        stored = np.dtype(_NUMBERS[kind])  # whole numbers are stored in as few bytes as they need
        if len(data) != math.prod(shape) * stored.itemsize:
            raise self.damaged(f"{len(data):,} bytes for an array of the shape {shape} of {stored}")
        if stored.kind == "f" and (wanted.kind != "f" or wanted.itemsize < stored.itemsize):
            raise self.damaged(f"{stored} where the array's class is {wanted}")
        array = np.frombuffer(data, stored.newbyteorder("<")).reshape(shape, order="F")
        if stored == wanted:
            return array
        self.budget.take(array.size * wanted.itemsize, "an array")
        return array.astype(wanted)

    def text(self, body: memoryview, at: int, shape: tuple[int, ...]) -> Value:
        if 0 in shape:
            return ""
        kind, data, _ = self.element(body, at)
        try:
            text = str(data, _TEXTS[kind]) if kind in _TEXTS else None
        except UnicodeDecodeError as error:
            raise self.damaged(f"text that is not {error.encoding}") from error
        if text is None:
            raise self.damaged(f"text of the unknown type {kind}")
        rows = shape[0]
        if rows == 1:
            return text
        if len(text) != math.prod(shape):
            raise self.damaged(f"text of {len(text)} characters for the shape {shape}")
        self.budget.count(rows)
        return [text[row::rows] for row in range(rows)]

    def matrices(self, body: memoryview, at: int, count: int, depth: int) -> list[tuple[Value, int]]:
        """`count` values, each with the place behind it; the names of array elements within others are not used."""
        if count * 8 > len(body) - at:
            raise self.damaged(f"{count:,} cells or fields in {len(body) - at:,} bytes")
        values = []
        for _ in range(count):
            kind, inner, at = self.element(body, at)
            if kind != _MATRIX:
                raise self.damaged(f"a cell or field of the type {kind}, expected {_MATRIX}")
            values.append((self.matrix(inner, depth + 1)[1], at))
        return values

    def structure(self, body: memoryview, at: int, shape: tuple[int, ...], depth: int) -> Value:
        _, width, at = self.element(body, at)
        length = struct.unpack("<i", width)[0] if len(width) == 4 else 0
        _, names, at = self.element(body, at)
        if length < 1 or len(names) % length:
            raise self.damaged(f"{len(names)} bytes of field names of {length} each")
        self.budget.count(len(names) // length)
        fields = [str(names[i : i + length], "latin-1").partition("\0")[0] for i in range(0, len(names), length)]
        count = math.prod(shape)
        self.budget.count(count)
        values = [value for value, _ in self.matrices(body, at, count * len(fields), depth)]
        step = len(fields)
        found: list[Value] = [dict(zip(fields, values[i * step : (i + 1) * step], strict=True)) for i in range(count)]
        return found[0] if count == 1 else found
