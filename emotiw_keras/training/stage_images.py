"""Which images a stage trains on, selects on and leaves alone; and the record of it, data.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.splits import of_each_class
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of
from emotiw_keras.training.stage import Part, Stage, split_reference

if TYPE_CHECKING:
    from emotiw_keras.training.own_data import Own, OwnData

# The stage name under which data.csv holds what the run that gave the weights had seen.
PARENT = "weights"
# The same for what the teachers of its stages had seen beyond what the run itself sees.
TEACHERS = "teachers"
DROPPED = "dropped: the same pixels stand in val or test"
DROPPED_NEAR = "dropped: nearly the same image stands in val or test"
USED = ("train", "val")
SEEN = (*USED, DROPPED, DROPPED_NEAR)
SPARED = "not taken: train_share is below 1"


@dataclass(frozen=True)
class Roles:
    """Positions by data set: what a stage trains on and selects on, what it dropped as twins and as near ones, what it spared;
    and the classes that its data have, but not its images for training or for selection."""

    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    dropped: dict[str, np.ndarray]
    near: dict[str, np.ndarray] = field(default_factory=dict)
    spared: dict[str, np.ndarray] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


def stage_roles(
    stage: Part, sets: Mapping[str, FaceSet], drop: bool, photographs: Mapping[str, np.ndarray] | None = None
) -> Roles:
    """Resolve a stage's references to images.

    Args:
        stage: its `train` and `val` are resolved.
        sets: the data by name.
        drop: leave out of training each image whose pixels also stand in a val or test split that is not trained on.
        photographs: set name -> int (images,), numbers of photographs across sets (`near.groups.photographs`): then those are
            left out, too, whose photograph stands there nearly the same.
    """
    train = _resolve(stage.train, sets, f"train of {stage.where}")
    val = _resolve(stage.val, sets, f"val of {stage.where}")
    dropped = {name: np.empty(0, np.int64) for name in sets}
    near: dict[str, np.ndarray] = {}
    photographs = photographs or {}
    if drop:
        held: set[str] = set()
        shown: list[np.ndarray] = []
        for name, faces in sets.items():
            apart = np.isin(faces.split, ("val", "test"))
            apart[train.get(name, np.empty(0, np.int64))] = False
            kept_apart = np.flatnonzero(apart & (faces.label >= 0))
            held |= set(pick(faces.pixel_hash, kept_apart)) - {""}
            if name in photographs:
                shown.append(photographs[name][kept_apart])
        for name, index in train.items():
            twin = np.array([digest in held for digest in pick(sets[name].pixel_hash, index)], bool)
            train[name], dropped[name] = index[~twin], index[twin]
            if name in photographs:
                alike = np.isin(photographs[name][train[name]], np.concatenate(shown))
                near[name], train[name] = train[name][alike], train[name][~alike]
    used = {*train, *val}
    there = {name for key in used for name in _classes(sets[key], np.arange(len(sets[key].label)))}
    lacking = [there - {name for key, index in part.items() for name in _classes(sets[key], index)} for part in (train, val)]
    untrained, unjudged = (tuple(sorted(names)) for names in lacking)
    return Roles(train, val, dropped, near, untrained=untrained, unjudged=unjudged if stage.val else ())


def _classes(faces: FaceSet, index: np.ndarray) -> set[str]:
    return {faces.labels[label] for label in np.unique(faces.label[index]).tolist() if label >= 0}


def take_share(roles: Roles, sets: Mapping[str, FaceSet], share: float, seed: int) -> Roles:
    """The roles of a stage that trains on a share of its images: of each set and class alike, one image of each at least."""
    train, spared = dict(roles.train), {}
    generator = np.random.default_rng(seed)
    for name, index in roles.train.items():
        labels = sets[name].label[index]
        taken = of_each_class(labels, lambda counts: np.maximum(1, np.rint(share * counts).astype(np.int64)), generator)
        train[name], spared[name] = index[taken], index[~taken]
    return replace(roles, train=train, spared=spared)


def _resolve(references: tuple[str, ...], sets: Mapping[str, FaceSet], what: str) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for reference in references:
        name, split = split_reference(reference, what)
        found.setdefault(name, []).append(sets[name].indices(split))
    return {name: np.unique(np.concatenate(parts)) for name, parts in found.items()}


def left_out(stages: Sequence[Part], counts: Mapping[str, int], asked: Sequence[tuple[str, str, bool]]) -> dict[str, str]:
    """Of each stage that is not trained, as it has fewer validation images than its `val_least`, a line that says so.

    Args:
        stages: of a recipe, in order.
        counts: validation images by stage name.
        asked: changes of the recipe (`Recipe.asked`); the line names those that count for nothing without the stage.

    Raises:
        UsageError: no stage is left.
    """
    few = {stage.name: stage for stage in stages if isinstance(stage, Stage) and counts[stage.name] < stage.val_least}
    if len(few) == len(stages):
        raise UsageError("no stage has as many validation images as its val_least asks for; lower val_least")
    heeded = {key for name, key, everywhere in asked if everywhere and name not in few}
    lines = {}
    for name, stage in few.items():
        count, least = number_of(counts[name], "validation images"), stage.val_least
        own = [(key, everywhere) for its, key, everywhere in asked if its == name and key != "val_least"]
        keys = [key for key, everywhere in own if not (everywhere and key in heeded)]
        lines[name] = f"stage {name} is left out: it has {count}, val_least is {least:,}"
        if keys:
            told = ", ".join(f"{key} = {getattr(stage, key)!r}" for key in keys)
            lines[name] += f"; set for it, and without effect: {told}; to train it give more, or --set {name}.val_least=0"
    return lines


def check_roles(stage: Part, roles: Roles, say: Callable[[str], None], selects: bool = True) -> None:
    """Say what a stage trains and selects on (or is measured on only); DataError where it has no images."""
    count = sum(len(index) for index in roles.train.values())
    val = sum(len(index) for index in roles.val.values())
    dropped = sum(len(index) for index in roles.dropped.values())
    near = sum(len(index) for index in roles.near.values())
    spared = sum(len(index) for index in roles.spared.values())
    if not count:
        why = f"{', '.join(stage.train)} hold none"
        if dropped + near:
            why = f"all {dropped + near:,} of {', '.join(stage.train)} stand in val or test, too; take them out there, or train"
            why += " on them with --keep-duplicates --set near_duplicates=0"
        raise DataError(f"{stage.where} has no training images: {why}")
    if stage.val and not val:
        raise DataError(f"{stage.where} has no validation images: {', '.join(stage.val)} hold none")
    told = (
        f"{stage.table} {stage.name}: trains on {number_of(count, 'images')} of {', '.join(stage.train)}"
        + (f", {'selects' if selects else 'is measured'} on {val:,} of {', '.join(stage.val)}" if val else "")
        + (", keeps the last epoch" if selects and not val and getattr(stage, "kind", "") != "head" else "")
        + (f"; {dropped:,} left out of training because the same pixels stand in val or test" if dropped else "")
        + (f"; {near:,} more because their photograph stands there nearly the same" if near else "")
        + (f"; {spared:,} not taken, by train_share" if spared else "")
    )
    say(Notice(told) if dropped or near else told)
    for names, what, so in (
        (roles.untrained, "training", "the network cannot learn them"),
        (roles.unjudged, "validation", f"what {'chooses the epoch' if selects else 'is measured'} knows nothing of them"),
    ):
        if names:
            missing = f"no {what} images of {', '.join(names)}, which the data have"
            say(Notice(f"warning: {stage.table} {stage.name}: {missing}: {so}"))


def data_rows(
    stages: Sequence[Part],
    sets: Mapping[str, FaceSet],
    roles: Mapping[str, Roles],
    before: Sequence[Mapping[str, str]],
    taught: Iterable[Mapping[str, str]] | None = None,
) -> Iterator[dict[str, str]]:
    """Rows of data.csv, one at a time: every image of every stage with its role, or every video of a set of videos.

    Args:
        stages: in order.
        sets: the data by name.
        roles: by stage name.
        before: rows of the run whose weights this one starts from; what it had seen is recorded here too, once, in however many
            stages.
        taught: rows of the runs that teach; of what they had seen, that is recorded which stands in no other row alike. None
            where nobody teaches: then no row is remembered, however many there are.

    What one stage or run of those before left out as a duplicate, and another trained or selected on, is recorded as used.
    """
    if taught is None:
        yield from _own_rows(stages, sets, roles, before)
        return
    recorded: set[tuple[str, str]] = set()
    for row in _own_rows(stages, sets, roles, before):
        if row["status"] in SEEN:
            recorded.add((row["pixel_hash"], row["status"]))
        yield row
    dropped = []
    for each in taught:
        key = (each["pixel_hash"], each["status"])
        if each["status"] in USED and key not in recorded:
            recorded.add(key)
            yield {**each, "stage": TEACHERS}
        elif each["status"] in SEEN and each["status"] not in USED:
            dropped.append(each)
    known = {pixel_hash for pixel_hash, _ in recorded}
    for each in dropped:
        if each["pixel_hash"] not in known:
            known.add(each["pixel_hash"])
            yield {**each, "stage": TEACHERS}


def _own_rows(
    stages: Sequence[Part], sets: Mapping[str, FaceSet], roles: Mapping[str, Roles], before: Sequence[Mapping[str, str]]
) -> Iterator[dict[str, str]]:
    seen_before = ({**row, "stage": PARENT} for row in before if row["status"] in SEEN)
    once = {tuple(row.values()): row for row in seen_before}.values()  # most stages see the same
    used = {(row["path"], row["pixel_hash"]) for row in once if row["status"] in USED}
    yield from (row for row in once if row["status"] in USED or (row["path"], row["pixel_hash"]) not in used)
    for stage in stages:
        of = roles[stage.name]
        for name, faces in sets.items():
            none = np.empty(0, np.int64)
            status = {"val": of.val.get(name, none), "train": of.train.get(name, none), DROPPED: of.dropped[name]}
            status[DROPPED_NEAR] = of.near.get(name, none)
            status[SPARED] = of.spared.get(name, none)
            for row in faces.records(status):
                yield {"stage": stage.name, **row, "data": name}  # a set that was read before may be called otherwise


def own_rows(
    stages: Sequence[Part], own: OwnData, of_stages: Mapping[str, tuple[Own | None, Own | None]], labels: Sequence[str]
) -> Iterator[dict[str, str]]:
    """Rows of data.csv for arrays; batches of a dataset are known only while they come (run.json says "unrecorded")."""
    for stage in stages:
        trained = of_stages.get(stage.name, (None, None))[0]
        left_out = getattr(trained, "left_out", None)
        for role, references in (("train", stage.train), ("val", stage.val)):
            for name, _, split in (reference.partition(":") for reference in references):
                for number, (path, identity, label) in enumerate(own[name][split].rows() if name in own else ()):
                    dropped = role == "train" and left_out is not None and left_out[number]
                    yield {
                        "stage": stage.name, "data": name, "path": path, "pixel_hash": identity, "label": labels[label],
                        "subject": "", "split": split, "status": DROPPED if dropped else role,
                    }  # fmt: skip
