"""What run.json may say: the type and the bounds of every field, checked before anything is believed or built of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotiw_keras.errors import RunError
from emotiw_keras.heads import NAME, heads_of
from emotiw_keras.models.registry import LARGEST_SIDE, LARGEST_WIDTH, model_names
from emotiw_keras.plain_facts import (
    Holds,
    boolean,
    figure,
    integer,
    list_of,
    number,
    one_of,
    plain_name,
    sha256,
    table_of,
    text,
)
from emotiw_keras.sealed import read_sealed

MOST_CLASSES = 10_000
MOST_FEATURES = 1000
"""Activations that a classifier reads."""
MOST_MODULES = 4096
"""Of a PathNet: its sizes, and the numbers in its path."""
READINGS = ("A", "B", "C", "D")
"""The names in `faces.alignment.READINGS`, which needs OpenCV."""
WEIGHTS_FILE, MEAN_IMAGE_FILE = "model.weights.h5", "mean_image.npy"
FOLDS_FILE, FINAL = "folds.json", "final"
"""What tells that a folder holds the runs of a cross-validation, and its run of all data."""
MOST_FOLDS = 1000


def _labels(value: Any) -> bool:
    return list_of(lambda label: isinstance(label, str) and bool(label))(value) and 1 <= len(set(value)) == len(value)


def are_heads(value: Any) -> bool:
    """Whether it is a list of heads, each with a name of its own and its labels."""
    named = list_of(lambda head: isinstance(head, dict) and text(head.get("name")) and _labels(head.get("labels")))(value)
    return named and len({head["name"] for head in value}) == len(value) and all(NAME.fullmatch(head["name"]) for head in value)


def is_crop(value: Any) -> bool:
    """Whether it says how a face is cut out of a photo."""
    return isinstance(value, dict) and one_of(*READINGS)(value.get("reading")) and boolean(value.get("stretch"))


def _variable(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return text(value[0]) and list_of(integer(0, 1 << 40))(value[1]) and text(value[2])


def _stage(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and text(value.get("name"))
        and all(integer(0, 1 << 53)(value.get(key, 0)) for key in ("epochs", "best_epoch", "images", "generations"))
        and all(value.get(key) is None or figure(value[key]) for key in ("val_accuracy", "val_loss", "val_macro_f1"))
        and all(list_of(list_of(integer(0, 1 << 20)))(value.get(key, [])) for key in ("path", "reused"))
    )


def _set(value: Any) -> bool:
    count = integer(0, 1 << 40)
    return isinstance(value, dict) and count(value.get("images", 0)) and count(value.get("videos", 0))


def _options(value: Any) -> bool:
    """What `PathNet` is built with beyond its size; nothing else may come out of a file, such as where weights are."""
    size = integer(1, MOST_MODULES)
    known: dict[str, Holds] = {
        "path": list_of(list_of(integer(0, MOST_MODULES))),
        **dict.fromkeys(("layers", "modules", "active", "filters"), size),
        "combine": one_of("sum", "average"),
        "reduce": one_of("pool", "stride", "none"),
    }
    return isinstance(value, dict) and all(key in known and known[key](item) for key, item in value.items())


def _answers(value: Any) -> bool:
    """What a network said of `noise` (`models.architecture.answers_to_noise`)."""
    if not isinstance(value, dict) or not number(value.get("within")):
        return False
    rows: Any = value.get("probabilities")
    return list_of(list_of(figure), 4)(rows) and len({len(row) for row in rows}) == 1


_side = integer(1, LARGEST_SIDE)
_MODEL: dict[str, tuple[Holds, str]] = {
    "width": (lambda value: number(value) and 0 < value <= LARGEST_WIDTH, f"a number above 0 and up to {LARGEST_WIDTH:g}"),
    "classes": (integer(1, MOST_CLASSES), f"a whole number from 1 to {MOST_CLASSES}"),
    "input_shape": (
        lambda value: list_of(_side, 3)(value) and value[2] in (1, 3),
        f"height, width (up to {LARGEST_SIDE}) and 1 or 3 channels",
    ),
    "options": (_options, "path, layers, modules, active, filters, combine and reduce"),
    "features": (integer(1, MOST_FEATURES), f"a whole number from 1 to {MOST_FEATURES}"),
    "given": (boolean, "true or false"),
    "logits": (boolean, "true or false"),
    "answers": (_answers, "four rows of probabilities, and within how much they hold"),
}
_PREPROCESSING: dict[str, tuple[Holds, str]] = {
    "channels": (one_of("grey", "rgb"), "'grey' or 'rgb'"),
    "resize": (integer(1, 2 * LARGEST_SIDE), f"a whole number from 1 to {2 * LARGEST_SIDE}"),
    "crop": (_side, f"a whole number from 1 to {LARGEST_SIDE}"),
    "min_max": (boolean, "true or false"),
    "channel_order": (one_of("rgb", "bgr"), "'rgb' or 'bgr'"),
    "mean": (list_of(number, 1, 3), "1 or 3 numbers"),
    "std": (list_of(lambda value: number(value) and value > 0, 1, 3), "1 or 3 numbers above 0"),
    "mean_image": (one_of(None, MEAN_IMAGE_FILE), f"{MEAN_IMAGE_FILE!r}"),
    "mean_image_at": (one_of("resize", "crop"), "'resize' or 'crop'"),
    "input_channels": (one_of(1, 3), "1 or 3"),
    "as_given": (boolean, "true or false"),
}
_FIELDS: dict[str, tuple[Holds, str]] = {
    "recipe": (text, "a text"),
    "labels": (_labels, "a list of different class names"),
    "leave_out": (list_of(text), "a list of class names"),
    "crop": (is_crop, f"a table of reading, one of {', '.join(READINGS)}, and stretch"),
    "crops": (one_of(1, 2, 10), "one of (1, 2, 10)"),
    "precision": (text, "a text"),
    "seed": (integer(0, 1 << 63), "a whole number"),
    "searches_before": (integer(0, 1 << 20), "a whole number"),
    "threads": (integer(1, 1 << 20), "a whole number above 0"),
    "strategy": (
        lambda value: isinstance(value, dict) and all(integer(1, 1 << 20)(value.get(key)) for key in ("workers", "replicas")),
        "a table of workers and replicas, whole numbers above 0",
    ),
    "versions": (table_of(text), "a table of texts"),
    "data": (table_of(_set), "a table of data sets"),
    "sources": (table_of(text), "a table of texts"),
    "teachers": (table_of(text), "a table of texts"),
    "stages": (list_of(_stage), "a list of stages with their results"),
    "finished": (boolean, "true or false"),
    "files": (table_of(sha256), "a table of SHA-256 hashes"),
    "heads": (are_heads, "a list of heads, each a table of name and labels"),
    "head": (text, "the name of a head"),
    "refitted": (
        lambda value: isinstance(value, dict) and text(value.get("stage")),
        "a table of the stage that was fitted again",
    ),
    "unrecorded": (list_of(text), "a list of data sets"),
}
_WEIGHTS: dict[str, tuple[Holds, str]] = {
    "sha256": (sha256, "a SHA-256 hash"),
    "variables": (list_of(_variable), "path, shape and type of each variable"),
}
_TABLES = {"": _FIELDS, "model": _MODEL, "preprocessing": _PREPROCESSING, "weights": _WEIGHTS}
_OPTIONAL = {"width", "options", "features", "mean_image", "std", "mean_image_at", "input_channels"}
_OPTIONAL |= {"given", "logits", "answers", "as_given"}


def check_info(info: Mapping[str, Any], path: Path) -> None:
    """Check all of run.json that this package reads; what it does not know is left alone.

    Args:
        info: the content of run.json.
        path: the run folder, for messages.

    Raises:
        RunError: a field has another type, or lies outside its bounds; the line names it.
    """
    for table, rules in _TABLES.items():
        _check_table(info, path, table, rules)
    if info.get("finished"):
        _check_finished(info, path)
    _check_input(info, path)
    unknown = [key for key in info.get("preprocessing") or {} if key not in _PREPROCESSING]
    if unknown:
        raise RunError(f"{path}: run.json says preprocessing.{unknown[0]}, which this version of emotiw does not know")
    for name in info.get("files", {}):
        if not plain_name(name):
            raise RunError(f"{path} is damaged: run.json names the file {name!r}, which is not in the folder")


def _check_table(info: Mapping[str, Any], path: Path, table: str, rules: Mapping[str, tuple[Holds, str]]) -> None:
    """RunError where a table of run.json, or "" for run.json itself, breaks its rules."""
    values = info.get(table, {}) if table else info
    if table == "preprocessing" and values is None and _is_given(info):
        return  # inputs that were no bytes
    if not isinstance(values, Mapping):
        raise _damaged(path, table, values, "a table")
    if table == "model" and table in info:
        if not text(values.get("name")):
            raise _damaged(path, "model.name", values.get("name"), "a text")
        if _is_given(info):
            rules = {key: rule for key, rule in rules.items() if key != "input_shape"}  # any network has any
        elif values["name"] not in model_names():
            return  # whoever builds it knows what it needs
        if "options" in values and values["name"] != "pathnet":
            raise _damaged(path, "model.options", values["options"], f"none for {values['name']!r}")
    for key, (holds, words) in rules.items():
        if key in values and not holds(values[key]):
            raise _damaged(path, f"{table}.{key}" if table else key, values[key], words)
    if table and table in info:
        missing = [key for key in rules if key not in values and key not in _OPTIONAL]
        if missing:
            raise RunError(f"{path} is damaged: run.json lacks {table}.{missing[0]}")


def _check_finished(info: Mapping[str, Any], path: Path) -> None:
    """RunError where run.json of a finished run lacks what answers need, or its labels contradict its classes or heads."""
    for key in ("model", "labels", "preprocessing", "weights", "stages"):
        if key not in info:
            raise RunError(f"{path} is damaged: run.json lacks {key}")
    heads = heads_of(info)
    named = sum(len(head.labels) for head in heads) or len(info["labels"])
    classes = info["model"].get("classes", named)
    if classes != named:
        raise RunError(f"{path} is damaged: run.json names {named} labels for {classes} classes")
    if "answers" in info["model"] and len(info["model"]["answers"]["probabilities"][0]) != classes:
        raise RunError(f"{path} is damaged: run.json says model.answers of another number of classes than {classes}")
    if heads and info["labels"] != next((list(head.labels) for head in heads if head.name == info.get("head")), None):
        raise RunError(f"{path} is damaged: run.json says head = {info.get('head')!r:.40}, whose labels are not its labels")


def _check_input(info: Mapping[str, Any], path: Path) -> None:
    """RunError where what becomes of a face is not what the network takes."""
    settings, takes = info.get("preprocessing") or {}, info.get("model", {}).get("input_shape")
    if not settings or not isinstance(takes, list) or len(takes) != 3:
        return
    gives = [settings["crop"], settings["crop"], settings.get("input_channels")]
    if any(None not in pair and pair[0] != pair[1] for pair in zip(gives, takes, strict=True)):
        raise RunError(
            f"{path} is damaged: run.json says preprocessing.crop = {gives[0]} and input_channels = {gives[2]}, "
            f"but model.input_shape = {takes}"
        )


def _is_given(info: Mapping[str, Any]) -> bool:
    """Whether the run is of a network of the user's own, which is not built from what run.json says."""
    model = info.get("model")
    return isinstance(model, Mapping) and model.get("given") is True


