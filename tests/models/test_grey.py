"""Networks folded to one channel answer grey images as the networks they come from."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras import models
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.preprocessing_settings import settings_for
from emotiw_keras.errors import ModelError
from emotiw_keras.models import build, get_spec, model_names
from emotiw_keras.models.grey_folding import fold_to_grey, grey_twin

UNPADDED = [name for name in model_names() if name not in ("alexnet_owt", "face_vgg", "pathnet", "senet50")]
SMALL = {"weights": None, "classes": 42, "input_shape": (67, 67, 3), "width": 0.1, "classifier_activation": None}
MEAN = (104.0, 117.0, 123.0)


def network(registered: str, **kwargs: object) -> keras.Model:
    """With biases other than 0, which the fold must keep."""
    model = getattr(models, get_spec(registered).class_name)(**{**SMALL, **kwargs})
    rng = np.random.default_rng(4)
    for variable in model.weights:
        if variable.name == "bias":
            variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


def grey_images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (count, side, side, 1)).astype("float32")


def normalised(grey: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What the network of three channels takes, and what the folded one takes."""
    colour = ((grey - np.asarray(mean)) / np.asarray(std)).astype("float32")
    return colour, np.ascontiguousarray(colour[..., :1])


def assert_equal(model: keras.Model, folded: keras.Model, colour: np.ndarray, grey: np.ndarray) -> None:
    expected, found = (keras.ops.convert_to_numpy(net(x, training=False)) for net, x in ((model, colour), (folded, grey)))
    assert np.std(expected, axis=0).max() > 0, "the answer does not depend on the image"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0), (60.0, 55.0, 64.0)])
@pytest.mark.parametrize("name", UNPADDED)
def test_equal_on_grey_images(name: str, std: tuple[float, ...]) -> None:
    model, mean = network(name), get_spec(name).mean
    before = model.get_weights()
    folded = fold_to_grey(model, mean, std)
    assert folded.input_shape == (None, 67, 67, 1)
    assert folded.count_params() < model.count_params()
    assert_equal(model, folded, *normalised(grey_images(3, 67), mean, std))
    for kept, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, was)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients by TensorFlow's tape")
