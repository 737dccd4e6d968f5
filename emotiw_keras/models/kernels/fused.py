"""Elementwise arithmetic of many operations as one loop over the elements, for a processor.

TensorFlow runs operation by operation: each reads its arrays from memory and writes another, and in bfloat16 each takes three
times as long as the memory does. XLA makes one loop of them all, in float32 between reading and writing. It compiles anew for
every shape, which takes some twentieth of a second, and rounds a little otherwise than the operations one by one. Hence it is
for training and for large batches, which are of one size but for the last; frozen layers, whose features may be kept, single
faces and exported models do without.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from emotiw_keras import config

Tensor = Any
Way = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
"""How a function of arrays is computed: `in_one_loop` or `step_by_step`."""


def on_processor() -> bool:
    """Whether these ways of computing pay, and are not switched off: Keras computes through TensorFlow without a GPU."""
    if not config.fast_kernels() or keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def suits(shape: Any, at_least: int) -> bool:
    """Whether it can be used on arrays of this shape and pays: on TensorFlow without a GPU, in a graph that is being traced
    (elsewhere each call would compile), and for so many elements, as far as they are known."""
    if None in shape or math.prod(shape) < at_least or not on_processor():
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, and of variables that it finds around it, compiled for each shape."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def in_one_loop(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, elementwise, of tensors of one shape and type, as one loop in float32; its result is of their shape and type.

    It gives one tensor: several, or the neighbours of an element, would make a loop that XLA cannot vectorise.

    Example:
        >>> in_one_loop(lambda x, y: x * y + x)(keras.ops.ones(3), keras.ops.ones(3)).numpy().tolist()
        [2.0, 2.0, 2.0]
    """
    import tensorflow as tf

    @compiled
    def loop(*tensors: Tensor) -> Tensor:
        y = function(*(tf.cast(tensor, tf.float32) for tensor in tensors))
        return _to_bfloat16(y) if tensors[0].dtype == tf.bfloat16 else y

    def run(*tensors: Tensor) -> Tensor:
        # Flat before XLA sees it: it shares a loop over few rows unevenly among the threads, and one over rows of 16 takes four
        # times as long.
        y = loop(*(tf.reshape(tensor, (-1,)) for tensor in tensors))
        return tf.reshape(y, tf.shape(tensors[0]))

    return run


def _to_bfloat16(y: Tensor) -> Tensor:
    """float32 to the nearest bfloat16, of two equally near ones the even: a cast's result in two thirds of its time.

    XLA's cast looks for NaN whose last 16 bits alone are set, which would round to infinity. What is computed from bfloat16
    holds none: there NaN is the processor's own, or has those bits 0.
    """
    import tensorflow as tf

    bits = tf.bitcast(y, tf.uint32)
    even = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, np.uint32(16)), np.uint32(1))
    return tf.bitcast(tf.cast(tf.bitwise.right_shift(bits + np.uint32(0x7FFF) + even, np.uint32(16)), tf.uint16), tf.bfloat16)


def step_by_step(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` as it is."""
    return function


def before_relu(x: Tensor) -> Tensor | None:
    """What x is the ReLU of, in the graph that is being traced; None if it is none."""
    return x.op.inputs[0] if x.op.type == "Relu" else None


def relu_and_concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The ReLU of float (batch, height, width, channels), side by side along the channels, and one loop back to each."""
    import tensorflow as tf

    def back(end: int) -> Callable[..., Tensor]:
        return compiled(lambda g, y: tf.where(y > 0, g[..., end - y.shape[-1] : end], tf.zeros((), y.dtype)))

    @tf.custom_gradient
    def run(*parts: Tensor) -> tuple[Tensor, Any]:
        outputs = [tf.nn.relu(part) for part in parts]

        def gradient(upstream: Tensor) -> list[Tensor]:
            ends = itertools.accumulate(y.shape[-1] for y in outputs)
            return [back(end)(upstream, y) for end, y in zip(ends, outputs, strict=True)]

        return tf.concat(outputs, axis=-1), gradient

    return run(*parts)
