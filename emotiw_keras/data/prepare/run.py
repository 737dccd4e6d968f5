"""`prepare`: all images of a data set, in parallel, so that a kill at any moment costs a few images and no half file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from emotiw_keras.arguments import whole_number
from emotiw_keras.data.contact_sheet import write_contact_sheets
from emotiw_keras.data.layouts.listing import and_more
from emotiw_keras.data.layouts.prepared import FACES_COLUMNS, FACES_FILE, SETTINGS_FILE, VIDEO_COLUMNS
from emotiw_keras.data.near.threshold import THRESHOLD, check_threshold
from emotiw_keras.data.prepare.face_settings import Settings
from emotiw_keras.data.prepare.faces import Row
from emotiw_keras.data.prepare.journal import Journal
from emotiw_keras.data.prepare.near import SHEET, TABLE, list_near_duplicates
from emotiw_keras.data.prepare.source import Source, find_images
from emotiw_keras.data.prepare.summary import Summary, summarise
from emotiw_keras.data.prepare.workers import Job, outcomes
from emotiw_keras.errors import OutputError, RunError, UsageError
from emotiw_keras.faces.detectors import EDITION
from emotiw_keras.faces.face import Detector
from emotiw_keras.files import local_path, read_regular, real, write_atomic
from emotiw_keras.hardware import processor_threads
from emotiw_keras.locking import is_unfinished, locked, sweep
from emotiw_keras.sealed import LARGEST, strict_json
from emotiw_keras.talk import Notice
from emotiw_keras.text import csv_text, number_of

SUMMARY_FILE = "summary.json"
_FORMAT = 1
_FILES = "|".join(map(re.escape, (FACES_FILE, SETTINGS_FILE, SUMMARY_FILE, TABLE, SHEET)))
_OWN = re.compile(rf"{_FILES}|contact_sheet(_.*)?\.jpg", re.IGNORECASE | re.DOTALL)

Progress = Callable[[int, int], None]


def prepare(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    detector: str | Detector | None = None,
    faces: str = "largest",
    no_face: str = "skip",
    reading: str = "B",
    frames: int = 8,
    near_duplicates: float = THRESHOLD,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Find, align and cut out the faces of a data set: one grey 256x256 PNG a face, below the same folders.

    Beside them `faces.csv` (one row a face, and one an image without), `contact_sheet_CLASS.jpg`, `summary.json`,
    `prepare.json` with the settings, and of faces that show one photograph nearly the same `near_duplicates.csv` and
    `near_duplicates.jpg`. Called again, it does what is missing or has changed in the source; the result does not
    depend on the number of workers nor on how often it was interrupted.

    Args:
        src: a folder (class folders, splits of class folders, SFEW, or neither), a zip, a manifest CSV or one image; or
            videos: SAVEE's, eNTERFACE'05's, or in class folders. Their rows have a speaker (`subject`) and a `frame` besides.
        out: a new or empty folder, or that of an earlier call with the same settings.
        detector: a detector, its name (`faces.DETECTORS`), or None for the default.
        faces: of several faces in an image take the "largest", "all", or the most "central".
        no_face: "skip" an image without a face, or take its "centre" square; the status of its row says so.
        reading: what the crop spans (`faces.alignment.READINGS`).
        frames: taken from each video, evenly spread.
        near_duplicates: correlation, once aligned, from which two faces are listed as one photograph; 0 does not look.
        workers: processes; default: one for each processor.
        progress: called with (images done, images in all).
        say: called with lines for a person.

    Returns:
        Coverage by class and split, and what could not be read.

    Raises:
        DataError: the source is missing, damaged or without images.
        UsageError: a choice that does not exist, or one folder inside the other.
        ModelError: what the detector needs is missing.
        RunError: `out` holds other things, faces of images of another place which `src` lacks, or was made with other settings.
        OutputError: `out` cannot be written.

    Example:
        >>> prepare("SFEW", "aligned").total.coverage  # doctest: +SKIP
        0.97
    """
    tell = say or (lambda line: None)
    frames = whole_number("frames", frames, 1)
    near_duplicates = check_threshold(near_duplicates)
    folder = local_path(out)
    source = find_images(src)
    settings = Settings(_name(detector), faces, no_face, reading, frames=frames if source.videos else 0)
    _check_apart(source, local_path(src), folder)
    _check_names(source)
    for note in source.notes:
        tell(note)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{out} is a file; name a folder for the faces")
    _check_empty_or_ours(folder)
    with locked(folder, lambda: tell(Notice(f"another process prepares faces in {out}; waiting for it"))):
        _check_empty_or_ours(folder)
        journal = Journal(folder)
        alike = _claim(folder, journal, source, local_path(src), settings)
        return _prepare(source, folder, journal, settings, detector, near_duplicates, workers, progress, tell, alike)


