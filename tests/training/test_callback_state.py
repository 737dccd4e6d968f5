"""What callbacks gather survives a kill; what cannot is named; what a new script sets stays."""

import csv
import json
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras import Stage, StagedFineTuner
from emotiw_keras.errors import UsageError
from emotiw_keras.sealed import sealed_json, strict_json
from emotiw_keras.talk import Notice
from emotiw_keras.training import checkpoints
from emotiw_keras.training.callback_state import DEPTH, MOST, Gathered, is_entries, packed, unpacked
from emotiw_keras.training.stage_state import StageState

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(32, 6)).astype(np.float32)
Y = DRAW.integers(0, 3, 32).astype(np.int32)
Callback = keras.callbacks.Callback


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax", name="out")], name="net")


def tuner(
    folder: Path, callbacks: Sequence[Callback], stages: Sequence[str] = ("s",), val: bool = False, **settings: Any
) -> StagedFineTuner:
    model = settings.pop("model", None) or network()
    of_all = {"epochs": settings.pop("epochs", 4), "batch_size": 8, "optimizer": keras.optimizers.SGD(0.1)}
    of_all["val"] = ("d:val",) if val else ()
    split = {"train": (X, Y)} | ({"val": (X[:20], Y[:20])} if val else {})
    return StagedFineTuner(
        model, [Stage(name, train=("d:train",), **of_all) for name in stages], data={"d": split}, run_dir=folder,
        callbacks=callbacks, duplicates="keep", **{"say": None, **settings},
    )  # fmt: skip


def weights(model: keras.Model) -> bytes:
    return b"".join(value.tobytes() for value in model.get_weights())


class Stop(Callback):
    """Stops in a step, counted by the class: a new process would not count on. `signal` 0 ends without a checkpoint."""

    at, signal, seen = 0, signal.SIGTERM, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        Stop.seen += 1
        if Stop.seen == Stop.at:
            if not Stop.signal:
                raise KeyboardInterrupt
            signal.raise_signal(Stop.signal)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("at", "signal", "seen"):
        monkeypatch.setattr(Stop, name, vars(Stop)[name])


def stop(at: int, number: int = signal.SIGTERM) -> None:
    Stop.seen, Stop.at, Stop.signal = 0, at, number


class Counted(Callback):
    """A number that grows with each step."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.n += 1
        self.model.optimizer.learning_rate = 1e-2 * self.n


class Annealed(Callback):
    """An argument that it changes itself."""

    def __init__(self, rate: float = 0.4) -> None:
        super().__init__()
        self.rate = rate

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self.rate

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.rate *= 0.5


class Countdown(Callback):
    """Set up in `on_train_begin`, and at the value that `__init__` gave when it is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self.left = 6

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left < 0:
            self.model.optimizer.learning_rate = 0.02


class Listed(Callback):
    """What it keeps in lists, tables, tuples, arrays and None makes the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Any] = []
        self.by_epoch: dict[Any, Any] = {}
        self.sums, self.factor, self.last = np.zeros(2, np.float32), np.float32(1), None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append((batch, logs["loss"]))
        self.by_epoch[batch, None] = [logs["loss"]]
        self.sums += np.float32(logs["loss"])
        self.factor, self.last = self.factor * np.float32(0.9), (batch, self.last is None)
        rate = sum(loss for _, loss in self.losses) + sum(sum(each) for each in self.by_epoch.values()) + self.sums.sum()
        self.model.optimizer.learning_rate = 1e-2 * float(rate * self.factor) * (1 + self.last[0])


@pytest.mark.parametrize("make", [Counted, Annealed, Countdown, Listed])
def test_stopped_within_an_epoch_it_ends_in_the_same_bits(make: Callable[[], Callback], tmp_path: Path) -> None:
    whole = tuner(tmp_path / "whole", [make()])
    whole.fit()
    stop(6)
    with pytest.raises(BaseException, match="stopped and saved"):
        tuner(tmp_path / "cut", [make(), Stop()]).fit()
    cut = tuner(tmp_path / "cut", [make(), Stop()])
    cut.fit()
    assert Stop.seen == 16, "no step is done twice"
    assert weights(cut.model) == weights(whole.model)


class Waits(Callback):
    """A setting under another name, and what is made of it."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.allowed, self.waited = patience, 0

    def on_train_begin(self, logs: Any = None) -> None:
        self.twice = 2 * self.allowed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.waited += 1


