"""What a Keras user brings counts as in `model.fit`, or is refused in one line."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras import Stage, StagedFineTuner
from emotiw_keras.errors import DataError, ModelError, UsageError
from emotiw_keras.training.losses import gives_logits

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(64, 6)).astype(np.float32)
Y = DRAW.integers(0, 3, 64).astype(np.int32)
layers = keras.layers


def batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def network(end: Callable[[Any], Any] | None = None, **of_hidden: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,), name="x")
    hidden = layers.Dense(16, "relu", name="hidden", **of_hidden)(x)
    out = layers.Dense(3, "softmax", name="out")
    return keras.Model(x, out(hidden) if end is None else end(hidden), name="net")


class Penalty(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * keras.ops.mean(x**2))
        return x


def losses(run_dir: Path, column: str = "loss") -> list[float]:
    with (run_dir / "history.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def both(
    folder: Path, make: Callable[[], keras.Model] = network, optimizer: Callable[[], Any] | None = None,
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list, epochs: int = 2,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:  # fmt: skip
    """The losses of plain Keras and of a stage."""
    optimizer = optimizer or (lambda: keras.optimizers.SGD(0.05))
    plain = make()
    plain.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy())
    told = plain.fit(batches(), validation_data=batches(), epochs=epochs, verbose=0, callbacks=callbacks()).history
    stage = Stage(
        "s", train=("d:train",), val=("d:val",), epochs=epochs, optimizer=optimizer(), callbacks=tuple(callbacks()),
        loss=keras.losses.SparseCategoricalCrossentropy(), monitor="val_loss",
    )  # fmt: skip
    model = make()
    StagedFineTuner(model, [stage], data={"d": {"train": batches(), "val": batches()}}, run_dir=folder, say=None).fit()
    ours = {name: losses(folder, name) for name in ("loss", "val_loss")}
    return told, ours


def assert_same(told: dict[str, list[float]], ours: dict[str, list[float]]) -> None:
    for name, values in ours.items():
        np.testing.assert_allclose(values, told[name], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: network(kernel_regularizer=keras.regularizers.L2(0.1)),
        lambda: network(activity_regularizer=keras.regularizers.L1(0.01)),
        lambda: network(lambda hidden: layers.Dense(3, "softmax")(Penalty()(hidden))),
    ],
    ids=["kernel_regularizer", "activity_regularizer", "add_loss"],
)
def test_what_layers_add_to_the_loss_counts(make: Callable[[], keras.Model], tmp_path: Path) -> None:
    told, ours = both(tmp_path / "run", make)
    assert_same(told, ours)
    assert told["loss"][0] > both(tmp_path / "without")[0]["loss"][0] + 0.01, "it adds something"


class Tenth(keras.optimizers.SGD):
    """An update of a user's own, in the method that Keras' trainer calls."""

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        return super().apply_gradients([(gradient * 0.1, variable) for gradient, variable in grads_and_vars])


class Inverse(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of a user's own that nothing registers."""

    def __init__(self, first: float) -> None:
        self.first = first

    def __call__(self, step: Any) -> Any:
        return self.first / (1.0 + keras.ops.cast(step, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {"first": self.first}


class Ends(keras.optimizers.SGD):
    def finalize_variable_values(self, var_list: Any) -> None:
        for variable in var_list:
            variable.assign(variable * 0.5)


def excluded() -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(0.05, weight_decay=2.0)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return optimizer


@pytest.mark.parametrize(
    "optimizer",
    [
        excluded,
        lambda: Tenth(0.5),
        lambda: keras.optimizers.SGD(Inverse(0.2)),
        lambda: Tenth(Inverse(2.0)),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05)),
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5))
        ),
    ],
    ids=["excluded from decay", "own apply_gradients", "own schedule", "both", "loss scale", "loss scale and schedule"],
)
def test_optimizers_keep_what_no_configuration_holds(optimizer: Callable[[], Any], tmp_path: Path) -> None:
    assert_same(*both(tmp_path / "run", optimizer=optimizer))


