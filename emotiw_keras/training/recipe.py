"""Recipes: a whole training as a TOML file, checked before TensorFlow loads."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from emotiw_keras.data.near.threshold import THRESHOLD, check_threshold
from emotiw_keras.errors import UsageError
from emotiw_keras.labels import LABEL_SETS, check_labels
from emotiw_keras.models.registry import application_names, get_spec, known_names, model_names, near_name
from emotiw_keras.sealed import strict_toml
from emotiw_keras.talk import Notice
from emotiw_keras.training.checked_fields import SettingError, from_table, setting, validate
from emotiw_keras.training.epoch_progress import silent
from emotiw_keras.training.keep import KEEPS
from emotiw_keras.training.keras_objects import described
from emotiw_keras.training.kinds import KINDS, Kind, kind_of
from emotiw_keras.training.recipe_tables import InputSettings, ModelSettings, SourceSettings
from emotiw_keras.training.stage import HEAD_SETTINGS, HEADS_SETTINGS, split_reference

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    Attributes:
        name: the recipe's name.
        description: one line for people.
        data: names of the data sets; each `--data NAME=PATH` gives one.
        labels: a named label set of `emotiw_keras.labels`, "folder" for any class names, or in Python the names themselves.
        duplicates: "drop" leaves out of training what also stands in val or test; "keep" trains on it, as the paper did.
        near_duplicates: correlation, once aligned, from which two images count as one photograph, 0.95 to 1; cuts keep them
            together, and "drop" leaves them out as it does equal ones. 0 does not look for them.
        seed: makes splits, weights, order, crops and dropout repeatable.
        precision: "auto" is mixed_bfloat16 where the processor computes it natively, and faster as measured, else float32.
        limit: images per split, stratified; 0 takes all.
        keep: "last" keeps the best epoch of the last stage; "best" that of the best stage, of those that choose on the same
            images by the same figure as the last.
        model: the network.
        preprocessing: what happens to pixels.
        source: how single data sets are read.
        stages: in order; `Stage`s, or entries of another kind (`training.kinds`).
        tables: settings that entries of another kind share.
        asked: settings of entries that `load_recipe` changed: (name of the entry, key, whether by a change of every entry).

    Raises:
        SettingError: values that cannot be meant, alone or together.
    """

    name: str
    stages: tuple[Any, ...]
    data: tuple[str, ...]
    description: str = ""
    labels: str | tuple[str, ...] = "basic7"
    duplicates: str = "drop"
    near_duplicates: float = THRESHOLD
    seed: int = 0
    precision: str = "auto"
    limit: int = 0
    keep: str = "last"
    model: ModelSettings = field(default_factory=ModelSettings)
    preprocessing: InputSettings = field(default_factory=InputSettings)
    source: Mapping[str, SourceSettings] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[tuple[str, str, bool], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        # what only Python can give is checked elsewhere: names of classes, and a network's own precision
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(_Head)}
        plain |= {"labels": self.labels if isinstance(self.labels, str) else "folder", "precision": "auto"}
        validate(_Head(**plain), f"recipe {self.name!r}")
        if not isinstance(self.labels, str):
            check_labels(self.labels)
        try:
            check_threshold(self.near_duplicates)
        except UsageError as error:
            raise SettingError(str(error), "near_duplicates") from error
        if not self.stages:
            raise SettingError(f"recipe {self.name!r} has no [[stage]]", "stage")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise SettingError(f"recipe {self.name!r} has two stages named {name!r}", "name")
        for stage in self.stages:
            for key in ("train", "val"):
                for reference in getattr(stage, key):
                    source, _ = split_reference(reference, f"{key} of {stage.where}", key)
                    if source not in self.data:
                        known = ", ".join(self.data)
                        raise SettingError(f"{key} of {stage.where} names the data set {source!r}; declared are {known}", key)
        self.kind.check(self)
        self._check_heads()
        for name, settings in self.source.items():
            if name not in self.data:
                raise SettingError(f"[source.{name}] names no declared data set; declared are {', '.join(self.data)}", name)
            if settings.val_share not in (0, SourceSettings.val_share) and not self._takes_val(name):
                raise SettingError(
                    f"val_share of source.{name} is {settings.val_share:g}, but no {self.table} has {name}:val; leave it out",
                    "val_share",
                )

    def _check_heads(self) -> None:
        """Refuse what a network with several heads does not heed, and what only such a one does."""
        names = [name for name, _ in self.model.heads]
        if names and self.table != "stage":
            raise SettingError(f"heads of model are for recipes with [[stage]], not with [[{self.table}]]", "heads")
        voted = any(head.labels == LABEL_SETS["ferplus8"].labels for head in self.model.sides())
        for stage in self.stages if self.table == "stage" else ():
            unheeded = dict.fromkeys(HEADS_SETTINGS, "a network with one answer (set model.heads)")
            if names:
                why = "a network with several heads"
                unheeded = dict.fromkeys(("sampling", "cost_weight", "costs", "metrics"), why)
                if not voted:
                    unheeded |= dict.fromkeys(("votes", "entropy_weight"), "a network without a head for votes (of ferplus8)")
                if stage.kind == "head" or not isinstance(stage.loss, str):
                    what = "kind" if stage.kind == "head" else "loss"
                    raise SettingError(f"{what} of {stage.where} is {getattr(stage, what)!r}, which is not for {why}", what)
            for key, why in unheeded.items():
                if getattr(stage, key) != getattr(type(stage), key):
                    raise SettingError(f"{key} of {stage.where} is {getattr(stage, key)!r}, which {why} does not heed", key)
            for head in [*dict(stage.head_weights), *([stage.monitor_head] if stage.monitor_head else [])]:
                if head not in names:
                    key = "monitor_head" if head == stage.monitor_head else "head_weights"
                    raise SettingError(f"{key} of {stage.where} names {head!r}; the heads are {', '.join(names)}", key)
            if names and any(weight <= 0 for _, weight in stage.head_weights):
                raise SettingError(
                    f"head_weights of {stage.where} are {stage.head_weights!r}, expected weights above 0", "head_weights"
                )

    @property
    def table(self) -> str:
        """The TOML table of its entries: "stage" or another of `KINDS`."""
        table: str = self.stages[0].table
        return table

    @property
    def kind(self) -> Kind:
        """What its entries are."""
        return kind_of(self.table)

    def reading(self, name: str) -> dict[str, Any]:
        """The arguments of `load_faces` for a data set; val is cut from train only where a stage asks for it."""
        options = self.source.get(name, SourceSettings()).reading()
        return options if self._takes_val(name) else options | {"val_share": 0.0}

    def _takes_val(self, name: str) -> bool:
        return any(f"{name}:val" in (*part.train, *part.val) for part in self.stages)

    def to_table(self) -> dict[str, Any]:
        """The recipe as plain data with every default filled in; `parse_recipe` reads its TOML back."""
        table = _plain(self)
        del table["asked"]
        for source in table["source"].values():
            for key in ("val_share", "held_out", "votes", "votes_rows"):
                if source[key] == getattr(SourceSettings, key):
                    del source[key]  # so that recipes of runs from before there was such a setting are still the same
        if not self.model.features:
            del table["model"]["features"]
        table["model"]["heads"] = dict(self.model.heads)
        for key in ("heads", "head"):
            if not table["model"][key]:
                del table["model"][key]
        for stage in table["stages"]:
            # so that recipes of runs from before there were such stages are still the same
            for key in ("kind", "folds", "refit", "val_least") if stage.get("kind") == "gradient" else ():
                if key != "val_least" or not stage[key]:
                    del stage[key]
            for key in HEADS_SETTINGS if self.table == "stage" and not self.model.heads else ():
                del stage[key]
            if not stage.get("pull_to_start", True):
                del stage["pull_to_start"]
        if self.keep == "last":
            del table["keep"]  # so that recipes of runs from before there was a choice are still the same
        if self.near_duplicates == THRESHOLD:
            del table["near_duplicates"]
        stages, tables = table.pop("stages"), table.pop("tables")
        return {**table, **tables, self.table: stages}

    def to_toml(self) -> str:
        """The recipe as TOML with every default filled in."""
        return tomli_w.dumps(self.to_table())


