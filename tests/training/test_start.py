"""What "auto" means where training starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emotiw_keras import hardware
from emotiw_keras.training import start
from emotiw_keras.training.fit import photo_crop


@pytest.mark.parametrize(
    ("native", "gain", "policy"), [(False, 9.0, "float32"), (True, 0.54, "float32"), (True, 1.75, "mixed_bfloat16")]
)
def test_auto_is_bfloat16_where_it_is_native_and_faster(
    native: bool, gain: float, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "native_bfloat16", lambda: native)
    monkeypatch.setattr(start, "bfloat16_gain", lambda: gain)
    assert start.resolve_precision("auto") == policy
    assert start.resolve_precision("mixed_float16") == "mixed_float16"


def test_the_gain_is_a_ratio_of_times() -> None:
    assert 0.001 < start.bfloat16_gain(side=64, rounds=2) < 1000


@pytest.mark.parametrize(
    ("readings", "crop"),
    [
        (("B",), {"reading": "B", "stretch": True}),
        (("C", "C"), {"reading": "C", "stretch": True}),
        (("B", ""), {"reading": "B", "stretch": False}),
        (("A", "C"), {"reading": "B", "stretch": False}),
    ],
)
def test_photos_are_cut_as_the_faces_trained_on(readings: tuple[str, ...], crop: dict[str, object]) -> None:
    stage = SimpleNamespace(train=[f"set{i}:train" for i in range(len(readings))])
    sets = {f"set{i}": SimpleNamespace(reading=reading) for i, reading in enumerate(readings)}
    assert photo_crop(stage, sets) == crop
