"""Checkpoints are written behind the next steps: what is computed meanwhile, what is told when, and what a failure ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras import StagedFineTuner
from emotiw_keras.errors import DivergedError, OutputError, RunError
from emotiw_keras.runs import Run
from emotiw_keras.training import checkpoints
from emotiw_keras.training.behind import Behind
from emotiw_keras.training.interrupts import Interrupted
from emotiw_keras.training.stage_state import arrays
from emotiw_keras.training.train_step import StageSteps

from .test_keras_user import X, Y, small, stage

SECONDS = 60.0
DATA = {"train": (X, Y), "val": (X[:20], Y[:20])}
STEPS = 4
PART = stage(val=("data:val",), epochs=3, batch_size=11, momentum=0.9)
"""Four steps an epoch; epochs that are the best so far and epochs that are not."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[int], None]]:
    """What is called before each step of a training with its number, from 1; a test asks for it after `at_once`."""
    hooks: list[Callable[[int], None]] = []
    count = 0
    train = StageSteps.train

    def counted(self: StageSteps, *args: Any) -> Any:
        nonlocal count
        count += 1
        for hook in hooks:
            hook(count)
        return train(self, *args)

    monkeypatch.setattr(StageSteps, "train", counted)
    return hooks


def fit(out: Path, lines: list[str]) -> Run:
    """A training, whose lines can be seen while it goes on."""
    return StagedFineTuner(small(), [PART], data={"data": DATA}, run_dir=out, duplicates="keep", say=lines.append).fit()


def told(lines: list[str]) -> int:
    """How many epochs were told."""
    return sum(line.startswith("  one epoch ") for line in lines)


