"""The loop over stages, epochs and steps, and what it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.costs import cost_matrix
from emotiw_keras.data.batches import Pool, Source, batches
from emotiw_keras.data.device import FaceInput, draw_crops
from emotiw_keras.data.grey import for_grey
from emotiw_keras.errors import DataError, DivergedError, RunError
from emotiw_keras.files import atomic_path, check_room, sha256_file, write_atomic
from emotiw_keras.models.weights import weight_bytes
from emotiw_keras.runs import WEIGHTS_FILE, Run, fingerprint
from emotiw_keras.training import checkpoints
from emotiw_keras.training.averages import Averages
from emotiw_keras.training.caching import Plan, as_they_are, make_features, plan
from emotiw_keras.training.callbacks import Callbacks
from emotiw_keras.training.class_weights import class_weights
from emotiw_keras.training.crops import StageCrops
from emotiw_keras.training.curves import learning_curves
from emotiw_keras.training.events import write_events
from emotiw_keras.training.features import Features, discard
from emotiw_keras.training.freezing import apply_rules, check_moved, digests, initialise_layers, layers_named
from emotiw_keras.training.interrupts import Flag, Interrupted, delayed_signals
from emotiw_keras.training.keep import kept_stage
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.own_data import Batches, are_faces
from emotiw_keras.training.progress import Progress, silent
from emotiw_keras.training.run_writer import csv_text, history_columns, read_done, write_done, write_info
from emotiw_keras.training.schedules import Rates, learning_rates
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.steps import StageSteps
from emotiw_keras.training.teachers import Teachers

# A kill costs at most the shorter of one epoch and five minutes.
SECONDS_BETWEEN_CHECKPOINTS = 240.0
CHECKPOINTS_KEPT = 2
VALIDATION_BATCH = 128
Trained = Source | Batches
"""What a stage trains on: items known by their number, or batches as they come."""
BLAME = "lower learning_rate, raise warmup_steps or set clip_norm with --set, and start anew with --restart"


@dataclass
class _State:
    """Where a stage stands: all of it goes into a checkpoint."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    right: int = 0
    seconds: float = 0.0
    waited: int = 0
    features: bool = False
    rate_factor: float = 1.0
    stopped: bool = False
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)


