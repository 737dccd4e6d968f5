"""Pairs of images that are one photograph, found by blocks and kept in the cache."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotiw_keras.data.near.alignment import coarse, fine, hopeful
from emotiw_keras.data.near.embedding import FLAT, SIDE, embed, shipped_projection, thumbnails
from emotiw_keras.data.near.search import Proposals, propose
from emotiw_keras.data.near.threshold import LOWEST, THRESHOLD
from emotiw_keras.data.packing import packing_file
from emotiw_keras.data.pixel_stores import MemoryPixels, PackedPixels, PixelStore
from emotiw_keras.errors import OutputError
from emotiw_keras.files import NUMPY_UNREADABLE, check_arrays, write_atomic
from emotiw_keras.hardware import processor_threads
from emotiw_keras.locking import locked
from emotiw_keras.text import number_of
from emotiw_keras.weights.cache import cache_dir

_VERSION = 1  # of the method; another one finds its pairs anew
_READ, _GATHERED, _PAIRS = 4096, 256, 2048  # images and pairs at a time
_HELD = 2**26  # bytes of thumbnails in memory
WORTH_KEEPING = 2000  # images; a smaller set is searched about as fast as the cache is read


@dataclass(frozen=True)
class NearPairs:
    """Pairs of near duplicates, by position.

    Attributes:
        first, second: int64 (pairs,), first < second.
        correlation: float32 (pairs,), of the aligned pixels, `LOWEST` to 1.
        mirrored: bool (pairs,), whether one is the other's mirror image.
    """

    first: np.ndarray
    second: np.ndarray
    correlation: np.ndarray
    mirrored: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def at(self, chosen: np.ndarray) -> NearPairs:
        """Some of the pairs: a mask or positions."""
        return NearPairs(self.first[chosen], self.second[chosen], self.correlation[chosen], self.mirrored[chosen])


def near_pairs(
    stores: Sequence[PixelStore],
    hashes: Sequence[Sequence[str]],
    threshold: float = THRESHOLD,
    *,
    across: bool = False,
    say: Callable[[str], None] | None = None,
) -> NearPairs:
    """Find near duplicates among the different images of one set or of several.

    Args:
        stores: the pixels of each set.
        hashes: the pixel hash of each image of each set, "" for one that cannot be used; of equal images the first stands
            for all.
        threshold: correlation from which a pair counts, `LOWEST` to 1.
        across: only pairs of two sets.
        say: takes a line before what takes long.

    Returns:
        The pairs, numbered through the sets in order.
    """
    together = [digest for each in hashes for digest in each]
    first_of: dict[str, int] = {}
    for i, digest in enumerate(together):
        if digest:
            first_of.setdefault(digest, i)
    rows = np.fromiter(first_of.values(), np.int64, len(first_of))
    sizes = [len(each) for each in hashes]
    key = hashlib.blake2b(repr((_VERSION, across, [store.shape for store in stores], sizes)).encode(), digest_size=16)
    for each in hashes:
        key.update("\n".join([*each, ""]).encode())
        key.update(b"\n")
    images = _Images(stores, sizes)
    small = len(rows) < WORTH_KEEPING
    found = search(images, rows, across) if small else _kept(key.hexdigest(), images, rows, across, say)
    return found.at(found.correlation >= threshold)


class _Images:
    """Thumbnails of several sets by one number."""

    def __init__(self, stores: Sequence[PixelStore], sizes: Sequence[int]) -> None:
        self._stores, self._starts = stores, np.concatenate([[0], np.cumsum(sizes)])

    def part(self, rows: np.ndarray) -> np.ndarray:
        """int (rows,), the set of each."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def thumbs(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (rows, SIDE, SIDE)."""
        part, out = self.part(rows), np.empty((len(rows), SIDE, SIDE), np.uint8)
        for number in np.unique(part):
            here = np.flatnonzero(part == number)
            for start in range(0, len(here), _GATHERED):
                some = here[start : start + _GATHERED]
                out[some] = thumbnails(self._stores[number].gather(rows[some] - self._starts[number]))
        return out


def _kept(key: str, images: _Images, rows: np.ndarray, across: bool, say: Callable[[str], None] | None) -> NearPairs:
    """The pairs out of the cache, or found and put there; other processes that want the same wait for the first one."""
    folder = cache_dir() / "near" / key
    known = None
    try:
        with locked(folder, lambda: None):
            known = _read(folder / "pairs.npz", int(rows[-1]) if len(rows) else -1)
            if known is None:
                if say is not None:
                    say(
                        f"looking for near duplicates among "
                        f"{number_of(len(rows), 'images')}; what is found is kept in {folder.parent}"
                    )
                known = search(images, rows, across)
                _write(folder / "pairs.npz", known)
    except OutputError:  # a cache that cannot be written: found anew each time
        pass
    return search(images, rows, across) if known is None else known


