"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import hashlib
import io
import lzma
import math
import os
import re
import shutil
import stat
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from emotiw_keras.errors import FULL, OutputError, UsageError

NUMPY_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, SyntaxError, OverflowError, RuntimeError, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What NumPy and zipfile raise on files that are no arrays: the header of one is read as Python's source."""
# Of the two slashes of an address `Path` keeps one; one letter is a drive of Windows.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/(/?)")
# h5py hides the number in its words.
_HDF5_ERRNO = re.compile(r"errno = (\d+)")


_WINDOWS = os.name == "nt"
_HEADERS = 1 << 16
"""Bytes that a file of arrays takes besides them."""


def is_address(place: str | os.PathLike[str]) -> bool:
    """Whether a name, or the `Path` that was made of it, is an address, such as `s3://bucket/photos`.

    Example:
        >>> is_address("s3://bucket/photos"), is_address(Path("hf://anna/faces")), is_address("runs/mine")
        (True, True, False)
    """
    found = _ADDRESS.match(os.fspath(place))
    return found is not None and (not isinstance(place, str) or bool(found[1]))


def check_local(place: str | os.PathLike[str], *kinds: str, advice: str = "") -> None:
    """See that a place is one of this machine, or an address of one of these kinds, such as "hf".

    Args:
        place: as the user named it.
        kinds: of addresses that are understood there as well.
        advice: where addresses are understood.

    Raises:
        UsageError: it is another address, which `Path` would take for a folder called `s3:`.
    """
    if is_address(place) and os.fspath(place).partition(":")[0] not in kinds:
        also = "".join(f" or an address {kind}://" for kind in kinds)
        told = f"; {advice}" if advice else ""
        raise UsageError(f"{os.fspath(place)} is an address; expected a file or folder of this machine{also}{told}")


def local_path(place: str | os.PathLike[str]) -> Path:
    """The path of a place that a user named, as `expanded`; UsageError as `check_local`."""
    check_local(place)
    return expanded(place)


def expanded(place: str | os.PathLike[str]) -> Path:
    """A path in which `~` is the home folder and `~name` that of a user; of a name that no user has it stays a name."""
    return Path(os.path.expanduser(place))


def _flush(path: Path) -> None:
    # Windows flushes what is open for writing, and no folder.
    descriptor = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_flushed(source: Path, target: Path) -> None:
    """Rename a written file into place after its bytes, and then its name, have reached the disk."""
    _flush(source)
    os.replace(source, target)
    if not _WINDOWS:
        _flush(target.parent)


def place_new(source: Path, target: Path) -> None:
    """Give a written file, flushed, or a folder its name, unless something has it: of several processes one does.

    Raises:
        OutputError: there is something by that name.
        OSError: it cannot be written there.
    """
    taken = OutputError(f"{target} exists already, made meanwhile; name a new place, or remove that one")
    if source.is_dir():
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise taken from error
            raise
        return
    _flush(source)
    try:
        os.link(source, target)
    except FileExistsError as error:
        raise taken from error
    except OSError:  # no links here, as on sticks: its name is taken by an empty file
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise taken from error
        try:
            os.replace(source, target)
        except OSError:
            target.unlink()
            raise
    if not _WINDOWS:
        _flush(target.parent)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one `OutputError` line."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None and (told := _HDF5_ERRNO.search(str(error))):
            number = int(told[1])
        if number in FULL:
            advice = "free some space and run the same command again"
        else:
            advice = "choose a place that can be written"
        reason = os.strerror(number) if number is not None else str(error)
        raise OutputError(f"cannot write {os.fspath(path)}: {reason}; {advice}") from error


def make_folder(path: Path) -> None:
    """Make a folder that may be there, and those it lies in, however many: `Path.mkdir` recurses, which ends at about 1,000.

    Raises:
        OSError: it cannot be made.
    """
    for folder in reversed([path, *takewhile(lambda each: not os.path.isdir(each), path.parents)]):
        folder.mkdir(exist_ok=True)


