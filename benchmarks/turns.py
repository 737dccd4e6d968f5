"""Contestants that take turns: each a process of its own, one at work while the others wait.

A contestant prints one line with its outputs on the input that all get, and then answers each line on standard input with a
line of JSON: its figure for one turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def serve(outputs: np.ndarray, answer: Callable[[str], Any]) -> None:
    """Be a contestant: tell the outputs, then answer each line."""
    print(json.dumps(np.asarray(outputs, np.float64).tolist()), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)


def rate_of(step: Callable[[], None], amount: int, seconds: float) -> Callable[[str], float]:
    """An answer for `serve`: units of work a second, `step` doing `amount` of them, over at least `seconds`."""
    step()

    def answer(_: str) -> float:
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < seconds:
            step()
            count += 1
        return amount * count / (time.perf_counter() - start)

    return answer


class Contestant:
    """A process that has told its outputs; it ends with an error what it cannot answer."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **(environment or {})},
        )  # fmt: skip
        self.outputs = np.array(self._line())

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            said = self._said.read()[-4000:]
            sys.exit(f"{said}\n{self.name} ended with exit code {code} before it answered; nothing was measured")
        return json.loads(line)

    def check(self, wanted: np.ndarray, limit: float) -> float:
        """How far its outputs are from `wanted`, as a fraction of the largest; above `limit` the program ends."""
        gap = float(abs(self.outputs - wanted).max() / abs(wanted).max())
        if not gap <= limit:  # a nan must fail too
            sys.exit(f"outputs of {self.name} differ by {gap:.2g} of the largest, allowed {limit:g}; nothing was measured")
        return gap

    def figure(self, question: str = "") -> Any:
        """Its turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def take_turns(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    limits: Mapping[str, float],
    environment: Mapping[str, str] | None = None,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Figures of all contestants, one a round each.

    Args:
        commands: contestant -> module and arguments; the first one's outputs are what the others must agree with.
        rounds: figures each.
        limits: contestant -> largest difference of its outputs, as a fraction of the largest one.
        environment: added to the processes' environment.
        warm_up: leave out a first round.
    """
    workers = [Contestant(name, command, environment) for name, command in commands.items()]
    for worker in workers:
        worker.check(workers[0].outputs, limits[worker.name])
    figures: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + warm_up):
        for worker in workers:
            figure = worker.figure()
            if turn >= warm_up:
                figures[worker.name].append(figure)
    for worker in workers:
        worker.close()
    return figures


def heat(
    wanted: np.ndarray, commands: Mapping[str, Sequence[str]], limits: Mapping[str, float], environment: Mapping[str, str]
) -> dict[str, float]:
    """One figure of each contestant, one process after the other: to find out which of many are worth their turns."""
    figures = {}
    for name, command in commands.items():
        worker = Contestant(name, command, environment)
        worker.check(wanted, limits[name])
        figures[name] = worker.figure()
        worker.close()
    return figures


def summary(figures: Sequence[float]) -> dict[str, Any]:
    """Median, least, most, and every round."""
    return {"median": statistics.median(figures), "least": min(figures), "most": max(figures), "rounds": list(figures)}
