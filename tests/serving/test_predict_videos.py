"""`emotiw predict` on photos with faces to find, videos, numbered images and what is broken among them."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.faces import Face
from emotiw_keras.serving.input_images import Video
from emotiw_keras.serving.inputs import expand, read_inputs
from tests.serving.marked import MarkedEyes, background, frames_of, put_face, write_video

KEYS = ["path", "frame", "seconds", "face", "box", "eyes", "detector_score", "label", "probabilities"]
KEYS += ["uncertain", "derived", "doubt", "error"]


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def crowd(faces: int) -> np.ndarray:
    photo = background(320, 480)
    for index in range(faces):
        put_face(photo, 20 + index % 4 * 110, 10 + index // 4 * 100, 64 + index, seed=index)
    return photo


def test_photos_with_no_one_and_twelve_faces(predict: Callable, tmp_path: Path) -> None:
    for count in (0, 1, 12):
        save(tmp_path / "photos" / f"{count:02}.png", crowd(count))
    done = predict("photos")
    assert done.code == 0 and done.err == ""
    assert [list(row) for row in done.rows] == [KEYS] * 14
    assert [(row["path"], row["face"]) for row in done.rows] == [
        ("photos/00.png", None),
        ("photos/01.png", 0),
        *(("photos/12.png", number) for number in range(12)),
    ]
    assert done.rows[0]["error"] == "no face found" and done.rows[0]["label"] is None
    areas = [row["box"][2] * row["box"][3] for row in done.rows[2:]]
    assert areas == sorted(areas, reverse=True)
    for row in done.rows[1:]:
        (left_x, left_y), (right_x, _) = row["eyes"]
        x, y, width, height = row["box"]
        assert x < left_x < right_x < x + width and y < left_y < y + height
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) and row["frame"] is None


def test_batches_change_no_answer(predict: Callable, tmp_path: Path) -> None:
    for index, count in enumerate((3, 0, 12, 1, 0, 5)):
        save(tmp_path / f"{index}.png", crowd(count))
    first, second = (predict("*.png", "--batch-size", size).rows for size in (1, 64))
    assert len(first) == 23
    assert [{**row, "probabilities": None} for row in first] == [{**row, "probabilities": None} for row in second]
    answers = [[list(row["probabilities"].values()) for row in rows if row["error"] is None] for rows in (first, second)]
    np.testing.assert_allclose(*answers, atol=1e-5)


def test_boxes_are_in_the_upright_image(predict: Callable, tmp_path: Path) -> None:
    photo = crowd(2)
    save(tmp_path / "plain.png", photo)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    save(tmp_path / "turned.png", np.rot90(photo), exif=exif)
    plain, turned = predict("plain.png").rows, predict("turned.png").rows
    assert [row["box"] for row in plain] == [row["box"] for row in turned] and len(plain) == 2


def test_a_video_has_a_row_for_each_face_of_each_frame(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [*frames_of(6, faces=2), background()])
    done = predict("clip.mp4")
    assert done.code == 0
    assert [(row["frame"], row["face"]) for row in done.rows] == [(i, n) for i in range(6) for n in (0, 1)] + [(6, None)]
    assert done.rows[-1]["error"] == "no face found"
    table = list(csv.DictReader(io.StringIO(predict("clip.mp4", "--csv", json_rows=False).out)))
    assert [(row["frame"], row["face"]) for row in table[-2:]] == [("5", "1"), ("6", "")]
    assert float(table[0]["left_x"]) == done.rows[0]["eyes"][0][0]
    assert "clip.mp4 frame 0 face 1 at " in predict("clip.mp4", json_rows=False).out


def test_every_and_smooth_reach_the_video(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames_of(10, step=3), rate=10)
    plain, carried = predict("clip.mp4").rows, predict("clip.mp4", "--every", 5).rows
    eyes = [np.array([row["eyes"] for row in rows]) for rows in (plain, carried)]
    assert (eyes[0][0] == eyes[1][0]).all() and (eyes[0] != eyes[1]).any() and np.abs(eyes[0] - eyes[1]).max() < 1
    expected = np.mean([list(row["probabilities"].values()) for row in plain[4:9]], axis=0)
    for window in ("5", "0.5s"):
        row = predict("clip.mp4", "--smooth", window).rows[8]
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-6)


@pytest.mark.parametrize("window", ("0", "0s", "-1", "soon", "1.5", "s"))
def test_a_window_that_cannot_be_meant_is_one_line(predict: Callable, window: str) -> None:
    done = predict("a.mp4", "--smooth", window)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and "0.5s" in done.err


def test_numbered_images_are_a_video(predict: Callable, tmp_path: Path) -> None:
    frames = frames_of(4)
    for number, frame in zip((3, 4, 10, 11), frames, strict=True):
        save(tmp_path / "shots" / f"f_{number:03}.png", frame)
    (tmp_path / "shots" / "f_010.png").write_bytes(b"torn")
    save(tmp_path / "shots" / "f_5.png", frames[0])  # two digits too few for %03d
    done = predict("shots/f_%03d.png", "--every", 2)
    assert done.code == 3
    assert [(row["frame"], row["face"], row["error"] is None) for row in done.rows] == [
        (3, 0, True), (4, 0, True), (10, None, False), (11, 0, True),
    ]  # fmt: skip
    assert {row["path"] for row in done.rows} == {"shots/f_%03d.png"}
    assert [row["seconds"] for row in done.rows] == [0.0, 0.04, 0.08, 0.12]
    assert "cannot read shots/f_%03d.png frame 10: not an image" in done.err
    assert [row["frame"] for row in predict("shots/f_%d.png").rows] == [3, 4, 5, 10, 11]


def test_broken_videos_are_named_and_the_rest_goes_on(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", frames_of(3))
    write_video(tmp_path / "long.avi", frames_of(30))
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mov").write_text("no video")
    (tmp_path / "unnamed").write_bytes(whole)
    data = (tmp_path / "long.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.write(tmp_path / "good.mp4", "inside.mp4")
    names = ["headless.mp4", "empty.mp4", "words.mov", "cut.avi", "videos.zip", "nothing_%d.png", "gone/f_%d.png", "camera:99"]
    done = predict(*names, "unnamed", "good.mp4")
    assert done.code == 3
    errors = {row["path"]: row["error"] for row in done.rows if row["error"]}
    assert list(errors) == [*names[:4], "videos.zip/inside.mp4", *names[5:]]
    assert "cannot open" in errors["headless.mp4"] and "cannot open" in errors["words.mov"]
    assert "30 were promised" in errors["cut.avi"] and "unpack" in errors["videos.zip/inside.mp4"]
    assert "no camera 99" in errors["camera:99"] and "no file matches" in errors["nothing_%d.png"]
    assert sum(row["path"] == "cut.avi" and row["error"] is None for row in done.rows) > 5
    assert [row["frame"] for row in done.rows if row["path"] in ("unnamed", "good.mp4")] == [0, 1, 2] * 2
    assert sum(line.startswith("emotiw: cannot read ") for line in done.err.splitlines()) == len(errors)


def test_a_folder_with_videos_and_images(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "mixed" / "b.mp4" if (tmp_path / "mixed").mkdir() is None else tmp_path, frames_of(2))
    save(tmp_path / "mixed" / "a.png", crowd(1))
    save(tmp_path / "mixed" / "sub" / "c.png", crowd(0))
    rows = predict("mixed").rows
    assert [(row["path"], row["frame"]) for row in rows] == [
        ("mixed/a.png", None), ("mixed/b.mp4", 0), ("mixed/b.mp4", 1), ("mixed/sub/c.png", None),
    ]  # fmt: skip


def test_a_video_is_read_one_frame_at_a_time(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames_of(5), rate=12.5)
    (video,) = read_inputs(expand([str(tmp_path / "clip.mp4")]))
    assert isinstance(video, Video) and video.rate == 12.5 and not video.live
    frames = video.frames
    assert next(frames).frame == 0 and next(frames).frame == 1
    frames.close()  # type: ignore[attr-defined]


def test_options_that_exclude_each_other(predict: Callable) -> None:
    for options in (("--every", 2), ("--detector", "yunet")):
        done = predict("a.png", "--faces", "whole", *options)
        assert done.code == 2 and "finds no faces" in done.err


def test_a_heic_is_an_image_and_never_a_video(predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / "a.png", crowd(1))
    for name in ("photos/IMG_1.HEIC", "named.mp4"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    done = predict("photos", "named.mp4", "--annotate", "seen")
    assert done.code == 3 and [row["error"] is None for row in done.rows] == [False, True, False]
    assert done.err.count("needs the package pillow-heif") == 2


def test_what_a_folder_holds_besides_is_said(predict: Callable, tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png", crowd(1))
    for name in ("notes.txt", "b.raw"):
        (tmp_path / "photos" / name).write_text("-")
    done = predict("photos")
    assert done.code == 0 and done.err == "emotiw: photos: no images or videos, so left out: 2 files (b.raw, notes.txt)\n"
    (tmp_path / "photos" / "a.png").unlink()
    done = predict("photos")
    assert done.code == 3 and "but 2 other files (b.raw, notes.txt); looked for" in done.err


def test_the_first_frame_of_an_animation_is_said(predict: Callable, tmp_path: Path) -> None:
    frames = [Image.fromarray(crowd(count)) for count in (1, 2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    done = predict("a.gif")
    assert done.code == 0 and done.err == "emotiw: a.gif: holds several images; the first is read\n"


def test_turned_photos_are_looked_at_again_on_request(predict: Callable, tmp_path: Path) -> None:
    upright = crowd(1)
    for quarters in range(4):
        save(tmp_path / f"{quarters}.png", np.rot90(upright, quarters))
    save(tmp_path / "none.png", crowd(0))
    plain, turned = predict("*.png"), predict("*.png", "--turned")
    assert [row["path"] for row in plain.rows if row["face"] is not None] == ["0.png"] and plain.err == ""
    assert [row["path"] for row in turned.rows if row["face"] is not None] == [f"{i}.png" for i in range(4)]
    assert [line.rpartition(" when ")[2] for line in turned.err.splitlines()] == [
        "turned by 90 degrees to the right", "turned by 180 degrees", "turned by 90 degrees to the left",
    ]  # fmt: skip
    first = turned.rows[0]
    for quarters in (1, 2, 3):
        row = turned.rows[quarters]
        assert row["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)
        x, y, width, height = (round(value) for value in row["box"])
        place = np.zeros(np.rot90(upright, quarters).shape[:2], bool)
        place[y : y + height, x : x + width] = True
        x, y, width, height = (round(value) for value in first["box"])
        rows, columns = np.nonzero(np.rot90(place, -quarters))
        assert abs(columns.min() - x) <= 1 and abs(rows.min() - y) <= 1 and abs(np.ptp(columns) + 1 - width) <= 1


def test_the_answer_for_a_face_on_its_side_is_doubtful(
    predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sideways:
        name = "sideways"

        def detect(self, image: np.ndarray) -> list[Face]:
            return [Face((10, 10, 60, 60), ((30, 20), (40, 50)), 0.9, "sideways")]

    monkeypatch.setattr("emotiw_keras.faces.detectors.get_detector", lambda name=None, min_face=None, engine=None: Sideways())
    save(tmp_path / "a.png", crowd(1))
    assert predict("a.png").rows[0]["doubt"] == "tilted by 72 degrees"
    assert "doubtful: tilted by 72 degrees" in predict("a.png", json_rows=False).out
    assert ",tilted by 72 degrees," in predict("a.png", "--csv", json_rows=False).out


def test_the_smallest_face_reaches_the_detector(predict: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []

    def made(name: str | None = None, min_face: float | None = None, engine: str | None = None) -> MarkedEyes:
        asked.append(min_face)
        return MarkedEyes()

    monkeypatch.setattr("emotiw_keras.faces.detectors.get_detector", made)
    save(tmp_path / "a.png", crowd(1))
    write_video(tmp_path / "b.mp4", frames_of(2))
    assert predict("a.png", "b.mp4").code == 0 and set(asked) == {24, 34}
    asked.clear()
    assert predict("a.png", "b.mp4", "--min-face", 60).code == 0 and set(asked) == {60}
