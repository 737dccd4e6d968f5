"""The benchmark's own machinery: turns, agreement before timing, tables, material. No test asserts a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.machine import describe
from benchmarks.material import write_faces
from benchmarks.train import TORCH, work_of
from benchmarks.turns import heat, summary, take_turns


def contestant(output: float, start: int) -> list[str]:
    return ["tests.benchmarks.contestant", str(output), str(start)]


def test_turns_leave_out_the_warm_up_and_keep_every_round() -> None:
    commands = {"a": contestant(2, 10), "b": contestant(2.0001, 50)}
    assert take_turns(commands, 3, {"a": 0, "b": 1e-3}) == {"a": [11, 12, 13], "b": [51, 52, 53]}
    assert summary([3, 1, 8])["median"] == 3 and summary([3, 1, 8])["rounds"] == [3, 1, 8]


@pytest.mark.parametrize("output", ["2.1", "nan"])
def test_what_computes_something_else_is_not_timed(output: str) -> None:
    with pytest.raises(SystemExit, match="outputs of b differ by .* allowed 0.001; nothing was measured"):
        take_turns({"a": contestant(2, 1), "b": ["tests.benchmarks.contestant", output, "1"]}, 1, {"a": 0, "b": 1e-3})
    with pytest.raises(SystemExit, match="outputs of b differ"):
        heat(np.array([1.0, 2.0]), {"b": ["tests.benchmarks.contestant", output, "1"]}, {"b": 1e-3}, {})


def test_a_contestant_that_dies_is_an_error() -> None:
    with pytest.raises(SystemExit, match="a ended with exit code 1 before it answered"):
        take_turns({"a": ["tests.benchmarks.contestant", "no number", "1"]}, 1, {"a": 0})


def test_a_step_needs_no_gradient_of_its_input_and_ours_takes_one_channel() -> None:
    products = {"first": 30.0, "all": 130.0}
    # forward, to the kernels, to the inputs of all layers but the first: a multiplication and an addition each
    assert work_of(next(iter(TORCH)), products) == 2 * (130 + 130 + 100)
    assert work_of("ours float32", products) == 2 * (110 + 110 + 100)


def test_a_table_is_markdown_and_replaces_its_own_section_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = report.Table("Title", ("", "median"), [("ours", "12.5"), ("theirs", "3.0")], ["a note"], {"x": 1})
    assert table.lines()[2:6] == ["|        | median |", "|--------|-------:|", "| ours   |   12.5 |", "| theirs |    3.0 |"]
    assert table.lines()[-1] == "a note"
    file = tmp_path / "RESULTS.md"
    file.write_text("before\n<!-- fit -->\nold\n<!-- /fit -->\nbetween\n<!-- train -->\nkept\n<!-- /train -->\n")
    monkeypatch.setattr(report, "RESULTS", file)
    for _ in range(2):
        report.write_results("fit", [table, table], "a machine \\1")
    text = file.read_text()
    assert "old" not in text and text.count("**Title**") == 2 and "a machine \\1" in text
    assert text.startswith("before\n<!-- fit -->") and text.endswith("between\n<!-- train -->\nkept\n<!-- /train -->\n")
    with pytest.raises(SystemExit, match="no section between <!-- other -->"):
        report.write_results("other", [table], "")
    report.write_json(tmp_path / "b.json", {"cores": 2}, {"fit": [table]})
    assert json.loads((tmp_path / "b.json").read_text())["parts"]["fit"] == [{"title": "Title", "x": 1}]


def test_the_results_file_has_a_section_for_every_part() -> None:
    text = report.RESULTS.read_text("utf-8")
    for part in command.PARTS:
        assert text.count(f"<!-- {part} -->") == text.count(f"<!-- /{part} -->") == 1


def test_parts_are_named_or_refused() -> None:
    assert command.names("train, fit") == ["train", "fit"]
    with pytest.raises(argparse.ArgumentTypeError, match="expected some of train,forward"):
        command.names("train,speed")


def test_the_machine_is_described() -> None:
    facts = describe()
    assert facts["cores"] >= 1 and facts["memory_gib"] > 0
    assert facts["versions"]["tensorflow"].startswith("2.") and "openvino" in facts["versions"]


@pytest.mark.parametrize(("size", "suffix", "channels"), [((48, 48), ".jpg", 1), ((96, 120), ".png", 3)])
def test_material_is_of_its_size_in_all_classes_and_no_two_are_alike(
    tmp_path: Path, size: tuple[int, int], suffix: str, channels: int
) -> None:
    write_faces(tmp_path / "out", 21, size, suffix)
    files = sorted((tmp_path / "out").rglob(f"*{suffix}"))
    images = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]
    assert len({file.parent.name for file in files}) == 7 and len(files) == 21
    assert {image.shape for image in images} == {size if channels == 1 else (*size, 3)}
    assert len({image.tobytes() for image in images}) == 21