def _write(path: Path, pairs: NearPairs) -> None:
    file = io.BytesIO()
    np.savez(file, first=pairs.first, second=pairs.second, correlation=pairs.correlation, mirrored=pairs.mirrored)
    write_atomic(path, file.getvalue())


def _read(path: Path, last: int) -> NearPairs | None:
    """What is kept at `path`; None where nothing is, or nothing that fits images up to `last`: then it is found anew."""
    try:
        check_arrays(path)
        with np.load(path, allow_pickle=False) as stored:
            first, second, correlation, mirrored = (stored[name] for name in ("first", "second", "correlation", "mirrored"))
    except NUMPY_UNREADABLE:
        return None
    types = (first.dtype, second.dtype, correlation.dtype, mirrored.dtype)
    if types != (np.int64, np.int64, np.float32, bool) or first.ndim != 1:
        return None
    if not first.shape == second.shape == correlation.shape == mirrored.shape:
        return None
    if len(first) and (first.min() < 0 or second.max() > last or (first >= second).any()):
        return None
    if not ((correlation >= LOWEST) & (correlation <= 1 + 1e-3)).all():  # false of NaN
        return None
    return NearPairs(first, second, correlation, mirrored)


def search(images: _Images, rows: np.ndarray, across: bool) -> NearPairs:
    """Embed, propose, align; memory holds the embeddings, the images of a few blocks and at most `_HELD` bytes of others.

    Args:
        images: by position.
        rows: int (images,), the positions of those that are compared, each other than the rest.
        across: only pairs of two sets.
    """
    none = np.empty(0, np.int64)
    blocks = [NearPairs(none, none, np.empty(0, np.float32), np.empty(0, bool))]
    if not len(rows):
        return blocks[0]
    held = _room(len(rows))
    vectors, shows = [], []
    for start in range(0, len(rows), _READ):
        thumbs = images.thumbs(rows[start : start + _READ])
        vectors.append(embed(thumbs))
        shows.append(thumbs.std(axis=(1, 2)) >= FLAT)
        if held is not None:
            for i, thumb in enumerate(thumbs, start):
                held.put(i, thumb[..., None])
    kept = np.flatnonzero(np.concatenate(shows))
    part = images.part(rows[kept]) if across else None

    one_at_a_time = threading.Lock()  # of images in their own size

    def thumbs_of(positions: np.ndarray) -> np.ndarray:
        chosen = kept[positions]
        if held is not None:
            return held.gather(chosen)[..., 0]
        with one_at_a_time:
            return images.thumbs(rows[chosen])

    with ThreadPoolExecutor(processor_threads()) as pool:
        for some in propose(np.concatenate(vectors)[kept], shipped_projection().even, part):
            chunks = [some.at(np.arange(at, min(at + _PAIRS, len(some.first)))) for at in range(0, len(some.first), _PAIRS)]
            for chunk, value in zip(chunks, pool.map(lambda chunk: _align(thumbs_of, chunk), chunks), strict=True):
                near = value >= LOWEST
                first, second = rows[kept[chunk.first[near]]], rows[kept[chunk.second[near]]]
                blocks.append(NearPairs(first, second, value[near], chunk.mirrored[near]))
    fields = ("first", "second", "correlation", "mirrored")
    return NearPairs(*(np.concatenate([getattr(block, name) for block in blocks]) for name in fields))


def _room(count: int) -> MemoryPixels | PackedPixels | None:
    """What holds thumbnails, each of which is compared many times: memory or a file; None where the disk is full, too."""
    shape, readable = (SIDE, SIDE, 1), np.ones(count, bool)
    if count * SIDE * SIDE <= _HELD:
        return MemoryPixels(np.empty((count, *shape), np.uint8), readable)
    file = packing_file(count * SIDE * SIDE)
    return None if file is None else PackedPixels(file, shape, readable)


def _align(thumbs: Callable[[np.ndarray], np.ndarray], some: Proposals) -> np.ndarray:
    """float32 (pairs,), the correlation of each pair; 0 where even a coarse look says no."""
    ones, one = np.unique(some.first, return_inverse=True)
    others, other = np.unique(some.second, return_inverse=True)
    left, right = (thumbs(each).astype(np.float32) for each in (ones, others))
    value, point = coarse(left, right, one, other, some.mirrored)
    out = np.zeros(len(value), np.float32)
    for k in np.flatnonzero(hopeful(value, some.likeness)).tolist():
        there = right[other[k]]
        out[k] = fine(left[one[k]], there[:, ::-1] if some.mirrored[k] else there, int(point[k]), THRESHOLD)
    return out
