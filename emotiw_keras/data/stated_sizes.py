"""What containers of videos say of themselves: how many bytes they have, and whether they count their frames.

Source: RFC 8794 (EBML) and RFC 9559 (Matroska); Microsoft's Advanced Systems Format, 3.1 and 3.2; ISO/IEC 14496-12, 4.2.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from emotiw_keras.data.image_bounds import MOST_ZEROS
from emotiw_keras.data.mp4_boxes import boxes_cut, ends_in_free

_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MOST = 2**16
"""Bytes from a file's start in which the header that states its size lies."""
_MANY_ZEROS = 2**16
"""Zeros at the end that are enough in a file of any size."""
_MOST_ELEMENTS = 2**16


def counts_frames(file: BinaryIO) -> bool:
    """Whether a file is an AVI, whose header has the number of its frames; MP4 and MOV have it in `mp4_boxes.Track`."""
    file.seek(0)
    start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"AVI "


def missing_bytes(file: BinaryIO) -> bool:
    """Whether a Matroska, WebM, WMV or fragmented MP4 ends before it says that it does. Others do not say, or say otherwise.

    Args:
        file: seekable; its position is left anywhere.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(_MOST)
    if start[4:8] == b"ftyp":
        return boxes_cut(file)
    try:
        stated = _matroska(start) if start[:4] == _EBML else _asf(start) if start[:16] == _ASF else 0
    except (struct.error, IndexError):
        return False  # what is damaged here, the decoder tells
    return stated > size


def ends_in_zeros(file: BinaryIO) -> bool:
    """Whether an eighth of a file, at least 4 kB and at most 64, are zeros at its end: what its download did not reach.

    Free space that ends a Matroska, WebM or MP4 is no such end.

    Args:
        file: seekable; its position is left anywhere.
    """
    size = file.seek(0, 2)
    zeros = max(MOST_ZEROS, min(_MANY_ZEROS, size // 8))
    file.seek(max(0, size - zeros))
    return file.read() == bytes(zeros) and not _ends_in_void(file, size) and not ends_in_free(file)


def _ends_in_void(file: BinaryIO, size: int) -> bool:
    """Whether the last element of a Matroska file is a Void."""
    at = 0
    for _ in range(_MOST_ELEMENTS):
        file.seek(at)
        start = file.read(12)  # a name of up to four bytes and a size of up to eight
        width = 9 - start[0].bit_length() if start else 0
        if not 1 <= width <= 4 or (at == 0 and start[:4] != _EBML):
            return False
        try:
            length, behind = _number(start, width)
        except IndexError:
            return False
        if start[:width] == _VOID and at + behind + length == size:
            return True
        opened = start[:width] == _SEGMENT or length == _unknown(behind - width)
        at += behind if opened else behind + length
    return False


def _matroska(start: bytes) -> int:
    """Where the segment ends; 0 where that is not known, as of what was sent while it was made."""
    length, place = _number(start, len(_EBML))
    place += length
    if start[place : place + len(_SEGMENT)] != _SEGMENT:
        return 0
    place += len(_SEGMENT)
    length, behind = _number(start, place)
    return 0 if length == _unknown(behind - place) else behind + length


def _unknown(width: int) -> int:
    """What stands for an unknown size in so many bytes."""
    return 2 ** (7 * width) - 1


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A number of EBML, and the place behind it."""
    width = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + width]) & (2 ** (7 * width) - 1)
    return value, place + width


def _asf(start: bytes) -> int:
    """The size that the file properties state; 0 where there is none."""
    place = start.find(_ASF_PROPERTIES)
    return struct.unpack_from("<Q", start, place + 40)[0] if place >= 0 else 0
