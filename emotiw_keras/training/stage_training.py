"""One stage: what its steps need, its epochs, validation, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from emotiw_keras.costs import cost_matrix
from emotiw_keras.data.batches import Pool
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.one_channel import for_grey
from emotiw_keras.errors import DataError, DivergedError, RunError, UsageError
from emotiw_keras.heads import heads_of
from emotiw_keras.runs import Run
from emotiw_keras.talk import Notice
from emotiw_keras.training import checkpoints
from emotiw_keras.training.averages import Averages
from emotiw_keras.training.behind import Behind, nothing
from emotiw_keras.training.caching import Plan, as_they_are, make_features, plan
from emotiw_keras.training.callbacks import Callbacks
from emotiw_keras.training.class_weights import class_weights
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.epoch_progress import Progress, silent
from emotiw_keras.training.feeds import Trained, epoch_batches, label_spec, steps_in_epoch, validation_batches
from emotiw_keras.training.freezing import apply_rules, check_moved, digests, initialise_layers, layers_named, weighted_layers
from emotiw_keras.training.interrupts import Flag, Interrupted
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.own_data import Batches, are_faces
from emotiw_keras.training.pull_to_start import PullToStart
from emotiw_keras.training.replicas import Replicas, fingerprint
from emotiw_keras.training.schedules import learning_rates
from emotiw_keras.training.shared_step import SAVE, SharedSteps
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_state import StageState, arrays, restore
from emotiw_keras.training.teachers import Teachers
from emotiw_keras.training.train_step import StageSteps

# A kill costs at most the shorter of one epoch and five minutes.
SECONDS_BETWEEN_CHECKPOINTS = 240.0
CHECKPOINTS_KEPT = 2
BLAME = "lower learning_rate, raise warmup_steps or set clip_norm with --set, and start anew with --restart"


@dataclass
class Surroundings:
    """What all stages of a run share; see `StageLoop`."""

    model: keras.Model
    face_input: FaceInput | None
    run_dir: Path
    info: dict[str, Any]
    seed: int = 0
    say: Callable[[str], None] = silent
    progress: Progress = field(default_factory=Progress)
    teachers: Mapping[str, Run] = field(default_factory=dict)
    metrics: Sequence[keras.metrics.Metric] = ()
    callbacks: Sequence[keras.callbacks.Callback] = ()
    replicas: Replicas | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder: the only one, or the chief of several."""
        return self.replicas is None or self.replicas.chief

    def together(self) -> AbstractContextManager[None]:
        """Within, what one worker does and others do not; where it fails, all end with its error."""
        return nullcontext() if self.replicas is None else self.replicas.together()

    def from_chief(self, make: Callable[[], Any]) -> Any:
        """What the worker that writes makes, plain data; every worker has it."""
        made = None
        with self.together():
            if self.writes:
                made = make()
        return made if self.replicas is None else self.replicas.from_chief(made)

    def stop_if_asked(self, flag: Flag) -> None:
        """Raise `Interrupted` where a signal has come."""
        if flag.number is not None:
            self.progress.close()
            raise Interrupted(flag.number, f"stopped and saved; the same command goes on from {self.run_dir}")


