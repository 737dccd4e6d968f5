"""MATLAB's file format 7.3: HDF5 with MATLAB's classes as attributes -> the same nested values as `mat_files` gives.

Numbers and characters are datasets whose axes are reversed, since MATLAB is column-major; a structure is a group, a cell array
a dataset of references into the group `#refs#`, and an array of structures a group whose fields are such datasets. The
layout has no public specification; it is what MATLAB's `save -v7.3` writes.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.hdf5 import Hdf5, Item, open_hdf5
from emotiw_keras.formats.hdf5_trial import rehearse
from emotiw_keras.formats.mat_files import DEPTH, Unread, Value

_NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def read_mat73(path: Path, limits: Limits) -> dict[str, Value]:
    """The variables of a MATLAB file of version 7.3, by name.

    Raises:
        ModelError: the file is damaged, unsafe (see `hdf5.open_hdf5`), or holds more than `limits` allow.
    """
    rehearse(read_mat73, path, limits)
    with open_hdf5(path, limits) as file:
        reader = _Reader(file)
        # `#refs#` and `#subsystem#` hold what the variables refer to.
        return {name: reader.value(item, 0) for name, item in file.children(file.root).items() if not name.startswith("#")}


class _Reader:
    def __init__(self, file: Hdf5) -> None:
        self.file = file

    def value(self, item: Item, depth: int) -> Value:
        self.file.budget.count()
        if depth > DEPTH:
            raise ModelError(f"{self.file.name}: cells and structures within each other more than {DEPTH} deep, or in a circle")
        kind = "".join(self.file.texts_of(item, "MATLAB_class") or ("",))
        if isinstance(item, h5py.Group):
            return self.structure(item, depth) if kind in ("", "struct") else Unread("sparse or object")
        empty = self.file.numbers_of(item, "MATLAB_empty")
        if empty is not None and empty.any():
            return self.empty(kind)
        if kind == "cell":
            return [self.value(part, depth + 1) for part in self.file.references(item)]
        if kind == "char":
            return self.text(item)
        return self.numbers(item) if kind in _NUMBERS else Unread(kind or "object")

    def empty(self, kind: str) -> Value:
        if kind == "char":
            return ""
        return [] if kind in ("cell", "struct") else np.empty((0, 0))

    def structure(self, group: h5py.Group, depth: int) -> Value:
        fields = self.file.children(group)
        # A field that is itself a cell array says so; the references of an array of structures do not.
        many = [
            isinstance(item, h5py.Dataset)
            and self.file.texts_of(item, "MATLAB_class") is None
            and self.file.is_references(item)
            for item in fields.values()
        ]
        if not many or not all(many):
            return {name: self.value(item, depth + 1) for name, item in fields.items()}
        columns = {name: self.file.references(item) for name, item in fields.items() if isinstance(item, h5py.Dataset)}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ModelError(f"{self.file.name} is damaged: the fields of {group.name!r} are of the lengths {sorted(lengths)}")
        return [{name: self.value(column[i], depth + 1) for name, column in columns.items()} for i in range(lengths.pop())]

    def numbers(self, dataset: h5py.Dataset) -> Value:
        if dataset.dtype.names:
            return Unread("complex matrix")
        return self.file.array(dataset).T

    def text(self, dataset: h5py.Dataset) -> Value:
        codes = self.file.array(dataset)
        if codes.dtype.kind != "u" or codes.ndim != 2:
            raise ModelError(f"{self.file.name} is damaged: {dataset.name!r} is text of the type {codes.dtype}")
        if not codes.size:
            return ""
        self.file.budget.count(codes.shape[1])
        try:
            rows: list[Value] = [np.ascontiguousarray(row, "<u2").tobytes().decode("utf-16-le") for row in codes.T]
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.file.name} is damaged: {dataset.name!r} is no text ({error.reason})") from error
        return rows[0] if len(rows) == 1 else rows
