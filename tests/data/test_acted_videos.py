"""Videos of SAVEE and eNTERFACE'05: their names, the faces out of them, and folds in which no speaker stands twice."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.data.images import ImageError
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.prepare import prepare
from emotiw_keras.data.prepare.acted_videos import find_speech
from emotiw_keras.data.prepare.source import find_images
from emotiw_keras.data.splits import Folds, fold_numbers, fold_splits
from emotiw_keras.data.video_files import sample_frames
from emotiw_keras.errors import DataError, RunError, UsageError
from emotiw_keras.evaluation.evaluate import read_source
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.runs import Run
from tests.data.acted_videos import ENTERFACE, SAVEE, Wandering, video, write_enterface, write_savee


@pytest.fixture(scope="module")
def savee(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared faces of four speakers, two frames of each video."""
    root = tmp_path_factory.mktemp("savee")
    prepare(write_savee(root / "videos"), root / "faces", detector=Wandering(), frames=2, workers=1)
    return root / "faces"


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "faces.csv").read_text())))


def test_names_of_savee() -> None:
    names = {
        f"AudioVisualClip/{who}/{code}{n}.avi": (label, who)
        for who in ("DC", "KL")
        for code, label in SAVEE.items()
        for n in ("01", "15")
    }
    found = find_speech(list(names))
    assert found is not None and found.name == "SAVEE" and found.videos == names
    assert find_speech(["DC_sa7.avi", "JE_n30.mp4"]).videos == {"DC_sa7.avi": ("sad", "DC"), "JE_n30.mp4": ("neutral", "JE")}
    # class folders of videos called a1, a2 are no speakers
    assert find_speech(["happy/a1.avi", "sad/a2.avi"]) is None


def test_ordinary_films_in_class_folders_are_of_no_known_set(tmp_path: Path) -> None:
    people = ("anna", "ben", "cleo", "dora", "emil")
    for names in (
        [f"{label}/{who}/d1.mp4" for label in ("happy", "sad") for who in people],
        ["happy/f4.mp4", "sad/clip_f4.mp4", "sad/DC_d4.mp4"],
        ["train/happy/anna/d1.mp4", "test/sad/anna/a2.mp4"],
        ["cats/anna/d1.mp4", "dogs/anna/d1.mp4"],
        ["happy/s1_an_1.mp4", "sad/s1_an_2.mp4"],
    ):
        assert find_speech(names) is None, names
    for label in ("happy", "sad"):
        for who in people:
            for name in ("d1.mp4", "01.png"):
                (tmp_path / label / who).mkdir(parents=True, exist_ok=True)
                (tmp_path / label / who / name).write_bytes(b"x")
    found = [(item.path, item.label, item.subject) for item in find_images(tmp_path).items]
    assert len(found) == 20 and all(path.startswith(f"{label}/{who}/") for path, label, who in found)


