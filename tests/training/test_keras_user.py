"""What a Keras user brings to `StagedFineTuner`: each kind of object works, resumes exactly, or is refused in words."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras import Predictor, Run, Stage, StagedFineTuner
from emotiw_keras.data import FaceInput, load_faces
from emotiw_keras.errors import EmotiwError, ModelError, RunError, UsageError
from emotiw_keras.evaluation.evaluate import evaluate
from emotiw_keras.models import AlexNet
from emotiw_keras.training.recipe_tables import InputSettings

ROOT = Path(__file__).resolve().parents[2]
FREE = (("*", 1.0),)
X = np.random.default_rng(0).normal(0, 1, (44, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)


def small(nested: bool = False, activation: str | None = "softmax") -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((6,), name="image")
    x = keras.layers.Dense(8, activation="relu", name="fc1")(image)
    if nested:
        x = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="fc1"), keras.layers.Dropout(0.3)], name="trunk")(x)
    return keras.Model(image, keras.layers.Dense(3, activation=activation, name="out")(x), name="mine")


def stage(name: str = "one", **settings: Any) -> Stage:
    if not {"optimizer", "schedule"} & set(settings):
        settings = {"learning_rate": 0.1} | settings
    return Stage(name, **({"train": ("data:train",), "epochs": 2} | settings))


def tuned(
    out: Path, stages: Any, data: Any = (X, Y), model: keras.Model | None = None, **settings: Any
) -> tuple[Run, list[str]]:
    said: list[str] = []
    stages = [stages] if isinstance(stages, Stage) else stages
    settings = {"duplicates": "keep"} | settings  # what is selected on is among what is trained on in most tests
    tuner = StagedFineTuner(model or small(), stages, data={"data": data}, run_dir=out, say=said.append, **settings)
    return tuner.fit(), said


def history(run: Run) -> list[dict[str, str]]:
    with open(run.path / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_arrays_train_as_keras_does_step_by_step(tmp_path: Path) -> None:
    """The loss of each epoch and the weights, recomputed with the optimizer's formula and the same order."""
    run, _ = tuned(tmp_path / "run", stage(optimizer=keras.optimizers.SGD(0.1), batch_size=16))
    model = small()
    for epoch in range(2):
        order = np.random.Generator(np.random.PCG64((0, 1, epoch, 0))).permutation(len(X))
        total = 0.0
        for start in range(0, len(X), 16):
            chosen = order[start : start + 16]
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(Y[chosen], model(X[chosen], training=True))
                loss = tf.reduce_mean(losses)
            total += float(tf.reduce_sum(losses))
            for variable, gradient in zip(
                model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
            ):
                variable.assign_sub(0.1 * gradient)
        assert float(history(run)[epoch]["loss"]) == pytest.approx(total / len(X), rel=1e-5)
    for one, other in zip(run.build().weights, model.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)
    assert run.labels == ("0", "1", "2"), "the order of classes is nobody's guess"


class Rows(keras.utils.PyDataset):
    ended = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(11 * number, 11 * number + 11)
        return X[part], Y[part]

    def on_epoch_end(self) -> None:
        self.ended += 1


def batched(x: Any = X, y: Any = Y, size: int = 11) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def test_datasets_of_tensorflow_and_keras_give_the_same_training(tmp_path: Path) -> None:
    settings = {"optimizer": keras.optimizers.Adam(0.01)}
    one, said = tuned(tmp_path / "tf", stage(**settings), batched())
    rows = Rows()
    other, _ = tuned(tmp_path / "keras", stage(**settings), rows)
    assert [row["loss"] for row in history(one)] == [row["loss"] for row in history(other)] and rows.ended >= 2
    rows_of_ones = batched(y=np.eye(3, dtype=np.float32)[Y])
    hot, _ = tuned(tmp_path / "hot", stage(**settings), rows_of_ones)
    assert [row["accuracy"] for row in history(hot)] == [row["accuracy"] for row in history(one)]
    assert any("goes on at the end of its last whole epoch" in line for line in said)
    assert one.info["data"]["data:train"] == {"layout": "tf.data.Dataset", "images": 44, "batches": 4}


