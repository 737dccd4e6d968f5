"""Photos in parts: equal bytes, kills, memory and speed of `emotiw predict --out` and `emotiw prepare --runner`.

    python -m benchmarks.scale_read                                      everything, about ten minutes on two idle cores
    python -m benchmarks.scale_read --photos 200000 --prepare 200000 --real 2000 --real-prepare 2000      hours
    python -m benchmarks.scale_read --photos 20000 --real 200 --kills 6  less of it; --parts equal kills memory chooses

Parts
  equal    generated tiny photos with a small network, and real-sized ones with the model that ships, by `local` of 1 and 2
           processes and `ray` of 2: photos a second, the same bytes, each input once; both through `prepare` too
  kills    the same job with workers and the command itself killed at random moments, and begun again until it is done
  listing  names a second of the command, which alone lists and cuts, by the form of the input, and its memory
  memory   peaks of the command and of a worker by the number of photos

Every process computes with one thread. The times of runs without --out are not among them: they are `benchmarks.forward`'s.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import processor
from benchmarks.random_run import write_random_run
from emotiw_keras.data.generated import draw_faces

RUNNERS = {"local 1": ("local", 1), "local 2": ("local", 2), "ray 2": ("ray", 2)}
_COMMAND = "from emotiw_keras.cli.main import main; main()"
DRAWN = 512
_LISTING = """
import resource, sys, time
from emotiw_keras.bulk.entries import shards
from emotiw_keras.bulk.listing import entries
start, count = time.perf_counter(), 0
for shard in shards(entries(sys.argv[1:], lambda line: None)):
    shard.digest
    count += len(shard.entries)
