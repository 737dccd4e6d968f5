"""The data of a recipe, read and dealt out to its stages, before TensorFlow is loaded and before anything is written."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras import hardware
from emotiw_keras.costs import ALL_EQUAL_SOURCE, costs_of
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.near.groups import photographs
from emotiw_keras.data.preprocessing_settings import settings_for
from emotiw_keras.data.splits import Folds
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.faces.alignment import DEFAULT_READING
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.models.registry import get_spec
from emotiw_keras.runs import RUN_FORMAT, Run
from emotiw_keras.talk import Notice
from emotiw_keras.training.epoch_progress import silent
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.stage import Part, Stage
from emotiw_keras.training.stage_images import Roles, check_roles, left_out, stage_roles, take_share
from emotiw_keras.training.start import check_parent, parent_run, resolve_precision
from emotiw_keras.training.teachers import teacher_runs

if TYPE_CHECKING:
    import numpy as np

    from emotiw_keras.data.batches import Pool
    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.training.own_data import Own, OwnData

MEAN_IMAGE_FILE = "mean_image.npy"


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
    own: OwnData = field(default_factory=dict)
    of_own: Mapping[str, tuple[Own | None, Own | None]] = field(default_factory=dict)

    @property
    def mean_image(self) -> Path | None:
        """The mean image of a run that is not made yet: that of the run which gives the weights, else the recipe's."""
        if not needed(self.info["preprocessing"]).get("mean_image"):
            return None
        return Path(self.recipe.preprocessing.mean_image) if self.parent is None else self.parent.path / MEAN_IMAGE_FILE

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Of each stage that has too few validation images to be trained, a line that says so.

        Raises:
            UsageError: no stage is left.
        """
        counts = {name: sum(map(len, roles.val.values())) for name, roles in self.roles.items()}
        counts |= {name: 0 if val is None else len(val) for name, (_, val) in self.of_own.items()}
        return left_out(self.recipe.stages, counts, self.recipe.asked)

    @property
    def trained(self) -> tuple[Any, ...]:
        """The stages that are trained, in order."""
        return tuple(part for part in self.recipe.stages if part.name not in self.left_out)

    def face_input(self) -> FaceInput:
        """The layer from bytes to network input of a run that is not made yet.

        Raises:
            DataError: the mean image cannot be read or does not fit.
        """
        from emotiw_keras.data.face_input import FaceInput

        return FaceInput.from_settings({**needed(self.info["preprocessing"]), "mean_image": self.mean_image})

    def pool(self, parts: Mapping[str, np.ndarray]) -> Pool | None:
        """Images by data set and positions, as they travel to the network; None where there are none."""
        from emotiw_keras.data.batches import Pool

        chosen = [(self.sets[name], index) for name, index in parts.items() if len(index)]
        wanted = needed(self.info["preprocessing"])
        return Pool(chosen, wanted["resize"], wanted["channels"] == "grey") if chosen else None


def prepare(
    recipe: Recipe,
    paths: Mapping[str, str | FaceSet],
    *,
    threads: int | None = None,
    say: Callable[[str], None] = silent,
    seconds: float | None = None,
    own: OwnData | None = None,
    given: Mapping[str, Any] | None = None,
    auto: str | None = None,
) -> Prepared:
    """Read the data of a recipe and resolve its stages to images.

    Args:
        recipe: the training.
        paths: data set name -> path, or a set that was read before.
        threads: processor threads; None takes all.
        say: takes lines for people.
        seconds: bounds the look at each set, for a dry run.
        own: data sets that are no faces in files, by name and split.
        given: of a network of the user's own: `model` and `preprocessing` as run.json will hold them.
        auto: what the precision "auto" is, where another run of a series has found it.
    """
    parent = parent_run(recipe)
    if parent is not None and given is None and not recipe.kind.tasks:
        check_parent(recipe, parent)
    own = own or {}
    read = {name: faces for name, faces in paths.items() if isinstance(faces, FaceSet)}
    told = {name: path for name, path in paths.items() if isinstance(path, str)}
    sources = _sources(recipe, told, {*own, *read})
    settings = given["preprocessing"] if given is not None else _input_settings(recipe, parent)
    sets = read | {
        name: load_faces(
            path,
            name=name,
            labels=recipe.labels,
            grey=needed(settings)["channels"] == "grey",
            size=needed(settings)["resize"],
            **recipe.reading(name),
            folds=_folds(recipe, name),
            seed=recipe.seed,
            limit=recipe.limit or None,
            near_duplicates=recipe.near_duplicates,
            say=say,
            seconds=seconds,
        )
        for name, path in sources.items()
    }
    for faces in sets.values():
        for line in faces.report:
            say(line)
    if sets:
        labels = {part.name: _common_labels(_used(part, sets) if recipe.kind.tasks else sets) for part in recipe.stages}
    else:
        labels = {part.name: _own_labels(recipe) for part in recipe.stages}
    of_files = [part for part in recipe.stages if not set(own) & {name.partition(":")[0] for name in (*part.train, *part.val)}]
    for part in recipe.stages:
        if isinstance(part, Stage) and part.cost_weight:
            source = costs_of(labels[part.name], part.costs or None).source  # a file that cannot be used is told now
            if source == ALL_EQUAL_SOURCE:
                say(
                    Notice(
                        f"warning: {part.where}: cost_weight has no costs to weigh: {source}; name the classes, or give costs"
                    )
                )
    drop = recipe.duplicates == "drop"
    of_own = _own_stages(recipe, own, drop)
    alike, between = photographs(sets, say) if drop else ({}, 0)
    if between:
        say(Notice(f"near duplicates: {between:,} pairs of images of two data sets show one photograph"))
    roles = {stage.name: stage_roles(stage, sets, drop, alike) for stage in of_files}
    for each in of_files:
        if isinstance(each, Stage) and each.train_share < 1:
            roles[each.name] = take_share(roles[each.name], sets, each.train_share, recipe.seed)
    for stage in of_files:
        check_roles(stage, roles[stage.name], say, recipe.kind.selects)
    unreadable = tuple(f"{faces.name}: {path}: {status}" for faces in sets.values() for path, status in faces.unreadable())
    heads = recipe.model.sides()
    if heads and (given is not None or own):
        raise UsageError("model.heads is for a network of the zoo that a recipe makes, and for faces in files")
    teachers = teacher_runs(recipe, heads or labels[recipe.stages[-1].name], settings)
    info = {
        "format": RUN_FORMAT,
        "recipe": recipe.name,
        "model": dict(given["model"])
        if given is not None
        else {
            "name": get_spec(recipe.model.name).name,
            "width": recipe.model.width,
            "classes": sum(len(head.labels) for head in heads) or len(labels[recipe.stages[-1].name]),
            "input_shape": [settings["crop"], settings["crop"], settings["input_channels"]],
            **_options(recipe, parent),
        },
        "labels": list(labels[recipe.stages[-1].name]),
        "preprocessing": settings,
        "leave_out": sorted({name for source in recipe.source.values() for name in source.leave_out}),
        "crop": photo_crop(recipe.stages[-1], sets) if of_files else {"reading": DEFAULT_READING, "stretch": False},
        "precision": resolve_precision(auto if auto is not None and recipe.precision == "auto" else recipe.precision, threads),
        "seed": recipe.seed,
        "threads": threads or hardware.processor_threads(),
        "versions": _versions(),
        "data": {name: faces.facts() for name, faces in sets.items()}
        | {f"{name}:{split}": part.facts() for name, splits in own.items() for split, part in splits.items()},
        "sources": dict(sources),
        "stages": [],
        "finished": False,
    }
    if heads:
        first = next((head for head in heads if head.name == recipe.model.head), heads[0])
        info |= {"heads": [{"name": head.name, "labels": list(head.labels)} for head in heads], "head": first.name}
        info["labels"] = list(first.labels)
        if not any(head.labels == names for head in heads for names in labels.values()):
            classes = ", ".join(next(iter(labels.values())))
            say(Notice(f"no head has the classes of the data ({classes}): their own labels teach nothing"))
    unrecorded = {part.name for splits in own.values() for part in splits.values() if part.facts().get("batches")}
    for run in (*([parent] if parent is not None else []), *teachers.values()):
        unrecorded |= set(run.unrecorded)
    if unrecorded:
        info["unrecorded"] = sorted(unrecorded)
    looked = {name: len(faces.near.pairs) for name, faces in sets.items() if faces.near is not None}
    if looked:
        near = {stage.name: sum(map(len, roles[stage.name].near.values())) for stage in of_files}
        info["near_duplicates"] = {"threshold": recipe.near_duplicates, "pairs": looked, "left_out": near}
    masks = {name: getattr(part, "left_out", None) for name, (part, _) in of_own.items()}
    if drop and of_own:
        info["items_left_out"] = {name: int(mask.sum()) for name, mask in masks.items() if mask is not None}
    if parent is not None and "crops" in parent.info and not recipe.kind.tasks:
        info["crops"] = parent.info["crops"]
    if recipe.keep != "last":
        info["keep"] = recipe.keep
    if teachers:
        info["teachers"] = {name: run.fingerprint for name, run in teachers.items()}
    return Prepared(recipe, parent, sets, roles, info, unreadable, labels, teachers, own, of_own)


def needed(settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Settings of the input where faces in files need them."""
    if settings is None:
        raise UsageError(
            "the network takes no bytes of one known size, so faces in files cannot become its input; put FaceInput.of(...) "
            "first in it, or pass preprocessing=InputSettings(...)"
        )
    return settings


