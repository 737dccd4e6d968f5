"""Evaluation of a run: figures recomputed from the network, splits found again, leaks left out, bad data told."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.generated import LABELS, draw_faces
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.preprocessing_settings import ten_crops
from emotiw_keras.data.splits import stratified
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.evaluate import assess, evaluate
from emotiw_keras.evaluation.run_splits import known_splits
from emotiw_keras.reports.evaluation_report import write_report
from emotiw_keras.runs import DATA_COLUMNS, Run

KEYS = [
    "n", "n_found", "coverage", "persons", "person_unknown", "split", "crops", "selected_on", "accuracy", "accuracy_ci95",
    "macro_f1", "macro_f1_ci95",
    "balanced_accuracy", "abaw_score", "ece", "log_loss", "expected_cost", "per_class", "confusion", "labels", "costs",
    "leak_free", "leak_free_near", "uncertain",
]  # fmt: skip
PER_CLASS = {"train": 3, "val": 2, "test": 3}


def _rows(faces: FaceSet, split: np.ndarray) -> list[dict[str, str]]:
    """What a run's data.csv says of images that it was given in these splits."""
    rows = []
    for i, name in enumerate(split.tolist()):
        status = faces.status[i] if faces.status[i] != "ok" else name if name in ("train", "val") else "held out"
        row = {"stage": "only", "data": "data", "path": faces.paths[i], "pixel_hash": faces.pixel_hash[i]}
        rows.append({**row, "label": "", "subject": "", "split": name, "status": status})
    return rows


def _run(template: Path, folder: Path, rows: list[dict[str, str]], source: str = "") -> Run:
    shutil.copytree(template, folder)
    info = json.loads((folder / "run.json").read_text())
    info["stages"] = [{"name": "only"}]
    info["data"] = {"data": {"source": source}}
    (folder / "run.json").write_text(json.dumps(info))
    with open(folder / "data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, DATA_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return Run.open(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of <class>/ without splits: 8 faces a class, which `_split_by_number` cuts."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    images, labels = draw_faces(56, size=32, seed=1)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / LABELS[label]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / LABELS[label] / f"{i // 7}.png"), image)
    return folder


def _split_by_number(paths: list[str]) -> np.ndarray:
    """train for the images 0 - 2 of each class, val for 3 and 4, test for 5 - 7."""
    return np.array([("train",) * 3 + ("val",) * 2 + ("test",) * 3][0])[[int(Path(path).stem) for path in paths]]


