"""Checkpoints of one file or of two: what is read back, and what damage to either does."""

from __future__ import annotations

import copy
import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.errors import RunError
from emotiw_keras.files import sha256_file
from emotiw_keras.training import checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints, the newer one with its weights in a file beside it."""
    checkpoints.save(tmp_path, "e0001-s000000", {"model/0": np.zeros(3), "optimizer/0": np.zeros(2)}, {"state": 1})
    best = checkpoints.save(tmp_path, "best-e0002", {"model/0": np.arange(3.0)}, {})
    checkpoints.save(tmp_path, "e0002-s000000", {"optimizer/0": np.ones(2)}, {"state": 2, checkpoints.REST: best.name})
    return tmp_path


def test_the_rest_of_a_checkpoint_is_read_with_it(folder: Path) -> None:
    said: list[str] = []
    found = checkpoints.newest(folder, said.append)
    assert found is not None and found.meta["state"] == 2 and not said
    assert {name: array.tolist() for name, array in found.arrays.items()} == {"model/0": [0, 1, 2], "optimizer/0": [1, 1]}


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_without_its_rest_it_is_damaged_and_the_one_before_is_taken(folder: Path, damage: str) -> None:
    (best,) = folder.glob("best-*.npz")
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.unlink()
    if damage == "flipped":
        best.write_bytes(content)
    with pytest.raises(RunError, match=best.name):
        checkpoints.load(checkpoints.positions(folder)[0][2])
    said: list[str] = []
    found = checkpoints.newest(folder, said.append)
    assert found is not None and found.meta["state"] == 1
    (line,) = said
    assert best.name in line and "going back to the one before" in line


def _packed(file: zipfile.ZipFile) -> None:
    file.writestr("array/zzz.npy", npy(np.zeros(1 << 23)), zipfile.ZIP_DEFLATED)


def _claimed(file: zipfile.ZipFile) -> None:
    file.writestr("array/zzz.npy", npy(np.zeros(1)).replace(b"(1,), }" + b" " * 12, b"(4000000000000,), }"))


def _twice(file: zipfile.ZipFile) -> None:
    file.writestr("array/zzz.npy", npy(np.zeros(1000)))
    whole = file.getinfo("array/zzz.npy")
    for number in range(3):  # names of one and the same bytes
        other = copy.copy(whole)
        other.filename = f"array/{number}.npy"
        file.filelist.append(other)


@pytest.mark.parametrize(
    ("add", "told"),
    [
        (_packed, "zzz.npy is packed"),
        (_claimed, r"which is not its shape, \(4000000000000,\)"),
        (_twice, "more bytes than the file"),
    ],
)
def test_one_that_would_take_more_memory_than_its_bytes_is_damaged_and_the_one_before_is_taken(
    add: Callable[[zipfile.ZipFile], None], told: str, folder: Path
) -> None:
    (_, _, path), _ = checkpoints.positions(folder)
    with zipfile.ZipFile(path, "a") as file:
        add(file)
    hostile = path.rename(folder / f"e0002-s000000-{sha256_file(path)[:16]}.npz")
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match=f"is damaged: .*{told}"):
            checkpoints.load(hostile)
        assert checkpoints.best_of(hostile) == ""
        said: list[str] = []
        found = checkpoints.newest(folder, said.append)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert found is not None and found.meta["state"] == 1 and "going back to the one before" in said[0]


def npy(array: np.ndarray) -> bytes:
    """The bytes of an array's file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
