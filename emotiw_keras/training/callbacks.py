"""Callbacks of Keras around the epochs of a stage."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from emotiw_keras.errors import UsageError

UPWARDS = ("accuracy", "macro_f1")
"""Scores of every stage of which more is better."""
FOUND_ANEW = ("append_header",)
"""What a callback of Keras finds out each time a training begins: whether the file of a `CSVLogger` lacks its first line."""


def _training(model: keras.Model) -> frozenset[str]:
    return frozenset(variable.path for variable in model.trainable_variables)


class Callbacks:
    """`keras.callbacks.CallbackList` for one stage.

    A callback sees a stage as one training: `on_train_begin`, the stage's epochs numbered from 0, `on_train_end`. It may set
    `model.stop_training`, which ends the epoch after that step, and the rate on `model.optimizer`: by what factor it differs
    from the schedule holds from then on. The plain values that a callback has gathered (numbers, texts: how long
    `EarlyStopping` or `ReduceLROnPlateau` has waited, and for what) go into checkpoints and come back.

    Args:
        callbacks: in order.
        model: the network, whose `optimizer` they see.
        optimizer: of the stage.
        epochs, steps: of the stage, and in an epoch.
        metrics: of the stage: whether more is better is known of them and of accuracies.
        state: what `state` gave when an interrupted stage was saved; empty for a new stage.

    Attributes:
        any: whether there are callbacks.
        began_at: the rate that one of them set at the beginning of the stage, or None; one that goes on has its own.

    Raises:
        UsageError: one of them freezes or frees layers.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        epochs: int,
        steps: int,
        metrics: Sequence[keras.metrics.Metric],
        state: Sequence[Mapping[str, Any]],
    ) -> None:
        self.any, self.began_at = bool(callbacks), None
        self._callbacks, self._model, self._optimizer = tuple(callbacks), model, optimizer
        if not self.any:
            return
        model.optimizer, model.stop_training = optimizer, False
        _set_modes(callbacks, metrics)
        self._list = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs, steps=steps, verbose=0)
        before = float(optimizer.learning_rate)
        self._trains = _training(model)
        self._list.on_train_begin()
        self._check_trains("on_train_begin")
        if float(optimizer.learning_rate) != before:
            self.began_at = float(optimizer.learning_rate)
        for callback, values in zip(callbacks, state, strict=False):
            vars(callback).update({name: value for name, value in values.items() if name not in FOUND_ANEW})

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked to stop."""
        return self.any and bool(self._model.stop_training)

    def state(self) -> list[dict[str, Any]]:
        """The plain values of each callback."""
        return [
            {
                name: value
                for name, value in vars(callback).items()
                if isinstance(value, bool | int | float | str) and name not in inspect.signature(type(callback)).parameters
            }
            for callback in self._callbacks
        ]

    def _factor(self, scheduled: float, factor: float) -> float:
        """What the rate is now, as a multiple of what the schedule says; `factor` where no callback has changed it."""
        rate, now = scheduled * factor, float(self._optimizer.learning_rate)
        if not scheduled or abs(now - rate) <= 1e-6 * max(now, rate):
            return factor
        return now / scheduled

    def tell(self, moment: str, number: int, scheduled: float, factor: float, *logs: Mapping[str, float]) -> float:
        """Call one method of all, before or after a step whose rate is `factor` times the scheduled one; the factor after it.

        Args:
            moment: such as "on_epoch_begin".
            number: of the epoch or the step in it, from 0.
            scheduled: the schedule's rate.
            factor: by which callbacks have changed it so far.
            *logs: what the method is given besides.
        """
        if not self.any:
            return factor
        self._optimizer.learning_rate.assign(scheduled * factor)
        getattr(self._list, moment)(number, *map(dict, logs))
        if "epoch" in moment:
            self._check_trains(moment)
        return self._factor(scheduled, factor)

    def _check_trains(self, moment: str) -> None:
        """UsageError where a callback has changed what trains: the step is compiled for what trained at the stage's begin."""
        changed = sorted(_training(self._model) ^ self._trains)
        if changed:
            raise UsageError(
                f"a callback has frozen or freed {', '.join(changed)} in {moment}, which a stage cannot heed once it has "
                "begun; give two stages with rules of their own"
            )

    def test_begin(self) -> None:
        """Before validation."""
        if self.any:
            self._list.on_test_begin()

    def of_test(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of validation, each between `on_test_batch_begin` and `on_test_batch_end`."""
        for number, batch in enumerate(batches):
            self._list.on_test_batch_begin(number)
            yield batch
            self._list.on_test_batch_end(number)

    def test_end(self, scores: Mapping[str, float]) -> None:
        """After validation, with its scores."""
        if self.any:
            self._list.on_test_end({name.removeprefix("val_"): value for name, value in scores.items()})

    def end(self) -> None:
        """After the stage."""
        if self.any:
            self._list.on_train_end()


def _set_modes(callbacks: Sequence[keras.callbacks.Callback], metrics: Sequence[keras.metrics.Metric]) -> None:
    """Tell callbacks that wait for a score whether more of it is better: Keras would ask a compiled network for it."""
    upwards = dict.fromkeys(UPWARDS, "max") | {
        metric.name: "max" if metric._direction == "up" else "min" for metric in metrics if hasattr(metric, "_direction")
    }
    for callback in callbacks:
        name = str(getattr(callback, "monitor", "")).removeprefix("val_")
        if getattr(callback, "mode", "") == "auto" and name in upwards:
            callback.mode = upwards[name]
