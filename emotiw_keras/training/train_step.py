"""The compiled training and evaluation step of a stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import f1_score

from emotiw_keras.data.augment import Augment
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import UsageError
from emotiw_keras.heads import Head
from emotiw_keras.models.kernels.large_batches import in_batches
from emotiw_keras.training.averages import Averages
from emotiw_keras.training.epoch_plan import changes_of
from emotiw_keras.training.given_objects import taken_column
from emotiw_keras.training.heads_loss import HeadsLoss
from emotiw_keras.training.keras_objects import wants_one_hot
from emotiw_keras.training.losses import StageLoss, in_form, whole_labels
from emotiw_keras.training.optimizers import as_computed
from emotiw_keras.training.pull_to_start import PullToStart
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.teachers import Teachers


def drawn_answers(labels: tf.TensorSpec, classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Outputs and labels of some images, the same in every process."""
    count = 5 if classes != 5 else 6  # so that no side of a tensor is taken for another
    of_each = tf.range(count) % classes
    one = tf.cast(of_each, labels.dtype) if labels.shape.rank == 1 else tf.one_hot(of_each, classes, dtype=labels.dtype)
    return tf.nn.softmax(tf.random.stateless_normal((count, classes), (0, 0))), one


def _try(metrics: Sequence[keras.metrics.Metric], loss: StageLoss, labels: tf.TensorSpec, classes: int) -> None:
    """Compute loss and metrics once: a mistake is told before it stands in a graph, and metrics make their variables, which
    some do at the first answers: an interrupted stage gives them their values.

    Raises:
        UsageError: one that does not take such labels.
    """
    outputs, one = drawn_answers(labels, classes)

    def tried(what: str, compute: Callable[[], Any]) -> None:
        try:
            compute()
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            form = "classes as whole numbers" if labels.shape.rank == 1 else f"rows of {classes} numbers"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{what} does not take labels that are {form}: {reason}") from error

    tried("the loss", partial(loss.find_form, outputs, one))
    names: list[str] = []
    for metric in metrics:
        tried(f"metric {metric.name!r}", partial(metric.update_state, in_form(one, classes, wants_one_hot(metric)), outputs))
        names += _values(metric)
        if (taken := taken_column(names)) is not None:
            raise UsageError(
                f"metric {metric.name!r} gives {taken!r}, as another column of the history is called; give it a name=..."
            )
        metric.reset_state()


def _values(metric: keras.metrics.Metric) -> dict[str, float]:
    """Name -> value; one metric may give several, by name or as an array, whose numbers are `name.0` and so on."""
    result = metric.result()
    found: dict[str, float] = {}
    for name, value in (result if isinstance(result, Mapping) else {metric.name: result}).items():
        numbers = np.asarray(keras.ops.convert_to_numpy(value)).reshape(-1).tolist()
        found |= {name: numbers[0]} if len(numbers) == 1 else {f"{name}.{i}": each for i, each in enumerate(numbers)}
    return found


def beside_the_labels(model: keras.Model) -> tf.Tensor | None:
    """The sum of what layers add to the loss: regularizers of what trains, of activities, `add_loss`; None where none does."""
    added = [tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in model.losses]
    return tf.add_n(added) if added else None


_DRAWS = re.compile(r"Random.*|(Parameterized)?TruncatedNormal|Multinomial|SampleDistorted.*|Rng.*|Stateful(?!Partitioned).*")
"""Operations of TensorFlow that draw random numbers from a state of their own, or of a `tf.random.Generator`."""


