"""What `--annotate` draws and writes: the right place, the right names, never over another file, never half of one."""

from __future__ import annotations

import itertools
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from emotiw_keras.errors import OutputError
from emotiw_keras.serving.annotate import Annotator
from emotiw_keras.serving.box_drawing import COLOURS, draw_readings
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.serving.readings import ImageReading, Reading
from tests.serving.marked import background, frames_of, put_face, write_video


def reading(box: tuple[float, float, float, float], **probabilities: float) -> Reading:
    label = max(probabilities, key=lambda name: probabilities[name])
    return Reading(0, box, ((box[0] + 20, box[1] + 20), (box[0] + 40, box[1] + 20)), 0.9, label, probabilities)


def video_of(count: int, live: bool = False, name: str = "clip.mp4") -> tuple[Video, list[ImageReading]]:
    images = [InputImage("clip", frame, frame=index, name=name) for index, frame in enumerate(frames_of(count))]
    video = Video("clip", name, 12.5, iter(images), live=live)
    face = reading((30, 30, 60, 60), happy=0.75, sad=0.25)
    return video, [ImageReading(image, video, (face,), None) for image in images]


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_a_box_and_bars_as_long_as_the_probabilities() -> None:
    photo = np.full((400, 600, 3), 90, np.uint8)
    drawn = draw_readings(photo, [reading((100, 120, 160, 160), sad=0.25, happy=0.75)])
    assert (photo == 90).all() and drawn.shape == photo.shape
    colours = [(drawn == COLOURS[index]).all(axis=-1) for index in (0, 1)]
    rows, columns = np.nonzero(colours[1][121:279, :262])
    assert columns.min() == 100 and (colours[1][120, 100:260]).all(), "the box has the colour of the likeliest class"
    # Beside the box, the two bars: lengths in the proportion of the probabilities.
    lengths = [np.flatnonzero(colour[120:, 262:].any(axis=0)).size for colour in colours]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.15)


def test_a_crowd_at_the_border_of_a_small_grey_image_is_drawn() -> None:
    photo = np.full((40, 50, 1), 128, np.uint8)
    boxes = [(-10.0, -8.0, 30.0, 30.0), (35.0, 25.0, 30.0, 30.0), (0.0, 0.0, 50.0, 40.0), (20.0, 10.0, 3.0, 3.0)]
    drawn = draw_readings(photo, [reading(box, happy=0.6, sad=0.4) for box in boxes])
    assert drawn.shape == (40, 50, 3) and (drawn != 128).any()
    assert (draw_readings(photo, []) == 128).all()


@pytest.mark.parametrize("gap", (0, 6, 30))
def test_labels_and_bars_cover_no_other_face(monkeypatch: pytest.MonkeyPatch, gap: int) -> None:
    rectangles: list[tuple[float, ...]] = []
    labels: list[tuple[float, ...]] = []
    draw = ImageDraw.ImageDraw

    class Recorder(draw):  # type: ignore[misc, valid-type]
        def rectangle(self, xy: tuple[float, ...], fill: object = None, **options: object) -> None:
            if fill is not None:
                rectangles.append(tuple(xy))
            super().rectangle(xy, fill=fill, **options)

        def text(self, xy: tuple[float, float], text: str, *rest: object, **options: object) -> None:
            if "%" in text:
                labels.append(rectangles[-1])
            super().text(xy, text, *rest, **options)

    monkeypatch.setattr(ImageDraw, "Draw", Recorder)
    boxes = [(60.0 + column * (50 + gap), 60.0 + row * (50 + gap), 50.0, 50.0) for row in range(4) for column in range(7)]
    draw_readings(np.full((500, 800, 3), 90, np.uint8), [reading(box, happy=0.6, sad=0.4) for box in boxes])
    assert len(labels) == len(boxes)
    for left, top, right, bottom in rectangles:
        covered = [x < right and left < x + w - 1 and y < bottom and top < y + h - 1 for x, y, w, h in boxes]
        assert sum(covered) <= 1
    for one, other in itertools.combinations(labels, 2):
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


