"""Layouts whose folders carry the meaning: split folders, class folders, SFEW."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from emotiw_keras.data.archive import Archive
from emotiw_keras.data.layouts.listing import SPLIT_NAMES, ArchivePictures, Listing, and_more
from emotiw_keras.errors import DataError

KNOWN = (
    "fer2013.csv; Training|PublicTest|PrivateTest/<class>/; train|val|test/<class>/; <class>/; "
    "a manifest CSV (path,label[,split][,subject]); SFEW; Aff-Wild2; what emotiw prepare wrote"
)
_SFEW_CLASSES = frozenset({"Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"})
_SFEW_SPLITS = frozenset({"Train", "Val", "Test"})
# Train_Aligned_Faces, Val_Aligned_Faces_new, Test_Aligned_Faces
_ALIGNED = re.compile(r"^(train|val|test)_aligned_faces(_new)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a picture lies: its file, the folder that names the split (as written), the class folder ("" if none)."""

    member: str
    folder: str
    class_name: str


def split_of(folder: str) -> str | None:
    """train, val or test if that is what a folder's name means, else None."""
    aligned = _ALIGNED.match(folder)
    return SPLIT_NAMES.get((aligned[1] if aligned else folder).lower())


def below_common_folder(members: list[str]) -> int:
    """How many leading folders hold everything and mean nothing."""
    depth = 0
    while True:
        parts = [member.split("/")[depth:] for member in members]
        tops = {part[0] for part in parts}
        if len(tops) > 1 or split_of(next(iter(tops))) or all(len(part) <= 2 for part in parts):
            return depth
        depth += 1


def read_folders(archive: Archive, members: list[str]) -> Listing:
    """List the pictures of a folder or zip by the folders they lie in.

    Args:
        archive: the folder or zip.
        members: its pictures, sorted.

    Raises:
        DataError: the folders follow no known layout.
    """
    depth = below_common_folder(members)
    tops: dict[str, int] = defaultdict(int)
    for member in members:
        parts = member.split("/")[depth:]
        tops[parts[0] if len(parts) > 1 else ""] += 1
    loose = tops.pop("", 0)
    split_folders = [folder for folder in tops if split_of(folder)]
    if loose or not tops:
        folders = f" beside the folders {and_more(sorted(tops))}" if tops else ""
        raise DataError(
            f"{archive.path}: layout not recognised: {loose:,} pictures lie in no class folder{folders}; known: {KNOWN}"
        )
    if not split_folders:
        return _class_folders(archive, members, depth)
    if len(split_folders) < len(tops):
        others = sorted(set(tops) - set(split_folders))
        raise DataError(
            f"{archive.path}: layout not recognised: the folders {and_more(others)} stand beside the splits "
            f"{and_more(sorted(split_folders))}; move them away or give the manifest CSV; known: {KNOWN}"
        )
    return _split_folders(archive, members, depth)


def _class_folders(archive: Archive, members: list[str], depth: int) -> Listing:
    classes = [member.split("/")[depth] for member in members]
    empty = [""] * len(members)
    return Listing("class folders", ArchivePictures(archive, members), members, classes, list(empty), list(empty))


def place_of(member: str, depth: int) -> Place:
    """Where a picture lies, of a layout whose outermost folders (below `depth` others) are splits."""
    folder, *below = member.split("/")[depth:]
    # SFEW's archives unpack as Train/Train_Aligned_Faces/<class>/
    if len(below) > 1 and _ALIGNED.match(below[0]):
        folder, below = f"{folder}/{below[0]}", below[1:]
    return Place(member, folder, below[0] if len(below) > 1 else "")


def _split_folders(archive: Archive, members: list[str], depth: int) -> Listing:
    places = [place_of(member, depth) for member in members]
    split = {place.folder: split_of(place.folder.split("/")[0]) or "" for place in places}
    unlabelled = [place for place in places if not place.class_name]
    labelled = [place for place in places if place.class_name]
    wrong = [place.member for place in unlabelled if split[place.folder] != "test"]
    if wrong or not labelled:
        raise DataError(
            f"{archive.path}: layout not recognised: {and_more(wrong or [unlabelled[0].member])} in no class folder; "
            f"known: {KNOWN}"
        )
    folders_of: dict[str, list[str]] = defaultdict(list)
    for folder in split:
        folders_of[split[folder]].append(folder)
    twice = [folders for folders in folders_of.values() if len(folders) > 1]
    if twice:
        raise DataError(f"{archive.path}: the folders {and_more(sorted(twice[0]))} are the same split; keep one of them")
    sfew = _is_sfew(labelled, list(split))
    kept = [place.member for place in labelled]
    read = [f"{folder} = {name}" for folder, name in sorted(split.items()) if folder != name]
    notes = [f"splits read as: {', '.join(read)}"] if read else []
    if unlabelled:
        example = unlabelled[0].member
        notes.append(f"left out: {len(unlabelled):,} pictures of the test split without a class ({example} ...)")
    return Listing(
        layout="SFEW" if sfew else "split folders",
        pictures=ArchivePictures(archive, kept),
        names=kept,
        classes=[place.class_name for place in labelled],
        split=[split[place.folder] for place in labelled],
        subject=[""] * len(kept),
        notes=notes,
    )


def _is_sfew(places: list[Place], folders: list[str]) -> bool:
    if any(_ALIGNED.match(folder.split("/")[-1]) for folder in folders):
        return True
    # SFEW as it is published: these names in this case, and nothing but PNG.
    return (
        {place.class_name for place in places} == _SFEW_CLASSES
        and set(folders) <= _SFEW_SPLITS
        and all(place.member.lower().endswith(".png") for place in places)
    )
