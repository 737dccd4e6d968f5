"""What a Keras user may get wrong in what is given to `StagedFineTuner`, and what is not lost on the way: one sentence each."""

from __future__ import annotations

import csv
import json
import signal
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras import Run, Stage, StagedFineTuner
from emotiw_keras.errors import DataError, EmotiwError, ModelError, RunError, UsageError
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.runs import read_info
from emotiw_keras.training import own_data
from emotiw_keras.training.losses import gives_logits
from emotiw_keras.training.recipe_tables import InputSettings, SourceSettings
from emotiw_keras.training.run_writer import write_info

from .test_as_keras import Inverse

rng = np.random.default_rng(3)
X = rng.normal(size=(48, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
HELD = rng.normal(size=(12, 6)).astype(np.float32)
FACES = rng.integers(0, 256, (48, 12, 12, 3), np.uint8)


def network(activation: Any = "softmax", shape: tuple[int, ...] = (6,), classes: int = 3) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input(shape)
    hidden = keras.layers.Dense(16, "relu", name="hidden")(x if len(shape) == 1 else keras.layers.Flatten()(x / 255.0))
    return keras.Model(x, keras.layers.Dense(classes, activation, name="out")(hidden), name="mine")


def tuner(folder: Path, held: Any = (X, Y), model: Any = None, stage: Any = None, **settings: Any) -> StagedFineTuner:
    splits = held if isinstance(held, dict) else {"train": held}
    one = Stage(
        "one", train=("d:train",), val=("d:val",) if "val" in splits else (), epochs=2,
        **(stage or {"optimizer": "adam", "learning_rate": 0.01}),
    )  # fmt: skip
    settings = {"data": {"d": splits}, "say": None} | settings
    return StagedFineTuner(network() if model is None else model, [one], run_dir=folder, **settings)


def statuses(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "data.csv", newline="") as file:
        return [(row["split"], row["status"]) for row in csv.DictReader(file)]


class Boosted(keras.optimizers.SGD):
    """What its configuration does not tell is lost where another is made like it."""

    def __init__(self, learning_rate: float = 0.01, boost: float = 1.0, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.boost = boost


class Told(Boosted):
    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "boost": self.boost}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"duplicates": "Drop"}, UsageError, "duplicates of recipe 'python' is 'Drop', allowed are 'drop', 'keep'"),
        ({"keep": "Best"}, UsageError, "keep of recipe 'python' is 'Best', allowed are 'last', 'best'"),
        ({"seed": -1}, UsageError, "seed of recipe 'python' is -1, expected at least 0"),
        ({"seed": "x"}, UsageError, "seed of recipe 'python' is 'x', expected a whole number"),
        ({"labels": ("a", "a", "b")}, UsageError, "expected at least two labels, each once"),
        ({"labels": "abcd"}, UsageError, "unknown label set 'abcd'"),
        ({"labels": (1, 2, 3)}, UsageError, "expected names"),
        ({"labels": "basic7"}, UsageError, "labels 'basic7' are 7, the network has 3 outputs"),
        ({"model": "alexnet"}, UsageError, "the model is 'alexnet'; expected a keras.Model"),
        ({"model": keras.layers.Dense(3)}, UsageError, "expected a keras.Model"),
        ({"data": ((X, Y),)}, UsageError, "expected a table of names, such as data="),
        ({"metrics": keras.metrics.AUC()}, UsageError, "expected a list of keras.metrics.Metric objects"),
        ({"callbacks": keras.callbacks.TerminateOnNaN()}, UsageError, "expected a list of keras.callbacks.Callback objects"),
        ({"width": 0.3}, UsageError, "width = 0.3 is of a network of the zoo, which 'mine' is not"),
        ({"subject_patterns": {"d": "^(.)"}}, UsageError, "data 'd' is not read from files"),
        ({"sources": {"d": SourceSettings(every=10)}}, UsageError, "data 'd' is not read from files"),
    ],
)
def test_a_wrong_argument_is_one_sentence_before_anything_is_written(
    settings: dict[str, Any], error: type[EmotiwError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as told:
        tuner(tmp_path / "run", **settings)
    assert "\n" not in str(told.value) and not (tmp_path / "run").exists()


def test_numbers_that_are_none_are_named() -> None:
    x = X.copy()
    x[7, 2] = np.nan
    with pytest.raises(DataError, match=r"d:train: x\[7\] holds nan or infinity"):
        tuner(Path("run"), (x, Y))


class Given(keras.utils.PyDataset):
    """Batches as they are given."""

    def __init__(self, *batches: Any, **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        return self.batches[number]


class Together(Given):
    """But for the first time each waits until as many are asked for as it has workers."""

    asked, failing = 0, -1

    def __getitem__(self, number: int) -> Any:
        self.asked += 1
        if self.asked == 1:
            self.all = threading.Barrier(self.workers)
        else:
            self.all.wait(10)
        if number == self.failing:
            raise KeyError("mine")
        return super().__getitem__(number)


def test_workers_of_a_dataset_get_batches_at_once_in_their_order() -> None:
    given = Together(*((X[start : start + 6], Y[start : start + 6]) for start in range(0, 48, 6)), workers=4)
    said: list[str] = []
    batches = own_data.Batches("d", given, said.append)
    assert (batches.steps, len(batches)) == (8, 48)
    drawn = (
        "get its batches: what __getitem__ draws from one generator depends on which comes first; with workers=1 it is the same"
    )
    assert len(said) == 1 and said[0].startswith(f"d: 4 threads {drawn}")
    assert own_data.Batches("d", Given((X, Y)), said.append) and len(said) == 1
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), X)
    given.failing = 7
    with pytest.raises(KeyError, match="mine"):
        list(batches)
    assert not any(thread.name.startswith("emotiw-map") for thread in threading.enumerate())
    own_data.Batches("d", Given((X, Y), workers=2, use_multiprocessing=True), said.append)
    assert said[1] == "d: use_multiprocessing is not heeded: 2 threads get its batches"


LIKE = r"expected float32 \(batch, 6\) and as many labels, whole numbers \(batch\), as in batch 0"
FAULTY = {
    "empty": ((X[:0], Y[:0]), rf"batch 1 holds float32 \(0, 6\), int64 \(0,\); {LIKE}"),
    "a label missing": ((X[:8], Y[:7]), rf"batch 1 holds float32 \(8, 6\), int64 \(7,\); {LIKE}"),
    "another type": ((X[:8].astype(float), Y[:8]), rf"batch 1 holds float64 \(8, 6\), .*; {LIKE}"),
    "another size": ((X[:8, :5], Y[:8]), rf"batch 1 holds float32 \(8, 5\), .*; {LIKE}"),
    "one-hot": ((X[:8], np.eye(3)[Y[:8]]), rf"batch 1 holds .*, float64 \(8, 3\); {LIKE}"),
    "labels with a fraction": ((X[:8], Y[:8] + 0.5), rf"batch 1 holds .*, float64 \(8,\); {LIKE}"),
    "one label": ((X[:8], 1), rf"batch 1 holds .*, int64 \(\); {LIKE}"),
    "weights": ((X[:8], Y[:8], Y[:8]), rf"batch 1 holds float32 \(8, 6\), int64 \(8,\), int64 \(8,\); {LIKE}"),
    "more digits": ((X[:8].astype(np.longdouble), Y[:8]), "batch 1 holds float128, which no network takes"),
    "rows of several lengths": (([[1.0], [1.0, 2.0]], Y[:2]), "batch 1: .*; expected arrays"),
    "no labels": (X[:8], r"batch 1 is ndarray of shape \(8, 6\); expected \(x, y\)"),
}


@pytest.mark.parametrize(("batch", "words"), FAULTY.values(), ids=FAULTY)
def test_a_batch_that_is_not_as_the_first_is_named(batch: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"^d:train: {words}") as told:
        tuner(Path("run"), Given((X[:8], Y[:8]), batch))
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_faulty_batches_of_datasets_are_named_too() -> None:
    types = (tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int64))
    for batch in ((X[:0], Y[:0]), (X[:8], Y[:7])):
        with pytest.raises(DataError, match="batch 1 holds"):
            tuner(
                Path("run"), tf.data.Dataset.from_generator(lambda given=batch: iter([(X, Y), given]), output_signature=types)
            )
    types = (types[0], tf.TensorSpec((None, None)))
    rows = tf.data.Dataset.from_generator(lambda: iter([(X, np.eye(3)[Y]), (X, np.eye(4)[Y])]), output_signature=types)
    with pytest.raises(DataError, match=r"batch 1 holds float32 \(48, 6\), float32 \(48, 4\); .* numbers \(batch, 3\)"):
        tuner(Path("run"), rows)


