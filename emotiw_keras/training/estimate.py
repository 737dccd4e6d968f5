"""What a run would be, for `--dry-run`: parameters, time (by timing a few steps), disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.heads import Head, heads_of
from emotiw_keras.text import number_of
from emotiw_keras.training.caching import as_they_are, plan
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.epoch_progress import duration
from emotiw_keras.training.freezing import apply_rules
from emotiw_keras.training.frozen import Cut
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.teachers import Teachers
from emotiw_keras.training.train_step import StageSteps

if TYPE_CHECKING:
    from emotiw_keras.training.prepared_data import Prepared

BATCH = 16
STEPS = 3
TIMING_SECONDS = 30.0
"""Stages are timed until so much time is gone, and each for a third of it at most where a single step takes no longer."""


def seconds_per_image(
    model: keras.Model,
    settings: Mapping[str, Any],
    stage: Stage,
    teachers: Teachers | None = None,
    heads: Sequence[Head] = (),
) -> float:
    """Seconds one training image takes, the best of a few small steps on empty images.

    Args:
        model: with the stage's rules applied; its weights change.
        settings: `FaceInput` settings.
        stage: optimizer and rates.
        teachers: the stage's, if any.
        heads: of a network that has several.
    """
    face_input = FaceInput.from_settings({**settings, "mean_image": None})
    return _seconds(model, face_input, stage, np.zeros((BATCH, 48, 48, 1), np.uint8), teachers, heads)


def seconds_with_features(
    cut: Cut, settings: Mapping[str, Any], stage: Stage, heads: Sequence[Head] = ()
) -> tuple[float, float]:
    """Seconds that the features of one crop take, once, and one training image with them, each time.

    Args:
        cut: the network in two; the tail's weights change.
        settings: `FaceInput` settings.
        stage: optimizer and rates.
        heads: of a network that has several.
    """
    face_input = FaceInput.from_settings({**settings, "mean_image": None})
    images, crops = np.zeros((BATCH, 48, 48, 1), np.uint8), np.zeros((BATCH, 3), np.int32)
    prefix = tf.function(lambda: cut.prefix(face_input(images, crops), training=False))
    once = _best(lambda: prefix()[0].numpy())
    features = np.zeros((BATCH, *cut.prefix.output_shape[1:]), tf.as_dtype(cut.prefix.outputs[0].dtype).as_numpy_dtype)
    return once, _seconds(cut.tail, as_they_are, stage, features, heads=heads)


def _seconds(
    model: keras.Model,
    face_input: Callable[..., Any],
    stage: Stage,
    batch: np.ndarray,
    teachers: Teachers | None = None,
    heads: Sequence[Head] = (),
) -> float:
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    ones = np.ones(model.output_shape[-1], np.float32)
    labels = np.zeros((BATCH, len(ones)), np.float32) if heads else np.zeros(BATCH, np.int32)
    spec = tf.TensorSpec((None, *labels.shape[1:]), labels.dtype)
    steps = StageSteps(
        model, face_input, stage, ones, optimizer, batch.shape[1:], batch.dtype, teachers=teachers, labels=spec, heads=heads
    )
    draws = StageCrops(stage, BATCH, 0, (0, 0)).draws_of_epoch(0)
    return _best(lambda: steps.train(batch, draws, labels, stage.learning_rate))


def _best(step: Callable[[], Any]) -> float:
    """Seconds an image takes in the fastest of a few calls on a batch, after one that compiles."""
    step()
    times: list[float] = []
    while len(times) < STEPS and sum(times) < TIMING_SECONDS / 3:
        start = time.monotonic()
        step()
        times.append(time.monotonic() - start)
    return min(times) / BATCH


def describe(prepared: Prepared, model: keras.Model, folder: Path, say: Callable[[str], None]) -> None:
    """What a run would be: stages, parameters, disk and time.

    Args:
        prepared: the recipe with its data.
        model: the network that a run would start from; its weights change.
        folder: the run folder.
        say: takes lines for people.
    """
    recipe, info, roles = prepared.recipe, prepared.info, prepared.roles
    shape, heads = info["model"], heads_of(info)
    total = sum(math.prod(variable.shape) for variable in model.weights)
    say(f"{shape['name']}: {total:,} parameters, input {shape['input_shape']}, {info['precision']}")
    seconds = 0.0
    features = 0
    started = time.monotonic()
    untimed: list[str] = []
    for number, stage in enumerate(prepared.trained, 1):
        if stage.kind == "head":
            images = sum(len(index) for index in roles[stage.name].train.values())
            say(f"stage {stage.name}: the classifier alone, on {number_of(images, 'images')}; not timed, most often seconds")
            continue
        apply_rules(model, stage.rules, f"stage {stage.name!r}")
        trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        images = sum(len(index) for index in roles[stage.name].train.values())
        settings = info["preprocessing"]
        crops = StageCrops(stage, images, settings["resize"] - settings["crop"], (recipe.seed, number))
        planned = plan(model, stage, crops, sum(map(len, roles[stage.name].val.values())), folder)
        if time.monotonic() - started > TIMING_SECONDS:
            untimed.append(stage.name)
            this = 0.0
        elif planned.cut is None or planned.against:
            runs = [prepared.teachers[name] for name in stage.teachers]
            teachers = Teachers(runs, heads or info["labels"], model, model.dtype_policy.name) if runs else None
            this = seconds_per_image(model, settings, stage, teachers, heads) * images * stage.epochs
        else:
            once, each = seconds_with_features(planned.cut, settings, stage, heads)
            this = once * planned.crops + each * images * stage.epochs
            features = max(features, planned.bytes)
        seconds += this
        say(
            f"stage {stage.name}: {number_of(stage.epochs, 'epochs')} of "
            f"{number_of(math.ceil(images / stage.batch_size), 'steps')}, "
            f"{trainable:,} trainable parameters, {'not timed' if stage.name in untimed else f'about {duration(this)}'}"
        )
        if planned.told:
            say(f"  {planned.told}")
    # Features go with their stage. Per stage two checkpoints of weights and history and one best file, and the final weights.
    disk = 4 * total * (5 * len(recipe.stages) + 1) + features
    if untimed:
        say(f"timing stopped after {TIMING_SECONDS:.0f} s: the time below is without {', '.join(untimed)}")
    say(f"about {duration(seconds)} on this machine and up to {disk / 1e6:,.0f} MB in {folder}; nothing was written")
