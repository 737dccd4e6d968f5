"""Damaged weight files by number: the same seed and number make the same file, in any process.

The first numbers are the undamaged files themselves. Half of the damage is put where a format says what follows: tags of
protocol buffers and MATLAB elements, opcodes of pickles, structures of HDF5 and zip.
"""

from __future__ import annotations

import functools
import io
import pickletools
import random
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .fuzz_seeds import Seed, seeds

INTERESTING = (0, 1, 2, 3, 7, 8, 0x0A, 0x10, 0x20, 0x22, 0x28, 0x2E, 0x30, 0x7B, 0x7F, 0x80, 0x81, 0xFE, 0xFF)
HUGE = (1 << 15, 1 << 16, 1 << 24, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
LONGEST = 256 << 10
Data: TypeAlias = bytes | bytearray
_FORMATS = tuple(sorted({seed.format for seed in seeds()}))
_HDF5 = re.compile(rb"\x89HDF|TREE|SNOD|HEAP|GCOL|OHDR|OCHK|FRHP|FHDB|FHIB|FSHD|FSSE|BTHD|BTLF|BTIN|FADB|FAHD|EAHD")
_ZIP = re.compile(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06")


@dataclass(frozen=True)
class Case:
    """One file: `name` says how it was made, `format` which readers it is for."""

    name: str
    suffix: str
    data: bytes
    format: str
    expected: bool | None = None
    """Whether `reading.read` must answer; None if either an answer or an error is right."""


def corpus(seed: int, count: int, first: int = 0) -> Iterator[Case]:
    """The cases `first` to `first + count - 1` of a generator's seed."""
    for number in range(first, first + count):
        yield case(seed, number)


def case(seed: int, number: int) -> Case:
    """The case of this number."""
    whole = seeds()
    if number < len(whole):
        plain = whole[number]
        return Case(f"{plain.format} {plain.variant}", plain.suffix, plain.data, plain.format, not plain.trap)
    draw = random.Random(f"{seed}:{number}")
    source = draw.choice(_of(format_of(number)))
    data, words = bytearray(source.data), []
    for _ in range(draw.choice((1, 1, 1, 1, 2, 2, 3, 8))):
        (mutation,) = draw.choices(_MUTATIONS, _WEIGHTS)
        data = bytearray(mutation(draw, data, source)[:LONGEST])
        words.append(mutation.__name__.strip("_"))
    suffix = source.suffix if draw.random() < 0.97 else draw.choice(whole).suffix
    return Case(f"{source.format} {source.variant}: {', '.join(words)}", suffix, bytes(data), source.format)


def format_of(number: int) -> str:
    """The format of the case of this number; the seed does not matter."""
    whole = seeds()
    return whole[number].format if number < len(whole) else _FORMATS[number % len(_FORMATS)]


@functools.cache
def _of(format_name: str) -> tuple[Seed, ...]:
    return tuple(seed for seed in seeds() if seed.format == format_name)


@functools.lru_cache(256)
def _marks(source: Seed) -> tuple[int, ...]:
    """Where the undamaged file says what follows and how long it is."""
    data, found = source.data, set(range(min(64, len(source.data))))
    if data.startswith(b"PK"):
        found.update(at.start() + i for at in _ZIP.finditer(data) for i in range(4, 46))
    if b"\x89HDF" in data[:513]:
        found.update(at.start() + i for at in _HDF5.finditer(data) for i in range(4, 48))
    elif source.suffix == ".mat":
        found.update(_elements(data, 128, len(data)))
    if source.suffix in (".caffemodel", ".binaryproto", ".onnx"):
        found.update(_tags(data, 0, len(data)) or ())
    if source.suffix in (".npy", ".pkl", ".pth") and not data.startswith(b"PK"):
        found.update(_opcodes(data))
    return tuple(sorted(at for at in found if at < len(data)))


def _elements(data: bytes, at: int, end: int) -> Iterator[int]:
    """Tags of MATLAB's elements, 8 bytes each."""
    while at + 8 <= end:
        kind, size = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4))
        yield from range(at, at + 8)
        if kind == 14:
            yield from _elements(data, at + 8, min(end, at + 8 + size))
        at += 8 if kind >> 16 else 8 + size + -size % 8


def _tags(data: bytes, at: int, end: int) -> list[int] | None:
    """Tags of a protocol buffer's message and of those in it; None if it is none."""
    found = []
    while at < end:
        found.append(at)
        tag, at = _varint(data, at, end)
        size, behind = _varint(data, at, end) if tag & 7 in (0, 2) else ((8 if tag & 7 == 1 else 4), at)
        if not tag >> 3 or tag & 7 not in (0, 1, 2, 5) or (tag & 7 != 0 and behind + size > end):
            return None
        if tag & 7 == 2:
            found += [at, *(_tags(data, behind, behind + size) or ())]
        at = behind if tag & 7 == 0 else behind + size
    return found


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            break
    return value, at


def _opcodes(data: bytes) -> Iterator[int]:
    """Opcodes of the pickles that a file consists of, or that follow the head of a .npy."""
    at = 128 if data.startswith(b"\x93NUMPY") else 0
    while at < len(data):
        try:
            places = [place for _, _, place in pickletools.genops(io.BytesIO(data[at:]))]
        except ValueError:  # what follows is no pickle
            return
        yield from (at + place for place in places if place is not None)
        at += (places[-1] or 0) + 1


def _place(draw: random.Random, data: bytearray, source: Seed) -> int:
    marks = _marks(source)
    at = draw.choice(marks) if marks and draw.random() < 0.6 else draw.randrange(len(data) + 1)
    return min(at, max(0, len(data) - 1))


