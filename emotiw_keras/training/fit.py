"""From a recipe and paths to a run folder."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras import hardware
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.generated import read_any
from emotiw_keras.data.settings import settings_for
from emotiw_keras.data.splits import Folds
from emotiw_keras.data.videos import VideoSet
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.faces.alignment import DEFAULT_READING
from emotiw_keras.files import atomic_path
from emotiw_keras.models.registry import get_spec
from emotiw_keras.runs import RUN_FORMAT, Run
from emotiw_keras.training.progress import silent
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.roles import Part, Roles, check_roles, data_rows, stage_roles, take_share
from emotiw_keras.training.run_writer import move_aside, start_or_resume
from emotiw_keras.training.start import parent_run, resolve_precision, start_model, start_tensorflow
from emotiw_keras.training.teachers import teacher_runs

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.batches import Pool
    from emotiw_keras.training.progress import Progress

MEAN_IMAGE_FILE = "mean_image.npy"
PARENT = "weights"
LOOK_SECONDS = 15.0
"""How long a dry run looks at the pictures of a set."""


@dataclass(frozen=True)
class Outcome:
    """What `fit` did: the finished run (None after a dry run) and the inputs that could not be read."""

    run: Run | None
    unreadable: tuple[str, ...]


def fit(
    recipe: Recipe,
    paths: Mapping[str, str],
    out: str | Path,
    *,
    threads: int | None = None,
    restart: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = silent,
    progress: Progress | None = None,
) -> Outcome:
    """Train by a recipe; called again after an interruption it goes on where it was.

    Args:
        recipe: the training.
        paths: data set name -> path, one for each name in `recipe.data`.
        out: the run folder.
        threads: processor threads; None takes all.
        restart: rename an existing run and begin anew.
        dry_run: say what would be done, and stop.
        say: takes lines for people.
        progress: shows epochs under way.

    Raises:
        UsageError: data sets that the recipe does not know, or that are missing.
        DataError: data that cannot be used.
        ModelError: weights that are missing or do not fit.
        RunError: `out` was made from another recipe or other data, or is damaged.
        OutputError: `out` cannot be written.
        DivergedError: the loss stopped being a number.

    Example:
        >>> from emotiw_keras.training.recipe import load_recipe
        >>> fit(load_recipe("demo"), {}, "runs/demo")  # doctest: +SKIP
    """
    prepared = prepare(recipe, paths, threads=threads, say=say, seconds=LOOK_SECONDS if dry_run else None)
    folder = Path(out).expanduser()
    if dry_run:
        if recipe.searches:
            from emotiw_keras.training.pathnet.run import describe as describe_searches

            describe_searches(prepared, folder, say)
        else:
            from emotiw_keras.training.estimate import describe

            describe(prepared, folder, say)
        return Outcome(None, prepared.unreadable)
    if restart:
        old = move_aside(folder)
        if old is not None:
            say(f"the old run is kept as {old}")
    return Outcome(train(prepared, folder, None, say, progress), prepared.unreadable)


@dataclass(frozen=True)
class Prepared:
    """A recipe with its data read and its roles dealt out; nothing is written yet."""

    recipe: Recipe
    parent: Run | None
    sets: dict[str, FaceSet]
    roles: dict[str, Roles]
    info: dict[str, Any]
    unreadable: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    teachers: dict[str, Run]


def prepare(
    recipe: Recipe,
    paths: Mapping[str, str],
    *,
    threads: int | None = None,
    say: Callable[[str], None] = silent,
    seconds: float | None = None,
) -> Prepared:
    """Read the data of a recipe and resolve its stages to images; `seconds` bounds the look at each set."""
    parent = parent_run(recipe)
    sources = _sources(recipe, paths)
    settings = _input_settings(recipe, parent)
    sets = {
        name: read_any(
            path,
            name=name,
            labels=recipe.labels,
            grey=settings["channels"] == "grey",
            size=settings["resize"],
            **recipe.reading(name),
            folds=_folds(recipe, name),
            seed=recipe.seed,
            limit=recipe.limit or None,
            seconds=seconds,
        )
        for name, path in sources.items()
    }
    for faces in sets.values():
        for line in faces.report:
            say(line)
    # Every task of a search has a readout of its own, and so may have classes of its own.
    labels = {part.name: _common_labels(_used(part, sets) if recipe.searches else sets) for part in recipe.parts}
    roles = {stage.name: stage_roles(stage, sets, recipe.duplicates == "drop") for stage in recipe.parts}
    for each in recipe.stages:
        if each.train_share < 1:
            roles[each.name] = take_share(roles[each.name], sets, each.train_share, recipe.seed)
    for stage in recipe.parts:
        check_roles(stage, roles[stage.name], say, "search" if recipe.searches else "stage")
    unreadable = tuple(f"{faces.name}: {path}: {status}" for faces in sets.values() for path, status in faces.unreadable())
    teachers = teacher_runs(recipe, labels[recipe.parts[-1].name], settings)
    info = {
        "format": RUN_FORMAT,
        "recipe": recipe.name,
        "model": {
            "name": get_spec(recipe.model.name).name,
            "width": recipe.model.width,
            "classes": len(labels[recipe.parts[-1].name]),
            "input_shape": [settings["crop"], settings["crop"], settings["input_channels"]],
            **_options(recipe, parent),
        },
        "labels": list(labels[recipe.parts[-1].name]),
        "preprocessing": settings,
        "leave_out": sorted({name for source in recipe.source.values() for name in source.leave_out}),
        "crop": photo_crop(recipe.parts[-1], sets),
        "precision": resolve_precision(recipe.precision, threads),
        "seed": recipe.seed,
        "threads": threads or hardware.processor_threads(),
        "versions": _versions(),
        "data": {name: faces.facts() for name, faces in sets.items()},
        "sources": dict(sources),
        "stages": [],
        "finished": False,
    }
    if recipe.keep != "last":
        info["keep"] = recipe.keep
    if teachers:
        info["teachers"] = {name: run.fingerprint for name, run in teachers.items()}
    return Prepared(recipe, parent, sets, roles, info, unreadable, labels, teachers)


def train(
    prepared: Prepared,
    folder: Path,
    model: keras.Model | None,
    say: Callable[[str], None] = silent,
    progress: Progress | None = None,
) -> Run:
    """Make the run folder, or go on with it.

    Args:
        prepared: from `prepare`.
        folder: the run folder.
        model: the network to train; None builds the recipe's.
        say: takes lines for people.
        progress: shows epochs under way.
    """
    recipe = prepared.recipe
    before = prepared.parent.rows() if prepared.parent is not None else []
    taught = (row for run in prepared.teachers.values() for row in run.each_row())
    rows = data_rows(recipe.parts, prepared.sets, prepared.roles, before, taught if prepared.teachers else None)
    videos = any(isinstance(faces, VideoSet) for faces in prepared.sets.values()) or any("frames" in row for row in before[:1])
    info = start_or_resume(folder, recipe.to_toml(), prepared.info, rows, videos)
    if info["finished"]:
        say(f"{folder} is finished already; nothing to do (--restart begins anew)")
        return Run.open(folder)
    if recipe.preprocessing.mean_image and not (folder / MEAN_IMAGE_FILE).exists():
        with atomic_path(folder / MEAN_IMAGE_FILE) as temporary:
            shutil.copyfile(recipe.preprocessing.mean_image, temporary)
    start_tensorflow(None if info["threads"] == hardware.processor_threads() else info["threads"])
    import keras

    from emotiw_keras.data.batches import Pool
    from emotiw_keras.data.device import FaceInput

    if info["precision"] != "float32":
        say(f"computing in {info['precision']}")
    if model is None and not recipe.searches:
        keras.config.set_dtype_policy(info["precision"])
        keras.utils.set_random_seed(recipe.seed)
        model = start_model(recipe, info, prepared.parent, say)
    face_input = FaceInput.from_settings(info["preprocessing"], folder)

    def pool(parts: Mapping[str, np.ndarray]) -> Pool | None:
        chosen = [(prepared.sets[name], index) for name, index in parts.items() if len(index)]
        return Pool(chosen, face_input.resize, face_input.channels == "grey") if chosen else None

    if recipe.searches:
        from emotiw_keras.training.pathnet.run import search

        return search(prepared, folder, info, pool, face_input, say, progress)

    from emotiw_keras.training.loop import StageLoop

    assert model is not None
    images = {stage.name: pool(prepared.roles[stage.name].train) for stage in recipe.stages}
    loop = StageLoop(
        model,
        recipe.stages,
        train={name: each for name, each in images.items() if each is not None},
        val={stage.name: pool(prepared.roles[stage.name].val) for stage in recipe.stages},
        face_input=face_input,
        run_dir=folder,
        info=info,
        seed=recipe.seed,
        say=say,
        progress=progress,
        teachers=prepared.teachers,
    )
    return loop.fit()


def _sources(recipe: Recipe, paths: Mapping[str, str]) -> dict[str, str]:
    """Data set name -> path: what the command line gives, else what the recipe draws itself."""
    unknown = [name for name in paths if name not in recipe.data]
    if unknown:
        raise UsageError(f"--data {unknown[0]}=...: recipe {recipe.name!r} knows the data sets {', '.join(recipe.data)}")
    own = {name: source.path for name, source in recipe.source.items() if source.path}
    missing = [name for name in recipe.data if name not in paths and name not in own]
    if missing:
        wanted = " ".join(f"--data {name}=PATH" for name in missing)
        raise UsageError(f"recipe {recipe.name!r} needs {wanted}")
    return {name: paths.get(name) or own[name] for name in recipe.data}


def _input_settings(recipe: Recipe, parent: Run | None) -> dict[str, Any]:
    """`FaceInput` settings: those of the run that gives the weights, else the model's own with the recipe's changes."""
    if parent is not None:
        return parent.settings
    chosen = recipe.preprocessing
    settings = settings_for(
        get_spec(recipe.model.name),
        crop=recipe.model.input_size or None,
        channels=chosen.channels,
        min_max=chosen.min_max,
        mean=list(chosen.mean) or None,
        std=list(chosen.std) or None,
    )
    if chosen.mean_image:
        if not Path(chosen.mean_image).is_file():
            raise DataError(f"mean_image {chosen.mean_image}: no such file")
        settings["mean_image"] = MEAN_IMAGE_FILE
    return settings


def _options(recipe: Recipe, parent: Run | None) -> dict[str, Any]:
    """What the network of the run that gives the weights is built with beyond its size; a search finds its own path."""
    options = parent.info["model"].get("options") if parent is not None and not recipe.searches else None
    return {"options": options} if options else {}


def _folds(recipe: Recipe, name: str) -> Folds | None:
    chosen = recipe.source.get(name)
    return Folds(chosen.folds, chosen.fold, chosen.train_folds) if chosen is not None and chosen.folds else None


def _used(part: Part, sets: Mapping[str, FaceSet]) -> dict[str, FaceSet]:
    names = {reference.partition(":")[0] for reference in (*part.train, *part.val)}
    return {name: faces for name, faces in sets.items() if name in names}


def _common_labels(sets: Mapping[str, FaceSet]) -> tuple[str, ...]:
    labels = {faces.labels for faces in sets.values()}
    if len(labels) > 1:
        told = "; ".join(f"{name}: {', '.join(faces.labels)}" for name, faces in sets.items())
        raise DataError(f"the data sets have different classes: {told}; one run needs one set of labels")
    return next(iter(labels))


def photo_crop(stage: Part, sets: Mapping[str, FaceSet]) -> dict[str, Any]:
    """How a photo's face is to be cut for what `stage` trains on: as `emotiw prepare` cut it, if it made all of that."""
    readings = {sets[source.partition(":")[0]].reading for source in stage.train}
    if "" not in readings and len(readings) == 1:
        return {"reading": readings.pop(), "stretch": True}
    return {"reading": DEFAULT_READING, "stretch": False}


def _versions() -> dict[str, str]:
    names = ("tensorflow", "keras", "numpy", "opencv-python-headless")
    return {"emotiw_keras": importlib.metadata.version("emotiw_keras")} | {n: importlib.metadata.version(n) for n in names}
