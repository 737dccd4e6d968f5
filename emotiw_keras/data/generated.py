"""Faces that the package draws itself: seven expressions from brows, lids and mouth, with everything else varied.

Two sets mirror the two of Ng et al. 2015: a large low-resolution one (`"large"`: 48x48, painted, nearly frontal) and a
small harder one (`"small"`: 96x96, turned heads, hard light, things in front of the face, half of it pen drawings).
They need no download, so the demo and the tests run anywhere. The expressions follow the action units of Ekman and
Friesen (1978): what a brow, a lid and a lip do, not the look of any person.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotiw_keras.data.drawing import Difficulty, Person, draw_face
from emotiw_keras.data.duplicates import pixel_hash
from emotiw_keras.data.faceset import OK, FaceSet, MemoryPixels, read_faces
from emotiw_keras.errors import DataError
from emotiw_keras.files import write_atomic
from emotiw_keras.labels import LABEL_SETS, match_classes

GENERATED = "generated:"
LABELS: tuple[str, ...] = LABEL_SETS["basic7"].labels

DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(),
    "hard": Difficulty(
        intensity=(0.9, 1.15), wobble=0.02, roll=18.0, yaw=22.0, scale=(0.85, 1.15), shift=0.14, light=0.5,
        contrast=(0.6, 1.1), blur=(0.0, 0.6), noise=(3.0, 9.0), occlusion=0.15, glasses=0.3, sketch=0.5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A generated data set: side of its pictures in pixels, their difficulty, how many there are in each split."""

    size: int
    difficulty: str
    train: int
    val: int
    test: int


KINDS: dict[str, Kind] = {
    "large": Kind(48, "easy", train=2100, val=350, test=350),
    "small": Kind(96, "hard", train=210, val=140, test=350),
}


