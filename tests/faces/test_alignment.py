"""The crop of Ng et al. 2015 against numbers worked out by hand, and images whose eyes are known."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotiw_keras import run_facts
from emotiw_keras.data.images import decode_image
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.faces.alignment import READINGS, align, crop_matrix, eye_targets

# By hand: 256 * 0.62 / 2.24, 256 * 1.62 / 2.24, 256 * 0.9 / 2.25
LEFT, RIGHT = (70.857, 102.4), (185.143, 102.4)


def mapped(matrix: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    return matrix @ np.array([*point, 1.0])


def dot_centre(crop: np.ndarray) -> np.ndarray:
    """Where a dot lies, by what is brighter than half of it: its tails may be cut off by the crop's border."""
    weight = np.maximum(crop.astype(float) - crop.max() / 2, 0)
    rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def turned_eyes(middle: tuple[float, float], distance: float, degrees: float) -> list[tuple[float, float]]:
    x, y = math.cos(math.radians(degrees)) * distance / 2, math.sin(math.radians(degrees)) * distance / 2
    return [(middle[0] - x, middle[1] - y), (middle[0] + x, middle[1] + y)]


def test_eyes_lie_where_the_paper_puts_them() -> None:
    np.testing.assert_allclose(eye_targets(), [LEFT, RIGHT], atol=5e-4)
    # A: 1.392 d between the outer corners, so half the width is 0.696 d + 0.62 d.
    np.testing.assert_allclose(eye_targets(reading="A")[:, 0], [128 - 128 * 0.5 / 1.316, 128 + 128 * 0.5 / 1.316])
    # C: everything in outer corner distances, so the eyes are nearer to each other; the line of the eyes stays at 0.9 of 2.25.
    np.testing.assert_allclose(eye_targets(reading="C")[0], [128 - 128 * 0.5 / (1.12 * 1.392), 102.4])
    np.testing.assert_allclose(eye_targets(reading="D")[0, 0], 128 - 128 * 0.5 / (0.294 + 0.62))


def test_a_level_face_by_hand() -> None:
    """Eyes 100 apart: the box is 224 wide and 225 high, so its corners are (38, 60) and (262, 285)."""
    matrix = crop_matrix([(100, 150), (200, 150)])
    np.testing.assert_allclose(mapped(matrix, (38, 60)), [0, 0], atol=1e-9)
    np.testing.assert_allclose(mapped(matrix, (262, 285)), [256, 256], atol=1e-9)
    np.testing.assert_allclose(matrix, [[256 / 224, 0, -38 * 256 / 224], [0, 256 / 225, -60 * 256 / 225]])


def test_a_face_turned_by_a_quarter() -> None:
    """The first eye above the second: what is right of them in the image is above them in the crop."""
    matrix = crop_matrix([(150, 100), (150, 200)])
    np.testing.assert_allclose(mapped(matrix, (150 + 90, 150)), [128, 0], atol=1e-9)
    np.testing.assert_allclose(mapped(matrix, (150 - 135, 150)), [128, 256], atol=1e-9)


@pytest.mark.parametrize("reading", READINGS)
def test_many_faces_at_once_are_each_like_one(reading: str) -> None:
    eyes = np.random.default_rng(0).uniform(0, 500, (3, 4, 2, 2))
    matrices = crop_matrix(eyes, 128, reading)
    assert matrices.shape == (3, 4, 2, 3)
    np.testing.assert_array_equal(matrices[1, 2], crop_matrix(eyes[1, 2], 128, reading))
    both = np.einsum("...ij,...ej->...ei", matrices[..., :2], eyes) + matrices[..., None, :, 2]
    np.testing.assert_allclose(both, np.broadcast_to(eye_targets(128, reading), both.shape), atol=1e-9)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("degrees", [-45, -17, 0, 30, 45])
def test_the_pixels_of_the_eyes_land_there_too(scale: float, degrees: float) -> None:
    """A soft dot is drawn at each eye, at a place between pixels; its centre of mass in the crop is measured."""
    distance = 114.2857 * scale
    size = int(4 * distance) + 40
    eyes = turned_eyes((size / 2 + 0.3, size / 2 - 0.4), distance, degrees)
    rows, columns = np.mgrid[:size, :size]
    for (x, y), target in zip(eyes, (LEFT, RIGHT), strict=True):
        dot = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (5 * scale) ** 2))
        crop = align(dot.round().astype(np.uint8), eyes, stretch=False)
        assert np.hypot(*(dot_centre(crop) - target)) < 0.1


