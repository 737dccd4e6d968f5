"""Distillation: what is learned from a teacher, what a run says of it, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras.errors import DataError, ModelError, RunError
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.runs import Run
from emotiw_keras.training.caching import plan
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.fit import fit
from emotiw_keras.training.freezing import apply_rules
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.teachers import Teachers
from tests.conftest import write_run

from .conftest import RECIPE as TINY
from .conftest import write_faces

LABELS = LABEL_SETS["basic7"].labels
# The first stage of the tiny recipe alone.
RECIPE = TINY.partition('[[stage]]\nname = "two"')[0].replace(', "target"', "")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("taught") / "taught.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Run:
    """A run on other faces than those of the runs it teaches."""
    folder = tmp_path_factory.mktemp("teacher")
    data = write_faces(folder / "fer", {"train": 21, "val": 7}, seed=9)
    run = fit(load_recipe(str(recipe)), {"fer": str(data)}, folder / "run").run
    assert run is not None
    return run


def test_a_run_learns_from_its_teacher_and_says_so(recipe: Path, faces: dict[str, str], teacher: Run, tmp_path: Path) -> None:
    def taught(out: str, *changes: str) -> Run:
        run = fit(load_recipe(str(recipe), [*changes, "one.train_share=0.5"]), {"fer": faces["fer"]}, tmp_path / out).run
        assert run is not None
        return run

    wanted = f"one.teachers=['{teacher.path}']"
    alone, both = taught("alone"), taught("both", wanted, "one.teacher_weight=0.9")
    assert "teachers" not in alone.info and both.info["teachers"] == {str(teacher.path): teacher.fingerprint}
    assert both.fingerprint != alone.fingerprint
    # what the teacher had seen is held against the run that it taught: its images are not fit for a leak-free score
    own, seen = alone.seen(), both.seen()
    assert teacher.seen()["train"] and not teacher.seen()["train"] & own["train"]
    assert seen["train"] == own["train"] | teacher.seen()["train"] and seen["val"] >= teacher.seen()["val"]
    rows = [row for row in both.each_row() if row["stage"] == "teachers"]
    assert len(rows) == len({(row["pixel_hash"], row["status"]) for row in rows}) > 0
    itself = fit(load_recipe(str(recipe), [f"one.teachers=['{alone.path}']"]), {"fer": faces["fer"]}, tmp_path / "itself").run
    assert itself is not None and not [
        row for row in itself.each_row() if row["stage"] == "teachers" and row["status"] == "val"
    ]


def test_another_teacher_is_another_run(recipe: Path, faces: dict[str, str], teacher: Run, tmp_path: Path) -> None:
    copied = tmp_path / "teacher"
    shutil.copytree(teacher.path, copied)
    asked = load_recipe(str(recipe), [f"one.teachers=['{copied}']", "one.epochs=1"])
    out = tmp_path / "out"
    assert fit(asked, {"fer": faces["fer"]}, out).run is not None
    info = json.loads((copied / "run.json").read_text())
    info["weights"]["sha256"] = "0" * 64
    del info["checksum"]
    (copied / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match=r"made from another recipe or other data: teachers\..*teacher: "):
        fit(asked, {"fer": faces["fer"]}, out)


def test_a_teacher_must_fit(recipe: Path, faces: dict[str, str], teacher: Run, colour_run_folder: Path, tmp_path: Path) -> None:
    def ask(name: object, *changes: str) -> None:
        fit(load_recipe(str(recipe), [f"one.teachers=['{name}']", *changes]), {"fer": faces["fer"]}, tmp_path / "out")

    with pytest.raises(ModelError, match="there is no run folder nowhere"):
        ask("nowhere")
    with pytest.raises(DataError, match="knows the classes calm, glad, tense, the data have angry, "):
        ask(colour_run_folder)
    with pytest.raises(DataError, match=r"prepares pixels with crop = 67, this training with 75; expected the same"):
        ask(teacher.path, "model.input_size=75")
    assert not (tmp_path / "out").exists()


def test_mean_of_softened_answers_by_class_name(tmp_path: Path) -> None:
    turned = tuple(label.upper() for label in reversed(LABELS))  # one class however it is written
    first, second = Run.open(write_run(tmp_path / "a")), Run.open(write_run(tmp_path / "b", labels=turned))
    runs, places = [first, second, first], [slice(None), slice(None, None, -1), slice(None)]
    faces = runs[0].face_input()(np.random.default_rng(1).integers(0, 256, (5, 48, 48, 1), np.uint8))
    like = runs[0].build()
    found = Teachers(runs, LABELS, like, "float32")(faces, 3.0).numpy()
    wanted: Any = 0
    for run, order in zip(runs, places, strict=True):
        log = np.log(keras.ops.convert_to_numpy(run.build()(faces)).astype(np.float64)) / 3.0
        soft = np.exp(log) / np.exp(log).sum(axis=1, keepdims=True)
        wanted = wanted + soft[:, order] / 3
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted - wanted[:, ::-1]).max() > 1e-2  # the order shows


def test_features_are_not_kept_where_teachers_look_at_images(tmp_path: Path) -> None:
    from emotiw_keras.models import registry

    stage = Stage("s", train=("a:train",), rules=(("conv*", 0.0), ("*", 1.0)), random_crop=False, teachers=("x",))
    model = registry.build("alexnet", weights=None, classes=7, input_shape=(67, 67, 3), width=0.05)
    apply_rules(model, stage.rules, "stage")
    assert plan(model, stage, StageCrops(stage, 10, 0, (0, 0)), 0, tmp_path).against == "the stage's teachers need the images"
    with pytest.raises(SettingError, match="cache_features of stage 's' is true, but its teachers need the images"):
        Stage("s", train=("a:train",), random_crop=False, teachers=("x",), cache_features=True)
