"""The members of a tar (WebDataset's shards) as a stream, each with the place of its bytes, so that any can be read alone."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Self

from emotiw_keras.data.archive import checked_name
from emotiw_keras.errors import DataError

SUFFIXES = (".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst")
"""Of tars, packed ones among them, which are refused by name."""
_BLOCK = 1 << 20
TEXT_BYTES = 1 << 20
"""Of the long names and other texts that stand before a member, and those for all, which the library reads whole."""
_TEXTS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_SPARSE_GOES_ON = 482
"""The byte of a sparse member's header that says that blocks of its map follow, each of which says so again."""
_PACKED = {b"\x1f\x8b": "gzip", b"\xfd7": "xz", b"BZ": "bzip2", b"\x28\xb5": "zstd"}


@dataclass(frozen=True)
class Member:
    """A file in a tar: its checked name, where its bytes begin and how many they are; or why it cannot be read."""

    name: str
    offset: int = 0
    size: int = 0
    error: str = ""


def _bounded() -> type[tarfile.TarInfo]:
    """The headers of one tar, its texts bounded before they are read."""

    class Header(tarfile.TarInfo):
        for_all = before_this = 0

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            header = super().frombuf(buf, encoding, errors)
            if header.type == tarfile.GNUTYPE_SPARSE and buf[_SPARSE_GOES_ON]:
                raise tarfile.ReadError("a sparse member whose map goes on without a bound; pack it again without --sparse")
            if header.type not in _TEXTS:
                cls.before_this = 0
                return header
            if header.type == tarfile.XGLTYPE:
                cls.for_all += header.size
            else:
                cls.before_this += header.size
            if header.size < 0 or cls.for_all + cls.before_this > TEXT_BYTES:
                raise tarfile.ReadError(f"names and other texts of a member of {header.size:,} bytes; {TEXT_BYTES:,} at most")
            return header

    return Header


def members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of an open tar, in its order; one member at a time is held.

    A tar that is packed, damaged or cut ends with a member without a name, which has the reason.
    """
    start = file.read(512)
    packed = next((kind for mark, kind in _PACKED.items() if start.startswith(mark)), None)
    if packed is not None:
        yield Member("", error=f"a tar packed by {packed} can only be read from its start; unpack it to .tar")
        return
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_bounded()) as tar:
            at = -1
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # the library would keep them all
                if info.size < 0 or tar.offset <= at:
                    yield Member("", error="damaged: the size of a member leads back")
                    return
                at = tar.offset
                if info.isdir() or info.name.rpartition("/")[2].startswith("."):
                    continue
                try:
                    name = checked_name(info.name, "the tar", windows=False)
                except DataError as error:
                    yield Member("", error=str(error))
                    continue
                if not info.isreg() or info.issparse():
                    yield Member(name, error="not a plain file in its tar, but a link or a sparse one")
                else:
                    yield Member(name, info.offset_data, info.size)
            end = info_end(file, tar.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, IndexError) as error:
        yield Member("", error=f"damaged, or no tar: {' '.join(str(error).split())}")
        return
    if end is not None:
        yield Member("", error=end)


def info_end(file: BinaryIO, stopped: int) -> str | None:
    """What is wrong with a tar that was listed until nothing more could be: a whole one is zeros from there to its end.

    Args:
        file: the tar.
        stopped: where the listing stopped.
    """
    file.seek(stopped)
    while block := file.read(_BLOCK):
        if block.strip(b"\0"):
            return f"damaged, or several tars in one file: what follows byte {stopped:,} is no member, and not the end"
    file.seek(0, 2)
    size = file.tell()
    if size % 512:
        return f"cut short: {size:,} bytes are no whole number of blocks"
    file.seek(max(0, size - 512))
    return None if not file.read(512).strip(b"\0") else "cut short: it does not end as a tar does"