def test_true_landmarks_of_photos_land_within_half_a_pixel(shared_data: Path) -> None:
    """Photos turned by up to 45 degrees and scaled 0.25 to 4, their true eyes carried along exactly."""
    folder = shared_data / "photos" / "dlib_faces" / "faces"
    root = ElementTree.parse(folder / "testing_with_face_landmarks.xml").getroot()
    generator = np.random.default_rng(1)
    worst, checked = 0.0, 0
    for entry in root.iter("image"):
        photo = decode_image((folder / entry.attrib["file"]).read_bytes())
        for box in list(entry.iter("box"))[:2]:
            points = {int(part.attrib["name"]): (float(part.attrib["x"]), float(part.attrib["y"])) for part in box.iter("part")}
            eyes = np.array([np.mean([points[i] for i in range(first, first + 6)], axis=0) for first in (36, 42)])
            scale, degrees = 4 ** generator.uniform(-1, 1), generator.uniform(-45, 45)
            size = tuple(int(scale * side) for side in (photo.shape[1], photo.shape[0]))
            turn = cv2.getRotationMatrix2D(tuple(eyes.mean(axis=0)), degrees, scale)
            turn[:, 2] += np.array(size) / 2 - eyes.mean(axis=0)
            there = eyes @ turn[:, :2].T + turn[:, 2]
            # The eye alone, on black, through the same two warps as the photo.
            for eye, target in zip(eyes, (LEFT, RIGHT), strict=True):
                rows, columns = np.mgrid[: photo.shape[0], : photo.shape[1]]
                spread = max(2.0, 2 / scale)
                dot = 250 * np.exp(-((columns - eye[0]) ** 2 + (rows - eye[1]) ** 2) / (2 * spread**2))
                warped = cv2.warpAffine(dot.astype(np.float32), turn, size, flags=cv2.INTER_CUBIC)
                crop = align(np.clip(np.rint(warped), 0, 255).astype(np.uint8), there, stretch=False)
                worst = max(worst, float(np.hypot(*(dot_centre(crop) - target))))
                checked += 1
    assert checked >= 8 and worst < 0.5


@pytest.mark.parametrize("shrink", [1.7, 3.3, 4.0, 9.0])
def test_shrinking_does_not_alias(shrink: float) -> None:
    """Stripes finer than the crop's pixels become even grey, at any angle of the face."""
    size = int(300 * shrink)
    for degrees in (0, 31):
        stripes = np.tile(np.array([0, 255], np.uint8), (size, size // 2))
        eyes = turned_eyes((size / 2, size / 2), 114.2857 * shrink, degrees)
        crop = align(stripes, eyes, stretch=False)[40:-40, 40:-40]
        # Of 127: a mean over blocks lets 1 / (pi * blocks a stripe) of it through at most.
        assert crop.std() < (45 if shrink < 2 else 25)
        assert abs(crop.mean() - 127.5) < 2


def test_enlarging_interpolates_linearly() -> None:
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))
    eyes = [(40.0, 50.0), (60.0, 50.0)]
    crop = align(ramp, eyes, stretch=False).astype(float)
    wanted = 2 * (40 + (np.arange(256) - LEFT[0]) * 20 / (RIGHT[0] - LEFT[0]))
    assert np.abs(crop - wanted).max() < 1


def test_beyond_the_image_its_border_goes_on() -> None:
    image = np.full((60, 60), 100, np.uint8)
    image[:, 0] = 30
    image[0, 1:] = 200
    crop = align(image, [(5, 5), (25, 5)], stretch=False)
    assert (crop[150:, :40] == 30).all() and (crop[:40, 150:] == 200).all()
    # A face wholly outside gives the border's own pixels, not an error.
    assert set(np.unique(align(image, [(400, 30), (420, 30)], stretch=False))) == {100}


