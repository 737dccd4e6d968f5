"""How fast each engine computes a network on this machine, timed once and kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from emotiw_keras.errors import OutputError, RunError
from emotiw_keras.files import write_atomic
from emotiw_keras.hardware import processor_flags, processor_threads
from emotiw_keras.locking import locked
from emotiw_keras.sealed import read_sealed, sealed_json
from emotiw_keras.weights.cache import cache_dir

FOLDER = "engines"
FACES, ROUNDS = 32, 3
_PACKAGES = ("opencv-python-headless", "onnxruntime", "openvino", "tensorflow")


def fastest(
    names: Sequence[str],
    subject: tuple[object, ...],
    shape: tuple[int, int, int],
    opened: Callable[[str], Callable[[np.ndarray], np.ndarray]],
) -> str:
    """The engine that computes most faces a second.

    One process times at a time, others wait for what it finds. What is kept and damaged is timed anew; where the cache cannot
    be written nothing is kept.

    Args:
        names: the engines.
        subject: what is computed; with processor and versions it says for what the figures hold.
        shape: height, width and channels of the faces.
        opened: gives an engine, which takes uint8 (batch, *shape).
    """
    place = cache_dir() / FOLDER / f"{_key(subject)}.json"
    with contextlib.ExitStack() as stack:
        writable = True
        try:
            stack.enter_context(locked(place.parent, lambda: None))
        except OutputError:
            writable = False
        rates = _kept(place)
        missing = [name for name in names if name not in rates]
        for name in missing:
            rates[name] = _rate(opened(name), shape)
        if missing and writable:
            with contextlib.suppress(OutputError):
                write_atomic(place, sealed_json({"faces_per_second": rates}))
    return max(names, key=lambda name: rates[name])


def _key(subject: tuple[object, ...]) -> str:
    import importlib.metadata

    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    facts = [*subject, versions, processor_threads(), processor_flags()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _kept(place: Path) -> dict[str, float]:
    try:
        rates = read_sealed(place).get("faces_per_second")
    except RunError:  # none is kept, or it is damaged
        return {}
    holds = isinstance(rates, dict) and all(type(rate) is float and 0 < rate < math.inf for rate in rates.values())
    return rates if holds else {}  # type: ignore[return-value]


def _rate(compute: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int, int]) -> float:
    """Faces a second, of the best of some rounds; the first, which prepares, does not count."""
    faces = np.random.default_rng(0).integers(0, 256, (FACES, *shape), np.uint8)
    compute(faces)
    best = math.inf
    for _ in range(ROUNDS):
        start = time.perf_counter()
        compute(faces)
        best = min(best, time.perf_counter() - start)
    return FACES / best
