"""Losses, optimizers and callbacks of Keras in a stage, beside plain `model.fit`; folders of other networks; plain mistakes."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras import Run, Stage, StagedFineTuner
from emotiw_keras.errors import DataError, ModelError, RunError, UsageError
from emotiw_keras.models.architecture import architecture, connections, noise
from emotiw_keras.runs import read_info
from emotiw_keras.training import own_data
from emotiw_keras.training.feeds import validation_batches
from emotiw_keras.training.keras_objects import described
from emotiw_keras.training.run_writer import write_info

from .test_as_keras import Raises, X, Y, assert_same, batches, both, layers, losses, network

ROWS = np.eye(3, dtype=np.float32)[Y]


def of(x: Any, y: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


def trained(
    model: keras.Model, folder: Path, data: Any = None, tuner: dict[str, Any] | None = None, **stage: Any
) -> keras.Model:
    stages = [Stage("s", train=("d:train",), val=(), **{"epochs": 2, **stage})]
    data = {"d": {"train": batches() if data is None else data}}
    StagedFineTuner(model, stages, data=data, run_dir=folder, say=None).fit()
    return model


def assert_weights(one: keras.Model, other: keras.Model, same: bool = True) -> None:
    alike = [np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(one.get_weights(), other.get_weights(), strict=True)]
    assert all(alike) if same else not all(alike)


class Ordinal(keras.losses.Loss):
    """Of labels as numbers of the loss's own type, as Keras gives them."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.square(y_true / 2 - y_pred[:, 2])


class OfBatch(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_pred))


SPARSE = keras.losses.SparseCategoricalCrossentropy


