"""Reading a set of annotated videos: which frames are taken, what is left out and why, and whether their files are whole."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from emotiw_keras.arguments import whole_number
from emotiw_keras.data.annotated_videos import MAX_PIXELS, FrameImages, Table, VideoSet
from emotiw_keras.data.archive import printable, read_file
from emotiw_keras.data.columns import Repeated
from emotiw_keras.data.duplicates import pixel_hash
from emotiw_keras.data.faceset import OK, Progress
from emotiw_keras.data.images import ImageError, decode_image
from emotiw_keras.data.layouts.affwild2 import FACES, SPLITS, Frames, Videos, find_frames, ranges, without_annotation
from emotiw_keras.data.layouts.listing import and_more, class_names
from emotiw_keras.data.pixel_pass import run_chunks
from emotiw_keras.data.pixel_stores import StreamedPixels
from emotiw_keras.data.splits import assign_splits, counts_table, group_ids, limit_mask, subjects
from emotiw_keras.errors import DataError
from emotiw_keras.labels import match_classes
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

LAYOUT = "Aff-Wild2"
# Frames whose pixels, with the numbers of all, identify a video.
_SAMPLED = 8
_BLOCK = 64
# Decoding a small image takes less time than threads take to hand the interpreter to each other.
_SMALL = 128 * 128


@dataclass(frozen=True)
class Choice:
    """Which labelled frames of a set are taken.

    Attributes:
        every: frames of every so manieth number; from which on, the seed and the video decide.
        frames_per_video: at most so many of each video, drawn from the seed; 0 is all.
        limit: at most so many of each split, stratified; None is all.
        fractions: shares of train, val and test where the source has no splits.
        seed: of all that.
    """

    every: int = 1
    frames_per_video: int = 0
    limit: int | None = None
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("every", self.every, 1)
        whole_number("frames_per_video", self.frames_per_video, 0)

    def of_video(self, video: str, numbers: np.ndarray) -> np.ndarray:
        """The frame numbers taken of one video; what other videos there are does not change them."""
        name = int.from_bytes(hashlib.blake2b(os.fsencode(video), digest_size=8).digest(), "big")
        generator = np.random.default_rng((self.seed, name))
        if self.every > 1:
            numbers = numbers[numbers % self.every == generator.integers(self.every)]
        if 0 < self.frames_per_video < len(numbers):
            numbers = np.sort(generator.choice(numbers, self.frames_per_video, replace=False))
        return numbers


def read_videos(
    videos: Videos,
    choice: Choice,
    *,
    name: str,
    labels: str | Sequence[str],
    grey: bool,
    size: int,
    subject_pattern: str | None,
    leave_out: Sequence[str],
    check: bool,
    threads: int,
    progress: Progress | None = None,
) -> VideoSet:
    """Read a set of annotated videos.

    Args:
        videos: its annotations.
        choice: the frames to take.
        name, labels, grey, size, subject_pattern, leave_out, check, progress: as for `load_faces`.
        threads: that list folders and read files.

    Raises:
        DataError: unknown class names, images that cannot be listed, not one frame to use.
    """
    source = str(videos.root)
    try:
        wanted = _wanted(videos, leave_out)
        names, ids = match_classes(dict.fromkeys(wanted, videos.example), labels)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    table = _table(videos, [ids.get(each, -1) for each in videos.classes], subject_pattern, threads)
    taken = [choice.of_video(each, table.labelled(number)[0]) for number, each in enumerate(table.names)]
    video = np.repeat(np.arange(len(taken), dtype=np.int32), [len(numbers) for numbers in taken])
    frame = np.concatenate(taken)
    label = np.concatenate([table.labels[number][numbers - 1] for number, numbers in enumerate(taken)])
    if not len(label):
        raise DataError(f"{source}: none of {len(table.names):,} videos has a labelled frame with an image in {FACES}/")
    cut = not any(table.split)
    if cut:
        table = _cut(table, video, label, choice)
    if choice.limit is not None:
        split = np.array(table.split, "<U5")[video]
        rows = np.flatnonzero(limit_mask(label, split, choice.limit, choice.seed))
        video, frame, label = video[rows], frame[rows], label[rows]
    images = FrameImages(table.root, table.paths(video, frame))
    found = _look(_Found(images, len(video)), threads, progress) if check else _glance(images, video)
    sizes = set(found.sizes)
    height, width = sizes.pop() if len(sizes) == 1 else (size, size)
    faces = _frame_set(table, video, frame, label, found, (height, width, 1 if grey else 3), threads, name, names)
    if not (faces.label >= 0).any():
        path, status = faces.unreadable()[0]
        raise DataError(f"{source}: none of {len(label):,} frames can be used; the first, {path}: {status}")
    faces.report = _report(faces, videos, choice, cut)
    if len(wanted) < len(videos.classes):
        apart = [number for number, each in enumerate(videos.classes) if each not in wanted]
        count = sum(int(np.isin(annotation.labels, apart).sum()) for annotation in videos.annotations)
        told = ", ".join(videos.classes[number] for number in apart)
        faces.report.insert(
            2, f"classes left out: {told} ({number_of(count, 'frames')}, counted above among those without a label)"
        )
    read = [f"{class_name} = {names[i]}" for class_name, i in ids.items() if class_name != names[i]]
    if read:
        faces.report.insert(1, f"class names read as: {', '.join(read)}")
    return faces


def checked(faces: VideoSet, threads: int) -> VideoSet:
    """The set with each of its files read once, and those that are broken told, for a set that was read unchecked."""
    table, video, frame = faces.table, faces.video, faces.frame
    found = _look(_Found(FrameImages(table.root, table.paths(video, frame)), len(video)), threads, None)
    seen = _frame_set(table, video, frame, faces.label, found, faces.pixels.shape, threads, faces.name, faces.labels)
    seen.report = faces.report
    return seen


def every_image(faces: VideoSet, videos: np.ndarray, threads: int) -> VideoSet:
    """Each frame of some videos that has an image and a row in the annotation, labelled or not, by video and frame.

    Args:
        faces: the set; what was read of its files (see `checked`) is not read again.
        videos: int, positions in its table, sorted.
        threads: that read the files.
    """
    table = faces.table
    numbers = []
    for number in videos:
        there = table.frames[number].number
        numbers.append(there[(there >= 1) & (there <= len(table.labels[number]))])
    video = np.repeat(np.asarray(videos, np.int32), [len(each) for each in numbers])
    frame = np.concatenate([np.empty(0, np.int32), *numbers])
    label = np.concatenate([np.empty(0, np.int8), *(table.labels[v][n - 1] for v, n in zip(videos, numbers, strict=True))])
    found = _look(_known(faces, FrameImages(table.root, table.paths(video, frame)), video, frame), threads, None)
    return _frame_set(table, video, frame, label, found, faces.pixels.shape, threads, faces.name, faces.labels)


def _wanted(videos: Videos, leave_out: Sequence[str]) -> list[str]:
    """The classes that are read, as the annotations write them."""
    unwanted = class_names(leave_out)
    missing = sorted(unwanted - class_names(videos.classes))
    if missing:
        raise DataError(f"leave_out names {missing[0]!r}, which is none of its classes {', '.join(videos.classes)}")
    return [each for each in videos.classes if not class_names([each]) & unwanted]


def _table(videos: Videos, ids: Sequence[int], subject_pattern: str | None, threads: int) -> Table:
    names = [annotation.video for annotation in videos.annotations]
    with ThreadPoolExecutor(threads) as pool:
        frames = list(pool.map(lambda name: find_frames(videos.root, name), names))
        identity = list(pool.map(lambda pair: _identity(videos, *pair), zip(names, frames, strict=True)))
    recordings = [annotation.recording for annotation in videos.annotations]
    if subject_pattern is not None:
        recordings = [matched or own for matched, own in zip(subjects(names, subject_pattern), recordings, strict=True)]
    lookup = np.array([*ids, -1], np.int8)  # label -1 finds the last entry
    return Table(
        root=videos.root,
        classes=videos.classes,
        names=names,
        recordings=recordings,
        split=videos.split,
        labels=[lookup[annotation.labels] for annotation in videos.annotations],
        frames=frames,
        identity=identity,
        annotation=[annotation.digest for annotation in videos.annotations],
    )


def _identity(videos: Videos, name: str, frames: Frames) -> str:
    """The identity of a video's images, "" where it has none."""
    count = len(frames.number)
    if not count:
        return ""
    sampled = np.unique(np.linspace(0, count - 1, _SAMPLED).round().astype(int))
    digits, suffix = frames.form
    folder = videos.root / FACES / name
    digest = hashlib.blake2b(frames.number.astype("<i4").tobytes(), digest_size=16)
    for number in frames.number[sampled].tolist():
        try:
            image = decode_image(read_file(f"{folder}/{number:0{digits}d}{suffix}"), max_pixels=MAX_PIXELS)
        except ImageError:
            digest.update(b"unreadable")  # if the frame is used, reading it says why
        else:
            digest.update(pixel_hash(image).encode())
    return digest.hexdigest()