def test_numbers_of_more_digits_than_tensors_have_are_refused() -> None:
    for held in ((X.astype(np.longdouble), Y), Given((X.astype(np.longdouble), Y))):
        with pytest.raises(DataError, match="holds float128, which no network takes; expected numbers"):
            tuner(Path("run"), held)
    with pytest.raises(DataError, match="d:train is empty"):
        tuner(Path("run"), Given())


@pytest.mark.parametrize("dataset", [False, True], ids=["arrays", "dataset"])
@pytest.mark.parametrize(
    ("row", "words"),
    [(np.nan, r"label\[5\] holds nan"), (-1.0, "item 5 are all 0 or below"), (0.0, "item 5 are all 0 or below")],
)
def test_rows_of_labels_that_are_no_shares_are_named(row: float, words: str, dataset: bool, tmp_path: Path) -> None:
    rows = np.eye(3, dtype=np.float32)[Y]
    rows[5] *= row
    rows[5] += 0.0
    held = tf.data.Dataset.from_tensor_slices((X, rows)).batch(4) if dataset else (X, rows)
    with pytest.raises(DataError, match=words if dataset else words.replace("label", "y")):
        tuner(tmp_path / "run", held).fit()
    if np.isfinite(row):
        mine = {"loss": keras.losses.MeanSquaredError(), "optimizer": "adam", "learning_rate": 0.01}
        assert tuner(tmp_path / "mine", held, stage=mine).fit() is not None