@dataclass(frozen=True)
class _Head:
    """The keys of a recipe outside its tables."""

    name: str = setting()
    data: tuple[str, ...] = setting()
    description: str = setting("")
    labels: str = setting("basic7", choices=(*LABEL_SETS, "folder"))
    duplicates: str = setting("drop", choices=("drop", "keep"))
    near_duplicates: float = setting(THRESHOLD, low=0, high=1)
    seed: int = setting(0, low=0, high=2**31 - 1)
    precision: str = setting("auto", choices=PRECISIONS)
    limit: int = setting(0, low=0)
    keep: str = setting("last", choices=KEEPS)


def _plain(value: Any) -> Any:
    """Settings as TOML has them; objects of Keras by name and configuration, which no recipe gives back."""
    if dataclasses.is_dataclass(value):
        table = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        # what only Python can give stands in a recipe only where it was given
        return {key: item for key, item in table.items() if item != [] or key not in ("metrics", "callbacks")}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else described(value)


_KIND_TABLES = " or ".join(f"[[{table}]]" for table in KINDS)


def _part_name(kind: str, table: Any, number: int) -> str:
    return f"{kind} {table.get('name', number)!r}" if isinstance(table, Mapping) else f"{kind} {number}"


def recipe_from_table(table: Mapping[str, Any]) -> Recipe:
    """Build and check a recipe from the data of its TOML.

    Raises:
        SettingError: unknown key, wrong type or impossible value.
    """
    rest = dict(table)
    entries = {table: rest.pop(table) for table in KINDS if table in rest}
    parts = {key: rest.pop(key, {}) for key in ("model", "preprocessing", "source")}
    if not all(isinstance(listed, list) for listed in entries.values()) or not isinstance(parts["source"], Mapping):
        raise SettingError(f"a recipe's entries are {_KIND_TABLES} tables and its sources [source.NAME] tables", "stage")
    listed = [table for table in KINDS if entries.get(table)] or ["stage"]
    if len(listed) > 1:
        both = " and ".join(f"[[{table}]]" for table in listed)
        raise SettingError(f"recipe {rest.get('name')!r} has {both}; expected one of them", listed[-1])
    kind = kind_of(listed[0])
    shared: dict[str, Any] = {key: from_table(settings, rest.pop(key, {}), key) for key, settings in kind.tables.items()}
    for other in KINDS:
        for key in kind_of(other).tables:
            if rest.pop(key, None):
                raise SettingError(f"[{key}] belongs to a recipe with [[{other}]]", key)
    unknown = [key for key in rest if key not in {item.name for item in dataclasses.fields(_Head)}]
    if unknown:
        allowed = [item.name for item in dataclasses.fields(_Head)] + [*parts, *shared, *KINDS]
        close = difflib.get_close_matches(unknown[0], allowed, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise SettingError(f"a recipe has no setting {unknown[0]!r}; {hint}allowed are {', '.join(allowed)}", unknown[0])
    head = from_table(_Head, rest, "recipe")
    model = from_table(ModelSettings, parts["model"], "model")
    if model.name not in (*model_names(), *application_names()):
        near = near_name(model.name)
        hint = f"did you mean {near!r}? " if near else ""
        raise SettingError(f"name of model is {model.name!r}; {hint}allowed are {known_names()}", "name")
    if get_spec(model.name).is_application and model.width != 1:
        raise SettingError(f"width of model is {model.width:g}; {model.name} has one width, expected 1", "width")
    return Recipe(
        **dataclasses.asdict(head),
        model=model,
        preprocessing=from_table(InputSettings, parts["preprocessing"], "preprocessing"),
        source={name: from_table(SourceSettings, value, f"source.{name}") for name, value in parts["source"].items()},
        stages=tuple(
            kind.read(entry, _part_name(listed[0], entry, number)) for number, entry in enumerate(entries.get(listed[0], []), 1)
        ),
        tables=shared,
    )


def parse_recipe(text: str, origin: str) -> Recipe:
    """Read a recipe from TOML.

    Args:
        text: the TOML.
        origin: how messages name it, usually the file.

    Raises:
        UsageError: no TOML, or a setting that cannot be meant; the message names the line.
    """
    try:
        table = strict_toml(text)
    except ValueError as error:
        raise UsageError(f"{origin}: not readable as TOML: {error}") from error
    try:
        return recipe_from_table(table)
    except SettingError as error:
        line = _line_of(text, error)
        raise UsageError(f"{origin}{f', line {line}' if line else ''}: {error}") from error


def _line_of(text: str, error: SettingError) -> int | None:
    """The line that holds the offending key, inside the table the message names."""
    stage = re.search(rf"({'|'.join(KINDS)}) '([^']*)'", str(error))
    tables = [table for kind in KINDS for table in kind_of(kind).tables]
    table = re.search(rf"(?:of|^) ?({'|'.join(['model', 'preprocessing', *tables])}|source\.[\w-]+)\b", str(error))
    current, inside, found = "", "", None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([\w.-]+)\s*\]+", line)
        if header:
            current, inside = header[1], ""
        key = re.match(r"\s*\"?([\w-]+)\"?\s*=\s*(.*)", line)
        if not key:
            continue
        if current in KINDS and key[1] == "name":
            inside = key[2].split("#")[0].strip().strip("'\"")
        if key[1] == error.key:
            right = (stage and current == stage[1] and inside == stage[2]) or (table and current == table[1])
            if right or (not stage and not table and not current):
                return number
            found = found or number
    return found


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    folder = resources.files("emotiw_keras.training") / "recipes"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


