"""`--check IMAGE=CLASS`: images of a known class prove a conversion, and settle the order of fc6's rows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from emotiw_keras.cli.main import run
from emotiw_keras.conversion.checking import Check, answers, convert_checked
from emotiw_keras.conversion.convert import convert
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.models import build
from emotiw_keras.talk import Notice
from tests.formats.foreign_networks import Network, network, run_caffe, write_caffe_files
from tests.models.test_convert import assert_same, ours

NARROW = 0.1


@pytest.fixture(scope="module")
def net() -> Network:
    return network("alexnet", NARROW, classes=50)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "cat.png"
    cv2.imwrite(str(path), np.random.default_rng(1).integers(0, 256, (300, 280, 3), np.uint8))
    return path


def check(image: Path, wanted: str) -> Check:
    return Check(image.name, cv2.imread(str(image))[..., ::-1], wanted)


def turned(net: Network, *, rows: str) -> dict[str, np.ndarray]:
    """As TensorFlow's ports keep them, with fc6's rows as said."""
    arrays = {}
    for key, array in net.arrays.items():
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif key == "fc6.weight" and rows == "hwc":
            array = array.reshape(len(array), -1, 6, 6).transpose(2, 3, 1, 0).reshape(-1, len(array))
        elif array.ndim == 2:
            array = array.T
        arrays[key.replace("weight", "weights").replace("bias", "biases")] = array
    return arrays


def test_the_report_says_what_the_file_leaves_open(net: Network, tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **turned(net, rows="chw"))
    _, conversion = convert("alexnet", tmp_path / "net.npz", width=NARROW)
    line = next(line for line in conversion.lines() if line.startswith("rows of fc6"))
    assert "(height, width, channels), which the file does not state; the other fits as well" in line and "--check" in line
    weights, _ = write_caffe_files(tmp_path, net)
    _, stated = convert("alexnet", weights, width=NARROW)
    assert stated.rows is None and "rows of" not in "\n".join(stated.lines())


@pytest.mark.parametrize("rows", ["hwc", "chw"])
def test_an_image_settles_the_order_of_the_rows(rows: str, net: Network, image: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **turned(net, rows=rows))
    files = write_caffe_files(tmp_path, net)
    right, conversion = convert("alexnet", files[0], width=NARROW)
    said = answers(right, conversion, [check(image, "0")])[0].name.removeprefix("class ")
    other, confused = convert("alexnet", tmp_path / "net.npz", width=NARROW, rows="chw" if rows == "hwc" else "hwc")
    assert answers(other, confused, [check(image, said)])[0].right is False
    model, settled = convert_checked("alexnet", tmp_path / "net.npz", [check(image, said)], width=NARROW)
    assert settled.rows == rows and "with this order of the rows alone: cat.png is class" in settled.lines()[-1]
    assert_same(ours(model, [])["scores"], run_caffe(net, *files, [net.scores])[net.scores])


def write_channels_first(path: Path, net: Network, *, rows: str) -> Path:
    """A whole model as Keras 2 wrote it, whose layers had their channels first."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in turned(net, rows=rows).items():
        layer, role = key.split(".")
        layers.setdefault(layer, {})[f"{layer}/{'kernel' if role == 'weights' else 'bias'}:0"] = array
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = b"2.1.5", b"tensorflow"
        configs = [{"class_name": "Conv2D", "config": {"name": name, "data_format": "channels_first"}} for name in layers]
        file.attrs["model_config"] = json.dumps({"config": {"layers": configs}}).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([name.encode() for name in layers])
        for layer, arrays in layers.items():
            part = group.create_group(layer)
            part.attrs["weight_names"] = np.array([name.encode() for name in arrays])
            for name, array in arrays.items():
                part[name] = array
    return path


@pytest.mark.parametrize("rows", ["hwc", "chw"])
def test_a_keras_file_with_channels_first_leaves_the_rows_open(
    rows: str, net: Network, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_channels_first(tmp_path / "net.h5", net, rows=rows)
    _, conversion = convert("alexnet", path, width=NARROW)
    line = next(line for line in conversion.lines() if line.startswith("rows of fc6"))
    assert "the other fits as well" in line and isinstance(line, Notice)
    files = write_caffe_files(tmp_path, net)
    right, stated = convert("alexnet", files[0], width=NARROW)
    said = answers(right, stated, [check(image, "0")])[0].name.removeprefix("class ")
    model, settled = convert_checked("alexnet", path, [check(image, said)], width=NARROW)
    assert settled.rows == rows
    assert_same(ours(model, [])["scores"], run_caffe(net, *files, [net.scores])[net.scores])
    build("alexnet", weights=path, width=NARROW, classes=50)
    assert capsys.readouterr().err.startswith(
        "alexnet: net.h5: rows of fc6 taken in the order (height, width, channels), which"
    )


def test_the_command_refuses_another_class(
    net: Network, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, _ = write_caffe_files(tmp_path, net)
    model, conversion = convert("alexnet", weights, width=NARROW)
    best = int(answers(model, conversion, [check(image, "0")])[0].name.removeprefix("class "))
    out = tmp_path / "out.weights.h5"
    command = ["convert", str(weights), "--model", "alexnet", "--width", str(NARROW), "--out", str(out)]
    assert run([*command, "--check", f"{image}={(best + 1) % 50}"]) == 5
    assert f"cat.png is class {best} (" in (said := capsys.readouterr().err) and "nothing was written" in said
    assert not out.exists()
    assert run([*command, "--check", f"{image}={best}"]) == 0
    assert out.exists() and f"checked: cat.png is class {best} (" in capsys.readouterr().err
    out.unlink()
    for wrong, code in ((f"{image}", 2), (f"{image}=", 2), (f"{image}=cat", 2), (f"{tmp_path / 'none.png'}=1", 4)):
        assert run([*command, "--check", wrong]) == code
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("emotiw: error: ") and "--check" in last


def test_names_of_imagenets_classes(image: Path, tmp_path: Path) -> None:
    net = network("squeezenet_v1_1", 0.1)
    net.arrays["conv10.bias"][:] = 0
    net.arrays["conv10.bias"][285] = 1e4
    np.savez(tmp_path / "net.npz", **net.arrays)
    model, conversion = convert("squeezenet_v1_1", tmp_path / "net.npz", width=0.1)
    for wanted, right in (("cat", True), ("Egyptian cat", True), ("n02124075", True), ("285", True), ("espresso", False)):
        answer = answers(model, conversion, [check(image, wanted)])[0]
        assert (answer.name, answer.right) == ("Egyptian cat", right)
    with pytest.raises(UsageError, match="'happiness' is no class of ImageNet"):
        answers(model, conversion, [check(image, "happiness")])


def test_a_trunk_has_no_classes_to_check(net: Network, image: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **{key: array for key, array in net.arrays.items() if key.startswith("conv")})
    with pytest.raises(ModelError, match="net.npz gives no classes"):
        convert_checked("alexnet", tmp_path / "net.npz", [check(image, "1")], width=NARROW)
