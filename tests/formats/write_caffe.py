"""Caffe files written by hand: `.caffemodel` in all versions, prototxt text, `.binaryproto`.

Field numbers are those of BVLC's `caffe.proto`, listed here once more so that a reader's mistake is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .write_protobuf import Pieces, block, integer, integers, numbers, single, text

# type -> (V1's enum, V0's word, name of its message, number in V2, number in V1)
TYPES: dict[str, tuple[int | None, str | None, str | None, int | None, int | None]] = {
    "Convolution": (4, "conv", "convolution_param", 106, 10),
    "InnerProduct": (14, "innerproduct", "inner_product_param", 117, 17),
    "LRN": (15, "lrn", "lrn_param", 118, 18),
    "Pooling": (17, "pool", "pooling_param", 121, 19),
    "ReLU": (18, "relu", "relu_param", 123, 30),
    "Softmax": (20, "softmax", "softmax_param", 125, 39),
    "SoftmaxWithLoss": (21, "softmax_loss", "softmax_param", 125, 39),
    "Dropout": (6, "dropout", "dropout_param", 108, 12),
    "Concat": (3, "concat", "concat_param", 104, 9),
    "Eltwise": (25, None, "eltwise_param", 110, 24),
    "Sigmoid": (19, "sigmoid", "sigmoid_param", 124, 38),
    "Flatten": (8, "flatten", "flatten_param", 135, None),
    "Split": (22, "split", None, None, None),
    "Power": (26, "power", "power_param", 122, 21),
    "Data": (5, "data", "transform_param", 100, 36),
    "Accuracy": (1, "accuracy", None, None, None),
    "Silence": (36, None, None, None, None),
    "Slice": (33, None, None, None, None),
    "Deconvolution": (39, None, "convolution_param", 106, 10),
    "BatchNorm": (None, None, "batch_norm_param", 139, None),
    "Scale": (None, None, "scale_param", 142, None),
    "PReLU": (None, None, "prelu_param", 131, None),
    "Input": (None, None, "input_param", 143, None),
    "Axpy": (None, None, None, None, None),
    "Reshape": (None, None, "reshape_param", 133, None),
}
V1_WORDS = {
    "InnerProduct": "INNER_PRODUCT",
    "SoftmaxWithLoss": "SOFTMAX_LOSS",
}
SETTINGS = {
    "convolution_param": {
        "num_output": 1,
        "bias_term": 2,
        "pad": 3,
        "kernel_size": 4,
        "group": 5,
        "stride": 6,
        "pad_h": 9,
        "pad_w": 10,
        "kernel_h": 11,
        "kernel_w": 12,
        "stride_h": 13,
        "stride_w": 14,
        "axis": 16,
        "dilation": 18,
    },
    "inner_product_param": {"num_output": 1, "bias_term": 2, "axis": 5, "transpose": 6},
    "lrn_param": {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5},
    "pooling_param": {
        "pool": 1,
        "kernel_size": 2,
        "stride": 3,
        "pad": 4,
        "kernel_h": 5,
        "kernel_w": 6,
        "stride_h": 7,
        "stride_w": 8,
        "pad_h": 9,
        "pad_w": 10,
        "global_pooling": 12,
        "round_mode": 13,
    },
    "relu_param": {"negative_slope": 1},
    "power_param": {"power": 1, "scale": 2, "shift": 3},
    "softmax_param": {"axis": 2},
    "dropout_param": {"dropout_ratio": 1},
    "concat_param": {"axis": 2, "concat_dim": 1},
    "eltwise_param": {"operation": 1, "coeff": 2},
    "sigmoid_param": {},
    "flatten_param": {"axis": 1, "end_axis": 2},
    "batch_norm_param": {"use_global_stats": 1, "eps": 3},
    "scale_param": {"axis": 1, "num_axes": 2, "bias_term": 4},
    "prelu_param": {"channel_shared": 2},
    "input_param": {},
    "reshape_param": {},
    "transform_param": {"scale": 1, "mirror": 2, "crop_size": 3, "mean_file": 4, "mean_value": 5},
}
V0_SETTINGS = {
    "num_output": 3,
    "bias_term": 4,
    "pad": 7,
    "kernel_size": 8,
    "group": 9,
    "stride": 10,
    "pool": 11,
    "dropout_ratio": 12,
    "local_size": 13,
    "alpha": 14,
    "beta": 15,
    "k": 22,
    "concat_dim": 65,
    "scale": 17,
    "meanfile": 18,
}
ENUMS = {
    "pool": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "operation": {"PROD": 0, "SUM": 1, "MAX": 2},
    "norm_region": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "round_mode": {"CEIL": 0, "FLOOR": 1},
}
FLOATS = ("alpha", "beta", "k", "negative_slope", "dropout_ratio", "coeff", "eps", "scale", "mean_value")


@dataclass
class Layer:
    """One layer; `params` are the settings of its type's message, lists for repeated ones, words for enums.

    Example:
        >>> Layer("conv1", "Convolution", {"num_output": 96, "kernel_size": 11, "stride": 4}, ["data"], ["conv1"])
    """

    name: str
    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    bottoms: Sequence[str] = ()
    tops: Sequence[str] = ()
    blobs: Sequence[np.ndarray] = ()
    phase: str | None = None
    """"TRAIN" or "TEST": a rule that includes it only there."""


def write_caffemodel(
    path: Path,
    layers: Sequence[Layer],
    *,
    version: int = 2,
    packed: bool = True,
    double: bool = False,
    legacy: bool = False,
    diff: bool = False,
    raw: str = "",
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write the layers as a NetParameter.

    Args:
        path: the new file.
        layers: in order.
        version: 2 (`layer`), 1 (`layers`) or 0 (`layers.layer`).
        packed: values in one piece, else one field each.
        double: values as `double_data`.
        legacy: shapes as num, channels, height, width, else as `shape`.
        diff: gradients beside the values.
        raw: the values' dtype where they are bytes, as NVIDIA's Caffe keeps them: "<f2", "<f4" or "<f8".
        inputs: declared inputs and their shapes.
    """
    options = {"packed": packed, "double": double, "legacy": legacy, "diff": diff, "raw": raw}
    pieces = text(1, "net") + _inputs(inputs or {})
    for layer in layers:
        pieces += block(100, _v2(layer, options)) if version == 2 else block(2, _old(layer, options, version))
    with path.open("wb") as file:
        file.writelines(pieces)
    return path


