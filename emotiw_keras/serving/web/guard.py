"""Around every request: who may ask, what a browser may do with the answer, and how it is counted."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from emotiw_keras.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from emotiw_keras.serving.web.metrics import Metrics

# Nothing but what the service itself sends, and pictures that the page holds already.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
READING = ("GET", "HEAD")
FIGURES = ("/healthz", "/metrics")
"""What programs ask for that may know no HTTP but 1.0, whose requests need no name; browsers send one."""
OUR_SITE = ("same-origin", "none")
_NAME = re.compile(r"((?:[a-z0-9_-]+\.)*[a-z0-9_-]+)\.?(?::[0-9]{1,5})?", re.IGNORECASE)
"""A name as the header Host may have it, with the root's dot and a port."""


def allowed_name(word: str) -> str:
    """A name under which the service may be asked, without the root's dot and a port.

    Raises:
        UsageError: no request could come with it.
    """
    if found := _NAME.fullmatch(word):
        return found[1].lower()
    if _is_address(word):
        return word
    expected = "expected one name, such as faces.example; addresses and localhost are allowed without it"
    raise UsageError(f"--allow-host {word!r:.200}: no request comes under that name; {expected}")


class Guard:
    """Refuses what another site's page sends through a visitor's browser.

    A site that lets its name point at this machine (DNS rebinding) comes with its name as the host: an address and
    "localhost" cannot be such a name. A page of another site that posts comes with another origin.

    Args:
        app: what answers.
        hosts: names under which the service may be asked, besides addresses and localhost.
        paths: those that are counted by their names.
        metrics: what counts.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], paths: Iterable[str], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._hosts = {"localhost", *(name.lower().rstrip(".") for name in hosts)} - {""}
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                self._count(scope["path"], message["status"], time.perf_counter() - start)
            await send(message)

        refused = self._refused(scope["method"], scope["path"], Headers(scope=scope))
        await (self._app if refused is None else refused)(scope, receive, answer)

    def _count(self, path: str, status: int, seconds: float) -> None:
        self._metrics.requests.labels(path if path in self._paths else "other", str(status)).inc()
        self._metrics.seconds.observe(seconds)

    def _refused(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        if "host" not in headers and method in READING and path in FIGURES:
            return None
        host = headers.get("host", "")
        if not self._may_be_called(host):
            reason = f"asked as {host!r}, which is none of the names of this service; `emotiw serve --allow-host NAME` adds one"
            return JSONResponse({"error": reason}, 421)
        if method in READING:
            return None
        origin = headers.get("origin")
        if not (origin is None or _is_of(origin, host)) or headers.get("sec-fetch-site", "none") not in OUR_SITE:
            return JSONResponse({"error": f"sent by a page of another site ({origin})"}, 403)
        return None

    def _may_be_called(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # it is none
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
