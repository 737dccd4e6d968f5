"""Coverage-guided fuzzing, `make fuzz`: `python -m tests.fuzz --seconds 3600`, or of one reader `--target images`.

Each reader of foreign bytes (see `targets`) gets an equal part of the time, in processes of its own. Faults are kept and the
search goes on: an exception that is no `EmotiwError`, an error that is not one printable line, a crash, 20 seconds for one
input, 3 GB of memory. The table has the inputs tried, the faults by where they rose, the slowest input and the memory taken.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS_FOR_ONE = 20
SECONDS_FOR_AGAIN = 600
MEGABYTES = 3000
LONGEST = 1 << 15
_SHM = Path("/dev/shm")


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "emotiw_keras" in frame.filename or f"{os.sep}weights{os.sep}" in frame.filename]
    last = (ours or list(frames))[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {' '.join(str(error).split())[:120]}"


def work(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one reader in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["emotiw_keras", "PIL", "tomllib"]):
        from emotiw_keras.errors import EmotiwError, ModelError
        from tests.fuzz.targets import make

        target = make(name)
        facts: dict[str, Any] = {"inputs": 0, "refused": 0, "slowest": 0.0, "faults": {}, "before": 0, "peak": 0}
        written = 0.0

        def one(data: bytes) -> None:
            nonlocal written
            started, fault = time.process_time(), ""
            try:
                target.read(data)
            except EmotiwError as error:
                facts["refused"] += 1
                if type(error) is ModelError and not str(error).isprintable():  # others are escaped where they are printed
                    fault = f"not one printable line: {str(error)[:120]!r}"
            except Exception as error:  # what is looked for; counted by its place, and the search goes on
                fault = _where(error)
            facts["inputs"] += 1
            took = time.process_time() - started
            if took > facts["slowest"]:
                facts["slowest"] = took
                (folder / "slowest").write_bytes(data)
            if fault and fault.split(": ")[0] not in facts["faults"]:
                facts["faults"][fault.split(": ")[0]] = fault
                (folder / f"fault-{len(facts['faults'])}").write_bytes(data)
                written = 0.0
            if time.monotonic() - written > 1:
                written = time.monotonic()
                facts["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
                (folder / "facts.json").write_text(json.dumps(facts))

        for seed in target.seeds:  # what is imported with the first call is watched, too
            one(seed)
    facts["before"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-timeout={SECONDS_FOR_ONE}", f"-rss_limit_mb={MEGABYTES}"]
    options += [f"-artifact_prefix={folder}/", "-print_final_stats=0", str(corpus)]
    if target.words:
        words = folder / "words"
        words.write_text("".join(f'"{word}"\n' for word in target.words))
        options.append(f"-dict={words}")

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        return repacked(data, most, seed, atheris.Mutate)

    atheris.Setup(["fuzz", *options], one, **({"custom_mutator": mutated} if target.zipped else {}))
    atheris.Fuzz()


def repacked(data: bytes, most: int, seed: int, mutate: Any) -> bytes:
    """A zip with one member mutated, and sizes and checksums that fit; one time in three, and where it is none, its bytes."""
    draw = random.Random(seed)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            members = [(info, packed.read(info)) for info in packed.infolist()]
    except Exception:  # damaged by an earlier mutation in whatever way
        members = []
    if not members or not draw.randrange(3):
        return mutate(data, most)
    chosen, file = draw.randrange(len(members)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number, (info, content) in enumerate(members):
            fresh = zipfile.ZipInfo(info.filename)
            packed.writestr(fresh, mutate(content, len(content) + 64) if number == chosen else content, info.compress_type)
    return file.getvalue()[:most]


def again(name: str, file: Path) -> None:
    """Read one input as the command line would, in this process: what a library in C does is met by another one."""
    from emotiw_keras.errors import EmotiwError
    from emotiw_keras.formats import hdf5_trial
    from tests.fuzz.targets import make

    target = make(name)
    hdf5_trial.inside = False
    try:
        target.read(file.read_bytes())
    except EmotiwError as error:
        print(error)


def fuzz(name: str, seconds: float, keep: Path) -> dict[str, Any]:
    """Fuzz one reader, anew after each crash, until the time is up."""
    sums: dict[str, Any] = {"inputs": 0, "refused": 0, "slowest": 0.0, "faults": {}, "held": Counter(), "grown": 0, "peak": 0}
    sums["first"] = sums["covered"] = 0
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir=_SHM if _SHM.is_dir() else None) as place:
        folder = Path(place)
        environment = {**os.environ, "TMPDIR": place, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        python: dict[str, Any] = {"cwd": place, "env": environment, "capture_output": True, "text": True, "errors": "replace"}
        while (left := int(end - time.monotonic())) > 0:
            (folder / "facts.json").unlink(missing_ok=True)
            command = [sys.executable, "-P", "-m", "tests.fuzz", "--folder", place, "--target", name]
            done = subprocess.run([*command, "--work", "--seconds", str(left)], **python)
            if not (folder / "facts.json").exists():
                raise RuntimeError(f"{name}: the process that fuzzes ended with {done.returncode}:\n{done.stderr[-3000:]}")
            facts = json.loads((folder / "facts.json").read_text())
            places = [int(found) for found in re.findall(r" cov: (\d+)", done.stderr)]
            sums["first"] = sums["first"] or next(iter(places), 0)
            sums["covered"] = max(sums["covered"], *places, 0)
            sums["inputs"] += facts["inputs"]
            sums["refused"] += facts["refused"]
            sums["slowest"] = max(sums["slowest"], facts["slowest"])
            sums["grown"] = max(sums["grown"], facts["peak"] - facts["before"])
            sums["peak"] = max(sums["peak"], facts["peak"])
            sums["faults"] |= facts["faults"]
            for file in [*folder.glob("crash-*"), *folder.glob("timeout-*"), *folder.glob("oom-*"), *folder.glob("fault-*")]:
                kind = file.name.partition("-")[0]
                if kind != "fault":
                    met = _again([*command, "--again", str(file)], python)
                    if not met:
                        sums["held"][kind] += 1
                    else:
                        sums["faults"][f"{kind} {file.name[-8:]}"] = f"{kind}, and again: {met}"
                if kind == "fault" or met:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name.replace(' ', '_')}-{file.name}").write_bytes(file.read_bytes())
                file.unlink()
    return sums


def _again(command: list[str], python: dict[str, Any]) -> str:
    """How a process ends that reads an input as the command line would; "" if well. The processor's time of each is bounded."""
    try:
        code = subprocess.run(command, **python, timeout=SECONDS_FOR_AGAIN).returncode
    except subprocess.TimeoutExpired:
        return f"over {SECONDS_FOR_AGAIN} seconds"
    return f"exit code {code}" if code else ""


