"""`emotiw export` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotiw_keras.cli.main import run


def test_the_command_tells_what_the_file_takes(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed (the extra [onnx])")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (the extra [onnx])")
    out = tmp_path / "face.onnx"
    assert run(["export", str(run_folder), str(out)]) == 0
    said = capsys.readouterr()
    megabytes = out.stat().st_size / 1e6
    assert said.out.startswith(
        f"{out}: ONNX, {megabytes:.1f} MB, 7 labels, takes uint8 (batch, 76, 76, 1), grey; 6 faces agree"
    )
    assert said.err == f"exporting {run_folder} and comparing the result in a fresh process\n"


@pytest.mark.parametrize("kind", ["savedmodel", "tflite"])
def test_a_file_in_the_way_is_exit_code_6(
    kind: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    assert run(["export", str(run_folder), str(tmp_path / "out"), "--format", kind]) == 6
    assert "exporting never overwrites" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["face.keras", "face.h5", "a.hdf5", "a.pb", "a.PT", "a.pth", "a.npz", "-", ""])
def test_a_name_of_a_format_that_is_not_written_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of that name was made."""
    monkeypatch.chdir(tmp_path)
    assert run(["export", "fer28-face-vgg", "--", name]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"OUT is {name!r}; expected a new folder for a SavedModel, or a new file NAME.onnx or NAME.tflite\n")
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_format_follows_the_name(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in (("a.onnx", "savedmodel"), ("a.ONNX", "tflite"), ("a.tflite", "onnx")):
        assert run(["export", str(run_folder), str(tmp_path / name), "--format", kind]) == 2
        assert f"but --format is {kind}" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert run(["export", str(run_folder), str(tmp_path / "face.tflite")]) == 0
    assert (tmp_path / "face.tflite").is_file()
    assert run(["export", str(run_folder), str(tmp_path / "served")]) == 0
    for name, words in (("face.tflite", "is a file, not a run folder"), ("served", "is a SavedModel")):
        assert run(["predict", "x.png", "--model", str(tmp_path / name)]) == 8
        told = capsys.readouterr().err
        assert words in told and ".onnx file of `emotiw export`" in told