MOST_BYTES = 1 << 20
"""Of a recipe."""


def recipe_text(name_or_path: str) -> str:
    """The TOML of a shipped recipe, or of a file.

    Raises:
        UsageError: there is no such recipe.
    """
    if name_or_path in recipe_names():
        return (resources.files("emotiw_keras.training") / "recipes" / f"{name_or_path}.toml").read_text("utf-8")
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.exists():
        try:
            with open(path, "rb") as file:  # a pipe too: a shell makes one of `emotiw fit <(sed ... mine.toml)`
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise UsageError(f"recipe {name_or_path} is longer than {MOST_BYTES:,} bytes; expected a TOML file")
            return content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe {name_or_path}: {error}; expected a TOML file") from error
    close = difflib.get_close_matches(name_or_path, recipe_names(), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    shipped = ", ".join(recipe_names())
    raise UsageError(f"there is no recipe {name_or_path!r}; {hint}shipped are {shipped}; a file ends in .toml")


def load_recipe(
    name_or_path: str, changes: Sequence[str] = (), *, say: Callable[[str], None] = silent, **options: Any
) -> Recipe:
    """Load a recipe and change it.

    Args:
        name_or_path: a shipped recipe, or a `.toml` file.
        changes: `TABLE.KEY=VALUE` or `KEY=VALUE` texts, as `--set` takes them: `fer.learning_rate=0.01`, `model.width=0.5`,
            `source.target.subject_pattern='^(.*?)_'`; TABLE is a stage's name, `stage` for every stage (or another
            kind's table), `model`, `preprocessing`, `source.NAME` or a table that only the kind has, as `pathnet`.
        say: takes lines on settings of the recipe that the changes left without a use: such as a momentum, once the optimizer
            is "adam".
        **options: top-level keys (`seed`, `precision`, `limit`, `duplicates`, ...); None leaves the recipe's value.

    Raises:
        UsageError: no such recipe, a setting that cannot be meant, or an option that contradicts a change.

    Example:
        >>> load_recipe("fer28-scratch", ["fer.epochs=3"]).stages[0].epochs
        3
    """
    text = recipe_text(name_or_path)
    recipe = parse_recipe(text, f"recipe {name_or_path}")
    table = recipe.to_table()
    entries, asked = table[recipe.table], dict[tuple[int, str], bool]()
    for change in changes:
        targets, key, everywhere = _change(table, change)
        asked |= {(number, key): everywhere for number, entry in enumerate(entries) if any(entry is each for each in targets)}
    said = {change.partition("=")[0].strip() for change in changes}
    pixels = table["preprocessing"]
    if pixels["mean"] and pixels["mean_image"] and {"preprocessing.mean", "preprocessing.mean_image"} & said:
        told = f"preprocessing.mean = {pixels['mean']} has no effect beside preprocessing.mean_image, which is subtracted"
        if {"preprocessing.mean", "preprocessing.mean_image"} <= said:
            raise UsageError(f"{told}; leave one of them out")
        say(Notice(told))
    for key, value in options.items():
        if value is not None:
            if key in said and table[key] != value:
                raise UsageError(f"{key} = {value!r} beside --set {key}={table[key]}: leave one of them out")
            table[key] = value
    try:
        before = [dict(entry) for entry in entries]
        for line in recipe.kind.settle(entries, asked):
            say(Notice(line))
        left = [(number, key) for number, key in asked if entries[number][key] == before[number][key]]
        changed = tuple((str(entries[number]["name"]), key, asked[number, key]) for number, key in left)
        return dataclasses.replace(recipe_from_table(table), asked=changed)
    except SettingError as error:
        raise UsageError(f"recipe {name_or_path}, as changed on the command line: {error}") from error


def _change(table: dict[str, Any], change: str) -> tuple[list[dict[str, Any]], str, bool]:
    """Change a table; the tables that it reached, the key, and whether it is a change of every entry."""
    name, equals, text = change.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {change!r}: expected KEY=VALUE, such as fer.learning_rate=0.01")
    try:
        value = strict_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    *path, key = name.strip().split(".")
    kind = next(each for each in KINDS if each in table)
    stages = {stage["name"]: stage for stage in table[kind]}
    tables = [["model"], ["preprocessing"], *([shared] for shared in kind_of(kind).tables)]
    targets: list[dict[str, Any]]
    if not path:
        targets = [table]
    elif path == [kind]:
        # a stage of kind "head" has no epochs, rates or crops that could be changed for all stages at once
        targets = [stage for stage in stages.values() if stage.get("kind") != "head" or key in HEAD_SETTINGS]
    elif len(path) == 1 and path[0] in stages:
        targets = [stages[path[0]]]
    elif path in tables:
        targets = [table[path[0]]]
    elif len(path) == 2 and path[0] == "source":
        targets = [table["source"].setdefault(path[1], {})]
    else:
        known = [*stages, kind, *(each[0] for each in tables), *(f"source.{source}" for source in table["data"])]
        raise UsageError(f"--set {change!r}: there is no table {'.'.join(path)!r}; known are {', '.join(known)}")
    for target in targets:
        target[key] = value
    return targets, key, path == [kind]
