"""What a run would be, for `--dry-run`: parameters, time (by timing a few steps), disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from emotiw_keras.data.device import FaceInput
from emotiw_keras.models import registry
from emotiw_keras.training.freezing import apply_rules
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.progress import duration
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.start import start_tensorflow
from emotiw_keras.training.steps import StageSteps

if TYPE_CHECKING:
    from emotiw_keras.training.fit import Prepared

BATCH = 16
STEPS = 3


def seconds_per_image(model: keras.Model, settings: Mapping[str, Any], stage: Stage) -> float:
    """Seconds one training image takes, the best of a few small steps on empty images.

    Args:
        model: with the stage's rules applied; its weights change.
        settings: `FaceInput` settings.
        stage: optimizer and rates.
    """
    face_input = FaceInput.from_settings({**settings, "mean_image": None})
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = StageSteps(model, face_input, stage, np.ones(model.output_shape[-1], np.float32), optimizer, (48, 48, 1))
    images, labels = np.zeros((BATCH, 48, 48, 1), np.uint8), np.zeros(BATCH, np.int32)
    times = []
    for _ in range(STEPS):
        start = time.monotonic()
        steps.train(images, np.zeros((BATCH, 3), np.int32), labels, stage.learning_rate)
        times.append(time.monotonic() - start)
    return min(times) / BATCH


def describe(prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
    """What a run would be: stages, parameters, disk and time."""
    recipe, info, roles = prepared.recipe, prepared.info, prepared.roles
    start_tensorflow()
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
