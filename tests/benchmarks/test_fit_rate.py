"""What the benchmark of fit makes of the seconds of some epochs."""

from __future__ import annotations

import pytest

from benchmarks.ends import shares


def epoch(steps: list[float], told: float = 0.0) -> dict[str, object]:
    """One of 20 images in two steps, half a second of waits, 10 validation images in a second, 0.3 s of copies and files."""
    stepping = sum(steps) + 0.5 + told
    return {
        "steps": steps, "told": told, "_epoch": stepping, "_validate": 1.0, "_close_epoch": 0.1, "_save": 0.2,
        "period": stepping + 1.0 + 0.3 + 0.05,
    }  # fmt: skip


FACTS = {"steps": 2, "images": 20, "val": 10}


def test_seconds_of_an_epoch_are_told_by_what_they_go_to() -> None:
    found = shares([epoch([2.0, 2.0]), epoch([2.0, 2.6]), epoch([2.0, 2.2])], FACTS, 20, 10, 240.0)
    names = ("steps", "steps beyond", "waits", "validation", "copies and files", "rest")
    assert [found[name] for name in names] == pytest.approx([4.0, 0.2, 0.5, 1.0, 0.3, 0.05])
    assert found["images a second"] == pytest.approx(20 / 4.5)
    assert found["whole / bare"] == pytest.approx(4 / 6.05)
    assert found["the same without validation"] == pytest.approx(4 / 5.05)


def test_steps_and_waits_grow_with_images_validation_with_its_own_and_checkpoints_with_time() -> None:
    epochs = [epoch([2.0, 2.2]), epoch([2.0, 2.0]), epoch([2.0, 2.4])]
    found = shares(epochs, FACTS, 2_000, 100, 240.0)
    # 450 seconds of steps and waits, so one checkpoint within the epoch and one at its end
    whole = 400 + 50 + 10 + 2 * (0.3 + 0.2) + 0.05
    assert found["whole, images a second"] == pytest.approx(2_000 / whole)
    told_behind = shares([epoch([2.0, 2.0], told=0.02)] * 3, FACTS, 20, 10, 240.0)
    assert told_behind["waits"] == pytest.approx(0.5)
    assert shares(epochs, FACTS | {"val": 0}, 2_000, 0, 240.0)["whole / bare"] == pytest.approx(400 / (whole - 10))
