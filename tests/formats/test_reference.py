"""The NumPy executor against plain loops and SciPy."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.signal import correlate

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import reference
from emotiw_keras.formats.foreign import Layout, Node
from emotiw_keras.formats.reference import run

RNG = np.random.default_rng(3)


def compute(op: str, x: np.ndarray, *arrays: np.ndarray, layout: Layout = "oihw", **attrs: Any) -> np.ndarray:
    names = tuple(f"a{i}" for i in range(len(arrays)))
    node = Node(op, "step", ("data",), ("out",), names, attrs)
    return run([node], dict(zip(names, arrays, strict=True)), {"data": x}, layout)[0]["out"]


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "stride, pad, dilation",
    [((1, 1), (0, 0, 0, 0), (1, 1)), ((2, 3), (1, 2, 0, 3), (1, 1)), ((1, 2), (2, 2, 2, 2), (2, 3))],
)
def test_convolution_is_scipys(groups: int, stride: tuple, pad: tuple, dilation: tuple) -> None:
    x, kernel, bias = random(2, 4, 11, 13), random(6, 4 // groups, 3, 2), random(6)
    padded = np.pad(x, ((0, 0), (0, 0), pad[:2], pad[2:]))
    wide = np.zeros((6, 4 // groups, 2 * dilation[0] + 1, dilation[1] + 1), "float32")
    wide[:, :, :: dilation[0], :: dilation[1]] = kernel
    expected = []
    for image in padded:
        maps = []
        for out in range(6):
            first = out // (6 // groups) * (4 // groups)
            maps.append(correlate(image[first : first + 4 // groups], wide[out], mode="valid")[0] + bias[out])
        expected.append(np.stack(maps)[:, :: stride[0], :: stride[1]])
    settings = {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}
    assert np.allclose(compute("conv", x, kernel, bias, **settings), np.stack(expected), atol=1e-5)
    turned = kernel.transpose(2, 3, 1, 0)
    assert np.allclose(compute("conv", x, turned, bias, layout="hwio", **settings), np.stack(expected), atol=1e-5)


def test_fully_connected_flattens_as_its_layout_says() -> None:
    x, weight, bias = random(2, 3, 4, 5), random(7, 60), random(7)
    assert np.allclose(compute("fc", x, weight, bias), x.reshape(2, 60) @ weight.T + bias, atol=1e-5)
    turned = Node("fc", "step", ("data",), ("out",), ("w", "b"), {"layout": "io"})
    found = run([turned], {"w": weight.T, "b": bias}, {"data": x}, "oihw")[0]["out"]
    assert np.allclose(found, x.reshape(2, 60) @ weight.T + bias, atol=1e-5)
    last = np.moveaxis(x, 1, -1).reshape(2, 60)
    assert np.allclose(compute("fc", x, weight.T, bias, layout="hwio"), last @ weight.T + bias, atol=1e-5)


def slow_pool(x: np.ndarray, size: int, stride: int, pad: int, out: int, highest: bool, count_pad: bool) -> np.ndarray:
    """Caffe's pooling_layer.cpp, one window at a time."""
    side = x.shape[-1]
    result = np.zeros((*x.shape[:2], out, out), "float32")
    for i in range(out):
        for j in range(out):
            top, left = i * stride - pad, j * stride - pad
            bottom, right = min(top + size, side + pad), min(left + size, side + pad)
            area = (bottom - top) * (right - left)
            part = x[:, :, max(top, 0) : min(bottom, side), max(left, 0) : min(right, side)]
            if highest:
                result[:, :, i, j] = part.max(axis=(2, 3))
            else:
                result[:, :, i, j] = part.sum(axis=(2, 3)) / (area if count_pad else part.shape[2] * part.shape[3])
    return result


@pytest.mark.parametrize("op", ["max_pool", "mean_pool"])
@pytest.mark.parametrize("count_pad", [True, False])
@pytest.mark.parametrize(
    "side, size, stride, pad, rounding, out",
    [(13, 3, 2, 0, "ceil", 6), (26, 3, 2, 0, "ceil", 13), (26, 3, 2, 0, "floor", 12), (33, 2, 2, 0, "ceil", 17)]
    + [(9, 3, 2, 1, "ceil", 5), (10, 3, 2, 1, "ceil", 6), (7, 2, 2, 1, "ceil", 4)],
)
def test_pooling_is_caffes(
    op: str, count_pad: bool, side: int, size: int, stride: int, pad: int, rounding: str, out: int
) -> None:
    x = random(2, 3, side, side)
    found = compute(op, x, size=(size,) * 2, stride=(stride,) * 2, pad=(pad,) * 4, rounding=rounding, count_pad=count_pad)
    assert found.shape == (2, 3, out, out)
    assert np.allclose(found, slow_pool(x, size, stride, pad, out, op == "max_pool", count_pad), atol=1e-6)


def test_normalisation_is_caffes_formula() -> None:
    x = 30 * random(1, 7, 3, 2)
    expected = np.empty_like(x)
    for c in range(7):
        near = x[:, max(0, c - 2) : c + 3]
        expected[:, c] = x[:, c] / (2.0 + 5e-4 / 5 * np.square(near).sum(axis=1)) ** 0.75
    assert np.allclose(compute("lrn", x, size=5, alpha=5e-4, beta=0.75, k=2.0), expected, rtol=1e-5)


