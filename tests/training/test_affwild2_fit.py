"""A fit on annotated videos: a row a video in data.csv, copies dropped by video, a kill that costs nothing."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.generated_videos import write_affwild2
from emotiw_keras.errors import DataError, RunError
from emotiw_keras.evaluation.evaluate import evaluate
from emotiw_keras.files import sha256_file
from emotiw_keras.runs import Run
from emotiw_keras.training.class_weights import class_weights
from emotiw_keras.training.fit import fit
from emotiw_keras.training.prepared_data import prepare
from emotiw_keras.training.recipe import load_recipe
from tests import processes

RECIPE = """
name = "tiny-videos"
data = ["affwild2"]
labels = "affwild7"
precision = "float32"

[model]
name = "alexnet"
width = 0.05
input_size = 67

[preprocessing]
mean = [128.0, 128.0, 128.0]
std = [64.0, 64.0, 64.0]

[source.affwild2]
every = 2

[[stage]]
name = "only"
train = ["affwild2:train"]
val = ["affwild2:val"]
epochs = 3
batch_size = 16
optimizer = "adam"
learning_rate = 0.001
class_weight = "complement"
monitor = "val_macro_f1"
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tree"
    write_affwild2(folder, videos=6, frames=360, validation=0.34, seed=2)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "videos.toml"
    file.write_text(RECIPE)
    return file


def test_data_csv_has_a_row_a_video_and_a_run_knows_its_videos_again(tree: Path, recipe: Path, tmp_path: Path) -> None:
    run = fit(load_recipe(str(recipe), ["only.epochs=1"]), {"affwild2": str(tree)}, tmp_path / "run").run
    assert run is not None
    rows = list(csv.DictReader((run.path / "data.csv").open()))
    assert [row["path"] for row in rows] == [f"cropped_aligned/{name}" for name in sorted(os.listdir(tree / "cropped_aligned"))]
    assert [row["status"] for row in rows] == ["train"] * 4 + ["val"] * 2
    for row in rows:
        file = next((tree / "annotations").rglob(f"{Path(row['path']).name}.txt"))
        counted = sum(int(row[key]) for key in ("frames", "skipped", "unlabelled", "missing", "unreadable"))
        assert counted == len(file.read_text().splitlines()) - 1
    assert int(rows[0]["frames"]) == pytest.approx(int(rows[0]["skipped"]), abs=8)
    assert run.info["data"]["affwild2"]["videos"] == 6 and run.info["stages"][0]["images"] < 150
    val = evaluate(run, tree, split="val")
    assert val["selected_on"] is True and val["leak_free"] is None
    assert val["n"] == sum(int(row["frames"]) + int(row["skipped"]) for row in rows[4:])
    # moved elsewhere, and annotated anew, they are the same videos
    shutil.copytree(tree, tmp_path / "moved")
    strange = next((tmp_path / "moved" / "annotations").rglob("Validation_Set/*.txt"))
    strange.write_text(strange.read_text().replace("\n0", "\n1"))
    assert evaluate(run, tmp_path / "moved", split="val")["leak_free"] is None
    with pytest.raises(RunError, match="made from another recipe or other data: data.affwild2.fingerprint"):
        fit(load_recipe(str(recipe), ["only.epochs=1"]), {"affwild2": str(tmp_path / "moved")}, tmp_path / "run")


def test_a_copy_of_a_validation_video_is_left_out_of_training(tree: Path, recipe: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    sets = copy / "annotations" / "EXPR_Set"
    judged = sorted((sets / "Validation_Set").iterdir())[0]
    shutil.copy(judged, sets / "Training_Set" / "twin.txt")
    shutil.copytree(copy / "cropped_aligned" / judged.stem, copy / "cropped_aligned" / "twin")
    told: list[str] = []
    prepared = prepare(load_recipe(str(recipe)), {"affwild2": str(copy)}, say=told.append)
    faces, roles = prepared.sets["affwild2"], prepared.roles["only"]
    names = np.array(faces.table.names)  # type: ignore[attr-defined]
    assert set(names[faces.video[roles.dropped["affwild2"]]]) == {"twin"}  # type: ignore[attr-defined]
    assert "twin" not in names[faces.video[roles.train["affwild2"]]]  # type: ignore[attr-defined]
    assert any("twin (train)" in line for line in told) and any("left out of training because" in line for line in told)


def test_a_training_set_alone_is_found_again_in_its_splits(recipe: Path, tmp_path: Path) -> None:
    write_affwild2(tmp_path / "tree", videos=20, frames=600, validation=0.0, seed=1)
    run = fit(load_recipe(str(recipe), ["only.epochs=1"]), {"affwild2": str(tmp_path / "tree")}, tmp_path / "run").run
    assert run is not None
    videos = {row["path"].rpartition("/")[2]: row["split"] for row in run.rows()}
    test = evaluate(run, tmp_path / "tree", split="test", smooth=3)
    assert set(test["per_video"]) == {name for name, split in videos.items() if split == "test"}
    assert test["leak_free"]["n"] == test["n"]
    assert set(evaluate(run, tmp_path / "tree", split="val")["per_video"]) == {n for n, s in videos.items() if s == "val"}


def test_a_file_that_breaks_under_way_is_named(tree: Path, recipe: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    for path in sorted((copy / "cropped_aligned" / "video000").iterdir()):
        path.unlink()
        path.write_bytes(b"broken")
    changes = ["only.epochs=1", "source.affwild2.check=false"]
    with pytest.raises(DataError, match="cropped_aligned/video000/000"):
        fit(load_recipe(str(recipe), changes), {"affwild2": str(copy)}, tmp_path / "run")
    outcome = fit(load_recipe(str(recipe), ["only.epochs=1"]), {"affwild2": str(copy)}, tmp_path / "checked")
    assert outcome.run is not None and all("cropped_aligned/video000/" in line for line in outcome.unreadable)
    row = outcome.run.rows()[0]
    assert (row["frames"], row["status"], len(outcome.unreadable)) == ("0", "no frames", int(row["unreadable"]))
    empty = copy / "annotations" / "EXPR_Set" / "Validation_Set"
    for file in empty.iterdir():
        file.write_text("\n".join([file.read_text().splitlines()[0], "-1", "-1"]))
    with pytest.raises(DataError, match="no split 'val'"):
        prepare(load_recipe(str(recipe)), {"affwild2": str(copy)})


def test_complement_weights_are_those_of_the_follow_up() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    np.testing.assert_allclose(class_weights(labels, 4, "complement"), [0.4, 0.7, 0.0, 0.9], rtol=1e-6)


def test_killed_it_goes_on_and_ends_in_the_same_bits(tree: Path, recipe: Path, tmp_path: Path) -> None:
    def command(run: Path) -> list[str]:
        return ["fit", str(recipe), f"--data=affwild2={tree}", f"--out={run}"]

    processes.run(processes.emotiw, *command(tmp_path / "whole")).check_returncode()
    process = processes.Forked(processes.emotiw, *command(tmp_path / "broken"))
    for line in process.stderr:
        if line.startswith("  only epoch 1/"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    again = processes.run(processes.emotiw, *command(tmp_path / "broken"))
    assert again.returncode == 0 and "going on at epoch 2" in again.stderr, again.stderr
    weights = [sha256_file(tmp_path / name / "model.weights.h5") for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert Run.open(tmp_path / "broken").rows() == Run.open(tmp_path / "whole").rows()
