"""`emotiw fit --folds`: every image tested once by a run that was not given it, persons in one fold, and it goes on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from emotiw_keras import hardware
from emotiw_keras.cli.main import run
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.splits import Folds, fold_splits, stratified_folds
from emotiw_keras.errors import DataError, RunError, UsageError
from emotiw_keras.fold_runs import FoldRuns
from emotiw_keras.reports.score_tables import folds_table
from emotiw_keras.run_facts import folds_facts
from emotiw_keras.runs import Run
from emotiw_keras.sealed import sealed_json
from emotiw_keras.training import cross_validation, start
from emotiw_keras.training.again import fit_commands, folds_command
from emotiw_keras.training.cross_validation import cross_validate, folded_set
from emotiw_keras.training.fit import Outcome
from emotiw_keras.training.prepared_data import prepare
from emotiw_keras.training.recipe import Recipe, load_recipe, parse_recipe
from tests.training.conftest import write_faces, write_votes

RECIPE = """
name = "small"
data = ["data"]
precision = "float32"
[model]
name = "face_vgg"
width = 0.1
features = 5
[source.data]
subject_pattern = "^(person[0-9]+)_"
[[stage]]
name = "head"
kind = "head"
train = ["data:train"]
val = ["data:val"]
refit = true
"""
IMAGES = 84


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "small.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in class folders, twelve persons of seven images."""
    folder = tmp_path_factory.mktemp("images")
    write_faces(folder, {".": IMAGES})
    return folder


