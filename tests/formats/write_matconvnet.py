"""Writes MatConvNet networks as MATLAB does: level 5 through SciPy, version 7.3 in MATLAB's own layout of HDF5."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

USERBLOCK = 512
_SERIAL = itertools.count()
_CLASSES = {"f4": "single", "f8": "double", "u1": "uint8", "u2": "uint16", "i4": "int32", "i8": "int64", "b1": "logical"}


class Cell(list[Any]):
    """A cell array of one row."""


@dataclass(frozen=True)
class Step:
    """One layer: MatConvNet's type for a SimpleNN, weights (kernel (height, width, in, out), bias (out,), ...), settings."""

    type: str
    name: str
    weights: tuple[np.ndarray, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    """Tensors of a DagNN; the one before if empty."""


def simple_nn(steps: Sequence[Step], meta: Mapping[str, Any] | None = None, *, old: bool = False) -> dict[str, Any]:
    """A SimpleNN as nested values.

    Args:
        steps: the layers.
        meta: normalization and classes.
        old: with the fields of before 2015: filters and biases, no names, meta's fields at the net's own level.
    """
    layers = Cell()
    for step in steps:
        layer: dict[str, Any] = {"type": step.type} | ({} if old else {"name": step.name}) | dict(step.settings)
        if step.weights and old:
            layer |= {"filters": step.weights[0], "biases": step.weights[1].reshape(1, -1)}
        elif step.weights:
            layer["weights"] = Cell(w.reshape(1, -1) if w.ndim == 1 else w for w in step.weights)
        layers.append(layer)
    return {"layers": layers, **(dict(meta or {}) if old else {"meta": dict(meta or {})})}


def dag_nn(steps: Sequence[Step], meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A DagNN as `saveobj` gives it; each step's type is a class of `+dagnn`, its output is named after it."""
    layers, params, before = [], [], "data"
    for step in steps:
        names = [f"{step.name}_p{i}" for i in range(len(step.weights))]
        for name, value in zip(names, step.weights, strict=True):
            value = value.reshape(-1, 1) if value.ndim == 1 else value
            params.append({"name": name, "value": value, "learningRate": np.float32(1), "weightDecay": np.float32(1)})
        layers.append(
            {
                "name": step.name,
                "type": f"dagnn.{step.type}",
                "inputs": Cell(step.inputs or (before,)),
                "outputs": Cell([step.name]),
                "params": Cell(names),
                "block": dict(step.settings),
            }
        )
        before = step.name
    variables = [{"name": name, "precious": False} for name in ("data", *(step.name for step in steps))]
    return {"vars": variables, "params": params, "layers": layers, "meta": dict(meta or {}), "conserveMemory": True}


def write_mat5(path: Path, variables: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """Write variables (dicts are structures, lists of dicts arrays of them, `Cell`s cells) as a level 5 file."""
    scipy.io.savemat(path, {name: _for_scipy(value) for name, value in variables.items()}, do_compression=compressed)
    return path


def _for_scipy(value: Any) -> Any:
    if isinstance(value, Cell):
        cells = np.empty((1, len(value)), object)
        for i, part in enumerate(value):
            cells[0, i] = _for_scipy(part)
        return cells
    if isinstance(value, list):
        fields = [(name, object) for name in value[0]] if value else []
        many = np.empty((1, len(value)), fields)
        for i, part in enumerate(value):
            many[0, i] = tuple(_for_scipy(part[name]) for name, _ in fields)
        return many
    if isinstance(value, dict):
        return {name: _for_scipy(part) for name, part in value.items()}
    return value


def write_mat73(path: Path, variables: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """Write the same as a version 7.3 file."""
    with h5py.File(path, "w", userblock_size=USERBLOCK) as file:
        references = file.create_group("#refs#")
        for name, value in variables.items():
            _store(file, references, file, name, value, compressed)
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2018 HDF5 schema 1.00 ."
    with path.open("r+b") as stream:
        stream.write(head.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def _store(file: h5py.File, references: h5py.Group, place: h5py.Group, name: str, value: Any, compressed: bool) -> Any:
    def point(parts: Sequence[Any]) -> np.ndarray:
        many = np.empty((len(parts), 1), h5py.ref_dtype)
        for i, part in enumerate(parts):
            many[i, 0] = _store(file, references, references, f"r{next(_SERIAL)}", part, compressed).ref
        return many

    kind: str | None
    extra: dict[str, Any] = {}
    if isinstance(value, dict | list) and not isinstance(value, Cell):
        item = place.create_group(name)
        item.attrs["MATLAB_class"] = np.bytes_("struct")
        fields = value if isinstance(value, dict) else value[0]
        letters = [np.array(list(key), "S1") for key in fields]
        described = np.empty(len(letters), h5py.vlen_dtype(np.dtype("S1")))
        for i, word in enumerate(letters):
            described[i] = word
        item.attrs.create("MATLAB_fields", described, dtype=h5py.vlen_dtype(np.dtype("S1")))
        for key in fields:
            if isinstance(value, dict):
                _store(file, references, item, key, value[key], compressed)
            else:
                item.create_dataset(key, data=point([part[key] for part in value]), dtype=h5py.ref_dtype)
        return item
    if isinstance(value, Cell):
        kind, data = "cell", point(value) if value else None
    elif isinstance(value, str):
        kind, data = "char", np.frombuffer(value.encode("utf-16-le"), "<u2").reshape(-1, 1) if value else None
        extra["MATLAB_int_decode"] = np.int32(2)
    else:
        array = np.atleast_2d(np.asarray(value))
        kind = _CLASSES[array.dtype.str[1:]]
        data = (array.astype(np.uint8) if kind == "logical" else array).T if array.size else None
    if data is None:
        item = place.create_dataset(name, data=np.zeros(2, np.uint64))
        extra["MATLAB_empty"] = np.uint8(1)
    elif kind == "cell":
        item = place.create_dataset(name, data=data, dtype=h5py.ref_dtype)
    else:
        item = place.create_dataset(name, data=data, compression="gzip" if compressed else None)
    item.attrs["MATLAB_class"] = np.bytes_(kind)
    for key, setting in extra.items():
        item.attrs[key] = setting
    return item
