"""A classifier that reads several activations: the same layers, the same answers at first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.models import registry
from emotiw_keras.models.features import classifier_of, with_features
from emotiw_keras.models.normalisations import fold_normalisations


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [("face_vgg", (48, 48, 1), 0.1), ("alexnet", (67, 67, 3), 0.05), ("efficientnet_lite0", (64, 64, 3), 0.1)],
)
def test_it_answers_as_before_and_keeps_the_layers(name: str, shape: tuple[int, int, int], width: float) -> None:
    model = registry.build(name, weights=None, classes=7, input_shape=shape, width=width)
    net = with_features(model, 5)
    faces = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(net(faces), model(faces), atol=1e-6)
    assert [layer.name for layer in net.layers if layer.weights] == [layer.name for layer in model.layers if layer.weights]
    assert classifier_of(net).name == registry.get_spec(name).classifier
    new, old = classifier_of(net).kernel.shape[0], classifier_of(model).kernel.shape[0]
    assert new > 4 * old
    # what export and prediction do to any network
    np.testing.assert_allclose(fold_normalisations(net)(faces), net(faces), atol=1e-5)


def test_the_parts_of_the_grid_cover_the_maps() -> None:
    net = with_features(registry.build("alexnet", weights=None, classes=7, input_shape=(67, 67, 3), width=0.05), 9)
    for layer in net.layers:
        if layer.name.endswith("_grid"):
            side = layer.input.shape[1]
            last = layer.strides[0] * (layer.output.shape[1] - 1) + layer.pool_size[0]
            assert last == side and layer.output.shape[1] == min(3, side)


def test_a_network_that_ends_in_a_convolution_is_refused() -> None:
    squeezenet = registry.build("squeezenet", weights=None, classes=7, input_shape=(67, 67, 3), width=0.1)
    with pytest.raises(ModelError, match=r"ends with conv10 .*model.features = 0"):
        with_features(squeezenet, 5)


def test_run_json_describes_it() -> None:
    described: dict[str, Any] = {"name": "face_vgg", "classes": 7, "input_shape": [48, 48, 1], "width": 0.1}
    plain, wide = registry.build_described(described), registry.build_described({**described, "features": 3})
    assert wide.get_layer("classifier").kernel.shape[0] > plain.get_layer("classifier").kernel.shape[0]
