"""Dataclass fields that know their allowed values, and the check of a table against them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from emotiw_keras.errors import UsageError
from emotiw_keras.text import briefly
from emotiw_keras.training.keras_objects import KINDS, is_keras

T = TypeVar("T")


class SettingError(UsageError):
    """A setting that cannot be meant; `key` is the offending name, so that a reader of a file can find its line."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def setting(
    default: Any = dataclasses.MISSING,
    *,
    choices: tuple[str | bool, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    keras: str = "",
) -> Any:
    """A dataclass field with its allowed values.

    Args:
        default: the value where none is given.
        choices: words that are allowed.
        low, high: a range that includes them.
        above: a bound that it excludes.
        keras: a kind of Keras object (`keras_objects.KINDS`) that is allowed too; without `choices`, a sequence of them.
    """
    metadata = {"choices": choices, "low": low, "high": high, "above": above, "keras": keras}
    return dataclasses.field(default=default, metadata=metadata)


def _range(metadata: Mapping[str, Any]) -> str:
    parts = []
    if metadata.get("above") is not None:
        parts.append(f"above {metadata['above']:g}")
    if metadata.get("low") is not None:
        parts.append(f"at least {metadata['low']:g}")
    if metadata.get("high") is not None:
        parts.append(f"at most {metadata['high']:g}")
    return " and ".join(parts) or "a finite number"


_LARGEST = 1 << 63  # TOML has whole numbers of 64 bits; Python reads larger ones


class _OtherTypeError(Exception):
    """A value is of another type than its field's."""


def _too_long(value: Any) -> bool:
    return isinstance(value, int) and not -_LARGEST <= value < _LARGEST


def _of(*types: type) -> Callable[[Any], Any]:
    """Takes values of some types; true and false are no numbers."""

    def read(value: Any) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types) or _too_long(value):
            raise _OtherTypeError
        return value

    return read


def _number(value: Any) -> float:
    return float(_of(int, float)(value))


def _each(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Takes lists, each item by `read`."""
    return lambda value: tuple(map(read, _of(list, tuple)(value)))


def _pair(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    def read(value: Any) -> tuple[Any, Any]:
        if len(_of(list, tuple)(value)) != 2:
            raise _OtherTypeError
        return one(value[0]), other(value[1])

    return read


def _texts_by_name(value: Any) -> tuple[tuple[str, str], ...]:
    return _each(_pair(_of(str), _of(str)))(list(value.items()) if isinstance(value, Mapping) else value)


def _rate(value: Any) -> float:
    return 0.0 if value == "freeze" else _number(value)


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bool": (_of(bool), "true or false"),
    "bool | str": (_of(bool, str), "true, false or a text"),
    "int": (_of(int), "a whole number"),
    "float": (_number, "a number"),
    "str": (_of(str), "a text"),
    "tuple[str, ...]": (_each(_of(str)), "a list of texts"),
    "tuple[int, ...]": (_each(_of(int)), "a list of whole numbers"),
    "tuple[float, ...]": (_each(_number), "a list of numbers"),
    "tuple[tuple[str, str], ...]": (_texts_by_name, "a table of texts"),
    "tuple[tuple[str, float], ...]": (
        _each(_pair(_of(str), _rate)),
        'a list of pairs [pattern, rate], the rate a number or "freeze"',
    ),
}
"""By type of a field: what takes a value of it, and the type in words."""


def _typed(value: Any, hint: Any, what: str, key: str) -> Any:
    if _too_long(value):
        raise SettingError(f"{what} is a number of {value.bit_length()} bits, expected at most 64", key)
    if hint is float and is_keras(value, "LearningRateSchedule"):
        raise SettingError(f"{what} is a {type(value).__name__}, expected a number; give it as schedule= instead", key)
    read, words = _READERS[hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)]
    try:
        return read(value)
    except _OtherTypeError:
        raise SettingError(f"{what} is {briefly(value)}, expected {words}", key) from None


def _allowed(value: Any, hint: Any, metadata: Mapping[str, Any], what: str, key: str) -> Any:
    """The value in its type, within its bounds."""
    kind = metadata.get("keras")
    if not kind:
        value = _typed(value, hint, what, key)
    elif metadata.get("choices") is None:
        if not isinstance(value, list | tuple) or not all(is_keras(item, kind) for item in value):
            raise SettingError(
                f"{what} is {briefly(value)}, expected a list of {KINDS[kind]} objects, which only Python can give", key
            )
        return tuple(value)
    elif is_keras(value, kind):
        return value
    elif not isinstance(value, str):
        words = ", ".join(repr(choice) for choice in metadata["choices"])
        raise SettingError(f"{what} is {briefly(value)}, allowed are {words} and, in Python, a {KINDS[kind]}", key)
    _checked(value, metadata, what, key)
    return value


def _checked(value: Any, metadata: Mapping[str, Any], what: str, key: str) -> None:
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise SettingError(f"{what} is {briefly(value)}, allowed are {', '.join(repr(choice) for choice in choices)}", key)
    numbers = value if isinstance(value, tuple) else (value,)
    for number in (n for n in numbers if isinstance(n, float | int) and not isinstance(n, bool)):
        low, high, above = metadata.get("low"), metadata.get("high"), metadata.get("above")
        bad = not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high)
        if bad or (above is not None and number <= above):
            raise SettingError(f"{what} is {number!r}, expected {_range(metadata)}", key)


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a settings dataclass from a table of a recipe; every key, type and value is checked.

    Args:
        cls: the dataclass, its fields made with `setting`.
        table: keys and values as read from TOML or the command line.
        where: how messages name the table, such as `stage 'fer'`.

    Raises:
        SettingError: unknown key, missing key, wrong type or impossible value, with what is allowed.
    """
    if not isinstance(table, Mapping):
        raise SettingError(f"{where} is {briefly(table)}, expected a table of settings", where.split()[-1])
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SettingError(f"{where} has no setting {key!r}; {hint}allowed are {', '.join(fields)}", key)
        what = f"{key} of {where}"
        values[key] = _allowed(value, hints[key], fields[key].metadata, what, key)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingError(f"{where} lacks the setting {name!r}", name)
    return cls(**values)


def validate(instance: Any, where: str) -> None:
    """Check a settings dataclass that was built in Python, by the same rules as `from_table`.

    Raises:
        SettingError: wrong type or impossible value.
    """
    hints = get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        what = f"{field.name} of {where}"
        value = _allowed(getattr(instance, field.name), hints[field.name], field.metadata, what, field.name)
        object.__setattr__(instance, field.name, value)
