"""Checkpoints of one file or of two: what is read back, and what damage to either does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.errors import RunError
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
