"""`emotiw pathnet-study`: its runs, their order, its table; a second call runs nothing again."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.cli.main import run
from emotiw_keras.costs import costs_of
from emotiw_keras.data.columns import pick
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.prepare import prepare
from emotiw_keras.data.splits import Folds
from emotiw_keras.errors import RunError, UsageError
from emotiw_keras.evaluation.assessment import Predictions, Question
from emotiw_keras.evaluation.evaluate import evaluate
from emotiw_keras.runs import Run
from emotiw_keras.studies import pathnet_transfer
from emotiw_keras.studies.pathnet_transfer import Step, interval, photograph_numbers, score, step_recipe, steps_of, table
from emotiw_keras.studies.under_way import run_of_study
from emotiw_keras.training.recipe import load_recipe
from tests.data.acted_videos import Wandering, write_enterface, write_savee
from tests.training.test_pathnet import SMALL


def test_every_way_in_both_directions_after_what_it_starts_from() -> None:
    steps = steps_of(load_recipe("pathnet-transfer"), (0, 1), False)
    assert len(steps) == 2 * (2 + 4)
    done: set[str] = set()
    for step in steps:
        if step.source:
            assert Step(step.seed, step.fold, "", step.source, "scratch").folder in done
        done.add(step.folder)
    assert len(done) == 12
    with pytest.raises(UsageError, match="a study needs"):
        steps_of(load_recipe("pathnet"), (0,), False)


def test_folds_of_the_target_are_held_out_in_turn_and_the_source_has_its_own() -> None:
    recipe = load_recipe("pathnet-transfer", ["source.a.folds=4", "source.b.folds=5"])
    steps = steps_of(recipe, (0,), True)
    assert len(steps) == 4 + 5 + 2 * 5 + 2 * 4
    last = next(step for step in steps if (step.target, step.fold, step.method) == ("b", 4, "transfer"))
    chosen = step_recipe(recipe, last, Path("out"))
    assert chosen.source["b"].fold == 4 and chosen.model.weights == "out/seed0-fold0/a"
    assert chosen.stages[0].start == "transfer" and chosen.data == ("b",) and "a" not in chosen.source
    halves = load_recipe(
        "pathnet-transfer",
        ["source.a.folds=5", "source.b.folds=5", "source.a.train_folds=[2,3]", "source.b.train_folds=[4]"],
    )
    for step in steps_of(halves, (0,), True):
        source = step_recipe(halves, step, Path("out")).source[step.target]
        training = Folds(source.folds, source.fold, source.train_folds).training
        assert training == tuple((step.fold + n) % 5 for n in ((2, 3) if step.target == "a" else (4,)))
    with pytest.raises(UsageError, match=r"train_folds of source are \[1\], counted from fold; expected numbers from 2"):
        load_recipe("pathnet-transfer", ["source.a.folds=5", "source.a.train_folds=[1]"])
    with pytest.raises(UsageError, match="fold of source is 5 of 5 folds"):
        load_recipe("pathnet-transfer", ["source.a.folds=5", "source.a.fold=5"])
    with pytest.raises(UsageError, match="both sets need folds; set source.a.folds and source.b.folds"):
        steps_of(load_recipe("pathnet-transfer", ["source.a.folds=4"]), (0,), True)


def test_mean_and_interval_by_hand() -> None:
    mean, low, high = interval([0.5, 0.6, 0.7])
    half = 4.302652729749464 * 0.1 / math.sqrt(3)  # Student's t of 2 degrees of freedom at 97.5 %, from a table
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    assert np.isnan(interval([0.5])[1]) and np.isnan(interval([0.1 + 0.2, 0.3])[1])


def test_differences_are_those_of_the_same_seed() -> None:
    base = {"fold": "", "target": "b", "generations": 10, "reused": 4, "split": "test", "n": 40, "unseen_n": 40, "persons": 3}
    rows = [
        {**base, "seed": seed, "source": source, "method": method, "accuracy": accuracy}
        for seed, (scratch, moved) in enumerate([(0.50, 0.52), (0.60, 0.64), (0.40, 0.46)])
        for source, method, accuracy in (("", "scratch", scratch), ("a", "transfer", moved))
    ]
    lines = table(rows)
    assert lines[2].startswith("| b | - | scratch | 3 | 50.0 %")
    # 2, 4 and 6 points: 4 +- 4.303 * 2 / sqrt(3)
    assert "| b | a | transfer | 3 | 54.0 %" in lines[3] and "+4.0 % (-1.0 to +9.0)" in lines[3]
    wide = [{**row, "accuracy": accuracy} for row, accuracy in zip(rows[::2], (0.1, 0.3), strict=False)]
    assert "| b | - | scratch | 2 | 20.0 % (0.0 to 100.0) |" in table(wide)[2]
    assert lines[4:] == ["", "Scored on the split test: b 40 images a run (3 persons)."]
    leaky = table([{**row, "persons": "", "unseen_n": 12 if row["source"] else 40} for row in rows])
    assert leaky[5] == "Scored on the split test: b 40 images a run (persons unknown)."
    some = table([{**row, "persons": persons} for row, persons in zip(rows, ("", 1, 1, 12, 1, 1), strict=True)])
    assert some[5] == "Scored on the split test: b 40 images a run (1 to 12 persons or persons unknown)."
    assert table([{**row, "persons": 1} for row in rows])[5].endswith("(1 person).")
    assert leaky[6].startswith(
        "CAUTION: in 3 of 6 runs some of these images stand, the same or nearly, in a train or val split of the sets it learnt"
    )
    assert "(a -> b); unseen_n and unseen_accuracy in results.csv leave them out" in leaky[6]
    strange = [{**row, "target": "b|`x`\n\x1b[31m", "source": row["source"] and "a|a"} for row in rows]
    assert table(strange)[2].startswith(r"| b\|\`x\` \\x1b\[31m | - | scratch")
    assert table(strange)[3].startswith(r"| b\|\`x\` \\x1b\[31m | a\|a | transfer")


@pytest.mark.slow
def test_a_study_runs_once_and_goes_on(
    faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = faces.values()
    changes = [word for change in SMALL for word in ("--set", change)]
    command = ["pathnet-study", "--data", f"a={a}", "--data", f"b={b}", "--out", str(tmp_path / "study"), "--seeds", "1"]
    command += [*changes, "--precision", "float32"]
    assert run(command) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[0].startswith("| to | from | method")
    assert first == (tmp_path / "study" / "results.md").read_text()
    with open(tmp_path / "study" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["target"], row["method"]) for row in rows] == [
        ("", "a", "scratch"),
        ("", "b", "scratch"),
        ("a", "b", "transfer"),
        ("a", "b", "finetune"),
        ("b", "a", "transfer"),
        ("b", "a", "finetune"),
    ]
    assert {row["minibatches"] for row in rows} == {"36"} and {row["split"] for row in rows} == {"test"}
    for row in rows:
        found = evaluate(Run.open(tmp_path / "study" / row["run"]), {"a": a, "b": b}[row["target"]], split="val")
        assert found["selected_on"] is False, "a search is measured on val, nothing is chosen by it"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("model.weights.h5")}
    written: list[tuple[str, str]] = []
    monkeypatch.setattr(pathnet_transfer, "write_atomic", lambda path, text: written.append((path.name, text)))
    assert len(files) == 6 and run(command) == 0
    again = capsys.readouterr()
    assert again.err.count("is finished already") == 6 and "--restart" not in again.err
    # What is there tells of all runs, and stays while the first are gone through again.
    assert [name for name, _ in written] == ["results.csv", "results.md"] and written[1][1] == first
    assert again.out == first
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.slow
def test_from_the_videos_of_one_set_to_those_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = {"a": write_savee(tmp_path / "savee"), "b": write_enterface(tmp_path / "enterface", subjects=3)}
    for name, source in videos.items():
        prepare(source, tmp_path / name, detector=Wandering(), frames=2, workers=1)
    changes = [*SMALL, "labels=enterface6", 'source.a.leave_out=["neutral"]', "source.a.folds=4", "source.b.folds=3"]
    changes += ["source.a.fold=1", "search.generations=2", "near_duplicates=0"]  # drawn frames are much alike
    words = [word for change in changes for word in ("--set", change)]
    data = ["--data", f"a={tmp_path / 'a'}", "--data", f"b={tmp_path / 'b'}"]
    assert run(["fit", "pathnet-transfer", *data, "--out", str(tmp_path / "run"), *words, "--precision", "float32"]) == 0
    said = capsys.readouterr().err
    assert "classes left out: neutral (8 images)" in said and "4 persons in 4 folds" in said
    with open(tmp_path / "run" / "data.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    persons = {(row["data"], row["split"]): set() for row in rows}
    for row in rows:
        persons[row["data"], row["split"]].add(row["subject"])
    assert persons["a", "test"] == {"JE"} and persons["a", "val"] == {"JK"} and persons["a", "train"] == {"DC", "KL"}
    assert persons["b", "test"] == {"s01"} and persons["b", "train"] == {"s03"}
    for name, count in (("a", 12), ("b", 12)):
        assert run(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["n"] == count


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "a=x"], "--data names a; a study of 'pathnet-transfer' needs a and b"),
        (["--data", "a=x", "--data", "a=y"], "expected NAME=PATH for a and b, each name once"),
        (["--data", "c=x"], "--data names c; a study"),
        (["--data", "a=x", "--data", "b=y", "--set", "seed=3"], "a study sets seed of each run itself; leave it out"),
        (["--data", "a=x", "--data", "b=y", "--set", "a.start=new"], "a study sets a.start of each run itself; leave it out"),
        (["--data", "a=x", "--data", "b=y", "--set", "model.weights='x'"], "a study sets model.weights of each run itself"),
        (["--data", "a=x", "--data", "b=y", "--folds"], "both sets need folds"),
        (
            ["--data", "a=x", "--data", "b=x", "--set", "source.a.folds=5", "--set", "source.b.folds=3"],
            "a and b are one set, x, with source.a.folds = 5 and source.b.folds = 3; expected as many folds of both",
        ),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pathnet-study", *arguments, "--out", str(tmp_path / "study")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_fault_of_the_second_set_is_told_before_the_first_is_searched(
    faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int | None] = []
    monkeypatch.setattr(pathnet_transfer, "start_tensorflow", given.append)
    data = ["--data", f"a={faces['fer']}", "--data", f"b={tmp_path / 'gone'}"]
    assert run(["pathnet-study", *data, "--out", str(tmp_path / "study"), "--threads", "1"]) == 4
    assert "gone: No such file" in capsys.readouterr().err and not (tmp_path / "study").exists()
    assert given == [1], "TensorFlow has its number of threads before anything computes"


def test_photographs_that_two_sets_share_are_not_unseen_however_they_are_stored(
    faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"a": faces["target"], "b": str(tmp_path / "again")}
    for file in Path(paths["a"]).rglob("*.png"):
        again = tmp_path / "again" / file.relative_to(paths["a"]).with_suffix(".jpg")
        again.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(again, quality=90)
    recipe, step = load_recipe("pathnet-transfer", [*SMALL, "model.input_size=32"]), Step(0, None, "a", "b", "transfer")
    first = {name: step_recipe(recipe, Step(0, None, "", name, "scratch"), tmp_path) for name in paths}
    numbers = photograph_numbers(first, paths, lambda line: None)
    one, other = (load_faces(path) for path in paths.values())
    assert not {*one.pixel_hash} & {*other.pixel_hash}
    rows = other.indices("test")
    said = np.eye(len(other.labels), dtype=np.float32)[other.label[rows]]
    answers = Predictions(other.labels, pick(other.paths, rows), ["ok"] * len(rows), other.label[rows], said)
    question = Question("b", "test", None, 1, costs_of(other.labels, None), None)
    asked = SimpleNamespace(faces=other, indices=rows, predictions=answers, seen=np.zeros(len(rows), bool), question=question)
    monkeypatch.setattr(pathnet_transfer, "assess", lambda run, path, split: asked)
    keys = ("generations", "reached_target", "minibatches", "fitness", "val_accuracy", "reused", "path")
    stage = dict.fromkeys(keys, ())
    for place, given, unseen in (("some", rows[:5], len(rows) - 5), ("all", rows, 0)):
        (tmp_path / place).mkdir()
        known = {"train": {one.pixel_hash[i] for i in given}, "val": set(), "test": set()}
        searched = SimpleNamespace(
            path=tmp_path / place, seen=lambda known=known: known, info={"stages": [stage]}, training_seconds=1.0
        )
        row = score(step, searched, paths["b"], "test", numbers)
        assert (row["n"], row["unseen_n"], row["unseen_accuracy"]) == (len(rows), unseen, 1.0 if unseen else "")


def test_a_study_says_what_stands_for_restart(tmp_path: Path) -> None:
    said = f"--restart; a study has no --restart: move {tmp_path}/a away, and the same command makes that run anew"
    with pytest.raises(RunError, match=said), run_of_study(tmp_path / "a"):
        raise RunError("made otherwise; give another --out, or --restart")
    with pytest.raises(RunError, match="^restarts/a is damaged$"), run_of_study(tmp_path):
        raise RunError("restarts/a is damaged")