class Sets(keras.callbacks.Callback):
    """Sets the rate where it is told to."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def on_train_begin(self, logs: Any = None) -> None:
        if self.at == "train_begin":
            self.model.optimizer.learning_rate.assign(0.2)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.at == "batch_begin" and batch == 1:
            self.model.optimizer.learning_rate.assign(0.2)


class Stops(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = batch == 1


@pytest.mark.parametrize(
    "callback",
    [
        lambda: Sets("train_begin"),
        lambda: Sets("batch_begin"),
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch == 0 else 0.05),
        Stops,
    ],
    ids=["rate at the beginning", "rate in a step", "a rate of 0 first", "stopped in the second step"],
)
def test_callbacks_set_the_rate_and_stop_anywhere(callback: Callable[[], Any], tmp_path: Path) -> None:
    told, ours = both(tmp_path / "run", callbacks=lambda: [callback()], epochs=3)
    assert len(told["loss"]) == len(ours["loss"])
    assert_same(told, ours)


@pytest.mark.parametrize(
    "callback",
    [lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 * epoch), lambda: Sets("train_begin")],
    ids=["by epoch", "at the beginning"],
)
def test_callbacks_set_the_rate_of_an_optimizer_that_says_0(callback: Callable[[], Any], tmp_path: Path) -> None:
    told, ours = both(tmp_path / "run", optimizer=lambda: keras.optimizers.SGD(0.0), callbacks=lambda: [callback()], epochs=3)
    assert_same(told, ours)
    assert ours["val_loss"][2] != ours["val_loss"][1]


class Counts(keras.callbacks.Callback):
    """Counts its calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            calls = super().__getattribute__("calls")
            calls[name] = calls.get(name, 0) + 1
        return super().__getattribute__(name)


class Numbers(keras.utils.PyDataset):
    def __init__(self) -> None:
        super().__init__()
        self.begun = self.ended = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return X[16 * index : 16 * index + 16], Y[16 * index : 16 * index + 16]

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def on_epoch_end(self) -> None:
        self.ended += 1


class Endless(Numbers):
    num_batches = None


def test_callbacks_and_datasets_are_told_of_each_epoch_and_batch(tmp_path: Path) -> None:
    numbers, seen = Numbers(), []

    def make() -> list[keras.callbacks.Callback]:
        seen.append(Counts())
        return [seen[-1]]

    told, ours = both(tmp_path / "run", callbacks=make)
    assert_same(told, ours)
    plain, in_stage = (counts.calls for counts in seen)
    for name in ("train_begin", "epoch_begin", "train_batch_begin", "train_batch_end", "test_batch_begin", "test_batch_end"):
        assert in_stage.get(f"on_{name}") == plain.get(f"on_{name}"), name
    stages = [Stage("s", train=("d:train",), val=(), epochs=2)]
    StagedFineTuner(network(), stages, data={"d": {"train": numbers}}, run_dir=tmp_path / "numbers", say=None).fit()
    assert numbers.begun == numbers.ended == 3, "once to be counted, and each epoch"
    with pytest.raises(DataError, match="never ends"):
        StagedFineTuner(network(), stages, data={"d": {"train": Endless()}}, run_dir=tmp_path / "endless", say=None)


class Own(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.out, self.hidden = layers.Dense(3, "softmax"), layers.Dense(16, "relu")  # declared the other way round

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


def wrapped() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, Own()(x))


PROBABILITIES = {
    "cast": lambda: network(lambda h: layers.Activation("linear", dtype="float32")(layers.Dense(3, "softmax")(h))),
    "operation": lambda: network(lambda h: keras.ops.softmax(layers.Dense(3)(h))),
    "average": lambda: network(lambda h: layers.Average()([layers.Dense(3, "softmax")(h), layers.Dense(3, "softmax")(h)])),
    "subclass": wrapped,
    "nested": lambda: keras.Sequential([keras.Input((6,)), network()]),
}