def _cut(draw: random.Random, data: bytearray, source: Seed) -> Data:
    return data[: draw.randrange(len(data) + 1)]


def _flip(draw: random.Random, data: bytearray, source: Seed) -> Data:
    if data:
        data[_place(draw, data, source)] ^= 1 << draw.randrange(8)
    return data


def _replace(draw: random.Random, data: bytearray, source: Seed) -> Data:
    if data:
        data[_place(draw, data, source)] = draw.choice((*INTERESTING, draw.randrange(256)))
    return data


def _number(draw: random.Random, data: bytearray, source: Seed) -> Data:
    """Another whole number where one may stand: huge, negative or off by one, in either byte order."""
    at, width = _place(draw, data, source), draw.choice((2, 4, 4, 8, 8))
    order: Literal["big", "little"] = "big" if draw.random() < 0.1 else "little"
    old = int.from_bytes(data[at : at + width], order)
    new = draw.choice((*HUGE, old + 1, old - 1, old * 2, -old, -1, 0, old << 16))
    data[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, order)
    return data


def _varint_there(draw: random.Random, data: bytearray, source: Seed) -> Data:
    at = _place(draw, data, source)
    old, behind = _varint(data, at, min(len(data), at + 10))
    new, out = draw.choice((*HUGE, old + 1, max(0, old - 1), old ^ 7, 0, draw.randrange(256))), bytearray()
    while new > 0x7F:
        out.append(new & 0x7F | 0x80)
        new >>= 7
    data[at:behind] = bytes([*out, new])
    return data


def _digits(draw: random.Random, data: bytearray, source: Seed) -> Data:
    """Another number where one is written out, as in prototxt, JSON, heads of .npy and old pickles."""
    found = list(re.finditer(rb"-?\d+", data[: 4 << 10]))
    if found:
        at = draw.choice(found)
        words = (b"0", b"-1", b"1e400", b"99999999999", b"18446744073709551616", b"9" * 400, b"nan", b"1.5", b"", b"007")
        data[at.start() : at.end()] = draw.choice((*words, b"%d" % (int(at[0][:30]) + 1)))
    return data


def _unprintable(draw: random.Random, data: bytearray, source: Seed) -> Data:
    """A character within a word that would break a line, or speak to the terminal."""
    found = list(re.finditer(rb"[a-z_]{3,}", data))
    if found:
        at = draw.choice(found)
        data[draw.randrange(at.start(), at.end())] = draw.choice((0, 7, 8, 10, 13, 27, 127, 155))
    return data


def _span(draw: random.Random, data: bytearray) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.choice((1, 2, 4, 8, 16, 100, 1000, len(data) // 3 + 1)))


def _delete(draw: random.Random, data: bytearray, source: Seed) -> Data:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _repeat(draw: random.Random, data: bytearray, source: Seed) -> Data:
    start, end = _span(draw, data)
    return data[:end] + data[start:end] * draw.choice((1, 1, 2, 50)) + data[end:]


def _swap(draw: random.Random, data: bytearray, source: Seed) -> Data:
    (a, b), (c, d) = sorted((_span(draw, data), _span(draw, data)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _copy(draw: random.Random, data: bytearray, source: Seed) -> Data:
    start, end = _span(draw, data)
    at = _place(draw, data, source)
    data[at : at + end - start] = data[start:end]
    return data


def _splice(draw: random.Random, data: bytearray, source: Seed) -> Data:
    """The start of this file and the end of another, mostly of the same format."""
    other = draw.choice(_of(source.format) if draw.random() < 0.7 else seeds()).data
    at = draw.randrange(len(data) + 1)
    return data[:at] + other[min(len(other), at) if draw.random() < 0.5 else draw.randrange(len(other) + 1) :]


def _noise(draw: random.Random, data: bytearray, source: Seed) -> Data:
    """Random bytes behind the start of a valid file."""
    return data[: draw.choice((4, 8, 12, 16, 64, 128, 520))] + draw.randbytes(draw.choice((8, 100, 3000)))


def _add(draw: random.Random, data: bytearray, source: Seed) -> Data:
    return data + draw.choice((b"\0", b"\xff" * 9, draw.randbytes(40), bytes(5000), bytes(data)))


def _inside(draw: random.Random, data: bytearray, source: Seed) -> Data:
    """Damage within an entry of a zip, with the right checksum around it."""
    if not data.startswith(b"PK"):
        return _replace(draw, data, source)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist() if info.file_size <= LONGEST]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        return data  # damaged before
    out, hit = io.BytesIO(), draw.randrange(len(entries) + 1)
    inner = Seed(source.format, f"entry {hit} of {source.variant}", ".pkl", entries[hit][1]) if hit < len(entries) else source
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w") as archive:
        for i, (name, content) in enumerate(entries):
            changed = draw.choice(_PLAIN)(draw, bytearray(content), inner) if i == hit and content else content
            archive.writestr(zipfile.ZipInfo(name), bytes(changed), method)
    return out.getvalue()


Mutation = Callable[[random.Random, bytearray, Seed], Data]
_PLAIN: tuple[Mutation, ...] = (
    _cut, _flip, _replace, _number, _varint_there, _digits, _unprintable, _delete, _repeat, _swap, _copy, _splice, _noise,
    _add,
)  # fmt: skip
_MUTATIONS: tuple[Mutation, ...] = (*_PLAIN, _inside)
_WEIGHTS = (6, 8, 14, 14, 6, 5, 6, 4, 4, 3, 4, 4, 1, 2, 8)
