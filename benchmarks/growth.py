"""What fit, evaluate and predict cost as the data grows: images a second and peak memory at 1,000, 10,000 and 100,000 faces.

48x48 JPEG crops in class folders and a narrow AlexNet. Runs on 100 faces tell what each command costs without data; the
seconds of an image are what comes on top of it. The first run of all is thrown away, and the smaller a set the more often it
is read, as start-up weighs more in it; medians are told. Memory is the most that the process held.
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

SMALL = 100
# Faces of a set -> how often it is read.
ROUNDS = {SMALL: 7, 1_000: 7, 10_000: 5, 100_000: 3}
QUICK = {SMALL: 1, 150: 1, 300: 1}
MODEL = ("--set=model.width=0.1", "--set=model.input_size=67")
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
    taken: dict[str, dict[int, tuple[float, float]]] = {"fit": {}, "evaluate": {}, "predict": {}}
    with tempfile.TemporaryDirectory() as folder:
        for count, times in rounds.items():
            data, out = Path(folder, f"faces{count}"), Path(folder, f"run{count}")
            write_faces(data, count, (48, 48), ".jpg", options.photos)
            os.sync()  # writing a hundred thousand files to the disk takes long, and would take from what is timed
            fit = ["fit", "fer28-scratch", f"--data=fer={data}", f"--out={out}", *MODEL, "--epochs=1", "--precision=float32"]
            commands = {
                "fit": fit,
                "evaluate": ["evaluate", str(out), f"--data={data}", "--split=all"],
                "predict": ["predict", str(data), f"--model={out}", "--faces=whole", "--csv"],
            }
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for turn in range(times + (count == SMALL)):
                if turn:
                    shutil.rmtree(out)
                for name, arguments in commands.items():
                    found[name].append(timed(arguments))
            for name, each in found.items():
                kept = each[count == SMALL :]
                taken[name][count] = statistics.median(s for s, _ in kept), statistics.median(m for _, m in kept)
    rows, figures = [], {}
    for name, medians in taken.items():
        base, memory = medians[SMALL]
        cost = {count: 1000 * (medians[count][0] - base) / (count - SMALL) for count in sizes}
        for count in sizes:
            seconds, peak = medians[count]
            held = 1024 * (peak - memory) / (count - SMALL)
            rows.append(
                (
                    name, f"{count:,}", f"{seconds:.1f}", f"{1000 / cost[count]:.0f}", f"{cost[count] / cost[sizes[-1]]:.3f}",
                    f"{peak:.0f}", f"{held:.2f}",
                )
            )  # fmt: skip
        figures[name] = {str(count): {"seconds": s, "peak_mib": m} for count, (s, m) in medians.items()}
    columns = ("", "faces", "seconds", "faces/s beyond start-up", f"time a face / at {sizes[-1]:,}", "peak MiB", "KiB a face")
    title = "Growth: 48x48 JPEG crops in folders, AlexNet of width 0.1 at 67x67"
    note = (
        "fit: one epoch on 80 %, validation on 10 %; it and evaluate hold every face as bytes (2.25 KiB) up to "
        f"{HELD_BYTES >> 20} MiB in all, above which they read them from a file; predict holds none. With {SMALL} faces: "
        + ", ".join(f"{name} {each[SMALL][0]:.1f} s and {each[SMALL][1]:.0f} MiB" for name, each in taken.items())
    )
    return [Table(title, columns, rows, [note], {"commands": figures})]
