"""The layer from bytes to network input: exact, the same on every backend, right at the borders of a crop."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.face_input import FaceInput, draw_crops
from emotiw_keras.data.preprocessing_settings import load_mean_image, settings_for, ten_crops
from emotiw_keras.data.resize import resize, resize_weights, to_grey
from emotiw_keras.errors import DataError, ModelError
from emotiw_keras.models.registry import get_spec


def faces(n: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def run(layer: FaceInput, images: np.ndarray, crops: np.ndarray | None = None) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer(images, crops))


def by_hand(image: np.ndarray, layer: FaceInput, top: int, left: int, mirror: int) -> np.ndarray:
    """One image in NumPy, step by step: host grey, host resize, slice, mirror, order, mean."""
    face = to_grey(image) if layer.channels == "grey" else image
    face = resize(face, layer.resize, layer.resize).astype(np.float64)
    if layer.min_max:
        face = (face - face.min()) * 255 / max(face.max() - face.min(), 1)
    face = face[top : top + layer.crop, left : left + layer.crop]
    face = face[:, ::-1] if mirror else face
    face = np.repeat(face, 3, axis=2) if face.shape[2] == 1 else face
    face = face[..., ::-1] if layer.channel_order == "bgr" else face
    return (face - np.array(layer.mean)) / np.array(layer.std)


@pytest.mark.parametrize("channels", ["grey", "rgb"])
@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize("min_max", [False, True])
@pytest.mark.parametrize("shape", [(48, 48, 1), (48, 48, 3), (64, 64, 3), (90, 70, 3)])
def test_equals_the_steps_done_by_hand(channels: str, order: str, min_max: bool, shape: tuple[int, int, int]) -> None:
    layer = FaceInput(
        channels=channels, resize=64, crop=57, min_max=min_max, channel_order=order, mean=(1.5, 2.0, 3.25), std=(1.0, 2.0, 4.0)
    )
    images = faces(4, *shape)
    crops = np.array([[0, 0, 0], [7, 7, 1], [0, 7, 1], [3, 4, 0]], np.int32)
    got = run(layer, images, crops)
    assert got.shape == (4, 57, 57, 3)
    for i, (top, left, mirror) in enumerate(crops):
        np.testing.assert_allclose(got[i], by_hand(images[i], layer, top, left, mirror), atol=2e-4)


def test_centre_crop_is_a_crop_at_half_the_room() -> None:
    layer = FaceInput(resize=64, crop=57)
    images = faces(3, 48, 48, 1)
    np.testing.assert_array_equal(run(layer, images), run(layer, images, np.array([[3, 3, 0]] * 3, np.int32)))


def test_resize_on_the_device_gives_the_bytes_of_the_host() -> None:
    for height, width, side in [(48, 48, 256), (350, 350, 256), (17, 301, 64), (64, 64, 64), (1000, 9, 76)]:
        images = faces(2, height, width, 1)
        device = run(FaceInput(resize=side, crop=side, channel_order="rgb"), images)[..., :1]
        host = np.stack([resize(image, side, side) for image in images])
        np.testing.assert_array_equal(device, host)


def test_an_eager_call_a_compiled_graph_and_a_pipeline_agree_bit_for_bit() -> None:
    layer = FaceInput(channels="grey", resize=64, crop=57, mean=(104.0, 117.0, 123.0))
    images, crops = faces(5, 48, 48, 3), draw_crops(5, 7, mirror=True, seed=(1, 2))
    eager = run(layer, images, crops)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        np.testing.assert_array_equal(tf.function(layer)(images, crops), eager)
        pipeline = tf.data.Dataset.from_tensor_slices((images, crops)).batch(2).map(lambda i, c: layer(i, c))
        np.testing.assert_array_equal(np.concatenate(list(pipeline.as_numpy_iterator())), eager)
    elif keras.backend.backend() == "jax":
        import jax

        np.testing.assert_array_equal(jax.jit(lambda i, c: layer(i, c))(images, crops), eager)
    else:
        pytest.skip("the torch backend compiles nothing here")


def test_resize_weights_are_multiples_of_a_power_of_two_and_sum_to_one() -> None:
    for source, target in [(48, 256), (350, 256), (4000, 256), (1, 8), (8, 1)]:
        weights = resize_weights(source, target)
        np.testing.assert_array_equal(weights * 2**15, np.rint(weights * 2**15))
        np.testing.assert_array_equal(weights.sum(axis=1), np.ones(target))
        assert weights.min() >= 0


def test_resize_agrees_with_pillow_within_two_grey_levels() -> None:
    for height, width, side in [(48, 48, 256), (350, 300, 256), (640, 480, 100)]:
        image = faces(1, height, width, 3)[0]
        other = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(resize(image, side, side).astype(int) - other).max() <= 2


def test_grey_is_pillows_luma() -> None:
    image = faces(1, 40, 30, 3)[0]
    np.testing.assert_array_equal(to_grey(image)[..., 0], np.asarray(Image.fromarray(image).convert("L")))


def test_crops_depend_on_the_seed_alone_and_fill_their_range() -> None:
    crops = draw_crops(20_000, 29, mirror=True, seed=(7, 1, 3))
    np.testing.assert_array_equal(crops, draw_crops(20_000, 29, mirror=True, seed=(7, 1, 3)))
    assert (crops != draw_crops(20_000, 29, mirror=True, seed=(7, 1, 4))).any()
    assert set(crops[:, 0]) == set(crops[:, 1]) == set(range(30))
    assert 0.48 < crops[:, 2].mean() < 0.52
    assert not draw_crops(100, 29, mirror=False, seed=(0,))[:, 2].any()


def test_ten_crops_are_corners_and_centre_and_their_mirrors() -> None:
    layer = FaceInput(resize=64, crop=57, channel_order="rgb")
    image = faces(1, 64, 64, 1)
    got = run(layer, np.repeat(image, 10, axis=0), ten_crops(layer.room))[..., 0]
    whole = image[0, ..., 0].astype(np.float32)
    places = [(0, 0), (0, 7), (7, 0), (7, 7), (3, 3)]
    for i, (top, left) in enumerate(places):
        np.testing.assert_array_equal(got[i], whole[top : top + 57, left : left + 57])
        np.testing.assert_array_equal(got[i + 5], got[i][:, ::-1])


@pytest.mark.parametrize("place", ["resize", "crop"])
def test_a_mean_image_is_subtracted_where_it_lies(place: str, tmp_path) -> None:
    side = 64 if place == "resize" else 57
    mean = np.random.default_rng(3).uniform(0, 255, (3, side, side)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    layer = FaceInput(
        channels="rgb", resize=64, crop=57, mean_image=load_mean_image(tmp_path / "mean.npy"), mean_image_at=place
    )
    image = faces(1, 64, 64, 3)
    got = run(layer, image, np.array([[2, 5, 1]], np.int32))[0]
    pixels, mean = image[0, ..., ::-1].astype(np.float32), mean.transpose(1, 2, 0)
    if place == "resize":
        expected = (pixels - mean)[2:59, 5:62][:, ::-1]
    else:
        expected = pixels[2:59, 5:62][:, ::-1] - mean
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_mean_image_serves_grey_faces_too() -> None:
    mean = np.random.default_rng(3).uniform(0, 255, (64, 64, 3)).astype(np.float32)
    image = faces(1, 64, 64, 1)
    got = run(FaceInput(resize=64, crop=64, mean_image=mean), image)[0]
    np.testing.assert_allclose(got, image[0].astype(np.float32) - mean, atol=1e-3)


def test_a_constant_face_stays_finite_under_min_max() -> None:
    got = run(FaceInput(resize=64, crop=57, min_max=True), np.full((1, 48, 48, 1), 77, np.uint8))
    assert (got == 0).all()


def test_half_precision_policies_leave_the_pixels_in_float32() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = FaceInput(resize=64, crop=57, channel_order="rgb")
        got = layer(faces(1, 64, 64, 1))
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    assert layer.dtype_policy.name == "float32"


def test_settings_and_config_rebuild_the_same_layer() -> None:
    layer = FaceInput(channels="rgb", resize=64, crop=57, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), channel_order="rgb")
    images = faces(2, 48, 48, 3)
    for other in (FaceInput.from_settings(layer.settings()), FaceInput.from_config(layer.get_config())):
        np.testing.assert_array_equal(run(other, images), run(layer, images))


def test_grey_input_gives_one_channel() -> None:
    got = run(FaceInput(resize=64, crop=57, mean=(5.0, 6.0, 7.0), input_channels=1), faces(1, 64, 64, 3))
    assert got.shape == (1, 57, 57, 1)


def test_settings_come_from_the_models_facts() -> None:
    settings = settings_for(get_spec("alexnet"))
    assert (settings["resize"], settings["crop"], settings["channel_order"]) == (256, 227, "bgr")
    np.testing.assert_allclose(settings["mean"], (104.00699, 116.66877, 122.67891))
    assert settings_for(get_spec("alexnet"), crop=67)["resize"] == 76


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": "hsv"},
        {"crop": 65},
        {"crop": 0},
        {"channel_order": "gbr"},
        {"input_channels": 2},
        {"mean_image": np.zeros((3, 3, 3))},
        {"crop": 20.7},
        {"resize": "64"},
        {"mean": 1.0},
        {"mean": np.array(1.0)},
        {"mean": (1.0, 2.0)},
        {"std": "abc"},
        {"std": (1.0, True, 1.0)},
        {"input_channels": 1.0},
        {"mean_image": "mean.npy"},
        {"seed": 0.5, "mirror": True},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError):
        FaceInput(**{"resize": 64, "crop": 57, **wrong})


def test_a_mean_image_of_another_shape_is_refused(tmp_path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(7))
    with pytest.raises(DataError, match=r"\(7,\)"):
        load_mean_image(tmp_path / "flat.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(DataError, match=r"text.npy: no whole .npy file; .* `emotiw convert` makes it of Caffe's"):
        load_mean_image(tmp_path / "text.npy")


def test_it_draws_crops_itself_in_training_alone() -> None:
    """As the first layer of a model for `fit`: a place of its own for each face, the centre where nothing is trained."""
    images = faces(40, 20, 20, 1)
    layer = FaceInput(resize=20, crop=14, channels="grey", input_channels=1, random_crop=True, mirror=True, seed=1)
    still = keras.ops.convert_to_numpy(layer(images))
    np.testing.assert_array_equal(still, images[:, 3:17, 3:17].astype(np.float32))
    found = [keras.ops.convert_to_numpy(layer(images, training=True)) for _ in range(2)]
    assert not np.array_equal(*found)
    places = [(top, left, mirror) for top in range(7) for left in range(7) for mirror in (0, 1)]
    crops = {(t, s, m): images[:, t : t + 14, s : s + 14][:, :, :: 1 - 2 * m] for t, s, m in places}
    taken = [next(place for place in places if np.array_equal(crops[place][i], found[0][i])) for i in range(40)]
    assert len(set(taken)) > 20 and {mirror for _, _, mirror in taken} == {0, 1}
    same = FaceInput.from_config(layer.get_config())
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(same(images, training=True)), found[0])
    assert not FaceInput(resize=20, crop=14).variables and "random_crop" not in layer.settings()


def test_of_takes_the_facts_of_a_network() -> None:
    layer = FaceInput.of("vgg_cnn_m", channels="rgb", random_crop=True, seed=0)
    assert (layer.resize, layer.crop, layer.channel_order, layer.channels) == (256, 224, "bgr", "rgb")
    assert layer.mean == (102.717, 115.773, 123.509)
    assert FaceInput.of("alexnet", crop=np.int64(67), mean=np.zeros(3, np.float32)).crop == 67  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"face input: crop = 20\.7: expected a whole number from 1 to 1024"):
        FaceInput.of("alexnet", crop=20.7)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="face input: resize = 1000000: expected a whole number from 1 to 2048"):
        FaceInput(resize=10**6, crop=14)
    with pytest.raises(ModelError, match="unknown model"):
        FaceInput.of("alexnett")
