"""The service on a port: uvicorn, with an end to everything that could wait without one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, h11

from emotiw_keras.errors import UsageError
from emotiw_keras.serving.web.guard import HEADERS

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from emotiw_keras.serving.web.limits import Limits

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_SECONDS = 5
"""For requests that are given up to be told so."""


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens: of two that are bound at one moment it is listening that fails.

    Raises:
        UsageError: there is no such host, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name != "nt":  # there it would let another program take the port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


class Server(uvicorn.Server):
    """Answers until it is stopped, by `stop` or by a signal, and then the requests at hand.

    Args:
        app: what answers.
        limits: its times and connections.
        ready: called when it answers.
    """

    def __init__(self, app: ASGIApp, limits: Limits, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_protocol(limits),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(limits.idle_seconds),
                timeout_graceful_shutdown=limits.stop_seconds + LAST_SECONDS,
            )
        )
        self._ready, self._stop_seconds = ready, limits.stop_seconds
        self._signal = 0

    def answer(self, bound: socket.socket) -> int:
        """Answer on a bound socket.

        Returns:
            The number of the signal that ended it.
        """
        self.run(sockets=[bound])
        return self._signal

    def stop(self) -> None:
        """End soon."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        late = asyncio.get_running_loop().call_later(self._stop_seconds, self._give_up)
        await super().shutdown(sockets)
        late.cancel()

    def _give_up(self) -> None:
        """The requests at hand are cancelled, and answer so."""
        for task in self.server_state.tasks:
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's own, which raises the signal again at the end."""

        def stop(number: int, frame: Any) -> None:
            self.force_exit = self.should_exit and number == signal.SIGINT
            self.should_exit, self._signal = True, self._signal or number

        here = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, stop) for number in SIGNALS} if here else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _protocol(limits: Limits) -> type[H11Protocol]:
    """Connections that do not stay without a request, or with an answer that is not taken."""

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._wait()

        def connection_lost(self, error: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(error)

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete:
                self._wait_no_more()

        def send_400_response(self, msg: str) -> None:
            body = json.dumps({"error": msg}).encode()
            told = {**HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            answer = h11.Response(status_code=400, headers=list(told.items()), reason=b"Bad Request")
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def on_response_complete(self) -> None:
            self._wait()
            super().on_response_complete()

        def _wait(self) -> None:
            self._wait_no_more()
            self._late = self.loop.call_later(limits.idle_seconds, self.transport.abort)

        def _wait_no_more(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Bounded
