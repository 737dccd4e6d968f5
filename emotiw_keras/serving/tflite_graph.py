"""A run's network as a TFLite model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from emotiw_keras.serving.folding import Folded


class _Pixels(tf.Module):
    """uint8 (batch, side, side, channels) -> probabilities, by name."""

    def __init__(self, folded: Folded, columns: Mapping[str, slice]) -> None:
        super().__init__(name="emotiw")
        self._folded, self.columns = folded, dict(columns)
        self.network_variables = [variable.value for variable in folded.net.weights]

    def classify(self, pixels: Any) -> dict[str, Any]:
        """The steps before the network, and the network."""
        folded = self._folded
        faces = tf.cast(pixels, tf.float32)
        if folded.min_max:
            low = tf.reduce_min(faces, axis=(1, 2, 3), keepdims=True)
            high = tf.reduce_max(faces, axis=(1, 2, 3), keepdims=True)
            faces = (faces - low) * (255.0 / tf.maximum(high - low, 1.0))
        stop = folded.start + folded.crop
        faces = faces[:, folded.start : stop, folded.start : stop, :]
        if folded.subtract is not None:
            faces = faces - tf.constant(folded.subtract)
        whole = tf.cast(folded.net(faces, training=False), tf.float32)
        answers = {name: whole[:, columns] for name, columns in self.columns.items()}
        first, *others = answers
        # two outputs of the same numbers would be one tensor; this changes no probability
        return {first: tf.nn.relu(answers[first]), **{name: answers[name] for name in others}} if others else answers


def tflite_model(folded: Folded, columns: Mapping[str, slice] | None = None) -> bytes:
    """The model from `pixels`, uint8 (batch, side, side, channels), to outputs, float32 (batch, classes) each.

    It holds the operators of TFLite alone, none of TensorFlow's.

    Args:
        folded: the network and the steps before it.
        columns: by name, the part of the network's outputs that is an output of the model, in their order; None for all as
            `probabilities`.
    """
    module = _Pixels(folded, columns or {"probabilities": slice(None)})
    spec = tf.TensorSpec((None, folded.side, folded.side, folded.channels), tf.uint8, name="pixels")
    function = tf.function(module.classify, jit_compile=False).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    return _in_order(converter.convert(), list(module.columns))


def _in_order(model: bytes, names: list[str]) -> bytes:
    """A TFLite model whose outputs come in the order of their `names`: the converter's own is none, and who reads outputs by
    their number takes the first."""
    from tensorflow.lite.python import schema_py_generated as schema

    content = bytearray(model)
    whole = schema.Model.GetRootAs(content)
    signature = whole.SignatureDefs(0)
    outputs = [signature.Outputs(number) for number in range(signature.OutputsLength())]
    tensors = {output.Name().decode(): output.TensorIndex() for output in outputs}
    whole.Subgraphs(0).OutputsAsNumpy()[:] = [tensors[name] for name in names]  # in place, in `content`
    return bytes(content)
