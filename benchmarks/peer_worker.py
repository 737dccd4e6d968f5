"""One contestant of peers.py: answers all faces, then gives its speed each time it is asked. Needs NumPy alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
Classify = Callable[[np.ndarray], np.ndarray]  # uint8 (n, 48, 48) -> (n, 7) in the order of FER-2013


def serve(classify: Classify, folder: Path, name: str, seconds: float, facts: dict[str, Any]) -> None:
    """Write the probabilities of `folder`/faces.npy to `folder`/NAME.npy, print the facts, then figures for each line of input.

    The figures: faces a second in batches of 64, and the milliseconds of each call with a single face, for `seconds` each.
    """
    faces = np.load(folder / "faces.npy", allow_pickle=False)
    answers = [np.asarray(classify(faces[start : start + BATCH]), np.float32) for start in range(0, len(faces), BATCH)]
    np.save(folder / f"{name}.npy", np.concatenate(answers))
    for face in faces[:5]:
        classify(face[None])
    print(json.dumps(facts), flush=True)
    batch = faces[np.arange(BATCH) % len(faces)]
    for _ in sys.stdin:
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
        print(json.dumps({"faces_per_second": rate, "single_ms": single}), flush=True)
