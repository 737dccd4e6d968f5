"""Columns of text with one entry an image: lists for thousands of images, and what stands for one with millions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

import numpy as np

T = TypeVar("T")


class Repeated(Sequence[T]):
    """A sequence in which few values stand many times: one number an entry, and each value held once.

    Args:
        values: the different values.
        number: int (entries,), the position of each entry's value in `values`.

    Example:
        >>> list(Repeated(["calm", "glad"], np.array([1, 0, 1], np.int8)))
        ['glad', 'calm', 'glad']
    """

    def __init__(self, values: Sequence[T], number: np.ndarray) -> None:
        self.values, self.number = values, number

    def __len__(self) -> int:
        return len(self.number)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Repeated[T]: ...
    def __getitem__(self, index: int | slice) -> T | Repeated[T]:
        if isinstance(index, slice):
            return Repeated(self.values, self.number[index])
        return self.values[self.number[index]]

    def __iter__(self) -> Iterator[T]:
        values = self.values
        return (values[number] for number in self.number)

    def select(self, rows: np.ndarray) -> Repeated[T]:
        """The entries at `rows`."""
        return Repeated(self.values, self.number[rows])


class FramePaths(Sequence[str]):
    """Names of frames, made when they are asked for: `FOLDER/VIDEO/00001.jpg`.

    Args:
        folders: by video number, such as "cropped_aligned/video7".
        forms: by video number, (digits at least, suffix) of its files' names, such as (5, ".jpg").
        video: int (frames,), video numbers.
        frame: int (frames,), frame numbers, the first of a video is 1.
    """

    def __init__(self, folders: Sequence[str], forms: Sequence[tuple[int, str]], video: np.ndarray, frame: np.ndarray) -> None:
        self.folders, self.forms, self.video, self.frame = folders, forms, video, frame

    def __len__(self) -> int:
        return len(self.video)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FramePaths: ...
    def __getitem__(self, index: int | slice) -> str | FramePaths:
        if isinstance(index, slice):
            return FramePaths(self.folders, self.forms, self.video[index], self.frame[index])
        video = self.video[index]
        digits, suffix = self.forms[video]
        return f"{self.folders[video]}/{self.frame[index]:0{digits}d}{suffix}"

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def select(self, rows: np.ndarray) -> FramePaths:
        """The names of the frames at `rows`."""
        return FramePaths(self.folders, self.forms, self.video[rows], self.frame[rows])


def pick(column: Sequence[T], rows: np.ndarray) -> Sequence[T]:
    """The entries of a column at `rows`, as a column of the same kind."""
    if isinstance(column, Repeated | FramePaths):
        return column.select(rows)
    return [column[i] for i in rows]
