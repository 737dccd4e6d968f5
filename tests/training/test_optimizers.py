"""Caffe's update rule, recomputed by hand; Adam's, beside Keras'."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.models.kernels import fused
from emotiw_keras.training import optimizers
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.stage import Stage


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="fc7"), keras.layers.Dense(2, name="fc8")])


@pytest.mark.parametrize("large", [1 << 20, 1])  # one operation after the other, and compiled to one loop
def test_ten_steps_equal_caffes_formula(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(optimizers, "LARGE", large)
    compiled = []
    original = fused.compiled
    monkeypatch.setattr(fused, "compiled", lambda function: compiled.append(function) or original(function))
    model = small_model()
    rates = {v.path: 10.0 if "fc8" in v.path else 1.0 for v in model.trainable_variables}
    stage = Stage("s", train=("a:train",), learning_rate=0.05, momentum=0.9, weight_decay=0.01, bias_rate=2.0)
    optimizer = make_optimizer(stage, model.trainable_variables, rates)
    weights = [v.numpy().astype(np.float64) for v in model.trainable_variables]
    history = [np.zeros_like(w) for w in weights]
    generator = np.random.default_rng(1)

    @tf.function
    def apply(gradients: list) -> None:
        optimizer.apply(gradients, model.trainable_variables)

    for step in range(10):
        rate = 0.05 if step < 5 else 0.005
        optimizer.learning_rate.assign(rate)
        gradients = [generator.normal(size=w.shape).astype(np.float32) for w in weights]
        apply([tf.constant(g) for g in gradients])
        for i, variable in enumerate(model.trainable_variables):
            kernel = variable.path.endswith("kernel")
            local = rate * rates[variable.path] * (1.0 if kernel else 2.0)
            decay = 0.01 if kernel else 0.0
            history[i] = 0.9 * history[i] + local * (gradients[i] + decay * weights[i])
            weights[i] = weights[i] - history[i]
    for variable, expected in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert bool(compiled) is (large == 1)


def test_gradients_stay_in_bfloat16_for_an_update_that_widens_them() -> None:
    def types(**changes: object) -> list[str]:
        stage = Stage("s", train=("a:train",), **changes)  # type: ignore[arg-type]
        optimizer = make_optimizer(stage, small_model().trainable_variables, {})

        @tf.function
        def computed(narrow: tf.Tensor, wide: tf.Tensor) -> list[tf.Tensor]:
            found = optimizers.as_computed([tf.cast(narrow, tf.float32), wide, tf.cast(wide > 0, tf.float32)], optimizer)
            given.extend(gradient.dtype.name for gradient in found)
            return found

        given: list[str] = []
        computed(tf.ones(3, tf.bfloat16), tf.ones(3))
        return given

    assert types() == types(optimizer="adam") == ["bfloat16", "float32", "float32"]
    assert types(clip_norm=1.0) == types(accumulate=2) == ["float32"] * 3


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_compiled_is_kerass_own(monkeypatch: pytest.MonkeyPatch, decay: float, accumulate: int) -> None:
    monkeypatch.setattr(optimizers, "LARGE", 1)
    compiled = []
    original = fused.compiled
    monkeypatch.setattr(fused, "compiled", lambda function: compiled.append(function) or original(function))
    model, other = small_model(), small_model()
    stage = Stage("s", train=("a:train",), optimizer="adam", learning_rate=0.05, weight_decay=decay, accumulate=accumulate)
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = {"gradient_accumulation_steps": accumulate} if accumulate > 1 else {}
    theirs = keras.optimizers.AdamW(learning_rate=0.05, weight_decay=decay, **steps)
    theirs.exclude_from_weight_decay([v for v in other.trainable_variables if v.path.endswith("bias")])
    generator = np.random.default_rng(1)

    @tf.function
    def apply(gradients: list) -> None:
        optimizer.apply(gradients, model.trainable_variables)

    for step in range(8):
        for each in (optimizer, theirs):
            each.learning_rate.assign(0.05 if step < 4 else 0.005)
        gradients = [tf.constant(generator.normal(size=v.shape), tf.bfloat16) for v in model.trainable_variables]
        apply([tf.cast(gradient, tf.float32) for gradient in gradients] if accumulate > 1 else gradients)
        theirs.apply([tf.cast(gradient, tf.float32) for gradient in gradients], other.trainable_variables)
    for ours, right in zip(model.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), right.numpy(), rtol=1e-5, atol=1e-6)
    assert len(compiled) == len(model.trainable_variables)


def test_adam_decays_kernels_only() -> None:
    model = small_model()
    stage = Stage("s", train=("a:train",), optimizer="adam", learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    for variable in model.trainable_variables:
        expected = 0.95 if variable.path.endswith("kernel") else 1.0
        assert variable.numpy() == pytest.approx(expected)


def test_a_bound_on_the_gradient_holds() -> None:
    model = small_model()
    stage = Stage("s", train=("a:train",), learning_rate=1.0, momentum=0.0, weight_decay=0.0, bias_rate=1.0, clip_norm=1.0)
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    before = [v.numpy() for v in model.trainable_variables]
    optimizer.apply([100.0 * tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    moved = [b - v.numpy() for b, v in zip(before, model.trainable_variables, strict=True)]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(1.0, rel=1e-5)


def test_accumulated_batches_make_the_update_of_their_mean() -> None:
    model, whole = small_model(), small_model()
    settings = {"train": ("a:train",), "learning_rate": 0.05, "weight_decay": 0.01}
    optimizer = make_optimizer(Stage("s", accumulate=3, **settings), model.trainable_variables, {})
    one = make_optimizer(Stage("s", **settings), whole.trainable_variables, {})
    generator = np.random.default_rng(4)
    batches = [[generator.normal(size=v.shape).astype(np.float32) for v in model.trainable_variables] for _ in range(6)]

    @tf.function
    def apply(gradients: list) -> None:
        optimizer.apply(gradients, model.trainable_variables)

    for start in (0, 3):
        for number, gradients in enumerate(batches[start : start + 3]):
            before = [v.numpy() for v in model.trainable_variables]
            apply([tf.constant(g) for g in gradients])
            moved = [not np.array_equal(v.numpy(), b) for v, b in zip(model.trainable_variables, before, strict=True)]
            assert all(moved) if number == 2 else not any(moved)
        mean = [tf.constant(np.mean(parts, axis=0)) for parts in zip(*batches[start : start + 3], strict=True)]
        one.apply(mean, whole.trainable_variables)
    for variable, expected in zip(model.trainable_variables, whole.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
