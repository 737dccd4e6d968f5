"""safetensors files: the library checks the header, the arrays are views of the mapped file.

Source: the format's README in huggingface/safetensors: eight bytes of header length, a JSON header with dtype, shape and
place of each tensor, then the bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.beside import within_folder
from emotiw_keras.formats.budget import Budget
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.protobuf import checked_name, map_file
from emotiw_keras.formats.wrapped_names import unwrapped

LARGEST_HEADER = 100_000_000
"""The library's own bound."""
_PART = re.compile(r"-\d{5}-of-(\d{5})\.")
_HEADER_OF_ONE = 4096
"""Bytes of header that one tensor may take; usual ones take about 100."""
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def read_safetensors(path: Path, limits: Limits | None = None) -> Foreign:
    """The arrays of a safetensors file under the file's own names, without wrappers (see `wrapped_names`).

    bfloat16, which NumPy has not, becomes float32 of the same values, its bits shifted by 16; arrays of types smaller than a
    byte or of 8-bit floating-point numbers are listed as ignored.

    Args:
        path: the file.
        limits: bounds of what is read; the defaults of `Limits` if None.

    Returns:
        layout None, since the format does not say it, and no nodes.

    Raises:
        ModelError: the file is damaged or larger than `limits` allow.

    Example:
        >>> read_safetensors(Path("alexnet.safetensors")).arrays["classifier.1.bias"].shape  # doctest: +SKIP
        (4096,)
    """
    part = _PART.search(path.name)
    if part and int(part[1]) > 1:
        raise ModelError(f"{path.name} is one of {int(part[1])} files; give their index, a .safetensors.index.json, instead")
    return _alone(_read(path, limits or Limits()))


def _read(path: Path, bounds: Limits) -> Foreign:
    data = _checked(path, bounds)
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(str(data[8:start], "utf-8"))
    budget = Budget(path.name, bounds)
    foreign = Foreign(format="safetensors", path=path, arrays={})
    if header.pop("__metadata__", None):
        foreign.ignored["__metadata__"] = "words about the file"
    budget.count(len(header))
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        checked_name(name, path.name)
        if entry["dtype"] not in _DTYPES:
            foreign.ignored[name] = f"numbers of the type {entry['dtype']}, which NumPy has not"
            continue
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if len(shape) > 32:
            raise ModelError(f"{path.name}: {name!r} has {len(shape)} axes, expected at most 32")
        begin, end = (start + offset for offset in entry["data_offsets"])
        budget.take(end - begin, repr(name))
        array = np.frombuffer(data[begin:end], dtype)
        if entry["dtype"] == "BF16":
            budget.take(4 * array.size, repr(name))
            array = (array.astype(np.uint32) << 16).view(np.float32)
        foreign.arrays[name] = array.reshape(shape) if math.prod(shape) else np.empty((0,), dtype)
    return foreign


def _alone(foreign: Foreign) -> Foreign:
    short = unwrapped(foreign.arrays, foreign.ignored.__setitem__)
    foreign.arrays = {now: foreign.arrays[before] for before, now in short.items()}
    return foreign


def read_index(path: Path, limits: Limits | None = None) -> Foreign:
    """The arrays of several safetensors files that an index lists, `model.safetensors.index.json`.

    Only files within the index's folder are read; all together must keep to the limits.

    Raises:
        ModelError: the index is damaged, lists files elsewhere or that are missing, or does not list what they hold.
    """
    bounds = limits or Limits()
    try:
        index = json.loads(bytes(map_file(path, replace(bounds, total_bytes=min(bounds.total_bytes, LARGEST_HEADER)))))
        listed = index["weight_map"]
        parts = {str(name): str(part) for name, part in listed.items()}
    except ModelError:  # a ValueError, too, that says more
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path.name} is no index of safetensors files: no weight_map of names and files in it") from error
    foreign = Foreign(format="safetensors, several files", path=path, arrays={})
    left = bounds.total_bytes
    for part in dict.fromkeys(parts.values()):
        beside = within_folder(path, part, f"lists {part[:80]!r}", "fetch the whole folder again")
        if beside.stat().st_size > left:
            raise ModelError(f"{path.name}: its files have more than the {bounds.total_bytes:,} bytes allowed")
        left -= beside.stat().st_size
        held = _read(beside, replace(bounds, arrays=bounds.arrays - len(foreign.arrays)))
        wrong = [name for name in held.arrays if parts.get(name) != part]
        if wrong:
            raise ModelError(f"{path.name} does not list {wrong[0]} in {part}, which holds it; fetch the whole folder again")
        foreign.arrays |= held.arrays
        foreign.ignored |= held.ignored
    absent = [name for name in parts if name not in foreign.arrays and name not in foreign.ignored]
    if absent:
        raise ModelError(f"{path.name} lists {absent[0]} in {parts[absent[0]]}, which does not hold it; fetch them again")
    return _alone(foreign)


def _checked(path: Path, limits: Limits) -> memoryview:
    """The mapped file, after the library has found its header complete, and every tensor in its place and of its size."""
    size = path.stat().st_size if path.is_file() else 0
    if size < 8:
        raise ModelError(f"{path.name} is missing or has {size} bytes, a safetensors file has at least 8; fetch it again")
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    declared = struct.unpack_from("<Q", data)[0]
    allowed = min(size - 8, LARGEST_HEADER, limits.arrays * _HEADER_OF_ONE, limits.total_bytes)
    if declared > allowed:
        raise ModelError(f"{path.name}: a header of {declared:,} bytes, expected at most {allowed:,}; fetch the file again")
    try:
        with safe_open(path, framework="numpy") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is damaged ({str(error).splitlines()[0]}); fetch it again") from error
    return data
