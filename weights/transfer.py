"""One file over HTTP: resumed where it stopped, and bounded in bytes, time and tries."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emotiw_keras.errors import OutputError
from emotiw_keras.files import read_regular, write_atomic, writing
from emotiw_keras.sealed import LARGEST, strict_json
from emotiw_keras.talk import Notice
from emotiw_keras.weights.web import Failed, Interrupted, open_url, refusal, trouble

CHUNK = 2**18
UNKNOWN_LIMIT = 2 * 2**30
"""Most bytes of a file whose size the manifest does not know."""
SLOWEST = 2**10
"""Bytes a second, over twice the seconds of a stall: a server that sends fewer is as good as stalled."""
GROWN = 2**20
"""A try that brought this many new bytes is no failure in a row."""

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Called with the bytes at hand and those of the whole file, 0 if unknown."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: for a connection or the next byte, after a failed try (doubled each time), at a
    server's request at most; and how many tries may fail in a row."""

    stall: float = 30.0
    pause: float = 1.0
    longest_pause: float = 60.0
    tries: int = 5


class Part:
    """An unfinished download beside its final name, and what the server said of the file it belongs to."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.facts = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def validator(self, url: str) -> str:
        """What the server named the version of the file that this part is of; "" if it cannot be continued from `url`."""
        try:
            facts = strict_json(read_regular(self.facts, LARGEST))
        except (OSError, ValueError):
            # Written in one step, so it is missing or was tampered with: the download starts anew.
            return ""
        if not isinstance(facts, dict) or facts.get("url") != url or not isinstance(facts.get("validator"), str):
            return ""
        return facts["validator"]

    def begin(self, url: str, validator: str) -> None:
        """Forget the old bytes, then note what the new ones will belong to."""
        self.remove()
        write_atomic(self.facts, json.dumps({"url": url, "validator": validator}))

    def remove(self) -> None:
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            self.facts.unlink(missing_ok=True)


def megabytes(count: int) -> str:
    """Bytes in words: `243.9 MB`, and the exact number below 100 kB."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def download(url: str, part: Part, *, size: int, patience: Patience, progress: Progress | None, say: Say) -> None:
    """Bring the bytes of `url` into `part.path`, going on where it stopped.

    Args:
        size: bytes of the file as published, or 0 for unknown.

    Raises:
        Failed: this address does not give the file; an unfinished part that can be continued stays.
        OutputError: the part cannot be written, or the disk is too full for it.
    """
    failures, furthest = 0, part.size
    while True:
        try:
            return _try(url, part, size, patience.stall, progress, say)
        except Interrupted as error:
            failures = 1 if part.size >= furthest + GROWN else failures + 1
            furthest = max(furthest, part.size)
            wait = min(patience.pause * 2 ** (failures - 1), patience.longest_pause) if error.wait is None else error.wait
            if wait > patience.longest_pause:
                raise Failed(f"{error}, and asks to wait {wait:,.0f} s") from error
            if failures >= patience.tries:
                raise Failed(f"{error}" + (f", {failures} times in a row" if failures > 1 else "")) from error
            say(Notice(f"{error}; trying again in {wait:.0f} s ({failures + 1} of {patience.tries})"))
            time.sleep(wait)


def _try(url: str, part: Part, size: int, stall: float, progress: Progress | None, say: Say) -> None:
    validator = part.validator(url)
    start = part.size if validator else 0
    if size and start == size:
        return
    headers = {"Range": f"bytes={start}-", "If-Range": validator} if start else {}
    with open_url(url, headers, stall) as response:
        version = _version(response)
        if response.status == 206 and start:
            total = _continued(response, part, start, size)
            if version and version != validator:
                part.remove()
                raise Interrupted("the file has changed on the server since the download began", 0)
        elif response.status == 416:
            part.remove()
            raise Interrupted("the server has no bytes after those at hand", 0)
        elif response.status == 200:
            if start:
                say(Notice(f"the server sends the file from its start; the {megabytes(start)} at hand are dropped"))
            start, total = 0, response.length or 0
        else:
            raise refusal(response)
        _check_announced(response, total, size)
        _check_room(part, (total or size) - start)
        if start:
            say(f"going on at {megabytes(start)} of {megabytes(total)}")
        else:
            part.begin(url, version)
        got = _receive(response, part, start, total or size, size or UNKNOWN_LIMIT, 2 * stall, progress)
    whole = total or size
    if got < whole:
        raise Interrupted(f"the connection was cut at {megabytes(got)} of {megabytes(whole)}")
    if not got:
        raise Failed("the server sent an empty file")