def _cut(table: Table, video: np.ndarray, label: np.ndarray, choice: Choice) -> Table:
    """Splits by video: recordings, and videos of the same images, stay whole."""
    group = group_ids(table.identity, table.recordings)
    split = assign_splits(label, group[video], choice.fractions, choice.seed)
    of_group = dict(zip(group[video].tolist(), split.tolist(), strict=True))
    return replace(table, split=[of_group.get(number, "") for number in group.tolist()])


class _Found:
    """What reading the files found: their sizes, checksums, and why single ones cannot be used."""

    def __init__(self, images: FrameImages, count: int) -> None:
        self.images = images
        self.sizes: set[tuple[int, int]] = set()
        self.content = np.zeros(count, np.uint32)
        self.broken: dict[int, str] = {}


def _look(found: _Found, threads: int, progress: Progress | None) -> _Found:
    """Read and decode each file once, as training and evaluation will, but those of which something was found already."""
    count = len(found.content)

    def look(block: int) -> None:
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, count)):
            if found.content[i] or i in found.broken:
                continue
            try:
                data = found.images.read(i)
                height, width, _ = decode_image(data, max_pixels=MAX_PIXELS).shape
            except ImageError as error:
                found.broken[i] = str(error)
            else:
                found.sizes.add((height, width))
                found.content[i] = zlib.crc32(data)

    told: Callable[[int, int], None] | None = None
    if progress is not None:

        def told(blocks: int, _: int) -> None:
            progress(min(blocks * _BLOCK, count), count)

    run_chunks(look, range(-(-count // _BLOCK)), threads, told)
    return found


def _glance(images: FrameImages, video: np.ndarray) -> _Found:
    """The sizes of one frame a video; nothing else is read."""
    found = _Found(images, len(video))
    for first in np.unique(video, return_index=True)[1]:
        try:
            found.sizes.add(images.shape(int(first))[:2])
        except ImageError:
            continue  # whoever asks for the frame learns why
    return found


def _known(faces: VideoSet, images: FrameImages, video: np.ndarray, frame: np.ndarray) -> _Found:
    """What a set has of some frames already, and the sizes of one a video."""
    found = _glance(images, video)
    there, asked = (v.astype(np.int64) << 32 | f for v, f in ((faces.video, faces.frame), (video, frame)))
    _, old, new = np.intersect1d(there, asked, assume_unique=True, return_indices=True)
    found.content[new] = faces.content[old]
    bad = ~faces.readable[old]
    found.broken = {int(i): faces.status[k] for i, k in zip(new[bad], old[bad], strict=True)}
    return found


def _frame_set(
    table: Table,
    video: np.ndarray,
    frame: np.ndarray,
    label: np.ndarray,
    found: _Found,
    shape: tuple[int, int, int],
    threads: int,
    name: str,
    labels: tuple[str, ...],
) -> VideoSet:
    count = len(video)
    reasons = [OK, *sorted(set(found.broken.values()))]
    status = np.zeros(count, np.int32)
    for row, reason in found.broken.items():
        status[row] = reasons.index(reason)
    readable = status == 0
    largest = max((height * width for height, width in found.sizes), default=0)
    return VideoSet(
        name=name,
        source=printable(str(table.root)),
        layout=LAYOUT,
        labels=labels,
        paths=table.paths(video, frame, text=True),
        label=np.where(readable, label, np.int8(-1)),
        split=np.array(table.split, "<U5")[video],
        subject=Repeated(list(map(printable, table.recordings)), video),
        pixel_hash=Repeated(table.identity, video),
        status=Repeated(reasons, status),
        pixels=StreamedPixels(
            found.images,
            None,
            shape,
            readable,
            Repeated([shape], np.zeros(count, np.int8)),
            1 if largest <= _SMALL else threads,
        ),
        report=[],
        constant=np.zeros(count, bool),
        table=table,
        video=video,
        frame=frame,
        content=found.content,
    )


def _report(faces: VideoSet, videos: Videos, choice: Choice, cut: bool) -> list[str]:
    table = faces.table
    height, width, channels = faces.pixels.shape
    rows = [len(labels) for labels in table.labels]
    unlabelled = sum(int((labels < 0).sum()) for labels in table.labels)
    missing = {name: table.labelled(number)[1] for number, name in enumerate(table.names)}
    without = {name: numbers for name, numbers in missing.items() if len(numbers)}
    gone = sum(map(len, without.values()))
    skipped = sum(rows) - unlabelled - gone - len(faces.video)
    lines = [
        f"{faces.name} = {faces.source}: {LAYOUT}, {len(table.classes)} classes, {number_of(len(table.names), 'videos')}, "
        f"{number_of(len(faces.video), 'frames')}, {'grey' if channels == 1 else 'RGB'} {width} x {height}, "
        f"read from disk when needed",
        f"frames: {sum(rows):,} annotated = {len(faces.video):,} taken + {skipped:,} skipped + {unlabelled:,} without a label "
        f"(-1) + {gone:,} labelled but without an image",
    ]
    if skipped:
        asked = f"every = {choice.every}, frames_per_video = {choice.frames_per_video}, limit = {choice.limit or 'none'}"
        lines.append(f"skipped because of {asked}, seed {choice.seed}: {skipped:,}")
    if without:
        named = [f"{name} {len(numbers):,} ({and_more(ranges(numbers).split(), 2)})" for name, numbers in without.items()]
        lines.append(
            Notice(
                f"without an image: {number_of(gone, 'labelled frames')} of "
                f"{number_of(len(without), 'videos')}: {and_more(named)}"
            )
        )
    beyond = [f"{name} {table.beyond(number):,}" for number, name in enumerate(table.names) if table.beyond(number)]
    if beyond:
        lines.append(Notice(f"images beyond the rows of the annotation, so left out: {and_more(beyond)}"))
    others = [f"{name}/{other}" for name, frames in zip(table.names, table.frames, strict=True) for other in frames.others]
    if others:
        lines.append(Notice(f"no numbered images, so left out: {number_of(len(others), 'files')} ({and_more(others)})"))
    apart = without_annotation(videos)
    if apart:
        lines.append(Notice(f"folders in {FACES}/ without an annotation, so left out: {len(apart):,} ({and_more(apart)})"))
    if cut:
        shares = " / ".join(f"{fraction:.0%}" for fraction in choice.fractions)
        lines.append(
            f"no splits in the source: cut {shares} into train, val, test by recording, stratified, seed {choice.seed}"
        )
    else:
        lines.append(f"splits read as: {', '.join(f'{folder} = {SPLITS[folder]}' for folder in videos.folders)}")
    lines += counts_table(faces.counts())
    lines += _twice(table)
    bad = [f"{path}: {status}" for path, status in faces.unreadable()]
    if bad:
        lines.append(Notice(f"unreadable, so left out: {len(bad):,} ({and_more(bad)})"))
    return lines


def _twice(table: Table) -> list[str]:
    """Lines on recordings and on equal images that stand in more than one split."""
    lines = []
    for column, told in ((table.recordings, "recordings of which videos"), (table.identity, "videos whose images")):
        of: dict[str, list[int]] = {}
        for number, key in enumerate(column):
            if key:
                of.setdefault(key, []).append(number)
        several = [each for each in of.values() if len({table.split[number] for number in each}) > 1]
        if several:
            named = [" and ".join(f"{table.names[i]} ({table.split[i]})" for i in each) for each in several]
            lines.append(f"{told} stand in more than one split: {len(several):,} ({and_more(named)})")
    return lines
