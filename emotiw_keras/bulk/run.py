"""A job from its inputs to its manifest: what is done is not done again, and nothing but the inputs decides the bytes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from emotiw_keras.bulk.entries import Shard, shards
from emotiw_keras.bulk.job import PREPARE, Job
from emotiw_keras.bulk.listing import check_inputs, entries
from emotiw_keras.bulk.parts import dumped, read_part
from emotiw_keras.bulk.places import Folder, folder_at, write
from emotiw_keras.bulk.records import Record, Tally, is_record
from emotiw_keras.bulk.runners import Runner
from emotiw_keras.bulk.worker import MANIFEST
from emotiw_keras.data.layouts.prepared import FACES_COLUMNS, FACES_FILE, SETTINGS_FILE, VIDEO_COLUMNS
from emotiw_keras.errors import RunError, UsageError
from emotiw_keras.files import is_address
from emotiw_keras.locking import locked, sweep
from emotiw_keras.sealed import read_sealed_text, sealed_json, strict_json
from emotiw_keras.talk import Notice
from emotiw_keras.text import csv_text

PARTS = "_parts.jsonl"
DONE = "_done"
_FORMAT = 1
_LINE = 1 << 20
Say = Callable[[str], None]


def run(job: Job, inputs: Sequence[str], do: Runner, say: Say, progress: Callable[[int], None] = lambda inputs: None) -> Tally:
    """Do what is missing of a job.

    Args:
        job: what to do, and where to.
        inputs: what `listing.entries` takes.
        do: what does shards.
        say: called with lines for people.
        progress: called with the number of inputs that are done.

    Returns:
        The counts of all parts.

    Raises:
        RunError: the folder holds something else, was made by another job, or the inputs have changed since.
        OutputError: a part cannot be written, or the disk is full.
        DataError, ModelError, UsageError: as the listing and the command itself.
    """
    check_inputs(inputs)
    _check_apart(job, inputs)
    folder = folder_at(job.out)
    with contextlib.ExitStack() as stack:
        if not is_address(job.out):
            stack.enter_context(
                locked(Path(job.out), lambda: say(Notice(f"another process works in {job.out}; waiting for it")))
            )
        before = _claim(folder, job)
        if not is_address(job.out):
            sweep(Path(job.out))
        known = _Known(folder, before, say)
        seen, cut = 0, 0

        def missing() -> Iterator[Shard]:
            nonlocal seen, cut
            for shard in shards(entries(inputs, say), job.shard["inputs"], job.shard["bytes"]):
                cut += 1
                if known.is_done(shard):
                    seen += len(shard.entries)
                    progress(seen)
                else:
                    yield shard

        for record in do(job, missing()):
            known.add(record)
            seen += record["inputs"]
            progress(seen)
        known.check_number(cut)
        if known.done:
            say(f"{known.done:,} of {cut:,} shards were done already" + (": nothing left to do" if known.done == cut else ""))
        if not is_address(job.out):
            sweep(Path(job.out))  # what workers that were killed meanwhile had begun
        tally = _finish(folder, job, cut, say) if not before["finished"] else _counted(folder)
        folder.remove_folder(DONE)
        return tally


def _check_apart(job: Job, inputs: Sequence[str]) -> None:
    if is_address(job.out):
        inside = [name for name in inputs if is_address(name) and f"{job.out.rstrip('/')}/".startswith(f"{name.rstrip('/')}/")]
    else:
        out, here = Path(job.out).resolve(), [name for name in inputs if not is_address(name) and Path(name).is_dir()]
        inside = [name for name in here if out.is_relative_to(Path(name).resolve())]
    if inside:
        raise UsageError(f"{job.out} lies in the input {inside[0]}; name a folder outside of it")


def _claim(folder: Folder, job: Job) -> dict[str, Any]:
    """The manifest of this job in its folder, which is begun if it is empty."""
    found = folder.read(MANIFEST)
    if found is None:
        other = folder.some_name()
        if other is not None:
            raise RunError(f"{folder.name} holds other things ({other} ...); name a new folder")
        manifest = {**_head(job), "finished": False}
        write(folder, MANIFEST, sealed_json(manifest))
        return manifest
    manifest = read_manifest(folder, found)
    if manifest["fingerprint"] != job.fingerprint:
        told = "; ".join(_differences(manifest, json.loads(json.dumps(job.identity))))
        raise RunError(f"{folder.name} was begun by another job ({told}); name another folder, or give the same as then")
    return manifest


def _head(job: Job) -> dict[str, Any]:
    return {"format": _FORMAT, **job.identity, "fingerprint": job.fingerprint, "model": job.settings.get("model")}


def read_manifest(folder: Folder, found: bytes | None = None) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        RunError: there is none, it is damaged, or of another version.
    """
    found = folder.read(MANIFEST) if found is None else found
    place = f"{folder.name}/{MANIFEST}"
    if found is None:
        what = f"holds no {MANIFEST}"
        if not is_address(folder.name) and Path(folder.name).is_file():
            what = "is a file, not a folder of parts"
        raise RunError(f"{folder.name} {what}; expected DIR of `predict --out DIR` or OUT of `prepare --runner`")
    manifest = read_sealed_text(found, place)
    if manifest.get("format") != _FORMAT or not isinstance(manifest.get("fingerprint"), str):
        raise RunError(f"{place} is of format {manifest.get('format')!r:.20}; this version reads format {_FORMAT}")
    return manifest


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What two jobs have differently, in words; settings one by one."""
    found = []
    for key, value in new.items():
        was = old.get(key)
        if was == value:
            continue
        if isinstance(value, dict) and isinstance(was, dict) and key != "inputs":
            names = [name for name in value if was.get(name) != value[name]]
            before = "" if key == "settings" else f"{key} "
            found += [f"{before}{name} {was.get(name)!r:.60}, now {value[name]!r:.60}" for name in names]
        elif key == "inputs" and isinstance(was, dict):
            then, now = set(was["named"]), set(value["named"])  # a shell may have made very many of one pattern
            gone = [name for name in was["named"] if name not in now]
            more = [name for name in value["named"] if name not in then]
            shown = [repr(", ".join(names[:2])[-60:]) if names else "nothing" for names in (gone, more)]
            found.append("inputs {}, now {}".format(*shown) if gone or more else "inputs in another order, or otherwise read")
        else:
            found.append(f"{key} {was!r:.60}, now {value!r:.60}")
    return found


class _Known:
    """What has been done: of a finished job by its table of parts, else by a record a shard."""

    def __init__(self, folder: Folder, manifest: dict[str, Any], say: Say) -> None:
        self._folder, self._say = folder, say
        self._table = read_parts(folder, manifest) if manifest["finished"] else None
        self._redone: dict[int, Record] = {}
        self.done = 0

    def is_done(self, shard: Shard) -> bool:
        """Whether the part of a shard is there, whole.

        Raises:
            RunError: its inputs are not those that it was made of.
        """
        record = self._record(shard)
        if record is None:
            return False
        if record["listing"] != shard.digest:
            raise self._other(record, shard)
        for file in record["files"]:
            if self._folder.size(file["name"]) != file["bytes"]:
                self._say(Notice(f"{self._folder.name}/{file['name']} is missing or damaged, and is made again"))
                if self._table is not None:
                    self._redone[shard.number] = record
                return False
        self.done += 1
        return True

    def _record(self, shard: Shard) -> Record | None:
        if self._table is not None:
            record = next(self._table, None)
            if record is None:
                raise self._changed(f"there are more, from {shard.span} on")
            return record
        found = self._folder.read(_done_name(shard.number))
        try:
            record = None if found is None else strict_json(found)
        except ValueError:
            return None  # damaged: it is done again
        return record if is_record(record) and record["shard"] == shard.number else None

    def _other(self, record: Record, shard: Shard) -> RunError:
        made = " ... ".join(dict.fromkeys(record["span"]))
        if made != shard.span or record["inputs"] != len(shard.entries):
            return self._changed(f"shard {shard.number}, made of {made}, would be {shard.span}")
        return RunError(
            f"{self._folder.name}: shard {shard.number}, {made}, has files of other sizes or times than when it was begun, or "
            "an earlier version read their names otherwise; name a new folder"
        )

    def _changed(self, what: str) -> RunError:
        return RunError(
            f"the inputs of {self._folder.name} are others than when it was begun, or have changed: {what}; put them back, or "
            "name a new folder"
        )

    def add(self, record: Record) -> None:
        """Keep the record of a shard that has just been done."""
        before = self._redone.get(record["shard"])
        if before is not None and before != record:
            raise RunError(
                f"{self._folder.name}: shard {record['shard']} is not what it was before it was damaged; computed on another "
                "kind of processor? name a new folder"
            )
        write(self._folder, _done_name(record["shard"]), dumped(record))

    def check_number(self, cut: int) -> None:
        """RunError if there were more shards when the job was finished."""
        if self._table is not None and next(self._table, None) is not None:
            raise self._changed(f"there are fewer, {cut:,} shards of them")


def _done_name(number: int) -> str:
    return f"{DONE}/{number:08d}.json"


def _finish(folder: Folder, job: Job, count: int, say: Say) -> Tally:
    """Write the table of parts, and the manifest that says how many and what they hash to."""
    tally, digest = Tally(), hashlib.sha256()
    with folder.new(PARTS) as path, open(path, "wb") as file:
        for number in range(count):
            line = folder.read(_done_name(number))
            if line is None:
                raise RunError(f"{folder.name}/{_done_name(number)} has gone meanwhile; run the same command again")
            tally.add(strict_json(line))
            digest.update(line)
            file.write(line)
    if job.command == PREPARE:
        _write_faces(folder, job, count, say)
    manifest = {**_head(job), "finished": True, "parts": count}
    write(folder, MANIFEST, sealed_json({**manifest, "counts": tally.counts(), "parts_sha256": digest.hexdigest()}))
    return tally


def _write_faces(folder: Folder, job: Job, count: int, say: Say) -> None:
    """`faces.csv` and the settings beside it, as `emotiw fit` reads them once the faces are unpacked."""
    columns = (*FACES_COLUMNS, *VIDEO_COLUMNS)
    unread = ""
    with folder.new(FACES_FILE) as path, open(path, "w", encoding="utf-8", newline="") as file:
        file.write(csv_text([columns]))
        for number in range(count):
            record = strict_json(folder.read(_done_name(number)) or b"")
            part = record["files"][0]
            for row in read_part(folder, part["name"], part["sha256"], job.kind):
                unread = unread or _below_class(row)
                file.write(csv_text([[row.get(column, "") for column in columns]]))
    settings = {"format": 1, "source": ", ".join(job.inputs["named"]), **job.settings}
    write(folder, SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")
    if unread:
        told = f"folders below the classes, such as {unread!r}, are not read as persons in parts"
        say(Notice(f"{told}; give a manifest with a column subject, or prepare without --runner, which reads all names first"))


def _below_class(row: dict[str, Any]) -> str:
    """The folder below the class that a face of nobody known lies in; "" if there is none."""
    path, label, output, subject = (row.get(column) or "" for column in ("path", "label", "output", "subject"))
    folders = path.split("/")[:-1]
    below = [folder for above, folder in itertools.pairwise(folders) if above == label]  # the last is not above the input
    return str(below[-1]) if output and label and not subject and below else ""


def read_parts(folder: Folder, manifest: dict[str, Any]) -> Iterator[Record]:
    """The records of a finished job's parts, in order.

    Raises:
        RunError: the table is missing or damaged; at its end at the latest.
    """
    place = f"{folder.name}/{PARTS}"
    digest = hashlib.sha256()
    try:
        file = folder.open(PARTS)
    except OSError as error:
        reason = error.strerror or "no such file"
        raise RunError(f"{place} cannot be read: {reason}; run the job anew in a new folder") from error
    with file:
        while line := file.readline(_LINE):
            digest.update(line)
            try:
                record = strict_json(line)
            except ValueError as error:
                raise RunError(f"{place} is damaged ({error}); run the job anew in a new folder") from error
            if not is_record(record):
                raise RunError(f"{place} is damaged: a line is no record of a part; run the job anew in a new folder")
            yield record
    if digest.hexdigest() != manifest.get("parts_sha256"):
        raise RunError(f"{place} is damaged: its SHA-256 is not what {MANIFEST} says; run the job anew in a new folder")


def _counted(folder: Folder) -> Tally:
    tally = Tally()
    for record in read_parts(folder, read_manifest(folder)):
        tally.add(record)
    return tally
