"""Operators of ONNX around the layers: computed as NumPy computes them, folded where no image is needed, and bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import onnx_tensors, reference
from emotiw_keras.formats.onnx import read_onnx

from .write_onnx import Op, SubGraph, conv, gemm, write_onnx

DRAW = np.random.default_rng(11)
X = DRAW.normal(size=(2, 3, 4, 5)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def compute(
    folder: Path, ops: list[Op], opset: int = 13, shape: tuple[int, ...] = (0, 3, 4, 5), x: np.ndarray = X
) -> np.ndarray:
    """What the last operator gives for `x`, by the reader and the reference."""
    output = ops[-1].outputs[0]
    path = write_onnx(folder / "net.onnx", ops, inputs={"x": shape}, outputs=[output], opset=opset)
    found = read_onnx(path)
    assert found.nodes is not None
    return reference.run(found.nodes, found.arrays, {"x": x}, "oihw")[0][output]


def one(kind: str, *operands: np.ndarray | None, **attributes: Any) -> list[Op]:
    """One operator on x and constants."""
    arrays = {f"c{i}": array for i, array in enumerate(operands) if array is not None}
    names = [f"c{i}" if array is not None else "" for i, array in enumerate(operands)]
    return [Op(kind, ["x", *names], ["y"], attributes, arrays)]


CASES: list[tuple[list[Op], int, np.ndarray]] = [
    (one("Mul", np.float32(3)), 13, X * 3),
    (one("Add", DRAW.normal(size=(3, 1, 1)).astype("f4")), 13, X),
    (one("Sub", np.float32(3)), 13, X - 3),
    (one("Div", np.float32(4)), 13, X / 4),
    ([Op("Div", ["c", "x"], ["y"], {}, {"c": np.float32(4)})], 13, 4 / X),
    (one("Pow", np.float32(2)), 13, X**2),
    (one("Pow", ints(2)[0]), 13, X**2),
    (one("ReduceMean", ints(-1, 2), keepdims=0), 18, X.mean(axis=(2, 3))),
    (one("ReduceMean", axes=[2, 3]), 13, X.mean(axis=(2, 3), keepdims=True)),
    (one("ReduceMean"), 13, X.mean(keepdims=True)),
    (one("ReduceMean", noop_with_empty_axes=1), 18, X),
    (one("Reshape", ints(0, -1, 5)), 13, X.reshape(2, 12, 5)),
    (one("Reshape", shape=[0, 3, 20]), 1, X.reshape(2, 3, 20)),
    (one("Transpose", perm=[0, 2, 3, 1]), 13, X.transpose(0, 2, 3, 1)),
    (one("Transpose"), 13, X.T),
    (one("Unsqueeze", ints(1)), 13, X[:, None]),
    (one("Unsqueeze", axes=[0, -1]), 11, X[None, ..., None]),
    (one("Slice", ints(1, 3), ints(3, -(1 << 62)), ints(1, 3), ints(1, -2)), 13, X[:, 1:3, :, 3::-2]),
    (one("Slice", starts=[1], ends=[1 << 40]), 9, X[1:]),
    (one("Gather", ints(2, 0), axis=3), 13, X[..., [2, 0]]),
    (one("Gather", ints(1)[0], axis=1), 13, X[:, 1]),
    (
        one("Pad", ints(0, 0, 1, 0, 0, 0, 0, 2), np.float32(7)),
        13,
        np.pad(X, ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=7),
    ),
    (one("Pad", ints(1, 2), None, ints(-1)), 18, np.pad(X, ((0, 0), (0, 0), (0, 0), (1, 2)))),
    (one("Pad", pads=[0, 0, 1, 1, 0, 0, 0, 0], value=-1.0), 9, np.pad(X, ((0, 0),) * 2 + ((1, 0),) * 2, constant_values=-1)),
    (one("Cast", to=7), 13, X.astype(np.int64)),
    (one("Expand", ints(2, 2, 3, 4, 5)), 13, np.broadcast_to(X, (2, 2, 3, 4, 5))),
    (one("Shape", start=1, end=-1), 15, ints(3, 4)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_operators_give_what_numpy_gives(case: int, tmp_path: Path) -> None:
    ops, opset, expected = CASES[case]
    if case == 1:
        expected = X + ops[0].arrays["c0"]
    found = compute(tmp_path, ops, opset)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("counts", [0, 1])
def test_a_pooling_over_channels(counts: int, tmp_path: Path) -> None:
    settings = {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 1, 0, 0], "count_include_pad": counts}
    ops = [*one("Unsqueeze", ints(1)), Op("AveragePool", ["y"], ["z"], settings)]
    found = compute(tmp_path, ops)
    for channel in range(3):
        held = X[:, max(0, channel - 1) : channel + 2]
        expected = held.sum(axis=1) / (3 if counts else held.shape[1])
        np.testing.assert_allclose(found[:, 0, channel], expected, rtol=1e-5)


def test_shapes_are_computed_from_the_image_and_choose_a_branch(tmp_path: Path) -> None:
    """As the older exporter writes x.view(x.size(0), -1) and squeeze(1) for any number of images."""
    then = SubGraph([Op("Constant", [], ["a"], {"value": ints(1)}), Op("Squeeze", ["x", "a"], ["s"])], "s")
    other = SubGraph([Op("Identity", ["x"], ["i"])], "i")
    start = [
        Op("Shape", ["x"], ["shape"]),
        Op("Gather", ["shape", "one"], ["channels"], {"axis": 0}, {"one": ints(1)}),
        Op("Equal", ["channels", "one"], ["squeezes"]),
        Op("If", ["squeezes"], ["out"], {"then_branch": then, "else_branch": other}),
    ]
    assert compute(tmp_path, start).shape == (2, 3, 4, 5)
    assert compute(tmp_path, start, shape=(0, 1, 4, 5), x=X[:, :1]).shape == (2, 4, 5)
    flat = [
        Op("Gather", ["shape", "zero"], ["batch"], {"axis": 0}, {"zero": np.array(0, np.int64)}),
        Op("Unsqueeze", ["batch", "axes"], ["first"], {}, {"axes": ints(0)}),
        Op("Concat", ["first", "rest"], ["to"], {"axis": 0}, {"rest": ints(-1)}),
        Op("Reshape", ["out", "to"], ["flat"]),
        gemm("fc", "flat", DRAW.normal(size=(2, 60)).astype("f4"), None),
    ]
    assert compute(tmp_path, [*start, *flat]).shape == (2, 2)


def test_what_needs_no_image_is_folded(tmp_path: Path) -> None:
    kernel = DRAW.normal(size=(6, 60)).astype(np.float16)
    ops = [
        Op("Cast", ["half"], ["whole"], {"to": 1}, {"half": kernel}),
        Op("Transpose", ["whole"], ["turned"], {"perm": [1, 0]}),
        Op("Constant", [], ["value"], {"value_ints": [1, -1]}),
        Op("Identity", ["value"], ["same"]),
        Op("If", ["yes"], ["to"], {"then_branch": SubGraph([Op("Identity", ["same"], ["t"])], "t"),
                                   "else_branch": SubGraph([], "half")}, {"yes": np.array([True])}),
        Op("Reshape", ["x", "to"], ["flat"]),
        Op("MatMul", ["flat", "turned"], ["y"]),
    ]  # fmt: skip
    path = write_onnx(tmp_path / "net.onnx", ops, inputs={"x": (1, 3, 4, 5)}, outputs=["y"], opset=13)
    found = read_onnx(path)
    assert [node.op for node in found.nodes or ()] == ["flatten", "fc"] and list(found.arrays) == ["turned"]
    assert np.shares_memory(found.arrays["turned"], found.arrays["turned"].T)
    assert found.ignored == {
        "half": "another array is made of it", "value": "only gives a shape", "yes": "no node uses it"
    }  # fmt: skip
    y = reference.run(found.nodes or (), found.arrays, {"x": X[:1]}, "oihw")[0]["y"]
    np.testing.assert_allclose(y, X[:1].reshape(1, -1) @ kernel.T.astype("f4"), rtol=1e-4)


def test_a_file_for_several_images_takes_one(tmp_path: Path) -> None:
    ops = [
        Op("Reshape", ["x", "s"], ["a"], {}, {"s": ints(2, 3, 20)}),
        Op("Reshape", ["a", "t"], ["y"], {}, {"t": ints(2, 60)}),
    ]
    assert compute(tmp_path, ops, shape=(2, 3, 4, 5), x=X[:1]).shape == (1, 60)


@pytest.mark.parametrize(
    "ops, message",
    [
        (one("Mul", np.ones((2, 2), "f4")), "do not fit together"),
        (one("Reshape", ints(7, 7, 7)), "do not fit together"),
        (one("Squeeze", ints(1)), "do not fit together"),
        (one("Gather", ints(9), axis=1), "do not fit together"),
        (one("Pad", ints(1, 2, 3)), "do not fit together"),
        (one("Transpose", perm=[0, 0, 1, 2]), "do not fit together"),
        (one("ReduceMean", np.ones(2, "f4")), "do not fit together"),
        (one("Expand", ints(1 << 40, 3, 4, 5)), "do not fit together"),
        (one("Expand", ints(1 << 40, 1, 3, 4, 5)), "more than the 268,435,456 allowed"),
        (one("Pad", ints(1 << 40, *[0] * 7)), "more than the 268,435,456 allowed"),
        ([Op("If", ["x"], ["y"], {"then_branch": SubGraph([], "x"), "else_branch": SubGraph([], "x")})], "expected one"),
    ],
)
def test_what_does_not_fit_is_one_line(ops: list[Op], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        compute(tmp_path, ops)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_a_file_makes_of_itself_is_bounded(tmp_path: Path) -> None:
    many = [Op("ConstantOfShape", ["size"], [f"a{i}"], {"value": np.ones(1, "f4")}, {"size": ints(1 << 25)} if not i else {})
            for i in range(3)]  # fmt: skip
    path = write_onnx(tmp_path / "net.onnx", [*many, *one("Mul", np.float32(1))], inputs={"x": (1, 3, 4, 5)}, outputs=["y"])
    with pytest.raises(ModelError, match=r"net.onnx: the arrays that it makes of others have 402,653,184 bytes up to a2"):
        read_onnx(path)


def test_copies_of_an_array_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_tensors, "LARGEST_TENSOR", 1 << 16)
    stored = DRAW.normal(size=(64, 32)).astype("f4")
    views = [Op("Transpose", ["c"], [f"t{i}"], {}, {"c": stored} if not i else {}) for i in range(20)]
    last = one("Mul", np.float32(1))
    assert read_onnx(write_onnx(tmp_path / "net.onnx", [*views, *last], inputs={"x": (1, 3, 4, 5)}, outputs=["y"])).nodes
    copies = [Op("Reshape", ["t0", "flat"], [f"r{i}"], {}, {"flat": ints(-1)} if not i else {}) for i in range(20)]
    path = write_onnx(tmp_path / "net.onnx", [*views, *copies, *last], inputs={"x": (1, 3, 4, 5)}, outputs=["y"])
    with pytest.raises(ModelError, match="the arrays that it makes of others have 73,728 bytes up to r8"):
        read_onnx(path)


def test_tensors_that_are_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LARGEST_TOGETHER", 4 * X.nbytes)
    ops = [Op("Mul", ["x", "x"], [f"y{i}"]) for i in range(6)]
    with pytest.raises(ModelError, match="bytes of tensors at one time"):
        compute(tmp_path, ops)


def test_layers_of_one_name_stay_apart(tmp_path: Path) -> None:
    kernels = [DRAW.normal(size=(3, 3, 1, 1)).astype("f4") for _ in range(2)]
    first, second = conv("a", "x", kernels[0], None), conv("b", "a", kernels[1], None)
    ops = [Op(op.type, op.inputs, op.outputs, op.attributes, op.arrays, "Conv") for op in (first, second)]
    found = read_onnx(write_onnx(tmp_path / "net.onnx", ops, inputs={"x": (1, 3, 4, 5)}, outputs=["b"]))
    names = [node.name for node in found.nodes or ()]
    assert len(set(names)) == 2
    assert set(reference.run(found.nodes or (), found.arrays, {"x": X}, "oihw")[1]) == set(names)
