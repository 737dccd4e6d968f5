"""What stands in the cache already: two at once, kills, trust at first sight, files of a package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from emotiw_keras.errors import ModelError, OutputError
from emotiw_keras.weights import cache as stored
from emotiw_keras.weights.fetch import fetch, find, in_package
from emotiw_keras.weights.manifest import Entry
from emotiw_keras.weights.transfer import Part
from tests.weights.conftest import DATA, PATIENCE, SHA256, Handler, Server, Told
from tests.weights.fetching import HALF, get, left


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
