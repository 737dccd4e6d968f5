"""Protocol buffers read where they lie: a mapped file, its fields, and arrays that are views of it.

Source: the wire format of protocol buffers ("Encoding", protobuf.dev). Messages are decoded along tables of fields (`Spec`)
and one level at a time, so a file cannot choose how deep the reader goes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
BUDGET = 400_000
"""Fields and single numbers that one file may hold outside its large arrays; the largest known networks need a tenth."""
NAME_LENGTH = 1024
_WIDTH = {FIXED32: 4, FIXED64: 8}
_CHUNK = 1 << 20

Message = dict[str, list[Any]]
"""Field name -> its values in order; a field that is not repeated has one."""


class Field(NamedTuple):
    """One field: `value` is an int (varint), the bytes (length) or a strided array of the run of equal fields (fixed)."""

    number: int
    wire: int
    value: Any


@dataclass(frozen=True)
class Spec:
    """What a field of a message is called and holds.

    kind: "int", "bool", "float", "enum", "str"; "message" for the bytes of a message that its user decodes; "data" for large
    arrays, kept as `Field`s; "any" for what nobody needs.
    """

    name: str
    kind: str
    repeated: bool = False
    names: Mapping[int, str] = field(default_factory=dict)


Schema = dict[int, Spec]


def shortest(value: float) -> float:
    """The decimal number that a float32 was written from: 0.0001, not 0.00009999999747."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def checked_name(name: str, where: str) -> str:
    """A name that can stand in one line; ModelError otherwise."""
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise ModelError(f"{where}: damaged name {name[:40]!r}; expected printable text of at most {NAME_LENGTH} characters")
    return name


def map_file(path: Path, limits: Limits) -> memoryview:
    """The bytes of a file, mapped and read-only.

    Raises:
        ModelError: it is missing, not a regular file, empty, or larger than the limit.
    """
    if not path.is_file():
        raise ModelError(f"no weight file at {path}; expected a regular file")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size > limits.total_bytes:
                raise ModelError(f"{path.name} has {size:,} bytes, more than the {limits.total_bytes:,} allowed")
            if not size:
                raise ModelError(f"{path.name} is empty (zero bytes); fetch it again")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