def _inputs(inputs: Mapping[str, Sequence[int]]) -> Pieces:
    pieces: Pieces = []
    for name, shape in inputs.items():
        pieces += text(3, name) + integers(4, shape, packed=False)
    return pieces


def blob(
    array: np.ndarray, *, packed: bool = True, double: bool = False, legacy: bool = False, diff: bool = False, raw: str = ""
) -> Pieces:
    """A BlobProto."""
    values = array.astype("<f8" if double else "<f4", copy=False)
    if legacy:
        shape = [1] * (4 - array.ndim) + list(array.shape)
        pieces = [piece for number, size in enumerate(shape, 1) for piece in integer(number, size)]
    else:
        pieces = block(7, integers(1, array.shape)) if array.ndim else block(7, [])
    if raw:
        number = {"<f8": 0, "<f4": 1, "<f2": 2}[raw]
        return pieces + integer(10, number) + block(12, [np.ascontiguousarray(array, raw).reshape(-1).view(np.uint8).data])
    pieces += numbers(8 if double else 5, values, packed)
    if diff:
        pieces += numbers(9 if double else 6, np.zeros_like(values), packed)
    return pieces


def _settings(params: Mapping[str, Any], table: Mapping[str, int]) -> Pieces:
    pieces: Pieces = []
    for name, value in params.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name in FLOATS:
                pieces += single(table[name], one)
            elif isinstance(one, str) and name not in ENUMS:
                pieces += text(table[name], one)
            else:
                pieces += integer(table[name], ENUMS[name][one] if name in ENUMS else int(one))
    return pieces


