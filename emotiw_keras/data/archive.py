"""The files of a folder or a zip, listed and read in one way, with no name that leads out and no bomb that goes off.

Reading is safe from many threads at once: every thread has its own file handle.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from emotiw_keras.data.images import SUFFIXES, ImageError, decode_image, read_header
from emotiw_keras.errors import DataError
from emotiw_keras.files import walk

DEEPEST = 3000
"""Bytes of a relative name that files are written by; 4,096 of a path is what systems take."""
LINK_OUT = "a link that leads out of the folder; copy the file, or give its own folder"
MEMBER_BYTES = 64 * 2**20
TABLE_BYTES = 2**30
"""Bytes of a table, which may hold the pixels of a whole data set as text: FER-2013's take 287 MB."""
TABLE_SUFFIXES = (".csv", ".tsv")
_ENCRYPTED = 0x1
_LOCAL_HEADER = 30
# Deflate cannot make more than this of incompressible bytes, so a longer member is damaged or a trap.
_DEFLATE_SLACK = 2**16
# Code tables that stand before the first byte of data.
_DEFLATE_START = 2**10
_BLOCK = 2**20
# Enough for the header of nearly every image; a file whose header lies deeper is read whole.
_HEAD_BYTES = 2**14
# Elsewhere a colon is a letter like others, as in photographs named by the time.
_DRIVE = re.compile(r"[A-Za-z]:" if os.name == "nt" else r"[A-Za-z]:/")
# What file servers, systems and image viewers put beside images, and into archives of them; no one's data.
_SYSTEM = frozenset(
    "__macosx @eadir #recycle $recycle.bin lost+found thumbnails thumbs".split() + ["system volume information"]
)


@dataclass(frozen=True)
class Limits:
    """What a zip may hold: bytes in one member, bytes in all, and unpacked bytes a packed one above `ratio_from`."""

    member: int = MEMBER_BYTES
    total: int = 2**40
    ratio: float = 200.0
    ratio_from: int = 2**30


class Archive(Protocol):
    """Files by name: relative, with `/`, sorted; hidden files and `__MACOSX` are not among them."""

    path: Path
    names: list[str]
    left_out: list[str]
    empty: list[str]
    """Folders in which nothing lies."""
    locked: dict[str, str]
    """Folders that cannot be read, and why, where that is no error."""

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one file, or its first `most`; ImageError with the reason if they cannot be had."""
        ...

    def leads_out(self, name: str) -> bool:
        """Whether a file is a link to something outside."""
        ...


def open_archive(path: str | os.PathLike[str], *, outward: bool = False) -> Archive:
    """Open a folder or a zip; with `outward` a link that leads out of the folder is a file that cannot be read, and a folder
    below that cannot be read is named in `locked`.

    Raises:
        DataError: missing, unreadable, encrypted or damaged, a name or link that leads out of it, or a zip bomb.
    """
    source = Path(path)
    return FolderArchive(source, outward=outward, whole=not outward) if source.is_dir() else ZipArchive(source)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image; what it really is, its bytes say later."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return bool(stem) and (dot + suffix).lower() in SUFFIXES


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are no UTF-8 as escapes.

    Example:
        >>> printable("caf\\udce9.png")
        'caf\\\\xe9.png'
    """
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def is_system_folder(name: str) -> bool:
    """Whether a folder is called as those that systems and viewers make."""
    return name.casefold() in _SYSTEM


def _system_folder(name: str) -> str | None:
    """The folder of a system or a viewer that a file lies in, or None."""
    parts = name.split("/")
    return next(("/".join(parts[: i + 1]) for i, part in enumerate(parts[:-1]) if is_system_folder(part)), None)


def _parents(name: str) -> Iterator[str]:
    """The folders that a file or folder lies in, outermost first."""
    parts = name.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))


def checked_name(name: str, where: object, *, windows: bool = True) -> str:
    """A relative name with `/`, normalised; DataError if it is absolute or leads out of its folder.

    Args:
        name: as a zip or a table has it, where a backslash parts folders as on Windows; or of a file, with `windows=False`.
        where: what an error names.
        windows: otherwise a backslash is a letter like others, but for Windows itself.
    """
    plain = name.replace("\\", "/") if windows or os.name == "nt" else name
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if not parts or plain.startswith("/") or ".." in parts or _DRIVE.match(plain) or "\0" in plain:
        raise DataError(f"{where}: the name {name!r} leads out of it; expected a relative name without '..'")
    return "/".join(parts)


def bounded(name: str) -> str:
    """The relative name that a file is written by: where it is longer than a path may be, a hash and its last part.

    Example:
        >>> bounded("happy/a.png"), bounded("d/" * 2000 + "a.png")
        ('happy/a.png', '82b2122ebc883ae1/a.png')
    """
    if len(os.fsencode(name)) <= DEEPEST:
        return name
    return f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}/{name.rpartition('/')[2]}"


