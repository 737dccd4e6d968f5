"""A run survives SIGKILL at any moment, a damaged checkpoint, SIGTERM and Ctrl-C, and ends in the same bits."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from emotiw_keras.files import sha256_file
from tests import processes

KILLS = int(os.environ.get("EMOTIW_TEST_KILLS", "2"))
EPOCH = re.compile(r"^  (one|two) epoch (\d+)/")


class Command:
    """`emotiw fit` on the tiny recipe, wide enough that writing a checkpoint takes a moment."""

    def __init__(self, recipe: Path, faces: dict[str, str], run: Path) -> None:
        self.run = run
        data = [f"--data={name}={path}" for name, path in faces.items()]
        arguments = ["fit", str(recipe), *data, f"--out={run}", "--set", "model.width=0.2", "--set", "stage.epochs=4"]
        # the second stage, frozen as far as conv5, trains on features that are kept
        arguments += ["--set", "two.crops_per_image=2", "--precision", "float32"]
        # the first keeps more than weights and optimizer: averages, gradients of half an update, drawn changes and orders
        changes = ("average_decay=0.9", "accumulate=2", "sampling=balanced", "rotate=20", "erase=0.5", "noise=20", "jpeg=20")
        for change in (*changes, "pull_to_start=0.1"):
            arguments += ["--set", f"one.{change}"]
        self.arguments = arguments

    def start(self) -> processes.Forked:
        return processes.Forked(processes.emotiw, *self.arguments)

    def finish(self) -> list[str]:
        process = self.start()
        _, talk = process.communicate(timeout=600)
        assert process.returncode == 0, talk
        return talk.splitlines()

    def weights(self) -> str:
        return sha256_file(self.run / "model.weights.h5")


def kill_after_line(process: processes.Forked, generator: random.Random) -> list[str]:
    """Kill a random moment after the first sign of training; the lines until then."""
    lines, deadline = [], None
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if deadline is None and line.startswith("stage 1") and "images" in line or "going on" in line:
            deadline = time.monotonic() + generator.uniform(0.0, 3.0)
        if deadline is not None and time.monotonic() > deadline:
            break
    process.kill()
    process.wait()
    return lines + process.stderr.read().splitlines()


def kill_while_writing(process: processes.Forked, run: Path) -> list[str]:
    """Kill as soon as a checkpoint, or the best epoch's weights, are seen half-written."""
    while process.poll() is None:
        if any(name.startswith(".") and name.endswith(".npz") for _, _, names in os.walk(run / "stages") for name in names):
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    return process.stderr.read().splitlines()


@pytest.fixture(scope="module")
def whole(recipe_file: Path, faces: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The run that nothing interrupted."""
    command = Command(recipe_file, faces, tmp_path_factory.mktemp("uninterrupted") / "whole")
    command.finish()
    return command


@pytest.mark.slow
def test_killed_again_and_again_it_ends_bit_identical(
    whole: Command, recipe_file: Path, faces: dict[str, str], tmp_path: Path
) -> None:
    broken = Command(recipe_file, faces, tmp_path / "broken")
    generator = random.Random(11)
    told: list[str] = []
    for number in range(KILLS):
        process = broken.start()
        told += kill_while_writing(process, broken.run) if number % 2 else kill_after_line(process, generator)
    told += broken.finish()
    assert broken.weights() == whole.weights()
    epochs = [match.groups() for match in map(EPOCH.match, told) if match]
    assert len(epochs) == len(set(epochs)), "an epoch that was told finished was done again"
    history = [(broken.run / "history.csv"), (whole.run / "history.csv")]
    one, other = (re.sub(r",[^,]*,[^,]*$", "", file.read_text(), flags=re.M) for file in history)
    assert one == other


@pytest.mark.slow
def test_a_flipped_byte_in_the_newest_checkpoint_sends_it_back_to_the_one_before(
    whole: Command, recipe_file: Path, faces: dict[str, str], tmp_path: Path
) -> None:
    broken = Command(recipe_file, faces, tmp_path / "broken")
    process = broken.start()
    for line in process.stderr:
        if line.startswith("  one epoch 3/"):
            break
    process.kill()
    process.wait()
    newest = max((broken.run / "stages" / "01-one").glob("e*.npz"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    talk = broken.finish()
    assert any("is damaged" in line and "going back to the one before" in line for line in talk)
    assert any(line.startswith("  one epoch 3/") for line in talk)
    assert broken.weights() == whole.weights()


@pytest.mark.slow
def test_a_signal_saves_first_and_the_same_command_goes_on(
    whole: Command, recipe_file: Path, faces: dict[str, str], tmp_path: Path
) -> None:
    command = Command(recipe_file, faces, tmp_path / "run")
    for epoch, (number, code) in enumerate([(signal.SIGTERM, 143), (signal.SIGINT, 130)], 1):
        process = command.start()
        for line in process.stderr:
            assert epoch == 1 or not line.startswith("  one epoch 1/")
            if line.startswith(f"  one epoch {epoch}/"):
                process.send_signal(number)
                break
        talk = process.stderr.read()
        assert process.wait(timeout=120) == code, talk
        assert "stopped and saved; the same command goes on" in talk
        assert "Traceback" not in talk
    talk = "\n".join(command.finish())
    assert "stage 1 one: going on at epoch" in talk
    assert "  one epoch 1/" not in talk and "  one epoch 2/" not in talk
    assert command.weights() == whole.weights()
    assert any("is finished already" in line for line in command.finish())
