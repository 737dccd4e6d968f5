"""What fit's benchmark makes of the seconds between epochs."""

from __future__ import annotations

import pytest

from benchmarks.fit import whole_rate


def test_validation_grows_with_its_images_and_checkpoints_with_time() -> None:
    def between(validated: int) -> dict[str, float]:
        return {"between": 1.5 + 0.01 * validated, "validated": validated}

    rate, checkpoint, each = whole_rate(6_000, 600, 10.0, between(20), between(40))
    assert (checkpoint, each) == (pytest.approx(1.5), pytest.approx(0.01))
    # 600 seconds of steps, so two checkpoints within the epoch and one at its end
    assert rate == pytest.approx(6_000 / (600 + 6 + 3 * 1.5))
