"""Generated faces: reproducible, balanced, told apart by their features, other persons in each split."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.duplicates import pixel_hash
from emotiw_keras.data.generated import DIFFICULTIES, LABELS, draw_faces, is_generated
from emotiw_keras.data.layouts import classes_of, find_layout
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.splits import Folds
from emotiw_keras.errors import DataError, UsageError


def _normal(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_shapes_types_and_balance():
    images, labels = draw_faces(35, size=40, seed=3, difficulty="hard")
    assert images.shape == (35, 40, 40, 1) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [5] * 7
    assert all(sorted(labels[start : start + 7].tolist()) == list(range(7)) for start in range(0, 35, 7))
    assert images.reshape(35, -1).std(axis=1).min() > 5


def test_a_seed_names_the_images_and_a_shorter_draw_is_the_start_of_a_longer_one():
    images, labels = draw_faces(20, size=32, seed=5)
    again, same = draw_faces(11, size=32, seed=5)
    assert np.array_equal(images[:11], again) and np.array_equal(labels[:11], same)
    other, _ = draw_faces(11, size=32, seed=6)
    assert not (images[:11] == other).all(axis=(1, 2, 3)).any()


def test_no_two_images_are_the_same():
    images, _ = draw_faces(210, size=48, seed=0)
    assert len({image.tobytes() for image in images}) == 210


def _linear_reader(difficulty: str) -> float:
    """Accuracy on 20 persons of ridge regression from pixels to labels, fitted on 100 others."""
    images, labels = draw_faces(840, size=32, seed=2, difficulty=difficulty)
    pixels, targets = _normal(images), np.eye(7)[labels] - 1 / 7
    kernel = pixels @ pixels[:700].T
    weights = np.linalg.solve(kernel[:700] + np.eye(700), targets[:700])
    return float(((kernel[700:] @ weights).argmax(axis=1) == labels[700:]).mean())


def test_expressions_carry_over_to_other_persons_and_hard_ones_need_more_than_pixels():
    easy, hard = (_linear_reader(name) for name in DIFFICULTIES)
    assert easy > 0.65 and 1 / 7 < hard < easy - 0.3, (easy, hard)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(DataError, match="choose one of easy, hard"):
        draw_faces(7, difficulty="medium")
    with pytest.raises(DataError, match="0 faces"):
        draw_faces(0)
    with pytest.raises(DataError, match="8x8"):
        draw_faces(1, size=8)
    assert len(LABELS) == 7


def test_the_small_set_is_a_face_set_with_other_persons_in_each_split():
    faces = load_faces("generated:small", name="target")
    assert faces.counts() == {
        split: dict.fromkeys(LABELS, n // 7) for split, n in (("train", 210), ("val", 140), ("test", 350))
    }
    assert faces.pixels.shape == (96, 96, 1) and set(faces.status) == {"ok"} and len(set(faces.paths)) == 700
    persons = {split: {faces.subject[i] for i in faces.indices(split)} for split in ("train", "val", "test")}
    assert not persons["train"] & persons["val"] and not persons["test"] & (persons["train"] | persons["val"])
    assert len(set(faces.pixel_hash)) == 700
    assert faces.pixel_hash[5] == pixel_hash(faces.pixels.gather(np.array([5]))[0])


def test_a_limited_or_colour_set_holds_the_same_images():
    grey, colour = load_faces("generated:large", limit=7), load_faces("generated:large", limit=10, grey=False)
    assert [grey.counts()[split]["fear"] for split in ("train", "val", "test")] == [1, 1, 1]
    first = colour.pixels.gather(np.array([0, 10, 20]))
    assert first.shape == (3, 48, 48, 3)
    assert np.array_equal(first[..., :1], grey.pixels.gather(np.array([0, 7, 14])))
    assert [colour.pixel_hash[i] for i in (0, 10, 20)] == [grey.pixel_hash[i] for i in (0, 7, 14)]


def test_labels_of_another_order_are_followed_and_too_few_are_refused():
    basic, other = load_faces("generated:small", limit=7), load_faces("generated:small", limit=7, labels="affwild7")
    assert [basic.labels[i] for i in basic.label] == [other.labels[i] for i in other.label]
    with pytest.raises(DataError, match="neutral"):
        load_faces("generated:small", limit=7, labels="enterface6")
    with pytest.raises(DataError, match="generated:large or generated:small"):
        load_faces("generated:medium")


def test_read_any_takes_the_options_of_a_reader(tmp_path):
    assert is_generated("generated:small") and not is_generated(tmp_path)
    faces = load_faces("generated:small", name="target", labels="basic7", grey=True, size=64, limit=7, seed=5)
    assert (faces.name, faces.source, len(faces.paths)) == ("target", "generated:small", 21)
    with pytest.raises(DataError, match="nothing"):
        load_faces(tmp_path / "nothing", size=64)


def test_drawn_faces_heed_what_every_set_heeds_and_refuse_the_rest():
    faces = load_faces("generated:small", size=32, leave_out=["neutral"], limit=14)
    assert faces.pixels.shape == (32, 32, 1) and faces.counts()["train"]["neutral"] == 0
    assert sum(faces.counts()["train"].values()) == 12 and "classes left out: neutral (6 images)" in faces.report
    with pytest.raises(DataError, match="has its own splits, and folds are cut from a source without"):
        load_faces("generated:small", folds=Folds(3, 0), limit=7)
    with pytest.raises(UsageError, match="is no set of videos"):
        load_faces("generated:small", every=2)


def test_a_listing_of_drawn_faces_draws_nothing(monkeypatch):
    monkeypatch.setattr("emotiw_keras.data.layouts.drawn.draw_face", None)
    listing = find_layout("generated:large")
    assert len(listing.names) == 2800 and sorted(set(listing.classes)) == sorted(LABELS)
    assert classes_of("generated:small") == sorted(LABELS)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["small", "--videos", "3"], "--videos is for affwild2"), (["affwild2", "--limit", "3"], "--limit is for sets of images")],
)
def test_options_of_other_sets_are_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["generated", words[0], str(tmp_path / "set"), *words[1:]])
    with pytest.raises(SystemExit):
        runpy.run_module("emotiw_keras.data.generated", run_name="__main__")
    assert said in capsys.readouterr().err and not (tmp_path / "set").exists()
