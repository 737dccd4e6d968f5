"""A moving average of a network's weights over the steps of a stage, which is what is scored and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

WARMUP_STEPS = 10
"""After step t the decay is at most (1 + t) / (10 + t), so that the random start is soon forgotten."""


class Averages:
    """Moving averages of all weights of a network, the statistics of batch normalisation included (Polyak and Juditsky 1992).

    Args:
        model: its weights are the averages' start.
        decay: share of the average that a step keeps, 0..1.

    Attributes:
        variables: the averages, in the order of `model.variables`; whole numbers (seeds) are left out.

    Example:
        >>> averages = Averages(model, 0.999)                                  # doctest: +SKIP
        >>> averages.update(before, optimizer.iterations)                      # doctest: +SKIP
        >>> with averages.in_place():                                          # doctest: +SKIP
        ...     model(images)
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self._followed = [variable for variable in model.variables if variable.dtype.startswith(("float", "bfloat"))]
        self._decay = decay
        self.variables = [
            # numpy: from a variable Keras would make not a copy but the same variable
            keras.Variable(variable.numpy(), dtype="float32", trainable=False, name=variable.path.replace("/", "_"))
            for variable in self._followed
        ]

    def update(self, before: Any, after: Any) -> None:
        """Follow the weights by one step; runs in a graph.

        Args:
            before, after: whole numbers, the optimizer's updates before the step and after it: a step that only accumulates
                makes none, and the averages stay.
        """
        done = tf.cast(before, tf.float32)
        share = 1 - tf.minimum(self._decay, (1 + done) / (WARMUP_STEPS + done))
        share *= tf.cast(after > before, tf.float32)
        for average, variable in zip(self.variables, self._followed, strict=True):
            average.assign_sub(share * (average.value - tf.cast(variable.value, tf.float32)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network holds the averages; afterwards its own weights again."""
        own = [variable.numpy() for variable in self._followed]
        self._assign(self._values())
        try:
            yield
        finally:
            self._assign(own)

    def _values(self) -> list[Any]:
        return [average.numpy() for average in self.variables]

    def _assign(self, values: list[Any]) -> None:
        for variable, value in zip(self._followed, values, strict=True):
            variable.assign(value)


class OptimizersAverages(Averages):
    """The moving averages that a Keras optimizer with `use_ema=True` keeps itself, of the weights that train. What an epoch
    leaves are these, as after `model.fit`, and so they are what is scored, chosen and kept.

    Args:
        optimizer: built.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._followed, self._held = list(inner._trainable_variables), list(inner._model_variables_moving_average)
        self.variables = []  # a checkpoint has them with the optimizer's

    def update(self, before: Any, after: Any) -> None:
        """Nothing."""
        del before, after  # the optimizer has done it

    def _values(self) -> list[Any]:
        return [average.numpy() for average in self._held]
