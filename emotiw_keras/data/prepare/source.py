"""The images of a raw data set: where each lies, its class and split by its folders, and what its faces will be called."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emotiw_keras.data.archive import Archive, ArchiveImages, FolderArchive, ZipArchive, bounded, is_image, printable
from emotiw_keras.data.layouts import find_layout
from emotiw_keras.data.layouts.file_names import told_by_names
from emotiw_keras.data.layouts.folders import below_common_folder, classes_and_persons, place_of, split_of
from emotiw_keras.data.layouts.listing import Listing, and_more
from emotiw_keras.data.layouts.text_tables import SUFFIXES
from emotiw_keras.data.prepare.acted_videos import find_speech
from emotiw_keras.data.video_files import is_video
from emotiw_keras.errors import DataError
from emotiw_keras.files import local_path, real
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

# Names of a second and third face, and of a film's frames; an image that is itself called so keeps its suffix, so that the two
# stay apart.
_FURTHER_FACE = re.compile(r"(\.face\d+|\.f\d{5,})$", re.IGNORECASE)
_LONGEST = 200  # bytes of a file's name; 255 is the usual limit, and a name grows while it is written


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        index: its place in the order of the source.
        member: its name as the archive reads it.
        path: the same for a person and a table (undecodable bytes written as escapes).
        label: its class folder as written, "" if it has none.
        split: "train", "val", "test" or "".
        stem: relative name, without suffix, of the faces cut out of it.
        state: changes when the file does.
        subject: the person, or the speaker of a video, "" if unknown.
        frame: of a video, where one frame is meant.
    """

    index: int
    member: str
    path: str
    label: str
    split: str
    stem: str
    state: str
    subject: str = ""
    frame: int | None = None


@dataclass(frozen=True)
class Source:
    """A raw data set: `path` as an archive opens it, its `name`, its images and videos in order, remarks for a person, and the
    folders among its images, which cannot be read."""

    path: Path
    name: str
    items: list[Item]
    notes: list[str]
    videos: bool = False
    locked: tuple[str, ...] = ()


def open_for_reading(path: Path) -> Archive:
    """The archive of a source, without listing a folder again."""
    return FolderArchive(path, walk=False, outward=True) if path.is_dir() else ZipArchive(path)


def find_images(path: str | os.PathLike[str]) -> Source:
    """List the images and videos of a folder (class folders, splits of class folders, SFEW, or none), a zip, a manifest or one
    file.

    The videos of SAVEE and eNTERFACE'05 are known by their names; beside them images that lie in no class folder are left out.

    Raises:
        DataError: missing or unreadable, or without images and videos.
    """
    given = local_path(path)
    try:
        given.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a folder of photos, a zip or a photo") from error
    if not (given.is_dir() or given.is_file()):
        raise DataError(f"{path} is neither a file nor a folder; give a folder of photos, a zip or a photo")
    if given.is_dir():
        return _from_archive(FolderArchive(given, outward=True, whole=False), given)
    if given.suffix.lower() in SUFFIXES:
        listing = find_layout(given)
        images = listing.images if isinstance(listing, Listing) else None
        if listing.layout != "manifest" or not isinstance(listing, Listing) or not isinstance(images, ArchiveImages):
            raise DataError(f"{path}: a table of {listing.layout}, whose faces are cut out already; give photos")
        films = any(map(is_video, images.members))
        told = listing.classes, listing.split, listing.notes, listing.subject
        return _source(given.parent, given.name, images.members, *told, videos=films)
    if given.suffix.lower() == ".zip" or (not is_image(given.name) and zipfile.is_zipfile(given)):
        return _from_archive(ZipArchive(given), given)
    real = Path(os.path.realpath(given))
    return _source(real.parent, given.name, [real.name], [""], [""], [], videos=is_video(given.name))


def _from_archive(archive: Archive, path: Path) -> Source:
    videos = [name for name in archive.names if is_video(name)]
    photos = [name for name in archive.names if is_image(name)]
    speech = find_speech(videos, photos) if videos else None
    members = list(speech.videos) if speech is not None else sorted([*photos, *videos])
    taken = {*members, *videos}
    others = [name for name in archive.names if name not in taken] + archive.left_out
    if not members and archive.locked:
        name, reason = next(iter(archive.locked.items()))
        raise DataError(f"cannot read {path / name}: {reason}; check its permissions")
    if not members:
        saw = f"{number_of(len(others), 'other files')} ({and_more(others)})" if others else "no files"
        raise DataError(f"{path}: no images and no videos: saw {saw}")
    notes: list[str] = (
        [Notice(f"no images or videos, so left out: {number_of(len(others), 'files')} ({and_more(others)})")] if others else []
    )
    if speech is not None:
        labels, subjects = ([speech.videos[member][i] for member in members] for i in (0, 1))
        notes = [*speech.notes, *(Notice(note.replace("no images or videos", f"not {speech.name}")) for note in notes)]
        depth = below_common_folder(members)
        splits = [split_of(member.split("/")[depth]) or "" for member in members]
    else:
        labels, splits, subjects, told = _classes(members)
        notes += told
    # Folders that cannot be read stand last, as images without a class, so that they change no name of another's faces.
    locked = sorted(archive.locked)
    labels, splits, subjects = ([*column, *[""] * len(locked)] for column in (labels, splits, subjects))
    source = _source(path, real(path).name, [*members, *locked], labels, splits, notes, subjects, videos=bool(videos))
    return replace(source, locked=tuple(map(printable, locked)))


