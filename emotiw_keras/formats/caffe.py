"""Caffe's files: `.caffemodel` weights, `.binaryproto` means, `.prototxt` definitions.

Source: BVLC Caffe, `caffe.proto`, `blob.cpp` (shapes), `upgrade_proto.cpp` (versions 0 and 1). Kernels are (out, in / groups,
height, width), fully connected weights (out, in) over flattened (channels, height, width), images are BGR, 0..255.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import prototxt as text
from emotiw_keras.formats.caffe_graph import build, check_arrays, images_of, mean_of, note, only_trains
from emotiw_keras.formats.caffe_layers import Layer, read_network
from emotiw_keras.formats.caffe_nodes import array_names
from emotiw_keras.formats.caffe_schema import BLOB, RAW_TYPES, SHAPE
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.protobuf import Message, Wire, last, map_file

_LEGACY = ("num", "channels", "height", "width")
_VECTORS = ("bias", "slope", "mean", "variance", "factor", "gamma", "beta")
_DEFAULTS = Limits()


def read_caffemodel(path: Path, limits: Limits = _DEFAULTS) -> Foreign:
    """A `.caffemodel`: all versions, packed or unpacked, single or double precision, NVIDIA's blobs of bytes (half too).

    Arrays are views of the mapped file where the file keeps them in one piece, and read-only. Shapes are as declared, but for
    the four sizes that old files give everything: fully connected weights 1x1xOxI are (O, I) and vectors 1x1x1xO are (O,).
    Gradients that the file may hold are skipped.

    Args:
        path: the file.
        limits: bounds on its size and its number of layers and arrays.

    Raises:
        ModelError: the file is missing, too large or damaged, holds no layers, or arrays that do not fit their layer.
    """
    wire, view = Wire(path.name), map_file(path, limits)
    network = read_network(wire, view, limits)
    nodes, inputs = build(network, path.name)
    images = images_of(network, inputs)
    arrays: dict[str, np.ndarray] = {}
    for layer in network.layers:
        if not layer.blobs:
            continue
        if layer.dropped or only_trains(layer.type):
            note(network.ignored, layer.name or layer.type, f"with its {len(layer.blobs)} arrays")
            continue
        for name, blob in zip(array_names(layer), layer.blobs, strict=True):
            arrays[name] = _squeezed(layer, name, _blob(wire, blob, name))
    extra = arrays.keys() - {name for node in nodes for name in node.arrays}
    if extra:
        raise ModelError(f"{path.name}: the file holds {min(extra)}, which the settings of its layer do not ask for")
    check_arrays(nodes, {name: array.shape for name, array in arrays.items()}, path.name)
    return Foreign(
        format=f"Caffe model (V{network.version} layers)",
        path=path,
        arrays=arrays,
        layout="oihw",
        nodes=nodes,
        inputs=inputs,
        channel_order="bgr",
        mean=mean_of(images),
        images=images,
        ignored=network.ignored,
    )


def _blob(wire: Wire, view: memoryview, what: str) -> np.ndarray:
    fields = wire.decode(view, BLOB)
    if "double_data" in fields:
        values = wire.floats(fields["double_data"], "<f8", what)
    elif "raw_data" in fields and "data" not in fields:
        values = _raw(wire, last(fields, "raw_data"), last(fields, "raw_data_type", 0), what)
    else:
        values = wire.floats(fields.get("data", ()), "<f4", what)
    return wire.shaped(values, _dims(wire, fields), what)


def _raw(wire: Wire, content: memoryview, kind: int, what: str) -> np.ndarray:
    if kind not in RAW_TYPES:
        known = "double (0), float (1), half (2)"
        raise ModelError(f"{wire.where}: {what} holds numbers of the type {kind}, expected one of {known}")
    dtype = np.dtype(RAW_TYPES[kind])
    if len(content) % dtype.itemsize:
        wire.fault(f"{what} has {len(content):,} bytes, no multiple of {dtype.itemsize}")
    return np.frombuffer(content, dtype)


def _dims(wire: Wire, fields: Message) -> list[int]:
    if any(name in fields for name in _LEGACY):
        return [last(fields, name, 0) for name in _LEGACY]
    return [size for part in fields.get("shape", ()) for size in wire.decode(part, SHAPE).get("dim", ())]


def _squeezed(layer: Layer, name: str, array: np.ndarray) -> np.ndarray:
    """Without the leading ones of old files' four sizes."""
    role = name.rpartition(".")[2]
    if array.ndim == 4 and role in _VECTORS and array.size == array.shape[-1]:
        return array.reshape(-1)
    if array.ndim == 4 and role == "weight" and layer.type == "InnerProduct" and array.shape[:2] == (1, 1):
        return array.reshape(array.shape[2:])
    return array