def test_shares_that_were_computed_may_be_a_rounding_below_0(tmp_path: Path) -> None:
    rows = np.eye(3)[Y]
    rows[5] = [0.9, 0.1, 1 - 0.9 - 0.1]
    assert rows[5, 2] < 0 and tuner(tmp_path / "run", (X, rows)).fit() is not None


@pytest.mark.parametrize("given", [None, "basic7", "folder"])
def test_a_label_set_that_is_asked_for_is_heeded_and_without_one_no_cost_is_told(given: str | None, tmp_path: Path) -> None:
    said: list[str] = []
    stage = {"cost_weight": 1.0, "optimizer": "adam", "learning_rate": 0.01}
    held = (X, np.arange(len(X)) % 7)
    run = tuner(
        tmp_path / "run", held, network(classes=7), stage, say=said.append, **({"labels": given} if given else {})
    ).fit()
    assert run is not None
    assert run.labels == (LABEL_SETS["basic7"].labels if given == "basic7" else tuple("0123456"))
    assert any("cost_weight has no costs to weigh: 1 for every confusion" in line for line in said) == (given != "basic7")


@pytest.mark.parametrize("model", ["net.keras", Stage])
def test_a_run_is_opened_with_a_network_alone(model: Any, tmp_path: Path) -> None:
    run = tuner(tmp_path / "run").fit()
    assert run is not None
    with pytest.raises(UsageError, match=r"expected a keras.Model, such as keras.models.load_model\(file\) gives"):
        Run.open(run.path, model=model)
    with pytest.raises(UsageError, match="expected a keras.Model"):
        Run.from_hub("no/where", model=model)


