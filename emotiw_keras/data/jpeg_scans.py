"""Whether a JPEG that ends with its end marker holds all of its image: libjpeg fills up what is missing and tells nobody.

A file that was cut and then closed with an end marker, as some download and repair programs do, decodes to grey from there on,
or, if it is progressive, without its finest detail. What is missing is found by decoding once more with other bytes in front of
the end marker (ITU-T T.81, annex B: they lie behind a scan that is whole, and are passed over). That costs a decode: it is done
for progressive files, and for others where the last block is as bright as 128 everywhere, which is what libjpeg fills up with.
A file of the other kind that is cut within its last block, 8 or 16 pixels wide, is not noticed.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

FILL = 127.5
"""128, and 127 where inks are turned round."""
_NEAR = 2.0
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), b"\xff\xc2"
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
# What ends a scan: a marker that is neither a stuffed byte nor a restart.
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# No marker is among them, and each bit is as often 0 as 1.
_OTHER_BITS = np.random.default_rng(0).integers(0, 255, 2048, np.uint8).tobytes()


@dataclass
class _Scans:
    """What the headers say, and where the last scan ends."""

    height: int = 0
    width: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    restart: int = 0
    unfinished: bool = False
    end: int = 0


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


def is_incomplete(data: bytes, pixels: np.ndarray) -> bool:
    """Whether data of the image is missing before the end marker; False where a file is unlike what is known here.

    Args:
        data: the file.
        pixels: what it decodes to, uint8 (height, width, channels).
    """
    if _END not in data[data.rfind(_SCAN) :]:
        return True
    if _PROGRESSIVE not in data and not may_be_filled(pixels):
        return False
    try:
        scans = _look(data)
    except (struct.error, IndexError, KeyError, ValueError):
        return False  # damaged otherwise: the decoder has said what there is to say
    return scans.unfinished or _takes_more(data, scans.end, pixels)


def _look(data: bytes) -> _Scans:
    found, at, progressive = _Scans(), 2, False
    reached: dict[tuple[int, int], int] = {}
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:
            at += 1
            continue
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker == 0xD9:
            break
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker in (*_SEQUENTIAL, _PROGRESSIVE[1]):
            found.height, found.width = struct.unpack_from(">HH", body, 1)
            found.sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)}
            progressive = marker == _PROGRESSIVE[1]
        elif marker == 0xDD:
            (found.restart,) = struct.unpack(">H", body[:2])
        elif marker == _SCAN[1]:
            count = body[0]
            parts = [body[i] for i in range(1, 1 + 2 * count, 2)]
            first, last, bits = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
            for component in parts:
                reached |= {(component, place): bits for place in range(first, last + 1)}
            ends = _NEXT.search(data, at)
            found.end = ends.start() if ends else len(data)
            if found.restart and not progressive:
                pieces = 1 + len(re.findall(rb"\xff[\xd0-\xd7]", data[at : found.end]))
                found.unfinished |= pieces < -(-_units(found, parts) // found.restart)
            at = found.end
    # An encoder may leave out the finest detail on purpose, but what it began it ends.
    found.unfinished |= any(reached.values()) or any((component, 0) not in reached for component in found.sampling)
    return found


def _units(scans: _Scans, parts: list[int]) -> int:
    """Blocks, or groups of them where components are interleaved, that a scan of all coefficients has."""
    widest, highest = (max(pair[i] for pair in scans.sampling.values()) for i in (0, 1))
    across, down = (1, 1) if len(parts) > 1 else scans.sampling[parts[0]]
    return -(-scans.width * across // (8 * widest)) * -(-scans.height * down // (8 * highest))


def _takes_more(data: bytes, end: int, pixels: np.ndarray) -> bool:
    """Whether other bytes at the end of the last scan change the image."""
    whole = data[:end].rstrip(b"\xff")
    try:
        changed = _decoded(whole + _OTHER_BITS + _END)
        # Pillow and OpenCV have a libjpeg each, and need not agree everywhere.
        return not np.array_equal(changed, pixels) and not np.array_equal(changed, _decoded(whole + _END))
    except (OSError, SyntaxError, ValueError):
        return True  # what lies behind a whole scan is not read, and so no reason to stop


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]