def draw_faces(
    n: int, *, size: int = 48, seed: int | tuple[int, ...] = 0, difficulty: str | Difficulty = "easy"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` faces; picture i shows person i // 7, and each person shows each of the seven expressions once.

    The same seed gives the same pictures, and the first ones of a longer draw are those of a shorter one.

    Args:
        n: number of pictures, at least 1.
        size: height and width of a picture in pixels, at least 16.
        seed: non-negative; different seeds draw different persons.
        difficulty: a name in `DIFFICULTIES` or a `Difficulty` of your own.

    Returns:
        images uint8 (n, size, size, 1), grey 0..255; labels int64 (n,), indices into `LABELS` (the basic7 order).

    Raises:
        DataError: an unknown difficulty, or n or size out of range.

    Example:
        >>> images, labels = draw_faces(14, size=48, seed=1)
        >>> images.shape, sorted(labels[:7].tolist())
        ((14, 48, 48, 1), [0, 1, 2, 3, 4, 5, 6])
    """
    if n < 1 or size < 16:
        raise DataError(f"cannot draw {n} faces of {size}x{size} pixels; at least 1 face of 16x16 pixels is needed")
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise DataError(f"unknown difficulty {difficulty!r}; choose one of {', '.join(DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    root = [seed] if isinstance(seed, int) else list(seed)
    images = np.empty((n, size, size, 1), np.uint8)
    labels = np.empty(n, np.int64)
    for start in range(0, n, len(LABELS)):
        rng = np.random.default_rng([*root, start // len(LABELS)])
        who = Person.draw(rng, difficulty)
        for offset, label in enumerate(rng.permutation(len(LABELS))):
            if start + offset < n:
                labels[start + offset] = label
                images[start + offset, ..., 0] = draw_face(who, LABELS[label], size, rng, difficulty)
    return images, labels


def generated_set(
    kind: str,
    *,
    name: str = "data",
    labels: str | Sequence[str] = "basic7",
    grey: bool = True,
    limit: int | None = None,
) -> FaceSet:
    """Draw a whole data set, the same every time; no person stands in two splits or in both sets.

    Args:
        kind: a name in `KINDS`.
        name: what errors and the report call it.
        labels: as for `read_faces`; they must include the seven expressions.
        grey: one channel, else three equal ones.
        limit: pictures per split at most.

    Raises:
        DataError: an unknown kind, or labels that lack an expression.

    Example:
        >>> generated_set("small", limit=14).counts()["train"]["happy"]
        2
    """
    if kind not in KINDS:
        raise DataError(f"unknown generated data set {kind!r}; expected {' or '.join(GENERATED + known for known in KINDS)}")
    source = GENERATED + kind
    names, ids = match_classes(dict.fromkeys(LABELS, source), labels)
    facts = KINDS[kind]
    images, drawn, split, paths, subject = [], [], [], [], []
    for number, part in enumerate(("train", "val", "test")):
        count = getattr(facts, part) if limit is None else min(limit, getattr(facts, part))
        pictures, label = draw_faces(
            count, size=facts.size, seed=(list(KINDS).index(kind), number), difficulty=facts.difficulty
        )
        images.append(pictures)
        drawn += [LABELS[i] for i in label]
        split += [part] * count
        paths += [f"{part}/{LABELS[k]}/{i:04d}.png" for i, k in enumerate(label)]
        subject += [f"{kind}-{part}-{i // len(LABELS):03d}" for i in range(count)]
    pixels = np.concatenate(images)
    height, width = pixels.shape[1:3]
    per_split = ", ".join(f"{split.count(part):,} {part}" for part in ("train", "val", "test"))
    return FaceSet(
        name=name,
        source=source,
        layout="generated",
        labels=names,
        paths=paths,
        label=np.array([ids[label] for label in drawn], np.int64),
        split=np.array(split, dtype="<U5"),
        subject=subject,
        pixel_hash=[pixel_hash(image) for image in pixels],
        status=[OK] * len(pixels),
        pixels=MemoryPixels(pixels if grey else np.repeat(pixels, 3, axis=3), np.ones(len(pixels), bool)),
        report=[
            f"{source}: drawn by the package, {len(pixels):,} pictures, {width} x {height}: {per_split}; "
            "seven expressions in equal numbers, other persons in each split"
        ],
        constant=np.zeros(len(pixels), bool),
    )


def is_generated(source: str | os.PathLike[str]) -> bool:
    """Whether a data path means faces that the package draws."""
    return os.fspath(source).startswith(GENERATED)


def read_any(source: str | os.PathLike[str], **options: Any) -> FaceSet:
    """`read_faces`, which also takes "generated:large" and "generated:small".

    Args:
        source: a path, or "generated:" and a name in `KINDS`.
        **options: those of `read_faces`; a generated set heeds name, labels, grey and limit alone.

    Raises:
        DataError: as `read_faces` and `generated_set`.
    """
    if not is_generated(source):
        return read_faces(source, **options)
    if options.get("folds") is not None or options.get("leave_out"):
        raise DataError(f"{source} has splits and classes of its own; folds and leave_out are for sets in files")
    heeded = {key: value for key, value in options.items() if key in ("name", "labels", "grey", "limit")}
    return generated_set(os.fspath(source).removeprefix(GENERATED), **heeded)


def write_images(kind: str, folder: str | os.PathLike[str], limit: int | None = None) -> int:
    """Write a generated data set as PNG files, `folder`/SPLIT/CLASS/NAME.png: a data set in files to try things on.

    Args:
        kind: a name in `KINDS`.
        folder: where; made if it is missing.
        limit: pictures per split at most.

    Returns:
        The number of files.

    Raises:
        DataError: an unknown kind.
        OutputError: the folder cannot be written.
    """
    faces = generated_set(kind, limit=limit)
    for position, path in enumerate(faces.paths):
        picture = faces.pixels.gather(np.array([position]))[0]
        done, content = cv2.imencode(".png", picture)
        if not done:
            raise DataError(f"{path}: OpenCV could not encode it as PNG")
        write_atomic(Path(folder) / path, content.tobytes())
    return len(faces.paths)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Write faces that the package draws as files.")
    parser.add_argument("kind", choices=[*KINDS, "affwild2"], help="one of the two sets as PNG, or a tree like Aff-Wild2's")
    parser.add_argument("folder")
    parser.add_argument("--limit", type=int, help="pictures per split")
    parser.add_argument("--videos", type=int, default=8, help="affwild2: how many videos")
    parser.add_argument("--frames", type=int, default=400, help="affwild2: frames of all videos together")
    parser.add_argument("--classes", type=int, default=7, help="affwild2: 7, or 8 with Other")
    chosen = parser.parse_args()
    if chosen.kind == "affwild2":
        from emotiw_keras.data.generated_videos import write_affwild2

        print(write_affwild2(chosen.folder, videos=chosen.videos, frames=chosen.frames, classes=chosen.classes))
    else:
        print(f"{write_images(chosen.kind, chosen.folder, chosen.limit)} pictures in {chosen.folder}")