@pytest.mark.parametrize("distance", [20.0, 90.0, 700.0])
def test_only_the_part_that_is_needed_is_read_and_gives_the_same(distance: float) -> None:
    """A face in a large image and the same face in a piece of it: one and the same crop."""
    generator = np.random.default_rng(2)
    large = cv2.GaussianBlur(generator.integers(0, 256, (2600, 2800, 3), np.uint8), (0, 0), 3)
    eyes = np.array(turned_eyes((1400, 1200), distance, 20))
    margin = int(2.4 * distance) + 60
    left, top = max(0, 1400 - margin) // 60 * 60, max(0, 1200 - margin) // 60 * 60
    piece = large[top : 1200 + margin, left : 1400 + margin]
    whole, part = align(large, eyes, grey=False), align(piece, eyes - (left, top), grey=False)
    assert np.abs(whole.astype(int) - part).max() <= 3


def test_grey_colour_and_stretch() -> None:
    generator = np.random.default_rng(3)
    photo = generator.integers(40, 90, (80, 90, 3), np.uint8)
    eyes = [(30, 30), (60, 33)]
    grey, plain = align(photo, eyes), align(photo, eyes, stretch=False)
    assert grey.shape == (256, 256) and (grey.min(), grey.max()) == (0, 255)
    low, high = int(plain.min()), int(plain.max())
    np.testing.assert_array_equal(grey, np.rint(255 * (plain.astype(float) - low) / (high - low)))
    colour = align(photo, eyes, grey=False, stretch=False)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert colour.shape == (256, 256, 3) and np.abs(luma - plain).max() < 1.6
    one, two = align(photo[..., :1], eyes), align(photo[..., 0], eyes)
    np.testing.assert_array_equal(one, two)
    three = align(photo[..., 0], eyes, grey=False)
    np.testing.assert_array_equal(three, np.repeat(one[..., None], 3, axis=-1))
    assert (align(np.full((50, 50), 9, np.uint8), [(10, 10), (30, 10)]) == 9).all()
    assert align(photo, eyes, side=48).shape == (48, 48)


@pytest.mark.parametrize(
    ("image", "eyes", "words"),
    [
        (np.zeros((50, 50), np.float32), [(1, 1), (9, 1)], "float32"),
        (np.zeros((50, 50, 4), np.uint8), [(1, 1), (9, 1)], "50, 50, 4"),
        (np.zeros((0, 50), np.uint8), [(1, 1), (9, 1)], "0, 50"),
        (np.zeros((50, 50), np.uint8), [(5, 5), (5, 5)], "different"),
        (np.zeros((50, 50), np.uint8), [(5, 5), (float("nan"), 5)], "different"),
        (np.zeros((50, 50), np.uint8), [(5, 5)], "two points"),
        (np.zeros((50, 50), np.uint8), [(5, 5), (1e12, 5)], "too far apart"),
        (np.zeros((50, 50), np.uint8), (("a", 40), (80, 40)), "two points"),
        (np.zeros((50, 50), np.uint8), [(5, 5), (9,)], "two points"),
        (np.zeros((50, 50), np.uint8), [[(5, 5), (9, 5)]], "one face"),
        (np.zeros((50, 50), np.uint8), None, "two points"),
        ("photo.jpg", [(1, 1), (9, 1)], "a str"),
        ([[1, 2]], [(1, 1), (9, 1)], "a list"),
    ],
)
def test_what_is_no_image_or_no_eyes_is_refused(image: Any, eyes: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        align(image, eyes)


def test_unknown_reading_and_side() -> None:
    with pytest.raises(UsageError, match="'E'.*A, B, C, D"):
        eye_targets(reading="E")
    for side in (0, 256.0, "48", 10**6):
        with pytest.raises(UsageError, match=f"side = {side!r}"):
            align(np.zeros((50, 50), np.uint8), [(5, 5), (9, 5)], side=side)  # type: ignore[arg-type]
    assert align(np.zeros((50, 50), np.uint8), [(5, 5), (9, 5)], side=np.int64(48)).shape == (48, 48)  # type: ignore[arg-type]


def test_a_runs_facts_know_every_reading() -> None:
    assert tuple(READINGS) == run_facts.READINGS
