"""MatConvNet's files: what was written is read, from both MATLAB formats, and damage is an error of one line."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import reference
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.mat_files import read_mat5
from emotiw_keras.formats.matconvnet import _in_order as in_order
from emotiw_keras.formats.matconvnet import read_matconvnet
from emotiw_keras.formats.matconvnet_layers import Layer
from tests.formats.write_matconvnet import Cell, Step, dag_nn, simple_nn, write_mat5, write_mat73

Writer = Callable[..., Path]
WRITERS = pytest.mark.parametrize("write", [write_mat5, write_mat73])
RANDOM = np.random.default_rng(3)


def draw(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def numbers(*values: float) -> np.ndarray:
    return np.array([values], np.float64)


# Grouped as AlexNet's second layer, one filter at the end, so that MATLAB drops trailing axes.
KERNEL1, BIAS1 = draw(3, 3, 3, 4), draw(4)
KERNEL2, BIAS2 = draw(3, 2, 2, 6), draw(6)
KERNEL3, BIAS3 = draw(2, 2, 6, 1), draw(1)
STEPS = (
    Step("conv", "conv1", (KERNEL1, BIAS1), {"stride": numbers(2), "pad": numbers(1, 0, 1, 0)}),
    Step("relu", "relu1"),
    Step("lrn", "norm1", (), {"param": numbers(5, 2, 1e-4, 0.75)}),
    Step("pool", "pool1", (), {"method": "max", "pool": numbers(3, 2), "stride": numbers(2), "pad": numbers(0, 1, 0, 1)}),
    Step("conv", "conv2", (KERNEL2, BIAS2), {"stride": numbers(1), "pad": numbers(1)}),
    Step("conv", "fc3", (KERNEL3[:, :, :, 0], BIAS3), {"stride": numbers(1), "pad": numbers(0)}),
    Step("softmaxloss", "prob"),
)
MEAN = draw(16, 16, 3)
META = {
    "normalization": {"imageSize": numbers(16, 16, 3), "averageImage": MEAN},
    "classes": {"name": Cell(["n1", "n2"]), "description": Cell(["tench, Tinca", "großer Hai"])},
}


def same_arrays(foreign: Foreign) -> None:
    expected = {"conv1": (KERNEL1, BIAS1), "conv2": (KERNEL2, BIAS2), "fc3": (KERNEL3, BIAS3)}
    assert list(foreign.arrays) == [f"{layer}.{what}" for layer in expected for what in ("weight", "bias")]
    for layer, (kernel, bias) in expected.items():
        np.testing.assert_array_equal(foreign.arrays[f"{layer}.weight"], kernel)
        np.testing.assert_array_equal(foreign.arrays[f"{layer}.bias"], bias)
        assert foreign.arrays[f"{layer}.weight"].dtype == np.float32


@WRITERS
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("place", ["net", "top"])
def test_simple_nn(tmp_path: Path, write: Writer, compressed: bool, place: str) -> None:
    net = simple_nn(STEPS, META)
    path = write(tmp_path / "net.mat", {"net": net} if place == "net" else net, compressed=compressed)
    foreign = read_matconvnet(path)
    same_arrays(foreign)
    assert foreign.layout == "hwio" and foreign.channel_order == "rgb"
    assert foreign.classes == ("tench, Tinca", "großer Hai")
    assert foreign.inputs == {"x0": (0, 3, 16, 16)}
    np.testing.assert_array_equal(foreign.mean, MEAN)
    assert foreign.nodes is not None
    ops = [(node.op, node.name, node.inputs, node.outputs) for node in foreign.nodes]
    kinds = ("conv", "relu", "lrn", "max_pool", "conv", "conv", "softmax")
    names = ("conv1", "relu1", "norm1", "pool1", "conv2", "fc3", "prob")
    assert ops == [(op, name, (f"x{i}",), (f"x{i + 1}",)) for i, (op, name) in enumerate(zip(kinds, names, strict=True))]
    assert foreign.nodes[0].attrs == {"stride": (2, 2), "pad": (1, 0, 1, 0), "groups": 1, "dilation": (1, 1)}
    assert foreign.nodes[2].attrs == {"size": 5, "alpha": pytest.approx(5e-4), "beta": 0.75, "k": 2.0}
    assert foreign.nodes[3].attrs == {"size": (3, 2), "stride": (2, 2), "pad": (0, 1, 0, 1), "rounding": "floor"}
    assert foreign.nodes[4].attrs == {"stride": (1, 1), "pad": (1, 1, 1, 1), "groups": 2, "dilation": (1, 1)}


@WRITERS
def test_synsets_go_before_descriptions(tmp_path: Path, write: Writer) -> None:
    classes = {"name": Cell(["n01440764", "n01443537"]), "description": Cell(["tench, Tinca", "goldfish"])}
    foreign = read_matconvnet(write(tmp_path / "net.mat", {"net": simple_nn(STEPS, META | {"classes": classes})}))
    assert foreign.classes == ("n01440764", "n01443537")


@WRITERS
def test_names_that_cannot_be_printed(tmp_path: Path, write: Writer) -> None:
    classes = {"description": Cell(["tench", "gold\x07fish"])}
    foreign = read_matconvnet(write(tmp_path / "net.mat", {"net": simple_nn(STEPS, META | {"classes": classes})}))
    assert foreign.classes is None and foreign.ignored["classes"] == "descriptions that cannot be printed in one line"
    steps = (Step("conv", "con\x07v1", (KERNEL1, BIAS1), {"stride": numbers(2), "pad": numbers(1)}),)
    with pytest.raises(ModelError, match=r"damaged name 'con\\x07v1'"):
        read_matconvnet(write(tmp_path / "net.mat", {"net": simple_nn(steps, META)}))


@WRITERS
def test_old_fields_give_the_same(tmp_path: Path, write: Writer) -> None:
    new = read_matconvnet(write(tmp_path / "new.mat", {"net": simple_nn(STEPS, META)}))
    old = read_matconvnet(write(tmp_path / "old.mat", simple_nn(STEPS, META, old=True)))
    assert old.nodes is not None and new.nodes is not None
    assert [node.name for node in old.nodes] == [f"layer{i}" for i in range(1, 8)]
    assert [(node.op, node.attrs, node.inputs) for node in old.nodes] == [(n.op, n.attrs, n.inputs) for n in new.nodes]
    for before, after in zip(old.arrays.values(), new.arrays.values(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert old.classes == new.classes and old.inputs == new.inputs
    np.testing.assert_array_equal(old.mean, new.mean)


GAMMA, BETA, MOMENTS = draw(4), draw(4), np.abs(draw(4, 2)) + 0.5
DAG = (
    Step("Conv", "c1", (KERNEL1,), {"size": numbers(3, 3, 3, 4), "hasBias": False, "stride": numbers(1, 1), "pad": numbers(1)}),
    Step("BatchNorm", "bn1", (GAMMA, BETA, MOMENTS), {"numChannels": numbers(4), "epsilon": numbers(1e-4)}),
    Step("ReLU", "r1", (), {"opts": Cell(["leak", numbers(0.1)])}),
    Step("Scale", "s1", (GAMMA.reshape(1, 1, 4), BETA), {"hasBias": True}),
    Step("Sum", "sum", (), {}, ("r1", "s1")),
    Step("Concat", "both", (), {"dim": numbers(3)}, ("sum", "c1")),
    Step("Pooling", "pool", (), {"method": "avg", "poolSize": numbers(3, 3), "stride": numbers(2, 2), "pad": numbers(1)}),
    Step("DropOut", "drop", (), {"rate": numbers(0.5)}),
    Step("Sigmoid", "gate"),
    Step("Loss", "loss", (), {"loss": "softmaxlog"}, ("gate", "label")),
)


@WRITERS
def test_dag_nn(tmp_path: Path, write: Writer) -> None:
    foreign = read_matconvnet(write(tmp_path / "net.mat", {"net": dag_nn(DAG, META)}))
    assert foreign.format.startswith("MatConvNet DagNN")
    assert foreign.inputs == {"data": (0, 3, 16, 16)}
    assert foreign.ignored == {"loss": "a layer of the kind 'Loss', which only training needs"}
    assert foreign.nodes is not None
    assert [node.op for node in foreign.nodes] == [
        "conv", "batch_norm", "scale", "relu", "scale", "add", "concat", "mean_pool", "identity", "sigmoid",
    ]  # fmt: skip
    np.testing.assert_array_equal(foreign.arrays["bn1.mean"], MOMENTS[:, 0])
    x = draw(2, 3, 7, 7)
    results, layers = reference.run(foreign.nodes, foreign.arrays, {"data": x}, "hwio")
    # By MatConvNet's own words: gamma * (x - mu) / sigma + beta, and averages over what is inside of the image.
    c1, _ = reference.run(foreign.nodes[:1], foreign.arrays, {"data": x}, "hwio")
    gamma, beta, mu, sigma = (v.reshape(1, 4, 1, 1) for v in (GAMMA, BETA, MOMENTS[:, 0], MOMENTS[:, 1]))
    normal = gamma * (c1["c1"] - mu) / sigma + beta
    leaky = np.where(normal > 0, normal, np.float32(0.1) * normal)
    joined = np.concatenate([leaky + leaky * gamma + beta, c1["c1"]], axis=1)
    corner = joined[:, :, :2, :2].mean(axis=(2, 3))
    np.testing.assert_allclose(results["gate"][:, :, 0, 0], 1 / (1 + np.exp(-corner)), rtol=1e-4, atol=1e-5)
    assert results["gate"].shape == (2, 8, 4, 4)


def test_dag_layers_in_any_order(tmp_path: Path) -> None:
    net = dag_nn(DAG)
    net["layers"] = net["layers"][::-1]
    foreign = read_matconvnet(write_mat5(tmp_path / "net.mat", {"net": net}))
    assert foreign.nodes is not None
    reference.run(foreign.nodes, foreign.arrays, {"data": draw(1, 3, 7, 7)}, "hwio")
    net["layers"][-1]["inputs"] = Cell(["gate"])
    with pytest.raises(ModelError, match="circle"):
        read_matconvnet(write_mat5(tmp_path / "circle.mat", {"net": net}))


def test_unknown_layer_keeps_its_arrays(tmp_path: Path) -> None:
    steps = (Step("convt", "up", (KERNEL1, BIAS1)), Step("bnorm", "bn", (GAMMA, BETA)))
    foreign = read_matconvnet(write_mat5(tmp_path / "net.mat", {"net": simple_nn(steps)}))
    assert foreign.nodes is not None
    assert [(node.op, node.attrs) for node in foreign.nodes] == [
        ("unsupported", {"type": "convt"}),
        ("unsupported", {"type": "bnorm"}),
    ]
    assert list(foreign.arrays) == ["up.weights1", "up.weights2", "bn.weights1", "bn.weights2"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("lrn", "n", (), {"param": numbers(5, 2, 1e-4)}), "'n'.*param.*4 finite numbers"),
        (Step("lrn", "n", (), {"param": "5 2 1e-4 0.75"}), "param"),
        (Step("lrn", "n", (), {"param": numbers(5, np.nan, 1e-4, 0.75)}), "finite"),
        (Step("pool", "p", (), {"pool": numbers(2), "method": "sum"}), "max or avg"),
        (Step("pool", "p", (), {"pool": numbers(2.5)}), "whole numbers"),
        (Step("conv", "c", (KERNEL1, BIAS2)), "6 biases"),
        (Step("conv", "c", (KERNEL3, BIAS3)), "3 channels"),
        (Step("conv", "c", (KERNEL1, BIAS1), {"stride": numbers(0)}), "stride"),
        (Step("conv", "c", (KERNEL1, BIAS1), {"pad": numbers(0, 1, 2)}), "1 or 2 or 4"),
        (Step("conv", "c", (KERNEL1.astype(np.int32), BIAS1)), "single or double"),
    ],
)
def test_contradictions(tmp_path: Path, step: Step, message: str) -> None:
    path = write_mat5(tmp_path / "net.mat", {"net": simple_nn([step], META)})
    with pytest.raises(ModelError, match=message) as caught:
        read_matconvnet(path)
    assert "\n" not in str(caught.value)


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds 'a'; expected"):
        read_matconvnet(write_mat5(tmp_path / "a.mat", {"a": numbers(1)}))
    with pytest.raises(ModelError, match="without layers"):
        read_matconvnet(write_mat73(tmp_path / "b.mat", {"net": {"layers": Cell()}}))


def test_real_net_against_scipy(shared_data: Path) -> None:
    path = shared_data / "foreign_weights" / "matconvnet" / "charscnn.mat"
    foreign = read_matconvnet(path)
    layers = scipy.io.loadmat(path, struct_as_record=False)["layers"][0]
    assert foreign.nodes is not None and len(foreign.nodes) == len(layers) == 9
    for i, cell in enumerate(layers, 1):
        layer = cell[0, 0]
        if layer.type[0] == "conv":
            np.testing.assert_array_equal(foreign.arrays[f"layer{i}.weight"], layer.filters)
            np.testing.assert_array_equal(foreign.arrays[f"layer{i}.bias"], layer.biases[0])
            assert foreign.ignored[f"layer{i}.filtersMomentum"].endswith("only training needs")
    assert foreign.mean is not None and foreign.mean == pytest.approx(scipy.io.loadmat(path)["imageMean"][0])
    assert foreign.inputs == {"x0": (0, 1, 0, 0)} and foreign.channel_order is None
    scores, _ = reference.run(foreign.nodes, foreign.arrays, {"x0": draw(1, 1, 32, 32)}, "hwio")
    assert scores["x9"].shape == (1, 26, 1, 1)


def test_values_against_scipy(tmp_path: Path) -> None:
    """Every type that MATLAB stores numbers in; SciPy reads the same file."""
    values: dict[str, Any] = {f"v{i}": RANDOM.integers(0, 100, (3, 4)).astype(t) for i, t in enumerate("bBhHiIqQfd")}
    values["text"] = np.array(["abc", "xyz"])
    values["cube"] = RANDOM.normal(size=(2, 3, 4))
    for compressed in (False, True):
        path = tmp_path / f"values{compressed}.mat"
        scipy.io.savemat(path, values, do_compression=compressed)
        ours, theirs = read_mat5(path, Limits()), scipy.io.loadmat(path)
        for name in values:
            np.testing.assert_array_equal(ours[name], theirs[name])


@WRITERS
@pytest.mark.parametrize("compressed", [False, True])
def test_truncation(tmp_path: Path, write: Writer, compressed: bool) -> None:
    whole = write(tmp_path / "whole.mat", {"net": simple_nn(STEPS, META)}, compressed=compressed).read_bytes()
    for part in range(37):
        path = tmp_path / f"cut{part}.mat"
        path.write_bytes(whole[: len(whole) * part // 37])
        with pytest.raises(ModelError) as caught:
            read_matconvnet(path)
        assert "\n" not in str(caught.value)


@WRITERS
@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_bytes(tmp_path: Path, write: Writer, compressed: bool) -> None:
    """A right answer or an error of one line; 1 MB is more than the net has, so the limit bounds what a lie can cost."""
    whole = write(tmp_path / "whole.mat", {"net": simple_nn(STEPS[:3])}, compressed=compressed).read_bytes()
    random = np.random.default_rng(11)
    path, errors = tmp_path / "flipped.mat", 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in random.integers(116, len(whole), 3):
            damaged[at] = random.choice([0, 1, 127, 255, int(random.integers(256))])
        path.write_bytes(damaged)
        try:
            read_matconvnet(path, Limits(total_bytes=1 << 20, arrays=2000))
        except ModelError as error:
            errors += 1
            assert "\n" not in str(error)
    assert errors > 10


def head() -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(kind: int, shape: tuple[int, ...], body: bytes, name: bytes = b"net") -> bytes:
    dims = element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, element(6, struct.pack("<II", kind, 0)) + dims + element(1, name) + body)


def nested(depth: int) -> bytes:
    inner = matrix(6, (1, 1), element(9, bytes(8)), b"")
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner, b"")
    return matrix(1, (1, 1), inner)


BOMB = zlib.compress(struct.pack("<II", 14, (1 << 30) - 8) + bytes(1 << 22))
TRAPS = {
    "an array larger than the file": matrix(6, (1 << 20, 1 << 10), element(9, bytes(64))),
    "dimensions whose product overflows": matrix(6, (0x7FFFFFFF,) * 8, element(9, bytes(64))),
    "a negative dimension": matrix(6, (-1, 1), element(9, bytes(8))),
    "more cells than bytes": matrix(1, (1 << 20, 1 << 10), b""),
    "structures without fields": matrix(2, (1 << 15, 1 << 15), element(5, struct.pack("<i", 8)) + element(1, b"")),
    "field names of no length": matrix(2, (1, 1), element(5, struct.pack("<i", 0)) + element(1, b"ab")),
    "an element beyond its parent": matrix(1, (1, 1), struct.pack("<II", 14, 1 << 31)),
    "cells nested 1000 deep": nested(1000),
    "floats as whole numbers": matrix(9, (1, 1), element(9, bytes(8))),
    "text that is none": matrix(4, (1, 2), element(17, b"\x00\xd8\x00\xd8")),
    "an unknown class": matrix(99, (1, 1), element(9, bytes(8))),
    "a zlib bomb": element(15, BOMB),
    "a bomb that says so": element(15, zlib.compress(struct.pack("<II", 14, 1 << 29))),
    "no zlib": element(15, bytes(64)),
    "a compressed variable in another": element(15, zlib.compress(element(15, BOMB))),
    "a wrong checksum": element(15, zlib.compress(matrix(6, (1, 1), element(9, bytes(8))))[:-4] + bytes(4)),
    "more than it says": element(15, zlib.compress(matrix(6, (1, 1), element(9, bytes(8))) + bytes(99))),
    "a sparse network": matrix(5, (1, 1), bytes(64)),
    "a network of class object": matrix(3, (1, 1), bytes(64)),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps(tmp_path: Path, trap: str) -> None:
    path = tmp_path / "trap.mat"
    path.write_bytes(head() + TRAPS[trap])
    with pytest.raises(ModelError) as caught:
        read_matconvnet(path, Limits(total_bytes=1 << 24))
    assert "\n" not in str(caught.value) and "trap.mat" in str(caught.value)


def test_limits(tmp_path: Path) -> None:
    for write in (write_mat5, write_mat73):
        path = write(tmp_path / "net.mat", {"net": simple_nn(STEPS, META)}, compressed=True)
        with pytest.raises(ModelError, match="1,000"):
            read_matconvnet(path, Limits(total_bytes=1000))
        with pytest.raises(ModelError, match="more than the 10 arrays"):
            read_matconvnet(path, Limits(arrays=10))


def test_field_names_are_counted_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "names.mat"
    path.write_bytes(head() + matrix(2, (0, 0), element(5, struct.pack("<i", 2)) + element(1, b"a\0" * 5000)))
    with pytest.raises(ModelError, match="more than the 1,000 arrays and structures"):
        read_matconvnet(path, Limits(arrays=1000))


def test_a_variable_that_unpacks_to_many_times_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotiw_keras.formats.foreign.BOMB_FROM", 1 << 20)
    content = matrix(6, (1 << 16, 8), element(9, bytes(1 << 22)))
    (tmp_path / "zeros.mat").write_bytes(head() + element(15, zlib.compress(content, 9)))
    with pytest.raises(ModelError, match="zeros.mat: a compressed variable has 4,194,3.* allowed of a file of its size"):
        read_matconvnet(tmp_path / "zeros.mat")


def in_rounds(layers: list[Layer]) -> list[str]:
    """The file gone through again and again, each layer taken when all that it needs is there."""
    made, waiting, names = set[str](), layers, []
    ahead = {key for layer in layers for key in layer.outputs}
    while waiting:
        left = []
        for layer in waiting:
            if ahead.intersection(layer.inputs) <= made:
                names.append(layer.name)
                made.update(layer.outputs)
            else:
                left.append(layer)
        assert len(left) < len(waiting)
        waiting = left
    return names


def test_layers_are_put_in_order_in_rounds() -> None:
    for seed in range(40):
        drawn = np.random.default_rng(seed)
        tensors = [f"x{i}" for i in range(12)]
        layers = [
            Layer("relu", f"l{i}", tuple(drawn.choice(["data", *tensors[:i]], 2)), (tensors[i],), {}, [], []) for i in range(12)
        ]
        layers.append(Layer("relu", "again", ("data",), (tensors[3],), {}, [], []))
        drawn.shuffle(layers)  # type: ignore[arg-type]
        assert [layer.name for layer in in_order("a.mat", layers)] == in_rounds(layers)


def test_a_long_net_in_reverse_takes_no_quadratic_time() -> None:
    chain = [Layer("relu", f"l{i}", (f"x{i}",), (f"x{i + 1}",), {}, [], []) for i in range(30_000)]
    start = time.process_time()
    assert in_order("a.mat", chain[::-1]) == chain
    assert time.process_time() - start < 5


def test_other_levels_and_byte_orders(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(head()[:124] + b"\x01\x00MI" + bytes(100))
    with pytest.raises(ModelError, match="big-endian"):
        read_matconvnet(path)
    scipy.io.savemat(path, {"net": numbers(*range(99))}, format="4")
    with pytest.raises(ModelError, match="level 5"):
        read_matconvnet(path)
    with pytest.raises(ModelError, match="cannot read"):
        read_matconvnet(tmp_path / "none.mat")


@WRITERS
def test_a_gate_of_mcnsenets(tmp_path: Path, write: Writer) -> None:
    shape = {"shape": Cell([numbers(1), numbers(1), np.empty((0, 0))])}
    conv = Step("Conv", "c1", (KERNEL1,), {"stride": numbers(1), "pad": numbers(0)})
    pool, flat = Step("GlobalPooling", "pool", (), {"method": "avg"}), Step("Reshape", "flat", (), shape)
    steps = (conv, pool, flat, Step("Axpy", "axpy", (), {}, ("flat", "c1", "other")))
    foreign = read_matconvnet(write(tmp_path / "net.mat", {"net": dag_nn(steps, META)}))
    assert foreign.nodes is not None and [node.op for node in foreign.nodes] == ["conv", "global_mean", "identity", "axpy"]
    x, _ = reference.run(foreign.nodes[:1], foreign.arrays, {"data": draw(2, 3, 7, 6)}, "hwio")
    x, y = x["c1"], draw(*x["c1"].shape)
    found, _ = reference.run(foreign.nodes[1:], {}, {"c1": x, "other": y}, "hwio")
    np.testing.assert_allclose(found["axpy"], x.mean(axis=(2, 3), keepdims=True) * x + y, rtol=1e-5, atol=1e-6)
    # Caffe's way of saying it, and one that moves numbers about.
    for sizes, op in ((numbers(1, 1, -1), "identity"), (numbers(0, -1, 1), "unsupported")):
        steps = (conv, pool, Step("Reshape", "flat", (), {"shape": sizes}))
        foreign = read_matconvnet(write(tmp_path / "net.mat", {"net": dag_nn(steps, META)}))
        assert foreign.nodes is not None and foreign.nodes[2].op == op
    steps = (conv, Step("Axpy", "axpy", (), {}, ("c1", "other")))
    with pytest.raises(ModelError, match="has 2 inputs, expected three"):
        read_matconvnet(write(tmp_path / "net.mat", {"net": dag_nn(steps, META)}))
