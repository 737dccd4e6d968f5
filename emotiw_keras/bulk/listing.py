"""From what a user names (files, folders, globs, lists, archives, addresses) to a stream of entries in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from emotiw_keras.bulk import stored, tables, tars
from emotiw_keras.bulk.archives import of_tar, of_zip
from emotiw_keras.bulk.entries import FILE, SEQUENCE, Entry, wrong
from emotiw_keras.bulk.left_out import LeftOut, Say, end_of, placed
from emotiw_keras.bulk.places import asked, store_of
from emotiw_keras.data.archive import is_image, is_system_folder
from emotiw_keras.data.layouts.folders import enclosing_folders, sampled
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.data.video_files import is_video
from emotiw_keras.data.walking import matching, scan
from emotiw_keras.errors import UsageError
from emotiw_keras.files import is_address
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

REQUESTS = 32
"""Of files of a store that a list names, asked for at once."""
_ANY, _ASKED, _SIZED = "any", "asked", "sized"


def check_inputs(inputs: Sequence[str]) -> None:
    """UsageError if an input cannot be meant, before anything is begun."""
    from emotiw_keras.serving.video_inputs import is_camera

    for name in inputs:
        if is_camera(name):
            raise UsageError(f"{name}: a camera has no end, so it has no parts; leave out --out")
        if is_address(name):
            store_of(name)


def entries(inputs: Sequence[str], say: Say) -> Iterator[Entry]:
    """Every input in order, as it is found: those of a folder in the order of their names.

    Args:
        inputs: files, folders, zips, tars, glob patterns, numbered images (`frames_%05d.jpg`), lists (`.txt`: a path a line),
            manifests (`.csv`, `.tsv`, `.parquet` with a column `path`), addresses of a store.
        say: called with a remark on what is left out.

    Raises:
        UsageError: a camera, which has no end; a manifest or an address whose library is missing.
        DataError: a manifest without its column, or a store that does not answer.
    """
    for name in inputs:
        yield from _named(name, say, lists=True)


def _named(name: str, say: Say, lists: bool) -> Iterator[Entry]:
    from emotiw_keras.serving.video_inputs import is_sequence

    suffix = os.path.splitext(name)[1].lower()
    if lists and suffix in tables.SUFFIXES:
        yield from _listed(name, say)
    elif is_address(name):
        yield from stored.of_store(name, say)
    elif os.path.isdir(name):
        yield from _folder(name.rstrip("/") or "/", say)
    elif os.path.exists(name):
        yield from _file(name, os.path.basename(name), say)
    elif glob.has_magic(name):
        yield from _matches(name, say)
    elif is_sequence(name):
        yield _sequence(name)
    else:
        yield wrong(name, "no such file or folder")


def _matches(pattern: str, say: Say) -> Iterator[Entry]:
    none = True
    for path in matching(pattern):
        none = False
        if path.endswith("/"):
            yield from _folder(path[:-1], say)
        else:
            yield from _file(path, os.path.basename(path), say)
    if none:
        yield wrong(pattern, "no file matches this pattern")


def _file(path: str, below: str, say: Say) -> Iterator[Entry]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".zip":
        yield from of_zip(path, say)
    elif suffix in tars.SUFFIXES:
        yield from of_tar(path, say)
    else:
        yield placed(_one(path, below))


def _one(path: str, below: str) -> Entry:
    try:
        facts = os.stat(path)
    except OSError as error:
        return wrong(path, f"cannot read: {error.strerror or error}")
    if not stat.S_ISREG(facts.st_mode):
        return wrong(path, "not a file")
    return Entry(path, below, FILE, path, facts.st_size, f"{facts.st_size}:{facts.st_mtime_ns}")


def _folder(root: str, say: Say) -> Iterator[Entry]:
    left = LeftOut()
    count, real = 0, os.path.realpath(root)
    try:
        depth = enclosing_folders(sampled(lambda below: _level(os.path.join(root, below))))
        for entry in _walk(root, real, left):
            count += 1
            yield placed(entry, depth)
    except OSError as error:
        yield wrong(root, f"cannot read: {error.strerror or error}")
        return
    yield from end_of(root, count, left, say)


def _level(path: str) -> Iterator[str]:
    """What `_walk` reads in a folder, folders ending in `/`, in no order, so that the first comes at once."""
    with suppress(OSError), os.scandir(path) as found:  # which `_walk` will say
        for each in found:
            if each.name.startswith("."):
                continue
            if each.is_dir(follow_symlinks=False):
                if not is_system_folder(each.name):
                    yield f"{each.name}/"
            elif is_image(each.name) or is_video(each.name):
                yield each.name


def _walk(root: str, real: str, left: LeftOut) -> Iterator[Entry]:
    """Raises OSError where the root cannot be read."""
    levels = [("", scan(root))]
    while levels:
        below, names = levels[-1]
        try:
            name = next(names, None)
        except OSError as error:  # before its first name
            if not below:
                raise
            yield wrong(os.path.join(root, below[:-1]), f"cannot read: {error.strerror or error}")
            name = None
        if name is None:
            levels.pop()
            continue
        relative = below + name
        path = os.path.join(root, relative)
        if name.endswith("/"):
            if os.path.islink(path[:-1]):
                left.add(f"{relative} (a linked folder)")
            elif is_system_folder(name[:-1]):
                left.add(relative)
            else:
                levels.append((relative, scan(path)))
        elif not (is_image(name) or is_video(name)):
            left.add(relative)
        elif os.path.islink(path) and not os.path.realpath(path).startswith(real.rstrip(os.sep) + os.sep):
            yield wrong(path, f"a link that leads out of {root}; copy the file, or give its own folder")
        else:
            yield _one(path, relative)


def _listed(name: str, say: Say) -> Iterator[Entry]:
    """The inputs that a list or a manifest names; relative ones lie beside it."""
    beside = name.rpartition("/")[0] if is_address(name) else os.path.dirname(name)
    none, comments = True, 0
    text = os.path.splitext(name)[1].lower() in tables.TEXT
    for kind, rows in groupby(tables.rows(name), key=_kind_of):
        if kind != _ANY:
            # Where each is a request, many wait at once.
            read = map if kind == _SIZED else _requests
            yield from read(_stored_row, rows)
            none = False
            continue
        for row in rows:
            given = row["path"]
            apart = is_address(given) or os.path.isabs(given) or not beside
            path = given if apart else f"{beside}/{given}"
            if text and given.startswith("#") and not _exists(path):
                comments += 1
                continue
            none = False
            for entry in _named(path, say, lists=False):
                yield _told(entry, row)
    if comments:
        say(Notice(f"{name}: comments, so left out: {number_of(comments, 'lines')} that begin with # and name no file"))
    if none:
        yield wrong(name, "names no inputs")


def _exists(path: str) -> bool:
    if not is_address(path):
        return os.path.lexists(path)
    system, inside = store_of(path)
    return asked(path, lambda: bool(system.exists(inside)))


def _requests(one: Callable[[dict[str, str]], Entry], rows: Iterable[dict[str, str]]) -> Iterator[Entry]:
    return map_ahead(one, rows, REQUESTS)


def _kind_of(row: dict[str, str]) -> str:
    """Whether a row of a list is the address of an image or a film, and says its size; or may be anything."""
    path = row["path"]
    if not is_address(path) or not (is_image(path) or is_video(path)) or glob.has_magic(path):
        return _ANY
    return _SIZED if row.get("size", "").isdigit() else _ASKED


def _stored_row(row: dict[str, str]) -> Entry:
    """The entry of such a row; the store is not asked where the row says the size."""
    address, size = row["path"], row.get("size", "")
    if size.isdigit():
        return _told(Entry(address, address.rpartition("/")[2], FILE, address, int(size), row.get("etag") or size), row)
    entry = stored.one(address)
    return _told(entry, row)


def _told(entry: Entry, row: dict[str, str]) -> Entry:
    """An entry with what its row says of class, split and person."""
    label, split = row.get("label") or entry.label, row.get("split") or entry.split
    return replace(entry, label=label, split=split, subject=row.get("subject", entry.subject))


def _sequence(pattern: str) -> Entry:
    """Numbered images, which are one film: its state is that of all of them."""
    from emotiw_keras.serving.video_inputs import numbered_files

    folder, last = os.path.split(pattern)
    digest, size = hashlib.sha256(), 0
    try:
        found = numbered_files(pattern)
        for _, name in found:
            facts = os.stat(os.path.join(folder, name))
            size += facts.st_size
            digest.update(f"{name!r}:{facts.st_size}:{facts.st_mtime_ns}\n".encode())
    except OSError as error:
        return wrong(pattern, f"cannot read {error.filename or folder}: {error.strerror or error}")
    if not found:
        return wrong(pattern, "no file matches this pattern")
    return Entry(pattern, last, SEQUENCE, pattern, size, digest.hexdigest()[:32])