def test_complex_numbers_are_refused_as_a_part_would_be_lost() -> None:
    for data in ((X.astype(complex), Y), tf.data.Dataset.from_tensor_slices((X.astype(complex), Y)).batch(8)):
        with pytest.raises(DataError, match="x holds complex128, which no network takes; expected numbers"):
            tuner(Path("run"), data)
    rows = np.eye(3)[Y].astype(complex)
    for data in ((X, rows), tf.data.Dataset.from_tensor_slices((X, rows)).batch(8)):
        with pytest.raises(DataError, match="holds .*complex128; expected whole numbers .* or rows"):
            tuner(Path("run"), data)


def test_images_of_another_size_need_something_that_resizes_them(tmp_path: Path) -> None:
    large = rng.integers(0, 256, (12, 20, 20, 3), np.uint8)
    for data in ({"train": (large, Y[:12])}, {"train": (FACES, Y), "val": (large, Y[:12])}):
        with pytest.raises(DataError, match=r"has inputs \(20, 20, 3\), but .* takes \(12, 12, 3\); pass preprocessing="):
            tuner(tmp_path / "no", data, network(shape=(12, 12, 3)))
    assert not (tmp_path / "no").exists()
    tuner(tmp_path / "run", {"train": (large, Y[:12])}, network(shape=(12, 12, 3)), preprocessing=InputSettings()).fit()


