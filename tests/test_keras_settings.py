"""What Keras is set to elsewhere changes no result: it is refused in one line, before anything is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from emotiw_keras.errors import UsageError
from emotiw_keras.keras_settings import check_keras

USUAL = {"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_first"}


def told(home: Path, monkeypatch: pytest.MonkeyPatch, backend: str = "", settings: object = None) -> str:
    """What `check_keras` refuses where Keras has not been imported; nothing if it is content."""
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setenv("KERAS_HOME", str(home))
    home.mkdir(exist_ok=True)
    (home / "keras.json").write_text(settings if isinstance(settings, str) else json.dumps(settings or USUAL))
    try:
        check_keras()
    except UsageError as error:
        return str(error)
    finally:
        monkeypatch.undo()
    return ""


def test_what_is_asked_for_is_known_before_keras_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    assert told(home, monkeypatch) == "" == told(home, monkeypatch, settings="no JSON, which Keras passes over")
    assert "Keras computes with jax here (KERAS_BACKEND), where TensorFlow" in told(home, monkeypatch, "jax")
    file = home / "keras.json"
    assert f"with torch here ({file})" in told(home, monkeypatch, settings={"backend": "torch"})
    assert told(home, monkeypatch, "tensorflow", {"backend": "torch"}) == ""
    assert f"float type is float16 ({file})" in told(home, monkeypatch, settings={**USUAL, "floatx": "float16"})
    for wrong in ({"image_data_format": "channels_firstx"}, {"epsilon": "1e-7"}):
        assert "has values that Keras refuses" in told(home, monkeypatch, settings=wrong)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the settings of TensorFlow")
def test_what_is_set_behind_its_import_counts() -> None:
    check_keras()
    keras.config.set_floatx("float16")
    try:
        with pytest.raises(UsageError, match=r"float type is float16 \(keras.config.set_floatx, or keras.json\)"):
            check_keras()
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    "words", [("fit", "demo", "--out", "run"), ("evaluate", "fer28-face-vgg", "--data", "generated:small")]
)
def test_commands_refuse_another_backend_in_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    code = f"from emotiw_keras.cli.main import run; raise SystemExit(run({list(words)!r}))"
    variables = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Keras computes with jax" in done.stderr
    assert not any(tmp_path.iterdir())
