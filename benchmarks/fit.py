"""`emotiw fit` as a whole against its bare train step: FER-2013 in memory, JPEGs of 256x256, PNG frames of 720x576.

Each is a run of AlexNet in float32 from a folder or zip; the bare step of the train part is measured before, between and after.
The first epoch, which traces the graph, is left out, and epochs are of some of the pictures, or they would take hours. "epoch"
is what history.csv says, the steps with their data. "whole" is an epoch of all pictures with what stands between epochs:
two runs, one on twice as many pictures, tell what a validation image takes and what a checkpoint does, of which there is one
an epoch and one every four minutes. "until stage 1" is the once a run that every picture is read, checked and brought to size.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.material import write_faces
from benchmarks.report import Options, Table
from benchmarks.turns import ROOT, Contestant
from emotiw_keras.training.stage_training import SECONDS_BETWEEN_CHECKPOINTS

EPOCHS = 3
BATCH = 64


def fitted(data: str, limit: int, width: float) -> dict[str, Any]:
    """A run: seconds until the first stage began, images a second of the later epochs, seconds between two of them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["fit", "fer28-scratch", f"--data=fer={data}", f"--out={out}", f"--epochs={EPOCHS}", f"--limit={limit}"]
        command += [f"--set=fer.batch_size={BATCH}", f"--set=model.width={width}", "--precision=float32"]
        code = "from emotiw_keras.cli.main import main; main()"
        start = time.perf_counter()
        ends, began, told = [], 0.0, []
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", code, *command], **pipes, text=True, cwd=ROOT) as process:
            assert process.stderr is not None
            for line in process.stderr:
                told.append(line)
                if line.startswith("stage 1 "):
                    began = time.perf_counter()
                if line.startswith("  fer epoch "):
                    ends.append(time.perf_counter())
        if process.returncode != 0 or len(ends) != EPOCHS:
            sys.exit(f"emotiw {' '.join(command)} ended with {process.returncode}:\n{''.join(told)}")
        with open(out / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        with open(out / "data.csv", newline="") as file:
            validated = sum(row["status"] == "val" for row in csv.DictReader(file))
    images = float(rows[0]["seconds"]) * float(rows[0]["images_per_second"])
    return {
        "until_start": began - start,
        "epochs": [float(row["images_per_second"]) for row in rows[1:]],
        "between": (ends[-1] - ends[0] - sum(float(row["seconds"]) for row in rows[1:])) / (EPOCHS - 1),
        "images": round(images),
        "validated": validated,
    }


def whole_rate(train: int, val: int, epoch: float, small: dict[str, Any], large: dict[str, Any]) -> tuple[float, float, float]:
    """Images a second of an epoch with validation and checkpoints; seconds of a checkpoint, and of a validation image.

    Args:
        train: its training images.
        val: its validation images.
        epoch: images a second of its steps.
        small: from `fitted`.
        large: the same with more pictures.
    """
    each = (large["between"] - small["between"]) / (large["validated"] - small["validated"])
    checkpoint = max(0.0, small["between"] - each * small["validated"])
    steps = train / epoch
    return train / (steps + each * val + checkpoint * (1 + steps // SECONDS_BETWEEN_CHECKPOINTS)), checkpoint, each


def run(options: Options) -> list[Table]:
    """One row for each kind of data."""
    width, limit, seconds = (0.1, 28, 0.2) if options.quick else (1.0, 448, 8.0)
    counts = (280, 280) if options.quick else (20_000, 5_000)  # a tenth, val, is no fewer than the limit
    own = ["--network=alexnet", f"--batch={BATCH}", f"--width={width}", f"--seconds={seconds}", "--contestant=ours float32"]
    bare: list[float] = []

    def step() -> float:
        worker = Contestant("the bare step", ["benchmarks.train", *own])
        figures = [worker.figure() for _ in range(1 if options.quick else 3)]
        worker.close()
        bare.extend(figures)
        return statistics.median(figures)

    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        # path, images of train and of val
        sources = {"generated:large, in memory": ("generated:large", 2100, 350)}
        if options.faces is not None:
            sources = {"FER-2013, in memory": (str(options.faces), 28_709, 3_589)}
        jpegs, frames = Path(folder, "jpeg"), Path(folder, "png")
        sources |= {f"{counts[0]:,} JPEGs of 256x256": (str(jpegs), counts[0] * 8 // 10, counts[0] // 10)}
        sources |= {f"{counts[1]:,} PNG frames of 720x576": (str(frames), counts[1] * 8 // 10, counts[1] // 10)}
        write_faces(jpegs, counts[0], (256, 256), ".jpg", options.photos)
        write_faces(frames, counts[1], (576, 720), ".png", options.photos)
        before = step()
        for name, (path, train, val) in sources.items():
            found, more = fitted(path, limit // 2, width), fitted(path, limit, width)
            after = step()
            near = (before + after) / 2
            epoch = statistics.median(found["epochs"] + more["epochs"])
            whole, checkpoint, each = whole_rate(train, val, epoch, found, more)
            rates = [f"{epoch:.1f}", f"{epoch / near:.1%}", f"{whole:.1f}", f"{whole / near:.1%}"]
            rows.append((name, f"{near:.1f}", *rates, f"{found['until_start']:.0f} s"))
            figures[name] = {"small": found, "large": more, "whole": whole, "bare_before_after": [before, after]}
            figures[name] |= {"train": train, "val": val, "checkpoint_s": checkpoint, "validation_image_s": each}
            before = after
    columns = ("", "bare step", "epoch", "/ bare", "whole", "/ bare", "until stage 1")
    notes = [
        f"AlexNet, batch {BATCH}, float32, images a second, from epochs of {limit // 2} and {limit} pictures; whole: with "
        "validation and checkpoints, for all pictures. Until stage 1: start-up, and reading, hashing and resizing every "
        f"picture (of FER-2013 {limit // 2} a split), once."
    ]
    return [Table("emotiw fit against its bare step", columns, rows, notes, {"runs": figures, "bare": bare})]
