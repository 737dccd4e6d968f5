"""Checkpoints that survive a kill at any moment and a damaged disk.

A checkpoint is one file, named by where it stands and by its own hash: `e0003-s000120-<hash>.npz`. It is written aside and
renamed, so a name in the folder is a whole file; the hash in the name is checked before anything is read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from emotiw_keras.errors import RunError
from emotiw_keras.files import NUMPY_UNREADABLE, check_arrays, check_regular, replace_flushed, sha256_file, writing
from emotiw_keras.talk import Notice

S = TypeVar("S")
HASH_CHARACTERS = 16
_NAME = re.compile(r"e(\d+)-s(\d+)-([0-9a-f]{16})\.npz")
_BEST = re.compile(r"best-[eg]\d+-[0-9a-f]{16}\.npz")
_START = re.compile(r"start-[0-9a-f]{16}\.npz")
_PART = re.compile(r"\.(e\d+-s\d+|best-[eg]\d+|start)\.npz")
_META = "meta"
REST = "rest"
"""In the plain data, the name of a file beside a checkpoint that holds the rest of its arrays."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's file and what it says: `arrays` by name, `meta` as plain data."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def save(folder: Path, stem: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Path:
    """Write one checkpoint.

    Args:
        folder: where; it is there.
        stem: start of the file's name.
        arrays: name -> array.
        meta: plain data that JSON can hold; floats survive exactly.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    content: dict[str, Any] = {f"array/{name}": value for name, value in arrays.items()}
    content[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    written = folder / f".{stem}.npz"
    with writing(written):
        try:
            np.savez(written, **content)
            final = folder / f"{stem}-{sha256_file(written)[:HASH_CHARACTERS]}.npz"
            replace_flushed(written, final)
        finally:
            written.unlink(missing_ok=True)
    return final


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, and the file that holds the rest of it if there is one, after checking their hashes.

    Raises:
        RunError: a file is missing or its bytes are not those that were written.
    """
    expected = path.stem.rsplit("-", 1)[-1]
    try:
        found = sha256_file(path)[:HASH_CHARACTERS]
    except OSError as error:
        raise RunError(f"checkpoint {path}: {error.strerror}") from error
    if found != expected:
        raise RunError(f"checkpoint {path} is damaged: its hash is {found}, its name says {expected}")
    try:
        check_arrays(path)
        with np.load(path, allow_pickle=False) as file:
            meta = _plain(file)
            arrays = {name.removeprefix("array/"): file[name] for name in file.files if name != _META}
    except NUMPY_UNREADABLE as error:
        raise RunError(f"checkpoint {path} is damaged: {error}") from error
    if REST in meta:
        rest = meta[REST]
        if not isinstance(rest, str) or not is_best(rest):
            raise RunError(f"checkpoint {path} is damaged: the rest of it is said to be in {rest!r}")
        arrays |= load(path.with_name(rest)).arrays
    return Checkpoint(path, arrays, meta)


def is_best(name: str) -> bool:
    """Whether a name is that of a best file."""
    return _BEST.fullmatch(name) is not None


def best_of(path: Path) -> str:
    """The name of the best file that a checkpoint's state refers to; "" if the checkpoint is damaged, and refers to none."""
    try:
        check_regular(path)
        check_arrays(path)
        with np.load(path, allow_pickle=False) as file:
            return str(_plain(file)["state"]["best"].get("file", ""))
    except NUMPY_UNREADABLE:
        return ""


def restored(kind: type[S], checkpoint: Checkpoint) -> S:
    """The state, a dataclass, that a checkpoint holds.

    Raises:
        RunError: it holds the fields of another.
    """
    state, fields = checkpoint.meta.get("state"), dataclasses.fields(kind)  # type: ignore[arg-type]
    needed = {field.name for field in fields if not field.metadata.get("missing")}
    if not isinstance(state, dict) or not needed <= state.keys() <= {field.name for field in fields}:
        raise RunError(f"checkpoint {checkpoint.path} is of another version of emotiw; begin anew with --restart")
    return kind(**state)


def _plain(file: Any) -> dict[str, Any]:
    meta = json.loads(file[_META].tobytes())
    if not isinstance(meta, dict):
        raise ValueError(f"it says {meta!r} of itself")
    return meta


def positions(folder: Path) -> list[tuple[int, int, Path]]:
    """(epoch, step, file) of the checkpoints in a folder, newest first."""
    found = []
    for path in folder.glob("e*.npz"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found, reverse=True)


def newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named and passed over.

    Raises:
        RunError: there are checkpoints, but none is whole.
    """
    found = positions(folder)
    for _, _, path in found:
        try:
            return load(path)
        except RunError as error:
            say(Notice(f"{error}; going back to the one before"))
    if found:
        raise RunError(f"{folder}: all {len(found)} checkpoints are damaged; start anew with --restart (the old run is kept)")
    return None


def start_of(folder: Path) -> Path | None:
    """The file of the weights that a stage without a checkpoint began with; `prune` removes it once there is one."""
    return next((path for path in folder.glob("start-*.npz") if _START.fullmatch(path.name)), None)


def prune(folder: Path, keep: int, referenced: set[str]) -> None:
    """Remove all but the newest `keep` checkpoints, best files nobody refers to, the start, remains of interrupted writes."""
    for _, _, path in positions(folder)[keep:]:
        path.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name not in referenced and (is_best(path.name) or _START.fullmatch(path.name) or _PART.fullmatch(path.name)):
            path.unlink(missing_ok=True)
