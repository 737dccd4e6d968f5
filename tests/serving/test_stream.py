"""Faces of photos and videos: found, numbered, carried between detections, averaged over time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

import emotiw_keras
from emotiw_keras.errors import DataError, ModelError, UsageError
from emotiw_keras.faces.alignment import align
from emotiw_keras.faces.face import Face
from emotiw_keras.serving import pipeline
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.serving.pipeline import Pipeline, Smoother, window
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.serving.readings import Reading
from emotiw_keras.serving.tracking import Tracker
from tests.serving.marked import MarkedEyes, background, frames_of, put_face


@pytest.fixture(scope="module")
def predictor(run_folder: Path) -> Predictor:
    return Predictor(run_folder, batch_size=8, detector=MarkedEyes())


def values(faces: list[Reading]) -> np.ndarray:
    return np.array([list(face.probabilities.values()) for face in faces])


def eye_error(a: Face, b: Face) -> float:
    return float(np.abs(np.subtract(a.eyes, b.eyes)).max())


def test_every_face_of_a_photo_is_aligned_and_read(predictor: Predictor) -> None:
    photo = background()
    placed = [put_face(photo, 20, 30, 96), put_face(photo, 200, 120, 64, seed=1)]
    faces = predictor.faces(photo)
    assert [face.number for face in faces] == [0, 1]
    assert [face.eyes for face in faces] == [face.eyes for face in placed]
    assert [face.box for face in faces] == [face.box for face in placed] and faces[0].score == 0.9
    # By the two steps that the README describes.
    crops = [align(photo, face.eyes, stretch=False) for face in placed]
    np.testing.assert_allclose(values(faces), predictor.predict(crops), atol=1e-6)
    assert all(face.label == max(face.probabilities, key=lambda label: face.probabilities[label]) for face in faces)
    assert predictor.faces(background()) == [] and predictor.faces(background()[..., :1]) == []


def test_a_turned_photo_gives_the_answer_of_the_upright_one(predictor: Predictor) -> None:
    photo = background(320, 320)
    put_face(photo, 100, 100, 120)
    turn = cv2.getRotationMatrix2D((160, 160), 25, 1)
    turned = cv2.warpAffine(photo, turn, (320, 320), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    upright, other = values(predictor.faces(photo)), values(predictor.faces(turned))
    assert np.abs(upright - other).max() < 0.15
    # Cut without turning it, the same face reads otherwise by more than that.
    x, y, width, height = (round(value) for value in predictor.faces(turned)[0].box)
    assert np.abs(upright - predictor.predict([turned[y : y + height, x : x + width]])).max() > 0.15


def test_colour_reaches_a_run_that_was_trained_on_it(colour_run_folder: Path) -> None:
    photo = background()
    put_face(photo, 20, 30, 96)
    tinted = photo.copy()
    tinted[80:125, 30:110, 0] //= 3
    predictor = Predictor(colour_run_folder, detector=MarkedEyes())
    plain, red = predictor.faces(photo), predictor.faces(tinted)
    assert len(plain) == len(red) == 1 and np.abs(values(plain) - values(red)).max() > 0.01


@pytest.mark.parametrize("every", (1, 5))
def test_a_moving_face_keeps_its_number_and_its_eyes(every: int) -> None:
    frames, detector = frames_of(21, faces=2), MarkedEyes()
    tracker = Tracker(detector, every)
    for frame in frames:
        followed, true = tracker.follow(frame), MarkedEyes().detect(frame)
        assert [number for number, _ in followed] == [0, 1]
        assert max(eye_error(face, place) for (_, face), place in zip(followed, true, strict=True)) < 0.5
    assert detector.asked == (21 if every == 1 else 5)


def test_several_frames_are_looked_at_at_once_where_it_is_each_ones_turn(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "processor_threads", lambda: 2)
    together = threading.Barrier(2, timeout=30)

    class Paired(MarkedEyes):
        def detect(self, image: np.ndarray) -> list[Face]:
            together.wait()
            return super().detect(image)

    def read(detector: MarkedEyes, threads: bool, live: bool = False) -> list[list[tuple[int, object]]]:
        pixels: list[np.ndarray | None] = [*frames_of(5, faces=2), None, *frames_of(2), background(), *frames_of(2)]
        frames = [InputImage("film.mp4", each, frame=number) for number, each in enumerate(pixels)]
        own = Predictor(run_folder, batch_size=8, detector=detector)
        video = Video("film.mp4", "film.mp4", 25.0, iter(frames), live=live)
        return [[(face.number, face.box) for face in reading.faces] for reading in Pipeline(own).read([video], threads)]

    one_by_one = read(MarkedEyes(), False)
    assert [len(faces) for faces in one_by_one] == [2] * 5 + [0, 1, 1, 0, 1, 1]
    assert read(Paired(), True) == one_by_one == read(MarkedEyes(), True, live=True)


@pytest.mark.parametrize("upright", [True, False])
def test_of_turns_that_show_a_face_an_upright_one_is_taken(run_folder: Path, upright: bool) -> None:
    class Tilting(MarkedEyes):
        """No face in the photo as it is, tilted ones in two turns, one in the last, which may be upright."""

        def detect(self, image: np.ndarray) -> list[Face]:
            self.asked += 1
            eyes = ((40.0, 50.0), (80.0, 50.0)) if upright and self.asked == 4 else ((50.0, 40.0), (58.0, 80.0))
            return [] if self.asked == 1 else [Face((30.0, 30.0, 60.0, 60.0), eyes, 0.9, self.name)]

    own = Predictor(run_folder, batch_size=8, detector=Tilting())
    (reading,) = Pipeline(own, turned=True).read([InputImage("a.png", background(120, 120))])
    told = "180 degrees" if upright else "90 degrees to the left"
    assert reading.image.notes == (f"faces found only when turned by {told}",)
    assert (reading.faces[0].doubt is None) == upright


class Trembling(MarkedEyes):
    """Gives boxes that are now a fifth larger, now a fifth smaller, about the same eyes."""

    def detect(self, image: np.ndarray) -> list[Face]:
        found = []
        for face in super().detect(image):
            x, y, width, height = face.box
            more = 0.2 * (-1) ** self.asked
            box = (x - more * width / 2, y - more * height / 2, (1 + more) * width, (1 + more) * height)
            found.append(replace(face, box=box))
        return found


def test_a_face_keeps_its_number_though_its_box_trembles() -> None:
    tracker = Tracker(Trembling())
    assert [[number for number, _ in tracker.follow(frame)] for frame in frames_of(12, step=3)] == [[0]] * 12


def test_a_small_face_is_carried_too() -> None:
    """Of 28 pixels, with fewer than twelve points to follow: the detector was asked about every frame."""
    detector = MarkedEyes()
    tracker = Tracker(detector, every=5)
    for index in range(11):
        frame = background()
        true = put_face(frame, 60 + index, 70 + index // 2, 28)
        ((number, face),) = tracker.follow(frame)
        assert number == 0 and eye_error(face, true) < 0.5
    assert detector.asked == 3


def test_a_carried_face_turns_and_grows_with_the_image() -> None:
    photo = background(320, 320)
    start = put_face(photo, 90, 80, 140)
    tracker = Tracker(MarkedEyes(), every=100)
    for index in range(9):
        matrix = cv2.getRotationMatrix2D((160, 150), 2 * index, 1.02**index)
        frame = cv2.warpAffine(photo, matrix, (320, 320), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        ((_, face),) = tracker.follow(frame)
        true = np.c_[np.array(start.eyes), (1, 1)] @ matrix.T
        assert np.abs(np.array(face.eyes) - true).max() < 2, index  # of 50 pixels between the eyes; carried over eight frames
    assert abs(face.roll) > 12


def test_a_cut_drops_what_was_carried_and_looks_again_at_once() -> None:
    first, second = background(seed=1), background(seed=2)
    put_face(first, 30, 40, 96)
    there = put_face(second, 180, 100, 96, seed=3)
    detector = MarkedEyes()
    tracker = Tracker(detector, every=50)
    assert [number for number, _ in tracker.follow(first)] == [0] == [number for number, _ in tracker.follow(first)]
    ((number, face),) = tracker.follow(second)
    assert number == 1 and eye_error(face, there) < 0.5 and detector.asked == 2
    # A cut to an image without a face, which the flow alone would not tell from a still one.
    assert tracker.follow(background(seed=4)) == [] and detector.asked == 3
    assert tracker.follow(first) == [] and detector.asked == 3  # not before the next turn: 50 frames later


def test_a_face_that_was_missed_for_a_moment_keeps_its_number() -> None:
    photo, empty = background(), background()
    put_face(photo, 30, 40, 96)
    tracker = Tracker(MarkedEyes())
    shown = [photo, empty, empty, photo, *[empty] * 20, photo]
    numbers = [[number for number, _ in tracker.follow(frame)] for frame in shown]
    assert numbers[:4] == [[0], [], [], [0]] and numbers[-1] == [1]


def test_a_frame_of_another_size_is_looked_at_anew() -> None:
    small, large = frames_of(1)[0], frames_of(1, height=480, width=640)[0]
    tracker = Tracker(MarkedEyes(), every=10)
    assert [len(tracker.follow(frame)) for frame in (small, large, large)] == [1, 1, 1]


def test_a_stream_of_one_image_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    for one in (frames_of(1)[0], str(tmp_path / "film.mp4")):
        with pytest.raises(DataError, match="one image where the frames of a video are expected"):
            predictor.stream(one)
    with pytest.raises(UsageError, match=r"every = 2\.5: expected a whole number, at least 1"):
        predictor.stream(frames_of(1), every=2.5)  # type: ignore[arg-type]


def test_a_stream_answers_frame_by_frame_as_single_photos_do(predictor: Predictor) -> None:
    frames = frames_of(7, faces=2)
    alone = [values(predictor.faces(frame)) for frame in frames]
    for ahead in (1, 3, 100):
        streamed = list(predictor.stream(frames, ahead=ahead))
        np.testing.assert_allclose([values(faces) for faces in streamed], alone, atol=1e-5)


def test_a_stream_takes_no_frame_before_it_has_answered_the_one_before(predictor: Predictor) -> None:
    taken = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in frames_of(4):
            taken += 1
            yield frame

    for answered, faces in enumerate(predictor.stream(camera()), start=1):
        assert taken == answered and len(faces) == 1


def test_smoothing_is_the_mean_over_the_last_frames_of_the_same_face(predictor: Predictor) -> None:
    frames = frames_of(8, step=2, faces=2)
    for index, frame in enumerate(frames):
        frame[85 : 85 + 3 * index, :150] = 0  # over the mouth of the first
    plain = np.array([values(faces) for faces in predictor.stream(frames)])
    smooth = np.array([values(faces) for faces in predictor.stream(frames, smooth=np.int64(3))])  # type: ignore[arg-type]
    expected = [plain[max(0, index - 2) : index + 1].mean(axis=0) for index in range(8)]
    np.testing.assert_allclose(smooth, expected, atol=1e-6)
    assert np.abs(plain - smooth).max() > 0.001


def test_seconds_are_counted_by_the_time_stamps_of_a_film_whose_rate_varies() -> None:
    smoother = Smoother(timedelta(seconds=0.5))
    rows = np.arange(7, dtype=np.float32)[:, None]
    times = [0.0, 0.1, 0.5, 0.6, 5.0, 5.04, 10.0]
    means = [float(smoother.mean([0], row[None], at)[0, 0]) for row, at in zip(rows, times, strict=True)]
    assert means == [0, 0.5, 1.5, 2.5, 4, 4.5, 6]
    short = Smoother(timedelta(microseconds=1))
    assert [float(short.mean([0], row[None], at)[0, 0]) for row, at in zip(rows, times, strict=True)] == list(range(7))
    for text in ("0.0004s", "0s", "0"):
        with pytest.raises(UsageError, match="expected seconds such as"):
            window(text)
    steady, same = Smoother(timedelta(seconds=0.2)), Smoother(5)
    for number, row in enumerate(rows):
        assert steady.mean([0], row[None], round(number / 25, 6)) == same.mean([0], row[None])


def test_the_smoother_forgets_who_has_gone() -> None:
    smoother = Smoother(5)
    for number in range(1000):
        smoother.mean([number], np.ones((1, 2), np.float32))
    assert len(smoother._past) < 20 and len(smoother._seen) == len(smoother._past)


def test_what_cannot_be_meant_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected uint8"):
        predictor.faces(np.zeros((20, 20), np.float32))
    for setting in ("every", "smooth", "ahead"):
        with pytest.raises(UsageError, match=f"{setting} = 0"):
            list(predictor.stream(frames_of(1), **{setting: 0}))
    with pytest.raises(UsageError, match="smooth = .*: expected a whole number"):
        list(predictor.stream(frames_of(1), smooth=timedelta(seconds=1)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="smooth = 0:00:00: expected more than 0 seconds"):
        Pipeline(predictor, smooth=timedelta(0))
    with pytest.raises(ModelError, match="no run folder fer2013-best"):
        emotiw_keras.Predictor("fer2013-best")


def test_an_unknown_detector_is_told_with_those_there_are(run_folder: Path) -> None:
    with pytest.raises(UsageError, match="crystal ball"):
        Predictor(run_folder, detector="crystal ball").faces(background())


@pytest.mark.slow
def test_real_faces_of_a_real_photo(run_folder: Path, shared_data: Path) -> None:
    photo = cv2.cvtColor(cv2.imread(str(shared_data / "photos" / "astronaut.png")), cv2.COLOR_BGR2RGB)
    (face,) = Predictor(run_folder).faces(photo)
    x, y, width, height = face.box
    assert face.eyes is not None
    assert all(x < eye_x < x + width and y < eye_y < y + height for eye_x, eye_y in face.eyes)
    assert 180 < face.eyes[0][0] < 225 < face.eyes[1][0] < 270


def test_a_face_is_cut_as_the_run_says(run_folder: Path) -> None:
    predictor = Predictor(run_folder)
    image = background(200, 200)
    face = put_face(image, 60, 50, 80)
    for crop in ({"reading": "B", "stretch": False}, {"reading": "C", "stretch": True}):
        predictor.run.info["crop"] = crop
        expected = predictor.prepare(align(image, face.eyes, grey=predictor.channels == 1, **crop))
        np.testing.assert_array_equal(predictor.cut(image, face), expected)
