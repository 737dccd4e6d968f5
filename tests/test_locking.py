"""What killed processes leave behind is swept: theirs alone, and by the next run of what they did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.conversion.convert import write_weights
from emotiw_keras.errors import EmotiwError
from emotiw_keras.evaluation.pack import pack
from emotiw_keras.locking import sweep_beside
from emotiw_keras.models import registry
from emotiw_keras.runs import Run
from emotiw_keras.serving.export import refuse_existing


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave(folder: Path, process: int, name: str = "out") -> list[str]:
    """What a process left that was writing `name` as a folder, and then as a file."""
    (folder / f".{process}.{name}").mkdir()
    (folder / f".{process}.{name}" / "part.h5").write_bytes(b"half")
    return [f".{process}.{name}"]


@pytest.mark.skipif(os.name == "nt", reason="no signal asks there whether a process lives")
def test_only_what_processes_that_are_gone_left_of_this_target_is_removed(tmp_path: Path, gone: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.txt").write_text("not yours")
    folder = tmp_path / "work"
    folder.mkdir()
    leave(folder, gone)
    (folder / f".{gone}.a.h5").write_bytes(b"half")
    kept = {f".{os.getpid()}.out", ".1.out", f".{gone}.other", ".x.out", f"{gone}.out", "out.txt"}
    for name in kept:
        (folder / name).write_text("kept")
    sweep_beside(folder / "out")
    assert {path.name for path in folder.iterdir()} == kept | {f".{gone}.a.h5"}
    sweep_beside(folder / "a.h5")
    (folder / f".{gone}.out").symlink_to(outside)
    sweep_beside(folder / "out")
    assert {path.name for path in folder.iterdir()} == kept
    assert (outside / "victim.txt").is_file()


@pytest.mark.skipif(os.name == "nt", reason="no signal asks there whether a process lives")
def test_packing_exporting_and_converting_sweep_what_killed_ones_left(tmp_path: Path, gone: int, run_folder: Path) -> None:
    leave(tmp_path, gone)
    refuse_existing(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    leave(tmp_path, gone)
    with pytest.raises(EmotiwError):  # that run has no data.csv, which is found out later
        pack(Run.open(run_folder), tmp_path / "out", "generated:small")
    assert not list(tmp_path.iterdir())
    (tmp_path / f".{gone}.a.weights.h5").write_bytes(np.zeros(9).tobytes())
    write_weights(
        registry.build("alexnet", weights=None, classes=7, width=0.0625, input_shape=(67, 67, 3)), tmp_path / "a.weights.h5"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.weights.h5"]
