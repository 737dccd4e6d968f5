"""The cache of fetched files: where each lies, and which bytes it must have."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from emotiw_keras.errors import ModelError
from emotiw_keras.files import expanded
from emotiw_keras.weights.manifest import PREFIX, Entry

CHUNK = 2**20
FILES = "files"


def cache_dir() -> Path:
    """The folder of fetched weights: $EMOTIW_CACHE, or ~/.cache/emotiw_keras."""
    return expanded(os.environ.get("EMOTIW_CACHE") or Path.home() / ".cache" / "emotiw_keras")


def file_path(entry: Entry, cache: Path | None = None) -> Path:
    """Where the file belongs: `<cache>/files/<key>/<filename>`."""
    return (cache or cache_dir()) / FILES / entry.key / entry.filename


def record_path(path: Path) -> Path:
    """Where the SHA-256 of a fetched file is recorded, in the form that `sha256sum -c` reads."""
    return path.with_name(f"{path.name}.sha256")


def recorded(path: Path) -> str:
    """The SHA-256 recorded beside the file `path`, or "" if none is. Raises ModelError if the record is unreadable."""
    record = record_path(path)
    if not record.is_file():
        return ""
    try:
        words = record.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {record}: {error}; delete it") from error
    if not words or len(words[0]) != 64 or not set(words[0]) <= set("0123456789abcdef"):
        raise ModelError(f"{record} holds no SHA-256; delete it")
    return words[0]


def digests(path: Path, algorithms: set[str]) -> dict[str, str]:
    """The hexadecimal hashes of a file, read once. Raises ModelError if it cannot be read."""
    # Old publishers give MD5 and SHA-1; they are compared with, never relied on to sign anything.
    states = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                for state in states.values():
                    state.update(chunk)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return {name: state.hexdigest() for name, state in states.items()}


def compare(entry: Entry, path: Path, expected_sha256: str = "") -> tuple[str, str]:
    """SHA-256 of the file, and what is wrong with it in words ("" if it is the right one).

    It is compared with the size and every hash of the manifest; where the manifest has no whole hash, with
    `expected_sha256`, what an earlier download recorded.
    """
    found = digests(path, {"sha256", *(name for name in entry.hashes if name != PREFIX)})
    sha256 = found["sha256"]
    if entry.size and path.stat().st_size != entry.size:
        return sha256, f"it has {path.stat().st_size:,} bytes, the manifest says {entry.size:,}"
    for name, digits in entry.hashes.items():
        if name == PREFIX and not sha256.startswith(digits):
            return sha256, f"its sha256 is {sha256}, the manifest says that it begins with {digits}"
        if name != PREFIX and found[name] != digits:
            return sha256, f"its {name} is {found[name]}, the manifest says {digits}"
    if expected_sha256 and sha256 != expected_sha256:
        return sha256, f"its sha256 is {sha256}, but {expected_sha256} was recorded when it was first fetched"
    return sha256, ""


def verify(entry: Entry, path: Path) -> str:
    """The SHA-256 of a file, once it has been compared with the manifest and with what was recorded beside it.

    Raises:
        ModelError: it is missing, or has another size or hash; the message has both.
    """
    if not path.is_file():
        raise ModelError(f"{entry.key} is not at {path}; get it with `emotiw weights fetch {entry.key}`")
    sha256, wrong = compare(entry, path, recorded(path))
    if wrong:
        raise ModelError(f"{path} is not the file {entry.key}: {wrong}; delete it and run `emotiw weights fetch {entry.key}`")
    return sha256


def find(entry: Entry, cache: Path | None = None) -> Path | None:
    """The file in the cache if it is there, and right; None if it is not there.

    Raises:
        ModelError: it is there, but its size or hash is another than published or recorded.
    """
    path = file_path(entry, cache)
    if not path.exists():
        return None
    verify(entry, path)
    return path
