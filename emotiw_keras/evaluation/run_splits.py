"""Which images of a data set belong to a split: by the data's own word, or as a run knew them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.layouts import find_layout
from emotiw_keras.data.layouts.listing import SPLITS
from emotiw_keras.errors import DataError
from emotiw_keras.run_facts import FINAL, FOLDS_FILE

if TYPE_CHECKING:
    from emotiw_keras.runs import Run


def own_splits(source: str | os.PathLike[str]) -> set[str]:
    """The splits that a data set says itself, none where it has no word on them."""
    return set(find_layout(source, 1).split) - {""}


def val_of(faces: FaceSet, run: Run) -> np.ndarray:
    """The splits of a source that names train and no val, with those of train as val that the run had as val.

    Returns:
        "<U5" (n,).
    """
    return np.where((faces.split == "train") & (known_splits(faces, run) == "val"), "val", faces.split)


def known_splits(faces: FaceSet, run: Run) -> np.ndarray:
    """The split in which the run knew each image, for a source without splits of its own.

    An image is known by its path together with its pixels, else by its pixels, an unreadable one by its path. If the
    run or its weights used several data sets, the one that knows the most images of the source by their paths too is
    looked up, of equals the one that knows the most by their pixels, and of such the latest.

    Returns:
        "<U5" (n,): "train", "val", "test", or "" for an image that the run does not know.
    """
    by_data: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in run.each_row():
        places = by_data.setdefault((row["stage"], row["data"]), {})
        places[row["path"], row["pixel_hash"]] = row["split"]
        if row["pixel_hash"]:
            places["", row["pixel_hash"]] = row["split"]
    exactly = set(zip(faces.paths, faces.pixel_hash, strict=True))
    by_pixels = {("", pixel_hash) for pixel_hash in faces.pixel_hash if pixel_hash}
    places = max(
        reversed(by_data.values()),
        key=lambda known: (len(exactly & known.keys()), len(by_pixels & known.keys())),
        default={},
    )

    def split_of(path: str, pixel_hash: str) -> str:
        exact = places.get((path, pixel_hash), "")
        return exact or (places.get(("", pixel_hash), "") if pixel_hash else "")

    return np.array([split_of(*key) for key in zip(faces.paths, faces.pixel_hash, strict=True)], dtype="<U5")


def persons_of(faces: FaceSet, indices: np.ndarray, run: Run) -> Sequence[str]:
    """The person of each of some images: as the data say, else as the run knew the same pixels, else as names of folders and
    files tell, else ""; none if all are ""."""
    subject = pick(faces.subject, indices)
    if all(subject) and not faces.guessed_persons:
        return subject
    known = {row["pixel_hash"]: row["subject"] for row in run.each_row() if row["subject"] and row["pixel_hash"]}
    if not known:
        return subject if any(subject) else ()
    rows = zip(subject, (known.get(digest, "") for digest in pick(faces.pixel_hash, indices)), strict=True)
    return [(knew or person) if faces.guessed_persons else (person or knew) for person, knew in rows]


def found_again(split_of: np.ndarray, run: Run) -> str:
    """A line on how many images of a source without splits the run knew in which split."""
    counts = ", ".join(f"{int((split_of == name).sum()):,} {name}" for name in SPLITS)
    return f"no splits in the source; found again in {run.path}: {counts}, {int((split_of == '').sum()):,} unknown to it"


def select(faces: FaceSet, split_of: np.ndarray, split: str, run: Run) -> np.ndarray:
    """Indices of all images of a split, unreadable ones included; "all" is every image. Where votes are the labels, those that
    have a majority.

    Raises:
        DataError: the split does not exist; the line lists those that do.
    """
    asked = np.ones(len(faces.label), bool) if faces.votes is None else faces.label >= 0
    if split == "all":
        return np.flatnonzero(asked)
    indices = np.flatnonzero(asked & (split_of == split)) if split in SPLITS else np.array([], np.int64)
    if len(indices):
        return indices
    every = int(asked.sum())
    instead = in_place_of_folds(run)
    counts = {name: int((asked & (split_of == name)).sum()) for name in SPLITS}
    present = [f"{name} ({count})" for name, count in counts.items() if count]
    if not present:
        raise DataError(
            f"split {split!r} does not exist in {faces.source}: it names no splits and {run.path} knows none of its "
            f"images; {f'{instead} with' if instead else 'use'} --split all ({every} images)"
        )
    if split == "test" and run.path.name == FINAL and (run.path.parent / FOLDS_FILE).is_file():
        raise DataError(
            f"{run.path} holds nothing back for testing: score {run.path.parent}, whose folds tell what it is worth"
        )
    raise DataError(
        f"split {split!r} does not exist in {faces.source}; it has {', '.join(present)} and all ({every}): "
        + (instead or f"--split all scores all of them, --split {present[0].split()[0]} those")
    )


def in_place_of_folds(run: Run) -> str:
    """What to score where data are no folds of a cross-validation, as an error says it; "" if the run is no fold."""
    folder = run.path.parent
    if run.path.name == FINAL or not (folder / FOLDS_FILE).is_file():
        return ""
    cut = "".join(f" ({source})" for source in list(run.info.get("sources", {}).values())[-1:])
    final = folder / FINAL
    return f"give the data that was cut into folds{cut}, or score {final if final.is_dir() else run.path}"
