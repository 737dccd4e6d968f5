"""Whether a JPEG that ends with its end marker holds all of its image: libjpeg fills up what is missing and tells nobody.

A file that was cut and then closed with an end marker, as some download and repair programs do, decodes to grey from there on.
A last block as bright as 128 everywhere is the only trace in the pixels; where it shows, the Huffman codes are counted (ITU-T
T.81, annexes B and F), in scans of up to `MOST_COUNTED` bytes. Of progressive files the headers of scans are looked at: what
was begun has to come to its last bit; a last scan that is cut within is not noticed there.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np

FILL = 127.5
"""128, and 127 where inks are turned round."""
_NEAR = 2.0
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), b"\xff\xc2"
MOST_COUNTED = 2 << 20
"""It takes a second and more."""
# What ends a scan: a marker that is neither a stuffed byte nor a restart.
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass
class _Frame:
    """What stands before a scan."""

    height: int = 0
    width: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    tables: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    restart: int = 0
    progressive: bool = False


def may_be_filled(pixels: np.ndarray) -> bool:
    """Whether the last block of decoded pixels, uint8 (height, width, 1, 3 or 4), is as bright as what libjpeg fills up with.

    Its colours may be those of its neighbours, which are blended into it.
    """
    if abs(_brightness(pixels[-1, -1]) - FILL) > _NEAR:
        return False
    height, width = pixels.shape[:2]
    block = pixels[-((height - 1) % 8 + 1) :, -((width - 1) % 8 + 1) :].reshape(-1, pixels.shape[-1])
    return all(abs(_brightness(pixel) - FILL) <= _NEAR for pixel in block)


def _brightness(pixel: np.ndarray) -> float:
    if len(pixel) == 1:
        return float(pixel[0])
    return 0.299 * float(pixel[0]) + 0.587 * float(pixel[1]) + 0.114 * float(pixel[2])


def is_incomplete(data: bytes, pixels: np.ndarray | None = None) -> bool:
    """Whether data of the image is missing before the end marker; False where a file is unlike what is known here.

    Args:
        data: the file.
        pixels: what it decodes to, if only a filled corner is to be looked into.
    """
    closely = pixels is None or may_be_filled(pixels)
    if not closely and _PROGRESSIVE not in data:
        return False
    try:
        return _look(data, closely)
    except (struct.error, IndexError, KeyError, ValueError):
        return False  # damaged otherwise: the decoder has said what there is to say


def _look(data: bytes, closely: bool) -> bool:
    frame, at = _Frame(), 2
    reached: dict[tuple[int, int], int] = {}
    coded: list[bytes] = []
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:
            at += 1
            continue
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xD9:
            break
        if marker in (*_SEQUENTIAL, _PROGRESSIVE[1]):
            frame.height, frame.width = struct.unpack_from(">HH", body, 1)
            frame.progressive = marker == _PROGRESSIVE[1]
            if not frame.progressive and not closely:
                return False
            frame.sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)}
        elif marker == 0xC4:
            coded.append(body)
        elif marker == 0xDD:
            (frame.restart,) = struct.unpack(">H", body[:2])
        elif marker == 0xDA:
            count = body[0]
            parts = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(1, 1 + 2 * count, 2)]
            first, last, bits = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
            for component, _, _ in parts:
                reached |= {(component, place): bits for place in range(first, last + 1)}
            found = _NEXT.search(data, at)
            end = found.start() if found else len(data)
            if not frame.progressive:
                while coded:
                    _read_tables(coded.pop(0), frame.tables)
                if _codes_missing(frame, parts, data[at:end]):
                    return True
            at = end
    # An encoder may leave out the finest detail on purpose, but what it began it ends.
    return any(reached.values()) or any((component, 0) not in reached for component in frame.sampling)


def _read_tables(body: bytes, tables: dict[int, list[tuple[int, int]]]) -> None:
    """Huffman tables by class and number -> for each 16 bits that may come: bits of the code, and its symbol."""
    while len(body) >= 17:
        counts, place, code, table = body[1:17], 17, 0, [(0, 0)] * (1 << 16)
        for bits, count in enumerate(counts, 1):
            for symbol in body[place : place + count]:
                start = code << (16 - bits)
                table[start : start + (1 << 16 - bits)] = [(bits, symbol)] * (1 << 16 - bits)
                code += 1
            place += count
            code <<= 1
        tables[body[0]] = table
        body = body[place:]


def _codes_missing(frame: _Frame, parts: list[tuple[int, int, int]], scan: bytes) -> bool:
    """Whether a scan of sequential mode ends before all of its blocks."""
    widest, highest = (max(pair[i] for pair in frame.sampling.values()) for i in (0, 1))
    if len(parts) > 1:
        units = -(-frame.width // (8 * widest)) * -(-frame.height // (8 * highest))
        blocks = [(dc, 16 + ac) for part, dc, ac in parts for _ in range(frame.sampling[part][0] * frame.sampling[part][1])]
    else:
        part, dc, ac = parts[0]
        across, down = frame.sampling[part]
        units = -(-frame.width * across // (8 * widest)) * -(-frame.height * down // (8 * highest))
        blocks = [(dc, 16 + ac)]
    pairs = [(frame.tables[dc], frame.tables[ac]) for dc, ac in blocks]
    pieces = _restarts(scan)
    each = frame.restart or units
    if len(pieces) < -(-units // each):
        return True
    if len(pieces[-1]) > MOST_COUNTED:
        return False
    return not _holds(pieces[-1], units - each * (len(pieces) - 1), pairs)


def _restarts(scan: bytes) -> list[bytes]:
    pieces, start, at = [], 0, 0
    while (at := scan.find(b"\xff", at)) >= 0:
        if at + 1 < len(scan) and 0xD0 <= scan[at + 1] <= 0xD7:
            pieces.append(scan[start:at])
            start = at + 2
        at += 2
    pieces.append(scan[start:])
    return [piece.replace(b"\xff\0", b"\xff") for piece in pieces]


def _holds(piece: bytes, units: int, pairs: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]) -> bool:
    """Whether the bits of a piece last for its units."""
    end, at = 8 * len(piece), 0
    padded = piece + bytes(8)
    window = int.from_bytes
    for _ in range(units):
        for dc, ac in pairs:
            bits, size = dc[window(padded[at >> 3 : (at >> 3) + 3], "big") >> 8 - (at & 7) & 0xFFFF]
            at += bits + size
            place = 1
            while place < 64 and at <= end:
                bits, symbol = ac[window(padded[at >> 3 : (at >> 3) + 3], "big") >> 8 - (at & 7) & 0xFFFF]
                at += bits + (symbol & 15)
                if not bits:
                    return True  # no code: damaged in its middle, where the decoder goes on as it can
                if symbol & 15:
                    place += 1 + (symbol >> 4)
                elif symbol == 0xF0:
                    place += 16
                else:
                    break
            if at > end:
                return False
    return True
