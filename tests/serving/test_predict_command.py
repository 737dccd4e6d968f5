"""`emotiw predict` and `emotiw export` as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.serving.input_images import InputImage
from emotiw_keras.serving.inputs import expand, read_inputs
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.uncertainty import derived_affect

Emotiw = Callable[..., "subprocess.CompletedProcess[str]"]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces in the folder, below it and in a zip, and with what is no face."""
    root = tmp_path_factory.mktemp("inputs")
    images = draw_faces(4, size=48)[0][..., 0]
    (root / "faces" / "more").mkdir(parents=True)
    (root / "faces" / "a.png").write_bytes(png(images[0]))
    (root / "faces" / "more" / "b.png").write_bytes(png(np.repeat(images[1][..., None], 3, axis=-1)))
    (root / "faces" / "notes.txt").write_text("no image by its name")
    with zipfile.ZipFile(root / "faces.zip", "w") as archive:
        archive.writestr("c.png", png(images[2]))
        archive.writestr("cut.png", png(images[3])[:300])
    (root / "zero.jpg").write_bytes(b"")
    (root / "text.png").write_text("no image by its bytes")
    (root / "photo.dat").write_bytes(png(images[3]))
    return root


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_input_gives_its_row_in_order_and_the_bad_ones_are_named(emotiw: Emotiw, faces: Path, run_folder: Path) -> None:
    inputs = ["faces", "zero.jpg", "faces.zip", "missing.png", "photo.dat", "text.png", "nothing*.png"]
    done = emotiw("predict", *inputs, "--model", run_folder, "--faces", "whole", "--json", "--batch-size", 2, cwd=faces)
    rows = rows_of(done.stdout)
    assert done.returncode == 3, done.stderr
    assert [(row["path"], row["error"] is None) for row in rows] == [
        ("faces/a.png", True),
        ("faces/more/b.png", True),
        ("zero.jpg", False),
        ("faces.zip/c.png", True),
        ("faces.zip/cut.png", False),
        ("missing.png", False),
        ("photo.dat", True),
        ("text.png", False),
        ("nothing*.png", False),
    ]
    complaints = [line for line in done.stderr.splitlines() if line.startswith("emotiw: cannot read ")]
    assert len(complaints) == 5 and all(row["path"] in done.stderr for row in rows if row["error"])
    good, bad = rows[0], rows[2]
    assert list(good) == list(bad) == [
        "path", "frame", "seconds", "face", "box", "eyes", "detector_score", "label", "probabilities", "uncertain", "derived",
        "doubt", "error",
    ]  # fmt: skip
    assert good["box"] == [0, 0, 48, 48] and good["face"] == 0 and good["eyes"] is None
    assert bad["label"] is None and bad["probabilities"] is None and "zero bytes" in bad["error"]


def test_probabilities_are_the_predictors(emotiw: Emotiw, faces: Path, run_folder: Path) -> None:
    done = emotiw("predict", "faces", "--model", run_folder, "--faces", "whole", "--json", cwd=faces)
    assert done.returncode == 0, done.stderr
    predictor = Predictor(run_folder)
    images = [each for each in read_inputs(expand([str(faces / "faces")])) if isinstance(each, InputImage)]
    pixels = [image.pixels for image in images]
    expected = predictor.predict([each for each in pixels if each is not None])
    for row, probabilities in zip(rows_of(done.stdout), expected, strict=True):
        assert tuple(row["probabilities"]) == predictor.labels
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, atol=1e-6)
        assert row["label"] == predictor.labels[int(probabilities.argmax())]


def test_csv_has_the_same_rows(emotiw: Emotiw, faces: Path, run_folder: Path) -> None:
    arguments = ("predict", "faces", "text.png", "--model", run_folder, "--faces", "whole")
    table = list(csv.DictReader(io.StringIO(emotiw(*arguments, "--csv", cwd=faces).stdout)))
    done = emotiw(*arguments, "--json", cwd=faces)
    assert done.stderr.count("does not say which entropy is usable, so `uncertain` is empty") == 1
    rows = rows_of(done.stdout)
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    for cells, row in zip(table, rows, strict=True):
        assert cells["error"] == (row["error"] or "")
        assert cells["uncertain"] == ""
        if row["error"] is None:
            assert row["uncertain"] is None and row["derived"] == derived_affect(row["probabilities"])
            assert [float(cells[f"derived_{key}"]) for key in ("valence", "arousal")] == list(row["derived"].values())
            assert {label: float(cells[label]) for label in row["probabilities"]} == pytest.approx(row["probabilities"])
            assert [int(cells[key]) for key in ("x", "y", "width", "height")] == row["box"]


def test_a_line_for_people_names_the_likeliest(emotiw: Emotiw, faces: Path, run_folder: Path) -> None:
    done = emotiw("predict", "faces/a.png", "--model", run_folder, "--faces", "whole", cwd=faces)
    (row,) = rows_of(emotiw("predict", "faces/a.png", "--model", run_folder, "--faces", "whole", "--json", cwd=faces).stdout)
    assert done.stdout.startswith(f"faces/a.png: {row['label']} {row['probabilities'][row['label']]:.2f} (")
    assert done.stderr == ""


def test_a_model_that_is_no_run_is_one_line(emotiw: Emotiw, faces: Path) -> None:
    done = emotiw("predict", "faces", "--model", faces, cwd=faces)
    assert done.returncode == 8 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "not a run folder" in done.stderr


@pytest.mark.slow
def test_export_says_what_it_made_and_refuses_to_overwrite(emotiw: Emotiw, run_folder: Path, tmp_path: Path) -> None:
    done = emotiw("export", run_folder, tmp_path / "served")
    assert done.returncode == 0, done.stderr
    assert "12 faces agree in a fresh process" in done.stdout
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    again = emotiw("export", run_folder, tmp_path / "served")
    assert again.returncode == 6 and "never overwrites" in again.stderr
    nothing = emotiw("export", tmp_path, tmp_path / "other")
    assert nothing.returncode == 8 and not (tmp_path / "other").exists()


def test_what_holds_inputs_is_told_how_to_be_read(emotiw: Emotiw, faces: Path, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")
    (tmp_path / "some.tar").write_bytes(bytes(10240))
    done = emotiw("predict", tmp_path / "list.txt", tmp_path / "some.tar", "--model", run_folder, "--faces", "whole")
    assert done.returncode == 3 and done.stderr.count("are read with --out DIR") == 2


def test_ten_crops_of_a_whole_face_are_told(emotiw: Emotiw, faces: Path) -> None:
    done = emotiw("predict", faces / "faces" / "a.png", "--faces", "whole", "--crops", 10)
    assert done.returncode == 0 and "ten crops are the centre and its mirror image" in done.stderr
