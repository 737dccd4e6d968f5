"""A download that goes on in the middle: only of the same file, and only where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emotiw_keras.weights import cache as stored
from emotiw_keras.weights.manifest import Entry
from emotiw_keras.weights.transfer import Part
from tests.weights.conftest import DATA, Handler, Server, Told
from tests.weights.fetching import HALF, cut_at, get, left, refused


def test_a_server_that_ignores_the_range_is_read_from_the_start(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = cut_at(HALF, lambda handler: handler.give(DATA, ETag='"1"'))
    assert get(entry, told).read_bytes() == DATA
    assert "the server sends the file from its start; the" in told


def test_a_file_that_changed_between_is_read_from_the_start(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    unknown = replace(entry, size=0, hashes={})
    server.answer = cut_at(HALF, lambda handler: handler.give_from(DATA[::-1], tag='"2"'))
    assert get(unknown, told).read_bytes() == DATA[::-1]
    assert server.requests[1][1]["If-Range"] == '"1"' and "are dropped" in told


def test_a_server_that_ignores_the_condition_is_noticed(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    def careless(handler: Handler) -> None:
        body = DATA[::-1]
        if "Range" in handler.headers:
            handler.give(body[HALF:], 206, ETag='"2"', Content_Range=f"bytes {HALF}-{len(DATA) - 1}/{len(DATA)}")
        else:
            handler.give(body, ETag='"2"')

    server.answer = cut_at(HALF, careless)
    assert get(replace(entry, size=0, hashes={}), told).read_bytes() == DATA[::-1]
    assert "the file has changed on the server since the download began" in told


@pytest.mark.parametrize("stated", ["bytes 5-9/307200", f"bytes {HALF}-3/307200", "bytes */307200", "bytes"])
def test_wrong_ranges_are_refused(server: Server, cache: Path, entry: Entry, told: Told, stated: str) -> None:
    server.answer = cut_at(HALF, lambda handler: handler.give(DATA[HALF:], 206, ETag='"1"', Content_Range=stated))
    assert f"the server was asked for the bytes from 153,600 on and sent {stated!r}" in refused(entry, told)


def test_a_range_of_another_file_is_refused(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    stated = f"bytes {HALF}-{2 * len(DATA) - 1}/{2 * len(DATA)}"
    server.answer = cut_at(HALF, lambda handler: handler.give(DATA[HALF:], 206, ETag='"1"', Content_Range=stated))
    assert "the server announces 614,400 bytes, the manifest says 307,200" in refused(entry, told)
    assert left(entry) == set()


def test_a_range_that_is_beyond_the_file_starts_anew(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    def answer(handler: Handler) -> None:
        if "Range" in handler.headers:
            handler.give(b"", 416)
        else:
            handler.give(DATA)

    server.answer = cut_at(HALF, answer)
    assert get(entry, told).read_bytes() == DATA and len(server.requests) == 3


@pytest.mark.parametrize("facts", [None, "{", "[]", '{"url": "http://elsewhere/x", "validator": "1"}', '{"validator": 1}'])
def test_a_part_of_unknown_origin_is_not_continued(
    server: Server, cache: Path, entry: Entry, told: Told, facts: str | None
) -> None:
    part = Part(stored.file_path(entry))
    part.path.parent.mkdir(parents=True)
    part.path.write_bytes(b"?" * 10)
    if facts is not None:
        part.facts.write_text(facts)
    assert get(entry, told).read_bytes() == DATA and server.ranges() == [None]


def test_a_forged_part_does_not_get_through(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    part = Part(stored.file_path(entry))
    part.path.parent.mkdir(parents=True)
    part.begin(entry.url, '"1"')
    part.path.write_bytes(b"?" * HALF)
    assert "what came is another file and was deleted" in refused(entry, told)
    assert get(entry, told).read_bytes() == DATA
