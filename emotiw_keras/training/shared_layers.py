"""Layers that look at a whole batch, or draw for one, where each replica has but its rows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from emotiw_keras.errors import UsageError
from emotiw_keras.models.layers import BatchNormalization
from emotiw_keras.training.freezing import inner_layers
from emotiw_keras.training.replicas import this_replica

_NORMALISE = (keras.layers.BatchNormalization.call, BatchNormalization.call)
_DROP = (keras.layers.Dropout.call, keras.layers.SpatialDropout2D.call)
Call = Callable[..., tf.Tensor]


class Rows:
    """Which rows of a global batch a replica has: every `count`-th, from its own number on.

    Args:
        batch: rows of the global batch, int32 scalar.
        count: replicas.
    """

    def __init__(self, batch: tf.Tensor, count: int) -> None:
        self.batch, self.count = batch, count

    def number_of(self, replica: Any) -> tf.Tensor:
        """How many rows a replica has."""
        return (self.batch - replica + self.count - 1) // self.count

    def held(self, replica: Any) -> tf.Tensor:
        """How many it computes: one that counts for nothing where it has none."""
        return tf.maximum(self.number_of(replica), 1)

    def places(self) -> tf.Tensor:
        """Where the rows that this replica computes stand in the global batch, int32 (held,)."""
        me = this_replica()
        return tf.minimum(me + self.count * tf.range(self.held(me)), self.batch - 1)


def is_known(layer: keras.layers.Layer) -> bool:
    """Whether it is batch normalisation or dropout, which `whole_batches` makes the same on any number of replicas."""
    return type(layer).call in (*_NORMALISE, *_DROP)


def check_layers(model: keras.Model) -> None:
    """Refuse what would not be the same on several replicas as on one.

    Raises:
        UsageError: a layer that draws random numbers or looks at a batch in a way that is not known here.
    """
    for name, layer in inner_layers(model):
        call = type(layer).call
        drawn = any(isinstance(value, keras.random.SeedGenerator) for value in vars(layer).values())
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        if drawn and call not in _DROP:
            why = "draws random numbers for its own rows"
        elif normalises and (call not in _NORMALISE or layer.renorm):
            why = "normalises a batch in its own way"
        else:
            continue
        raise UsageError(
            f"layer {name} of {model.name}, a {type(layer).__name__}, {why}, which would differ with the number of replicas; "
            "leave it out (a Stage crops, mirrors and changes images itself), or train with --strategy none"
        )


@contextmanager
def whole_batches(model: keras.Model, rows: Rows) -> Iterator[None]:
    """Within, batch normalisation has the statistics of the global batch, and dropout the rows of the mask that one process
    would have drawn for it."""
    changed = []
    try:
        for _, layer in inner_layers(model):
            call = type(layer).call
            if call in _NORMALISE:
                vars(layer)["call"] = _normalising(layer, rows)
            elif call in _DROP:
                vars(layer)["call"] = _dropping(layer, rows)
            else:
                continue
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del vars(layer)["call"]


def _dropping(layer: keras.layers.Dropout, rows: Rows) -> Call:
    whole: Call = type(layer).call

    def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or not layer.rate:
            return inputs
        ones = tf.ones(tf.concat([rows.batch[None], tf.shape(inputs)[1:]], 0), inputs.dtype)
        ones = tf.ensure_shape(ones, (None, *inputs.shape[1:]))
        return inputs * tf.gather(whole(layer, ones, training=True), rows.places())

    return call


def _normalising(layer: keras.layers.BatchNormalization, rows: Rows) -> Call:
    alone: Call = type(layer).call

    def call(inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if not training or not layer.trainable:
            return alone(layer, inputs, training=training, mask=mask)
        if mask is not None:
            why = "normalises with a mask, which several replicas cannot"
            raise UsageError(f"layer {layer.name} {why}; use --strategy none (in Python None)")
        corrected = isinstance(layer, BatchNormalization) and layer.is_fused(inputs)
        x = tf.cast(inputs, tf.float32)
        axis = layer.axis % len(inputs.shape)
        mean, variance, count = _moments(x, axis, rows)
        kept = variance * count / tf.maximum(count - 1, 1) if corrected else variance
        for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, kept)):
            moving.assign(tf.cast(moving.value, tf.float32) * layer.momentum + now * (1 - layer.momentum))
        shape = [-1 if i == axis else 1 for i in range(len(inputs.shape))]
        scale = tf.math.rsqrt(variance + layer.epsilon)
        if layer.scale:
            scale *= tf.cast(layer.gamma.value, tf.float32)
        y = (x - tf.reshape(mean, shape)) * tf.reshape(scale, shape)
        if layer.center:
            y += tf.reshape(tf.cast(layer.beta.value, tf.float32), shape)
        return tf.cast(y, layer.compute_dtype)

    return call


def _moments(x: tf.Tensor, axis: int, rows: Rows) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and variance of the global batch by channel, and of how many numbers each is (Chan, Golub and LeVeque 1979)."""
    me = this_replica()
    own = x[: rows.number_of(me)]
    others = [i for i in range(len(x.shape)) if i != axis]
    places = tf.cast(tf.reduce_prod([tf.shape(x)[i] for i in others if i]), tf.float32) if others[1:] else tf.constant(1.0)
    counts = tf.cast(rows.number_of(tf.range(rows.count)), tf.float32) * places
    count = tf.reduce_sum(counts)
    mine = tf.maximum(counts[me], 1)
    mean = tf.reduce_sum(own, others) / mine
    shape = [-1 if i == axis else 1 for i in range(len(x.shape))]
    squares = tf.reduce_sum(tf.math.squared_difference(own, tf.reshape(mean, shape)), others)
    slots = tf.one_hot(me, rows.count)[:, None, None] * tf.stack([mean, squares])
    every = tf.distribute.get_replica_context().all_reduce("SUM", slots)
    means, squares = every[:, 0], every[:, 1]
    weights = counts[:, None]
    mean = tf.reduce_sum(weights * means, 0) / count
    between = tf.reduce_sum(weights * tf.math.squared_difference(means, mean), 0)
    return mean, (tf.reduce_sum(squares, 0) + between) / count, count
