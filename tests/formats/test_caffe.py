"""Caffe files: real ones against OpenCV's reader, and every form of the format against the same arrays."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.caffe import read_binaryproto, read_caffemodel, read_prototxt, with_prototxt
from emotiw_keras.formats.caffe_graph import note
from emotiw_keras.formats.foreign import Foreign, Images, Limits, Node
from emotiw_keras.formats.inspect import describe, table
from emotiw_keras.formats.reference import run

from .write_caffe import Layer, blob, write_binaryproto, write_caffemodel, write_prototxt
from .write_protobuf import Pieces, block, integer, integers, numbers, text, varint

# Layers of the snapshot that its definition leaves out.
UNUSED = {"mtcnn/det2": {"conv5-3.weight", "conv5-3.bias"}}
GENERATOR = np.random.default_rng(3)
REAL = {
    "mtcnn/det1": ("mtcnn/det1", 13),
    "mtcnn/det2": ("mtcnn/det2", 18),
    "mtcnn/det3": ("mtcnn/det3", 21),
    "mtcnn/det4": ("mtcnn/det4", 73),
    "caffe_lenet/lenet_iter_10000": ("caffe_lenet/lenet", 8),
}


def draw(*shape: int) -> np.ndarray:
    return GENERATOR.normal(0, 1, shape).astype(np.float32)


def changed(node: Node, attrs: dict[str, Any]) -> Node:
    return replace(node, attrs=attrs)


CONV, CONV_BIAS, FC, FC_BIAS = draw(6, 2, 3, 2), draw(6), draw(4, 24), draw(4)
NET = [
    Layer("data", "Data", {}, [], ["data", "label"], phase="TEST"),
    Layer("conv1", "Convolution", {"num_output": 6, "kernel_h": 3, "kernel_w": 2, "stride": 2, "group": 2, "pad": 1},
          ["data"], ["conv1"], [CONV, CONV_BIAS]),
    Layer("relu1", "ReLU", {"negative_slope": 0.1}, ["conv1"], ["conv1"]),
    Layer("norm1", "LRN", {"local_size": 3, "alpha": 1e-4, "k": 2.0}, ["conv1"], ["norm1"]),
    Layer("pool1", "Pooling", {"pool": "AVE", "kernel_size": 3, "stride": 2, "pad": 1}, ["norm1"], ["pool1"]),
    Layer("drop1", "Dropout", {"dropout_ratio": 0.5}, ["pool1"], ["pool1"]),
    Layer("fc2", "InnerProduct", {"num_output": 4}, ["pool1"], ["fc2"], [FC, FC_BIAS]),
    Layer("accuracy", "Accuracy", {}, ["fc2", "label"], ["accuracy"], phase="TEST"),
    Layer("loss", "SoftmaxWithLoss", {}, ["fc2", "label"], ["loss"]),
]  # fmt: skip
ARRAYS = {"conv1.weight": CONV, "conv1.bias": CONV_BIAS, "fc2.weight": FC, "fc2.bias": FC_BIAS}
# Version 0 has no form with a height and a width, nor a slope.
SQUARE = draw(6, 2, 3, 3)
OLD_NET = [
    Layer("conv1", "Convolution", {"num_output": 6, "kernel_size": 3, "group": 2}, ["data"], ["conv1"], [SQUARE, CONV_BIAS]),
    Layer("relu1", "ReLU", {}, ["conv1"], ["conv1"]),
    Layer("norm1", "LRN", {"local_size": 3, "alpha": 1e-4, "k": 2.0}, ["conv1"], ["norm1"]),
    Layer("pool1", "Pooling", {"pool": "MAX", "kernel_size": 3, "stride": 2}, ["norm1"], ["pool1"]),
    Layer("fc2", "InnerProduct", {"num_output": 4}, ["pool1"], ["fc2"], [FC, FC_BIAS]),
    Layer("prob", "Softmax", {}, ["fc2"], ["prob"]),
]
OLD_ARRAYS = ARRAYS | {"conv1.weight": SQUARE}


def assert_same_arrays(found: Foreign, expected: dict[str, np.ndarray]) -> None:
    assert list(found.arrays) == list(expected)
    for name, array in expected.items():
        assert found.arrays[name].shape == array.shape, name
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_what_opencv_reads(name: str, shared_data: Path) -> None:
    definition, count = REAL[name]
    folder = shared_data / "foreign_weights"
    model, prototxt = folder / f"{name}.caffemodel", folder / f"{definition}.prototxt"
    found = read_caffemodel(model)
    assert len(found.arrays) == count
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
    places = {"weight": 0, "bias": 1, "slope": 0}
    for key, array in found.arrays.items():
        if key in UNUSED.get(name, ()):
            continue
        layer, _, what = key.rpartition(".")
        theirs = net.getParam(layer, places[what])
        assert array.size == theirs.size and array.dtype == np.float32
        assert array.ravel().tobytes() == theirs.astype("<f4").ravel().tobytes(), key
        if what == "weight":
            assert array.shape == theirs.shape, key


@pytest.mark.parametrize("name", REAL)
def test_real_definitions_take_the_arrays_of_their_models(name: str, shared_data: Path) -> None:
    folder = shared_data / "foreign_weights"
    weights = read_caffemodel(folder / f"{name}.caffemodel")
    net = with_prototxt(weights, read_prototxt(folder / f"{REAL[name][0]}.prototxt"))
    unused = UNUSED.get(name, set())
    assert net.arrays.keys() == weights.arrays.keys() - unused and unused <= net.ignored.keys()
    assert net.nodes is not None and {array for node in net.nodes for array in node.arrays} == net.arrays.keys()
    unsupported = [node.attrs["type"] for node in net.nodes if node.op == "unsupported"]
    assert unsupported == (["Slice"] if name.endswith("det4") else [])


def test_a_snapshot_of_training_keeps_only_what_the_answer_needs(shared_data: Path) -> None:
    found = read_caffemodel(shared_data / "foreign_weights/mtcnn/det1.caffemodel")
    assert found.nodes is not None and [node.name for node in found.nodes] == [
        "conv1", "PReLU1", "pool1", "conv2", "PReLU2", "conv3", "PReLU3", "conv3_PReLU3_0_split",
        "conv4-1", "conv4-1_conv4-1_0_split", "conv4-2", "loss1",
    ]  # fmt: skip
    assert found.inputs == {"data12face": (0, 0, 0, 0)}
    assert "TRAIN" in found.ignored["data12"] and "Silence" in found.ignored["silence"]
    assert "training" in found.ignored["slicer_label"] and "EuclideanLoss" in found.ignored["loss2"]


def feeding(settings: dict[str, Any], phase: str | None = None, top: str = "data") -> Layer:
    """A layer that feeds a network, with how it prepares images."""
    return Layer("data", "Data", {"crop_size": 227, **settings}, [], [top, "label"], phase=phase)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("settings", "expected", "words"),
    [
        ({"scale": 0.00390625, "mean_value": [127.5]}, Images(0.00390625, (127.5,)), "(0..255 less 127.5) times 0.00390625"),
        ({"mean_value": [104.0, 117.0, 123.0]}, Images(mean=(104.0, 117.0, 123.0)), "0..255 less 104, 117, 123"),
        (
            {"mean_file": "a/mean.binaryproto"},
            Images(mean_file="a/mean.binaryproto"),
            "0..255 less the mean image a/mean.binary",
        ),
    ],
)
def test_a_data_layer_says_how_images_are_prepared(
    version: int, settings: dict[str, Any], expected: Images, words: str, tmp_path: Path
) -> None:
    """It was passed over, and the report said that the file does not state it."""
    net = [feeding(settings, "TRAIN"), feeding(settings, "TEST"), *NET[1:]]
    binary = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", net, version=version))
    prototxt = read_prototxt(write_prototxt(tmp_path / "a.prototxt", net, version=version))
    bare = read_caffemodel(write_caffemodel(tmp_path / "b.caffemodel", NET, version=version))
    assert bare.images == () and bare.mean is None
    for found in (binary, prototxt, with_prototxt(bare, prototxt)):
        assert found.images == (expected,) and str(expected).startswith(words)
        assert (found.mean is None) == (not expected.mean) and (found.mean is None or found.mean.tolist() == [*expected.mean])
        assert f"images {expected}" in table(found) and describe(found)["images"] == [str(expected)]


def test_data_layers_that_contradict_each_other_are_both_told(tmp_path: Path) -> None:
    net = [
        feeding({"mean_value": [104.0]}, "TRAIN"),
        feeding({"mean_value": [99.0]}, "TEST"),
        feeding({"scale": 0.5}, top="map"),
    ]
    found = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", [*net, *NET[1:]]))
    assert found.images == (Images(mean=(104.0,)), Images(mean=(99.0,))) and found.mean is None  # nothing reads `map`
    many = read_caffemodel(write_caffemodel(tmp_path / "b.caffemodel", [feeding({"mean_value": [300.0] * 9}), *NET[1:]]))
    assert many.mean is None and str(many.images[0]) == "0..255 less 9 values"


def test_older_files_have_it_in_other_places(tmp_path: Path) -> None:
    old = [Layer("data", "Data", {"scale": 0.5, "meanfile": "mean"}, [], ["data"]), *OLD_NET]
    assert read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", old, version=0)).images == (Images(0.5, (), "mean"),)
    net = write_prototxt(tmp_path / "a.prototxt", NET).read_text()
    for kind, word in (("Data", "data"), ("ImageData", "image_data"), ("WindowData", "window_data")):
        param = f'{word}_param {{ source: "x" of_a_fork: 3 scale: 0.25 mean_file: "b" }} transform_param {{ of_a_fork: true }}'
        (tmp_path / "a.prototxt").write_text(net.replace('type: "Data"', f'type: "{kind}" {param}'))
        assert read_prototxt(tmp_path / "a.prototxt").images == (Images(0.25, (), "b"),)


def test_real_files_say_how_images_are_prepared(shared_data: Path) -> None:
    folder = shared_data / "foreign_weights"
    assert read_caffemodel(folder / "caffe_lenet/lenet_iter_10000.caffemodel").images == (Images(1 / 256),)
    alexnet = read_prototxt(folder / "bvlc/bvlc_alexnet.train_val.prototxt")
    assert alexnet.images == (Images(mean_file="data/ilsvrc12/imagenet_mean.binaryproto"),)


def test_real_prototxts(shared_data: Path) -> None:
    folder = shared_data / "foreign_weights"
    net = read_prototxt(folder / "bvlc/bvlc_alexnet.deploy.prototxt")
    assert net.inputs == {"data": (10, 3, 227, 227)} and not net.ignored and net.nodes is not None
    nodes = {node.name: node for node in net.nodes}
    assert [node.op for node in net.nodes][:5] == ["conv", "relu", "lrn", "max_pool", "conv"]
    assert nodes["conv2"].attrs == {
        "out": 256, "size": (5, 5), "stride": (1, 1), "pad": (2, 2, 2, 2), "groups": 2, "dilation": (1, 1),
    }  # fmt: skip
    assert nodes["norm1"].attrs == {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
    assert nodes["pool1"].attrs == {"size": (3, 3), "stride": (2, 2), "pad": (0, 0, 0, 0), "rounding": "ceil"}
    assert nodes["fc6"].arrays == ("fc6.weight", "fc6.bias")
    training = read_prototxt(folder / "bvlc/bvlc_alexnet.train_val.prototxt")
    assert training.nodes is not None and training.nodes[:-1] == net.nodes[:-1]
    assert training.nodes[-1].op == "softmax" and training.nodes[-1].inputs == ("fc8",)
    assert training.ignored.keys() == {"data", "accuracy"} and training.inputs == {"data": (0, 0, 0, 0)}
    caffenet = read_prototxt(folder / "bvlc/bvlc_reference_caffenet.deploy.prototxt")
    assert caffenet.nodes is not None and [node.op for node in caffenet.nodes][:4] == ["conv", "relu", "max_pool", "lrn"]


def test_arrays_of_an_archive_match_by_dots(shared_data: Path) -> None:
    folder = shared_data / "foreign_weights/squeezenet"
    with np.load(folder / "squeezenet_v1.0_imagenet_decoded.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    weights = Foreign("NumPy archive", folder / "squeezenet_v1.0_imagenet_decoded.npz", arrays)
    net = with_prototxt(weights, read_prototxt(folder / "SqueezeNet_deploy.prototxt"))
    assert len(net.arrays) == len(arrays) == 52
    np.testing.assert_array_equal(net.arrays["fire2/conv1x1_1.weight"], arrays["fire2.conv1x1_1.weight"])
    assert net.nodes is not None and net.nodes[-1].op == "global_mean"


FORMS = list(itertools.product([True, False], repeat=4))


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("packed, double, legacy, diff", FORMS)
def test_every_form_of_the_format_holds_the_same_arrays(
    version: int, packed: bool, double: bool, legacy: bool, diff: bool, tmp_path: Path
) -> None:
    net, arrays = (OLD_NET, OLD_ARRAYS) if version == 0 else (NET, ARRAYS)
    path = write_caffemodel(
        tmp_path / "a.caffemodel", net, version=version, packed=packed, double=double, legacy=legacy, diff=diff,
        inputs={"data": (1, 4, 9, 9)} if version == 0 else None,
    )  # fmt: skip
    found = read_caffemodel(path)
    assert found.format == f"Caffe model (V{version} layers)"
    assert found.layout == "oihw" and found.channel_order == "bgr"
    assert_same_arrays(found, {name: array.astype("<f8") for name, array in arrays.items()} if double else arrays)


@pytest.mark.parametrize("raw", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("version", [1, 2])
def test_blobs_of_bytes_as_nvidias_caffe_keeps_them(raw: str, version: int, tmp_path: Path) -> None:
    net = NET if version == 2 else OLD_NET
    found = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", net, version=version, raw=raw))
    whole = read_caffemodel(write_caffemodel(tmp_path / "b.caffemodel", net, version=version))
    assert list(found.arrays) == list(whole.arrays) and found.nodes == whole.nodes
    for name, array in whole.arrays.items():
        assert found.arrays[name].dtype == np.dtype(raw)
        np.testing.assert_array_equal(found.arrays[name], array.astype(raw))


@pytest.mark.parametrize("raw", ["<f2", "<f4"])
def test_opencv_reads_the_same_from_blobs_of_bytes(raw: str, tmp_path: Path) -> None:
    inputs = {"data": (1, 4, 9, 9)}
    model = write_caffemodel(tmp_path / "a.caffemodel", OLD_NET, raw=raw)
    prototxt = write_prototxt(tmp_path / "a.prototxt", OLD_NET, inputs=inputs)
    net, found = cv2.dnn.readNetFromCaffe(str(prototxt), str(model)), read_caffemodel(model)
    for name, array in found.arrays.items():
        layer, _, what = name.rpartition(".")
        theirs = net.getParam(layer, ("weight", "bias").index(what))
        assert array.astype("<f4").ravel().tobytes() == theirs.ravel().tobytes(), name


@pytest.mark.parametrize("kind, content, message", [(7, bytes(8), "type 7"), (1, bytes(7), "no multiple of 4")])
def test_blobs_of_bytes_of_other_types_and_sizes_are_refused(kind: int, content: bytes, message: str, tmp_path: Path) -> None:
    blob = block(7, integers(1, [2])) + integer(10, kind) + block(12, [content])
    layer = text(1, "fc") + text(2, "InnerProduct") + text(3, "x") + text(4, "fc") + block(7, blob) + block(117, integer(1, 2))
    (tmp_path / "raw.caffemodel").write_bytes(b"".join(block(100, layer)))
    with pytest.raises(ModelError, match=f"raw.caffemodel.*{message}"):
        read_caffemodel(tmp_path / "raw.caffemodel")


@pytest.mark.parametrize("version", [1, 2])
def test_binary_and_text_give_the_same_nodes(version: int, tmp_path: Path) -> None:
    binary = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", NET, version=version))
    text_form = read_prototxt(write_prototxt(tmp_path / "a.prototxt", NET, version=version))
    assert binary.nodes == text_form.nodes and binary.inputs == text_form.inputs == {"data": (0, 0, 0, 0)}
    assert binary.nodes is not None
    assert [(node.op, node.name, node.inputs, node.outputs) for node in binary.nodes] == [
        ("conv", "conv1", ("data",), ("conv1",)),
        ("relu", "relu1", ("conv1",), ("conv1",)),
        ("lrn", "norm1", ("conv1",), ("norm1",)),
        ("mean_pool", "pool1", ("norm1",), ("pool1",)),
        ("identity", "drop1", ("pool1",), ("pool1",)),
        ("fc", "fc2", ("pool1",), ("fc2",)),
        ("softmax", "loss", ("fc2",), ("loss",)),
    ]
    conv, relu, norm, pool = binary.nodes[:4]
    assert conv.attrs["size"] == (3, 2) and conv.attrs["stride"] == (2, 2) and conv.attrs["groups"] == 2
    assert relu.attrs == {"slope": 0.1} and norm.attrs == {"size": 3, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
    assert pool.attrs["count_pad"] and pool.attrs["pad"] == (1, 1, 1, 1)
    assert binary.ignored == text_form.ignored and binary.ignored.keys() == {"data", "accuracy"}


def test_large_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    weight = draw(300, 1000)
    net = [Layer("fc", "InnerProduct", {"num_output": 300, "bias_term": False}, ["data"], ["fc"], [weight])]
    found = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", net, inputs={"data": (1, 1000, 1, 1)}))
    assert not found.arrays["fc.weight"].flags.owndata and not found.arrays["fc.weight"].flags.writeable
    scattered = read_caffemodel(write_caffemodel(tmp_path / "b.caffemodel", net, packed=False))
    np.testing.assert_array_equal(scattered.arrays["fc.weight"], weight)


def test_padding_layers_of_version_0_move_into_the_convolution(tmp_path: Path) -> None:
    def layer(name: str, kind: str, bottom: str, settings: Pieces) -> Pieces:
        return block(2, text(2, bottom) + text(3, name) + block(1, text(1, name) + text(2, kind) + settings))

    arrays = block(50, blob(draw(2, 1, 3, 3))) + block(50, blob(draw(2)))
    pieces = layer("pad1", "padding", "data", integer(7, 2))
    pieces += layer("conv1", "conv", "pad1", integer(3, 2) + integer(8, 3) + arrays)
    path = tmp_path / "a.caffemodel"
    path.write_bytes(b"".join(pieces))
    found = read_caffemodel(path)
    assert found.nodes is not None and len(found.nodes) == 1
    assert found.nodes[0].inputs == ("data",) and found.nodes[0].attrs["pad"] == (2, 2, 2, 2)


def test_roles_of_arrays_and_unsupported_layers(tmp_path: Path) -> None:
    net = [
        Layer("in", "Input", {"shape": [[1, 3, 8, 8]]}, [], ["data"]),
        Layer("bn", "BatchNorm", {"eps": 1e-3}, ["data"], ["bn"], [draw(3), draw(3), draw(1)]),
        Layer("scale", "Scale", {"bias_term": True}, ["bn"], ["bn"], [draw(3), draw(3)]),
        Layer("slope", "PReLU", {"channel_shared": True}, ["bn"], ["p"], [np.array(0.25, np.float32)]),
        Layer("up", "Deconvolution", {"num_output": 2, "kernel_size": 2}, ["p"], ["up"], [draw(3, 2, 2, 2), draw(2)]),
        Layer("own", "Whatever", {}, ["up"], ["own"], [draw(2), draw(5)]),
        Layer("sum", "Eltwise", {"operation": "SUM", "coeff": [1, -1]}, ["own", "up"], ["sum"]),
        Layer("cat", "Concat", {"axis": 2}, ["sum", "own"], ["cat"]),
        Layer("max", "Pooling", {"pool": "MAX", "global_pooling": True}, ["cat"], ["max"]),
        Layer("norm", "LRN", {"norm_region": "WITHIN_CHANNEL"}, ["max"], ["norm"]),
        Layer("floor", "Pooling", {"kernel_size": 2, "round_mode": "FLOOR"}, ["norm"], ["floor"]),
    ]
    found = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", net))
    assert list(found.arrays) == [
        "bn.mean", "bn.variance", "bn.factor", "scale.gamma", "scale.beta", "slope.slope", "up.weight", "up.bias",
        "own.blob0", "own.blob1",
    ]  # fmt: skip
    assert found.inputs == {"data": (1, 3, 8, 8)} and found.nodes is not None
    kinds = {node.name: (node.op, node.attrs) for node in found.nodes}
    assert kinds["bn"] == ("batch_norm", {"epsilon": 1e-3}) and found.arrays["slope.slope"].shape == ()
    assert kinds["up"] == ("unsupported", {"type": "Deconvolution"}) and kinds["own"][1] == {"type": "Whatever"}
    assert kinds["sum"] == ("unsupported", {"type": "Eltwise with coefficients"}) and kinds["cat"] == ("concat", {"axis": 2})
    assert kinds["max"] == ("global_max", {}) and kinds["floor"][1]["rounding"] == "floor"
    assert kinds["norm"] == ("unsupported", {"type": "LRN with norm_region WITHIN_CHANNEL"})


@pytest.mark.parametrize("legacy", [True, False])
def test_a_mean_image_is_turned_to_rows_columns_channels(legacy: bool, tmp_path: Path) -> None:
    mean = draw(3, 5, 7)
    found = read_binaryproto(write_binaryproto(tmp_path / "mean.binaryproto", mean, legacy=legacy))
    assert found.mean is not None and found.mean.dtype == np.float32 and found.channel_order == "bgr"
    np.testing.assert_array_equal(found.mean, mean.transpose(1, 2, 0))
    np.testing.assert_array_equal(found.arrays["mean"], mean[None])


@pytest.mark.parametrize("value", [256.0, np.inf, np.nan])
def test_a_mean_that_is_no_grey_level_is_refused(value: float, tmp_path: Path) -> None:
    mean = draw(3, 5, 7)
    mean[1, 2, 3] = value
    with pytest.raises(ModelError, match=r"no grey levels of 0\.\.255"):
        read_binaryproto(write_binaryproto(tmp_path / "mean.binaryproto", mean))


def test_a_definition_and_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", NET))

    def joined(*layers: Layer) -> Foreign:
        return with_prototxt(weights, read_prototxt(write_prototxt(tmp_path / "a.prototxt", layers, inputs={"data": (1,) * 4})))

    conv = NET[1].params
    alone = joined(Layer("conv1", "Convolution", conv, ["data"], ["conv1"]))
    assert alone.ignored["fc2.weight"] == "a.prototxt has no layer of this name" and len(alone.arrays) == 2
    for layer, expected in (
        (Layer("conv9", "Convolution", conv, ["data"], ["x"]), "needs the array conv9.weight"),
        (Layer("conv1", "Convolution", {**conv, "num_output": 8}, ["data"], ["x"]), "ask for 8 filters of 3x2"),
        (Layer("conv1", "Convolution", {**conv, "bias_term": False}, ["data"], ["x"]), "conv1.bias is in the weights"),
        (Layer("fc2", "InnerProduct", {"num_output": 5}, ["data"], ["x"]), "ask for 5 outputs"),
    ):
        with pytest.raises(ModelError, match=expected):
            joined(layer)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole = write_caffemodel(tmp_path / "a.caffemodel", NET).read_bytes()
    mean = write_binaryproto(tmp_path / "a.binaryproto", draw(3, 4, 4)).read_bytes()
    # A cut between two layers leaves a smaller network, which only its use can tell.
    ends = {
        len(b"".join(Path(write_caffemodel(tmp_path / "b", NET[:count])).read_bytes() for _ in "1")) for count in range(1, 9)
    }
    for share in range(37):
        part = tmp_path / "part"
        for data, read in ((whole, read_caffemodel), (mean, read_binaryproto)):
            size = len(data) * share // 37
            part.write_bytes(data[:size])
            if data is whole and size in ends:
                continue
            with pytest.raises(ModelError, match="part") as caught:
                read(part)
            assert "\n" not in str(caught.value)


def _net_of(fields: Pieces) -> bytes:
    layer = text(1, "fc") + text(2, "InnerProduct") + text(3, "data") + text(4, "fc") + block(117, integer(1, 2))
    return b"".join(block(100, layer + block(7, fields)))


BROKEN = {
    "shape bomb": _net_of(block(7, integers(1, [1 << 40, 1 << 40])) + numbers(5, draw(4))),
    "negative shape": _net_of(block(7, integers(1, [-2, -2])) + numbers(5, draw(4))),
    "legacy shape bomb": _net_of(integer(3, 1 << 62) + integer(4, 3) + numbers(5, draw(4))),
    "too many sizes": _net_of(block(7, integers(1, [1] * 40)) + numbers(5, draw(1))),
    "fewer values": _net_of(block(7, integers(1, [2, 3])) + numbers(5, draw(5))),
    "no values": _net_of(block(7, integers(1, [2, 3]))),
    "half a value": _net_of(block(7, integers(1, [1])) + block(5, [b"12345"])),
    "values as text": _net_of(block(7, integers(1, [1])) + integer(5, 7)),
    "one array of two": _net_of(block(7, integers(1, [2, 3])) + numbers(5, draw(6))),
    "endless number": _net_of([b"\x08" + b"\xff" * 30]),
    "endless tag": b"\xff" * 40,
    "length beyond the end": b"\xa2\x06" + varint(1 << 60) + b"abc",
    "length beyond its message": b"".join(block(100, [b"\x0a" + varint(200) + b"conv"])),
    "a group": b"\x0b" * 20,
    "wire type 7": b"\x0f\x01\x02",
    "field number 0": b"\x02\x01a",
    "a name with a line break": b"".join(block(100, text(1, "a\nb") + text(2, "ReLU"))),
    "a name that is not text": b"".join(block(100, block(1, [b"\xff\xfe\xfd"]))),
    "an endless name": b"".join(block(100, text(1, "a" * 5000))),
    "no layers": b"".join(text(1, "net")),
    "many fields": b"\x20\x01" * 500_000,
    "deep": b"\x12\x7f" * 3000,
    "same names": b"".join(2 * block(100, text(1, "fc") + text(2, "InnerProduct") + block(7, blob(draw(1))))),
    "text": b"layer { name: 'x' }" * 9,
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.caffemodel"
    path.write_bytes(BROKEN[what])
    for read in (read_caffemodel, read_binaryproto):
        with pytest.raises(ModelError, match="bad.caffemodel") as caught:
            read(path)
        assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_changed_bytes_give_an_error_or_an_answer(tmp_path: Path) -> None:
    whole = write_caffemodel(tmp_path / "a.caffemodel", OLD_NET, version=1).read_bytes()
    generator, refused = np.random.default_rng(11), 0
    path = tmp_path / "changed.caffemodel"
    for _ in range(300):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), generator.integers(1, 6)):
            data[place] = generator.integers(0, 256)
        path.write_bytes(data)
        try:
            found = read_caffemodel(path)
        except ModelError:
            refused += 1
        else:
            assert sum(array.nbytes for array in found.arrays.values()) <= len(data)
    assert 10 < refused < 300


def test_limits_and_missing_files(tmp_path: Path) -> None:
    path = write_caffemodel(tmp_path / "a.caffemodel", NET)
    with pytest.raises(ModelError, match="bytes, more than the 100 allowed"):
        read_caffemodel(path, Limits(total_bytes=100))
    with pytest.raises(ModelError, match="9 layers, more than the 5 allowed"):
        read_caffemodel(path, Limits(arrays=5))
    with pytest.raises(ModelError, match="no weight file"):
        read_caffemodel(tmp_path / "none")
    with pytest.raises(ModelError, match="regular file"):
        read_caffemodel(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ModelError, match="empty"):
        read_caffemodel(tmp_path / "empty")


@pytest.mark.parametrize(
    "params, expected",
    [
        ({"num_output": 6}, "has no kernel_size"),
        ({"num_output": 6, "kernel_size": 0}, "kernel_size 0"),
        ({"num_output": 6, "kernel_size": 3, "stride": 0}, "stride 0"),
        ({"num_output": 6, "kernel_size": 3, "stride": 1 << 40}, "stride 1099511627776"),
        ({"num_output": 6, "kernel_size": 3, "pad": -1}, "pad -1"),
        ({"num_output": 6, "kernel_size": 3, "kernel_h": 3}, "expected one form"),
        ({"kernel_size": 3}, "num_output 0"),
    ],
)
def test_settings_out_of_range_are_refused(params: dict[str, int], expected: str, tmp_path: Path) -> None:
    net = [Layer("conv1", "Convolution", params, ["data"], ["conv1"], [SQUARE, CONV_BIAS])]
    with pytest.raises(ModelError, match=expected):
        read_caffemodel(write_caffemodel(tmp_path / "a.caffemodel", net))
    with pytest.raises(ModelError, match=expected):
        read_prototxt(write_prototxt(tmp_path / "a.prototxt", net))


def test_a_gate_and_its_reshape_compute_what_senet_defines(tmp_path: Path) -> None:
    layers = [
        Layer("pool", "Pooling", {"pool": "AVE", "global_pooling": True}, ["data"], ["pool"]),
        Layer("shape", "Reshape", {"shape": [(0, -1, 1, 1)]}, ["pool"], ["shape"]),
        Layer("axpy", "Axpy", {}, ["shape", "data", "other"], ["axpy"]),
    ]
    inputs = {"data": (1, 2, 3, 4), "other": (1, 2, 3, 4)}
    x, y = draw(1, 2, 3, 4), draw(1, 2, 3, 4)
    for path in (
        write_caffemodel(tmp_path / "net.caffemodel", layers, inputs=inputs),
        write_prototxt(tmp_path / "net.prototxt", layers, inputs=inputs),
    ):
        foreign = read_caffemodel(path) if path.suffix == ".caffemodel" else read_prototxt(path)
        found, _ = run(foreign.nodes, {}, {"data": x, "other": y}, "oihw")
        np.testing.assert_allclose(found["axpy"], x.mean(axis=(2, 3), keepdims=True) * x + y, rtol=1e-5)
    (tmp_path / "odd.prototxt").write_text('layer { name: "a" type: "Axpy" bottom: "x" bottom: "y" top: "a" }')
    assert read_prototxt(tmp_path / "odd.prototxt").nodes[0].attrs == {"type": "Axpy with 2 inputs"}
    with pytest.raises(
        ModelError, match=r"layer axpy \(axpy\) gets 1x2x3x4, which does not fit 24 factors, one for each channel"
    ):
        run(foreign.nodes[2:], {}, {"shape": x, "data": x, "other": y}, "oihw")
    with pytest.raises(ModelError, match=r"layer shape \(reshape\) gets 1x2x1x1, which does not fit the shape 0x3x1x1"):
        bad = changed(foreign.nodes[1], {"shape": (0, 3, 1, 1)})
        run([foreign.nodes[0], bad], {}, {"data": x}, "oihw")


def test_of_many_reasons_the_first_are_told() -> None:
    ignored: dict[str, str] = {}
    for i in range(100):
        note(ignored, "loss", f"only training needs it ({i}Loss)")
        note(ignored, "loss", "only training needs it (0Loss)")
    assert len(ignored["loss"].split("; ")) == 8