def _prepare(
    source: Source,
    folder: Path,
    journal: Journal,
    settings: Settings,
    detector: str | Detector | None,
    near_duplicates: float,
    workers: int | None,
    progress: Progress | None,
    tell: Callable[[str], None],
    alike: bool,
) -> Summary:
    sweep(folder)
    rows_of = journal.usable(source.items)
    todo = [item for item in source.items if item.index not in rows_of]
    total = len(source.items)
    if rows_of:
        tell(f"{len(rows_of):,} of {total:,} images are done already" + ("" if todo else ": nothing left to do"))
        if todo and not alike:
            told = "by an earlier version, which found and cut faces slightly otherwise"
            tell(Notice(f"warning: they were made {told}; for faces that are all made alike, name a new folder"))
    job = Job(real(source.path), real(folder), settings, None if isinstance(detector, str) else detector)
    seconds: dict[str, float] = {}
    passing = set()
    noted = defaultdict[str, list[str]](list)
    with journal:
        for outcome in outcomes(job, todo, workers or processor_threads()):
            rows_of[outcome.index] = outcome.rows
            if outcome.lasting:
                journal.add(source.items[outcome.index], outcome.rows)
            else:
                passing.add(outcome.index)
            for name, value in outcome.seconds.items():
                seconds[name] = seconds.get(name, 0.0) + value
            for note in outcome.notes:
                noted[note].append(source.items[outcome.index].path)
            if progress is not None:
                progress(len(rows_of), total)
    for note, paths in sorted(noted.items()):
        tell(Notice(f"{note}: {number_of(len(paths), 'images')} ({and_more(sorted(paths))})"))
    ordered = [rows_of[item.index] for item in source.items]
    outputs = {row["output"] for rows in ordered for row in rows}
    if removed := journal.remove_all_but(outputs):
        tell(Notice(f"images that are gone or have changed: {number_of(removed, 'faces')} of them removed"))
    journal.rewrite([item for item in source.items if item.index not in passing], rows_of)
    write_atomic(folder / FACES_FILE, _table(ordered))
    write_contact_sheets(folder, [row for rows in ordered for row in rows])
    cut = [row["output"] for rows in ordered for row in rows if row["output"]]
    found = list_near_duplicates(folder, cut, near_duplicates)
    if found is None or not len(found):
        tell(f"near duplicates: {'not looked for' if found is None else 'none'}")
    else:
        tell(f"near duplicates: {len(found):,} pairs of faces show one photograph nearly the same: {folder / SHEET}, {TABLE}")
    summary = summarise(ordered)
    write_atomic(folder / SUMMARY_FILE, json.dumps(summary.as_dict(), indent=1) + "\n")
    summary.new, summary.seconds = len(todo), seconds
    return summary


def _name(detector: str | Detector | None) -> str:
    if detector is not None and not isinstance(detector, str):
        return detector.name
    from emotiw_keras.faces.detectors import DEFAULT, DETECTORS

    name = detector or DEFAULT
    if name not in DETECTORS:
        raise UsageError(f"unknown detector {name!r}; known: {', '.join(DETECTORS)}")
    return name