def test_images_keep_their_names_below_the_folder(predict: Callable, tmp_path: Path) -> None:
    for folder in ("photos", "photos/sub", "other"):
        (tmp_path / folder).mkdir()
        photo = background()
        put_face(photo, 20, 30, 96)
        Image.fromarray(photo).save(tmp_path / folder / "a.jpg", quality=95)
    Image.fromarray(background()).save(tmp_path / "none.png")
    Image.fromarray(background()).save(tmp_path / "odd.dat", format="PNG")
    (tmp_path / "torn.png").write_bytes(b"torn")
    inputs = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = predict("photos", "other/a.jpg", "none.png", "odd.dat", "torn.png", "--annotate", "seen/all")
    assert done.code == 3
    written = sorted(str(path.relative_to(tmp_path / "seen/all")) for path in (tmp_path / "seen").rglob("*") if path.is_file())
    assert written == ["a-2.jpg", "a.jpg", "none.png", "odd.dat.png", "sub/a.jpg"]
    assert all(path.read_bytes() == data for path, data in inputs.items())
    with Image.open(tmp_path / "seen/all/none.png") as image:
        assert (np.asarray(image) == background()).all(), "nothing to draw, nothing changed"
    with Image.open(tmp_path / "seen/all/a.jpg") as image:
        assert image.format == "JPEG" and np.abs(np.asarray(image).astype(int) - photo).max() > 60


def test_a_video_comes_back_as_a_video(predict: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", frames_of(8), rate=12.5)
    write_video(tmp_path / "two.avi", frames_of(5), rate=30)
    for number, frame in enumerate(frames_of(2)):
        Image.fromarray(frame).save(tmp_path / f"f{number}.png")
    done = predict("one.mp4", "two.avi", "f%d.png", "--annotate", "seen", "--every", 3)
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["f0.png", "f1.png", "one.mp4", "two.avi"]
    for name, count, rate in (("one.mp4", 8, 12.5), ("two.avi", 5, 30)):
        frames, found = read_video(tmp_path / "seen" / name)
        assert len(frames) == count and found == pytest.approx(rate)
        plain, _ = read_video(tmp_path / name)
        changed = [np.abs(a.astype(int) - b).max(axis=-1) > 60 for a, b in zip(frames, plain, strict=True)]
        # The box is drawn about the face, which moves; the far side of the image stays as it was.
        assert all(each[:, :150].sum() > 100 and each[200:, 250:].sum() == 0 for each in changed)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_odd_sides_lose_nothing(tmp_path: Path, name: str) -> None:
    shown = frames_of(2, height=241, width=427)
    images = [InputImage(name, frame, frame=index, name=name) for index, frame in enumerate(shown)]
    video = Video(name, name, 25.0, iter(images))
    with Annotator(tmp_path / "seen") as annotator:
        for image in images:
            annotator.write(ImageReading(image, video, (), None))
    for frame, copy in zip(shown, read_video(tmp_path / "seen" / name)[0], strict=True):
        assert copy.shape == (242, 428, 3) and np.abs(copy[:241, :427].astype(int) - frame).mean() < 12


def test_a_video_in_a_container_that_cannot_be_written_becomes_mp4(tmp_path: Path) -> None:
    _, readings = video_of(3, name="talk.ts")
    with Annotator(tmp_path / "seen") as annotator:
        for each in readings:
            annotator.write(each)
    assert len(read_video(tmp_path / "seen" / "talk.ts.mp4")[0]) == 3


def test_nothing_is_written_over(predict: Callable, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").write_bytes(b"mine")
    Image.fromarray(background()).save(tmp_path / "a.png")
    done = predict("a.png", "--annotate", "full")
    assert done.code == 6 and "not empty" in done.err and done.rows == []
    assert (tmp_path / "full" / "a.png").read_bytes() == b"mine"
    inside = predict(".", "--annotate", "new")
    assert inside.code == 2 and "lies in the input" in inside.err and not (tmp_path / "new").exists()
    (tmp_path / "file").write_bytes(b"")
    assert predict("a.png", "--annotate", "file").code == 6


def test_half_a_video_is_not_left_behind_but_a_cameras_is_kept(tmp_path: Path) -> None:
    _, readings = video_of(6)
    with pytest.raises(KeyboardInterrupt), Annotator(tmp_path / "video") as annotator:
        for each in readings:
            annotator.write(each)
        raise KeyboardInterrupt
    assert list((tmp_path / "video").iterdir()) == []
    _, readings = video_of(6, live=True, name="camera_0.mp4")
    with pytest.raises(KeyboardInterrupt), Annotator(tmp_path / "camera") as annotator:
        for each in readings:
            annotator.write(each)
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "camera").iterdir()] == ["camera_0.mp4"]
    assert len(read_video(tmp_path / "camera" / "camera_0.mp4")[0]) == 6


def test_a_full_disk_is_one_error_and_no_file(tmp_path: Path) -> None:
    _, readings = video_of(40, name="clip.avi")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError, match="frames arrived"), Annotator(tmp_path / "seen") as annotator:
            for each in readings:
                annotator.write(each)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((tmp_path / "seen").iterdir()) == []
