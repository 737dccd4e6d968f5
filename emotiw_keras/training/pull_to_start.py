"""A pull of the weights towards what they were when their stage began (L2-SP)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import keras
import tensorflow as tf

from emotiw_keras.training.freezing import weighted_layers


class PullToStart:
    """Adds strength / 2 times the squared distance from the start to the loss (Li et al. 2018, arXiv:1802.01483, equation 3).

    Args:
        model: its trainable weights, as they are now, are the start.
        strength: the paper's alpha.
        apart: names of layers that are not pulled, as they begin anew.

    Attributes:
        variables: the start, in the order of the model's trainable weights.

    Example:
        >>> pull = PullToStart(model, 0.01)                            # doctest: +SKIP
        >>> gradients = pull.added(gradients, variables, 1.0)          # doctest: +SKIP
    """

    def __init__(self, model: keras.Model, strength: float, apart: Collection[str] = ()) -> None:
        left = {id(weight) for name, layer in weighted_layers(model).items() if name in apart for weight in layer.weights}
        pulled = [variable for variable in model.trainable_variables if id(variable) not in left]
        self.variables = [
            # numpy: from a variable Keras would make not a copy but the same variable
            keras.Variable(variable.numpy(), dtype="float32", trainable=False, name=variable.path.replace("/", "_"))
            for variable in pulled
        ]
        self._start = {id(variable): start for variable, start in zip(pulled, self.variables, strict=True)}
        self._strength = strength

    def added(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], scale: tf.Tensor | float
    ) -> list[tf.Tensor]:
        """Gradients of the loss with the pull; runs in a graph.

        Args:
            gradients: of `variables`.
            variables: all of the model, or some.
            scale: what the loss is multiplied by.
        """
        result = []
        for gradient, variable in zip(gradients, variables, strict=True):
            start = self._start.get(id(variable))
            if start is not None:
                away = tf.cast(variable.value, tf.float32) - start.value
                gradient = gradient + tf.cast(self._strength * scale * away, gradient.dtype)
            result.append(gradient)
        return result
