"""The frozen start of a network: what of it is the same in every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class Cut:
    """A network in two, by layers and weights that are the network's own.

    Attributes:
        prefix: from the network's input to features, (batch, ...); nothing in it trains or is random.
        tail: from features to the network's output.
    """

    prefix: keras.Model
    tail: keras.Model

    @property
    def frozen(self) -> str:
        """The first and last layer with weights of the prefix, for people."""
        names = [layer.name for layer in self.prefix.layers if layer.weights]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def cut_frozen(model: keras.Model) -> Cut | None:
    """Cut a network as late as it can be cut with everything before frozen; None if no weights are before.

    The cut lies where one tensor alone goes on: not between the branches of a fire module, not behind a dropout.

    Args:
        model: with the stage's rules applied (`apply_rules`).
    """
    for layer in reversed(model.layers):
        if not _still(layer):
            continue
        prefix = keras.Model(model.inputs[0], layer.output, name="prefix")
        if not prefix.weights:
            return None
        if not all(map(_still, prefix.layers)):
            continue
        try:
            tail = keras.Model(layer.output, model.outputs[0], name="tail")
        except ValueError:  # Keras' word for an output that needs more than this layer
            continue
        prefix.dtype_policy = tail.dtype_policy = model.dtype_policy
        return Cut(prefix, tail)
    return None


def _still(layer: keras.layers.Layer) -> bool:
    """Whether a layer gives the same at every step: it neither trains nor draws (`variables` hold a generator's state), nor
    keeps what it could change in a step, as frozen normalisations do not."""
    keeps = any(
        each._non_trainable_variables and not isinstance(each, keras.layers.BatchNormalization | keras.layers.Normalization)
        for each in layer._flatten_layers()
    )
    return not layer.trainable_variables and len(layer.variables) == len(layer.weights) and not keeps
