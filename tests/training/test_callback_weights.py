"""Weights that callbacks set: kept as by `model.fit` where the last are kept, and named where others are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras import Run, Stage, StagedFineTuner

from .test_as_keras import batches, losses, network
from .test_keras_objects import SPARSE, assert_weights


class Average(keras.callbacks.Callback):
    """Stochastic weight averaging."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.sums = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights = self.model.get_weights()
        self.sums = [one + other for one, other in zip(self.sums or [0] * len(weights), weights, strict=True)]

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights([each / self.params["epochs"] for each in self.sums])


class Clips(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        kernel = self.model.get_layer("out").kernel
        kernel.assign(np.clip(kernel.numpy(), -0.05, 0.05))


class Halves(keras.callbacks.Callback):
    fails = False

    def on_train_end(self, logs: Any = None) -> None:
        for weight in self.model.weights:
            weight.assign(weight * 0.5)
        if Halves.fails:
            raise KeyboardInterrupt


class Cut(keras.callbacks.Callback):
    """Ends a training as a kill does, where `at` is the epoch."""

    at = -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == Cut.at:
            raise KeyboardInterrupt


def fit(
    model: keras.Model, folder: Path, *callbacks: keras.callbacks.Callback, val: bool = False, stages: int = 1, **optimizer: Any
) -> list[str]:
    """Train `model`; what is said of weights that callbacks set."""
    said: list[str] = []
    chosen: dict[str, Any] = {"val": ("d:val",), "monitor": "val_loss"} if val else {}
    given = [
        Stage(
            f"s{number}", train=("d:train",), epochs=3, loss=SPARSE(), optimizer=keras.optimizers.SGD(0.5, **optimizer),
            callbacks=callbacks, **chosen,
        )
        for number in range(stages)
    ]  # fmt: skip
    StagedFineTuner(model, given, data={"d": {"train": batches(), "val": batches()}}, run_dir=folder, say=said.append).fit()
    return [line for line in said if "a callback has set" in line]


EMA = {"use_ema": True, "ema_momentum": 0.5}


@pytest.mark.parametrize(
    ("make", "optimizer"), [(Average, {}), (Clips, {}), (Halves, {}), (Halves, EMA)], ids=["swa", "clips", "halves", "ema"]
)
def test_weights_that_callbacks_leave_are_those_of_fit(
    make: Callable[[], Any], optimizer: dict[str, Any], tmp_path: Path
) -> None:
    """Of one stage, and of the next, which begins with them."""
    plain, ours, opened = network(), network(), network()
    told: list[float] = []
    for _ in range(2):
        plain.compile(keras.optimizers.SGD(0.5, **optimizer), SPARSE())
        told += plain.fit(batches(), epochs=3, verbose=0, callbacks=[make()]).history["loss"]
    assert not fit(ours, tmp_path / "run", make(), stages=2, **optimizer)
    np.testing.assert_allclose(losses(tmp_path / "run"), told, rtol=2e-5)
    assert_weights(plain, ours)
    assert_weights(plain, Run.open(tmp_path / "run", model=opened).build())


@pytest.mark.parametrize(
    ("make", "val", "optimizer", "words"),
    [
        (Clips, True, {}, "out/kernel in on_epoch_end, which the stage does not keep"),
        (Halves, True, {}, "hidden/kernel, hidden/bias, out/kernel and 1 more in on_train_end, which the stage does not keep"),
        (Halves, True, EMA, "in on_train_end, which the stage does not keep"),
        (Clips, False, EMA, "out/kernel in on_epoch_end or in validation, where the network holds moving averages"),
    ],
)
def test_weights_that_are_not_kept_are_named_once(
    make: Callable[[], Any], val: bool, optimizer: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (told,) = fit(network(), tmp_path / "run", make(), val=val, **optimizer)
    assert words in told and "\n" not in told


def test_callbacks_that_set_no_weights_or_those_that_are_kept_are_not_named(tmp_path: Path) -> None:
    best = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    looks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: looks.model.predict(np.zeros((2, 6)), verbose=0))
    assert not fit(network(), tmp_path / "run", best, looks, val=True)


@pytest.mark.parametrize("val", [False, True])
@pytest.mark.parametrize("make", [Average, Clips])
def test_cut_short_it_ends_in_the_same_bits(make: Callable[[], Any], val: bool, tmp_path: Path, monkeypatch: Any) -> None:
    whole, cut = network(), network()
    fit(whole, tmp_path / "whole", make(), Cut(), val=val)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Cut, "at", 1)
        fit(network(), tmp_path / "cut", make(), Cut(), val=val)
    fit(cut, tmp_path / "cut", make(), Cut(), val=val)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for one, other in zip(whole.get_weights(), cut.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cut_short_at_the_end_what_a_callback_does_there_is_done_once(tmp_path: Path, monkeypatch: Any) -> None:
    whole, cut = network(), network()
    fit(whole, tmp_path / "whole", Halves())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Halves, "fails", True)
        fit(network(), tmp_path / "cut", Halves())
    fit(cut, tmp_path / "cut", Halves())
    assert_weights(whole, cut)
