"""Weights go into a network whole and by name, or an error says in one line what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.models import AlexNet, build, get_spec, model_names, weights
from emotiw_keras.models.layers import GroupedConv2D
from emotiw_keras.models.parts import empty_networks, in_place, zeros
from emotiw_keras.models.weights import load_strict, save, stored_layers

PUBLISHED = [name for name in model_names() if get_spec(name).weights]
SMALL = {"input_shape": (67, 67, 1), "width": 0.05}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_without_the_file_name_the_command_and_the_place(name: str, cache: Path) -> None:
    with pytest.raises(ModelError) as error:
        build(name, **SMALL)
    assert f"`emotiw weights fetch {name}`" in str(error.value)
    assert str(cache / f"{get_spec(name).weights}.weights.h5") in str(error.value)
    assert "\n" not in str(error.value)


def test_what_nobody_published_cannot_be_fetched() -> None:
    with pytest.raises(ModelError, match="no ImageNet weights of pathnet are published; give weights=None"):
        build("pathnet", weights="imagenet", **SMALL)


def test_cache_is_in_the_home_folder_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOTIW_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelError, match=str(tmp_path / ".cache" / "emotiw_keras" / "alexnet.weights.h5")):
        AlexNet(**SMALL)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_for_all_their_classes_are_the_file(name: str, cache: Path) -> None:
    source = build(name, weights=None, **SMALL)
    source.save_weights(cache / f"{name}.weights.h5")
    keras.utils.set_random_seed(99)
    for found, expected in zip(build(name, **SMALL).get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_for_42_classes_are_the_trunk_and_a_word(name: str, cache: Path, capsys) -> None:
    source = build(name, weights=None, **SMALL)
    source.save_weights(cache / f"{name}.weights.h5")
    capsys.readouterr()
    model = build(name, classes=42, **SMALL)
    last = get_spec(name).classifier
    words = {"imagenet": "ImageNet", "vggface2": "VGGFace2"}[get_spec(name).trained_on]
    assert capsys.readouterr().err == f"{name}: {words} weights, but a new {last} with 42 classes\n"
    for layer in model.layers:
        if layer.count_params() and layer.name != last:
            for found, expected in zip(layer.get_weights(), source.get_layer(layer.name).get_weights(), strict=True):
                np.testing.assert_array_equal(found, expected)
    kernel, bias = model.get_layer(last).get_weights()
    assert kernel.shape[-1] == 42
    assert kernel.std() == pytest.approx(0.01, rel=0.1)
    assert not bias.any()


def test_imagenet_without_top_is_the_trunk_in_silence(cache: Path, capsys) -> None:
    source = AlexNet(weights=None, **SMALL)
    source.save_weights(cache / "alexnet.weights.h5")
    model = AlexNet(include_top=False, **SMALL)
    np.testing.assert_array_equal(model.get_layer("conv5").get_weights()[0], source.get_layer("conv5").get_weights()[0])
    assert "fc8" not in capsys.readouterr().err


def test_imagenet_goes_into_a_trunk_for_images_of_any_size(cache: Path) -> None:
    source = AlexNet(weights=None, input_shape=(227, 227, 3), width=0.05)
    source.save_weights(cache / "alexnet.weights.h5")
    model = AlexNet(include_top=False, input_shape=(None, None, 3), width=0.05)
    np.testing.assert_array_equal(model.get_layer("conv5").get_weights()[0], source.get_layer("conv5").get_weights()[0])


def test_a_word_for_other_weights_than_the_published_ones_is_an_error(cache: Path) -> None:
    with pytest.raises(ModelError, match="senet50 has no ImageNet weights; expected 'vggface2', None or the path"):
        build("senet50", weights="imagenet", **SMALL)
    with pytest.raises(ModelError, match="alexnet has no VGGFace2 weights; expected 'imagenet'"):
        AlexNet(weights="vggface2", **SMALL)


def test_a_file_without_a_classifier_fills_the_trunk(tmp_path: Path, capsys) -> None:
    source = build("squeezenet", weights=None, include_top=False, pooling="avg", **SMALL)
    path = tmp_path / "trunk.weights.h5"
    save(source, path)
    capsys.readouterr()
    model = build("squeezenet", weights=path, classes=7, **SMALL)
    assert capsys.readouterr().err == "squeezenet: trunk.weights.h5 holds no conv10, so a new one with 7 classes\n"
    again = build("squeezenet", weights=path, include_top=False, **SMALL)
    assert capsys.readouterr().err == ""
    for layer in source.layers:
        for other in (model, again):
            if layer.weights:
                for found, expected in zip(other.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
                    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ModelError, match="does not fit squeezenet: layer conv1 holds 7x7x1x5"):
        build("squeezenet", weights=path, classes=7, input_shape=(67, 67, 1), width=0.1)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet"])
def test_a_file_of_another_number_of_classes_gives_all_but_the_classifier(name: str, tmp_path: Path, capsys) -> None:
    """What `convert` writes of published weights was refused, and what it makes it of was taken."""
    last = get_spec(name).classifier
    path = tmp_path / "many.weights.h5"
    source = build(name, weights=None, classes=42, **SMALL)
    source.save_weights(path)
    capsys.readouterr()
    model = build(name, weights=path, classes=7, **SMALL)
    assert capsys.readouterr().err == f"{name}: weights of many.weights.h5, but a new {last} with 7 classes\n"
    trunk = build(name, weights=path, include_top=False, **SMALL)
    assert capsys.readouterr().err == ""
    for layer in (*model.layers, *trunk.layers):
        if layer.weights and layer.name != last:
            for found, expected in zip(layer.get_weights(), source.get_layer(layer.name).get_weights(), strict=True):
                np.testing.assert_array_equal(found, expected)
    kernel, bias = model.get_layer(last).get_weights()
    assert kernel.shape[-1] == 7 and kernel.any() and not bias.any()
    for classes in (7, 42):
        with pytest.raises(ModelError, match=r"layer conv1 holds \S+ and [45] in the file, \S+ and 10 in the model"):
            build(name, weights=path, classes=classes, **{**SMALL, "width": 0.1})


def test_a_classifier_that_differs_in_more_than_its_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    build("squeezenet", weights=None, classes=42, **SMALL).save_weights(path)
    place = stored_layers(path)["conv10"][0]
    with h5py.File(path, "a") as file:
        del file[f"layers/{place}/vars/0"]
        file[f"layers/{place}/vars/0"] = np.zeros((3, 3, 26, 42), "f4")
    with pytest.raises(ModelError, match="layer conv10 holds 3x3x26x42 and 42 in the file, 1x1x26x7 and 7 in the model"):
        build("squeezenet", weights=path, classes=7, **SMALL)
    with h5py.File(path, "a") as file:
        file[f"layers/{place}/vars"].attrs["name"] = "other"
    with pytest.raises(ModelError, match="layer other holds"):
        build("squeezenet", weights=path, include_top=False, **SMALL)


def test_weights_never_slip_into_a_layer_of_another_name(tmp_path: Path) -> None:
    x = keras.Input((4,))
    one = keras.Model(x, keras.layers.Dense(4, name="fc7")(keras.layers.Dense(4, name="fc6")(x)))
    other = keras.Model(x, keras.layers.Dense(4, name="fc6")(keras.layers.Dense(4, name="fc7")(x)))
    path = tmp_path / "one.weights.h5"
    one.save_weights(path)
    assert stored_layers(path) == {"fc6": ("dense", [(4, 4), (4,)]), "fc7": ("dense_1", [(4, 4), (4,)])}
    with pytest.raises(ModelError, match="in another order"):
        load_strict(other, path)


def test_a_network_of_the_same_names_that_is_another_is_called_so(tmp_path: Path) -> None:
    """Its layers were said to be in another order, which they are not; `emotiw convert` takes such a file."""
    x = keras.Input((8, 8, 3))
    one = keras.Model(x, keras.layers.Conv2D(4, 3, name="conv1")(x))
    other = keras.Model(x, GroupedConv2D(4, 3, name="conv1")(x), name="net")
    one.save_weights(tmp_path / "one.weights.h5")
    words = r"conv1 is conv2d in the file and grouped_conv2d in the model: another network .*; `emotiw convert` makes a file"
    with pytest.raises(ModelError, match=words):
        load_strict(other, tmp_path / "one.weights.h5")


def test_another_network_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    build("vgg_cnn_m", weights=None, **SMALL).save_weights(path)
    with pytest.raises(ModelError, match="does not fit alexnet: layer conv1 holds 7x7x1x5"):
        AlexNet(weights=path, **SMALL)


@pytest.mark.parametrize("name", ["bvlc_alexnet.caffemodel", "alexnet.npy", "model.keras", "weights.h5"])
def test_other_formats_are_not_guessed_at(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ModelError, match="known weight format|damaged"):
        AlexNet(weights=tmp_path / name, **SMALL)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file at"):
        AlexNet(weights=tmp_path / "none.weights.h5", **SMALL)
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelError, match="damaged.weights.h5 is damaged or no HDF5 file") as error:
        AlexNet(weights=damaged, **SMALL)
    assert "\n" not in str(error.value)
    empty = tmp_path / "empty.weights.h5"
    h5py.File(empty, "w").close()
    with pytest.raises(ModelError, match="empty.weights.h5 holds nothing"):
        AlexNet(weights=empty, **SMALL)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "whole.weights.h5"
    AlexNet(weights=None, classes=7, **SMALL).save_weights(path)
    cut = tmp_path / "cut.weights.h5"
    cut.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="cut.weights.h5"):
        AlexNet(weights=cut, classes=7, **SMALL)


@pytest.mark.parametrize("name", PUBLISHED)
def test_save_writes_the_file_that_keras_writes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "ROWS_BYTES", 1000)
    model = build(name, weights=None, **SMALL)
    model.save_weights(tmp_path / "keras.weights.h5")
    save(model, tmp_path / "ours.weights.h5")
    assert h5_contents(tmp_path / "ours.weights.h5") == h5_contents(tmp_path / "keras.weights.h5")


def h5_contents(path: Path) -> dict[str, tuple]:
    """Every group and array of a file: attributes, type, shape, bytes."""
    found: dict[str, tuple] = {}

    def add(name: str, entry: h5py.Group | h5py.Dataset) -> None:
        held = (str(entry.dtype), entry.shape, entry[()].tobytes()) if isinstance(entry, h5py.Dataset) else ()
        found[name] = (dict(entry.attrs), *held)

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def test_an_empty_network_is_zero_and_the_next_one_random() -> None:
    with empty_networks():
        empty = build("alexnet", weights=None, **SMALL)
    assert not any(array.any() for array in empty.get_weights())
    assert all(keras.ops.std(layer.kernel) > 0 for layer in keras.models.clone_model(empty).layers if layer.weights)


@pytest.mark.parametrize("name", PUBLISHED)
def test_loading_is_what_keras_loads(name: str, tmp_path: Path) -> None:
    path = tmp_path / "all.weights.h5"
    model = build(name, weights=None, **SMALL)
    drawn = np.random.default_rng(0)
    model.set_weights([drawn.normal(size=array.shape) for array in model.get_weights()])
    model.save_weights(path)
    with empty_networks():
        ours, keras_own = (build(name, weights=None, **SMALL) for _ in range(2))
    load_strict(ours, path)
    keras_own.load_weights(path)
    for found, expected, saved in zip(ours.get_weights(), keras_own.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, saved)


def test_networks_share_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "all.weights.h5"
    build("alexnet", weights=None, **SMALL).save_weights(path)
    with empty_networks():
        one, other = (build("alexnet", weights=None, **SMALL) for _ in range(2))

    def change(model: keras.Model) -> None:
        for variable in model.weights:
            variable.assign(variable + 1)

    change(other)
    assert not any(array.any() for array in one.get_weights())
    load_strict(one, path)
    load_strict(other, path)
    stored = [array.copy() for array in one.get_weights()]
    change(other)
    for array, before, changed in zip(one.get_weights(), stored, other.get_weights(), strict=True):
        np.testing.assert_array_equal(array, before)
        np.testing.assert_array_equal(changed, before + 1)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_file_of_another_precision_is_converted(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "all.weights.h5"
    model = build("alexnet", weights=None, **SMALL)
    model.save_weights(path)
    expected = [array.astype(dtype).astype("float32") for array in model.get_weights()]
    with h5py.File(path, "a") as file:
        for place in [name for name, (_, *array) in h5_contents(path).items() if array]:
            values = file[place][()].astype(dtype)
            del file[place]
            file[place] = values
    load_strict(model, path)
    for array, wanted in zip(model.get_weights(), expected, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("shape", [(3,), (5, 7), (), (0, 4)])
def test_zeros_in_place(shape: tuple[int, ...], dtype: str) -> None:
    array = zeros(shape, dtype)
    assert array.shape == shape and array.dtype == dtype and not array.any()
    array[...] = 7
    tensor = in_place(array)
    np.testing.assert_array_equal(tensor, np.full(shape, 7.0))
    if keras.backend.backend() == "tensorflow":
        assert tensor.dtype.name == dtype
        array[...] = 8
        np.testing.assert_array_equal(tensor, np.full(shape, 8.0))


def test_a_file_that_points_at_another_is_refused(tmp_path: Path) -> None:
    build("alexnet", weights=None, **SMALL).save_weights(tmp_path / "all.weights.h5")
    with h5py.File(tmp_path / "all.weights.h5", "a") as file:
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = h5py.ExternalLink("other.h5", "/secret")
    with pytest.raises(ModelError, match="ExternalLink"):
        build("alexnet", weights=tmp_path / "all.weights.h5", **SMALL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda array: np.where(array == array.flat[0], 1e300, array.astype("f8")),
            "holds nan or infinite numbers in layer conv3; train",
        ),
        (lambda array: array > 0, "holds bool in layer conv3, expected floating-point numbers"),
        (lambda array: (array * 100).astype("int8"), "holds int8 in layer conv3, expected floating-point numbers"),
    ],
)
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_numbers_that_are_no_weights_are_refused(
    change: Callable[[np.ndarray], np.ndarray], words: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"all{suffix}"
    model = build("alexnet", weights=None, **SMALL)
    if suffix == ".h5":
        model.save(path)
        place = "model_weights/conv3/conv3/kernel"
    else:
        model.save_weights(path)
        place = f"layers/{stored_layers(path)['conv3'][0]}/vars/0"
    with h5py.File(path, "a") as file:
        values = change(file[place][()])
        del file[place]
        file[place] = values
    with pytest.raises(ModelError, match=words):
        build("alexnet", weights=path, **SMALL)
