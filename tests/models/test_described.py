"""A Keras file whose description says that it computes something else is refused; the same written otherwise is not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from emotiw_keras.conversion.convert import convert
from emotiw_keras.conversion.described import OUTPUT, check_described
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.reading import read
from emotiw_keras.models import build
from emotiw_keras.models.pooling import AdaptiveMeanPooling2D
from emotiw_keras.models.registry import get_spec, model_names

SMALL: dict[str, Any] = {"width": 0.1, "classes": 5, "input_shape": (71, 71, 3)}
NETWORKS = [name for name in model_names() if not get_spec(name).is_application]


def net(name: str, **settings: Any) -> keras.Model:
    return build(name, weights=None, **{**SMALL, "classifier_activation": None, **settings})


def alike(model: keras.Model) -> dict[str, str]:
    return {layer.name: layer.name for layer in model.layers if layer.weights} | {OUTPUT: OUTPUT}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_we_describe_is_compared_in_full(name: str) -> None:
    other = net(name, input_shape=(96, 96, 1), classes=3, classifier_activation="softmax")
    assert check_described(name, "a.keras", other.to_json(), net(name), alike(other)) == ""


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["alexnet", "squeezenet", "efficientnet_lite0"])
def test_layers_of_our_own_in_an_h5_are_compared_too(name: str, tmp_path: Path) -> None:
    model = net(name)
    model.save(tmp_path / "net.h5")
    found = read(tmp_path / "net.h5")
    assert ">" in found.description  # "Package>Class"
    assert found.rescales == () and check_described(name, "net.h5", found.description, model, alike(model)) == ""


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "said"),
    [
        ("squeezenet", '"relu"', '"tanh"', "layer conv1 has activation tanh, ours relu"),
        ("efficientnet_lite0", '"epsilon": 0.001', '"epsilon": 1e-05', "layer stem_bn has epsilon 1e-05, ours 0.001"),
        ("efficientnet_lite0", '"relu6"', '"relu"', "between stem_bn and block0_depthwise it has relu, ours relu6"),
        ("squeezenet", '"strides": [2, 2]', '"strides": [1, 1]', r"layer conv1 has strides \(1, 1\), ours \(2, 2\)"),
        ("senet50", '"padding": "same"', '"padding": "valid"', r"layer conv2_1_3x3 has padding \(\(0, 0\), \(0, 0\)\), ours"),
        ("alexnet", '"groups": 2', '"groups": 1', "layer conv2 has groups 1, ours 2"),
        ("alexnet", '"pool_size": 3', '"pool_size": 2', "between conv1 and conv2 it has MaxPooling2D of 2x2 by 2x2, ours Max"),
        ("alexnet", '"depth_radius": 2', '"depth_radius": 3', "conv2 it has LocalResponseNormalization depth_radius=3"),
        ("pathnet", '"class_name": "Add"', '"class_name": "Average"', "layer2_module00 it has Average, ours Add"),
        ("squeezenet", "GlobalAverage", "GlobalMax", "between conv10 and the output it has GlobalMaxPooling2D, ours GlobalA"),
    ],
)
def test_another_setting_is_refused_by_its_layer(name: str, ours: str, theirs: str, said: str) -> None:
    model = net(name)
    text = model.to_json()
    assert ours in text
    with pytest.raises(ModelError, match=rf"a.keras computes something else than {name}: .*{said}"):
        check_described(name, "a.keras", text.replace(ours, theirs), model, alike(model))


def squeezenet_of_others() -> keras.Model:
    """SqueezeNet v1.1 with our layers' names, its activations, zeros and poolings in layers of their own."""
    image = keras.Input((71, 71, 3))
    x = layers.ReLU()(layers.Conv2D(6, 3, strides=2, name="conv1")(image))
    x = layers.MaxPooling2D(3, 2)(x)
    for number, (squeeze, expand) in enumerate([(2, 6), (2, 6), (3, 13), (3, 13), (5, 19), (5, 19), (6, 26), (6, 26)], 2):
        x = layers.Conv2D(squeeze, 1, activation="relu", name=f"fire{number}_squeeze1x1")(x)
        one = layers.Conv2D(expand, 1, name=f"fire{number}_expand1x1")(x)
        three = layers.Conv2D(expand, 3, name=f"fire{number}_expand3x3")(layers.ZeroPadding2D(1)(x))
        x = layers.Activation("relu")(layers.concatenate([one, three]))
        x = layers.MaxPooling2D(3, 2)(x) if number in (3, 5) else x
    x = layers.Activation("relu")(layers.Conv2D(5, 1, name="conv10")(layers.Dropout(0.5)(x)))
    return keras.Model(image, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))


