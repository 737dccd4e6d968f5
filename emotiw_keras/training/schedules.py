"""The learning rate of each step of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable

from emotiw_keras.training.stage import Stage

Rates = Callable[[int], float]
"""Step of the stage, from 0 -> learning rate."""


def learning_rates(stage: Stage, steps_per_epoch: int) -> Rates:
    """The learning rate of a stage by step.

    Args:
        stage: its `schedule`, `learning_rate`, `warmup_steps` and `optimizer` count: a Keras schedule first, then what a Keras
            optimizer brings, then the words.
        steps_per_epoch: updates in an epoch.

    Example:
        >>> rates = learning_rates(Stage("fer", train=("fer:train",), learning_rate=0.1, step_epochs=2), steps_per_epoch=10)
        >>> [round(rates(step), 4) for step in (0, 19, 20, 40)]
        [0.1, 0.1, 0.01, 0.001]
    """
    own = None if isinstance(stage.optimizer, str) else rate_of(stage.optimizer)
    schedule = own if isinstance(stage.schedule, str) else stage.schedule
    if isinstance(schedule, float):
        return lambda step: schedule
    if schedule is not None:
        return lambda step: float(schedule(step))

    def rate(step: int) -> float:
        value = stage.learning_rate
        if stage.schedule == "step":
            value *= stage.step_factor ** (step // steps_per_epoch // stage.step_epochs)
        elif stage.schedule == "cosine":
            value *= 0.5 * (1 + math.cos(math.pi * step / (stage.epochs * steps_per_epoch)))
        if step < stage.warmup_steps:
            value *= (step + 1) / stage.warmup_steps
        return value

    return rate


def rate_of(optimizer: object) -> float | Callable[[int], float]:
    """What a Keras optimizer says of its learning rate: a number, or a schedule."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:  # LossScaleOptimizer has none of its own
        return rate_of(inner)
    given = getattr(optimizer, "_learning_rate")  # noqa: B009 - the property evaluates a schedule
    return given if callable(given) and not hasattr(given, "assign") else float(optimizer.learning_rate)  # type: ignore[attr-defined]