@pytest.mark.parametrize(("x", "more"), [(X, HELD), (FACES, FACES[::-1][:12] // 2)], ids=["numbers", "faces"])
def test_what_is_selected_on_is_not_trained_on(x: np.ndarray, more: np.ndarray, tmp_path: Path) -> None:
    said: list[str] = []
    model = network(shape=x.shape[1:])
    data = {
        "train": (x, Y),
        "val": (np.concatenate([x[:10], more]), np.concatenate([Y[:10], Y[:12]])),
        "test": (x[20:23], Y[20:23]),
    }
    run = tuner(tmp_path / "run", data, model, say=said.append).fit()
    assert run.info["stages"][0]["images"] == 48 - 13
    assert any("13 items of d:train left out of training because the same stand in val or test" in line for line in said)
    dropped = [status for split, status in statuses(tmp_path / "run") if split == "train"]
    assert [number for number, status in enumerate(dropped) if status != "train"] == [*range(10), 20, 21, 22]
    kept = tuner(tmp_path / "kept", data, network(shape=x.shape[1:]), duplicates="keep").fit()
    assert kept.info["stages"][0]["images"] == 48
    fewer = np.delete(np.arange(48), [*range(10), 20, 21, 22])
    other = network(shape=x.shape[1:])
    tuner(tmp_path / "again", data | {"train": (x[fewer], Y[fewer])}, other).fit()
    for mine, its in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its, "the same as without them from the start")


def test_nothing_left_to_train_on_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='all 48 items of d:train stand in val or test, too; .* duplicates="keep"'):
        tuner(tmp_path / "run", {"train": (X, Y), "val": (X, Y)}).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("val", [(X[:10], Y[:10]), (X, Y)], ids=["some", "all"])
def test_a_run_that_was_begun_with_all_items_goes_on_with_them(
    val: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions before did, whose run.json does not say how many are left out."""
    data, stage = {"train": (X, Y), "val": val}, {"learning_rate": 0.1, "batch_size": 8}
    monkeypatch.setattr(own_data, "without_twins", lambda train, own: train)

    def stop(epoch: int, logs: Any) -> None:
        raise KeyboardInterrupt

    first = tuner(tmp_path / "run", data, stage=stage, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)])
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    info = read_info(tmp_path / "run")
    del info["items_left_out"]
    write_info(tmp_path / "run", info)
    monkeypatch.undo()
    said: list[str] = []
    run = tuner(tmp_path / "run", data, stage=stage, say=said.append).fit()
    assert run.info["stages"][0]["images"] == 48 and not any("left out" in line for line in said)
    assert tuner(tmp_path / "run", data, stage=stage).fit().fingerprint == run.fingerprint, "finished already"


def test_a_last_activation_says_what_the_network_returns() -> None:
    assert not gives_logits(network("softmax"))
    for activation in ("log_softmax", "relu", "gelu", "tanh", None, "linear"):
        assert gives_logits(network(activation)), activation
    assert not gives_logits(network(lambda x: tf.nn.softmax(x)))
    for activation in ("sigmoid", "hard_sigmoid"):
        with pytest.raises(ModelError, match=f"ends in a {activation}, which says of each class by itself"):
            gives_logits(network(activation))


def test_a_log_softmax_trains_as_logits(tmp_path: Path) -> None:
    logits, logs = (
        tuner(tmp_path / str(activation), (X, Y), network(activation), {"learning_rate": 0.1}).fit()
        for activation in (None, "log_softmax")
    )
    losses = [[float(row["loss"]) for row in csv.DictReader((run.path / "history.csv").open())] for run in (logits, logs)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


class Renamed(keras.optimizers.SGD):
    """Made anew by a way of its own."""

    def __init__(self, lr: float = 0.01, **options: Any) -> None:
        super().__init__(lr, **options)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Renamed:
        return cls(config.pop("learning_rate"), **config)


class Plain(Renamed):
    """Its `from_config` knows no class."""

    @staticmethod
    def from_config(config: dict[str, Any], custom_objects: Any = None) -> Plain:  # type: ignore[override]
        return Plain(config.pop("learning_rate"), **config)


def test_an_optimizer_that_does_not_tell_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="optimizer of stage 'one': the get_config of Boosted does not tell boost"):
        tuner(tmp_path / "run", stage={"optimizer": Boosted(0.05, boost=0.0)})
    with pytest.raises(UsageError, match="the schedule in SGD has no get_config; .* as Stage"):
        tuner(tmp_path / "run", stage={"optimizer": keras.optimizers.SGD(Rate())})
    with pytest.raises(UsageError, match="the learning_rate of SGD is a function; give a LearningRateSchedule of keras"):
        tuner(tmp_path / "run", stage={"optimizer": keras.optimizers.SGD(lambda: 0.03)})
    with pytest.raises(UsageError, match="optimizer of stage 'one': the get_config of Halved does not tell first, after"):
        tuner(tmp_path / "run", stage={"optimizer": keras.optimizers.SGD(Halved(0.1, 3))})
    tuner(tmp_path / "run", stage={"optimizer": keras.optimizers.SGD(Slower(base=0.1))})
    for number, given in enumerate(
        (Told(0.05, boost=0.0), Renamed(0.05), Plain(0.05), keras.optimizers.Adam(0.01, clipnorm=1.0))
    ):
        tuner(tmp_path / str(number), stage={"optimizer": given}).fit()


class Two(keras.metrics.Metric):
    """One metric that gives two numbers."""

    def __init__(self) -> None:
        super().__init__(name="two")
        self.seen = self.add_weight(name="seen", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.seen.assign_add(tf.cast(tf.shape(y_pred)[0], tf.float32))

    names = ("seen", "half")

    def result(self) -> dict[str, Any]:
        return dict(zip(self.names, (self.seen.value, self.seen / 2), strict=True))


def test_a_metric_of_several_numbers_has_a_column_for_each(tmp_path: Path) -> None:
    run = tuner(tmp_path / "run", {"train": (X, Y), "val": (HELD, Y[:12])}, metrics=[Two()]).fit()
    row = next(csv.DictReader((run.path / "history.csv").open()))
    assert [float(row[name]) for name in ("seen", "half", "val_seen", "val_half")] == [48, 24, 12, 6]
    wrong = Two()
    wrong.names = ("loss", "half")
    with pytest.raises(UsageError, match="metric 'two' gives 'loss', as another column of the history is called"):
        tuner(tmp_path / "no", metrics=[wrong]).fit()


def test_a_metric_of_an_array_has_a_column_for_each_of_its_numbers(tmp_path: Path) -> None:
    rows = np.eye(3, dtype=np.float32)[Y]
    metrics = [keras.metrics.Recall(thresholds=[0.3, 0.5], name="recall"), keras.metrics.F1Score(name="f1")]
    one = keras.metrics.Precision(thresholds=[0.4], name="precision")
    run = tuner(
        tmp_path / "run", {"train": (X, rows), "val": (HELD, rows[:12])}, metrics=[*metrics, one],
        callbacks=[keras.callbacks.EarlyStopping("val_f1.1")],
    ).fit()  # fmt: skip
    row = next(csv.DictReader((run.path / "history.csv").open()))
    for metric in (*metrics, one):
        metric.reset_state()
        metric.update_state(rows[:12], run.build().predict(HELD, verbose=0))
    numbers = [*metrics[0].result().numpy(), *metrics[1].result().numpy(), one.result().numpy().item()]
    names = ["val_recall.0", "val_recall.1", "val_f1.0", "val_f1.1", "val_f1.2", "val_precision"]
    assert [float(row[name]) for name in names] == pytest.approx(numbers, abs=1e-6)
    assert {"recall.1", "f1.2", "precision"} <= row.keys() and not {"recall", "f1", "f1.3"} & row.keys()
    taken = [keras.metrics.F1Score(name="f1"), keras.metrics.F1Score(average="macro", name="f1.2")]
    with pytest.raises(UsageError, match="metric 'f1.2' gives 'f1.2', as another column of the history is called; give it a"):
        tuner(tmp_path / "no", {"train": (X, rows)}, metrics=taken).fit()


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "val_loss", "val_accuracy", "seconds"])
def test_a_metric_that_is_called_as_a_figure_of_the_run_is_refused(name: str, tmp_path: Path) -> None:
    """It would choose the epoch in its place."""
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name=name)
    for settings in ({"metrics": [top]}, {"stage": {"metrics": (top,)}}):
        with pytest.raises(UsageError, match=f"a metric is called '{name}', as another column .* such as 'my_{name}'"):
            tuner(tmp_path / "run", **settings)
    pair = [keras.metrics.Mean(name="f1"), keras.metrics.Mean(name="val_f1")]
    with pytest.raises(UsageError, match="'f1', as another column"):
        tuner(tmp_path / "run", metrics=pair)


@pytest.mark.parametrize("kind", [keras.metrics.SparseCategoricalAccuracy, keras.metrics.CategoricalAccuracy])
def test_the_accuracy_of_keras_is_that_of_the_run(kind: Any, tmp_path: Path) -> None:
    data = {"train": (X, Y), "val": (HELD, Y[:12])}
    without = tuner(tmp_path / "without", data).fit()
    columns = [list(csv.DictReader((without.path / "history.csv").open()))]
    for number, settings in enumerate(({"metrics": [kind(name="accuracy")]}, {"stage": {"metrics": (kind(name="accuracy"),)}})):
        settings.setdefault("stage", {}).update(optimizer="adam", learning_rate=0.01)
        columns.append(
            list(csv.DictReader((tuner(tmp_path / str(number), data, **settings).fit().path / "history.csv").open()))
        )
    names = ("accuracy", "val_accuracy", "val_loss")
    assert columns[0] and len({str([[row[name] for name in names] for row in rows]) for rows in columns}) == 1
    assert columns[0][0].keys() == columns[1][0].keys()


class Weighted(keras.losses.Loss):
    """Of a user who did not think of saving."""

    def __init__(self, weights: Any, power: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.weights, self._power = keras.ops.convert_to_tensor(weights), power

    def call(self, y_true: Any, y_pred: Any) -> Any:
        each = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        return keras.ops.take(self.weights, keras.ops.cast(y_true, "int32")) * each**self._power


class Heavier(Weighted):
    def __init__(self, by: float, **options: Any) -> None:
        super().__init__([by, 1.0, 1.0], **options)
        self.by = by


class Closed(keras.losses.Loss):
    """What it was made with is in its function alone."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.of = lambda y, p: factor * keras.losses.sparse_categorical_crossentropy(y, p)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.of(y_true, y_pred)


class Above(keras.metrics.Mean):
    def __init__(self, limit: float) -> None:
        super().__init__(name="above")
        self.limit = limit

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(keras.ops.max(y_pred, axis=-1) > self.limit)


class Slower(keras.optimizers.schedules.ExponentialDecay):
    """It takes less than the class that it extends."""

    def __init__(self, *, base: float) -> None:
        super().__init__(base, 3, 0.5)
        self.base = base

    def get_config(self) -> dict[str, Any]:
        return {"base": self.base}


class Halved(keras.optimizers.schedules.ExponentialDecay):
    """With the configuration of the class that it extends."""

    def __init__(self, first: float, after: int) -> None:
        super().__init__(first, after, 0.5)
        self.after = after
        self.first = first


@pytest.mark.parametrize(
    ("given", "other", "key"),
    [
        (lambda: {"loss": Weighted([1.0, 2.0, 3.0])}, lambda: {"loss": Weighted([1.0, 2.0, 4.0])}, "stage.one.loss"),
        (lambda: {"loss": Weighted([1.0] * 3)}, lambda: {"loss": Weighted([1.0] * 3, power=2.0)}, "stage.one.loss"),
        (lambda: {"loss": Heavier(2.0)}, lambda: {"loss": Heavier(3.0)}, "stage.one.loss"),
        (lambda: {"metrics": (Above(0.5),)}, lambda: {"metrics": (Above(0.6),)}, "stage.one.metrics"),
        (lambda: {"optimizer": Told(Inverse(0.2), 1.0)}, lambda: {"optimizer": Told(Inverse(0.1), 1.0)}, "stage.one.optimizer"),
        (lambda: {"schedule": Halved(0.1, 3)}, lambda: {"schedule": Halved(0.1, 4)}, "stage.one.schedule"),
    ],
)
def test_a_run_does_not_go_on_with_an_object_made_otherwise(given: Any, other: Any, key: str, tmp_path: Path) -> None:
    tuner(tmp_path / "run", stage=given()).fit()
    tuner(tmp_path / "run", stage=given()).fit()
    with pytest.raises(RunError, match=f"made from another recipe or other data: {key}"):
        tuner(tmp_path / "run", stage=other()).fit()


def test_nor_with_other_metrics_of_all_stages(tmp_path: Path) -> None:
    tuner(tmp_path / "run", metrics=[Above(0.5)]).fit()
    for other in ([Above(0.6)], []):
        with pytest.raises(RunError, match="made from another recipe or other data: metrics"):
            tuner(tmp_path / "run", metrics=other).fit()
    info = read_info(tmp_path / "run")
    del info["metrics"]  # as runs from before had it
    write_info(tmp_path / "run", info)
    tuner(tmp_path / "run", metrics=[Above(0.6)]).fit()


def test_an_object_that_tells_nothing_of_what_it_was_made_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loss of stage 'one': neither the get_config of Closed .* self.factor = factor"):
        tuner(tmp_path / "run", stage={"loss": Closed(2.0)})


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without a configuration."""

    first = 0.01

    def __call__(self, step: Any) -> Any:
        return self.first / (1 + tf.cast(step, tf.float32))


def test_a_schedule_without_a_configuration_is_called_all_the_same(tmp_path: Path) -> None:
    run = tuner(tmp_path / "run", stage={"schedule": Rate(), "batch_size": 16}).fit()
    rates = [float(row["learning_rate"]) for row in csv.DictReader((run.path / "history.csv").open())]
    assert rates == pytest.approx([0.01, 0.01 / 4])
    other = Rate()
    other.first = 0.5
    with pytest.raises(RunError, match=r"made from another recipe or other data: stage.one.schedule"):
        tuner(tmp_path / "run", stage={"schedule": other, "batch_size": 16}).fit()


@pytest.mark.parametrize("moment", ["on_train_begin", "on_epoch_begin", "on_epoch_end"])
def test_a_callback_that_freezes_is_told_what_does(moment: str, tmp_path: Path) -> None:
    model = network()

    def freeze(*_: Any) -> None:
        model.get_layer("hidden").trainable = False

    with pytest.raises(UsageError, match=rf"a callback has frozen or freed hidden/bias, hidden/kernel in {moment}, .* rules"):
        tuner(tmp_path / "run", model=model, callbacks=[keras.callbacks.LambdaCallback(**{moment: freeze})]).fit()


def test_what_a_network_was_compiled_with_is_not_heeded_and_told(tmp_path: Path) -> None:
    said: list[str] = []
    model = network()
    tuner(tmp_path / "plain", model=model, say=said.append)
    assert not said
    model.compile("sgd", "mse")
    tuner(tmp_path / "run", model=model, say=said.append)
    assert "what it was compiled with is not heeded" in said[0]


class Activity(keras.layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.seen = keras.metrics.Mean(name="activity")

    def call(self, x: Any) -> Any:
        self.seen.update_state(keras.ops.mean(x))
        return x


def test_metrics_of_layers_are_told_to_be_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    model = keras.Sequential([keras.Input((6,)), keras.Sequential([Activity()]), keras.layers.Dense(3, "softmax")])
    run = tuner(tmp_path / "run", model=model, say=said.append).fit()
    assert sum("metrics that its layers keep (activity) are neither in the history nor" in line for line in said) == 1
    assert "activity" not in (run.path / "history.csv").read_text()


def test_images_that_came_as_numbers_are_told_before_they_train(tmp_path: Path) -> None:
    said: list[str] = []
    tuner(tmp_path / "bytes", {"train": (FACES, Y)}, network(shape=(12, 12, 3)), say=said.append)
    assert not said
    tuner(tmp_path / "run", {"train": (FACES / np.float32(255), Y)}, network(shape=(12, 12, 3)), say=said.append)
    assert len(said) == 1 and said[0].startswith(
        "d:train holds images as float32: `emotiw predict` and `emotiw evaluate` cannot"
    )


def test_ctrl_c_is_the_interrupt_that_python_knows(tmp_path: Path) -> None:
    press = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped and saved; the same command goes on"):
        tuner(tmp_path / "run", callbacks=[press]).fit()


def test_a_run_is_begun_anew_where_that_is_asked_for(tmp_path: Path) -> None:
    one = tuner(tmp_path / "run")
    one.fit()
    trained = (tmp_path / "run" / "model.weights.h5").read_bytes()
    one.fit(restart=True)
    assert (tmp_path / "run" / "model.weights.h5").read_bytes() != trained, "it goes on from what it has learned"
    kept = [path for path in tmp_path.iterdir() if path.name != "run"]
    assert len(kept) == 1 and (kept[0] / "model.weights.h5").read_bytes() == trained


def test_a_run_records_what_it_began_with_when_it_begins(tmp_path: Path) -> None:
    """Not what the network was when the second tuner was made."""
    model = network()
    first, second = tuner(tmp_path / "first", model=model), tuner(tmp_path / "second", model=model)
    first.fit()
    second.fit()
    began = [json.loads((tmp_path / name / "run.json").read_text())["began_with"] for name in ("first", "second")]
    assert began[0] != began[1]
