"""Kernels of the type they are computed in: the same outputs, bit for bit, and no cast left in the graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from emotiw_keras.models import build
from emotiw_keras.models.grey_folding import grey_twin
from emotiw_keras.models.kernels.cast_once import narrow_kernels
from emotiw_keras.models.normalisations import fold_normalisations
from emotiw_keras.models.parts import computing_in

FACES = np.random.default_rng(5).normal(size=(3, 67, 67, 3)).astype("float32")
NETWORKS = ["alexnet", "vgg_cnn_m", "squeezenet", "senet50"]


def network(name: str, policy: str) -> keras.Model:
    with computing_in(policy):
        return build(name, weights=None, classes=7, input_shape=FACES.shape[1:], width=0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_outputs_stay_to_the_bit(name: str, policy: str) -> None:
    net = fold_normalisations(network(name, policy))
    before = net.get_weights()
    narrow = narrow_kernels(net)
    np.testing.assert_array_equal(narrow(FACES, training=False), net(FACES, training=False))
    assert [layer.name for layer in narrow.layers] == [layer.name for layer in net.layers]
    for now, then in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    half = policy.removeprefix("mixed_")
    kinds = {layer.name: layer.kernel.dtype for layer in narrow.layers if hasattr(layer, "kernel")}
    wide = {name for name, kind in kinds.items() if kind != half}
    assert {kinds[name] for name in wide} == {"float32"}
    classifier = [layer.name for layer in net.layers if layer.compute_dtype == "float32" and layer.name in kinds]
    first = next(layer.name for layer in net.layers if layer.weights)
    assert wide == {first, *classifier} and len(kinds) > len(wide) + 2


@pytest.mark.bfloat16
def test_a_grey_twin_of_it_answers_as_that_of_the_network() -> None:
    net = network("alexnet", "mixed_bfloat16")
    twins = [grey_twin(each, (104.0, 117.0, 123.0)) for each in (net, narrow_kernels(net))]
    answers = [twin(FACES[..., :1], training=False) for twin in twins if twin is not None]
    assert len(answers) == 2
    np.testing.assert_array_equal(*answers)


def test_a_float32_network_is_itself() -> None:
    net = network("alexnet", "float32")
    assert narrow_kernels(net) is net
