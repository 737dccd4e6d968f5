"""What a server can do wrong, what the user is told, and that nothing wrong is left in the cache."""

from __future__ import annotations

import hashlib
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from emotiw_keras.weights.fetch import fetch, find, verify
from emotiw_keras.weights.manifest import Entry
from emotiw_keras.weights.web import Failed, redirected
from tests.weights.conftest import DATA, PATIENCE, SHA256, Handler, Server, Told
from tests.weights.fetching import HALF, cut_at, get, left, refused


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


def test_a_server_that_sends_drops_is_given_up(server: Server, cache: Path, entry: Entry, told: Told) -> None:
    """A byte now and then kept a download for ever: never long enough nothing."""

    def answer(handler: Handler) -> None:
        handler.give(DATA[:1], length=len(DATA), ETag='"1"')
        for byte in DATA[1:100]:
            time.sleep(0.05)
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()

    server.answer = answer
    message = refused(entry, told, replace(PATIENCE, tries=1))
    assert re.search(r"the server sent no more than \d+ bytes in 1 s", message)


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
