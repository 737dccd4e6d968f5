"""Foreign files become networks that compute the same, or nothing is written."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras.conversion.convert import convert, probe_image, write_weights
from emotiw_keras.conversion.original_computation import until_scores
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.models import build, get_spec
from emotiw_keras.talk import Notice
from tests import processes
from tests.formats.foreign_networks import (
    image,
    network,
    run_caffe,
    run_onnx_by_opencv,
    write_caffe_files,
    write_mat_file,
    write_onnx_file,
)
from tests.formats.write_pytorch import write_zip

NARROW = 0.1
CAFFE_NETS = ["alexnet", "caffenet", "vgg_cnn_f", "vgg_cnn_m_2048", "vgg_cnn_s", "squeezenet", "squeezenet_v1_1"]


def ours(model: keras.Model, layers: list[str]) -> dict[str, np.ndarray]:
    """Outputs of inner layers on the probe image, (1, values) in the order of (channels, height, width)."""
    outputs = {layer: model.get_layer(layer).output for layer in layers} | {"scores": model.output}
    values = keras.Model(model.inputs[0], outputs)(probe_image(get_spec(model.name)))
    found = {}
    for layer, value in values.items():
        array = keras.ops.convert_to_numpy(value)
        found[layer] = np.moveaxis(array, -1, 1).reshape(1, -1)
    return found


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected).max() > 0
    assert np.abs(found.reshape(-1) - expected.reshape(-1)).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", CAFFE_NETS)
def test_a_caffemodel_computes_what_opencv_computes(name: str, tmp_path: Path) -> None:
    net = network(name, NARROW)
    files = write_caffe_files(tmp_path, net, version=1 if name == "alexnet" else 2)
    inner = [node.name for node in net.nodes if node.op in ("lrn", "max_pool")][:4]
    expected = run_caffe(net, *files, [*inner, net.scores])
    model, conversion = convert(name, files[0], width=NARROW)
    ours_now = ours(model, inner)
    for layer in inner:
        assert_same(ours_now[layer], expected[layer])
    assert_same(ours_now["scores"], expected[net.scores])
    assert conversion.own_structure
    assert max(conversion.parity.values()) < 1e-5
    assert len(conversion.parity) == len(conversion.matches) + 1


@pytest.mark.parametrize("name", ["alexnet", "vgg_cnn_m_2048", "vgg_cnn_s"])
@pytest.mark.parametrize("form", ["old", "new", "newest"])
def test_a_matconvnet_file_gives_the_same_network(name: str, form: str, tmp_path: Path) -> None:
    net = network(name, NARROW)
    path = write_mat_file(tmp_path / "net.mat", net, old=form == "old", newest=form == "newest")
    model, conversion = convert(name, path, width=NARROW)
    assert conversion.channel_order == "rgb"
    files = write_caffe_files(tmp_path, net)
    assert_same(ours(model, [])["scores"], run_caffe(net, *files, [net.scores])[net.scores])


@pytest.mark.parametrize("name", ["alexnet", "vgg_cnn_m_2048", "squeezenet_v1_1"])
def test_an_onnx_file_gives_the_same_network(name: str, tmp_path: Path) -> None:
    net = network(name, NARROW)
    path = write_onnx_file(tmp_path / "net.onnx", net)
    last = net.nodes[-1].name
    expected = run_onnx_by_opencv(net, path, [f"onnx_node!{last}"])[f"onnx_node!{last}"]
    model, conversion = convert(name, path, width=NARROW)
    scores = ours(model, [])["scores"]
    if net.nodes[-1].op == "softmax":
        scores = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    assert_same(scores, expected)
    assert "not stated by the file" in "\n".join(conversion.lines())


def test_bare_arrays_are_proven_against_the_published_network(tmp_path: Path) -> None:
    net = network("caffenet", NARROW)
    files = write_caffe_files(tmp_path, net)
    expected = run_caffe(net, *files, [net.scores])[net.scores]
    np.savez(tmp_path / "oihw.npz", **net.arrays)
    model, conversion = convert("caffenet", tmp_path / "oihw.npz", width=NARROW)
    assert not conversion.own_structure and conversion.layout == "oihw"
    assert_same(ours(model, [])["scores"], expected)
    # As TensorFlow ports keep them: kernels and fully connected weights the other way round, RGB said by the user.
    turned = {}
    for key, array in net.arrays.items():
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)[:, :, ::-1] if key.startswith("conv1") else array.transpose(2, 3, 1, 0)
        elif key == "fc6.weight":
            array = array.reshape(array.shape[0], -1, 6, 6).transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
        turned[key] = array.T if key in ("fc7.weight", "fc8.weight") else array
    np.savez(tmp_path / "hwio.npz", **turned)
    model, conversion = convert("caffenet", tmp_path / "hwio.npz", width=NARROW, channel_order="rgb")
    assert conversion.layout == "hwio"
    assert_same(ours(model, [])["scores"], expected)


def test_the_check_is_in_float32_whatever_the_policy(tmp_path: Path) -> None:
    weights, _ = write_caffe_files(tmp_path, network("squeezenet", 1.0))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build("squeezenet", weights=weights, classes=7)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    plain = build("squeezenet", weights=weights, classes=7)
    assert model.layers[1].compute_dtype == "bfloat16"
    for one, other in zip(model.layers[:-3], plain.layers[:-3], strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            if not one.name.startswith("conv10"):
                np.testing.assert_array_equal(a, b)


def test_another_structure_is_caught_and_nothing_is_written(tmp_path: Path) -> None:
    # AlexNet and CaffeNet have arrays of the same names and shapes; only what is computed tells them apart.
    weights, _ = write_caffe_files(tmp_path, network("alexnet", NARROW))
    with pytest.raises(ModelError, match="converted to caffenet computes something else: conv2 differs"):
        convert("caffenet", weights, width=NARROW)
    out = tmp_path / "out.weights.h5"
    command = ["convert", str(weights), "--model", "caffenet", "--width", str(NARROW), "--out", str(out)]
    done = processes.run(processes.emotiw, *command)
    assert (done.returncode, done.stdout) == (5, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("emotiw: error: alexnet.caffemodel converted to caffenet") and "nothing was written" in last
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_files_of_other_networks_are_refused_with_what_was_found(tmp_path: Path) -> None:
    weights, _ = write_caffe_files(tmp_path, network("vgg_cnn_m", NARROW))
    with pytest.raises(ModelError, match=r"does not give conv1's kernel of \(11, 11, 3, 10\)|computes something else|gives"):
        convert("alexnet", weights, width=NARROW)
    net = network("alexnet", NARROW)
    extra = {**net.arrays, "fc9.weight": np.ones((2, 2), "float32")}
    np.savez(tmp_path / "more.npz", **extra)
    with pytest.raises(ModelError, match="1 arrays have no place in it, the first is fc9.weight"):
        convert("alexnet", tmp_path / "more.npz", width=NARROW)
    del extra["fc9.weight"], extra["conv3.bias"]
    np.savez(tmp_path / "less.npz", **extra)
    with pytest.raises(ModelError, match="no known naming fits its 15 arrays"):
        convert("alexnet", tmp_path / "less.npz", width=NARROW)
    bad = {**net.arrays, "fc7.bias": np.full_like(net.arrays["fc7.bias"], np.nan)}
    np.savez(tmp_path / "nan.npz", **bad)
    with pytest.raises(ModelError, match="fc7.bias holds nan"):
        convert("alexnet", tmp_path / "nan.npz", width=NARROW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda array: np.where(array > 0, array.astype("f8"), -1e300),
            "holds -1e\\+300, expected finite numbers within float32's 3.4e38",
        ),
        (lambda array: np.where(array > 0, array.astype("f8"), 3.5e38), "holds 3.5e\\+38, expected finite numbers"),
        (lambda array: np.where(array > 0, array, np.inf), "holds inf, expected finite numbers"),
        (lambda array: array > 0, "is of bool, expected floating-point numbers"),
        (lambda array: (array * 9).astype("int8"), "is of int8, expected floating-point numbers"),
        (lambda array: array[:0], r"is empty \(0(x\d+)*\), expected weights"),
    ],
)
def test_numbers_that_are_no_weights_are_named_before_any_is_cast(
    change: Callable[[np.ndarray], np.ndarray], message: str, tmp_path: Path
) -> None:
    net = network("squeezenet_v1_1", NARROW)
    for key in ("conv1.weight", "fire5_squeeze1x1.bias", "fire2_expand3x3.weight"):
        write_zip(tmp_path / "net.pth", {name: change(array) if name == key else array for name, array in net.arrays.items()})
        np.savez(tmp_path / "net.npz", **{name: change(array) if name == key else array for name, array in net.arrays.items()})
        for path in (tmp_path / "net.pth", tmp_path / "net.npz"):
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                with pytest.raises(ModelError, match=rf"^{path.name}: {key} {message}"):
                    convert("squeezenet_v1_1", path, width=NARROW)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet_v1_1"])
def test_weights_that_are_too_large_to_compute_with_are_told_as_such(name: str, tmp_path: Path) -> None:
    net = network(name, NARROW)
    net.arrays["conv1.weight"].reshape(-1)[3] = 1e38
    np.savez(tmp_path / "big.npz", **net.arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(ModelError, match="conv1 gives -?inf for the probe image, so nothing can be proved"):
            convert(name, tmp_path / "big.npz", width=NARROW)


def test_a_network_of_zeros_is_not_said_to_be_proved_without_a_warning(tmp_path: Path) -> None:
    net = network("squeezenet_v1_1", NARROW)
    np.savez(tmp_path / "zeros.npz", **{name: np.zeros_like(array) for name, array in net.arrays.items()})
    _, conversion = convert("squeezenet_v1_1", tmp_path / "zeros.npz", width=NARROW)
    last = conversion.lines()[-1]
    assert isinstance(last, Notice) and "class scores give nothing but zeros for that image: of this" in last
    np.savez(tmp_path / "whole.npz", **net.arrays)
    _, conversion = convert("squeezenet_v1_1", tmp_path / "whole.npz", width=NARROW)
    assert not any("nothing but zeros" in line for line in conversion.lines())


def test_a_file_cannot_ask_for_images_of_any_size(tmp_path: Path) -> None:
    net = network("squeezenet_v1_1", NARROW)
    net.side = 1025
    with pytest.raises(ModelError, match=r"takes images of 1025x1025, expected at most 1024 a side"):
        convert("squeezenet_v1_1", write_caffe_files(tmp_path, net)[0], width=NARROW)


def test_a_long_end_takes_no_quadratic_time() -> None:
    steps = [Node("conv", "c", ("x",), ("y0",)), *(Node("identity", "", (f"y{i}",), (f"y{i + 1}",)) for i in range(100_000))]
    start = time.process_time()
    assert until_scores(steps) == ((steps[0],), "y0")
    assert time.process_time() - start < 3


def test_weights_of_a_foreign_file_can_be_given_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = network("squeezenet", seed=2)
    np.savez(tmp_path / "sq.npz", **net.arrays)
    model, _ = convert("squeezenet", tmp_path / "sq.npz")
    whole = build("squeezenet", weights=tmp_path / "sq.npz", classifier_activation=None)
    x = probe_image(get_spec("squeezenet"))
    assert np.array_equal(keras.ops.convert_to_numpy(whole(x)), keras.ops.convert_to_numpy(model(x)))
    trunk = build("squeezenet", weights=tmp_path / "sq.npz", classes=7)
    kernel = keras.ops.convert_to_numpy(trunk.get_layer("fire9_expand3x3").kernel)
    assert np.array_equal(kernel, net.arrays["fire9_expand3x3.weight"].transpose(2, 3, 1, 0))
    assert capsys.readouterr().err == "squeezenet: weights of sq.npz, but a new conv10 with 7 classes\n"
    with pytest.raises(ModelError, match="does not hold alexnet"):
        build("alexnet", weights=tmp_path / "sq.npz")


def test_written_weights_come_back(tmp_path: Path) -> None:
    net = network("squeezenet_v1_1", NARROW)
    np.savez(tmp_path / "sq.npz", **net.arrays)
    model, _ = convert("squeezenet_v1_1", tmp_path / "sq.npz", width=NARROW)
    path = write_weights(model, tmp_path / "sq.weights.h5")
    again = build("squeezenet_v1_1", weights=path, width=NARROW, classifier_activation=None)
    x = probe_image(get_spec("squeezenet_v1_1"))
    assert np.array_equal(keras.ops.convert_to_numpy(again(x)), keras.ops.convert_to_numpy(model(x)))
    with pytest.raises(ModelError, match="ends in .weights.h5"):
        write_weights(model, tmp_path / "sq.h5")


def test_the_probe_image_has_no_symmetry() -> None:
    x = image("alexnet")[0]
    for other in (x[::-1], x[:, ::-1], x[:, :, ::-1], x.transpose(0, 2, 1)):
        assert np.abs(x - other).mean() > 10
