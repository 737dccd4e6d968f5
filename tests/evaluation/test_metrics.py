"""Every figure against one worked out by hand or by another formula."""

import json
import math

import numpy as np
import pytest

from emotiw_keras.errors import DataError, ModelError
from emotiw_keras.evaluation.metrics import best_temperature, expected_calibration_error, scores, wilson_interval
from emotiw_keras.reports.score_tables import agreement_lines

LABELS = ("angry", "happy", "sad", "never")
TRUTH = np.array([0, 0, 0, 1, 1, 2])
# Predicted 0, 0, 1, 1, 1, 0: four of six right.
PROBABILITIES = np.array(
    [
        [0.70, 0.10, 0.10, 0.10],
        [0.55, 0.25, 0.10, 0.10],
        [0.30, 0.50, 0.10, 0.10],
        [0.10, 0.80, 0.05, 0.05],
        [0.02, 0.95, 0.02, 0.01],
        [0.40, 0.20, 0.30, 0.10],
    ]
)


def test_figures_by_hand():
    result = scores(TRUTH, PROBABILITIES, LABELS, n=8, n_found=6)
    assert (result["n"], result["n_found"], result["coverage"]) == (8, 6, 0.75)
    assert result["confusion"] == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert result["accuracy"] == pytest.approx(4 / 6)
    # angry: precision 2/3, recall 2/3; happy: precision 2/3, recall 1; sad and the absent class: 0.
    f1 = [2 / 3, 2 * (2 / 3) / (5 / 3), 0.0, 0.0]
    assert [row["f1"] for row in result["per_class"].values()] == pytest.approx(f1)
    assert [row["support"] for row in result["per_class"].values()] == [3, 2, 1, 0]
    assert result["macro_f1"] == pytest.approx(sum(f1) / 4)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3), "of the classes that have images"
    assert result["abaw_score"] == pytest.approx(0.67 * sum(f1) / 4 + 0.33 * 4 / 6)
    own = (0.70, 0.55, 0.30, 0.80, 0.95, 0.30)
    assert result["log_loss"] == pytest.approx(-sum(math.log(p) for p in own) / 6)
    # Each confidence (.70 .55 .50 .80 .95 .40) has a bin of its own.
    gaps = (0.30, 0.45, 0.50, 0.20, 0.05, 0.40)
    assert result["ece"] == pytest.approx(sum(gaps) / 6)
    assert result["labels"] == list(LABELS)


def test_wilson_interval_solves_its_defining_equation():
    for right, n in ((8, 10), (0, 20), (20, 20), (1794, 3589)):
        for end in wilson_interval(right, n):
            # The ends are the proportions q that lie z standard errors (under q) from right / n.
            assert (right / n - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / n, abs=1e-12)
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)


def test_ece_pools_the_images_of_a_bin_and_closes_bins_above():
    # .81 and .85 share the bin (12/15, 13/15]: mean confidence .83, accuracy .5; 0.8 = 12/15 belongs to the bin below.
    probabilities = np.array([[0.81, 0.19], [0.85, 0.15], [0.8, 0.2], [1.0, 0.0]])
    truth = np.array([0, 1, 0, 0])
    assert expected_calibration_error(truth, probabilities) == pytest.approx((2 * 0.33 + 0.2 + 0.0) / 4)


def test_calibrated_probabilities_have_small_error_and_overconfident_ones_large():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 20000)
    truth = (rng.random(20000) > confidence).astype(int)
    calibrated = np.stack([confidence, 1 - confidence], axis=1)
    assert expected_calibration_error(truth, calibrated) < 0.02
    sure = np.tile([0.999, 0.001], (20000, 1))
    assert expected_calibration_error(truth, sure) == pytest.approx(0.999 - (truth == 0).mean())


def test_a_temperature_at_the_end_of_its_range_is_told_as_one():
    unsure, sure = np.tile([0.6, 0.4], (50, 1)), np.tile([0.99, 0.01], (50, 1))
    half = np.arange(50) % 2
    for truth, told, at_end in ((0 * half, unsure, True), (half, sure, True), (np.arange(50) % 10 == 0, sure, False)):
        temperature = best_temperature(truth.astype(int), told)
        lines = agreement_lines(
            {"calibrated": {"temperature": temperature, "images": 9, "chosen_on": "val", "ece": 0, "log_loss": 1}}
        )
        assert ("(the end of the range 0.2 to 5, beyond which none was tried), chosen on" in lines[0]) == at_end


def test_float32_probabilities_are_scored_without_a_warning_and_survive_json(recwarn):
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(7), 50).astype(np.float32)
    result = scores(rng.integers(0, 7, 50), probabilities, [f"c{i}" for i in range(7)])
    assert json.loads(json.dumps(result)) == result
    assert not recwarn.list


def test_a_certain_and_wrong_answer_has_a_finite_log_loss():
    result = scores(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), ["a", "b"])
    assert math.isfinite(result["log_loss"]) and result["log_loss"] > 15


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(DataError, match="0 of 3"):
        scores(np.array([], int), np.empty((0, 2)), ["a", "b"], n=3)
    with pytest.raises(ModelError, match="1 of 2"):
        scores(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), ["a", "b"])
    with pytest.raises(ValueError, match="do not belong together"):
        scores(np.array([0, 1]), np.ones((2, 3)) / 3, ["a", "b"])
    with pytest.raises(ValueError, match="sum to 1"):
        scores(np.array([0]), np.array([[0.5, 0.9]]), ["a", "b"])
    with pytest.raises(ValueError, match="within 0..1"):
        scores(np.array([-1]), np.array([[0.5, 0.5]]), ["a", "b"])