def _own_stages(recipe: Recipe, own: OwnData, drop: bool) -> dict[str, tuple[Own | None, Own | None]]:
    """What each stage on own data trains on and selects on; with `drop`, without what stands in val or test, too."""
    if not own:
        return {}
    from emotiw_keras.training.own_data import stage_data, without_twins

    found: dict[str, tuple[Own | None, Own | None]] = {}
    for stage in recipe.stages:
        train, val = stage_data(stage, own)
        if train is not None and drop:
            train = without_twins(train, own)
        if train is not None or val is not None:
            found[stage.name] = train, val
    return found


def _own_labels(recipe: Recipe) -> tuple[str, ...]:
    """Class names of own data: those that were given, else the numbers of the classes."""
    if not isinstance(recipe.labels, str):
        return tuple(recipe.labels)
    return LABEL_SETS[recipe.labels].labels


def _sources(recipe: Recipe, paths: Mapping[str, str], there: Collection[str] = ()) -> dict[str, str]:
    """Data set name -> path: what the command line gives, else what the recipe draws itself; not what is there already."""
    unknown = [name for name in paths if name not in recipe.data]
    if unknown:
        raise UsageError(f"--data {unknown[0]}=...: recipe {recipe.name!r} knows the data sets {', '.join(recipe.data)}")
    own = {name: source.path for name, source in recipe.source.items() if source.path}
    missing = [name for name in recipe.data if name not in paths and name not in own and name not in there]
    if missing:
        wanted = " ".join(f"--data {name}=PATH" for name in missing)
        raise UsageError(f"recipe {recipe.name!r} needs {wanted}")
    return {name: paths.get(name) or own[name] for name in recipe.data if name not in there}