def test_the_small_steps() -> None:
    x, per_channel = random(2, 3, 4, 5), random(3)
    column = per_channel.reshape(1, 3, 1, 1)
    assert np.array_equal(compute("relu", x), np.maximum(x, 0))
    assert np.allclose(compute("relu", x, slope=0.1), np.where(x > 0, x, 0.1 * x))
    assert np.allclose(compute("prelu", x, per_channel), np.where(x > 0, x, column * x))
    mean, variance = random(3), np.abs(random(3))
    normal = (x - mean.reshape(1, 3, 1, 1) / 4) / np.sqrt(variance.reshape(1, 3, 1, 1) / 4 + 1e-5)
    assert np.allclose(compute("batch_norm", x, mean, variance, np.array([4.0]), epsilon=1e-5), normal, rtol=1e-4)
    assert np.allclose(compute("scale", x, per_channel, mean), x * column + mean.reshape(1, 3, 1, 1))
    assert np.allclose(compute("global_mean", x)[:, :, 0, 0], x.mean(axis=(2, 3)), atol=1e-6)
    assert np.allclose(compute("softmax", x, axis=1).sum(axis=1), 1)
    assert np.allclose(compute("sigmoid", x), 1 / (1 + np.exp(-x)))


def test_layers_are_given_after_their_activation_and_branches_join() -> None:
    nodes = [
        Node("conv", "a", ("data",), ("a",), ("w",), {}),
        Node("relu", "r", ("a",), ("a",)),
        Node("conv", "b", ("a",), ("b",), ("w",), {}),
        Node("concat", "c", ("a", "b"), ("c",), (), {"axis": 1}),
    ]
    x, kernel = random(1, 2, 3, 3), random(2, 2, 1, 1)
    outputs, layers = run(nodes, {"w": kernel}, {"data": x}, "oihw")
    a = np.maximum(np.einsum("oi,bihw->bohw", kernel[:, :, 0, 0], x), 0)
    assert np.allclose(layers["a"], a, atol=1e-6)
    assert np.allclose(outputs["c"], np.concatenate([a, layers["b"]], axis=1), atol=1e-6)
    assert layers["b"].min() < 0
    assert list(outputs) == ["c"]


@pytest.mark.parametrize(
    "node, message",
    [
        (Node("unsupported", "s", ("data",), ("o",), (), {"type": "Slice"}), "layer s: Slice cannot be computed here"),
        (Node("relu", "s", ("other",), ("o",)), "layer s takes other, which nothing before it makes"),
        (Node("conv", "s", ("data",), ("o",), ("missing",), {}), "layer s needs the array missing"),
        (Node("conv", "s", ("data",), ("o",), ("w",), {"groups": 3}), "does not fit 2 filters of 2 channels, 3 groups"),
        (Node("conv", "s", ("data",), ("o",), ("w",), {"stride": (0, 1)}), "has stride (0, 1), expected at least 1"),
        (Node("conv", "s", ("data",), ("o",), ("w",), {"pad": (1 << 14,) * 4}), "more than the 268,435,456 allowed"),
        (Node("conv", "s", ("data",), ("o",), ("w",), {"pad": (1 << 30,) * 4}), "multiplications, allowed are 68,719,476,736"),
        (Node("fc", "s", ("data",), ("o",), ("f",), {}), "does not fit weights for 5 values, it has 18"),
        (Node("max_pool", "s", ("data",), ("o",), (), {"size": (4, 4)}), "does not fit windows of 4"),
        (Node("softmax", "s", ("data",), ("o",), (), {"axis": 9}), "does not fit axis 9"),
    ],
)
def test_what_does_not_fit_is_said(node: Node, message: str) -> None:
    arrays = {"w": random(2, 2, 1, 1), "f": random(3, 5)}
    with pytest.raises(ModelError) as error:
        run([node], arrays, {"data": random(1, 2, 3, 3)}, "oihw")
    assert message in str(error.value)


def test_all_steps_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = [Node("max_pool", f"p{i}", (f"x{i}",), (f"x{i + 1}",), (), {"size": (5, 5), "pad": (2, 2, 2, 2)}) for i in range(9)]
    monkeypatch.setattr(reference, "LARGEST_WORK", 4 * 32 * 25 * 49 * 49)
    run(pools[:4], {}, {"x0": random(1, 1, 48, 48)}, "oihw")
    with pytest.raises(ModelError, match=r"layer p4 \(max_pool\) makes it"):
        run(pools, {}, {"x0": random(1, 1, 48, 48)}, "oihw")


def test_many_tensors_at_one_time_take_no_quadratic_time() -> None:
    count = 20_000
    steps = [Node("identity", f"s{i}", ("x",), (f"s{i}",)) for i in range(count)]
    steps += [Node("add", f"y{i}", (f"y{i - 1}" if i else "x", f"s{i}"), (f"y{i}",)) for i in range(count)]
    start = time.process_time()
    found, _ = run(steps, {}, {"x": np.ones((1, 1, 1, 1), "float32")}, "oihw")
    assert found[f"y{count - 1}"].item() == count + 1
    assert time.process_time() - start < 8


def test_what_overflows_is_no_number_and_no_warning() -> None:
    large = np.full((1, 1, 2, 2), 1e38, "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(compute("scale", large, np.full(1, 100, "float32"))).all()
        assert np.isnan(compute("softmax", np.full((1, 2), np.inf, "float32"))).all()
