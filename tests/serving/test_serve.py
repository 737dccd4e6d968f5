"""The HTTP interface of `emotiw serve`: over real sockets it gives the rows of `emotiw predict --json`."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import UsageError
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.weights.shipped import DEFAULT
from tests.serving.services import MULTIPART, ROW, Service, encoded, photo, service

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from emotiw_keras.serving.web.guard import allowed_name  # noqa: E402 - it needs the extra

FACE, OTHER = encoded(photo(3)), encoded(photo(5), "JPEG")
NO_FACE = encoded(np.full((64, 80, 3), 200, np.uint8))
Started = tuple[subprocess.Popen[str], Service]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(DEFAULT, engine="opencv")


@pytest.fixture(scope="module")
def served(predictor: Predictor) -> Iterator[Service]:
    with service(predictor, ["faces.example"]) as running:
        yield running


def shape_of(rows: list[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    return [(row["path"], row["face"], row["error"]) for row in rows]


def test_each_picture_has_its_rows_in_order_and_a_bad_one_its_error(served: Service) -> None:
    answer = served.predict(
        ("a.png", FACE), ("bad.png", b"no image"), ("wall.png", NO_FACE), ("b.jpg", OTHER), ("film.mp4", MP4)
    )
    assert answer.status == 200, answer.body
    told = answer.json
    not_an_image = "not an image in a known format (JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM, AVIF, HEIC)"
    film = "a video, which `emotiw predict` reads; send pictures"
    wanted = [("a.png", 0, None), ("bad.png", None, not_an_image), ("wall.png", None, "no face found"), ("b.jpg", 0, None)]
    assert shape_of(told["rows"]) == [*wanted, ("film.mp4", None, film)]
    assert all(list(row) == ROW for row in told["rows"])
    assert told["labels"] == list(told["rows"][0]["probabilities"])
    assert sum(told["rows"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


MP4 = b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp42"


def test_one_body_and_json_are_read_as_files_are(served: Service) -> None:
    rows = served.predict(("a b.png", FACE)).json["rows"]
    alone = served.ask("POST", "/predict?name=a%20b.png", FACE, Content_Type="image/png")
    text = json.dumps({"images": [{"name": "a b.png", "b64": base64.b64encode(FACE).decode()}]})
    batch = served.ask("POST", "/predict", text, Content_Type="application/json; charset=utf-8")
    assert alone.json["rows"] == batch.json["rows"] == rows


def test_whole_pictures_are_faces_and_remarks_are_told(served: Service, tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.fromarray(photo(seed)) for seed in (3, 5)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    told = served.predict(("two.gif", (tmp_path / "two.gif").read_bytes()), query="?faces=whole").json
    assert [row["box"] for row in told["rows"]] == [[0, 0, 320, 240]]
    assert told["notes"] == [{"path": "two.gif", "note": "holds several images; the first is read"}]


@pytest.mark.parametrize(
    ("path", "kind", "body", "status", "word"),
    [
        ("/predict?face=whole", "image/png", FACE, 400, "?face=whole: expected faces=detect or faces=whole"),
        ("/predict?faces=all", "image/png", FACE, 400, "expected faces=detect"),
        ("/predict?faces=whole&faces=detect", "image/png", FACE, 400, "and name=NAME, each once"),
        ("/predict?name=a&name=b", "image/png", FACE, 400, "and name=NAME, each once"),
        ("/predict?name=a", "application/json", b'{"images": []}', 400, "?name= is for a picture that is the whole body"),
        ("/predict", "text/plain", FACE, 415, "a body of type 'text/plain': expected multipart/form-data"),
        ("/predict", "", FACE, 415, "unknown"),
        ("/predict", "application/json", b'{"images": [1]}', 400, "JSON of another form"),
        ("/predict", "application/json", b'{"images": [{"b64": "%"}]}', 400, "no base64"),
        ("/predict", "application/json", b'{"images": [{"b64": "", "size": 3}]}', 400, "JSON of another form"),
        ("/predict", "application/json", b"[" * 60 + b"]" * 60, 400, "deeper than 50"),
        ("/predict", "application/json", b"[" * 100_000, 413, "more values"),
        ("/predict", "application/json", b'{"images": []}', 400, "no picture"),
        ("/predict", "multipart/form-data", b"", 400, "boundary of 0 bytes"),
        ("/predict", "multipart/form-data; boundary=x", b"--x--\r\n", 400, "no picture"),
        ("/predict", "multipart/form-data; boundary=x", b"nothing of the kind", 400, "no multipart/form-data"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(
    served: Service, path: str, kind: str, body: bytes, status: int, word: str
) -> None:
    answer = served.ask("POST", path, body, Content_Type=kind)
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert word in answer.json["error"]


def test_a_packed_body_is_refused_and_one_that_is_not_is_read(served: Service) -> None:
    packed = served.ask("POST", "/predict?faces=whole", FACE, Content_Type="image/png", Content_Encoding="gzip")
    assert packed.status == 415 and "packed as 'gzip'" in packed.json["error"]
    plain = served.ask("POST", "/predict?faces=whole", FACE, Content_Type="image/png", Content_Encoding="identity")
    assert plain.status == 200


def test_other_paths_and_methods(served: Service) -> None:
    assert served.ask("GET", "/nothing").status == 404
    assert served.ask("GET", "/../../etc/passwd").status == 404
    assert served.ask("POST", "/predict/").json == {"error": "Not Found"}
    wrong = served.ask("GET", "/predict")
    assert (wrong.status, wrong.headers["allow"], wrong.json) == (405, "POST", {"error": "Method Not Allowed"})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("192.168.0.7:8000", 200), ("FACES.example", 200),
        ("evil.example:8000", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("localhost@evil.example", 421), ("[", 421),
    ],
)  # fmt: skip
def test_a_name_that_points_here_is_no_way_in(served: Service, host: str, status: int) -> None:
    assert served.ask("GET", "/healthz", Host=host).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:8000"}, 200),
        ({"Origin": "https://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:9000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_post(served: Service, headers: dict[str, str], status: int) -> None:
    answer = served.predict(("a.png", NO_FACE), Host="localhost:8000", **headers)
    assert answer.status == status
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("faces.example", "faces.example"), ("FACES.example:8000", "faces.example"), ("faces.example.", "faces.example"),
        ("faces.example.:80", "faces.example"), ("box", "box"), ("192.168.0.7", "192.168.0.7"), ("::1", "::1"),
    ],
)  # fmt: skip
def test_a_name_is_allowed_without_its_port_and_the_roots_dot(word: str, name: str) -> None:
    assert allowed_name(word) == name


@pytest.mark.parametrize(
    "word", ["", " ", ".", "http://faces.example", "faces.example/", "*.example", "*", "a..b", "a@b", "a,b"]
)
def test_a_name_that_no_request_can_have_is_refused(word: str, started_emotiw: Callable[..., Any]) -> None:
    with pytest.raises(
        UsageError, match="no request comes under that name; expected one name, such as faces.example"
    ) as caught:
        allowed_name(word)
    if word == "":
        done = started_emotiw("serve", "--allow-host", word)
        assert (done.returncode, done.stderr) == (2, f"emotiw: error: {caught.value}\n")


def test_a_request_without_a_name_is_refused_whatever_is_allowed(predictor: Predictor) -> None:
    with service(predictor, [""]) as running:
        assert running.ask("GET", "/healthz", Host="").status == 421


def test_programs_that_know_no_names_may_ask_how_it_goes(served: Service) -> None:
    import socket

    for path, status in (("/healthz", 200), ("/metrics", 200), ("/", 421), ("/predict", 421)):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert connection.recv(1 << 16).split()[1] == str(status).encode()


def test_every_answer_binds_the_browser(served: Service) -> None:
    for path in ("/", "/page.js", "/healthz", "/nothing"):
        headers = served.ask("GET", path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_openapi_says_what_is_answered(served: Service) -> None:
    document = served.ask("GET", "/openapi.json").json
    schemas = document["components"]["schemas"]
    assert schemas["Row"]["required"] == ROW
    told = served.predict(("a.png", FACE)).json
    assert list(told) == schemas["Answer"]["required"]
    assert told["labels"] == schemas["Row"]["properties"]["label"]["anyOf"][0]["enum"]
    assert list(served.ask("GET", "/healthz").json) == schemas["Health"]["required"]
    assert list(served.ask("GET", "/nothing").json) == schemas["Error"]["required"]
    for path, methods in document["paths"].items():
        for method in methods:
            assert served.ask(method.upper(), path).status not in (404, 405)
    referred = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert referred == set(schemas)


def test_metrics_count_what_came(served: Service) -> None:
    names = [f'emotiw_pictures_total{{found="{found}"}}' for found in ("faces", "no_face", "unreadable")]
    names += ["emotiw_faces_total", 'emotiw_requests_total{path="/predict",status="200"}']
    before = [served.metric(name) for name in names]
    served.predict(("a.png", FACE), ("b.png", NO_FACE), ("c.png", b""), ("d.png", OTHER))
    assert [served.metric(name) - start for name, start in zip(names, before, strict=True)] == [2, 1, 1, 2, 1]
    assert served.metric("emotiw_waiting_pictures") == served.metric("emotiw_held_bytes") == 0


class Slow(Predictor):
    """Waits with each batch until it is let go; notes the faces of each."""

    def __init__(self) -> None:
        super().__init__(DEFAULT, engine="opencv")
        self.go, self.sizes = threading.Event(), list[int]()

    def classify(self, faces: Any) -> np.ndarray:
        self.sizes.append(len(faces))
        assert self.go.wait(60)
        return super().classify(faces)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def waiting(served: Service) -> int:
    return served.batcher.waiting()


def test_what_waits_is_read_together_and_a_full_queue_says_when_to_come_again() -> None:
    slow = Slow()
    with service(slow, waiting=4) as served:
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append((n, served.predict((f"{n}.png", FACE))))) for n in range(5)
        ]
        threads[0].start()
        until(lambda: slow.sizes == [1])
        for thread in threads[1:]:
            thread.start()
        until(lambda: waiting(served) == 4)
        many = served.predict(*[("late.png", FACE)] * 5)
        assert many.status == 503
        full = served.predict(("late.png", FACE))
        assert full.status == 503 and "4 pictures wait, of at most 4" in full.json["error"]
        assert int(full.headers["retry-after"]) >= 1
        assert served.ask("GET", "/healthz").status == 200
        slow.go.set()
        for thread in threads:
            thread.join(60)
        assert slow.sizes == [1, 4]
        assert sorted((n, answer.json["rows"][0]["path"]) for n, answer in answers) == [(n, f"{n}.png") for n in range(5)]
        rows = [answer.json["rows"][0]["probabilities"] for _, answer in answers]
        np.testing.assert_allclose([list(row.values()) for row in rows], [list(rows[0].values())] * 5, atol=1e-5)
        assert served.predict(("late.png", FACE)).status == 200
        many = served.predict(*[("late.png", FACE)] * 5)
        assert (many.status, "more than the 4 pictures allowed" in many.json["error"]) == (413, True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_requests_take_turns_and_large_pictures_wait_for_themselves(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotiw_keras.serving.web import batcher
    from emotiw_keras.serving.web.uploads import Upload

    monkeypatch.setattr(batcher, "PIXELS_TOGETHER", 320 * 240 * 2 - 1)
    slow, data = Slow(), encoded(photo(3), kind)
    with service(slow) as served:

        def submit(count: int) -> list[Any]:
            return served.batcher.submit([Upload("a.png", data)] * count, whole=True)

        first = submit(1)
        until(lambda: slow.sizes == [1])
        many, one = submit(12), submit(1)
        ended: list[str] = []
        for answer in many:
            answer.add_done_callback(lambda _: ended.append("many"))
        one[0].add_done_callback(lambda _: ended.append("one"))
        slow.go.set()
        until(lambda: len(ended) == 13)
        assert first[0].done() and ended.index("one") < 3
        # How many pixels these have is known before they are decoded; others' only then, when one more has been taken.
        assert max(slow.sizes) == (2 if kind == "WEBP" else 1)


def test_pictures_of_who_hangs_up_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from emotiw_keras.serving.web import batcher
    from emotiw_keras.serving.web.uploads import Upload

    decoding, go, names = threading.Event(), threading.Event(), list[str]()

    def decoded(upload: Upload) -> Any:
        names.append(upload.name)
        decoding.set()
        assert go.wait(60)
        return real(upload)

    real = batcher._decoded
    monkeypatch.setattr(batcher, "_decoded", decoded)
    monkeypatch.setattr(batcher, "DECODERS", 1)
    with service() as served:
        answers = served.batcher.submit([Upload(f"{n}.png", FACE) for n in range(40)], whole=True)
        assert decoding.wait(30)
        served.batcher.withdraw(answers)
        go.set()
        assert served.predict(("late.png", FACE)).status == 200
        assert names == ["0.png", "late.png"]
        assert served.metric('emotiw_pictures_total{found="unreadable"}') == 0


def test_who_hangs_up_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    import gc
    import socket

    slow = Slow()
    with service(slow) as served:
        first = threading.Thread(target=served.predict, args=(("a.png", FACE),))
        first.start()
        until(lambda: slow.sizes == [1])
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(FACE)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as gone:
            gone.sendall(head.encode() + FACE)
            until(lambda: waiting(served) == 1)
        until(lambda: waiting(served) == 0)
        slow.go.set()
        first.join(60)
        assert slow.sizes == [1]
        gc.collect()
        assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_batch_that_fails_fails_for_its_cause_alone(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = predictor.cut

    def cut(image: np.ndarray, face: Any) -> np.ndarray:
        if len(image) == 200:
            raise ZeroDivisionError("a fault of ours")
        return real(image, face)

    monkeypatch.setattr(predictor, "cut", cut)
    with service(predictor) as served:
        told = {}

        def ask(name: str, data: bytes) -> None:
            told[name] = served.predict((name, data)).status

        files = {"a.png": FACE, "fault.png": encoded(photo(3, 260, 200)), "b.png": OTHER}
        threads = [threading.Thread(target=ask, args=item) for item in files.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert told == {"a.png": 200, "fault.png": 500, "b.png": 200}
        assert served.metric('emotiw_requests_total{path="/predict",status="500"}') == 1
        fault = served.predict(("fault.png", files["fault.png"]))
        assert (
            "default-src 'none'" in fault.headers["content-security-policy"] and "fault of the service" in fault.json["error"]
        )
        assert served.predict(("a.png", FACE)).status == 200


@contextmanager
def command(folder: Path, code: str = "from emotiw_keras.cli.main import main; main()") -> Iterator[Started]:
    """The command in a process of its own, and the service that it is."""
    words = [sys.executable, "-c", code, "serve", "--port", "0", "--engine", "opencv"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, cwd=folder, stderr=pipe, stdout=pipe, text=True, start_new_session=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("emotiw: http://127.0.0.1:"), line + process.stderr.read()
        yield process, Service(int(line.split("/")[2].split(":")[1]), None)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """The command itself, in a folder in which it must leave nothing."""
    with command(tmp_path) as both:
        yield both


def test_the_command_gives_the_rows_of_predict(started: Started, emotiw: Callable[..., Any], tmp_path: Path) -> None:
    process, served = started
    files = {"a.png": FACE, "b.jpg": OTHER, "c.png": NO_FACE, "d.png": b"\x89PNG\r\n\x1a\nbroken"}
    answer = served.predict(*files.items(), Accept="application/x-ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [path.name for path in tmp_path.iterdir()] == []
    if sys.platform == "linux":
        assert "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = emotiw("predict", *files, "--json", "--engine", "opencv", cwd=tmp_path)
    one_each = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert [list(row) for row in rows] == [list(row) for row in one_each]
    for row, other in zip(rows, one_each, strict=True):
        for each in (row, other):
            if each["probabilities"]:
                each["probabilities"] = pytest.approx(each["probabilities"], abs=1e-5)
        assert {**row, "probabilities": 0} == {**other, "probabilities": 0}
        assert row["probabilities"] is None or row["probabilities"] == other["probabilities"].expected


@pytest.mark.skipif(sys.platform != "linux", reason="signals and decoders apart as Linux has them")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("to", [os.kill, os.killpg])
def test_a_signal_lets_the_requests_at_hand_end(
    started: Started, number: signal.Signals, code: int, to: Callable[[int, int], None]
) -> None:
    process, served = started
    assert served.ask("POST", "/predict", b"--other\r\n", Content_Type=MULTIPART).status == 400  # and no line of it
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(served.predict(*[(f"{n}.png", FACE) for n in range(40)])))
    asking.start()
    until(lambda: served.metric("emotiw_batch_pictures_count") > 0)
    to(process.pid, number)
    asking.join(60)
    assert [(answer.status, len(answer.json["rows"])) for answer in answers] == [(200, 40)]
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "emotiw: stopped\n")


def test_requests_that_take_longer_than_the_end_may_are_told_so(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    answers: list[Any] = []
    try:
        with service(slow, stop_seconds=1) as served:
            asking = threading.Thread(target=lambda: answers.append(served.predict(("a.png", FACE))))
            asking.start()
            until(lambda: slow.sizes == [1])
            served.server.stop()
            asking.join(10)
            slow.go.set()
    finally:
        slow.go.set()
    (answer,) = answers
    assert (answer.status, answer.json) == (503, {"error": "the service is stopping"})
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert caplog.records == []


@pytest.mark.skipif(sys.platform != "linux", reason="decoders run apart on Linux, where forking is safe")
def test_a_service_that_lost_its_decoders_says_so(started: Started) -> None:
    process, served = started
    assert served.predict(("a.png", FACE)).json["rows"][0]["error"] is None
    (mother,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(mother), signal.SIGKILL)
    until(lambda: served.ask("GET", "/healthz").status == 503)
    assert served.ask("GET", "/healthz").json["status"] == "decoders lost"
    answer = served.predict(("a.png", FACE))
    assert answer.status == 503 and "the service has to be started again" in answer.json["error"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "emotiw: stopped\n")


def test_of_two_that_take_one_port_at_once_one_is_told() -> None:
    from emotiw_keras.serving.web.server import listening

    with listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            listening("127.0.0.1", port)


def test_a_port_that_is_taken_and_a_host_that_is_none(started_emotiw: Callable[..., Any], served: Service) -> None:
    done = started_emotiw("serve", "--port", served.port)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"emotiw: error: cannot listen on 127.0.0.1 port {served.port}: Address already in use; choose"
    )
    done = started_emotiw("serve", "--host", "nowhere.invalid")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from emotiw_keras.serving.web import service as module

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("uvicorn", "starlette") else real(name))
    with pytest.raises(UsageError, match=r"needs starlette and uvicorn: pip install 'emotiw-keras\[serve\]'"):
        module.serve("fer28-face-vgg-votes", "127.0.0.1", 0, say=print)


@pytest.mark.skipif(sys.platform != "linux", reason="decoders run apart on Linux, where forking is safe")
def test_a_decoder_that_crashes_is_an_error_of_its_picture(tmp_path: Path) -> None:
    from tests.serving.test_decoders import CRASHING

    code = f"{CRASHING}\nfrom emotiw_keras.cli.main import main; main()"
    with command(tmp_path, code) as (_, served):
        rows = served.predict(("a.png", FACE), ("bad.png", FACE), ("c.png", FACE)).json["rows"]
        assert [row["error"] for row in rows] == [None, "cannot decode: the decoder was ended by SIGSEGV", None]
        assert served.predict(("d.png", FACE)).json["rows"][0]["error"] is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="decoders run apart where processes fork")
def test_a_decoder_that_does_not_end_is_ended(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from emotiw_keras.serving import inputs, video_inputs\n"
        "from emotiw_keras.serving.decoders import apart, current\n"
        "def image(path, data, below):\n"
        "    time.sleep(60 if path == 'slow' else 0)\n"
        "    return inputs.decoded(path, data, below)\n"
        "with apart(image, video_inputs.opened, 3):\n"
        "    for path in ('slow', 'b', 'slow', 'c'):\n"
        "        print(current().image(path, b'P5 8 8 255 ' + bytes(64), path).error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    slow = "cannot decode: it took more than 3 seconds"
    assert (done.stdout.splitlines(), done.stderr) == ([slow, "None", slow, "None"], "")
