"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emotiw_keras.errors import OutputError


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_flushed(source: Path, target: Path) -> None:
    """Rename a written file into place after its bytes, and then its name, have reached the disk."""
    _flush(source)
    os.replace(source, target)
    _flush(target.parent)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one `OutputError` line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space and run the same command again"
        else:
            advice = "choose a place that can be written"
        raise OutputError(f"cannot write {os.fspath(path)}: {error.strerror or error}; {advice}") from error


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write; on success flush it and rename it into place, else remove it.

    The sibling keeps the suffixes of `path`, which some writers (Keras, Matplotlib) choose their format by.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            replace_flushed(temporary, target)
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


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_within(folder: Path, path: Path) -> bool:
    """Whether the folder of `path` lies in `folder` once links have been followed."""
    return path.parent.resolve().is_relative_to(folder.resolve())