def _input_settings(recipe: Recipe, parent: Run | None) -> dict[str, Any]:
    """`FaceInput` settings: those of the run that gives the weights, else the model's own with the recipe's changes.

    Raises:
        UsageError: a change that the run which gives the weights was not trained with.
        DataError: a mean image that is not there.
    """
    chosen = recipe.preprocessing
    if parent is not None:
        for name in chosen.unlike(parent.settings):
            value, trained = getattr(chosen, name), parent.settings.get(name, "")
            image = Path(value) if trained == MEAN_IMAGE_FILE else None
            if image is not None and image.is_file() and image.read_bytes() == parent.content(MEAN_IMAGE_FILE):
                continue
            raise UsageError(
                f"preprocessing.{name} = {value!r}, but {parent.called}, which gives the weights, was trained with "
                f"{trained or 'none'!r}; leave it out, or start from other weights"
            )
        if recipe.model.input_size not in (0, parent.settings["crop"]):
            raise UsageError(
                f"model.input_size = {recipe.model.input_size}, but {parent.called}, which gives the weights, was trained with "
                f"{parent.settings['crop']}; leave it out, or start from other weights"
            )
        return parent.settings
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
    """What the network is built with beyond its size, as the run that gives the weights, where it is the same network."""
    own = parent.info["model"] if parent is not None and not recipe.kind.tasks else {}
    options, features = own.get("options"), recipe.model.features or own.get("features")
    return ({"options": options} if options else {}) | ({"features": features} if features else {})


def _folds(recipe: Recipe, name: str) -> Folds | None:
    chosen = recipe.source.get(name)
    if chosen is None or not chosen.folds:
        return None
    return Folds(chosen.folds, chosen.fold, chosen.train_folds, chosen.held_out)


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
