"""ONNX files as PyTorch's exporters write them become the same networks as the Caffe files of the same weights."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from emotiw_keras.conversion.convert import convert
from emotiw_keras.conversion.matching import exported_module
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits, Node
from emotiw_keras.formats.onnx import read_onnx
from emotiw_keras.models import alexnet_owt, senet, squeezenet, vgg_cnn
from emotiw_keras.models.registry import build, get_spec
from tests.formats import write_onnx
from tests.formats.exported_onnx import STYLES, Style, write_exported
from tests.formats.foreign_networks import Network, network, run_caffe, write_caffe_files
from tests.models.test_convert import assert_same, ours

WIDTHS = {
    "alexnet": 0.1,
    "alexnet_owt": 0.1,
    "vgg_cnn_m_2048": 0.1,
    "squeezenet": 0.25,
    "squeezenet_v1_1": 0.25,
    "senet50": 0.1,
}
NAMES = {
    "alexnet_owt": alexnet_owt.FOREIGN_NAMES[0],
    "vgg_cnn_m_2048": vgg_cnn.FOREIGN_NAMES[0],
    "senet50": senet.FOREIGN_NAMES[1],
    **squeezenet.TORCHVISION_NAMES,
}


@functools.cache
def drawn(name: str) -> Network:
    return network(name, WIDTHS[name], classes=7)


@functools.cache
def scores(name: str, folder: Path) -> np.ndarray:
    """What the network computes from Caffe's files of its weights, by OpenCV, which never sees the ONNX file."""
    net = drawn(name)
    return run_caffe(net, *write_caffe_files(folder, net), [net.scores])[net.scores]