def walk(root: str, refused: Callable[[OSError], object] = lambda error: None) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, however deep folders lie in each other: that of Python 3.11 recurses, which ends at about 1,000.

    Args:
        root: where to begin.
        refused: called with what the system says of a folder that cannot be read.
    """
    waiting = [root]
    while waiting:
        place = waiting.pop()
        folders, files = list[str](), list[str]()
        try:
            with os.scandir(place) as found:
                for each in found:
                    folder = False
                    with suppress(OSError):  # a link that runs in a circle
                        folder = each.is_dir()
                    (folders if folder else files).append(each.name)
        except OSError as error:
            refused(error)
            continue
        yield place, folders, files
        inner = (os.path.join(place, name) for name in reversed(folders))
        waiting += [path for path in inner if not os.path.islink(path)]


def check_room(path: Path, size: int) -> None:
    """See that `size` bytes have room where `path` will be written, before a library tries that tells of it in its own way.

    Raises:
        OSError: they have not.
    """
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):  # quotas and limits of a process, which end inside HDF5 in a crash
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.posix_fallocate(file.fileno(), 0, size + size // 16 + _HEADERS)


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, new: bool = False) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write; on success flush it and rename it into place, else remove it.

    The sibling keeps the suffixes of `path`, which some writers (Keras, Matplotlib) choose their format by.

    Raises:
        UsageError: `path` is an address.
        OutputError: the folder cannot be written, or the disk is full; with `new` also if something is at `path` by then.
    """
    check_local(os.fspath(path))
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    with writing(target):
        try:
            make_folder(target.parent)
            yield temporary
            (place_new if new else replace_flushed)(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` to `path` in one step (text as UTF-8).

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    content = data.encode() if isinstance(data, str) else data
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_encoded(path: str | os.PathLike[str], encode: Callable[[BinaryIO], object]) -> None:
    """Write what `encode` puts into the file that it is given: into memory first, since encoders in C (of images, of NumPy)
    do not tell that a disk is full and leave half a file behind.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.

    Example:
        >>> write_encoded("face.png", lambda file: image.save(file, format="PNG"))  # doctest: +SKIP
    """
    memory = io.BytesIO()
    encode(memory)
    write_atomic(path, memory.getvalue())


def check_folder_place(path: str | os.PathLike[str], *names: str, told: Path | None = None) -> None:
    """See that a folder is or can be made at `path`, and can be written, before what goes into it is computed.

    Args:
        path: of the folder.
        names: of the files that will be written there.
        told: what an error names as that which cannot be written; default: the folder.

    Raises:
        UsageError: it is an address.
        OutputError: something else is there, or on the way there, or nothing can be written there, or a folder has the name of
            a file.
    """
    check_local(path)
    place = Path(path)
    for name in names:
        if os.path.isdir(place / name) and not os.path.islink(place / name):
            raise OutputError(f"cannot write {place / name}: a folder is there; remove it, or choose another place")
    for part in (place, *place.parents):
        if os.path.lexists(part):
            if not part.is_dir():
                raise OutputError(f"cannot write to {place}: {part} is no folder; choose another place")
            with writing(told or place), tempfile.TemporaryFile(dir=part):
                return


def check_file_place(path: str | os.PathLike[str]) -> None:
    """See that a file can be written at `path`, before it is computed.

    Raises:
        UsageError, OutputError: as `check_folder_place`.
    """
    check_local(path)
    check_folder_place(Path(path).parent, Path(path).name, told=Path(path))


def check_replaced(folder: str | os.PathLike[str], marks: Mapping[str, str], what: str) -> None:
    """See that files can be written into a folder, and that they would replace none but those of an earlier call.

    Args:
        folder: made later if it is missing.
        marks: name of a file -> a text that every one of ours holds; where it is "", it is ours if one with a text is beside.
        what: the files are, in words.

    Raises:
        UsageError, OutputError: as `check_folder_place`; or another file has one of the names.
    """
    check_folder_place(folder, *marks)
    there = [name for name in marks if os.path.exists(Path(folder) / name)]
    ours = [name for name in there if marks[name] and _holds(Path(folder) / name, marks[name])]
    for name in there:
        if name not in ours and (marks[name] or not ours):
            told = f"{Path(folder) / name} exists and is not of {what} written by this command"
            raise OutputError(f"{told}; choose another folder, or move that file away")


def _holds(path: Path, mark: str) -> bool:
    try:
        return mark in read_regular(path, 1 << 28).decode("utf-8", "replace")
    except OSError:  # a folder, a pipe, too large a file
        return False


def check_regular(path: str | os.PathLike[str], most: int | None = None) -> None:
    """See that what lies at `path` in a folder can be read to an end: a pipe would be waited for, a device never ends.

    Raises:
        OSError: it is missing, is no ordinary file, or has over `most` bytes.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe or a device, expected a file")
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it has over {most:,} bytes")


def check_arrays(path: str | os.PathLike[str]) -> None:
    """See that a file is as `numpy.savez` writes plain arrays, so that they take no more memory than the file has bytes: none
    is packed, and none is said to be larger than it is.

    Raises:
        One of `NUMPY_UNREADABLE`: it is otherwise.
    """
    from numpy.lib import format as npy

    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]:.60} is packed")
        if sum(member.file_size for member in members) > os.path.getsize(path):
            raise ValueError(f"its {len(members):,} arrays are said to have more bytes than the file")
        for member in members:
            with file.open(member) as opened:
                if npy.read_magic(opened) != (1, 0):
                    raise ValueError(f"{member.filename:.60} is no plain array")
                shape, _, dtype = npy.read_array_header_1_0(opened)
                if math.prod(shape) * dtype.itemsize != member.file_size - opened.tell():
                    raise ValueError(
                        f"{member.filename:.60} has {member.file_size:,} bytes, which is not its shape, {shape!s:.60}"
                    )


def check_ours(path: str | os.PathLike[str], mark: str, what: str) -> None:
    """See that nothing but an older file of the same kind, told by a text that it holds, is where one is to be written.

    Raises:
        UsageError: it is an address.
        OutputError: another file is there, or none can be written.
    """
    check_local(path)
    target = Path(path)
    check_folder_place(target.parent, told=target)
    if os.path.exists(target) and not _holds(target, mark):
        raise OutputError(f"{target} exists and is not {what} written by this command; choose another path or remove it")


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a file that lies in a folder of whoever made it.

    Raises:
        OSError: as `check_regular`, or it cannot be read.
    """
    check_regular(path, most)
    with open(path, "rb") as file:
        return file.read()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises OSError as `check_regular`."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def real(path: Path) -> Path:
    """The path with links followed; `Path.resolve` raises a RuntimeError where they lead in a circle."""
    return Path(os.path.realpath(path))


def is_within(folder: Path, path: Path) -> bool:
    """Whether the folder of `path` lies in `folder` once links have been followed."""
    return real(path.parent).is_relative_to(real(folder))
