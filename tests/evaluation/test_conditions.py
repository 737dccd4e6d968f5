"""Faces as cameras and files spoil them: what is done, that it is the same each time, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emotiw_keras.cli.main import run as command
from emotiw_keras.data.generated import draw_faces
from emotiw_keras.evaluation.conditions import CONDITIONS, compared
from emotiw_keras.evaluation.significance import share_interval

BY_NAME = {each.name: each for each in CONDITIONS}


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return draw_faces(40, size=48, seed=3)[0]


def test_each_condition_does_what_it_says(faces: np.ndarray) -> None:
    plain = faces.astype(float)
    noise = BY_NAME["noise"].of(faces) - plain
    inside = (plain > 60) & (plain < 195)
    assert noise[inside].std() == pytest.approx(15, rel=0.03) and abs(noise[inside].mean()) < 0.5
    blurred = np.stack([gaussian_filter(face[..., 0].astype(float), 1.5, mode="mirror") for face in faces])
    assert np.abs(BY_NAME["blur"].of(faces)[..., 0] - blurred).max() <= 2
    large = np.repeat(np.repeat(faces, 2, axis=1), 2, axis=2)
    twice = np.stack([gaussian_filter(face[..., 0].astype(float), 3.0, mode="mirror") for face in large])
    assert np.abs(BY_NAME["blur"].of(large)[..., 0] - twice).max() <= 2, "of larger faces as much"
    pairs = plain.reshape(40, 24, 2, 24, 2, 1).mean(axis=(2, 4))
    small = BY_NAME["small"].of(faces).astype(float)
    np.testing.assert_allclose(small.reshape(40, 24, 2, 24, 2, 1).mean(axis=(2, 4))[:, 3, 3], (
        0.0625 * 9 * pairs[:, 3, 3] + 0.0625 * 6 / 4 * (pairs[:, 2, 3] + pairs[:, 4, 3] + pairs[:, 3, 2] + pairs[:, 3, 4])
        + 0.0625 / 4 * (pairs[:, 2, 2] + pairs[:, 2, 4] + pairs[:, 4, 2] + pairs[:, 4, 4])
    ), atol=1.5)  # fmt: skip
    coded = cv2.imencode(".jpg", faces[0], [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
    np.testing.assert_array_equal(BY_NAME["jpeg"].of(faces[:1])[0, ..., 0], cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE))
    assert (BY_NAME["low_light"].of(np.full((1, 48, 48, 1), 200, np.uint8)) == 51).all()  # 255 * 0.3 * (200 / 255) ** 1.7
    moved = BY_NAME["shift"].of(faces)
    for face, other in zip(faces, moved, strict=True):
        middle = slice(8, 40)
        found = [
            (down, across)
            for down in (-4, 0, 4)
            for across in (-4, 0, 4)
            if np.array_equal(np.roll(face, (down, across), (0, 1))[middle, middle], other[middle, middle])
        ]
        assert found and (0, 0) not in found
    columns = np.arange(48)
    ramp = np.tile((5 * columns).astype(np.uint8), (48, 1))[None, ..., None]
    for name, scale in (("closer", 1.2), ("farther", 1 / 1.2)):
        expected = 5 * np.clip((columns - 23.5) / scale + 23.5, 0, 47)
        np.testing.assert_allclose(BY_NAME[name].of(ramp)[0, 20, :, 0], expected, atol=1)


def test_colour_keeps_its_order(faces: np.ndarray) -> None:
    red = np.zeros((1, 48, 48, 3), np.uint8)
    red[..., 0] = 200
    for each in CONDITIONS:
        changed = each.of(red)
        assert changed.shape == red.shape and changed[..., 0].mean() > changed[..., 2].mean() + 30, each.name


def test_a_face_is_spoilt_the_same_whatever_stands_beside_it(faces: np.ndarray) -> None:
    for each in CONDITIONS:
        np.testing.assert_array_equal(each.of(faces)[[7, 2]], each.of(faces[[7, 2]]))


def test_figures_are_paired() -> None:
    truth, clean = np.zeros(100, int), np.tile([0.9, 0.1], (100, 1))
    spoilt = clean.copy()
    spoilt[:30] = [0.2, 0.8]
    found = compared(truth, clean, spoilt)
    assert found["accuracy"] == 0.7 and found["difference"] == pytest.approx(-0.3)
    low, high = found["difference_ci95"]
    assert (low + high) / 2 == pytest.approx(-0.3, abs=0.01)
    assert (high - low) / 2 == pytest.approx(1.96 * (0.3 * 0.7 / 99) ** 0.5, rel=0.05)
    low, high = compared(truth, spoilt, spoilt)["difference_ci95"]
    assert low == -high and 0.02 < high < 0.04  # nothing changes in a hundred
    of_persons = compared(truth, clean, spoilt, np.arange(100) // 5)  # of twenty persons six are read wrongly in all images
    for key in ("accuracy_ci95", "difference_ci95"):
        assert np.ptp(of_persons[key]) > 1.9 * np.ptp(found[key])


def test_the_command_sets_each_beside_clean(
    side_by_side: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(side_by_side)
    persons = ["--subject-pattern", r"^([0-9]+)[.]png"]  # one image each
    assert command(["evaluate", "one", "--data", "faces", "--robust", "--json", "--out", str(tmp_path / "out"), *persons]) == 3
    result = json.loads(capsys.readouterr().out)
    assert list(result["robust"]) == [each.name for each in CONDITIONS]
    for row in result["robust"].values():
        assert row["accuracy"] - result["accuracy"] == pytest.approx(row["difference"], abs=1e-9)
        right = np.arange(14) < round(14 * row["accuracy"])
        assert row["accuracy_ci95"] == pytest.approx(share_interval(right, np.arange(14)))
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(each.words in page for each in CONDITIONS) and "--robust" in page
    assert "All intervals are by person." in page
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["robust"] == result["robust"]
    assert command(["evaluate", "one", "--data", "faces", "--robust"]) == 3
    assert "Gaussian noise of 15 grey levels" in capsys.readouterr().out
    assert command(["evaluate", "one", "two", "--data", "faces", "--robust", "--ensemble"]) == 2
    assert "--robust scores each run by itself" in capsys.readouterr().err
    assert command(["evaluate", "one", "one", "--data", "faces", "--ensemble", "--calibrate"]) == 2
    assert "--calibrate chooses a temperature for each run by itself" in capsys.readouterr().err