def _receive(
    response: http.client.HTTPResponse, part: Part, start: int, whole: int, limit: int, span: float, progress: Progress | None
) -> int:
    """Append what the server sends to the part; bytes at hand in the end. Interrupted where `span` seconds bring too few."""
    got = start
    before, since = got, time.monotonic()
    with writing(part.path), part.path.open("ab") as file:
        while chunk := _read(response, stalled_at=got):
            if got == 0 and _is_page(chunk):
                raise Failed("the server sent a web page instead of the file")
            got += len(chunk)
            if got > limit:
                break
            file.write(chunk)
            if (passed := time.monotonic() - since) >= span:
                if got - before < SLOWEST * passed:
                    raise Interrupted(f"the server sent no more than {got - before:,} bytes in {passed:.0f} s")
                before, since = got, since + passed
            if progress is not None:
                progress(got, whole)
    if got > limit:
        part.remove()
        raise Failed(f"the server sends more than the {limit:,} bytes that the file may have")
    return got


def _read(response: http.client.HTTPResponse, stalled_at: int) -> bytes:
    # read1 gives what has arrived: a slow server is seen to move, one that stalls is seen to stall.
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise trouble(error, f" after {megabytes(stalled_at)}") from error


def _is_page(start: bytes) -> bool:
    return start[:200].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _version(response: http.client.HTTPResponse) -> str:
    """A strong ETag, else the date of change: what If-Range takes. "" if the server names none."""
    tag = (response.headers.get("ETag") or "").strip()
    return tag if tag.startswith('"') else (response.headers.get("Last-Modified") or "").strip()


def _continued(response: http.client.HTTPResponse, part: Part, start: int, size: int) -> int:
    """Bytes of the whole file, from the answer to a request for those from `start` on."""
    stated = response.headers.get("Content-Range") or "no Content-Range"
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", stated.strip())
    if found is None or int(found[1]) != start or int(found[2]) < start:
        part.remove()
        raise Failed(f"the server was asked for the bytes from {start:,} on and sent {stated!r}")
    total = int(found[2]) + 1 if found[3] == "*" else int(found[3])
    if size and total != size:
        # Not the file that is wanted: the next try must not ask for more of it.
        part.remove()
    return total


def _check_announced(response: http.client.HTTPResponse, total: int, size: int) -> None:
    if response.headers.get_content_type() == "text/html":
        raise Failed("the server sent a web page instead of the file")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Failed(f"the server sent the file packed ({encoding!r}), which was not asked for")
    if size and total and total != size:
        raise Failed(f"the server announces {total:,} bytes, the manifest says {size:,}")
    if total > (size or UNKNOWN_LIMIT):
        raise Failed(f"the server announces {total:,} bytes, more than the {UNKNOWN_LIMIT:,} allowed")
    if not total and not size and not response.chunked:
        raise Failed("neither the server nor the manifest says how long the file is, so its end cannot be told from a cut")


def _check_room(part: Part, needed: int) -> None:
    with writing(part.path):
        free = shutil.disk_usage(part.path.parent).free
    if free < needed:
        raise OutputError(
            f"cannot write {part.path}: {megabytes(needed)} are needed and {megabytes(free)} are free; "
            "free some space and run the same command again"
        )
