"""What cameras and files do to a face, against OpenCV; and that it is drawn from the seed alone."""

from __future__ import annotations

import cv2
import keras
import numpy as np
import pytest

from emotiw_keras.data import degrade
from emotiw_keras.data.augment import COLUMNS, Augment, Changes, draw_changes
from emotiw_keras.data.face_input import FaceInput

CAMERA = Changes(low_light=0.6, blur=2.0, noise=25.0, jpeg=10, occlude=0.4)


def faces(side: int, channels: int = 1, count: int = 3) -> np.ndarray:
    """Smooth pictures with a few edges, uint8 (count, side, side, channels)."""
    random = np.random.default_rng(5).uniform(0, 255, (count, side, side, channels)).astype(np.float32)
    smooth = [cv2.GaussianBlur(each, (0, 0), 3).reshape(side, side, channels) for each in random]
    found = np.clip((np.stack(smooth) - 127) * 6 + 120, 0, 255)
    found[:, side // 3 : side // 2, side // 4 :] += 60
    return np.clip(found, 0, 255).astype(np.uint8)


def computed(values: object) -> np.ndarray:
    return keras.ops.convert_to_numpy(values)


@pytest.mark.parametrize("side", [48, 53])
@pytest.mark.parametrize("sigma", [0.4, 1.5, 3.0])
def test_blur_is_that_of_opencv(side: int, sigma: float) -> None:
    images = faces(side).astype(np.float32)
    got = computed(degrade.blurred(images, np.array([sigma, 0, sigma], np.float32), 3.0))
    for each in (0, 2):
        expected = cv2.GaussianBlur(images[each, ..., 0].astype(np.uint8), (0, 0), sigma)
        assert np.abs(got[each, ..., 0] - expected).max() <= 1.01
    np.testing.assert_allclose(got[1], images[1], atol=1e-3)


def libjpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What OpenCV, which takes the channels the other way round, reads of the file that it writes."""
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    found = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE if image.shape[-1] == 1 else cv2.IMREAD_COLOR)
    return np.asarray(found).reshape(image.shape)[..., ::-1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 9, 48, 67, 96])  # blocks of colour are 16 pixels wide
def test_jpeg_is_that_of_libjpeg(channels: int, side: int) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (3, side, side, channels), np.uint8)
    # of evenly tinted blocks the colour falls on halves at some qualities, 30 among them
    tinted = (np.clip(faces(side, channels).astype(int), 60, 190) + [40, 0, -20][:channels]).astype(np.uint8)
    images, qualities = np.concatenate([faces(side, channels), rough, tinted]), [5, 30, 50, 75, 90]
    shown, asked = np.tile(images, (5, 1, 1, 1)), np.repeat(qualities, len(images))
    off = np.abs(
        computed(degrade.compressed(shown.astype(np.float32), asked.astype(np.float32)))
        - np.stack([libjpeg(image, quality) for image, quality in zip(shown, asked.tolist(), strict=True)])
    )
    # float32 does not hold the largest sums to the last digit
    assert (off > 0).mean() < 2e-4


def test_noise_has_its_deviation_and_stays_the_same() -> None:
    images = np.full((3, 64, 64, 1), 100, np.float32)
    places = np.array([0, degrade.NOISE_VALUES - 5, 0], np.float32)
    got = computed(degrade.noisy(images, np.array([15, 15, 0], np.float32), places))
    assert got[0].std() == pytest.approx(15, rel=0.05) and got[0].mean() == pytest.approx(100, abs=1)
    assert (got[2] == 100).all() and abs(np.corrcoef(got[0].ravel(), got[1].ravel())[0, 1]) < 0.05
    # begun five before the end of the bank it goes on at its start
    np.testing.assert_array_equal(got[1].ravel()[5:], got[0].ravel()[:-5])


def test_little_light() -> None:
    levels = np.array([0, 100, 255], np.float32).reshape(1, 1, 3, 1)
    got = computed(degrade.darkened(np.repeat(levels, 2, axis=0), np.array([0, 0.5], np.float32)))
    np.testing.assert_allclose(got[0], levels[0], atol=1e-3)
    np.testing.assert_allclose(got[1].ravel(), 127.5 * (np.array([0, 100, 255]) / 255) ** 1.5, atol=1e-3)


def test_what_is_drawn_keeps_to_the_settings_and_leaves_old_draws_alone() -> None:
    drawn = draw_changes(4000, CAMERA, (1, 2, 3))
    column = {name: drawn[:, COLUMNS.index(name)] for name in COLUMNS}
    for name, limit in (("low_light", 0.6), ("blur", 2.0), ("noise", 25.0)):
        assert (column[name] > 0).mean() == pytest.approx(0.5, abs=0.03) and 0.95 * limit < column[name].max() <= limit
    assert (column["jpeg"] < 100).mean() == pytest.approx(0.5, abs=0.03) and set(column["jpeg"]) == set(range(10, 101))
    bands = np.stack([column["band_height"], column["band_width"]])[:, column["band_height"] > 0]
    assert bands.shape[1] / 4000 == pytest.approx(0.4, abs=0.03) and (bands.max(axis=0) == 1).all()
    assert bands.min() >= 0.15 and 0.39 < bands.min(axis=0).max() <= 0.4
    assert draw_changes(4000, Changes(blur=1.0, degrade=1.0), (1, 2, 3))[:, COLUMNS.index("blur")].min() > 0
    np.testing.assert_array_equal(drawn, draw_changes(4000, CAMERA, (1, 2, 3)))
    np.testing.assert_array_equal(drawn[:, :11], draw_changes(4000, Changes(), (1, 2, 3))[:, :11])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_faces_are_degraded_in_grey_levels_where_resize_equals_crop(order: str) -> None:
    """As FaceVGG has it: 48 pixels that are not resized, here with a mean and a deviation to each channel."""
    layer = FaceInput(
        channels="rgb", resize=48, crop=48, channel_order=order, mean=(10.0, 20.0, 30.0), std=(50.0, 60.0, 70.0)
    )  # fmt: skip
    images = faces(48, channels=3)
    inputs = layer(images)
    drawn = np.zeros((3, len(COLUMNS)), np.float32)
    drawn[:, COLUMNS.index("zoom")] = drawn[:, COLUMNS.index("contrast")] = 1
    drawn[:, COLUMNS.index("jpeg")] = [100, 10, 100]
    drawn[2, COLUMNS.index("blur")] = 1.5
    got = computed(Augment.of(Changes(jpeg=10, blur=2.0), layer)(inputs, drawn)) * np.array(layer.std) + np.array(layer.mean)
    got = got if order == "rgb" else got[..., ::-1]
    np.testing.assert_allclose(got[0], images[0], atol=1e-3)
    assert np.abs(got[1] - libjpeg(images[1], 10)).mean() < 0.01
    assert np.abs(got[2] - cv2.GaussianBlur(images[2], (0, 0), 1.5)).max() <= 1.01


def test_a_grey_face_stays_grey_in_three_channels_and_its_band_is_one_level() -> None:
    layer = FaceInput(channels="grey", resize=32, crop=32, mean=(100.0, 110.0, 120.0), std=(50.0, 50.0, 50.0))
    drawn = draw_changes(3, Changes(noise=20.0, occlude=1.0, degrade=1.0), (0, 1, 0))
    got = computed(Augment.of(Changes(noise=20.0), layer)(layer(faces(32)), drawn)) * 50 + np.array((100.0, 110.0, 120.0))
    np.testing.assert_allclose(got, np.repeat(got[..., :1], 3, axis=-1), atol=1e-3)
    np.testing.assert_allclose(got, got.round(), atol=1e-3)
    covered = computed(Augment.of(Changes(occlude=1.0), layer)(layer(faces(32)), drawn)) * 50 + np.array((100.0, 110.0, 120.0))
    level = drawn[:, COLUMNS.index("band_level")].round()
    share = (np.abs(covered[..., 0] - level[:, None, None]) < 0.01).mean(axis=(1, 2))
    assert (share > 0.12).all() and (share < 0.5).all()


@pytest.mark.parametrize("crop", [(4, 4, 0), (0, 9, 0), (4, 4, 1), (9, 0, 1)])
@pytest.mark.parametrize("channels, order", [("grey", "bgr"), ("rgb", "rgb"), ("rgb", "bgr")])
def test_a_mean_image_is_put_back_as_it_lay_under_the_crop(channels: str, order: str, crop: tuple[int, int, int]) -> None:
    mean = (np.linspace(90, 150, 76)[None, :, None] + [0, 5, -5] + np.zeros((76, 1, 1))).astype(np.float32)
    layer = FaceInput(channels=channels, resize=76, crop=67, channel_order=order, mean_image=mean)
    images, crops = faces(76, channels=1 if channels == "grey" else 3), np.array([crop] * 3, np.int32)
    changes = Changes(low_light=0.5, degrade=1.0)
    augment, drawn = Augment.of(changes, layer), draw_changes(3, changes, (0, 1, 0))
    inputs = layer(images, crops)

    def cut(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels[..., crop[0] : crop[0] + 67, crop[1] : crop[1] + 67, :]
        return pixels[..., ::-1, :] if crop[2] else pixels

    np.testing.assert_allclose(computed(augment.levels(inputs, crops)), cut(images), atol=1e-3)
    dark = computed(degrade.darkened(cut(images).astype(np.float32), drawn[:, COLUMNS.index("low_light")])).round()
    expected = (dark[..., ::-1] if order == "bgr" else dark) - cut(mean)
    np.testing.assert_allclose(computed(augment(inputs, drawn, crops)), expected, atol=1e-3)
    if crop == (4, 4, 0):
        np.testing.assert_array_equal(computed(augment(inputs, drawn)), computed(augment(inputs, drawn, crops)))
