"""Callbacks of Keras around the epochs of a stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from emotiw_keras.errors import UsageError
from emotiw_keras.talk import Notice
from emotiw_keras.training.callback_state import Entries, Gathered
from emotiw_keras.training.stage_state import StageState

UPWARDS = ("accuracy", "macro_f1")
"""Scores of every stage of which more is better."""


def _training(model: keras.Model) -> frozenset[str]:
    return frozenset(variable.path for variable in model.trainable_variables)


class Callbacks:
    """`keras.callbacks.CallbackList` for one stage.

    A callback sees a stage as one training: `on_train_begin`, the stage's epochs numbered from 0, `on_train_end`. It may set
    `model.stop_training`, which ends the epoch after that step, and the rate on `model.optimizer` (`StageState.heed`). What it
    has gathered goes into checkpoints and comes back: the attributes that have changed since `on_train_begin`. Those that have
    not are settings, or what `on_train_begin` makes of settings, and are a new script's own.

    Args:
        callbacks: in order.
        model: the network, whose `optimizer` they see.
        optimizer: of the stage.
        epochs, steps: of the stage, and in an epoch.
        metrics: of the stage: whether more is better is known of them and of accuracies.
        state: what `state` gave when an interrupted stage was saved; empty for a new stage.
        say: takes lines on what does not come back.

    Attributes:
        any: whether there are callbacks.
        own: whether there are any of a user's own code; those of Keras that a stage takes set no weights but those it keeps.
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
        state: Sequence[Entries],
        say: Callable[[str], None],
    ) -> None:
        self.any, self.began_at = bool(callbacks), None
        self.own = any(_runs_own_code(callback) for callback in callbacks)
        self._model, self._optimizer = model, optimizer
        if not self.any:
            return
        saved = [*model.variables, *optimizer.variables, *(variable for metric in metrics for variable in metric.variables)]
        self._before = Gathered(callbacks, saved)
        model.optimizer, model.stop_training = optimizer, False
        _set_modes(callbacks, metrics)
        self._list = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs, steps=steps, verbose=0)
        # Keras calls those that are `async_safe` in a thread: a checkpoint may find them behind, or halfway
        self._list._async_train = self._list._async_test = False
        before = float(optimizer.learning_rate)
        self._trains = _training(model)
        self._list.on_train_begin()
        self._check_trains("on_train_begin")
        if float(optimizer.learning_rate) != before:
            self.began_at = float(optimizer.learning_rate)
        self._gathered = Gathered(callbacks, saved)
        for _, line in self._gathered.restore(state):
            say(Notice(line))

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked to stop."""
        return self.any and bool(self._model.stop_training)

    def state(self) -> list[Entries]:
        """What has changed since the beginning of the stage, for an interrupted one that goes on."""
        return self._gathered.state() if self.any else []

    def left(self) -> list[Entries]:
        """What has changed since before the stage, for the next one."""
        return self._before.state() if self.any else []

    def tell(self, moment: str, number: int, scheduled: float, state: StageState, *logs: Mapping[str, float]) -> None:
        """Call one method of all, before or after a step; `state` takes the rate that they set.

        Args:
            moment: such as "on_epoch_begin".
            number: of the epoch or the step in it, from 0.
            scheduled: the schedule's rate.
            state: of the stage.
            *logs: what the method is given besides.
        """
        if not self.any:
            return
        self._optimizer.learning_rate.assign(state.rate_at(scheduled))
        getattr(self._list, moment)(number, *map(dict, logs))
        if "epoch" in moment:
            self._check_trains(moment)
        state.heed(scheduled, float(self._optimizer.learning_rate))

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

    def of_test(self, batches: Iterable[Any], so_far: Callable[[], Mapping[str, float]]) -> Iterator[Any]:
        """The batches of validation, each between `on_test_batch_begin` and `on_test_batch_end`, which is given the scores
        `so_far`."""
        for number, batch in enumerate(batches):
            self._list.on_test_batch_begin(number)
            yield batch
            self._list.on_test_batch_end(number, dict(so_far()))

    def test_end(self, scores: Mapping[str, float]) -> None:
        """After validation, with its scores."""
        if self.any:
            self._list.on_test_end({name.removeprefix("val_"): value for name, value in scores.items()})

    def end(self, logs: Mapping[str, float]) -> None:
        """After the stage, with what was told after its last epoch."""
        if self.any:
            self._list.on_train_end(dict(logs))


def _runs_own_code(callback: keras.callbacks.Callback) -> bool:
    by_keras = type(callback).__module__.partition(".")[0] == "keras"
    return not by_keras or isinstance(callback, keras.callbacks.LambdaCallback)


def _set_modes(callbacks: Sequence[keras.callbacks.Callback], metrics: Sequence[keras.metrics.Metric]) -> None:
    """Tell callbacks that wait for a score whether more of it is better: Keras would ask a compiled network for it."""
    upwards = dict.fromkeys(UPWARDS, "max") | {
        metric.name: "max" if metric._direction == "up" else "min" for metric in metrics if hasattr(metric, "_direction")
    }
    for callback in callbacks:
        name = str(getattr(callback, "monitor", "")).removeprefix("val_")
        name = name if name in upwards else re.sub(r"\.\d+$", "", name)  # one number of several
        if getattr(callback, "mode", "") == "auto" and name in upwards:
            callback.mode = upwards[name]
