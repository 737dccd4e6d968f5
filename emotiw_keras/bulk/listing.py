"""From what a user names (files, folders, globs, lists, archives, addresses) to a stream of entries in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emotiw_keras.bulk import tables, tars
from emotiw_keras.bulk.entries import FILE, SEQUENCE, TAR, ZIP, Entry, wrong
from emotiw_keras.bulk.places import asked, is_address, store_of
from emotiw_keras.bulk.walking import matching, scan
from emotiw_keras.data.archive import MEMBER_BYTES, ZipArchive, is_image, is_system_folder, printable
from emotiw_keras.data.images import SUFFIXES
from emotiw_keras.data.layouts.folders import split_of
from emotiw_keras.data.video_files import VIDEO_SUFFIXES, is_video
from emotiw_keras.errors import DataError, UsageError

_NAMED = 3
"""Files that are left out and named; the others are counted."""
Say = Callable[[str], None]


@dataclass
class LeftOut:
    """Files of a folder or archive that are neither images nor films."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < _NAMED:
            self.names.append(name)

    def told(self) -> str:
        """The first names and the number."""
        more = self.count - len(self.names)
        return ", ".join(map(printable, self.names)) + (f" and {more:,} more" if more else "")


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
        yield from _stored(name, say)
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
        yield from _zip(path, say)
    elif suffix in tars.SUFFIXES:
        yield from _tar(path, say)
    else:
        yield _one(path, below)


def _one(path: str, below: str) -> Entry:
    try:
        facts = os.stat(path)
    except OSError as error:
        return wrong(path, f"cannot read: {error.strerror or error}")
    if not stat.S_ISREG(facts.st_mode):
        return wrong(path, "not a file")
    return _placed(Entry(path, below, FILE, path, facts.st_size, f"{facts.st_size}:{facts.st_mtime_ns}"))


def _placed(entry: Entry) -> Entry:
    """An entry with class and split by its folders: `train/happy/a.jpg`, `happy/a.jpg`; none for what lies in no folder."""
    parts = entry.name.split("/")[:-1]
    split = split_of(parts[0]) if parts else None
    inside = parts[1:] if split else parts
    return replace(entry, label=printable(inside[0]) if inside else "", split=split or "") if parts else entry


def _folder(root: str, say: Say) -> Iterator[Entry]:
    left = LeftOut()
    count, real = 0, os.path.realpath(root)
    try:
        for entry in _walk(root, "", real, left):
            count += 1
            yield entry
    except OSError as error:
        yield wrong(root, f"cannot read {error.filename}: {error.strerror or error}")
        return
    yield from _end_of(root, count, left, say)


def _end_of(name: str, count: int, left: LeftOut, say: Say) -> Iterator[Entry]:
    """What is to be said when a folder or an archive has been listed."""
    if not count:
        known = " ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
        saw = f"{left.count:,} other files ({left.told()})" if left.count else "no files"
        yield wrong(name, f"holds no images and no videos, but {saw}; looked for {known}")
    elif left.count:
        say(f"{name}: no images or videos, so left out: {left.count:,} files ({left.told()})")


def _walk(root: str, below: str, real: str, left: LeftOut) -> Iterator[Entry]:
    for name in scan(os.path.join(root, below)):
        relative = below + name
        path = os.path.join(root, relative)
        if name.endswith("/"):
            if is_system_folder(name[:-1]) or os.path.islink(path[:-1]):
                left.add(relative)
            else:
                yield from _walk(root, relative, real, left)
        elif not (is_image(name) or is_video(name)):
            left.add(relative)
        elif os.path.islink(path) and not os.path.realpath(path).startswith(real.rstrip(os.sep) + os.sep):
            yield wrong(path, f"a link that leads out of {root}; copy the file, or give its own folder")
        else:
            yield _one(path, relative)


def _zip(path: str, say: Say) -> Iterator[Entry]:
    try:
        archive = ZipArchive(Path(path))
        state = _one(path, "").state
    except DataError as error:
        yield wrong(path, str(error))
        return
    left, count = LeftOut(), 0
    for member in archive.names:
        if is_image(member) or is_video(member):
            count += 1
            size = archive.size(member)
            yield _placed(Entry(os.path.join(path, member), member, ZIP, path, size, state, member))
        else:
            left.add(member)
    for name in archive.left_out:
        left.add(name)
    yield from _end_of(path, count, left, say)