def draws_unkept(step: Any, model: keras.Model) -> bool:
    """Whether a graph draws random numbers from something else than numbers that are fixed and the network's variables: by
    `tf.random`, or by `keras.random` with a generator that no layer has, which it takes where it is given no seed."""
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    kept = {id(variable.value) for variable in model.variables}
    beside = [each for each in step.graph.variables if "seed_generator_state" in each.name and id(each) not in kept]
    return bool(beside) or any(_DRAWS.fullmatch(node.op) for node in nodes)


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
        pull: adds its gradient, if given.
        costs: float (classes, classes), what each answer costs, rows are the truth; for `Stage.cost_weight`.
        teachers: whose answers are learned too, by `Stage.teacher_weight`.
        labels: what a batch's labels are, int32 (batch,) or float32 (batch, classes).
        metrics: of Keras; they gather in training until they are reset.
        heads: of a network that has several; then labels have the columns of all, and weights are theirs already.

    Attributes:
        unkept: whether training steps draw random numbers that no checkpoint keeps; known from the first on.
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
        labels: tf.TensorSpec | None = None,
        metrics: Sequence[keras.metrics.Metric] = (),
        heads: Sequence[Head] = (),
        pull: PullToStart | None = None,
    ) -> None:
        self.pull = pull
        self.model, self.face_input, self.optimizer, self.averages = model, face_input, optimizer, averages
        self.metrics = tuple(metrics)
        self.loss = HeadsLoss(stage, model, heads) if heads else StageLoss(stage, model, costs)
        self._sharpness = stage.sharpness
        self._teachers, self._temperature = teachers, stage.temperature
        self._augment: Augment | None = None
        if stage.augmented and isinstance(face_input, FaceInput):  # features are not
            self._augment = Augment.of(changes_of(stage), face_input)
        self._weights = tf.constant(class_weights, tf.float32)
        self._variables = model.trainable_variables
        images = tf.TensorSpec((None, *shape), dtype)
        draws = tf.TensorSpec((None, None), tf.float32 if stage.augmented else tf.int32)
        labels = labels or tf.TensorSpec((None,), tf.int32)
        rate = tf.TensorSpec((), tf.float32)
        if not heads:
            assert isinstance(self.loss, StageLoss)
            _try(self.metrics, self.loss, labels, int(model.output_shape[-1]))
            self.loss.check_weights(class_weights)
        self._train = tf.function(self._train_step, input_signature=(images, draws, labels, rate))
        self._step: Callable[..., Any] | None = None
        self._learns, self.unkept = True, False
        self._judge = tf.function(self._judge_step, input_signature=(images, labels))
        self._said: list[np.ndarray] = []
        self._lost: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def _inputs(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        if self._augment is None:
            return self.face_input(images, draws)
        return self._augment(self.face_input(images, draws[:, :3]), draws[:, 3:], draws[:, :3])

    def _taught(self, images: tf.Tensor, draws: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor | None:
        """What teachers say of the same crops before anything spoils them: what they know of clear faces is to be learned."""
        if self._teachers is None:
            return None
        if self._augment is not None and self._augment.changes.spoils:
            inputs = self._augment.unspoilt(self.face_input(images, draws[:, :3]), draws[:, 3:])
        return self._teachers(inputs, self._temperature)

    def _train_step(
        self, images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        self.optimizer.learning_rate.assign(learning_rate)
        inputs = self._inputs(images, draws)
        taught = self._taught(images, draws, inputs)
        told, outputs, gradients = self._gradients(inputs, labels, taught)
        if self._sharpness:
            gradients = self._uphill(gradients, inputs, labels, taught)
        if self.pull is not None:
            gradients = self.pull.added(gradients, self._variables, self.optimizer.scale_loss(tf.constant(1.0)))
        self._update(as_computed(gradients, self.optimizer))
        self._gather(labels, outputs)
        return tf.reduce_sum(told), tf.reduce_sum(self.loss.right(outputs, labels))

    def _update(self, gradients: list[tf.Tensor]) -> None:
        """Update the variables, by the method of the optimizer that Keras' own step calls; the averages follow."""
        if not gradients:
            return
        # an update in place copies the variable first if a gradient's kernel still reads it
        with tf.control_dependencies(gradients):
            done = tf.identity(self.optimizer.iterations)
            self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
            if self.averages is not None:
                self.averages.update(done, tf.identity(self.optimizer.iterations))

    def _counts(self, labels: tf.Tensor) -> tf.Tensor:
        """What each image of a whole batch counts by its class, so that the mean over images is the loss: float32 (batch,)."""
        weights = tf.gather(self._weights, whole_labels(labels))
        return tf.math.divide_no_nan(weights, tf.reduce_mean(weights)) if self.loss.by_weights else weights

    def _gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor, taught: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """What each image counts (`StageLoss.told`), the outputs and the gradients of the scaled loss, one for each variable
        that trains."""
        # a frozen layer's variables are not watched: the backward pass ends behind the last frozen layer
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._variables])
            outputs = self.model(inputs, training=True)
            weighted = self.loss(outputs, labels, taught) * self._counts(labels)
            beside = beside_the_labels(self.model)
            scaled = self.optimizer.scale_loss(self.loss.with_added(weighted, beside))
        return self.loss.told(weighted, beside), outputs, self._reached(tape.gradient(scaled, self._variables))

    def _reached(self, gradients: list[tf.Tensor | None]) -> list[tf.Tensor]:
        """The gradients there are. A variable that the loss does not depend on has none, and is passed over from here on, as by
        Keras; that it did not move is told when the stage ends."""
        self._pass_over([gradient is None for gradient in gradients])
        return [gradient for gradient in gradients if gradient is not None]

    def _pass_over(self, unreached: Sequence[bool]) -> None:
        """Train some of the variables no more."""
        self._learns = not all(unreached)
        self._variables = [variable for variable, passed in zip(self._variables, unreached, strict=True) if not passed]

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

    def _gather(self, labels: tf.Tensor, outputs: tf.Tensor) -> None:
        for metric in self.metrics:
            metric.update_state(in_form(labels, tf.shape(outputs)[-1], wants_one_hot(metric)), tf.cast(outputs, tf.float32))

    def _judge_step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with in_batches():
            outputs = self.model(self.face_input(images), training=False)
        self._gather(labels, outputs)
        told = self.loss.told(self.loss.plain(outputs, labels), beside_the_labels(self.model))
        return self.loss.log_probabilities(outputs), told

    def train(self, images: tf.Tensor, draws: tf.Tensor, labels: tf.Tensor, learning_rate: float) -> tuple[float, float]:
        """One update; the sum of the weighted losses and the number of right answers, both before the update."""
        if self._step is None:
            # The graph itself: a `tf.function` looks for the one that fits each time, for a thirtieth of a small step.
            self._step = self._train.get_concrete_function()
            self.unkept = draws_unkept(self._step, self.model)
            if not self._learns:
                raise UsageError(
                    f"no weight that trains has a part in what {self.model.name} returns; there is nothing to learn"
                )
        loss, right = self._step(images, draws, labels, tf.constant(learning_rate, tf.float32))
        return float(loss), right.numpy().item()

    def metric_values(self) -> dict[str, float]:
        """Name -> value of the metrics since they were reset; one that gives several has a name for each."""
        return {name: value for metric in self.metrics for name, value in _values(metric).items()}

    def reset_metrics(self) -> None:
        """Begin to gather anew."""
        for metric in self.metrics:
            metric.reset_state()

    def evaluate(self, parts: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> dict[str, float]:
        """val_loss (cross-entropy, or the stage's Keras loss), val_accuracy, val_macro_f1 and the metrics, on centre crops.

        Args:
            parts: batches of images, and their labels.
        """
        self.reset_metrics()
        self._said, self._lost, self._truth = [], [], []
        for images, labels in parts:
            log_probabilities, losses = self._judge(images, labels)
            self._said.append(log_probabilities.numpy())
            self._lost.append(losses.numpy())
            self._truth.append((labels if isinstance(self.loss, HeadsLoss) else whole_labels(labels)).numpy())
        log_probabilities, right = np.concatenate(self._said), np.concatenate(self._truth)
        if isinstance(self.loss, HeadsLoss):
            return self.loss.scores(log_probabilities, right)
        predicted, classes = log_probabilities.argmax(axis=1), range(log_probabilities.shape[1])
        scores = self.judged_so_far()
        return {
            "val_loss": scores.pop("loss"),
            "val_accuracy": scores.pop("accuracy"),
            "val_macro_f1": float(f1_score(right, predicted, labels=classes, average="macro", zero_division=0)),
            **{f"val_{name}": value for name, value in scores.items()},
        }

    def judged_so_far(self) -> dict[str, float]:
        """Loss, accuracy and metrics of the batches that `evaluate` has gone through, of one head."""
        predicted = np.concatenate(self._said).argmax(axis=1)
        return {
            "loss": float(np.concatenate(self._lost).mean(dtype=np.float64)),
            "accuracy": float((predicted == np.concatenate(self._truth)).mean()),
            **self.metric_values(),
        }
