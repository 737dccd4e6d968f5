"""What a service takes, at most: whatever comes, its memory and its time are bounded."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    Attributes:
        files: pictures of one request.
        file_bytes: bytes of one picture.
        request_bytes: bytes of the body of one request.
        held_bytes: bytes of all bodies together that are in memory.
        waiting: pictures that wait for their turn.
        name_letters: letters of a file's name.
        body_seconds: time in which the body of a request has to arrive.
        idle_seconds: time in which the head of a request has to arrive, and an answer has to be taken.
        decode_seconds: time in which a picture has to be decoded.
        connections: connections that are open.
        stop_seconds: time for the requests at hand when the service is stopped.
    """

    files: int = 64
    file_bytes: int = 32 << 20
    request_bytes: int = 64 << 20
    held_bytes: int = 256 << 20
    waiting: int = 256
    name_letters: int = 255
    body_seconds: float = 60.0
    idle_seconds: float = 15.0
    decode_seconds: float = 20.0
    connections: int = 512
    stop_seconds: int = 20


class Refused(Exception):
    """A request that is not answered: the status of HTTP, the reason, and seconds after which to come again."""

    def __init__(self, status: int, reason: str, after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.after = status, reason, after


class Budget:
    """Bytes that all requests hold together.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.held = 0

    def take(self, count: int) -> None:
        """Hold some more.

        Raises:
            Refused: there would be too many.
        """
        with self._lock:
            if self.held + count > self._most:
                raise Refused(503, f"other requests hold {self.held:,} of {self._most:,} bytes; come again", 1)
            self.held += count

    def give(self, count: int) -> None:
        """Hold some less."""
        with self._lock:
            self.held -= count
