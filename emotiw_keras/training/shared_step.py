"""The compiled step of a stage where several replicas compute it together, each on its rows of the global batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from emotiw_keras.errors import UsageError
from emotiw_keras.models.kernels.large_batches import in_batches
from emotiw_keras.training.freezing import inner_layers
from emotiw_keras.training.interrupts import SIGNALS
from emotiw_keras.training.replicas import Replicas, this_replica
from emotiw_keras.training.shared_layers import Rows, check_alone, check_layers, is_known, whole_batches
from emotiw_keras.training.train_step import StageSteps, beside_the_labels, draws_unkept

SAVE = -1
"""Beside the signals: the chief wants a checkpoint."""
WISHES = (*SIGNALS, SAVE)


class SharedSteps(StageSteps):
    """`StageSteps` on several replicas: the update, the loss and the scores are those of one, up to the order of sums.

    Images and draws are those of this process's replicas (`Replicas.share`), labels those of the global batch. The losses and
    outputs of all rows come to every process beside the gradients, in the order of the batch; sums and metrics are computed of
    them as in one process.

    Args:
        replicas: who computes.
        arguments: those of `StageSteps`.

    Attributes:
        wishes: of this worker, numbers of `WISHES`; they go with the next step.
        wished: what any worker wished with the last step.
    """

    def __init__(self, replicas: Replicas, *arguments: Any, **named: Any) -> None:
        self.replicas = replicas
        self.wishes: set[int] = set()
        self.wished: set[int] = set()
        self._sent: set[int] = set()
        self._written: list[keras.Variable] = []
        self._adds = False
        self._unreached: list[bool] = []
        self._own: tf.Variable = tf.Variable(tf.zeros(len(WISHES)), trainable=False)
        self._any: tf.Variable = tf.Variable(tf.zeros(len(WISHES)), trainable=False)
        super().__init__(*arguments, **named)
        check_layers(self.model)
        check_alone(self.model)
        if not self.loss.alone:
            raise UsageError(
                "the loss of an image depends on the others of its batch, so that it would differ with the number of replicas; "
                "let its call(y_true, y_pred) give each image its own, or train with --strategy none (in Python None)"
            )

    # ---- one replica's part

    def _mine(self, local: tf.Tensor, rows: Rows) -> tf.Tensor:
        """This replica's rows of what the process has read."""
        me, first = this_replica(), self.replicas.local[0]
        before = tf.reduce_sum(rows.held(tf.range(first, first + len(self.replicas.local)))[: me - first])
        return local[before : before + rows.held(me)]

    def _placed(self, values: tf.Tensor, rows: Rows) -> tf.Tensor:
        """Rows of this replica where they stand in the global batch, zeros elsewhere; float32."""
        number = rows.number_of(this_replica())
        shape = tf.concat([rows.batch[None], tf.shape(values)[1:]], 0)
        return tf.scatter_nd(rows.places()[:number, None], tf.cast(values[:number], tf.float32), shape)

    def _train_step(
        self, images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        rows = Rows(tf.shape(labels)[0], self.replicas.count)

        def prepared(images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            images, draws = self._mine(images, rows), self._mine(draws, rows)
            inputs = self._inputs(images, draws)
            taught = self._taught(images, draws, inputs)
            mine = [tf.gather(each, rows.places()) for each in (labels, self._counts(labels))]
            return (inputs, *mine, *(() if taught is None else (taught,)))

        self.optimizer.learning_rate.assign(learning_rate)
        parts = self.replicas.strategy.run(prepared, (images, draws, labels))
        told, outputs, gradients = self._shared_gradients(parts, rows)
        if self._sharpness:
            gradients = self._shared_uphill(gradients, parts, rows)
        if self.pull is not None:
            gradients = self.pull.added(gradients, self._variables, self.optimizer.scale_loss(tf.constant(1.0)))
        self._update(gradients)
        self._gather(labels, outputs)
        return tf.reduce_sum(told), tf.reduce_sum(self.loss.right(outputs, labels))

    def _shared_gradients(
        self, parts: tuple[Any, ...], rows: Rows, keep: bool = True
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """What each image of the global batch counts (`StageLoss.told`), its outputs, and the gradients of its scaled loss.

        Args:
            parts: inputs, labels, what images count by them, and what teachers say, of each replica.
            rows: of the global batch.
            keep: whether the network keeps what its layers remember of the batch; seeds go on in any case.
        """

        def replica(
            inputs: tf.Tensor, labels: tf.Tensor, counts: tf.Tensor, *taught: tf.Tensor
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            number = rows.number_of(this_replica())
            with keras.StatelessScope(collect_losses=True) as scope, tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([variable.value for variable in self._variables])
                outputs = self.model(inputs, training=True)
                weighted = self.loss(outputs, labels, *taught) * counts
                whole = 1.0 if self.loss.summed else tf.cast(rows.batch, tf.float32)
                scaled = self.optimizer.scale_loss(tf.reduce_sum(weighted[:number]) / whole)
            gradients = tape.gradient(scaled, self._variables)
            self._unreached = [gradient is None for gradient in gradients]
            gradients = [gradient for gradient in gradients if gradient is not None]
            values = [(variable, scope.get_current_value(variable)) for variable in self.model.non_trainable_variables]
            changed = [(variable, value) for variable, value in values if value is not None]
            wishes = self._own * tf.cast(tf.equal(this_replica(), self.replicas.local[0]), tf.float32)
            added = [*gradients, self._placed(weighted, rows), self._placed(outputs, rows), wishes]
            added = [tf.cast(each, tf.float32) for each in added]
            self._written, self._adds = [variable for variable, _ in changed], bool(scope.losses)
            return tf.concat([tf.reshape(each, [-1]) for each in added], 0), [value for _, value in changed]

        with whole_batches(self.model, rows):
            flat, values = self.replicas.strategy.run(replica, parts)
        flat = self.replicas.strategy.reduce("SUM", flat, axis=None)
        self._pass_over(self._unreached)
        classes = int(self.model.output_shape[-1])
        sizes = [math.prod(variable.shape) for variable in self._variables]
        split = tf.split(flat, [*sizes, rows.batch, rows.batch * classes, len(WISHES)])
        gradients = [
            tf.reshape(part, variable.shape) for part, variable in zip(split[: len(sizes)], self._variables, strict=True)
        ]
        weighted, outputs, wished = split[len(sizes) :]
        self._any.assign(wished)
        for variable, value in zip(self._written, values, strict=True):
            if keep or not variable.dtype.startswith(("float", "bfloat")):
                variable.assign(self.replicas.strategy.experimental_local_results(value)[0])
        with tf.GradientTape(watch_accessed_variables=False) as tape:  # of the weights alone, so the same on every replica
            values = [variable.value for variable in self._variables]
            tape.watch(values)
            beside = beside_the_labels(self.model)
            scaled = None if beside is None else self.optimizer.scale_loss(beside)
        if scaled is not None:
            more = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            gradients = [one + tf.cast(other, one.dtype) for one, other in zip(gradients, more, strict=True)]
        return self.loss.told(weighted, beside), tf.reshape(outputs, (rows.batch, classes)), gradients

    def _shared_uphill(self, gradients: list[tf.Tensor], parts: tuple[Any, ...], rows: Rows) -> list[tf.Tensor]:
        """As `_uphill`: all replicas go the same way, and come back."""
        far = self._sharpness / (tf.linalg.global_norm(gradients) + 1e-12)
        kept = [tf.identity(variable.value) for variable in self._variables]
        for variable, gradient in zip(self._variables, gradients, strict=True):
            variable.assign_add(far * gradient)
        _, _, uphill = self._shared_gradients(parts, rows, keep=False)
        with tf.control_dependencies(uphill):
            for variable, value in zip(self._variables, kept, strict=True):
                variable.assign(value)
        return uphill

    def _judge_step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = Rows(tf.shape(labels)[0], self.replicas.count)

        def replica(images: tf.Tensor) -> tf.Tensor:
            with in_batches():
                outputs = self.model(self.face_input(self._mine(images, rows)), training=False)
            return self._placed(outputs, rows)

        outputs = self.replicas.strategy.reduce("SUM", self.replicas.strategy.run(replica, (images,)), axis=None)
        outputs = tf.ensure_shape(outputs, (None, self.model.output_shape[-1]))
        self._gather(labels, outputs)
        told = self.loss.told(self.loss.plain(outputs, labels), beside_the_labels(self.model))
        return self.loss.log_probabilities(outputs), told

    # ---- from outside

    def trace(self) -> None:
        """Make the graph of a step, before any is done.

        Raises:
            UsageError: a layer draws random numbers, keeps something of a batch, or adds something of it to the loss, that
                would differ with the number of replicas.
        """
        self._step = self._train.get_concrete_function()
        if draws_unkept(self._step, self.model):
            raise UsageError(
                f"layers of {self.model.name} draw random numbers for their own rows (tf.random, keras.random without a seed), "
                "which would differ with the number of replicas; use keras.layers.Dropout, or train it with --strategy none"
            )
        if self.loss.masked:
            raise UsageError(
                f"{self.model.name} or its loss leaves items of a batch out by a mask, by which the others would count "
                "otherwise with the number of replicas; train it with --strategy none (in Python None)"
            )
        if self._adds:
            raise UsageError(
                f"{self.model.name} adds to the loss what its layers make of a batch (add_loss, activity_regularizer), which "
                "would differ with the number of replicas; train it with --strategy none (in Python None)"
            )
        known = {id(v) for _, layer in inner_layers(self.model) if is_known(layer) for v in layer.non_trainable_variables}
        other = [variable.path for variable in self._written if id(variable) not in known]
        if other:
            raise UsageError(
                f"{self.model.name} changes {other[0]} with each batch, which would differ with the number of replicas; train "
                "it with --strategy none (in Python None)"
            )

    def train(self, images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor, learning_rate: float) -> tuple[float, float]:
        """As `StageSteps.train`, with every replica of every worker."""
        with self.replicas.watching():
            if self.wishes != self._sent:
                self._own.assign([float(wish in self.wishes) for wish in WISHES])
            self._sent, self.wishes = self.wishes, set()
            done = super().train(images, draws, labels, learning_rate)
            self.wished = {wish for wish, number in zip(WISHES, self._any.numpy(), strict=True) if number}
        return done

    def evaluate(self, parts: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> dict[str, float]:
        """As `StageSteps.evaluate`; `parts` hold the images of this process's replicas, and all labels."""
        with self.replicas.watching():
            return super().evaluate(parts)
