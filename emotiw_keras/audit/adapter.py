"""A reader of expressions in a process of its own, asked by lines of JSON; how one is written stands in docs/audit.md.

The process says who it is in one line, `{"labels": [...]}`. Then each line it gets, `{"faces": FILE, "answers": FILE}`, names
a .npy of uint8 (n, 48, 48) to read and one of float32 (n, labels) to write; it answers `{"done": n}`. What it says is a
stranger's: everything is checked before it is used.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.files import NUMPY_UNREADABLE, check_regular
from emotiw_keras.sealed import json_text, strict_json

LONGEST_LINE = 1 << 20
"""Characters of one line: a longer one is no answer."""
MOST_AHEAD = 16
"""Lines that are kept while nobody asks for them."""
MOST_LABELS = 1000
LONGEST_TIMEOUT = 1_000_000_000.0
"""Seconds; what waits in Python takes no more than about nine times as many."""
SUM_WITHIN = 1e-2
"""How far from 1 probabilities of a face may sum up to."""
TEXTS = ("name", "version", "licence", "how")
"""What else the first line may say, in words; `how` is how a face of FER-2013 reaches the network."""
MOST_HEADER = 4096


def check_timeout(seconds: float) -> None:
    """Raises UsageError for what nothing can wait for."""
    if not 0 < seconds <= LONGEST_TIMEOUT:  # also what is no number
        raise UsageError(f"a timeout of {seconds:g} s; expected more than 0 and at most {LONGEST_TIMEOUT:,.0f}")


class Adapter:
    """Starts a command and asks it; a context manager that ends it.

    Args:
        command: as a shell would take it apart; no shell runs it.
        timeout: seconds for its start, and for each answer.
        called: what errors call it; the command if None.

    Attributes:
        facts: its first line: `labels` and whatever of `TEXTS` and `bytes` it said.

    Raises:
        UsageError: the command cannot be started.
        ModelError: it ended, was silent, or said what it must not.
    """

    def __init__(self, command: str | list[str], timeout: float = 1800.0, called: str | None = None) -> None:
        try:
            words = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise UsageError(f"adapter {command!r}: {error}") from error
        self.called = called or shlex.join(words)
        check_timeout(timeout)
        self._timeout = timeout
        if not words:
            raise UsageError("an adapter needs a command, such as 'python my_model.py'")
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # the latter for a NUL in a word
            raise UsageError(f"adapter {self.called}: cannot start it: {getattr(error, 'strerror', None) or error}") from error
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=MOST_AHEAD)
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self.facts = self._introduced(self._answer())
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names as it says them, in the order of its columns."""
        return tuple(self.facts["labels"])

    def predict(self, faces: np.ndarray) -> np.ndarray:
        """Its probabilities.

        Args:
            faces: uint8 (n, 48, 48).

        Returns:
            float32 (n, labels), rows of sum 1; a row of NaN where it found no face.

        Raises:
            ModelError: it ended, was silent too long, or wrote something else.
        """
        with tempfile.TemporaryDirectory(prefix="emotiw-audit-") as folder:
            given, written = Path(folder) / "faces.npy", Path(folder) / "answers.npy"
            np.save(given, faces)
            said = self.ask({"faces": str(given), "answers": str(written)})
            if said.get("done") != len(faces):
                raise self._wrong(f"answered {json_text(said)[:80]}, expected {json_text({'done': len(faces)})}")
            return self._checked(written, len(faces))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Any request of one line, and the object that answers it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended; the answer says so
            self._process.stdin.write(json_text(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Close its input, which should end it; end it with what it started if it does not."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()

    def _read(self) -> None:
        """Lines that begin as an object does: others' libraries talk on standard output too."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            while line := lines.readline(LONGEST_LINE):
                if line.startswith("{"):
                    self._lines.put(line)
        self._lines.put(None)

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            raise self._wrong(f"said nothing for {self._timeout:g} s; give it longer with --timeout") from None
        if line is None:
            self._lines.put(None)  # whoever asks again is told again
            try:
                how = f"ended with exit code {self._process.wait(self._timeout)}"
            except subprocess.TimeoutExpired:
                how = "closed its standard output"
            raise self._wrong(f"{how} before it answered; run it by hand to see why")
        try:
            said = strict_json(line)
        except ValueError as error:
            raise self._wrong(f"answered {line[:80]!r}, which is no line of JSON ({error})") from error
        if "error" in said:
            raise self._wrong(f"says: {str(said['error'])[:300]}")
        return said

    def _introduced(self, said: dict[str, Any]) -> dict[str, Any]:
        labels = said.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
            raise self._wrong(f'began with {json_text(said)[:80]}; expected {{"labels": ["angry", ...]}}')
        if not 2 <= len(labels) <= MOST_LABELS or len(set(labels)) < len(labels):
            raise self._wrong(f"names {len(labels)} labels; expected 2 to {MOST_LABELS}, each once")
        facts: dict[str, Any] = {"labels": labels}
        for key in TEXTS:
            if key in said:
                facts[key] = str(said[key])[:300]
        size = said.get("bytes")
        if type(size) is int and size >= 0:
            facts["bytes"] = size
        return facts

    def _checked(self, path: Path, count: int) -> np.ndarray:
        """What it wrote, once it is known to be probabilities."""
        wide = len(self.labels)
        try:
            check_regular(path)
            size = path.stat().st_size
            if size > count * wide * 8 + MOST_HEADER:
                raise self._wrong(f"wrote {size:,} bytes; expected float32 ({count}, {wide})")
            answers = np.load(path, mmap_mode="r", allow_pickle=False)  # takes no memory on a header's word
        except (*NUMPY_UNREADABLE, RecursionError) as error:
            raise self._wrong(f"wrote no .npy of numbers ({' '.join(str(error).split())[:100]})") from error
        if not isinstance(answers, np.ndarray) or answers.shape != (count, wide) or answers.dtype.kind != "f":
            found = f"{answers.dtype} {answers.shape}" if isinstance(answers, np.ndarray) else "an archive"
            raise self._wrong(f"wrote {found}; expected float32 ({count}, {wide})")
        return checked_probabilities(answers, f"adapter {self.called}")

    def _wrong(self, what: str) -> ModelError:
        return ModelError(f"adapter {self.called} {what}")


def checked_probabilities(answers: np.ndarray, called: str) -> np.ndarray:
    """float (n, classes) -> float32, rows of sum 1; a row that is NaN throughout is a face that was not found.

    Raises:
        ModelError: other numbers that are not finite, negative ones, or rows of another sum.
    """
    lost = np.isnan(answers).all(axis=1)
    found = answers[~lost].astype(np.float64)
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).any(axis=1).sum())
        raise ModelError(f"{called} gave numbers that are not finite for {bad} of {len(answers)} faces")
    total = found.sum(axis=1)
    if len(found) and (found.min() < 0 or np.abs(total - 1).max() > SUM_WITHIN):
        raise ModelError(
            f"{called} gave rows from {found.min():.3g} to {found.max():.3g}, of sum {total.min():.3g} to {total.max():.3g}; "
            "expected probabilities, of sum 1"
        )
    result = np.full(answers.shape, np.nan, np.float32)
    result[~lost] = found / total[:, None]
    return result
