"""ONNX files: arrays in every way of storing them, operators as nodes, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Foreign, Limits, Node
from emotiw_keras.formats.onnx import read_onnx

from .write_onnx import Op, concat, conv, flatten, gemm, global_mean, lrn, max_pool, relu, softmax, write_onnx
from .write_protobuf import Pieces, block, integer, integers, text, varint

GENERATOR = np.random.default_rng(5)


def draw(*shape: int) -> np.ndarray:
    return GENERATOR.normal(0, 1, shape).astype(np.float32)


KERNEL, BIAS, WEIGHT, WEIGHT_BIAS = draw(4, 2, 3, 3), draw(4), draw(5, 36), draw(5)
NET = [
    conv("conv1", "data", KERNEL, BIAS, pads=[1, 0, 1, 2], strides=[2, 2], group=1),
    relu("relu1", "conv1"),
    lrn("norm1", "relu1", size=3, alpha=5e-4, k=2.0),
    max_pool("pool1", "norm1", 2, 1, ceil=True),
    flatten("flat", "pool1"),
    gemm("fc", "flat", WEIGHT, WEIGHT_BIAS),
    softmax("prob", "fc"),
]
ARRAYS = {"conv1_w": KERNEL, "conv1_b": BIAS, "fc_w": WEIGHT, "fc_b": WEIGHT_BIAS}


def read(folder: Path, ops: Sequence[Op], inputs: dict[str, Sequence[int]] | None = None, opset: int = 12) -> Foreign:
    shapes = inputs or {"data": (1, 2, 8, 8)}
    path = write_onnx(folder / "net.onnx", ops, inputs=shapes, outputs=[ops[-1].outputs[0]], opset=opset)
    return read_onnx(path)


def nodes_of(found: Foreign) -> list[Node]:
    assert found.nodes is not None
    return list(found.nodes)


def only_node(folder: Path, op: Op, opset: int = 12) -> Node:
    (node,) = nodes_of(read(folder, [op], opset=opset))
    return node


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("raw, packed", [(True, True), (False, True), (False, False)])
def test_arrays_in_every_form(dtype: str, raw: bool, packed: bool, tmp_path: Path) -> None:
    ops = [conv("conv1", "data", KERNEL.astype(dtype), BIAS.astype(dtype))]
    path = write_onnx(
        tmp_path / "a.onnx", ops, inputs={"data": (0, 2, 8, 8)}, outputs=["conv1"], raw=raw, packed=packed, opset=13
    )
    found = read_onnx(path)
    assert found.format == "ONNX (opset 13)" and found.layout == "oihw" and found.inputs == {"data": (0, 2, 8, 8)}
    for name, array in (("conv1_w", KERNEL), ("conv1_b", BIAS)):
        assert found.arrays[name].dtype == np.dtype(dtype) and found.arrays[name].shape == array.shape
        np.testing.assert_array_equal(found.arrays[name], array.astype(dtype))
    if raw:
        assert not found.arrays["conv1_w"].flags.owndata and not found.arrays["conv1_w"].flags.writeable


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("raw, packed", [(True, True), (False, True), (False, False)])
def test_integers_in_every_form(dtype: str, raw: bool, packed: bool, tmp_path: Path) -> None:
    values = np.array([[0, -1, 127, 128], [np.iinfo(dtype).max, np.iinfo(dtype).min, 1 << 20, -300]], dtype)
    ops = [Op("GatherND", ["data", "indices"], ["x"], arrays={"indices": values})]
    path = write_onnx(tmp_path / "a.onnx", ops, inputs={"data": (9,)}, outputs=["x"], raw=raw, packed=packed)
    found = read_onnx(path)
    assert found.arrays["indices"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.arrays["indices"], values)
    assert nodes_of(found) == [Node("unsupported", "x", ("data",), ("x",), ("indices",), {"type": "GatherND"})]


def test_a_sequential_net(tmp_path: Path) -> None:
    found = read(tmp_path, NET)
    assert list(found.arrays) == list(ARRAYS) and not found.ignored
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    window = {"stride": (2, 2), "pad": (1, 1, 0, 2), "dilation": (1, 1)}
    pool = {"size": (2, 2), "stride": (1, 1), "pad": (0, 0, 0, 0), "rounding": "ceil"}
    assert nodes_of(found) == [
        Node("conv", "conv1", ("data",), ("conv1",), ("conv1_w", "conv1_b"), {"out": 4, "size": (3, 3), "groups": 1, **window}),
        Node("relu", "relu1", ("conv1",), ("relu1",), (), {"slope": 0.0}),
        Node("lrn", "norm1", ("relu1",), ("norm1",), (), {"size": 3, "alpha": 5e-4, "beta": 0.75, "k": 2.0}),
        Node("max_pool", "pool1", ("norm1",), ("pool1",), (), pool),
        Node("flatten", "flat", ("pool1",), ("flat",), (), {}),
        Node("fc", "fc", ("flat",), ("fc",), ("fc_w", "fc_b"), {"out": 5}),
        Node("softmax", "prob", ("fc",), ("prob",), (), {"axis": 1}),
    ]


def test_the_written_files_are_onnx(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", NET, inputs={"data": (1, 2, 8, 8)}, outputs={"prob": (1, 5)}, opset=13)
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "net.onnx"))
    kernels = [net.getParam(name, 0) for name in net.getLayerNames() if net.getLayer(name).type == "Convolution"]
    assert len(kernels) == 1 and kernels[0].tobytes() == KERNEL.tobytes()


def test_branches_and_their_join(tmp_path: Path) -> None:
    ops = [
        conv("a", "data", draw(3, 2, 1, 1), None),
        conv("b", "data", draw(3, 2, 3, 3), draw(3), auto_pad="SAME_UPPER"),
        concat("cat", ["a", "b"]),
        Op("Dropout", ["cat"], ["drop", "mask"], {"ratio": 0.5}),
        global_mean("mean", "drop"),
        softmax("prob", "mean"),
    ]
    found = nodes_of(read(tmp_path, ops))
    assert [node.op for node in found] == ["conv", "conv", "concat", "identity", "global_mean", "softmax"]
    assert found[0].arrays == ("a_w",) and found[1].attrs["pad"] == (1, 1, 1, 1)
    assert found[2].inputs == ("a", "b") and found[3].outputs == ("drop",)


def test_batch_normalisation_is_two_nodes(tmp_path: Path) -> None:
    arrays = {name: draw(2) for name in ("g", "b", "m", "v")}
    found = read(tmp_path, [Op("BatchNormalization", ["data", *arrays], ["bn"], {"epsilon": 1e-3}, arrays)])
    first, second = nodes_of(found)
    assert (first.op, first.arrays, first.attrs, first.inputs) == ("batch_norm", ("m", "v"), {"epsilon": 1e-3}, ("data",))
    assert (second.op, second.arrays, second.outputs) == ("scale", ("g", "b"), ("bn",))
    assert first.outputs == second.inputs != ("bn",)


@pytest.mark.parametrize("constant", [True, False])
def test_shapes_are_not_weights(constant: bool, tmp_path: Path) -> None:
    shape = np.array([-1, 128], np.int64)
    reshape = Op("Reshape", ["data", "shape"], ["flat"], arrays={} if constant else {"shape": shape, "spare": draw(2)})
    ops = [Op("Constant", [], ["shape"], {"value": shape}), reshape] if constant else [reshape]
    found = read(tmp_path, [*ops, gemm("fc", "flat", draw(128, 3), None, out_first=False)])
    assert [node.op for node in nodes_of(found)] == ["flatten", "fc"]
    assert nodes_of(found)[1].attrs == {"out": 3, "layout": "io"} and list(found.arrays) == ["fc_w"]
    assert found.ignored == {"shape": "only gives a shape"} | ({} if constant else {"spare": "no node uses it"})


def test_a_product_and_the_sum_after_it_are_one_layer(tmp_path: Path) -> None:
    weight, bias = draw(128, 3), draw(3)
    product = Op("MatMul", ["flat", "w"], ["xw"], arrays={"w": weight})
    total = Op("Add", ["b", "xw"], ["y"], arrays={"b": bias}, name="sum")
    merged = nodes_of(read(tmp_path, [flatten("flat", "data"), product, total, relu("r", "y")]))
    assert [(node.op, node.inputs, node.outputs, node.arrays) for node in merged][1:] == [
        ("fc", ("flat",), ("y",), ("w", "b")),
        ("relu", ("y",), ("r",), ()),
    ]
    used_twice = nodes_of(read(tmp_path, [flatten("flat", "data"), product, total, relu("r", "xw")]))
    assert [node.op for node in used_twice] == ["flatten", "fc", "tensor", "relu"]
    assert nodes_of(read(tmp_path, [product], {"flat": (1, 2, 8, 128)}))[0].op == "unsupported"


@pytest.mark.parametrize(
    "op, expected",
    [
        (Op("LeakyRelu", ["data"], ["x"], {"alpha": 0.2}), ("relu", {"slope": 0.2})),
        (Op("LeakyRelu", ["data"], ["x"]), ("relu", {"slope": 0.01})),
        (Op("Clip", ["data"], ["x"], {"min": 0.0, "max": 6.0}), ("relu", {"slope": 0.0, "limit": 6.0})),
        (
            Op("Clip", ["data", "low", "high"], ["x"], arrays={"low": np.float32([0]), "high": np.float32([6])}),
            ("relu", {"slope": 0.0, "limit": 6.0}),
        ),
        (Op("Clip", ["data", "low"], ["x"], arrays={"low": np.float32([0])}), ("relu", {"slope": 0.0})),
        (
            Op("Clip", ["data"], ["x"], {"min": -1.0, "max": 1.0}),
            "Clip between -1 and 1; with bounds of 0 and above it is computed, as a ReLU6 is",
        ),
        (Op("Clip", ["data", "data"], ["x"]), "Clip between bounds that the file does not hold as numbers"),
        (Op("LRN", ["data"], ["x"], {"size": 5}), ("lrn", {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0})),
        (Op("PRelu", ["data", "s"], ["x"], arrays={"s": draw(2, 1, 1)}), ("prelu", {})),
        (Op("Add", ["data", "data"], ["x"]), ("add", {})),
        (Op("Sigmoid", ["data"], ["x"]), ("sigmoid", {})),
        (Op("Identity", ["data"], ["x"]), ("identity", {})),
        (Op("GlobalMaxPool", ["data"], ["x"]), ("global_max", {})),
        (
            Op("AveragePool", ["data"], ["x"], {"kernel_shape": [3, 2], "count_include_pad": 1, "auto_pad": "SAME_LOWER"}),
            (
                "mean_pool",
                {"size": (3, 2), "stride": (1, 1), "pad": (1, 1, 1, 0), "rounding": "floor", "count_pad": True},
            ),
        ),
        (Op("MaxPool", ["data"], ["x"], {"kernel_shape": [2, 2], "dilations": [2, 2]}), "MaxPool with dilations"),
        (Op("MaxPool", ["data"], ["x"], {"kernel_shape": [2]}), "MaxPool with 1 values of kernel_shape"),
        (Op("MaxPool", ["data"], ["x", "where"], {"kernel_shape": [2, 2]}), "MaxPool with 2 outputs"),
        (conv("x", "data", draw(3, 2, 3), None), "Conv with a kernel of 3 axes"),
        (conv("x", "data", draw(3, 2, 3, 3), None, auto_pad="SAME_LOWER", strides=[2, 2]),
         "Conv with auto_pad SAME_LOWER and strides"),
        (Op("Conv", ["data", "data"], ["x"]), "Conv with data in place of an array of the file"),
        (Op("Gemm", ["data", "w"], ["x"], {"alpha": 0.5}, {"w": draw(2, 2)}), "Gemm with alpha 0.5"),
        (Op("Gemm", ["data", "w"], ["x"], {"transA": 1}, {"w": draw(2, 2)}), "Gemm with transA 1"),
        (Op("Gemm", ["data", "w", "c"], ["x"], {}, {"w": draw(2, 3), "c": draw(2)}), "Gemm with arrays of 2x3 and 2"),
        (Op("PRelu", ["data", "s"], ["x"], arrays={"s": draw(8)}), "PRelu with slopes of 8"),
        (Op("Flatten", ["data"], ["x"], {"axis": 2}), "Flatten with axis 2"),
        (Op("Softmax", ["data"], ["x"]), "Softmax over axis 1 and all after it"),
        (Op("Pad", ["data"], ["x"], {"mode": "reflect", "pads": [0] * 8}), "Pad with mode reflect"),
        (Op("Cast", ["data"], ["x"], {"to": 8}), "Cast to numbers of type 8"),
        (Op("If", ["data"], ["x"]), "If"),
        (Op("Conv", ["data"], ["x"], domain="com.example"), "com.example.Conv"),
    ],
)  # fmt: skip
def test_operators(op: Op, expected: tuple[str, dict[str, object]] | str, tmp_path: Path) -> None:
    node = only_node(tmp_path, op)
    if isinstance(expected, str):
        assert node.op == "unsupported" and node.attrs == {"type": expected}
    else:
        assert (node.op, node.attrs) == expected


def test_softmax_of_later_opsets_is_over_one_axis(tmp_path: Path) -> None:
    assert only_node(tmp_path, Op("Softmax", ["data"], ["x"]), opset=13).attrs == {"axis": -1}
    assert only_node(tmp_path, softmax("x", "data"), opset=13).attrs == {"axis": 1}


@pytest.mark.parametrize(
    "op, expected",
    [
        (conv("x", "data", draw(3, 2, 3, 3), None, strides=[0, 1]), "strides"),
        (conv("x", "data", draw(3, 2, 3, 3), None, pads=[-1, 0, 0, 0]), "pads"),
        (conv("x", "data", draw(3, 2, 3, 3), None, group=0), "group 0"),
        (conv("x", "data", draw(3, 2, 3, 3), None, kernel_shape=[5, 5]), "kernel_shape"),
        (conv("x", "data", draw(3, 2, 3, 3), None, dilations=[1 << 40, 1]), "dilations"),
        (Op("LRN", ["data"], ["x"]), "size 0"),
        (Op("LRN", ["data"], ["x"], {"size": 3, "alpha": float("nan")}), "alpha nan"),
        (Op("LRN", ["data"], ["x"], {"size": "3"}), "expected an integer"),
        (conv("x", "data", np.zeros((1, 2, 1, 1), np.uint8), None), "x_w holds uint8 numbers, expected one of float"),
    ],
)
def test_settings_out_of_range_are_refused(op: Op, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="net.onnx") as caught:
        read(tmp_path, [op])
    assert expected in str(caught.value)


def _model(array: Pieces) -> bytes:
    node = text(1, "data") + text(1, "w") + text(2, "x") + text(4, "Gemm")
    return b"".join(block(7, block(1, node) + block(5, array)))


FLOATS = integer(2, 1) + text(8, "w")
BROKEN = {
    "shape bomb": _model(integers(1, [1 << 31, 1 << 31]) + FLOATS + block(9, [bytes(16)])),
    "shape bomb below the limit": _model(integers(1, [1 << 14, 1 << 14]) + FLOATS + block(9, [bytes(16)])),
    "integer shape bomb": _model(integers(1, [1 << 28]) + integer(2, 7) + text(8, "w") + integers(7, [1, 2])),
    "half shape bomb": _model(integers(1, [1 << 28]) + integer(2, 10) + text(8, "w") + integers(5, [1, 2])),
    "negative shape": _model(integers(1, [-4, -1]) + FLOATS + block(9, [bytes(16)])),
    "many sizes": _model(integers(1, [1] * 50) + FLOATS + block(9, [bytes(4)])),
    "fewer values": _model(integers(1, [2, 2]) + FLOATS + block(9, [bytes(12)])),
    "no values": _model(integers(1, [2, 2]) + FLOATS),
    "a long number": _model(integers(1, [2]) + integer(2, 7) + text(8, "w") + block(7, [b"\xff" * 12 + b"\x01\x01"])),
    "an open number": _model(integers(1, [2]) + integer(2, 7) + text(8, "w") + block(7, [b"\x01\xff"])),
    "elsewhere": _model(integers(1, [2]) + FLOATS + integer(14, 1) + block(13, text(1, "location") + text(2, "/etc/passwd"))),
    "segments": _model(integers(1, [2]) + FLOATS + block(3, integer(1, 0))),
    "a text": _model(integers(1, [1]) + integer(2, 8) + text(8, "w")),
    "an unknown kind": _model(integers(1, [1]) + integer(2, 99) + text(8, "w")),
    "no name": _model(integers(1, [1]) + integer(2, 1) + block(9, [bytes(4)])),
    "no graph": b"".join(integer(1, 7)),
    "no nodes": b"".join(block(7, text(2, "g"))),
    "sparse": b"".join(block(7, block(1, text(4, "Relu")) + block(15, [b""]))),
    "length beyond the end": b"\x3a" + varint(1 << 50),
    "deep": b"\x3a\x7f" * 3000,
    "a group": b"\x3b\x3c" * 9,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(BROKEN[what])
    with pytest.raises(ModelError, match="bad.onnx") as caught:
        read_onnx(path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "a.onnx", NET, inputs={"data": (1, 2, 8, 8)}, outputs=["prob"]).read_bytes()
    for share in range(37):
        (tmp_path / "part").write_bytes(whole[: len(whole) * share // 37])
        with pytest.raises(ModelError, match="part"):
            read_onnx(tmp_path / "part")


def test_changed_bytes_give_an_error_or_an_answer(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "a.onnx", NET, inputs={"data": (1, 2, 8, 8)}, outputs=["prob"]).read_bytes()
    generator, refused = np.random.default_rng(13), 0
    path = tmp_path / "changed.onnx"
    for _ in range(300):
        data = bytearray(whole)
        # Half of the changes in the structure before the arrays.
        last = len(data) if generator.integers(2) else 400
        for place in generator.integers(0, last, generator.integers(1, 6)):
            data[place] = generator.integers(0, 256)
        path.write_bytes(data)
        try:
            found = read_onnx(path)
        except ModelError:
            refused += 1
        else:
            assert sum(array.nbytes for array in found.arrays.values()) <= 4 * len(data)
    assert 10 < refused < 300


def test_limits(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", NET, inputs={"data": (1, 2, 8, 8)}, outputs=["prob"])
    with pytest.raises(ModelError, match="bytes, more than the 100 allowed"):
        read_onnx(path, Limits(total_bytes=100))
    with pytest.raises(ModelError, match="7 nodes, more than the 5 allowed"):
        read_onnx(path, Limits(arrays=5))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (block(7, text(2, "second")), "graph stands more than once"),
        (block(14, text(1, "a") + text(1, "b")), "key stands more than once"),
        (block(8, [b"\x12\x01\x09"]), "version is a list, expected one int"),
    ],
)
def test_what_others_would_merge_or_pass_over_is_refused(more: Pieces, words: str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", NET, inputs={"data": (1, 2, 8, 8)}, outputs=["prob"])
    path.write_bytes(b"".join(more) + path.read_bytes())
    with pytest.raises(ModelError, match=f"net.onnx: {words}"):
        read_onnx(path)