print(count, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_tiny(folder: Path, count: int) -> Path:
    """Faces of 48 pixels, a thousand in a folder, each with bytes of its own; one file that is none."""
    if not (folder / "bad.png").exists():
        faces = draw_faces(DRAWN, size=48)[0][..., 0]
        for number in range(count):
            if number % 1000 == 0:
                (folder / f"{number // 1000:04d}").mkdir(parents=True, exist_ok=True)
            face = faces[number % DRAWN].copy()
            face[0, :4] = [number % 251, number // 251 % 251, number // 63001, 7]
            cv2.imwrite(str(folder / f"{number // 1000:04d}" / f"{number:08d}.png"), face)
        (folder / "bad.png").write_bytes(b"no image")
    return folder


def write_real(folder: Path, count: int) -> Path:
    """Photos of 1600 x 1200 with up to three drawn faces, as JPEG."""
    if not (folder / "bad.jpg").exists():
        folder.mkdir(parents=True)
        faces = draw_faces(DRAWN, size=200)[0][..., 0]
        generator = np.random.default_rng(0)
        coarse = cv2.resize(generator.integers(60, 200, (40, 30, 3), np.uint8), (1600, 1200), interpolation=cv2.INTER_CUBIC)
        for number in range(count):
            photo = np.roll(coarse, int(generator.integers(1600)), axis=1).copy()
            for place in range(number % 4):
                x, y = 100 + 450 * place, int(generator.integers(100, 900))
                photo[y : y + 200, x : x + 200] = faces[int(generator.integers(DRAWN))][..., None]
            cv2.imwrite(str(folder / f"{number:06d}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 85])
        (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def processes() -> dict[int, tuple[int, str]]:
    """Process -> its parent and its command line."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                stat, words = (path / "stat").read_text(), (path / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            found[int(path.name)] = (
                int(stat.rpartition(")")[2].split()[1]),
                words.replace(b"\0", b" ").decode(errors="replace"),
            )
    return found


def workers_of(driver: int) -> list[int]:
    """Our workers among the descendants of a process."""
    everything, found = processes(), []
    for process, (_, words) in everything.items():
        if "bulk.worker" not in words:
            continue
        above = process
        while above in everything and above not in (0, 1, driver):
            above = everything[above][0]
        if above == driver:
            found.append(process)
    return found


def peak(process: int) -> int:
    """Bytes of memory that a process has had at most; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@dataclass
class Course:
    """How a command went."""

    code: int
    seconds: float
    driver: int = 0
    worker: int = 0
    kills: dict[str, int] = field(default_factory=dict)


def started(words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )


def run(words: Sequence[str]) -> Course:
    """Run a command to its end, looking at memory meanwhile."""
    begin = time.perf_counter()
    process = started(words)
    course, over = Course(0, 0.0), threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            course.driver = max(course.driver, peak(process.pid))
            course.worker = max([course.worker, *map(peak, workers_of(process.pid))])

    watcher = threading.Thread(target=look)
    watcher.start()
    said = process.communicate()[1]
    over.set()
    watcher.join()
    course.code, course.seconds = process.returncode, time.perf_counter() - begin
    if course.code not in (0, 3):
        raise SystemExit(f"emotiw {' '.join(words)} ended with {course.code}: {said.decode()[-500:]}")
    return course


def disturbed(words: Sequence[str], kills: int, usual: float, seed: int) -> Course:
    """Run a command until it is done, killing a worker or the command itself at random moments."""
    generator, done = random.Random(seed), {"command": 0, "worker": 0}
    begin = time.perf_counter()
    while True:
        process = started(words)
        while sum(done.values()) < kills and process.poll() is None:
            time.sleep(generator.uniform(0, 2.5 * usual / kills))
            workers = workers_of(process.pid)
            left = {kind: kills - kills // 2 - done[kind] if kind == "worker" else kills // 2 - done[kind] for kind in done}
            kind = generator.choices(list(left), list(left.values()))[0]
            if kind == "worker" and not workers:
                continue  # none has begun
            if kind == "command":
                process.send_signal(signal.SIGKILL)
                done["command"] += 1
                break
            try:
                os.kill(generator.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has just ended by itself
            done["worker"] += 1
        said = process.communicate()[1]
        if process.returncode in (0, 3):
            return Course(process.returncode, time.perf_counter() - begin, kills=done)
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"emotiw {' '.join(words)} ended with {process.returncode}: {said.decode()[-500:]}")


def digest(folder: Path) -> str:
    """One hash of all names and bytes in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                found.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def rows(folder: Path) -> Iterator[dict[str, object]]:
    """The rows of all parts in JSONL."""
    for path in sorted(folder.glob("part-*.jsonl")):
        with open(path, "rb") as file:
            yield from map(json.loads, file)


def check_once(folder: Path, inputs: Path) -> int:
    """The number of inputs, each of which must have its rows, and no other."""
    listed = sorted(str(path) for path in inputs.rglob("*") if path.is_file())
    seen = [str(row["path"]) for row in rows(folder)]
    unique = sorted(dict.fromkeys(seen))
    # Rows of one input stand together: a second time would be a new beginning.
    begun = sum(a != b for a, b in zip(seen, [None, *seen[:-1]], strict=True))
    if unique != listed or begun != len(listed):
        raise SystemExit(f"{folder}: {len(unique):,} inputs have rows, {begun:,} times; {len(listed):,} were listed")
    return len(listed)


def words_of(kind: str, source: Path, out: Path, run_folder: Path, runner: str, shard: int) -> list[str]:
    name, jobs = RUNNERS[runner]
    spread = ["--runner", name, "--jobs", str(jobs), "--shard", str(shard)]
    if kind.endswith("prepare"):
        detector = [] if kind.startswith("real") else ["--detector", "viola_jones"]
        return ["prepare", str(source), str(out), *detector, "--no-face", "centre", *spread]
    model = ["--model", str(run_folder), "--faces", "whole"] if kind == "tiny" else []
    return ["predict", str(source), "--out", str(out), *model, *spread]


def equal(work: Path, given: argparse.Namespace, run_folder: Path) -> None:
    """Photos a second by runner, and whether the bytes are the same."""
    print("\n| job | photos | runner | seconds | photos a second | command's peak, MiB | a worker's, MiB | bytes |")
    print("|---|---|---|---|---|---|---|---|")
    jobs = {"tiny": given.photos, "tiny prepare": given.prepare, "real": given.real, "real prepare": given.real_prepare}
    for kind, number in jobs.items():
        if not number:
            continue
        if kind.startswith("real"):
            source = write_real(work / f"real-{number}", number)
        else:
            source = write_tiny(work / f"tiny-{number}", number)
        first, count = "", 0
        for runner in given.runners:
            out = work / f"{kind}-{runner}".replace(" ", "-")
            shutil.rmtree(out, ignore_errors=True)
            shard = 1000 if kind == "tiny" else max(1, number // 20)
            course = run(words_of(kind, source, out, run_folder, runner, shard))
            found = digest(out)
            first, count = first or found, count or check_once(out, source)
            same = "the first" if found == first and runner == given.runners[0] else "equal" if found == first else "DIFFERENT"
            peaks = f"{course.driver / 2**20:,.0f} | {course.worker / 2**20:,.0f}"
            speed = f"{course.seconds:,.1f} | {count / course.seconds:,.1f}"
            print(f"| {kind} | {count:,} | {runner} | {speed} | {peaks} | {same} |", flush=True)


def kills(work: Path, given: argparse.Namespace, run_folder: Path) -> None:
    """Whether a job that is killed over and over ends in the same bytes."""
    source = write_tiny(work / f"tiny-{given.killed}", given.killed)
    print("\n| runner | photos | kills of workers | of the command | seconds undisturbed | disturbed | bytes |")
    print("|---|---|---|---|---|---|---|")
    for runner in (each for each in given.runners if each != "local 1"):
        plain, out = work / "undisturbed", work / "disturbed"
        for folder in (plain, out):
            shutil.rmtree(folder, ignore_errors=True)
        shard = max(1, given.killed // 20)
        usual = run(words_of("tiny", source, plain, run_folder, runner, shard)).seconds
        course = disturbed(words_of("tiny", source, out, run_folder, runner, shard), given.kills, usual, given.seed)
        check_once(out, source)
        same = "equal" if digest(out) == digest(plain) else "DIFFERENT"
        done = f"{course.kills['worker']} | {course.kills['command']}"
        print(f"| {runner} | {given.killed:,} | {done} | {usual:,.1f} | {course.seconds:,.1f} | {same} |", flush=True)


def memory(work: Path, given: argparse.Namespace, run_folder: Path) -> None:
    """Peaks of memory by the number of photos."""
    print("\n| photos | command's peak, MiB | a worker's, MiB |\n|---|---|---|")
    for count in given.memory:
        source, out = write_tiny(work / f"tiny-{count}", count), work / "memory"
        shutil.rmtree(out, ignore_errors=True)
        course = run(words_of("tiny", source, out, run_folder, "local 2", 1000))
        print(f"| {count:,} | {course.driver / 2**20:,.0f} | {course.worker / 2**20:,.0f} |", flush=True)


def listing(work: Path, given: argparse.Namespace, run_folder: Path) -> None:
    """Names a second that are listed and cut into shards, and the memory that this takes, each in a process of its own."""
    print("\n| input | names | seconds | names a second | peak, MiB |\n|---|---|---|---|---|")
    folder = write_tiny(work / f"tiny-{given.memory[-1]}", given.memory[-1])
    inputs = [str(folder)]
    for count in (given.names // 10, given.names):
        table = work / f"inventory-{count}.csv"
        with open(table, "w", encoding="ascii") as file:
            file.write("path,size,etag\n")
            file.writelines(f"memory://bucket/photos/{n // 1000:06d}/{n:09d}.jpg,100000,{n:032x}\n" for n in range(count))
        inputs.append(str(table))
    for name in inputs:
        found = subprocess.run([sys.executable, "-c", _LISTING, name], capture_output=True, text=True, check=True)
        count, seconds, size = found.stdout.split()
        rate = int(count) / float(seconds)
        print(
            f"| {Path(name).name} | {int(count):,} | {float(seconds):,.1f} | {rate:,.0f} | {int(size) / 2**10:,.0f} |",
            flush=True,
        )


PARTS = {"listing": listing, "equal": equal, "kills": kills, "memory": memory}


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--photos", type=int, default=60_000, help="tiny ones through predict; 0 leaves them out")
    parser.add_argument("--prepare", type=int, default=1_000, help="tiny ones through prepare")
    parser.add_argument("--real", type=int, default=60, help="real-sized ones through predict")
    parser.add_argument("--real-prepare", type=int, default=60, help="real-sized ones through prepare")
    parser.add_argument("--killed", type=int, default=4_000, help="tiny ones of the job that is killed")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--memory", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--names", type=int, default=300_000, help="of the longer list")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", metavar="DIR", help="where photos are kept for another time; else a temporary folder")
    given = parser.parse_args()
    if importlib.util.find_spec("ray") is None:
        given.runners = [each for each in given.runners if not each.startswith("ray")]
        print("Ray is not installed: pip install 'emotiw-keras[ray]'; without it the runners are", ", ".join(given.runners))
    print(f"{processor()}, {os.cpu_count()} processors; one thread a process")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(given.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        run_folder = work / "run"
        if not run_folder.exists():
            write_random_run(run_folder, width=0.125, side=67)
        for part in given.parts:
            PARTS[part](work, given, run_folder)


if __name__ == "__main__":
    main()