@pytest.fixture(scope="module")
def command(recipe_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of three folds and a final run, which has run once."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    words = ["fit", str(recipe_file), "--data", f"data={images}", "--out", str(out), "--folds", "3", "--refit"]
    assert run(words) == 0
    return words


def test_every_image_is_tested_once_and_no_person_stands_in_two_folds(command: list[str]) -> None:
    folds = FoldRuns.open(command[-4])
    tested: Counter[str] = Counter()
    for each in folds.runs:
        rows = each.rows()
        persons = {split: {row["subject"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
        assert all(persons.values()) and not persons["test"] & (persons["train"] | persons["val"])
        tested.update(row["path"] for row in rows if row["split"] == "test")
    assert len(tested) == IMAGES and set(tested.values()) == {1}
    final = Run.open(command[-4])  # what predict and export take
    assert final.path.name == "final"
    assert Counter(row["split"] for row in final.rows())["test"] == 0 and len(final.rows()) == IMAGES
    assert final.info["refitted"]["images"] == IMAGES


def test_evaluate_pools_the_folds(command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = command[-4]
    capsys.readouterr()
    assert run(["evaluate", out, "--json", "--out", str(tmp_path / "report")]) == 0
    pooled = json.loads(capsys.readouterr().out)
    single = []
    for number in (1, 2, 3):
        assert run(["evaluate", f"{out}/fold-{number}", "--json"]) == 0
        single.append(json.loads(capsys.readouterr().out))
    assert (pooled["n"], pooled["persons"], pooled["selected_on"]) == (IMAGES, 12, False)
    assert [row["accuracy"] for row in pooled["folds"]] == [each["accuracy"] for each in single]
    assert np.array_equal(pooled["confusion"], np.sum([each["confusion"] for each in single], axis=0))
    assert pooled["leak_free"]["n"] == IMAGES
    low, high = pooled["accuracy_ci95"]
    assert low < pooled["accuracy"] < high
    assert folds_table(pooled).splitlines()[2].startswith("| fold-1   |     28 |       4 |")
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "intervals are by person" in page and "84 images of 12 persons" in page and f"emotiw evaluate {out}" in page
    assert page.count("emotiw fit ") == 1 and f"--folds 3 --refit --out {out}-again" in page
    assert run(["evaluate", out, "--split", "val"]) == 2
    assert "a cross-validation is scored on all its folds" in capsys.readouterr().err
    for option in ("--robust", "--calibrate"):
        assert run(["evaluate", out, option]) == 2
        assert f"{option} scores one run; of a cross-validation name one of its folds" in capsys.readouterr().err
    assert run(["compare", out, out]) == 0
    assert "84 images of 12 persons" in capsys.readouterr().out


@pytest.mark.parametrize("final", [True, False])
def test_other_data_than_what_was_cut_lead_to_what_can_be_scored(
    final: bool, command: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folds"
    shutil.copytree(command[-4], out, ignore=None if final else shutil.ignore_patterns("final"))
    write_faces(tmp_path / "new", {"train": 14, "test": 21})
    best = out / "final" if final else out / "fold-1"
    capsys.readouterr()
    for data, why, how in (
        ("new", f"new has a test split of its own, so that each fold of {out} is asked about the same 21 images; ", []),
        ("new/test", f"it names no splits and {out}/fold-1 knows none of its images; ", ["--split", "all"]),
    ):
        assert run(["evaluate", str(out), "--data", str(tmp_path / data)]) == 4
        told = " ".join(capsys.readouterr().err.split())
        ending = " with --split all (21 images)" if how else ""
        assert f"{why}give the data that was cut into folds ({images}), or score {best}{ending}" in told
        assert run(["evaluate", str(best), "--data", str(tmp_path / data), *how]) == 0


def test_the_card_of_a_cross_validation_has_the_figures_of_its_folds(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, card = command[-4], tmp_path / "card.md"
    capsys.readouterr()
    assert run(["evaluate", out, "--json"]) == 0
    pooled = json.loads(capsys.readouterr().out)
    assert run(["card", out, "--out", str(card)]) == 0
    text = card.read_text("utf-8")
    assert f"{100 * pooled['accuracy']:.1f} %" in text and "each answered by that of 3 runs which was not given it" in text
    assert f'"value": {pooled["accuracy"]}' in text and '"split": "out of fold"' in text and '"name": "mine"' in text
    assert Run.open(out).fingerprint in text and "also in a train or val split of the run that answered them." in text
    fit, evaluate = (line for line in text.splitlines() if line.startswith(("emotiw fit", "emotiw evaluate")))
    assert fit.startswith("emotiw fit mine/fold-1/recipe.toml --data data=")
    assert fit.endswith(" --folds 3 --refit --out mine-again") and evaluate.startswith("emotiw evaluate mine-again --data ")
    # the run of all data was given all of them: no figures for the Hub
    assert run(["card", f"{out}/final", "--out", str(card)]) == 4
    assert f"final holds nothing back for testing: score {out}," in capsys.readouterr().err
    assert run(["card", out, "--split", "all", "--out", str(card)]) == 0
    text = card.read_text("utf-8")
    assert "model-index" not in text and "No leak-free figures: every image is also in a train or val split" in text


def test_the_command_of_a_card_trains_the_folds_again(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(command[-4])
    runs = (*FoldRuns.open(folder).runs, Run.open(folder))
    words = folds_command(folder, runs[0]).split()
    assert words[-5:] == ["--folds", "3", "--refit", "--out", f"{folder}-again"]
    made = []

    def record(recipe: Recipe, *_: Any, **__: Any) -> Outcome:
        made.append(recipe)
        return Outcome(None, ())

    monkeypatch.setattr(cross_validation, "fit", record)
    monkeypatch.setattr(cross_validation.FoldRuns, "open", lambda _: None)
    assert run([*words[1:-1], str(tmp_path / "again")]) == 0
    assert made == [load_recipe(str(each.path / "recipe.toml")) for each in runs]
    assert [fit_commands(each).split()[-1] for each in runs] == [f"{folder.parent}/{each.name}-again" for each in runs]


def test_folds_and_ensembles_are_scored_by_votes(
    command: list[str], images: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, votes = command[-4], write_votes(images, tmp_path, most=8)
    asked = ["--votes", votes["votes"], "--votes-rows", votes["votes_rows"], "--near-duplicates", "0"]
    capsys.readouterr()
    assert run(["evaluate", out, *asked, "--json"]) == 0
    pooled = json.loads(capsys.readouterr().out)
    assert pooled["votes"]["majority"] == pooled["votes"]["agreed"]["n"] == pooled["n"] == IMAGES // 7 * 6
    assert pooled["votes"]["agreed"]["accuracy"] == pytest.approx(pooled["accuracy"])
    assert run(["evaluate", out, *asked]) == 0
    assert "where at least 8 of ten agree" in capsys.readouterr().out
    runs = [f"{out}/fold-{number}" for number in (1, 2)]
    assert run(["evaluate", *runs, *asked, "--data", str(images), "--split", "all", "--ensemble", "--json"]) == 0
    *_, ensemble = map(json.loads, capsys.readouterr().out.splitlines())
    assert ensemble["votes"]["agreed"]["n"] == IMAGES // 7 * 6


def test_again_it_goes_on_and_ends_in_the_same_bits(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each.path.name: each.fingerprint for each in FoldRuns.open(command[-4]).runs}
    assert run(command) == 0
    told = capsys.readouterr().err
    assert told.count("is finished already; nothing to do") == 4
    assert told.count(", before it was fitted again with these images\n") == 4
    other = tmp_path / "other"
    words = [str(other) if word == command[-4] else word for word in command if word != "--refit"]
    assert run(words) == 0
    assert {each.path.name: each.fingerprint for each in FoldRuns.open(other).runs} == before
    with pytest.raises(RunError, match="holds the runs of 3 folds and none of all data; name one of them, such as .*fold-1"):
        Run.open(other)
    assert run([*words, "--refit"]) == 0
    assert Run.open(other).fingerprint == Run.open(command[-4]).fingerprint


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--folds", "4"], 8, "was made otherwise (folds: 3 -> 4)"),
        (["--folds", "2"], 2, "2 is not in the range 3<=x<=1000"),
        (["--refit"], 2, "--refit trains on all folds; give --folds N"),
    ],
)
def test_mistakes_are_one_line(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
) -> None:
    (tmp_path / "folds.json").write_text(sealed_json(folds_facts("small", "data", 3, False)))
    assert run(["fit", str(recipe_file), "--data", "data=nowhere", "--out", str(tmp_path), *words]) == code
    assert line in capsys.readouterr().err.strip().splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["folds.json"]


def test_a_folder_of_something_else_is_left_alone(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    words = ["fit", str(recipe_file), "--data", "data=nowhere", "--out", str(tmp_path), "--folds", "3"]
    for more, what in (([], "folder of --folds"), (["--restart"], "run folder"), (["--restart", "--dry-run"], "run folder")):
        assert run([*words, *more]) == 8
        assert f"{tmp_path} is not a {what} (it holds diary.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
    (tmp_path / "diary.txt").rename(tmp_path / "fold-1")
    assert run([*words, "--restart"]) == 4  # data that cannot be read leave what is there where it is
    assert [path.name for path in tmp_path.iterdir()] == ["fold-1"]


def test_hidden_files_and_remains_of_a_kill_do_not_stand_in_its_way(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(command[-4], out)
    (out / "folds.json").rename(out / ".999999999.folds.json")
    (out / ".DS_Store").touch()
    assert run([str(out) if word == command[-4] else word for word in command]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        ".DS_Store", "final", "fold-1", "fold-2", "fold-3", "folds.json",
    ]  # fmt: skip


def test_folds_that_cannot_be_learned_from_leave_nothing_behind(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    data = f"data={write_faces(tmp_path / 'three', {'.': 21})}"
    assert run(["fit", str(recipe_file), "--data", data, "--out", str(out), "--folds", "3"]) == 4
    assert "all 7 training images show one person or one photograph" in capsys.readouterr().err
    assert not out.exists()


def test_folds_of_which_none_is_finished_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "run.json").touch()
    assert run(["evaluate", str(tmp_path)]) == 8
    assert f"{tmp_path} holds runs of --folds, of which none is finished; run the `emotiw fit`" in capsys.readouterr().err


def test_what_was_not_cross_validated_is_not_said_to_have_been(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_faces(tmp_path / "few" / "train", {".": 2})
    write_faces(tmp_path / "few" / "val", {".": 2}, seed=1)
    words = ["fit", str(recipe_file), "--data", f"data={tmp_path / 'few'}", "--out", str(tmp_path / "run")]
    assert run([*words, "--set", "source.data.subject_pattern=''"]) == 0
    told = capsys.readouterr().err
    assert "head: not cross-validated, as no fold leaves two classes to learn from; C = " in told
    made = Run.open(tmp_path / "run")
    assert made.info["stages"][0]["head"]["accuracy"] is None
    assert "val accuracy" in made._repr_html_() and "head was scored before it was fitted again" in made._repr_html_()


@pytest.mark.parametrize(("key", "value"), [("folds", 2), ("folds", "3"), ("format", 2), ("refit", 1), ("data", ["x"])])
def test_a_damaged_folder_is_told(tmp_path: Path, key: str, value: object) -> None:
    facts = folds_facts("small", "data", 3, False)
    (tmp_path / "folds.json").write_text(sealed_json(facts | {key: value}))
    with pytest.raises(RunError, match=f"is damaged: folds.json has {key} = "):
        Run.open(tmp_path)
    (tmp_path / "folds.json").write_text(sealed_json(facts).replace("3", "4", 1))
    with pytest.raises(RunError, match=r"is damaged: folds.json is not what its checksum says"):
        FoldRuns.open(tmp_path)


def test_all_folds_compute_in_the_precision_that_the_first_found(
    recipe_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "native_bfloat16", lambda: True)
    gains = iter([2.0, 0.5, 0.5])  # as the machine is busy with something else meanwhile
    monkeypatch.setattr(start, "bfloat16_gain", lambda: next(gains))
    found: list[str] = []

    def record(recipe: Recipe, paths: dict[str, str], out: Path, auto: str | None = None, **_: Any) -> Outcome:
        found.append(prepare(recipe, paths, auto=auto).info["precision"])
        return Outcome(cast(Run, SimpleNamespace(info={"precision": found[-1]})), ())

    monkeypatch.setattr(cross_validation, "fit", record)
    monkeypatch.setattr(FoldRuns, "open", lambda folder: None)
    cross_validate(load_recipe(str(recipe_file), precision="auto"), {"data": str(images)}, tmp_path / "new", 3)
    assert found == ["mixed_bfloat16"] * 3
    found.clear()
    cross_validate(load_recipe(str(recipe_file)), {"data": str(images)}, tmp_path / "other", 3)
    assert found == ["float32"] * 3


def test_what_folds_would_mean_nothing_for_is_refused() -> None:
    def changed(text: str) -> Recipe:
        return parse_recipe(text, "small.toml")

    with pytest.raises(UsageError, match=r"tests each run on data:test, but stage 'head' is given data:all"):
        folded_set(changed(RECIPE.replace('train = ["data:train"]', 'train = ["data:all"]')))
    with pytest.raises(UsageError, match=r"--folds beside source.data.folds = 4"):
        folded_set(changed(RECIPE.replace("[source.data]", "[source.data]\nfolds = 4")))
    with pytest.raises(UsageError, match="is for recipes of stages"):
        folded_set(load_recipe("pathnet"))
    with pytest.raises(UsageError, match="the last stage of recipe 'ng2015-joint' trains on fer, target"):
        folded_set(load_recipe("ng2015-joint"))
    with pytest.raises(UsageError, match="folds = 2: expected at least 3"):
        cross_validate(changed(RECIPE), {"data": "x"}, "nowhere", 2)
    with pytest.raises(UsageError, match="held_out of source is false with folds = 0"):
        changed(RECIPE.replace("[source.data]", "[source.data]\nheld_out = false"))


def test_without_persons_folds_are_stratified_and_equal_pictures_stay_together(images: Path) -> None:
    fold_of = {}
    for fold in range(4):
        faces = load_faces(images, folds=Folds(4, fold))
        fold_of |= {path: fold for path, split in zip(faces.paths, faces.split, strict=True) if split == "test"}
        assert "84 images, duplicates and near duplicates kept together, in 4 folds" in str(faces.report)
        assert set(np.bincount(faces.label[faces.split == "test"])) == {3}  # of each of seven classes 12
    assert len(fold_of) == IMAGES
    whole = load_faces(images, folds=Folds(4, 2, held_out=False))
    assert Counter(whole.split.tolist()) == {"train": 63, "val": 21}
    assert {fold_of[path] for path, split in zip(whole.paths, whole.split, strict=True) if split == "val"} == {2}
    label, group = np.arange(40) % 2, np.arange(40) // 4
    fold = stratified_folds(label, group, 5)
    assert all(len(set(fold[group == each])) == 1 for each in range(10)) and np.bincount(fold).tolist() == [8] * 5
    assert set(fold_splits(fold, Folds(5, 0, held_out=False)).tolist()) == {"train", "val"}
    with pytest.raises(DataError, match="11 folds of 10 different photographs"):
        stratified_folds(label, group, 11)


def test_a_fold_that_is_a_link_to_somebody_elses_run_is_refused(recipe_file: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "fold-2").symlink_to(tmp_path / "theirs")
    with pytest.raises(RunError, match="fold-2 is a link to a place outside"):
        cross_validate(load_recipe(str(recipe_file)), {"data": str(images)}, tmp_path / "mine", 3)
    assert not list((tmp_path / "theirs").iterdir())
