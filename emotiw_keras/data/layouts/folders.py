"""Layouts whose folders carry the meaning: split folders, class folders, SFEW, class folders in folders of persons."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from emotiw_keras.data.archive import Archive
from emotiw_keras.data.layouts.file_names import persons_named
from emotiw_keras.data.layouts.listing import Listing, and_more, list_images, split_named
from emotiw_keras.data.layouts.person_folders import persons_by_folder
from emotiw_keras.data.layouts.table import Layout, NotRecognised, Source
from emotiw_keras.errors import DataError
from emotiw_keras.labels import canonical
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

_SFEW_CLASSES = frozenset({"Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"})
_SFEW_SPLITS = frozenset({"Train", "Val", "Test"})
# Train_Aligned_Faces, Val_Aligned_Faces_new, Test_Aligned_Faces
_ALIGNED = re.compile(r"^(train|val|test)_aligned_faces(_new)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where an image lies: its file, the folder that names the split (as written), the class folder ("" if none)."""

    member: str
    folder: str
    class_name: str


def split_of(folder: str) -> str | None:
    """train, val or test if that is what a folder's name means, else None."""
    aligned = _ALIGNED.match(folder)
    return split_named(aligned[1] if aligned else folder)


def below_common_folder(members: list[str]) -> int:
    """How many leading folders hold everything and mean nothing."""
    depth = 0
    while True:
        parts = [member.split("/")[depth:] for member in members]
        tops = {part[0] for part in parts}
        if len(tops) > 1 or split_of(next(iter(tops))) or all(len(part) <= 2 for part in parts):
            return depth
        depth += 1


def enclosing_folders(members: Iterable[str]) -> int:
    """The same of names in any order, of which as few are read as it takes, and none is kept; a class that holds everything
    does mean something here: other inputs may hold the other classes.

    Example:
        >>> [enclosing_folders(names) for names in (["p/happy/a.png", "p/sad/b.png"], ["happy/anna/a.png"], ["p/a.png"])]
        [1, 0, 0]
    """
    common: list[str] | None = None
    most = innermost = 0
    for member in members:
        folders = member.split("/")[:-1]
        common = folders if common is None else list(os.path.commonprefix([common, folders]))
        if not common or split_of(common[0]):
            return 0
        most = max(most, len(folders))
        innermost = max([innermost, *(i for i, folder in enumerate(folders) if canonical(folder))])
    common = (common or [])[: max(0, most - 1)]
    return next((i for i, each in enumerate(common) if split_of(each) or (canonical(each) and i == innermost)), len(common))


def sampled(level: Callable[[str], Iterable[str]], below: str = "") -> Iterator[str]:
    """Of all files in a folder the few by whose names `enclosing_folders` finds what it does by all, so that folders are read
    to where they part, and not all of them twice.

    Args:
        level: names of the files and, ending in `/`, of the folders in a folder, which is given by its relative name.
        below: the folder, "" or ending in `/`.

    Example:
        >>> tree = {"": ["p/"], "p/": ["happy/", "sad/"], "p/happy/": ["1.png", "2.png"], "p/sad/": ["3.png"]}
        >>> sorted(set(sampled(tree.__getitem__)))
        ['p/happy/1.png', 'p/sad/3.png']
    """
    while True:
        names = iter(level(below))
        head = list(islice(names, 2))
        if len(head) == 1 and head[0].endswith("/"):  # nothing beside it: what lies in it tells all
            below += head[0]
            continue
        file, inner = False, list[str]()
        for name in chain(head, names):
            if not name.endswith("/"):
                if not file:
                    yield below + name
                file = True
            elif file + len(inner) > 1:
                yield below + name  # its name alone, which may be a class
            elif (first := _first(level, below + name)) is not None:
                inner.append(name)
                yield first
        if len(inner) != 1 or file:
            return
        below += inner[0]


def _first(level: Callable[[str], Iterable[str]], below: str) -> str | None:
    """A file in a folder or below it, whichever is reached soonest; None if there is none."""
    waiting = [below]
    while waiting:
        below = waiting.pop()
        folders = []
        for name in level(below):
            if not name.endswith("/"):
                return below + name
            folders.append(below + name)
        waiting += reversed(folders)
    return None


def _detect_splits(source: Source) -> bool:
    if not source.images:
        return False
    depth = below_common_folder(source.images)
    return any(split_of(folder) for folder in _tops(source.images, depth))


def _read_splits(source: Source) -> Listing:
    members, given = source.images, source.given
    depth = below_common_folder(members)
    tops = _tops(members, depth)
    _check_loose(members, depth, tops, given)
    others = sorted(folder for folder in tops if not split_of(folder))
    if others:
        splits = and_more(sorted(set(tops) - set(others)))
        raise NotRecognised(
            f"{given}: layout not recognised: the folders {and_more(others)} stand beside the splits {splits}; "
            "move them away or give the manifest CSV"
        )
    return _split_folders(source.archive, members, depth, given)


def _detect_classes(source: Source) -> bool:
    return bool(source.images)


