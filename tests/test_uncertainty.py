"""Which answers are too unsure to be used, and what is derived from probabilities."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.costs import CIRCUMPLEX
from emotiw_keras.errors import RunError
from emotiw_keras.runs import Run
from emotiw_keras.uncertainty import (
    UNCERTAINTY_FILE,
    coverage_curve,
    derived_affect,
    entropy,
    read_usable,
    usable,
    usable_entropy,
)  # fmt: skip
from emotiw_keras.weights.shipped import DEFAULT


def answers(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and probabilities of four classes that are calibrated: right as often as they promise."""
    random = np.random.default_rng(2)
    probabilities = random.dirichlet((0.6,) * 4, count)
    truth = np.array([random.choice(4, p=row) for row in probabilities])
    return truth, probabilities


def test_entropy_is_that_of_scipy() -> None:
    from scipy.stats import entropy as expected

    probabilities = np.vstack([np.eye(4), answers(50)[1], np.full((1, 4), 0.25)])
    np.testing.assert_allclose(entropy(probabilities), expected(probabilities, axis=1), atol=1e-12)


def test_the_curve_is_counted_and_the_limit_gains_the_most() -> None:
    truth, probabilities = answers()
    unsure, coverage, accuracy = coverage_curve(truth, probabilities)
    right = probabilities.argmax(axis=1) == truth
    for place in (0, len(unsure) // 3, len(unsure) - 1):
        kept = entropy(probabilities) <= unsure[place]
        assert coverage[place] == pytest.approx(kept.mean()) and accuracy[place] == pytest.approx(right[kept].mean())
    limit = usable_entropy(truth, probabilities)
    gains = {value: int((2 * right[entropy(probabilities) <= value] - 1).sum()) for value in unsure}
    assert gains[limit] == max(gains.values())
    found = usable(truth, probabilities, "w", "val")
    assert found.coverage < 0.95 and found.accuracy_usable > found.accuracy + 0.03


def test_where_most_answers_are_wrong_none_is_usable() -> None:
    assert usable_entropy(np.array([1, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])) == 0


def test_derived_affect_is_the_mean_of_the_places() -> None:
    every = dict.fromkeys(CIRCUMPLEX, 1 / 7)
    middle = np.mean(list(CIRCUMPLEX.values()), axis=0)
    assert derived_affect(every) == pytest.approx({"valence": middle[0], "arousal": middle[1]}, abs=1e-4)
    # other spellings are the same classes; contempt has no place, and the rest is scaled up
    assert derived_affect({"happiness": 0.6, "contempt": 0.4}) == {"valence": 0.81, "arousal": 0.51}
    assert derived_affect({"happiness": 0.4, "contempt": 0.6}) is None
    # two that mean the same count both
    assert derived_affect({"happy": 0.3, "joy": 0.3, "sad": 0.4}) == derived_affect({"happy": 0.6, "sad": 0.4})


def test_what_a_folder_says_is_checked(tmp_path: Path) -> None:
    assert read_usable(tmp_path, "w", 4) is None
    truth, probabilities = answers(300)
    found = usable(truth, probabilities, "w", "val")
    (tmp_path / UNCERTAINTY_FILE).write_text(found.to_json())
    assert read_usable(tmp_path, "w", 4) == found
    with pytest.raises(RunError, match="other weights"):
        read_usable(tmp_path, "v", 4)
    content = json.loads(found.to_json())
    changes = ({"entropy": 0.1}, {"entropy": "low", "checksum": None}, {"entropy": 2.0, "checksum": None}, {"images": None})
    for change in changes:
        altered = {**content, **change}
        altered = {key: value for key, value in altered.items() if key != "checksum" or value is not None}
        (tmp_path / UNCERTAINTY_FILE).write_text(json.dumps(altered))
        with pytest.raises(RunError, match="damaged"):
            read_usable(tmp_path, "w", 4)


def test_the_model_that_ships_says_what_is_usable() -> None:
    for head, images, gain in (("votes", 2948, 0.015), ("fer", 3309, 0.05)):
        found = Run.open(DEFAULT, head=head).usable
        assert found is not None and found.chosen_on == "val" and found.images == images
        assert 0 < found.entropy < math.log(7) and found.accuracy_usable > found.accuracy + gain and 0.7 < found.coverage < 1
