"""Aff-Wild2's layout: frames by name, nothing dropped uncounted, videos whole, and no object for each frame."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data import video_reading
from emotiw_keras.data.annotated_videos import VideoSet
from emotiw_keras.data.columns import FramePaths, Repeated
from emotiw_keras.data.generated_videos import write_affwild2
from emotiw_keras.data.images import decode_image
from emotiw_keras.data.layouts import find_layout
from emotiw_keras.data.layouts.affwild2 import ranges
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.video_reading import checked, every_image
from emotiw_keras.errors import DataError, UsageError
from tests.data.affwild2_tree import EIGHT, SEVEN, Video, image, shown, write_tree

# 3, 4: no image of a labelled frame; 6, 7: no label, one of them without an image too; 12: beyond the rows.
ROWS = [0, 1, 2, 3, 4, -1, -1, 5, 6, 0]
THERE = [1, 2, 5, 6, 8, 9, 10, 12]
USED = [1, 2, 5, 8, 9, 10]


def small(root: Path, **options: str) -> Path:
    videos = {
        "a_left": Video("Training_Set", ROWS, THERE),
        "a_right": Video("Training_Set", [4] * 30, range(1, 31)),
        "b": Video("Validation_Set", [0, 4] * 10, range(3, 21)),
    }
    return write_tree(root, videos, **options)


def read(root: Path, labels: str = "affwild7", **options: object) -> VideoSet:
    faces = load_faces(root, labels=labels, **options)  # type: ignore[arg-type]
    assert isinstance(faces, VideoSet)
    return faces


def test_frames_are_matched_by_name_whatever_is_missing(tmp_path: Path) -> None:
    faces = read(small(tmp_path))
    first = np.flatnonzero(faces.video == 0)
    assert faces.frame[first].tolist() == USED
    assert faces.label[first].tolist() == [ROWS[frame - 1] for frame in USED]
    assert [faces.paths[i] for i in first[:2]] == ["cropped_aligned/a_left/00001.jpg", "cropped_aligned/a_left/00002.jpg"]
    assert [shown(image) for image in faces.pixels.gather(np.arange(len(faces.video)))] == faces.frame.tolist()
    assert all((tmp_path / path).is_file() for path in faces.paths)
    assert sorted(set(faces.split[faces.video < 2])) == ["train"] and set(faces.split[faces.video == 2]) == {"val"}


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    faces = read(small(tmp_path))
    row = {row["path"]: row for row in faces.records({"train": faces.indices("train"), "val": faces.indices("val")})}
    assert list(row) == ["cropped_aligned/a_left", "cropped_aligned/a_right", "cropped_aligned/b"]
    left = row["cropped_aligned/a_left"]
    counts = {key: left[key] for key in ("frames", "skipped", "unlabelled", "missing", "unreadable", "beyond")}
    assert counts == {
        "frames": "6", "skipped": "0", "unlabelled": "2", "missing": "2", "unreadable": "0", "beyond": "1"
    }  # fmt: skip
    assert (left["missing_frames"], left["status"], left["split"], left["subject"]) == ("3-4", "train", "train", "a")
    assert row["cropped_aligned/b"]["missing_frames"] == "1-2" and row["cropped_aligned/b"]["status"] == "val"
    told = "\n".join(faces.report)
    assert "60 annotated = 54 taken + 0 skipped + 2 without a label (-1) + 4 labelled but without an image" in told
    assert "without an image: 4 labelled frames of 2 videos: a_left 2 (3-4), b 2 (1-2)" in told
    assert "images beyond the rows of the annotation, so left out: a_left 1" in told


def test_generated_trees_add_up(tmp_path: Path) -> None:
    tree = write_affwild2(tmp_path / "tree", videos=8, frames=800, seed=4)
    faces = read(tmp_path / "tree")
    assert tree.frames == 800 and tree.unlabelled > 0 and tree.missing > 0
    assert len(faces.video) == tree.frames - tree.unlabelled - tree.missing
    for i in range(0, len(faces.video), 37):
        name = faces.table.names[faces.video[i]]
        file = next((tmp_path / "tree" / "annotations").rglob(f"{name}.txt"))
        lines = file.read_text().splitlines()
        assert lines[0].split(",")[faces.label[i]] == lines[0].split(",")[int(lines[faces.frame[i]])]
    with pytest.raises(DataError, match="holds a folder cropped_aligned already"):
        write_affwild2(tmp_path / "tree", videos=8, frames=800)


def test_the_header_decides_the_edition(tmp_path: Path) -> None:
    seven = small(tmp_path / "seven")
    assert read(seven).labels == ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise")
    # the package's own order: ids follow the names
    faces = read(seven, "basic7")
    first = faces.label[faces.video == 0]
    assert [faces.labels[i] for i in first] == ["neutral", "angry", "happy", "sad", "surprise", "neutral"]
    eight = small(tmp_path / "eight", header=EIGHT, annotations="Third ABAW Annotations/EXPR_Classification_Challenge")
    assert read(eight, "affwild8").labels[-1] == "other"
    with pytest.raises(DataError, match="unknown class name 'Other'"):
        read(eight)
    seven_of_eight = read(eight, leave_out=["other"])
    assert seven_of_eight.labels[-1] == "surprise" and any(
        "classes left out: Other (0 frames" in t for t in seven_of_eight.report
    )
    with pytest.raises(DataError, match="leave_out names 'contempt'"):
        read(eight, leave_out=["contempt"])
    other = eight / "Third ABAW Annotations" / "EXPR_Classification_Challenge" / "Validation_Set" / "b.txt"
    other.write_text(other.read_text().replace(EIGHT, SEVEN))
    with pytest.raises(DataError, match="two editions in one set"):
        read(eight, "affwild8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0\n1\n", r"b.txt: line 0 is '0', expected class names"),
        ("", r"b.txt: line 0 is missing"),
        (f"{SEVEN}\n0\n7\n", r"b.txt: line 2 is '7', expected a whole number, 0 to 6, or -1"),
        (f"{SEVEN}\n0\n\n1\n", r"b.txt: line 2 is ''"),
        (f"{SEVEN}\n0\n1.5\n", r"line 2 is '1.5'"),
        (f"{SEVEN},Anger\n0\n", r"line 0 is"),
    ],
)
def test_an_annotation_that_cannot_be_meant_is_refused(content: str, message: str, tmp_path: Path) -> None:
    root = small(tmp_path)
    (root / "annotations/EXPR_Set/Validation_Set/b.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read(root)


def test_a_video_stands_in_one_set(tmp_path: Path) -> None:
    root = small(tmp_path)
    sets = root / "annotations" / "EXPR_Set"
    shutil.copy(sets / "Validation_Set" / "b.txt", sets / "Training_Set" / "b.txt")
    with pytest.raises(DataError, match="the video b stands in Training_Set and in Validation_Set"):
        read(root)
    (sets / "Training_Set" / "b.txt").unlink()
    shutil.copytree(sets / "Training_Set", sets / "Train_Set")
    with pytest.raises(DataError, match="Training_Set and Train_Set"):
        read(root)
    shutil.rmtree(sets / "Training_Set")
    assert set(read(root).split) == {"train", "val"}


def test_recordings_and_equal_images_in_two_splits_are_told(tmp_path: Path) -> None:
    videos = {
        "a_left": Video("Training_Set", [0, 1] * 5, range(1, 11)),
        "a_right": Video("Validation_Set", [0, 1] * 6, range(2, 13)),
        "copy": Video("Validation_Set", [1, 0] * 5, range(1, 11)),
    }
    told = "\n".join(read(write_tree(tmp_path, videos)).report)
    assert "recordings of which videos stand in more than one split: 1 (a_left (train) and a_right (val))" in told
    assert "videos whose images stand in more than one split: 1 (a_left (train) and copy (val))" in told


def test_a_training_set_alone_is_cut_by_recording(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "tree", videos=32, frames=1600, validation=0.0, training_folder="Train_Set")
    faces = read(tmp_path / "tree", seed=3)
    assert set(faces.split) == {"train", "val", "test"}
    for column in (faces.table.names, faces.table.recordings):
        keys = np.array(column)[faces.video]
        assert all(len(set(faces.split[keys == key])) == 1 for key in set(column))
    assert any("by recording, stratified, seed 3" in line for line in faces.report)
    np.testing.assert_array_equal(read(tmp_path / "tree", seed=3).split, faces.split)


def test_sub_sampling_is_by_frame_number_seeded_and_apart_for_each_video(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "tree", videos=8, frames=1600)
    every = read(tmp_path / "tree", every=5, seed=1)
    rests = [set((every.frame[every.video == number] % 5).tolist()) for number in range(8)]
    assert all(len(rest) == 1 for rest in rests) and len(set.union(*rests)) > 1
    few = read(tmp_path / "tree", frames_per_video=12, seed=1)
    assert np.bincount(few.video).tolist() == [12] * 8
    np.testing.assert_array_equal(few.frame, read(tmp_path / "tree", frames_per_video=12, seed=1).frame)
    assert (few.frame != read(tmp_path / "tree", frames_per_video=12, seed=2).frame).any()
    assert sum(int(row["skipped"]) for row in few.records({})) > 1000 and few.facts() != every.facts()
    gone = next((tmp_path / "tree" / "annotations").rglob("video000.txt"))
    gone.unlink()
    fewer = read(tmp_path / "tree", frames_per_video=12, seed=1)
    np.testing.assert_array_equal(fewer.frame, few.frame[few.video > 0])
    assert any("without an annotation, so left out: 1 (video000)" in line for line in fewer.report)
    with pytest.raises(UsageError, match="every = 0"):
        read(tmp_path / "tree", every=0)


def test_frames_of_no_videos_are_refused(tmp_path: Path) -> None:
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(image(1))
    (tmp_path / "other" / "cropped_aligned").mkdir(parents=True)
    (tmp_path / "other" / "annotations" / "VA_Set").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"annotations of other things \(\S+VA_Set\), none of expressions; expected EXPR_Set or"
    ):
        load_faces(tmp_path / "other")
    with pytest.raises(UsageError, match="no set of videos: every = 2"):
        load_faces(tmp_path, every=2)


def test_limit_is_stratified_within_the_splits(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "tree", videos=8, frames=1600)
    whole, limited = read(tmp_path / "tree"), read(tmp_path / "tree", limit=100)
    for split in ("train", "val"):
        share = np.bincount(whole.label[whole.split == split], minlength=7) / (whole.split == split).sum()
        taken = np.bincount(limited.label[limited.split == split], minlength=7)
        assert taken.sum() == 100 and np.abs(taken - 100 * share).max() <= 2


def test_broken_files_are_left_out_by_name(tmp_path: Path) -> None:
    root = small(tmp_path)
    folder = root / "cropped_aligned" / "b"
    (folder / "00005.jpg").write_bytes(b"")
    (folder / "00006.jpg").write_bytes(image(6)[:-40])
    (folder / "00007.jpg").write_text("<html>not found</html>")
    faces = read(root)
    assert dict(faces.unreadable()).keys() == {f"cropped_aligned/b/0000{number}.jpg" for number in (5, 6, 7)}
    assert dict(faces.unreadable())["cropped_aligned/b/00005.jpg"] == "zero bytes"
    assert (faces.label[faces.video == 2] < 0).sum() == 3 and faces.counts()["val"]["happy"] == 8
    assert [row["unreadable"] for row in faces.records({})] == ["0", "0", "3"]
    assert any(line.startswith("unreadable, so left out: 3 (cropped_aligned/b/00005.jpg: zero bytes") for line in faces.report)
    trusting = read(root, check=False)
    assert not trusting.unreadable()
    at = int(np.flatnonzero((trusting.video == 2) & (trusting.frame == 7))[0])
    with pytest.raises(DataError, match="cropped_aligned/b/00007.jpg"):
        trusting.pixels.gather(np.array([at]))


def test_a_frame_with_a_hole_before_its_end_marker_is_left_out(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"a": Video("Training_Set", ROWS, THERE), "b": Video("Validation_Set", ROWS, THERE)}, size=32)
    for number in (5, 6):  # with a label, and without
        data = image(number, 32)
        hole = data[: data.index(b"\xff\xda") + 40] + b"\xff\xd9"
        (root / f"cropped_aligned/a/{number:05d}.jpg").write_bytes(hole)
    faces = read(root)
    ((path, reason),) = faces.unreadable()
    assert path == "cropped_aligned/a/00005.jpg" and reason.endswith("a part of the image is missing before its end")
    whole = every_image(faces, np.arange(2), 1)
    assert whole.frame[~whole.readable].tolist() == [5, 6]
    for images in (faces, whole):
        images.pixels.gather(np.flatnonzero(images.readable))
    trusting = read(root, check=False)
    with pytest.raises(DataError, match=r"a/00005.jpg: .* missing before its end; .* skipped with check = false"):
        trusting.pixels.gather(np.arange(len(trusting.frame)))


def test_a_changed_file_changes_what_the_run_remembers(tmp_path: Path) -> None:
    root = small(tmp_path)
    before = read(root).facts()
    assert read(root).facts() == before
    (root / "cropped_aligned" / "a_right" / "00002.jpg").write_bytes(image(3))
    assert read(root).facts() != before


def test_names_of_two_kinds_and_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = small(tmp_path / "tree")
    folder = root / "cropped_aligned" / "b"
    (folder / "notes.txt").write_text("not a frame")
    assert any("no numbered images, so left out: 1 file (b/notes.txt)" in line for line in read(root).report)
    for name, message in (("00001.png", "names that end in .jpg and .png"), ("0004.jpg", "00003 beside names of 4 digits")):
        (folder / name).write_bytes(image(1))
        if name == "0004.jpg":
            (folder / "00004.jpg").unlink()
        with pytest.raises(DataError, match=message if name.endswith("png") else "beside names of 4 digits"):
            read(root)
        (folder / name).unlink()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(image(1))
    (folder / "00001.jpg").symlink_to(secret)
    with pytest.raises(DataError, match="leads out of it at 'cropped_aligned/b/00001.jpg'"):
        read(root)
    (folder / "00001.jpg").unlink()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out of it at 'cropped_aligned/b'"):
        read(root)


def test_annotations_without_faces_and_zips_say_what_is_expected(tmp_path: Path) -> None:
    root = small(tmp_path / "tree")
    assert find_layout(root).layout == "Aff-Wild2"
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    with pytest.raises(DataError, match="unpack it and give the folder"):
        load_faces(packed)
    shutil.rmtree(root / "cropped_aligned")
    with pytest.raises(DataError, match="no folder cropped_aligned/"):
        load_faces(root)


def test_every_image_has_those_without_a_label_too(tmp_path: Path) -> None:
    faces = read(small(tmp_path))
    whole = every_image(faces, np.array([0, 2]), 1)
    assert whole.frame[whole.video == 0].tolist() == [frame for frame in THERE if frame <= len(ROWS)]
    assert (whole.label[whole.video == 0] < 0).sum() == 1 and whole.readable.all()
    assert set(whole.video) == {0, 2}


def test_a_frame_that_was_looked_at_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path)
    (root / "cropped_aligned" / "a_left" / "00002.jpg").write_bytes(image(2)[:-40])
    decoded = []
    faces = read(root, check=False)
    whole = every_image(faces, np.array([0, 2]), 1)
    monkeypatch.setattr(video_reading, "decode_image", lambda *a, **k: (decoded.append(1), decode_image(*a, **k))[1])
    rows = np.flatnonzero(faces.video != 1)
    seen = checked(faces.take(rows), 1)
    assert len(decoded) == len(rows) and len(seen.unreadable()) == 1
    again = every_image(seen, np.array([0, 2]), 1)
    assert len(decoded) == len(whole.frame) == len(rows) + 1, "the one without a label is new"
    assert again.facts() == whole.facts() and again.unreadable() == whole.unreadable() == seen.unreadable()


def test_memory_grows_by_bytes_not_by_objects(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "tree", videos=8, frames=8000, size=16)
    tracemalloc.start()
    try:
        faces = read(tmp_path / "tree")
        faces.facts()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # 20 of them are the split's five letters; a Python string would be over 80
    assert held / len(faces.video) < 80
    assert isinstance(faces.paths, FramePaths) and isinstance(faces.pixel_hash, Repeated)
    assert (faces.video.dtype, faces.frame.dtype, faces.label.dtype) == (np.int32, np.int32, np.int8)


def test_ranges() -> None:
    assert ranges(np.array([], np.int32)) == "" and ranges(np.array([1, 2, 3, 7, 9, 10])) == "1-3 7 9-10"


def test_a_video_whose_name_is_no_utf8_is_read_and_written_with_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    videos = {name: Video("Training_Set", [0, 4] * 5, range(1, 11)), "b": Video("Validation_Set", [0, 4] * 5, range(1, 11))}
    try:
        faces = read(write_tree(tmp_path, videos), every=2)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert faces.paths[-1].startswith("cropped_aligned/caf\\xe9/")
    assert len(faces.pixels.gather(np.arange(len(faces.paths)))) == 10
    rows = list(faces.records({"train": faces.indices("train")}))
    assert [row["path"] for row in rows] == ["cropped_aligned/b", "cropped_aligned/caf\\xe9"]
    "\n".join(str(row) for row in rows).encode()
