"""One process at a time in a folder, and what killed ones leave behind."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emotiw_keras.files import walk, writing

SECONDS_BETWEEN_TRIES = 0.1
# There a folder itself cannot be opened, and one that holds an open file cannot be renamed.
_WINDOWS = os.name == "nt"
# What `atomic_path` calls a file that it is writing.
_UNFINISHED = re.compile(r"\.\d+\..")


@contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold `folder`, which is made if need be, against other processes. The death of a process releases what it holds.

    Args:
        folder: to hold.
        waiting: called once if another process has it.

    Raises:
        OutputError: the folder cannot be made or locked.
    """
    from filelock import lock_descriptor

    told = False
    while True:
        with writing(folder):
            descriptor = _open(folder)
        try:
            with writing(folder):
                free = lock_descriptor(descriptor, blocking=False)
            # Whoever had it may have given the folder another name meanwhile.
            if free and _is_at(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)
        if not free:
            if not told:
                waiting()
            told = True
            time.sleep(SECONDS_BETWEEN_TRIES)


def _open(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    if _WINDOWS:
        return os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT)
    # The folder itself: a file in it would have to be removed, which cannot be done without a race.
    return os.open(folder, os.O_RDONLY)


def _is_at(descriptor: int, folder: Path) -> bool:
    if _WINDOWS:
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of a file being written (`files.atomic_path`).

    Example:
        >>> is_unfinished(".4711.data.csv"), is_unfinished("data.csv"), is_unfinished(".lock")
        (True, False, False)
    """
    return _UNFINISHED.match(name) is not None


def sweep_beside(target: str | os.PathLike[str]) -> None:
    """Remove what processes that are gone were writing to put it in place of `target`: files and folders `.PID.NAME` beside it.

    Raises:
        OutputError: it cannot be removed.
    """
    place = Path(target).absolute()
    if _WINDOWS or not place.parent.is_dir():  # there no signal asks whether a process lives
        return
    ours = re.compile(rf"\.(\d{{1,9}})\.{re.escape(place.name)}")
    for path in place.parent.iterdir():
        match = ours.fullmatch(path.name)
        if match is None or _lives(int(match[1])):
            continue
        with writing(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def sweep(folder: Path) -> None:
    """Remove what killed processes were just writing, in a folder that is held and all below it; links are not followed.

    Raises:
        OutputError: it cannot be removed.
    """
    for place, _, names in walk(os.fspath(folder)):
        for name in filter(is_unfinished, names):
            path = Path(place, name)
            with writing(path):
                path.unlink(missing_ok=True)
