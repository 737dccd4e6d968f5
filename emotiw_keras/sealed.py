"""JSON files that notice when their own bytes have changed (a checksum of the content stands among it), and JSON and TOML of
strangers.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

from emotiw_keras.errors import RunError
from emotiw_keras.files import read_regular, write_atomic

CHECKSUM = "checksum"
LARGEST = 256 << 20
"""Bytes: no file of facts is larger, so a larger one is not read."""
DEEPEST = 50
"""Tables and lists within each other: what walks through them would run out of stack."""


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in content.items() if key != CHECKSUM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed_json(content: Mapping[str, Any]) -> str:
    """`content` as JSON text that `read_sealed` can check."""
    plain = json.loads(json_text(content))
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=1) + "\n"


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that every reader takes: a number that is none (NaN, infinity) is null.

    Example:
        >>> json_text({"a": float("nan"), "b": [1.5]})
        '{"a": null, "b": [1.5]}'
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def strict_json(text: str | bytes) -> Any:
    """Parse JSON from a file that may be damaged or a stranger's.

    Raises:
        ValueError: it is no JSON; the words NaN and Infinity, numbers beyond them, a key that stands twice in one object, and
            arrays within each other without end, are none.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    def number(word: str) -> float:
        value = float(word)
        return value if math.isfinite(value) else refuse(word)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"{twice!r:.40} stands twice in one object")
        return table

    try:
        return _not_too_deep(json.loads(text, parse_constant=refuse, parse_float=number, object_pairs_hook=once))
    except RecursionError as error:
        raise ValueError("arrays or objects within each other too deep") from error


def strict_toml(text: str) -> dict[str, Any]:
    """Parse TOML from a file that may be damaged or a stranger's.

    Raises:
        ValueError: it is no TOML; tables and lists within each other without end are none, nor are whole numbers beyond 64
            bits.

    Example:
        >>> strict_toml("rate = 0.5")
        {'rate': 0.5}
    """
    try:
        table: dict[str, Any] = _not_too_deep(tomllib.loads(text))
        _not_too_large(table)
        return table
    except RecursionError as error:
        raise ValueError("lists or tables within each other too deep") from error


def _not_too_large(value: Any) -> None:
    """TOML's numbers have 64 bits; Python reads longer ones, which it then cannot write."""
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            _not_too_large(each)
        elif isinstance(each, int) and each.bit_length() > 63:
            raise ValueError(f"a whole number of {each.bit_length():,} bits")


def _not_too_deep(value: Any) -> Any:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = [each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer)]
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError(f"lists or tables within each other deeper than {DEEPEST}")


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a file that `sealed_json` made, without its checksum. One without checksum is taken as it is: emotiw 0.1
    wrote none, and who changes a file on purpose takes it out.

    Raises:
        RunError: the file is missing, is no JSON object, or its content is not what its checksum says.
    """
    try:
        text = read_regular(path, LARGEST)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path.parent} is damaged: {path.name} cannot be read ({error})") from error
    return read_sealed_text(text, str(path))


def read_sealed_text(text: bytes, place: str) -> dict[str, Any]:
    """The same of a file's bytes, wherever `place` is."""
    path = PurePath(place)
    try:
        content = strict_json(text)
    except ValueError as error:
        raise RunError(f"{path.parent} is damaged: {path.name} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path.parent} is damaged: {path.name} holds a {type(content).__name__}, expected a JSON object")
    said = content.pop(CHECKSUM, None)
    last = next(reversed(content), None)  # where `sealed_json` writes it
    if said is None and last is not None and content[last] == _checksum({k: v for k, v in content.items() if k != last}):
        raise RunError(f"{path.parent} is damaged: {path.name} calls its {CHECKSUM} {last!r:.40}; put back a whole copy")
    if said is not None and said != _checksum(content):
        raise RunError(
            f"{path.parent} is damaged: {path.name} is not what its checksum says; put back a whole copy (or, if you changed "
            f'it on purpose, take out its "{CHECKSUM}")'
        )
    return content


T = TypeVar("T")


def kept(file: Path, make: Callable[[], Any], read: Callable[[Any], T]) -> T:
    """What took long to compute, from `file` where it is kept, else made and kept there.

    Args:
        file: a sealed JSON file, beside what it was made of.
        make: gives what JSON can hold.
        read: turns that into what is wanted.

    Raises:
        RunError: the file is damaged.
        OutputError: it cannot be written.
    """
    if not file.exists():
        write_atomic(file, sealed_json({"kept": make()}))
    try:
        return read(read_sealed(file)["kept"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, csv.Error) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{file} is damaged ({error!r:.80}); remove it, and it is computed again") from error
