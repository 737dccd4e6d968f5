"""The loss of a stage, image by image: its word or its Keras object, what costs and teachers add."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.training.keras_objects import wants_one_hot
from emotiw_keras.training.stage import Stage


def gives_logits(model: keras.Model) -> bool:
    """Whether a network returns logits, not probabilities. Its last layer says so; where that is none which computes them (a
    cast, an average, an operation, another activation, or code of its user's), the network answers noise: rows that sum to 1
    are probabilities.

    Raises:
        ModelError: it says of each class by itself how probable it is, which is neither.
    """
    last: Any = model
    while True:
        if isinstance(last, keras.Sequential) and last.layers:
            last = last.layers[-1]
        elif isinstance(last, keras.Model) and getattr(last, "_nodes", None) and getattr(last, "outputs", None):
            last = last.outputs[0]._keras_history.operation
        else:
            break
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax:
        return False
    if activation in (keras.activations.sigmoid, keras.activations.hard_sigmoid) and model.output_shape[-1] > 1:
        raise ModelError(
            f"the network {model.name!r} ends in a {activation.__name__}, which says of each class by itself how probable it "
            "is; expected one class an image: end it in a softmax, or in no activation (logits)"
        )
    plain = activation is None or activation is keras.activations.linear
    return (isinstance(last, keras.layers.Dense) and plain) or not _answers_probabilities(model)


def _answers_probabilities(model: keras.Model) -> bool:
    noise = np.abs(np.random.default_rng(0).normal(size=[2] + [side or 32 for side in model.input_shape[1:]]))
    given = getattr(model, "inputs", None)
    answers = keras.ops.convert_to_numpy(model(noise.astype(given[0].dtype if given else "float32"), training=False))
    return bool((answers >= 0).all() and np.abs(answers.sum(axis=-1, dtype=np.float64) - 1).max() < 0.02)


def in_form(labels: tf.Tensor, classes: Any, one_hot: bool) -> tf.Tensor:
    """Labels as a loss or metric takes them: int (batch,) as rows float32 (batch, classes) where it wants these."""
    return tf.one_hot(labels, classes) if one_hot and labels.shape.rank == 1 else labels


class StageLoss:
    """Losses of a batch, one an image.

    Args:
        stage: its loss, smoothing, costs and temperature.
        model: whether it returns logits counts.
        costs: float (classes, classes), what each answer costs, rows are the truth; for `Stage.cost_weight`.

    Raises:
        UsageError: a Keras loss that takes logits for a network that returns probabilities, or the other way round.
    """

    def __init__(self, stage: Stage, model: keras.Model, costs: np.ndarray | None = None) -> None:
        self._logits = gives_logits(model)
        self._keras: keras.losses.Loss | None = None if isinstance(stage.loss, str) else stage.loss
        self._smoothing = stage.label_smoothing
        self._focus = stage.focal_gamma if stage.loss == "focal" else 0.0
        self._costs = None if costs is None else tf.constant(stage.cost_weight * costs, tf.float32)
        self._teacher_weight, self._temperature = stage.teacher_weight, stage.temperature
        if self._keras is not None:
            _check_loss(self._keras, stage.name)
        asked = getattr(self._keras, "from_logits", None)
        if asked is not None and bool(asked) != self._logits:
            raise UsageError(
                f"loss of stage {stage.name!r} is a {type(stage.loss).__name__} with from_logits={asked}, but {model.name} "
                f"returns {'logits' if self._logits else 'probabilities'}; give from_logits={self._logits}"
            )
        self._reduction = "mean" if self._keras is None else str(getattr(self._keras, "reduction", "mean")).lower()
        self._each, self.masked = 1, False  # numbers that the Keras loss gives an image; whether it or the network masks any
        self.of_batch, self.alone = False, True
        """Whether the Keras loss gives one number for a batch, with which each image is counted then; whether what it gives an
        image does not depend on the others of the batch. `find_form` finds both."""

    @property
    def summed(self) -> bool:
        """Whether the gradient is that of the sum of the images' losses, not of their mean: reduction "sum" or "none"."""
        return self._reduction in ("sum", "none") and not self.of_batch

    @property
    def by_weights(self) -> bool:
        """Whether the mean is over what the images of a batch count together, not over their number."""
        return self._reduction == "mean_with_sample_weight"

    @property
    def told_summed(self) -> bool:
        """Whether the loss of a batch that people and callbacks see is that sum, too: Keras shows a mean for "none"."""
        return self._reduction == "sum" and not self.of_batch

    def find_form(self, outputs: tf.Tensor, labels: tf.Tensor) -> None:
        """Find out whether the Keras loss gives a number for each image, or one for the batch.

        Args:
            outputs: of some images, not as many as there are classes, which differ.
            labels: theirs.
        """
        if self._keras is None:
            return
        losses = self._of_keras(outputs, labels)
        self.of_batch = losses.shape.rank == 0 or losses.shape[0] != outputs.shape[0]
        if self.of_batch:
            self.alone = False
            return
        self._each = math.prod(losses.shape[1:])
        count = outputs.shape[0] // 2
        of_fewer = self._of_keras(outputs[:count], labels[:count])
        self.alone = of_fewer.shape == losses[:count].shape and np.allclose(losses[:count], of_fewer, 1e-4)

    def check_weights(self, weights: np.ndarray) -> None:
        """UsageError for class weights by which Keras would count the one number of a batch once for each image, or sum the
        numbers of one image."""
        if self.of_batch and self._reduction in ("sum", "none") and not np.all(weights == 1):
            raise UsageError(
                f"class_weight has no image to weigh in a loss of one number a batch with reduction {self._reduction!r}; leave "
                "class_weight at 'none', or the reduction at Keras' default"
            )
        if self._each > 1 and self.by_weights and not np.all(weights == 1):
            raise UsageError(
                f"class_weight counts each of the {self._each} numbers that the loss gives an image under reduction "
                f"{self._reduction!r}; leave class_weight at 'none', or the reduction at Keras' default"
            )

    def with_added(self, losses: tf.Tensor, beside: tf.Tensor | None) -> tf.Tensor:
        """What descends in a batch: the mean or sum of the images' losses, and what layers add."""
        loss = tf.reduce_sum(losses) if self.summed else tf.reduce_mean(losses)
        return loss if beside is None else loss + beside

    def told(self, losses: tf.Tensor, beside: tf.Tensor | None) -> tf.Tensor:
        """What a batch counts, float32 (batch,): the mean over all images of an epoch is the loss that Keras would show."""
        if self.told_summed:
            losses = tf.fill(tf.shape(losses), tf.reduce_sum(losses))
        elif self.summed:
            losses = losses / self._each
        return losses if beside is None else losses + beside

    def _of_keras(self, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The Keras loss, not reduced: labels come to it as numbers of its own type, as from Keras."""
        assert self._keras is not None
        labels = in_form(labels, tf.shape(outputs)[-1], wants_one_hot(self._keras))
        labels = keras.ops.convert_to_tensor(labels, dtype=getattr(self._keras, "dtype", "float32"))
        losses = self._keras.call(labels, tf.cast(outputs, tf.float32))
        masks = [getattr(each, "_keras_mask", None) for each in (outputs, losses)]  # which of them count
        losses = tf.cast(losses, tf.float32)
        there = [tf.cast(mask, tf.float32) for mask in masks if mask is not None and mask.shape.rank == losses.shape.rank]
        if not there:
            return losses
        self.masked, counted = True, math.prod(there)
        if self._reduction not in ("sum", "none"):
            counted *= tf.cast(tf.size(counted), tf.float32) / tf.maximum(tf.reduce_sum(counted), 1.0)
        return losses * counted

    def log_probabilities(self, outputs: Any) -> tf.Tensor:
        """What the network says, as logarithms of probabilities, float32 (batch, classes)."""
        outputs = tf.cast(outputs, tf.float32)
        return tf.nn.log_softmax(outputs) if self._logits else tf.math.log(tf.maximum(outputs, 1e-12))

    def right(self, outputs: Any, labels: tf.Tensor) -> tf.Tensor:
        """Whether the largest output is the label, int32 (batch,)."""
        return tf.cast(tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), whole_labels(labels)), tf.int32)

    def plain(self, outputs: Any, labels: tf.Tensor) -> tf.Tensor:
        """What validation scores, float32 (batch,): cross-entropy, or the Keras loss."""
        if self._keras is None:
            log_probabilities = self.log_probabilities(outputs)
            return -tf.reduce_sum(in_form(labels, tf.shape(log_probabilities)[-1], True) * log_probabilities, axis=-1)
        losses = self._of_keras(outputs, labels)
        if self.of_batch:
            return tf.fill(tf.shape(outputs)[:1], tf.reduce_mean(losses))
        together = tf.reduce_sum if self.summed else tf.reduce_mean
        return together(tf.reshape(losses, (tf.shape(losses)[0], -1)), axis=1)

    def __call__(self, outputs: Any, labels: tf.Tensor, taught: tf.Tensor | None = None) -> tf.Tensor:
        """What training descends, float32 (batch,).

        Args:
            outputs: of the network, (batch, classes).
            labels: int32 (batch,), or float32 (batch, classes).
            taught: probabilities of the teachers, float32 (batch, classes).
        """
        log_probabilities = self.log_probabilities(outputs)
        if self._keras is not None:
            losses = self.plain(outputs, labels)
        else:
            target = in_form(labels, tf.shape(log_probabilities)[-1], True)
            if self._smoothing:
                classes = tf.cast(tf.shape(target)[-1], tf.float32)
                target = target * (1 - self._smoothing) + self._smoothing / classes
            if self._focus:
                target = target * (1 - tf.exp(log_probabilities)) ** self._focus
            losses = -tf.reduce_sum(target * log_probabilities, axis=-1)
        if self._costs is not None:
            losses += tf.reduce_sum(tf.exp(log_probabilities) * tf.gather(self._costs, whole_labels(labels)), axis=-1)
        if taught is None:
            return losses
        softened = tf.nn.log_softmax(log_probabilities / self._temperature)
        imitation = -tf.reduce_sum(taught * softened, axis=-1) * self._temperature**2
        return (1 - self._teacher_weight) * losses + self._teacher_weight * imitation


def _check_loss(loss: keras.losses.Loss, stage: str) -> None:
    """UsageError for what the mean over images would leave out: a class to ignore, a `__call__` of the loss's own."""
    where = f"loss of stage {stage!r} is a {type(loss).__name__}"
    if getattr(loss, "ignore_class", None) is not None:
        raise UsageError(f"{where} with ignore_class={loss.ignore_class}; leave these images out of the data instead")
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        raise UsageError(f"{where} with a __call__ of its own; compute in call(y_true, y_pred): a loss an image is wanted")


def whole_labels(labels: tf.Tensor) -> tf.Tensor:
    """int32 (batch,): the labels, or where rows are given the class that has the largest share."""
    return labels if labels.shape.rank == 1 else tf.argmax(labels, axis=-1, output_type=tf.int32)
