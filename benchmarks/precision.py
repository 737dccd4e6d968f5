"""Whether training in bfloat16 loses anything: the loss over one epoch of FER-2013 in both precisions, seed by seed.

Runs with the same seed start alike and see the same crops in the same order, so what differs between them is rounding alone;
what differs between seeds of one precision is what chance does. Each run then answers the test images in both precisions.
Runs that are there are not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

PRECISIONS = ("float32", "mixed_bfloat16")
WINDOWS = 10
# As Adam trains AlexNet from random weights; the recipe's own SGD starts from ImageNet's.
SETTINGS = ("fer.optimizer=adam", "fer.learning_rate=0.0002", "fer.weight_decay=0.0")


def train(data: str, out: Path, precision: str, seed: int, changes: list[str]) -> None:
    """One epoch; the mean loss of each tenth of it goes into `out`/curve.json."""
    from emotiw_keras.training.epoch_progress import Progress
    from emotiw_keras.training.fit import fit
    from emotiw_keras.training.recipe import load_recipe
    from emotiw_keras.training.stage import Stage

    sums = []

    class Recorder(Progress):
        def step(self, stage: Stage, epoch: int, step: int, steps: int, loss: float, right: int, seconds: float) -> None:
            sums.append(loss / stage.batch_size)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    recipe = load_recipe("fer28-scratch", [*SETTINGS, *changes], precision=precision, seed=seed)
    again = out.exists()  # what an interruption left: its curve has no beginning
    outcome = fit(recipe, {"fer": data}, out, restart=again, progress=Recorder(), say=say)
    assert outcome.run is not None
    losses = np.diff(sums, prepend=0.0)[:-1]  # the last batch may be a smaller one
    stage = outcome.run.info["stages"][0]
    curve = [float(part.mean()) for part in np.array_split(losses, WINDOWS)]
    told = {"curve": curve, "val_accuracy": stage["val_accuracy"], "steps": len(sums), **_answers(outcome.run, data)}
    (out / "curve.json").write_text(json.dumps(told, indent=1) + "\n")


def _answers(run: Any, data: str) -> dict[str, Any]:
    """Accuracy on the test images in each precision, and the share of them that get another first answer."""
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.inference import Inference

    faces = load_faces(data, name="fer", labels="basic7", grey=True, size=48)
    test = faces.indices("test")
    pixels, truth = faces.pixels.gather(test), faces.label[test]
    first = {}
    for precision in PRECISIONS:
        compute = Inference(run, pixels.shape[1:], precision=precision)
        parts = [compute(pixels[start : start + 64]) for start in range(0, len(pixels), 64)]
        first[precision] = np.concatenate(parts).argmax(axis=1)
    right = {precision: float((answer == truth).mean()) for precision, answer in first.items()}
    return {"test_accuracy": right, "differ": float((first[PRECISIONS[0]] != first[PRECISIONS[1]]).mean()), "n": len(truth)}


def main() -> None:
    """Train what is missing, print the table, write curves.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data", help="FER-2013: its zip, folder or CSV")
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="(1 2)")
    parser.add_argument("--set", action="append", default=[], help="a setting for every run, such as model.width=0.1")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        precision, seed = options.one
        train(options.data, options.out, precision, int(seed), options.set)
        return
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in options.seeds:
        for precision in PRECISIONS:
            folder = options.out / f"{precision}-{seed}"
            if not (folder / "curve.json").exists():
                changes = [f"--set={change}" for change in ["fer.epochs=1", "fer.batch_size=64", *options.set]]
                command = [sys.executable, __file__, options.data, str(folder), "--one", precision, str(seed), *changes]
                if subprocess.run(command).returncode:
                    sys.exit(f"{folder} could not be trained")
            found[precision, seed] = json.loads((folder / "curve.json").read_text())
    tenths = [f"{number + 1}/{WINDOWS}" for number in range(WINDOWS)]
    print(f"| run | {' | '.join(tenths)} | val | test, float32 | bfloat16 | differ |")
    print("|---|" + "---:|" * (WINDOWS + 4))
    for (precision, seed), told in found.items():
        right = [f"{told['test_accuracy'][each]:.2%}" for each in PRECISIONS]
        cells = [*(f"{loss:.3f}" for loss in told["curve"]), f"{told['val_accuracy']:.1%}", *right, f"{told['differ']:.2%}"]
        print(f"| {precision.removeprefix('mixed_')}, seed {seed} | " + " | ".join(cells) + " |")
    curves = {precision: np.array([found[precision, seed]["curve"] for seed in options.seeds]) for precision in PRECISIONS}
    rounding = curves[PRECISIONS[1]] - curves[PRECISIONS[0]]
    chance = [statistics.stdev(column) for column in curves[PRECISIONS[0]].T] if len(options.seeds) > 1 else []
    means = ", ".join(f"{mean:+.4f}" for mean in rounding.mean(axis=1))
    print(f"\nbfloat16 - float32, same seed, mean over the epoch: {means}")
    if chance:
        print(f"float32, standard deviation between seeds, mean over the epoch: {statistics.mean(chance):.4f}")
    figures = {f"{precision}-{seed}": told for (precision, seed), told in found.items()}
    (options.out / "curves.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
