"""What a pickle may build besides Python's own containers: NumPy arrays, out of bytes that are there.

Each function stands for the one a pickle names and takes what the pickle gives it, checked; none calls what it is given.
Sources: NumPy's `ndarray.__reduce__`, `dtype.__reduce__` and `numpy._core.numeric._frombuffer`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.pickle_ops import shown

DIMENSIONS = 32
_CODE = re.compile(r"([<>=|]?)(\?|b1|[iu][1248]|f[248])")


@dataclass(frozen=True)
class Named:
    """Something the pickle names: a class that is only compared, or a function that has a stand-in here."""

    name: str
    stand_in: Callable[[tuple[Any, ...], Context], Any] | None = None


@dataclass
class Context:
    """What the stand-ins need to know of the file."""

    where: str
    limits: Limits
    bytes_left: int = 0
    """That may be made of text. One text may be many arrays: together they have no more bytes than the pickle."""

    def encoded(self, text: str) -> bytes:
        """Text as the bytes it stands for; ModelError if too many are made. UnicodeEncodeError if it stands for none."""
        self.bytes_left -= len(text)
        if self.bytes_left < 0:
            raise ModelError(
                f"{self.where}: its pickle makes more bytes of text than it has itself; expected those of each array once, "
                "save its arrays as a plain .npz"
            )
        return text.encode("latin-1")


@dataclass(eq=False)
class DType:
    """A dtype as the pickle has it so far: its code, and the byte order that its state sets."""

    code: str
    order: str = "|"
    plain: bool = True


@dataclass(eq=False, repr=False)
class Array:
    """An array of a pickle: empty until its state is set. An object array has `objects` instead, as the pickle lists them."""

    array: np.ndarray | None = None
    objects: list[Any] | None = None


def number_dtype(code: object, where: str) -> np.dtype:
    """The dtype of a code such as "<f4" or "u1"; ModelError for anything but whole numbers, floats and truth values."""
    match = _CODE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        kind = shown(code) if isinstance(code, str) else "a structure"
        raise ModelError(f"{where}: an array has the dtype {kind}; expected numbers, save it with a plain numeric dtype")
    return np.dtype(f"{match[1].replace('|', '')}{match[2]}")


def checked_shape(shape: object, itemsize: int, context: Context) -> tuple[int, ...]:
    """A shape of whole numbers whose bytes are within the limit, zeros counted as ones."""
    where = context.where
    if not isinstance(shape, tuple) or len(shape) > DIMENSIONS:
        raise ModelError(f"{where}: an array has no shape of at most {DIMENSIONS} numbers; the file is damaged, fetch it again")
    for size in shape:
        if type(size) is not int or size < 0:
            raise ModelError(f"{where}: an array's shape holds {_briefly(size)}, expected sizes; fetch the file again")
    need = math.prod(max(1, size) for size in shape) * itemsize
    if need > context.limits.total_bytes:
        sizes = "x".join(_briefly(size) for size in shape)
        raise ModelError(f"{where}: an array of {sizes} is larger than the {context.limits.total_bytes:,} bytes allowed")
    return shape


def _briefly(size: object) -> str:
    if type(size) is not int:
        return f"a {type(size).__name__}"
    return f"{size}" if abs(size) < 1 << 64 else "a huge number"


def array_of(data: Any, dtype: np.dtype, shape: object, context: Context, fortran: bool = False) -> np.ndarray:
    """A read-only view of `data` (str as latin-1) as an array, which must need exactly these bytes."""
    sizes = checked_shape(shape, dtype.itemsize, context)
    if isinstance(data, str):
        try:
            data = context.encoded(data)
        except UnicodeEncodeError as error:
            raise ModelError(f"{context.where}: an array's bytes are text ({error.reason}); fetch the file again") from error
    if not isinstance(data, (bytes, memoryview)):
        raise ModelError(f"{context.where}: an array's data are a {type(data).__name__}, expected bytes; fetch the file again")
    need = math.prod(sizes) * dtype.itemsize
    if len(data) != need:
        raise ModelError(
            f"{context.where}: an array of shape {'x'.join(map(str, sizes)) or '()'} ({dtype}) needs {need:,} bytes and has "
            f"{len(data):,}; the file is damaged, fetch it again"
        )
    if not need:
        return np.zeros(sizes, dtype)
    return np.frombuffer(data, dtype).reshape(sizes, order="F" if fortran else "C")


def _wrong(what: str, context: Context) -> ModelError:
    return ModelError(f"{context.where}: its pickle calls {what} with what it does not take; fetch the file again")


def _reconstruct(args: tuple[Any, ...], context: Context) -> Array:
    if not args or not isinstance(args[0], Named) or args[0].name != "numpy.ndarray":
        raise _wrong("numpy's _reconstruct", context)
    return Array()


def _dtype(args: tuple[Any, ...], context: Context) -> DType:
    if not args or not isinstance(args[0], str):
        raise _wrong("numpy.dtype", context)
    return DType(args[0])


def _encode(args: tuple[Any, ...], context: Context) -> bytes:
    # How Python 3 writes bytes for Python 2.
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise _wrong("_codecs.encode", context)
    try:
        return context.encoded(args[0])
    except UnicodeEncodeError as error:
        raise _wrong("_codecs.encode", context) from error


def _no_bytes(args: tuple[Any, ...], context: Context) -> bytes:
    if args:
        raise _wrong("bytes", context)
    return b""


def _scalar(args: tuple[Any, ...], context: Context) -> Array:
    if len(args) != 2:
        raise _wrong("numpy's scalar", context)
    return Array(array_of(args[1], resolved(args[0], context), (), context))


def _frombuffer(args: tuple[Any, ...], context: Context) -> Array:
    if len(args) not in (4, 5) or args[3] not in ("C", "F"):
        raise _wrong("numpy's _frombuffer", context)
    return Array(array_of(args[0], resolved(args[1], context), args[2], context, fortran=args[3] == "F"))


NUMPY_NAMES: dict[str, Callable[[tuple[Any, ...], Context], Any] | None] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "builtins.bytes": _no_bytes,
}
"""Names in a pickle -> what stands in for them, or None for a class that is only compared."""
_RENAMED = {"numpy._core.": "numpy.core.", "__builtin__.": "builtins."}


def plain_name(name: str) -> str:
    """A name as NumPy 1 and Python 3 have it."""
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def resolved(dtype: object, context: Context) -> np.dtype:
    """The dtype that a pickle has built; ModelError if it is none, or none of numbers."""
    if not isinstance(dtype, DType):
        raise _wrong("an array's dtype", context)
    if not dtype.plain:
        raise ModelError(f"{context.where}: an array has a dtype of several fields; expected numbers, save one array for each")
    order = dtype.order if dtype.order in ("<", ">") and dtype.code[:1] not in ("<", ">") else ""
    return number_dtype(order + dtype.code.lstrip("|="), context.where)


def set_dtype_state(dtype: DType, state: object, context: Context) -> None:
    """(version, byte order, subarray, names, fields, ...)"""
    if not isinstance(state, tuple) or len(state) < 5 or not isinstance(state[1], str):
        raise _wrong("a dtype's state", context)
    dtype.order = state[1]
    dtype.plain = state[2] is None and state[3] is None and state[4] is None


def set_array_state(target: Array, state: object, context: Context) -> None:
    """([version,] shape, dtype, is Fortran, data), the data a list for an object array."""
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise _wrong("an array's state", context)
    shape, dtype, fortran, data = state[-4:]
    if isinstance(dtype, DType) and dtype.code.lstrip("|") in ("O", "O4", "O8") and isinstance(data, list):
        target.objects = data
        return
    target.array = array_of(data, resolved(dtype, context), shape, context, fortran is True or fortran == 1)
