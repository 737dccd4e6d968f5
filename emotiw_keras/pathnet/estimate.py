"""What a search would be, for `--dry-run`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.pathnet.bank import Bank, check_parent
from emotiw_keras.pathnet.evolution import path_of
from emotiw_keras.pathnet.path_step import PathSteps
from emotiw_keras.pathnet.search import PathNetSettings
from emotiw_keras.text import number_of
from emotiw_keras.training.epoch_progress import duration
from emotiw_keras.training.start import start_tensorflow

if TYPE_CHECKING:
    from emotiw_keras.training.prepared_data import Prepared

STEPS = 5


def describe(prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
    """What a search would be: modules, parameters, time by a few steps, disk."""
    recipe, info = prepared.recipe, prepared.info
    start_tensorflow()
    check_parent(prepared)
    if prepared.parent is not None:
        prepared.parent.build()  # a damaged file is told now
    settings: PathNetSettings = recipe.tables["pathnet"]
    bank = Bank(settings, recipe.model.width, info["model"]["input_shape"])
    face_input = prepared.face_input()
    steps = PathSteps(bank, face_input, "bfloat16" if info["precision"] == "mixed_bfloat16" else "float32")
    path = path_of(np.tile(np.arange(settings.active), (settings.layers, 1)))
    modules = sum(int(np.prod(kernel.shape)) for kernel in (*bank.kernels, *bank.biases))
    total = 0.0
    for each in recipe.stages:
        classes = len(prepared.labels[each.name])
        bank.initialise((0,), bank.frozen)
        bank.new_readout(classes, (0,))
        images = np.zeros((STEPS, each.batch_size, 48, 48, 1), np.uint8)
        crops, labels = np.zeros((STEPS, each.batch_size, 3), np.int32), np.zeros((STEPS, each.batch_size), np.int32)
        steps.trial(images, crops, labels, path, each.learning_rate)
        start = time.monotonic()
        steps.trial(images, crops, labels, path, each.learning_rate)
        step = (time.monotonic() - start) / STEPS
        generation = step * each.minibatches * each.tournament
        count = sum(len(index) for index in prepared.roles[each.name].train.values())
        final = step * each.final_epochs * count / each.batch_size
        total += generation * each.generations + final
        say(
            f"search {each.name} ({each.start}): up to "
            f"{number_of(each.generations, 'generations')} of about {generation:.2f} s, "
            f"{each.tournament * each.minibatches:,} minibatches of {each.batch_size} each"
        )
    readout = bank.units * classes + classes
    say(
        f"pathnet: {settings.layers} x {settings.modules} modules of {modules:,} parameters in all, a path has up to "
        f"{modules * settings.active // settings.modules:,} of them and {readout:,} in its readout; input "
        f"{info['model']['input_shape']}, {info['precision']}"
    )
    disk = 4 * (modules + readout) * 4 * len(recipe.stages)
    say(f"about {duration(total)} on this machine at most and up to {disk / 1e6:,.0f} MB in {folder}; nothing was written")
