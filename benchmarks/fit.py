"""`emotiw fit` as a whole against its bare train step: FER-2013 in memory, JPEGs of 256x256, PNG frames of 720x576.

Each is a run of AlexNet in float32 from a folder or zip; the bare step of the train part is measured before, between and after.
Epochs are of some of the pictures, or they would take hours: `ends.py` times their parts, leaves out the first, which traces
the graph, and tells what an epoch of all pictures makes. "epoch" is its steps with their data, "whole" has validation and
checkpoints too, of which there is one an epoch and one every four minutes. "until stage 1" is the once a run that every picture
is read, checked and brought to size.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.material import write_faces
from benchmarks.report import Options, Table
from benchmarks.turns import ROOT, Contestant

EPOCHS = 5
BATCH = 64


def fitted(data: str, limit: int, width: float, train: int, val: int) -> dict[str, Any]:
    """What `ends.py` tells of a run on `limit` pictures of `train` and of `val`."""
    command = ["fit", "fer28-scratch", f"--data=fer={data}", f"--epochs={EPOCHS}", f"--limit={limit}"]
    command += [f"--set=fer.batch_size={BATCH}", f"--set=model.width={width}", "--precision=float32"]
    watched = [sys.executable, "benchmarks/ends.py", f"--images={train}", f"--val={val}", "--", *command]
    done = subprocess.run(watched, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"emotiw {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # before it stands where the run was


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
            found = fitted(path, limit, width, train, val)
            after = step()
            near = (before + after) / 2
            epoch, whole = found["images a second"], found["whole, images a second"]
            rates = [f"{epoch:.1f}", f"{epoch / near:.1%}", f"{whole:.1f}", f"{whole / near:.1%}"]
            rows.append((name, f"{near:.1f}", *rates, f"{found['until stage 1']:.0f} s"))
            figures[name] = {"found": found, "train": train, "val": val, "bare_before_after": [before, after]}
            before = after
    columns = ("", "bare step", "epoch", "/ bare", "whole", "/ bare", "until stage 1")
    notes = [
        f"AlexNet, batch {BATCH}, float32, images a second, from {EPOCHS - 2} epochs of {limit} pictures; whole: with "
        "validation and checkpoints, for all pictures. Until stage 1: start-up, and reading, hashing and resizing every "
        f"picture (of FER-2013 {limit} a split), once."
    ]
    return [Table("emotiw fit against its bare step", columns, rows, notes, {"runs": figures, "bare": bare})]