class OfColumns(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.square(y_pred - 0.2)


class OfPairs(keras.losses.Loss):
    """As losses of ranking: a number for each pair of a batch."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.square(y_pred[:, :1] - keras.ops.transpose(y_pred[:, 1:2]))


LOSSES: dict[str, tuple[Callable[[], keras.losses.Loss], np.ndarray]] = {
    "sum": (lambda: SPARSE(reduction="sum"), Y),
    "none": (lambda: SPARSE(reduction="none"), Y),
    "own": (Ordinal, Y),
    "one of a batch": (OfBatch, Y),
    "one of a batch, summed": (lambda: OfBatch(reduction="sum"), Y),
    "Dice": (keras.losses.Dice, ROWS),
    "Tversky": (lambda: keras.losses.Tversky(axis=0), ROWS),
    "Circle": (keras.losses.Circle, Y),
    "columns": (OfColumns, Y),
    "columns, summed": (lambda: OfColumns(reduction="sum"), Y),
    "columns, none": (lambda: OfColumns(reduction="none"), Y),
    "pairs": (OfPairs, Y),
    "generalized": (keras.losses.CategoricalGeneralizedCrossEntropy, Y),
}


@pytest.mark.parametrize("regular", [False, True], ids=["", "regularised"])
@pytest.mark.parametrize(("loss", "labels"), LOSSES.values(), ids=LOSSES)
def test_losses_count_as_in_fit(loss: Callable[[], Any], labels: np.ndarray, regular: bool, tmp_path: Path) -> None:
    """Losses, validation and weights; the last batch is smaller."""
    if regular and loss().reduction == "none":
        pytest.skip("Keras cannot add a number to losses that are no number")

    def make() -> keras.Model:
        return network(kernel_regularizer=keras.regularizers.L2(0.1)) if regular else network()

    plain, ours = make(), make()
    plain.compile(keras.optimizers.SGD(0.01), loss())
    told = plain.fit(of(X[:56], labels[:56]), validation_data=(X, labels), batch_size=16, epochs=2, verbose=0).history
    stage = Stage("s", train=("d:train",), val=("v:val",), epochs=2, optimizer=keras.optimizers.SGD(0.01), loss=loss())
    data = {"d": {"train": of(X[:56], labels[:56])}, "v": {"val": of(X, labels)}}
    StagedFineTuner(ours, [stage], data=data, run_dir=tmp_path / "run", say=None).fit()
    assert_same(told, {"loss": losses(tmp_path / "run"), "val_loss": losses(tmp_path / "run", "val_loss")})
    last = trained(make(), tmp_path / "last", of(X[:56], labels[:56]), optimizer=keras.optimizers.SGD(0.01), loss=loss())
    assert_weights(plain, last)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_items_that_a_mask_leaves_out_do_not_count(reduction: str, tmp_path: Path) -> None:
    x = X.copy()
    x[::3] = 0

    def make() -> keras.Model:
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6,))
        return keras.Model(inputs, layers.Dense(3, "softmax")(layers.Masking()(inputs)))

    plain, ours = make(), make()
    plain.compile(keras.optimizers.SGD(0.05), SPARSE(reduction=reduction))
    told = plain.fit(of(x, Y), epochs=2, verbose=0).history
    trained(ours, tmp_path / "run", of(x, Y), optimizer=keras.optimizers.SGD(0.05), loss=SPARSE(reduction=reduction))
    np.testing.assert_allclose(losses(tmp_path / "run"), told["loss"], rtol=2e-5)
    assert_weights(plain, ours)


def test_one_number_of_a_batch_has_no_class_to_weigh(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image to weigh"):
        trained(network(), tmp_path / "run", (X, Y[:63].tolist() + [0]), loss=OfBatch(reduction="sum"), class_weight="balanced")

    with pytest.raises(UsageError, match="each of the 3 numbers that the loss gives an image"):
        loss = OfColumns(reduction="mean_with_sample_weight")
        trained(network(), tmp_path / "columns", (X, Y), loss=loss, class_weight="balanced")


@pytest.mark.parametrize("accumulate", [None, 2])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_class_weights_count_as_in_fit(reduction: str, accumulate: int | None, tmp_path: Path) -> None:
    """In batches that weigh otherwise each, the last a smaller one."""
    x, y = X[:60], np.where(Y[:60] == 2, 2, 0)
    y[:9] = 1
    order = np.random.Generator(np.random.PCG64((0, 1, 0, 0))).permutation(60)  # that of the first epoch
    plain, ours = network(), network()

    def settings() -> dict[str, Any]:
        optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=accumulate)
        return {"optimizer": optimizer, "loss": SPARSE(reduction=reduction)}

    plain.compile(**settings())
    weights = dict(enumerate(1 - np.bincount(y) / 60))
    told = plain.fit(x[order], y[order], batch_size=16, shuffle=False, verbose=0, class_weight=weights).history
    trained(ours, tmp_path / "run", (x, y), epochs=1, batch_size=16, class_weight="complement", **settings())
    np.testing.assert_allclose(losses(tmp_path / "run"), told["loss"], rtol=2e-5)
    assert_weights(plain, ours)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (lambda: keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou"), "iou"),
        (lambda: keras.metrics.OneHotMeanIoU(3, name="iou"), "iou"),
    ],
)
def test_metrics_take_the_labels_that_they_ask_for(metric: Callable[[], Any], name: str, tmp_path: Path) -> None:
    trained(network(), tmp_path / "run", (X, Y), metrics=(metric(),))
    assert all(0 < value < 1 for value in losses(tmp_path / "run", name))


AVERAGED = {
    "ema": {"use_ema": True, "ema_momentum": 0.5},
    "overwritten": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
}


@pytest.mark.parametrize("settings", AVERAGED.values(), ids=AVERAGED)
@pytest.mark.parametrize("wrap", [False, True], ids=["", "loss scale"])
def test_averages_of_the_optimizer_are_the_result(settings: dict[str, Any], wrap: bool, tmp_path: Path) -> None:
    def optimizer() -> Any:
        plain = keras.optimizers.SGD(0.5, **settings)
        return keras.optimizers.LossScaleOptimizer(plain, initial_scale=1.0) if wrap else plain

    plain, loss = network(), SPARSE
    plain.compile(optimizer(), loss())
    told = plain.fit(batches(), epochs=3, verbose=0).history
    ours = trained(network(), tmp_path / "run", optimizer=optimizer(), loss=loss(), epochs=3)
    np.testing.assert_allclose(losses(tmp_path / "run"), told["loss"], rtol=2e-5)
    assert_weights(plain, ours)
    without = trained(network(), tmp_path / "without", optimizer=keras.optimizers.SGD(0.5), loss=loss(), epochs=3)
    assert_weights(ours, without, same=False)


def test_averages_are_what_is_scored_as_by_the_callback_of_keras(tmp_path: Path) -> None:
    def optimizer() -> Any:
        return keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)

    def swap() -> list[Any]:
        return [keras.callbacks.SwapEMAWeights()]

    assert_same(*both(tmp_path / "run", optimizer=optimizer, callbacks=swap, epochs=3))
    with pytest.raises(UsageError, match="use_ema=True"):
        trained(network(), tmp_path / "none", optimizer="adam", callbacks=(keras.callbacks.SwapEMAWeights(),))
    with pytest.raises(UsageError, match="average_decay"):
        Stage("s", train=("d:train",), optimizer=optimizer(), average_decay=0.9)


@pytest.mark.parametrize("frequency", ["epoch", 2])
def test_a_callback_that_loads_weights_spoils_no_run_that_goes_on(
    frequency: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(folder: str) -> keras.Model:
        backup = keras.callbacks.BackupAndRestore(tmp_path / f"backup-{folder}", save_freq=frequency)
        return trained(network(), tmp_path / folder, epochs=4, learning_rate=0.1, callbacks=(backup, Raises()))

    whole = fit("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Raises, "asked", True)
        fit("cut")
    assert_weights(whole, fit("cut"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_compiled_network_has_its_own_optimizer_again(tmp_path: Path) -> None:
    model = network()
    model.compile(keras.optimizers.SGD(0.0), SPARSE())
    given, alone = model.optimizer, trained(network(), tmp_path / "alone")
    trained(model, tmp_path / "run", optimizer=keras.optimizers.SGD(0.5), callbacks=(keras.callbacks.LambdaCallback(),))
    assert model.optimizer is given and float(given.learning_rate) == 0.0
    size = [(tmp_path / name / "model.weights.h5").stat().st_size for name in ("alone", "run")]
    assert size[0] == size[1] and alone, "no optimizer among the weights"
    before = model.get_weights()
    model.fit(batches(), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not hasattr(trained(network(), tmp_path / "b", callbacks=(keras.callbacks.LambdaCallback(),)), "stop_training")


class Unused(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.out, self.aside = layers.Dense(3, "softmax"), layers.Dense(4)

    def call(self, x: Any) -> Any:
        self.aside(x)
        return self.out(x)


def unused() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    return keras.Model(x, Unused()(x))


@pytest.mark.parametrize(
    "optimizer", [lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1), lambda: "adam", lambda: "caffe_sgd"]
)
def test_weights_that_the_loss_does_not_reach_are_passed_over(optimizer: Callable[[], Any], tmp_path: Path) -> None:
    said: list[str] = []
    model = unused()
    stages = [Stage("s", train=("d:train",), val=(), epochs=1, optimizer=optimizer())]
    StagedFineTuner(model, stages, data={"d": {"train": batches()}}, run_dir=tmp_path / "told", say=said.append).fit()
    assert any("did not move" in line and "dense" in line for line in said)
    if not isinstance(optimizer(), str):
        assert_same(*both(tmp_path / "both", unused, optimizer))


def test_a_network_nothing_of_which_learns_is_refused(tmp_path: Path) -> None:
    x = keras.Input((6,))
    model = keras.Model(x, keras.ops.softmax(keras.ops.stop_gradient(layers.Dense(3)(x))))
    with pytest.raises(UsageError, match="nothing to learn"):
        trained(model, tmp_path / "run")


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_a_network_of_any_type_of_numbers_is_trained_and_kept(policy: str, tmp_path: Path) -> None:
    x = keras.Input((6,))
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(16, "relu", dtype=policy)(x)
    model = keras.Model(x, layers.Dense(3, "softmax", dtype=policy)(hidden), name="typed")
    trained(model, tmp_path / "run", learning_rate=0.1)
    again = trained(model, tmp_path / "run", learning_rate=0.1)
    assert_weights(model, again)


def acts(activation: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    out = layers.Dense(3, "softmax", name="out")(layers.Dense(16, activation, name="hidden")(x))
    return keras.Model(x, out, name="net")


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    trained(acts("relu"), tmp_path / "run")
    with pytest.raises(RunError, match="other layers or settings"):
        trained(acts("tanh"), tmp_path / "run")
    with pytest.raises(RunError, match="computes otherwise"):
        Run.open(tmp_path / "run", model=acts("tanh")).build()
    assert Run.open(tmp_path / "run", model=acts("relu")).build()


class Scale(layers.Layer):
    """Of a user who did not think of saving."""

    def __init__(self, factor: float, of: Any = None) -> None:
        super().__init__()
        self.factor, self.of = factor, of

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        if self.of is None:
            raise ValueError("there is none")
        return {**super().get_config(), "factor": self.factor, "of": {(1, 2): self.of}}


def odd(of: Any = None, rename: bool = False) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="renamed" if rename else None)
    slope = functools.partial(keras.activations.leaky_relu, negative_slope=0.1)
    hidden = layers.Lambda(lambda t: t * 2)(Scale(0.5, of)(layers.Dense(8, slope)(x)))
    return keras.Model(x, layers.Dense(3, "softmax")(hidden))


def test_a_network_is_the_same_whoever_makes_it() -> None:
    """As far as Keras can write it down or not: code and names are nothing to tell networks apart by."""
    assert architecture(odd()) == architecture(odd(rename=True)) and architecture(odd(object())) == architecture(odd(object()))
    assert architecture(keras.models.clone_model(network())) == architecture(network())
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert architecture(network()) == architecture(acts("relu"))
    finally:
        keras.config.set_dtype_policy(before)


def joined(skips: bool = True, factor: float = 2.0, rate: float = 0.5) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    first = layers.Dense(8, "relu", name="first")(x)
    second = layers.Dense(8, "relu", name="second")(first)
    both = layers.Lambda(lambda t: factor * t, name="scale")(layers.Add(name="add")([first if skips else second, second]))
    return keras.Model(x, layers.Dense(3, name="out")(layers.Dropout(rate)(both)), name="joined")


@pytest.mark.parametrize("changed", [{"skips": False}, {"factor": -3.0}], ids=["connections", "code"])
def test_a_network_of_other_connections_or_code_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    """Of the same layers; by what it answers with the weights of the run."""
    trained(joined(), tmp_path / "run", learning_rate=0.1)
    said = read_info(tmp_path / "run")["model"]["answers"]
    assert np.shape(said["probabilities"]) == (4, 3) and said["within"] == 1e-3
    np.testing.assert_allclose(np.sum(said["probabilities"], axis=1), 1, atol=1e-5)
    again = Run.open(tmp_path / "run", model=joined()).build()
    np.testing.assert_allclose(again(noise(again, (6,))), said["probabilities"], atol=1e-5)
    with pytest.raises(RunError, match="answers noise otherwise .* of probability: .* connections or code"):
        Run.open(tmp_path / "run", model=joined(**changed)).build()
    with pytest.raises(RunError, match="of other connections|answers noise otherwise"):
        trained(joined(**changed), tmp_path / "run", learning_rate=0.1)
    info = read_info(tmp_path / "run")
    del info["model"]["answers"], info["model"]["connections"]  # as runs from before had it
    write_info(tmp_path / "run", info)
    assert Run.open(tmp_path / "run", model=joined(**changed)).build()
    trained(joined(**changed), tmp_path / "run", learning_rate=0.1)


def test_connections_are_the_same_whoever_makes_them() -> None:
    assert connections(joined()) == connections(joined(rate=0.1))
    assert connections(network()) == connections(keras.models.clone_model(network()))
    assert connections(joined()) != connections(joined(skips=False))
    outer = [keras.Sequential([keras.Input((6,)), joined(skips), layers.Softmax()]) for skips in (True, True, False)]
    assert connections(outer[0]) == connections(outer[1]) != connections(outer[2])
    model = joined()
    before = connections(model)
    keras.Model(model.inputs, model.get_layer("add").output)
    model.get_layer("first")(keras.Input((6,)))  # in another network, too
    assert connections(model) == before and connections(unused()) == connections(unused())
    x = keras.Input((6,))
    less = [keras.Model(x, order(x * 2.0, layers.Dense(6, name="d")(x))) for order in (lambda a, b: a - b, lambda a, b: b - a)]
    assert connections(less[0]) != connections(less[1])


class Noisy(layers.Layer):
    def call(self, x: Any) -> Any:
        return x + tf.random.normal(tf.shape(x))


class Steps(layers.Layer):
    """Counts its calls, and answers by their number."""

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x: Any) -> Any:
        self.count.assign_add(1.0)
        return x * self.count


@pytest.mark.parametrize("layer", [Noisy, Steps, lambda: layers.GaussianNoise(1.0)])
def test_answers_that_no_weights_decide_are_not_compared(layer: Any, tmp_path: Path) -> None:
    def make() -> keras.Model:
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input((6,)), layer(), layers.Dense(3, "softmax")], name="net")

    trained(make(), tmp_path / "run", learning_rate=0.1)
    assert ("answers" in read_info(tmp_path / "run")["model"]) == (layer not in (Noisy, Steps))
    assert Run.open(tmp_path / "run", model=make()).build()


def test_answers_in_half_the_digits_are_compared_roughly(tmp_path: Path) -> None:
    def make(policy: str, factor: float = 1.0) -> keras.Model:
        keras.utils.set_random_seed(1)
        scale = layers.Lambda(lambda t: factor * t)
        hidden = [layers.Dense(16, "relu", dtype=policy), scale, layers.Dense(3, "softmax", dtype="float32")]
        return keras.Sequential([keras.Input((6,)), *hidden], name="net")

    trained(make("mixed_bfloat16"), tmp_path / "run", learning_rate=0.1)
    assert read_info(tmp_path / "run")["model"]["answers"]["within"] == 0.2
    assert Run.open(tmp_path / "run", model=make("float32")).build()
    with pytest.raises(RunError, match="answers noise otherwise"):
        Run.open(tmp_path / "run", model=make("float32", -1.0)).build()


def test_an_optimizer_in_an_optimizer_goes_on_in_one_process(tmp_path: Path) -> None:
    for _ in range(2):
        trained(network(), tmp_path / "run", optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05)))


def test_adapters_stay_adapters(tmp_path: Path) -> None:
    model = network()
    model.get_layer("hidden").enable_lora(2)
    base = np.array(model.get_layer("hidden")._kernel)
    trained(model, tmp_path / "run", learning_rate=0.5)
    np.testing.assert_array_equal(base, np.array(model.get_layer("hidden")._kernel))
    assert np.abs(np.array(model.get_layer("hidden").lora_kernel_b)).max() > 0


def test_a_tuner_that_fits_again_does_not_wonder_at_its_own_weights(tmp_path: Path) -> None:
    said: list[str] = []
    stages = [Stage("s", train=("d:train",), val=(), epochs=1)]
    tuner = StagedFineTuner(network(), stages, data={"d": {"train": batches()}}, run_dir=tmp_path / "run", say=said.append)
    tuner.fit()
    tuner.fit()
    assert not [line for line in said if "goes on with its own weights" in line]


def test_a_folder_that_began_with_other_weights_says_so(tmp_path: Path) -> None:
    def fit(factor: float) -> list[str]:
        said: list[str] = []
        model = acts("relu")
        model.set_weights([factor * weight for weight in model.get_weights()])
        stages = [Stage("s", train=("d:train",), val=(), epochs=1)]
        StagedFineTuner(model, stages, data={"d": {"train": batches()}}, run_dir=tmp_path / "run", say=said.append).fit()
        return [line for line in said if "goes on with its own weights" in line]

    assert fit(1) == fit(1) == []
    assert len(fit(3)) == 1


def test_a_frozen_network_with_a_layer_thawed_is_refused(tmp_path: Path) -> None:
    model = network()
    model.trainable = False
    model.get_layer("out").trainable = True
    with pytest.raises(UsageError, match="trainable = False"):
        trained(model, tmp_path / "run")
    before = model.get_layer("out").get_weights()[0]
    trained(model, tmp_path / "rules", rules=(("out", 1.0), ("*", "freeze")), learning_rate=0.1)
    assert not np.array_equal(before, model.get_layer("out").get_weights()[0])


def test_classes_in_a_column_are_classes(tmp_path: Path) -> None:
    trained(network(), tmp_path / "a", (X, Y), learning_rate=0.1)
    trained(network(), tmp_path / "b", (X, Y[:, None]), learning_rate=0.1)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    trained(network(), tmp_path / "c", of(X, Y), learning_rate=0.1)
    trained(network(), tmp_path / "d", of(X, Y[:, None]), learning_rate=0.1)
    assert losses(tmp_path / "c") == losses(tmp_path / "d")


@pytest.mark.parametrize("kind", [">f4", ">f8", ">i2"])
def test_numbers_in_another_order_of_bytes_are_the_same_numbers(kind: str) -> None:
    swapped, native = (X * 9).astype(kind), (X * 9).astype(kind[1:])
    one, other = own_data.Arrays("d", swapped, ROWS.astype(">f4")), own_data.Arrays("d", native, ROWS)
    for mine, its in zip(validation_batches(one, size=16), validation_batches(other, size=16), strict=True):
        for got, expected in zip(mine, its, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert (one.identities(), one.fingerprint()) == (other.identities(), other.fingerprint())


def answers_a_table() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, {"o": layers.Dense(3, "softmax")(x)})


@pytest.mark.parametrize(
    ("make", "data", "error", "words"),
    [
        (network, ((X, Y), (X[:9], Y[:9])), DataError, r"\{'train': \(x, y\), 'test': \(x, y\)\}"),
        (network, (X.astype(object), Y), DataError, "x holds object"),
        (network, ([[1.0, 2.0], [3.0]], [0, 1]), DataError, "of one shape for all items"),
        (network, (X, Y.astype(np.int64) + (1 << 32)), DataError, "labels from 4294967296"),
        (network, of(X, Y.astype(np.int64) + (1 << 32)), DataError, "labels from 4294967296"),
        (answers_a_table, (X, Y), ModelError, "returns a dict"),
    ],
)
def test_plain_mistakes_are_told_in_a_line(
    make: Callable[[], keras.Model], data: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as told:
        trained(make(), tmp_path / "run", data)
    assert "\n" not in str(told.value)


def test_a_stage_alone_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a list of Stage"):
        StagedFineTuner(network(), Stage("s", train=("d:train",), val=()), data={"d": (X, Y)}, run_dir=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train": (X, Y)}, "(ndarray of shape (64, 6), ndarray of shape (64,)), expected sets such as 'mine:train'"),
        ({"val": X}, "val of stage 's' is ndarray of shape (64, 6), expected sets"),
        ({"epochs": X}, "epochs of stage 's' is ndarray of shape (64, 6), expected a whole number"),
        ({"teachers": list(range(5000))}, "... (a list of 5,000), expected a list of texts"),
    ],
)
def test_arrays_and_long_lists_are_not_told_in_full(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as told:
        Stage("s", **({"train": ("d:train",)} | settings))
    assert words in str(told.value) and "\n" not in str(told.value) and len(str(told.value)) < 250


def test_counting_that_takes_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_data, "TELL_SECONDS", 0.0)
    said: list[str] = []
    stages = [Stage("s", train=("d:train",), val=(), epochs=1)]
    StagedFineTuner(network(), stages, data={"d": {"train": batches()}}, run_dir=tmp_path, say=said.append)
    assert len(said) == 1 and ".take(STEPS)" in said[0]


def test_another_backend_is_told(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    code = (
        "import keras; from emotiw_keras import Stage, StagedFineTuner\n"
        "x = keras.Input((6,)); net = keras.Model(x, keras.layers.Dense(3)(x))\n"
        "StagedFineTuner(net, [Stage('s', train=('d:train',), val=())], data={}, run_dir='r')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=tmp_path,
    )  # fmt: skip
    assert "UsageError: Keras computes with jax here" in done.stderr


def test_what_an_object_keeps_is_told_apart_and_a_network_by_its_class() -> None:
    class Keeps(keras.losses.Loss):
        def __init__(self, held: Any) -> None:
            super().__init__()
            self.held = held

        def call(self, y_true: Any, y_pred: Any) -> Any:
            return y_pred

    for one, other in (({1}, {2}), (b"a", b"b"), ([{(1, 2): 3}], [{(1, 2): 4}]), ({"a": {(1, 2): 3}}, {"a": {(1, 3): 3}})):
        assert described(Keeps(one)) == described(Keeps(one)) != described(Keeps(other))
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    assert described(Keeps(round_and_round))["config"]
    inner = keras.Sequential([keras.layers.Dense(3)])
    before = described(Keeps(inner))
    inner.build((None, 2))  # as it is when it was used
    assert described(Keeps(inner)) == before
