"""Where a stage stands, and its way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from emotiw_keras.errors import RunError
from emotiw_keras.training.checkpoints import Checkpoint

_NEW = {"missing": True}
"""Of fields that checkpoints of an earlier version lack."""


@dataclass
class StageState:
    """Where a stage stands: all of it goes into a checkpoint.

    Attributes:
        epoch: epochs done.
        step: steps done in the epoch under way.
        loss, right: sums over its images so far.
        seconds: it has taken so far.
        waited: epochs since the best.
        features: whether features of the frozen start are kept.
        rate: learning rate of the first step of the epoch under way.
        rate_factor: by which callbacks have changed the schedule's rates.
        rate_at_zero: the rate that callbacks have set where the schedule says 0, of which no factor makes another.
        stopped: whether a callback has stopped the stage.
        callbacks: what they have gathered (`callback_state`).
        best: epoch, value and file of the best epoch so far.
        rows: of history.csv.
        before: hashes of the weights at the start.
        start: the file that holds the start, where the weights are pulled there; "" elsewhere.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    right: float = 0
    seconds: float = 0.0
    waited: int = 0
    features: bool = False
    rate: float = field(default=0.0, metadata=_NEW)
    rate_factor: float = 1.0
    stopped: bool = False
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    start: str = ""
    rate_at_zero: float = field(default=0.0, metadata=_NEW)

    def rate_at(self, scheduled: float) -> float:
        """The rate of a step of which the schedule says `scheduled`."""
        return scheduled * self.rate_factor if scheduled else self.rate_at_zero

    def heed(self, scheduled: float, now: float) -> None:
        """Keep the rate that callbacks have set, if it is another: by what factor it differs from the schedule's holds from
        then on; where the schedule says 0, it holds itself for as long as that is so."""
        if scheduled:
            self.rate_at_zero = 0.0
        rate = self.rate_at(scheduled)
        if abs(now - rate) <= 1e-6 * max(now, rate):
            return
        if scheduled:
            self.rate_factor = now / scheduled
        else:
            self.rate_at_zero = now


def arrays(kind: str, variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    """The values of variables under names for a checkpoint."""
    return {f"{kind}/{number:04d}/{variable.path}": _plain(variable.numpy()) for number, variable in enumerate(variables)}


def changed(before: Mapping[str, np.ndarray], variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    """Of variables of which `arrays` gave `before` those that hold something else now."""
    pairs = zip(before.values(), variables, strict=True)
    return [variable for value, variable in pairs if value.tobytes() != _plain(variable.numpy()).tobytes()]


def _plain(value: np.ndarray) -> np.ndarray:
    """A type that NumPy's files know: they have no bfloat16, all values of which float32 has."""
    return value.astype(np.float32) if value.dtype.kind == "V" else value


def restore(kind: str, variables: Sequence[keras.Variable], checkpoint: Checkpoint) -> None:
    """Assign every variable from a checkpoint, by order and shape; nothing may be left on either side.

    Raises:
        RunError: they do not fit.
    """
    stored = [value for name, value in sorted(checkpoint.arrays.items()) if name.startswith(f"{kind}/")]
    fits = len(stored) == len(variables) and all(
        tuple(variable.shape) == value.shape for variable, value in zip(variables, stored, strict=True)
    )
    if not fits:
        raise RunError(
            f"{checkpoint.path} holds {len(stored)} {kind} arrays that do not fit the {len(variables)} of this run; "
            "begin anew with --restart (the old run is kept)"
        )
    for variable, value in zip(variables, stored, strict=True):
        variable.assign(value)
