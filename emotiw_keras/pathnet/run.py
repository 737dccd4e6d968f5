"""From prepared data to a finished search: what `fit` calls for a recipe with `[[search]]`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.device import FaceInput
from emotiw_keras.errors import ModelError
from emotiw_keras.pathnet.bank import Bank
from emotiw_keras.pathnet.evolution import path_of
from emotiw_keras.pathnet.loop import SearchLoop
from emotiw_keras.pathnet.progress import Progress
from emotiw_keras.pathnet.settings import PathNetSettings
from emotiw_keras.pathnet.steps import PathSteps
from emotiw_keras.runs import Run
from emotiw_keras.training.progress import Progress as StageProgress
from emotiw_keras.training.progress import duration
from emotiw_keras.training.start import start_tensorflow

if TYPE_CHECKING:
    from emotiw_keras.training.prepared import Prepared

STEPS = 5


def search(
    prepared: Prepared,
    folder: File,
    info: dict[str, Any] | Callable[[], dict[str, Any]],
    pools: Callable[[Mapping[str, np.ndarray]], Pool | None],
    face_input: FaceInput,
    say: Callable[[str], None],
    progress: StageProgress | None,
) -> Run:
    """Run the searches of a prepared recipe.

    Args:
        prepared: from `prepared.prepare`.
        folder: the run folder.
        info: run.json's content, or what makes the run folder and gives it once the networks can be built.
        pools: images by data set and positions.
        face_input: bytes to network input.
        say: takes lines for people.
        progress: whose terminal shows generations under way.
    """
    recipe = prepared.recipe
    _check_parent(prepared)
    train: dict[str, Pool] = {}
    for each in recipe.searches:
        images = pools(prepared.roles[each.name].train)
        assert images is not None, each.name  # `check_roles` has refused it
        train[each.name] = images
    bank = Bank(recipe.pathnet, recipe.model.width, prepared.info["model"]["input_shape"])
    if callable(info):
        info = info()
        if info["finished"]:  # by another process meanwhile
            return Run.open(folder)
    loop = SearchLoop(
        bank,
        recipe.searches,
        train=train,
        val={each.name: pools(prepared.roles[each.name].val) for each in recipe.searches},
        classes={each.name: len(prepared.labels[each.name]) for each in recipe.searches},
        face_input=face_input,
        run_dir=folder,
        info=info,
        parent=prepared.parent,
        say=say,
        progress=Progress(None if progress is None else progress.terminal),
    )
    return loop.fit()


def _check_parent(prepared: Prepared) -> None:
    """The run that gives the modules must hold modules of this recipe's sizes."""
    recipe, parent = prepared.recipe, prepared.parent
    if parent is None:
        return
    options = parent.info["model"].get("options")
    if parent.model_name != "pathnet" or options is None:
        raise ModelError(f"--weights {recipe.model.weights} holds {parent.model_name}; a search starts from a run of a search")
    wanted = {key: getattr(recipe.pathnet, key) for key in ("layers", "modules", "active", "filters", "combine", "reduce")}
    found = {**options, "width": parent.info["model"]["width"]}
    for key, value in {**wanted, "width": recipe.model.width}.items():
        if found.get(key) != value:
            table = "model" if key == "width" else "pathnet"
            raise ModelError(
                f"--weights {recipe.model.weights} was made with {key} = {found.get(key)!r}, this recipe has {value!r}; "
                f"add --set {table}.{key}={found.get(key)}"
            )


def describe(prepared: Prepared, folder: File, say: Callable[[str], None]) -> None:
    """What a search would be: modules, parameters, time by a few steps, disk."""
    recipe, info = prepared.recipe, prepared.info
    start_tensorflow()
    _check_parent(prepared)
    settings: PathNetSettings = recipe.pathnet
    bank = Bank(settings, recipe.model.width, info["model"]["input_shape"])
    face_input = FaceInput.from_settings({**info["preprocessing"], "mean_image": None})
    steps = PathSteps(bank, face_input, "bfloat16" if info["precision"] == "mixed_bfloat16" else "float32")
    path = path_of(np.tile(np.arange(settings.active), (settings.layers, 1)))
    modules = sum(int(np.prod(kernel.shape)) for kernel in (*bank.kernels, *bank.biases))
    total = 0.0
    for each in recipe.searches:
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
            f"search {each.name} ({each.start}): up to {each.generations:,} generations of about {generation:.2f} s, "
            f"{each.tournament * each.minibatches:,} minibatches of {each.batch_size} each"
        )
    readout = bank.units * classes + classes
    say(
        f"pathnet: {settings.layers} x {settings.modules} modules of {modules:,} parameters in all, a path has up to "
        f"{modules * settings.active // settings.modules:,} of them and {readout:,} in its readout; input "
        f"{info['model']['input_shape']}, {info['precision']}"
    )
    disk = 4 * (modules + readout) * 4 * len(recipe.searches)
    say(f"about {duration(total)} on this machine at most and up to {disk / 1e6:,.0f} MB in {folder}; nothing was written")