def writes(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Call `before` with the name of each file of `checkpoints.save`, in its thread."""
    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda folder, stem, *args: (before(stem), save(folder, stem, *args))[1])


def state_of(run: Run) -> dict[str, Any]:
    """The weights, and what the checkpoints hold but for the times."""
    found: dict[str, Any] = {"weights": run.info["weights"]["variables"]}
    for epoch, step, path in checkpoints.positions(run.path / "stages" / "01-one"):
        held = checkpoints.load(path)
        state = {**held.meta["state"]}
        state["rows"] = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in state["rows"]]
        found[f"{epoch} {step}"] = {name: array.tobytes() for name, array in held.arrays.items()}, state
    return found


@pytest.fixture
def at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a training ends as that writes nothing behind its steps."""
    begin = Behind.begin
    with monkeypatch.context() as patched:
        patched.setattr(Behind, "begin", lambda self, *args: (begin(self, *args), self.finish())[1])
        return state_of(fit(tmp_path / "at-once", []))


def test_steps_go_on_while_a_checkpoint_is_written_and_change_nothing_in_it(
    at_once: dict[str, Any], steps: list[Callable[[int], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = {epoch: threading.Event() for epoch in (1, 2)}
    told_before: list[int] = []
    lines: list[str] = []

    def before_step(number: int) -> None:
        epoch, step = divmod(number - 1, STEPS)
        if step == 2 and epoch in stepped:
            told_before.append(told(lines))
            stepped[epoch].set()

    def before_write(stem: str) -> None:
        if stem.startswith("e000") and int(stem[1:5]) in stepped:
            assert threading.current_thread() is not threading.main_thread()
            assert stepped[int(stem[1:5])].wait(SECONDS), "the next epoch waits for the checkpoint"

    steps.append(before_step)
    writes(monkeypatch, before_write)
    assert state_of(fit(tmp_path / "run", lines)) == at_once
    assert told_before == [0, 1], "an epoch is told once its checkpoint is written"
    assert told(lines) == 3


@pytest.mark.parametrize("stem", ["best-e0001", "e0002-s000000", "e0003-s000000"])
def test_a_write_that_fails_ends_the_training_at_the_next_step_and_it_goes_on_to_the_same_end(
    stem: str, at_once: dict[str, Any], steps: list[Callable[[int], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = int(stem.removeprefix("best-")[1:5])
    failed, counted, lines = threading.Event(), [], []

    def before_write(name: str) -> None:
        if name == stem:
            failed.set()
            raise OutputError("cannot write it: No space left on device; free some space and run the same command again")

    def before_step(number: int) -> None:
        counted.append(number)
        if number == epoch * STEPS + 1:
            assert failed.wait(SECONDS)
            time.sleep(0.2)  # until the thread has handed the error over

    steps.append(before_step)
    with monkeypatch.context() as patched, pytest.raises(OutputError, match="free some space"):
        writes(patched, before_write)
        fit(tmp_path / "run", lines)
    assert len(counted) == epoch * STEPS + (epoch < 3)
    assert told(lines) == epoch - 1, "an epoch whose checkpoint failed is not told"
    steps.clear()
    assert state_of(fit(tmp_path / "run", lines := [])) == at_once
    assert told(lines) == 4 - epoch


def test_a_signal_waits_for_the_checkpoint_under_way(
    at_once: dict[str, Any], steps: list[Callable[[int], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def before_step(number: int) -> None:
        if number == STEPS + 1:
            os.kill(os.getpid(), signal.SIGTERM)
            asked.set()

    steps.append(before_step)
    lines: list[str] = []
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="stopped and saved") as raised:
        writes(patched, lambda stem: asked.wait(SECONDS) if stem == "e0001-s000000" else None)
        fit(tmp_path / "run", lines)
    assert raised.value.exit_code == 143
    there = checkpoints.positions(tmp_path / "run" / "stages" / "01-one")
    assert [(epoch, step) for epoch, step, _ in there] == [(1, 1), (1, 0)]
    assert told(lines) == 1
    steps.clear()
    assert state_of(fit(tmp_path / "run", [])) == at_once


@pytest.mark.parametrize("moved_before", ["best-e0002", "e0002-s000000", "positions", "best_of", "prune"])
def test_a_run_folder_moved_while_a_checkpoint_is_written_is_named_and_goes_on_where_it_lies(
    at_once: dict[str, Any], moved_before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: set[str] = set()

    def before_write(stem: str) -> None:
        written.add(stem)
        if stem == moved_before and (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "moved")

    writes(monkeypatch, before_write)
    if moved_before in vars(checkpoints):
        does = getattr(checkpoints, moved_before)

        def after_move(*args: Any) -> Any:
            if "e0002-s000000" in written:
                before_write(moved_before)
            return does(*args)

        monkeypatch.setattr(checkpoints, moved_before, after_move)
    with pytest.raises(RunError, match="run is not there any more: it was moved or removed while it was trained"):
        fit(tmp_path / "run", [])
    assert not (tmp_path / "run").exists(), "nothing is made where it was"
    assert state_of(fit(tmp_path / "moved", [])) == at_once


def test_an_error_in_a_step_does_not_leave_what_is_written_half_done(
    steps: list[Callable[[int], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()

    def before_step(number: int) -> None:
        if number == STEPS + 1:
            broken.set()
            raise DivergedError("diverged")

    steps.append(before_step)
    writes(monkeypatch, lambda stem: broken.wait(SECONDS) if stem == "best-e0001" else None)
    lines: list[str] = []
    with pytest.raises(DivergedError):
        fit(tmp_path / "run", lines)
    folder = tmp_path / "run" / "stages" / "01-one"
    assert checkpoints.newest(folder, lines.append).meta["state"]["epoch"] == 1  # type: ignore[union-attr]
    assert not list(folder.glob(".*")) and told(lines) == 1


def test_writes_are_in_order_and_one_that_fails_is_said_beside_another_error() -> None:
    done: list[str] = []
    begun = threading.Event()

    def slow() -> None:
        assert begun.wait(SECONDS)
        done.append("first")

    with Behind(done.append) as behind:
        behind.begin(slow, lambda: done.append("told"))
        behind.look()
        assert done == []
        begun.set()
        behind.begin(lambda: done.append("second"))
        behind.finish()
        assert done == ["first", "told", "second"]

    def fails() -> None:
        raise OutputError("cannot write it")

    with pytest.raises(ValueError, match="a step"), Behind(done.append) as behind:
        behind.begin(fails)
        raise ValueError("a step")
    assert done[3:] == ["warning: cannot write it"]
    with Behind(done.append, threads=False) as behind, pytest.raises(OutputError):
        behind.begin(fails)


def test_what_is_written_are_copies() -> None:
    variable = keras.Variable(np.zeros(3, np.float32))
    (held,) = arrays("model", [variable]).values()
    variable.assign_add(np.ones(3, np.float32))
    variable.value.assign_add(np.ones(3, np.float32))
    assert held.tolist() == [0, 0, 0]
