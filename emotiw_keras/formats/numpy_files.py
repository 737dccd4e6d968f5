"""NumPy's files: .npy, .npz, and pickles of dictionaries of arrays from Python 2 or 3. Nothing of them is executed.

Source: NumPy's NEP 1 and `numpy/lib/format.py`. An object array in a .npy is a pickle behind the header.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.array_collector import Gathered
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.pickle_arrays import Array, Context, array_of, checked_shape, number_dtype
from emotiw_keras.formats.pickle_ops import shown
from emotiw_keras.formats.pickles import load_pickle
from emotiw_keras.formats.protobuf import checked_name, map_file
from emotiw_keras.formats.wrapped_names import plain_roles, unwrapped
from emotiw_keras.formats.zipped import Zip

MAGIC = b"\x93NUMPY"
DEPTH = 4
"""Dictionaries and lists within each other in a pickle of arrays: a block, its layer and its arrays are three."""
_HEADER_BYTES = 4096
_DESCR = re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]{1,20})['"]""")
_FORTRAN = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([0-9L,\s]*)\)""")
_BLOBS = {1: ("weight",), 2: ("weight", "bias")}


def read_npy(path: Path, limits: Limits | None = None) -> Foreign:
    """Read an array, named `array`, or a dictionary of arrays that was saved as one object.

    Names of a dictionary are as in `read_pickle_dict`. The layout of kernels is not told by the file.

    Raises:
        ModelError: the file is missing, damaged or too large, or its pickle asks for anything but arrays.
    """
    bounds = limits or Limits()
    context = Context(path.name, bounds)
    data = map_file(path, bounds)
    code, fortran, shape, start = _header(data, context)
    if code not in ("|O", "O"):
        gathered = Gathered(path.name, bounds)
        array = _array(data, context)
        gathered.reserve(array.nbytes)
        gathered.add("array", array)
        return Foreign(format="NumPy array", path=path, arrays=gathered.arrays, mean=_mean_image(array))
    root, _ = load_pickle(data, path.name, bounds, position=start)
    if isinstance(root, Array) and root.objects is not None and len(root.objects) == 1:
        root = root.objects[0]
    return _dictionary(root, path, bounds, "pickled dictionary of arrays (.npy)")


def _mean_image(array: np.ndarray) -> np.ndarray | None:
    """An array that can be a mean image, as float32 (height, width, 3): Caffe keeps its own as (3, height, width)."""
    if array.ndim != 3 or array.dtype.kind != "f" or (array.shape[0] == 3) == (array.shape[2] == 3):
        return None
    if not array.size or not -255 <= array.min() <= array.max() <= 255:  # no grey levels, as in Caffe's and MatConvNet's
        return None
    return np.ascontiguousarray(array if array.shape[2] == 3 else array.transpose(1, 2, 0), np.float32)


def read_npz(path: Path, limits: Limits | None = None) -> Foreign:
    """Read an archive of arrays, named as in `read_pickle_dict`. Stored entries are views of the file, deflated ones unpacked.

    Raises:
        ModelError: the file is missing, damaged or too large as it is or unpacked, or holds an array of objects.
    """
    bounds = limits or Limits()
    archive = Zip(path, bounds)
    gathered = Gathered(path.name, bounds)
    for entry in archive.sizes:
        name = entry.removesuffix(".npy")
        if name == entry:
            gathered.ignore(entry, "no array (.npy)")
            continue
        array = _array(archive.read(entry), Context(f"{path.name}: {shown(name)}", bounds))
        gathered.reserve(array.nbytes)
        gathered.add(name, array)
    if not gathered.arrays:
        raise ModelError(f"{path.name} holds no arrays; expected a .npz of them")
    return Foreign(format="NumPy archive", path=path, arrays=_named(gathered), ignored=gathered.ignored)


def read_pickle_dict(path: Path, limits: Limits | None = None) -> Foreign:
    """Read a pickled dictionary of arrays.

    Args:
        path: the file. The dictionary is {name: array}, {name: {what: array}} or {name: [weight, bias]}, and so on; the names
            are joined with ".", a list of one or two arrays has weight and bias, and longer ones have 0, 1, ... Other words for
            them, as caffe-tensorflow's `weights` and `biases`, `conv1_W` and `conv1/kernel:0`, become weight and bias.
        limits: of the file and its arrays.

    Raises:
        ModelError: the file is missing, damaged or too large, or its pickle asks for anything but arrays.
    """
    bounds = limits or Limits()
    root, _ = load_pickle(map_file(path, bounds), path.name, bounds)
    return _dictionary(root, path, bounds, "pickled dictionary of arrays")


def _header(data: memoryview, context: Context) -> tuple[str, bool, tuple[int, ...], int]:
    """The dtype's code, whether the first axis is the fastest, the shape, and where the data start."""
    version = tuple(data[6:8])
    if bytes(data[:6]) != MAGIC or version not in ((1, 0), (2, 0), (3, 0)):
        raise ModelError(f"{context.where} is no .npy of a known version; save it again with numpy.save")
    start = 10 if version == (1, 0) else 12
    if len(data) < start:
        raise ModelError(f"{context.where}: its header is cut off; fetch it again")
    length = struct.unpack("<H" if start == 10 else "<I", data[8:start])[0]
    if length > min(_HEADER_BYTES, len(data) - start):
        raise ModelError(f"{context.where}: its header has {length:,} bytes, more than it holds or than a plain array needs")
    text = str(data[start : start + length], "latin-1")
    descr, fortran, shape = _DESCR.search(text), _FORTRAN.search(text), _SHAPE.search(text)
    if descr is None or fortran is None or shape is None:
        raise ModelError(f"{context.where}: its header is not that of a plain array ({shown(text)}); save it again as numbers")
    sizes = [size.strip().removesuffix("L") for size in shape[1].split(",") if size.strip()]
    if not all(size.isdecimal() and len(size) < 20 for size in sizes):
        raise ModelError(f"{context.where}: its shape is ({shown(shape[1])}), expected sizes; fetch it again")
    return descr[1], fortran[1] == "True", tuple(map(int, sizes)), start + length


