"""What fit, evaluate and predict cost as the data grows: images a second and peak memory at 1,000, 10,000 and 100,000 faces.

48x48 JPEG crops in class folders and a small AlexNet. Runs on a few hundred faces tell what each command costs before its work,
with batches of as many sizes to compile for; the seconds of an image are what comes on top of it. "seconds / line" is a
command's whole time beside the straight line through the smallest and the largest set. The first turn of all is thrown away,
the sizes take turns, and the smaller a set the more often it is read, as start-up weighs more in it; medians are told. Memory
is the most that the process held.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.material import write_faces
from benchmarks.report import Options, Table
from benchmarks.turns import ROOT
from emotiw_keras.data.faceset import HELD_BYTES

# 240 to train on and 30 to validate with: a whole batch, a smaller one and one again, as with 1,000.
SMALL = 300
# Faces of a set -> how often it is read.
ROUNDS = {SMALL: 9, 1_000: 9, 10_000: 5, 100_000: 3}
QUICK = {SMALL: 1, 350: 1, 400: 1}
WIDTH, SIDE = 0.5, 131
MODEL = (f"--set=model.width={WIDTH}", f"--set=model.input_size={SIDE}")
CODE = "from emotiw_keras.cli.main import main; main()"


def timed(arguments: list[str]) -> tuple[float, float]:
    """Seconds and MiB of one command; its rows go nowhere. It ends the program if the command fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen([sys.executable, "-c", CODE, *arguments], stdout=subprocess.DEVNULL, stderr=told, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            told.seek(0)
            sys.exit(f"emotiw {' '.join(arguments)} ended with {process.returncode}:\n{told.read()[-3000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def run(options: Options) -> list[Table]:
    """One row for each command and size."""
    rounds = QUICK if options.quick else ROUNDS
    sizes = [count for count in rounds if count != SMALL]
    largest = sizes[-1]
    found: dict[str, dict[int, list[tuple[float, float]]]] = {
        name: {count: [] for count in rounds} for name in ("fit", "evaluate", "predict")
    }
    with tempfile.TemporaryDirectory() as folder:
        for count in rounds:
            write_faces(Path(folder, f"faces{count}"), count, (48, 48), ".jpg", options.photos)
        os.sync()  # writing a hundred thousand files to the disk takes long, and would take from what is timed
        for turn in range(max(rounds.values()) + 1):
            # turn 0 is thrown away
            for count in [each for each, times in rounds.items() if turn <= times and (turn or each <= 1_000)]:
                data, out = Path(folder, f"faces{count}"), Path(folder, f"run{count}")
                shutil.rmtree(out, ignore_errors=True)
                fit = [
                    "fit",
                    "fer28-scratch",
                    f"--data=fer={data}",
                    f"--out={out}",
                    *MODEL,
                    "--epochs=1",
                    "--precision=float32",
                ]
                commands = {
                    "fit": fit,
                    "evaluate": ["evaluate", str(out), f"--data={data}", "--split=all"],
                    "predict": ["predict", str(data), f"--model={out}", "--faces=whole", "--csv"],
                }
                for name, arguments in commands.items():
                    one = timed(arguments)
                    if turn:
                        found[name][count].append(one)
    rows, figures = [], {}
    for name, by_size in found.items():
        medians = {count: tuple(map(statistics.median, zip(*each, strict=True))) for count, each in by_size.items()}
        base, memory = medians[SMALL]
        cost = {count: (medians[count][0] - base) / (count - SMALL) for count in sizes}
        for count in sizes:
            seconds, peak = medians[count]
            line = base + cost[largest] * (count - SMALL)
            held = 1024 * (peak - memory) / (count - SMALL)
            rows.append(
                (
                    name, f"{count:,}", f"{seconds:.1f}", f"{seconds / line:.3f}", f"{1 / cost[count]:.0f}",
                    f"{cost[count] / cost[largest]:.3f}", f"{peak:.0f}", f"{held:.2f}",
                )
            )  # fmt: skip
        figures[name] = {str(count): {"seconds": s, "peak_mib": m} for count, (s, m) in medians.items()}
    columns = (
        "", "faces", "seconds", "seconds / line", "faces/s beyond start-up", f"time a face / at {largest:,}", "peak MiB",
        "KiB a face",
    )  # fmt: skip
    title = f"Growth: 48x48 JPEG crops in folders, AlexNet of width {WIDTH} at {SIDE}x{SIDE}"
    note = (
        "fit: one epoch on 80 %, validation on 10 %; it and evaluate hold every face as bytes (2.25 KiB) up to "
        f"{HELD_BYTES >> 20} MiB in all, above which they read them from a file; predict holds none. With {SMALL} faces: "
        + ", ".join(
            f"{name} {each[str(SMALL)]['seconds']:.1f} s and {each[str(SMALL)]['peak_mib']:.0f} MiB"
            for name, each in figures.items()
        )
    )
    return [Table(title, columns, rows, [note], {"commands": figures})]
