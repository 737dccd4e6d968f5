"""One stage: what its steps need, its epochs, validation, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import keras
import numpy as np

from emotiw_keras.costs import cost_matrix
from emotiw_keras.data.batches import Pool
from emotiw_keras.data.one_channel import for_grey
from emotiw_keras.errors import DataError, DivergedError, RunError, UsageError
from emotiw_keras.heads import heads_of
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of
from emotiw_keras.training import checkpoints
from emotiw_keras.training.averages import Averages, OptimizersAverages
from emotiw_keras.training.behind import Behind, nothing
from emotiw_keras.training.caching import Plan, as_they_are, make_features, plan
from emotiw_keras.training.callbacks import Callbacks
from emotiw_keras.training.class_weights import class_weights, classes_of
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.feeds import VALIDATION_BATCH, Trained, epoch_batches, label_spec, steps_in_epoch, validation_batches
from emotiw_keras.training.freezing import apply_rules, check_moved, digests, initialise_layers, layers_named, weighted_layers
from emotiw_keras.training.given_objects import beside_ours, keeps_averages
from emotiw_keras.training.interrupts import Flag
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.own_data import Batches, are_faces
from emotiw_keras.training.pull_to_start import PullToStart
from emotiw_keras.training.run_writer import check_there, make_folder
from emotiw_keras.training.schedules import learning_rates
from emotiw_keras.training.shared_stage import agree, check_code, check_shared, wish
from emotiw_keras.training.shared_step import SAVE, SharedSteps
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_checkpoints import checkpoint_of
from emotiw_keras.training.stage_facts import check_state
from emotiw_keras.training.stage_state import StageState, arrays, changed, restore
from emotiw_keras.training.surroundings import Surroundings
from emotiw_keras.training.teachers import Teachers
from emotiw_keras.training.train_step import StageSteps

# A kill costs at most the shorter of one epoch and five minutes.
SECONDS_BETWEEN_CHECKPOINTS = 240.0
BLAME = (
    "lower learning_rate, raise warmup_steps or set clip_norm (--set), and start anew with --restart (in Python restart=True)"
)
NOT_KEPT = (
    "which the stage does not keep, but the weights that `val` has scored in its best epoch; set them in on_train_batch_end or "
    "leave val out"
)
UNDONE = (
    "on_epoch_end or in validation, where the network holds moving averages, and that is undone; set weights in on_epoch_begin "
    "or on_train_batch_end"
)


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
        self.at_best = False
        """Whether the network holds these."""
        self.lost: set[str] = set()
        """What was said of weights that callbacks have set."""
        self.given: dict[str, np.ndarray] | None = None
        """The weights that a network was given with, until they are written."""

    def check(self) -> None:
        """Refuse settings that change images where the network takes them as they are.

        Raises:
            UsageError: such a setting.
        """
        stage = self.stage
        if self.run.replicas is not None:
            check_shared(stage, self.train, self.val, self.run.replicas)
        if stage.accumulate > stage.epochs * self.per_epoch:
            raise UsageError(
                f"{self.where} accumulates {stage.accumulate:,} batches for an update, but has {stage.epochs:,} epochs of "
                f"{self.per_epoch:,} batches: nothing would be trained; lower accumulate or batch_size, or train longer"
            )
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
        with run.together():
            if run.writes:
                make_folder(run.run_dir, self.folder)
                if self.given is not None:
                    checkpoints.save(self.folder, "start", self.given, {})
                    self.given = None
        with self.behind:
            while state.epoch < stage.epochs and not (stage.patience and state.waited >= stage.patience) and not state.stopped:
                self._epoch()
                with self._averaged():
                    held = self._held() if self.averages is not None else None
                    trained, scores = self.steps.metric_values(), self._validate()
                    with run.together():
                        self._close_epoch(trained, scores)
                    self._tell_lost(self._moved(held), UNDONE)
                self._save(partial(self._tell_epoch, after_epoch, list(state.rows), state.best["epoch"]))
                self._stop_if_asked()
        self._end()
        still, of_layers = check_moved(self.run.model, state.before, self.where)
        if still:
            self.run.say(Notice(f"warning: {self.where}: these trainable weights did not move: {', '.join(still)}"))
        if of_layers:
            self.run.say(
                Notice(
                    f"warning: {self.where}: these weights of frozen layers moved, as the layers assign them in each training "
                    f"step themselves, frozen or not (so does model.fit): {', '.join(of_layers)}"
                )
            )
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
            "callbacks": self.callbacks.left(),
        }

    def _end(self) -> None:
        """The callbacks' last moment. What they make of the weights is kept where the last weights are."""
        run, state = self.run, self.state
        with self._averaged():
            held = self._held()
            self.callbacks.end(_told(state.rows[-1]) if state.rows else {})
            moved = self._moved(held)
            if self.val is not None:
                # EarlyStopping would restore what is kept; once it has been interrupted, it no longer has it
                restores = any(getattr(callback, "restore_best_weights", False) for callback in self.called())
                if moved and run.writes and not restores:
                    kept = checkpoints.load(self.folder / state.best["file"]).arrays
                    self._tell_lost(self._moved(kept), f"on_train_end, {NOT_KEPT}")
            elif self.callbacks.own:
                with run.together():
                    if moved and run.writes:
                        check_there(run.run_dir)
                        name = f"best-e{state.epoch:04d}"
                        state.best["file"] = checkpoints.save(self.folder, name, arrays("model", run.model.variables), {}).name

    def _averaged(self) -> AbstractContextManager[None]:
        """Within, the network holds what is scored and kept."""
        return nullcontext() if self.averages is None else self.averages.in_place()

    def _held(self) -> dict[str, np.ndarray] | None:
        """What the network holds, where a callback of the user's own may set it."""
        return arrays("model", self.run.model.variables) if self.callbacks.own else None

    def _moved(self, before: Mapping[str, np.ndarray] | None) -> list[keras.Variable]:
        """What holds something else than `before`."""
        return [] if before is None else changed(before, self.run.model.variables)

    def _tell_lost(self, moved: Sequence[keras.Variable], when: str) -> None:
        """Say once that weights which a callback has set are not kept."""
        weights = {id(weight) for weight in self.run.model.weights}  # seeds are none
        names = [variable.path for variable in moved if id(variable) in weights]
        if names and when not in self.lost:
            self.lost.add(when)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            self.run.say(Notice(f"warning: {self.where}: a callback has set {', '.join(names[:3])}{more} in {when}"))

    def _tell_epoch(
        self, after_epoch: Callable[[Sequence[dict[str, Any]]], None], rows: Sequence[dict[str, Any]], best: int
    ) -> None:
        """Say how the last epoch of `rows` went. Only once its checkpoint is written: an epoch that was told is never done
        again."""
        if self.run.replicas is not None:
            self.agreed.number = agree(self.run.replicas, self.run.model, self.state, self.flag, self.where)
        self.run.progress.epoch(self.run.say, self.stage, rows[-1], best == rows[-1]["epoch"])
        with self.run.together():
            after_epoch(rows)

    def called(self) -> list[keras.callbacks.Callback]:
        """The callbacks that the stage calls: what `SwapEMAWeights` does, it does by itself."""
        callbacks = (*self.run.callbacks, *self.stage.callbacks)
        return [callback for callback in callbacks if not isinstance(callback, keras.callbacks.SwapEMAWeights)]

    def pass_over(self, epochs: int) -> None:
        """Let datasets of the user's own begin the epochs that an earlier process has trained."""
        for source in (self.train, self.val):
            if isinstance(source, Batches):
                source.pass_over(epochs)

    def _tell_passed_over(self) -> None:
        """Once a process: which datasets draw otherwise than if their epochs had been trained on."""
        passed = [source for source in (self.train, self.val) if isinstance(source, Batches) and source.passed_over]
        for source in passed:
            source.passed_over = False
        if passed:
            named = " and ".join(source.name for source in passed)
            self.run.say(
                Notice(
                    f"warning: {self.where}: no batches of the epochs so far were taken of {named}: where more is "
                    "drawn than by a seeded .shuffle or on_epoch_end (in map by a layer or Generator, in a generator or "
                    "__getitem__), it is drawn otherwise now, and the run does not end in the same bits"
                )
            )

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
        self.state, self.rates = StageState(), learning_rates(stage, self.per_epoch)
        if found is not None:
            self.state = checkpoints.restored(StageState, found)
            check_state(vars(self.state), stage.name, stage.epochs, self.per_epoch, f"checkpoint {found.path}")
            if "rate" not in found.meta["state"]:
                self.state.rate = self.state.rate_at(self.rates(self.state.epoch * self.per_epoch))
        self.metrics = (*run.metrics, *beside_ours(stage.metrics))
        if found is None:
            new = initialise_layers(run.model, stage.initialise, run.seed, self.where)
            self.state.before = digests(run.model)
            self._tell_start(new)
        else:
            restore("model", run.model.variables, found)
            restore("optimizer", optimizer.variables, found)
            # Keras numbers layers without a name as they come: of a network that was made again they are others
            names, hashes = digests(run.model), self.state.before.values()
            if len(names) != len(hashes):
                raise RunError(f"checkpoint {found.path} is damaged: it says hashes of {len(hashes)} weights, not {len(names)}")
            self.state.before = dict(zip(names, hashes, strict=True))
            self.pass_over(self.state.epoch)
            run.say(f"stage {self.number} {stage.name}: going on at epoch {self.state.epoch + 1}, step {self.state.step}")
        if run.replicas is not None and run.replicas.workers > 1:
            self.state = StageState(**run.replicas.from_chief(vars(self.state)))
        self.averages = self._averages(optimizer)
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
        self._tell_passed_over()
        self._make_steps(planned, optimizer)
        if found is not None:
            restore("metric", [variable for metric in self.metrics for variable in metric.variables], found)
        if run.replicas is not None:
            held = [*run.model.variables, *optimizer.variables, *(() if self.averages is None else self.averages.variables)]
            held += [] if self.pull is None else self.pull.variables
            run.replicas.spread([*held, *(variable for metric in self.metrics for variable in metric.variables)])
            if run.info["model"].get("given"):
                check_code(run.model, run.info["model"], self.steps, label_spec(self.train), run.replicas)
        self.callbacks = Callbacks(
            self.called(),
            run.model,
            optimizer,
            stage.epochs,
            self.per_epoch,
            self.metrics,
            self.state.callbacks,
            run.say,
        )
        if found is not None and self.callbacks.any:  # in `on_train_begin` some load weights of their own
            restore("model", run.model.variables, found)
            restore("optimizer", optimizer.variables, found)
        if self.callbacks.began_at is not None and found is None:
            self.state.heed(self._scheduled(), self.callbacks.began_at)

    def _averages(self, optimizer: keras.optimizers.Optimizer) -> Averages | None:
        """What is scored and kept in place of the weights, if the stage or its optimizer asks for it."""
        if keeps_averages(optimizer):
            return OptimizersAverages(optimizer)
        return Averages(self.run.model, self.stage.average_decay) if self.stage.average_decay else None

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
                make_folder(self.run.run_dir, self.folder)
                self.state.start = checkpoints.save(self.folder, "best-e0000", arrays("start", pull.variables), {}).name
        return pull

    def _tell_start(self, new: Sequence[str]) -> None:
        model = self.run.model
        frozen = [name for name, layer in weighted_layers(model).items() if not layer.trainable]
        parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        self.run.say(
            f"stage {self.number} {self.stage.name}: {number_of(self.images, 'images')}, "
            f"{number_of(self.stage.epochs, 'epochs')} of {number_of(self.per_epoch, 'steps')}"
            f", {parameters:,} trainable parameters"
            + (f"; frozen: {', '.join(frozen)}" if frozen else "")
            + (f"; initialised anew: {', '.join(new)}" if new else "")
        )
        steps = self.stage.epochs * self.per_epoch
        if self.stage.warmup_steps > steps:
            grows = f"its rate grows over {self.stage.warmup_steps:,} steps (warmup_steps), of which it has {steps:,}"
            self.run.say(Notice(f"warning: {self.where}: {grows}: learning_rate is not reached; lower it, or train longer"))

    def _make_steps(self, planned: Plan, optimizer: keras.optimizers.Optimizer) -> None:
        """The compiled steps, on images or on the features of a frozen start."""
        run, stage, heads = self.run, self.stage, heads_of(self.run.info)
        classes = run.model.output_shape[-1] if heads else len(run.info["labels"])
        weights = np.ones(classes, np.float32)
        if not heads and not isinstance(self.train, Batches) and stage.class_weight != "none":
            weights = class_weights(classes_of(self.train.labels), classes, stage.class_weight)
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

    def _scheduled(self) -> float:
        """What the schedule says of the step that comes next."""
        return self.rates(self.state.epoch * self.per_epoch + self.state.step)

    def _epoch(self) -> None:
        """The steps of one epoch that are left."""
        state, stage, per_epoch, train = self.state, self.stage, self.per_epoch, self.train
        if state.step == 0:
            self.steps.reset_metrics()
            self.callbacks.tell("on_epoch_begin", state.epoch, self._scheduled(), state)
        self.seen = 0
        saved = clock = time.monotonic()
        shared = self.steps if isinstance(self.steps, SharedSteps) else None
        share = None if shared is None else shared.replicas.share
        for images, draws, labels in epoch_batches(train, stage, self.crops, state.epoch, state.step, share):
            if shared is not None:
                wish(shared, self.flag, self.run.writes and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS)
            scheduled = self._scheduled()
            self.callbacks.tell("on_train_batch_begin", state.step, scheduled, state)
            rate = state.rate_at(scheduled)
            if state.step == 0:
                state.rate = rate
            loss, right = self.steps.train(images, draws, labels, rate)
            self._tell_unkept()
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
            own_batches = isinstance(train, Batches)
            self.seen = self.seen + len(labels) if own_batches else min(state.step * stage.batch_size, self.images)
            if self.callbacks.any:
                logs = {"loss": state.loss / self.seen, "accuracy": state.right / self.seen, **self.steps.metric_values()}
                self.callbacks.tell("on_train_batch_end", state.step - 1, scheduled, state, logs)
            now = time.monotonic()
            state.seconds += now - clock
            clock = now
            self.run.progress.step(
                stage, state.epoch, state.step, per_epoch, state.loss, state.right, state.seconds, self.images
            )
            if self.callbacks.stopped:
                return
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

    def _tell_unkept(self) -> None:
        """Once a stage: what a run that is resumed will not have again."""
        if self.steps.unkept:
            self.steps.unkept = False
            self.run.say(
                Notice(
                    f"warning: {self.where}: layers of {self.run.model.name} draw random numbers that no checkpoint keeps "
                    "(tf.random, or keras.random without a seed): a run that is interrupted goes on with others, and does not "
                    "end in the same bits; draw with keras.random from a keras.random.SeedGenerator that the layer has"
                )
            )

    def _validate(self) -> dict[str, float]:
        """What the validation images say; nothing where there are none."""
        if self.val is None:
            return {}
        self.callbacks.test_begin()
        share = None if self.run.replicas is None else self.run.replicas.share
        # a sum over a batch depends on its size: that of Keras' validation is that of its training
        size = self.stage.batch_size if self.judge.loss.told_summed else VALIDATION_BATCH
        batches = validation_batches(self.val, share, size)
        so_far = self.judge.judged_so_far
        scores = self.judge.evaluate(self.callbacks.of_test(batches, so_far) if self.callbacks.any else batches)
        self.callbacks.test_end(scores)
        return scores

    def _close_epoch(self, trained: Mapping[str, float], scores: Mapping[str, float]) -> None:
        """The row of the history, the best epoch so far."""
        state, stage = self.state, self.stage
        seen = self.images if state.step == self.per_epoch else self.seen  # where a callback has stopped it
        scheduled = self.rates(state.epoch * self.per_epoch + state.step - 1)  # of the last step: what the optimizer has
        state.step = 0
        state.epoch += 1
        row: dict[str, Any] = {
            "stage": stage.name,
            "epoch": state.epoch,
            "learning_rate": state.rate,
            "loss": state.loss / seen,
            "accuracy": state.right / seen,
            **trained,
            **scores,
            "seconds": round(state.seconds, 3),
            "images_per_second": round(seen / max(state.seconds, 1e-9), 2),
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
        self.callbacks.tell("on_epoch_end", state.epoch - 1, scheduled, state, _told(row))
        self.at_best = self.averages is None
        if self.callbacks.own and self.at_best and (moved := self._moved(self.new_best)):
            if self.val is None:
                self.new_best = arrays("model", self.run.model.variables)
            else:
                self.at_best = False
                self._tell_lost(moved, f"on_epoch_end, {NOT_KEPT}")
        state.stopped = self.callbacks.stopped
        state.loss, state.right, state.seconds = 0.0, 0, 0.0

    def _save(self, then: Callable[[], None] = nothing) -> None:
        """Write a checkpoint of this moment behind the next steps, remove those that are not needed any more, and then call
        `then`."""
        self.behind.finish()  # the state names the best epoch's file only then
        best, self.new_best = self.new_best, None
        write = nothing
        if self.run.writes:
            self.state.callbacks = self.callbacks.state()
            write = checkpoint_of(
                self.folder,
                self.state,
                self.run.model,
                self.steps.optimizer,
                self.averages,
                self.metrics,
                best,
                self.at_best,
            )

        def together() -> None:
            with self.run.together():
                if self.run.writes:
                    check_there(self.run.run_dir)
                write()

        self.behind.begin(together, then)


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """What callbacks are given of an epoch."""
    return {key: item for key, item in row.items() if key not in ("stage", "epoch", "seconds", "images_per_second")}
