"""HDF5 files of strangers: opened only after every link, filter and declared size has been looked at.

HDF5 can point at other files (external links, external storage, virtual datasets), load filters from shared libraries, and
declare arrays far larger than the file. None of that occurs in weight files, so a file that has it is refused.
Source: "HDF5 File Format Specification" 3.0, The HDF Group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.budget import Budget
from emotiw_keras.formats.foreign import Limits

DEPTH = 32
"""Levels of groups."""
Item: TypeAlias = "h5py.Group | h5py.Dataset"
# Built into the library, so that no filter is looked for on the disk: deflate, shuffle, Fletcher's checksum.
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
_TWO_BYTES = np.dtype("V2")
_DEFLATE_RATIO = 1032
# What h5py raises on damaged files: OSError and RuntimeError for errors of the library by their kind, KeyError for objects
# that cannot be opened, ValueError for contradictions (also for names and texts that are not UTF-8), TypeError for types
# that NumPy has not, OverflowError and MemoryError for sizes.
_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


@contextmanager
def open_hdf5(path: Path, limits: Limits, rehearsed: bool = False) -> Iterator[Hdf5]:
    """Open an HDF5 file for reading; with a user block before it, as MATLAB writes, or without.

    The library can crash on a damaged file: a reader calls `hdf5_trial.rehearse` first. Where it has (`rehearsed`), a process
    whose memory is bounded has read the lists of texts of the file, or is doing so now, and they need no bound of their own.

    Raises:
        ModelError: it is missing, damaged or no HDF5 file; holds a soft or external link, a loop of groups, an array that
            is stored in another file, computed or packed by a filter of a plugin; or declares more than `limits` allow of
            a file of its size, or than its bytes could hold.

    Example:
        >>> with open_hdf5(Path("vgg.h5"), Limits()) as file:  # doctest: +SKIP
        ...     print(list(file.children(file.root)))
        ['conv1', 'conv2']
    """
    with _named(path.name):
        file = h5py.File(path, "r", locking=False)
    try:
        yield Hdf5(file, path, limits, rehearsed)
    finally:
        with _named(path.name):
            file.close()


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ModelError:  # a ValueError, too, that says more
        raise
    except _ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name} is damaged or no HDF5 file ({reason}); fetch it again") from error


class Hdf5:
    """A checked file; all reading goes through its methods, which raise nothing but ModelError."""

    def __init__(self, file: h5py.File, path: Path, limits: Limits, rehearsed: bool) -> None:
        self.name = path.name
        self._rehearsed = rehearsed
        self._size = path.stat().st_size
        self._limits = limits.of_file(self._size)
        self.budget = Budget(path.name, self._limits)
        self._file = file
        self._known: set[int] = set()
        with _named(self.name):
            self.root: h5py.Group = file["/"]
            self._walk()

    def _walk(self) -> None:
        waiting = [(self.root, 0)]
        self._known.add(_address(self.root))
        while waiting:
            group, depth = waiting.pop()
            if depth > DEPTH:
                raise ModelError(f"{self.name}: groups within each other more than {DEPTH} deep")
            for name in group:
                self.budget.count()
                if not isinstance(name, str) or not name.isprintable():  # bytes where they are no UTF-8
                    raise ModelError(f"{self.name} holds an object named {name!r}, which cannot be printed")
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ModelError(
                        f"{self.name}: {name!r} is a {type(link).__name__} to {getattr(link, 'path', 'elsewhere')!r}; expected "
                        "the data itself, copy it into the file"
                    )
                item = group[name]
                address = _address(item)
                if isinstance(item, h5py.Group):
                    if address in self._known:
                        raise ModelError(f"{self.name}: the group {name!r} is linked twice, so the file may never end")
                    waiting.append((item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    self._check(item, name)
                self._known.add(address)

    def _check(self, dataset: h5py.Dataset, name: str) -> None:
        """Refuses a dataset whose values are not in this file, or that declares more than its bytes could hold."""
        where = f"{self.name}: {name!r}"  # finding the whole path costs a search of the file
        plist = dataset.id.get_create_plist()
        if plist.get_layout() not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
            raise ModelError(f"{where} is a virtual dataset, made of other files; copy its values into the file")
        if plist.get_external_count():
            raise ModelError(f"{where} is stored in another file; copy its values into the file")
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        strange = [number for number in filters if number not in _FILTERS]
        if strange:
            raise ModelError(f"{where} is packed by the filter {strange[0]}, expected deflate, shuffle or none; write it anew")
        stored = dataset.id.get_storage_size()
        if stored > self._size:
            raise ModelError(f"{where} is damaged: {stored:,} bytes of it in a file of {self._size:,}; fetch it again")
        item = dataset.dtype.itemsize  # a type that NumPy has not is found here, and not by who reads the values
        declared = math.prod(dataset.shape or (0,)) * item
        if declared and plist.get_layout() == h5py.h5d.CHUNKED:
            declared = max(declared, math.prod(plist.get_chunk()) * item)
        if declared > self._limits.total_bytes:
            raise ModelError(
                f"{where} declares {declared:,} bytes in a file of {self._size:,}, more than the {self._limits.total_bytes:,} "
                "allowed; save it without packing if you trust it"
            )
        if declared > stored * (_DEFLATE_RATIO if h5py.h5z.FILTER_DEFLATE in filters else 1):
            raise ModelError(f"{where} declares {declared:,} bytes but stores {stored:,}; such a file is damaged or a trap")

    def children(self, group: h5py.Group) -> dict[str, Item]:
        """The groups and datasets of a group, by name."""
        with _named(self.name):
            items = {name: group[name] for name in group}
        return {name: item for name, item in items.items() if isinstance(item, h5py.Group | h5py.Dataset)}

    def child(self, group: h5py.Group, name: str) -> Item | None:
        """The group or dataset of this name directly in a group; None if there is none."""
        with _named(self.name):
            item = group[name] if name not in ("", ".") and "/" not in name and name in group else None
        return item if isinstance(item, h5py.Group | h5py.Dataset) else None

    def array(self, dataset: h5py.Dataset) -> np.ndarray:
        """The numbers of a dataset, of its dtype and shape; of bfloat16, which HDF5 does not know and Keras writes as bytes of
        that name, as float32."""
        half = dataset.dtype == _TWO_BYTES and dataset.shape and self.texts_of(dataset, "dtype") == ("bfloat16",)
        with _named(self.name):
            dtype = dataset.dtype
            if half:
                self.budget.take(math.prod(dataset.shape) * 4, "a dataset")
                return (dataset[()].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            if dtype.kind not in "biuf":
                raise ModelError(f"{self.name}: {dataset.name!r} holds values of the type {dtype}, expected numbers")
            if dataset.shape is None:
                return np.empty(0, dtype)
            size = math.prod(dataset.shape) * dtype.itemsize
            self.budget.take(size, "a dataset" if size <= self.budget.bytes_left else repr(dataset.name))
            return np.asarray(dataset[()])

    def read_into(self, dataset: h5py.Dataset, array: np.ndarray) -> None:
        """The numbers of a dataset, written into an array of its shape and dtype."""
        if dataset.dtype.kind not in "biuf":
            raise ModelError(f"{self.name}: {dataset.name!r} holds values of the type {dataset.dtype}, expected numbers")
        with _named(self.name):
            self.budget.take(array.nbytes, "a dataset")
            if array.size:
                dataset.read_direct(array)

    def references(self, dataset: h5py.Dataset) -> list[Item]:
        """The objects that a dataset of references points at, the last axis first (MATLAB's order of cells)."""
        with _named(self.name):
            if h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
                raise ModelError(f"{self.name}: {dataset.name!r} holds values of the type {dataset.dtype}, expected references")
            self.budget.count(math.prod(dataset.shape or (0,)))
            items = [self._file[reference] for reference in np.ravel(dataset[()])]
            for item in items:
                if not isinstance(item, h5py.Group | h5py.Dataset) or _address(item) not in self._known:
                    raise ModelError(f"{self.name}: {dataset.name!r} points at something that is no dataset of the file")
        return items

    def is_references(self, dataset: h5py.Dataset) -> bool:
        """Whether a dataset holds references to other objects of the file."""
        with _named(self.name):
            return h5py.check_ref_dtype(dataset.dtype) is h5py.Reference

    def has(self, item: Item, name: str) -> bool:
        """Whether there is an attribute of this name; its value is not read."""
        with _named(self.name):
            return bool(h5py.h5a.exists(item.id, name.encode()))

    def numbers_of(self, item: Item, name: str) -> np.ndarray | None:
        """An attribute of numbers; None if there is no such attribute."""
        value = self._attribute(item, name)
        if value is None:
            return None
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ModelError(f"{self.name}: the attribute {name!r} of {item.name!r} is {array.dtype}, expected numbers")
        return array

    def texts_of(self, item: Item, name: str) -> tuple[str, ...] | None:
        """An attribute of texts, one or many; None if there is no such attribute."""
        value = self._attribute(item, name)
        if value is None:
            return None
        parts = list(np.ravel(value)) if isinstance(value, np.ndarray) else [value]
        texts = []
        with _named(self.name):
            for part in parts:
                if not isinstance(part, str | bytes):
                    raise ModelError(f"{self.name}: the attribute {name!r} of {item.name!r} holds no text")
                text = part.decode() if isinstance(part, bytes) else part
                if not text.isprintable():
                    raise ModelError(f"{self.name}: the attribute {name!r} of {item.name!r} cannot be printed: {text[:40]!r}")
                texts.append(text)
        return tuple(texts)

    def _attribute(self, item: Item, name: str) -> object:
        with _named(self.name):
            if not h5py.h5a.exists(item.id, name.encode()):
                return None
            header = item.attrs.get_id(name)
            count = math.prod(header.shape or (0,))
            text = h5py.check_string_dtype(header.dtype)
            if text is not None and text.length is None:
                # Every text may point at the same bytes, so the file's size does not bound them all. Nor can they be asked for
                # their lengths: the 513 short names in a file of 80 MB would count as 40 GB.
                size = count * self._size if count > 1 and not self._rehearsed else 0
            elif header.dtype.hasobject:
                raise ModelError(f"{self.name}: the attribute {name!r} of {item.name!r} is no text and no number")
            else:
                size = count * header.dtype.itemsize
                if size > self._size:
                    raise ModelError(f"{self.name}: the attribute {name!r} declares {size:,} bytes in a file of {self._size:,}")
            if size > self._limits.total_bytes or count > self._limits.arrays:
                raise ModelError(f"{self.name}: the attribute {name!r} has {count:,} values, more than the limits allow")
            try:
                value: object = item.attrs[name]
            except MemoryError as error:
                raise ModelError(f"{self.name}: the attribute {name!r} takes more memory than the limits allow") from error
            return value


def _address(item: Item) -> int:
    return int(h5py.h5o.get_info(item.id).addr)
