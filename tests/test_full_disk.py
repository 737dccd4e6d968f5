"""Full disks: what cannot be written whole is an error, and no part of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.data.contact_sheet import write_contact_sheets
from emotiw_keras.data.generated import write_images
from emotiw_keras.errors import OutputError
from emotiw_keras.files import check_room
from emotiw_keras.models import registry
from emotiw_keras.reports.prediction_sheet import Caption
from emotiw_keras.reports.prediction_sheet import contact_sheet as sheet_of_faces
from emotiw_keras.serving.annotate import Annotator
from emotiw_keras.serving.input_images import InputImage
from emotiw_keras.serving.readings import ImageReading
from emotiw_keras.training import checkpoints
from emotiw_keras.training.curves import learning_curves
from tests.serving.marked import write_video

LIMIT = 12 << 10
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


@contextlib.contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write of more is cut short, then refused, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def annotate(folder: Path, name: str) -> None:
    with Annotator(folder / "annotated") as annotator:
        annotator.write(ImageReading(InputImage(name, NOISE, name=name), None, (), None, ()))


def contact_sheet(folder: Path) -> None:
    Image.fromarray(NOISE).save(folder / "a.png")
    row = {"output": "a.png", "label": "sad", "status": "ok", "detector_score": "0.9", "path": "a.png", "split": ""}
    with full_at(LIMIT):
        write_contact_sheets(folder, [row])


def faces_sheet(folder: Path) -> None:
    sheet_of_faces(np.stack([NOISE] * 9), [Caption("sad", 0.5, None)] * 9, folder / "faces.png")


def curves(folder: Path) -> None:
    header = "stage,epoch,learning_rate,loss,accuracy,val_loss,val_accuracy\n"
    (folder / "history.csv").write_text(header + "".join(f"one,{i},0.1,{1 / i},0.4,1.6,0.5\n" for i in range(1, 9)))
    learning_curves(folder / "history.csv", folder / "curves.png")


WRITERS: dict[str, Callable[[Path], None]] = {
    "annotated JPEG": lambda folder: annotate(folder, "a.jpg"),
    "annotated PNG": lambda folder: annotate(folder, "a.png"),
    "annotated WebP": lambda folder: annotate(folder, "a.webp"),
    "annotated BMP": lambda folder: annotate(folder, "a.bmp"),
    "contact sheet": contact_sheet,
    "sheet of faces": faces_sheet,
    "learning curves": curves,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_image_that_does_not_fit_is_an_error_and_leaves_nothing(write: Callable[[Path], None], tmp_path: Path) -> None:
    write_limited = contextlib.nullcontext() if write is contact_sheet else full_at(LIMIT)
    with write_limited, pytest.raises(OutputError, match="free some space") as told:
        write(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    advice = f"; free some space, and remove {tmp_path / 'annotated'} or name a new folder"
    assert str(told.value).endswith(advice) == (tmp_path / "annotated").exists()
    assert left <= {"a.png", "history.csv"} and not (tmp_path / "annotated" / "a.png").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.5 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, free: int) -> None:
    there = os.statvfs(disk)
    (disk / "fill").write_bytes(bytes(there.f_bavail * there.f_frsize - free))


RECIPE = """
name = "small"
data = ["faces"]
[model]
name = "alexnet"
weights = "none"
width = 0.0625
input_size = 67
[[stage]]
name = "one"
train = ["faces:train"]
val = ["faces:val"]
epochs = 2
batch_size = 16
learning_rate = 0.001
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, drawn faces, a finished run of them, a photo and a video."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "small.toml").write_text(RECIPE)
    write_images("small", folder / "faces", 14)
    assert emotiw(["fit", str(folder / "small.toml"), "--data", f"faces={folder / 'faces'}", "--out", str(folder / "run")]) == 0
    registry.build("alexnet", weights=None, classes=7, width=0.0625).save_weights(folder / "alexnet.weights.h5")
    Image.fromarray(NOISE).resize((900, 900)).save(folder / "photo.jpg", quality=95)
    write_video(folder / "video.mp4", [np.roll(NOISE, 9 * number, axis=1) for number in range(30)])
    return folder


