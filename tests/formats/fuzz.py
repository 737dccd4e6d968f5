"""Damages weight files by the thousand and reads them: `python -m tests.formats.fuzz --count 20000 --seed 1`.

Each file must end in an answer or in one clear line of error. Anything else is a fault: another exception, a crash, more
than 5 seconds of the processor, more memory than twice the limits, a file that is written or a program that is started by
what a weight file says, or an answer that contradicts the format's own library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from emotiw_keras.formats.reading import READERS

from .fuzz_case import Outcome, Watch, examine
from .fuzz_corpus import Case, case, corpus, format_of

__all__ = ["Case", "corpus", "main", "run", "table"]
ROOT = Path(__file__).resolve().parents[2]


def run(seed: int, count: int, first: int = 0, format_name: str = "") -> Iterator[Outcome]:
    """The outcomes of `count` cases from number `first` on, or of those of one format, read in a process of their own.

    After a file that ends the process the next ones are read in a new one.
    """
    # One arena: that of a second thread, such as the one that watches the clock, reserves more than the bound allows.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    end = first + count
    with tempfile.TemporaryDirectory() as folder:
        done = False
        while not done:
            command = [sys.executable, "-m", "tests.formats.fuzz", "--work", f"--seed={seed}", f"--first={first}"]
            trace = Path(folder, "trace")
            with subprocess.Popen(
                [*command, f"--count={end - first}", f"--format={format_name}"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            ) as worker:
                assert worker.stdout is not None
                started: Outcome | None = None
                for line in worker.stdout:
                    outcome = Outcome(**json.loads(line))
                    if outcome.result == "started":
                        started = outcome
                    else:
                        yield outcome
                        first, started = outcome.number + 1, None
            done = not worker.returncode
            if not done and started is None:
                raise RuntimeError(f"the process that reads the files ended with {worker.returncode} before case {first}")
            if started is not None:
                words = _frames(trace.read_text(errors="replace"))
                started.result, started.faults = "fault", [(_death(worker.returncode), words)]
                yield started
                first, done = started.number + 1, started.number + 1 >= end


def _death(code: int) -> str:
    if code == -signal.SIGPROF:
        return "hang"
    return f"crash ({signal.Signals(-code).name})" if code < 0 else f"hang or exit ({code})"


def _frames(text: str) -> str:
    """The innermost calls of the last traceback that `faulthandler` wrote."""
    last = re.split(r"(?m)^(?:Fatal|Current|Thread|Timeout)", text)[-1]
    return " < ".join(f"{name} {line}" for name, line in re.findall(r'File ".*?([^/"]+)", (line \d+)', last)[:4])


def work(seed: int, count: int, first: int, format_name: str) -> None:
    """Read the cases in this process; a line before and a line after each go to what was its standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with open("trace", "ab", buffering=0) as trace:
        for stream in (1, 2):
            os.dup2(trace.fileno(), stream)
        watch = Watch(trace)
        for number in range(first, first + count):
            if format_name and format_name != format_of(number):
                continue
            made = case(seed, number)
            print(Outcome(number, made.name, made.format, "started").line(), file=answers)
            print(examine(watch, number, made, Path(f"case{made.suffix}")).line(), file=answers)


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """Counts by format, as lines."""
    rows: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        for name in (outcome.format, "all"):
            row = rows.setdefault(name, {"cases": 0, "answered": 0, "refused": 0, "messages": set(), "faults": 0, "noise": 0,
                                         "seconds": 0.0, "peak": 0})  # fmt: skip
            row["cases"] += 1
            row["faults"] += bool(outcome.faults)
            row["noise"] += bool(outcome.noise)
            if outcome.result in row:
                row[outcome.result] += 1
            if outcome.message:
                row["messages"].add(re.sub(r"\d[\d,.]*|'[^']*'|\"[^\"]*\"", "#", outcome.message))
            row["seconds"], row["peak"] = max(row["seconds"], outcome.seconds), max(row["peak"], outcome.peak)
    lines = [f"{'format':18} {'cases':>6} {'answered':>8} {'refused':>7} {'messages':>8} {'faults':>6} {'noise':>5} "
             f"{'slowest s':>9} {'peak MB':>7}"]  # fmt: skip
    for name in sorted(rows, key=lambda name: (name == "all", name)):
        row = rows[name]
        lines.append(
            f"{name:18} {row['cases']:6} {row['answered']:8} {row['refused']:7} {len(row['messages']):8} {row['faults']:6} "
            f"{row['noise']:5} {row['seconds']:9.2f} {row['peak'] / 1e6:7.1f}"
        )
    return lines


def _died(outcomes: Iterable[Outcome]) -> str:
    """How often the process that tries HDF5 files saved this one."""
    died = [outcome.message.partition("the HDF5 library ")[2].partition(";")[0] for outcome in outcomes]
    counts = {words: died.count(words) for words in sorted(set(died)) if words}
    return "the HDF5 library, in its own process: " + (", ".join(f"{n} x {w}" for w, n in counts.items()) or "no crash")


def main() -> int:
    """The command line; 1 if there was any fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.formats.fuzz", description="Damage weight files and read them.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--format", default="", choices=("", *READERS), help="only the cases of this format", metavar="NAME")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files with faults")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.seed, args.count, args.first, args.format)
        return 0
    parts = max(1, min(args.processes, args.count))
    bounds = [args.first + args.count * i // parts for i in range(parts + 1)]
    outcomes: list[Outcome] = []

    def part(i: int) -> None:
        for outcome in run(args.seed, bounds[i + 1] - bounds[i], bounds[i], args.format):
            outcomes.append(outcome)
            if outcome.faults:
                print(f"case {outcome.number} ({outcome.name}): {outcome.faults}", flush=True)
                if args.keep:
                    made = case(args.seed, outcome.number)
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{args.seed}_{outcome.number}{made.suffix}").write_bytes(made.data)

    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(part, range(parts)))
    noise = {words: outcome.number for outcome in reversed(outcomes) for words in outcome.noise}
    for words, number in sorted(noise.items()):
        print(f"noise, first in case {number}: {words}")
    print(*table(outcomes), _died(outcomes), sep="\n")
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