def test_known_sets_keep_their_splits_and_the_class_folders_beside_them(tmp_path: Path) -> None:
    names = {
        "test/KL/a01.avi": ("angry", "test", "KL"), "train/DC/sa07.avi": ("sad", "train", "DC"),
        "train/DC/su07.avi": ("surprise", "train", "DC"), "train/happy/one.png": ("happy", "train", ""),
        "train/happy/two.mp4": ("happy", "train", ""),
    }  # fmt: skip
    for name in (*names, "train/DC/face.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = find_images(tmp_path)
    assert {item.path: (item.label, item.split, item.subject) for item in source.items} == names
    assert "not SAVEE, so left out: 1 file (train/DC/face.png)" in source.notes
    # one's own set of people and classes, with a class and photos that eNTERFACE'05 does not have
    found = find_speech(["subject 1/happy/a.mp4", "subject 2/neutral/a.mp4"], ["subject 2/sad/a.png"])
    assert list(found.videos.values()) == [("happy", "s01"), ("neutral", "s02"), ("sad", "s02")]


def test_names_of_enterface() -> None:
    names = [
        f"enterface database/subject {n}/{word}/sentence 2/s{n}_{code}_2.avi"
        for n in (1, 44)
        for word, code in ENTERFACE.items()
    ]
    odd = ["subject 3/surprise/sentence 1/s_3_su_1.avi", "subject 6/anger/s6_an_1.avi"]
    odd += ["subject-7/anger/sentence-1/s8_fe_1.avi"]
    found = find_speech([*names, *odd, "subject 9/readme.avi"])
    assert found is not None and found.name == "eNTERFACE'05" and len(found.videos) == 15
    assert found.videos[names[0]] == ("angry", "s01") and found.videos[names[-1]] == ("surprise", "s44")
    assert [found.videos[name] for name in odd] == [("surprise", "s03"), ("angry", "s06"), ("angry", "s07")]
    assert any("left out: 1 (subject 9/readme.avi)" in note for note in found.notes)
    assert any("another speaker or emotion" in note and "s8_fe_1.avi" in note for note in found.notes)
    assert find_speech(["flat/s12_su_3.avi"]).videos == {"flat/s12_su_3.avi": ("surprise", "s12")}


def test_frames_lie_in_the_middle_of_equal_parts(tmp_path: Path) -> None:
    video(tmp_path / "f.avi", frames=20)
    assert [number for number, _ in sample_frames(tmp_path / "f.avi", 4)] == [2, 7, 12, 17]
    assert [number for number, _ in sample_frames(tmp_path / "f.avi", 30)] == list(range(20))
    images = [image for _, image in sample_frames(tmp_path / "f.avi", 2)]
    assert {image.shape for image in images} == {(120, 160, 3)}
    # the eyes wander by a pixel a frame
    columns = [np.flatnonzero((image[50] > 200).all(axis=-1)).mean() for image in images]
    assert columns[1] - columns[0] == pytest.approx(10, abs=1)
    (tmp_path / "bad.avi").write_bytes(b"RIFF" + bytes(200))
    with pytest.raises(ImageError, match="cannot open|no frame"):
        list(sample_frames(tmp_path / "bad.avi", 2))


def test_savee_becomes_faces_with_speaker_and_emotion(savee: Path) -> None:
    rows = rows_of(savee)
    assert len(rows) == 4 * 7 * 2 and {row["status"] for row in rows} == {"ok"}
    assert {row["subject"] for row in rows} == {"DC", "JE", "JK", "KL"}
    assert {row["label"] for row in rows} == set(SAVEE.values())
    one = [row for row in rows if row["path"] == "AudioVisualClip/DC/sa01.avi"]
    assert [(row["label"], row["frame"], row["output"]) for row in one] == [
        ("sad", str(n), f"AudioVisualClip/DC/sa01.f{n:05d}.png") for n in (1, 4)
    ]
    assert all((savee / row["output"]).is_file() for row in rows)


def test_the_shared_six_labels_and_one_speaker_left_out(savee: Path) -> None:
    with pytest.raises(DataError, match="unknown class name 'neutral'"):
        load_faces(savee, labels="enterface6")
    for fold, speaker in enumerate(("DC", "JE", "JK", "KL")):
        faces = load_faces(savee, labels="enterface6", leave_out=["neutral"], folds=Folds(4, fold))
        assert len(faces.paths) == 4 * 6 * 2
        assert {person for person, split in zip(faces.subject, faces.split, strict=True) if split == "test"} == {speaker}
        persons = {split: set(np.array(faces.subject)[faces.split == split]) for split in ("train", "val", "test")}
        assert [len(persons[split]) for split in ("train", "val", "test")] == [2, 1, 1]
        assert not persons["train"] & persons["val"] and not persons["train"] & persons["test"]
    assert any("classes left out: neutral (8 images)" in line for line in faces.report)
    assert any("4 persons in 4 folds, seed 0: 3 is test, 0 is val, 1, 2 train" in line for line in faces.report)
    with pytest.raises(DataError, match="leave_out names 'contempt', which is none of its classes"):
        load_faces(savee, leave_out=["contempt"])


def test_a_run_that_left_a_class_out_is_scored_without_it(savee: Path) -> None:
    settings = {"channels": "grey", "resize": 16}
    run = Run(savee, {"preprocessing": settings, "labels": list(LABEL_SETS["enterface6"].labels), "leave_out": ["neutral"]})
    assert len(read_source(run, savee).paths) == 4 * 6 * 2


def test_enterface_in_a_zip_is_prepared_alike(tmp_path: Path) -> None:
    videos = write_enterface(tmp_path / "enterface database", subjects=2)
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        for path in sorted(videos.rglob("*.avi")):
            archive.write(path, path.relative_to(tmp_path))
    for source, out in ((videos, "one"), (tmp_path / "videos.zip", "two")):
        prepare(source, tmp_path / out, detector=Wandering(), frames=1, workers=1)
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert len(one) == 12 and [row["label"] for row in one] == [row["label"] for row in two]
    assert {row["subject"] for row in two} == {"s01", "s02"}
    faces = [(tmp_path / out / row["output"]).read_bytes() for out, rows in (("one", one), ("two", two)) for row in rows]
    assert faces[:12] == faces[12:]


def test_a_broken_video_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    write_savee(tmp_path / "videos", speakers=("DC",))
    (tmp_path / "videos" / "AudioVisualClip" / "DC" / "d01.avi").write_bytes(b"RIFF no video")
    (tmp_path / "videos" / "readme.txt").write_text("x")
    said: list[str] = []
    summary = prepare(tmp_path / "videos", tmp_path / "out", detector=Wandering(), frames=2, workers=1, say=said.append)
    assert [path for path, _ in summary.unreadable] == ["AudioVisualClip/DC/d01.avi"]
    assert summary.total.pictures == 7 and summary.total.with_face == 6 and summary.total.faces == 12
    assert "SAVEE: 7 videos of 1 speaker (DC)" in said
    assert "not SAVEE, so left out: 1 file (readme.txt)" in said
    again = prepare(tmp_path / "videos", tmp_path / "out", detector=Wandering(), frames=2, workers=1)
    assert again.new == 0
    with pytest.raises(UsageError, match="frames = 0"):
        prepare(tmp_path / "videos", tmp_path / "other", detector=Wandering(), frames=0)


def test_a_film_that_breaks_off_counts_as_unreadable_everywhere(tmp_path: Path) -> None:
    for name in ("cut.avi", "whole.avi"):
        video(tmp_path / "set" / name, frames=20)
    cut = tmp_path / "set" / "cut.avi"
    cut.write_bytes(cut.read_bytes()[: int(0.7 * cut.stat().st_size)])
    (tmp_path / "set" / "bad.png").write_bytes(b"no image")
    summary = prepare(tmp_path / "set", tmp_path / "out", detector=Wandering(), workers=1)
    assert [path for path, _ in summary.unreadable] == ["bad.png", "cut.avi"]
    total = summary.total
    assert (total.pictures, total.with_face, total.without_face, total.unreadable) == (3, 1, 0, 2)
    assert total.faces == len([row for row in rows_of(tmp_path / "out") if row["output"]]) > 8, "those before it broke off stay"


def test_videos_in_class_folders_and_photos_beside_videos(tmp_path: Path) -> None:
    video(tmp_path / "a" / "happy" / "one.mp4", frames=2)
    video(tmp_path / "a" / "sad" / "two.mp4", frames=2)
    source = find_images(tmp_path / "a")
    assert source.videos and [(item.label, item.subject) for item in source.items] == [("happy", ""), ("sad", "")]
    prepare(tmp_path / "a", tmp_path / "out", detector=Wandering(), frames=2, workers=1)
    assert load_faces(tmp_path / "out").subject == ["happy/one.mp4"] * 2 + ["sad/two.mp4"] * 2, "frames of a video stay in it"
    _, frame = next(sample_frames(tmp_path / "a" / "sad" / "two.mp4", 1))
    cv2.imwrite(str(tmp_path / "a" / "sad" / "three.png"), frame)
    mixed = prepare(tmp_path / "a", tmp_path / "mixed", detector=Wandering(), frames=2, workers=1)
    assert mixed.new == 3 and len(load_faces(tmp_path / "mixed").paths) == 5


def test_the_first_film_comes_and_the_last_one_goes(tmp_path: Path) -> None:
    film, photos = tmp_path / "set" / "sad" / "two.mp4", tmp_path / "set" / "sad"
    video(film, frames=2)
    for number, (_, frame) in enumerate(sample_frames(film, 2)):
        cv2.imwrite(str(photos / f"{number}.png"), frame)
    away = film.rename(tmp_path / "two.mp4")
    for there, frames, new, faces in ((False, 2, 2, 2), (True, 2, 1, 4), (False, 1, 0, 2), (True, 1, 1, 3)):
        if there != film.exists():
            film.rename(away) if film.exists() else away.rename(film)
        done = prepare(tmp_path / "set", tmp_path / "out", detector=Wandering(), frames=frames, workers=1)
        assert (done.new, done.total.faces) == (new, faces)
    with pytest.raises(RunError, match=r"otherwise \(frames 1, now 2\)"):
        prepare(tmp_path / "set", tmp_path / "out", detector=Wandering(), frames=2, workers=1)


def test_a_refused_call_changes_no_settings_and_a_film_that_went_keeps_its_frames_until_its_faces_go(tmp_path: Path) -> None:
    film, out = tmp_path / "a" / "set" / "film.mp4", tmp_path / "out"
    video(film, frames=4)
    _, frame = next(sample_frames(film, 1))
    for folder in ("a", "b"):
        (tmp_path / folder / "set").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / folder / "set" / f"{folder}.png"), frame)
    prepare(film.parent, out, detector=Wandering(), frames=2, workers=1)
    settings = (out / "prepare.json").read_text()
    with pytest.raises(RunError, match="of another place"):
        prepare(tmp_path / "b" / "set", out, detector=Wandering(), workers=1)
    assert (out / "prepare.json").read_text() == settings and '"frames": 2' in settings
    away = film.rename(tmp_path / "film.mp4")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    cv2.imwrite(str(film.with_name("new.png")), frame)
    with pytest.raises(KeyboardInterrupt):
        prepare(film.parent, out, detector=Wandering(), frames=1, workers=1, progress=stop)
    away.rename(film)
    with pytest.raises(RunError, match=r"otherwise \(frames 2, now 1\)"):
        prepare(film.parent, out, detector=Wandering(), frames=1, workers=1)


