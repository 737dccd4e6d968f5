"""The rows of what is served: one an image, whatever its neighbours are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from emotiw_keras.data.images import decode_image
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.serving.savedmodel_graph import ServedModel
from emotiw_keras.uncertainty import entropy

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="served by TensorFlow alone")


def png(seed: int, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def predictor(run_folder: Path) -> Predictor:
    return Predictor(run_folder, engine="tensorflow")


@pytest.fixture(scope="module")
def signatures(predictor: Predictor) -> dict[str, Any]:
    return ServedModel(predictor.net, predictor.face_input, predictor.labels).signatures()


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_a_broken_image_is_its_own_row(signatures: dict[str, Any], predictor: Predictor, count: int) -> None:
    """TensorFlow Serving's rule for rows: all outputs have the batch as their first dimension."""
    broken = count // 2
    files = [png(seed, 30 + seed, 50) for seed in range(count)]
    files[broken] = files[broken][:100]
    found = {name: value.numpy() for name, value in signatures["serving_default"](tf.constant(files)).items()}
    assert {name: value.shape for name, value in found.items()} == {
        "probabilities": (count, 7), "labels": (count, 7), "label": (count,), "ok": (count,),
    }  # fmt: skip
    assert found["ok"].tolist() == [number != broken for number in range(count)]
    assert found["label"][broken] == b"" and not found["probabilities"][broken].any()
    assert (found["labels"] == np.array(predictor.labels, "S")).all()
    whole = np.flatnonzero(found["ok"])
    if len(whole):
        expected = predictor.predict([decode_image(files[number]) for number in whole])
        np.testing.assert_allclose(found["probabilities"][whole], expected, atol=1e-5)
        assert found["label"][whole].tolist() == [predictor.labels[best].encode() for best in expected.argmax(axis=1)]


def test_refused_images_are_rows_too(signatures: dict[str, Any]) -> None:
    whole = png(1, 20, 20)
    wide = whole[:16] + b"\0\1\0\0" * 2 + whole[24:]
    found = signatures["serving_default"](tf.constant([b"", wide, whole, b"no image"]))
    assert found["ok"].numpy().tolist() == [False, False, True, False]
    assert np.isfinite(found["probabilities"].numpy()).all()
    none = signatures["serving_default"](tf.constant([], tf.string))
    assert {name: value.shape.as_list()[0] for name, value in none.items()} == dict.fromkeys(none, 0)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_pixels_have_the_same_rows(signatures: dict[str, Any], count: int) -> None:
    found = signatures["pixels"](tf.zeros((count, 20, 30, 3), tf.uint8))
    assert {name: value.shape.as_list() for name, value in found.items()} == {
        "probabilities": [count, 7], "labels": [count, 7], "label": [count], "ok": [count],
    }  # fmt: skip
    assert found["ok"].numpy().all()


def test_uncertain_answers_are_named_where_the_run_says_which_are(predictor: Predictor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 30, 40, 3), np.uint8)
    limit = float(np.sort(entropy(predictor.predict(images)))[3:5].mean())
    served = ServedModel(predictor.net, predictor.face_input, predictor.labels, usable_entropy=limit)
    found = served.from_pixels(tf.constant(images))
    expected = entropy(found["probabilities"].numpy()) > limit
    assert found["uncertain"].numpy().tolist() == expected.tolist() and 0 < expected.sum() < 8
    broken = served.classify(served.prepare(tf.constant(images)), tf.fill([8], False))
    assert not broken["uncertain"].numpy().any(), "what could not be read has no answer to doubt"
