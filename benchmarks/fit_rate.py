"""`emotiw fit` as a whole against its bare train step: images per second of AlexNet at full width, before and after each other.

    python benchmarks/fit_rate.py

The bare step is measured before and after a run of three epochs on faces that the package draws; the first epoch, which traces
the graph, is left out. "epoch" is what history.csv says: the steps with their data. "whole" adds validation and checkpoints.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
EPOCHS = 3


def bare(batch: int, rounds: int) -> list[float]:
    """Images per second of the bare step, one figure a round."""
    command = [sys.executable, HERE / "train_step.py", "--contestant=ours", "--policy=float32", f"--batch={batch}"]
    with subprocess.Popen([*command, "--seconds=10"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdout.readline()
        figures = []
        for _ in range(rounds + 1):
            worker.stdin.write("\n")
            worker.stdin.flush()
            figures.append(float(worker.stdout.readline()))
        worker.stdin.close()
    return figures[1:]


def fitted(batch: int, limit: int) -> tuple[list[float], float]:
    """Images per second by history.csv of the epochs after the first; and of the same epochs with all that stands between."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["fit", "fer28-scratch", "--data=fer=generated:large", f"--out={out}", f"--epochs={EPOCHS}"]
        command += [f"--limit={limit}", f"--set=fer.batch_size={batch}", "--precision=float32"]
        code = "from emotiw_keras.cli.main import main; main()"
        with subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            ends = [time.perf_counter() for line in process.stderr if line.startswith("  fer epoch ")]
        with open(out / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    images = float(rows[0]["seconds"]) * float(rows[0]["images_per_second"])
    return [float(row["images_per_second"]) for row in rows[1:]], images * (EPOCHS - 1) / (ends[-1] - ends[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--limit", type=int, default=700, help="images of the run (700)")
    parser.add_argument("--rounds", type=int, default=2, help="figures of the bare step, before and again after (2)")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    steps = bare(options.batch, options.rounds)
    epochs, whole = fitted(options.batch, options.limit)
    steps += bare(options.batch, options.rounds)
    step, epoch = statistics.median(steps), statistics.median(epochs)
    print(f"bare step  {step:6.1f} images/s  ({min(steps):.1f} to {max(steps):.1f})")
    print(f"epoch      {epoch:6.1f} images/s  {epoch / step:.1%} of the bare step")
    print(f"whole      {whole:6.1f} images/s  {whole / step:.1%}: validation on half as many images, checkpoint every epoch")


if __name__ == "__main__":
    main()
