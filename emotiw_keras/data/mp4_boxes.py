"""The boxes of MP4, MOV and HEIF files: whether they are whole, how many frames a video holds, and how it is played.

A clip that is trimmed without encoding it anew keeps its frames and gets an edit list (ISO/IEC 14496-12, 8.6.6), so that fewer
are played than it holds.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

# More boxes side by side are no video.
_MOST_BOXES = 4096
_MOST_EDITS = 4096


@dataclass(frozen=True)
class Track:
    """The first video track.

    Attributes:
        frames: samples in its table; 0 where it has none, as in a fragmented file.
        seconds: length of what it holds.
        played: length of what its edit list plays; equal to `seconds` where there is none.
        mirrored: its frames are to be shown as in a mirror, besides being turned; FFmpeg tells only the latter.
    """

    frames: int
    seconds: float
    played: float
    mirrored: bool

    @property
    def trimmed(self) -> bool:
        """Whether the edit list leaves frames out: more than container and codec may disagree by."""
        return self.frames > 0 and self.seconds - self.played > 1.5 * self.seconds / self.frames


def video_track(file: BinaryIO) -> Track | None:
    """The first video track of a file, or None where it is no MP4 or MOV, has none, or is damaged there.

    Args:
        file: seekable; its position is left anywhere.
    """
    try:
        end = file.seek(0, 2)
        moov = _find(file, 0, end, b"moov")
        if moov is None:
            return None
        header = _find(file, *moov, b"mvhd")
        scale = _time_scale(file, header)[0] if header else 0
        mirrored = header is not None and _mirrors(file, header[0], 36)
        for kind, start, stop in _boxes(file, *moov):
            if kind == b"trak" and (found := _track(file, start, stop, scale)) is not None:
                return replace(found, mirrored=found.mirrored != mirrored)
    except (struct.error, ValueError, OSError, ZeroDivisionError):
        return None
    return None


class WithoutCover(io.BufferedIOBase):
    """A file whose cover images (`moov/udta/meta/ilst/covr`) are read as free space: FFmpeg would take one for the video.

    Args:
        file: seekable.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._covers = _covers(file)
        self._file.seek(0)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        start = self._file.tell()
        data = self._file.read(-1 if size is None else size)
        for place in self._covers:
            if start < place + 4 and place < start + len(data):
                patched = bytearray(data)
                for index in range(max(place, start), min(place + 4, start + len(data))):
                    patched[index - start] = b"free"[index - place]
                data = bytes(patched)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def _covers(file: BinaryIO) -> list[int]:
    """Where the names of the boxes of cover images stand."""
    try:
        moov = _find(file, 0, file.seek(0, 2), b"moov")
        meta = _down(file, moov, b"udta", b"meta") if moov else None
        items = _find(file, meta[0] + 4, meta[1], b"ilst") if meta else None  # behind version and flags
        return [start - 4 for kind, start, _ in _boxes(file, *items) if kind == b"covr"] if items else []
    except (struct.error, ValueError, OSError):
        return []


def boxes_cut(file: BinaryIO) -> bool:
    """Whether a file of boxes ends inside one of them, or is damaged between them."""
    end = file.seek(0, 2)
    try:
        return [stop for _, _, stop in _boxes(file, 0, end, whole=True)][-1:] != [end]
    except (struct.error, ValueError):
        return True


def ends_in_free(file: BinaryIO) -> bool:
    """Whether the last box of a file is free space."""
    try:
        return [kind for kind, _, _ in _boxes(file, 0, file.seek(0, 2), whole=True)][-1:] in ([b"free"], [b"skip"])
    except (struct.error, ValueError):
        return False


def _track(file: BinaryIO, start: int, stop: int, scale: int) -> Track | None:
    media = _find(file, start, stop, b"mdia")
    handler = _find(file, *media, b"hdlr") if media else None
    clock = _find(file, *media, b"mdhd") if media else None
    if media is None or handler is None or clock is None or _read(file, handler[0] + 8, 4) != b"vide":
        return None
    units, length = _time_scale(file, clock)
    seconds = length / units
    sizes = _down(file, media, b"minf", b"stbl", b"stsz")
    frames = struct.unpack(">I", _read(file, sizes[0] + 8, 4))[0] if sizes else 0
    edits = _down(file, (start, stop), b"edts", b"elst")
    played = _played(file, edits[0]) if edits else None
    shown = _find(file, start, stop, b"tkhd")
    mirrored = shown is not None and _mirrors(file, shown[0], 40)
    return Track(frames, seconds, seconds if not played or not scale else min(seconds, played / scale), mirrored)


def _mirrors(file: BinaryIO, start: int, place: int) -> bool:
    """Whether the matrix of a header, `place` bytes behind its start, or twelve more with its times in 64 bits, mirrors."""
    place += 12 if _read(file, start, 1) == b"\1" else 0
    across, rising, falling, down = struct.unpack(">ii4xii", _read(file, start + place, 20))
    return bool(across * down < rising * falling)


def _played(file: BinaryIO, start: int) -> int:
    """Sum of the lengths of an edit list's parts that show something; 0 means all."""
    version, count = struct.unpack(">B3xI", _read(file, start, 8))
    form = ">qq4x" if version == 1 else ">Ii4x"
    size = struct.calcsize(form)
    entries = struct.iter_unpack(form, _read(file, start + 8, min(count, _MOST_EDITS) * size))
    return sum(length for length, begin in entries if begin >= 0)


def _time_scale(file: BinaryIO, box: tuple[int, int]) -> tuple[int, int]:
    """Units a second, and length in units, of `mvhd` or `mdhd`."""
    if _read(file, box[0], 1) == b"\1":
        scale, length = struct.unpack(">IQ", _read(file, box[0] + 20, 12))
    else:
        scale, length = struct.unpack(">II", _read(file, box[0] + 12, 8))
    return scale, length


def _down(file: BinaryIO, box: tuple[int, int], *kinds: bytes) -> tuple[int, int] | None:
    inner: tuple[int, int] | None = box
    for kind in kinds:
        inner = _find(file, *inner, kind) if inner else None
    return inner


def _find(file: BinaryIO, start: int, stop: int, wanted: bytes) -> tuple[int, int] | None:
    return next(((begin, end) for kind, begin, end in _boxes(file, start, stop) if kind == wanted), None)


def _boxes(file: BinaryIO, start: int, stop: int, whole: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box between two places, and where its content begins and ends; ValueError where `whole` and one is cut."""
    for _ in range(_MOST_BOXES):
        if start + 8 > stop:
            return
        size, kind = struct.unpack(">I4s", _read(file, start, 8))
        head = 8
        if size == 1:
            head, size = 16, struct.unpack(">Q", _read(file, start + 8, 8))[0]
        elif size == 0:
            size = stop - start
        if size < head or (whole and start + size > stop):
            raise ValueError(f"a box of {size} bytes")
        yield kind, start + head, min(start + size, stop)
        start += size


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("ends inside a box")
    return data