def test_the_same_written_otherwise_is_converted(tmp_path: Path) -> None:
    """ReLU layers behind a concatenation, zeros in a layer of their own; how poolings round is told as not compared."""
    squeezenet_of_others().save(tmp_path / "net.keras")
    model, report = convert("squeezenet_v1_1", tmp_path / "net.keras", width=0.1)
    pools = ", ".join(f"the pooling before fire{number}" for number in ("2_squeeze1x1", "4_squeeze1x1", "6_squeeze1x1"))
    assert report.uncompared == pools
    assert any(line.endswith(f"by the file's description; not compared: {pools}") for line in report.lines())
    build("squeezenet_v1_1", weights=tmp_path / "net.keras", **SMALL)


def with_step(model: keras.Model, place: str, step: layers.Layer) -> keras.Model:
    """A network with one layer more, behind the layer of that name."""

    def call(layer: layers.Layer, *args: Any, **kwargs: Any) -> Any:
        given = layer(*args, **kwargs)
        return step(given) if layer.name == place else given

    return keras.models.clone_model(model, call_function=call)


def test_a_mean_over_parts_that_ours_lacks_is_refused() -> None:
    model = net("squeezenet_v1_1", input_shape=(131, 131, 3))
    text = with_step(model, "pool1", AdaptiveMeanPooling2D(13)).to_json()
    with pytest.raises(ModelError, match="conv1 and fire2_squeeze1x1 it has AdaptiveMeanPooling2D size=13, ours nothing"):
        check_described("squeezenet_v1_1", "a.keras", text, model, alike(model))


def test_a_mean_over_parts_that_is_idle_at_the_size_of_its_maps_may_be_lacking() -> None:
    model = net("alexnet_owt", input_shape=(224, 224, 3))
    text = json.loads(model.to_json())
    kept = [each for each in text["config"]["layers"] if each["class_name"] != "AdaptiveMeanPooling2D"]
    (gone,) = (each["name"] for each in text["config"]["layers"] if each not in kept)
    assert len(kept) == len(text["config"]["layers"]) - 1
    text["config"]["layers"] = kept
    lacking = json.dumps(text).replace(json.dumps(gone), '"pool5"')
    assert check_described("alexnet_owt", "a.keras", lacking, model, alike(model)) == "the pooling before fc6"


