"""The HTTP service in a thread of this process, and what asks it over real sockets."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.weights.shipped import DEFAULT

BOUNDARY = "a-boundary"
ROW = ["path", "frame", "seconds", "face", "box", "eyes", "detector_score", "label", "probabilities"]
ROW += ["uncertain", "derived", "doubt", "error"]


@dataclass(frozen=True)
class Response:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    batcher: Any
    server: Any = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        """A request of its own connection; `_` in the names of headers stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def predict(self, *files: tuple[str, bytes], query: str = "", **headers: str) -> Response:
        """Files by multipart/form-data."""
        return self.ask("POST", f"/predict{query}", multipart(files), Content_Type=MULTIPART, **headers)

    def metric(self, name: str) -> float:
        """A figure of /metrics, by its whole name."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return next((float(line[len(name) :]) for line in lines if line.startswith(f"{name} ")), 0.0)


MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def multipart(files: Sequence[tuple[str, bytes]], end: bool = True) -> bytes:
    """A body with these names and bytes."""
    parts = []
    for name, data in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def photo(seed: int = 3, width: int = 320, height: int = 240) -> np.ndarray:
    """A drawn face on a wall, which the detector finds: uint8 (height, width, 3)."""
    side = round(0.6 * height)
    face = draw_faces(seed + 1, size=side, seed=7)[0][seed]
    picture = np.full((height, width, 3), 190, np.uint8)
    top, left = (height - side) // 2, (width - side) // 3
    picture[top : top + side, left : left + side] = face
    return picture


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@contextmanager
def service(predictor: Predictor | None = None, hosts: Sequence[str] = (), **limits: Any) -> Iterator[Service]:
    """A service with these limits, by default of the model that ships, until the block ends."""
    from emotiw_keras.serving.web.app import Facts, application
    from emotiw_keras.serving.web.batcher import Batcher
    from emotiw_keras.serving.web.limits import Limits
    from emotiw_keras.serving.web.metrics import Metrics
    from emotiw_keras.serving.web.server import Server, listening

    predictor = predictor or Predictor(DEFAULT, engine="opencv")
    bounds = Limits(**limits)
    metrics = Metrics({"model": "test"})
    batcher = Batcher(predictor, bounds, metrics)
    ready = threading.Event()
    app = application(Facts(predictor.source.called, predictor.labels, predictor.engine, "0"), batcher, metrics, bounds, hosts)
    with listening("127.0.0.1", 0) as bound:
        server = Server(app, bounds, ready.set)
        thread = threading.Thread(target=server.answer, args=(bound,))
        thread.start()
        assert ready.wait(30)
        try:
            yield Service(bound.getsockname()[1], batcher, server)
        finally:
            server.stop()
            thread.join(30)
            batcher.close()
            assert not thread.is_alive()
