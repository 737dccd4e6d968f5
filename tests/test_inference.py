"""Prediction's shortcuts - folded normalisations, Winograd for large batches, crops at once - against the network as it is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.data.preprocessing_settings import crop_places
from emotiw_keras.inference import Inference
from emotiw_keras.models.kernels.large_batches import LARGE_BATCH
from emotiw_keras.runs import Run

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on TensorFlow only")

FACES = np.random.default_rng(3).integers(0, 256, (LARGE_BATCH + 5, 48, 48, 1), np.uint8)


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.open("fer28-face-vgg-votes")


def plain(run: Run, faces: np.ndarray, crops: int) -> np.ndarray:
    """The mean over the crops, each through the network as the run builds it."""
    net, given = run.build(), run.face_input()
    each = [net(given(faces, crops=np.tile(p, (len(faces), 1))), training=False) for p in crop_places(given.room, crops)]
    return np.mean([keras.ops.convert_to_numpy(answer).astype(np.float64) for answer in each], axis=0)


@pytest.mark.parametrize("crops", [1, 2])
def test_large_and_small_batches_answer_as_the_network_does(run: Run, winograd_calls: list[object], crops: int) -> None:
    compute, right = Inference(run, FACES.shape[1:], crops), plain(run, FACES, crops)
    for count in (1, 3, LARGE_BATCH - 1):
        np.testing.assert_allclose(compute(FACES[:count]), right[:count], atol=2e-6)
    assert not winograd_calls
    np.testing.assert_allclose(compute(FACES), right, atol=2e-6)
    assert len(winograd_calls) == 7  # the convolutions of levels 2 to 4 with 64 channels or more on both sides


def test_a_face_answers_alone_as_among_others(run: Run) -> None:
    """Not with the same bits, which hang on the batch, but with the same digits; in odd batches too."""
    compute = Inference(run, FACES.shape[1:], 2)
    among = compute(FACES)
    for count in (1, 2, 7, 31):
        parts = [compute(FACES[first : first + count]) for first in range(0, len(FACES), count)]
        np.testing.assert_allclose(np.concatenate(parts), among, atol=1e-5)


def test_the_same_faces_again_give_the_same_bits(run: Run) -> None:
    first, again = (Inference(run, FACES.shape[1:], 2) for _ in range(2))
    for count in (len(FACES), 5, 1):
        np.testing.assert_array_equal(first(FACES[:count]), again(FACES[:count]))


def test_the_rest_of_many_faces_needs_no_trace_of_its_own(run: Run) -> None:
    compute, right = Inference(run, FACES.shape[1:], 2), plain(run, FACES, 2)

    def traced() -> list[int]:
        return [function.experimental_get_tracing_count() for function in compute._cropped.values()]

    for faces in (FACES, FACES[:3]):
        np.testing.assert_allclose(compute(faces), right[: len(faces)], atol=2e-6)
        assert traced() == [0, 1]
    np.testing.assert_allclose(compute(FACES[:3]), right[:3], atol=2e-6)  # not the rest any more: small batches come
    assert traced() == [1, 1]


def test_ten_crops_at_once_are_their_mean(run_folder: object) -> None:
    run = Run.open(str(run_folder))
    compute, faces = Inference(run, FACES.shape[1:], 10), FACES[:4]
    np.testing.assert_allclose(compute(faces), plain(run, faces, 10), atol=1e-5)
    np.testing.assert_allclose(compute(faces[:2]), compute(faces)[:2], atol=1e-5)


def test_bfloat16_is_computed_directly(run: Run, winograd_calls: list[object]) -> None:
    compute = Inference(run, FACES.shape[1:], precision="mixed_bfloat16")
    assert np.abs(compute(FACES) - plain(run, FACES, run.crops)).max() < 0.05
    assert not winograd_calls


def test_normalisations_are_folded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a normalisation was computed")

    compute = Inference(run, FACES.shape[1:])
    monkeypatch.setattr(keras.layers.BatchNormalization, "call", refuse)
    for layer in compute.net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            monkeypatch.setattr(type(layer), "call", refuse)
    compute(FACES[:2])


def test_large_networks_hold_their_kernels_in_bfloat16(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Inference(run, FACES.shape[1:], 1, "mixed_bfloat16")
    monkeypatch.setattr("emotiw_keras.inference.CONSTANT_WEIGHTS", 1_000_000)
    large = Inference(run, FACES.shape[1:], 1, "mixed_bfloat16")
    monkeypatch.setattr("emotiw_keras.models.kernels.cast_once.narrow_kernels", lambda net: net)
    wide = Inference(run, FACES.shape[1:], 1, "mixed_bfloat16")
    np.testing.assert_array_equal(large(FACES), wide(FACES))
    np.testing.assert_allclose(large(FACES[:2]), small(FACES[:2]), atol=0.02)

    def casts(each: Inference) -> int:
        operations = each._centre[False].get_concrete_function().graph.get_operations()
        return sum(op.type == "Cast" and op.outputs[0].dtype == tf.bfloat16 for op in operations)

    assert casts(large) < 10 < casts(wide)


def test_small_networks_hold_their_weights_as_constants(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Inference(run, FACES.shape[1:], 1)
    monkeypatch.setattr("emotiw_keras.inference.CONSTANT_WEIGHTS", 1_000_000)
    large = Inference(run, FACES.shape[1:], 1)
    np.testing.assert_allclose(small(FACES[:2]), large(FACES[:2]), atol=2e-6)
    held = [len(each._centre[False].get_concrete_function().captured_inputs) for each in (small, large)]
    assert held[0] == 0 and held[1] == len(large._net.weights)