def test_a_setting_of_a_new_script_stays_and_what_was_gathered_comes_back(tmp_path: Path) -> None:
    stop(7)
    with pytest.raises(BaseException, match="stopped and saved"):
        tuner(tmp_path / "run", [Waits(3), Stop()]).fit()
    new, said = Waits(10), list[str]()
    log: list[float] = []
    tuner(tmp_path / "run", [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: log.append(1)), new], say=said.append).fit()
    assert (new.allowed, new.twice, new.waited, len(log)) == (10, 20, 4, 3), "whatever stands before it now"
    assert not any("Waits" in line for line in said)


class Holds(Callback):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.seen, self.unused = keras.metrics.Mean(), set[int](), keras.metrics.Mean()
        self.last: Any = None
        self.net: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        self.net = self.model

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.mean.update_state(logs["loss"])
        self.seen.add(batch)
        self.last = keras.ops.convert_to_tensor([logs["loss"]])


def test_what_no_checkpoint_holds_is_named_once_when_it_goes_on(tmp_path: Path) -> None:
    stop(6)
    said: list[str] = []
    with pytest.raises(BaseException, match="stopped and saved"):
        tuner(tmp_path / "run", [Holds(), Stop()], say=said.append).fit()
    assert not any("Holds" in line for line in said)
    tuner(tmp_path / "run", [Holds()], say=said.append).fit()
    told = [line for line in said if "Holds" in line]
    assert len(told) == 1 and isinstance(told[0], Notice)
    assert "no checkpoint holds its mean (Mean), seen (set), last (EagerTensor), which had changed and begins anew" in told[0]


