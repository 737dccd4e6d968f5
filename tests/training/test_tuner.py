"""The tuner in Python: a finished run gives its weights back to a new model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotiw_keras import Stage, StagedFineTuner
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import ModelError
from emotiw_keras.models import AlexNet


def tuner(faces: dict[str, str], out: Path, width: float = 0.05) -> StagedFineTuner:
    model = AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.05)
    stage = Stage("one", train=("fer:train",), val=("fer:val",), epochs=1, learning_rate=0.0001)
    return StagedFineTuner(model, [stage], data={"fer": faces["fer"]}, run_dir=out, width=width, say=None)


def test_a_second_call_loads_what_the_first_trained(faces: dict[str, str], tmp_path: Path) -> None:
    first = tuner(faces, tmp_path / "run")
    run = first.fit()
    again = tuner(faces, tmp_path / "run")
    assert not np.array_equal(again.model.get_weights()[0], first.model.get_weights()[0])
    assert again.fit().fingerprint == run.fingerprint
    for one, other in zip(first.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_could_not_be_rebuilt_is_refused(faces: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not alexnet of width 0.2"):
        tuner(faces, tmp_path / "run", width=0.2)


def test_a_set_that_was_read_before_is_recorded_as_the_tuner_calls_it(faces: dict[str, str], tmp_path: Path) -> None:
    read = load_faces(faces["fer"], name="otherwise")
    model = AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.05)
    stage = Stage("one", train=("fer:train",), val=("fer:val",), epochs=1, learning_rate=0.0001)
    run = StagedFineTuner(model, [stage], data={"fer": read}, run_dir=tmp_path / "run", width=0.05, say=None).fit()
    assert {row["data"] for row in run.rows()} == {"fer"} and run.seen()["train"]
