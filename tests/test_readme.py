"""The README does what it says: every block below a comment `<!-- runs -->` is run, in order, in one scratch folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^<!-- runs -->\s*\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash", "shell", "console")


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each block that runs; of console blocks the lines after a prompt."""
    found = []
    for language, text in BLOCK.findall(README.read_text(encoding="utf-8")):
        lines = text.splitlines()
        if language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        found.append((language, "\n".join(lines)))
    return found


def test_the_readme_has_commands_that_run() -> None:
    languages = [language for language, _ in blocks()]
    assert set(languages) <= {*SHELLS, "python"}
    assert len(BLOCK.findall(README.read_text(encoding="utf-8"))) == README.read_text(encoding="utf-8").count("<!-- runs -->")
    assert any(language in SHELLS for language in languages) and "python" in languages
    assert "emotiw fit" in "".join(text for _, text in blocks())


@pytest.mark.slow
def test_the_readmes_blocks_run(tmp_path: Path) -> None:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    variables.pop("KERAS_BACKEND", None)
    for language, text in blocks():
        if language == "python":
            command = [sys.executable, "-c", text]
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{text}\n--- exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
