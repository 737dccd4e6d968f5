"""Videos: smoothing by frame number, scores of each video, challenge files; against what is computed by hand."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from emotiw_keras.cli.main import run as emotiw_run
from emotiw_keras.data.annotated_videos import VideoSet
from emotiw_keras.data.generated_videos import write_affwild2
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.evaluate import assess, evaluate
from emotiw_keras.evaluation.video_scores import FrameAnswers, per_video
from emotiw_keras.reports.evaluation_report import write_report
from emotiw_keras.reports.video_tables import write_challenge
from emotiw_keras.runs import Run
from tests.conftest import write_run
from tests.data.affwild2_tree import SEVEN, Video, write_tree

LABELS = ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tree"
    write_affwild2(folder, videos=8, frames=320, unlabelled=0.15, missing=0.15, seed=3)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the seven classes in Aff-Wild2's order, which has seen nothing."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "seven", labels=LABELS)
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "stages": [{"name": "only"}]}))
    (folder / "data.csv").write_text("stage,data,path,pixel_hash,label,subject,split,status\n")
    return Run.open(folder)


def read(path: Path) -> VideoSet:
    faces = load_faces(path, labels="affwild7")
    assert isinstance(faces, VideoSet)
    return faces


@pytest.mark.parametrize("window", [1, 2, 3, 8, 1000])
def test_smoothing_is_a_mean_over_frame_numbers_within_the_video(window: int, tree: Path) -> None:
    table = read(tree).table
    generator = np.random.default_rng(0)
    frame = np.concatenate([np.sort(generator.choice(60, 25, replace=False)), np.arange(5), np.arange(40, 50)]).astype(np.int32)
    video = np.repeat(np.array([0, 2, 3], np.int32), [25, 5, 10])
    told = generator.dirichlet(np.ones(7), 40).astype(np.float32)
    answers = FrameAnswers(table, np.array([0, 1, 2, 3]), video, frame, told)
    smoothed = answers.smoothed(window).probabilities
    before, after = (window - 1) // 2, window // 2
    for i in range(40):
        near = [j for j in range(40) if video[j] == video[i] and frame[i] - before <= frame[j] <= frame[i] + after]
        np.testing.assert_allclose(smoothed[i], told[near].mean(axis=0), atol=1e-6)
    if window == 1:
        np.testing.assert_allclose(smoothed, told, atol=1e-6)


def test_scores_of_each_video_are_those_of_its_frames(tree: Path) -> None:
    faces = read(tree)
    indices = np.flatnonzero(faces.split == "val")
    told = np.random.default_rng(1).dirichlet(np.ones(7), len(indices)).astype(np.float32)
    told[3] = np.nan
    result = per_video(faces, indices, told)
    assert list(result) == sorted(set(np.array(faces.table.names)[faces.video[indices]]))
    for name, row in result.items():
        of = np.array([faces.table.names[v] == name for v in faces.video[indices]])
        found = of & ~np.isnan(told).any(axis=1)
        truth, predicted = faces.label[indices][found], told[found].argmax(axis=1)
        assert (row["n"], row["n_found"]) == (of.sum(), found.sum())
        assert row["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        f1 = f1_score(truth, predicted, labels=range(7), average="macro", zero_division=0)
        assert row["macro_f1"] == pytest.approx(f1)
        assert row["abaw_score"] == pytest.approx(0.67 * f1 + 0.33 * row["accuracy"])


def test_challenge_files_have_a_line_for_each_row_and_gaps_take_the_answer_before(tmp_path: Path) -> None:
    videos = {
        "gaps": Video("Validation_Set", [0, 0, 0, -1, -1, 4, 4, 4], [2, 4, 7]),
        "none": Video("Validation_Set", [0, 1, -1], []),
        "whole": Video("Validation_Set", [3, 3], [1, 2, 3]),
    }
    faces = read(write_tree(tmp_path / "tree", videos))
    # the columns of the run are in another order than the classes of the annotations
    labels = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    answer = np.eye(7, dtype=np.float32)[[3, 6, 0, 5, 5]]  # happy, neutral, angry; surprise, surprise
    video, frame = np.array([0, 0, 0, 2, 2], np.int32), np.array([2, 4, 7, 1, 2], np.int32)
    told = write_challenge(FrameAnswers(faces.table, np.arange(3), video, frame, answer), labels, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gaps.txt", "none.txt", "whole.txt"]
    assert (tmp_path / "out" / "gaps.txt").read_text().split() == [SEVEN, "4", "4", "4", "0", "0", "0", "1", "1"]
    assert (tmp_path / "out" / "none.txt").read_text().split() == [SEVEN, "-1", "-1", "-1"]
    assert (tmp_path / "out" / "whole.txt").read_text().split() == [SEVEN, "6", "6"]
    assert (told.frames, told.filled, told.empty) == (13, 5, ["none"])


def test_evaluate_counts_scores_and_smooths(tree: Path, run: Run, tmp_path: Path) -> None:
    faces = read(tree)
    broken = faces.paths[int(faces.indices("val")[4])]
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    (copy / broken).unlink()
    (copy / broken).write_bytes(b"broken")
    assessment = assess(run, copy, split="val")
    write_report(tmp_path / "report", assessment)
    plain = assessment.result
    assert (plain["n"], plain["n_found"]) == (int((faces.split == "val").sum()), int((faces.split == "val").sum()) - 1)
    assert plain["smooth"] == 1 and sum(row["n"] for row in plain["per_video"].values()) == plain["n"]
    assert plain["leak_free"]["n"] == plain["n"]
    rows = list(csv.DictReader((tmp_path / "report" / "videos.csv").open()))
    assert [row["video"] for row in rows] == list(plain["per_video"])
    assert float(rows[0]["accuracy"]) == pytest.approx(plain["per_video"][rows[0]["video"]]["accuracy"], abs=1e-6)
    told = assess(run, copy, split="val", every_frame=True)
    assert told.result["accuracy"] == plain["accuracy"] and told.answers is not None
    smooth = evaluate(run, copy, split="val", smooth=9)
    everything = told.answers.smoothed(9)
    kept = told.indices[told.predictions.truth >= 0]
    expected = everything.of(told.faces.video[kept], told.faces.frame[kept]).argmax(axis=1)  # type: ignore[attr-defined]
    assert smooth["accuracy"] == pytest.approx(float((expected == told.faces.label[kept]).mean()))
    with pytest.raises(UsageError, match="need whole videos, but limit = 5 leaves frames out"):
        evaluate(run, copy, split="val", smooth=3, limit=5)
    with pytest.raises(UsageError, match="is no set of videos"):
        assess(run, "generated:small", every_frame=True)


def test_a_challenge_does_not_replace_the_annotations(tree: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = next((tree / "annotations").rglob("*.txt")).parent
    assert emotiw_run(["evaluate", str(run.path), "--data", str(tree), "--challenge", str(place)]) == 2
    assert f"{place} lies in {place.parent}, whose annotations it would replace" in capsys.readouterr().err
    inside = tree / "answers"
    assert emotiw_run(["evaluate", str(run.path), "--data", str(tree), "--split", "val", "--challenge", str(inside)]) == 0
    assert list(inside.glob("*.txt"))
    shutil.rmtree(inside)


def test_the_command_writes_scores_and_a_challenge_file_that_agree(
    tree: Path, run: Run, emotiw: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = emotiw(
        "evaluate", run.path, "--data", tree, "--split", "val", "--smooth", 5, "--challenge", tmp_path / "answers", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    right, asked, filled = 0, 0, 0
    for name in result["per_video"]:
        truth = [int(line) for line in next((tree / "annotations").rglob(f"{name}.txt")).read_text().splitlines()[1:]]
        lines = (tmp_path / "answers" / f"{name}.txt").read_text().splitlines()
        there = {int(path.stem) for path in (tree / "cropped_aligned" / name).iterdir()}
        assert lines[0] == SEVEN and len(lines) == len(truth) + 1
        scored = [number for number, label in enumerate(truth, 1) if label >= 0 and number in there]
        right += sum(int(lines[number]) == truth[number - 1] for number in scored)
        asked += len(scored)
        filled += len(truth) - len(there)
    assert asked == result["n"] and right / asked == pytest.approx(result["accuracy"])
    assert f"{filled:,} without a readable image took the answer of the nearest earlier frame" in done.stderr
