"""What callbacks have gathered, into a checkpoint and back: plain data of bounded size, never code."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import math
import reprlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import keras

MOST = 1 << 18
"""Values of an attribute that are kept: numbers and the like, characters of texts, and lists and tables without any."""
DEPTH = 12
"""Lists and tables in each other; three levels of JSON for each table, of which files of facts have no more than 50."""
LONGEST = 200
"""Of names, in characters."""
BITS = 1024
"""Of whole numbers: JSON gives back no longer ones."""
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
)  # fmt: skip
GIVEN = frozenset(("_model", "params"))
"""What every callback is given when a training begins."""
OF_KERAS = frozenset((
    "monitor_op", "writer", "_writers", "_summary_module", "_prev_summary_state", "_batch_trace_context", "progbar",
    "min_delta", "best_weights", "filepath", "filename", "log_dir", "_log_write_dir", "_train_dir", "_val_dir", "directory",
    "root", "path", "backup_dir", "_weights_path", "_training_metadata_path", "_prev_weights_path",
    "_prev_training_metadata_path", "csv_file", "append_header",
))  # fmt: skip
"""Of Keras' own callbacks: what they make when they first need it (`min_delta` gets its sign with `monitor_op`), weights of the
best epoch, which the stage keeps, and where they write, which no file of a run may say."""
_STAYS: ContextVar[frozenset[tuple[int, str]]] = ContextVar("stays", default=frozenset())
"""In a `fit` that goes on: by id of a callback, attributes that a line has named as what the interrupted one left."""
KIND, UNKEPT = "", "unkept"
"""Beside the attributes of a callback, its class; and in place of one that no checkpoint holds, what it is."""

Entries: TypeAlias = dict[str, Any]
"""Of one callback: attribute -> its value as JSON holds it."""
Line: TypeAlias = "tuple[keras.callbacks.Callback | None, str]"

_SHOWN = reprlib.Repr()
for _most in ("list", "tuple", "dict", "set", "frozenset", "deque", "array", "string", "long", "other"):
    setattr(_SHOWN, f"max{_most}", 10_000)


class _Unkept(Exception):
    """A value that is not kept, and what in it is to blame."""


class _Packer:
    """One attribute's value as plain data of JSON; what JSON has no word for is a table of one entry that names its type."""

    def __init__(self) -> None:
        self._room = MOST

    def pack(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        array = kind is np.ndarray or isinstance(value, np.generic)
        counted = max(1, value.size if array else len(value) if kind in (str, list, tuple, dict) else 1)
        if counted > self._room:
            raise _Unkept(f"with more than {MOST:,} values")
        if depth > DEPTH:
            raise _Unkept(f"with more than {DEPTH} in each other")
        self._room -= 0 if kind in (list, tuple, dict) and value else counted  # what is in it counts by itself
        if kind is float and not math.isfinite(value):
            return {"float": repr(value)}  # which is null in files of facts
        if value is None or kind in (bool, float, str) or (kind is int and value.bit_length() <= BITS):
            return value
        if kind in (list, tuple):
            items = [self.pack(item, depth + 1) for item in value]
            return items if kind is list else {"tuple": items}
        if kind is dict:
            return {"dict": [[self.pack(key, depth + 1), self.pack(item, depth + 1)] for key, item in value.items()]}
        if array and value.dtype.name in DTYPES:
            data = base64.b64encode(np.ascontiguousarray(value, value.dtype.name).tobytes()).decode()
            return {"array" if kind is np.ndarray else "scalar": [value.dtype.name, list(value.shape), data]}
        raise _Unkept(f"with {kind.__name__}" if depth else "")


def packed(value: Any) -> Any:
    """A value as JSON holds it, or, where none is kept, what it is.

    Example:
        >>> packed({1: (0.5, None)}), packed({1, 2})
        ({'dict': [[1, {'tuple': [0.5, None]}]]}, {'unkept': 'set'})
    """
    try:
        return _Packer().pack(value)
    except _Unkept as unkept:
        return {UNKEPT: f"{type(value).__name__} {unkept}".strip()[:LONGEST]}


def unpacked(value: Any, depth: int = 0) -> Any:
    """The value that `packed` was given.

    Raises:
        ValueError, TypeError: it gave no such thing; files of a run come from strangers.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth > DEPTH:
        raise ValueError("too deep")
    if isinstance(value, list):
        return [unpacked(item, depth + 1) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("no value of an attribute")
    ((kind, content),) = value.items()
    if kind == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if kind == "tuple" and isinstance(content, list):
        return tuple(unpacked(item, depth + 1) for item in content)
    if kind == "dict":
        return {unpacked(key, depth + 1): unpacked(item, depth + 1) for key, item in content}
    if kind in ("array", "scalar"):
        dtype, shape, data = content
        whole = isinstance(shape, list) and all(type(side) is int and 0 <= side <= MOST for side in shape)
        if dtype not in DTYPES or not whole or (kind == "scalar" and shape):
            raise ValueError("no array")
        raw = base64.b64decode(data, validate=True)
        if len(raw) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError("an array of another size")
        array = np.frombuffer(raw, dtype).reshape(shape).copy()
        return array if kind == "array" else array[()]
    raise ValueError(f"no {kind}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST and value.isprintable()


def _is_unkept(entry: Any) -> bool:
    return isinstance(entry, dict) and UNKEPT in entry


def is_entries(value: Any) -> bool:
    """Whether it is what a checkpoint holds of one callback."""
    return (
        isinstance(value, dict)
        and all(map(_is_name, value))
        and _is_name(value.get(KIND, ""))
        and all(map(_is_entry, value.values()))
    )


def _is_entry(value: Any) -> bool:
    if _is_unkept(value):
        return len(value) == 1 and _is_name(value[UNKEPT])
    try:
        unpacked(value)
    except (ValueError, TypeError):
        return False
    return True


def _put(callback: keras.callbacks.Callback, name: str, value: Any) -> None:
    """Set an attribute. A list or table stays the same object, which others may hold as well."""
    held = vars(callback).get(name)
    if type(held) is list and type(value) is list:
        held[:] = value
    elif type(held) is dict and type(value) is dict:
        held.clear()
        held.update(value)
    else:
        vars(callback)[name] = value


def _passed_over(callback: keras.callbacks.Callback) -> frozenset[str]:
    """Attributes that are nothing gathered."""
    import keras

    own = any(kind.__module__.startswith("keras.") for kind in type(callback).__mro__ if kind is not keras.callbacks.Callback)
    return GIVEN | OF_KERAS if own else GIVEN


class Gathered:
    """What callbacks gather from now on: the attributes that change.

    Args:
        callbacks: in order.
        elsewhere: variables that a checkpoint holds in any case.

    Attributes:
        began: of each callback, attribute -> its entry, and what tells it from another.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], elsewhere: Iterable[Any] = ()) -> None:
        self._callbacks = tuple(callbacks)
        self._elsewhere = frozenset(id(each) for each in (*callbacks, *elsewhere))
        self.began = [self._look(callback) for callback in callbacks]
        self._changed: list[set[str]] = [set() for _ in callbacks]

    def _shown(self, value: Any) -> str:
        """What tells a value that is not kept from what it becomes: its variables, what it holds."""
        import keras

        if id(value) in self._elsewhere:
            return ""
        inner: Any = None
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            inner = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()  # its words leave out its middle
        elif isinstance(value, keras.Layer | keras.Optimizer | keras.Metric):
            inner = [variable for variable in value.variables if id(variable) not in self._elsewhere]
        elif isinstance(value, list | tuple | dict | set | deque | str):
            inner = len(value)
        elif not (inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value)):
            inner = getattr(value, "__dict__", None)
        return f"{id(value)} {_SHOWN.repr(value)} {_SHOWN.repr(inner)}"

    def _look(self, callback: keras.callbacks.Callback) -> dict[str, tuple[Any, str]]:
        found, passed_over = {}, _passed_over(callback)
        for name, value in vars(callback).items():
            if name not in passed_over:
                entry = packed(value)
                found[name] = (entry, self._shown(value) if _is_unkept(entry) else json.dumps(entry))
        return found

    def state(self) -> list[Entries]:
        """The class of each callback, and the attributes that have changed at any time that this was asked."""
        told = []
        for callback, began, changed in zip(self._callbacks, self.began, self._changed, strict=True):
            now = self._look(callback)
            changed |= {name for name, (_, mark) in now.items() if name not in began or began[name][1] != mark}
            kind = {KIND: type(callback).__name__}
            told.append(kind | {name: entry for name, (entry, _) in now.items() if name in changed})
        return told

    def restore(self, state: Sequence[Mapping[str, Any]]) -> list[Line]:
        """Give callbacks what `state` told of those of their class.

        Returns:
            Lines on what does not come back, and of which callback, None where it is not there any more.
        """
        left, lines = list(enumerate(self._callbacks)), list[Line]()
        for entries in state:
            kind = entries.get(KIND)  # an earlier version wrote none
            found = next((each for each in left if kind in (None, type(each[1]).__name__)), None)
            if found is None:
                if len(entries) > 1:
                    lines.append((None, f"callback {kind} is not given any more; what it had gathered is left out"))
                continue
            left.remove(found)
            number, callback = found
            whole = type(callback).__module__.startswith("keras.")  # those of Keras gather no texts: theirs are settings
            for name in entries.keys() - _passed_over(callback) - {KIND}:
                if whole and isinstance(entries[name], str):
                    continue
                self._changed[number].add(name)
                if not _is_unkept(entries[name]):
                    _put(callback, name, unpacked(entries[name]))
            unkept = {name: entry[UNKEPT] for name, entry in entries.items() if _is_unkept(entry)}
            lost = [f"{name} ({what})" for name, what in unkept.items() if (id(callback), name) not in _STAYS.get()]
            if lost:
                line = f"callback {kind}: no checkpoint holds its {', '.join(lost)}, which had changed and begins anew"
                lines.append((callback, f"{line}; let it keep numbers, texts, lists, tuples, dicts or NumPy arrays"))
        return lines


class Given:
    """Callbacks as an unfinished `fit` found them, so that the next begins with the same."""

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self._began = Gathered(callbacks).began
        self._left: list[dict[str, tuple[Any, str]]] = [{} for _ in callbacks]

    def leave(self) -> None:
        """Look at what the `fit` has left."""
        _STAYS.set(frozenset())
        self._left = Gathered(self._callbacks).began

    def take_back(self) -> list[str]:
        """Set back what the `fit` has changed and nobody since; lines on what cannot be."""
        lines, stays = [], set()
        now = Gathered(self._callbacks).began
        for callback, began, left, held in zip(self._callbacks, self._began, self._left, now, strict=True):
            for name, found in held.items():
                if left.get(name) != found or began.get(name) == found:
                    continue
                if name not in began:
                    delattr(callback, name)
                elif not _is_unkept(began[name][0]):
                    _put(callback, name, unpacked(began[name][0]))
                else:
                    stays.add((id(callback), name))
                    kept = f"{name} ({began[name][0][UNKEPT]})"
                    lines.append(f"callback {type(callback).__name__}: {kept} goes on with what the interrupted fit left in it")
        _STAYS.set(frozenset(stays))
        return lines
