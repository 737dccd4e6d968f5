"""A stage that several replicas train: what they cannot heed, what they wish for, what they must agree on after an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.errors import RunError, UsageError
from emotiw_keras.models.architecture import answers_to_noise, apart, same_twice
from emotiw_keras.training.feeds import Trained
from emotiw_keras.training.interrupts import Flag
from emotiw_keras.training.own_data import Batches
from emotiw_keras.training.replicas import Replicas, fingerprint
from emotiw_keras.training.shared_step import SAVE, SharedSteps
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_state import StageState
from emotiw_keras.training.train_step import StageSteps, drawn_answers


def check_shared(stage: Stage, train: Trained | None, val: Trained | None, replicas: Replicas) -> None:
    """Refuse what several replicas cannot heed.

    Raises:
        UsageError: kept features; a dataset of batches for several workers; fewer images in a batch than replicas.
    """
    where = f"stage {stage.name!r}"
    if stage.cache_features is True:
        raise UsageError(
            f"{where} sets cache_features = true, which is for --strategy none (in Python None): features are kept on one disk"
        )
    batches = [each for each in (train, val) if isinstance(each, Batches)]
    if batches and replicas.workers > 1:
        raise UsageError(
            f"{where} is given {batches[0].kind} {batches[0].name}, of which workers cannot know that it is the "
            "same on all; give faces in files or arrays"
        )
    if not batches and stage.batch_size < replicas.count:
        raise UsageError(
            f"{where} has batch_size = {stage.batch_size} for {replicas.count} replicas; expected at least one image for each"
        )


def check_code(
    model: keras.Model, about: Mapping[str, Any], steps: StageSteps, labels: tf.TensorSpec, replicas: Replicas
) -> None:
    """See to it, once all workers have the chief's weights, that a network and a loss given in Python compute the same on all.

    Raises:
        UsageError: they answer a fixed noise otherwise than the chief's.
    """
    if replicas.workers == 1:
        return

    def losses() -> dict[str, Any]:
        found = steps.loss(*drawn_answers(labels, int(model.output_shape[-1]))).numpy()
        return {"probabilities": found.tolist(), "within": 1e-3 * (1 + float(np.abs(found).max()))}

    mine = {f"the network {model.name!r}": same_twice(partial(answers_to_noise, model, about)), "the loss": same_twice(losses)}
    chiefs = replicas.from_chief(mine)
    with replicas.together():
        for what, its in mine.items():
            if difference := apart(chiefs.get(what), its):
                raise UsageError(
                    f"{what} answers a fixed noise otherwise than that of worker 0, by up to {difference:.3g}, with the same "
                    "weights: their code differs; give every worker the same"
                )


def wish(steps: SharedSteps, flag: Flag, due: bool) -> None:
    """Tell the other workers, with the next step, of a signal that has come, or that a checkpoint is due."""
    if flag.number is not None:
        steps.wishes.add(flag.number)
    if due:
        steps.wishes.add(SAVE)


def agree(replicas: Replicas, model: keras.Model, state: StageState, flag: Flag, where: str) -> int | None:
    """After an epoch: every worker holds the same. The signal that has come to one of them, if any.

    Raises:
        RunError: they differ.
    """
    held = {
        "weights": fingerprint(model.variables),
        "rates": (state.rate_factor, state.rate_at_zero),
        "stopped": state.stopped,
        "best epoch": state.best.get("epoch"),
    }
    replicas.agree(
        held, f"{where}: the weights or the state", RunError, "go on from the newest checkpoint on one machine, and "
        "look for a callback or a device that does not compute the same everywhere"
    )  # fmt: skip
    said = [int(number) for number in replicas.exchange(str(flag.number or 0).encode())]
    return max(said) or None