def read_binaryproto(path: Path, limits: Limits = _DEFAULTS) -> Foreign:
    """A `.binaryproto` mean image.

    Returns:
        Foreign with `mean` float32 (height, width, channels), BGR if it has three, and the array "mean" as stored.

    Raises:
        ModelError: the file is missing, too large, damaged, or not one image.
    """
    wire = Wire(path.name)
    stored = _blob(wire, map_file(path, limits), "the mean")
    image = stored.reshape(stored.shape[1:]) if stored.ndim == 4 and stored.shape[0] == 1 else stored
    if image.ndim != 3 or not image.size:
        shape = "x".join(map(str, stored.shape)) or "one value"
        raise ModelError(f"{path.name} holds {shape}, expected one mean image 1 x channels x height x width")
    if not np.abs(image).max() <= 255:
        raise ModelError(f"{path.name} holds values that are no grey levels of 0..255; it is damaged or no mean image")
    return Foreign(
        format="Caffe mean image",
        path=path,
        arrays={"mean": stored},
        channel_order="bgr" if image.shape[0] == 3 else None,
        mean=np.ascontiguousarray(image.transpose(1, 2, 0), np.float32),
    )


def read_prototxt(path: Path, limits: Limits = _DEFAULTS) -> Foreign:
    """A `.prototxt` definition: the nodes and inputs of the test phase, without arrays.

    Raises:
        ModelError: the file is missing, too large, not a Caffe network in text form, or has a setting Caffe does not know.
    """
    data = bytes(map_file(path, replace(limits, total_bytes=min(limits.total_bytes, text.LARGEST))))
    decoder = text.TextDecoder(path.name)
    network = read_network(decoder, text.parse(data, path.name), limits)
    held = [layer.name for layer in network.layers if layer.blobs]
    if held:
        raise ModelError(f"{path.name}: layer {held[0]} holds arrays as text; expected them in a .caffemodel")
    nodes, inputs = build(network, path.name)
    images = images_of(network, inputs)
    return Foreign(
        format=f"Caffe prototxt (V{network.version} layers)",
        path=path,
        arrays={},
        layout="oihw",
        nodes=nodes,
        inputs=inputs,
        channel_order="bgr",
        mean=mean_of(images),
        images=images,
        ignored=network.ignored,
    )


def with_prototxt(weights: Foreign, prototxt: Foreign) -> Foreign:
    """The arrays of one file in the network of another, matched by the names of the layers.

    Names match after "/" is replaced by "."; the arrays take the names that the prototxt gives them. Arrays of layers that
    it does not have are listed in `ignored`.

    Args:
        weights: of any format with "oihw" kernels or unstated layout, e.g. `read_caffemodel(...)`.
        prototxt: what `read_prototxt` returned.

    Raises:
        ModelError: a layer has no weights, or arrays of other number or sizes than its settings say.
    """
    where = f"{weights.path.name} with {prototxt.path.name}"
    if weights.layout not in ("oihw", None) or prototxt.nodes is None:
        raise ModelError(f"{where}: kernels are {weights.layout}, expected out, in, height, width, as Caffe has them")
    ignored = dict(weights.ignored)
    for name, reason in prototxt.ignored.items():
        note(ignored, name, reason)
    by_layer: dict[str, list[str]] = {}
    for key in weights.arrays:
        by_layer.setdefault(_plain(key.rpartition(".")[0]), []).append(key)
    arrays: dict[str, np.ndarray] = {}
    nodes = []
    for node in prototxt.nodes:
        keys = by_layer.pop(_plain(node.name), [])
        renamed: dict[str, Any] = {f"{node.name}.{key.rpartition('.')[2]}": weights.arrays[key] for key in keys}
        if len(renamed) < len(keys):
            raise ModelError(f"{where}: two arrays of the layer {node.name} have one name: {', '.join(keys)}")
        extra = [name for name in renamed if name not in node.arrays]
        if node.op == "unsupported":
            node = replace(node, arrays=tuple(renamed))
        elif extra:
            raise ModelError(f"{where}: {extra[0]} is in the weights, but the prototxt's layer has no such array")
        arrays.update(renamed)
        nodes.append(node)
    for keys in by_layer.values():
        for key in keys:
            note(ignored, key, f"{prototxt.path.name} has no layer of this name")
    check_arrays(nodes, {name: array.shape for name, array in arrays.items()}, where)
    images = tuple(dict.fromkeys((*weights.images, *prototxt.images)))
    return replace(
        prototxt,
        format=f"{weights.format} with a prototxt",
        path=weights.path,
        arrays=arrays,
        nodes=tuple(nodes),
        channel_order=weights.channel_order or prototxt.channel_order,
        mean=mean_of(images) if images else weights.mean,
        images=images,
        ignored=ignored,
        classes=weights.classes,
    )


def _plain(layer: str) -> str:
    return layer.replace("/", ".")