class Wire:
    """Decodes the messages of one file, counting what it decodes so that no file can keep it busy.

    Every method raises ModelError, with the name of the file, for bytes that are not a valid message.

    Example:
        >>> Wire("x").decode(memoryview(bytes([0x08, 0x96, 0x01])), {1: Spec("size", "int")})
        {'size': [150]}
    """

    def __init__(self, where: str, budget: int = BUDGET) -> None:
        self.where = where
        self._budget = self._left = budget

    def fault(self, what: str) -> NoReturn:
        """Raise the one-line error of this file."""
        raise ModelError(f"{self.where}: {what}; the file is damaged or of another format, fetch it again")

    def _spend(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            self.fault(f"more than {self._budget:,} fields outside its arrays, no known network has so many")

    def _varint(self, view: memoryview, at: int) -> tuple[int, int]:
        value = shift = 0
        end = len(view)
        while shift < 70:
            if at >= end:
                self.fault("it ends in the middle of a number")
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        self.fault("a number of more than 10 bytes")

    def fields(self, view: memoryview) -> Iterator[Field]:
        """The fields of a message in order; a run of fixed-width fields with the same tag comes as one array."""
        at, end = 0, len(view)
        while at < end:
            self._spend()
            start = at
            tag, at = self._varint(view, at)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                self.fault(f"field number {number}, expected 1 to {(1 << 29) - 1}")
            if wire == VARINT:
                value, at = self._varint(view, at)
                yield Field(number, wire, value)
            elif wire == LENGTH:
                size, at = self._varint(view, at)
                if size > end - at:
                    self.fault(f"field {number} claims {size:,} bytes where {end - at:,} are left")
                yield Field(number, wire, view[at : at + size])
                at += size
            elif wire in _WIDTH:
                run = self._run(view, start, at, _WIDTH[wire])
                yield Field(number, wire, run)
                at = start + len(run) * (at - start + _WIDTH[wire])
            else:
                self.fault(f"field {number} has wire type {wire}, expected 0, 1, 2 or 5")

    def _run(self, view: memoryview, start: int, at: int, width: int) -> np.ndarray:
        """float32 or float64 (n,): the values of the equal tags from `start`, a strided view."""
        head = at - start
        stride = head + width
        most = (len(view) - start) // stride
        if most < 1:
            self.fault("it ends in the middle of a number")
        tag = view[start:at]
        found = 1
        # One comparison tells the single field that nearly all are; after it, chunks grow with the run.
        if most > 1 and view[start + stride : start + stride + head] == tag:
            rows = np.frombuffer(view, np.uint8, most * stride, start).reshape(most, stride)[:, :head]
            expected, step = rows[0], 64
            while found < most:
                same = (rows[found : found + step] == expected).all(axis=1)
                if not same.all():
                    found += int(same.argmin())
                    break
                found += len(same)
                step = min(4 * step, _CHUNK)
        return np.ndarray((found,), f"<f{width}", view, at, (stride,))

    def decode(self, view: memoryview, schema: Schema, closed: bool = False) -> Message:
        """The fields of one message that the schema names; the others are skipped, or with `closed` refused.

        A field that is not repeated stands once: of two messages others take all that is in both, of two numbers the last.
        """
        message: Message = {}
        for part in self.fields(view):
            spec = schema.get(part.number)
            if spec is None and closed:
                self.fault(f"field {part.number} beside {', '.join(each.name for each in schema.values())}")
            if spec is not None and spec.kind != "any":
                values = message.setdefault(spec.name, [])
                values.extend(self._values(part, spec))
                if len(values) > 1 and not spec.repeated:
                    self.fault(f"{spec.name} stands more than once in one message, expected once")
        return message

    def _values(self, part: Field, spec: Spec) -> Sequence[Any]:
        if part.wire == LENGTH and not spec.repeated and spec.kind not in ("str", "message"):
            self.fault(f"{spec.name} is a list, expected one {spec.kind}")  # which others pass over
        if spec.kind == "data":
            return [part]
        if spec.kind == "float":
            return [shortest(value) for value in self._few_floats(part, spec)]
        if spec.kind in ("str", "message"):
            if part.wire != LENGTH:
                self.fault(f"{spec.name} is a number, expected a {spec.kind}")
            return [part.value if spec.kind == "message" else self.text(part.value, spec.name)]
        values = self.ints([part], spec.name)
        if spec.kind == "bool":
            return [bool(value) for value in values]
        return [spec.names.get(value, str(value)) for value in values] if spec.kind == "enum" else values

    def _few_floats(self, part: Field, spec: Spec) -> list[float]:
        values = self.floats([part], "<f4", spec.name)
        self._spend(values.size)
        found: list[float] = values.tolist()
        return found

    def text(self, view: memoryview, what: str) -> str:
        """A name: UTF-8, printable, of bounded length."""
        if len(view) > 4 * NAME_LENGTH:
            self.fault(f"{what} of {len(view):,} bytes, expected at most {4 * NAME_LENGTH:,}")
        try:
            return checked_name(bytes(view).decode(), self.where)
        except UnicodeDecodeError:
            self.fault(f"{what} {bytes(view[:20])!r} is not UTF-8 text")

    def ints(self, parts: Sequence[Field], what: str) -> list[int]:
        """Few signed integers, packed or not."""
        values: list[int] = []
        for part in parts:
            if part.wire == VARINT:
                self._spend()
                values.append(part.value - (1 << 64) if part.value >> 63 else part.value)
            elif part.wire == LENGTH:
                self._spend(len(part.value) // 10)
                for chunk in self._packed(part.value, what):
                    self._spend(chunk.size)
                    values += chunk.tolist()
            else:
                self.fault(f"{what} has wire type {part.wire}, expected integers")
        return values

    def int_array(self, parts: Sequence[Field], count: int, dtype: np.dtype[Any], what: str) -> np.ndarray:
        """(count,) of an integer dtype from varints, packed or not; memory is taken once the file is known to hold them."""
        if len(parts) != 1 or parts[0].wire != LENGTH:
            return self._counted(np.array(self.ints(parts, what), np.int64), count, what).astype(dtype)
        view = parts[0].value
        held = sum(int((np.frombuffer(view[i : i + _CHUNK], np.uint8) < 0x80).sum()) for i in range(0, len(view), _CHUNK))
        if held != count:
            self.fault(f"{what} holds {held:,} values where its shape has {count:,}")
        array, at = np.empty(count, dtype), 0
        for chunk in self._packed(view, what):
            array[at : at + chunk.size] = chunk.astype(dtype)
            at += chunk.size
        return array

    def _packed(self, view: memoryview, what: str) -> Iterator[np.ndarray]:
        """int64 (n,) chunks of a run of varints."""
        at = 0
        while at < len(view):
            data = np.frombuffer(view[at : at + _CHUNK], np.uint8)
            ends = np.flatnonzero(data < 0x80)
            if not ends.size:
                self.fault(f"{what} ends in the middle of a number, or has one of more than 10 bytes")
            starts = np.concatenate(([0], ends[:-1] + 1))
            lengths = ends - starts + 1
            if lengths.max() > 10:
                self.fault(f"{what} has a number of more than 10 bytes")
            values = np.zeros(ends.size, np.uint64)
            for place in range(int(lengths.max())):
                longer = lengths > place
                bits = (data[starts[longer] + place] & 0x7F).astype(np.uint64)
                values[longer] |= bits << np.uint64(7 * place)
            yield values.view(np.int64)
            at += int(ends[-1]) + 1

    def floats(self, parts: Sequence[Field], dtype: str, what: str) -> np.ndarray:
        """(n,) of dtype "<f4" or "<f8": a view of the file if the values are packed in one piece, else a copy."""
        width = np.dtype(dtype).itemsize
        pieces = []
        for part in parts:
            if part.wire == LENGTH:
                if len(part.value) % width:
                    self.fault(f"{what} has {len(part.value):,} bytes, no multiple of {width}")
                pieces.append(np.frombuffer(part.value, dtype))
            elif _WIDTH.get(part.wire) == width:
                pieces.append(part.value)
            else:
                self.fault(f"{what} has wire type {part.wire}, expected numbers of {width} bytes")
        if len(pieces) == 1:
            return np.ascontiguousarray(pieces[0])
        return np.concatenate(pieces) if pieces else np.empty(0, dtype)

    def _counted(self, values: np.ndarray, count: int, what: str) -> np.ndarray:
        if values.size != count:
            self.fault(f"{what} holds {values.size:,} values where its shape has {count:,}")
        return values

    def shaped(self, values: np.ndarray, dims: Sequence[int], what: str) -> np.ndarray:
        """The values in their declared shape; ModelError if it does not hold exactly so many."""
        shape = "x".join(map(str, dims[:8])) or "one value"
        if len(dims) > 8 or min(dims, default=0) < 0:
            self.fault(f"{what} has the shape {shape}, expected at most 8 sizes of 0 or more")
        if values.size != math.prod(dims):
            self.fault(f"{what} holds {values.size:,} values, its shape {shape} has {math.prod(dims):,}")
        return values.reshape(tuple(dims))


def last(message: Message, name: str, default: Any = None) -> Any:
    """The value of a field that is not repeated."""
    values = message.get(name)
    return values[-1] if values else default