def _damaged(path: Path, key: str, value: Any, words: str) -> RunError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return RunError(f"{path} is damaged: run.json says {key} = {shown}; expected {words}")


def fold_name(number: int) -> str:
    """The run folder of a fold, which are counted from 0; folders from 1."""
    return f"fold-{number + 1}"


FOLD_NAMES = frozenset({FINAL, *map(fold_name, range(MOST_FOLDS))})
"""The run folders of a cross-validation."""


def folds_facts(recipe: str, data: str, folds: int, refit: bool) -> dict[str, Any]:
    """What `FOLDS_FILE` holds."""
    return {"format": 1, "recipe": recipe, "data": data, "folds": folds, "refit": refit}


def read_folds(folder: Path) -> dict[str, Any]:
    """What a folder says of its cross-validation.

    Raises:
        RunError: it holds none, or the file is damaged or of another version.
    """
    facts = read_sealed(folder / FOLDS_FILE)
    expected: dict[str, tuple[Holds, str]] = {
        "format": (one_of(1), "1, which this version reads"),
        "recipe": (text, "a text"),
        "data": (text, "a text"),
        "folds": (integer(3, MOST_FOLDS), f"a whole number from 3 to {MOST_FOLDS}"),
        "refit": (boolean, "true or false"),
    }
    for key, (holds, words) in expected.items():
        if not holds(facts.get(key)):
            raise RunError(f"{folder} is damaged: {FOLDS_FILE} has {key} = {facts.get(key)!r:.40}, expected {words}")
    return facts
