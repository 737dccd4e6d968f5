"""A stage of kind "head": the classifier alone, fitted at once on what the rest of the network makes of the images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.data.batches import Pool, batches
from emotiw_keras.data.columns import pick
from emotiw_keras.data.layouts.listing import and_more
from emotiw_keras.data.near.groups import alike
from emotiw_keras.data.splits import group_ids, stratified
from emotiw_keras.errors import UsageError
from emotiw_keras.models.features import classifier_of
from emotiw_keras.out_of_fold import write_out_of_fold
from emotiw_keras.runs import Run
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of
from emotiw_keras.training import checkpoints
from emotiw_keras.training.caching import Plan, as_they_are
from emotiw_keras.training.class_weights import class_weights
from emotiw_keras.training.feeds import Trained, label_spec, validation_batches
from emotiw_keras.training.linear_head import LEAST_JUDGED, LinearHead, check_varied, fit_linear_head
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.own_data import Arrays, Batches
from emotiw_keras.training.run_writer import check_there, make_folder
from emotiw_keras.training.stage_images import PARENT
from emotiw_keras.training.stage_state import arrays
from emotiw_keras.training.stage_training import StageTraining
from emotiw_keras.training.train_step import StageSteps
from emotiw_keras.training.uncertain import Answers, enough

MOST_IMAGES = 3000
"""A head is fitted on so many images at most: with more, training the network itself is worth more."""
BATCH = 128


class HeadTraining(StageTraining):
    """The fit of one stage of kind "head". It takes seconds, so an interrupted one begins anew, and ends in the same bits."""

    def check(self) -> None:
        """Refuse a network without a linear classifier, and data that can only be gone through or teach nothing.

        Raises:
            ModelError: the network ends otherwise.
            UsageError: a dataset of batches.
            DataError: training images of one class or one person alone.
        """
        classifier_of(self.run.model)
        for source in (self.train, self.val) if self.stage.refit else (self.train,):
            if isinstance(source, Batches):
                raise UsageError(f"{self.where} is of kind 'head', which needs faces in files or arrays, not {source.kind}")
            if source is not None and source.labels.ndim != 1:
                raise UsageError(f"{self.where} is of kind 'head', which needs one class an image, not rows of numbers")
        assert not isinstance(self.train, Batches)
        check_varied(self.train.labels, _groups([self.train]), self.where)

    def plan(self, decided: bool | None = None) -> Plan:
        """Nothing of it is kept on the disk."""
        return Plan(None, 0, 0, "")

    def fit(self, after_epoch: Callable[[Sequence[dict[str, Any]]], None]) -> dict[str, Any]:
        """Fit the classifier, and score it on the validation images.

        Args:
            after_epoch: takes the only row of the history.

        Returns:
            What the run records of the stage; its row is among it.
        """
        run, stage, started = self.run, self.stage, time.monotonic()
        self.check()
        run.model.trainable = True
        run.say(f"stage {self.number} {stage.name}: {number_of(len(self.train), 'images')}, the classifier alone")
        kernel, *biases = classifier_of(run.model).get_weights()
        start = kernel, biases[0] if biases else np.zeros(kernel.shape[1], np.float32)
        head, _ = self._fitted([self.train], start)
        scores = self._scores()
        seconds = max(time.monotonic() - started, 1e-3)
        row = {
            "stage": stage.name, "epoch": 1, "learning_rate": 0.0, "loss": head.log_loss, "accuracy": head.accuracy, **scores,
            "seconds": round(seconds, 3), "images_per_second": round(len(self.train) / seconds, 2),
        }  # fmt: skip
        held = {**arrays("model", run.model.variables), "start/kernel": start[0], "start/bias": start[1]}
        make_folder(self.run.run_dir, self.folder)
        file = checkpoints.save(self.folder, "best-e0001", held, {})
        checkpoints.prune(self.folder, 0, {file.name})
        told = f", val accuracy {scores['val_accuracy']:.1%}, val loss {scores['val_loss']:.3f}" if scores else ""
        run.say(f"  {stage.name}: {_told(head)}{told}")
        after_epoch([row])
        run.stop_if_asked(self.flag)
        return {
            "name": stage.name,
            "epochs": 1,
            "stopped_early": False,
            "best_epoch": 1,
            "best_file": file.name,
            "monitor": stage.monitor if scores else "cross-validation",
            **{key: scores.get(key) for key in ("val_accuracy", "val_loss", "val_macro_f1")},
            "images": len(self.train),
            "did_not_move": [],
            "head": _facts(head),
            "rows": [row],
        }

    def refit(self, file: str, judged_by: Callable[[Answers], None]) -> dict[str, Any]:
        """Fit the classifier again, on training and validation images; nothing scores it any more but its cross-validation,
        whose answers are left in the run folder.

        Args:
            file: what `fit` left in the stage's folder.
            judged_by: takes these answers, none where they are fewer than two for each class.

        Returns:
            What the run records of it.
        """
        assert self.val is not None and not isinstance(self.val, Batches)
        self.run.say(f"stage {self.stage.name} is fitted again, with its {number_of(len(self.val), 'validation images')}")
        held = checkpoints.load(self.folder / file).arrays
        head, judged = self._fitted([self.train, self.val], (held["start/kernel"], held["start/bias"]))
        if len(judged):
            check_there(self.run.run_dir)
            write_out_of_fold(self.run.run_dir, self.run.info["labels"], judged, head.answers)
        self.run.say(f"  {self.stage.name}: {_told(head)}")
        judged_by(enough({"": (judged, head.answers)}))
        return {"stage": self.stage.name, "images": len(self.train) + len(self.val), **_facts(head)}

    def _fitted(self, sources: Sequence[Trained], start: tuple[np.ndarray, np.ndarray]) -> tuple[LinearHead, np.ndarray]:
        """Fit the classifier on all images of some sources, beginning with kernel and bias, and give it to the network; with it
        come the labels of the images that it was judged by."""
        stage, classifier = self.stage, classifier_of(self.run.model)
        labels, groups = np.concatenate([each.labels for each in sources if not isinstance(each, Batches)]), _groups(sources)
        new = self._new_to_the_start(sources)
        taken = np.arange(len(labels))
        if len(taken) > MOST_IMAGES:
            taken = np.sort(stratified(taken, labels, MOST_IMAGES, self.run.seed))
            self.run.say(Notice(f"  fitted on {MOST_IMAGES:,} of them, of each class its share"))
        ends = np.cumsum([0, *map(len, sources)])
        features = [
            self._features(source, taken[(taken >= first) & (taken < end)] - first)
            for source, first, end in zip(sources, ends, ends[1:], strict=False)
        ]
        labels, new = labels[taken], new[taken]
        if not new.all():
            known, others = f"{int((~new).sum()):,} of its {len(new):,}", int(new.sum())
            judges = "nothing can judge, and no answer is made surer"
            if others >= LEAST_JUDGED:
                judges = f"the {others:,} others alone judge"
            before = [f"stage {name!r}" for name in self._before()]
            told = f"{known} images trained {' or '.join(['the weights that it starts from', *before])}, so {judges}"
            alike = "put it before them" if before else "start from what those began with"
            self.run.say(Notice(f"warning: {self.where}: {told}; to learn from all alike, {alike}"))
        counts = np.bincount(labels, minlength=len(start[1]))
        few = [name for name, count in zip(self.run.info["labels"], counts.tolist(), strict=False) if count == 1]
        if few:
            told = f"a single image of {and_more(few)}: where cross-validation asks for it, none is left to learn from"
            self.run.say(Notice(f"warning: {self.where}: {told}"))
        weights = class_weights(labels, len(start[1]), stage.class_weight)
        from threadpoolctl import threadpool_limits  # what scikit-learn itself comes with

        with threadpool_limits(1):  # sums in one order, whatever else the machine does
            head = fit_linear_head(
                np.concatenate(features, axis=1), labels, groups[taken], start, weights=weights.astype(np.float64),
                judged=new, folds=stage.folds, seed=self.run.seed, where=self.where,
            )  # fmt: skip
        classifier.set_weights([head.kernel, head.bias][: len(classifier.weights)])
        return head, labels[new & (head.folds > 0)]

    def _before(self) -> list[str]:
        """The stages of the run that came before it."""
        return [each["name"] for each in self.run.info["stages"][: self.number - 1]]

    def _new_to_the_start(self, sources: Sequence[Trained]) -> np.ndarray:
        """Whether neither the weights that the run starts from nor a stage before were made from an image: bool (images,)."""
        rows = Run(self.run.run_dir, {**self.run.info, "finished": True}).each_row_as_trained()
        makers = {PARENT, *self._before()}
        given = {row["pixel_hash"] for row in rows if row["stage"] in makers and row["status"] == "train"} - {""}
        return np.array([identity not in given for source in sources for identity in _identities(source)], bool)

    def _features(self, source: Trained, taken: np.ndarray) -> np.ndarray:
        """What the classifier reads, float32 (views, images, features): the centre crop, and with `mirror` its mirror image."""
        assert not isinstance(source, Batches)
        net = keras.Model(self.run.model.inputs[0], classifier_of(self.run.model).input, name="features")
        net, given = self._prepared_for(source, net)
        places = [np.zeros(3, np.int32)]
        if given is not as_they_are and self.run.face_input is not None:
            centre = self.run.face_input.room // 2
            places = [np.array([centre, centre, mirrored], np.int32) for mirrored in range(1 + self.stage.mirror)]

        def compute(images: tf.Tensor, crops: tf.Tensor) -> tf.Tensor:
            return tf.cast(net(given(images, crops), training=False), tf.float32)

        signature = (tf.TensorSpec((None, *source.shape), source.dtype), tf.TensorSpec((None, 3), tf.int32))
        compiled = tf.function(compute, input_signature=signature)
        views = []
        for place in places:
            crops = np.tile(place, (len(source), 1))
            rows = []
            for images, drawn, _ in batches(source, taken, crops, BATCH):
                rows.append(compiled(images, drawn).numpy())
                self.run.stop_if_asked(self.flag)
            views.append(np.concatenate(rows) if rows else np.empty((0, net.output_shape[-1]), np.float32))
        return np.stack(views)

    def _scores(self) -> dict[str, float]:
        """val_loss, val_accuracy, val_macro_f1 and the metrics of the run, or nothing."""
        if self.val is None:
            return {}
        net, given = self._prepared_for(self.val)
        steps = StageSteps(
            net, given, self.stage, np.ones(len(self.run.info["labels"]), np.float32),
            make_optimizer(self.stage, self.run.model.trainable_variables, {}), self.val.shape, self.val.dtype,
            labels=label_spec(self.val), metrics=self.run.metrics,
        )  # fmt: skip
        return steps.evaluate(validation_batches(self.val))


def _identities(source: Trained) -> list[str]:
    """What tells each image from others, "" where nothing does."""
    if isinstance(source, Pool):
        return [digest for faces, index in source.parts for digest in pick(faces.pixel_hash, index)]
    return source.identities() if isinstance(source, Arrays) else [""] * len(source)


def _groups(sources: Sequence[Trained]) -> np.ndarray:
    """What may not stand on two sides of a fold: images of one person, equal ones and near duplicates; int64 (images,)."""
    hashes: list[str] = []
    persons: list[str] = []
    links: list[tuple[int, int]] = []
    for source in sources:
        parts = source.parts if isinstance(source, Pool) else []
        for faces, index in parts:
            links += [(len(hashes) + one, len(hashes) + other) for one, other in alike(faces, index)]
            hashes += pick(faces.pixel_hash, index)
            persons += pick(faces.subject, index)
        if not isinstance(source, Pool):
            hashes += [""] * len(source)
            persons += [""] * len(source)
    return group_ids(hashes, persons, links)


def _told(head: LinearHead) -> str:
    judged = "not cross-validated, as no fold leaves two classes to learn from"
    if head.accuracy is not None:
        judged = f"accuracy {head.accuracy:.1%}, loss {head.log_loss:.3f} by cross-validation in {head.folds} folds"
    return f"{judged}; C = {head.strength:.2g}, {'with' if head.start else 'without'} the answers of the start"


def _facts(head: LinearHead) -> dict[str, Any]:
    keys = ("folds", "accuracy", "log_loss", "strength", "start", "temperature")
    return {key: getattr(head, key) for key in keys}