@pytest.mark.parametrize("which", PROBABILITIES)
def test_probabilities_are_known_whatever_makes_them(which: str) -> None:
    assert not gives_logits(PROBABILITIES[which]())


def test_logits_are_known() -> None:
    assert gives_logits(network(layers.Dense(3)))
    assert gives_logits(network(lambda h: keras.ops.relu(layers.Dense(3)(h))))
    assert gives_logits(network(lambda h: layers.Average()([layers.Dense(3)(h), layers.Dense(3)(h)])))


class Raises(keras.callbacks.Callback):
    asked = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.asked and epoch == 2:
            raise KeyboardInterrupt


def test_metrics_that_are_built_late_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(folder: str) -> None:
        metrics = [keras.metrics.F1Score(average="macro", name="f1"), keras.metrics.AUC(name="auc")]
        stage = Stage(
            "s", train=("d:train",), val=("d:val",), epochs=4, optimizer=keras.optimizers.SGD(0.05), metrics=metrics,
            callbacks=(Raises(),),
        )  # fmt: skip
        data = {"d": {"train": (X, np.eye(3, dtype=np.float32)[Y]), "val": (X, np.eye(3, dtype=np.float32)[Y])}}
        StagedFineTuner(network(), [stage], data=data, run_dir=tmp_path / folder, duplicates="keep", say=None).fit()

    fit("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Raises, "asked", True)
        fit("cut")
    fit("cut")
    assert losses(tmp_path / "cut", "val_f1") == losses(tmp_path / "whole", "val_f1")


def functional() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(3, "softmax")(layers.BatchNormalization()(layers.Dense(16, "relu")(x))))


class Named(keras.Model):
    """A functional network of a class of the user's own, after which Keras names and numbers it."""


def of_a_class() -> keras.Model:
    net = functional()
    return Named(net.inputs, net.outputs)


