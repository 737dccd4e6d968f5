"""SqueezeNet against its own prototxt, its published sizes, and its released weights on real photos."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.formats.reference import run
from emotiw_keras.models import build, get_spec, squeezenet
from emotiw_keras.models.originals import original
from emotiw_keras.models.squeezenet import FOREIGN_NAMES, TORCHVISION_NAMES, preprocess_input

NAMES = ["squeezenet", "squeezenet_v1_1"]
PARAMETERS = {"squeezenet": 1_248_424, "squeezenet_v1_1": 1_235_496}
# Side and channels of the maps, from the authors' table (v1.0) and the rounding-up poolings of both prototxts.
CHANNELS = {2: 128, 3: 128, 4: 256, 5: 256, 6: 384, 7: 384, 8: 512, 9: 512}
MAPS = {
    "squeezenet": {"conv1": (111, 96), "pool1": (55, 96), "pool4": (27, 256), "pool8": (13, 512), "conv10": (15, 1000)}
    | {f"fire{n}_concat": ((55, 55, 55, 27, 27, 27, 27, 13)[n - 2], channels) for n, channels in CHANNELS.items()},
    "squeezenet_v1_1": {"conv1": (113, 64), "pool1": (56, 64), "pool3": (28, 128), "pool5": (14, 256), "conv10": (14, 1000)}
    | {f"fire{n}_concat": ((56, 56, 28, 28, 14, 14, 14, 14)[n - 2], channels) for n, channels in CHANNELS.items()},
}
CATS = slice(281, 286)
ESPRESSO = 967


def weighted(name: str) -> list[str]:
    return [layer for _, group in get_spec(name).groups for layer in group]


def in_caffes_layout(model: keras.Model) -> dict[str, np.ndarray]:
    """The arrays that `original` names: kernels (out, in, height, width)."""
    arrays = {}
    for layer in weighted("squeezenet"):
        kernel, bias = model.get_layer(layer).get_weights()
        arrays |= {f"{layer}.weight": kernel.transpose(3, 2, 0, 1), f"{layer}.bias": bias}
    return arrays


def outputs(model: keras.Model, x: np.ndarray, layers: list[str]) -> list[np.ndarray]:
    tapped = keras.Model(model.input, [model.get_layer(layer).output for layer in layers])
    return [keras.ops.convert_to_numpy(value) for value in tapped(x, training=False)]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_parameters_of_the_full_network(name: str) -> None:
    model = build(name, weights=None)
    maps = {layer.name: layer.output.shape for layer in model.layers if layer.name in MAPS[name]}
    assert maps == {layer: (None, size, size, channels) for layer, (size, channels) in MAPS[name].items()}
    assert model.count_params() == get_spec(name).parameters == PARAMETERS[name]
    assert model.input_shape == (None, 227, 227, 3)
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize("name", NAMES)
def test_width_multiplies_channels(name: str) -> None:
    model = build(name, weights=None, width=0.25, input_shape=(67, 67, 3), classes=42)
    for layer, (_, channels) in MAPS[name].items():
        assert model.get_layer(layer).output.shape[-1] == (42 if layer == "conv10" else channels // 4)
    assert model.get_layer("fire2_squeeze1x1").output.shape[-1] == 4


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_its_prototxt_says(name: str) -> None:
    model = build(name, weights=None, width=0.25, input_shape=(70, 83, 3), classes=42)
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.name == "bias":
            variable.assign(rng.normal(0.1, 0.3, variable.shape))
    x = rng.normal(0, 60, (2, 70, 83, 3)).astype("float32")
    scores, layers = run(original(name), in_caffes_layout(model), {"data": x.transpose(0, 3, 1, 2)}, "oihw")
    assert list(layers) == weighted(name)
    for layer, found in zip(layers, outputs(model, x, list(layers)), strict=True):
        expected = layers[layer].transpose(0, 2, 3, 1)
        assert found.shape == expected.shape, layer
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max(), err_msg=layer)
    found = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(found, scores["prob"].reshape(2, 42), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_its_smallest_image_is_the_smallest_its_poolings_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version = squeezenet.NETWORKS[name]
    monkeypatch.setitem(squeezenet.NETWORKS, name, version._replace(smallest=1))
    side = version.smallest - 1
    with pytest.raises(ModelError, match="windows of 3 got a size of 2"):
        build(name, weights=None, width=0.1, input_shape=(side, 64, 3))


def test_the_classifier_averages_scores_or_is_left_out() -> None:
    small = {"weights": None, "width": 0.25, "input_shape": (67, 67, 3), "classes": 5}
    logits = build("squeezenet", classifier_activation=None, **small)
    x = np.random.default_rng(0).normal(0, 60, (2, 67, 67, 3)).astype("float32")
    maps, means = outputs(logits, x, ["conv10", "pool10"])
    np.testing.assert_allclose(means, maps.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(logits(x)), means)
    assert [layer.name for layer in logits.layers][-2:] == ["conv10", "pool10"]
    assert build("squeezenet", include_top=False, **small).layers[-1].name == "fire9_concat"
    with pytest.raises(UsageError, match="classes is 0, expected at least 1"):
        build("squeezenet", **{**small, "classes": 0})


NAMINGS = [*FOREIGN_NAMES, *TORCHVISION_NAMES.values()]


@pytest.mark.parametrize("names", NAMINGS, ids=lambda names: names["fire4_squeeze1x1"])
def test_foreign_names_are_of_every_layer_and_of_one_each(names: dict[str, str]) -> None:
    assert list(names) == weighted("squeezenet") == weighted("squeezenet_v1_1")
    assert len(set(names.values())) == len(names)


def test_torchvisions_names_count_its_poolings() -> None:
    first, second = (TORCHVISION_NAMES[name] for name in NAMES)
    parts = ("fire4_squeeze1x1", "fire5_expand1x1", "fire9_expand3x3", "conv10")
    assert [first[part] for part in parts] == [
        "features.5.squeeze",
        "features.7.expand1x1",
        "features.12.expand3x3",
        "classifier.1",
    ]
    assert [second[part] for part in parts] == [
        "features.6.squeeze",
        "features.7.expand1x1",
        "features.12.expand3x3",
        "classifier.1",
    ]
    assert (first["fire8_squeeze1x1"], second["fire8_squeeze1x1"]) == ("features.10.squeeze", "features.11.squeeze")


@pytest.fixture(scope="module")
def released(shared_data: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The released prototxt, and the released arrays by our names."""
    folder = shared_data / "foreign_weights" / "squeezenet"
    names = {ours: theirs.replace("/", ".") for ours, theirs in FOREIGN_NAMES[1].items()}
    with np.load(folder / "squeezenet_v1.0_imagenet_decoded.npz") as file:
        assert {f"{theirs}.{what}" for theirs in names.values() for what in ("weight", "bias")} == set(file)
        arrays = {f"{ours}.{what}": file[f"{names[ours]}.{what}"] for ours in names for what in ("weight", "bias")}
    return folder / "SqueezeNet_deploy.prototxt", arrays


