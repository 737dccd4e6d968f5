"""Aff-Wild2's expression set: one text file of labels and one folder of numbered face images for each video.

`annotations/EXPR_Set/{Training_Set,Validation_Set}/<video>.txt` (2020 and 2021; the first release says `Train_Set`) or
`EXPR_Classification_Challenge`, `EXPR_Recognition_Challenge` (from 2022 on). Line 0 of a file names the classes, line n is the
label of frame n, -1 for none. `cropped_aligned/<video>/00001.jpg` is the face in frame 1; frames without a face have no file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotiw_keras.data.images import SUFFIXES
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.errors import DataError

FACES = "cropped_aligned"
OTHER_SETS = (
    "VA_Set", "VA_Estimation_Challenge", "AU_Set", "AU_Detection_Challenge"
)  # fmt: skip
"""Valence and arousal, and action units: what else the tree may have annotations of."""
SETS = ("EXPR_Set", "EXPR_Classification_Challenge", "EXPR_Recognition_Challenge")
SPLITS = {"Training_Set": "train", "Train_Set": "train", "Validation_Set": "val"}
# A day of recording at 60 frames a second; a file above it is no annotation.
_MOST_FRAMES = 24 * 3600 * 60
_FRAME = re.compile(r"([0-9]{1,9})(\.[A-Za-z0-9]+)")
_SIDE = re.compile(r"_(left|right)$")


@dataclass(frozen=True)
class Annotation:
    """The labels of one video.

    Attributes:
        video: its name, which is also its folder's below `cropped_aligned`.
        split: "train" or "val".
        labels: int8 (frames,), by the file's own class numbers; row i is frame i + 1; -1 is no label.
        digest: BLAKE2b (16 bytes, hexadecimal) of the labels and the class names.
    """

    video: str
    split: str
    labels: np.ndarray
    digest: str

    @property
    def recording(self) -> str:
        """The recording the video was cut from: two persons of one recording have a video each, named `_left` or `_right`."""
        return _SIDE.sub("", self.video)


@dataclass(frozen=True)
class Videos:
    """An Aff-Wild2 tree: its annotations, sorted by video, and where the faces are.

    Attributes:
        root: the folder as given.
        classes: the class names as the files write them, in their order.
        annotations: one for each video.
        folders: names of the split folders that were read.
        example: an annotation file, for messages.
    """

    root: Path
    classes: tuple[str, ...]
    annotations: list[Annotation]
    folders: tuple[str, ...]
    example: str
    layout = "Aff-Wild2"

    @property
    def split(self) -> list[str]:
        """By video: "train" or "val", or "" where the tree has one of the two alone and so no splits of its own."""
        given = {annotation.split for annotation in self.annotations}
        return [annotation.split if given != {"train"} else "" for annotation in self.annotations]


def annotation_folder(path: str | os.PathLike[str]) -> Path | None:
    """The folder of the expression annotations if `path` is an Aff-Wild2 tree, else None.

    Raises:
        DataError: it holds several sets of expression annotations, annotations without faces, or of other things alone.
    """
    root = Path(path)
    if not root.is_dir():
        return None
    faces = (root / FACES).is_dir()
    try:
        beside = sorted(child for child in root.iterdir() if child.name != FACES and child.is_dir()) if faces else []
    except OSError:
        return None  # whoever lists the folder next says what is wrong with it
    found = [
        place / name
        for place in [root, *(beside if faces else [root / "annotations"])]
        for name in SETS
        if any((place / name / folder).is_dir() for folder in SPLITS)
    ]
    if len(found) > 1:
        raise DataError(f"{path} holds several sets of expression annotations: {', '.join(map(str, found))}; keep one of them")
    if found and not faces:
        raise DataError(f"{path} holds annotations in {found[0]}, but no folder {FACES}/ with the faces; unpack it beside them")
    if faces and not found:
        others = [place / name for place in [root, *beside] for name in OTHER_SETS if (place / name).is_dir()]
        if others:
            told = f"{path} holds {FACES}/ and annotations of other things ({', '.join(map(str, others))}), none of expressions"
            raise DataError(f"{told}; expected {' or '.join(SETS)} beside them")
    return found[0] if found else None


def _detect(source: Source) -> bool:
    if source.place.is_dir():
        return annotation_folder(source.place) is not None
    if not source.single and any(f"{name}/" in member for member in source.names for name in (FACES, *SETS)):
        raise DataError(f"{source.given} holds Aff-Wild2's videos; unpack it and give the folder of annotations/ and {FACES}/")
    return False


def _read(source: Source) -> Videos:
    return read_annotations(source.place)


LAYOUT = Layout("Aff-Wild2", "Aff-Wild2 (cropped_aligned/ beside annotations/)", _detect, _read)


def read_annotations(path: Path) -> Videos:
    """Read the annotations of an Aff-Wild2 tree.

    Raises:
        DataError: annotations that cannot be meant: no class names, files of two editions, a row that is no label, a video in
            two splits, no video at all.
    """
    folder = annotation_folder(path)
    if folder is None:
        raise DataError(f"{path} holds no annotations of expressions; expected {' or '.join(SETS)} beside {FACES}/")
    names = [name for name in SPLITS if (folder / name).is_dir()]
    if {"Training_Set", "Train_Set"} <= set(names):
        raise DataError(f"{folder} holds Training_Set and Train_Set; keep one of them")
    files = [
        (file, SPLITS[name])
        for name in names
        for file in sorted((folder / name).iterdir())
        if file.suffix == ".txt" and not file.name.startswith(".")
    ]
    if not files:
        raise DataError(f"{folder}: no annotation files <video>.txt in {', '.join(names)}")
    first, classes = files[0][0], _classes(_lines(files[0][0]), files[0][0])
    annotations: dict[str, Annotation] = {}
    for file, split in files:
        if file.stem in annotations:
            raise DataError(f"{folder}: the video {file.stem} stands in {names[0]} and in {names[1]}; keep one of the files")
        lines = _lines(file)
        found = _classes(lines, file)
        if found != classes:
            raise DataError(
                f"{file} names the classes {','.join(found)}, {first.name} {','.join(classes)}: two editions in one set; "
                "keep the annotations of one"
            )
        annotations[file.stem] = _annotation(file, split, lines[1:], classes)
    return Videos(Path(path), classes, [annotations[name] for name in sorted(annotations)], tuple(names), first.name)


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > 4 * _MOST_FRAMES:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes are too many for the labels of one video")
        return file.read_text("utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: no text (byte {error.start}); expected class names, then a label a line") from error


def _classes(lines: Sequence[str], file: Path) -> tuple[str, ...]:
    names = tuple(word.strip() for word in lines[0].split(",")) if lines else ()
    words = all(name and not re.fullmatch(r"[-+]?[0-9.]+", name) for name in names)
    if len(names) < 2 or not words or len({name.casefold() for name in names}) != len(names):
        seen = repr(lines[0][:80]) if lines else "missing"
        raise DataError(f"{file}: line 0 is {seen}, expected class names such as Neutral,Anger,Disgust,Fear,Happiness,Sadness")
    return names


def _annotation(file: Path, split: str, rows: Sequence[str], classes: Sequence[str]) -> Annotation:
    known = {str(number): number for number in range(-1, len(classes))}
    labels = np.empty(len(rows), np.int8)
    for i, row in enumerate(rows):
        label = known.get(row.strip())
        if label is None:
            raise DataError(
                f"{file}: line {i + 1} is {row[:40]!r}, expected a whole number, 0 to {len(classes) - 1}, or -1 for no label"
            )
        labels[i] = label
    digest = hashlib.blake2b(labels.tobytes() + ",".join(classes).encode(), digest_size=16).hexdigest()
    return Annotation(file.stem, split, labels, digest)


@dataclass(frozen=True)
class Frames:
    """The images of one video.

    Attributes:
        number: int32 (images,), sorted; image 00001.jpg is frame 1.
        form: (digits at least, suffix) of the files' names.
        others: names of files that are no numbered images.
    """

    number: np.ndarray
    form: tuple[int, str]
    others: list[str]


def find_frames(root: Path, video: str) -> Frames:
    """List the images of a video by the numbers in their names.

    Raises:
        DataError: the folder cannot be read, a link leads out of it, or files are named in two ways.
    """
    folder = root / FACES / video
    _check_inside(folder, root)
    stems: list[str] = []
    suffixes: set[str] = set()
    others: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = _FRAME.fullmatch(entry.name)
                if match and match[2].lower() in SUFFIXES and _regular(entry, root):
                    stems.append(match[1])
                    suffixes.add(match[2])
                elif not entry.name.startswith("."):
                    others.append(entry.name)
    except FileNotFoundError:
        pass  # a video without a single face: all its frames are missing ones
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error
    if not stems:
        return Frames(np.empty(0, np.int32), (5, ".jpg"), sorted(others))
    digits = min(map(len, stems))
    odd = next((stem for stem in stems if stem != f"{int(stem):0{digits}d}"), None)
    if len(suffixes) > 1 or odd is not None:
        seen = f"{odd} beside names of {digits} digits" if odd else f"names that end in {' and '.join(sorted(suffixes))}"
        raise DataError(f"{folder}: {seen}; the images of a video need names of one kind, such as 00001.jpg")
    return Frames(np.sort(np.array(stems, np.int32)), (digits, suffixes.pop()), sorted(others))


def _regular(entry: os.DirEntry[str], root: Path) -> bool:
    if entry.is_symlink():
        _check_inside(Path(entry.path), root)
    return entry.is_file()


def _check_inside(path: Path, root: Path) -> None:
    if not os.path.realpath(path).startswith(os.path.realpath(root).rstrip(os.sep) + os.sep):
        raise DataError(f"{root}: a link leads out of it at {os.path.relpath(path, root)!r}; move or copy the files there")


def without_annotation(videos: Videos) -> list[str]:
    """Folders of faces that no annotation names: videos of other tasks, or of the test set."""
    known = {annotation.video for annotation in videos.annotations}
    with os.scandir(videos.root / FACES) as entries:
        return sorted(entry.name for entry in entries if entry.name not in known and entry.is_dir())


def ranges(numbers: np.ndarray) -> str:
    """Sorted whole numbers as text.

    Example:
        >>> ranges(np.array([3, 4, 5, 9]))
        '3-5 9'
    """
    if not len(numbers):
        return ""
    breaks = np.flatnonzero(np.diff(numbers) > 1)
    starts, ends = numbers[np.r_[0, breaks + 1]], numbers[np.r_[breaks, len(numbers) - 1]]
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts.tolist(), ends.tolist(), strict=True))
