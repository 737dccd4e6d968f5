"""Small files of every format and variant, from which damaged ones are made; and traps, which no reader may fall into.

All are the same in every process: nothing in them depends on the time or on what was written before.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.numpy

from .write_caffe import Layer, write_binaryproto, write_caffemodel, write_prototxt
from .write_matconvnet import Cell, Step, dag_nn, simple_nn, write_mat5, write_mat73
from .write_onnx import Op, concat, conv, flatten, gemm, global_mean, lrn, max_pool, relu, softmax, write_onnx
from .write_pytorch import write_legacy, write_zip

EXECUTED = "executed"
"""The folder that the pickles among the traps would make in the working folder."""
LARGEST_REAL = 16 << 10
_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "foreign_weights"


@dataclass(frozen=True)
class Seed:
    """A file before it is damaged; `format` is a key of `reading.READERS`, `variant` is unique within it."""

    format: str
    variant: str
    suffix: str
    data: bytes
    trap: bool = False
    """To be refused as it is; the others are to be read."""


class Call:
    """Pickles as the call of a function that would be seen to have run."""

    def __reduce__(self) -> Any:
        return os.mkdir, (EXECUTED,)


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).normal(0, 0.3, shape).astype(np.float32)


KERNEL, BIAS, FC, FC_BIAS = _draw(4, 2, 3, 3), _draw(4), _draw(5, 16), _draw(5)
CAFFE = [
    Layer("conv1", "Convolution", {"num_output": 4, "kernel_size": 3, "stride": 2, "pad": 1}, ["data"], ["conv1"],
          [KERNEL, BIAS]),
    Layer("relu1", "ReLU", {}, ["conv1"], ["conv1"]),
    Layer("norm1", "LRN", {"local_size": 3, "alpha": 1e-4, "k": 2.0}, ["conv1"], ["norm1"]),
    Layer("pool1", "Pooling", {"pool": "MAX", "kernel_size": 2, "stride": 2}, ["norm1"], ["pool1"]),
    Layer("drop1", "Dropout", {"dropout_ratio": 0.5}, ["pool1"], ["pool1"]),
    Layer("fc2", "InnerProduct", {"num_output": 5}, ["pool1"], ["fc2"], [FC, FC_BIAS]),
    Layer("prob", "Softmax", {}, ["fc2"], ["prob"]),
]  # fmt: skip
CAFFE_2 = [
    Layer("data", "Input", {"shape": [(1, 2, 8, 8)]}, [], ["data"]),
    Layer("conv1", "Convolution", {"num_output": 4, "kernel_size": 3, "dilation": 1}, ["data"], ["conv1"], [KERNEL, BIAS]),
    Layer("bn1", "BatchNorm", {"eps": 1e-5}, ["conv1"], ["conv1"], [BIAS, BIAS**2 + 1, np.ones(1, np.float32)]),
    Layer("scale1", "Scale", {"bias_term": True}, ["conv1"], ["conv1"], [BIAS, BIAS]),
    Layer("prelu1", "PReLU", {}, ["conv1"], ["prelu1"], [BIAS]),
    Layer("split", "Split", {}, ["prelu1"], ["a", "b"]),
    Layer("sum", "Eltwise", {"operation": "SUM"}, ["a", "b"], ["sum"]),
    Layer("join", "Concat", {"axis": 1}, ["sum", "prelu1"], ["join"]),
    Layer("pool", "Pooling", {"pool": "AVE", "global_pooling": True}, ["join"], ["pool"]),
    Layer("gate", "Sigmoid", {}, ["pool"], ["gate"]),
    Layer("shape", "Reshape", {"shape": [(0, -1, 1, 1)]}, ["gate"], ["shape"]),
    Layer("axpy", "Axpy", {}, ["shape", "join", "join"], ["axpy"]),
    Layer("loss", "SoftmaxWithLoss", {}, ["gate", "label"], ["loss"], phase="TRAIN"),
]
SHAPES = {"data": (1, 2, 8, 8)}
ONNX = [
    conv("conv1", "data", KERNEL, BIAS, pads=[1, 0, 1, 2], strides=[2, 2], group=1),
    relu("relu1", "conv1"),
    lrn("norm1", "relu1", size=3),
    max_pool("pool1", "norm1", 2, 2, ceil=True),
    flatten("flat", "pool1"),
    gemm("fc", "flat", FC, FC_BIAS),
    softmax("prob", "fc"),
]
_MOMENTS = ("gamma", "beta", "mean", "variance")
ONNX_2 = [
    conv("conv1", "data", KERNEL, None, auto_pad="SAME_UPPER"),
    Op("BatchNormalization", ["conv1", *_MOMENTS], ["bn"], {"epsilon": 1e-5}, dict.fromkeys(_MOMENTS, BIAS**2 + 1), "bn"),
    Op("Constant", [], ["two"], {"value": np.array([2.0], np.float32)}, name="two"),
    Op("Add", ["bn", "conv1"], ["sum"], name="sum"),
    concat("join", ["sum", "bn"]),
    global_mean("pool", "join"),
    Op("Reshape", ["pool", "shape"], ["flat"], arrays={"shape": np.array([1, -1], np.int64)}, name="flat"),
]
ARRAYS: dict[str, Any] = {"conv1.weight": KERNEL, "conv1.bias": BIAS, "fc.weight": FC, "fc.bias": FC_BIAS}
BLOCKS = {"conv1": [KERNEL, BIAS], "fc": {"weights": FC.astype(np.float64), "biases": FC_BIAS}, "é": {"steps": 3}}
TORCH = {**ARRAYS, "bn.weight": BIAS, "bn.bias": BIAS, "bn.running_mean": BIAS, "bn.running_var": BIAS**2,
         "bn.num_batches_tracked": np.array(7)}  # fmt: skip


def _number(*values: float) -> np.ndarray:
    return np.array([values], np.float64)


_HWIO = np.ascontiguousarray(KERNEL.transpose(2, 3, 1, 0))
MATLAB = (
    Step("conv", "conv1", (_HWIO, BIAS), {"stride": _number(2), "pad": _number(1, 0, 1, 0)}),
    Step("relu", "relu1"),
    Step("lrn", "norm1", (), {"param": _number(5, 2, 1e-4, 0.75)}),
    Step("pool", "pool1", (), {"method": "max", "pool": _number(2), "stride": _number(2), "pad": _number(0)}),
    Step("softmaxloss", "prob"),
)
DAG = (
    Step("Conv", "c1", (_HWIO,), {"size": _number(3, 3, 2, 4), "hasBias": False, "stride": _number(1), "pad": _number(1)}),
    Step("BatchNorm", "bn1", (BIAS, BIAS, np.ones((4, 2), np.float32)), {"numChannels": _number(4), "epsilon": _number(1e-4)}),
    Step("Sum", "sum", (), {}, ("bn1", "c1")),
    Step("GlobalPooling", "pool", (), {"method": "avg"}, ("sum",)),
    Step("Reshape", "shape", (), {"shape": Cell([_number(1), _number(1), np.empty((0, 0))])}, ("pool",)),
    Step("Axpy", "axpy", (), {}, ("shape", "sum", "bn1")),
)
META = {
    "normalization": {"imageSize": _number(8, 8, 2), "averageImage": np.full((1, 1, 3), 100, np.float32)},
    "classes": {"name": Cell(["n1", "n2"]), "description": Cell(["tench, Tinca", "großer Hai"])},
}


def _create(path: Path, *, latest: bool = False, head: int = 0) -> h5py.File:
    """A new HDF5 file without the times that its newest form would keep."""
    settings, access = h5py.h5p.create(h5py.h5p.FILE_CREATE), h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    settings.set_obj_track_times(False)
    settings.set_userblock(head)
    if latest:
        access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    return h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, settings, access))


def _group(place: h5py.Group, name: str) -> h5py.Group:
    settings = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    settings.set_obj_track_times(False)
    for part in name.split("/"):
        place = place[part] if part in place else h5py.Group(h5py.h5g.create(place.id, part.encode(), gcpl=settings))
    return place


def write_keras(path: Path, *, whole: bool = False, latest: bool = False) -> None:
    """A file of Keras 2: of weights, or of a whole model."""
    with _create(path, latest=latest) as file:
        group = _group(file, "model_weights") if whole else file
        group.attrs["layer_names"] = np.array([b"conv1", b"drop", b"fc", b"conv1/bn"])
        _group(group, "drop").attrs["weight_names"] = np.zeros(0, "S1")
        for layer, arrays in (("conv1", (_HWIO, BIAS)), ("fc", (FC.T, FC_BIAS))):
            place, names = _group(group, layer), [f"{layer}/{what}:0" for what in ("kernel", "bias")]
            place.attrs["weight_names"] = np.array([name.encode() for name in names])
            inner = _group(place, layer)
            inner["kernel:0"], inner["bias:0"] = arrays
        place = _group(group, "conv1/bn")
        place.attrs["weight_names"] = np.array([b"conv1/bn/gamma:0"])
        _group(place, "conv1/bn")["gamma:0"] = BIAS
        file.attrs["keras_version"] = b"2.2.4"
        if whole:
            file.attrs["model_config"] = json.dumps({"class_name": "Lambda", "config": {"function": ["4wEA", None]}})


def write_keras_3(path: Path, *, latest: bool = False) -> None:
    """A `.weights.h5` of Keras 3, with chunks and filters."""
    packed = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    with _create(path, latest=latest) as file:
        for name, arrays in (("conv2d", (_HWIO, BIAS)), ("dense", (FC.T, FC_BIAS))):
            place = _group(file, f"layers/{name}/vars")
            place.attrs["name"] = name
            for i, array in enumerate(arrays):
                place.create_dataset(str(i), data=array, chunks=(2,) * array.ndim, **packed)
        _group(file, "layers/dropout/seed_generator/vars")["0"] = np.zeros(2, np.uint32)


HDF5_TRAPS = ("external link", "external storage", "virtual dataset", "declared size", "soft link")


def write_hdf5_trap(path: Path, trap: str, other: str) -> None:
    """A file whose one array lies in the file `other`, or is larger than any disk, in the place of a Keras weight.

    Args:
        path: the new file; MATLAB's head is put before it if its suffix is .mat.
        trap: one of HDF5_TRAPS.
        other: path of the file that the trap points at.
    """
    matlab = path.suffix == ".mat"
    with _create(path, latest=trap == "virtual dataset", head=512 if matlab else 0) as file:
        place = _group(file, "net" if matlab else "layers/dense/vars")
        if trap == "external link":
            place["0"] = h5py.ExternalLink(other, "/values")
        elif trap == "soft link":
            place["0"] = h5py.SoftLink("/")
        elif trap == "external storage":
            place.create_dataset("0", (8,), "f8", external=[(other, 0, 64)])
        elif trap == "declared size":
            place.create_dataset("0", (1 << 40,), "f8", chunks=(64,), compression="gzip")
        else:
            settings, space = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple((8,))
            settings.set_obj_track_times(False)
            settings.set_virtual(space, other.encode(), b"values", space)
            h5py.h5d.create(place.id, b"0", h5py.h5t.IEEE_F64LE, space, dcpl=settings)
    if matlab:
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _dump(value: Any, protocol: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pickle.dumps(value, protocol))


def _mat_bomb(path: Path) -> None:
    packed = zlib.compress(bytes([14, 0, 0, 0]) + ((1 << 24) - 64).to_bytes(4, "little") + bytes(1 << 24))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes([15, 0, 0, 0])
    path.write_bytes(head + len(packed).to_bytes(4, "little") + packed)


Writers = list[tuple[str, str, str, Callable[[Path], object]]]


def _valid() -> Writers:
    rows: Writers = []
    options: dict[str, Any]
    settings: dict[str, Any]
    for name, layers, options in (
        ("2", CAFFE, {}), ("2 with batch norm", CAFFE_2, {"diff": True}), ("2 unpacked", CAFFE, {"packed": False}),
        ("2 double", CAFFE, {"double": True, "legacy": True}), ("1", CAFFE, {"version": 1, "legacy": True}),
        ("0", CAFFE, {"version": 0, "legacy": True}),
    ):  # fmt: skip
        settings = {"layers": layers, "inputs": None if layers is CAFFE_2 else SHAPES, **options}
        rows.append(("Caffe model", name, ".caffemodel", functools.partial(write_caffemodel, **settings)))
    for version in (1, 2):
        text = functools.partial(write_prototxt, layers=CAFFE, version=version, inputs=SHAPES)
        rows.append(("Caffe prototxt", str(version), ".prototxt", text))
    rows.append(("Caffe prototxt", "2 with batch norm", ".prototxt", functools.partial(write_prototxt, layers=CAFFE_2)))
    for name, options in (("float", {}), ("unpacked", {"packed": False}), ("double", {"double": True, "legacy": False})):
        settings = {"mean": _draw(3, 8, 8) * 9 + 100, **options}
        mean = functools.partial(write_binaryproto, **settings)
        rows.append(("Caffe mean image", name, ".binaryproto", mean))
    half = [Op(op.type, op.inputs, op.outputs, op.attributes, {k: v.astype("f2") for k, v in op.arrays.items()}) for op in ONNX]
    for name, ops, options in (
        ("raw", ONNX, {}), ("packed", ONNX, {"raw": False}), ("unpacked", ONNX, {"raw": False, "packed": False}),
        ("half", half, {"raw": False}), ("second", ONNX_2, {"raw": False, "opset": 13}),
    ):  # fmt: skip
        settings = {"ops": ops, "inputs": SHAPES, "outputs": [ops[-1].outputs[0]], **options}
        rows.append(("ONNX", name, ".onnx", functools.partial(write_onnx, **settings)))
    nets = {"new": simple_nn(MATLAB, META), "old": simple_nn(MATLAB, META, old=True), "dag": dag_nn(DAG, META)}
    for name, net in nets.items():
        for level, write in (("5", write_mat5), ("7.3", write_mat73)):
            for packed in (False, True) if name == "new" or level == "5" else (False,):
                variables = net if name == "old" else {"net": net}
                made = functools.partial(write, variables=variables, compressed=packed)
                rows.append(("MatConvNet", f"{level} {name}{' compressed' * packed}", ".mat", made))
    rows += [
        ("Keras HDF5", "2", ".h5", write_keras),
        ("Keras HDF5", "2 whole", ".h5", functools.partial(write_keras, whole=True)),
        ("Keras HDF5", "2 latest", ".h5", functools.partial(write_keras, latest=True)),
        ("Keras HDF5", "3", ".weights.h5", write_keras_3),
        ("Keras HDF5", "3 latest", ".weights.h5", functools.partial(write_keras_3, latest=True)),
        ("Keras model", "stored", ".keras", _keras_model),
        ("Keras model", "deflated", ".keras", functools.partial(_keras_model, method=zipfile.ZIP_DEFLATED)),
        ("safetensors index", "of nothing", ".safetensors.index.json", functools.partial(_index, files={})),
        ("safetensors", "float", ".safetensors", functools.partial(_safetensors, arrays=ARRAYS)),
        ("safetensors", "types", ".safetensors", functools.partial(_safetensors, arrays={t: FC.astype(t) for t in "?bHiqed"})),
        ("NumPy array", "float", ".npy", lambda path: np.save(path, KERNEL)),
        ("NumPy array", "fortran", ".npy", lambda path: np.save(path, np.asfortranarray(FC.astype(">f8")))),
        ("NumPy array", "objects", ".npy", lambda path: np.save(path, np.array(BLOCKS, object))),
        ("NumPy archive", "stored", ".npz", lambda path: np.savez(path, **ARRAYS)),
        ("NumPy archive", "deflated", ".npz", lambda path: np.savez_compressed(path, **ARRAYS)),
        ("PyTorch", "zip", ".pth", functools.partial(write_zip, obj=TORCH)),
        ("PyTorch", "zip deflated", ".pt",
         functools.partial(write_zip, obj={"state_dict": TORCH}, method=zipfile.ZIP_DEFLATED)),
        ("PyTorch", "legacy", ".pth", functools.partial(write_legacy, obj={"model": TORCH, "epoch": 3})),
    ]  # fmt: skip
    rows += [("pickled arrays", f"protocol {i}", ".pkl", _dump(BLOCKS, i)) for i in range(6)]
    return rows


def _safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))


def _keras_model(path: Path, method: int = zipfile.ZIP_STORED) -> None:
    write_keras_3(path)
    weights = path.read_bytes()
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (("metadata.json", b"{}"), ("config.json", b"{}"), ("model.weights.h5", weights)):
            archive.writestr(name, content)


def _index(path: Path, files: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _traps() -> Writers:
    rows: Writers = [("pickled arrays", f"call {i}", ".pkl", _dump({**BLOCKS, "x": Call()}, i)) for i in range(6)]
    rows += [
        ("NumPy array", "call", ".npy", lambda path: np.save(path, np.array({"a": FC, "x": Call()}, object))),
        ("PyTorch", "zip with a call", ".pth", functools.partial(write_zip, obj={**ARRAYS, "x": Call()})),
        ("PyTorch", "legacy with a call", ".pth", functools.partial(write_legacy, obj={**ARRAYS, "x": Call()})),
        ("NumPy archive", "bomb", ".npz", lambda path: np.savez_compressed(path, a=np.zeros(1 << 24, np.uint8))),
        ("PyTorch", "bomb", ".pth",
         functools.partial(write_zip, obj={"a": np.zeros(1 << 22, np.float32)}, method=zipfile.ZIP_DEFLATED)),
        ("MatConvNet", "bomb", ".mat", _mat_bomb),
        ("safetensors index", "outside", ".safetensors.index.json", functools.partial(_index, files={"a": "../other"})),
    ]  # fmt: skip
    for trap in HDF5_TRAPS:
        for format_name, suffix in (("Keras HDF5", ".h5"), ("MatConvNet", ".mat")):
            rows.append((format_name, trap, suffix, functools.partial(write_hdf5_trap, trap=trap, other="other.h5")))
    return rows


def _timeless(data: bytes) -> bytes:
    """Without the time of writing: that of zip entries, and the words at the head of a .mat file."""
    if data.startswith(b"PK"):
        data = re.sub(b"(PK\x03\x04.{6}|PK\x01\x02.{8}).{4}", lambda found: found[1] + b"\0\0\x21\0", data, flags=re.DOTALL)
    if data.startswith(b"MATLAB 5"):
        data = b"MATLAB 5.0 MAT-file".ljust(116) + data[116:]
    return data


@functools.cache
def seeds() -> tuple[Seed, ...]:
    """Every valid file, then every trap; real files of ../shared/data join the valid ones where they are small and there."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for trap, rows in ((False, _valid()), (True, _traps())):
            for format_name, variant, suffix, write in rows:
                path = Path(folder, f"{format_name} {variant}{suffix}".replace(" ", "_"))
                write(path)
                found.append(Seed(format_name, variant, suffix, _timeless(path.read_bytes()), trap))
            real = [] if trap else [path for path in sorted(_DATA.glob("*/*.prototxt")) if path.stat().st_size <= LARGEST_REAL]
            found += [Seed("Caffe prototxt", path.name, ".prototxt", path.read_bytes()) for path in real]
    return tuple(found)
