"""Damaged files in every format end in an answer or a clear error, and traps are refused before they snap."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.reading import READERS, read

from .fuzz import ROOT, run, table
from .fuzz_corpus import case
from .fuzz_seeds import EXECUTED, Seed, seeds

COUNT = 600
TRAPS = [seed for seed in seeds() if seed.trap]
LIMITS = Limits(total_bytes=16 << 20, arrays=5000)


def _named(seed: Seed) -> str:
    return f"{seed.format} {seed.variant}"


def test_damaged_files_of_every_format() -> None:
    outcomes = list(run(1, COUNT))
    faults = [f"case {outcome.number} ({outcome.name}): {outcome.faults}" for outcome in outcomes if outcome.faults]
    assert not faults, "\n".join([*faults, *table(outcomes)])
    assert not [(outcome.number, outcome.noise) for outcome in outcomes if outcome.noise]
    assert [outcome.number for outcome in outcomes] == list(range(COUNT))
    assert {outcome.format for outcome in outcomes} == set(READERS)
    # The same files in any process, else a number would be of no use to who looks for the fault.
    assert [outcome.name for outcome in outcomes] == [case(1, number).name for number in range(COUNT)]
    damaged = outcomes[len(seeds()) :]
    assert {outcome.result for outcome in damaged} == {"answered", "refused"}


# Every kind of fault, so that a run without faults says something.
DEEDS = f"""
import json, os, sys, time, warnings
from emotiw_keras.errors import ModelError
from tests.formats import fuzz_case
def wrong(): raise KeyError("x")
def two_lines(): raise ModelError("a\\nb")
def large(): return len(bytearray(100 << 20))
def makes(): os.mkdir({EXECUTED!r})
def writes(): open("other", "w").close()
def warns(): warnings.warn("careful")
def prints(): os.write(2, b"x")
def fine(): raise ModelError("damaged; fetch it again")
def endless():
    while True: pass
with open("trace", "ab", buffering=0) as trace:
    os.dup2(trace.fileno(), 2)
    watch = fuzz_case.Watch(trace)
    for deed in (wrong, two_lines, large, writes, warns, prints, fine, makes):
        outcome = fuzz_case.Outcome(0, deed.__name__, "")
        watch.call(deed, outcome)
        print(json.dumps([deed.__name__, [kind for kind, _ in outcome.faults], outcome.noise]), flush=True)
    fuzz_case.PROCESSOR_SECONDS = 0.2
    watch.call(endless, outcome)
"""


def test_every_kind_of_fault_is_seen(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEEDS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    seen = {name: (faults, noise) for name, faults, noise in map(json.loads, done.stdout.splitlines())}
    assert {name: faults for name, (faults, _) in seen.items()} == {
        "wrong": ["raised"],
        "two_lines": ["message"],
        "large": ["memory"] if sys.platform == "linux" else [],
        "writes": ["executed"],
        "warns": [],
        "prints": [],
        "fine": [],
        "makes": ["executed"],
    }
    assert [name for name, (_, noise) in seen.items() if noise] == ["warns", "prints"]
    assert done.returncode == -signal.SIGPROF
    assert "in endless" in (tmp_path / "trace").read_text()


@pytest.mark.parametrize("seed", [seed for seed in TRAPS if "call" in seed.variant], ids=_named)
def test_a_pickle_that_would_run_a_command_does_not(seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net{seed.suffix}"
    path.write_bytes(seed.data)
    with pytest.raises(ModelError, match=rf"asks to call {os.name}\.mkdir, which was not done"):
        read(path, LIMITS)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    if seed.suffix in (".pkl", ".npy"):
        np.load(path, allow_pickle=True) if seed.suffix == ".npy" else pickle.loads(seed.data)
        assert (tmp_path / EXECUTED).is_dir()


POINTING = {
    "external link": "ExternalLink",
    "external storage": "stored in another file",
    "virtual dataset": "virtual dataset, made of other files",
}
OTHERS = {"declared size": "declares 8,796,093,022,208 bytes", "soft link": "SoftLink", "bomb": "would unpack to|longer than"}


@pytest.mark.parametrize("seed", [seed for seed in TRAPS if seed.variant in POINTING], ids=_named)
def test_hdf5_files_that_point_at_others(seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as other:
        other["values"] = np.arange(8.0)
    path = tmp_path / f"net{seed.suffix}"
    path.write_bytes(seed.data)
    with h5py.File(path) as file:
        followed = file["net/0" if seed.suffix == ".mat" else "layers/dense/vars/0"][()]
    assert followed.shape == (8,)
    assert np.array_equal(followed, np.arange(8.0)) == (seed.variant != "external storage")  # which has its first bytes
    with pytest.raises(ModelError, match=POINTING[seed.variant]):
        read(path, LIMITS)


@pytest.mark.parametrize("seed", [seed for seed in TRAPS if seed.variant in OTHERS], ids=_named)
def test_declared_sizes_and_bombs(seed: Seed, tmp_path: Path) -> None:
    path = tmp_path / f"net{seed.suffix}"
    path.write_bytes(seed.data)
    with pytest.raises(ModelError, match=OTHERS[seed.variant]):
        read(path, LIMITS)
