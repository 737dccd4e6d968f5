"""Rules on layers: what they freeze, what they refuse, and the check after a stage."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.models import AlexNet
from emotiw_keras.training.freezing import apply_rules, check_moved, digests, initialise_layers


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    return AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.05)


def test_the_first_matching_rule_counts(model: keras.Model) -> None:
    rates = apply_rules(model, [("conv1", 0.5), ("conv*", 0.0), ("fc8", 10.0), ("*", 1.0)], "here")
    trainable = {v.path.split("/")[-2] for v in model.trainable_variables}
    assert trainable == {"conv1", "fc6", "fc7", "fc8"}
    by_layer = {path.split("/")[-2]: rate for path, rate in rates.items()}
    assert by_layer == {"conv1": 0.5, "fc6": 1.0, "fc7": 1.0, "fc8": 10.0}
    # what holds no weights follows the layer before it
    follow = {name: model.get_layer(name).trainable for name in ("norm1", "pool1", "norm2", "pool5", "drop6")}
    assert follow == {"norm1": True, "pool1": True, "norm2": False, "pool5": False, "drop6": True}
    apply_rules(model, [("*", 1.0)], "here")
    assert len(model.trainable_variables) == 16
    assert all(layer.trainable for layer in model.layers)


def test_a_rule_that_matches_nothing_and_a_layer_without_a_rule_are_refused(model: keras.Model) -> None:
    with pytest.raises(UsageError, match="'fc9' matches no layer of alexnet; its layers are conv1"):
        apply_rules(model, [("fc9", 1.0), ("*", 1.0)], "here")
    with pytest.raises(UsageError, match="do not cover layer 'fc6'"):
        apply_rules(model, [("conv*", 1.0)], "here")


def test_a_frozen_weight_that_moved_is_an_error_and_a_still_one_is_named(model: keras.Model) -> None:
    apply_rules(model, [("conv1", 0.0), ("*", 1.0)], "here")
    before = digests(model)
    for layer in model.layers:
        if layer.name != "conv1" and layer.weights:
            layer.kernel.assign(layer.kernel + 1.0)
            if layer.name != "fc6":
                layer.bias.assign(layer.bias + 1.0)
    assert [path.split("/")[-2:] for path in check_moved(model, before, "here")[0]] == [["fc6", "bias"]]
    model.get_layer("conv1").bias.assign(np.ones(model.get_layer("conv1").bias.shape))
    with pytest.raises(ModelError, match="conv1/bias was frozen but has moved"):
        check_moved(model, before, "here")


def test_layers_start_anew_from_their_own_initialisers_and_a_seed(model: keras.Model) -> None:
    before = digests(model)
    assert initialise_layers(model, ["fc[78]"], 5, "here") == ["fc7", "fc8"]
    assert initialise_layers(model, ["classifier"], 5, "here") == ["fc8"]
    changed = {path.split("/")[-2] for path, digest in digests(model).items() if digest != before[path]}
    assert changed == {"fc7", "fc8"}
    first = digests(model)
    initialise_layers(model, ["fc[78]"], 5, "here")
    assert digests(model) == first
    initialise_layers(model, ["fc[78]"], 6, "here")
    assert digests(model) != first
    assert np.std(model.get_layer("fc8").kernel.numpy()) == pytest.approx(0.01, rel=0.2)
    with pytest.raises(UsageError, match="'fc9' matches no layer"):
        initialise_layers(model, ["fc9"], 5, "here")


def test_a_frozen_batch_normalisation_keeps_its_statistics() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(2, name="fc8")])
    apply_rules(model, [("bn", 0.0), ("*", 1.0)], "here")
    before = model.get_layer("bn").moving_mean.numpy()
    model(np.full((8, 4), 9.0, np.float32), training=True)
    np.testing.assert_array_equal(model.get_layer("bn").moving_mean.numpy(), before)


class Count(keras.layers.Layer):
    """Counts the steps it was trained for."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.steps.assign_add(1.0)
        return x * self.scale


def test_what_a_frozen_layer_counts_itself_is_named_and_no_defect() -> None:
    model = keras.Sequential([keras.Input((4,)), Count(name="count"), keras.layers.Dense(2, name="fc8")])
    apply_rules(model, [("count", 0.0), ("*", 1.0)], "here")
    before, trains = digests(model), [name for name in digests(model) if "fc8" in name]
    model(np.ones((8, 4), np.float32), training=True)
    assert check_moved(model, before, "here") == (trains, [next(name for name in before if name.endswith("count/steps"))])
    assert float(model.layers[0].steps) == 1.0, "finding that out counts nothing"
    model.layers[0].scale.assign(2.0)
    with pytest.raises(ModelError, match="count/scale was frozen but has moved"):
        check_moved(model, before, "here")
    model.layers[0].scale.assign(1.0)
    model.layers[0].steps.assign(0.0)
    assert check_moved(model, before, "here") == (trains, [])
    normal = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(2)])
    apply_rules(normal, [("bn", 0.0), ("*", 1.0)], "here")
    before = digests(normal)
    normal.layers[0].moving_mean.assign(np.ones(4))  # which its call does not do while it is frozen
    with pytest.raises(ModelError, match="bn/moving_mean was frozen but has moved"):
        check_moved(normal, before, "here")
