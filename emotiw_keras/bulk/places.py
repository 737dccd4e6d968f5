"""Folders and files on this machine, and on object stores by their address (`s3://`, `gs://`, `memory://`), in one way."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from emotiw_keras.errors import DataError, EmotiwError, OutputError, UsageError
from emotiw_keras.files import is_address, replace_flushed, writing

STORES = ("s3", "gs", "gcs", "az", "abfs", "hdfs", "memory")
"""Kinds of addresses. fsspec knows more, some of which open what a third file names: a list may be a stranger's."""
_AZURE = "az:// and abfs:// need `pip install 'emotiw-keras[cloud]' adlfs`"
NEEDS = {"az": _AZURE, "abfs": _AZURE, "hdfs": "hdfs:// needs `pip install pyarrow` and Hadoop's own client"}
"""What a kind of address needs where that is more than the extra `cloud`."""
_TRIES = 4
_SECONDS = 0.5
T = TypeVar("T")


def store_of(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it.

    Raises:
        UsageError: nothing that is installed knows this kind of address.
    """
    kind = address.partition("://")[0]
    if kind not in STORES:
        known = ", ".join(f"{each}://" for each in STORES)
        raise UsageError(f"{address}: expected a path, or an address that begins with {known}")
    try:
        import fsspec
    except ImportError as error:
        raise UsageError(f"{address}: addresses need fsspec; `pip install 'emotiw-keras[cloud]'`") from error
    try:
        # Without its cache of listings, which would hold every name that was ever listed.
        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        need = NEEDS.get(kind, "s3:// and gs:// need `pip install 'emotiw-keras[cloud]'`")
        raise UsageError(f"{address}: {reason}; {need}") from error
    return system, str(path)


def asked(what: str, call: Callable[[], T]) -> T:
    """The answer of a store; refusals of the moment are asked again.

    Raises:
        FileNotFoundError, PermissionError: it is not there, or not for us.
        DataError: the store does not answer.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return call()
        except (FileNotFoundError, PermissionError, IsADirectoryError, EmotiwError):
            raise
        except Exception as error:  # every store's library has classes of its own
            if attempt == _TRIES:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise DataError(f"{what}: the store does not answer ({reason}); run the same command again later") from error
            time.sleep(_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


class Folder(Protocol):
    """Files by their names, each written in one step."""

    name: str

    def some_name(self) -> str | None:
        """The name of a file or folder in it that is not hidden, as one being written is; None if there is none."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None if there is none."""
        ...

    def size(self, name: str) -> int | None:
        """A file's bytes; None if there is none."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to read; FileNotFoundError if there is none."""
        ...

    def new(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path to write to, which becomes the file of that name when the block ends well; OutputError if it cannot."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        ...


class LocalFolder:
    """A folder of this machine, or one that several machines share."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._path = Path(path)

    def some_name(self) -> str | None:
        if not self._path.is_dir():
            return None
        with os.scandir(self._path) as found:
            return next((each.name for each in found if not each.name.startswith(".")), None)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, name: str) -> int | None:
        try:
            return (self._path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str) -> BinaryIO:
        return open(self._path / name, "rb")

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        target = self._path / name
        # A name by chance: processes of several machines may write here, whose numbers are the same.
        temporary = target.with_name(f".{secrets.randbits(48)}.{target.name}")
        with writing(target):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                yield temporary
                replace_flushed(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        with writing(self._path / name):
            if (self._path / name).is_dir():
                shutil.rmtree(self._path / name)


class StoreFolder:
    """A folder of an object store, whose files appear whole or not at all."""

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        self._system, path = store_of(self.name)
        self._path = path.rstrip("/")

    def some_name(self) -> str | None:
        try:
            found = asked(self.name, lambda: self._system.ls(self._path, detail=False))
        except FileNotFoundError:
            return None
        names = (str(each).rstrip("/").rpartition("/")[2] for each in found if str(each).rstrip("/") != self._path)
        return next((name for name in names if not name.startswith(".")), None)

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(asked(f"{self.name}/{name}", lambda: self._system.cat_file(f"{self._path}/{name}")))
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        try:
            return int(asked(f"{self.name}/{name}", lambda: self._system.size(f"{self._path}/{name}")))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        opened = asked(f"{self.name}/{name}", lambda: self._system.open(f"{self._path}/{name}", "rb"))
        return io.BufferedReader(opened)  # whose lines may be bounded

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        place = f"{self.name}/{name}"
        with tempfile.TemporaryDirectory(prefix="emotiw-") as folder:
            temporary = Path(folder) / "part"
            with writing(temporary):
                yield temporary
            try:
                asked(place, lambda: self._system.put_file(str(temporary), f"{self._path}/{name}"))
            except (DataError, OSError) as error:
                raise OutputError(f"cannot write {place}: {' '.join(str(error).split())}") from error

    def remove_folder(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            asked(f"{self.name}/{name}", lambda: self._system.rm(f"{self._path}/{name}", recursive=True))


def folder_at(name: str) -> Folder:
    """The folder of a path or an address.

    Raises:
        UsageError: nothing that is installed knows this kind of address.
    """
    return StoreFolder(name) if is_address(name) else LocalFolder(name)


def write(folder: Folder, name: str, content: str | bytes) -> None:
    """Write a small file in one step."""
    with folder.new(name) as path:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