class Right(keras.metrics.Mean):
    """A metric of one's own: labels come as the data have them."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        assert y_true.dtype == "int32"
        found = keras.ops.cast(keras.ops.argmax(y_pred, axis=-1), "int32")
        super().update_state(keras.ops.cast(found == y_true, "float32"))


@pytest.mark.parametrize(
    ("loss", "one_hot", "logits"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), False, True),
        (keras.losses.CategoricalFocalCrossentropy(), True, False),
        (keras.losses.KLDivergence(), True, False),
    ],
)
def test_losses_and_metrics_of_keras(loss: keras.losses.Loss, one_hot: bool, logits: bool, tmp_path: Path) -> None:
    metrics = (keras.metrics.F1Score(average="macro", name="f1"), Right(name="right"), keras.metrics.AUC(name="auc"))
    data = {"train": (X, Y), "val": (X[:20], Y[:20])}
    model = small(activation=None if logits else "softmax")
    mine = stage(loss=loss, val=("data:val",), metrics=metrics[:1], optimizer=keras.optimizers.SGD(0.05))
    if logits:
        metrics = (*metrics[:2], keras.metrics.SparseTopKCategoricalAccuracy(2, name="auc"))
    run, _ = tuned(tmp_path / "run", mine, data, model, metrics=metrics[1:])
    row = history(run)[run.info["stages"][0]["best_epoch"] - 1]
    outputs = model(X[:20])
    truth = np.eye(3, dtype=np.float32)[Y[:20]] if one_hot else Y[:20]
    assert float(row["val_loss"]) == pytest.approx(float(loss(truth, outputs)), rel=1e-5)
    assert float(row["val_accuracy"]) == float((np.argmax(outputs, axis=1) == Y[:20]).mean())
    assert float(row["val_right"]) == pytest.approx(float(row["val_accuracy"]), abs=1e-6)
    f1 = keras.metrics.F1Score(average="macro")
    f1.update_state(np.eye(3, dtype=np.float32)[Y[:20]], outputs)
    assert float(row["val_f1"]) == pytest.approx(float(f1.result()), abs=1e-6) and 0 < float(row["val_auc"]) <= 1
    np.testing.assert_allclose(run.build()(X).numpy().sum(axis=1), 1, atol=1e-5)


def test_schedules_of_keras_and_rates_that_callbacks_set(tmp_path: Path) -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3, 5], [0.1, 0.01, 0.001])
    seen: list[float] = []

    def look(batch: int, logs: dict[str, float]) -> None:
        seen.append(float(watch.model.optimizer.learning_rate))

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    for where in (
        {"schedule": schedule},
        {"optimizer": keras.optimizers.SGD(schedule)},
    ):
        seen.clear()
        tuned(tmp_path / "-".join(where), stage(**where, batch_size=11, callbacks=(watch,)))
        np.testing.assert_allclose(seen, [0.1] * 4 + [0.01] * 2 + [0.001] * 2, rtol=1e-6)
    seen.clear()
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    tuned(tmp_path / "callback", stage(optimizer=keras.optimizers.SGD(0.1), batch_size=22, callbacks=(halve, watch)))
    np.testing.assert_allclose(seen, [0.05, 0.05, 0.025, 0.025], rtol=1e-6)


def test_the_rate_of_an_epoch_is_that_of_its_first_step(tmp_path: Path) -> None:
    had: list[list[float]] = []
    told: list[tuple[float, float]] = []

    class EachBatch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            had.append([])

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = 0.013 + 0.001 * batch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            had[-1].append(float(self.model.optimizer.learning_rate))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            told.append((logs["learning_rate"], float(self.model.optimizer.learning_rate)))

    mine = stage(learning_rate=0.1, schedule="cosine", epochs=4, batch_size=11, callbacks=(EachBatch(),))
    run, _ = tuned(tmp_path / "run", mine)
    np.testing.assert_allclose(had, [[0.013, 0.014, 0.015, 0.016]] * 4, rtol=1e-6)
    np.testing.assert_allclose(told, [(0.013, 0.016)] * 4, rtol=1e-6)
    np.testing.assert_allclose([float(row["learning_rate"]) for row in history(run)], 0.013, rtol=1e-6)


def test_callbacks_see_a_training_and_may_stop_it(tmp_path: Path) -> None:
    calls: list[str] = []

    class Recorder(keras.callbacks.Callback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                calls.append(name)
            return super().__getattribute__(name)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            assert logs is not None and {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= set(logs)
            self.model.stop_training = epoch == 1

    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    board = keras.callbacks.TensorBoard(tmp_path / "board")
    data = {"train": (X, Y), "val": (X, Y)}
    mine = stage(val=("data:val",), epochs=5, callbacks=(Recorder(), Stop(), log, board), batch_size=22)
    run, _ = tuned(tmp_path / "run", mine, data)
    assert len(history(run)) == 2 and run.info["stages"][0]["stopped_early"]
    order = [name for name in dict.fromkeys(calls) if name in calls]
    assert order[0] == "on_train_begin" and order[-1] == "on_train_end" and "on_test_end" in order
    assert calls.count("on_train_batch_end") == 4 and calls.count("on_epoch_begin") == 2
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3 and any((tmp_path / "board").rglob("events*"))


def test_early_stopping_knows_that_more_accuracy_is_better(tmp_path: Path) -> None:
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=2)
    data = {"train": (X, Y), "val": (X, Y)}
    run, _ = tuned(tmp_path / "run", stage(val=("data:val",), epochs=40, learning_rate=0.5, callbacks=(stop,)), data)
    scores = [float(row["val_accuracy"]) for row in history(run)]
    assert 3 <= len(scores) < 40 and max(scores[:-2]) >= max(scores[-2:])


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.Adam(0.01), keras.optimizers.AdamW(0.01, weight_decay=0.1)])
def test_rates_of_rules_count_under_every_optimizer_and_in_nested_networks(optimizer: Any, tmp_path: Path) -> None:
    rules = (("trunk/*", 0.0), ("fc1", 0.1), ("*", 1.0))
    moved = []
    for rates in (rules, (("trunk/fc1", 0.0), *FREE)):
        model = small(nested=True)
        before = [weight.numpy() for weight in model.weights]
        settings = {"learning_rate": 0.01} if optimizer == "adam" else {}
        mine = stage(rules=rates, optimizer=optimizer, epochs=1, batch_size=44, **settings)
        tuned(tmp_path / f"run{len(moved)}", mine, model=model)
        moved.append([weight.numpy() - old for weight, old in zip(model.weights, before, strict=True)])
    slow, fast = moved
    np.testing.assert_allclose(slow[0], 0.1 * fast[0], rtol=1e-3, atol=1e-7)
    assert np.abs(fast[0]).max() > 1e-3 and not slow[2].any() and not fast[2].any()
    np.testing.assert_array_equal(slow[-2], fast[-2])


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.first, self.last = keras.layers.Dense(4, name="first"), keras.layers.Dense(3, activation="softmax", name="last")

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.last.build((None, 4))
        self.built = True

    def call(self, x: Any) -> Any:
        return self.last(self.first(x))


def given(kind: str) -> keras.Model:
    keras.utils.set_random_seed(2)
    if kind == "applications":
        return keras.applications.MobileNet(weights=None, classes=3, input_shape=(32, 32, 3), alpha=0.25)
    if kind == "wrapped zoo":
        image = keras.Input((67, 67, 3))
        trunk = AlexNet(weights=None, include_top=False, pooling="avg", input_shape=(67, 67, 3), width=0.05)
        return keras.Model(image, keras.layers.Dense(3, activation="softmax")(trunk(image)), name="wrapped")
    net = AlexNet(weights=None, classes=3, input_shape=(67, 67, 3), width=0.05)
    model = keras.Sequential([FaceInput.of("alexnet", crop=67, random_crop=True, mirror=True, seed=0), net], name="sequential")
    model.build((None, 48, 48, 1))
    return model


@pytest.mark.parametrize("kind", ["applications", "wrapped zoo", "FaceInput first"])
def test_any_network_on_faces_is_predicted_evaluated_and_opened_with_itself(kind: str, tmp_path: Path) -> None:
    model, classes = given(kind), ["angry", "happy", "sad"]
    faces = load_faces("generated:small", limit=42, labels="basic7", size=48)
    keep = np.flatnonzero(np.isin(faces.label, [0, 3, 4]))
    channels = model.input_shape[-1]
    pixels = np.repeat(faces.pixels.gather(keep)[:, ::2, ::2], channels, axis=-1)
    label = np.searchsorted([0, 3, 4], faces.label[keep])
    preprocessing = None if kind == "FaceInput first" else InputSettings(mean=(127.5,) * 3, std=(127.5,) * 3)
    settings = {"labels": classes, "preprocessing": preprocessing}
    data = {"train": (pixels, label), "val": (pixels[:12], label[:12])}
    mine = stage(val=("data:val",), epochs=1, optimizer=keras.optimizers.Adam(1e-3))
    run, _ = tuned(tmp_path / "run", mine, data, model, **settings)
    assert run.labels == tuple(classes) and run.info["model"]["given"]
    with pytest.raises(ModelError, match="give the network again in Python: Run.open"):
        Run.open(run.path).build()
    again = Predictor(run.path, model=given(kind))
    answers = again.predict(list(pixels[:5]))
    want = model(run.face_input()(pixels[:5]), training=False)
    np.testing.assert_allclose(answers, want, atol=1e-5)
    other = small()
    with pytest.raises(RunError, match="do not fit the network 'mine'; expected"):
        Predictor(run.path, model=other)
    small_set = tmp_path / "set"
    from PIL import Image

    for number, (image, which) in enumerate(zip(pixels[:12], label[:12], strict=True)):
        file = small_set / "test" / classes[which] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image if channels == 3 else image[..., 0]).save(file)
    scores = evaluate(Run.open(run.path, given(kind)), small_set)
    assert scores["n"] == 12 and scores["leak_free"] is None, "all of it was trained on, as data.csv knows by its pixels"
    if kind == "applications":
        ready = {"train": batched(pixels[12:], label[12:])}
        other, _ = tuned(tmp_path / "other", stage(epochs=1), ready, given(kind), **settings)
        assert other.unrecorded == ("data:train",) and evaluate(other, small_set)["leak_free"] is None


def test_a_network_that_takes_faces_as_they_are_says_what_does_nothing(tmp_path: Path) -> None:
    """Frozen layers keep no features there, and what would change images is refused."""
    rules = (("conv*", 0.0), ("*", 1.0))
    one = Stage("one", train=("data:train",), val=("data:val",), epochs=4, rules=rules, batch_size=32)
    faces = load_faces("generated:large", limit=14)
    said: list[str] = []
    tuner = StagedFineTuner(seven(), [one], data={"data": faces}, run_dir=tmp_path / "run", say=said.append)
    assert tuner.fit().info["preprocessing"]["as_given"]
    assert any("no random crop or mirror of the stage" in line for line in said)
    for setting in ({"rotate": 10.0}, {"crops_per_image": 2}, {"cache_features": True, "random_crop": False}):
        mine = Stage("one", train=("data:train",), epochs=1, rules=rules, **setting)
        with pytest.raises(UsageError, match="takes its inputs as they are; pass preprocessing"):
            StagedFineTuner(seven(), [mine], data={"data": faces}, run_dir=tmp_path / "no", say=None).fit()


def seven() -> keras.Model:
    """A network for 48x48 grey faces as bytes that prepares them itself; its convolutions have names of their own."""
    image = keras.Input((48, 48, 1), name="image")
    x = keras.layers.Conv2D(4, 5, strides=4, name="conv1")(keras.layers.Rescaling(1 / 255, name="scale")(image))
    x = keras.layers.Flatten(name="flat")(x)
    return keras.Model(image, keras.layers.Dense(7, activation="softmax", name="out")(x), name="seven")


def test_a_subclassed_network_on_numbers(tmp_path: Path) -> None:
    model = Subclassed()
    model.build((None, 6))
    with pytest.raises(ModelError, match="does not say its input and output shapes; wrap it"):
        tuned(tmp_path / "bare", stage(), model=model)
    x = keras.Input((6,))
    run, _ = tuned(tmp_path / "run", stage(rules=(("first", 0.0), *FREE)), model=keras.Model(x, model(x), name="mine"))
    assert run.info["preprocessing"] is None
    with pytest.raises(ModelError, match="inputs that came as numbers"):
        Predictor(Run.open(run.path, keras.Model(x, model(x), name="mine")))


NO_DATA = [
    (r"ndarray of shape \(44, 6\)", X),
    ("<generator object", (each for each in X)),
    ("None", None),
    ("{1}", {1}),
    ("b'faces'", b"faces"),
]
"""(how it is told, what is neither a path nor arrays with labels)"""


def refused(message: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    return message, changes


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        refused("batch_size, which tf.data.Dataset 'data' cannot heed", stage={"batch_size": 8}, data=batched),
        refused("class_weight, which tf.data.Dataset", stage={"class_weight": "balanced"}, data=batched),
        refused("sampling, which tf.data.Dataset", stage={"sampling": "balanced"}, data=batched),
        refused("train_share, which arrays", stage={"train_share": 0.5}),
        refused("crops_per_image, which arrays", stage={"crops_per_image": 2}),
        refused("rotate, which .* only bytes", stage={"rotate": 10.0}),
        refused("accumulates 60,000 batches for an update.* nothing would be trained", stage={"accumulate": 60_000}),
        refused("teachers, which arrays", stage={"teachers": ("fer28-face-vgg-votes",)}),
        refused("from_logits=True, but mine returns probabilities", stage={"loss": keras.losses.CategoricalCrossentropy(True)}),
        refused("never ends; expected one epoch", data=lambda: batched().repeat()),
        refused("holds x .* expected batches of one size", data=lambda: batched().unbatch()),
        refused("weights of single images are not heeded", data=lambda: batched(x=(X, X))),
        refused("expected as many labels as inputs", data=lambda: (X, Y[:3])),
        refused("expected whole numbers", data=lambda: (X, X[:, 0])),
        refused("has the splits learn; expected train, val, test", data=lambda: {"learn": (X, Y)}),
        refused("has no split 'val'; it has train", stage={"val": ("data:val",)}),
        refused("'data:train' is 3; expected arrays", data=lambda: {"train": 3}),
        *(refused(f"'data' is {told}.*; expected a path", data=lambda value=value: value) for told, value in NO_DATA),
        refused("4 outputs|3 outputs, the data 4 classes", labels=["a", "b", "c", "d"]),
        refused("square images of 1 or 3 channels", preprocessing=InputSettings()),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_words(message: str, changes: dict[str, Any], tmp_path: Path) -> None:
    data: Callable[[], Any] = changes.pop("data", lambda: (X, Y))
    mine = stage(**changes.pop("stage", {}))
    with pytest.raises(EmotiwError, match=message):
        tuned(tmp_path / "run", mine, data(), **changes)
    assert not (tmp_path / "run" / "stages").exists()


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        (
            "momentum of stage 'one' is 0.5, but its optimizer is a SGD of Keras",
            {"optimizer": keras.optimizers.SGD(), "momentum": 0.5},
        ),
        (
            "learning_rate of stage .* its schedule is a CosineDecay",
            {"schedule": keras.optimizers.schedules.CosineDecay(0.1, 5), "learning_rate": 0.1},
        ),
        (
            "learning_rate of stage .* is a CosineDecay, expected a number; give it as schedule=",
            {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 5)},
        ),
        (
            "schedule of stage 'one' is 'cosine' beside a Keras optimizer",
            {"optimizer": keras.optimizers.SGD(), "schedule": "cosine"},
        ),
        ("label_smoothing of stage .* its loss is a Poisson", {"loss": keras.losses.Poisson(), "label_smoothing": 0.1}),
        ("optimizer of stage .* a keras.optimizers.Optimizer", {"optimizer": keras.losses.Poisson()}),
        ("metrics of stage .* expected .*keras.metrics.Metric objects", {"metrics": ("accuracy",)}),
        ("callbacks of stage .* expected .*keras.callbacks.Callback", {"callbacks": [print]}),
    ],
)
def test_settings_that_an_object_decides_itself_are_refused(message: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=message):
        stage(**settings)


def test_a_run_folder_that_is_moved_while_it_trains_goes_on_where_it_lies(tmp_path: Path) -> None:
    class Mover(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2 and (tmp_path / "run").exists():
                (tmp_path / "run").rename(tmp_path / "moved")

    asked = stage(epochs=5)
    with pytest.raises(RunError, match="run is not there any more: it was moved or removed while it was trained"):
        tuned(tmp_path / "run", asked, callbacks=[Mover()])
    assert not (tmp_path / "run").exists()
    run, said = tuned(tmp_path / "moved", asked, callbacks=[Mover()])
    assert any("going on" in line for line in said)
    whole, _ = tuned(tmp_path / "whole", asked, callbacks=[Mover()])
    assert run.fingerprint == whole.fingerprint


def test_a_resume_with_other_objects_or_data_is_refused_and_named(tmp_path: Path) -> None:
    mine = {"optimizer": keras.optimizers.SGD(0.1)}
    run, _ = tuned(tmp_path / "run", stage(**mine))
    table = tomllib.loads((run.path / "recipe.toml").read_text())["stage"][0]
    assert table["optimizer"]["object"].endswith("SGD") and '"learning_rate": 0.1' in table["optimizer"]["config"]
    assert "metrics" not in table
    for other in ({**mine, "optimizer": keras.optimizers.SGD(0.2)}, {**mine, "loss": keras.losses.KLDivergence()}):
        with pytest.raises(RunError, match=r"made from another recipe or other data: stage.one.(optimizer|loss)"):
            tuned(tmp_path / "run", stage(**other))
    with pytest.raises(RunError, match="data.data:train.fingerprint"):
        tuned(tmp_path / "run", stage(**mine), (X + 1, Y))


class Kill(keras.callbacks.Callback):
    """Ends the training in the middle of an epoch, as a signal would."""

    def __init__(self, at: int) -> None:
        super().__init__()
        left = iter(range(at - 1, -1, -1))  # of this object: what attributes hold comes back with a checkpoint
        self.is_last = lambda: next(left, None) == 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.is_last():
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "data", [{"train": (X, Y), "val": (X, Y)}, {"train": batched(), "val": batched()}], ids=["arrays", "dataset"]
)
def test_stopped_and_started_again_it_ends_in_the_same_bits(data: Any, tmp_path: Path) -> None:
    """Metrics and the patience of callbacks go along; a dataset's broken epoch is done anew."""

    def mine(out: str, *callbacks: Any) -> Run:
        waiting = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0)
        size = {} if isinstance(data["train"], tf.data.Dataset) else {"batch_size": 11}
        one = stage(
            val=("data:val",), epochs=4, optimizer=keras.optimizers.Adam(0.01), **size,
            metrics=(keras.metrics.AUC(name="auc"),),
        )  # fmt: skip
        log = keras.callbacks.CSVLogger(tmp_path / f"{out}.csv", append=True)
        return tuned(tmp_path / out, one, data, small(nested=True), callbacks=(waiting, log, *callbacks))[0]

    whole = mine("whole", Kill(-1))
    for at in (6, 5):
        with pytest.raises(BaseException, match="stopped and saved"):
            mine("broken", Kill(at))
    broken = mine("broken", Kill(-1))
    logs = [(tmp_path / f"{out}.csv").read_text().splitlines() for out in ("whole", "broken")]
    assert [line.split(",")[0] for line in logs[0]] == [line.split(",")[0] for line in logs[1]] == ["epoch", *"0123"]
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in history(run)] for run in (whole, broken)]
    assert timeless[0] == timeless[1] and timeless[0][0]["learning_rate"] != timeless[0][3]["learning_rate"]
    weights = [[weight.numpy() for weight in run.build().weights] for run in (whole, broken)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_stopped_before_its_first_checkpoint_it_begins_again_with_the_weights_it_was_given(tmp_path: Path) -> None:
    one = stage(val=("data:val",), epochs=2, batch_size=11, initialise=("out",))
    data = {"data": {"train": (X, Y), "val": (X, Y)}}
    armed = [True]

    def fail(batch: int, logs: Any) -> None:
        if batch == 2 and armed:
            armed.pop()
            raise RuntimeError("mine")

    def tuner(folder: str, model: keras.Model) -> StagedFineTuner:
        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=fail)]
        return StagedFineTuner(
            model, [one], data=data, run_dir=tmp_path / folder, duplicates="keep", callbacks=callbacks, say=None
        )

    def other() -> keras.Model:
        model = small(nested=True)
        model.set_weights([3 * weight for weight in model.get_weights()])
        return model

    stopped = []
    for folder in ("same", "anew", "old"):
        stopped.append(tuner(folder, small(nested=True)))
        with pytest.raises(RuntimeError, match="mine"):
            stopped[-1].fit()
        armed.append(True)
    armed.clear()
    (want := tuner("whole", small(nested=True))).fit()
    stopped[0].fit()
    (anew := tuner("anew", other())).fit()
    for model in (stopped[0].model, anew.model):
        for weight, expected in zip(model.get_weights(), want.model.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)
    assert not list((tmp_path / "whole").rglob("start-*")), "no longer than it is needed"
    for file in (tmp_path / "old").rglob("start-*"):  # an earlier version kept none
        file.unlink()
    with pytest.raises(RunError, match="stopped before its first checkpoint, and the weights that it began with are not kept"):
        tuner("old", other()).fit()
    tuner("old", small(nested=True)).fit()


@pytest.mark.slow
def test_the_example_survives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "keras_user.py"), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)

    def lines() -> Iterator[str]:
        assert process.stdout is not None
        deadline = time.monotonic() + 400
        for line in process.stdout:
            assert time.monotonic() < deadline
            yield line

    talk = [next(line for line in lines() if "head epoch 2/3" in line)]
    process.kill()
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (talk, done.stderr)
    assert "stage 1 head: going on at epoch 3" in done.stdout and "all epoch 2/2" in done.stdout
    assert (tmp_path / "out-savedmodel").is_dir() and "largest_difference=" in done.stdout
