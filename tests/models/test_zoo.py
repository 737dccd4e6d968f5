"""One contract for every network, on narrow ones with 42 classes; it holds on every Keras backend."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras import models
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.models import build, get_spec, model_names

CLASSES = 42
SHAPE = (67, 67, 3)
WIDTH = 0.1
NAMES = model_names()
# What a network takes beyond the signature of keras.applications, and where it differs: for these nothing is published.
OWN = {
    "face_vgg": {"weights": None},
    "pathnet": {"weights": None, "path": None, "layers": 3, "modules": 10, "active": 3, "filters": 20}
    | {"combine": "sum", "reduce": "pool"},
}
# Hundreds of layers take seconds to build: of these two what is checked twice over is a slow test.
LARGE = ("senet50", "efficientnet_lite0")
FEWER = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in NAMES]


def narrow(name: str, **kwargs: object) -> keras.Model:
    settings = {"weights": None, "classes": CLASSES, "input_shape": SHAPE, "width": WIDTH}
    return build(name, **{**settings, **kwargs})


def images(count: int = 3, shape: tuple[int, ...] = SHAPE, spread: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(5).standard_normal((count, *shape)) * spread).astype("float32")


def output(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x, training=False))


def settle(model: keras.Model, x: np.ndarray) -> None:
    """Give batch normalisations the statistics of `x`, so that the signal keeps its size as in a trained network."""
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalisations:
        layer.momentum = 0.0
    if normalisations:
        model(x, training=True)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_of_42_classes(name: str) -> None:
    model = narrow(name)
    y = output(model, images())
    assert model.name == name
    assert y.shape == (3, CLASSES)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-5)
    assert np.std(y, axis=0).max() > 0, "the answer does not depend on the image"


@pytest.mark.parametrize("name", NAMES)
def test_compiled_prediction_is_the_eager_one(name: str) -> None:
    model = narrow(name, classifier_activation=None)
    x = images()
    np.testing.assert_allclose(model.predict(x, verbose=0), output(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_config_and_clone_make_the_same_network(name: str) -> None:
    model = narrow(name)
    x = images()
    for other in (keras.Model.from_config(model.get_config()), keras.models.clone_model(model)):
        assert [layer.get_config() for layer in other.layers] == [layer.get_config() for layer in model.layers]
        other.set_weights(model.get_weights())
        np.testing.assert_array_equal(output(other, x), output(model, x))


@pytest.mark.parametrize("name", NAMES)
def test_keras_file_and_weights_file_give_it_back(name: str, tmp_path: Path) -> None:
    model = narrow(name)
    x = images()
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(output(keras.saving.load_model(tmp_path / "model.keras"), x), output(model, x))
    model.save_weights(tmp_path / "model.weights.h5")
    again = narrow(name, weights=tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(output(again, x), output(model, x))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_is_finite_and_close(name: str, policy: str) -> None:
    # What goes through two channels, as a tenth of EfficientNet's would, hangs on the rounding of each.
    settings = {"classifier_activation": None, "width": 0.5 if name == "efficientnet_lite0" else WIDTH}
    exact = narrow(name, **settings)
    x = images(spread=60.0)
    settle(exact, x)
    keras.config.set_dtype_policy(policy)
    mixed = narrow(name, **settings)
    mixed.set_weights(exact.get_weights())
    logits = mixed(x, training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert mixed.get_layer(get_spec(name).classifier).compute_dtype == "float32"
    expected = output(exact, x)
    tolerance = {"mixed_bfloat16": 0.05, "mixed_float16": 0.01}[policy]
    # Ten times as many layers as the others have round ten times as often: errors that add up at random grow by three.
    # Nothing bounds the maps between EfficientNet's blocks before it is trained; the published weights are within 2 %.
    tolerance *= {"senet50": 3, "efficientnet_lite0": 6}.get(name, 1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(logits), expected, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_gets_a_gradient(name: str, weight_gradients) -> None:
    model = narrow(name, classifier_activation=None)
    found = weight_gradients(model, images(8), np.arange(8))
    layers = {layer.name: layer for layer in model.layers}
    wanted = []
    for layer in (layers[name] for _, group in get_spec(name).groups for name in group):
        normalisation = isinstance(layer, keras.layers.BatchNormalization)
        parts = ("gamma", "beta") if normalisation else ("kernel", "bias")[: 1 + layer.use_bias]
        wanted += [f"{layer.name}/{part}" for part in parts]
    assert sorted(found) == sorted(wanted)
    assert all(np.isfinite(g).all() for g in found.values())
    assert [path for path, g in found.items() if not np.any(g)] == []


@pytest.mark.parametrize("name", NAMES)
def test_layer_groups_cover_the_weights_from_input_to_output(name: str) -> None:
    model = narrow(name)
    grouped = [layer for _, group in get_spec(name).groups for layer in group]
    weighted = [layer.name for layer in model.layers if layer.count_params()]
    assert sorted(grouped) == sorted(weighted)
    group_of = {layer: group for group, layers in get_spec(name).groups for layer in layers}
    # Within a group, layers of two branches may stand in either order.
    assert [group for group, _ in itertools.groupby(group_of[layer] for layer in weighted)] == list(dict(get_spec(name).groups))
    assert get_spec(name).classifier == grouped[-1]


@pytest.mark.parametrize("name", NAMES)
def test_one_channel_and_images_that_are_not_square(name: str) -> None:
    assert output(narrow(name, input_shape=(64, 91, 1)), images(2, (64, 91, 1))).shape == (2, CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_without_top(name: str) -> None:
    x = images()
    maps = output(narrow(name, include_top=False), x)
    keras.utils.set_random_seed(7)
    model = narrow(name, include_top=False, pooling="avg")
    assert maps.ndim == 4 and np.isfinite(maps).all()
    assert output(model, x).shape == (3, maps.shape[-1])
    assert not {"fc6", get_spec(name).classifier} & {layer.name for layer in model.layers}
    with pytest.raises(UsageError, match="pooling is 'mean'"):
        narrow(name, include_top=False, pooling="mean")


@pytest.mark.parametrize("name", NAMES)
def test_too_small_an_image_is_one_line(name: str) -> None:
    module = inspect.getmodule(getattr(models, get_spec(name).class_name))
    smallest = module.SMALLEST if hasattr(module, "SMALLEST") else module.NETWORKS[name][1]
    assert narrow(name, input_shape=(smallest, smallest, 1)).output_shape == (None, CLASSES)
    with pytest.raises(ModelError, match=f"too small, expected at least {smallest}x{smallest}") as error:
        narrow(name, input_shape=(smallest, smallest - 1, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_keras_applications(name: str) -> None:
    parameters = inspect.signature(getattr(models, get_spec(name).class_name)).parameters
    assert {key: p.default for key, p in parameters.items()} == {
        "include_top": True,
        "weights": get_spec(name).trained_on,
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": get_spec(name).classes,
        "classifier_activation": "softmax",
        "name": name,
        "width": 1.0,
        **OWN.get(name, {}),
    }


def test_built_on_a_tensor() -> None:
    start = keras.Input(SHAPE)
    halved = keras.layers.Rescaling(0.5)(start)
    model = narrow("alexnet", input_tensor=halved, input_shape=None)
    plain = narrow("alexnet")
    plain.set_weights(model.get_weights())
    x = images()
    np.testing.assert_allclose(output(model, x), output(plain, 0.5 * x), rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="unseeded dropout draws from PyTorch's own state there")
def test_dropout_state_is_part_of_the_model() -> None:
    model = narrow("alexnet")
    states = [v for v in model.variables if "seed_generator" in v.path]
    assert len(states) == 2
    x, before = images(), [keras.ops.convert_to_numpy(v) for v in states]
    first = keras.ops.convert_to_numpy(model(x, training=True))
    second = keras.ops.convert_to_numpy(model(x, training=True))
    assert not np.array_equal(first, second)
    for variable, value in zip(states, before, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(x, training=True)), first)


def test_caffenet_pools_before_it_normalises_and_alexnet_after() -> None:
    order = {name: [layer.name for layer in narrow(name).layers] for name in ("alexnet", "caffenet")}
    for name, first, second in (("alexnet", "norm", "pool"), ("caffenet", "pool", "norm")):
        for number in "12":
            place = order[name].index(f"conv{number}")
            assert order[name][place + 1 : place + 3] == [first + number, second + number]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": float("nan")}, "width is nan"),
        ({"width": float("inf")}, "width is inf, expected a multiplier above 0 and up to 8"),
        ({"width": 1e9}, "width is 1000000000.0, expected"),
        ({"classes": 0}, "classes is 0"),
    ],
)
def test_impossible_arguments(wrong: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        narrow("alexnet", **wrong)


@pytest.mark.parametrize("shape", [(67, 67), (67, 67, None), (67.0, 67, 3)])
def test_impossible_input_shapes(shape: tuple) -> None:
    with pytest.raises(ModelError, match="expected \\(height, width, channels\\)"):
        narrow("alexnet", input_shape=shape)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"path": [[0], [1]]}, "expected 3 groups of 1 to 3 whole numbers"),
        ({"path": [[0], [], [1]]}, "expected 3 groups of 1 to 3 whole numbers"),
        ({"path": [[0], [1, 2, 3, 4], [1]]}, "expected 3 groups of 1 to 3 whole numbers"),
        ({"path": [[0], [10], [1]]}, "there is no module 10; expected numbers from 0 to 9"),
        ({"path": [[0], [-1], [1]]}, "there is no module -1"),
        ({"combine": "product"}, "combine is 'product', expected one of sum, average"),
        ({"filters": 0}, "filters is 0"),
    ],
)
def test_paths_that_cannot_be_meant(wrong: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        narrow("pathnet", **wrong)


def test_a_path_holds_its_modules_alone_and_each_once() -> None:
    model = narrow("pathnet", path=[[7, 2, 7], [0], [1, 2, 3]], width=0.2)
    names = [layer.name for layer in model.layers if layer.weights]
    modules = ["layer1_module02", "layer1_module07", "layer2_module00", *(f"layer3_module{n:02d}" for n in (1, 2, 3))]
    assert names == [*modules, "readout"]
    for reduce, side in (("pool", 8), ("stride", 9), ("none", 67)):
        assert narrow("pathnet", include_top=False, reduce=reduce).output_shape == (None, side, side, 2)


def test_modules_are_summed_or_averaged_behind_their_relu() -> None:
    x = images(2, (8, 8, 3))
    for combine, factor in (("sum", 1.0), ("average", 0.5)):
        settings = {"include_top": False, "reduce": "none", "layers": 1, "input_shape": (8, 8, 3), "width": 1.0}
        settings["combine"] = combine
        both = narrow("pathnet", path=[[3, 8]], **settings)
        singles = []
        for module in (3, 8):
            one = narrow("pathnet", path=[[module]], **settings)
            name = f"layer1_module{module:02d}"
            one.get_layer(name).set_weights(both.get_layer(name).get_weights())
            singles.append(output(one, x))
        np.testing.assert_allclose(output(both, x), factor * (singles[0] + singles[1]), rtol=1e-5, atol=1e-6)
