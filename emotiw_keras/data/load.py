"""Any data set in a known layout, read once: labels, splits, identities, pixels, and a report of what was decided."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from emotiw_keras.arguments import finite_number, whole_number, whole_or_none
from emotiw_keras.data import duplicates
from emotiw_keras.data.archive import printable
from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import OK, FaceSet, Progress
from emotiw_keras.data.images import MIN_SIDE
from emotiw_keras.data.layouts import Listing, Videos, find_layout
from emotiw_keras.data.layouts.drawn import is_generated
from emotiw_keras.data.layouts.listing import and_more, without_classes
from emotiw_keras.data.missing_splits import VAL_SHARE, MissingSplits, check_val_share
from emotiw_keras.data.near.groups import find_twins
from emotiw_keras.data.near.pairs import WORTH_KEEPING
from emotiw_keras.data.near.threshold import THRESHOLD, check_threshold
from emotiw_keras.data.pixel_pass import read_pixels
from emotiw_keras.data.splits import Folds, check_fractions, counts_table, limit_mask, subjects
from emotiw_keras.data.video_reading import Choice, read_videos
from emotiw_keras.data.votes import check_votes, join_votes, share_votes
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.labels import match_classes
from emotiw_keras.talk import Notice
from emotiw_keras.text import briefly, number_of


def load_faces(
    path: str | os.PathLike[str],
    *,
    name: str = "data",
    labels: str | Sequence[str] = "basic7",
    grey: bool = True,
    size: int = 256,
    memory_budget: float | None = None,
    subject_pattern: str | None = None,
    leave_out: Sequence[str] = (),
    every: int = 1,
    frames_per_video: int = 0,
    check: bool = True,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    folds: Folds | None = None,
    val_share: float = VAL_SHARE,
    seed: int = 0,
    limit: int | None = None,
    workers: int | None = None,
    seconds: float | None = None,
    near_duplicates: float = THRESHOLD,
    votes: str | os.PathLike[str] | None = None,
    votes_rows: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> FaceSet:
    """Read a data set in any known layout.

    Args:
        path: a folder, a zip, a CSV or list, in any layout of `layouts.TABLE`; "generated:large" or "generated:small" for faces
            that the package draws. `~` is the home folder.
        name: what errors and the report call it.
        labels: a name in `labels.LABEL_SETS`, "folder" for any class names (sorted; spellings of one name are one class), or
            the labels in order.
        grey: hold one channel, else three (RGB).
        size: side in pixels that a set of mixed sizes is brought to; a set of one size keeps it, unless it has more pixels:
            resizing on the host gives the same bytes, once instead of in each epoch.
        memory_budget: bytes the pixels may take in memory; above it they are packed into a file in the cache folder that goes
            with the process, or, where the disk has no room, decoded again in each epoch. Default: `HELD_BYTES`, and where
            the disk has no room half of the available memory.
        subject_pattern: a regular expression for the person, on file names, or on paths if it holds a "/". A `subject` column
            has precedence over it; what names of folders and files look like has not. "none" is nobody.
        leave_out: classes that are not read, in any of their usual spellings; they are counted in the report.
        every: of a set of videos, take the frames of every so manieth number; from which on, the seed and the video decide.
        frames_per_video: of a set of videos, take at most so many of each, drawn from the seed; 0 takes all.
        check: of a set of videos, decode each file once before it is used; otherwise a broken one is found when it is.
        fractions: shares of train, val and test where the source has no splits.
        folds: cut into folds instead of by `fractions`: by person where every image's is known, else stratified, known persons,
            duplicates and near duplicates together.
        val_share: share of train that becomes val where the source names train and no val, by person where known; 0 is none.
        seed: of the split, of `limit` and of the frames taken of a video.
        limit: images per split, stratified.
        workers: threads that decode. Default: one for each processor.
        seconds: look at images for about so long and take the others on trust, for an estimate: what they are is read when
            they are asked for, and neither duplicates nor broken files among them are known. The report says how many.
        near_duplicates: correlation, once aligned, from which two images count as one photograph, 0.95 to 1; a cut of the set
            keeps them on one side. What is found is kept in the cache. 0 does not look for them; nor is it done for videos, nor
            with `seconds` for sets of 2,000 images or more.
        votes: FER+'s `fer2013new.csv`, for a set that is FER-2013: then the set has `votes` beside its own labels.
        votes_rows: a table file,row that says which row of `votes`, from 0, is which image of the set; needed where the set
            is in files with names of their own, as neither their names nor their order tell it.
        progress: called with (images done, images in all).
        say: takes a line before near duplicates are looked for in a large set, which takes a minute or two, once.

    Returns:
        The set: `labels`, `splits`, `counts()`, `report` (what was decided, in lines), `dataset(split, batch_size=...)`.

    Raises:
        DataError: missing, empty or damaged source, unknown layout or class names, a single class, nothing readable.
        UsageError: an argument that cannot be meant.

    Example:
        >>> faces = load_faces("generated:small", limit=14)
        >>> faces.labels[:2], faces.counts()["val"]["happy"]
        (('angry', 'disgust'), 2)
    """
    every, frames_per_video = whole_number("every", every, 1), whole_number("frames_per_video", frames_per_video, 0)
    limit, workers = whole_or_none("limit", limit, 1), whole_or_none("workers", workers, 1)
    size, seed = whole_number("size", size, MIN_SIDE), whole_number("seed", seed, 0)
    if isinstance(memory_budget, float) and memory_budget.is_integer():  # as in 2e9
        memory_budget = int(memory_budget)
    memory_budget = whole_or_none("memory_budget", memory_budget, 0)
    seconds = None if seconds is None else finite_number("seconds", seconds, 0)
    val_share = finite_number("val_share", 0 if val_share is False else val_share, 0)
    if val_share >= 1:
        raise UsageError(f"val_share = {val_share}: expected a share of train, from 0 (which cuts none) to below 1")
    fractions = check_fractions(fractions)
    near_duplicates = check_threshold(near_duplicates)
    if not isinstance(folds, Folds | None):
        raise UsageError(f"folds = {briefly(folds)}: expected Folds, such as Folds(5, test=0)")
    check_votes(votes, votes_rows)
    threads = workers or os.cpu_count() or 1
    found = find_layout(path, limit)
    if isinstance(found, Videos):
        if votes is not None:
            raise UsageError(f"{path} is a set of videos, which no votes belong to; leave votes out")
        if folds is not None:
            raise UsageError(f"{path} is a set of videos, which is cut by recording; folds over persons are for sets of images")
        check_val_share(val_share, f"{path} is a set of videos")
        return read_videos(
            found,
            Choice(every, frames_per_video, limit, fractions, seed),
            name=name,
            labels=labels,
            grey=grey,
            size=size,
            subject_pattern=subject_pattern,
            leave_out=leave_out,
            check=check and seconds is None,
            threads=threads,
            progress=progress,
        )
    if every != 1 or frames_per_video:
        raise UsageError(f"{path} is no set of videos: every = {every} and frames_per_video = {frames_per_video} choose frames")
    if votes is not None:
        join_votes(found, path, votes, votes_rows)
    listing = without_classes(found, leave_out, path)
    names, label = _labels(listing, labels, path, name)
    missing = MissingSplits(listing.split, fractions, folds, val_share, seed, path)
    rows = np.arange(len(label))
    if limit is not None and not missing:
        rows = np.flatnonzero(limit_mask(label, np.array(listing.split), limit, seed))
    subject = _subjects(listing, subject_pattern)
    pixels, seen = read_pixels(listing, rows, grey, size, memory_budget, threads, progress, seconds)
    usable = np.array([status == OK for status in seen.status], bool)
    faces = FaceSet(
        name=name,
        source=printable(os.fspath(path)),
        layout=listing.layout,
        labels=names,
        paths=[listing.names[i] for i in rows],
        label=np.where(usable, label[rows], -1),
        split=np.array(listing.split, dtype="<U5")[rows],
        subject=[subject[i] for i in rows],
        guessed_persons=bool(listing.guess) and subject_pattern is None,
        pixel_hash=seen.digest,
        status=seen.status,
        pixels=pixels,
        report=[],
        constant=seen.constant,
        reading=listing.reading,
        votes=None if listing.votes is None else listing.votes[rows],
    )
    if subject_pattern is None and listing.guess:
        listing.notes.append(listing.guess)
    if faces.votes is not None and (shared := share_votes(faces.votes, seen.digest)):
        listing.notes.append(f"votes of an equal image taken for {number_of(shared, 'images')} without")
    if not usable.any():
        first = f"{faces.paths[0]}: {faces.status[0]}"
        raise DataError(f"{path}: none of {len(rows):,} images can be used; the first, {first}")
    if lost := [names[i] for i in sorted({*label[rows].tolist()} - {*faces.label[usable].tolist()})]:
        listing.notes.append(Notice(f"classes of which no image can be used: {and_more(lost)}"))
    whole = seconds is None or (usable.sum() < WORTH_KEEPING and all(pick(seen.digest, np.flatnonzero(usable))))
    if near_duplicates and whole and not is_generated(path):  # every drawn face is another one
        faces.near = find_twins(faces, near_duplicates, say)
    cut = missing.fill(faces) if missing else ""
    if limit is not None and missing:
        faces = faces.take(np.flatnonzero(limit_mask(faces.label, faces.split, limit, seed) | ~usable))
    faces.report = _report(faces, listing, cut, None if limit is None else (limit, len(listing.names)))
    return faces


def _labels(listing: Listing, labels: str | Sequence[str], path: object, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    # Labels that a run brings along cannot be changed by a setting of a recipe.
    remedy = (
        f"--set 'source.{name}.leave_out={{names}}'"
        if isinstance(labels, str)
        else "leave_out = {names} in Python, or by a copy without them"
    )
    try:
        names, ids = match_classes(listing.first_seen(), labels, remedy)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if len(set(ids.values())) < 2:
        only = next(iter(ids))
        number = f"{len(listing.names):,}"
        raise DataError(f"{path}: only one class, {only!r}, in all {number} images; expected at least two")
    read = [f"{class_name} = {names[i]}" for class_name, i in sorted(ids.items()) if class_name != names[i]]
    if read:
        listing.notes.append(f"class names read as: {', '.join(read)}")
    return names, np.array([ids[class_name] for class_name in listing.classes], np.int64)


def _subjects(listing: Listing, pattern: str | None) -> list[str]:
    if pattern is None:
        return listing.subject
    found = subjects(listing.names, pattern)
    if listing.guess:
        return found
    return [given or matched for given, matched in zip(listing.subject, found, strict=True)]


def _report(faces: FaceSet, listing: Listing, cut: str, limit: tuple[int, int] | None) -> list[str]:
    """What was decided, in lines: `cut` is what was done about splits, `limit` how many a split and how many there are."""
    height, width, channels = faces.pixels.shape
    held = (
        f"{faces.pixels.nbytes / 2**20:,.1f} MiB in memory" if faces.pixels.in_memory else "read from disk as they are needed"
    )
    kind = "grey" if channels == 1 else "RGB"
    title = f"{faces.name} = {faces.source}: {faces.layout}, {number_of(len(faces.paths), 'images')}"
    lines = [f"{title}, {kind} {width} x {height}, {held}", *listing.notes]
    if limit is not None:
        lines.append(f"limit: at most {limit[0]:,} a split, {len(faces.paths):,} of {limit[1]:,} taken")
    if cut:
        lines.append(cut)
        aside = int(((faces.split == "") & (faces.label >= 0)).sum())
        if aside:
            lines.append(f"in folds that are left aside: {number_of(aside, 'images')}")
    unknown = sum(not person for person in faces.subject)
    if 0 < unknown < len(faces.subject):
        lines.append(f"person unknown: {number_of(unknown, 'images')}")
    lines += counts_table(faces.counts())
    if unknown < len(faces.subject):
        shown = {split: set(pick(faces.subject, np.flatnonzero(faces.split == split))) - {""} for split in faces.counts()}
        lines.append(f"persons: {', '.join(f'{len(who):,} in {split}' for split, who in shown.items())}")
    lines += duplicates.describe(faces)
    bad = [f"{path}: {status}" for path, status in faces.unreadable()]
    if bad:
        lines.append(Notice(f"unreadable, so left out: {len(bad):,} ({and_more(bad)})"))
    return lines
