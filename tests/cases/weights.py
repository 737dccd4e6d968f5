"""Checks of cases about files of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.cases.tools import Case, expect

CLOSE = 1e-4


def converted(case: Case, name: str, model: str, *options: object, said: str = "") -> Path:
    """Convert a file of the case."""
    out = case.work / f"{name}.weights.h5"
    case.emotiw("convert", case.folder / name, "--model", model, *options, "--out", out, said=said)
    expect(out.is_file(), f"{out.name} was not written")
    return out


def network(name: str, weights: Path, width: float, side: int) -> Any:
    """A network of the zoo with these weights, of 7 classes, for images in its own channel order."""
    from emotiw_keras.models import registry

    model = registry.build(name, weights=None, classes=7, input_shape=(side, side, 3), width=width)
    model.load_weights(weights)
    return model


def as_torch(case: Case, name: str, weights: Path, width: float, answers: str) -> None:
    """The network gives what PyTorch gave: an array of inputs (batch, channels, height, width) and one of outputs."""
    with np.load(case.folder / answers) as arrays:
        pair = sorted((arrays[key] for key in arrays.files), key=lambda array: -array.ndim)
    inputs, outputs = pair[0], pair[-1].reshape(len(pair[0]), -1)
    found = np.asarray(network(name, weights, width, inputs.shape[2])(inputs.transpose(0, 2, 3, 1)))
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    expected = shifted / shifted.sum(axis=1, keepdims=True)
    error = float(np.abs(found - expected).max())
    case.commands.append((f"{name} beside PyTorch", 0, f"largest difference {error:.1e}"))
    expect(error < CLOSE, f"differs from PyTorch's answers by {error:.1e}")


def caffemodel_nvcaffe_raw_data(case: Case) -> None:
    import cv2
    import h5py

    out = converted(case, "a_nv_raw16.caffemodel", "alexnet", "--width", 0.125)
    theirs = cv2.dnn.readNetFromCaffe(str(case.folder / "alex_deploy.prototxt"), str(case.folder / "a_nv_raw16.caffemodel"))
    kernel = np.sort(theirs.getParam("conv1", 0), axis=None)
    found = []
    with h5py.File(out) as file:
        file.visititems(lambda name, item: found.append(item[()]) if getattr(item, "shape", None) == (11, 11, 3, 12) else None)
    expect(len(found) == 1, f"{len(found)} kernels of the first layer's shape")
    expect(np.allclose(np.sort(found[0], axis=None), kernel, atol=1e-6), "the first kernel is another than OpenCV reads")


def keras_file_called_pytorch(case: Case) -> None:
    case.emotiw("convert", "--inspect", case.folder / "tensorflow_squeezenet.keras", said="Keras")


def npy_weights_biases(case: Case) -> None:
    converted(case, "py2_dict.npy", "alexnet", "--width", 0.125)
    converted(case, "fc6_chw.npy", "alexnet", "--width", 0.125, said="order")


def onnx_torch_alexnet_keyerror(case: Case) -> None:
    for name in ("ts_a.onnx", "dyn_a_one.onnx"):
        as_torch(case, "alexnet_owt", converted(case, name, "alexnet_owt", "--width", 0.125), 0.125, "owt_io.npz")


def onnx_torch_squeezenet_constants(case: Case) -> None:
    out = converted(case, "squeezenet1_1_dyn.onnx", "squeezenet_v1_1")
    as_torch(case, "squeezenet_v1_1", out, 1.0, "squeezenet1_1_io.npz")


def pth_alexnet_dataparallel_features(case: Case) -> None:
    files = [converted(case, name, "alexnet_owt", "--width", 0.125)
             for name in ("places365_like.pth.tar", "dp.safetensors", "compiled_real.pth")]  # fmt: skip
    expect(len({network("alexnet_owt", file, 0.125, 224).count_params() for file in files}) == 1, "networks of other sizes")
