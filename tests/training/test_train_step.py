"""The loss of a step, recomputed by hand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.pull_to_start import PullToStart
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.train_step import StageSteps

LABELS = np.array([0, 2, 1, 2], np.int32)


def first_loss(costs: np.ndarray | None = None, teachers: Any = None, **settings: object) -> tuple[float, np.ndarray]:
    """The loss that the first step tells, and the network's log-probabilities before it."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    face_input = FaceInput(resize=8, crop=8, mean=(128.0,) * 3, std=(64.0,) * 3)
    named = () if teachers is None else ("teacher",)
    stage = Stage("s", train=("a:train",), random_crop=False, mirror=False, teachers=named, **settings)  # type: ignore[arg-type]
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    steps = StageSteps(model, face_input, stage, weights, optimizer, (8, 8, 1), costs=costs, teachers=teachers)
    images = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 1), np.uint8)
    logits = keras.ops.convert_to_numpy(model(face_input(images))).astype(np.float64)
    loss, _ = steps.train(images, np.zeros((4, 3), np.int32), LABELS, 0.1)
    return loss, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_cross_entropy_with_smoothing_and_weights() -> None:
    loss, log = first_loss(label_smoothing=0.1)
    target = np.eye(3)[LABELS] * 0.9 + 0.1 / 3
    each = -(target * log).sum(axis=1)
    assert loss == pytest.approx((each * np.array([1.0, 0.5, 2.0, 0.5])).sum(), rel=1e-5)


def test_focal_loss() -> None:
    loss, log = first_loss(loss="focal", focal_gamma=2.0)
    own = log[np.arange(4), LABELS]
    each = -((1 - np.exp(own)) ** 2) * own
    assert loss == pytest.approx((each * np.array([1.0, 0.5, 2.0, 0.5])).sum(), rel=1e-5)


def test_expected_cost_joins_the_loss() -> None:
    costs = np.array([[0.0, 0.2, 1.0], [0.4, 0.0, 0.6], [0.9, 0.3, 0.0]], np.float32)
    loss, log = first_loss(costs=costs, cost_weight=1.5)
    each = -log[np.arange(4), LABELS] + 1.5 * (np.exp(log) * costs[LABELS]).sum(axis=1)
    assert loss == pytest.approx((each * np.array([1.0, 0.5, 2.0, 0.5])).sum(), rel=1e-5)
    with pytest.raises(SettingError, match="costs of stage 's' is 'costs.toml', but cost_weight is 0"):
        Stage("s", train=("a:train",), costs="costs.toml")


def test_answers_of_teachers_share_the_loss() -> None:
    taught = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3]], np.float32)
    asked: list[float] = []

    def teachers(faces: Any, temperature: float) -> np.ndarray:
        assert faces.shape[1:] == (8, 8, 3)
        asked.append(temperature)
        return taught

    loss, log = first_loss(teachers=teachers, teacher_weight=0.75, temperature=2.0)
    soft = np.exp(log / 2.0)
    imitation = -(taught * np.log(soft / soft.sum(axis=1, keepdims=True))).sum(axis=1)
    each = 0.25 * -log[np.arange(4), LABELS] + 0.75 * 4.0 * imitation
    assert set(asked) == {2.0}
    assert loss == pytest.approx((each * np.array([1.0, 0.5, 2.0, 0.5])).sum(), rel=1e-5)


def test_weights_are_pulled_to_where_they_began() -> None:
    """The gradient of the loss and of strength / 2 times the squared distance; a layer that begins anew is left alone."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Dense(4, name="old")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(3, name="new")(hidden))
    rate, strength = 0.1, 0.25
    stage = Stage(
        "s", train=("a:train",), random_crop=False, mirror=False, momentum=0.0, weight_decay=0.0, bias_rate=1.0,
        pull_to_start=strength,
    )  # fmt: skip
    face_input = FaceInput(resize=8, crop=8, mean=(128.0,), std=(64.0,), channels="grey")
    images = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 1), np.uint8)
    start = [variable.numpy() for variable in model.trainable_variables]
    pull = PullToStart(model, strength, {"new"})
    away = [value + np.random.default_rng(3).normal(0, 0.1, value.shape).astype(np.float32) for value in start]

    def stepped(pull: PullToStart | None) -> list[np.ndarray]:
        for variable, value in zip(model.trainable_variables, away, strict=True):
            variable.assign(value)
        optimizer = make_optimizer(stage, model.trainable_variables, {})
        steps = StageSteps(model, face_input, stage, np.ones(3, np.float32), optimizer, (8, 8, 1), pull=pull)
        steps.train(images, np.zeros((4, 3), np.int32), LABELS, rate)
        return [variable.numpy() for variable in model.trainable_variables]

    plain, pulled = stepped(None), stepped(pull)
    for number, (before, began) in enumerate(zip(away, start, strict=True)):
        expected = rate * strength * (before - began) if number < 2 else 0
        np.testing.assert_allclose(plain[number] - pulled[number], expected, atol=1e-6)
    assert [start.shape for start in pull.variables] == [(64, 4), (4,)]
    with pytest.raises(SettingError, match="pull_to_start of stage 's' is 0.1, not heeded by a stage of kind 'head'"):
        Stage("s", train=("a:train",), kind="head", pull_to_start=0.1)


def test_a_recipe_without_a_pull_says_nothing_of_it() -> None:
    """So that a run that an earlier version began goes on."""
    recipe = load_recipe("finetune")
    assert "pull_to_start" not in recipe.to_toml()
    assert "pull_to_start = 0.1" in load_recipe("finetune", ["all.pull_to_start=0.1"]).to_toml()


def test_sharpness_takes_the_gradient_uphill_of_the_weights() -> None:
    """Softmax regression behind a normalisation, whose gradients are written out; what it remembers of the batch moves once."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    normalised = keras.layers.BatchNormalization(momentum=0.5, center=False, scale=False, epsilon=0.0, name="bn")(flat)
    model = keras.Model(image, keras.layers.Dense(3, name="dense")(normalised))
    rho, rate = 0.3, 0.1
    stage = Stage(
        "s", train=("a:train",), random_crop=False, mirror=False, momentum=0.0, weight_decay=0.0, bias_rate=1.0, sharpness=rho
    )
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    face_input = FaceInput(resize=8, crop=8, mean=(0.0,), std=(1.0,), channels="grey")
    steps = StageSteps(model, face_input, stage, np.ones(3, np.float32), optimizer, (8, 8, 1))
    images = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 1), np.uint8)
    pixels = images.reshape(4, -1).astype(np.float64)
    x = (pixels - pixels.mean(axis=0)) / pixels.std(axis=0)
    kernel, bias = (v.numpy().astype(np.float64) for v in model.get_layer("dense").trainable_variables)

    def gradient(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = x @ kernel + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        wrong = (odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[LABELS]) / 4
        return x.T @ wrong, wrong.sum(axis=0)

    first = gradient(kernel, bias)
    far = rho / np.sqrt(sum((g**2).sum() for g in first))
    second = gradient(kernel + far * first[0], bias + far * first[1])
    assert np.abs(second[0] - first[0]).max() > 0.01
    steps.train(images, np.zeros((4, 3), np.int32), LABELS, rate)
    found = [v.numpy() for v in model.get_layer("dense").trainable_variables]
    np.testing.assert_allclose(found[0], kernel - rate * second[0], atol=2e-6)
    np.testing.assert_allclose(found[1], bias - rate * second[1], atol=2e-6)
    np.testing.assert_allclose(model.get_layer("bn").moving_mean.numpy(), 0.5 * pixels.mean(axis=0), rtol=1e-5)
