"""A run's network as a TFLite model."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from emotiw_keras.serving.folding import Folded


class _Pixels(tf.Module):
    """uint8 (batch, side, side, channels) -> probabilities."""

    def __init__(self, folded: Folded) -> None:
        super().__init__(name="emotiw")
        self._folded = folded
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
        return {"probabilities": tf.cast(folded.net(faces, training=False), tf.float32)}


def tflite_model(folded: Folded) -> bytes:
    """The model from `pixels`, uint8 (batch, side, side, channels), to `probabilities`, float32 (batch, classes).

    It holds the operators of TFLite alone, none of TensorFlow's.
    """
    module = _Pixels(folded)
    spec = tf.TensorSpec((None, folded.side, folded.side, folded.channels), tf.uint8, name="pixels")
    function = tf.function(module.classify, jit_compile=False).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    return converter.convert()