def _check_apart(source: Source, given: Path, folder: Path) -> None:
    """Refuse a folder for the faces in which photos lie, or that lies in the folder of photos which was given."""
    inner, outer = real(folder), real(given)
    places = {outer}
    if source.path.is_dir() and not given.is_dir():  # a photo, or a manifest, which is no matter for what else lies beside it
        places |= {real(each) for each in {(source.path / item.member).parent for item in source.items}}
    if (outer.is_dir() and outer in inner.parents) or any(inner == each or inner in each.parents for each in places):
        raise UsageError(f"{folder} and {given} lie one in the other; name a folder for the faces beside the photos")


def _check_names(source: Source) -> None:
    for item in source.items:
        top, slash, _ = item.stem.partition("/")
        if slash and _OWN.fullmatch(top):
            raise UsageError(f"{source.path}: its folder {top!r} is called like a file that prepare writes; rename it")


def _check_empty_or_ours(folder: Path) -> None:
    if not folder.is_dir() or (folder / SETTINGS_FILE).exists():
        return
    names = sorted(name for name in os.listdir(folder) if not is_unfinished(name))
    if names:
        raise RunError(f"{folder} holds other things ({names[0]} ...); name a new folder for the faces")


def _claim(folder: Path, journal: Journal, source: Source, given: Path, settings: Settings) -> bool:
    """Write down whose faces, and how they are made, stand here; refuse where others do, of which nothing is changed then.

    Returns:
        Whether those that are there were found as they are now; a folder that has some of both stays one of the earlier kind.
    """
    file = folder / SETTINGS_FILE
    # A hash, as a prepared folder may be passed on.
    place = hashlib.sha256(os.fsencode(real(given))).hexdigest()[:32]
    wanted: dict[str, Any] = {"format": _FORMAT, "edition": EDITION, "source": source.name, **settings.as_dict()}
    wanted["place"] = place
    found = _stored(file) if file.exists() else {}
    if outputs := journal.outputs():
        wanted["edition"] = found.get("edition", 0)
        free = {"edition", "place"}
        if not journal.has_frames:
            free.add("frames")
        elif "frames" in found:  # the last film may have gone, whose faces still stand here
            wanted.setdefault("frames", found["frames"])
        names = [name for name in {**wanted, **found} if name not in free and found.get(name) != wanted.get(name)]
        changed = [f"{name} {found.get(name)!r}, now {wanted.get(name)!r}" for name in names]
        if changed:
            raise RunError(f"{folder} was made otherwise ({'; '.join(changed)}); name another folder, or the same choices")
    journal.keep_below(source.locked)
    gone = journal.outputs_of_others(source.items)
    # Where an earlier version did not write down the place, images are others if none is one of those.
    if gone and found.get("place") != place and ("place" in found or len(gone) == len(outputs)):
        held = f"{folder} holds {number_of(len(gone), 'faces')} of images of another place that {given} has not"
        raise RunError(f"{held}, which would be removed; name another folder for the faces of {given}")
    if found != wanted:
        if not outputs and any(found.get(name) != wanted.get(name) for name in settings.as_dict()):
            journal.forget()  # images without a face, which may have one as it is looked for now
        write_atomic(file, json.dumps(wanted, indent=1) + "\n")
    return bool(wanted["edition"] == EDITION)


def _stored(file: Path) -> dict[str, Any]:
    try:
        found = strict_json(read_regular(file, LARGEST))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged: {error}; remove its folder, or name another") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise RunError(f"{file} is not of this version; name another folder for the faces")
    return found


def _table(rows_of: Sequence[Sequence[Row]]) -> str:
    further = any(row.get(column) for rows in rows_of for row in rows for column in VIDEO_COLUMNS)
    columns = [*FACES_COLUMNS, *(VIDEO_COLUMNS if further else ())]
    return csv_text([columns, *([row.get(column, "") for column in columns] for rows in rows_of for row in rows)])