class StageTraining:
    """The training of one stage, from its start or from its newest checkpoint.

    Args:
        run: what it shares with the other stages.
        number: of the stage, from 1.
        stage: its settings.
        train: what it trains on.
        val: what it selects on, or None to keep the last epoch.
        flag: a signal that has come.
    """

    def __init__(
        self, run: Surroundings, number: int, stage: Stage, train: Trained, val: Trained | None, flag: Flag | None = None
    ) -> None:
        self.run, self.number, self.stage, self.flag = run, number, stage, flag or Flag()
        self.agreed = self.flag if run.replicas is None else Flag()  # several workers stop at the same step
        self.train, self.val = train, val
        self.folder = run.run_dir / "stages" / f"{number:02d}-{stage.name}"
        self.where = f"stage {stage.name!r}"
        self.images, self.per_epoch = len(train), steps_in_epoch(train, stage)
        room = 0 if run.face_input is None else run.face_input.room
        self.crops = StageCrops(stage, self.images, room, (run.seed, number))
        self.behind = Behind(run.say, threads=run.replicas is None)
        self.new_best: dict[str, np.ndarray] | None = None
        """The weights of the best epoch, until they are written."""

    def check(self) -> None:
        """Refuse settings that change images where the network takes them as they are.

        Raises:
            UsageError: such a setting.
        """
        stage, replicas = self.stage, self.run.replicas
        if replicas is not None:
            self._check_shared(replicas)
        asked = {
            "crops_per_image": stage.crops_per_image, "cache_features": stage.cache_features is True,
            "teachers": stage.teachers, ", ".join(stage.augmentations): stage.augmented,
        }  # fmt: skip
        for key, value in asked.items():
            if value and self._as_they_are(self.train):
                raise UsageError(
                    f"{self.where} sets {key}, but {self.run.model.name} takes its inputs as they are; pass preprocessing, so "
                    "that faces are prepared outside of it"
                )

    def _check_shared(self, replicas: Replicas) -> None:
        """Refuse what several replicas cannot heed."""
        if self.stage.cache_features is True:
            raise UsageError(
                f"{self.where} sets cache_features = true, which is for --strategy none: features are kept on one disk"
            )
        batches = [each for each in (self.train, self.val) if isinstance(each, Batches)]
        if batches and replicas.workers > 1:
            raise UsageError(
                f"{self.where} is given {batches[0].kind} {batches[0].name}, of which workers cannot know that it is the "
                "same on all; give faces in files or arrays"
            )
        if not batches and self.stage.batch_size < replicas.count:
            raise UsageError(
                f"{self.where} has batch_size = {self.stage.batch_size} for {replicas.count} replicas; expected at least "
                "one image for each"
            )

    def _as_they_are(self, source: Trained) -> bool:
        """Whether the network takes a source without `FaceInput` before it."""
        return self.run.face_input is None or not are_faces(source.shape, source.dtype)

    def plan(self, decided: bool | None = None) -> Plan:
        """Whether what its frozen start makes is computed once; see `caching.plan`."""
        of_files = all(isinstance(part, Pool) for part in (self.train, self.val) if part is not None)
        if not of_files or self.run.face_input is None or self.run.replicas is not None:
            return Plan(None, 0, 0, "")  # features are kept of faces in files alone, which `FaceInput` prepares
        count = 0 if self.val is None else len(self.val)
        return plan(self.run.model, self.stage, self.crops, count, self.run.run_dir, decided)

    def fit(self, after_epoch: Callable[[Sequence[dict[str, Any]]], None]) -> dict[str, Any]:
        """Train the epochs that are left.

        Args:
            after_epoch: takes the rows of the history so far.

        Returns:
            What the run records of the stage; its rows are among it.
        """
        self._begin()
        run, state, stage = self.run, self.state, self.stage
        with self.behind:
            while state.epoch < stage.epochs and not (stage.patience and state.waited >= stage.patience) and not state.stopped:
                self._epoch()
                with self.averages.in_place() if self.averages is not None else nullcontext():
                    trained, scores = self.steps.metric_values(), self._validate()
                    with run.together():
                        self._close_epoch(trained, scores)
                self._save(partial(self._tell_epoch, after_epoch, list(state.rows), state.best["epoch"]))
                self._stop_if_asked()
        self.callbacks.end()
        still = check_moved(self.run.model, state.before, self.where)
        if still:
            self.run.say(Notice(f"warning: {self.where}: these trainable weights did not move: {', '.join(still)}"))
        return {
            "name": stage.name,
            "epochs": len(state.rows),
            "stopped_early": state.epoch < stage.epochs,
            "best_epoch": state.best["epoch"],
            "best_file": state.best["file"],
            "monitor": stage.monitor if self.val is not None else "last epoch",
            **{key: state.rows[state.best["epoch"] - 1].get(key) for key in ("val_accuracy", "val_loss", "val_macro_f1")},
            "images": self.images,
            "did_not_move": still,
            "rows": state.rows,
        }

    def _tell_epoch(
        self, after_epoch: Callable[[Sequence[dict[str, Any]]], None], rows: Sequence[dict[str, Any]], best: int
    ) -> None:
        """Say how the last epoch of `rows` went. Only once its checkpoint is written: an epoch that was told is never done
        again."""
        self._agree()
        self.run.progress.epoch(self.run.say, self.stage, rows[-1], best == rows[-1]["epoch"])
        with self.run.together():
            after_epoch(rows)

    def _stop_if_asked(self) -> None:
        """Stop where a signal has come, with everything written."""
        if self.agreed.number is not None:
            self.behind.finish()
        self.run.stop_if_asked(self.agreed)

    def _begin(self) -> None:
        """Freeze, restore or initialise, and make what the steps need."""
        run, stage = self.run, self.stage
        layer_rates = apply_rules(run.model, stage.rules, self.where)
        half = run.info["precision"] == "mixed_float16"
        optimizer = make_optimizer(stage, run.model.trainable_variables, layer_rates, scale_loss=half)
        found = None
        with run.together():
            if run.writes and self.folder.exists():
                found = checkpoints.newest(self.folder, run.say)
        self.state = StageState() if found is None else checkpoints.restored(StageState, found)
        self.metrics = (*run.metrics, *stage.metrics)
        if found is None:
            new = initialise_layers(run.model, stage.initialise, run.seed, self.where)
            self.state.before = digests(run.model)
            self._tell_start(new)
        else:
            restore("model", run.model.variables, found)
            restore("optimizer", optimizer.variables, found)
            run.say(f"stage {self.number} {stage.name}: going on at epoch {self.state.epoch + 1}, step {self.state.step}")
        if run.replicas is not None and run.replicas.workers > 1:
            self.state = StageState(**run.replicas.from_chief(vars(self.state)))
        self.averages = Averages(run.model, stage.average_decay) if stage.average_decay else None
        if self.averages is not None and found is not None:
            restore("average", self.averages.variables, found)
        self.pull = self._pull() if stage.pull_to_start else None
        planned = self.plan(self.state.features if found is not None else None)
        self.state.features = planned.cut is not None and not planned.against
        if planned.told:
            run.say(f"  {planned.told}")
        if self._as_they_are(self.train):
            run.say(Notice("  inputs go into the network as they are: no random crop or mirror of the stage"))
        if isinstance(self.train, Batches):
            run.say(f"  {self.train.kind} {self.train.name}: an interrupted run goes on at the end of its last whole epoch")
        self._make_steps(planned, optimizer)
        if found is not None:
            restore("metric", [variable for metric in self.metrics for variable in metric.variables], found)
        if run.replicas is not None:
            held = [*run.model.variables, *optimizer.variables, *(() if self.averages is None else self.averages.variables)]
            held += [] if self.pull is None else self.pull.variables
            run.replicas.spread([*held, *(variable for metric in self.metrics for variable in metric.variables)])
        self.rates = learning_rates(stage, self.per_epoch)
        self.callbacks = Callbacks(
            (*run.callbacks, *stage.callbacks),
            run.model,
            optimizer,
            stage.epochs,
            self.per_epoch,
            self.metrics,
            self.state.callbacks,
        )

    def _pull(self) -> PullToStart:
        """The pull to where the stage began, which a file keeps for an interrupted one."""
        model, stage = self.run.model, self.stage
        pull = PullToStart(model, stage.pull_to_start, layers_named(model, stage.initialise, self.where))
        with self.run.together():
            if not self.run.writes:
                return pull  # the chief gives it its values
            if self.state.start:
                restore("start", pull.variables, checkpoints.load(self.folder / self.state.start))
            else:
                self.state.start = checkpoints.save(self.folder, "best-e0000", arrays("start", pull.variables), {}).name
        return pull

    def _tell_start(self, new: Sequence[str]) -> None:
        model = self.run.model
        frozen = [name for name, layer in weighted_layers(model).items() if not layer.trainable]
        parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        self.run.say(
            f"stage {self.number} {self.stage.name}: {self.images:,} images, {self.stage.epochs} epochs of {self.per_epoch} "
            f"steps, {parameters:,} trainable parameters"
            + (f"; frozen: {', '.join(frozen)}" if frozen else "")
            + (f"; initialised anew: {', '.join(new)}" if new else "")
        )

    def _make_steps(self, planned: Plan, optimizer: keras.optimizers.Optimizer) -> None:
        """The compiled steps, on images or on the features of a frozen start."""
        run, stage, heads = self.run, self.stage, heads_of(self.run.info)
        classes = run.model.output_shape[-1] if heads else len(run.info["labels"])
        weights = np.ones(classes, np.float32)
        if not heads and not isinstance(self.train, Batches) and stage.class_weight != "none":
            whole = self.train.labels if self.train.labels.ndim == 1 else self.train.labels.argmax(axis=1)
            weights = class_weights(whole, classes, stage.class_weight)
        costs = cost_matrix(run.info["labels"], stage.costs or None) if stage.cost_weight else None
        train, val = self.train, self.val
        if planned.cut is not None and self.state.features:
            assert isinstance(train, Pool) and (val is None or isinstance(val, Pool)) and run.face_input is not None
            facts = {"versions": run.info["versions"], "threads": run.info["threads"]}

            def stop() -> None:
                run.stop_if_asked(self.flag)

            kept, self.val = make_features(
                planned.cut, run.face_input, self.crops, train, val, run.run_dir, facts, run.say, stop
            )
            self.train = kept
            self.steps = self.judge = StageSteps(
                planned.cut.tail, as_they_are, stage, weights, optimizer, kept.shape, kept.dtype, self.averages, costs,
                labels=label_spec(kept), metrics=self.metrics, heads=heads, pull=self.pull,
            )  # fmt: skip
            return
        net, given = self._prepared_for(train)
        taught_by = None
        if stage.teachers:
            teachers = [run.teachers[name] for name in stage.teachers]
            taught_by = Teachers(teachers, heads or run.info["labels"], net, run.info["precision"])
        labels = label_spec(train)
        make = StageSteps if run.replicas is None else partial(SharedSteps, run.replicas)
        self.steps = self.judge = make(
            net,
            given,
            stage,
            weights,
            optimizer,
            train.shape,
            train.dtype,
            self.averages,
            costs,
            taught_by,
            labels,
            self.metrics,
            heads,
            self.pull,
        )
        if isinstance(self.steps, SharedSteps):
            self.steps.trace()
        if val is not None and (val.shape, val.dtype, label_spec(val)) != (train.shape, train.dtype, labels):
            net, given = self._prepared_for(val)
            self.judge = make(
                net, given, stage, weights, optimizer, val.shape, val.dtype, labels=label_spec(val), metrics=self.metrics,
                heads=heads,
            )  # fmt: skip

    def _prepared_for(self, source: Trained, net: keras.Model | None = None) -> tuple[keras.Model, Callable[..., Any]]:
        """The network (or a part of it from its input on) and the input to compute with: bytes go through `FaceInput`, anything
        else goes in as it is."""
        net = self.run.model if net is None else net
        if self.run.face_input is None or self._as_they_are(source):
            return net, as_they_are
        return for_grey(net, self.run.face_input)

    def _rate(self) -> float:
        """The learning rate of the step that comes next."""
        return self.rates(self.state.epoch * self.per_epoch + self.state.step) * self.state.rate_factor

    def _epoch(self) -> None:
        """The steps of one epoch that are left."""
        state, stage, per_epoch, train = self.state, self.stage, self.per_epoch, self.train
        if state.step == 0:
            self.steps.reset_metrics()
            state.rate_factor *= self.callbacks.epoch_begin(state.epoch, self._rate())
        saved = clock = time.monotonic()
        shared = self.steps if isinstance(self.steps, SharedSteps) else None
        share = None if shared is None else shared.replicas.share
        for images, draws, labels in epoch_batches(train, stage, self.crops, state.epoch, state.step, share):
            if shared is not None:
                self._wish(shared, time.monotonic() - saved)
            rate = self._rate()
            self.callbacks.batch_begin(state.step)
            loss, right = self.steps.train(images, draws, labels, rate)
            self.behind.look()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{self.where} diverged: the loss is {loss} at epoch {state.epoch + 1}, step {state.step + 1}, "
                    f"learning rate {rate:g}; the best epoch before it is kept in {self.folder}; {BLAME}"
                )
            if shared is not None:
                self.agreed.number = max(shared.wished - {SAVE}, default=None)
            state.loss += loss
            state.right += right
            state.step += 1
            if self.callbacks.any:
                done = min(state.step * stage.batch_size, self.images)
                logs = {"loss": state.loss / done, "accuracy": state.right / done, **self.steps.metric_values()}
                state.rate_factor *= self.callbacks.batch_end(state.step - 1, logs, rate)
            now = time.monotonic()
            state.seconds += now - clock
            clock = now
            self.run.progress.step(
                stage, state.epoch, state.step, per_epoch, state.loss, state.right, state.seconds, self.images
            )
            if isinstance(train, Batches):
                self._stop_if_asked()
                continue
            if state.step == per_epoch:
                break
            if self.agreed.number is not None:
                self._save()
                self._stop_if_asked()
            if now - saved > SECONDS_BETWEEN_CHECKPOINTS if shared is None else SAVE in shared.wished:
                self._save()
                self.run.progress.note(self.run.say)
                saved = clock = time.monotonic()
        if state.step != per_epoch:
            assert isinstance(train, Batches)
            raise DataError(
                f"{train.name} gave {state.step} batches, but {per_epoch} the time before; expected as many each time"
            )

    def _wish(self, steps: SharedSteps, unsaved: float) -> None:
        """Tell the other workers, with the next step, of a signal that has come, or that a checkpoint is due."""
        if self.flag.number is not None:
            steps.wishes.add(self.flag.number)
        if self.run.writes and unsaved > SECONDS_BETWEEN_CHECKPOINTS:
            steps.wishes.add(SAVE)

    def _agree(self) -> None:
        """After an epoch: every worker holds the same, and all know whether one of them was stopped."""
        replicas, state = self.run.replicas, self.state
        if replicas is None:
            return
        held = {
            "weights": fingerprint(self.run.model.variables),
            "rate_factor": state.rate_factor,
            "stopped": state.stopped,
            "best epoch": state.best.get("epoch"),
        }
        replicas.agree(
            held, f"{self.where}: the weights or the state", RunError, "go on from the newest checkpoint on one machine, and "
            "look for a callback or a device that does not compute the same everywhere"
        )  # fmt: skip
        said = [int(number) for number in replicas.exchange(str(self.flag.number or 0).encode())]
        self.agreed.number = max(said) or None

    def _validate(self) -> dict[str, float]:
        """What the validation images say; nothing where there are none."""
        if self.val is None:
            return {}
        self.callbacks.test_begin()
        share = None if self.run.replicas is None else self.run.replicas.share
        scores = self.judge.evaluate(validation_batches(self.val, share))
        self.callbacks.test_end(scores)
        return scores

    def _close_epoch(self, trained: Mapping[str, float], scores: Mapping[str, float]) -> None:
        """The row of the history, the best epoch so far."""
        state, stage = self.state, self.stage
        state.step = 0
        rate = self._rate()
        state.epoch += 1
        row: dict[str, Any] = {
            "stage": stage.name,
            "epoch": state.epoch,
            "learning_rate": rate,
            "loss": state.loss / self.images,
            "accuracy": state.right / self.images,
            **trained,
            **scores,
            "seconds": round(state.seconds, 3),
            "images_per_second": round(self.images / max(state.seconds, 1e-9), 2),
        }
        state.rows.append(row)
        value = scores.get(stage.monitor, float(state.epoch))
        value = -value if self.val is not None and stage.monitor == "val_loss" else value
        for name, score in {**scores, stage.monitor: value}.items():
            if not math.isfinite(score):
                raise DivergedError(f"{self.where} diverged: {name} is {score} after epoch {state.epoch}; {BLAME}")
        state.waited += 1
        if not state.best or value > state.best["value"]:
            self.new_best = arrays("model", self.run.model.variables) if self.run.writes else None
            state.best = {"epoch": state.epoch, "value": value, "file": ""}  # named once it is written
            state.waited = 0
        left_out = ("stage", "epoch", "seconds", "images_per_second")
        logs = {key: item for key, item in row.items() if key not in left_out}
        state.rate_factor *= self.callbacks.epoch_end(state.epoch - 1, logs, rate)
        state.callbacks, state.stopped = self.callbacks.state(), self.callbacks.stopped
        state.loss, state.right, state.seconds = 0.0, 0, 0.0

    def _save(self, then: Callable[[], None] = nothing) -> None:
        """Write a checkpoint of this moment behind the next steps, remove those that are not needed any more, and then call
        `then`."""
        self.behind.finish()  # the state names the best epoch's file only then
        write = self._written() if self.run.writes else nothing

        def together() -> None:
            with self.run.together():
                write()

        self.behind.begin(together, then)

    def _written(self) -> Callable[[], None]:
        """What writes a checkpoint of this moment: it holds copies, which later steps do not change."""
        state, live, folder = copy.deepcopy(self.state), self.state.best, self.folder
        best, self.new_best = self.new_best, None
        held = arrays("optimizer", self.steps.optimizer.variables)
        apart = best is not None and self.averages is None  # with averages the best epoch's file holds those
        if not apart:
            held |= arrays("model", self.run.model.variables)
        if self.averages is not None:
            held |= arrays("average", self.averages.variables)
        held |= arrays("metric", [variable for metric in self.metrics for variable in metric.variables])

        def write() -> None:
            meta: dict[str, Any] = {"state": vars(state)}
            if best is not None:
                name = checkpoints.save(folder, f"best-e{state.epoch:04d}", best, {}).name
                state.best["file"] = live["file"] = name
                if apart:
                    meta[checkpoints.REST] = name
            checkpoints.save(folder, f"e{state.epoch:04d}-s{state.step:06d}", held, meta)
            kept = checkpoints.positions(folder)[:CHECKPOINTS_KEPT]
            referenced = {state.best.get("file", ""), state.start}
            if len(kept) > 1 and len(list(folder.glob("best-*.npz"))) > 1:
                referenced.add(checkpoints.best_of(kept[1][2]))
            checkpoints.prune(folder, CHECKPOINTS_KEPT, referenced)

        return write
