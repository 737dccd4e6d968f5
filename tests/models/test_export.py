"""The networks as TensorFlow SavedModels: same answers, and nothing inside that a server must compile."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras.models import build, model_names

if keras.backend.backend() != "tensorflow":
    pytest.skip("export is TensorFlow's", allow_module_level=True)

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


def must_compile(folder: Path) -> list[str]:
    """The functions of a SavedModel that are marked to be compiled by XLA."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    functions = [f for graph in saved.meta_graphs for f in graph.graph_def.library.function]
    assert functions
    return [f.signature.name for f in functions if f.attr["_XlaMustCompile"].b]


@pytest.mark.slow
@pytest.mark.parametrize("name", model_names())
def test_export_answers_alike_and_compiles_nothing(name: str, tmp_path: Path) -> None:
    model = build(name, weights=None, classes=42, input_shape=(67, 67, 3), width=0.1)
    model.export(tmp_path / "out", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    x = np.random.default_rng(0).standard_normal((3, 67, 67, 3)).astype("float32")
    # Layer by layer is rounded otherwise than one graph: with fifty layers in float32 by a share of 1.4e-5 on some processors.
    np.testing.assert_allclose(loaded.serve(x).numpy(), model(x, training=False).numpy(), rtol=5e-5, atol=1e-7)
    assert must_compile(tmp_path / "out") == []


@pytest.mark.slow
def test_the_search_finds_stock_kerass_grouped_convolution(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3, groups=2)])
    model.export(tmp_path / "out", verbose=False)
    assert must_compile(tmp_path / "out") != []
