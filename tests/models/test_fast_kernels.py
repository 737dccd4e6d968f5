"""One switch for all fast kernels: off, none is called; either way the answers are the same but for rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras import config
from emotiw_keras.errors import UsageError
from emotiw_keras.models import build, layers
from emotiw_keras.models.grey_folding import grey_twin
from emotiw_keras.models.kernels import cast_once, fused, space_to_depth, winograd
from emotiw_keras.models.kernels.large_batches import in_batches
from emotiw_keras.models.layers import BatchNormalization
from emotiw_keras.training.optimizers import AdamW

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on TensorFlow only")

MEAN = (104.0, 117.0, 123.0)
ENTRIES = {
    fused: ("compiled", "in_one_loop", "relu_and_concatenate"),
    winograd: ("convolve",),
    space_to_depth: ("convolve",),
    layers: ("band_blocks",),
}


@pytest.fixture(autouse=True)
def not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.VARIABLE, raising=False)
    monkeypatch.setattr(config, "_fast", None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each fast way was taken, on a machine that has tiles for bfloat16."""
    found: Counter[str] = Counter()

    def counted(name: str, original: Callable) -> Callable:
        def call(*args: object) -> object:
            found[name] += 1
            return original(*args)

        return call

    for module, names in ENTRIES.items():
        for name in names:
            full = f"{module.__name__.rpartition('.')[2]}.{name}"
            monkeypatch.setattr(module, name, counted(full, getattr(module, name)))
    return found


def test_every_module_of_the_folder_is_watched() -> None:
    folder = Path(winograd.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    watched = {module.__name__.rpartition(".")[2] for module in ENTRIES}
    others = {"large_batches", "cast_once"}  # the one is a mark for traces, the other is tested below
    assert modules == (watched - {"layers"}) | others


def trained_step(policy: str, fast: bool) -> list[np.ndarray]:
    """Answers in a large batch, loss and gradients of a small AlexNet with layers that all fast ways are for."""
    import tensorflow as tf

    config.fast_kernels(fast)
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    model = build("alexnet", weights=None, classes=7, input_shape=(131, 131, 3), width=0.5, classifier_activation=None)
    rng = np.random.default_rng(1)
    grey = rng.uniform(0, 255, (4, 131, 131, 1))
    twin = grey_twin(model, MEAN)
    assert (twin is not None) == fast
    x = tf.constant(((grey - MEAN) if twin is None else (grey - MEAN[0])).astype("float32"))
    net = model if twin is None else twin
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0

    @tf.function
    def step(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = net(x, training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(logits, tf.float32) - 1))
        return [logits, *tape.gradient(loss, [v.value for v in model.trainable_variables])]

    @in_batches()
    def answers(x: tf.Tensor) -> tf.Tensor:
        return net(x, training=False)

    return [np.asarray(tf.cast(t, tf.float32)) for t in (tf.function(answers)(x), *step(x))]


# As a share of an array's size, for the answers and what is behind the last pooling, and for the gradients before it, where one
# unit that rounding turns on or off counts as much as a hundredth.
TOLERANCE = {"float32": (1e-5, 3e-2), "mixed_bfloat16": (6e-2, 0.4)}


@pytest.mark.parametrize("policy", TOLERANCE)
def test_training_and_large_batches_are_the_same_without(
    policy: str, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (winograd, space_to_depth):
        monkeypatch.setattr(module, "bfloat16_tiles", lambda: True)
    plain = trained_step(policy, fast=False)
    assert not calls
    fast = trained_step(policy, fast=True)
    wanted = {"float32": {"winograd.convolve"}, "mixed_bfloat16": {"space_to_depth.convolve"}}
    assert wanted[policy] | {"fused.in_one_loop", "fused.compiled", "layers.band_blocks"} <= set(calls)
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(fast, plain, strict=True)]
    smooth, before_units = TOLERANCE[policy]
    # two answers, then kernels and biases of conv1 to conv5, fc6, fc7 and fc8
    assert len(errors) == 18 and max(*errors[:2], *errors[12:]) < smooth
    assert max(errors[2:12]) < before_units


def test_the_optimizer_is_the_same_without(calls: Counter[str]) -> None:
    import tensorflow as tf

    def moved(fast: bool) -> np.ndarray:
        config.fast_kernels(fast)
        variable = keras.Variable(np.linspace(-1, 1, 1 << 21, dtype="float32"))
        optimizer = AdamW(0.01, weight_decay=0.1)
        optimizer.build([variable])
        tf.function(lambda: optimizer.apply([tf.sin(variable.value)], [variable]))()
        return variable.numpy()

    plain = moved(False)
    assert not calls
    np.testing.assert_allclose(moved(True), plain, rtol=1e-5, atol=1e-6)
    assert calls["fused.compiled"]


def test_normalisation_and_kernels_cast_once_are_left_to_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> tuple[np.ndarray, bool]:
        keras.utils.set_random_seed(3)
        image = keras.Input((5, 5, 4), name="image")
        layers = [keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16") for _ in range(2)]
        net = keras.Model(image, layers[1](layers[0](image)))
        x = np.random.default_rng(0).standard_normal((6, 5, 5, 4)).astype("float32")
        y = BatchNormalization()(x, training=True)
        return keras.ops.convert_to_numpy(y), cast_once.narrow_kernels(net) is net

    called = []
    stock = keras.layers.BatchNormalization.call
    monkeypatch.setattr(
        keras.layers.BatchNormalization, "call", lambda *args, **kwargs: (called.append(1), stock(*args, **kwargs))[1]
    )
    fast, same = answers()
    assert (called, same) == ([], False)
    monkeypatch.setenv(config.VARIABLE, "0")
    plain, same = answers()
    assert (called, same) == ([1], True)
    np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_the_variable_decides_until_the_switch_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.fast_kernels()
    monkeypatch.setenv(config.VARIABLE, "0")
    assert not config.fast_kernels() and not fused.on_processor()
    assert config.fast_kernels(True) and config.fast_kernels()
    monkeypatch.setattr(config, "_fast", None)
    monkeypatch.setenv(config.VARIABLE, "off")
    with pytest.raises(UsageError, match="EMOTIW_FAST_KERNELS is 'off', expected 0 .off. or 1 .on."):
        config.fast_kernels()
