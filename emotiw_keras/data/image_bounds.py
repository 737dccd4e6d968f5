"""What an image's bytes would cost to decode: refused before a decoder meets them, where that is out of proportion.

A few kilobytes can ask for hours: a JPEG of hundreds of scans, comments that a parser reads byte by byte, a table of millions
of strips. The bounds lie far above what cameras and programs write.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

MAX_PIXELS = 64_000_000
# Passes over all of an image of `MAX_PIXELS`, and in any case: progressive files have about ten.
MAX_SCANS, MOST_SCANS = 16, 1000
# Parts in front of the pixels that are stepped over one by one; bytes of them that are comments or rubbish.
MAX_SEGMENTS = 4096
MAX_PREFACE = 2**20
# Segments of a JPEG that are stepped over to find its size.
MAX_HEADS = 64
MAX_CHUNKS = 2**16
# Numbers written as text, and runs, are decoded one at a time.
MAX_PLAIN = 8_000_000
MAX_RUNS = 4 * 2**20
MAX_STRIPS = 2**16
MOST_ZEROS = 4096
# Decoding an animation takes three of its canvases in memory.
MAX_CANVAS = MAX_PIXELS // 4

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_PPM_START = re.compile(rb"P(?:[1-6]|0CMYK|yP|yRGBA|yCMYK|f)[\s#]")
# Magic number, then three numbers (P1 and P4: two), with white space and comments between.
_PPM_HEADER = re.compile(rb"P\w+(?:(?:\s|#[^\r\n]*[\r\n])+\d+){2,3}\s")
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


class Excess(ValueError):
    """More work than an image may cost; the text says what and what to do."""


def check_work(data: bytes) -> None:
    """Refuse what would cost a decoder more than its pixels can; other damage is left to the decoder.

    Args:
        data: an image file, or its beginning.

    Raises:
        Excess: there is too much of something.

    Example:
        >>> check_work(b"P5 8 8 255 " + bytes(64))
    """
    for start, check in _CHECKS:
        if data.startswith(start):
            try:
                check(data)
            except (struct.error, IndexError):
                return  # ends early: the decoder says so
            return


def told_pixels(data: bytes) -> int | None:
    """Pixels that a PNG or JPEG says it has, without a decoder; None where that stands further behind, and of others."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return int(width * height)
    position = 2
    for _ in range(MAX_HEADS):
        if data[:2] != b"\xff\xd8" or position + 9 > len(data) or data[position] != 0xFF:
            break
        if data[position + 1] in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return int(width * height)
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    return None


def _check_jpeg(data: bytes) -> None:
    position, steps, pixels, scans = 2, 0, 0, 0
    many = data.count(b"\xff\xda") > MAX_SCANS
    while position + 4 <= len(data):
        if steps > MAX_SEGMENTS and not scans:
            raise Excess(f"more than {MAX_SEGMENTS:,} segments in front of its pixels; save it anew")
        steps += 1
        if data[position] != 0xFF:
            follows = data.find(b"\xff", position)
            if follows < 0 or follows - position > MAX_PREFACE:
                return
            steps += follows - position
            position = follows
            continue
        marker = data[position + 1]
        if marker == 0xFF or marker < 2 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack_from(">HH", data, position + 5)
            pixels = height * width
        position += 2 + length
        if marker == 0xDA:
            scans += 1
            if not many:
                return
            if scans > MOST_SCANS or scans * pixels > MAX_SCANS * MAX_PIXELS:
                raise Excess(f"more than {scans - 1:,} scans of {pixels:,} pixels; save it anew")
            found = _MARKER.search(data, position)
            if found is None:
                return
            position = found.start()


def _check_png(data: bytes) -> None:
    if len(data) < 12 * MAX_CHUNKS:
        return
    position = 8
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    raise Excess(f"more than {MAX_CHUNKS:,} chunks; save it anew")


def _check_gif(data: bytes) -> None:
    if _gif_frame(data) > MAX_PREFACE:
        raise Excess(f"more than {MAX_PREFACE:,} bytes in front of its first frame; save it anew")


def _gif_frame(data: bytes) -> int:
    """Where the first frame begins; somewhere behind `MAX_PREFACE` if not before."""
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[position] == 0x21 and position <= MAX_PREFACE:
        position += 2
        while (size := data[position]) and position <= MAX_PREFACE:
            position += 1 + size
        position += 1
    return position


def gif_cut(data: bytes) -> bool:
    """Whether a GIF's first frame ends in the middle of nothing: no block follows where one must, as in a file of which only
    a part was fetched, and the rest is zeros.
    """
    position = _gif_frame(data)
    try:
        flags = data[position + 9]
        position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while size := data[position]:
            position += 1 + size
        return position + 1 < len(data) and data[position + 1] not in b"!,;"
    except IndexError:
        return True