def test_what_keras_own_callbacks_make_anew_is_not_named(tmp_path: Path) -> None:
    callbacks = keras.callbacks

    def own(out: str) -> list[Callback]:
        return [
            callbacks.EarlyStopping("val_accuracy", patience=9, restore_best_weights=True),
            callbacks.ReduceLROnPlateau("val_loss", min_delta=0.5, patience=1),
            callbacks.ModelCheckpoint(str(tmp_path / f"{out}.keras"), monitor="val_loss", save_best_only=True),
            callbacks.CSVLogger(str(tmp_path / f"{out}.csv"), append=True), callbacks.TensorBoard(str(tmp_path / "board")),
            callbacks.History(), callbacks.TerminateOnNaN(), callbacks.ProgbarLogger(), Stop(),
        ]  # fmt: skip

    whole, again, said = tuner(tmp_path / "whole", own("whole"), val=True), own("cut"), list[str]()
    whole.fit()
    stop(11)
    with pytest.raises(BaseException, match="stopped and saved"):
        tuner(tmp_path / "cut", own("gone"), val=True).fit()
    (tmp_path / "gone.csv").rename(tmp_path / "cut.csv")
    (tmp_path / "gone.keras").unlink()
    cut = tuner(tmp_path / "cut", again, val=True, say=said.append)
    cut.fit()
    assert not any(isinstance(line, Notice) and "callback" in line for line in said)
    assert weights(cut.model) == weights(whole.model)
    assert (tmp_path / "cut.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert len(again[5].history["loss"]) == 4 and not (tmp_path / "gone.keras").exists(), "it writes where it is told now"


def test_a_callback_of_several_stages_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    """Killed before the second stage has written anything, in another process and in the same."""
    whole = tuner(tmp_path / "whole", [Counted()], ("one", "two"), epochs=2)
    whole.fit()
    for name, again in (("other", True), ("same", False)):
        stop(10, 0)
        cut = tuner(tmp_path / name, [Counted(), Stop()], ("one", "two"), epochs=2)
        with pytest.raises(KeyboardInterrupt):
            cut.fit()
        if again:
            cut = tuner(tmp_path / name, [Counted(), Stop()], ("one", "two"), epochs=2)
        cut.fit()
        assert weights(cut.model) == weights(whole.model)
        assert "callbacks" not in json.dumps(json.loads((tmp_path / name / "run.json").read_text())["stages"])


def test_another_fit_begins_with_what_callbacks_were_and_what_was_set_since(tmp_path: Path) -> None:
    counted, waits = Counted(), Waits(3)
    whole = tuner(tmp_path / "whole", [Counted()])
    whole.fit()
    stop(3, 0)
    cut = tuner(tmp_path / "cut", [counted, waits, Stop()])
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    assert counted.n == 3, "to be looked at"
    cut.model.set_weights(network().get_weights())
    waits.allowed = 7
    cut.fit()
    assert (counted.n, waits.allowed, waits.waited) == (16, 7, 4)
    assert weights(cut.model) == weights(whole.model)


def test_what_another_fit_cannot_set_back_is_said_to_stay_and_not_to_begin_anew(tmp_path: Path) -> None:
    stop(6, signal.SIGINT)
    said: list[str] = []
    cut = tuner(tmp_path / "run", [Holds(), Stop()], say=said.append)
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    cut.fit()
    told = [line.partition(", which had changed")[0].removeprefix("callback Holds: ") for line in said if "Holds" in line]
    stays = "goes on with what the interrupted fit left in it"
    assert told == [f"mean (Mean) {stays}", f"seen (set) {stays}", "no checkpoint holds its last (EagerTensor)"]


def test_a_checkpoint_of_the_version_before_goes_on(tmp_path: Path) -> None:
    stop(5)
    with pytest.raises(BaseException, match="stopped and saved"):
        tuner(tmp_path / "run", [Waits(3), Stop()]).fit()
    folder = tmp_path / "run" / "stages" / "01-s"
    for _, _, path in checkpoints.positions(folder):
        found = checkpoints.load(path)
        state = dict(found.meta["state"])
        del state["rate"], state["rate_at_zero"]
        state["callbacks"] = [{"allowed": 3, "twice": 6, "waited": 1}, {}]
        path.unlink()
        checkpoints.save(folder, path.name.rpartition("-")[0], found.arrays, {"state": state})
    waits = Waits(3)
    tuner(tmp_path / "run", [waits, Stop()]).fit()
    assert waits.waited == 4
    rows = csv.DictReader((tmp_path / "run" / "history.csv").read_text().splitlines())
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.1] * 4)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -0.0, math.nan, "é\n", [1, [None]], (1, (2.5,), []), {1: {"a": (1,)}, (2, "x"): None}, np.float64(0.1),
        np.int8(-3), np.arange(6, dtype=">i4").reshape(2, 3), np.zeros((0, 3), np.complex64), np.array(True),
        np.asfortranarray(np.eye(2)[:, :1]),
    ],
)  # fmt: skip
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    entry = strict_json(sealed_json({"entry": packed(value)}))["entry"]  # as in the files of a run
    assert is_entries({"": "Mine", "value": entry})
    again = unpacked(entry)
    assert type(again) is type(value)
    np.testing.assert_equal(again, value)
    if isinstance(value, np.ndarray | np.generic):
        assert again.dtype == value.dtype.newbyteorder("=") and again.shape == value.shape
        assert not isinstance(again, np.ndarray) or again.flags.writeable


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (np.arange(MOST), np.arange(MOST + 1)), (list(range(MOST)), [*range(MOST), ()]), ("a" * MOST, ("a" * MOST, "")),
        ({0: [(0,)] * (MOST - 1)}, {0: [(0,)] * MOST}), ([[]] * MOST, [[]] * (MOST + 1)),
        ([(), "", *["ab"] * (MOST // 2 - 1)], [(), np.zeros(0), "", *["ab"] * (MOST // 2 - 1)]),
        (dict.fromkeys(range(MOST // 2)), dict.fromkeys(range(MOST // 2 + 1))),
    ],
    ids=["array", "list", "text", "nested", "empty", "mixed", "dict"],
)  # fmt: skip
def test_as_many_values_as_the_page_says_are_kept_and_no_more(most: Any, more: Any) -> None:
    assert np.all(unpacked(packed(most)) == most)
    assert packed(more) == {"unkept": f"{type(more).__name__} with more than {MOST:,} values"}


def test_as_deep_as_is_kept_files_of_facts_can_be() -> None:
    deep: Any = 1.5
    for _ in range(DEPTH):
        deep = {"of": deep}
    facts = {"stages": [{"callbacks": [{"": "Mine", "value": packed(deep)}]}]}
    assert unpacked(strict_json(sealed_json(facts))["stages"][0]["callbacks"][0]["value"]) == deep


def test_no_file_says_where_callbacks_of_keras_write(tmp_path: Path) -> None:
    made = [
        keras.callbacks.BackupAndRestore(str(tmp_path / "mine")), keras.callbacks.CSVLogger(str(tmp_path / "mine.csv")),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "mine.keras")), keras.callbacks.TensorBoard(str(tmp_path / "mine")),
        keras.callbacks.RemoteMonitor("http://mine"), keras.callbacks.EarlyStopping(), keras.callbacks.ReduceLROnPlateau(),
    ]  # fmt: skip
    for callback in made:
        before = {name: value for name, value in vars(callback).items() if "mine" in str(value)}
        Gathered([callback]).restore([{"": type(callback).__name__, **dict.fromkeys(vars(callback), "/yours")}])
        assert {name: vars(callback)[name] for name in before} == before, type(callback).__name__
    assert vars(made[0])["backup_dir"] == str(tmp_path / "mine")


def test_a_large_array_that_changes_within_is_named() -> None:
    mine = Callback()
    mine.large = np.zeros((600, 600))
    gathered = Gathered([mine])
    mine.large[300, 300] = 5
    assert gathered.state() == [{"": "Callback", "large": {"unkept": f"ndarray with more than {MOST:,} values"}}]


def test_a_rate_at_zero_ends_with_the_zero() -> None:
    state = StageState()
    state.heed(0.0, 0.01)
    assert state.rate_at(0.0) == 0.01
    state.heed(0.1, 0.1)
    assert state.rate_at(0.0) == 0.0


def test_other_values_are_named_by_what_they_are() -> None:
    nested: list[Any] = []
    nested.append(nested)
    for value, words in (
        ({1}, "set"), ([1, {2}], "list with set"), ([0] * (MOST + 1), f"list with more than {MOST:,} values"),
        (1 << 5000, "int"), (np.zeros(MOST + 1), f"ndarray with more than {MOST:,} values"),
        (nested, "list with more than 12 in each other"), (np.array(["x"]), "ndarray"), (np.array([None]), "ndarray"),
        (print, "builtin_function_or_method"),
    ):  # fmt: skip
        assert packed(value) == {"unkept": words} and is_entries({"value": packed(value)})


@pytest.mark.parametrize(
    "entry",
    [
        {}, {"dict": [[[], 1]]}, {"dict": [[1]]}, {"dict": 1}, {"tuple": 1}, {"pickle": "x"}, {"array": []}, {"array": None},
        {"array": ["float64", [2], "AAAA"]}, {"array": ["object", [1], "AAAAAAAAAAA="]}, {"array": ["bool", [1], "\u00e9"]},
        {"array": ["float64", [-1], "AAAAAAAAAAA="]}, {"array": [["float64"], [1], "AAAAAAAAAAA="]},
        {"array": ["float64", [10**30, 0], ""]}, {"scalar": ["bool", [1], "AQ=="]}, {"unkept": 1}, {"unkept": "\x1b[2J"},
        {"unkept": "x" * 201}, {"unkept": "x", "y": 1}, json.loads("[" * 50 + "]" * 50),
    ],
)  # fmt: skip
def test_entries_of_a_stranger_are_checked(entry: Any) -> None:
    assert not is_entries({"": "Mine", "value": entry})
    assert not is_entries({"": 3}) and not is_entries({"\x1b": 1}) and not is_entries([])


class Told(Callback):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, dict[str, float]]] = []

    def on_train_end(self, logs: Any = None) -> None:
        self.told.append(("end", dict(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.told.append(("epoch", dict(logs)))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.told.append(("test", dict(logs)))


def test_the_end_and_each_batch_of_validation_are_told_as_by_model_fit(tmp_path: Path) -> None:
    plain, ours = Told(), Told()
    model, still = network(), keras.optimizers.SGD(0.0)
    loss, top = keras.losses.SparseCategoricalCrossentropy(reduction="sum"), keras.metrics.SparseTopKCategoricalAccuracy
    model.compile(still, loss, metrics=["accuracy", top(2, name="top")])
    held = (X[:20], Y[:20])
    model.fit(X, Y, batch_size=8, validation_data=held, callbacks=[plain], verbose=0)
    stage = Stage(
        "s", train=("d:train",), val=("d:val",), epochs=1, batch_size=8, optimizer=still, loss=loss,
        metrics=(top(2, name="top"),), callbacks=(ours,),
    )  # fmt: skip
    data = {"d": {"train": (X, Y), "val": held}}
    StagedFineTuner(network(), [stage], data=data, run_dir=tmp_path / "run", duplicates="keep", say=None).fit()
    assert [name for name, _ in ours.told] == [name for name, _ in plain.told] == ["test"] * 3 + ["epoch", "end"]
    for (_, mine), (_, its) in zip(ours.told, plain.told, strict=True):
        assert {name: mine.get(name) for name in its} == pytest.approx(its, rel=1e-5)
    assert ours.told[-1][1] == ours.told[-2][1], "the end has what the last epoch had"


def test_the_end_is_told_the_last_epoch_when_nothing_else_is_left(tmp_path: Path) -> None:
    class Fails(Callback):
        asked = True

        def on_train_end(self, logs: Any = None) -> None:
            if Fails.asked:
                raise ValueError(logs["accuracy"])

    for _ in range(2):
        with pytest.raises(ValueError, match="0"):
            tuner(tmp_path / "run", [Fails()]).fit()
    Fails.asked, told = False, Told()
    tuner(tmp_path / "run", [Fails(), told]).fit()
    with (tmp_path / "run" / "history.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert [name for name, _ in told.told] == ["end"]
    assert told.told[0][1]["accuracy"] == float(last["accuracy"])


def test_evaluate_in_a_callback_works_or_says_how(tmp_path: Path) -> None:
    found: list[float] = []
    score = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(score.model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"])
    )
    model = network()
    with pytest.raises(UsageError, match=r"calls evaluate of the network 'net', which is not compiled.*before StagedFineTuner"):
        tuner(tmp_path / "no", [score], model=model).fit()
    with pytest.raises(ValueError, match="compile"):
        model.evaluate(X, Y)
    model = network()
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    other = tuner(tmp_path / "without", [])
    other.fit()
    tuner(tmp_path / "run", [score], model=model).fit()
    assert len(found) == 4 and weights(model) == weights(other.model)
    assert found[-1] == float((model.predict(X, verbose=0).argmax(1) == Y).mean())