def _tar(path: str, say: Say) -> Iterator[Entry]:
    try:
        if is_address(path):
            system, inside = store_of(path)
            state = tag_of(asked(path, lambda: system.info(inside)))
            opened = asked(path, lambda: system.open(inside, "rb"))
        else:
            state = _one(path, "").state
            opened = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        yield wrong(path, f"cannot read: {error.strerror or error}")
        return
    left, count = LeftOut(), 0
    with opened:
        for member in tars.members(opened):
            if member.error and not member.name:
                yield wrong(path, member.error)
            elif not (is_image(member.name) or is_video(member.name)):
                left.add(member.name)
                continue
            elif member.error or member.size > MEMBER_BYTES:
                reason = member.error or f"{member.size:,} bytes, more than the {MEMBER_BYTES:,} allowed for one image"
                yield wrong(f"{path}/{member.name}", reason)
            else:
                place = f"{path}/{member.name}"
                yield _placed(Entry(place, member.name, TAR, path, member.size, state, "", member.offset))
            count += 1
    yield from _end_of(path, count, left, say)


def _listed(name: str, say: Say) -> Iterator[Entry]:
    """The inputs that a list or a manifest names; relative ones lie beside it."""
    beside = name.rpartition("/")[0] if is_address(name) else os.path.dirname(name)
    none = True
    for row in tables.rows(name):
        none = False
        given = row.pop("path")
        apart = is_address(given) or os.path.isabs(given) or not beside
        path = given if apart else f"{beside}/{given}"
        for entry in _named(path, say, lists=False):
            label, split = row.get("label") or entry.label, row.get("split") or entry.split
            yield replace(entry, label=label, split=split, subject=row.get("subject", ""))
    if none:
        yield wrong(name, "names no inputs")


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


def _stored(address: str, say: Say) -> Iterator[Entry]:
    system, path = store_of(address)
    scheme = address.partition("://")[0] + "://"
    if glob.has_magic(address):
        if "**" in address:
            raise UsageError(f"{address}: '**' would hold the whole listing in memory; give the folder itself")
        found = sorted(asked(address, lambda: system.glob(path)))
        for each in found:
            yield from _stored(scheme + str(each).lstrip("/"), say)
        if not found:
            yield wrong(address, "no file matches this pattern")
        return
    try:
        facts = asked(address, lambda: system.info(path))
    except (FileNotFoundError, PermissionError) as error:
        words = "no such file or folder" if isinstance(error, FileNotFoundError) else "cannot read: permission denied"
        yield wrong(address, words)
        return
    if facts["type"] != "directory":
        yield from _stored_file(address, path.rpartition("/")[2], facts, say)
        return
    left, count = LeftOut(), 0
    for entry in _stored_walk(system, scheme, path.rstrip("/"), "", left):
        count += 1
        yield entry
    yield from _end_of(address, count, left, say)


def _stored_file(address: str, below: str, facts: dict[str, object], say: Say) -> Iterator[Entry]:
    suffix = os.path.splitext(address)[1].lower()
    if suffix == ".zip":
        yield wrong(address, "a zip on a store cannot be read in parts; pack it as .tar")
    elif suffix in tars.SUFFIXES:
        yield from _tar(address, say)
    else:
        yield _placed(Entry(address, below, FILE, address, int(str(facts.get("size") or 0)), tag_of(facts)))


def _stored_walk(system: object, scheme: str, root: str, below: str, left: LeftOut) -> Iterator[Entry]:
    """One level of a store at a time is held, which is all that its own listing gives."""
    folder = f"{root}/{below}".rstrip("/")
    found = asked(scheme + folder, lambda: system.ls(folder, detail=True))  # type: ignore[attr-defined]
    level = []
    for facts in found:
        name = str(facts["name"]).rstrip("/").rpartition("/")[2]
        if name and not name.startswith(".") and str(facts["name"]).strip("/") != folder.strip("/"):
            level.append((name + "/" if facts["type"] == "directory" else name, int(facts.get("size") or 0), tag_of(facts)))
    del found
    for name, size, state in sorted(level):
        relative = below + name
        if name.endswith("/"):
            yield from _stored_walk(system, scheme, root, relative, left)
        elif is_image(name) or is_video(name):
            address = f"{scheme}{root.lstrip('/')}/{relative}"
            yield _placed(Entry(address, relative, FILE, address, size, state))
        else:
            left.add(relative)


def tag_of(facts: dict[str, object]) -> str:
    """What changes when a file of a store does: its tag, or size and time of change."""
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if facts.get(key):
            return re.sub(r'["\s]', "", str(facts[key]))
    time = next((facts[key] for key in ("LastModified", "last_modified", "mtime", "created") if facts.get(key)), "")
    return f"{facts.get('size')}:{time}"
