"""What fit, evaluate and predict cost as the data grows: images a second and peak memory at 1,000, 10,000 and 100,000 faces.

48x48 JPEG crops in class folders and a small AlexNet. Runs on a few hundred faces tell what each command costs before its work,
with batches of as many sizes to compile for; the seconds of an image are what comes on top of it. "seconds / line" is a
command's whole time beside the straight line through the smallest and the largest set. The first runs on the two smaller sets
are thrown away. The sizes take turns, so that they see the same ups and downs of the machine; the smaller a set the more often
it is read, as start-up weighs more in it. Medians are told. Memory is the most that the process held.
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
from emotiw_keras.data.pixel_pass import HELD_BYTES

# 240 to train on and 30 to validate with: a whole batch, a smaller one and one again, as with 1,000.
SMALL = 300
TURNS = 3
# Faces of a set -> how often it is read in a turn.
READ = {SMALL: 3, 1_000: 3, 10_000: 2, 100_000: 1}
QUICK = {SMALL: 1, 350: 1, 400: 1}
WIDTH, SIDE = 0.4, 115
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
    turns, read = (1, QUICK) if options.quick else (TURNS, READ)
    sizes = [count for count in read if count != SMALL]
    largest = sizes[-1]
    found: dict[str, dict[int, list[tuple[float, float]]]] = {
        name: {count: [] for count in read} for name in ("fit", "evaluate", "predict")
    }
    with tempfile.TemporaryDirectory() as folder:
        for count in read:
            write_faces(Path(folder, f"faces{count}"), count, (48, 48), ".jpg", options.photos)
        os.sync()  # writing a hundred thousand files to the disk takes long, and would take from what is timed
        # a set that is read three times in a turn has its turn at one, three and five sixths of it
        one_turn = sorted(((k + 0.5) / times, count) for count, times in read.items() for k in range(times))
        thrown_away = list(read)[:2]
        for number, count in enumerate([*thrown_away, *(count for _ in range(turns) for _, count in one_turn)]):
            data, out = Path(folder, f"faces{count}"), Path(folder, f"run{count}")
            shutil.rmtree(out, ignore_errors=True)
            where = [f"--data=fer={data}", f"--out={out}"]
            commands = {
                "fit": ["fit", "fer28-scratch", *where, *MODEL, "--epochs=1", "--precision=float32"],
                "evaluate": ["evaluate", str(out), f"--data={data}", "--split=all"],
                "predict": ["predict", str(data), f"--model={out}", "--faces=whole", "--csv"],
            }
            for name, arguments in commands.items():
                one = timed(arguments)
                if number >= len(thrown_away):
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
    runs = ", ".join(f"{turns * times} of {count:,}" for count, times in read.items())
    note = (
        f"Runs: {runs}. fit: one epoch on 80 %, validation on 10 %; it and evaluate hold every face as bytes (2.25 KiB) up to "
        f"{HELD_BYTES >> 20} MiB in all, above which they read them from a file; predict holds none. With {SMALL} faces: "
        + ", ".join(
            f"{name} {each[str(SMALL)]['seconds']:.1f} s and {each[str(SMALL)]['peak_mib']:.0f} MiB"
            for name, each in figures.items()
        )
    )
    return [Table(title, columns, rows, [note], {"commands": figures})]
