"""The command line in this process, with a detector that finds drawn faces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving.marked import MarkedEyes


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path) -> Callable:
    """Run `emotiw predict ... --json` in the test's folder: predict("a.png", "--every", 5) -> code, rows, err."""
    from emotiw_keras.cli.main import run

    monkeypatch.setattr("emotiw_keras.faces.detectors.get_detector", lambda name=None, min_face=None, engine=None: MarkedEyes())
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, json_rows: bool = True) -> Any:
        options = ["--json"] if json_rows else []
        code = run(["predict", *map(str, arguments), "--model", str(run_folder), *options])
        out, err = capsys.readouterr()
        # That these runs were not packed and so know no usable entropy; tests/serving/test_predict_command.py looks at it.
        err = "".join(line for line in err.splitlines(keepends=True) if "which entropy is usable" not in line)
        return SimpleNamespace(
            code=code, rows=[json.loads(line) for line in out.splitlines()] if json_rows else [], out=out, err=err
        )

    return call
