"""The stages of a run, one after another, and what they leave in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import RunError
from emotiw_keras.files import atomic_path, check_room, sha256_file, write_atomic
from emotiw_keras.keras_names import fingerprint
from emotiw_keras.models.architecture import answers_to_noise, same_twice
from emotiw_keras.models.weights import weight_bytes, without_optimizer
from emotiw_keras.out_of_fold import FOLDS
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import Run
from emotiw_keras.talk import Notice
from emotiw_keras.training import checkpoints
from emotiw_keras.training.callback_state import Entries, Gathered
from emotiw_keras.training.curves import learning_curves
from emotiw_keras.training.epoch_progress import Progress, silent
from emotiw_keras.training.events import write_events
from emotiw_keras.training.features import discard
from emotiw_keras.training.feeds import Trained
from emotiw_keras.training.freezing import apply_rules, check_layers
from emotiw_keras.training.given_objects import weights_hash
from emotiw_keras.training.head import HeadTraining
from emotiw_keras.training.interrupts import Flag, delayed_signals
from emotiw_keras.training.keep import kept_stage
from emotiw_keras.training.replicas import Replicas
from emotiw_keras.training.run_writer import check_there, history_columns, table_text, write_done, write_info
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_facts import read_done
from emotiw_keras.training.stage_state import arrays, restore
from emotiw_keras.training.stage_training import StageTraining
from emotiw_keras.training.surroundings import Surroundings
from emotiw_keras.training.uncertain import CHOSEN_ON, Answers, settled, validation_answers
from emotiw_keras.uncertainty import UNCERTAINTY_FILE


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
        left_out: stage name -> why it is not trained, as a line for people.
        progress: takes the state of an epoch under way.
        teachers: the runs that stages name as their teachers, by that name.
        metrics, callbacks: Keras objects for every stage, before a stage's own.
        replicas: devices and processes that train together; None is this process on one device.
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
        left_out: Mapping[str, str],
        progress: Progress | None = None,
        teachers: Mapping[str, Run] | None = None,
        metrics: Sequence[keras.metrics.Metric] = (),
        callbacks: Sequence[keras.callbacks.Callback] = (),
        replicas: Replicas | None = None,
    ) -> None:
        self.train, self.val = train, val
        self.run = Surroundings(
            model,
            face_input,
            Path(run_dir),
            info,
            seed,
            say,
            progress or Progress(),
            teachers or {},
            metrics,
            callbacks,
            replicas,
        )
        self._given = tuple(stages)
        for line in left_out.values():
            say(Notice(line))
        self.stages = tuple(stage for stage in stages if stage.name not in left_out)
        self.rows: list[dict[str, Any]] = []

    def fit(self) -> Run | None:
        """Train all stages, or those that are left.

        Returns:
            The finished run; None on a worker that does not write it, whose network has its weights all the same.

        Raises:
            DivergedError: a loss that is not finite; the best epoch so far stays.
            Interrupted: SIGTERM or Ctrl-C, after saving.
            RunError: checkpoints that do not belong to this network.
            OutputError: the run folder cannot be written.
        """
        info = self.run.info
        info["stages"] = []
        self.check()
        with delayed_signals() as flag:
            for number, stage in enumerate(self.stages, 1):
                self._fit_stage(self._training(number, stage, flag))
        kept = kept_stage(self.stages, info["stages"], info.get("keep", "last"), self.run.say)
        if kept < len(self.stages) - 1:
            folder = self._training(kept + 1, self.stages[kept]).folder
            self._restore_model(folder / info["stages"][kept]["best_file"])
            info["kept"] = self.stages[kept].name
        answers: Answers = {}
        of_folds: Answers = {}
        with self.run.together():
            if self.run.writes:  # before the validation images train a classifier that is fitted again
                answers = validation_answers(self.run, self.stages[kept], self.val[self.stages[kept].name])
        if self.stages[kept].refit:
            with delayed_signals() as flag:
                training = self._training(kept + 1, self.stages[kept], flag)
                assert isinstance(training, HeadTraining)
                file = info["stages"][kept]["best_file"]
                info["refitted"] = self.run.from_chief(lambda: training.refit(file, of_folds.update))
                self._spread()
        with self.run.together():
            if self.run.writes:
                self._finish(of_folds or answers, FOLDS if of_folds else CHOSEN_ON)
        if not self.run.writes:
            return None
        return Run.open(self.run.run_dir, self.run.model if info["model"].get("given") else None)

    def check(self) -> None:
        """Find what is impossible before the first stage has run; nothing is written.

        Raises:
            UsageError: rules, or names of layers to initialise, that do not fit the network; features that cannot be kept.
        """
        check_layers(self.run.model, self._given)
        for number, stage in enumerate(self.stages, 1):
            apply_rules(self.run.model, stage.rules, f"stage {stage.name!r}")
            training = self._training(number, stage)
            training.check()
            if stage.cache_features is True:
                training.plan()

    def _training(self, number: int, stage: Stage, flag: Flag | None = None) -> StageTraining:
        kind = HeadTraining if stage.kind == "head" else StageTraining
        return kind(self.run, number, stage, self.train[stage.name], self.val[stage.name], flag)

    def _fit_stage(self, training: StageTraining) -> None:
        """Train a stage, unless that was done before, and go on from its best epoch."""
        run, marker = self.run, training.folder / "done.json"
        result = run.from_chief(lambda: read_done(marker, training.stage.name) if marker.exists() else None)
        if result is None:
            if training.number == 1 and "began_with" in run.info:
                self._begin_as_given(training)
            if isinstance(training, HeadTraining):  # which takes seconds: the chief fits it for all
                result = run.from_chief(lambda: training.fit(self._write_rows))
            else:
                result = training.fit(self._write_rows)
            with run.together():
                if run.writes:
                    write_done(marker, result)
                    discard(run.run_dir)
            result = run.from_chief(lambda: result)  # the names of files are the chief's
        else:
            training.pass_over(result["epochs"])
            self._give_back(training, result.get("callbacks") or [])
            run.say(f"stage {training.number} {result['name']}: finished before, best epoch {result['best_epoch']}")
        self._restore_model(training.folder / result["best_file"])
        with run.together():
            result.pop("callbacks", None)
            self._write_rows(result.pop("rows"))
            run.info["stages"].append(result)
            if run.writes:
                learning_curves(run.run_dir / "history.csv", run.run_dir / "curves.png")

    def _begin_as_given(self, training: StageTraining) -> None:
        """Where no checkpoint holds weights yet, let the stage keep those that the network was given with; give them back to a
        network that was made anew or has moved since."""
        run = self.run
        with run.together():
            if not run.writes or checkpoints.positions(training.folder):
                return
            start = checkpoints.start_of(training.folder)
            if start is not None:
                restore("model", run.model.variables, checkpoints.load(start))
            elif weights_hash(run.model) == run.info["began_with"]:
                training.given = arrays("model", run.model.variables)
            else:
                raise RunError(
                    f"{run.run_dir} was stopped before its first checkpoint, and the weights that it began with are not kept; "
                    "give the network with those, or begin anew with restart=True (the old run is renamed, not deleted)"
                )

    def _give_back(self, training: StageTraining, state: Sequence[Entries]) -> None:
        """Give callbacks what they had gathered when a stage ended, for those after it."""
        later = [each for stage in self.stages[training.number :] for each in (*self.run.callbacks, *stage.callbacks)]
        for callback, line in Gathered(training.called()).restore(state):
            if any(callback is each for each in later):
                self.run.say(Notice(line))

    def _restore_model(self, file: Path) -> None:
        with self.run.together():
            if self.run.writes:
                restore("model", self.run.model.variables, checkpoints.load(file))
        self._spread()

    def _spread(self) -> None:
        """Give every worker the chief's weights."""
        if self.run.replicas is not None:
            self.run.replicas.spread(self.run.model.variables)

    def _write_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """history.csv and events/ with the rows of one stage in place of those it had."""
        if not self.run.writes:
            return
        names = {row["stage"] for row in rows}
        self.rows = [row for row in self.rows if row["stage"] not in names] + list(rows)
        check_there(self.run.run_dir)
        columns = history_columns(self.stages)
        metrics = dict.fromkeys(key for row in self.rows for key in row if key not in (*columns, "val_macro_f1"))
        write_atomic(self.run.run_dir / "history.csv", table_text((*columns, *metrics), self.rows))
        write_events(self.run.run_dir / "events", self.rows)

    def _finish(self, answers: Answers, chosen_on: str) -> None:
        run_dir, model, info = self.run.run_dir, self.run.model, self.run.info
        check_there(run_dir)
        discard(run_dir)  # what a kill just before this left
        with atomic_path(run_dir / WEIGHTS_FILE) as temporary:
            check_room(temporary, weight_bytes(model))
            with without_optimizer(model):
                model.save_weights(temporary)
        info["weights"] = {"sha256": sha256_file(run_dir / WEIGHTS_FILE), "variables": fingerprint(model)}
        if info["model"].get("given"):
            noise_answers = same_twice(partial(answers_to_noise, model, info["model"]))
            if noise_answers is not None:
                info["model"]["answers"] = noise_answers
        if (content := settled(answers, chosen_on, info, self.run.say)) is not None:
            write_atomic(run_dir / UNCERTAINTY_FILE, content)
        info["finished"] = True
        write_info(run_dir, info)
