"""Dataclass fields that know their allowed values, and the check of a table against them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from emotiw_keras.errors import UsageError
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


def _typed(value: Any, hint: Any, what: str, key: str) -> Any:
    text = str(hint).replace("<class '", "").replace("'>", "")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise SettingError(f"{what} is a number of {value.bit_length()} bits, expected at most 64", key)
    if hint is bool and isinstance(value, bool):
        return value
    if text == "bool | str" and isinstance(value, bool | str):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if text == "tuple[str, ...]" and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if text == "tuple[float, ...]" and isinstance(value, list | tuple):
        return tuple(_typed(item, float, what, key) for item in value)
    if text == "tuple[int, ...]" and isinstance(value, list | tuple):
        return tuple(_typed(item, int, what, key) for item in value)
    if text == "tuple[tuple[str, str], ...]":
        listed = list(value.items()) if isinstance(value, Mapping) else value
        if isinstance(listed, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in listed):
            return tuple((_typed(one, str, what, key), _typed(other, str, what, key)) for one, other in listed)
    if text == "tuple[tuple[str, float], ...]" and isinstance(value, list | tuple):
        pairs = []
        for pair in value:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                break
            rate = 0.0 if pair[1] == "freeze" else pair[1]
            pairs.append((pair[0], _typed(rate, float, what, key)))
        else:
            return tuple(pairs)
        text = 'a list of pairs [pattern, rate], the rate a number or "freeze"'
    if hint is float and is_keras(value, "LearningRateSchedule"):
        raise SettingError(f"{what} is a {type(value).__name__}, expected a number; give it as schedule= instead", key)
    names = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
    names |= {"bool | str": "true, false or a text"}
    names |= {"tuple[str, ...]": "a list of texts", "tuple[float, ...]": "a list of numbers"}
    names |= {"tuple[tuple[str, str], ...]": "a table of texts"}
    names |= {"tuple[int, ...]": "a list of whole numbers"}
    raise SettingError(f"{what} is {value!r}, expected {names.get(text, text)}", key)


def _allowed(value: Any, hint: Any, metadata: Mapping[str, Any], what: str, key: str) -> Any:
    """The value in its type, within its bounds."""
    kind = metadata.get("keras")
    if not kind:
        value = _typed(value, hint, what, key)
    elif metadata.get("choices") is None:
        if not isinstance(value, list | tuple) or not all(is_keras(item, kind) for item in value):
            raise SettingError(
                f"{what} is {value!r}, expected a list of {KINDS[kind]} objects, which only Python can give", key
            )
        return tuple(value)
    elif is_keras(value, kind):
        return value
    elif not isinstance(value, str):
        words = ", ".join(repr(choice) for choice in metadata["choices"])
        raise SettingError(f"{what} is {value!r}, allowed are {words} and, in Python, a {KINDS[kind]}", key)
    _checked(value, metadata, what, key)
    return value


def _checked(value: Any, metadata: Mapping[str, Any], what: str, key: str) -> None:
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise SettingError(f"{what} is {value!r}, allowed are {', '.join(repr(choice) for choice in choices)}", key)
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
        raise SettingError(f"{where} is {table!r}, expected a table of settings", where.split()[-1])
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