@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0), (60.0, 55.0, 64.0)])
@pytest.mark.parametrize("name", ["alexnet", "vgg_cnn_m_2048", "squeezenet"])
def test_a_twin_of_one_channel_moves_the_same_variables_the_same_way(name: str, std: tuple[float, ...]) -> None:
    import tensorflow as tf

    # in float64: in float32 a rounding can turn a ReLU or a maximum the other way, and with it a slope
    keras.config.set_dtype_policy("float64")
    try:
        model, mean = network(name), get_spec(name).mean
        twin = grey_twin(model, mean, std)
    finally:
        keras.config.set_dtype_policy("float32")
    assert twin is not None and twin.input_shape == (None, 67, 67, 1)
    assert [id(v) for v in twin.trainable_variables] == [id(v) for v in model.trainable_variables]
    colour, grey = normalised(grey_images(3, 67), mean, std)
    assert_equal(model, twin, colour, grey)
    slopes = []
    for net, x in ((model, colour), (twin, grey)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(net(x, training=False)[:, :5] ** 2)
        slopes.append(tape.gradient(loss, [variable.value for variable in model.trainable_variables]))
    for variable, expected, found in zip(model.trainable_variables, *slopes, strict=True):
        scale = float(tf.reduce_max(abs(expected)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale, err_msg=variable.path)
    assert slopes[0][0].shape[2] == 3 and float(tf.reduce_max(abs(slopes[0][0]))) > 0


def test_a_frozen_first_layer_stays_frozen_in_the_twin() -> None:
    model = network("alexnet")
    model.get_layer("conv1").trainable = False
    twin = grey_twin(model, MEAN)
    assert twin is not None and [v.path for v in twin.trainable_variables] == [v.path for v in model.trainable_variables]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_twin_says_as_the_model_does_whether_it_gives_logits(activation: str | None) -> None:
    model = network("alexnet", classifier_activation=activation)
    twin = grey_twin(model, MEAN)
    assert twin is not None and twin.layers[-1].activation is model.layers[-1].activation


def test_a_network_of_one_convolution_has_a_twin() -> None:
    model = network("alexnet")
    start = keras.Model(model.inputs[0], model.get_layer("conv1").output)
    colour, grey = normalised(grey_images(3, 67), MEAN, (1.0, 1.0, 1.0))
    twin = grey_twin(start, MEAN)
    assert twin is not None
    assert_equal(start, twin, colour, grey)


def test_no_twin_where_one_channel_is_not_the_same() -> None:
    padded = models.AlexNetOWT(**SMALL)
    assert grey_twin(padded, MEAN) is None and grey_twin(padded, (1.0, 1.0, 1.0)) is None
    assert grey_twin(network("alexnet", input_shape=(67, 67, 1)), MEAN) is None


def test_equal_at_full_size() -> None:
    model = network("squeezenet", classes=1000, width=1.0, input_shape=None)
    folded = fold_to_grey(model, MEAN)
    assert model.count_params() - folded.count_params() == 2 * 49 * 96
    assert_equal(model, folded, *normalised(grey_images(2, 227), MEAN, (1, 1, 1)))


def test_padded_networks_fold_where_the_means_are_equal_and_nowhere_else() -> None:
    spec = get_spec("alexnet_owt")
    model = network("alexnet_owt")
    with pytest.raises(ModelError, match="alexnet_owt: conv1 pads with zeros.* the means differ \\(123.675, ") as error:
        fold_to_grey(model, spec.mean, spec.std)
    assert "\n" not in str(error.value)
    even = (129.5, 129.5, 129.5)
    assert_equal(model, fold_to_grey(model, even, spec.std), *normalised(grey_images(3, 67), even, spec.std))


def test_several_first_convolutions_fold_alike() -> None:
    model = network("pathnet", path=[[1, 4], [0], [2]])
    folded = fold_to_grey(model, (128.0,) * 3, (64.0,) * 3)
    assert folded.get_layer("layer1_module04").kernel.shape[2] == 1
    assert_equal(model, folded, *normalised(grey_images(3, 67), (128.0,) * 3, (64.0,) * 3))
    with pytest.raises(ModelError, match="layer1_module01 pads with zeros.* the means differ"):
        fold_to_grey(model, MEAN)


def test_the_folded_network_takes_what_face_input_gives_for_one_channel() -> None:
    spec = get_spec("vgg_cnn_m")
    three, one = (FaceInput.from_settings(settings_for(spec, crop=67, input_channels=n)) for n in (3, 1))
    model = network("vgg_cnn_m")
    faces = np.random.default_rng(8).integers(0, 256, (3, 48, 48, 1), np.uint8)
    assert_equal(model, fold_to_grey(model, three.mean, three.std), three(faces), one(faces))


@pytest.mark.parametrize("changes", [{"include_top": False}, {"include_top": False, "pooling": "avg"}, {"name": "mine"}])
def test_other_heads_and_names(changes: dict) -> None:
    model = network("squeezenet_v1_1", **changes)
    folded = fold_to_grey(model, MEAN)
    assert folded.name == model.name
    assert folded.output_shape == model.output_shape
    assert_equal(model, folded, *normalised(grey_images(2, 67), MEAN, (1, 1, 1)))


@pytest.mark.parametrize("name", ["alexnet", "squeezenet"])
def test_its_weight_file_fits_the_network_of_one_channel(name: str, tmp_path: Path) -> None:
    folded = fold_to_grey(network(name), MEAN)
    folded.save_weights(tmp_path / "grey.weights.h5")
    again = build(name, **{**SMALL, "input_shape": (67, 67, 1), "weights": tmp_path / "grey.weights.h5"})
    for found, expected in zip(again.get_weights(), folded.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_each_layer_keeps_its_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = network("squeezenet")
    keras.config.set_dtype_policy("float32")
    folded = fold_to_grey(model, MEAN)
    kept = [(layer.name, layer.dtype_policy.name) for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert kept == [(n.name, n.dtype_policy.name) for n in folded.layers if not isinstance(n, keras.layers.InputLayer)]
    assert {policy for _, policy in kept} == {"mixed_bfloat16", "float32"}


def rescaled() -> keras.Model:
    image = keras.Input((67, 67, 3))
    return network("alexnet", input_tensor=keras.layers.Rescaling(0.5)(image), input_shape=None)


def without_bias() -> keras.Model:
    image = keras.Input((9, 9, 3))
    return keras.Model(image, keras.layers.Conv2D(4, 3, use_bias=False, data_format="channels_last", name="first")(image))


def of_two_inputs() -> keras.Model:
    inputs = [keras.Input((9, 9, 3)), keras.Input((9, 9, 3))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: network("alexnet", input_shape=(67, 67, 1)),
            "alexnet takes \\(None, 67, 67, 1\\); only a network of one input",
        ),
        (of_two_inputs, "only a network of one input"),
        (rescaled, "gives its input to rescaling.* \\(Rescaling\\); only a network whose first layer is a convolution"),
        (without_bias, "first has no bias"),
    ],
)
def test_other_networks_are_refused(make, words: str) -> None:
    with pytest.raises(ModelError, match=words) as error:
        fold_to_grey(make(), MEAN)
    assert "\n" not in str(error.value)


def test_without_bias_equal_means_are_enough() -> None:
    model = without_bias()
    grey = grey_images(2, 9)
    assert_equal(model, fold_to_grey(model, (9, 9, 9), (1, 2, 4)), *normalised(grey, (9, 9, 9), (1, 2, 4)))


@pytest.mark.parametrize(("mean", "std"), [((1, 2), (1, 1, 1)), (MEAN, (1, 0, 1)), ((1, 2, float("nan")), (1, 1, 1))])
def test_impossible_means(mean: tuple, std: tuple) -> None:
    with pytest.raises(ModelError, match="expected three numbers each, std above 0"):
        fold_to_grey(network("alexnet"), mean, std)
