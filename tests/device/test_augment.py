"""Changes of training images: what is drawn, and what is made of it, against the same computed by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from emotiw_keras.data.augment import COLUMNS, RESAMPLE_STEPS, Augment, Changes, draw_changes
from emotiw_keras.data.resize import resize_weights

SIDE = 12
ALL = Changes(rotate=30.0, zoom=0.2, shift=0.1, brightness=0.3, contrast=0.4, erase=0.5, resample=4.0)


def random_images(count: int = 4, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, SIDE, SIDE, channels)).astype("float32")


def nothing(count: int) -> np.ndarray:
    """Draws that leave everything as it is."""
    drawn = np.zeros((count, len(COLUMNS)), np.float32)
    drawn[:, [COLUMNS.index("zoom"), COLUMNS.index("contrast")]] = 1
    drawn[:, COLUMNS.index("jpeg")] = 100
    return drawn


def changed(changes: Changes, images: np.ndarray, **columns: object) -> np.ndarray:
    drawn = nothing(len(images))
    for name, values in columns.items():
        drawn[:, COLUMNS.index(name)] = values
    return keras.ops.convert_to_numpy(Augment(changes, (64.0,) * images.shape[-1])(images, drawn))


def test_draws_stay_within_the_settings_and_follow_the_seed() -> None:
    drawn = draw_changes(5000, ALL, (1, 2, 3))
    assert drawn.shape == (5000, len(COLUMNS)) and drawn.dtype == np.float32
    limits = {"angle": (0, np.deg2rad(30)), "zoom": (1, 0.2), "down": (0, 0.1), "right": (0, 0.1)}
    limits |= {"brightness": (0, 0.3), "contrast": (1, 0.4)}
    for name, (middle, reach) in limits.items():
        values = drawn[:, COLUMNS.index(name)] - middle
        assert abs(values).max() <= reach * (1 + 1e-6)
        assert values.std() == pytest.approx(reach / np.sqrt(3), rel=0.05)
    top, left, height, width = drawn[:, 6:10].T
    blanked = height > 0
    assert blanked.mean() == pytest.approx(0.5, abs=0.03)
    assert ((top + height)[blanked] <= 1 + 1e-6).all() and ((left + width)[blanked] <= 1 + 1e-6).all()
    assert (height * width)[blanked].max() <= 0.2 + 1e-6
    assert set(drawn[:, 10]) == set(range(RESAMPLE_STEPS))
    np.testing.assert_array_equal(drawn, draw_changes(5000, ALL, (1, 2, 3)))
    assert not np.array_equal(drawn, draw_changes(5000, ALL, (1, 2, 4)))


def test_draws_of_nothing_change_nothing() -> None:
    images = random_images(channels=3)
    drawn = nothing(4)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(Augment(ALL, (64.0,) * 3)(images, drawn)), images, atol=1e-5)


def test_a_quarter_turn_is_exact() -> None:
    images = random_images()
    turned = changed(Changes(rotate=90.0), images, angle=[np.pi / 2, -np.pi / 2, np.pi, 0])
    expected = [np.rot90(images[0], 1), np.rot90(images[1], -1), np.rot90(images[2], 2), images[3]]
    np.testing.assert_allclose(turned, np.stack(expected), atol=1e-4)


def test_a_shift_by_whole_pixels_moves_and_fills_with_the_mean() -> None:
    images = random_images(2)
    moved = changed(Changes(shift=0.5), images, down=[2 / SIDE, 0], right=[0, -3 / SIDE])
    np.testing.assert_allclose(moved[0, 2:], images[0, :-2], atol=1e-4)
    np.testing.assert_allclose(moved[0, :2], 0, atol=1e-4)
    np.testing.assert_allclose(moved[1, :, :-3], images[1, :, 3:], atol=1e-4)
    np.testing.assert_allclose(moved[1, :, -3:], 0, atol=1e-4)


def test_zoom_enlarges_about_the_middle() -> None:
    image = np.zeros((1, SIDE, SIDE, 1), np.float32)
    image[0, 4:8, 4:8] = 1
    twice = changed(Changes(zoom=0.9), image, zoom=2.0)
    assert twice.sum() == pytest.approx(4 * image.sum(), rel=0.05)
    np.testing.assert_allclose(twice, twice[:, ::-1, ::-1], atol=1e-5)


def test_brightness_and_contrast_in_grey_levels() -> None:
    images = random_images(2)
    got = changed(Changes(brightness=0.3, contrast=0.4), images, brightness=[0.1, 0], contrast=[1, 1.25])
    np.testing.assert_allclose(got[0], images[0] + 0.1 * 255 / 64, rtol=1e-5)
    np.testing.assert_allclose(got[1], images[1] * 1.25, rtol=1e-5)


def test_the_rectangle_is_blanked_and_nothing_else() -> None:
    images = random_images(1) + 5
    got = changed(Changes(erase=1.0), images, top=2 / SIDE, left=3 / SIDE, height=4 / SIDE, width=5 / SIDE)
    assert (got[0, 2:6, 3:8] == 0).all()
    assert (got == 0).sum() == 20


def test_resampling_is_the_two_resizes() -> None:
    images = random_images(2, channels=3)
    got = changed(Changes(resample=4.0), images, resample=[0, RESAMPLE_STEPS - 1])
    through = resize_weights(3, SIDE) @ resize_weights(SIDE, 3)
    np.testing.assert_allclose(got[0], images[0], atol=1e-5)
    np.testing.assert_allclose(got[1], np.einsum("rh,hwc,kw->rkc", through, images[1], through), atol=1e-5)
