"""Layers that look at a whole batch, or draw for one, where each replica has but its rows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.errors import UsageError
from emotiw_keras.models.architecture import called, noise
from emotiw_keras.models.layers import BatchNormalization
from emotiw_keras.training.freezing import inner_layers
from emotiw_keras.training.replicas import this_replica

_NORMALISE = (keras.layers.BatchNormalization.call, BatchNormalization.call)
_DROP = (keras.layers.Dropout.call, keras.layers.SpatialDropout2D.call)
Call = Callable[..., tf.Tensor]
_INSTEAD = "leave it out (a Stage crops, mirrors and changes images itself), or train with --strategy none"


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
            f"{_INSTEAD}"
        )


def check_alone(model: keras.Model) -> None:
    """Refuse a network that answers an image otherwise where others stand beside it, or where it stands elsewhere in its batch.

    Raises:
        UsageError: such a network, and its first layer of which that is so.
    """
    items = noise(model, model.input_shape[1:])
    items = items if items.dtype == np.uint8 else items[::-1]  # the last, which is looked at, is not the one of huge numbers
    together = _answers(model, items)
    half = any(layer.compute_dtype in ("float16", "bfloat16") for _, layer in inner_layers(model))
    # as many images are computed alike, without rounding; one alone is not
    for others, within in ((np.repeat(items[-1:], len(items), axis=0), 1e-5), (items[-1:], 0.1 if half else 0.005)):
        found = _answers(model, others)
        apart = [name for name in together if name in found and _differ(together[name][-1], found[name][-1], within)]
        if model.name in apart:
            where = f"the network {model.name}" if apart[0] == model.name else f"layer {apart[0]} of {model.name}"
            raise UsageError(
                f"{where} makes something else of an image where others are beside it in the batch, or draws random numbers "
                f"for its own rows, which would differ with the number of replicas; {_INSTEAD}"
            )


def _differ(one: np.ndarray, other: np.ndarray, within: float) -> bool:
    """Whether two answers are apart by more than this share of the largest number in them, or one has no number."""
    largest = max(np.abs(np.nan_to_num(each, posinf=0, neginf=0)).max(initial=0) for each in (one, other))
    return one.shape == other.shape and not np.allclose(one, other, rtol=0, atol=within * largest, equal_nan=True)


def _answers(model: keras.Model, items: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer gives in training, in the order of their first calls, and last the network; batch normalisation and
    dropout answer as outside of training."""
    given: dict[str, np.ndarray] = {}

    def keep(name: str, output: Any) -> Any:
        if tf.is_tensor(output) and hasattr(output, "numpy") and output.shape.rank and len(output):
            given.setdefault(name, tf.cast(output, tf.float32).numpy())
        return output

    def kept(name: str, layer: keras.layers.Layer) -> Call:
        call = layer.call
        if is_known(layer):
            return lambda inputs, *_, **__: keep(name, call(inputs, training=False))
        return lambda *inputs, **named: keep(name, call(*inputs, **named))

    with _calling({layer: kept(name, layer) for name, layer in inner_layers(model)}):
        output = called(model, items, training=True)[0]
    keep(model.name, output)
    return given


@contextmanager
def _calling(calls: Mapping[keras.layers.Layer, Call]) -> Iterator[None]:
    """Within, layers have another `call`."""
    changed = []
    try:
        for layer, call in calls.items():
            vars(layer)["call"] = call
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del vars(layer)["call"]


@contextmanager
def whole_batches(model: keras.Model, rows: Rows) -> Iterator[None]:
    """Within, batch normalisation has the statistics of the global batch, and dropout the rows of the mask that one process
    would have drawn for it."""
    known = [layer for _, layer in inner_layers(model) if is_known(layer)]
    with _calling({each: (_normalising if type(each).call in _NORMALISE else _dropping)(each, rows) for each in known}):
        yield


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
