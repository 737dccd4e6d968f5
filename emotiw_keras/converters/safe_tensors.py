"""safetensors files: the library checks the header, the arrays are views of the mapped file.

Source: the format's README in huggingface/safetensors: eight bytes of header length, a JSON header with dtype, shape and
place of each tensor, then the bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from emotiw_keras.converters.budget import Budget
from emotiw_keras.converters.foreign import Foreign, Limits
from emotiw_keras.converters.protobuf import checked_name
from emotiw_keras.errors import ModelError

LARGEST_HEADER = 100_000_000
"""The library's own bound."""
_HEADER_OF_ONE = 4096
"""Bytes of header that one tensor may take; usual ones take about 100."""
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


def read_safetensors(path: Path, limits: Limits | None = None) -> Foreign:
    """The arrays of a safetensors file under the file's own names.

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
    bounds = limits or Limits()
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