def test_a_manifest_names_films_beside_photos(tmp_path: Path) -> None:
    video(tmp_path / "set" / "v.mp4")
    cv2.imwrite(str(tmp_path / "set" / "a.png"), next(sample_frames(tmp_path / "set" / "v.mp4", 1))[1])
    (tmp_path / "set" / "m.csv").write_text("path,label\na.png,happy\nv.mp4,sad\n")
    for new in (2, 0):
        summary = prepare(tmp_path / "set" / "m.csv", tmp_path / "out", detector=Wandering(), frames=2, workers=1)
        assert (summary.new, summary.total.faces) == (new, 3)
    assert [(row["path"], row["label"], row["frame"]) for row in rows_of(tmp_path / "out")] == [
        ("a.png", "happy", ""), ("v.mp4", "sad", "1"), ("v.mp4", "sad", "4"),
    ]  # fmt: skip


def test_persons_stand_in_one_fold_and_folds_are_alike_in_size() -> None:
    persons = [f"p{n:02d}" for n in range(42) for _ in range(3 + n % 5)]
    fold = fold_numbers(persons, 5, seed=3)
    assert len(set(zip(persons, fold.tolist(), strict=True))) == 42
    sizes = np.bincount(fold)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 7
    assert not np.array_equal(fold, fold_numbers(persons, 5, seed=4)) and np.array_equal(fold, fold_numbers(persons, 5, seed=3))
    split = fold_splits(np.arange(5), Folds(5, 4, (2, 4)))
    assert split.tolist() == ["val", "train", "", "train", "test"]
    assert fold_splits(np.arange(5), Folds(5, 1)).tolist() == ["train", "test", "val", "train", "train"]
    with pytest.raises(DataError, match="1 of 3 have none; give subject_pattern"):
        fold_numbers(["a", "", "b"], 2)
    with pytest.raises(DataError, match="6 folds of 5 persons"):
        fold_numbers(list("abcde"), 6)


def test_folds_are_for_sets_without_splits(tmp_path: Path) -> None:
    from tests.training.conftest import write_faces

    write_faces(tmp_path / "set", {"train": 14, "test": 14})
    with pytest.raises(DataError, match="has its own splits, and folds are cut from a source without"):
        load_faces(tmp_path / "set", folds=Folds(3, 0))
