"""Full disks: what cannot be written whole is an error, and no part of it stays."""

from __future__ import annotations

import contextlib
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
from emotiw_keras.errors import OutputError
from emotiw_keras.reports.prediction_sheet import Caption
from emotiw_keras.reports.prediction_sheet import contact_sheet as sheet_of_faces
from emotiw_keras.serving.annotate import Annotator
from emotiw_keras.serving.input_images import Picture
from emotiw_keras.serving.readings import PictureReading
from emotiw_keras.training.curves import learning_curves

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
        annotator.write(PictureReading(Picture(name, NOISE, name=name), None, (), None, ()))


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
def test_a_picture_that_does_not_fit_is_an_error_and_leaves_nothing(write: Callable[[Path], None], tmp_path: Path) -> None:
    write_limited = contextlib.nullcontext() if write is contact_sheet else full_at(LIMIT)
    with write_limited, pytest.raises(OutputError, match="free some space"):
        write(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
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


def test_annotate_and_convert_on_a_full_disk(
    run_folder: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(NOISE).resize((900, 900)).save(tmp_path / "photo.jpg", quality=95)
    fill(small_disk, 24 << 10)
    command = ["predict", str(tmp_path / "photo.jpg"), "--model", str(run_folder), "--faces", "whole"]
    assert emotiw([*command, "--annotate", str(small_disk / "ann")]) == OutputError.exit_code
    assert "free some space" in capsys.readouterr().err
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.name != "fill"]
    weights = str(run_folder / "model.weights.h5")
    command = ["convert", weights, "--model", "alexnet", "--out", str(small_disk / "a.weights.h5")]
    assert emotiw(command) != 0
    told = capsys.readouterr().err
    assert "Traceback" not in told and "Exception ignored" not in told
    assert [path.name for path in small_disk.iterdir() if path.is_file()] == ["fill"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_standard_output_on_a_full_disk_is_one_line_and_an_exit_code() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "emotiw_keras.cli.main", "models", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == OutputError.exit_code
    assert done.stderr.count("\n") == 1 and "No space left" in done.stderr
