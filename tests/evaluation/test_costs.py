"""What a confusion costs: the published points, labels in any order and spelling, a user's own file."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.costs import cost_matrix, costs_of, read_costs
from emotiw_keras.errors import DataError
from emotiw_keras.evaluation.metrics import scores
from emotiw_keras.labels import LABEL_SETS


def test_costs_are_the_distances_of_the_published_points():
    labels = LABEL_SETS["basic7"].labels
    matrix = cost_matrix(labels)
    assert matrix.dtype == np.float32 and matrix.shape == (7, 7)
    assert (np.diag(matrix) == 0).all() and matrix.max() == 1 and np.array_equal(matrix, matrix.T)
    # Happy and sad are the furthest apart; angry and fear all but meet.
    largest = math.hypot(0.81 + 0.63, 0.51 + 0.27)
    place = labels.index
    assert matrix[place("happy"), place("sad")] == 1
    assert matrix[place("angry"), place("fear")] == pytest.approx(math.hypot(0.13, 0.01) / largest, abs=1e-6)
    assert matrix[place("neutral"), place("surprise")] == pytest.approx(math.hypot(0.40, 0.67) / largest, abs=1e-6)


def test_order_and_spelling_do_not_matter():
    order = ["Sadness", "happiness", "AN"]
    expected = cost_matrix(["sad", "happy", "angry"])
    assert np.array_equal(cost_matrix(order), expected)
    assert np.array_equal(cost_matrix(order[::-1]), expected[::-1, ::-1])


def test_a_class_without_a_place_is_never_forgiven():
    costs = costs_of(LABEL_SETS["ferplus8"].labels)
    place = LABEL_SETS["ferplus8"].labels.index("contempt")
    assert np.delete(costs.matrix[place], place).tolist() == [1] * 7 and costs.matrix[place, place] == 0
    assert "contempt" in costs.source
    others = costs_of(["calm", "glad", "tense"])
    assert np.array_equal(others.matrix, 1 - np.eye(3)) and "every confusion" in others.source


def test_expected_cost_is_the_mean_over_images_and_the_error_rate_where_all_cost_the_same():
    truth = np.array([0, 0, 1, 2])
    probabilities = np.eye(3)[[0, 1, 2, 0]]
    labels = ["angry", "fear", "happy"]
    matrix = cost_matrix(labels)
    assert scores(truth, probabilities, labels)["expected_cost"] == pytest.approx(
        (matrix[0, 1] + matrix[1, 2] + matrix[2, 0]) / 4
    )
    plain = scores(truth, probabilities, ["a", "b", "c"])
    assert plain["expected_cost"] == pytest.approx(1 - plain["accuracy"])
    own = np.array([[0, 0.25, 1], [1, 0, 0.5], [0, 0, 0]])
    assert scores(truth, probabilities, labels, costs=own)["expected_cost"] == pytest.approx((0.25 + 0.5) / 4)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "costs.toml"
    file.write_text("[costs.anger]\ndisgust = 0.2\n[costs.disgust]\nangry = 0.4\n")
    assert read_costs(file, ["disgust", "angry", "sad"]).tolist() == [
        [0, pytest.approx(0.4), 1],
        [pytest.approx(0.2), 0, 1],
        [1, 1, 0],
    ]
    assert costs_of(["disgust", "angry"], file).source == "costs in costs.toml"
    file.write_text("[costs.happy]\nSadness = 0.2\n[costs.joy]\nsad = 0.3\n")
    assert read_costs(file, ["happy", "joy", "sad"])[:, 2].tolist() == pytest.approx([0.2, 0.3, 0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[costs.angry]\nbored = 0.5\n", "'bored'"),
        ("[costs.angry]\nsad = 1.5\n", "1.5"),
        ("[costs.angry]\nangry = 0.5\n", "0 for the right answer"),
        ("[costs.angry]\nsad = true\n", "True"),
        ("[costs]\nangry = 0.5\n", "costs.angry is 0.5"),
        ("[weights.angry]\nsad = 1\n", "holds weights"),
        ("costs = [", "cannot read"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tmp_path, text, says):
    file = tmp_path / "costs.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=says):
        read_costs(file, ["angry", "sad"])


def test_a_file_that_is_none_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match="cannot read the costs"):
            read_costs(place, ("angry", "sad"))
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    with pytest.raises(DataError, match="cannot read the costs"):
        read_costs(tmp_path / "large", ("angry", "sad"))