def module(name: str, layer: str) -> str:
    """PyTorch's name of a layer; of one without weights, its own."""
    return NAMES.get(name, {}).get(layer, layer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caffe")


def exported(path: Path, name: str, style: Style) -> Path:
    return write_exported(path, drawn(name), style, functools.partial(module, name))


# Every style with the networks of which it writes something special; both exporters with all.
EVERYWHERE = ("older-13", "newer-18")
SPECIAL = {
    "older-9": ("alexnet",),
    "older-17-any-batch": ("vgg_cnn_m_2048", "alexnet_owt"),
    "older-13-four-images": ("alexnet",),
    "older-13-half": ("squeezenet_v1_1",),
    "older-13-unfolded": ("senet50", "alexnet_owt"),
    "older-13-softmax": ("alexnet_owt",),
    "newer-20-any-batch": ("vgg_cnn_m_2048", "squeezenet_v1_1"),
    "newer-23-external": ("alexnet_owt",),
    "newer-18-half": ("vgg_cnn_m_2048",),
    "newer-18-unoptimised": ("alexnet", "senet50"),
}
CASES = [(name, style) for style in EVERYWHERE for name in WIDTHS if name != "alexnet_owt"]
CASES += [("alexnet_owt", style) for style in EVERYWHERE]
CASES += [(name, style) for style, names in SPECIAL.items() for name in names]


@pytest.mark.parametrize("name, style", CASES)
def test_exported_files_give_the_same_network(name: str, style: str, tmp_path: Path, folder: Path) -> None:
    path = exported(tmp_path / "net.onnx", name, STYLES[style])
    # torchvision's names: without a word its own images would be likelier than those that these weights are for
    stated = get_spec(name).channel_order if name in squeezenet.TORCHVISION_NAMES else None
    model, conversion = convert(name, path, width=WIDTHS[name], channel_order=stated)
    # SENet-50's small variances magnify the last digits.
    assert conversion.own_structure and max(conversion.parity.values()) < (5e-5 if name == "senet50" else 1e-5)
    found = ours(model, [])["scores"]
    if name == "alexnet_owt":  # its poolings round down, which Caffe's cannot: held to the other exporter's file
        other, _ = convert(name, exported(tmp_path / "other.onnx", name, Style()), width=WIDTHS[name])
        expected = ours(other, [])["scores"]
    else:
        expected = scores(name, folder)
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(found.reshape(-1) - expected.reshape(-1)).max() <= (5e-3 if STYLES[style].half else 1e-4) * largest
    lines = "\n".join(conversion.lines())
    folded = name == "senet50" and STYLES[style].folded
    assert ("batch normalisations are folded" in lines) == folded
    assert len([line for line in lines.splitlines() if line.startswith("ignored")]) < 20


@pytest.mark.parametrize("style", ["older-13", "newer-18"])
def test_a_file_whose_publisher_may_prepare_images_otherwise_is_doubted(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was converted, and proven, into a network that took BGR of 0..255 where torchvision's took RGB of 0..1."""
    path = exported(tmp_path / "net.onnx", "squeezenet_v1_1", STYLES[style])
    doubt = "less 104, 117, 123; torchvision's takes RGB, 0..1, less a mean and divided by a deviation: of such a file change"
    assert doubt in "\n".join(convert("squeezenet_v1_1", path, width=0.25)[1].lines())
    build("squeezenet_v1_1", weights=path, width=0.25)
    assert doubt in capsys.readouterr().err
    _, conversion = convert("squeezenet_v1_1", path, width=0.25, channel_order="rgb")
    lines = "\n".join(conversion.lines())
    assert "channels: RGB (not stated by the file, taken as said)" in lines
    assert "scale and mean: not stated by the file, taken as squeezenet_v1_1 takes images: BGR, 0..255 less 104" in lines


def test_torchvisions_arrays_are_refused_with_the_reason(tmp_path: Path) -> None:
    named = squeezenet.TORCHVISION_NAMES["squeezenet_v1_1"]
    arrays = {key.rpartition("."): array for key, array in drawn("squeezenet_v1_1").arrays.items()}
    np.savez(tmp_path / "net.npz", **{f"{named[layer]}.{role}": array for (layer, _, role), array in arrays.items()})
    with pytest.raises(ModelError, match=r"torchvision's layers of squeezenet_v1_1, .* RGB, 0..1, .* export it as ONNX"):
        convert("squeezenet_v1_1", tmp_path / "net.npz", width=0.25)


def test_the_module_a_node_was_exported_from() -> None:
    assert exported_module("/features/features.0/Conv") == "features.0"
    assert exported_module("/layer1/layer1.0/downsample/downsample.0/Conv") == "layer1.0.downsample.0"
    assert exported_module("/model/features/features.10/Conv_1") == "model.features.10"
    assert exported_module("/conv1/Conv") == "conv1"
    assert exported_module("node_conv2d_3") == exported_module("") == exported_module("/Relu") == ""


def test_known_arrays_under_unknown_nodes_are_matched(tmp_path: Path) -> None:
    """Names of arrays fitted while nodes were called otherwise: KeyError."""
    path = exported(tmp_path / "net.onnx", "alexnet_owt", STYLES["newer-18"])
    _, conversion = convert("alexnet_owt", path, width=0.1)
    assert conversion.matched_by == "name"
    assert [match.theirs for match in conversion.matches][:2] != [match.ours for match in conversion.matches][:2]


HEAD = {"fc6": "head.1", "fc7": "head.4", "fc8": "head.6.1"}


@pytest.mark.parametrize("style", ["older-13", "newer-18"])
@pytest.mark.parametrize("renamed", [HEAD, {"fc8": "classifier.6.1"}])
def test_a_renamed_head_behind_a_known_trunk_is_matched_by_order(style: str, renamed: dict[str, str], tmp_path: Path) -> None:
    """A file with all names foreign was converted, one with some was refused."""
    named = NAMES["alexnet_owt"] | renamed
    path = write_exported(tmp_path / "net.onnx", drawn("alexnet_owt"), STYLES[style], lambda layer: named.get(layer, layer))
    model, conversion = convert("alexnet_owt", path, width=0.1)
    assert conversion.matched_by == "name and order" and model.output_shape == (None, 7)
    plain, _ = convert("alexnet_owt", exported(tmp_path / "plain.onnx", "alexnet_owt", STYLES[style]), width=0.1)
    assert_same(model.get_layer("fc8").get_weights()[0], plain.get_layer("fc8").get_weights()[0])


def test_arrays_of_a_renamed_head_say_how_it_can_be_done(tmp_path: Path) -> None:
    named = NAMES["alexnet_owt"] | HEAD
    arrays = {key.rpartition("."): array for key, array in drawn("alexnet_owt").arrays.items()}
    held = {f"{named[layer]}.{role}": array for (layer, _, role), array in arrays.items()}
    np.savez(tmp_path / "net.npz", **cast(Any, held))
    with pytest.raises(ModelError, match=r"6 arrays have no place in it, the first is head.1.weight of .*; export .* as ONNX"):
        convert("alexnet_owt", tmp_path / "net.npz", width=0.1)


def test_an_operator_that_is_not_computed_is_named(tmp_path: Path) -> None:
    """Its constants were said to have no place."""
    net = drawn("alexnet_owt")
    found = read_onnx(exported(tmp_path / "net.onnx", "alexnet_owt", STYLES["newer-18"]))
    arrays = found.arrays | {"six": np.float32(6)}
    assert found.nodes is not None
    for kind, words in (
        ("Clip", "relu_1 is Clip, which is not computed here"),
        ("Dropout in training mode", "in evaluation mode"),
    ):
        strange = Node("unsupported", "relu_1", (net.nodes[0].inputs[0],), ("z",), ("six",), {"type": kind})
        with pytest.raises(ModelError, match=words):
            convert("alexnet_owt", replace(found, arrays=arrays, nodes=(strange, *found.nodes)), width=0.1)


def test_a_changed_number_in_the_computation_is_caught(tmp_path: Path) -> None:
    """The proof is of what the file computes, not of what it looks like."""
    net = drawn("vgg_cnn_m_2048")
    other = replace(net, nodes=tuple(replace(n, attrs={**n.attrs, "alpha": 1e-3}) if n.op == "lrn" else n for n in net.nodes))
    path = write_exported(tmp_path / "net.onnx", other, STYLES["newer-18"], lambda layer: layer)
    with pytest.raises(ModelError, match="net.onnx converted to vgg_cnn_m_2048 computes something else: conv2 differs"):
        convert("vgg_cnn_m_2048", path, width=0.1)


def test_a_classifier_with_another_border_gives_the_trunk(tmp_path: Path) -> None:
    """torchvision's SqueezeNet 1.0 does not pad conv10: other scores from the same weights, and the same trunk."""
    net = drawn("squeezenet")
    nodes = tuple(replace(n, attrs={**n.attrs, "pad": (0,) * 4}) if n.name == "conv10" else n for n in net.nodes)
    sizes = {**net.sizes, "conv10": net.sizes["conv10"] - 2}
    path = write_exported(
        tmp_path / "net.onnx", replace(net, nodes=nodes, sizes=sizes), STYLES["older-13"], lambda layer: layer
    )
    model, conversion = convert("squeezenet", path, width=0.25)
    assert conversion.classes is None and model.output_shape == (None, 128)
    assert "pads its input by 0, conv10 by 1; the trunk alone is converted" in "\n".join(conversion.lines())


def test_a_network_without_its_fully_connected_layers_gives_the_trunk(tmp_path: Path) -> None:
    net = drawn("alexnet")
    last = next(i for i, node in enumerate(net.nodes) if node.op == "fc")
    path = write_exported(tmp_path / "net.onnx", replace(net, nodes=net.nodes[:last]), STYLES["newer-18"], lambda layer: layer)
    model, conversion = convert("alexnet", path, width=0.1)
    assert conversion.classes is None and model.output_shape == (None, 26) and len(conversion.matches) == 5
    np.savez(tmp_path / "trunk.npz", **{key: array for key, array in net.arrays.items() if key.startswith("conv")})
    bare, again = convert("alexnet", tmp_path / "trunk.npz", width=0.1)
    assert not again.own_structure
    assert_same(ours(bare, [])["scores"], ours(model, [])["scores"])


OUTSIDE = [
    "../net.onnx.data",
    "/etc/passwd",
    "C:/net.data",
    "a\\..\\..\\x",
    "link.data",
    "circle.data",
    "",
    "a" * 1000,
    "none.data",
]


@pytest.mark.parametrize("location", OUTSIDE)
def test_arrays_beside_the_model_are_read_in_its_folder_alone(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    path = exported(folder / "net.onnx", "alexnet_owt", STYLES["newer-23-external"])
    (tmp_path / "net.onnx.data").write_bytes((folder / "net.onnx.data").read_bytes())
    (folder / "link.data").symlink_to(tmp_path / "net.onnx.data")
    (folder / "circle.data").symlink_to("circle.data")
    held = read_onnx(path).arrays["features.0.weight"]
    np.testing.assert_array_equal(held, drawn("alexnet_owt").arrays["conv1.weight"])
    array = np.ones((2, 2), np.float32)
    graph = write_onnx.outside("w", array, location, 0)
    node = write_onnx._node(write_onnx.Op("Gemm", ["x", "w"], ["y"]))
    bad = folder / "bad.onnx"
    block = write_onnx.block
    bad.write_bytes(b"".join(block(7, block(1, node) + block(5, graph))))
    with pytest.raises(ModelError, match="bad.onnx") as caught:
        read_onnx(bad)
    assert "external_data=False" in str(caught.value) and len(str(caught.value)) < 600


def test_a_second_file_that_is_missing_cut_or_too_large(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", "alexnet_owt", STYLES["newer-23-external"])
    beside = tmp_path / "net.onnx.data"
    whole = beside.read_bytes()
    with pytest.raises(ModelError, match="net.onnx"):
        read_onnx(path, Limits(total_bytes=len(whole) - 1))
    beside.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"net.onnx: .* lies behind the end of net.onnx.data"):
        read_onnx(path)
    beside.unlink()
    with pytest.raises(ModelError, match=r"net.onnx keeps .* which is missing; .*external_data=False"):
        read_onnx(path)
