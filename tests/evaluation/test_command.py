"""`emotiw evaluate` as a user types it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import pytest

from emotiw_keras.data.generated import LABELS
from emotiw_keras.data.load import load_faces
from emotiw_keras.runs import DATA_COLUMNS


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, trained on `generated:small` by their own account, and a test set with a bad file."""
    folder = tmp_path_factory.mktemp("work")
    faces = load_faces("generated:small", limit=7)
    for name in ("one", "two"):
        shutil.copytree(run_folder, folder / name)
        info = json.loads((folder / name / "run.json").read_text())
        info |= {"stages": [{"name": "s"}], "sources": {"small": "generated:small"}}
        (folder / name / "run.json").write_text(json.dumps(info))
        with open(folder / name / "data.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, DATA_COLUMNS)
            writer.writeheader()
            for path, pixel_hash, split in zip(faces.paths, faces.pixel_hash, faces.split, strict=True):
                row = {"stage": "s", "data": "small", "path": path, "pixel_hash": pixel_hash, "split": split}
                writer.writerow({**row, "status": split if split != "test" else "held out"})
    for i in range(14):
        path = folder / "faces" / "test" / LABELS[i % 7] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), faces.pixels.gather([i])[0])
    (folder / "faces" / "test" / "sad" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


def test_json_is_one_object_on_standard_output(emotiw, folder: Path) -> None:
    done = emotiw("evaluate", "one", "--limit", 7, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["n"] == 7 and result["split"] == "test" and result["run"] == "one"
    assert "generated:small" in done.stderr


def test_several_runs_give_a_line_each_and_unreadable_inputs_are_named_once(emotiw, folder: Path) -> None:
    done = emotiw("evaluate", "one", "two", "--data", "faces", "--json", "--out", "report", cwd=folder)
    assert done.returncode == 3, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["run"] for result in results] == ["one", "two"]
    assert [(result["n"], result["n_found"]) for result in results] == [(15, 14)] * 2
    assert results[0]["confusion"] == results[1]["confusion"]
    assert done.stderr.count("could not read test/sad/bad.png") == 1
    assert {path.name for path in (folder / "report").iterdir()} == {"one", "two"}
    (folder / "report" / "two" / "report.html").write_text("mine")
    done = emotiw("evaluate", "one", "two", "--data", "faces", "--out", "report", cwd=folder)
    assert done.returncode == 6 and f"{Path('report', 'two', 'report.html')} exists and is not of a report" in done.stderr
    (folder / "report" / "two" / "report.html").unlink()
    assert emotiw("evaluate", "one", "two", "--data", "faces", "--out", "report", cwd=folder).returncode == 3


def test_the_table_is_for_people(emotiw, folder: Path) -> None:
    done = emotiw("evaluate", "one", "--data", "faces", "--split", "all", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert "| accuracy" in done.stdout and "| surprise" in done.stdout and "emotiw:" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("evaluate", "faces", "--data", "faces"), 8, "not a run"),
        (("evaluate", "one", "--data", "nowhere"), 4, "nowhere"),
        (("evaluate", "one", "--data", "faces", "--split", "val"), 4, "it has test (15) and all (15)"),
        (("evaluate", "one", "--data", "faces", "--split", "validation"), 2, "validation"),
        (("evaluate",), 2, "RUN"),
    ],
)
def test_wrong_use_is_one_line_and_its_exit_code(emotiw, folder: Path, arguments, code: int, says: str) -> None:
    done = emotiw(*arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("emotiw: error:") and says in last and done.stdout == ""
