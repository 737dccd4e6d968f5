"""A web server on this machine that answers as a test tells it to."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emotiw_keras.weights.fetch import Patience
from emotiw_keras.weights.manifest import Entry

# Quick, but with room for a busy machine.
PATIENCE = Patience(stall=0.3, pause=0.01, longest_pause=0.2, tries=3)
DATA = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Hands every request to the server's `answer`."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        try:
            self.server.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            # The client has had enough, as some tests want.
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def give(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """A whole answer; `length` is announced in place of the true one."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def give_from(self, body: bytes, tag: str = '"1"') -> None:
        """`body`, or what was asked of it, as a good server does it."""
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.give(body[start:], 206, ETag=tag, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.give(body, ETag=tag)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[Handler], None] = lambda handler: handler.give_from(DATA)

    def url(self, path: str = "/net.caffemodel") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def ranges(self) -> list[str | None]:
        """The Range of each request."""
        return [headers.get("Range") for _, headers in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("EMOTIW_OFFLINE", raising=False)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMOTIW_CACHE", str(folder))
    return folder


@pytest.fixture
def entry(server: Server) -> Entry:
    """A file whose size and hash are published."""
    return Entry(key="net", kind="weights", format="caffemodel", url=server.url(), size=len(DATA), hashes={"sha256": SHA256})


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
