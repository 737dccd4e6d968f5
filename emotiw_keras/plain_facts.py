"""What values of files may be: types and bounds, as tests of one value. Files of a run come from strangers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

_HUGE = 1e30
Holds = Callable[[Any], bool]
_HASH = re.compile(r"[0-9a-f]{64}")


def integer(low: int, high: int) -> Holds:
    """A whole number from `low` to `high`."""
    return lambda value: type(value) is int and low <= value <= high


def number(value: Any) -> bool:
    """A number that a setting may be."""
    return type(value) in (int, float) and -_HUGE <= value <= _HUGE  # false of NaN, and exact for whole numbers of any size


def figure(value: Any) -> bool:
    """A number that was measured: a training that runs away has losses of any size."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def boolean(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def list_of(item: Holds, *lengths: int) -> Holds:
    """A list of such items, of one of these lengths if any is given."""
    return lambda value: isinstance(value, list) and (not lengths or len(value) in lengths) and all(map(item, value))


def table_of(item: Holds) -> Holds:
    """A table of such values, whatever its keys."""
    return lambda value: isinstance(value, dict) and all(map(item, value.values()))


def one_of(*values: Any) -> Holds:
    """One of these values, of its type."""
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def sha256(value: Any) -> bool:
    """A SHA-256 hash."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def plain_name(name: Any) -> bool:
    """Whether a text is the name of a file in a folder, and no way out of it.

    Example:
        >>> plain_name("data.csv"), plain_name("../data.csv"), plain_name("/data.csv"), plain_name("..")
        (True, False, False, False)
    """
    return isinstance(name, str) and bool(name) and name not in (".", "..") and not re.search(r"[/\\:\x00]", name)
