"""Writes PyTorch's two file forms without PyTorch: the same pickles, with stand-ins where PyTorch's own objects would be."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names, whether it exists here or not."""

    module: str
    attribute: str

    def __call__(self, *args: object) -> NoReturn:
        raise TypeError("only named, never called")


@dataclass(eq=False)
class Storage:
    """A row of numbers; `kind` is PyTorch's class, told by the dtype if empty. `key` overrides the file's own numbering."""

    values: np.ndarray
    kind: str = ""
    key: str = ""
    view: tuple[str, int, int] | None = None

    @property
    def name(self) -> Name:
        """The class as the pickle names it."""
        return Name("torch", self.kind or KINDS[self.values.dtype.name])


@dataclass(eq=False)
class Tensor:
    """A view of a storage, with offset and strides in numbers; `parameter` wraps it as nn.Parameter is."""

    storage: Storage
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    parameter: bool = False


def tensor(array: np.ndarray) -> Tensor:
    """A contiguous tensor with its own storage."""
    array = np.ascontiguousarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array.reshape(-1)), array.shape, strides)


class _Pickler(pickle._Pickler):  # the one in Python: the other cannot name what it cannot import
    dispatch: ClassVar[Any] = dict(pickle._Pickler.dispatch)
    write: Callable[[bytes], None]
    memoize: Callable[[object], None]

    def __init__(self, file: io.BytesIO, legacy: bool) -> None:
        super().__init__(file, 2)
        self.storages: dict[str, Storage] = {}
        self._keys: dict[int, str] = {}
        self._legacy = legacy

    def _save_name(self, obj: Name) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.attribute}\n".encode())
        self.memoize(obj)

    dispatch[Name] = _save_name

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, Storage):
            return None
        key = self._keys.setdefault(id(obj), obj.key or str(len(self._keys)))
        self.storages[key] = obj
        identifier = ("storage", obj.name, key, "cpu", obj.values.size)
        return (*identifier, obj.view) if self._legacy else identifier

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            obj = tensor(obj)
        if not isinstance(obj, Tensor):
            return NotImplemented
        if obj.parameter:
            plain = Tensor(obj.storage, obj.size, obj.stride, obj.offset)
            return Name("torch._utils", "_rebuild_parameter"), (plain, True, {})
        args: tuple[object, ...] = (obj.storage, obj.offset, obj.size, obj.stride, False, {})
        return Name("torch._utils", "_rebuild_tensor_v2"), args


def _pickled(obj: object, legacy: bool) -> tuple[bytes, dict[str, Storage]]:
    file = io.BytesIO()
    pickler = _Pickler(file, legacy)
    pickler.dump(obj)
    return file.getvalue(), pickler.storages


def write_zip(
    path: Path,
    obj: object,
    *,
    prefix: str = "archive",
    method: int = zipfile.ZIP_STORED,
    extra: dict[str, bytes] | None = None,
) -> None:
    """The form of PyTorch 1.6 and later.

    Args:
        path: the file.
        obj: usually a dict of names and arrays (or `Tensor`s).
        prefix: the folder within the zip.
        method: how it is packed; PyTorch stores.
        extra: more entries, or others in place of these, by name below the prefix.
    """
    data, storages = _pickled(obj, legacy=False)
    entries: dict[str, Any] = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": storage.values.view(np.uint8).data for key, storage in storages.items()}
    with zipfile.ZipFile(path, "w", method, allowZip64=True) as archive:
        for name, content in (entries | (extra or {})).items():
            archive.writestr(f"{prefix}/{name}", content)


def write_legacy(path: Path, obj: object, *, magic: int = MAGIC) -> None:
    """The form before PyTorch 1.6: five pickles, then a count and the numbers of each storage."""
    data, storages = _pickled(obj, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with path.open("wb") as file:
        for head in (magic, 1001, system):
            file.write(pickle.dumps(head, 2))
        file.write(data)
        file.write(pickle.dumps(sorted(storages), 2))
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].values.size))
            file.write(storages[key].values.view(np.uint8).data)
