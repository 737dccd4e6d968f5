"""The opcodes of a pickle with their arguments, read from memory without copying what is long.

Source: the opcode table of CPython's `pickletools`. Its own reader copies every argument, some twice, and fails in many
ways on damaged data; this one fails in one.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

from emotiw_keras.errors import ModelError

LONG_DATA = 1 << 16
"""Bytes and Python-2 strings longer than this stay views of the file: they are data, not names."""
_NUMBER_BYTES = 255
_NUMBER_DIGITS = 400

_FIXED = {
    name: struct.Struct(code)
    for name, code in {"uint1": "<B", "uint2": "<H", "int4": "<i", "uint4": "<I", "uint8": "<Q", "float8": ">d"}.items()
}
_COUNTED = {
    kind: struct.Struct(code)
    for code, kinds in {
        "<B": "bytes1 string1 unicodestring1 long1",
        "<I": "bytes4 unicodestring4",
        "<i": "string4 long4",
        "<Q": "bytes8 bytearray8 unicodestring8",
    }.items()
    for kind in kinds.split()
}
_OPCODES = {ord(op.code): (op.name, op.arg.name if op.arg else "") for op in pickletools.opcodes}


def shown(text: object) -> str:
    """A name out of a file as it may stand in a line of text: ASCII, no line ends, 80 characters at most."""
    if isinstance(text, (list, tuple, dict, set, frozenset)):  # one that holds itself many times over is endless as text
        return f"a {type(text).__name__}"
    plain = str(text[:80], "latin-1") if isinstance(text, bytes) else str(text)[:80]
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(letter if " " <= letter <= "~" else ascii(letter)[1:-1] for letter in plain)[:80]


class Opcodes:
    """Iterates over the opcodes from `position` to STOP: (name, argument), the argument None where there is none.

    Bytes and Python-2 strings of more than `LONG_DATA` are given as read-only views; shorter Python-2 strings as text
    (latin-1), shorter bytes as bytes. `position` is always behind the last opcode.

    Raises:
        ModelError: the data end in the middle, or are no pickle.

    Example:
        >>> import pickle
        >>> [name for name, _ in Opcodes(memoryview(pickle.dumps((1, "a"), 2)), 0, "x")]
        ['PROTO', 'BININT1', 'BINUNICODE', 'BINPUT', 'TUPLE2', 'BINPUT', 'STOP']
    """

    def __init__(self, data: memoryview, position: int, where: str) -> None:
        self.position = position
        self._data = data
        self._where = where

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        name = ""
        while name != "STOP":
            if self.position >= len(self._data):
                self.fail(f"its pickle ends at byte {self.position:,} without a STOP")
            code = self._data[self.position]
            self.position += 1
            if code not in _OPCODES:
                self.fail(f"byte {self.position - 1:,} of its pickle is {code}, which is no opcode")
            name, kind = _OPCODES[code]
            yield name, self._argument(kind) if kind else None

    def fail(self, what: str) -> NoReturn:
        """Raise the one-line error of a damaged pickle."""
        raise ModelError(f"{self._where}: {what}; the file is damaged or no pickle, fetch it again")

    def _take(self, count: int) -> memoryview:
        left = len(self._data) - self.position
        if not 0 <= count <= left:
            self.fail(f"its pickle needs {count:,} bytes at byte {self.position:,}, and {left:,} are left")
        self.position += count
        return self._data[self.position - count : self.position]

    def _line(self) -> bytes:
        """Up to the next line end, which is taken and left out."""
        size = 256
        while True:
            chunk = bytes(self._data[self.position : self.position + size])
            end = chunk.find(b"\n")
            if end >= 0:
                self.position += end + 1
                return chunk[:end]
            if len(chunk) < size:
                self.fail(f"the line at byte {self.position:,} of its pickle has no end")
            size *= 4

    def _argument(self, kind: str) -> Any:
        if kind in _FIXED:
            return _FIXED[kind].unpack(self._take(_FIXED[kind].size))[0]
        if kind in _COUNTED:
            return self._counted(kind)
        if kind == "stringnl_noescape_pair":
            return f"{self._text(self._line(), 'utf-8')}.{self._text(self._line(), 'utf-8')}"
        line = self._line()
        if kind == "unicodestringnl":
            return self._text(line, "raw-unicode-escape")
        if kind == "stringnl":
            return self._quoted(line)
        if kind == "stringnl_noescape":
            return self._text(line, "latin-1")
        return self._number(kind, line)

    def _counted(self, kind: str) -> Any:
        count = _COUNTED[kind].unpack(self._take(_COUNTED[kind].size))[0]
        if kind.startswith("long") and count > _NUMBER_BYTES:
            self.fail(f"its pickle holds a whole number of {count:,} bytes, expected at most {_NUMBER_BYTES}")
        value = self._take(count)
        if kind.startswith("long"):
            return int.from_bytes(value, "little", signed=True)
        if kind.startswith("unicode"):
            return self._text(value, "utf-8", "surrogatepass")
        if count > LONG_DATA:
            return value.toreadonly()
        return str(value, "latin-1") if kind.startswith("string") else bytes(value)

    def _text(self, data: bytes | memoryview, encoding: str, errors: str = "strict") -> str:
        try:
            return str(data, encoding, errors)
        except UnicodeDecodeError as error:
            self.fail(f"the text before byte {self.position:,} of its pickle is not {encoding} ({error.reason})")

    def _quoted(self, line: bytes) -> str | memoryview:
        """A Python-2 string as `repr` writes it."""
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            self.fail(f"the string before byte {self.position:,} of its pickle has no quotes")
        try:
            with warnings.catch_warnings():
                # An escape that Python 2 never writes is only a deprecation there.
                warnings.simplefilter("error")
                value = codecs.escape_decode(line[1:-1])[0]
        except (ValueError, DeprecationWarning) as error:
            self.fail(f"the string before byte {self.position:,} of its pickle cannot be read: {shown(error)}")
        return memoryview(value) if len(value) > LONG_DATA else str(value, "latin-1")

    def _number(self, kind: str, line: bytes) -> int | float | bool:
        if kind == "decimalnl_short" and line in (b"00", b"01"):
            return line == b"01"
        if kind == "decimalnl_long":
            line = line.removesuffix(b"L")
        if len(line) > _NUMBER_DIGITS:
            self.fail(f"its pickle holds a number of {len(line):,} digits, expected at most {_NUMBER_DIGITS}")
        try:
            return float(line) if kind == "floatnl" else int(line)
        except ValueError:
            self.fail(f"{shown(line)!r} before byte {self.position:,} of its pickle is no number")