# Where what is written would go is {disk}; bytes that are free there.
COMMANDS: dict[str, tuple[int, str]] = {
    "annotated photo": (24 << 10, "predict {m}/photo.jpg --model {m}/run --faces whole --annotate {disk}/ann"),
    "annotated video": (24 << 10, "predict {m}/video.mp4 --model {m}/run --faces whole --annotate {disk}/ann"),
    "weights": (24 << 10, "convert {m}/alexnet.weights.h5 --model alexnet --width 0.0625 --out {disk}/a.weights.h5"),
    "packed run": (64 << 10, "pack {m}/run {disk}/packed --data generated:small"),
    "prepared faces": (8 << 10, "prepare {m}/faces {disk}/prepared --workers 1"),
    "savedmodel": (64 << 10, "export {m}/run {disk}/savedmodel"),
    "tflite": (64 << 10, "export {m}/run {disk}/a.tflite --format tflite"),
    "report": (24 << 10, "evaluate {m}/run --data generated:small --limit 14 --out {disk}/report"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_is_one_line_and_publishes_nothing_half_written(
    name: str, material: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free, command = COMMANDS[name]
    (small_disk / "there.txt").write_text("was there")
    fill(small_disk, free)
    capsys.readouterr()
    assert emotiw(command.format(m=material, disk=small_disk).split()) == OutputError.exit_code
    told = capsys.readouterr().err
    errors = [line for line in told.splitlines() if "error:" in line]
    assert len(errors) == 1 and str(small_disk) in errors[0] and "free some space" in errors[0]
    assert "Traceback" not in told and "Exception ignored" not in told
    left = {path.relative_to(small_disk).as_posix() for path in small_disk.rglob("*") if path.is_file()}
    # The journal of a preparation, from which it goes on, and whole images or tables of a page.
    assert not {path for path in left if "/." in path} - {"prepared/.prepare.jsonl"}
    assert left >= {"fill", "there.txt"} and not left & {"a.weights.h5", "a.tflite", "ann/photo.jpg", "ann/video.mp4"}
    assert not (small_disk / "packed").exists() and not (small_disk / "savedmodel").exists()
    assert (small_disk / "there.txt").read_text() == "was there"


def test_a_training_goes_on_once_a_full_disk_has_room_again(
    material: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(material / "small.toml"), "--data", f"faces={material / 'faces'}", "--out", str(small_disk / "run")]
    fill(small_disk, 400 << 10)  # what stands at the beginning, but no checkpoint
    capsys.readouterr()
    assert emotiw(command) == OutputError.exit_code
    told = capsys.readouterr().err
    assert "Traceback" not in told and "free some space" in told.splitlines()[-1]
    assert not [path for path in small_disk.rglob("*") if path.suffix == ".h5" or path.name.startswith(".")]
    for path in small_disk.rglob("*.npz"):
        checkpoints.load(path)  # is whole
    (small_disk / "fill").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert emotiw(command) == 0
    assert (small_disk / "run" / "history.csv").read_text().count("\n") == 3
    assert (
        json.loads((small_disk / "run" / "run.json").read_text())["weights"]
        == json.loads((material / "run" / "run.json").read_text())["weights"]
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_standard_output_on_a_full_disk_is_one_line_and_an_exit_code() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "emotiw_keras.cli.main", "models", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == OutputError.exit_code
    assert done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_what_is_lost_on_a_closed_standard_output_is_an_error_and_what_is_in_files_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where the shell closed it: emotiw models >&-
    predict = ["predict", str(tmp_path / "x.png"), "--faces", "whole"]
    for command in (["models"], ["recipes", "demo"], ["--version"], [*predict, "--csv"]):
        assert emotiw(command) == OutputError.exit_code
        assert "error: cannot write standard output: it is closed" in capsys.readouterr().err
    assert emotiw([*predict, "--annotate", str(tmp_path / "seen")]) == 0
    assert list((tmp_path / "seen").iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot set room aside")
def test_a_limit_of_a_process_is_met_before_hdf5_is(tmp_path: Path) -> None:
    with full_at(LIMIT), pytest.raises(OSError):
        check_room(tmp_path / "a.weights.h5", 10 * LIMIT)
    check_room(tmp_path / "a.weights.h5", 10 * LIMIT)
    assert not list(tmp_path.iterdir())
