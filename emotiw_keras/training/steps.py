"""The compiled training and evaluation step of a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import f1_score

from emotiw_keras.data.augment import Augment
from emotiw_keras.data.batches import Source, batches
from emotiw_keras.data.device import FaceInput
from emotiw_keras.models.kernels.large_batches import in_batches
from emotiw_keras.training.averages import Averages
from emotiw_keras.training.crops import changes_of
from emotiw_keras.training.optimizers import as_computed
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.teachers import Teachers

VALIDATION_BATCH = 128


def gives_logits(model: keras.Model) -> bool:
    """Whether the last layer returns logits, not probabilities."""
    activation = getattr(model.layers[-1], "activation", None)
    return activation is None or activation is keras.activations.linear


class StageSteps:
    """Bytes in, an update or probabilities out; one graph each, whatever the batch size.

    Args:
        model: network that returns logits or probabilities, (batch, classes).
        face_input: bytes and crops to network input.
        stage: the loss, smoothing of labels, what changes images.
        class_weights: float (classes,), the weight of an image by its label.
        optimizer: built for the variables that train.
        shape: (height, width, channels) of the images, or that of features.
        dtype: of images or features.
        averages: follow the weights, if given.
        costs: float (classes, classes), what each answer costs, rows are the truth; for `Stage.cost_weight`.
        teachers: whose answers are learned too, by `Stage.teacher_weight`.
    """

    def __init__(
        self,
        model: keras.Model,
        face_input: Callable[..., Any],
        stage: Stage,
        class_weights: np.ndarray,
        optimizer: keras.optimizers.Optimizer,
        shape: tuple[int, ...],
        dtype: Any = np.uint8,
        averages: Averages | None = None,
        costs: np.ndarray | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        self.model, self.face_input, self.optimizer, self.averages = model, face_input, optimizer, averages
        self._logits = gives_logits(model)
        self._smoothing = stage.label_smoothing
        self._focus = stage.focal_gamma if stage.loss == "focal" else 0.0
        self._costs = None if costs is None else tf.constant(stage.cost_weight * costs, tf.float32)
        self._sharpness = stage.sharpness
        self._teachers, self._teacher_weight, self._temperature = teachers, stage.teacher_weight, stage.temperature
        self._augment: Augment | None = None
        if stage.augmented and isinstance(face_input, FaceInput):  # features are not
            self._augment = Augment(changes_of(stage), face_input.std)
        self._weights = tf.constant(class_weights, tf.float32)
        self._variables = model.trainable_variables
        images = tf.TensorSpec((None, *shape), dtype)
        draws = tf.TensorSpec((None, None), tf.float32 if stage.augmented else tf.int32)
        labels = tf.TensorSpec((None,), tf.int32)
        self._train = tf.function(self._train_step, input_signature=(images, draws, labels))
        self._predict = tf.function(self._predict_step, input_signature=(images,))

    def _log_probabilities(self, outputs: Any) -> tf.Tensor:
        outputs = tf.cast(outputs, tf.float32)
        return tf.nn.log_softmax(outputs) if self._logits else tf.math.log(tf.maximum(outputs, 1e-12))

    def _losses(self, outputs: Any, labels: tf.Tensor, taught: tf.Tensor | None) -> tf.Tensor:
        log_probabilities = self._log_probabilities(outputs)
        target = tf.one_hot(labels, tf.shape(log_probabilities)[-1])
        if self._smoothing:
            classes = tf.cast(tf.shape(target)[-1], tf.float32)
            target = target * (1 - self._smoothing) + self._smoothing / classes
        if self._focus:
            target = target * (1 - tf.exp(log_probabilities)) ** self._focus
        losses = -tf.reduce_sum(target * log_probabilities, axis=-1)
        if self._costs is not None:
            losses += tf.reduce_sum(tf.exp(log_probabilities) * tf.gather(self._costs, labels), axis=-1)
        if taught is None:
            return losses
        softened = tf.nn.log_softmax(log_probabilities / self._temperature)
        imitation = -tf.reduce_sum(taught * softened, axis=-1) * self._temperature**2
        return (1 - self._teacher_weight) * losses + self._teacher_weight * imitation

    def _inputs(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        if self._augment is None:
            return self.face_input(images, draws)
        return self._augment(self.face_input(images, draws[:, :3]), draws[:, 3:])

    def _train_step(self, images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = self._inputs(images, draws)
        taught = None if self._teachers is None else self._teachers(inputs, self._temperature)
        weighted, outputs, gradients = self._gradients(inputs, labels, taught)
        if self._sharpness:
            gradients = self._uphill(gradients, inputs, labels, taught)
        gradients = as_computed(gradients, self.optimizer)
        # an update in place copies the variable first if a gradient's kernel still reads it
        with tf.control_dependencies(gradients):
            done = tf.identity(self.optimizer.iterations)
            self.optimizer.apply(gradients, self._variables)
            if self.averages is not None:
                self.averages.update(done)
        right = tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), labels)
        return tf.reduce_sum(weighted), tf.reduce_sum(tf.cast(right, tf.int32))

    def _gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor, taught: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The weighted losses, the outputs and the gradients of the scaled mean loss, one for each variable that trains."""
        # a frozen layer's variables are not watched: the backward pass ends behind the last frozen layer
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._variables])
            outputs = self.model(inputs, training=True)
            weighted = self._losses(outputs, labels, taught) * tf.gather(self._weights, labels)
            scaled = self.optimizer.scale_loss(tf.reduce_mean(weighted))
        return weighted, outputs, tape.gradient(scaled, self._variables)

    def _uphill(
        self, gradients: list[tf.Tensor], inputs: tf.Tensor, labels: tf.Tensor, taught: tf.Tensor | None
    ) -> list[tf.Tensor]:
        """The gradients at `Stage.sharpness` from the weights, in the direction of `gradients`; the weights, and what layers
        remember of a batch, are as before."""
        far = self._sharpness / (tf.linalg.global_norm(gradients) + 1e-12)
        moved = [*self._variables, *(v for v in self.model.non_trainable_variables if v.dtype == "float32")]
        kept = [tf.identity(variable.value) for variable in moved]
        for variable, gradient in zip(self._variables, gradients, strict=True):
            variable.assign_add(far * gradient)
        _, _, uphill = self._gradients(inputs, labels, taught)
        with tf.control_dependencies(uphill):
            for variable, value in zip(moved, kept, strict=True):
                variable.assign(value)
        return uphill

    def _predict_step(self, images: tf.Tensor) -> tf.Tensor:
        with in_batches():
            return self._log_probabilities(self.model(self.face_input(images), training=False))

    def train(self, images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor, learning_rate: float) -> tuple[float, int]:
        """One update; the sum of the weighted losses and the number of right answers, both before the update."""
        self.optimizer.learning_rate.assign(learning_rate)
        loss, right = self._train(images, draws, labels)
        return float(loss), int(right)

    def evaluate(self, pool: Source) -> dict[str, float]:
        """val_loss (cross-entropy), val_accuracy and val_macro_f1 on centre crops."""
        order = np.arange(len(pool))
        parts = [self._predict(images).numpy() for images, _, _ in batches(pool, order, None, VALIDATION_BATCH)]
        log_probabilities = np.concatenate(parts)
        predicted = log_probabilities.argmax(axis=1)
        return {
            "val_loss": float(-log_probabilities[order, pool.labels].mean(dtype=np.float64)),
            "val_accuracy": float((predicted == pool.labels).mean()),
            "val_macro_f1": float(
                f1_score(pool.labels, predicted, labels=range(log_probabilities.shape[1]), average="macro", zero_division=0)
            ),
        }
