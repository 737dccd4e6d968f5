"""Files that others wrote, read and run: OpenCV's reader computes the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.formats.caffe import with_prototxt
from emotiw_keras.formats.foreign import Foreign
from emotiw_keras.formats.reading import read
from emotiw_keras.formats.reference import run

from . import write_caffe


def opencv(weights: Path, prototxt: Path, x: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    net.setInput(x)
    return [net.forward(name).copy() for name in outputs]


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape[:2] == expected.shape[:2]
    assert np.abs(found.reshape(-1) - expected.reshape(-1)).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "files, outputs",
    [
        (("mtcnn/det1.caffemodel", "mtcnn/det1.prototxt"), ["prob1", "conv4-2"]),
        (("mtcnn/det2.caffemodel", "mtcnn/det2.prototxt"), ["prob1", "conv5-2"]),
        (("mtcnn/det3.caffemodel", "mtcnn/det3.prototxt"), ["prob1", "conv6-2", "conv6-3"]),
        (("caffe_lenet/lenet_iter_10000.caffemodel", "caffe_lenet/lenet.prototxt"), ["prob"]),
    ],
)
def test_a_forward_pass_is_opencvs(files: tuple[str, str], outputs: list[str], shared_data: Path) -> None:
    weights, prototxt = (shared_data / "foreign_weights" / name for name in files)
    net = with_prototxt(read(weights), read(prototxt))
    ((name, shape),) = net.inputs.items()
    x = np.random.default_rng(0).normal(size=(1, *shape[1:])).astype("float32")
    assert net.nodes is not None
    found, _ = run(net.nodes, net.arrays, {name: x}, "oihw")
    for layer, expected in zip(outputs, opencv(weights, prototxt, x, outputs), strict=True):
        assert_equal(found[layer], expected)


def test_the_structure_in_the_weights_is_that_of_the_definition(shared_data: Path) -> None:
    folder = shared_data / "foreign_weights" / "caffe_lenet"
    own, definition = read(folder / "lenet_iter_10000.caffemodel"), read(folder / "lenet.prototxt")
    assert own.nodes is not None and definition.nodes is not None
    kinds = [[(node.op, node.attrs.get("stride")) for node in net.nodes] for net in (own, definition)]
    assert kinds[0] == kinds[1]


def test_a_branching_net_is_read_whole(shared_data: Path) -> None:
    folder = shared_data / "foreign_weights" / "mtcnn"
    net = with_prototxt(read(folder / "det4.caffemodel"), read(folder / "det4.prototxt"))
    assert net.nodes is not None
    assert {node.op for node in net.nodes} >= {"conv", "fc", "prelu", "max_pool", "concat"}
    held = {name for node in net.nodes for name in node.arrays}
    assert held == set(net.arrays)


def transcribed(net: Foreign, folder: Path) -> tuple[Path, Path]:
    """A sequential MatConvNet net as Caffe files."""
    layers = []
    assert net.nodes is not None
    for node in net.nodes:
        if node.op == "conv":
            kernel, bias = net.arrays[node.arrays[0]].transpose(3, 2, 0, 1), net.arrays[node.arrays[1]]
            params = {"num_output": bias.size, "kernel_h": kernel.shape[2], "kernel_w": kernel.shape[3]}
            blobs, kind = [np.ascontiguousarray(kernel, "float32"), np.asarray(bias, "float32")], "Convolution"
        elif node.op == "max_pool":
            params, blobs, kind = {"pool": "MAX", "kernel_size": 2, "stride": 2}, [], "Pooling"
        else:
            params, blobs, kind = {}, [], {"relu": "ReLU", "softmax": "Softmax"}[node.op]
        layers.append(write_caffe.Layer(node.name, kind, params, [node.inputs[0]], [node.outputs[0]], blobs))
    inputs = {net.nodes[0].inputs[0]: (1, 1, 32, 32)}
    return (
        write_caffe.write_caffemodel(folder / "net.caffemodel", layers, inputs=inputs),
        write_caffe.write_prototxt(folder / "net.prototxt", layers, inputs=inputs),
    )


def test_the_matconvnet_net_is_the_same_in_caffe(shared_data: Path, tmp_path: Path) -> None:
    net = read(shared_data / "foreign_weights" / "matconvnet" / "charscnn.mat")
    assert net.nodes is not None and net.layout == "hwio"
    weights, prototxt = transcribed(net, tmp_path)
    x = np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype("float32")
    last = net.nodes[-1]
    found, _ = run(net.nodes, net.arrays, {net.nodes[0].inputs[0]: x}, "hwio")
    assert_equal(found[last.outputs[0]], opencv(weights, prototxt, x, [last.name])[0])


def test_the_mean_image_of_imagenet(shared_data: Path) -> None:
    from emotiw_keras.models.registry import get_spec

    mean = read(shared_data / "foreign_weights" / "bvlc" / "ilsvrc_2012_mean.npy").arrays["array"]
    assert mean.shape == (3, 256, 256)
    assert np.allclose(mean.mean(axis=(1, 2)), get_spec("alexnet").mean, atol=1e-4)