def _read_classes(source: Source) -> Listing:
    members = source.images
    depth = below_common_folder(members)
    _check_loose(members, depth, _tops(members, depth), source.given)
    listing = list_images("class folders", source.archive, members)
    listing.classes, listing.subject, listing.guess = classes_and_persons([member.split("/")[depth:] for member in members])
    return listing


SPLIT_FOLDERS = Layout(
    "split folders",
    "Training|PublicTest|PrivateTest/<class>/; train|val|test/<class>/, train|test/<class>/; SFEW",
    _detect_splits,
    _read_splits,
)
CLASS_FOLDERS = Layout("class folders", "<class>/; <person>/<class>/; <class>/<person>/", _detect_classes, _read_classes)


def _tops(members: Sequence[str], depth: int) -> list[str]:
    return sorted({parts[0] for member in members if len(parts := member.split("/")[depth:]) > 1})


def _check_loose(members: Sequence[str], depth: int, tops: Sequence[str], given: str) -> None:
    below = [member.split("/")[depth:] for member in members]
    loose = [parts[0] for parts in below if len(parts) == 1]
    if not loose:
        return
    told = f"{given}: layout not recognised: {len(loose):,} images lie in no class folder"
    if tops:
        told += f" beside the folders {and_more(list(tops))}: {and_more(loose)}; move them into one, or away"
    raise NotRecognised(told)


def classes_and_persons(places: Sequence[Sequence[str]]) -> tuple[list[str], list[str], str]:
    """Class, person ("" if unknown) of each image, and a line that says how persons were read, "" if nothing looks like them.

    Args:
        places: the folders of each image, outermost first, and its file's name.

    The outermost folder is the class. Where it names no expression in any image, and the folder right above each image
    does, it is the person. Without such folders the files' names may tell persons (CK+, KDEF, JAFFE), or folders below the
    classes (`persons_by_folder`).
    """
    upper = {place[0] for place in places}
    inner = all(len(place) > 2 and canonical(place[-2]) for place in places)
    if inner and not any(canonical(name) for name in upper):
        note = f"folders read as persons: {and_more(sorted(upper))}; the folders in them are the classes"
        return [place[-2] for place in places], [place[0] for place in places], note
    classes, found = [place[0] for place in places], persons_named([place[-1] for place in places])
    if found is not None:
        return classes, found[1], f"persons read from file names as {found[0]} writes them: {len(set(found[1])):,}"
    persons, note = persons_by_folder(places)
    return classes, persons or [""] * len(places), note


def place_of(member: str, depth: int) -> Place:
    """Where an image lies, of a layout whose outermost folders (below `depth` others) are splits."""
    folder, *below = member.split("/")[depth:]
    # SFEW's archives unpack as Train/Train_Aligned_Faces/<class>/
    if len(below) > 1 and _ALIGNED.match(below[0]):
        folder, below = f"{folder}/{below[0]}", below[1:]
    return Place(member, folder, below[0] if len(below) > 1 else "")


def _split_folders(archive: Archive, members: list[str], depth: int, given: str) -> Listing:
    places = [place_of(member, depth) for member in members]
    split = {place.folder: split_of(place.folder.split("/")[0]) or "" for place in places}
    unlabelled = [place for place in places if not place.class_name]
    labelled = [place for place in places if place.class_name]
    wrong = [place.member for place in unlabelled if split[place.folder] != "test"]
    if wrong or not labelled:
        raise NotRecognised(f"{given}: layout not recognised: {and_more(wrong or [unlabelled[0].member])} in no class folder")
    folders_of: dict[str, list[str]] = defaultdict(list)
    for folder in split:
        folders_of[split[folder]].append(folder)
    twice = [folders for folders in folders_of.values() if len(folders) > 1]
    if twice:
        raise DataError(f"{given}: the folders {and_more(sorted(twice[0]))} are the same split; keep one of them")
    kept = [place.member for place in labelled]
    listing = list_images("SFEW" if _is_sfew(labelled, list(split)) else "split folders", archive, kept)
    listing.used |= {place.member for place in unlabelled}
    listing.split = [split[place.folder] for place in labelled]
    inside = [place.member.split("/")[depth + place.folder.count("/") + 1 :] for place in labelled]
    listing.classes, listing.subject, listing.guess = classes_and_persons(inside)
    read = [f"{folder} = {name}" for folder, name in sorted(split.items()) if folder != name]
    listing.notes += [f"splits read as: {', '.join(read)}"] if read else []
    if unlabelled:
        example = unlabelled[0].member
        listing.notes.append(
            Notice(f"left out: {number_of(len(unlabelled), 'images')} of the test split without a class ({example} ...)")
        )
    return listing


def _is_sfew(places: list[Place], folders: list[str]) -> bool:
    if any(_ALIGNED.match(folder.split("/")[-1]) for folder in folders):
        return True
    # SFEW as it is published: these names in this case, and nothing but PNG.
    return (
        {place.class_name for place in places} == _SFEW_CLASSES
        and set(folders) <= _SFEW_SPLITS
        and all(place.member.lower().endswith(".png") for place in places)
    )
