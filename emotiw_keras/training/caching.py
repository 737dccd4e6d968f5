"""Whether a stage's frozen start is computed once, and what its steps read then."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import UsageError
from emotiw_keras.models.weights import weight_bytes
from emotiw_keras.text import number_of
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.epoch_progress import duration
from emotiw_keras.training.features import Features, feature_bytes, features_root, fingerprint, stored_bytes, trim
from emotiw_keras.training.frozen import Cut, cut_frozen
from emotiw_keras.training.stage import Stage

BUDGET_BYTES = 8 << 30
"""What "auto" gives to the features of one stage, on the disk and in the page cache."""
SPARE_NETWORKS = 10
"""Space on the disk that features leave for what a run writes, in weights of its network: two checkpoints with weights,
gradient statistics of Adam and averaged weights, and both files of weights that a stage ends with."""


@dataclass(frozen=True)
class Plan:
    """What is to be done with a stage's frozen start.

    Attributes:
        cut: the network in two, or None where it has no frozen start.
        crops: crops to compute, training and validation together.
        bytes: what their features take.
        against: why they are not kept, or "" where they are.
    """

    cut: Cut | None
    crops: int
    bytes: int
    against: str

    @property
    def told(self) -> str:
        """The plan in a line for people; "" where nothing is frozen."""
        if self.cut is None:
            return ""
        if self.against:
            return f"{self.cut.frozen} frozen, computed anew every epoch: {self.against}"
        return (
            f"{self.cut.frozen} frozen, computed once: features of {number_of(self.crops, 'crops')}, {self.bytes / 1e6:,.0f} MB"
        )


def plan(
    model: keras.Model, stage: Stage, crops: StageCrops, val_images: int, run_dir: Path, decided: bool | None = None
) -> Plan:
    """Decide by the stage's `cache_features`.

    Args:
        model: with the stage's rules applied.
        stage: its settings.
        crops: of its training images.
        val_images: how many it selects on.
        run_dir: the run folder, which need not exist.
        decided: what an interrupted run does; it goes on so, or its last bits could differ. None decides.

    Raises:
        UsageError: `cache_features` is true, but nothing at the start is frozen, or the disk is too small.
    """
    cut = cut_frozen(model) if stage.cache_features is not False and decided is not False else None
    if cut is None:
        if stage.cache_features is True:
            raise UsageError(f"cache_features of stage {stage.name!r} is true, but its rules freeze no start of {model.name}")
        return Plan(None, 0, 0, "")
    count = crops.images * crops.per_image + val_images
    size = feature_bytes(cut.prefix, count)
    if decided:
        return Plan(cut, count, size, "")
    root = features_root(run_dir)
    there = stored_bytes(root)
    spare = SPARE_NETWORKS * weight_bytes(model)
    free = _free_bytes(root) + (there if root.is_relative_to(run_dir) else 0) - spare
    against = ""
    if stage.augmented:
        against = "images are augmented anew each epoch"
    elif stage.teachers:
        against = "the stage's teachers need the images"
    elif not crops.per_image:
        against = "crops are drawn anew; crops_per_image = 10 would allow to keep features"
    elif size > free:
        against = (
            f"their features take {size / 1e6:,.1f} MB, {root} has {max(0, free) / 1e6:,.1f} MB to spare for them"
            f" beside {spare / 1e6:,.1f} MB for checkpoints"
        )
        if stage.cache_features is True:
            raise UsageError(f"cache_features of stage {stage.name!r} is true, but {against}")
    elif stage.cache_features == "auto":
        if crops.per_image >= stage.epochs:
            against = f"{crops.per_image} crops of each image are no fewer than {stage.epochs} epochs"
        elif size > BUDGET_BYTES:
            against = f"their features take {size / 1e9:.1f} GB; cache_features = true keeps them all the same"
    return Plan(cut, count, size, against)


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def as_they_are(features: Any, crops: Any = None) -> Any:
    """Features need no preprocessing; their crops are chosen already."""
    return features


def make_features(
    cut: Cut,
    face_input: FaceInput,
    crops: StageCrops,
    train: Pool,
    val: Pool | None,
    run_dir: Path,
    facts: Mapping[str, Any],
    say: Callable[[str], None],
    stop: Callable[[], None],
) -> tuple[Features, Features | None]:
    """The features of a stage's training and validation images; those that are not kept already are computed.

    Args:
        cut: the network in two.
        face_input: bytes to network input.
        crops: of the training images.
        train: training images.
        val: validation images, or None.
        run_dir: the run folder.
        facts: see `fingerprint`.
        say: takes lines for people.
        stop: called between batches; raises to stop.

    Raises:
        OutputError: they cannot be written.
    """
    root = features_root(run_dir)
    start = time.monotonic()

    def features(pool: Pool, kept: np.ndarray | None) -> Features:
        name = fingerprint(cut.prefix, face_input, pool, kept, facts)
        return Features(root / name, cut.prefix, face_input, pool, kept)

    made = features(train, crops.kept())
    judged = features(val, None) if val is not None else None
    computed = sum(each.prepare(say, stop) for each in (made, judged) if each is not None)
    if computed:
        say(f"  features of {number_of(computed, 'crops')} computed in {duration(time.monotonic() - start)}")
    else:
        say("  features: all were there already")
    if not root.is_relative_to(run_dir):
        trim(root, {each.folder.name for each in (made, judged) if each is not None})
    return made, judged
