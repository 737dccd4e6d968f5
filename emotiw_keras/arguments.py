"""Numbers that users give as arguments: whole where whole ones are meant, and not below the least that means something."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from emotiw_keras.errors import EmotiwError, UsageError
from emotiw_keras.text import briefly


def is_whole(value: Any) -> bool:
    """Whether this is a whole number, Python's or NumPy's; true and false are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, Python's or NumPy's; true and false are none."""
    one = isinstance(value, Real) and not isinstance(value, bool)
    return one and -math.inf < value < math.inf


def items_of(value: Any) -> list[Any]:
    """What a sequence holds; nothing if it is none, as NumPy's and TensorFlow's arrays without an axis are not."""
    try:
        return list(value)
    except TypeError:
        return []


def whole_number(name: str, value: Any, low: int, error: type[EmotiwError] = UsageError, high: int | None = None) -> int:
    """An argument that counts something, as Python's own whole number: NumPy's overflow, and JSON takes none.

    Args:
        name: of the argument.
        value: what was given.
        low: the least that it may be.
        error: what is raised.
        high: the most, if there is a bound.

    Raises:
        UsageError, or `error`: no whole number, or out of bounds.

    Example:
        >>> import numpy as np
        >>> whole_number("limit", np.uint8(20), 1)
        20
    """
    if not (is_whole(value) and value >= low and (high is None or value <= high)):
        bounds = f", at least {low}" if high is None else f" from {low} to {high}"
        raise error(f"{name} = {briefly(value)}: expected a whole number{bounds}")
    return int(value)


def whole_or_none(name: str, value: Any, low: int, error: type[EmotiwError] = UsageError) -> int | None:
    """As `whole_number`, of an argument that may be left out."""
    return None if value is None else whole_number(name, value, low, error)


def finite_number(name: str, value: Any, low: float) -> float:
    """An argument that measures something, finite and at least `low`; UsageError otherwise."""
    if not (is_number(value) and value >= low):
        raise UsageError(f"{name} = {briefly(value)}: expected a number, at least {low:g}")
    return float(value)