def main() -> int:
    """The command line; 1 if there was any fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz readers of foreign bytes.")
    parser.add_argument("--seconds", type=float, default=3600, help="in all")
    parser.add_argument("--target", help="one reader alone")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for inputs with faults")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.target, int(chosen.seconds), chosen.folder)
        return 0
    if chosen.again:
        again(chosen.target, chosen.again)
        return 0
    from tests.fuzz.targets import target_names

    names = [chosen.target] if chosen.target else target_names()
    keep = chosen.keep.resolve()
    columns = f"{'reader':18} {'inputs':>10} {'refused':>10} {'slowest s':>9} {'peak MB':>8} {'grown MB':>8}"
    print(f"{columns} {'places in code':>15}  faults", flush=True)
    faults = 0
    total = Counter()
    for name in names:
        found = fuzz(name, chosen.seconds / len(names), keep)
        held = f" (held by another process: {dict(found['held'])})" if found["held"] else ""
        total["inputs"] += found["inputs"]
        total["refused"] += found["refused"]
        faults += len(found["faults"])
        print(
            f"{name:18} {found['inputs']:10,} {found['refused']:10,} {found['slowest']:9.2f} {found['peak'] / 1e6:8.0f} "
            f"{found['grown'] / 1e6:8.0f} {found['first']:6,} -> {found['covered']:5,}  {len(found['faults'])}{held}",
            *(f"    {line}" for line in found["faults"].values()),
            sep="\n",
            flush=True,
        )
    print(f"{'all':18} {total['inputs']:10,} {total['refused']:10,}  {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
