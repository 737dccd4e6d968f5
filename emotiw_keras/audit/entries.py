"""What is audited, as it was stated: runs, files with their input and labels, commands; in a TOML file or on the command line.

Nothing about a stranger's file is guessed: its labels, its input and what it answers with are written down by whoever names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from emotiw_keras.errors import UsageError
from emotiw_keras.files import expanded, local_path
from emotiw_keras.models.registry import LARGEST_SIDE
from emotiw_keras.sealed import strict_toml

UNKNOWN = "unknown"
CHANNELS = ("grey", "rgb", "bgr")
ORDERS = ("nhwc", "nchw")
OUTPUTS = ("probabilities", "logits")
LARGEST_TOML = 1 << 20
MOST_TOGETHER = 4096
"""Faces that a file is given at a time, at most."""
_TEXTS = ("name", "run", "adapter", "file", "output", "trained_on", "selected_on", "source", "head")


@dataclass(frozen=True)
class Input:
    """What a file's network takes.

    Attributes:
        side: pixels of a face a side.
        channels: a name in `CHANNELS`; a grey face is repeated for three.
        order: a name in `ORDERS`, where the channels stand.
        low, high: what black and white become.
        mean, std: taken off, and divided by, after that: a number for each channel.
        batch: faces at a time, where the file does not say it.
    """

    side: int
    channels: str
    order: str
    low: float
    high: float
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    batch: int = 64


@dataclass(frozen=True)
class Entry:
    """One reader of expressions.

    Attributes:
        name: what tables call it.
        run: a run folder, the name of a model that ships, or a file of `emotiw export --format onnx`.
        crops: of a run, as `Predictor` has it.
        head: of a run with several heads, which answer; "" for the run's choice.
        adapter: a command, as `Adapter` takes it.
        file: an ONNX file, a Keras file or the folder of a SavedModel.
        labels: of a file, the classes in the order of its outputs.
        input: of a file, what it takes.
        output: of a file, a name in `OUTPUTS`.
        trust: that whoever names a Keras file or a SavedModel trusts who made it: both are programs.
        trained_on, selected_on: what is known of how it came about, in words; "unknown", or None for a run, which says it.
        source: where that is known from.
    """

    name: str
    run: str = ""
    crops: int | None = None
    head: str = ""
    adapter: str = ""
    file: str = ""
    labels: tuple[str, ...] = ()
    input: Input | None = None
    output: str = ""
    trust: bool = False
    trained_on: str | None = None
    selected_on: str | None = None
    source: str = ""


def entry_of(word: str) -> list[Entry]:
    """The entries that a word of the command line names: a run, an exported file, or a TOML file of entries."""
    return read_entries(word) if Path(word).suffix.lower() == ".toml" else [Entry(name=Path(word).name or word, run=word)]


def adapter_entry(word: str) -> Entry:
    """NAME=COMMAND, or the command alone."""
    name, equals, command = word.partition("=")
    if equals and command.strip() and name and not any(mark in name for mark in " /\\\"'"):
        return Entry(name=name, adapter=command)
    return Entry(name=word, adapter=word)


def distinct(entries: Sequence[Entry]) -> list[Entry]:
    """The entries.

    Raises:
        UsageError: two have one name, or there is none.
    """
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise UsageError(f"two models are called {twice[0]!r}" if twice else "name a model, a TOML file of models or --adapter")
    return list(entries)


def read_entries(path: str | Path) -> list[Entry]:
    """The `[[model]]` tables of a TOML file; a `run` or `file` that is not where the command runs is the one beside it.

    Raises:
        UsageError: it cannot be read, or states something that cannot be meant.
    """
    try:
        place = local_path(path)
        if place.stat().st_size > LARGEST_TOML:
            raise UsageError(f"{path} has over {LARGEST_TOML:,} bytes; expected a table of models")
        table = strict_toml(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    models = table.get("model")
    if set(table) != {"model"} or not isinstance(models, list) or not all(isinstance(each, dict) for each in models):
        raise UsageError(f"{path} holds {', '.join(table)[:80] or 'nothing'}; expected [[model]] tables and nothing else")
    entries = [_entry(each, f"{path}, [[model]] {number}") for number, each in enumerate(models, start=1)]
    return [replace(each, run=_found(each.run, place), file=_found(each.file, place)) for each in entries]


def _found(path: str, beside: Path) -> str:
    """A path as it is, or below the folder of the TOML file that names it, if it is there alone."""
    there = beside.parent / path
    return str(there) if path and not expanded(path).exists() and there.exists() else path


def _entry(table: Mapping[str, Any], where: str) -> Entry:
    known = {field.name for field in fields(Entry)}
    _only(table, known, where)
    texts = {key: table[key] for key in _TEXTS if key in table}
    wrong = [key for key, value in texts.items() if not isinstance(value, str) or not value.strip()]
    if wrong:
        raise UsageError(f"{where}: {wrong[0]} = {texts[wrong[0]]!r:.60}; expected words")
    kinds = [key for key in ("run", "adapter", "file") if key in table]
    if "name" not in table or len(kinds) != 1:
        raise UsageError(f"{where}: expected a name, and one of run, adapter and file; got {', '.join(table) or 'nothing'}")
    of_kind = {"run": {"crops", "head"}, "adapter": set[str](), "file": {"labels", "input", "output", "trust"}}
    (kind,) = kinds
    for other, keys in of_kind.items():
        if other != kind and keys & set(table):
            raise UsageError(f"{where}: {', '.join(sorted(keys & set(table)))} belongs to {other}, not to {kind}")
    crops, trust = table.get("crops"), table.get("trust", False)
    if crops is not None and type(crops) is not int or type(trust) is not bool:
        raise UsageError(f"{where}: expected whole-number crops and trust = true or false; got {crops!r:.40}, {trust!r:.40}")
    labels: tuple[str, ...] = ()
    if kind == "file":
        lacking = [key for key in ("labels", "input", "output") if key not in table]
        if lacking:
            raise UsageError(f"{where}: {', '.join(lacking)} not stated; what a file takes and answers with is never guessed")
        given = table["labels"]
        if not isinstance(given, list) or len(given) < 2 or not all(isinstance(label, str) and label for label in given):
            raise UsageError(f"{where}: labels = {given!r:.60}; expected the classes in the order of the outputs")
        labels = tuple(given)
        _choice(texts["output"], OUTPUTS, f"{where}: output")
    stated = _input(table["input"], f"{where}, input") if kind == "file" else None
    return Entry(**texts, crops=crops, labels=labels, input=stated, trust=trust)


def _input(table: Any, where: str) -> Input:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table with side, channels, order, low and high")
    _only(table, {field.name for field in fields(Input)}, where)
    lacking = [key for key in ("side", "channels", "order", "low", "high") if key not in table]
    if lacking:
        raise UsageError(f"{where}: {', '.join(lacking)} not stated; what a file takes is never guessed")
    _choice(table["channels"], CHANNELS, f"{where}: channels")
    _choice(table["order"], ORDERS, f"{where}: order")
    for key, most in (("side", LARGEST_SIDE), ("batch", MOST_TOGETHER)):
        value = table.get(key, 1)
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"{where}: {key} = {value!r:.40}; expected a whole number from 1 to {most}")
    numbers = {key: table[key] for key in ("low", "high")}
    if not all(_is_number(value) for value in numbers.values()) or numbers["low"] == numbers["high"]:
        raise UsageError(f"{where}: low = {numbers['low']!r:.30}, high = {numbers['high']!r:.30}; expected two that differ")
    wide = 1 if table["channels"] == "grey" else 3
    scales = {}
    for key in ("mean", "std"):
        value = table.get(key, [])
        if not isinstance(value, list) or len(value) not in (0, wide) or not all(map(_is_number, value)):
            raise UsageError(f"{where}: {key} = {value!r:.60}; expected {wide} number{'s' if wide > 1 else ''}, one a channel")
        if key == "std" and 0 in value:
            raise UsageError(f"{where}: std holds 0, by which nothing can be divided")
        scales[key] = tuple(float(number) for number in value)
    return Input(
        table["side"], table["channels"], table["order"], float(table["low"]), float(table["high"]), scales["mean"],
        scales["std"], table.get("batch", 64),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    strange = sorted(set(table) - known)
    if strange:
        raise UsageError(f"{where}: unknown key {strange[0]!r}; expected some of {', '.join(sorted(known))}")


def _choice(value: Any, choices: Sequence[str], where: str) -> None:
    if value not in choices:
        raise UsageError(f"{where} = {value!r:.40}; expected one of {', '.join(choices)}")