def _array(data: memoryview, context: Context) -> np.ndarray:
    code, fortran, shape, start = _header(data, context)
    dtype = number_dtype(code, context.where)
    need = dtype.itemsize
    for size in checked_shape(shape, dtype.itemsize, context):
        need *= size
    return array_of(data[start : start + need], dtype, shape, context, fortran)


def _dictionary(root: Any, path: Path, limits: Limits, kind: str) -> Foreign:
    if not isinstance(root, dict):
        raise ModelError(f"{path.name} holds a {type(root).__name__}, expected a dictionary of arrays by layer")
    gathered = Gathered(path.name, limits)
    # Depth first in the file's order. A container may be in many places, or in itself: DEPTH and the count end that.
    left: list[tuple[str, Any, int]] = [("", root, 0)]
    entries = 0
    while left:
        name, value, depth = left.pop()
        if isinstance(value, Array):
            if value.array is None:
                raise ModelError(f"{path.name}: the array {shown(name)} is empty or of objects; save it as numbers")
            gathered.reserve(value.array.nbytes)
            gathered.add(name, value.array)
        elif isinstance(value, (dict, list, tuple)) and depth < DEPTH:
            entries += len(value)
            if entries > DEPTH * limits.arrays:
                raise ModelError(f"{path.name} holds more entries than {limits.arrays:,} arrays need, which is the limit")
            if depth:
                checked_name(name, path.name)  # before it stands in the names of all that it holds
            left.extend((f"{name}.{key}" if depth else key, item, depth + 1) for key, item in reversed(_items(value)))
        else:
            gathered.ignore(name, f"no array but of type {type(value).__name__}" + (", too deep" if depth == DEPTH else ""))
    if not gathered.arrays:
        raise ModelError(f"{path.name} holds no arrays; expected a dictionary of them by layer")
    return Foreign(format=kind, path=path, arrays=_named(gathered), ignored=gathered.ignored)


def _named(gathered: Gathered) -> dict[str, np.ndarray]:
    """The arrays by the names of the network alone, as `<layer>.<what>` in the words of `Foreign` (see `wrapped_names`)."""
    short = unwrapped(gathered.arrays, gathered.ignore)
    plain = plain_roles(short.values())
    return {plain[now]: gathered.arrays[before] for before, now in short.items()}


def _items(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key, "latin-1") if isinstance(key, bytes) else str(key), item) for key, item in value.items()]
    words = _BLOBS.get(len(value)) or range(len(value))
    return [(str(word), item) for word, item in zip(words, value, strict=True)]
