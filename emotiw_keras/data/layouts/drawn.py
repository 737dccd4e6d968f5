"""Faces that the package draws itself, by the name of a set, "generated:large" or "generated:small"; see `data.generated`."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from emotiw_keras.data.face_drawing import Difficulty, Person, draw_face
from emotiw_keras.data.layouts.listing import SPLITS, Listing
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.errors import DataError
from emotiw_keras.labels import LABEL_SETS

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
    """A generated data set: side of its images in pixels, their difficulty, how many there are in each split."""

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
    """Draw `n` faces; image i shows person i // 7, and each person shows each of the seven expressions once.

    The same seed gives the same images, and the first ones of a longer draw are those of a shorter one.

    Args:
        n: number of images, at least 1.
        size: height and width of an image in pixels, at least 16.
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


def _class_names(n: int, root: tuple[int, ...], difficulty: Difficulty) -> list[str]:
    """What the images of `draw_faces` show, without drawing them: the order is drawn before the faces are."""
    names: list[str] = []
    for person in range(-(-n // len(LABELS))):
        rng = np.random.default_rng([*root, person])
        Person.draw(rng, difficulty)
        names += [LABELS[label] for label in rng.permutation(len(LABELS))]
    return names[:n]


class DrawnImages:
    """The images of a set, split after split, all drawn when the first is asked for."""

    def __init__(self, kind: str, counts: tuple[int, ...]) -> None:
        self._kind, self._counts = kind, counts
        self._lock = threading.Lock()
        self._drawn: np.ndarray | None = None

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, 1)."""
        size = KINDS[self._kind].size
        return size, size, 1

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1)."""
        with self._lock:
            if self._drawn is None:
                facts = KINDS[self._kind]
                self._drawn = np.concatenate(
                    [
                        draw_faces(count, size=facts.size, seed=(_number(self._kind), number), difficulty=facts.difficulty)[0]
                        for number, count in enumerate(self._counts)
                    ]
                )
        return self._drawn[index]


def _number(kind: str) -> int:
    return list(KINDS).index(kind)


def is_generated(source: object) -> bool:
    """Whether a data path means faces that the package draws."""
    return str(source).startswith(GENERATED)


def _detect(source: Source) -> bool:
    return is_generated(source.given)


def _read(source: Source) -> Listing:
    kind = source.given.removeprefix(GENERATED)
    if kind not in KINDS:
        raise DataError(f"unknown generated data set {kind!r}; expected {' or '.join(GENERATED + known for known in KINDS)}")
    facts = KINDS[kind]
    of_split = (facts.train, facts.val, facts.test)
    counts = of_split if source.limit is None else tuple(min(source.limit, count) for count in of_split)
    listing = Listing("generated", DrawnImages(kind, counts), [], [], [], [], whole=True)
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        names = _class_names(count, (_number(kind), number), DIFFICULTIES[facts.difficulty])
        listing.classes += names
        listing.names += [f"{split}/{name}/{i:04d}.png" for i, name in enumerate(names)]
        listing.split += [split] * count
        listing.subject += [f"{kind}-{split}-{i // len(LABELS):03d}" for i in range(count)]
    listing.notes.append("drawn by the package: seven expressions in equal numbers, other persons in each split")
    return listing


LAYOUT = Layout("generated", "generated:large, generated:small", _detect, _read)
