"""What strangers send to `emotiw serve`: it is refused or answered, in bounded memory and time, and others are answered."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.weights.shipped import DEFAULT
from tests.serving.services import BOUNDARY, MULTIPART, Service, encoded, multipart, photo, service

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")

FACE = encoded(photo(3))
HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(DEFAULT, engine="opencv")


@pytest.fixture
def served(predictor: Predictor) -> Iterator[Service]:
    """With small bounds; at the end of each test it is as it was."""
    small = {"file_bytes": 1 << 20, "request_bytes": 4 << 20, "held_bytes": 6 << 20, "connections": 20}
    with service(predictor, **small) as running:
        yield running
        assert running.predict(("a.png", FACE)).json["rows"][0]["label"]
        assert running.metric("emotiw_held_bytes") == running.metric("emotiw_waiting_pictures") == 0


def sent(served: Service, *parts: bytes, wait: float = 0.0) -> bytes:
    """What comes back for these bytes: an answer, or nothing where the other side closes, also while they are sent."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(wait)
            while not is_whole(answer) and (chunk := connection.recv(1 << 16)):
                answer += chunk
        except (ConnectionError, BrokenPipeError):
            pass
        return answer


def is_whole(answer: bytes) -> bool:
    """Whether it is an answer with its whole body."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1])


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels in a thousandth of their bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(width + 1)) for _ in range(height)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_bombs_are_rows_with_errors(served: Service) -> None:
    large = bomb(9_000, 9_000)
    claims = b"P6 100000 100000 255 " + bytes(100)
    rows = served.predict(("bomb.png", large), ("claims.ppm", claims), ("a.png", FACE)).json["rows"]
    assert len(large) < 1 << 20
    assert "9000 x 9000 pixels, more than the 64,000,000 allowed" in rows[0]["error"]
    assert "10,000,000,000 pixels, more than" in rows[1]["error"]
    assert rows[2]["error"] is None


NAMES = (
    "<img src=x onerror=alert(1)>.png",
    "../../etc/passwd",
    "C:\\autoexec.bat",
    "\u202egnp.exe",
    "a\x00b.png",
    "東京.png",
    "",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_told_and_nothing_else_is_done_with_them(served: Service, name: str) -> None:
    body = json.dumps({"images": [{"name": name, "b64": ""}]})
    answer = served.ask("POST", "/predict", body, Content_Type="application/json")
    assert answer.json["rows"][0]["path"] == name and answer.json["rows"][0]["error"] == "zero bytes"
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.body.isascii()
    lines = served.ask("POST", "/predict", body, Content_Type="application/json", Accept="application/x-ndjson").body
    assert lines.count(b"\n") == 1
    if name and "\x00" not in name and "\\" not in name:
        assert served.predict((name, b"")).json["rows"][0]["path"] == name


def test_commas_in_names_are_no_values(served: Service) -> None:
    images = [{"name": "a" + ",[{" * 84, "b64": ""}] * 64
    answer = served.ask("POST", "/predict", json.dumps({"images": images}), Content_Type="application/json")
    assert (answer.status, len(answer.json["rows"])) == (200, 64)
    many = served.ask("POST", "/predict", b'{"images": [' + b"0," * 20_000 + b"0]}", Content_Type="application/json")
    assert (many.status, "JSON of more values" in many.json["error"]) == (413, True)


def test_a_long_name_is_refused(served: Service) -> None:
    assert "300 letters" in served.predict(("a" * 300, FACE)).json["error"]
    assert served.predict(("a" * 5000, FACE)).status == 400


@pytest.mark.parametrize(("declared", "kind"), [(True, "image/png"), (False, "image/png"), (True, "application/json")])
def test_a_hundred_megabytes_are_refused_before_they_are_held(served: Service, declared: bool, kind: str) -> None:
    most = 0.0

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, served.metric("emotiw_held_bytes"))

    done = threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        megabyte = bytes(1 << 20)
        if declared:
            start = HEAD.format(kind=kind) + f"Content-Length: {100 << 20}\r\n\r\n"
            answer = sent(served, start.encode(), *[megabyte] * 100)
        else:
            start = HEAD.format(kind=kind) + "Transfer-Encoding: chunked\r\n\r\n"
            answer = sent(served, start.encode(), *[b"100000\r\n" + megabyte + b"\r\n"] * 100, b"0\r\n\r\n")
    finally:
        done.set()
        watching.join()
    expected = (
        b"the picture: more than the 1,048,576 bytes" if kind == "image/png" else b"a request of more than 4,194,304 bytes"
    )
    assert status(answer) == 413 and expected in answer
    assert most <= 6 << 20


def test_one_large_file_among_others_is_refused(served: Service) -> None:
    answer = served.predict(("a.png", FACE), ("large.png", bytes(2 << 20)))
    assert (answer.status, "large.png: more than the 1,048,576 bytes" in answer.json["error"]) == (413, True)


def test_who_is_told_to_wait_for_a_go_sends_nothing(served: Service) -> None:
    start = HEAD.format(kind="image/png") + f"Content-Length: {100 << 20}\r\nExpect: 100-continue\r\n\r\n"
    answer = sent(served, start.encode())
    assert status(answer) == 413 and b"connection: close" in answer.lower()


def test_ten_thousand_parts(served: Service) -> None:
    answer = served.predict(*[(f"{n}.png", b"") for n in range(10_000)])
    assert answer.status == 413 and "more than the 64 pictures" in answer.json["error"]
    headers = b"".join(b"X-%d: y\r\n" % n for n in range(10_000))
    body = f"--{BOUNDARY}\r\n".encode() + headers + b"\r\n\r\n" + f"--{BOUNDARY}--\r\n".encode()
    assert served.ask("POST", "/predict", body, Content_Type=MULTIPART).status == 400


def test_multipart_that_is_no_such_thing(served: Service) -> None:
    whole = multipart([("a.png", FACE)])
    cut = served.ask("POST", "/predict", whole[:-30], Content_Type=MULTIPART)
    assert (cut.status, cut.json["error"]) == (400, "the body ends before its last boundary")
    other = served.ask("POST", "/predict", whole, Content_Type="multipart/form-data; boundary=other")
    assert other.status == 400
    field = whole.replace(b'; filename="a.png"', b"")
    assert "a part that is no file" in served.ask("POST", "/predict", field, Content_Type=MULTIPART).json["error"]


def test_a_body_that_ends_early_is_nobodys(served: Service) -> None:
    start = HEAD.format(kind=MULTIPART) + "Content-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(start.encode() + multipart([("a.png", FACE)])[:1000])
    assert served.ask("GET", "/healthz").status == 200


def test_slow_clients_are_left(predictor: Predictor) -> None:
    slow = {
        "head": (b"POST /predict HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 200),
        "silence": (b"",),
        "body": ((HEAD.format(kind="image/png") + "Content-Length: 100000\r\n\r\n").encode(), *[b"x"] * 20),
    }
    answers: dict[str, bytes] = {}
    with service(predictor, body_seconds=3, idle_seconds=2) as served:

        def send(name: str) -> None:
            answers[name] = sent(served, *slow[name], wait=0.05)

        threads = [threading.Thread(target=send, args=(name,)) for name in slow]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for _ in range(5):
            assert served.predict(("a.png", FACE)).status == 200
        for thread in threads:
            thread.join()
        assert time.monotonic() - start < 60
        assert served.metric("emotiw_held_bytes") == 0
    assert answers["head"] == answers["silence"] == b""
    assert status(answers["body"]) == 408 and b"the body took more than 3 seconds" in answers["body"]


def test_bodies_that_wait_hold_no_more_than_their_share(served: Service) -> None:
    """Two bodies that count three megabytes each are on their way; a third finds no room, and one of few bytes does."""
    start = (HEAD.format(kind="application/json") + f"Content-Length: {4 << 20}\r\n\r\n").encode()
    with (
        socket.create_connection(("127.0.0.1", served.port)) as first,
        socket.create_connection(("127.0.0.1", served.port)) as second,
    ):
        for connection in (first, second):
            connection.sendall(start + bytes((1 << 20) - 300))
        end = time.monotonic() + 10
        while served.metric("emotiw_held_bytes") < (6 << 20) - 2000:
            assert time.monotonic() < end
        full = served.ask("POST", "/predict", bytes(1 << 20), Content_Type="image/png")
        assert (full.status, full.headers["retry-after"]) == (503, "1")
        assert served.ask("GET", "/healthz").status == 200


def test_more_connections_than_allowed_are_closed(served: Service) -> None:
    crowd = [socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(40)]
    closed = 0
    for connection in crowd[20:]:
        try:
            closed += connection.recv(1) == b""
        except ConnectionError:
            closed += 1
    for connection in crowd:
        connection.close()
    assert closed >= 20


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request(served: Service, garbage: bytes) -> None:
    answer = sent(served, garbage)
    assert answer == b"" or status(answer) in (400, 404, 415, 421)
    assert answer == b"" or (
        b"content-security-policy" in answer.lower() and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    )


def test_websockets_are_not_spoken(served: Service) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert status(sent(served, ask)) == 200


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", MULTIPART, "application/json"])
def test_noise_is_answered(served: Service, kind: str) -> None:
    generator = np.random.default_rng(1)
    for size in (0, 1, 10, 1000, 200_000):
        answer = served.ask("POST", "/predict", generator.bytes(size), Content_Type=kind)
        assert answer.status in (200, 400, 413) and answer.json