def zeros_at_end(data: bytes) -> bool:
    """Whether an eighth of a compressed file, and 4 kB at least, are zeros at its end: what its download did not reach.

    Images of one colour end in zeros, too: 1.2 kB of 21 are the most that any encoder was seen to write.
    """
    return data.endswith(bytes(max(MOST_ZEROS, len(data) // 8)))


def _check_bmp(data: bytes) -> None:
    (kind,) = struct.unpack_from("<I", data, 30)
    if kind in (1, 2) and len(data) > MAX_RUNS:
        raise Excess(f"{len(data):,} bytes of runs, more than the {MAX_RUNS:,} allowed; save it as PNG")


def _check_ppm(data: bytes) -> None:
    if not _PPM_START.match(data):
        return
    header = _PPM_HEADER.match(data[:MAX_SEGMENTS])
    if header is None and len(data) > MAX_SEGMENTS:
        raise Excess(f"a header of more than {MAX_SEGMENTS:,} bytes; save it anew")
    if header is None or data[1] not in b"123":
        return
    width, height = (int(number) for number in re.findall(rb"\d+", re.sub(rb"#[^\r\n]*", b"", header[0]))[1:3])
    samples = width * height * (3 if data[1] == ord("3") else 1)
    if samples > MAX_PLAIN:
        raise Excess(f"{samples:,} numbers written as text, more than the {MAX_PLAIN:,} allowed; save it as PNG")
    if data.count(b"#", header.end()) > MAX_SEGMENTS:
        raise Excess(f"more than {MAX_SEGMENTS:,} comments between its pixels; save it anew")


def _check_tiff(data: bytes) -> None:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if count > MAX_SEGMENTS:
        raise Excess(f"more than {MAX_SEGMENTS:,} tags; save it anew")
    form, start, total = order + ("HHQQ" if big else "HHII"), start + (8 if big else 2), 0
    for number in range(count):
        tag, kind, values, _ = struct.unpack_from(form, data, start + number * struct.calcsize(form))
        if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and values > MAX_STRIPS:
            raise Excess(f"{values:,} strips or tiles, more than the {MAX_STRIPS:,} allowed; save it anew")
        total += values * _TIFF_BYTES.get(kind, 0)
        if total > MAX_PREFACE + 2 * len(data):
            raise Excess("tags that claim more bytes than the file has; save it anew")


def _check_webp(data: bytes) -> None:
    if animated_webp(data):
        width, height = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
        if width * height > MAX_CANVAS:
            raise Excess(f"an animation of {width} x {height} pixels, more than the {MAX_CANVAS:,} allowed; shrink it first")


def animated_webp(data: bytes) -> bool:
    """Whether the bytes are those of a WebP that says it is an animation."""
    return data[8:16] == b"WEBPVP8X" and len(data) >= 30 and bool(data[20] & 2)


_CHECKS: tuple[tuple[bytes, Callable[[bytes], None]], ...] = (
    (b"\xff\xd8", _check_jpeg),
    (b"\x89PNG\r\n\x1a\n", _check_png),
    (b"GIF8", _check_gif),
    (b"BM", _check_bmp),
    (b"P", _check_ppm),
    (b"II*\0", _check_tiff),
    (b"MM\0*", _check_tiff),
    (b"II+\0", _check_tiff),
    (b"MM\0+", _check_tiff),
    (b"RIFF", _check_webp),
)


def png_rows_missing(data: bytes) -> bool:
    """Whether a whole PNG holds fewer bytes of pixels than its header promises, which its decoders pass over.

    The pixels are unpacked a second time, and none of them kept.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        missing += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    unpack, position = zlib.decompressobj(), 8
    while missing > 0 and position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        packed = data[position + 8 : position + 8 + size] if kind == b"IDAT" else b""
        while packed and missing > 0 and not unpack.eof:
            missing -= len(unpack.decompress(packed, MAX_PREFACE))
            packed = unpack.unconsumed_tail
        position += 12 + size
    return missing > len(unpack.flush()) if missing > 0 and not unpack.eof else missing > 0


def png_damaged(data: bytes) -> bool:
    """Whether the last chunk of a PNG's pixels is cut or has another checksum; decoders stop before they look at it."""
    position, last = 8, 0
    while position + 8 <= len(data):
        if data[position + 4 : position + 8] == b"IDAT":
            last = position
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    end = last + 8 + int.from_bytes(data[last : last + 4], "big")
    return last > 0 and data[end : end + 4] != zlib.crc32(data[last + 4 : end]).to_bytes(4, "big")


def png_exif(data: bytes) -> bytes:
    """The EXIF of a PNG, which may stand in front of its pixels or behind them; nothing if it has none."""
    position = 8
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            return data[position + 8 : position + 8 + size]
        if kind == b"IEND":
            break
        position += 12 + size
    return b""


# First column and row of each pass, and steps between its columns and rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
