"""Every intermediate size and parameter count of the full networks, as their papers and releases have them."""

from __future__ import annotations

import keras
import pytest

from emotiw_keras.models import build, get_spec, model_names, parts

ALEXNET = {"conv1": (55, 96), "norm1": (55, 96), "pool1": (27, 96), "conv2": (27, 256), "norm2": (27, 256)}
ALEXNET |= {"pool2": (13, 256), "conv3": (13, 384), "conv4": (13, 384), "conv5": (13, 256), "pool5": (6, 256)}
M = {"conv1": (109, 96), "norm1": (109, 96), "pool1": (54, 96), "conv2": (26, 256), "norm2": (26, 256)}
M |= {"pool2": (13, 256), "conv3": (13, 512), "conv4": (13, 512), "conv5": (13, 512), "pool5": (6, 512)}
MAPS = {
    "alexnet": ALEXNET,
    "caffenet": {**ALEXNET, "norm1": (27, 96), "norm2": (13, 256)},
    "alexnet_owt": {"conv1": (55, 64), "pool1": (27, 64), "conv2": (27, 192), "pool2": (13, 192)}
    | {"conv3": (13, 384), "conv4": (13, 256), "conv5": (13, 256), "pool5": (6, 256), "avg_pool": (6, 256)},
    "vgg_cnn_f": {"conv1": (54, 64), "norm1": (54, 64), "pool1": (27, 64), "conv2": (27, 256), "norm2": (27, 256)}
    | {"pool2": (13, 256), "conv3": (13, 256), "conv4": (13, 256), "conv5": (13, 256), "pool5": (6, 256)},
    "vgg_cnn_m": M,
    "vgg_cnn_m_2048": M,
    "vgg_cnn_m_1024": M,
    "vgg_cnn_m_128": M,
    "vgg_cnn_s": {"conv1": (109, 96), "norm1": (109, 96), "pool1": (37, 96), "conv2": (33, 256), "pool2": (17, 256)}
    | {"conv3": (17, 512), "conv4": (17, 512), "conv5": (17, 512), "pool5": (6, 512)},
}
# The networks with fc6 to fc8; the others have tests of their own.
NAMES = [name for name in model_names() if get_spec(name).classifier == "fc8"]
FC7 = {"vgg_cnn_m_2048": 2048, "vgg_cnn_m_1024": 1024, "vgg_cnn_m_128": 128}
# Published: alexnet, caffenet (the released files' sizes), alexnet_owt (torchvision), vgg_cnn_m_2048 (370 MB).
PARAMETERS = {"alexnet": 60_965_224, "caffenet": 60_965_224, "alexnet_owt": 61_100_840, "vgg_cnn_m_2048": 92_469_864}
SEVEN_CLASSES = {"alexnet": 56_896_903, "vgg_cnn_m_2048": 90_435_207}


def parameters_by_hand(name: str) -> int:
    """The count from the tables above: kernels height x width x channels / groups x filters, and biases."""
    kernels = {"conv1": 7, "conv2": 5} if "_m" in name or name.endswith("_s") else {"conv1": 11, "conv2": 5}
    groups = {"conv2": 2, "conv4": 2, "conv5": 2} if name in ("alexnet", "caffenet") else {}
    total, channels = 0, 3
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        filters, size = MAPS[name][layer][1], kernels.get(layer, 3)
        total += size * size * (channels // groups.get(layer, 1)) * filters + filters
        channels = filters
    units = 36 * channels
    for width in (4096, FC7.get(name, 4096), 1000):
        total += (units + 1) * width
        units = width
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_parameters_of_the_full_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.RELU, "kernel_initializer", "zeros")  # drawing 90 million numbers takes seconds
    spec = get_spec(name)
    model = build(name, weights=None)
    assert model.input_shape == (None, spec.input_size, spec.input_size, 3)
    maps = {layer.name: layer.output.shape for layer in model.layers if len(layer.output.shape) == 4}
    maps.pop("image")
    assert maps == {layer: (None, size, size, channels) for layer, (size, channels) in MAPS[name].items()}
    units = [model.get_layer(layer).output.shape for layer in ("flatten", "fc6", "fc7", "fc8")]
    flat = 36 * MAPS[name]["pool5"][1]
    assert units == [(None, flat), (None, 4096), (None, FC7.get(name, 4096)), (None, 1000)]
    assert model.count_params() == spec.parameters == parameters_by_hand(name) == PARAMETERS.get(name, spec.parameters)
    if name in SEVEN_CLASSES:
        assert model.count_params() - 993 * (units[2][1] + 1) == SEVEN_CLASSES[name]


def test_alexnet_on_224_pools_up_as_caffe_does() -> None:
    model = build("alexnet", weights=None, include_top=False, input_shape=(224, 224, 3), width=0.1)
    sizes = [model.get_layer(layer).output.shape[1] for layer in ("conv1", "pool1", "pool2", "pool5")]
    assert sizes == [54, 27, 13, 6]


@pytest.mark.parametrize("name", NAMES)
def test_width_multiplies_channels_and_units(name: str) -> None:
    model = build(name, weights=None, width=0.25, input_shape=(67, 67, 3), classes=42)
    for layer, (_, channels) in MAPS[name].items():
        assert model.get_layer(layer).output.shape[-1] == channels // 4
    assert model.get_layer("fc6").units == 1024
    assert model.get_layer("fc7").units == FC7.get(name, 4096) // 4
    assert model.get_layer("fc8").units == 42


@pytest.mark.parametrize("name", model_names())
def test_the_narrowest_network_has_whole_groups(name: str) -> None:
    model = build(name, weights=None, width=1e-4, input_shape=(67, 67, 3), classes=2)
    convolutions = [layer for layer in model.layers if not layer.name.endswith("depthwise")]
    grouped = {layer.name: layer.groups for layer in convolutions if getattr(layer, "groups", 1) > 1}
    assert grouped == ({"conv2": 2, "conv4": 2, "conv5": 2} if name in ("alexnet", "caffenet") else {})
    assert isinstance(model, keras.Model)
    assert model.count_params() > 0
