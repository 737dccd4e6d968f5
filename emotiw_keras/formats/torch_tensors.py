"""PyTorch's tensors and storages as its pickles describe them -> NumPy arrays.

Sources: PyTorch's `torch/_utils.py` (`_rebuild_tensor_v2`, `_rebuild_parameter`) and `torch/serialization.py` (persistent
identifiers). A storage is a row of numbers; a tensor is a view of it with an offset and strides, counted in numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.pickle_arrays import Context, Named, checked_shape
from emotiw_keras.formats.pickle_ops import shown

Order = Literal["<", ">"]
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
# bfloat16 is the upper half of a float32, which NumPy does not have.
_DTYPES = {name: np.dtype("uint16" if name == "bfloat16" else name) for name in _STORAGES.values()}
_DTYPES |= {name: np.dtype(name) for name in ("uint16", "uint32", "uint64")}


@dataclass(eq=False, repr=False)
class Storage:
    """`count` numbers of `kind`, number `start` and on of what the file keeps under `key`."""

    key: str
    kind: str
    count: int
    start: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return _DTYPES[self.kind].itemsize


@dataclass(eq=False, repr=False)
class Tensor:
    """A view of a storage; its fields are the file's and not yet checked."""

    storage: Storage
    kind: str
    offset: Any
    size: Any
    stride: Any


def storage_of(identifier: Any, context: Context) -> Storage:
    """('storage', type, key, place, count[, view]), the view being None or (key, start, count) -> the storage."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise _damaged("an object outside of the pickle is no storage", context)
    _, kind, key, _, count, *views = identifier
    name = kind.name.rpartition(".")[2] if isinstance(kind, Named) else ""
    if name not in _STORAGES or not isinstance(key, str) or not _is_size(count):
        raise _damaged(f"the storage {shown(key) if isinstance(key, str) else '?'} has no known type or no size", context)
    view = views[0] if views else None
    if view is None:
        return Storage(key, _STORAGES[name], count)
    if not isinstance(view, tuple) or len(view) != 3 or not _is_size(view[1]) or not _is_size(view[2]):
        raise _damaged(f"the storage {shown(key)} has a damaged view", context)
    if view[1] + view[2] > count:
        raise _damaged(f"a view of the storage {shown(key)} is larger than its {count:,} numbers", context)
    return Storage(key, _STORAGES[name], view[2], view[1])


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _damaged(what: str, context: Context) -> ModelError:
    return ModelError(f"{context.where}: {what}; the file is damaged, fetch it again")


def _rebuild_tensor(args: tuple[Any, ...], context: Context) -> Tensor:
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise _damaged("a tensor without a storage, an offset, a size and strides", context)
    storage, offset, size, stride = args[:4]
    return Tensor(storage, storage.kind, offset, size, stride)


def _rebuild_with_dtype(args: tuple[Any, ...], context: Context) -> Tensor:
    # (storage of bytes, offset, size, stride, requires_grad, hooks, dtype, ...), for dtypes that have no storage type.
    tensor = _rebuild_tensor(args, context)
    kind = args[6].name.removeprefix("torch.") if len(args) > 6 and isinstance(args[6], Named) else ""
    if kind not in _DTYPES:
        raise _damaged("a tensor of bytes does not say what numbers they are", context)
    tensor.kind = kind
    return tensor


def _rebuild_parameter(args: tuple[Any, ...], context: Context) -> Any:
    if not args or not isinstance(args[0], Tensor):
        raise _damaged("a parameter without a tensor", context)
    return args[0]


def _size(args: tuple[Any, ...], context: Context) -> Any:
    if len(args) != 1 or not isinstance(args[0], tuple):
        raise _damaged("a torch.Size of no numbers", context)
    return args[0]


def _device(args: tuple[Any, ...], context: Context) -> Any:
    return None


TORCH_NAMES: dict[str, Callable[[tuple[Any, ...], Context], Any] | None] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_with_dtype,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.storage.UntypedStorage": None,
    **{f"torch.{name}": None for name in _STORAGES},
    **{f"torch.cuda.{name}": None for name in _STORAGES},
    **{f"torch.{name}": None for name in _DTYPES},
}
"""Names in PyTorch's pickles -> what stands in for them."""


def numbers(name: str, tensor: Tensor, context: Context) -> int:
    """The bytes that a tensor takes as an array, after a check that all of it lies within its storage.

    Raises:
        ModelError: it does not, or it is larger than the limit allows.
    """
    dtype = _DTYPES[tensor.kind]
    size = checked_shape(tensor.size, 4 if tensor.kind == "bfloat16" else dtype.itemsize, context)
    stride, offset = tensor.stride, tensor.offset
    if not isinstance(stride, tuple) or len(stride) != len(size) or not all(map(_is_size, (offset, *stride))):
        raise _damaged(f"tensor {shown(name)} has a damaged offset or strides", context)
    held = tensor.storage.count * tensor.storage.itemsize // dtype.itemsize
    need = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if math.prod(size) else 0
    if need > held:
        raise _damaged(f"tensor {shown(name)} needs {need:,} numbers of a storage of {held:,}", context)
    return math.prod(size) * (4 if tensor.kind == "bfloat16" else dtype.itemsize)


def array_of_tensor(tensor: Tensor, data: memoryview, order: Order) -> np.ndarray:
    """A tensor that `numbers` has checked, as a read-only view of its storage; bfloat16 as a copy in float32.

    Args:
        tensor: the tensor.
        data: all the bytes that the file keeps under the storage's key.
        order: of the bytes, "<" or ">".
    """
    dtype = _DTYPES[tensor.kind].newbyteorder(order)
    if math.prod(tensor.size):
        start = tensor.storage.start * tensor.storage.itemsize
        held = tensor.storage.count * tensor.storage.itemsize // dtype.itemsize
        row = np.frombuffer(data, dtype, held, start)[tensor.offset :]
        # Along an axis of one number the file may say any stride.
        strides = tuple(s * dtype.itemsize if n > 1 else 0 for n, s in zip(tensor.size, tensor.stride, strict=True))
        array = np.lib.stride_tricks.as_strided(row, tensor.size, strides, writeable=False)
    else:
        array = np.zeros(tensor.size, dtype)
    if tensor.kind == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
