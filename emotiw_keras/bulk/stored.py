"""The files of an object store as entries."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator

from emotiw_keras.bulk import tars
from emotiw_keras.bulk.archives import of_tar, tag_of
from emotiw_keras.bulk.entries import FILE, Entry, wrong
from emotiw_keras.bulk.left_out import LeftOut, Say, end_of, placed
from emotiw_keras.bulk.places import asked, store_of
from emotiw_keras.data.archive import is_image
from emotiw_keras.data.layouts.folders import enclosing_folders, sampled
from emotiw_keras.data.video_files import is_video
from emotiw_keras.errors import UsageError

_Level = list[tuple[str, int, str]]
"""Name, size and tag of what lies in a folder of a store."""


def of_store(address: str, say: Say) -> Iterator[Entry]:
    system, path = store_of(address)
    scheme = address.partition("://")[0] + "://"
    if glob.has_magic(address):
        if "**" in address:
            raise UsageError(f"{address}: '**' would hold the whole listing in memory; give the folder itself")
        found = sorted(asked(address, lambda: system.glob(path)))
        for each in found:
            yield from of_store(scheme + str(each).lstrip("/"), say)
        if not found:
            yield wrong(address, "no file matches this pattern")
        return
    facts = _facts(address)
    if isinstance(facts, Entry):
        yield facts
        return
    if facts["type"] != "directory":
        yield from _stored_file(address, path.rpartition("/")[2], facts, say)
        return
    root, left, count = path.rstrip("/"), LeftOut(), 0
    held: dict[str, _Level] = {}

    def looked(below: str) -> Iterator[str]:
        level = held[below] = held[below] if below in held else _level(system, scheme, root, below)
        return (name for name, _, _ in level if name.endswith("/") or is_image(name) or is_video(name))

    depth = enclosing_folders(sampled(looked))
    for entry in _stored_walk(system, scheme, root, left, held):
        count += 1
        yield placed(entry, depth)
    yield from end_of(address, count, left, say)


def _stored_file(address: str, below: str, facts: dict[str, object], say: Say) -> Iterator[Entry]:
    suffix = os.path.splitext(address)[1].lower()
    if suffix == ".zip":
        yield wrong(address, "a zip on a store cannot be read in parts; pack it as .tar")
    elif suffix in tars.SUFFIXES:
        yield from of_tar(address, say)
    else:
        yield _file(address, below, facts)


def one(address: str) -> Entry:
    """The file of an address."""
    facts = _facts(address)
    if isinstance(facts, Entry):
        return facts
    if facts["type"] == "directory":
        return wrong(address, "not a file")
    return _file(address, address.rpartition("/")[2], facts)


def _file(address: str, below: str, facts: dict[str, object]) -> Entry:
    return placed(Entry(address, below, FILE, address, int(str(facts.get("size") or 0)), tag_of(facts)))


def _facts(address: str) -> dict[str, object] | Entry:
    """What a store says of an address; or the entry of what cannot be had."""
    system, path = store_of(address)
    try:
        return dict(asked(address, lambda: system.info(path)))
    except FileNotFoundError:
        return wrong(address, "no such file or folder")
    except PermissionError:
        return wrong(address, "cannot read: permission denied")


def _level(system: object, scheme: str, root: str, below: str) -> _Level:
    """One level of a store, sorted; folders end in `/`."""
    folder = f"{root}/{below}".rstrip("/")
    level = []
    for facts in asked(scheme + folder, lambda: system.ls(folder, detail=True)):  # type: ignore[attr-defined]
        name = str(facts["name"]).rstrip("/").rpartition("/")[2]
        if name and not name.startswith(".") and str(facts["name"]).strip("/") != folder.strip("/"):
            level.append((name + "/" if facts["type"] == "directory" else name, int(facts.get("size") or 0), tag_of(facts)))
    return sorted(level)


def _stored_walk(system: object, scheme: str, root: str, left: LeftOut, held: dict[str, _Level]) -> Iterator[Entry]:
    """One level of a store at a time is held, which is all that its own listing gives, and what was `held` before."""

    def level(below: str) -> Iterator[tuple[str, int, str]]:
        return iter(held.pop(below) if below in held else _level(system, scheme, root, below))

    levels = [("", level(""))]
    while levels:
        below, names = levels[-1]
        name, size, state = next(names, ("", 0, ""))
        relative = below + name
        if not name:
            levels.pop()
        elif name.endswith("/"):
            levels.append((relative, level(relative)))
        elif is_image(name) or is_video(name):
            address = f"{scheme}{root.lstrip('/')}/{relative}"
            yield Entry(address, relative, FILE, address, size, state)
        else:
            left.add(relative)
