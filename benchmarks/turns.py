"""Contestants that take turns: each a process of its own, one at work while the others wait.

A contestant prints one line with its outputs on the pictures that all get, and then answers each line on standard input with a
line: its figure for one turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def serve(outputs: np.ndarray, step: Callable[[], None], amount: int, seconds: float) -> None:
    """Be a contestant: `step` does `amount` units of work, and runs for at least `seconds` a turn."""
    print(json.dumps(np.asarray(outputs, np.float64).tolist()), flush=True)
    step()
    step()
    for _ in sys.stdin:
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < seconds:
            step()
            count += 1
        print(amount * count / (time.perf_counter() - start), flush=True)


def take_turns(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    limits: Mapping[str, float],
    environment: Mapping[str, str] | None = None,
) -> dict[str, list[float]]:
    """Figures of all contestants, one a round each, the first (warm-up) round left out.

    Args:
        commands: contestant -> command; the first one's outputs are what the others must agree with.
        rounds: figures each.
        limits: contestant -> largest difference of its outputs, as a fraction of the largest one.
        environment: added to the processes' environment.

    Ends the program with an error if one computes something else or dies.
    """
    workers: dict[str, subprocess.Popen[str]] = {}
    wanted = None
    for name, command in commands.items():
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        outputs = np.array(json.loads(_line(name, workers[name])))
        wanted = outputs if wanted is None else wanted
        gap = float(abs(outputs - wanted).max() / abs(wanted).max())
        if not gap <= limits[name]:
            sys.exit(f"outputs of {name} differ by {gap:.2g} of the largest, allowed {limits[name]:g}")
    figures: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            figures[name].append(float(_line(name, worker)))
    for worker in workers.values():
        worker.communicate()
    return {name: rates[1:] for name, rates in figures.items()}


def _line(name: str, worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"{name} ended with exit code {worker.wait()} before it answered")
    return line


def summary(figures: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Contestant -> median, least, most, and every round."""
    return {
        name: {"median": statistics.median(rates), "least": min(rates), "most": max(rates), "rounds": list(rates)}
        for name, rates in figures.items()
    }
