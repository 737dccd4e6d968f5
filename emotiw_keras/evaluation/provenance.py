"""Where a run and its figures come from: the images it saw, versions, fingerprints, commands."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from emotiw_keras.data.near.threshold import THRESHOLD
from emotiw_keras.evaluation.assessment import Assessment

if TYPE_CHECKING:
    from emotiw_keras.runs import Run

PACKAGES = ("emotiw_keras", "tensorflow", "keras", "numpy", "scikit-learn")
TRAIN, VAL, DROPPED, TEST = "train", "val", "left out as duplicates", "test"


def stage_images(run: Run) -> dict[str, dict[str, Counter[str]]]:
    """What each stage saw, of the data sets it used: stage -> role -> class -> images.

    Roles are train, val (chose the best epoch), what was left out of training as a duplicate, and test: neither, and in a
    test split. Images from before (the run whose weights this one starts from) are the stage "weights".
    """
    found: dict[str, dict[str, Counter[str]]] = {}
    for stage, role, row in _in_roles(run):
        found.setdefault(stage, {}).setdefault(role, Counter())[row["label"]] += 1
    return found


def stage_persons(run: Run) -> dict[str, dict[str, int]]:
    """Persons in what each stage saw, where any is known: stage -> role -> persons."""
    found: dict[str, dict[str, set[str]]] = {}
    for stage, role, row in _in_roles(run):
        found.setdefault(stage, {}).setdefault(role, set()).add(row["subject"])
    counts = {stage: {role: len(each - {""}) for role, each in roles.items()} for stage, roles in found.items()}
    return {stage: roles for stage, roles in counts.items() if any(roles.values())}


def _in_roles(run: Run) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(stage, role, row of data.csv), without the data sets that a stage left alone; roles as in `stage_images`. An image that
    one run before left out and another used is a used one."""
    used: dict[str, set[str]] = {}
    images = set()
    rows = run.rows()
    for row in rows:
        if row["status"] in (TRAIN, VAL):
            used.setdefault(row["stage"], set()).add(row["data"])
            images.add((row["stage"], row["path"], row["pixel_hash"]))
    for row in rows:
        if row["data"] not in used.get(row["stage"], ()):
            continue
        status = row["status"]
        role = status if status in (TRAIN, VAL) else DROPPED if status.startswith("dropped") else TEST
        if role == DROPPED and (row["stage"], row["path"], row["pixel_hash"]) in images:
            continue
        if role == TEST and (row["split"] != "test" or status != "held out"):
            continue
        yield row["stage"], role, row


def versions() -> dict[str, str]:
    """What computes here: package -> version."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def evaluate_command(assessment: Assessment, place: Callable[[str], str] = str) -> str:
    """The command that gives these figures again, each path in it as `place` gives it."""
    asked = assessment.question
    runs = [each.run.called for each in assessment.members] or [assessment.run.called]
    if assessment.folder is not None:
        runs = [str(assessment.folder)]
    words = ["emotiw", "evaluate", *map(place, runs), *(["--ensemble"] if assessment.members else [])]
    words += ["--data", place(asked.source)]
    words += ["--split", asked.split]
    if asked.limit is not None:
        words += ["--limit", str(asked.limit)]
    if asked.crops is not None:
        words += ["--crops", str(asked.crops)]
    if asked.costs_file is not None:
        words += ["--costs", place(asked.costs_file)]
    if "robust" in assessment.result:
        words += ["--robust"]
    if asked.near_duplicates != THRESHOLD:
        words += ["--near-duplicates", f"{asked.near_duplicates:g}"]
    words += ["--head", asked.head] if asked.head is not None else []
    for option, value in (("--votes", asked.votes), ("--votes-rows", asked.votes_rows)):
        words += [option, place(value)] if value is not None else []
    words += ["--calibrate"] if asked.calibrate else []
    if asked.subject_pattern is not None:
        words += ["--subject-pattern", asked.subject_pattern]
    return shlex.join(words)
