"""What a checkpoint of a stage holds, and which of them are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from emotiw_keras.training import checkpoints
from emotiw_keras.training.averages import Averages
from emotiw_keras.training.stage_state import StageState, arrays

KEPT = 2


def checkpoint_of(
    folder: Path,
    state: StageState,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    averages: Averages | None,
    metrics: Sequence[keras.metrics.Metric],
    best: Mapping[str, np.ndarray] | None,
    at_best: bool,
) -> Callable[[], None]:
    """What writes a checkpoint of this moment, and removes those that are not needed any more. It holds copies, which later
    steps do not change.

    Args:
        folder: of the stage.
        state: where the stage stands; the name of the best epoch's file goes into it once that is written.
        model, optimizer, averages, metrics: whose variables are kept.
        best: the weights of the best epoch, where this is it.
        at_best: whether the network holds these; else moving averages, or what callbacks have made of them.
    """
    now, live = copy.deepcopy(state), state.best
    held = arrays("optimizer", optimizer.variables)
    apart = best is not None and at_best
    if not apart:
        held |= arrays("model", model.variables)
    if averages is not None:
        held |= arrays("average", averages.variables)
    held |= arrays("metric", [variable for metric in metrics for variable in metric.variables])

    def write() -> None:
        meta: dict[str, Any] = {"state": vars(now)}
        if best is not None:
            name = checkpoints.save(folder, f"best-e{now.epoch:04d}", best, {}).name
            now.best["file"] = live["file"] = name
            if apart:
                meta[checkpoints.REST] = name
        checkpoints.save(folder, f"e{now.epoch:04d}-s{now.step:06d}", held, meta)
        kept = checkpoints.positions(folder)[:KEPT]
        referenced = {now.best.get("file", ""), now.start}
        if len(kept) > 1 and len(list(folder.glob("best-*.npz"))) > 1:
            referenced.add(checkpoints.best_of(kept[1][2]))
        checkpoints.prune(folder, KEPT, referenced)

    return write
