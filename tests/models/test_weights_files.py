"""`weights=FILE`: what Keras' save() wrote, and foreign files, for the width and the images of the network they go into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras.cli.main import run
from emotiw_keras.conversion.convert import convert
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.reading import read
from emotiw_keras.models import alexnet_owt, build
from emotiw_keras.models.weights_argument import ForClasses
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.start import start_model
from tests.formats.foreign_networks import network
from tests.formats.write_pytorch import write_zip

SMALL: dict[str, Any] = {"width": 0.1, "classes": 5, "input_shape": (71, 71, 3)}
NETWORKS = ["alexnet", "face_vgg", "pathnet", "squeezenet_v1_1"]


def same(one: keras.Model, other: keras.Model, names: list[str] | None = None) -> bool:
    mine = {layer.name: layer.get_weights() for layer in one.layers if layer.weights}
    theirs = {layer.name: layer.get_weights() for layer in other.layers if layer.weights}
    return all(np.array_equal(a, b) for name in names or mine for a, b in zip(mine[name], theirs[name], strict=True))


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_save_wrote_comes_back(name: str, suffix: str, tmp_path: Path) -> None:
    model, path = build(name, weights=None, **SMALL), tmp_path / f"net{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    assert same(build(name, weights=path, **SMALL), model)
    with pytest.raises(ModelError, match=r"net\S* does not fit"):
        build(name, weights=path, **{**SMALL, "width": 0.2})


def test_a_saved_model_gives_its_trunk_and_says_what_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("alexnet", weights=None, **SMALL)
    model.save(tmp_path / "net.keras")
    other = build("alexnet", weights=tmp_path / "net.keras", **{**SMALL, "classes": 9})
    assert same(other, model, ["conv1", "conv5", "fc6", "fc7"])
    assert capsys.readouterr().err == "alexnet: weights of net.keras, but a new fc8 with 9 classes\n"
    trunk = build("alexnet", weights=tmp_path / "net.keras", **SMALL, include_top=False)
    assert same(trunk, model)
    trunk.save(tmp_path / "trunk.keras")
    whole = build("alexnet", weights=tmp_path / "trunk.keras", **SMALL)
    assert same(trunk, whole)
    assert capsys.readouterr().err == "alexnet: weights of trunk.keras, but a new fc6, fc7, fc8 with 5 classes\n"
    with pytest.raises(ModelError, match="net.keras does not (fit|hold) squeezenet"):
        build("squeezenet", weights=tmp_path / "net.keras", **SMALL)


def test_a_compiled_model_within_a_model_leaves_its_optimizer_behind(tmp_path: Path) -> None:
    """Adam's arrays had no place in the network."""
    net = build("squeezenet_v1_1", weights=None, **SMALL)
    net.compile("adam", "sparse_categorical_crossentropy")
    net.optimizer.build(net.trainable_variables)
    keras.Sequential([keras.Input(SMALL["input_shape"]), net]).save(tmp_path / "net.keras")
    assert same(build("squeezenet_v1_1", weights=tmp_path / "net.keras", **SMALL), net)
    ignored = read(tmp_path / "net.keras").ignored
    assert [why for what, why in ignored.items() if what.endswith("/optimizer")] == [
        "the optimizer's state, which only training needs"
    ]


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_a_layer_that_rescales_images_is_named(suffix: str, tmp_path: Path) -> None:
    """It was left out in silence: the same weights, behind other images."""
    net, path = build("alexnet", weights=None, **SMALL), tmp_path / f"net{suffix}"
    image = keras.Input(SMALL["input_shape"])
    x = keras.layers.Rescaling(1 / 58, name="to_units")(image)
    for layer in net.layers[1:]:
        x = layer(x)
    whole = keras.Model(image, x)
    if suffix == ".weights.h5":
        whole.save_weights(path)
    else:
        whole.save(path)
    words = (
        r"net\S* changes what it is given by its layer to_units, which would be lost: alexnet takes BGR, 0..255 less 104.007"
    )
    with pytest.raises(ModelError, match=words):
        build("alexnet", weights=path, **SMALL)
    with pytest.raises(ModelError, match=words):
        convert("alexnet", path, width=0.1)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_operation_before_a_network_is_named(suffix: str, tmp_path: Path) -> None:
    net, path = build("alexnet", weights=None, **SMALL), tmp_path / f"net{suffix}"
    image = keras.Input(SMALL["input_shape"])
    x = image / 127.5 - 1
    for layer in net.layers[1:]:
        x = layer(x)
    keras.Model(image, x * 2).save(path)  # what stands behind it changes no image
    with pytest.raises(ModelError, match=r"net\S* changes what it is given by its layer true_divide\S*, which would be lost"):
        build("alexnet", weights=path, **SMALL)


SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@pytest.mark.parametrize("stated", ["class_to_idx", "idx_to_class", "classes", "id2label", "label2id"])
def test_a_classifier_is_taken_by_the_names_that_a_checkpoint_has(
    stated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows were taken in the file's order whatever the checkpoint said they are."""
    net, path = network("alexnet_owt", 0.1, classes=7), tmp_path / "net.pth"
    layers = alexnet_owt.FOREIGN_NAMES[0]
    state = {f"{layers[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": array for key, array in net.arrays.items()}
    theirs = ["Sadness", "Happiness", "anger", "fear", "neutral", "surprise", "disgust"]
    numbers: dict[str, Any] = {
        "class_to_idx": {each: i for i, each in enumerate(theirs)},
        "idx_to_class": dict(enumerate(theirs)),
        "classes": theirs,
        "id2label": {str(i): each for i, each in enumerate(theirs)},  # as JSON has it
        "label2id": {each: str(i) for i, each in enumerate(theirs)},
    }
    write_zip(path, {"model": state, stated: numbers[stated], "epoch": 3})
    assert read(path).classes == tuple(theirs)
    assert "starts with Sadness, Happiness, anger" in "\n".join(convert("alexnet_owt", path, width=0.1)[1].lines())

    settings: dict[str, Any] = {"width": 0.1, "classes": 7}
    kernel, bias = build("alexnet_owt", weights=path, **settings).get_layer("fc8").get_weights()
    kept = "alexnet_owt: fc8 of net.pth is kept, its outputs in the file's order"
    assert f"{kept}: Sadness, Happiness, anger" in capsys.readouterr().err
    ordered = build("alexnet_owt", weights=ForClasses(str(path), SEVEN), **settings).get_layer("fc8").get_weights()
    assert "alexnet_owt: outputs of fc8 of net.pth taken by class name\n" in capsys.readouterr().err
    places = [2, 6, 3, 1, 0, 5, 4]
    np.testing.assert_array_equal(ordered[0], kernel[:, places])
    np.testing.assert_array_equal(ordered[1], bias[places])

    # `emotiw fit` starts so
    recipe = load_recipe("ng2015-direct", ["model.name='alexnet_owt'", "model.width=0.1", f"model.weights={str(path)!r}"])
    shape = {"name": "alexnet_owt", "width": 0.1, "classes": 7, "input_shape": [224, 224, 3]}
    begun = start_model(recipe, {"model": shape, "labels": list(SEVEN), "precision": "float32"}, None, print)
    np.testing.assert_array_equal(begun.get_layer("fc8").get_weights()[0], kernel[:, places])
    assert "taken by class name" in capsys.readouterr().err

    others = ForClasses(str(path), (*SEVEN[:6], "contempt"))
    assert not np.array_equal(build("alexnet_owt", weights=others, **settings).get_layer("fc8").get_weights()[0], kernel)
    said = capsys.readouterr().err
    assert "has the classes Sadness, Happiness" in said and "but a new fc8 with 7 classes" in said
    write_zip(path, {"model": state, "classes": ["a\x1b[31m", *theirs[1:]]})
    assert r"starts with a\x1b[31m, Happiness" in "\n".join(convert("alexnet_owt", path, width=0.1)[1].lines())
    unclear = [{"classes": theirs[:3], "labels": [1, 2, 3]}, {"id2label": {str(i): str(6 - i) for i in range(7)}}]
    for each in unclear:
        write_zip(path, {"model": state, **each})
        assert read(path).classes is None
    build("alexnet_owt", weights=ForClasses(str(path), SEVEN), **settings)
    assert f"{kept}, whose classes it does not name\n" in capsys.readouterr().err


def test_a_keras_file_is_told_from_pytorchs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("squeezenet", weights=None, **SMALL)
    model.save(tmp_path / "net.keras")
    found = read(tmp_path / "net.keras")
    assert found.format == "Keras 3 model" and found.layout == "hwio" and found.path == tmp_path / "net.keras"
    np.testing.assert_array_equal(found.arrays["conv1.weight"], model.get_layer("conv1").get_weights()[0])
    assert "config.json" in found.ignored
    assert run(["convert", str(tmp_path / "net.keras"), "--inspect"]) == 0
    assert capsys.readouterr().out.startswith("net.keras: Keras 3 model, 52 arrays, ")


def test_a_damaged_keras_file_is_named(tmp_path: Path) -> None:
    import zipfile

    for inside in (b"no HDF5", None):
        with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", "{}")
            if inside is not None:
                archive.writestr("model.weights.h5", inside)
        with pytest.raises(ModelError, match="net.keras") as caught:
            build("alexnet", weights=tmp_path / "net.keras", **SMALL)
        assert "\n" not in str(caught.value)


def test_a_foreign_file_is_taken_at_the_networks_own_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = network("alexnet_owt", 0.1, classes=5)
    np.savez(tmp_path / "net.npz", **net.arrays)
    model = build("alexnet_owt", weights=tmp_path / "net.npz", width=0.1, classes=5)
    np.testing.assert_array_equal(model.get_layer("fc7").get_weights()[0], net.arrays["fc7.weight"].T)
    said = capsys.readouterr().err
    assert said.startswith(
        "alexnet_owt: net.npz: rows of fc6 taken in the order (channels, height, width), which the file does"
    )
    assert "emotiw convert --check" in said
    assert said.endswith(
        "\nalexnet_owt: fc8 of net.npz is kept, its outputs in the file's order, whose classes it does not name\n"
    )
    trunk = build("alexnet_owt", weights=tmp_path / "net.npz", width=0.1, include_top=False, input_shape=(96, 96, 3))
    np.testing.assert_array_equal(trunk.get_layer("conv5").get_weights()[1], net.arrays["conv5.bias"])
    assert capsys.readouterr().err == ""
    np.savez(tmp_path / "trunk.npz", **{key: array for key, array in net.arrays.items() if key.startswith("conv")})
    build("alexnet_owt", weights=tmp_path / "trunk.npz", width=0.1, classes=5)
    assert capsys.readouterr().err == "alexnet_owt: weights of trunk.npz, but a new fc6, fc7, fc8 with 5 classes\n"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_foreign_file_is_taken_for_the_networks_own_images(channels: int, tmp_path: Path) -> None:
    """Weights trained elsewhere on other sizes, or on grey images."""
    settings = {"width": 0.1, "classes": 5, "input_shape": (131, 131, channels)}
    model = build("alexnet", weights=None, **settings)
    roles = {"kernel": "weight", "bias": "bias"}
    arrays = {f"{layer.name}.{roles[v.name]}": keras.ops.convert_to_numpy(v) for layer in model.layers for v in layer.weights}
    np.savez(tmp_path / "net.npz", **arrays)
    assert same(build("alexnet", weights=tmp_path / "net.npz", **settings), model)


def test_weights_of_face_vgg_from_pytorch(tmp_path: Path) -> None:
    from tests.formats.write_pytorch import write_zip

    model = build("face_vgg", weights=None, width=0.25, classes=7)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(np.random.default_rng(3).uniform(0.1, 0.9, variable.shape))
    words = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    for layer in model.layers:
        for variable in layer.weights:
            array = keras.ops.convert_to_numpy(variable)
            turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            state[f"model.{layer.name}.{words.get(variable.name, 'weight' if array.ndim > 1 else 'bias')}"] = turned.copy()
    write_zip(tmp_path / "face.pth", state)
    assert same(build("face_vgg", weights=tmp_path / "face.pth", width=0.25, classes=7), model)
