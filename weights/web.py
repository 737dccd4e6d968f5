"""Asking a server for a file: http and https alone, redirects looked at, and every failure in words.

`urllib.request` does this without a further dependency. Its own opener is not used: that one also reads `file:` and `ftp:`
addresses and follows a redirect from https down to http.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import ssl
import string
import urllib.error
import urllib.request
from datetime import UTC, datetime
from urllib.parse import quote, urljoin, urlsplit

from emotiw_keras import __version__

REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
BUSY = (408, 429, 500, 502, 503, 504)


class Failed(Exception):
    """This address will not give the file; the reason in words."""


class Interrupted(Exception):
    """This try did not give the file, the next one may; the reason, and the seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def _opener() -> urllib.request.OpenerDirector:
    # No handler that turns an answer into an exception or follows it: every status is looked at here.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        opener.add_handler(handler())
    return opener


def open_url(url: str, headers: dict[str, str], stall: float) -> http.client.HTTPResponse:
    """The answer to a GET, redirects followed: at most five, to http or https alone, never from https to http."""
    place = url
    always = {"User-Agent": f"emotiw_keras/{__version__}", "Accept-Encoding": "identity"}
    for _ in range(MAX_REDIRECTS + 1):
        try:
            response = _opener().open(urllib.request.Request(place, headers={**always, **headers}), timeout=stall)
        except (OSError, http.client.HTTPException) as error:
            raise trouble(error, "") from error
        if response.status not in REDIRECTS:
            return response
        location = response.headers.get("Location")
        response.close()
        place = redirected(place, location)
    raise Failed(f"the server sends on and on, more than {MAX_REDIRECTS} times")


def redirected(place: str, location: str | None) -> str:
    """Where an answer with this Location leads; Failed if that is nowhere, no web address, or less safe than `place`."""
    try:
        target = urljoin(place, quote(location or "", safe=string.punctuation))
        parts = urlsplit(target)
        usable = bool(location and parts.hostname and parts.port != 0)
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("http", "https"):
        raise Failed(f"the server sends on to {location!r}, which is no web address")
    if urlsplit(place).scheme == "https" and parts.scheme == "http":
        raise Failed(f"the server sends on from https to {target}, which anyone on the way could change")
    return target


def trouble(error: OSError | http.client.HTTPException, where: str) -> Failed | Interrupted:
    """What went wrong on the way, in words."""
    reason = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError) else error
    if isinstance(reason, TimeoutError):
        return Interrupted(f"the server sent nothing for too long{where}")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Failed(f"the server's certificate is not trusted here ({reason.verify_message})")
    if isinstance(reason, ConnectionRefusedError):
        return Failed("no server answers there (connection refused)")
    if isinstance(reason, (ConnectionError, http.client.IncompleteRead, http.client.BadStatusLine, ssl.SSLError)):
        return Interrupted(f"the connection was cut{where}")
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return Failed(f"no connection{where} ({text})")


def refusal(response: http.client.HTTPResponse) -> Failed | Interrupted:
    said = f"the server answered {response.status} {response.reason}".rstrip()
    if response.status in BUSY:
        return Interrupted(said, _retry_after(response.headers.get("Retry-After")))
    return Failed(f"{said}: it has no such file" if response.status in (404, 410) else said)


def _retry_after(stated: str | None) -> float | None:
    """Seconds, from a number of seconds or a date; None if the server says nothing that can be read."""
    text = (stated or "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    now = datetime.now(UTC)
    return max(0.0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds())
