"""Networks of `keras.applications`: facts that are Keras' own, a second network like the first, files, errors."""

from __future__ import annotations

import os
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.applications import imagenet_utils
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.preprocessing_settings import settings_for
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.formats.keras_h5 import read_keras_h5
from emotiw_keras.keras_names import fingerprint
from emotiw_keras.models import build, get_spec
from emotiw_keras.models import weights as stored
from emotiw_keras.models.applications import APPLICATIONS
from emotiw_keras.models.registry import application_names

NAMES = application_names()
SMALL = "keras:MobileNetV2"
EFFICIENTNET = "keras:EfficientNetB0"
IMAGES = np.random.default_rng(1).integers(0, 256, (2, 80, 80, 3), np.uint8)


class Reached(Exception):  # noqa: N818
    """How far Keras' function went: with these arguments, or with this tensor."""


def function(name: str) -> Any:
    return getattr(keras.applications, get_spec(name).class_name)


def module(name: str) -> ModuleType:
    return sys.modules[function(name).__module__]


def face_input(name: str, side: int = 80) -> FaceInput:
    return FaceInput.from_settings({**settings_for(get_spec(name), crop=side, channels="rgb"), "resize": side})


def numbers(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights that keep the signal's size, so that answers differ where anything does."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, layers.Normalization):
            values = [generator.normal(0, 1, w.shape) / max(1, np.prod(w.shape[:-1])) ** 0.5 for w in layer.weights]
            layer.set_weights([np.abs(v) + 0.5 if v.ndim == 1 else v for v in values])
    return model


def test_every_public_network_is_there() -> None:
    public = [f"keras:{name}" for name in dir(keras.applications) if name[0].isupper()]
    assert sorted(NAMES) == sorted(public)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, smallest = get_spec(name), APPLICATIONS[name].smallest
    if "MobileNetV3" in name:  # it does not ask `obtain_input_shape`; its default lets the size open, its weights are of 224
        with pytest.raises(ValueError, match=f"at least {smallest}x{smallest}"):
            function(name)(weights=None, input_shape=(smallest - 1, smallest, 3))
        assert spec.input_size == 224
        return

    def reached(*_: Any, default_size: int, min_size: int, **__: Any) -> NoReturn:
        raise Reached(default_size, min_size)

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", reached)
    for of in (module(name), sys.modules["keras.src.applications.resnet"]):
        if hasattr(of, "obtain_input_shape"):
            monkeypatch.setattr(of, "obtain_input_shape", reached)
    with pytest.raises(Reached) as caught:
        function(name)(weights=None)
    assert caught.value.args == (spec.input_size, smallest)


def first_maps_input(name: str, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """What Keras' network does before its first convolution, as a model."""

    class First:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __call__(self, x: Any) -> NoReturn:
            raise Reached(x)

    for kind in ("Conv2D", "ZeroPadding2D", "SeparableConv2D"):
        monkeypatch.setattr(keras.src.layers, kind, First)
    if "ConvNeXt" in name:  # its first convolution stands in a Sequential
        monkeypatch.setattr(module(name), "Sequential", First)
    with pytest.raises(Reached) as caught:
        function(name)(weights=None, input_shape=(80, 80, 3), include_top=False)
    (tensor,) = caught.value.args
    return keras.Model(keras.utils.get_source_inputs(tensor)[0], tensor)


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_is_that_of_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = keras.ops.convert_to_numpy(face_input(name)(IMAGES))
    theirs = module(name).preprocess_input(IMAGES.astype("float32"))
    begin = first_maps_input(name, monkeypatch)
    for layer in begin.layers:
        if isinstance(layer, layers.Normalization) and layer.weights:  # EfficientNet: ImageNet's, which its files hold
            layer.adapt_mean.assign([0.485, 0.456, 0.406])
            layer.adapt_variance.assign([0.229**2, 0.224**2, 0.225**2])
            layer.finalize_state()
    theirs = keras.ops.convert_to_numpy(begin(theirs))
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", [SMALL, "keras:MobileNetV3Small"])
def test_parameters_are_those_of_keras(name: str) -> None:
    assert get_spec(name).parameters == function(name)(weights=None).count_params()


@pytest.mark.bfloat16
def test_a_flat_float32_classifier_on_a_trunk_of_half_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build(SMALL, weights=None, classes=42, input_shape=(32, 32, 3), classifier_activation=None)
    assert [layer.name for layer in model.layers[1:3]] == ["Conv1", "bn_Conv1"]
    assert model.layers[-1].name == get_spec(SMALL).classifier
    assert model.layers[1].compute_dtype == "bfloat16"
    assert keras.ops.convert_to_numpy(model(np.zeros((1, 32, 32, 3)))).dtype == np.float32
    assert model.output_shape == (None, 42)


@pytest.mark.parametrize(("name", "side"), [("keras:Xception", 71), (EFFICIENTNET, 32)])
def test_the_second_network_of_a_process_is_the_first(name: str, side: int, few_blocks: None) -> None:
    layers.Conv2D(1, 1), layers.Conv2D(1, 1), layers.BatchNormalization()  # what else was built before
    first, second = (build(name, weights=None, classes=7, input_shape=(side, side, 3)) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)
    names = {layer.name for layer in first.layers}
    assert not any(isinstance(layer, layers.Rescaling | layers.Normalization) for layer in first.layers)
    assert layers.Conv2D(1, 1).name not in names  # or nothing could be built on top of it


def test_without_the_top() -> None:
    assert build(SMALL, weights=None, include_top=False, input_shape=(64, 64, 3)).output_shape == (None, 2, 2, 1280)
    assert build(SMALL, weights=None, include_top=False, pooling="max", input_shape=(64, 64, 3)).output_shape == (None, 1280)


def legacy(model: keras.Model, path: Path) -> str:
    """An `.h5` file as Keras published its weights in."""
    import h5py

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return str(path)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that Keras finds in place of any download."""
    path = tmp_path / "published_notop.h5"
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    yield path


def trunk_answers(model: keras.Model, images: Any) -> np.ndarray:
    cut = [layer for layer in model.layers if isinstance(layer, layers.GlobalAveragePooling2D)][-1]
    return keras.ops.convert_to_numpy(keras.Model(model.input, cut.output)(images))


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """EfficientNets of two blocks, which are built in a moment."""
    monkeypatch.setattr(module(EFFICIENTNET), "DEFAULT_BLOCKS_ARGS", module(EFFICIENTNET).DEFAULT_BLOCKS_ARGS[:2])


def efficientnet(top: bool) -> keras.Model:
    model = numbers(function(EFFICIENTNET)(weights=None, include_top=top, pooling="avg", input_shape=(80, 80, 3)))
    # The deviation where its square is expected, as in the published files.
    next(layer for layer in model.layers if isinstance(layer, layers.Normalization)).set_weights(
        [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)]
    )
    return model


def test_published_efficientnet_answers_as_keras(published: Path, few_blocks: None) -> None:
    legacy(efficientnet(top=False), published)
    theirs = function(EFFICIENTNET)(weights="imagenet", include_top=False, pooling="avg", input_shape=(80, 80, 3))
    expected = keras.ops.convert_to_numpy(theirs(IMAGES.astype("float32")))
    assert expected.std() > 1e-3
    prepared = face_input(EFFICIENTNET)(IMAGES)
    for weights in ("imagenet", str(published)):
        ours = build(EFFICIENTNET, weights=weights, classes=7, input_shape=(80, 80, 3))
        np.testing.assert_allclose(trunk_answers(ours, prepared), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_an_efficientnet_behind_another_mean_is_refused(tmp_path: Path, few_blocks: None) -> None:
    model = efficientnet(top=True)
    next(layer for layer in model.layers if isinstance(layer, layers.Normalization)).set_weights(
        [np.zeros(3), np.ones(3), np.array(0)]
    )
    model.save_weights(tmp_path / "own.weights.h5")
    for path in (str(tmp_path / "own.weights.h5"), legacy(model, tmp_path / "own.h5")):
        with pytest.raises(ModelError, match=r"mean \[0.0, 0.0, 0.0\] and variance \[1.0, 1.0, 1.0\]; expected ImageNet's"):
            build(EFFICIENTNET, weights=path, classes=7, input_shape=(80, 80, 3))


@pytest.mark.parametrize(("name", "form"), [(SMALL, "weights.h5"), (SMALL, "keras"), (SMALL, "h5"), ("keras:Xception", "h5")])
def test_keras_own_files_with_their_top(name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    theirs = numbers(function(name)(weights=None, classes=5, input_shape=(80, 80, 3)))
    path = tmp_path / f"theirs.{form}"
    if form == "h5":
        legacy(theirs, path)
    else:
        theirs.save(path) if form == "keras" else theirs.save_weights(path)
    ours = build(name, weights=path, classes=7, input_shape=(80, 80, 3))
    assert f"{name}: weights of theirs.{form}, but a new classifier with 7 classes" in capsys.readouterr().err
    prepared = face_input(name)(IMAGES)
    expected = trunk_answers(theirs, prepared)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(trunk_answers(ours, prepared), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_our_own_file_brings_its_classifier(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = numbers(build(SMALL, weights=None, classes=7, input_shape=(32, 32, 3)))
    first.save_weights(tmp_path / "ours.weights.h5")
    again = build(SMALL, weights=tmp_path / "ours.weights.h5", classes=7, input_shape=(32, 32, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights(), strict=True))
    assert capsys.readouterr().err == ""


OWN_FIRST: dict[str, Callable[[Any], Any]] = {
    "rescaling": keras.layers.Rescaling(1 / 255, name="rescaling"),
    "normalization": keras.layers.Normalization(mean=127.5, variance=127.5**2, name="normalization"),
    "lambda": keras.layers.Lambda(lambda image: image / 127.5 - 1, name="lambda"),
    "true_divide": lambda image: image / 127.5 - 1,
}


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        ("rescaling", "h5"),
        ("normalization", "keras"),
        ("normalization", "weights.h5"),
        ("lambda", "weights.h5"),
        ("true_divide", "keras"),
    ],
)
def test_what_ones_own_layers_do_before_a_network_is_named(
    layer: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may do what is done here, as in Keras' own guides, so the weights are taken."""
    keras.backend.clear_session()
    first = OWN_FIRST[layer](keras.Input((32, 32, 3)))
    theirs, path = function(SMALL)(weights=None, input_tensor=first), tmp_path / f"theirs.{form}"
    if form == "keras":
        theirs.save(path)
    elif form == "weights.h5":
        theirs.save_weights(path)
    else:
        legacy(theirs, path)
    build(SMALL, weights=path, classes=7, input_shape=(32, 32, 3))
    words = f"theirs.{form} has the layer {layer}, which changes images and is not taken; here the network takes RGB, 0..255"
    assert words in capsys.readouterr().err


def test_names_as_keras_2_spells_them(tmp_path: Path) -> None:
    """DenseNet's conv1/conv is conv1_conv in Keras 3, MobileNetV3's Conv/BatchNorm conv_bn."""
    name, settings = "keras:MobileNetV3Small", {"include_top": False, "input_shape": (32, 32, 3)}
    theirs = numbers(build(name, weights=None, **settings))
    for layer in theirs.layers:
        if layer.name.startswith("conv"):
            layer.name = layer.name.replace("conv", "Conv").replace("_bn", "/BatchNorm")
        elif layer.name.startswith("expanded_conv"):
            layer.name = layer.name.replace("_bn", "/BatchNorm").replace("_depthwise", "/depthwise")
    path = legacy(theirs, tmp_path / "old.h5")
    assert "Conv/BatchNorm.gamma" in read_keras_h5(Path(path)).arrays
    ours = build(name, weights=path, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(theirs.get_weights(), ours.get_weights(), strict=True))


def test_a_file_that_is_none_of_hdf5_is_called_what_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", a=np.zeros(3))
    with pytest.raises(ModelError, match="net.npz is a file of NumPy archive; expected a .weights.h5, .h5 or .keras file"):
        build(SMALL, weights=tmp_path / "net.npz", classes=7, input_shape=(32, 32, 3))


@pytest.mark.parametrize("form", ["weights.h5", "h5"])
def test_a_file_of_another_network_is_refused_with_the_layer(form: str, tmp_path: Path) -> None:
    other = function("keras:MobileNet")(weights=None, input_shape=(32, 32, 3))
    path = tmp_path / f"other.{form}"
    other.save_weights(path) if form == "weights.h5" else legacy(other, path)
    with pytest.raises(ModelError, match=r"fit keras:MobileNetV2: in the place of layer \w+ with .* it holds \w+ with"):
        build(SMALL, weights=path, classes=7, input_shape=(32, 32, 3))


def test_files_that_are_missing_or_none_of_keras(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file at .*gone.h5"):
        build(SMALL, weights=tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ModelError, match="text.h5"):
        build(SMALL, weights=tmp_path / "text.h5", input_shape=(32, 32, 3))


def test_offline_is_one_sentence_and_no_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    asked: list[str] = []
    monkeypatch.setattr(file_utils, "urlretrieve", lambda address, *_: asked.append(address))
    real = file_utils.get_file
    monkeypatch.setattr(file_utils, "get_file", lambda *a, **k: real(*a, **{**k, "cache_dir": str(tmp_path)}))
    with pytest.raises(ModelError, match="of keras:MobileNetV2 are not in Keras' cache and EMOTIW_OFFLINE forbids") as caught:
        build(SMALL, weights="imagenet", classes=7, input_shape=(32, 32, 3))
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    assert asked == [] and capsys.readouterr() == ("", "")


def test_a_failing_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EMOTIW_OFFLINE", raising=False)

    def fails(*_: Any) -> NoReturn:
        raise urllib.error.URLError("no route to host")

    real = file_utils.get_file
    monkeypatch.setattr(file_utils, "urlretrieve", fails)
    monkeypatch.setattr(file_utils, "get_file", lambda *a, **k: real(*a, **{**k, "cache_dir": str(tmp_path)}))
    with pytest.raises(ModelError, match="could not be fetched or read: URL fetch failure.*no route to host; try again"):
        build(SMALL, weights="imagenet", classes=7, input_shape=(32, 32, 3))


def test_a_file_cut_short_in_the_cache_is_one_sentence(published: Path) -> None:
    legacy(function(SMALL)(weights=None, include_top=False, input_shape=(32, 32, 3)), published)
    os.truncate(published, published.stat().st_size // 2)
    with pytest.raises(ModelError, match="could not be fetched or read: .*a damaged file in ~/.keras/models"):
        build(SMALL, weights="imagenet", classes=7, input_shape=(32, 32, 3))


def test_impossible_arguments() -> None:
    with pytest.raises(UsageError, match="keras:MobileNetV2: width is 0.5; .* one width, expected 1"):
        build(SMALL, weights=None, width=0.5)
    with pytest.raises(ModelError, match="keras:Xception: input 70x80 is too small, expected at least 71x71"):
        build("keras:Xception", weights=None, input_shape=(70, 80, 3))
    with pytest.raises(ModelError, match=r"input shape \(32, 32, 1\), expected \(height, width, 3\)"):
        build(SMALL, weights=None, input_shape=(32, 32, 1))
    with pytest.raises(UsageError, match="pooling is 'sum'"):
        build(SMALL, weights=None, include_top=False, pooling="sum")


@pytest.mark.parametrize("wrong", ["keras:mobilenetv2", "MobileNetV2", "mobilenet_v2", "keras:MobilNetV2"])
def test_the_near_name(wrong: str) -> None:
    with pytest.raises(ModelError, match=f"model '{wrong}': did you mean keras:MobileNetV2\\? expected one of alexnet, "):
        get_spec(wrong)


def test_a_sequential_within_is_saved_as_keras_saves_it(tmp_path: Path) -> None:
    def network() -> keras.Model:
        image = layers.Input((4, 4, 3))
        stem = keras.Sequential([layers.Conv2D(2, 2, name="stem_conv"), layers.LayerNormalization(name="stem_norm")])
        return keras.Model(image, layers.Conv2D(3, 1, name="conv")(stem(image)))

    first, second, third = (numbers(network(), seed) for seed in range(3))
    stored.save(first, tmp_path / "ours.weights.h5")
    second.load_weights(tmp_path / "ours.weights.h5")
    first.save_weights(tmp_path / "theirs.weights.h5")
    stored.load_strict(third, tmp_path / "theirs.weights.h5")
    for model in (second, third):
        assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), model.get_weights(), strict=True))
