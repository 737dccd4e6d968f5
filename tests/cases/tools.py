"""What the checks of cases share: a place to work in, commands whose exit codes and words are looked at, small runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import processes
from tests.conftest import write_run

ROOT = Path(__file__).resolve().parents[2]
# Of a terminal's languages: escape sequences, bells, turned writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SMALL_RECIPE = """
name = "small"
data = ["data"]
labels = "basic7"
[model]
name = "alexnet"
weights = "none"
width = 0.0625
input_size = 67
[[stage]]
name = "one"
train = ["data:train"]
val = ["data:val"]
epochs = 1
batch_size = 16
learning_rate = 0.001
"""


class Wrong(AssertionError):
    """What is not as it should be, in words."""


def expect(holds: object, words: str) -> None:
    """Raise `Wrong` unless it holds."""
    if not holds:
        raise Wrong(words)


class Case:
    """A case that is tried.

    Attributes:
        folder: what the case brings.
        data: the folder of real data beside the cases.
        work: an empty folder, where commands run.
        commands: (command, exit code, its last line) of what has been run.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        self.data = folder.parent.parent / "data"
        self.commands: list[tuple[str, int, str]] = []

    def copy(self, name: str, to: str | bytes = "") -> Path:
        """A file of the case in the working folder."""
        target = os.path.join(os.fsencode(self.work), os.fsencode(to or name))
        with open(self.folder / name, "rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
        return Path(os.fsdecode(target))

    def emotiw(
        self, *words: object, code: int | tuple[int, ...] = 0, said: str = "", timeout: float = 300, **options: Any
    ) -> Any:
        """Run the command line in the working folder; its exit code must be `code`, its words contain `said` (a pattern)."""
        arguments = [str(word) for word in words]
        done = processes.run(processes.emotiw, *arguments, timeout=timeout, **{"cwd": self.work, **options})
        return self._seen("emotiw " + " ".join(arguments), done, code, said)

    def python(self, *words: object, code: int | tuple[int, ...] = 0, said: str = "", timeout: float = 300) -> Any:
        """The same of a script of the case, or of any arguments to Python."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=self.work, env=environment, capture_output=True, text=True, timeout=timeout
        )
        return self._seen("python " + " ".join(map(str, words)), done, code, said)

    def _seen(self, command: str, done: Any, code: int | tuple[int, ...], said: str) -> Any:
        text = done.stdout + done.stderr
        lines = [line for line in text.splitlines() if line.strip()]
        self.commands.append((command, done.returncode, lines[-1] if lines else ""))
        expect("Traceback (most recent call last)" not in text, f"a traceback:\n{text[-1500:]}")
        codes = code if isinstance(code, tuple) else (code,)
        expect(done.returncode in codes, f"exit {done.returncode}, expected {' or '.join(map(str, codes))}: {text[-600:]}")
        expect(re.search(said, text), f"nothing like {said!r} is said: {text[-600:]}")
        return done

    def faces(self, name: str = "data", limit: int = 70) -> Path:
        """A folder of drawn faces in the working folder."""
        from emotiw_keras.data.generated import write_images

        write_images("small", self.work / name, limit)
        return self.work / name

    def model(self, name: str = "model") -> Path:
        """A run folder whose network was trained on nothing."""
        return write_run(self.work / name)

    def fitted(self, name: str = "run") -> Path:
        """A run that `emotiw fit` finished on drawn faces."""
        (self.work / "small.toml").write_text(SMALL_RECIPE)
        self.emotiw("fit", "small.toml", "--data", f"data={self.faces()}", "--out", name)
        return self.work / name