@pytest.fixture(scope="module")
def run(photos: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    faces = load_faces(photos, labels=LABELS)
    rows = _rows(faces, _split_by_number(faces.paths))
    return _run(run_folder, tmp_path_factory.mktemp("runs") / "first", rows, source=str(photos))


def _probabilities(run: Run, faces: FaceSet, indices: np.ndarray) -> np.ndarray:
    return np.asarray(run.build()(run.face_input()(faces.pixels.gather(indices)), training=False))


def test_splits_of_the_run_are_found_again_and_the_figures_are_the_networks_own(run: Run, photos: Path) -> None:
    faces = load_faces(photos, labels=LABELS)
    for split, each in PER_CLASS.items():
        indices = np.flatnonzero(_split_by_number(faces.paths) == split)
        predicted = _probabilities(run, faces, indices).argmax(axis=1)
        result = evaluate(run, photos, split=split, batch_size=4)
        assert list(result) == KEYS
        assert (result["n"], result["n_found"], result["split"]) == (7 * each, 7 * each, split)
        assert result["accuracy"] == pytest.approx(float((predicted == faces.label[indices]).mean()))
        assert np.array(result["confusion"]).sum(axis=0).tolist() == np.bincount(predicted, minlength=7).tolist()
        assert result["selected_on"] is (split == "val")


def test_of_a_source_that_the_weights_knew_whole_the_run_says_the_splits_of_what_it_took(
    photos: Path, run_folder: Path, tmp_path: Path
) -> None:
    """As `fit --limit` took of it; the weights know all of its pixels, under other paths."""
    faces = load_faces(photos, labels=LABELS)
    split, rows = _split_by_number(faces.paths), []
    own = _rows(faces, split)
    for number, row in enumerate(own):
        parents = {"stage": "weights", "data": "fer", "path": f"fer.csv:{number}", "split": "train", "status": "train"}
        rows.append(row | parents)
    taken = [row for row in own if not row["path"].endswith("0.png")]
    run = _run(run_folder, tmp_path / "run", [*taken, *rows], source=str(photos))
    assert evaluate(run, photos)["n"] == 7 * PER_CLASS["test"]
    found = known_splits(faces, run)
    assert [name for name, path in zip(found, faces.paths, strict=True) if path.endswith("0.png")] == [""] * 7


def test_leak_free_leaves_out_what_was_trained_or_selected_on(run: Run, photos: Path) -> None:
    test = evaluate(run, photos, split="test")
    assert {key: test[key] for key in test["leak_free"]} == test["leak_free"]
    assert evaluate(run, photos, split="train")["leak_free"] is None
    everything = evaluate(run, photos, split="all")
    assert everything["n"] == 56 and everything["selected_on"] is True
    alone = everything["leak_free"]
    for key in ("n", "n_found", "accuracy", "macro_f1", "confusion"):
        assert alone[key] == test["leak_free"][key]
    assert alone["log_loss"] == pytest.approx(test["leak_free"]["log_loss"], abs=1e-4)


def test_a_source_with_splits_keeps_them_and_its_duplicates_of_training_images_leak(run_folder: Path, tmp_path: Path) -> None:
    faces = load_faces("generated:small", limit=14)
    of_test = np.flatnonzero(faces.split == "test")
    # The run was given four of the test images under other names in its train split.
    rows = _rows(faces, faces.split)
    twins = [{**rows[i], "path": f"again/{i}.png", "split": "train", "status": "dropped: twin"} for i in of_test[:4]]
    run = _run(run_folder, tmp_path / "run", rows + twins)
    result = evaluate(run, "generated:small", limit=14)
    predicted = _probabilities(run, faces, of_test).argmax(axis=1)
    right = predicted == faces.label[of_test]
    assert (result["n"], result["accuracy"]) == (14, pytest.approx(right.mean()))
    assert (result["leak_free"]["n"], result["leak_free"]["accuracy"]) == (10, pytest.approx(right[4:].mean()))
    assert result["selected_on"] is False


def test_ten_crops_are_the_mean_of_ten_passes(run: Run, photos: Path) -> None:
    faces = load_faces(photos, labels=LABELS)
    indices = np.flatnonzero(_split_by_number(faces.paths) == "test")
    net, face_input = run.build(), run.face_input()
    whole = face_input.from_settings({**face_input.settings(), "crop": face_input.resize})
    prepared = np.asarray(whole(faces.pixels.gather(indices)))
    passes = []
    for top, left, mirror in ten_crops(face_input.room):
        crop = prepared[:, top : top + face_input.crop, left : left + face_input.crop]
        passes.append(np.asarray(net(crop[:, :, ::-1] if mirror else crop, training=False)))
    expected = np.mean(passes, axis=0)
    result = evaluate(run, photos, crops=10, batch_size=8)
    truth = faces.label[indices]
    assert result["accuracy"] == pytest.approx(float((expected.argmax(axis=1) == truth).mean()))
    assert result["log_loss"] == pytest.approx(-np.log(expected[np.arange(len(truth)), truth]).mean(), abs=1e-4)
    assert result["log_loss"] != pytest.approx(evaluate(run, photos)["log_loss"], abs=1e-4)


def test_a_split_that_does_not_exist_lists_those_that_do(photos: Path, run_folder: Path, tmp_path: Path) -> None:
    faces = load_faces(photos, labels=LABELS)
    split = _split_by_number(faces.paths)
    split[split == "test"] = "train"
    run = _run(run_folder, tmp_path / "run", _rows(faces, split))
    with pytest.raises(DataError, match=r"'test' does not exist in .*photos; it has train \(42\), val \(14\) and all \(56\)"):
        evaluate(run, photos)
    strangers = _run(run_folder, tmp_path / "other", _rows(load_faces("generated:small", limit=7), np.array(["train"] * 21)))
    with pytest.raises(DataError, match="knows none of its images; use --split all"):
        evaluate(strangers, photos)
    assert evaluate(strangers, photos, split="all")["n"] == 56


def test_unreadable_images_count_in_n_and_are_named_in_the_report(photos: Path, run_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    (broken / "happy" / "6.png").write_bytes(b"not an image")
    faces = load_faces(broken, labels=LABELS)
    run = _run(run_folder, tmp_path / "run", _rows(faces, _split_by_number(faces.paths)))
    assessment = assess(run, broken, near_duplicates=0)  # drawn faces of 32 pixels are much alike
    write_report(tmp_path / "report", assessment)
    result = assessment.result
    assert (result["n"], result["n_found"], result["coverage"]) == (21, 20, 20 / 21)
    assert (result["leak_free"]["n"], result["leak_free"]["n_found"]) == (21, 20)
    files = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert files == ["confusion.png", "faces.png", "predictions.csv", "report.html", "scores.json"]
    rows = list(csv.DictReader((tmp_path / "report" / "predictions.csv").open()))
    unreadable = [row["path"] for row in rows if row["status"] != "ok"]
    assert len(rows) == 21 and [Path(path).parts[-2:] for path in unreadable] == [("happy", "6.png")]
    right = [row["label"] == row["predicted"] for row in rows if row["status"] == "ok"]
    assert np.mean(right) == pytest.approx(result["accuracy"])
    assert json.loads((tmp_path / "report" / "scores.json").read_text()) == result
    assert cv2.imread(str(tmp_path / "report" / "faces.png")) is not None


def test_limit_takes_each_class_in_proportion() -> None:
    label = np.array([0] * 60 + [1] * 30 + [-1] * 10)
    chosen = stratified(np.arange(100, 200), label, 20)
    assert np.bincount(label[chosen - 100] + 1).tolist() == [2, 12, 6]
    assert (np.diff(chosen) > 0).all() and np.array_equal(chosen, stratified(np.arange(100, 200), label, 20))
    assert stratified(np.arange(5), np.zeros(5, int), 9).tolist() == [0, 1, 2, 3, 4]


def test_limit_within_a_found_split(run: Run, photos: Path) -> None:
    result = evaluate(run, photos, limit=7)
    assert result["n"] == 7 and [row["support"] for row in result["per_class"].values()] == [1] * 7


def test_arguments_out_of_range_are_refused(run: Run, photos: Path) -> None:
    with pytest.raises(UsageError, match="crops must be 1"):
        evaluate(run, photos, crops=5)
    with pytest.raises(UsageError, match="choose one of train, val, test, all"):
        evaluate(run, photos, split="validation")
    for split in ("val", "all"):
        with pytest.raises(UsageError, match=r"calibrate chooses a temperature on val.* would flatter its figures"):
            evaluate(run, photos, split=split, calibrate=True)
    for wrong in ({"limit": 0}, {"limit": 2.5}, {"batch_size": 0}, {"batch_size": 8.0}, {"smooth": 1.5}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} = .*: expected a whole number, at least 1"):
            evaluate(run, photos, **wrong)  # type: ignore[arg-type]
