"""The pictures of a request, out of a body that is read as it comes and never beyond its bounds."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emotiw_keras.sealed import strict_json
from emotiw_keras.serving.web.limits import Budget, Limits, Refused

if TYPE_CHECKING:
    from starlette.requests import Request

KINDS = "multipart/form-data, application/json, image/* or application/octet-stream"
JSON_FORM = '{"images": [{"name": "a.jpg", "b64": "..."}]}'
JSON_COPIES = 3
"""Copies of a JSON body that are in memory while it is taken apart."""
MARKS_A_FILE = 16
"""Commas and brackets that JSON has for one picture beside its name, at most: a body of nothing else would take many times its
size."""
HEAD_BYTES = 2048
"""Bytes of one header of a part."""
# What it warns of is a client's and in the answer; without a handler Python would write it to standard error.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Upload:
    """A picture as it came: its name, as the client gives it, and its bytes."""

    name: str
    data: bytes


class Holding:
    """What one request holds of the budget, until it is answered."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def take(self, count: int) -> None:
        """Hold some more bytes. Raises Refused where there are too many."""
        self._budget.take(count)
        self._held += count

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give(self._held)


async def read_uploads(request: Request, limits: Limits, holding: Holding) -> list[Upload]:
    """The pictures of a request.

    Args:
        request: whose body has not been read.
        limits: which bounds it.
        holding: what counts its bytes.

    Raises:
        Refused: another kind of body, a damaged or an empty one, one that is too large or too slow, or too many pictures.
    """
    kind, options = _options(request.headers.get("content-type", ""))
    alone = kind.startswith("image/") or kind == "application/octet-stream"
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal():
        _check_body(int(declared), alone, limits)
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise Refused(415, f"a body packed as {coding!r:.40}: expected one that is not; pictures are packed already")
    if "name" in request.query_params and kind in ("multipart/form-data", "application/json"):
        raise Refused(400, f"?name= is for a picture that is the whole body; {kind} has names of its own")
    try:
        async with asyncio.timeout(limits.body_seconds):
            if kind == "multipart/form-data":
                uploads = await _multipart(_bounded(request, limits, holding), options.get(b"boundary", b""), limits)
            elif kind == "application/json":
                body = await _whole(_bounded(request, limits, holding, JSON_COPIES))
                uploads = await asyncio.to_thread(_of_json, body, limits)
            elif alone:
                name = request.query_params.get("name", "")
                _check_name(name, limits)
                uploads = [Upload(name, await _whole(_bounded(request, limits, holding, alone=True)))]
            else:
                raise Refused(415, f"a body of type {kind or 'unknown'!r}: expected {KINDS}")
    except TimeoutError as error:
        raise Refused(408, f"the body took more than {limits.body_seconds:g} seconds") from error
    if not uploads:
        raise Refused(400, "no picture: expected at least one file")
    return uploads


def _options(header: str) -> tuple[str, dict[bytes, bytes]]:
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(header)
    return kind.decode("latin-1").lower(), options


def _check_body(count: int, alone: bool, limits: Limits) -> None:
    if alone:
        _check_size("", count, limits)
    elif count > limits.request_bytes:
        picture = f"a picture may have {limits.file_bytes:,}"
        raise Refused(
            413, f"a request of more than {limits.request_bytes:,} bytes; {picture}, and several can be sent one by one"
        )


async def _bounded(
    request: Request, limits: Limits, holding: Holding, copies: int = 1, alone: bool = False
) -> AsyncIterator[bytes]:
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        _check_body(count, alone, limits)
        holding.take(copies * len(chunk))
        yield chunk


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def _check_name(name: str, limits: Limits) -> None:
    if len(name) > limits.name_letters:
        raise Refused(400, f"a file's name of {len(name):,} letters, more than the {limits.name_letters} allowed")


def _check_size(name: str, count: int, limits: Limits) -> None:
    if count > limits.file_bytes:
        raise Refused(413, f"{name or 'the picture'}: more than the {limits.file_bytes:,} bytes allowed for one picture")


def _check_count(count: int, limits: Limits) -> None:
    most = min(limits.files, limits.waiting)  # more than may wait would be told to come again for ever
    if count > most:
        raise Refused(413, f"more than the {most} pictures allowed in one request; send them in several")


async def _multipart(chunks: AsyncIterator[bytes], boundary: bytes, limits: Limits) -> list[Upload]:
    from python_multipart.exceptions import MultipartParseError
    from python_multipart.multipart import MultipartParser

    if not 1 <= len(boundary) <= 70:
        raise Refused(400, f"multipart/form-data with a boundary of {len(boundary)} bytes: expected 1 to 70")
    parts = _Parts(limits)
    parser = MultipartParser(boundary, parts.callbacks(), max_header_size=HEAD_BYTES)
    try:
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise Refused(400, f"no multipart/form-data: {error}") from error
    if not parts.ended:
        raise Refused(400, "the body ends before its last boundary")
    return parts.uploads


class _Parts:
    """Makes uploads of what a parser of multipart calls."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._header, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._name: str | None = None
        self.uploads: list[Upload] = []
        self.ended = False

    def callbacks(self) -> dict[str, Any]:
        """Each by the name that the parser has for it."""
        names = "part_begin header_field header_value header_end headers_finished part_data part_end end".split()
        return {f"on_{name}": getattr(self, f"_{name}") for name in names}

    def _part_begin(self) -> None:
        _check_count(len(self.uploads) + 1, self._limits)
        self._name = None
        self._data = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            if b"filename" in options:
                self._name = options[b"filename"].decode("utf-8", "replace")
                _check_name(self._name, self._limits)
        self._header, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        if self._name is None:
            raise Refused(400, "a part that is no file: expected files alone, each with a file name")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        _check_size(self._name or "", len(self._data) + end - start, self._limits)
        self._data += data[start:end]

    def _part_end(self) -> None:
        self.uploads.append(Upload(self._name or "", bytes(self._data)))
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


def _of_json(body: bytes, limits: Limits) -> list[Upload]:
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > (MARKS_A_FILE + limits.name_letters) * (limits.files + 1):
        raise Refused(413, f"JSON of more values than {limits.files} pictures have; expected {JSON_FORM}")
    try:
        told = strict_json(body)
    except ValueError as error:
        raise Refused(400, f"no JSON: {error}") from error
    images = told.get("images") if isinstance(told, dict) and set(told) == {"images"} else None
    if not isinstance(images, list):
        raise Refused(400, f"JSON of another form: expected {JSON_FORM}")
    _check_count(len(images), limits)
    return [_of_item(item, limits) for item in images]


def _of_item(item: Any, limits: Limits) -> Upload:
    name, text = (item.get("name", ""), item.get("b64")) if isinstance(item, dict) else ("", None)
    if not isinstance(name, str) or not isinstance(text, str) or not set(item) <= {"name", "b64"}:
        raise Refused(400, f"JSON of another form: expected {JSON_FORM}")
    _check_name(name, limits)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"{name or 'the picture'}: no base64: {error}") from error
    _check_size(name, len(data), limits)
    return Upload(name, data)
