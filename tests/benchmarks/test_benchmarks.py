"""The benchmark's own machinery: turns, agreement before timing, tables, material. No test asserts a time."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.machine import HELD_TO_AVX2, KINDS, describe, hold_to_avx2, kind, precisions
from benchmarks.material import write_faces
from benchmarks.train import OURS, TORCH, measured, work_of
from benchmarks.turns import ROOT, heat, summary, take_turns
from benchmarks.ways import ALL, LEAVE_OUT


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
    kept = "between\n<!-- amx train -->\nkept\n<!-- /amx train -->\n\nword\n\n"
    before = "before\n<!-- kinds -->\n## Processors with AMX\n\n<!-- amx fit -->\n"
    after = f"<!-- /amx fit -->\n{kept}<!-- /kinds -->\nafter\n"
    file.write_text(f"{before}old\n{after}")
    monkeypatch.setattr(report, "RESULTS", file)
    for _ in range(2):
        report.write_results("fit", [table, table], "a machine \\1", "amx")
    text = file.read_text()
    assert "old" not in text and text.count("**Title**") == 2 and "a machine \\1" in text
    assert text.startswith(before) and text.endswith(after)
    for part, name in (("fit", "avx2"), ("growth", "amx"), ("train", "avx2"), ("fit", "avx2")):
        report.write_results(part, [table], f"of {name}", name)
    found = re.findall(r"^(?:#+ .*|<!-- [^/].*|of .*|kept|word|after)$", file.read_text(), re.MULTILINE)
    assert found == [
        "<!-- kinds -->", "## Processors with AMX", "<!-- amx fit -->", "<!-- amx train -->", "kept", "word",
        "### Growth: AMX", "<!-- amx growth -->", "of amx",
        "## Processors with AVX2 only", "### Fit: AVX2 only", "<!-- avx2 fit -->", "of avx2",
        "### Train: AVX2 only", "<!-- avx2 train -->", "of avx2", "after",
    ]  # fmt: skip
    file.write_text("nothing")
    with pytest.raises(SystemExit, match="has no place between <!-- kinds -->"):
        report.write_results("fit", [table], "", "amx")
    report.write_json(tmp_path / "b.json", {"cores": 2}, {"fit": [table]})
    assert json.loads((tmp_path / "b.json").read_text())["parts"]["fit"] == [{"title": "Title", "x": 1}]


def test_each_section_of_the_results_is_of_a_part_and_stands_below_its_kind_of_processor() -> None:
    sections = report.RESULTS.read_text("utf-8").split("<!-- kinds -->")[1].split("<!-- /kinds -->")[0].split("\n## ")[1:]
    titles = {title: name for name, (_, title) in KINDS.items()}
    begun = []
    for section in sections:
        name = titles[section.splitlines()[0]]
        begins, ends = (re.findall(rf"<!-- {slash}([^\s/]+) (\S+) -->", section) for slash in ("", "/"))
        assert begins == ends and all(each == name and part in command.PARTS for each, part in begins)
        begun += begins
    assert len(begun) == len(set(begun)) >= len(command.PARTS)


def test_a_kind_of_processor_is_told_by_its_flags() -> None:
    amx = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile")
    kinds = [kind(amx[:count]) for count in (7, 4, 3, 2, 0)]
    assert kinds == ["amx", "avx512-bf16", "avx512", "avx2", "other"]


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


def test_a_processor_held_to_avx2_is_told_apart_and_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HELD_TO_AVX2:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("benchmarks.machine.processor_flags", lambda: ("avx2", "fma", "avx512f", "avx512_bf16"))
    monkeypatch.setattr("emotiw_keras.hardware.processor_flags", lambda: ("avx2", "fma", "avx512f", "avx512_bf16"))
    assert not describe()["held to AVX2"] and describe()["kind"] == "avx512-bf16"
    assert measured(OURS) == OURS and precisions() == ("float32", "bfloat16")
    hold_to_avx2()
    facts = describe()
    assert facts["held to AVX2"] and (facts["kind"], facts["flags"]) == ("avx2", ["avx2", "fma"])
    assert measured(OURS) == OURS[:1] and precisions() == ("float32",)


def test_each_fast_way_can_be_left_out() -> None:
    code = """
from benchmarks.ways import ALL, LEAVE_OUT
from emotiw_keras import config, hardware
from emotiw_keras.data import one_channel
from emotiw_keras.models import layers
from emotiw_keras.models.kernels import cast_once, fused, space_to_depth, winograd

def held():
    return [winograd.suits, fused.suits, space_to_depth.suits, layers.LARGE_KERNEL, layers.BLOCKED_FROM,
            layers.BatchNormalization.is_fused, one_channel.for_grey, cast_once.narrow_kernels, hardware._large_pages,
            hardware.keep_memory, config.fast_kernels()]

for name, leave_out in LEAVE_OUT.items():
    before = held()
    leave_out()
    print(name, sum(one is not other for one, other in zip(before, held())), sep=": ")
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    changes = dict(line.split(": ") for line in said.stdout.splitlines())
    assert changes.pop(ALL) == "0" and len(changes) == len(LEAVE_OUT) - 1 and set(changes.values()) == {"1"}
