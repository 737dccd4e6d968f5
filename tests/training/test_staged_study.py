"""`emotiw staged-study`: its runs and their order, its comparisons, its page; a second call trains nothing again."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotiw_keras.cli.main import run
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import DivergedError, UsageError
from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.evaluation.significance import mcnemar
from emotiw_keras.reports.study_page import concentrated, study_page, verdict
from emotiw_keras.studies import staged, staged_arms
from emotiw_keras.studies.staged import Row, study
from emotiw_keras.studies.staged_arms import (
    PARTS,
    Arm,
    Net,
    arms_of,
    check_changes,
    lengthened,
    recipe_of,
    steps_of,
    updates_of,
)
from emotiw_keras.studies.staged_table import base_of, difference, of_splits, results_csv, table, table_rows
from emotiw_keras.studies.under_way import tells_more
from emotiw_keras.training.recipe import Recipe, load_recipe

LABELS = ("happy", "sad")
NET = Net("squeezenet", "weights.npz")


def row(key: str, answers: dict[int, tuple[list[str], list[int], list[int]]], persons: dict[str, str] | None = None) -> Row:
    """A row from names of images, their classes, the answers, and maybe the persons that the images show."""
    told = {
        seed: Predictions(
            LABELS,
            names,
            ["ok"] * len(names),
            np.array(truth),
            np.eye(2, dtype=np.float32)[said],
            () if persons is None else [persons[name] for name in names],
        )  # fmt: skip
        for seed, (names, truth, said) in answers.items()
    }
    return Row(Arm(NET, key, key, {}), told, None, 1.0)


def test_each_run_comes_once_after_the_one_it_starts_from() -> None:
    steps = steps_of(arms_of(NET, (0, 1, 2), 1, PARTS))
    assert len({step.folder for step in steps}) == len(steps)
    for number, step in enumerate(steps):
        assert {step.start, step.as_long_as} <= {None, *steps[:number]}
    large = [step for step in steps if step.recipe in ("ng2015-fer28", "ng2015-fer32")]
    assert [str(step.folder) for step in large] == [
        f"squeezenet/seed0/{name}" for name in ("fer28", "fer32", "fer28-rate0.01", "fer28-50pc", "fer28-25pc")
    ]
    # scratch, direct, the same longer, five staged ways and six remedies, three seeds each; joint once
    assert len(steps) == 5 + 3 * (3 + 5 + 6) + 1
    assert [arm.key for arm in arms_of(Net("alexnet", "none"), (0,), 1, ("core",))][0] == "direct"
    two = steps_of(arms_of(NET, (0, 1, 2), 2, ("core",)))
    starts = {step.seed: step.start.seed for step in two if step.name == "fer28-target" and step.start is not None}
    assert starts == {0: 0, 1: 1, 2: 0}


def test_recipes_take_the_changes_that_are_theirs() -> None:
    changes = ["fer.epochs=3", "target.epochs=2", "model.input_size=112", "source.target.subject_pattern=^(.)", "limit=70"]
    steps = {step.name: step for step in steps_of(arms_of(NET, (2,), 1, PARTS))}
    fer = recipe_of(steps["fer28-25pc"], changes, Path("out"))
    assert (fer.stages[0].epochs, fer.stages[0].train_share, fer.model.weights, fer.limit) == (3, 0.25, "weights.npz", 70)
    assert fer.model.input_size == 112 and "target" not in fer.source and fer.seed == 0
    target = recipe_of(steps["fer28-target-balanced-weights"], changes, Path("out"), "float32")
    assert (target.stages[0].epochs, target.stages[0].class_weight) == (2, "balanced")
    assert (target.model.weights, target.seed, target.precision) == ("out/squeezenet/seed0/fer28", 2, "float32")
    assert target.source["target"].subject_pattern == "^(.)"
    assert recipe_of(steps["scratch"], changes, Path("out")).model.weights == "none"
    assert recipe_of(steps["fer28-rate0.01"], changes, Path("out")).stages[0].learning_rate == 0.01
    joint = recipe_of(steps["joint"], changes, Path("out"))
    assert joint.stages[0].train == ("fer:train", "fer:val", "target:train") and joint.stages[0].val == ("target:val",)
    check_changes(changes)
    for change in ("far.epochs=3", "source.other.folds=3", "epochs"):
        with pytest.raises(UsageError, match="expected TABLE.KEY=VALUE with TABLE one of fer, joint, model"):
            check_changes([change])
    for change in ("seed=4", "model.name=alexnet"):
        with pytest.raises(UsageError, match="a study sets .* of each run itself; leave it out"):
            check_changes([change])


def test_the_answers_to_an_image_of_two_splits_stand_for_one() -> None:
    names, truth = ["a", "b", "c", "d"], [0, 0, 1, 1]
    base = row("direct", {0: (names, truth, [1, 1, 1, 0]), 1: (["a", "e"], [0, 1], [1, 1]), 2: (["f"], [0], [1])})
    # Right where the base is wrong: b and d of the first split, and a of the second one only.
    moved = row("fer28-target", {0: (names, truth, [1, 0, 0, 1]), 1: (["a", "e"], [0, 1], [0, 1])})
    found = difference(moved, base)
    assert (found.only_one, found.only_other, found.n) == (3, 1, 6)
    assert found.p == pytest.approx(mcnemar(3, 1))
    assert found.points == pytest.approx(((2 / 4 - 1 / 4) + (2 / 2 - 1 / 2)) / 2)
    assert "| 75.0% (50.0% - 100.0%) |" in table([base, moved])[3]
    assert " | 3 : 1, 0.62, 0.62 |" in table([base, moved])[3]
    assert table([base, moved])[-1].startswith("Intervals and tests by image, as nobody knows who is shown")
    assert (found.persons, moved.pooled()["persons"]) == (None, None)
    assert table([base, moved])[-2] == "Tested on 6 different images; distinct test splits: 3, of 3 seeds."
    alike = row("direct", {seed: (names[::step], truth[::step], [1] * 4) for seed, step in ((0, 1), (1, -1))})
    assert of_splits([alike]) == "Tested on 4 different images; distinct test splits: 1, of 2 seeds."
    told = list(table_rows([base, moved]))
    assert told[0]["against"] == "" and told[1]["against"] == "direct" and told[1]["points"] == pytest.approx(37.5)
    assert told[1]["accuracy"] == pytest.approx(0.75) and (told[1]["least"], told[1]["most"]) == (0.5, 1.0)
    assert [base_of(key) for key in ("joint", "fer28-target", "fer28-target-focal-loss", "ensemble", "direct-long")] == [
        "direct", "direct", "fer28-target", "fer28-target", "fer28-target",
    ]  # fmt: skip


def test_points_test_and_verdict_are_of_the_same_answers() -> None:
    """All seeds answer the same images, where a target has its own test split."""
    names, truth = [f"{i}" for i in range(70)], [0, 1] * 35
    wrong = [1 - each for each in truth]
    some = wrong[:14] + truth[14:]
    base = row("direct", {0: (names, truth, some), 1: (names, truth, truth), 2: (names, truth, truth)})
    other = row("fer28-target", {0: (names, truth, truth), 1: (names, truth, some), 2: (names, truth, some)})
    found = difference(other, base)
    assert found.points == pytest.approx(-14 / 210) and (found.only_one, found.only_other, found.n) == (14, 28, 210)
    assert found.low <= found.points <= found.high < 0.0
    # An image's three answers change places together, 14 images with one more wrong.
    assert found.p == pytest.approx(2 / 2**14) and verdict(found, found.p) == "does not agree"


def test_a_study_that_is_called_again_takes_no_arms_away(tmp_path: Path) -> None:
    rows = [row(key, {0: (["a", "b"], [0, 1], [0, 1])}) for key in ("direct", "fer28", "fer28-target")]
    file = tmp_path / "results.csv"
    assert not tells_more(file, len(rows[:1]), 3)
    file.write_text(results_csv(rows))
    assert tells_more(file, len(rows[:1]), 3) and tells_more(file, len(rows[:2]), 5)
    assert not tells_more(file, len(rows), 5) and not tells_more(
        file, len(rows[:2]), 2
    )  # as many, or all that are asked for now


def test_a_difference_of_one_person_is_none() -> None:
    """Two arms that differ in all images of one person: by image that is much, by person it is one of two halves."""
    names, truth = [f"{i}" for i in range(40)], [0, 1] * 20
    persons = {name: "anna" if int(name) < 20 else name for name in names}
    wrong = [1 - each for each in truth]
    answers = {0: (names, truth, wrong[:20] + truth[20:]), 1: (names, truth, wrong[:20] + truth[20:])}
    base, better = row("direct", answers, persons), row("fer28-target", {0: (names, truth, truth)}, persons)
    found = difference(better, base)
    assert (found.p, found.persons, found.n) == (1, 21, 40) and found.low == 0 < found.high
    assert difference(row("fer28-target", {0: (names, truth, truth)}), row("direct", answers)).p < 1e-5
    assert base.pooled()["persons"] == 21 and base.pooled()["accuracy_ci95"][1] > 0.85
    told = "Intervals and tests by person, 21 in the test splits (bootstrap; permutation, exact); Holm's method over 1"
    assert table([base, better])[-1].startswith(told)


def test_an_image_of_an_unknown_person_is_one_image_in_every_split() -> None:
    names, truth = [f"{i}" for i in range(40)], [0, 1] * 20
    said = [each if i % 3 else 1 - each for i, each in enumerate(truth)]
    answers = dict.fromkeys((0, 1, 2), (names, truth, said))
    nobody = row("direct", answers).pooled()
    one = row("direct", answers, {name: "anna" if name == "0" else "" for name in names}).pooled()
    assert one["accuracy_ci95"] == nobody["accuracy_ci95"] and np.ptp(one["accuracy_ci95"]) > 0.25
    assert (one["persons"], one["person_unknown"], nobody["persons"]) == (1, 3 * 39, None)
    assert [each["persons"] for each in one["per_class"].values()] == [1, 0]
    # a seed whose test images name nobody, beside one whose do
    split = {0: (names[:20], truth[:20], said[:20]), 1: (names[20:], truth[20:], said[20:])}
    mixed = row("direct", split, {name: "anna" if int(name) < 5 else "" for name in names})
    mixed.answers[1] = replace(mixed.answers[1], subject=())
    assert (mixed.pooled()["persons"], mixed.pooled()["person_unknown"]) == (1, 35)


def test_tests_are_adjusted_over_the_whole_table(faces: dict[str, str]) -> None:
    names, truth = [f"{i}" for i in range(12)], [0, 1] * 6
    wrong = [1 - each for each in truth]
    rows = [row(key, {0: (names, truth, wrong[:n] + truth[n:])}) for key, n in (("direct", 9), ("fer28", 0), ("fer32", 3))]
    told = [(each["p"], each["p_holm"]) for each in table_rows(rows)]
    assert told[0] == ("", "")
    assert told[1:] == [pytest.approx((2 / 2**9, 2 * 2 / 2**9)), pytest.approx((2 / 2**6, 2 / 2**6))]
    page = study_page([*rows, row("fer28-target", {0: (names, truth, truth)})], {"fer": load_faces(faces["fer"])}, {}, "x")
    assert "Holm&#x27;s method over these" in page and "Holm&#x27;s p" in page


def test_direct_fine_tuning_gets_the_updates_of_two_stages() -> None:
    class Told:
        path = Path("run")

        def __init__(self, recipe: str, images: int, epochs: int) -> None:
            self.info = {"stages": [{"name": "s", "images": images, "epochs": epochs}]}
            self.recipe = load_recipe(recipe).to_toml().encode()

        def content(self, name: str) -> bytes:
            return self.recipe

    arms = {arm.key: arm.runs[0][0] for arm in arms_of(NET, (0,), 1, ("core", "budget"))}
    staged, long = arms["fer28-target"], arms["direct-long"]
    assert long.as_long_as == staged and long.start is None and staged.start is not None
    runs = {staged.start: Told("ng2015-fer28", 3000, 10), staged: Told("ng2015-direct", 140, 30)}
    batch = {name: load_recipe(name).stages[0].batch_size for name in ("ng2015-fer28", "ng2015-direct")}
    before, an_epoch = 10 * -(-3000 // batch["ng2015-fer28"]), -(-140 // batch["ng2015-direct"])
    assert updates_of(staged, runs) == before + 30 * an_epoch  # type: ignore[arg-type]
    stage = recipe_of(lengthened(long, runs), [], Path("out")).stages[0]  # type: ignore[arg-type]
    assert (stage.epochs - 1) * an_epoch < before + 30 * an_epoch <= stage.epochs * an_epoch
    assert stage.step_epochs / stage.epochs == pytest.approx(1 / 3, abs=0.01)


def test_a_class_that_rests_on_few_persons_is_named(faces: dict[str, str]) -> None:
    told = concentrated(load_faces(faces["fer"], name="fer", subject_pattern="^(person[0-9]+)_"))
    assert told[0] == (
        "angry of fer rests on 6 persons, 6 of its 10 images show 2 of them: its recall tells of these persons, not of the "
        "expression."
    )
    assert concentrated(load_faces(faces["fer"])) == []


def test_the_page_says_agrees_only_where_the_test_does(faces: dict[str, str]) -> None:
    names, truth = [f"{i}" for i in range(40)], [0, 1] * 20
    right, wrong = truth, [1 - each for each in truth]
    direct = row("direct", {0: (names, truth, wrong[:20] + right[20:])})
    better = row("fer28-target", {0: (names, truth, right)})
    alike = row("fer28-target", {0: (names, truth, wrong[:19] + right[19:])})
    found, back, none = difference(better, direct), difference(direct, better), difference(alike, direct)
    assert verdict(found, found.p) == "agrees" and verdict(back, back.p) == "does not agree"
    assert verdict(none, none.p) == "undecided" == verdict(found, 0.05)
    sets = {name: load_faces(path, name=name) for name, path in faces.items()}
    text = study_page([direct, better], sets, {"ng2015-direct": "name = '<b>'"}, "emotiw staged-study <x>", unfinished=3)
    assert "agrees" in text and "37.8 % (val, inferred)" in text and "3 arms have not been run yet" in text
    assert "&lt;x&gt;" in text and "<b>" not in text and "<script" not in text


@pytest.mark.slow
def test_a_study_of_every_part_runs_once_and_goes_on(
    faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    changes = ["model.width=0.05", "model.input_size=67", "stage.epochs=1", "stage.batch_size=16", "stage.learning_rate=0.01"]
    changes += [f"preprocessing.{key}=[{value}, {value}, {value}]" for key, value in (("mean", 128.0), ("std", 64.0))]
    command = ["staged-study", "--net", "alexnet=none", "--out", str(study), "--seeds", "1", "--precision", "float32"]
    command += ["--parts", "core,budget,answers", "--data", f"fer={faces['fer']}", "--data", f"target={faces['target']}"]
    command += [word for change in changes for word in ("--set", change)]
    assert run(command) == 0
    told = capsys.readouterr()
    with open(study / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = ["direct", "fer28", "fer32", "joint", "fer28-target", "fer32-target"]
    assert [each["arm"] for each in rows] == [*keys, "direct-long", "fer28-target-mirror", "fer28-target-ten-crop", "ensemble"]
    assert all(each["description"] in told.out and 0 <= float(each["accuracy"]) <= 1 for each in rows)
    assert (study / "results.md").read_text("utf-8") in told.out
    updates = {each["arm"]: int(each["updates"]) for each in rows}
    assert updates["direct"] < updates["fer28-target"] <= updates["direct-long"] < updates["fer28-target"] + updates["direct"]
    assert len({each["test_images"] for each in rows}) == 1 and float(rows[1]["large_accuracy"]) <= 1
    page = (study / "study.html").read_text("utf-8")
    assert "FER28 -&gt; target" in page and "data:image/jpeg" in page and "have not been run yet" not in page
    before = (study / "results.csv").read_bytes()
    stamps = {file: file.stat().st_mtime_ns for file in study.rglob("*weights.h5")}
    assert stamps and run(command) == 0
    assert (study / "results.csv").read_bytes() == before
    assert stamps == {file: file.stat().st_mtime_ns for file in study.rglob("*weights.h5")}


def test_a_training_that_diverges_leaves_its_ways_out_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    asked: list[str | None] = []

    def fit(recipe: Any, data: Any, out: Path, auto: str | None, **options: Any) -> SimpleNamespace:
        trained.append(str(out.relative_to(tmp_path)))
        asked.append(auto)
        if out.name == "fer28":
            raise DivergedError("stage fer diverged: the loss is nan")
        return SimpleNamespace(run=SimpleNamespace(path=out), precision=auto or "mixed_bfloat16")

    monkeypatch.setattr(staged, "fit", fit)
    monkeypatch.setattr(staged, "_row", lambda arm, runs, paths, say: row(arm.key, {0: (["a"], [0], [0])}))
    written: list[list[str]] = []
    with pytest.raises(DivergedError) as told:
        study(
            [Net("alexnet", "none")], {"fer": "a", "target": "b"}, tmp_path, seeds=(0, 1), parts=("core", "answers"),
            finished=lambda rows: written.append([each.arm.key for each in rows]),
        )  # fmt: skip
    assert written[-1] == ["direct", "fer32", "joint", "fer32-target"]
    left_out = ("fer28", "fer28-target", "fer28-target-mirror", "fer28-target-ten-crop", "ensemble")
    named = ", ".join(f"alexnet {key}" for key in left_out)
    assert f"5 of 9 ways are left out, as trainings for them diverged: {named}; the others are finished" in str(told.value)
    assert "the loss is nan" in str(told.value)
    assert [each for each in trained if each.endswith("fer28")] == ["alexnet/seed0/fer28"]
    assert not any(each.endswith("fer28-target") for each in trained)
    assert asked == [None] + ["mixed_bfloat16"] * (len(trained) - 1)  # what the first run found is that of all


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "fer=a", "--net", "alexnet=none"], "--data names fer; expected fer=PATH and target=PATH"),
        (["--data", "fer=a", "--data", "target=b", "--net", "alexnet"], "--net 'alexnet': expected MODEL=WEIGHTS"),
        (["--data", "fer=a", "--data", "target=b", "--net", "alexnot=none"], "--net alexnot: no such network; allowed are"),
        (["--data", "fer=a", "--data", "target=b", "--net", "alexnet=none", "--parts", "core,all"], "there is no 'all'"),
        (
            ["--data", "fer=a", "--data", "target=b", "--net", "alexnet=none", "--parts", "rate"],
            "the other parts are compared with core",
        ),
        (
            ["--data", "fer=a", "--data", "target=b", "--net", "alexnet=none", "--set", "seed=1"],
            "--set 'seed=1': a study sets seed of each run itself; leave it out",
        ),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["staged-study", "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert line in told and len(told.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("net", "words"),
    [("squeezenet=imagenet", "give --net squeezenet=none"), ("squeezenet=gone.npz", "--net squeezenet=gone.npz: no such file")],
)
def test_weights_that_are_not_there_are_told_before_anything_is_trained(
    net: str, words: str, faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    data = ["--data", f"fer={faces['fer']}", "--data", f"target={faces['target']}"]
    assert run(["staged-study", *data, "--net", net, "--out", str(tmp_path / "study"), "--parts", "core", "--seeds", "1"]) == 5
    assert words in capsys.readouterr().err and not (tmp_path / "study" / "squeezenet").exists()


def test_threads_are_set_before_the_sets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else "auto" looks for the faster precision with all of them, and the first fit cannot have fewer."""
    from emotiw_keras.training import prepared_data, start

    order: list[object] = []

    def prepare(recipe: Recipe, paths: dict[str, str], *, threads: int | None) -> Any:
        order.append((recipe.precision, threads))
        return SimpleNamespace(sets={})

    monkeypatch.setattr(start, "start_tensorflow", order.append)
    monkeypatch.setattr(prepared_data, "prepare", prepare)
    staged_arms.read_sets({}, Net("alexnet", "none"), [], tmp_path, "float32", 1)
    assert order == [1, ("float32", 1)]


def test_threads_are_set_before_a_finished_run_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []

    def fit(*given: object, **options: Any) -> None:
        order.append("fit")
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(staged, "start_tensorflow", order.append)
    monkeypatch.setattr(staged, "fit", fit)
    with pytest.raises(DivergedError):
        study([Net("alexnet", "none")], {"fer": "a", "target": "b"}, tmp_path, parts=("core",), threads=1)
    assert order[:2] == [1, "fit"]
