"""The service as an ASGI application: a page, and an interface for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emotiw_keras.sealed import json_text
from emotiw_keras.serving.rows import json_line
from emotiw_keras.serving.web.batcher import OK, REASONS, STOPPING
from emotiw_keras.serving.web.guard import Guard
from emotiw_keras.serving.web.limits import Budget, Limits, Refused
from emotiw_keras.serving.web.openapi import openapi
from emotiw_keras.serving.web.uploads import Holding, Upload, read_uploads

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from emotiw_keras.serving.web.batcher import Answer, Awaited, Batcher
    from emotiw_keras.serving.web.metrics import Metrics

LINES = "application/x-ndjson"
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
NOBODY = 499
"""A status that nobody sees: who asked has gone."""


@dataclass(frozen=True)
class Facts:
    """What answers: the run, its classes, the engine, and the package's version."""

    model: str
    labels: tuple[str, ...]
    engine: str
    version: str


def application(facts: Facts, batcher: Batcher, metrics: Metrics, limits: Limits, hosts: Iterable[str]) -> ASGIApp:
    """The service.

    Args:
        facts: what it says of itself.
        batcher: what reads the pictures.
        metrics: what counts.
        limits: what it takes.
        hosts: names under which it may be asked, besides addresses and localhost.
    """
    service = _Service(facts, batcher, limits)
    metrics.held.set_function(lambda: service.budget.held)
    routes = [
        *(Route(path, _file(name, kind)) for path, (name, kind) in PAGE.items()),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", lambda _: Response(metrics.text(), media_type=metrics.kind)),
        Route("/openapi.json", lambda _: JSONResponse(openapi(facts.version, facts.model, facts.labels))),
    ]
    app = Starlette(routes=routes, exception_handlers={Refused: _refusal, HTTPException: _failure, Exception: _fault})
    app.router.redirect_slashes = False  # /predict/ is no path, and an answer without a body no error
    # Around everything, so that an answer to a fault is counted and bound too.
    return Guard(app, hosts, [route.path for route in routes], metrics)


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = files("emotiw_keras.serving.web").joinpath(name).read_bytes()
    return lambda _: Response(content, media_type=kind)


def _refusal(request: Request, error: Refused) -> Response:
    headers = {} if error.after is None else {"Retry-After": str(error.after)}
    if "expect" in request.headers:  # the body has not been sent, and will not be
        headers["Connection"] = "close"
    return JSONResponse({"error": error.reason}, error.status, headers)


def _failure(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _fault(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "a fault of the service, which its standard error tells"}, 500)


class _Service:
    """What needs the batcher."""

    def __init__(self, facts: Facts, batcher: Batcher, limits: Limits) -> None:
        self._facts, self._batcher, self._limits = facts, batcher, limits
        self.budget = Budget(limits.held_bytes)

    async def health(self, request: Request) -> Response:
        """Whether pictures are read."""
        state = self._batcher.state
        told = {"status": state, "model": self._facts.model, "engine": self._facts.engine}
        return JSONResponse(told | {"version": self._facts.version}, 200 if state == OK else 503)

    async def predict(self, request: Request) -> Response:
        """The rows of the pictures of a request."""
        whole = _whole(request)
        with Holding(self.budget) as holding:
            self._batcher.check_room()
            try:
                uploads = await read_uploads(request, self._limits, holding)
                answers = self._batcher.submit(uploads, whole)
                found = await self._answers(request, answers)
            except ClientDisconnect:
                return Response(status_code=NOBODY)
            except asyncio.CancelledError:  # by the server, which has waited for it long enough
                raise Refused(503, REASONS[STOPPING]) from None
        if LINES in request.headers.get("accept", ""):
            lines = [json_line(row) + "\n" for answer in found for row in answer.rows]
            return Response("".join(lines), media_type=LINES)
        return Response(_body(self._facts.labels, uploads, found), media_type="application/json")

    async def _answers(self, request: Request, answers: list[Awaited]) -> list[Answer]:
        """Raises ClientDisconnect where whoever asked does not wait for them."""
        all_of_them = asyncio.gather(*map(asyncio.wrap_future, answers))
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait((all_of_them, gone), return_when=asyncio.FIRST_COMPLETED)
            if not all_of_them.done():
                raise ClientDisconnect
            return all_of_them.result()
        finally:
            gone.cancel()
            all_of_them.cancel()
            all_of_them.add_done_callback(_seen)
            self._batcher.withdraw(answers)


def _body(labels: tuple[str, ...], uploads: list[Upload], answers: list[Answer]) -> str:
    notes = [
        {"path": upload.name, "note": note} for upload, answer in zip(uploads, answers, strict=True) for note in answer.notes
    ]
    rows = [row for answer in answers for row in answer.rows]
    return json_text({"labels": list(labels), "rows": rows, "notes": notes})


def _seen(ended: asyncio.Future[list[Answer]]) -> None:
    """asyncio reports an end that nobody looks at."""
    if not ended.cancelled():
        ended.exception()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _whole(request: Request) -> bool:
    names = [name for name, _ in request.query_params.multi_items()]
    known = len(names) == len(set(names)) and set(names) <= {"faces", "name"}
    faces = request.query_params.get("faces", "detect")
    if not known or faces not in ("detect", "whole"):
        raise Refused(400, f"?{request.url.query:.200}: expected faces=detect or faces=whole, and name=NAME, each once")
    return faces == "whole"