@keras.saving.register_keras_serializable("mine")
class ReLU(layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.ops.tanh(x)


class Dropout(layers.Layer):
    def call(self, x: Any) -> Any:
        return 1 - x


@keras.saving.register_keras_serializable("mine")
class Dense(layers.Dense):
    pass


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_another_package_s_class_is_not_keras_own_of_its_name(suffix: str, tmp_path: Path) -> None:
    """A tanh called ReLU passed for one; a class that is not registered is told by its module in a .keras alone."""
    image = keras.Input((8, 8, 3))

    def chain(relu: type[layers.Layer], dropout: type[layers.Layer], dense: type[layers.Layer]) -> keras.Model:
        x = relu()(layers.Conv2D(4, 3, name="one")(image))
        x = layers.Conv2D(4, 3, name="two")(x)
        x = layers.Conv2D(4, 3, name="three")(dropout()(x))
        return keras.Model(image, dense(3, name="top")(layers.Flatten()(x)))

    ours = chain(layers.ReLU, layers.Identity, layers.Dense)
    chain(ReLU, Dropout if suffix == ".keras" else ReLU, Dense).save(tmp_path / f"net{suffix}")
    text = read(tmp_path / f"net{suffix}").description
    assert check_described("x", "net", text, ours, alike(ours)) == "what leads to two, what leads to three, top"


@pytest.mark.parametrize(
    "module",
    ["keras.layers", "keras.src.layers", "keras", "tensorflow.python.keras.layers", "tf_keras.src.layers", "keras_core.layers"],
)
def test_whatever_keras_calls_its_modules_its_classes_are_known(module: str) -> None:
    model = net("squeezenet_v1_1")
    text, ours = model.to_json(), '"module": "keras.layers"'
    assert ours in text
    text = text.replace(ours, f'"module": "{module}"')
    assert check_described("squeezenet_v1_1", "a.keras", text, model, alike(model)) == ""


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_neither_convert_nor_weights_takes_another_computation(suffix: str, tmp_path: Path) -> None:
    """It was converted, and called proved against the authors' network, whose activations it did not have."""
    path = tmp_path / f"net{suffix}"
    ours = net("squeezenet_v1_1")

    def other(layer: layers.Layer) -> layers.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "activation": "tanh"} if layer.name == "fire4_expand1x1" else config)

    keras.models.clone_model(ours, clone_function=other).save(path)
    words = (
        rf"^net{suffix} computes something else than squeezenet_v1_1: layer fire4_expand1x1 has activation tanh, ours relu; "
    )
    with pytest.raises(ModelError, match=words):
        convert("squeezenet_v1_1", path, width=0.1)
    with pytest.raises(ModelError, match=words):
        build("squeezenet_v1_1", weights=path, **SMALL)


def test_how_keras_2_describes_layers() -> None:
    """Its calls are lists of names; a Sequential says of none what it reads, and has no input layer."""
    model = net("alexnet_owt")
    now = json.loads(model.to_json())["config"]
    before = "image"
    old = []
    for each in now["layers"]:
        calls = [] if each["class_name"] == "InputLayer" else [[[before, 0, 0, {}]]]
        old.append({"class_name": each["class_name"], "config": each["config"], "name": each["name"], "inbound_nodes": calls})
        before = each["name"]
    functional = {"class_name": "Model", "config": {"layers": old, "output_layers": [["fc8", 0, 0]]}}
    parts = [{"class_name": each["class_name"], "config": each["config"]} for each in old[1:]]
    for text in map(json.dumps, (functional, {"class_name": "Sequential", "config": parts})):
        assert check_described("alexnet_owt", "a.h5", text, model, alike(model)) == ""
        with pytest.raises(ModelError, match="conv1 has activation elu, ours relu"):
            check_described("alexnet_owt", "a.h5", text.replace('"relu"', '"elu"', 1), model, alike(model))


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"config": {"layers": [3]}}', '{"config": []}', "[" * 99999, '{"config": null}']
)
def test_a_description_that_cannot_be_read_is_told(text: str) -> None:
    model = net("alexnet")
    names = {layer: layer for layer in ("conv1", "conv2", "conv3", "conv4", "conv5")}
    assert check_described("alexnet", "a.h5", text, model, names) == "conv1, conv2, conv3, conv4, and 1 more"


def test_code_in_a_description_is_not_run_and_told(tmp_path: Path) -> None:
    model = net("squeezenet_v1_1")
    model.save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    config = json.loads(parts["config.json"])
    pool = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "CaffeMaxPooling2D")
    pool["class_name"] = "Lambda"
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as changed:
        for name, content in parts.items():
            changed.writestr(name, content)
    assert read(tmp_path / "net.keras").description == parts["config.json"].decode()
    report = convert("squeezenet_v1_1", tmp_path / "net.keras", width=0.1)[1]
    assert report.uncompared == "what leads to fire2_squeeze1x1"
    np.testing.assert_array_equal(
        build("squeezenet_v1_1", weights=tmp_path / "net.keras", **SMALL).get_layer("conv1").kernel,
        model.get_layer("conv1").kernel,
    )