def test_the_released_prototxt_has_these_layers(released) -> None:
    text = released[0].read_text()
    theirs = [re.search(r'name: "([^"]+)"', layer)[1] for layer in text.split("layer {") if 'type: "Convolution"' in layer]
    assert theirs == list(FOREIGN_NAMES[1].values())
    padded = [layer.split('"')[1] for layer in text.split("layer {") if re.search(r"\bpad: 1", layer)]
    ours = {FOREIGN_NAMES[1].get(node.name) for node in original("squeezenet") if any(node.attrs.get("pad", ()))}
    assert set(padded) == ours


def test_the_released_weights_name_the_cat_and_the_espresso(released, shared_data: Path) -> None:
    _, arrays = released
    model = build("squeezenet", weights=None)
    for layer in weighted("squeezenet"):
        kernel = arrays[f"{layer}.weight"].transpose(2, 3, 1, 0)
        model.get_layer(layer).set_weights([kernel, arrays[f"{layer}.bias"]])
    photos = []
    for name in ("chelsea", "coffee"):
        image = cv2.imread(str(shared_data / "photos" / "noface" / f"{name}.png"))[..., ::-1]
        photos.append(cv2.resize(image, (227, 227), interpolation=cv2.INTER_AREA))
    x = preprocess_input(np.stack(photos))
    scores = keras.ops.convert_to_numpy(model(x, training=False))
    cat, cup = scores
    assert cat[CATS].sum() > 0.9
    assert cat.argmax() in range(281, 286)
    assert cup.argmax() == ESPRESSO
    assert cup[ESPRESSO] > 0.8
    expected, _ = run(original("squeezenet"), arrays, {"data": x.transpose(0, 3, 1, 2)}, "oihw")
    np.testing.assert_allclose(scores, expected["prob"].reshape(2, 1000), rtol=0, atol=1e-4)
