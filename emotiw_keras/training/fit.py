"""From a recipe and paths to a run folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras import hardware
from emotiw_keras.data.faceset import OK, FaceSet
from emotiw_keras.data.generated import read_any
from emotiw_keras.data.settings import settings_for
from emotiw_keras.errors import DataError, ModelError, UsageError
from emotiw_keras.files import atomic_path
from emotiw_keras.models.registry import get_spec
from emotiw_keras.runs import RUN_FORMAT, Run
from emotiw_keras.training.progress import duration, silent
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.run_writer import move_aside, start_or_resume
from emotiw_keras.training.stage import Stage, split_reference

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.batches import Pool
    from emotiw_keras.training.progress import Progress

MEAN_IMAGE_FILE = "mean_image.npy"
PARENT = "weights"


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
    prepared = prepare(recipe, paths, threads=threads, say=say)
    folder = Path(out)
    if dry_run:
        _describe(prepared, folder, say)
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
    roles: dict[str, _Roles]
    info: dict[str, Any]
    unreadable: tuple[str, ...]


def prepare(
    recipe: Recipe, paths: Mapping[str, str], *, threads: int | None = None, say: Callable[[str], None] = silent
) -> Prepared:
    """Read the data of a recipe and resolve its stages to images; needs no TensorFlow."""
    parent = _parent(recipe)
    sources = _sources(recipe, paths)
    settings = _input_settings(recipe, parent)
    sets = {
        name: read_any(
            path,
            name=name,
            labels=recipe.labels,
            grey=settings["channels"] == "grey",
            size=settings["resize"],
            subject_pattern=(recipe.source[name].subject_pattern or None) if name in recipe.source else None,
            seed=recipe.seed,
            limit=recipe.limit or None,
        )
        for name, path in sources.items()
    }
    for faces in sets.values():
        for line in faces.report:
            say(line)
    labels = _common_labels(sets)
    roles = {stage.name: stage_roles(stage, sets, recipe.duplicates == "drop") for stage in recipe.stages}
    for stage in recipe.stages:
        _check_roles(stage, roles[stage.name], say)
    unreadable = tuple(
        f"{faces.name}: {path}: {status}"
        for faces in sets.values()
        for path, status in zip(faces.paths, faces.status, strict=True)
        if status != OK
    )
    info = {
        "format": RUN_FORMAT,
        "recipe": recipe.name,
        "model": {
            "name": get_spec(recipe.model.name).name,
            "width": recipe.model.width,
            "classes": len(labels),
            "input_shape": [settings["crop"], settings["crop"], settings["input_channels"]],
        },
        "labels": list(labels),
        "preprocessing": settings,
        "precision": resolve_precision(recipe.precision),
        "seed": recipe.seed,
        "threads": threads or hardware.processor_threads(),
        "versions": _versions(),
        "data": {name: _data_facts(faces) for name, faces in sets.items()},
        "sources": dict(sources),
        "stages": [],
        "finished": False,
    }
    return Prepared(recipe, parent, sets, roles, info, unreadable)


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
    info = start_or_resume(folder, recipe.to_toml(), prepared.info, _data_rows(prepared))
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
    from emotiw_keras.training.loop import StageLoop

    if info["precision"] != "float32":
        say(f"computing in {info['precision']}")
    if model is None:
        keras.config.set_dtype_policy(info["precision"])
        keras.utils.set_random_seed(recipe.seed)
        model = _start_model(recipe, info, prepared.parent, say)
    face_input = FaceInput.from_settings(info["preprocessing"], folder)

    def pool(parts: Mapping[str, np.ndarray]) -> Pool | None:
        chosen = [(prepared.sets[name], index) for name, index in parts.items() if len(index)]
        return Pool(chosen, face_input.resize, face_input.channels == "grey") if chosen else None

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
    )
    return loop.fit()


def start_tensorflow(threads: int | None = None) -> None:
    """Load TensorFlow with a number of threads; memory is kept on the host and grows on demand on a GPU."""
    hardware.keep_memory()
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def resolve_precision(precision: str) -> str:
    """The dtype policy that "auto" stands for here."""
    if precision != "auto":
        return precision
    return "mixed_bfloat16" if hardware.native_bfloat16() else "float32"


def _parent(recipe: Recipe) -> Run | None:
    """The run whose weights start this one, if `weights` names a run; a missing file is an error before any work."""
    weights = recipe.model.weights
    if weights in ("none", "imagenet"):
        return None
    path = Path(weights)
    if path.is_dir():
        return Run.open(path)
    if not path.is_file():
        raise ModelError(f"--weights {weights}: no such file; expected none, imagenet, a weight file or a run folder")
    return None


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


@dataclass(frozen=True)
class _Roles:
    """Positions by data set: what a stage trains on, what it selects on, and what it dropped from training and why."""

    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    dropped: dict[str, np.ndarray]


def stage_roles(stage: Stage, sets: Mapping[str, FaceSet], drop: bool) -> _Roles:
    """Resolve a stage's references to images.

    Args:
        stage: its `train` and `val` are resolved.
        sets: the data by name.
        drop: leave out of training each image whose pixels also stand in a val or test split that is not trained on.
    """
    train = _resolve(stage.train, sets, f"train of stage {stage.name!r}")
    val = _resolve(stage.val, sets, f"val of stage {stage.name!r}")
    dropped = {name: np.empty(0, np.int64) for name in sets}
    if drop:
        held: set[str] = set()
        for name, faces in sets.items():
            apart = np.isin(faces.split, ("val", "test"))
            apart[train.get(name, np.empty(0, np.int64))] = False
            held |= {faces.pixel_hash[i] for i in np.flatnonzero(apart) if faces.status[i] == OK}
        for name, index in train.items():
            twin = np.array([sets[name].pixel_hash[i] in held for i in index], bool)
            train[name], dropped[name] = index[~twin], index[twin]
    return _Roles(train, val, dropped)


def _resolve(references: tuple[str, ...], sets: Mapping[str, FaceSet], what: str) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for reference in references:
        name, split = split_reference(reference, what)
        found.setdefault(name, []).append(sets[name].indices(split))
    return {name: np.unique(np.concatenate(parts)) for name, parts in found.items()}


def _check_roles(stage: Stage, roles: _Roles, say: Callable[[str], None]) -> None:
    count = sum(len(index) for index in roles.train.values())
    val = sum(len(index) for index in roles.val.values())
    dropped = sum(len(index) for index in roles.dropped.values())
    if not count:
        raise DataError(f"stage {stage.name!r} has no training images: {', '.join(stage.train)} hold none")
    if stage.val and not val:
        raise DataError(f"stage {stage.name!r} has no validation images: {', '.join(stage.val)} hold none")
    say(
        f"stage {stage.name}: trains on {count:,} images of {', '.join(stage.train)}"
        + (f", selects on {val:,} of {', '.join(stage.val)}" if val else ", keeps the last epoch")
        + (f"; {dropped:,} left out of training because the same pixels stand in val or test" if dropped else "")
    )


def _common_labels(sets: Mapping[str, FaceSet]) -> tuple[str, ...]:
    labels = {faces.labels for faces in sets.values()}
    if len(labels) > 1:
        told = "; ".join(f"{name}: {', '.join(faces.labels)}" for name, faces in sets.items())
        raise DataError(f"the data sets have different classes: {told}; one run needs one set of labels")
    return next(iter(labels))


def _data_facts(faces: FaceSet) -> dict[str, Any]:
    digest = hashlib.sha256()
    for row in zip(faces.paths, faces.pixel_hash, faces.label.tolist(), faces.split.tolist(), strict=True):
        digest.update(repr(row).encode())
    return {"layout": faces.layout, "images": len(faces.paths), "fingerprint": digest.hexdigest()[:16]}


def _data_rows(prepared: Prepared) -> list[dict[str, str]]:
    recipe, sets, parent = prepared.recipe, prepared.sets, prepared.parent
    rows = []
    if parent is not None:
        for row in parent.rows():
            if row["status"] in ("train", "val") or row["status"].startswith("dropped"):
                rows.append({**row, "stage": PARENT})
    for stage in recipe.stages:
        of = prepared.roles[stage.name]
        for name, faces in sets.items():
            status = np.array([text if text != OK else "held out" for text in faces.status], object)
            status[of.val.get(name, np.empty(0, np.int64))] = "val"
            status[of.train.get(name, np.empty(0, np.int64))] = "train"
            status[of.dropped[name]] = "dropped: the same pixels stand in val or test"
            for i, path in enumerate(faces.paths):
                rows.append(
                    {
                        "stage": stage.name,
                        "data": name,
                        "path": path,
                        "pixel_hash": faces.pixel_hash[i],
                        "label": faces.labels[faces.label[i]] if faces.label[i] >= 0 else "",
                        "subject": faces.subject[i],
                        "split": str(faces.split[i]),
                        "status": str(status[i]),
                    }
                )
    return rows


def _start_model(recipe: Recipe, info: Mapping[str, Any], parent: Run | None, say: Callable[[str], None]) -> keras.Model:
    """The network with the weights the recipe starts from; it returns logits."""
    from emotiw_keras.models import registry

    shape = info["model"]
    weights = recipe.model.weights
    model = registry.build(
        shape["name"],
        weights=None if parent is not None or weights == "none" else weights,
        classes=shape["classes"],
        input_shape=tuple(shape["input_shape"]),
        width=shape["width"],
        classifier_activation=None,
    )
    if parent is None:
        return model
    if (parent.model_name, parent.info["model"]["width"]) != (shape["name"], shape["width"]):
        width = parent.info["model"]["width"]
        raise ModelError(
            f"--weights {weights} holds {parent.model_name} of width {width:g}, asked for is {shape['name']} of width "
            f"{shape['width']:g}; add --model {parent.model_name} --set model.width={width:g}"
        )
    start = parent.build()
    classifier = get_spec(shape["name"]).classifier
    wanted, known = tuple(info["labels"]), parent.labels
    kept = set(wanted) <= set(known)
    for old, new in zip(start.layers, model.layers, strict=True):
        if not new.weights or (new.name == classifier and not kept):
            continue
        values = old.get_weights()
        if new.name == classifier:
            values = [value[..., [known.index(label) for label in wanted]] for value in values]
        new.set_weights(values)
    order = "" if wanted == known else f"; outputs of {classifier} taken by class name"
    say(f"weights from {weights}" + (order if kept else f"; it lacks some of these classes, so {classifier} starts anew"))
    return model


def _versions() -> dict[str, str]:
    names = ("tensorflow", "keras", "numpy", "opencv-python-headless")
    return {"emotiw_keras": importlib.metadata.version("emotiw_keras")} | {n: importlib.metadata.version(n) for n in names}


def _describe(prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
    """What a run would be: stages, parameters, disk and time."""
    recipe, info, roles = prepared.recipe, prepared.info, prepared.roles
    start_tensorflow()
    from emotiw_keras.models import registry
    from emotiw_keras.training.estimate import seconds_per_image
    from emotiw_keras.training.freezing import apply_rules

    shape = info["model"]
    model = registry.build(
        shape["name"],
        weights=None,
        classes=shape["classes"],
        input_shape=tuple(shape["input_shape"]),
        width=shape["width"],
        classifier_activation=None,
    )
    total = sum(math.prod(variable.shape) for variable in model.weights)
    say(f"{shape['name']}: {total:,} parameters, input {shape['input_shape']}, {info['precision']}")
    seconds = 0.0
    for stage in recipe.stages:
        apply_rules(model, stage.rules, f"stage {stage.name!r}")
        trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        images = sum(len(index) for index in roles[stage.name].train.values())
        this = seconds_per_image(model, info["preprocessing"], stage) * images * stage.epochs
        seconds += this
        say(
            f"stage {stage.name}: {stage.epochs} epochs of {math.ceil(images / stage.batch_size)} steps, "
            f"{trainable:,} trainable parameters, about {duration(this)}"
        )
    # Per stage two checkpoints of weights and history and one best file, and the final weights.
    disk = 4 * total * (5 * len(recipe.stages) + 1)
    say(f"about {duration(seconds)} on this machine and up to {disk / 1e6:,.0f} MB in {folder}; nothing was written")
