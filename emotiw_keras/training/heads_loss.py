"""The loss of a network with several heads: the weighted sum of theirs, each image counting where it has labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import f1_score

from emotiw_keras.data.votes import VOTED
from emotiw_keras.heads import Head
from emotiw_keras.training.head_labels import weights_of
from emotiw_keras.training.losses import StageLoss
from emotiw_keras.training.stage import Stage

SHARE = 0.001
"""Of the label that "multi_label" spreads over the classes without 30 % of the votes, as the authors' code does."""


class HeadsLoss(StageLoss):
    """Losses of a batch, one an image; outputs and labels have the columns of all heads side by side.

    A head's labels are zeros where an image has none, and sum to what the image counts otherwise.

    Args:
        stage: its loss, smoothing, mode of votes and weights of heads.
        model: returns logits.
        heads: of the model.
    """

    def __init__(self, stage: Stage, model: keras.Model, heads: Sequence[Head]) -> None:
        super().__init__(stage, model)
        self.heads, self._weights = tuple(heads), weights_of(stage, heads)
        self._multi = stage.votes == "multi_label"
        self._judged = weights_of(stage, heads) if not stage.monitor_head else {stage.monitor_head: 1.0}

    def log_probabilities(self, outputs: Any) -> tf.Tensor:
        """Of each head its own, float32 (batch, columns)."""
        outputs = tf.cast(outputs, tf.float32)
        return tf.concat([tf.nn.log_softmax(outputs[:, head.columns]) for head in self.heads], axis=-1)

    def plain(self, outputs: Any, labels: tf.Tensor) -> tf.Tensor:
        """The weighted cross-entropies, float32 (batch,)."""
        said = self.log_probabilities(outputs)
        each = [
            self._weights[head.name] * -tf.reduce_sum(labels[:, head.columns] * said[:, head.columns], axis=-1)
            for head in self.heads
        ]
        return tf.add_n(each)

    def __call__(self, outputs: Any, labels: tf.Tensor, taught: tf.Tensor | None = None) -> tf.Tensor:
        """What training descends, float32 (batch,).

        Args:
            outputs: of the network, (batch, columns).
            labels: float32 (batch, columns).
            taught: probabilities of the teachers, float32 (batch, columns), zeros for heads that nobody teaches.
        """
        said = self.log_probabilities(outputs)
        return tf.add_n([self._weights[head.name] * self._of_head(head, said, labels, taught) for head in self.heads])

    def _of_head(self, head: Head, said: tf.Tensor, labels: tf.Tensor, taught: tf.Tensor | None) -> tf.Tensor:
        said, target = said[:, head.columns], labels[:, head.columns]
        if self._multi and head.labels == VOTED:
            counts = tf.reduce_sum(target, axis=-1)
            wanted = tf.cast(target > 0, tf.float32) * (1 - SHARE) + SHARE
            losses = -counts * tf.reduce_max(tf.math.log(wanted) + said, axis=-1)
        else:
            counts = tf.reduce_sum(target, axis=-1)
            if self._smoothing:
                target = target * (1 - self._smoothing) + self._smoothing / len(head.labels) * counts[:, None]
            if self._focus:
                target = target * (1 - tf.exp(said)) ** self._focus
            losses = -tf.reduce_sum(target * said, axis=-1)
        if taught is None:
            return losses
        softened = tf.nn.log_softmax(said / self._temperature)
        answers = taught[:, head.columns]
        imitation = -tf.reduce_sum(answers * softened, axis=-1) * self._temperature**2
        share = self._teacher_weight * tf.cast(tf.reduce_sum(answers, axis=-1) > 0, tf.float32)
        return (1 - share) * losses + share * imitation

    def right(self, outputs: Any, labels: tf.Tensor) -> tf.Tensor:
        """Of the heads that an image has labels for, the share that is right: float32 (batch,)."""
        there, hits = [], []
        for head in self.heads:
            target = labels[:, head.columns]
            there.append(tf.cast(tf.reduce_any(target > 0, axis=-1), tf.float32))
            found = tf.equal(tf.argmax(outputs[:, head.columns], axis=-1), tf.argmax(target, axis=-1))
            hits.append(there[-1] * tf.cast(found, tf.float32))
        return tf.add_n(hits) / tf.maximum(tf.add_n(there), 1.0)

    def scores(self, said: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """val_loss, val_accuracy and val_macro_f1: the weighted means over heads, or those of `Stage.monitor_head`; then those
        of each head, by its name.

        Args:
            said: `log_probabilities` of all images.
            labels: float32 (images, columns).
        """
        total: dict[str, float] = dict.fromkeys(("val_loss", "val_accuracy", "val_macro_f1"), 0.0)
        single: dict[str, float] = {}
        for head in self.heads:
            rows = np.flatnonzero(labels[:, head.columns].any(axis=1))
            if not len(rows):
                continue
            target, logs = labels[rows, head.columns], said[rows, head.columns]
            truth, predicted = target.argmax(axis=1), logs.argmax(axis=1)
            classes = range(len(head.labels))
            found = {
                "loss": float(-(target * logs).sum(axis=1).mean(dtype=np.float64)),
                "accuracy": float((truth == predicted).mean()),
                "macro_f1": float(f1_score(truth, predicted, labels=classes, average="macro", zero_division=0)),
            }
            share = self._judged.get(head.name, 0.0) / sum(self._judged.values())
            for key, value in found.items():
                total[f"val_{key}"] += share * value
                single[f"val_{head.name}_{key}"] = value
        return total | single