def _classes(members: Sequence[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """Class, split and person of each image by its folders or its name, "" where they do not tell; and what was read how."""
    depth = below_common_folder(list(members))
    tops = {parts[0] for member in members if len(parts := member.split("/")[depth:]) > 1}
    has_splits = any(split_of(top) for top in tops)
    by_name = told_by_names([member.rpartition("/")[2] for member in members])
    if by_name is not None and not has_splits:
        note = f"classes and persons read from file names as {by_name[0]} writes them"
        return [each for each, _ in by_name[1]], [""] * len(members), [person for _, person in by_name[1]], [note]
    labels, splits, inside = [], [], []
    for member in members:
        parts = member.split("/")[depth:]
        place = place_of(member, depth) if has_splits else None
        labels.append(parts[0] if place is None and len(parts) > 1 else "" if place is None else place.class_name)
        splits.append((split_of(place.folder.split("/")[0]) or "") if place is not None and len(parts) > 1 else "")
        inside.append(parts if place is None else parts[place.folder.count("/") + 1 :])
    subjects, note = [""] * len(members), ""
    labelled = [i for i, label in enumerate(labels) if label]
    if labelled:
        classes, persons, note = classes_and_persons([inside[i] for i in labelled])
        for i, name, person in zip(labelled, classes, persons, strict=True):
            labels[i], subjects[i] = name, person
    return labels, splits, subjects, [note] if note else []


def _source(
    path: Path,
    name: str,
    members: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    notes: list[str],
    subjects: Sequence[str] | None = None,
    videos: bool = False,
) -> Source:
    paths = [printable(member) for member in members]
    stems = output_stems(paths)
    states = _states(path, members)
    persons = list(map(printable, subjects)) if subjects is not None else [""] * len(members)
    rows = zip(members, paths, map(printable, labels), splits, stems, states, persons, strict=True)
    return Source(path, printable(name), [Item(i, *row) for i, row in enumerate(rows)], list(notes), videos)


def _states(path: Path, members: Sequence[str]) -> list[str]:
    """Size, time of its bytes and time of change of each file, or of the zip that holds it. `cp -p`, `rsync -t` and unpacking
    set the second back to what it was; the third no one sets.
    """

    def state(file: Path) -> str:
        try:
            facts = file.stat()
        except OSError as error:
            return f"unreadable: {error.strerror}"
        return f"{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"

    return [state(path / member) for member in members] if path.is_dir() else [state(path)] * len(members)


def output_stems(paths: Sequence[str]) -> list[str]:
    """Relative names for what is cut out of each image: its own without the suffix, and with it where two would meet.

    Names differ in more than upper and lower case, and stay within what file systems take.

    Example:
        >>> output_stems(["happy/a.jpg", "happy/a.png", "happy/b.png"])
        ['happy/a', 'happy/a.png', 'happy/b']
    """
    paths = list(map(bounded, paths))
    # A face and a folder of the same name cannot lie in one folder.
    folders = {path[:end].casefold() for path in paths for end, letter in enumerate(path) if letter == "/"}
    taken = {folder.removesuffix(".png") for folder in folders if folder.endswith(".png")}
    stems = []
    for path in paths:
        folder, slash, name = path.rpartition("/")
        short = name.rpartition(".")[0] or name
        wanted = name if _FURTHER_FACE.search(short) else short
        number = 1
        while len(os.fsencode(wanted)) > _LONGEST or (folder + slash + wanted).casefold() in taken:
            number += 1
            if len(os.fsencode(name)) > _LONGEST:
                digest = hashlib.blake2b(f"{name} {number}".encode(), digest_size=6).hexdigest()
                wanted = f"{os.fsencode(name)[: _LONGEST - 20].decode('utf-8', 'ignore')}-{digest}"
            else:
                wanted = name if number == 2 else f"{name}-{number}"
        taken.add((folder + slash + wanted).casefold())
        stems.append(folder + slash + wanted)
    return stems
