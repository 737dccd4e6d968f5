"""The compiled training of one path among all modules, at the cost of that path.

The active modules' kernels are gathered from the bank before a trial of some minibatches, trained as plain tensors, and those
that are not frozen are scattered back after it: a frozen module is never written. Each module is a convolution of its own, as
in the network of the finished path: one with all kernels side by side would have to split its maps again, which costs more than
it saves. One graph serves all paths with equal numbers of modules in their layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from emotiw_keras.data.batches import Pool, batches
from emotiw_keras.pathnet.bank import Bank
from emotiw_keras.pathnet.evolution import Path

VALIDATION_BATCH = 128
Counts = tuple[int, ...]
Weights = list[tf.Tensor]


class PathSteps:
    """Trials and predictions of paths on one task's images.

    Args:
        bank: the modules and the task's readout.
        face_input: bytes and crops to network input.
        dtype: what convolutions compute in, "float32" or "bfloat16".
    """

    def __init__(self, bank: Bank, face_input: Callable[..., Any], dtype: str = "float32") -> None:
        self.bank, self.face_input, self.dtype = bank, face_input, tf.as_dtype(dtype)
        self._graphs: dict[tuple[str, Counts], Any] = {}

    def trial(
        self, images: np.ndarray, crops: np.ndarray, labels: np.ndarray, path: Path, learning_rate: float
    ) -> tuple[float, int]:
        """Train a path by plain gradient descent, a step for each minibatch.

        Args:
            images: uint8 (minibatches, batch, height, width, channels).
            crops: int32 (minibatches, batch, 3).
            labels: int32 (minibatches, batch).
            path: what is trained; frozen modules of it are used, and stay as they are.
            learning_rate: of the descent.

        Returns:
            The sum of the losses and the number of right answers over all images, each before its step.
        """
        genes, free = self._genes(path), []
        for layer, chosen in enumerate(path):
            free.append(tf.constant(np.flatnonzero(~self.bank.frozen[layer, list(chosen)]), tf.int32))
        rate = tf.constant(learning_rate, tf.float32)
        graph = self._graph("trial", self._trial_graph, tuple(map(len, path)))
        loss, right = graph(tf.constant(images), tf.constant(crops), tf.constant(labels), genes, free, rate)
        return float(loss), int(right)

    def evaluate(self, pool: Pool, path: Path) -> dict[str, float]:
        """val_loss (cross-entropy) and val_accuracy of a path on centre crops."""
        genes, order = self._genes(path), np.arange(len(pool))
        graph = self._graph("predict", self._predict_graph, tuple(map(len, path)))
        parts = [graph(images, genes).numpy() for images, _, _ in batches(pool, order, None, VALIDATION_BATCH)]
        answers = np.concatenate(parts)
        return {
            "val_loss": float(-answers[order, pool.labels].mean(dtype=np.float64)),
            "val_accuracy": float((answers.argmax(axis=1) == pool.labels).mean()),
        }

    def logits(self, inputs: Any, path: Path) -> tf.Tensor:
        """Logits, float32 (batch, classes), of network inputs, float (batch, height, width, channels)."""
        kernels, biases = self._gathered(self._genes(path))
        return self._forward(inputs, kernels, biases, [v.value() for v in self.bank.readout], tuple(map(len, path)))

    def _graph(self, name: str, build: Callable[..., Any], counts: Counts) -> Any:
        """The compiled graph of paths with so many modules in each layer; sizes of batches are left open in it."""
        if (name, counts) not in self._graphs:
            self._graphs[name, counts] = tf.function(functools.partial(build, counts=counts), reduce_retracing=True)
        return self._graphs[name, counts]

    @staticmethod
    def _genes(path: Path) -> list[tf.Tensor]:
        return [tf.constant(chosen, tf.int32) for chosen in path]

    def _gathered(self, genes: Sequence[tf.Tensor]) -> tuple[Weights, Weights]:
        """Each layer's active kernels side by side, (3, 3, channels, active * filters), and biases (active * filters,)."""
        kernels, biases = [], []
        for kernel, bias, chosen in zip(self.bank.kernels, self.bank.biases, genes, strict=True):
            side_by_side = tf.transpose(tf.gather(kernel, chosen), (1, 2, 3, 0, 4))
            kernels.append(tf.reshape(side_by_side, (3, 3, kernel.shape[3], -1)))
            biases.append(tf.reshape(tf.gather(bias, chosen), (-1,)))
        return kernels, biases

    def _forward(self, x: tf.Tensor, kernels: Weights, biases: Weights, readout: Weights, counts: Counts) -> tf.Tensor:
        settings = self.bank.settings
        stride = 2 if settings.reduce == "stride" else 1
        x = tf.cast(x, self.dtype)
        for kernel, bias, count in zip(kernels, biases, counts, strict=True):
            modules = zip(tf.split(kernel, count, axis=-1), tf.split(bias, count), strict=True)
            parts = [self._module(x, tf.cast(k, self.dtype), tf.cast(b, self.dtype), stride) for k, b in modules]
            x = tf.add_n(parts)
            if settings.combine == "average" and count > 1:
                x = x / count
            if settings.reduce == "pool":
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.reshape(tf.cast(x, tf.float32), (-1, self.bank.units))
        return tf.linalg.matmul(x, readout[0]) + readout[1]

    @staticmethod
    def _module(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, stride: int) -> tf.Tensor:
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), bias))

    def _trial_graph(
        self,
        images: tf.Tensor,
        crops: tf.Tensor,
        labels: tf.Tensor,
        genes: list[tf.Tensor],
        free: list[tf.Tensor],
        rate: tf.Tensor,
        counts: Counts,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        layers = len(counts)
        kernels, biases = self._gathered(genes)
        weights = [*kernels, *biases, *(variable.value() for variable in self.bank.readout)]

        def step(number: tf.Tensor, loss: tf.Tensor, right: tf.Tensor, weights: Weights) -> tuple[Any, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                x = self.face_input(images[number], crops[number])
                answers = self._forward(x, weights[:layers], weights[layers:-2], weights[-2:], counts)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[number], answers)
                mean = tf.reduce_mean(losses)
            gradients = tape.gradient(mean, weights)
            hits = tf.equal(tf.argmax(answers, axis=-1, output_type=tf.int32), labels[number])
            moved = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
            # What is frozen moves not even within the trial.
            moved = [*self._held(weights[:-2], moved[:-2], free, counts), *moved[-2:]]
            loss, right = loss + tf.reduce_sum(losses), right + tf.reduce_sum(tf.cast(hits, tf.int32))
            return number + 1, loss, right, moved

        start = (tf.constant(0), tf.constant(0.0), tf.constant(0), weights)
        steps = tf.shape(images)[0]
        _, loss, right, weights = tf.while_loop(lambda number, *_: number < steps, step, start, parallel_iterations=1)
        self._scatter(weights, genes, free, counts)
        return loss, right

    def _held(self, old: Weights, new: Weights, free: list[tf.Tensor], counts: Counts) -> Weights:
        """`new` where a module may move, `old` where it is frozen."""
        layers, held = len(counts), []
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            layer = number % layers
            may = tf.scatter_nd(free[layer][:, None], tf.ones_like(free[layer]), (counts[layer],))
            held.append(tf.where(tf.repeat(may > 0, self.bank.filters), after, before))
        return held

    def _scatter(self, weights: Weights, genes: list[tf.Tensor], free: list[tf.Tensor], counts: Counts) -> None:
        """Write back what was trained: the modules that are not frozen, and the readout."""
        layers, filters = len(counts), self.bank.filters
        for layer, (kernel, bias) in enumerate(zip(self.bank.kernels, self.bank.biases, strict=True)):
            modules = tf.reshape(weights[layer], (3, 3, kernel.shape[3], counts[layer], filters))
            modules = tf.gather(tf.transpose(modules, (3, 0, 1, 2, 4)), free[layer])
            places = tf.gather(genes[layer], free[layer])[:, None]
            kernel.scatter_nd_update(places, modules)
            bias.scatter_nd_update(places, tf.gather(tf.reshape(weights[layers + layer], (-1, filters)), free[layer]))
        for variable, value in zip(self.bank.readout, weights[-2:], strict=True):
            variable.assign(value)

    def _predict_graph(self, images: tf.Tensor, genes: list[tf.Tensor], counts: Counts) -> tf.Tensor:
        kernels, biases = self._gathered(genes)
        readout = [variable.value() for variable in self.bank.readout]
        return tf.nn.log_softmax(self._forward(self.face_input(images), kernels, biases, readout, counts))
