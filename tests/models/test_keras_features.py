"""What Keras does with layers of its own, it does with the zoo's: int8, LoRA, types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.models import AlexNet, build, get_spec, model_names
from emotiw_keras.models.grey_folding import fold_to_grey
from emotiw_keras.models.kernels.cast_once import narrow_kernels
from emotiw_keras.models.layers import BatchNormalization, Conv2D, Dense, GroupedConv2D
from emotiw_keras.models.normalisations import fold_normalisations

ROOT = Path(__file__).resolve().parents[2]
MEAN = (104.0, 117.0, 123.0)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def small(**kwargs: object) -> keras.Model:
    return AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.1, classifier_activation=None, **kwargs)


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
def test_a_network_quantises_as_one_of_kerass_own_layers(tmp_path: Path) -> None:
    model, x = small(), 60 * values(4, 67, 67, 3)
    full = model.predict(x, verbose=0)
    model.quantize("int8")
    assert {layer.name for layer in model.layers if layer.quantization_mode == "int8"} == {"fc6", "fc7", "fc8"}
    answers = model.predict(x, verbose=0)
    assert 0 < np.abs(answers - full).max() < 0.1 * np.abs(full).max()

    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), answers)
    assert fold_normalisations(model) is model and narrow_kernels(model) is model


def test_dense_quantises_to_what_keras_dense_does() -> None:
    ours, theirs, x = Dense(5), keras.layers.Dense(5), values(3, 8)
    ours(x), theirs(x)
    theirs.set_weights(ours.get_weights())
    ours.quantize("int8"), theirs.quantize("int8")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(layer(x, training=True)) for layer in (ours, theirs)))

    class Other(Dense):
        pass

    other = Other(5)
    other(x)
    with pytest.raises(NotImplementedError):
        other.quantize("int8")


def test_a_whole_number_kernel_takes_no_normalisation_in() -> None:
    image = keras.Input((8,))
    model = keras.Model(image, keras.layers.BatchNormalization()(Dense(4, name="fc")(image)))
    assert fold_normalisations(model) is not model
    model.get_layer("fc").quantize("int8")
    assert fold_normalisations(model) is model


LAYERS = {
    "dense": (lambda: Dense(6, activation="relu"), lambda: keras.layers.Dense(6, activation="relu"), (5, 8)),
    "conv": (lambda: Conv2D(6, 3, padding="same"), lambda: keras.layers.Conv2D(6, 3, padding="same"), (2, 7, 7, 4)),
    "alone": (lambda: GroupedConv2D(6, 3, padding=1), lambda: keras.layers.Conv2D(6, 3, padding="same"), (2, 7, 7, 4)),
    "grouped": (lambda: GroupedConv2D(6, 3, padding="valid", groups=2), None, (2, 7, 7, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_lora_is_that_of_kerass_own_layers(kind: str, tmp_path: Path) -> None:
    make, stock, shape = LAYERS[kind]
    x = values(*shape)
    model = keras.Sequential([keras.Input(shape[1:]), make()])
    layer = model.layers[0]
    before = model.predict(x, verbose=0)
    layer.enable_lora(2)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert [w.name for w in layer.trainable_variables] == ["bias", "lora_kernel_a", "lora_kernel_b"]
    kernel = keras.ops.convert_to_numpy(layer._kernel)

    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, before + 1, epochs=2, verbose=0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer._kernel), kernel)
    answers = model.predict(x, verbose=0)
    assert np.abs(answers - before).max() > 1e-3
    if stock is not None:
        plain = stock()
        plain(x)
        plain.set_weights([keras.ops.convert_to_numpy(w) for w in (layer.kernel, layer.bias)])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(plain(x)), answers, rtol=1e-5, atol=1e-5)

    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.layers[0].lora_rank == 2
    np.testing.assert_allclose(again.predict(x, verbose=0), answers, rtol=1e-6, atol=1e-6)


def test_a_network_with_lora_folds_to_grey() -> None:
    model = small()
    for layer in model.layers:
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
            layer.lora_kernel_b.assign(0.1 * values(*layer.lora_kernel_b.shape))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 67, 67, 1))
    grey = fold_to_grey(model, MEAN)
    expected = model.predict((pixels - MEAN).astype("float32"), verbose=0)
    found = grey.predict((pixels - MEAN[0]).astype("float32"), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt", "vgg_cnn_s", "squeezenet", "face_vgg", "efficientnet_lite0"])
def test_a_trunk_takes_images_of_any_size(name: str) -> None:
    open_net = build(name, weights=None, include_top=False, input_shape=(None, None, 3), width=0.1)
    assert open_net.input_shape == (None, None, None, 3)
    for height, width in ((75, 91), (68, 66)):
        x = 30 * values(2, height, width, 3)
        fixed = build(name, weights=None, include_top=False, input_shape=(height, width, 3), width=0.1)
        fixed.set_weights(open_net.get_weights())
        expected = keras.ops.convert_to_numpy(fixed(x))
        found = keras.ops.convert_to_numpy(open_net(x))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ModelError, match=r"\(None, 67, 3\) goes with include_top=False"):
        build(name, weights=None, input_shape=(None, 67, 3), width=0.1)


# What the type keeps of a value, grown over the layers.
POLICIES = {"bfloat16": 1e-1, "float16": 5e-3, "float64": 1e-5}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["face_vgg", "senet50", "alexnet"])
def test_networks_run_and_train_in_one_type_throughout(name: str, policy: str) -> None:
    arguments = {"weights": None, "classes": 7, "input_shape": (67, 67, 3), "width": 0.1, "classifier_activation": None}
    plain = build(name, **arguments)
    keras.config.set_dtype_policy(policy)
    model = build(name, **arguments)
    model.set_weights(plain.get_weights())
    x = values(4, 67, 67, 3)
    expected = keras.ops.convert_to_numpy(plain(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), expected, atol=POLICIES[policy] * np.abs(expected).max())
    if name == "senet50":  # tracing its training takes long; its parts are the same
        return

    before = [keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in model.weights]
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(model.fit(x, np.arange(4), verbose=0).history["loss"][0])
    after = [keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in model.weights]
    assert all(np.isfinite(w).all() for w in after) and any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_batch_normalisation_keeps_the_statistics_of_kerass_own(policy: str) -> None:
    ours, theirs = BatchNormalization(dtype=policy), keras.layers.BatchNormalization(dtype=policy)
    x = 3 * values(8, 5, 5, 4) + 1
    for _ in range(3):
        y, expected = ours(x, training=True), theirs(x, training=True)
    for a, b in ((y, expected), (ours(x), theirs(x)), *zip(ours.weights, theirs.weights, strict=True)):
        a, b = (keras.ops.convert_to_numpy(keras.ops.cast(t, "float32")) for t in (a, b))
        np.testing.assert_allclose(a, b, rtol=POLICIES[policy], atol=POLICIES[policy] / 4)


CHECKED = """
from typing import assert_type
import keras
import emotiw_keras.models
{imports}
{checks}
emotiw_keras.models.AlexNet(classes="seven")
"""


def test_type_checkers_see_models(tmp_path: Path) -> None:
    """With Keras as a stub of one class: it has no types of its own, and reading its source takes minutes."""
    names = [get_spec(name).class_name for name in model_names()]
    stub = tmp_path / "stubs" / "keras"
    stub.mkdir(parents=True)
    (stub / "__init__.pyi").write_text("from typing import Any\nclass Model: ...\ndef __getattr__(name: str) -> Any: ...\n")
    checks = "\n".join(f"assert_type({name}(weights=None), keras.Model)" for name in names)
    (tmp_path / "use.py").write_text(
        CHECKED.format(imports=f"from emotiw_keras.models import {', '.join(names)}", checks=checks)
    )
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nmypy_path = {stub.parent}:{ROOT}\nfollow_imports = silent\nignore_missing_imports = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "use.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "found 1 error" in done.stdout.lower(), done.stdout + done.stderr
    assert 'Argument "classes" to "AlexNet" has incompatible type "str"; expected "int"' in done.stdout
