"""One contestant of `emotiw audit` and of peers.py: answers line by line, as docs/audit.md tells. Needs NumPy alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
Classify = Callable[[np.ndarray], np.ndarray]  # uint8 (n, 48, 48) -> scores of 0 or more (n, labels)


def serve(classify: Classify, labels: Sequence[str], facts: dict[str, Any]) -> None:
    """Say who this is, then answer each line of input until there is none.

    `{"faces": FILE, "answers": FILE}` is answered by probabilities: scores divided by their sum, which changes nothing where
    they are probabilities. `{"faces": FILE, "seconds": S}` is answered by faces a second in batches of 64, and the
    milliseconds of each call with a single face, for S seconds each, and, under Linux, the largest memory so far in MB.
    """
    print(json.dumps({"labels": list(labels), **facts}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        faces = np.load(asked["faces"], allow_pickle=False)
        if "seconds" in asked:
            print(json.dumps(_speed(classify, faces, asked["seconds"])), flush=True)
            continue
        parts = [np.asarray(classify(faces[start : start + BATCH]), np.float64) for start in range(0, len(faces), BATCH)]
        scores = np.concatenate(parts)
        np.save(asked["answers"], (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32))
        print(json.dumps({"done": len(faces)}), flush=True)


def _speed(classify: Classify, faces: np.ndarray, seconds: float) -> dict[str, Any]:
    for face in faces[:5]:
        classify(face[None])
    batch = faces[np.arange(BATCH) % len(faces)]
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        classify(batch)
        count += BATCH
    rate = count / (time.perf_counter() - start)
    single, place, start = [], 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        began = time.perf_counter()
        classify(faces[place : place + 1])
        single.append(1000 * (time.perf_counter() - began))
        place = (place + 1) % len(faces)
    return {"faces_per_second": rate, "single_ms": single, **_peak()}


def _peak() -> dict[str, float]:
    """The largest memory that the process has held, where the system tells it: Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    return {"peak_mb": next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024}