def read_file(path: str, most: int | None = None) -> bytes:
    """The bytes of an image's file, or its first `most`; ImageError if they cannot be had, or are too many for one."""
    try:
        with open(path, "rb") as file:
            data = file.read(MEMBER_BYTES + 1 if most is None else most)
    except OSError as error:
        raise ImageError(f"cannot read: {error.strerror}") from error
    if len(data) > MEMBER_BYTES:
        raise ImageError(f"larger than {MEMBER_BYTES >> 20} MiB")
    return data


class FolderArchive:
    """The files below a folder; symbolic links may not lead out of it, and linked folders are not entered.

    With `walk=False` nothing is listed, for a manifest that names the files itself; with `outward` links that lead out are
    listed, and reading one says so. Without `whole` a folder below that cannot be read is named in `locked`.
    """

    def __init__(self, path: Path, *, walk: bool = True, outward: bool = False, whole: bool = True) -> None:
        self.path = path
        self.locked: dict[str, str] = {}
        self._outward = outward
        self._whole = whole
        self._root = os.path.realpath(path)
        self._walked = walk
        self.names: list[str] = []
        self.left_out: list[str] = []
        self.empty: list[str] = []
        if walk:
            self._walk()

    def _walk(self) -> None:
        for folder, folders, files in walk(self._root, self._refuse):
            folders[:] = sorted(name for name in folders if not _hidden(name))
            system = [name for name in folders if is_system_folder(name)]
            folders[:] = [name for name in folders if name not in system]
            self.left_out += [self._relative(os.path.join(folder, name)) for name in system]
            if not folders and not system and all(map(_hidden, files)) and folder != self._root:
                self.empty.append(self._relative(folder))
            for name in [*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
                if not _hidden(name):
                    self._add(os.path.join(folder, name))
        self.names.sort()
        self.empty.sort()

    def _relative(self, full: str) -> str:
        return os.path.relpath(full, self._root).replace(os.sep, "/")

    def _add(self, full: str) -> None:
        name = self._relative(full)
        if os.path.islink(full) and not self._outward:
            self._check_link(name)
        try:
            regular = stat.S_ISREG(os.stat(full).st_mode)
        except OSError:
            regular = True  # a broken link: reading it says so, by name
        if regular:
            self.names.append(name)
        else:
            self.left_out.append(f"{name} (a linked folder)" if os.path.isdir(full) else name)

    def leads_out(self, name: str) -> bool:
        """Whether it is a link to something outside; one to nothing is none."""
        target = os.path.realpath(os.path.join(self._root, name))
        inside = target == self._root or target.startswith(self._root.rstrip(os.sep) + os.sep)
        return os.path.exists(target) and not inside

    def _check_link(self, name: str) -> None:
        if self.leads_out(name):
            raise DataError(f"{self.path}: the link {name!r} leads out of it; copy the files, or give their own folder")

    def _refuse(self, error: OSError) -> None:
        if not self._whole and error.filename != self._root:
            self.locked[self._relative(error.filename)] = error.strerror or str(error)
            return
        raise DataError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one file, or its first `most`."""
        full = os.path.join(self._root, name)
        if self._outward:
            if self.leads_out(name):
                raise ImageError(LINK_OUT)
        elif not self._walked or os.path.islink(full):
            self._check_link(name)
        if os.path.exists(full) and not os.path.isfile(full):
            raise ImageError(f"cannot read: {_refusal(full) or 'not a regular file'}")
        return read_file(full, most)


def _refusal(folder: str) -> str:
    """Why a folder cannot be read; nothing if it can, or is none."""
    try:
        os.scandir(folder).close()
    except NotADirectoryError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


class ZipArchive:
    """The files of a zip whose directory has been checked before anything is unpacked."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.left_out: list[str] = []
        self.locked: dict[str, str] = {}
        self._limits = limits or Limits()
        self._local = threading.local()
        try:
            with zipfile.ZipFile(path) as file:
                infos = file.infolist()
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is damaged or no zip: {error}; fetch or pack it again") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, NotImplementedError, struct.error) as error:
            raise DataError(f"{path} is damaged or no zip: {error}; fetch or pack it again") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename.endswith("/"):
                continue
            name = checked_name(info.filename, path)
            if _hidden(name):
                continue
            if (system := _system_folder(name)) is not None:
                if system not in self.left_out:
                    self.left_out.append(system)
                continue
            if name in self._members:
                raise DataError(f"{path}: holds {name!r} twice; pack it again")
            self._check(name, info)
            self._members[name] = info
        self._check_total(list(self._members.values()))
        self.names = sorted(self._members)
        folders = {info.filename.removeprefix("./").rstrip("/") for info in infos if info.filename.endswith("/")} - {"", "."}
        full = {parent for name in (*self.names, *folders) for parent in _parents(name)} if folders else set()
        self.empty = sorted(name for name in folders - full if not (_hidden(name) or _system_folder(f"{name}/")))

    def _check(self, name: str, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{self.path}: {name!r} is encrypted; unpack it with its password and give the folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{self.path}: {name!r} is a symbolic link; pack the file itself")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.path}: {name!r} has packing method {info.compress_type}; expected deflated or stored")
        most = TABLE_BYTES if name.lower().endswith(TABLE_SUFFIXES) else self._limits.member
        if info.file_size > most or info.compress_size > most + _DEFLATE_SLACK:
            size = max(info.file_size, info.compress_size)
            raise DataError(
                f"{self.path}: {name!r} unpacks to {size:,} bytes, more than the {most:,} allowed for "
                "one file; unpack the zip and give the folder if you trust it"
            )

    def _check_total(self, members: list[zipfile.ZipInfo]) -> None:
        total = sum(info.file_size for info in members)
        packed = max(1, os.path.getsize(self.path))
        bomb = total > self._limits.ratio_from and total / packed > self._limits.ratio
        if total > self._limits.total or bomb:
            raise DataError(
                f"{self.path}: {packed:,} bytes would unpack to {total:,}, which looks like a zip bomb; "
                "unpack it and give the folder if you trust it"
            )

    def _handle(self) -> BinaryIO:
        handle: BinaryIO | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = open(self.path, "rb")  # noqa: SIM115 - lives as long as its thread
        return handle

    def size(self, name: str) -> int:
        """Bytes of a member, as the directory says."""
        return self._members[name].file_size

    def _found(self, name: str) -> tuple[BinaryIO, zipfile.ZipInfo]:
        """This thread's handle, at the first packed byte of a member."""
        info = self._members.get(name)
        if info is None:
            raise ImageError("cannot read: No such file in the zip")
        handle = self._handle()
        handle.seek(info.header_offset)
        local = handle.read(_LOCAL_HEADER)
        if len(local) < _LOCAL_HEADER or local[:4] != b"PK\3\4":
            raise ImageError("cannot read: damaged zip (no file where its directory says)")
        handle.seek(sum(struct.unpack("<HH", local[26:30])), os.SEEK_CUR)
        return handle, info

    def leads_out(self, name: str) -> bool:
        """It never does: links are refused."""
        return False

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one member, or its first `most`; the checksum is checked where the whole is read."""
        try:
            handle, info = self._found(name)
            if most is None and info.file_size > self._limits.member:
                raise ImageError(f"larger than {self._limits.member >> 20} MiB")
            wanted = info.compress_size if most is None else min(info.compress_size, most + _DEFLATE_START)
            data = handle.read(wanted)
            if info.compress_type == zipfile.ZIP_STORED and most is not None:
                data = data[:most]
        except OSError as error:
            raise ImageError(f"cannot read: {error.strerror or error}") from error
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, info.file_size + 1 if most is None else most)
            except zlib.error as error:
                raise ImageError(f"cannot read: damaged zip ({error})") from error
        if most is None and (len(data) != info.file_size or zlib.crc32(data) != info.CRC):
            raise ImageError("cannot read: damaged zip (wrong size or checksum)")
        return data

    def copy(self, name: str, target: BinaryIO) -> None:
        """Unpack a member of any size into an open file, a block at a time; ImageError if it is damaged."""
        try:
            handle, info = self._found(name)
            unpack = zlib.decompressobj(-15) if info.compress_type == zipfile.ZIP_DEFLATED else None
            packed, left, checksum = info.compress_size, info.file_size, 0
            while packed and (block := handle.read(min(packed, _BLOCK))):
                packed -= len(block)
                while block or (unpack is not None and not packed and not unpack.eof):
                    data = block if unpack is None else unpack.decompress(block, _BLOCK)
                    block = b"" if unpack is None else unpack.unconsumed_tail
                    left -= len(data)
                    if left < 0 or not data:
                        raise ImageError("cannot read: damaged zip (wrong size or checksum)")
                    checksum = zlib.crc32(data, checksum)
                    target.write(data)
        except zlib.error as error:
            raise ImageError(f"cannot read: damaged zip ({error})") from error
        except OSError as error:
            raise ImageError(f"cannot read: {error.strerror or error}") from error
        if left or checksum != info.CRC:
            raise ImageError("cannot read: damaged zip (wrong size or checksum)")


class ArchiveImages:
    """Images that are files of a folder or a zip."""

    def __init__(self, archive: Archive, members: list[str]) -> None:
        self._archive = archive
        self.members = members

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, channels) from the header."""
        name = self.members[index]
        head = self._archive.read(name, _HEAD_BYTES)
        try:
            header = read_header(head)
            whole = len(head) < _HEAD_BYTES or header.format != "PNG" or header.width == header.height
        except ImageError:
            whole = False
        if not whole:  # its header lies deeper, or what turns a PNG stands behind the pixels
            header = read_header(self._archive.read(name))
        return header.height, header.width, header.channels

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1) grey or (height, width, 3) RGB."""
        return decode_image(self._archive.read(self.members[index]))