def _rule(layer: Layer) -> Pieces:
    return integer(1, 0 if layer.phase == "TRAIN" else 1)


def _v2(layer: Layer, options: Mapping[str, bool]) -> Pieces:
    _, _, message, number, _ = TYPES.get(layer.type, (None,) * 5)
    pieces = text(1, layer.name) + text(2, layer.type)
    pieces += [piece for name in layer.bottoms for piece in text(3, name)]
    pieces += [piece for name in layer.tops for piece in text(4, name)]
    pieces += [piece for array in layer.blobs for piece in block(7, blob(array, **options))]
    if layer.phase:
        pieces += block(8, _rule(layer))
    if message and number and (layer.params or layer.type == "Input"):
        shapes = layer.params.get("shape", []) if layer.type in ("Input", "Reshape") else []
        inner = [piece for shape in shapes for piece in block(1, integers(1, shape))]
        pieces += block(number, inner or _settings(layer.params, SETTINGS[message]))
    return pieces


def _old(layer: Layer, options: Mapping[str, bool], version: int) -> Pieces:
    number, word, message, _, field_number = TYPES[layer.type]
    pieces = [piece for name in layer.bottoms for piece in text(2, name)]
    pieces += [piece for name in layer.tops for piece in text(3, name)]
    blobs = [block(6 if version == 1 else 50, blob(array, **options)) for array in layer.blobs]
    held = [piece for part in blobs for piece in part]
    if version == 0:
        assert word is not None, f"version 0 has no {layer.type}"
        return pieces + block(1, text(1, layer.name) + text(2, word) + _settings(layer.params, V0_SETTINGS) + held)
    assert number is not None, f"version 1 has no {layer.type}"
    pieces += text(4, layer.name) + integer(5, number) + held
    if layer.phase:
        pieces += block(32, _rule(layer))
    if message and field_number and layer.params:
        pieces += block(field_number, _settings(layer.params, SETTINGS[message]))
    return pieces


def write_prototxt(
    path: Path, layers: Sequence[Layer], *, version: int = 2, inputs: Mapping[str, Sequence[int]] | None = None
) -> Path:
    """Write the same layers as text, without their arrays; versions 2 and 1."""
    lines = ['name: "net"']
    for name, shape in (inputs or {}).items():
        lines += [f'input: "{name}"', *(f"input_dim: {size}" for size in shape)]
    for layer in layers:
        word = f'"{layer.type}"' if version == 2 else V1_WORDS.get(layer.type, layer.type.upper())
        lines += ["layer {" if version == 2 else "layers {", f'  name: "{layer.name}"', f"  type: {word}"]
        lines += [f'  bottom: "{name}"' for name in layer.bottoms] + [f'  top: "{name}"' for name in layer.tops]
        if layer.phase:
            lines.append(f"  include {{ phase: {layer.phase} }}")
        message = TYPES.get(layer.type, (None,) * 5)[2]
        if message and layer.params:
            lines += [f"  {message} {{", *(f"    {line}" for line in _text_settings(layer)), "  }"]
        lines.append("}")
    path.write_text("\n".join(lines) + "\n")
    return path


def _text_settings(layer: Layer) -> list[str]:
    if layer.type in ("Input", "Reshape"):
        return [f"shape {{ {' '.join(f'dim: {size}' for size in shape)} }}" for shape in layer.params["shape"]]
    lines = []
    for name, value in layer.params.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if name not in ENUMS:
            values = [f'"{one}"' if isinstance(one, str) else one for one in values]
        lines += [f"{name}: {str(one).lower() if isinstance(one, bool) else one}" for one in values]
    return lines


def write_binaryproto(path: Path, mean: np.ndarray, **options: bool) -> Path:
    """Write a mean image (channels, height, width) as Caffe's `compute_image_mean` does, with four sizes."""
    with path.open("wb") as file:
        file.writelines(blob(mean[None], **{"legacy": True, **options}))
    return path