@pytest.mark.parametrize("make", [functional, of_a_class, wrapped])
def test_a_network_without_names_is_resumed_in_one_process(
    make: Callable[[], keras.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(folder: str) -> keras.Model:
        keras.utils.set_random_seed(1)
        model = make()
        stages = [Stage("s", train=("d:train",), val=("d:val",), epochs=4, learning_rate=0.1, callbacks=(Raises(),))]
        StagedFineTuner(
            model, stages, data={"d": {"train": (X, Y), "val": (X, Y)}}, run_dir=tmp_path / folder, duplicates="keep", say=None
        ).fit()
        return model

    whole = fit("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Raises, "asked", True)
        fit("cut")
    for one, other in zip(whole.get_weights(), fit("cut").get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_dataset_that_shuffles_goes_on_in_the_order_it_would_have_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(folder: str) -> list[str]:
        said, model = list[str](), network()  # whose seed is that of the process, which counts in a shuffle's
        shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(64, seed=1).batch(16)  # made anew, as in a new process
        common = {"train": ("d:train",), "val": ("d:val",), "learning_rate": 0.1, "callbacks": (Raises(),)}
        stages = [Stage("first", epochs=1, **common), Stage("second", epochs=4, **common)]
        data = {"d": {"train": shuffled, "val": batches()}}
        StagedFineTuner(model, stages, data=data, run_dir=tmp_path / folder, say=said.append).fit()
        return [line for line in said if "does not end in the same bits" in line]

    assert not fit("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Raises, "asked", True)
        fit("cut")
    told = fit("cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(told) == 1 and told[0].startswith(
        "warning: stage 'second': no batches of the epochs so far were taken of d:train and d:val"
    )
    assert not fit("cut"), "nothing goes on"


def test_layers_that_the_user_froze_stay_frozen(tmp_path: Path) -> None:
    model = network()
    model.get_layer("hidden").trainable = False
    before = model.get_layer("hidden").get_weights()
    data = {"d": {"train": batches(), "val": batches()}}
    stages = [Stage("s", train=("d:train",), val=("d:val",), epochs=1, learning_rate=0.1)]
    StagedFineTuner(model, stages, data=data, run_dir=tmp_path / "a", say=None).fit()
    for one, other in zip(before, model.get_layer("hidden").get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not model.get_layer("hidden").trainable and model.get_layer("out").trainable
    rules = [Stage("s", train=("d:train",), val=("d:val",), epochs=1, learning_rate=0.1, rules=(("*", 1.0),))]
    assert StagedFineTuner(model, rules, data=data, run_dir=tmp_path / "b", say=None).recipe.stages[0].rules[0][0] == "hidden"
    named = [
        Stage("s", train=("d:train",), val=("d:val",), epochs=1, learning_rate=0.1, rules=(("hid*", 1.0), ("*", "freeze")))
    ]
    StagedFineTuner(model, named, data=data, run_dir=tmp_path / "c", say=None).fit()
    assert not np.array_equal(before[0], model.get_layer("hidden").get_weights()[0]), "rules that name it count"
    assert not model.get_layer("hidden").trainable


def test_a_frozen_layer_that_assigns_its_own_weights_trains_as_in_fit(tmp_path: Path) -> None:
    def make() -> keras.Model:
        keras.utils.set_random_seed(1)
        normal = layers.SpectralNormalization(layers.Dense(16, "relu"), name="hidden")
        model = keras.Sequential([keras.Input((6,)), normal, layers.Dense(3, "softmax", name="out")], name="net")
        normal.trainable = False
        return model

    assert_same(*both(tmp_path / "both", make))
    said: list[str] = []
    stages = [Stage("s", train=("d:train",), val=("d:val",), epochs=2, optimizer=keras.optimizers.SGD(0.05))]
    data = {"d": {"train": batches(), "val": batches()}}
    tuner = StagedFineTuner(make(), stages, data=data, run_dir=tmp_path / "run", say=said.append)
    assert tuner.fit() and tuner.fit()
    told = [line for line in said if "frozen layers moved" in line]
    assert len(told) == 1 and "vector_u" in told[0] and "kernel" in told[0] and "bias" not in told[0] and "out" not in told[0]


def test_best_weights_are_restored_where_both_choose_alike(tmp_path: Path) -> None:
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    stages = [
        Stage("s", train=("d:train",), val=("d:val",), epochs=8, learning_rate=0.5, monitor="val_loss", callbacks=(stop,))
    ]
    model, data = network(), {"d": {"train": (X, Y), "val": (X[::-1], Y)}}
    run = StagedFineTuner(model, stages, data=data, run_dir=tmp_path / "run", duplicates="keep", say=None).fit()
    assert run is not None and run.info["stages"][0]["best_epoch"] == stop.best_epoch + 1


def test_layers_of_one_short_name_are_frozen_each_by_its_own(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, "relu", name="dense")], name="inner")
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(3, "softmax", name="out")(layers.Dense(6, name="dense")(inner(x))), name="net")
    model.get_layer("dense").trainable = False
    before = inner.get_weights()[0]
    stages = [Stage("s", train=("d:train",), val=(), epochs=1, learning_rate=0.5)]
    StagedFineTuner(model, stages, data={"d": {"train": (X, Y)}}, run_dir=tmp_path / "run", say=None).fit()
    assert not np.array_equal(before, inner.get_weights()[0])


class Stepping(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.out = layers.Dense(3, "softmax")

    def call(self, x: Any) -> Any:
        return self.out(x)


def stepping(method: str) -> Callable[[], keras.Model]:
    """Makes a network with this method of `keras.Model` overridden."""

    def made() -> keras.Model:
        model = type("Own", (Stepping,), {method: lambda self, *given, **named: None})()
        model.build((None, 6))
        return model

    return made


def of_batches(*inside: Any) -> Callable[[], keras.Model]:
    """A network for batches of 16."""
    return lambda: keras.Sequential(
        [keras.Input((6,), batch_size=16, name="x"), *inside, layers.Dense(3, "softmax")], name="net"
    )


class Sevenfold(keras.losses.SparseCategoricalCrossentropy):
    def __call__(self, *given: Any, **named: Any) -> Any:
        return 7 * super().__call__(*given, **named)


def set_on(name: str) -> Callable[[], keras.Model]:
    """A network whose object has a step of its own, not its class."""

    def made() -> keras.Model:
        model = network()
        setattr(model, name, lambda *given, **named: {})
        return model

    return made


@pytest.mark.parametrize(
    ("make", "stage", "tuner", "labels", "error", "words"),
    [
        (stepping("train_step"), {}, {}, Y, ModelError, "train_step of its own"),
        (set_on("train_step"), {}, {}, Y, ModelError, "train_step of its own"),
        (set_on("compute_loss"), {}, {}, Y, ModelError, "compute_loss of its own"),
        (stepping("compute_metrics"), {}, {}, Y, ModelError, r"compute_metrics of its own.*StagedFineTuner\(metrics=...\)"),
        (stepping("get_metrics_result"), {}, {}, Y, ModelError, "get_metrics_result of its own"),
        (stepping("predict_step"), {}, {}, Y, ModelError, "predict_step of its own"),
        (
            of_batches(layers.Reshape((6, 1)), layers.LSTM(4, stateful=True)), {}, {}, Y, ModelError,
            r"takes batches of 16 alone, .* of keras.Input\(\(6,\)\), without a batch size and stateful=True",
        ),
        (of_batches(layers.Lambda(lambda x: tf.reshape(x, (16, 6)))), {}, {}, Y, ModelError, "takes batches of 16 alone"),
        (network, {"optimizer": Ends(0.05)}, {}, Y, UsageError, "Ends has a finalize_variable_values of its own"),
        (network, {"loss": Sevenfold()}, {}, Y, UsageError, "__call__ of its own"),
        (network, {"loss": keras.losses.SparseCategoricalCrossentropy(ignore_class=0)}, {}, Y, UsageError, "ignore_class=0"),
        (network, {"callbacks": (keras.callbacks.EarlyStopping(restore_best_weights=True),)}, {}, Y, UsageError, "monitor"),
        (network, {}, {"metrics": ("accuracy",)}, Y, UsageError, "metrics hold 'accuracy'"),
        (network, {}, {"callbacks": (print,)}, Y, UsageError, "callbacks hold"),
        (network, {"metrics": (keras.metrics.Mean(name="loss"),)}, {}, Y, UsageError, "called 'loss'"),
        (network, {}, {}, Y + 5, DataError, "labels from 5 to 7, the network 3 outputs"),
        (lambda: network(layers.Dense(1, "sigmoid")), {}, {}, Y % 2, DataError, "labels from 0 to 1, the network 1 outputs"),
        (
            network, {"metrics": (keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"),)}, {},
            np.eye(3, dtype=np.float32)[Y], UsageError, "metric 'top2' does not take labels that are rows of 3 numbers",
        ),
        (
            network, {"loss": keras.losses.SparseCategoricalCrossentropy()}, {}, np.eye(3, dtype=np.float32)[Y], UsageError,
            "the loss does not take labels that are rows of 3 numbers",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(
    make: Callable[[], keras.Model], stage: dict[str, Any], tuner: dict[str, Any], labels: np.ndarray,
    error: type[Exception], words: str, tmp_path: Path,
) -> None:  # fmt: skip
    data = {"d": {"train": (X, labels), "val": (X, labels)}}
    with pytest.raises(error, match=words) as told:
        stages = [
            Stage("s", train=("d:train",), val=("d:val",), epochs=1, **{"optimizer": keras.optimizers.SGD(0.05), **stage})
        ]
        StagedFineTuner(make(), stages, data=data, run_dir=tmp_path / "run", duplicates="keep", say=None, **tuner).fit()
    assert "\n" not in str(told.value)


def test_a_network_for_batches_of_a_size_that_takes_others_is_trained(tmp_path: Path) -> None:
    stages = [Stage("s", train=("d:train",), val=(), epochs=1, batch_size=48)]
    StagedFineTuner(of_batches()(), stages, data={"d": {"train": (X, Y)}}, run_dir=tmp_path / "run", say=None).fit()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X, Y - 1, "labels from -1 to 1"),
        (X, np.eye(2, dtype=np.float32)[Y % 2], "labels from 0 to 1, the network 3 outputs"),
        (X[:, :4], Y, r"inputs \(4,\), but the network 'net' takes \(6,\)"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(x: np.ndarray, y: np.ndarray, words: str, tmp_path: Path) -> None:
    stages = [Stage("s", train=("d:train",), val=(), epochs=1)]
    data = {"d": {"train": tf.data.Dataset.from_tensor_slices((x, y)).batch(16)}}
    with pytest.raises(DataError, match=words):
        StagedFineTuner(network(), stages, data=data, run_dir=tmp_path / "run", say=None)


GENERATOR = keras.random.SeedGenerator(4)


class Drawing(layers.Layer):
    """Adds numbers that it draws in some way."""

    def __init__(self, how: str) -> None:
        super().__init__(name="drawing")
        self.how, self.own, self.tensorflows = how, [keras.random.SeedGenerator(4)], tf.random.Generator.from_seed(4)

    def call(self, x: Any) -> Any:
        ways: dict[str, Callable[[], Any]] = {
            "tf.random": lambda: tf.random.uniform(tf.shape(x), seed=2),
            "tf.function": lambda: tf.function(lambda: tf.random.truncated_normal(tf.shape(x)))(),
            "tf.random.Generator": lambda: self.tensorflows.normal(tf.shape(x)),
            "keras.random": lambda: keras.random.normal(keras.ops.shape(x)),
            "generator of no layer": lambda: keras.random.normal(keras.ops.shape(x), seed=GENERATOR),
            "generator of the layer": lambda: keras.random.normal(keras.ops.shape(x), seed=self.own[0]),
            "the same each time": lambda: keras.random.normal(keras.ops.shape(x), seed=4),
            "stateless": lambda: tf.random.stateless_uniform(tf.shape(x), (1, 2)),
        }
        return x + 1e-9 * ways[self.how]()


UNKEPT = ("tf.random", "tf.function", "tf.random.Generator", "keras.random", "generator of no layer")
KEPT = ("generator of the layer", "the same each time", "stateless")


def drawing(how: str, folder: Path, **settings: Any) -> list[str]:
    """What a short training says of a network that draws."""
    model = keras.Sequential([keras.Input((6,)), Drawing(how), layers.Dropout(0.5), layers.Dense(3, "softmax")], name="net")
    said: list[str] = []
    stages = [Stage("s", train=("d:train",), val=("d:val",), epochs=2)]
    data = {"d": {"train": batches(), "val": batches()}}
    StagedFineTuner(model, stages, data=data, run_dir=folder, say=said.append, **settings).fit()
    return said


@pytest.mark.parametrize("how", (*UNKEPT, *KEPT))
def test_layers_that_draw_what_no_checkpoint_keeps_are_told(how: str, tmp_path: Path) -> None:
    told = [line for line in drawing(how, tmp_path / "run") if "no checkpoint keeps" in line]
    assert len(told) == (how in UNKEPT), told


@pytest.mark.parametrize("how", UNKEPT)
def test_several_replicas_refuse_layers_that_draw_however_little_it_is(how: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layers of net draw random numbers for their own rows"):
        drawing(how, tmp_path / "run", strategy=tf.distribute.OneDeviceStrategy("cpu:0"))
