"""Writing a run folder: what it starts as, whether an old one may go on, what it ends as."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emotiw_keras.errors import EmotiwError, OutputError, RunError, UsageError
from emotiw_keras.files import expanded, is_address, real, walk, write_atomic, writing
from emotiw_keras.keras_names import unnumbered
from emotiw_keras.run_facts import FOLD_NAMES, FOLDS_FILE
from emotiw_keras.runs import DATA_COLUMNS, INFO_FILE, VIDEO_COLUMNS, Run, believed_hashes, read_info
from emotiw_keras.sealed import sealed_json, strict_toml
from emotiw_keras.talk import most
from emotiw_keras.text import csv_text
from emotiw_keras.training.kinds import KINDS, kind_of
from emotiw_keras.training.stage import Stage

HISTORY_COLUMNS = (
    "stage",
    "epoch",
    "learning_rate",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "seconds",
    "images_per_second",
)
# What a start that was killed early leaves; anything else in a folder without run.json belongs to somebody.
_BEGINNING = {"recipe.toml", "data.csv", "mean_image.npy"}


def history_columns(stages: Sequence[Stage]) -> tuple[str, ...]:
    """The columns of history.csv: `HISTORY_COLUMNS`, and behind them what else a stage chooses its epoch by."""
    return (*HISTORY_COLUMNS, *dict.fromkeys(stage.monitor for stage in stages if stage.monitor not in HISTORY_COLUMNS))


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; missing values stay empty."""
    return csv_text(itertools.chain([columns], ([row.get(column, "") for column in columns] for row in rows)))


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The settings in which two nested tables differ, as `key: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            found += differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = []
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            label = one.get("name", number) if isinstance(one, Mapping) else number
            found += differences(one, other, f"{where}.{label}")
        return found
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


def move_aside(path: Path) -> Path | None:
    """Rename an existing run folder to the first free `NAME.old-K`; None if there is nothing to rename."""
    if not path.exists():
        return None
    check_movable(path)
    place = real(path) if path.name in ("", "..") else path
    number = 1
    while (target := place.with_name(f"{place.name}.old-{number}")).exists():
        number += 1
    with writing(path):
        os.rename(place, target)
    return target


def check_movable(path: Path) -> None:
    """See that what --restart would rename is a run, the runs of a cross-validation or the beginning of one, damaged or not: by
    its run.json or folds.json, or by what else a run is known by.

    Raises:
        RunError: it holds other things, or is the folder that the command was started in, or above it.
        OutputError: it is a file.
    """
    lost = all((path / name).exists() for name in ("recipe.toml", "data.csv")) and any(
        (path / name).exists() for name in ("history.csv", "stages")
    )
    if not (_begun(path) or lost):
        check_own(path, _BEGINNING | FOLD_NAMES)
    if path.exists() and real(Path.cwd()).is_relative_to(real(path)):
        raise RunError(
            f"--restart would rename {path}, in which this command was started; start it elsewhere, or give another --out"
        )


def _begun(path: Path) -> bool:
    return any(os.path.lexists(path / name) for name in (INFO_FILE, FOLDS_FILE))


def check_own(path: Path, own: Container[str], what: str = "is not a run folder") -> None:
    """See that a folder, if it is there, holds nothing but things of these names; hidden ones do not count.

    Raises:
        RunError: it does.
        OutputError: it is a file.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; a run needs a folder of its own")
    there = {item.name for item in path.iterdir()} if path.exists() else set()
    foreign = sorted(name for name in there if name not in own and not name.startswith("."))
    if foreign:
        raise RunError(f"{path} {what} (it holds {', '.join(foreign[:3])}); give another --out")


def check_out(path: Path, data: Mapping[str, Any], restart: bool) -> None:
    """See, before anything is read, that a run can be begun in a folder beside its data.

    Args:
        path: the run folder.
        data: name -> data set; of those that lie on this disk none may be the folder, lie in it or have it in it.
        restart: whether what is there is renamed.

    Raises:
        UsageError: they lie one in the other.
        RunError, OutputError: as `check_movable`.
    """
    if restart:
        check_movable(path)
    elif _begun(path):
        return  # it goes on
    out = real(path)
    for name, given in data.items():
        source = getattr(given, "source", given)  # of a FaceSet
        if not isinstance(source, str | os.PathLike) or is_address(source):
            continue
        place = real(expanded(source))
        if (place.exists() and place.is_relative_to(out)) or (place.is_dir() and out.is_relative_to(place)):
            raise UsageError(f"{path} and the data {name}={source} lie one in the other; give an --out beside them")


def start_or_resume(
    path: Path, recipe_toml: str, info: dict[str, Any], data_rows: Iterable[Mapping[str, Any]], videos: bool = False
) -> dict[str, Any]:
    """Make a new run folder, or check that the one there was made from the same recipe and data.

    Args:
        path: the run folder.
        recipe_toml: the recipe as run.
        info: what run.json will hold; its "data", "model" and "teachers" must agree with the old run's.
        data_rows: rows of data.csv.
        videos: whether rows of videos are among them.

    Returns:
        run.json's content: the old one if there is one, else `info`.

    Raises:
        RunError: the folder is something else, of another version, or made from another recipe or other data.
        OutputError: it cannot be written.
    """
    old = resumable(path, recipe_toml, info)
    if old is not None:
        return old
    write_atomic(path / "recipe.toml", recipe_toml)
    write_atomic(path / "data.csv", table_text((*DATA_COLUMNS, *(VIDEO_COLUMNS if videos else ())), data_rows))
    write_info(path, info)
    return info


def resumable(path: Path, recipe_toml: str, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """run.json's content if there is a run that goes on, None if a new one can be made; nothing is written.

    Args:
        path, recipe_toml, info: as `start_or_resume`; where `data` are None they are not compared, as a dry run has not looked
            at all of them.

    Raises:
        RunError, OutputError: as `start_or_resume`.
    """
    if os.path.lexists(path / INFO_FILE):
        refuse_links(path)
        old = read_info(path)
        for name in old.get("files", {}):
            if (path / name).exists() or not old.get("finished"):
                Run(path, old).content(name)
        stored, asked = _stored_recipe(Run(path, old)), tomllib.loads(recipe_toml)
        for table in (stored, asked):
            table.pop("description", None)  # which is for people
        if old.get("preprocessing") == info.get("preprocessing"):  # a recipe's own is not heeded beside weights of a run
            for table in (stored, asked):
                for key in ("channels", "min_max", "mean", "std"):
                    table.get("preprocessing", {}).pop(key, None)
        earlier = _fill(stored, asked)
        changed = differences(stored, asked)
        # What a search has found out since (the path of `options`) is nothing that was asked for.
        model, wanted = {key: value for key, value in old.get("model", {}).items() if key in info["model"]}, info["model"]
        if wanted.get("given"):
            for key, what in (("architecture", "layers or settings"), ("connections", "connections")):
                if key not in model:  # a run that an earlier version began
                    wanted = {other: value for other, value in wanted.items() if other != key}
                elif model[key] != wanted.get(key):
                    raise RunError(
                        f"{path} was made with a network {model.get('name')!r} of other {what} than the one given; give that "
                        "one, or another run_dir"
                    )
            model, wanted = ({**each, "name": unnumbered(str(each.get("name")))} for each in (model, wanted))
        if info["data"] is not None:
            changed += differences(old.get("data"), info["data"], "data")
        changed += differences(model, wanted, "model")
        if "metrics" in old:
            changed += differences(old["metrics"], info.get("metrics", []), "metrics")
        changed += differences(old.get("teachers", {}), info.get("teachers", {}), "teachers")
        by = f" by an earlier version, emotiw {old.get('versions', {}).get('emotiw_keras', 'unknown')}," if earlier else ""
        what = ""
        if changed:
            told = changed[: most(3)]
            more = f" and {len(changed) - len(told)} more" if len(told) < len(changed) else ""
            what = f"was made{by} from another recipe or other data: {'; '.join(told)}{more}"
        elif earlier and not old.get("finished"):
            what = f"was begun{by} whose unfinished runs this one does not go on with"
        if what:
            raise RunError(
                f"{path} {what}; give another --out, or --restart to begin anew (the old run is renamed, not deleted)"
            )
        return old
    check_own(path, _BEGINNING)
    return None


def refuse_links(path: Path) -> None:
    """RunError for a link that leads out of a run folder: what goes on there writes and removes files below it."""
    for folder, folders, files in walk(os.fspath(path)):
        for name in (*folders, *files):
            item = Path(folder, name)
            if item.is_symlink() and not real(item).is_relative_to(real(path)):
                raise RunError(f"{path} is damaged: {item.relative_to(path)} is a link to a place outside of it")


def _stored_recipe(run: Run) -> dict[str, Any]:
    """recipe.toml of a run that may be unfinished."""
    try:
        return strict_toml(run.content("recipe.toml").decode("utf-8"))
    except ValueError as error:
        raise RunError(f"{run.path} is damaged: recipe.toml cannot be read ({error})") from error


def _fill(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Fill the entries of a stored recipe with the defaults of settings that the one asked for has and they lack; whether there
    were any, as the version that wrote it had no such settings."""
    filled = False
    for table, entries in asked.items():
        if table not in KINDS or not isinstance(stored.get(table), list):
            continue
        settings = dataclasses.fields(kind_of(table).part)
        defaults = {each.name: each.default for each in settings if each.default is not dataclasses.MISSING}
        for entry, other in zip(stored[table], entries, strict=False):
            if isinstance(entry, dict):
                lacking = {key: defaults[key] for key in other.keys() - entry.keys() if key in defaults}
                entry |= json.loads(json.dumps(lacking))  # lists, as TOML has them
                filled |= bool(lacking)
    return filled


def check_there(path: Path) -> None:
    """See that a run folder is still where it is about to be written: what makes its parents would make another one.

    Raises:
        RunError: it was moved or removed.
    """
    if not (path / INFO_FILE).exists():
        raise RunError(
            f"{path} is not there any more: it was moved or removed while it was trained; the same command with --out and its "
            "new place goes on from its last checkpoint"
        )


def make_folder(path: Path, folder: Path) -> None:
    """Make a folder in a run folder that is still where it was.

    Raises:
        RunError: it was moved or removed.
        OutputError: nothing can be written there.
    """
    check_there(path)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def staying(path: Path) -> Iterator[None]:
    """Where something could not be written, read, listed or removed in a run folder because that was moved or removed
    meanwhile, say so.

    Raises:
        RunError: it was moved or removed.
    """
    try:
        yield
    except (EmotiwError, OSError):
        check_there(path)
        raise


def write_info(path: Path, info: dict[str, Any]) -> None:
    """Write run.json; `info` gets the hashes of the files beside it that later commands believe."""
    info["files"] = believed_hashes(path)
    write_atomic(path / INFO_FILE, sealed_json(info))


def write_done(marker: Path, result: Mapping[str, Any]) -> None:
    """Write the marker of a stage that is done: what became of it."""
    write_atomic(marker, sealed_json(result))
