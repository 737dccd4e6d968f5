"""The load of `emotiw serve`: nothing is lost, also where most requests are told to come again."""

from __future__ import annotations

import sys

import pytest

from benchmarks.serve_load import Load, main, measure

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_few_requests_to_a_short_queue() -> None:
    found = measure(60, 12, ["--engine", "opencv", "--queue", "3"])
    assert (found["answered"], found["lost"], found["exit_code"]) == (60, [], 143)
    assert found["refused"] > 0 and found["p50"] <= found["p99"]
    assert found["megabytes_second_half"] > 10


def test_a_wrong_answer_is_lost() -> None:
    row = {"path": "3.jpg", "face": 0, "box": [1, 2, 3, 4], "label": "sad", "error": None, "probabilities": {"sad": 0.9}}
    load = Load(0, [b""], [row])
    assert load.difference(row, 3) == ""
    assert load.difference(row, 4) == "answered as 3.jpg"
    assert "instead of" in load.difference({**row, "label": "happy"}, 3)
    assert load.difference({**row, "probabilities": {"sad": 0.8}}, 3) == "probabilities differ by 0.1"


def test_a_service_that_does_not_start_is_told() -> None:
    with pytest.raises(SystemExit, match="no such command|expected|Invalid value"):
        main(["--requests", "1", "--engine", "steam"])
