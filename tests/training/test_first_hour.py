"""A run on folders as people have them: what `fit` finishes, `evaluate` reads, with the same classes and the same val."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_images import stage_roles

RECIPE = """
name = "tiny"
data = ["data"]
labels = "folder"
precision = "float32"
[model]
name = "alexnet"
weights = "none"
width = 0.05
input_size = 67
[preprocessing]
mean = [128.0, 128.0, 128.0]
std = [64.0, 64.0, 64.0]
[[stage]]
name = "s"
train = ["data:train"]
val = ["data:val"]
epochs = 1
batch_size = 16
optimizer = "adam"
schedule = "constant"
"""


def folders(root: Path) -> Path:
    """train/ and test/ alone, class folders spelled in two ways, one file name that is no UTF-8 where the system takes it."""
    random = np.random.default_rng(0)
    for split, form in (("train", str.capitalize), ("test", str.upper)):
        for name in ("happy", "sad", "smirk"):
            for i in range(10):
                file = root / split / form(name) / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(file)
    with suppress(OSError):  # a file system of UTF-8 alone: the rest of the test stands
        os.rename(file, os.fsencode(file.parent) + b"/caf\xe9.png")
    return root


def test_what_fit_finishes_evaluate_reads(tmp_path: Path) -> None:
    root = folders(tmp_path / "set")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    said: list[str] = []
    recipe = load_recipe(str(tmp_path / "tiny.toml"), ["s.warmup_steps=1000"], seed=3)
    run = fit(recipe, {"data": str(root)}, tmp_path / "run", say=said.append).run
    assert run is not None and run.labels == ("happy", "sad", "smirk")
    warned = [line for line in said if line.startswith("warning: stage 's': its rate grows over 1,000 steps")]
    assert len(warned) == 1 and "of which it has 2: learning_rate is not reached" in warned[0]
    assert any("no val in the source: 10% of train are val" in line and "seed 3" in line for line in said)
    known = {row["path"]: row["split"] for row in run.rows()}
    assert sum(split == "val" for split in known.values()) == 3
    for split, count in (("train", 27), ("val", 3), ("test", 30)):
        assessed = assess(run, root, split=split)
        assert assessed.result["n"] == count
        assert all(known[path] == split for path in assessed.predictions.paths)
        assert assessed.result["leak_free"] is None if split != "test" else assessed.result["leak_free"]["n"] == 30
    assert assess(run, root, split="val").result["selected_on"] is True


def test_a_stage_without_val_trains_on_all_of_train(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    reading = [load_recipe(str(tmp_path / "tiny.toml"), changes).reading("data")["val_share"] for changes in ([], ["s.val=[]"])]
    assert reading == [0.1, 0.0]
    assert load_recipe(str(tmp_path / "tiny.toml"), ["source.data.val_share=0.25"]).reading("data")["val_share"] == 0.25
    with pytest.raises(UsageError, match="val_share of source.data is 0.25, but no stage has data:val; leave it out"):
        load_recipe(str(tmp_path / "tiny.toml"), ["source.data.val_share=0.25", "s.val=[]"])


def test_a_stage_all_of_whose_images_stand_in_test_says_so(tmp_path: Path) -> None:
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.training.stage_images import check_roles

    random = np.random.default_rng(1)
    for name in ("happy/0", "happy/1", "sad/0", "sad/1"):
        image = Image.fromarray(random.integers(0, 256, (12, 12), np.uint8))
        for split in ("train", "test"):
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / split / f"{name}.png")
    stage, sets = Stage("s", train=("data:train",), val=()), {"data": load_faces(tmp_path, val_share=0)}
    with pytest.raises(DataError, match="all 4 of data:train stand in val or test, too; take them out there, or train on them"):
        check_roles(stage, stage_roles(stage, sets, drop=True), print)
    check_roles(stage, stage_roles(stage, sets, drop=False), print)


def test_classes_that_train_or_val_lack_are_named_loudly(tmp_path: Path) -> None:
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.training.stage_images import check_roles

    random = np.random.default_rng(1)
    for name in ("train/happy", "train/sad", "val/happy", "val/fear", "test/sad", "test/fear"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(random.integers(0, 256, (12, 12), np.uint8)).save(tmp_path / name / f"{i}.png")
    said: list[str] = []
    for labels in ("folder", "basic7"):
        stage = Stage("s", train=("data:train",), val=("data:val",))
        check_roles(stage, stage_roles(stage, {"data": load_faces(tmp_path, labels=labels)}, drop=True), said.append)
        assert "warning: stage s: no training images of fear, which the data have: the network cannot learn them" in said
        assert any(line.startswith("warning: stage s: no validation images of sad, which the data have") for line in said)
        said.clear()
    stage = Stage("s", train=("data:all",), val=())
    check_roles(stage, stage_roles(stage, {"data": load_faces(tmp_path)}, drop=True), said.append)
    assert not any("warning" in line for line in said)
