"""`emotiw prepare` as a user runs it, with the detectors that are installed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.layouts.prepared import FACES_COLUMNS
from tests.processes import default_signals

Emotiw = Callable[..., "subprocess.CompletedProcess[str]"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "faces.csv").read_text())))


def noise(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)).save(path)


def test_images_without_faces_and_a_broken_one(emotiw: Emotiw, tmp_path: Path) -> None:
    noise(tmp_path / "photos" / "happy" / "a.png")
    noise(tmp_path / "photos" / "sad" / "b.png", 1)
    (tmp_path / "photos" / "sad" / "zero.png").write_bytes(b"")
    arguments = ("prepare", "photos", "out", "--detector", "viola_jones", "--no-face", "centre", "--workers", 1)
    done = emotiw(*arguments, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1] == "emotiw: cannot read sad/zero.png: zero bytes"
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["split", "class", "pictures"] and lines[-1][0] == "all"
    assert lines[2] == ["-", "sad", "2", "0", "0.0%", "1", "1", "0", "1"]
    assert (tmp_path / "out" / "faces.csv").read_text().splitlines()[0].split(",") == list(FACES_COLUMNS)
    again = emotiw(*arguments, "--json", cwd=tmp_path)
    assert again.returncode == 3 and "3 of 3 images are done already" in again.stderr
    found = json.loads(again.stdout)
    assert (found["pictures"], found["centres"], found["unreadable"], found["coverage"]) == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["prepare", "nowhere", "out"], 4, "nowhere"),
        (["prepare", "photos", "photos/out"], 2, "one in the other"),
        (["prepare", "photos", "out", "--detector", "nobody"], 2, "viola_jones"),
        (["prepare", "photos", "out", "--faces", "two"], 2, "largest"),
        (["prepare", "photos", "letters"], 8, "letters"),
        (["prepare", "photos", "photos/a.png"], 2, "one in the other"),
        (["prepare", "photos", "letters/dear.txt/out"], 6, "dear.txt"),
        (["prepare", "photos"], 2, "OUT"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, words: str, emotiw: Emotiw, tmp_path: Path) -> None:
    noise(tmp_path / "photos" / "a.png")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("somebody's")
    done = emotiw(*arguments, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == code and last.startswith("emotiw: error: ") and words in last, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_and_it_goes_on(number: signal.Signals, code: int, emotiw: Emotiw, tmp_path: Path) -> None:
    for i in range(400):
        noise(tmp_path / "photos" / f"{i}.png", i)
    arguments = ("prepare", "photos", "out", "--detector", "viola_jones", "--workers", "2")
    command = [sys.executable, "-c", "from emotiw_keras.cli.main import main; main()", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, text=True, preexec_fn=default_signals, **streams)
    journal = tmp_path / "out" / ".prepare.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    # The pipes close only when the workers, which hold one of them, have ended too.
    _, talk = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in talk, talk
    assert not (tmp_path / "out" / "faces.csv").exists()
    done = emotiw(*arguments, cwd=tmp_path)
    assert done.returncode == 0 and "of 400 images are done already" in done.stderr, done.stderr
    assert len(rows_of(tmp_path / "out")) == 400


@pytest.mark.slow
def test_photos_with_no_one_one_and_many_faces(emotiw: Emotiw, tmp_path: Path, shared_data: Path) -> None:
    photos = shared_data / "photos"
    for name in ("astronaut.png", "noface/coffee.png", "noface/page.png", "dlib_faces/faces/bald_guys.jpg", "mtcnn_test1.jpg"):
        target = tmp_path / "photos" / ("happy" if "no" in name else "neutral") / Path(name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, target)
    done = emotiw("prepare", "photos", "all", "--faces", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    faces: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(tmp_path / "all"):
        faces.setdefault(row["path"].rpartition("/")[2], []).append(row)
    assert len(faces) == 5 and len(faces["bald_guys.jpg"]) >= 12
    assert [row["status"] for row in faces["page.png"]] == ["no face found"]
    (astronaut,) = faces["astronaut.png"]
    # Where the eyes of the astronaut are in the photo, read off by eye.
    assert float(astronaut["left_x"]) == pytest.approx(202, abs=5) and float(astronaut["left_y"]) == pytest.approx(104, abs=5)
    assert float(astronaut["right_x"]) == pytest.approx(248, abs=5) and float(astronaut["right_y"]) == pytest.approx(106, abs=5)
    for row in (row for of in faces.values() for row in of if row["output"]):
        with Image.open(tmp_path / "all" / row["output"]) as crop:
            assert crop.size == (256, 256) and crop.mode == "L" and crop.getextrema() == (0, 255)


@pytest.mark.slow
def test_prepared_faces_train(emotiw: Emotiw, tmp_path: Path) -> None:
    for number, label in enumerate(("happy", "sad")):
        for i in range(10):
            noise(tmp_path / "photos" / label / f"{i}.png", 100 * number + i)
    done = emotiw("prepare", "photos", "out", "--detector", "viola_jones", "--no-face", "centre", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = """
name = "tiny"
data = ["data"]
[model]
name = "alexnet"
width = 0.05
input_size = 67
[[stage]]
name = "one"
train = ["data:train"]
val = ["data:val"]
epochs = 1
"""
    (tmp_path / "tiny.toml").write_text(recipe)
    fitted = emotiw("fit", "tiny.toml", "--data", "data=out", "--out", "run", cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert "prepared faces, 20 images, grey 76 x 76" in fitted.stdout + fitted.stderr
