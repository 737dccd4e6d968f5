"""Two logical processors train a network as one does: dropout, batch normalisation, averages, whatever a stage asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest
import tensorflow as tf

from emotiw_keras.errors import UsageError
from emotiw_keras.training.losses import StageLoss
from emotiw_keras.training.shared_layers import check_alone, check_layers
from emotiw_keras.training.shared_stage import check_code
from emotiw_keras.training.stage import Stage
from tests import processes
from tests.training import shared_cases


def compared(recipe: Path, data: dict[str, str], folder: Path, names: tuple[str, ...]) -> None:
    """Each variant ends on two logical processors as on one."""
    done = processes.run(shared_cases.compare_mirrored, str(recipe), json.dumps(data), str(folder), *names, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(names)
    for name, apart in found.items():
        assert apart["weights"] < 5e-5 * apart["moved"], (name, apart)
        assert max(apart["loss"], apart["val_loss"]) < 1e-5, (name, apart)


@pytest.mark.parametrize(
    "names",
    [("plain", "normalised"), ("uneven", "averages"), ("accumulated", "sharpness"), ("weighed", "augmented"), ("taught",)],
)
def test_two_devices_are_one(names: tuple[str, ...], recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    compared(recipe_file, faces, tmp_path, names)


def test_two_devices_are_one_with_two_heads(recipe_file: Path, voted: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    compared(recipe_file, {"fer": voted[0], **voted[1]}, tmp_path, ("voted",))


def test_regularizers_count_once_on_two_devices_and_what_a_batch_adds_is_refused(tmp_path: Path) -> None:
    done = processes.run(shared_cases.compare_regularized, str(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for apart in (found["regularized"], found["weighed"]):
        assert apart["weights"] < 5e-5 * apart["moved"] and max(apart["loss"], apart["val_loss"]) < 1e-5, apart
    assert found["without"]["loss"] > 0.1, "they add something"
    assert "activity_regularizer" in found["refused"]


def test_a_second_strategy_that_trains_another_network_is_refused(tmp_path: Path) -> None:
    done = processes.run(shared_cases.two_strategies, str(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    assert "another strategy has trained a network of other sizes in this process" in done.stdout


@pytest.mark.parametrize("kind", ["GaussianNoise", "renorm", "own"])
def test_layers_that_would_differ_with_the_number_of_replicas_are_refused(kind: str) -> None:
    class OwnNormalisation(keras.layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):  # type: ignore[no-untyped-def]
            return inputs

    layer = {
        "GaussianNoise": lambda: keras.layers.GaussianNoise(0.1, name="odd"),
        "renorm": lambda: keras.layers.BatchNormalization(renorm=True, name="odd"),
        "own": lambda: OwnNormalisation(name="odd"),
    }[kind]()
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
    with pytest.raises(UsageError, match="layer odd of"):
        check_layers(model)
    check_layers(
        keras.Sequential(
            [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
        )
    )


def test_a_worker_whose_network_or_loss_is_other_code_is_refused() -> None:
    said: list[Any] = []

    def check(of_layer: float = 1.0, of_loss: float = 1.0) -> None:
        class Own(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                return x * of_layer

        class OwnLoss(keras.losses.Loss):
            def call(self, y_true: Any, y_pred: Any) -> Any:
                return of_loss * keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

        last = keras.layers.Dense(3, "softmax", kernel_initializer=keras.initializers.GlorotUniform(seed=1))
        model = keras.Sequential([keras.Input((4,)), Own(), last], name="net")
        steps: Any = SimpleNamespace(loss=StageLoss(Stage("s", train=("d:train",), loss=OwnLoss()), model))
        replicas: Any = SimpleNamespace(
            workers=2, together=nullcontext, from_chief=lambda mine: (said.append(json.loads(json.dumps(mine))), said[0])[1]
        )
        check_code(model, {"input_shape": [4]}, steps, tf.TensorSpec((None,), tf.int32), replicas)

    check()
    check()
    with pytest.raises(UsageError, match="network 'net' answers a fixed noise otherwise than that of worker 0, by up to 0"):
        check(of_layer=2.0)
    with pytest.raises(UsageError, match="the loss answers a fixed noise otherwise than that of worker 0, by up to"):
        check(of_loss=2.0)


OF_A_BATCH: dict[str, Callable[[Any], Any]] = {
    "centred": lambda x: x - keras.ops.mean(x, axis=0, keepdims=True),
    "of unit length": lambda x: x / keras.ops.norm(x, axis=0),
    "normalised": lambda x: (x - keras.ops.mean(x, 0)) / (keras.ops.std(x, 0) + 1e-3),
    "its size": lambda x: x / keras.ops.cast(keras.ops.shape(x)[0], x.dtype),
    "tf.random": lambda x: x + tf.random.normal(tf.shape(x), dtype=x.dtype),
    "no seed": lambda x: x + keras.random.normal(keras.ops.shape(x), dtype=x.dtype),
    "one seed": lambda x: x + keras.random.normal(keras.ops.shape(x), dtype=x.dtype, seed=3),
}


def of_policy(policy: str, odd: Callable[[Any], Any]) -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="elu", dtype=policy)(image)
    x = keras.layers.Dropout(0.5, dtype=policy)(keras.layers.BatchNormalization(dtype=policy)(x))
    x = keras.layers.Lambda(odd, name="odd", dtype=policy)(keras.layers.Flatten(dtype=policy)(x))
    return keras.Model(image, keras.layers.Dense(2)(x), name="net")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", OF_A_BATCH)
def test_layers_that_look_at_other_images_or_draw_for_their_rows_are_refused(kind: str, policy: str) -> None:
    with pytest.raises(UsageError, match="layer odd of net makes something else of an image"):
        check_alone(of_policy(policy, OF_A_BATCH[kind]))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_layers_that_take_each_image_by_itself_are_let_through(policy: str) -> None:
    model = of_policy(policy, lambda x: x - keras.ops.mean(x, axis=-1, keepdims=True))
    before = [variable.numpy().tolist() for variable in model.variables]
    check_alone(model)
    assert [variable.numpy().tolist() for variable in model.variables] == before
    assert not any("call" in vars(layer) for layer in model.layers)