class StageLoop:
    """Train a network through stages, into a run folder that survives a kill at any moment.

    Per stage: the rules are resolved to variables, a new optimizer is made, the stage is trained and checked. The best epoch on
    the validation images is kept and starts the next stage.

    Args:
        model: a network that returns logits or probabilities, (batch, classes).
        stages: in order.
        train: stage name -> training images.
        val: stage name -> validation images, or None to keep the last epoch.
        face_input: bytes to network input; None where the network takes its data as they are.
        run_dir: the run folder; recipe.toml, data.csv and run.json stand there already.
        info: run.json's content; results are added to it.
        seed: order, crops and new layers.
        say: takes lines for people.
        progress: takes the state of an epoch under way.
        teachers: the runs that stages name as their teachers, by that name.
        metrics, callbacks: Keras objects for every stage, before a stage's own.
    """

    def __init__(
        self,
        model: keras.Model,
        stages: Sequence[Stage],
        *,
        train: Mapping[str, Trained],
        val: Mapping[str, Trained | None],
        face_input: FaceInput | None,
        run_dir: str | Path,
        info: dict[str, Any],
        seed: int = 0,
        say: Callable[[str], None] = silent,
        progress: Progress | None = None,
        teachers: Mapping[str, Run] | None = None,
        metrics: Sequence[keras.metrics.Metric] = (),
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self.teachers = teachers or {}
        self.metrics, self.callbacks = tuple(metrics), tuple(callbacks)
        self.model, self.stages, self.face_input = model, tuple(stages), face_input
        self.train, self.val = train, val
        self.run_dir, self.info, self.seed, self.say = Path(run_dir), info, seed, say
        self.progress = progress or Progress()
        self.rows: list[dict[str, Any]] = []

    def fit(self) -> Run:
        """Train all stages, or those that are left.

        Returns:
            The finished run.

        Raises:
            DivergedError: a loss that is not finite; the best epoch so far stays.
            Interrupted: SIGTERM or Ctrl-C, after saving.
            RunError: checkpoints that do not belong to this network.
            OutputError: the run folder cannot be written.
        """
        self.info["stages"] = []
        self.check()
        with delayed_signals() as flag:
            for number, stage in enumerate(self.stages, 1):
                self._fit_stage(number, stage, flag)
        kept = kept_stage(self.stages, self.info["stages"], self.info.get("keep", "last"), self.say)
        if kept < len(self.stages) - 1:
            folder = self._folder(kept + 1, self.stages[kept])
            self._restore_model(checkpoints.load(folder / self.info["stages"][kept]["best_file"]))
            self.info["kept"] = self.stages[kept].name
        self._finish()
        return Run.open(self.run_dir, self.model if self.info["model"].get("given") else None)

    def check(self) -> None:
        """Find what is impossible before the first stage has run; nothing is written.

        Raises:
            UsageError: rules, or names of layers to initialise, that do not fit the network; features that cannot be kept.
        """
        for number, stage in enumerate(self.stages, 1):
            where = f"stage {stage.name!r}"
            layers_named(self.model, stage.initialise, where)
            apply_rules(self.model, stage.rules, where)
            if stage.cache_features is True:
                self._plan(number, stage)

    def _folder(self, number: int, stage: Stage) -> Path:
        return self.run_dir / "stages" / f"{number:02d}-{stage.name}"

    def _fit_stage(self, number: int, stage: Stage, flag: Flag) -> None:
        folder = self._folder(number, stage)
        marker = folder / "done.json"
        if not marker.exists():
            result = self._train_stage(number, stage, folder, flag)
            write_done(marker, result)
            discard(self.run_dir)
        else:
            result = read_done(marker)
            self.say(f"stage {number} {stage.name}: finished before, best epoch {result['best_epoch']}")
        self.rows += [row for row in result.pop("rows") if row not in self.rows]
        self._restore_model(checkpoints.load(folder / result["best_file"]))
        self.info["stages"].append(result)
        self._write_history()
        learning_curves(self.run_dir / "history.csv", self.run_dir / "curves.png")

    def _crops(self, number: int, stage: Stage) -> StageCrops:
        room = 0 if self.face_input is None else self.face_input.room
        return StageCrops(stage, len(self.train[stage.name]), room, (self.seed, number))

    def _plan(self, number: int, stage: Stage, decided: bool | None = None) -> Plan:
        val = self.val[stage.name]
        if not all(isinstance(part, Pool) for part in (self.train[stage.name], val) if part is not None):
            return Plan(None, 0, 0, "")  # features are kept of faces in files alone
        return plan(self.model, stage, self._crops(number, stage), 0 if val is None else len(val), self.run_dir, decided)

    def _train_stage(self, number: int, stage: Stage, folder: Path, flag: Flag) -> dict[str, Any]:
        where = f"stage {stage.name!r}"
        pool, val = self.train[stage.name], self.val[stage.name]
        layer_rates = apply_rules(self.model, stage.rules, where)
        half = self.info["precision"] == "mixed_float16"
        optimizer = make_optimizer(stage, self.model.trainable_variables, layer_rates, scale_loss=half)
        state = _State()
        found = checkpoints.newest(folder, self.say) if folder.exists() else None
        if found is not None:
            state = checkpoints.restored(_State, found)
            self._restore_model(found)
            self._restore("optimizer", optimizer.variables, found)
            self.say(f"stage {number} {stage.name}: going on at epoch {state.epoch + 1}, step {state.step}")
        else:
            new = initialise_layers(self.model, stage.initialise, self.seed, where)
            state.before = digests(self.model)
            frozen = [layer.name for layer in self.model.layers if layer.weights and not layer.trainable]
            parameters = sum(math.prod(variable.shape) for variable in self.model.trainable_variables)
            self.say(
                f"stage {number} {stage.name}: {len(pool):,} images, {stage.epochs} epochs of "
                f"{_steps(pool, stage)} steps, {parameters:,} trainable parameters"
                + (f"; frozen: {', '.join(frozen)}" if frozen else "")
                + (f"; initialised anew: {', '.join(new)}" if new else "")
            )
        averages = Averages(self.model, stage.average_decay) if stage.average_decay else None
        if averages is not None and found is not None:
            self._restore("average", averages.variables, found)
        weights = np.ones(len(self.info["labels"]), np.float32)
        if not isinstance(pool, Batches) and stage.class_weight != "none":
            whole = pool.labels if pool.labels.ndim == 1 else pool.labels.argmax(axis=1)
            weights = class_weights(whole, len(self.info["labels"]), stage.class_weight)
        costs = cost_matrix(self.info["labels"], stage.costs or None) if stage.cost_weight else None
        metrics = (*self.metrics, *stage.metrics)
        crops = self._crops(number, stage)
        planned = self._plan(number, stage, state.features if found is not None else None)
        state.features = planned.cut is not None and not planned.against
        if planned.told:
            self.say(f"  {planned.told}")
        train: Trained
        judged: Trained | None
        if planned.cut is not None and state.features:
            assert isinstance(pool, Pool) and (val is None or isinstance(val, Pool)) and self.face_input is not None
            facts = {"versions": self.info["versions"], "threads": self.info["threads"]}

            def stop() -> None:
                self._stop_if_asked(flag)

            train, judged = make_features(planned.cut, self.face_input, crops, pool, val, self.run_dir, facts, self.say, stop)
            tail = planned.cut.tail
            steps = StageSteps(
                tail, as_they_are, stage, weights, optimizer, train.shape, train.dtype, averages, costs, metrics=metrics
            )
            judge = steps
        else:
            train, judged = pool, val
            net, given = self._prepared_for(pool)
            taught_by = self._teachers_of(stage, net)
            labels = _label_spec(pool)
            steps = StageSteps(
                net, given, stage, weights, optimizer, pool.shape, pool.dtype, averages, costs, taught_by, labels, metrics
            )
            judge = steps
            if val is not None and (val.shape, val.dtype, _label_spec(val)) != (pool.shape, pool.dtype, labels):
                net, given = self._prepared_for(val)
                judge = StageSteps(
                    net, given, stage, weights, optimizer, val.shape, val.dtype, labels=_label_spec(val), metrics=metrics
                )
        if isinstance(pool, Batches):
            self.say(f"  {pool.kind} {pool.name}: an interrupted run goes on at the end of its last whole epoch")
        if found is not None:
            self._restore("metric", [variable for metric in metrics for variable in metric.variables], found)
        per_epoch = _steps(pool, stage)
        rates = learning_rates(stage, per_epoch)
        every = (*self.callbacks, *stage.callbacks)
        callbacks = Callbacks(every, self.model, optimizer, stage.epochs, per_epoch, metrics, state.callbacks)
        while state.epoch < stage.epochs and not (stage.patience and state.waited >= stage.patience) and not state.stopped:
            self._epoch(stage, folder, train, crops, steps, rates, callbacks, state, flag)
            with averages.in_place() if averages is not None else nullcontext():
                self._judge(stage, folder, train, judged, judge, rates, callbacks, state)
            self._save(folder, steps, state)
            # Told only now: an epoch that was told is never done again.
            self.progress.epoch(self.say, stage, state.rows[-1], state.best["epoch"] == state.epoch)
            self.rows = [row for row in self.rows if row["stage"] != stage.name] + state.rows
            self._write_history()
            self._stop_if_asked(flag)
        callbacks.end()
        still = check_moved(self.model, state.before, where)
        if still:
            self.say(f"warning: {where}: these trainable weights did not move: {', '.join(still)}")
        return {
            "name": stage.name,
            "epochs": len(state.rows),
            "stopped_early": state.epoch < stage.epochs,
            "best_epoch": state.best["epoch"],
            "best_file": state.best["file"],
            "monitor": stage.monitor if val is not None else "last epoch",
            **{key: state.rows[state.best["epoch"] - 1].get(key) for key in ("val_accuracy", "val_loss", "val_macro_f1")},
            "images": len(pool),
            "did_not_move": still,
            "rows": state.rows,
        }

    def _prepared_for(self, source: Trained) -> tuple[keras.Model, Callable[..., Any]]:
        """The network and the input to compute with: bytes go through `FaceInput`, anything else goes in as it is."""
        if self.face_input is None or not are_faces(source.shape, source.dtype):
            return self.model, as_they_are
        return for_grey(self.model, self.face_input)

    def _teachers_of(self, stage: Stage, net: keras.Model) -> Teachers | None:
        if not stage.teachers:
            return None
        return Teachers([self.teachers[name] for name in stage.teachers], self.info["labels"], net, self.info["precision"])

    def _batches(self, stage: Stage, train: Trained, crops: StageCrops, state: _State) -> Iterator[tuple[Any, Any, Any]]:
        """The batches of an epoch that are left: what the source holds, what happens to each image, labels."""
        if isinstance(train, Batches):
            for number, (images, labels) in enumerate(train):
                seed = (*crops.seed, state.epoch, 1, number)
                drawn = draw_crops(len(images), crops.room, mirror=stage.mirror, seed=seed)
                if not stage.random_crop:
                    drawn[:, :2] = crops.room // 2
                yield images, drawn if not stage.augmented else crops.augmented(drawn, seed), labels
            return
        taken = None
        if isinstance(train, Features):
            train.choose(crops.chosen(state.epoch))
        else:
            taken = crops.draws_of_epoch(state.epoch)
        yield from batches(train, crops.order(state.epoch, train.labels), taken, stage.batch_size, state.step)

    def _epoch(
        self,
        stage: Stage,
        folder: Path,
        train: Trained,
        crops: StageCrops,
        steps: StageSteps,
        rates: Rates,
        callbacks: Callbacks,
        state: _State,
        flag: Flag,
    ) -> None:
        """The steps of one epoch that are left."""
        per_epoch = _steps(train, stage)
        if state.step == 0:
            steps.reset_metrics()
            state.rate_factor *= callbacks.epoch_begin(state.epoch, rates(state.epoch * per_epoch) * state.rate_factor)
        saved = clock = time.monotonic()
        for images, draws, labels in self._batches(stage, train, crops, state):
            rate = rates(state.epoch * per_epoch + state.step) * state.rate_factor
            callbacks.batch_begin(state.step)
            loss, right = steps.train(images, draws, labels, rate)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"stage {stage.name!r} diverged: the loss is {loss} at epoch {state.epoch + 1}, step {state.step + 1}, "
                    f"learning rate {rate:g}; the best epoch before it is kept in {folder}; {BLAME}"
                )
            state.loss += loss
            state.right += right
            state.step += 1
            if callbacks.any:
                done = min(state.step * stage.batch_size, len(train))
                logs = {"loss": state.loss / done, "accuracy": state.right / done, **steps.metric_values()}
                state.rate_factor *= callbacks.batch_end(state.step - 1, logs, rate)
            now = time.monotonic()
            state.seconds += now - clock
            clock = now
            self.progress.step(stage, state.epoch, state.step, per_epoch, state.loss, state.right, state.seconds, len(train))
            if isinstance(train, Batches):
                self._stop_if_asked(flag)
                continue
            if state.step == per_epoch:
                break
            if flag.number is not None:
                self._save(folder, steps, state)
                self._stop_if_asked(flag)
            if now - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save(folder, steps, state)
                self.progress.note(self.say)
                saved = clock = time.monotonic()

        if state.step != per_epoch:
            assert isinstance(train, Batches)
            raise DataError(
                f"{train.name} gave {state.step} batches, but {per_epoch} the time before; expected as many each time"
            )

    def _judge(
        self,
        stage: Stage,
        folder: Path,
        train: Trained,
        val: Trained | None,
        judge: StageSteps,
        rates: Rates,
        callbacks: Callbacks,
        state: _State,
    ) -> None:
        """Close the epoch: validation, the row of the history, the best epoch so far."""
        trained = judge.metric_values()
        scores: dict[str, float] = {}
        if val is not None:
            callbacks.test_begin()
            scores = judge.evaluate(_validation(val))
            callbacks.test_end(scores)
        rate = rates(state.epoch * _steps(train, stage)) * state.rate_factor
        state.epoch += 1
        row: dict[str, Any] = {
            "stage": stage.name,
            "epoch": state.epoch,
            "learning_rate": rate,
            "loss": state.loss / len(train),
            "accuracy": state.right / len(train),
            **trained,
            **scores,
            "seconds": round(state.seconds, 3),
            "images_per_second": round(len(train) / max(state.seconds, 1e-9), 2),
        }
        state.rows.append(row)
        value = scores.get(stage.monitor, float(state.epoch))
        value = -value if val is not None and stage.monitor == "val_loss" else value
        for name, score in {**scores, stage.monitor: value}.items():
            if not math.isfinite(score):
                raise DivergedError(f"stage {stage.name!r} diverged: {name} is {score} after epoch {state.epoch}; {BLAME}")
        state.waited += 1
        if not state.best or value > state.best["value"]:
            file = checkpoints.save(folder, f"best-e{state.epoch:04d}", self._arrays("model", self.model.variables), {})
            state.best = {"epoch": state.epoch, "value": value, "file": file.name}
            state.waited = 0
        left_out = ("stage", "epoch", "seconds", "images_per_second")
        logs = {key: item for key, item in row.items() if key not in left_out}
        state.rate_factor *= callbacks.epoch_end(state.epoch - 1, logs, rate)
        state.callbacks, state.stopped = callbacks.state(), callbacks.stopped
        state.step, state.loss, state.right, state.seconds = 0, 0.0, 0, 0.0

    def _save(self, folder: Path, steps: StageSteps, state: _State) -> None:
        arrays, meta = self._arrays("optimizer", steps.optimizer.variables), {"state": vars(state)}
        if steps.averages is None and state.step == 0 and state.best.get("epoch") == state.epoch:
            meta[checkpoints.REST] = state.best["file"]  # written a moment ago; with averages it holds those
        else:
            arrays |= self._arrays("model", self.model.variables)
        if steps.averages is not None:
            arrays |= self._arrays("average", steps.averages.variables)
        arrays |= self._arrays("metric", [variable for metric in steps.metrics for variable in metric.variables])
        checkpoints.save(folder, f"e{state.epoch:04d}-s{state.step:06d}", arrays, meta)
        kept = checkpoints.positions(folder)[:CHECKPOINTS_KEPT]
        referenced = {state.best.get("file", "")}
        if len(kept) > 1 and len(list(folder.glob("best-*.npz"))) > 1:
            referenced.add(checkpoints.best_of(kept[1][2]))
        checkpoints.prune(folder, CHECKPOINTS_KEPT, referenced)

    def _stop_if_asked(self, flag: Flag) -> None:
        if flag.number is not None:
            self.progress.close()
            raise Interrupted(flag.number, f"stopped and saved; the same command goes on from {self.run_dir}")

    @staticmethod
    def _arrays(kind: str, variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
        return {f"{kind}/{number:04d}/{variable.path}": variable.numpy() for number, variable in enumerate(variables)}

    def _restore_model(self, checkpoint: checkpoints.Checkpoint) -> None:
        self._restore("model", self.model.variables, checkpoint)

    @staticmethod
    def _restore(kind: str, variables: Sequence[keras.Variable], checkpoint: checkpoints.Checkpoint) -> None:
        """Assign every variable from a checkpoint, by order, shape and type; nothing may be left on either side."""
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

    def _write_history(self) -> None:
        columns = history_columns(self.stages)
        metrics = dict.fromkeys(key for row in self.rows for key in row if key not in (*columns, "val_macro_f1"))
        write_atomic(self.run_dir / "history.csv", csv_text((*columns, *metrics), self.rows))
        write_events(self.run_dir / "events", self.rows)

    def _finish(self) -> None:
        discard(self.run_dir)  # what a kill just before this left
        with atomic_path(self.run_dir / WEIGHTS_FILE) as temporary:
            check_room(temporary, weight_bytes(self.model))
            self.model.save_weights(temporary)
        self.info["weights"] = {"sha256": sha256_file(self.run_dir / WEIGHTS_FILE), "variables": fingerprint(self.model)}
        self.info["finished"] = True
        write_info(self.run_dir, self.info)


def _steps(source: Trained, stage: Stage) -> int:
    """Steps in an epoch."""
    return source.steps if isinstance(source, Batches) else math.ceil(len(source) / stage.batch_size)


def _label_spec(source: Trained) -> tf.TensorSpec:
    """What a batch's labels are."""
    return source.label_spec if hasattr(source, "label_spec") else tf.TensorSpec((None,), tf.int32)


def _validation(source: Trained) -> Iterator[tuple[Any, Any]]:
    """Images and labels of a source in its own order; the batches are the same whatever was done before."""
    if isinstance(source, Batches):
        yield from source
    else:
        for images, _, labels in batches(source, np.arange(len(source)), None, VALIDATION_BATCH):
            yield images, labels
