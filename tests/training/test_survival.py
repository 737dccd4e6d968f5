"""A run survives SIGKILL at any moment, a damaged checkpoint, SIGTERM and Ctrl-C, and ends in the same bits."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from emotiw_keras.files import sha256_file
from emotiw_keras.runs import Run
from tests import processes

KILLS = int(os.environ.get("EMOTIW_TEST_KILLS", "2"))
EPOCH = re.compile(r"^  (one|two) epoch (\d+)/")


# wide enough that writing a checkpoint takes a moment
CHANGES = (
    "model.width=0.2", "stage.epochs=4",
    # the second stage, frozen as far as conv5, trains on features that are kept
    "two.crops_per_image=2",
    # the first keeps more than weights and optimizer: averages, gradients of half an update, drawn changes and orders
    "one.average_decay=0.9", "one.accumulate=2", "one.sampling=balanced", "one.rotate=20", "one.erase=0.5", "one.noise=20",
    "one.jpeg=20", "one.pull_to_start=0.1",
)  # fmt: skip


class Command:
    """`emotiw fit` on a recipe of two tiny stages."""

    def __init__(self, recipe: Path, faces: dict[str, str], run: Path, changes: Sequence[str] = CHANGES) -> None:
        self.run = run
        data = [f"--data={name}={path}" for name, path in faces.items()]
        words = [word for change in changes for word in ("--set", change)]
        self.arguments = ["fit", str(recipe), *data, f"--out={run}", "--precision", "float32", *words]

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
    ends_as(whole, Command(recipe_file, faces, tmp_path / "broken"))


@pytest.mark.slow
def test_two_heads_that_learn_from_votes_end_bit_identical_too(
    recipe_file: Path, voted: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """Classes are drawn from the votes in each epoch; both heads share averages, half updates and what spoils the images."""
    source, votes = voted
    changes = (
        "model.name=face_vgg", "model.width=0.25", "model.input_size=48", "model.heads={fer='basic7', votes='ferplus8'}",
        *(f"source.fer.{key}={value}" for key, value in votes.items()), "data=['fer']", "stage.train=['fer:train']",
        "stage.val=['fer:val']", "two.initialise=['classifier']", "two.rules=[['*',1.0]]",
        "one.epochs=4", "one.votes=probabilistic", "one.entropy_weight=0.3", "one.class_weight=balanced",
        "one.head_weights=[['votes',2.0]]", "one.monitor_head=votes", "one.average_decay=0.9", "one.accumulate=2",
        "one.rotate=20", "one.erase=0.5", "one.noise=20", "two.votes=multi_label", "two.sharpness=0.02",
    )  # fmt: skip
    alone, broken = (Command(recipe_file, {"fer": source}, tmp_path / name, changes) for name in ("alone", "broken"))
    alone.finish()
    ends_as(alone, broken, seed=5)


def ends_as(whole: Command, broken: Command, seed: int = 11) -> None:
    """Kill a command again and again; the same one then ends as one that was let alone, in the same bits."""
    generator = random.Random(seed)
    told: list[str] = []
    for number in range(KILLS):
        process = broken.start()
        told += kill_while_writing(process, broken.run) if number % 2 else kill_after_line(process, generator)
    told += broken.finish()
    assert broken.weights() == whole.weights()
    limits = [Run.open(each.run).usable for each in (whole, broken)]
    assert limits[0] == limits[1] and limits[0] is not None
    epochs = [match.groups() for match in map(EPOCH.match, told) if match]
    assert len(epochs) == len(set(epochs)), "an epoch that was told finished was done again"
    assert history(broken.run) == history(whole.run)


def history(run: Path) -> list[dict[str, str]]:
    """The rows of a run's history without its times."""
    with open(run / "history.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)]


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
    told: list[str] = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = command.start()
        for line in process.stderr:
            told.append(line)
            if line.startswith(("  one epoch ", "  two epoch ")):
                process.send_signal(number)  # by now it may be in any of the epochs behind that one
                break
        talk = process.stderr.read()
        told += talk.splitlines()
        assert process.wait(timeout=120) == code, talk
        assert "stopped and saved; the same command goes on" in talk
        assert "Traceback" not in talk
    told += command.finish()
    assert any("going on at epoch" in line for line in told)
    epochs = [line.split(":")[0].strip() for line in told if line.startswith(("  one epoch ", "  two epoch "))]
    assert len(epochs) == len(set(epochs)) == 8, "each of both stages is told once"
    assert command.weights() == whole.weights()
    assert any("is finished already" in line for line in command.finish())
