"""The examples in docstrings say what happens: each is run, in an empty folder."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Installed from two folders; `emotiw_keras` is the name of all.
FOLDERS = {"emotiw_keras": "emotiw_keras", "cli": "emotiw_keras.cli", "weights": "emotiw_keras.weights"}


def modules() -> list[str]:
    """The modules that show an example."""
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found.append(".".join([package, *(part for part in parts if part != "__init__")]))
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_show_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    talk: list[str] = []
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test, out=talk.append)
    assert runner.failures == 0, "".join(talk)
