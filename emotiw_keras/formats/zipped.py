"""The entries of a zip of arrays: mapped where they are stored as they are, unpacked within a bound otherwise.

Names are only compared, never used as paths. Source: PKWARE's APPNOTE.TXT 4.3 (local header, 4.4.4 flags); the directory is
read by `zipfile`, ZIP64 included.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import BOMB_RATIO, Limits
from emotiw_keras.formats.pickle_ops import shown
from emotiw_keras.formats.protobuf import map_file

DIRECTORY_BYTES = 16 << 20
"""Of the list of entries, which is read as a whole; an entry takes about a hundred."""
_ENCRYPTED = 0x1
_LOCAL_HEADER = 30


class Zip:
    """A zip's entries by name, in its own order; `sizes` are the unpacked bytes that it declares.

    Raises:
        ModelError: missing, damaged, encrypted, packed in another way than deflated, an entry twice, or larger than the
            limits allow.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._where = path.name
        self._data = map_file(path, limits)
        try:
            with zipfile.ZipFile(_Window(self._data, path.name)) as file:
                members = [info for info in file.infolist() if not info.filename.endswith("/")]
        except ModelError:  # a ValueError, too, that says more
            raise
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
            self._fail(f"damaged zip ({shown(error)})")
        if len(members) > limits.arrays:
            self._fail(f"zip of {len(members):,} entries, more than the {limits.arrays:,} allowed")
        total = sum(info.file_size for info in members)
        if total > limits.of_file(len(self._data)).total_bytes:
            raise ModelError(
                f"{path.name}: its {len(self._data):,} bytes would unpack to {total:,}, which looks like a zip bomb "
                f"(allowed are {limits.total_bytes:,}, and {BOMB_RATIO} times the file); unpack it if you trust it"
            )
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in members:
            if info.filename in self._members:
                self._fail(f"holds the entry {shown(info.filename)} twice")
            if info.flag_bits & _ENCRYPTED:
                raise ModelError(
                    f"{path.name}: the entry {shown(info.filename)} is encrypted; expected a file without a password"
                )
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ModelError(
                    f"{path.name}: the entry {shown(info.filename)} has packing method {info.compress_type}; "
                    "expected stored or deflated, save it again with one of them"
                )
            self._members[info.filename] = info
        self.sizes = {name: info.file_size for name, info in self._members.items()}

    def _fail(self, what: str) -> NoReturn:
        raise ModelError(f"{self._where}: {what}; fetch or save it again")

    def read(self, name: str) -> memoryview:
        """The bytes of an entry of `sizes`, a view of the mapped file if it is stored, checked against its checksum."""
        info = self._members[name]
        at = info.header_offset
        header = self._data[at : at + _LOCAL_HEADER] if at >= 0 else memoryview(b"")
        if len(header) < _LOCAL_HEADER or bytes(header[:4]) != b"PK\3\4":
            self._fail(f"no entry where its directory says that {shown(name)} is")
        start = at + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        packed = self._data[start : start + info.compress_size]
        if len(packed) < info.compress_size:
            self._fail(f"the entry {shown(name)} ends after {len(packed):,} of {info.compress_size:,} bytes")
        if info.compress_type == zipfile.ZIP_STORED:
            content = packed
        else:
            try:
                content = memoryview(zlib.decompressobj(-15).decompress(packed, info.file_size + 1))
            except zlib.error as error:
                self._fail(f"the entry {shown(name)} cannot be unpacked ({shown(error)})")
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            self._fail(f"the entry {shown(name)} does not have the size or checksum that its directory says")
        return content


class _Window:
    """Mapped bytes as a file to read, which refuses a list of entries that is too long to be one."""

    def __init__(self, data: memoryview, where: str) -> None:
        self._data = data
        self._where = where
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._data))[whence]
        if at < 0:
            raise OSError(f"position {at} is before the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        if count > DIRECTORY_BYTES:
            raise ModelError(
                f"{self._where}: its list of entries has {count:,} bytes, more than the {DIRECTORY_BYTES:,} allowed; "
                "fetch or save it again"
            )
        taken = self._data[self._at : len(self._data) if count < 0 else self._at + count]
        self._at += len(taken)
        return bytes(taken)
