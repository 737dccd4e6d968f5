"""Photos whose faces are found at the same time: their order, what stands in memory, and which engine finds them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras import engines
from emotiw_keras.errors import UsageError
from emotiw_keras.faces import get_detector
from emotiw_keras.faces.face import Face
from emotiw_keras.serving import pipeline
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.serving.pipeline import FOUND_AHEAD, Pipeline
from emotiw_keras.serving.predictor import FEW_PHOTOS, Predictor

THREADS = 3


class Slow:
    """Finds a face whose left edge is the image's first pixel, the sooner the larger that is; counts who is at work."""

    name = "slow"

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Face]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02 + 0.02 * (image[0, 0, 0] % 3 == 0))
        with self._lock:
            self.now -= 1
        x = float(image[0, 0, 0])
        return [Face((x, 0, 30, 30), ((x + 8, 10), (x + 22, 10)), 0.9, "slow")]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    monkeypatch.setattr(pipeline, "processor_threads", lambda: THREADS)
    return Slow()


def numbered(number: int) -> InputImage:
    pixels = np.full((40, 300, 3), 90, np.uint8)
    pixels[0, 0] = number
    return InputImage(f"{number}", pixels)


def test_photos_are_looked_at_together_and_answered_in_their_order(run_folder: Path, slow: Slow) -> None:
    film = Video("film", "film", 25.0, iter([numbered(100), numbered(101)]))
    broken = InputImage("broken", None, "zero bytes")
    inputs = [*map(numbered, range(7)), broken, film, *map(numbered, range(20, 24))]
    readings = list(Pipeline(Predictor(run_folder, detector=slow)).read(inputs, threads=True))
    assert [reading.image.path for reading in readings] == [
        *map(str, range(7)), "broken", "100", "101", *map(str, range(20, 24)),
    ]  # fmt: skip
    assert [reading.faces[0].box[0] for reading in readings if reading.faces] == [*range(7), 100, 101, *range(20, 24)]
    assert 2 <= slow.most <= THREADS
    alone = list(Pipeline(Predictor(run_folder, detector=slow)).read(map(numbered, range(7))))
    assert [reading.faces for reading in alone] == [reading.faces for reading in readings[:7]]


def test_few_photos_stand_in_memory_however_many_there_are(run_folder: Path, slow: Slow) -> None:
    taken = most = 0

    def photos() -> Iterator[InputImage]:
        nonlocal taken
        for number in range(60):
            taken += 1
            yield numbered(number)

    predictor = Predictor(run_folder, detector=slow, batch_size=1)
    for done, _ in enumerate(Pipeline(predictor).read(photos(), threads=True)):
        time.sleep(0.02)
        most = max(most, taken - done)
    assert taken == 60 and most <= THREADS + FOUND_AHEAD + 4


@pytest.mark.skipif("onnxruntime" not in engines.installed(), reason="onnxruntime is not installed (the extra [engines])")
def test_one_engine_finds_the_faces_of_all_photos_opencv_those_of_few(run_folder: Path) -> None:
    predictor = Predictor(run_folder)
    assert predictor.detector.engine == predictor.video_detector.engine == get_detector().engine == "onnxruntime"  # type: ignore[attr-defined]
    for count, engine in ((1, "opencv"), (FEW_PHOTOS, "opencv"), (FEW_PHOTOS + 1, "onnxruntime")):
        predictor.expect(count)
        assert predictor.detector.engine == engine  # type: ignore[attr-defined]
    assert predictor.video_detector.engine == "onnxruntime"  # type: ignore[attr-defined]
    for engine in ("opencv", "onnxruntime"):
        named = Predictor(run_folder, engine=engine)
        assert named.detector.engine == named.video_detector.engine == engine  # type: ignore[attr-defined]
    assert Predictor(run_folder, detector="viola_jones", engine="onnxruntime").detector.name == "viola_jones"


def test_an_engine_that_no_detector_has_is_refused() -> None:
    with pytest.raises(UsageError, match="'openvino'.*onnxruntime, opencv"):
        get_detector(engine="openvino")
    with pytest.raises(UsageError, match="viola_jones is OpenCV's own"):
        get_detector("viola_jones", engine="opencv")
