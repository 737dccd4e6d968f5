"""The original's check (Fernando et al. 2017, section 3.1): of two easy tasks the second is reached sooner by transfer.

The tasks are two halves of scikit-learn's handwritten digits (1,797 pictures of 8x8, here doubled to 16x16), five digits each,
drawn anew for every seed; a share of pixels turns black or white, as in the paper. For each seed: generations until a path's
fitness reaches the target, on the second task from new modules, by transfer from the first task's path, and by training that
path on.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

NOISE = 0.25
METHODS = {"scratch": "#8c959f", "transfer": "#0969da", "finetune": "#bc4c00"}


def write_digits(folder: Path, seed: int) -> dict[str, str]:
    """Two tasks as folders of pictures, `folder`/a and b/SPLIT/DIGIT/."""
    from PIL import Image
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(seed)
    digits = generator.permutation(10)
    images = (pictures.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    noisy = np.where(generator.random(images.shape) < NOISE, generator.integers(0, 2, images.shape) * 255, images)
    large = noisy.astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    split = np.where(generator.random(len(large)) < 0.8, "train", "test")
    for task, chosen in (("a", digits[:5]), ("b", digits[5:])):
        for number in np.flatnonzero(np.isin(labels, chosen)):
            file = folder / task / str(split[number]) / f"digit{labels[number]}" / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(large[number]).save(file)
    return {task: str(folder / task) for task in "ab"}


def main() -> None:
    """Run what is missing, print generations of every seed, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of all runs; the same command goes on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.95, help="fitness to reach (0.95)")
    parser.add_argument("--generations", type=int, default=120, help="at most (120)")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate (0.05)")
    parser.add_argument("--minibatches", type=int, default=20, help="of a trial (20)")
    options = parser.parse_args()

    from emotiw_keras.studies.pathnet import Step, score, step_recipe
    from emotiw_keras.training.fit import fit
    from emotiw_keras.training.recipe import load_recipe

    changes = ["model.input_size=16", "labels=folder", "pathnet.filters=8", "search.val=[]", "search.mirror=false"]
    changes += [f"search.generations={options.generations}", f"search.target={options.target}"]
    changes += [f"search.learning_rate={options.rate}", f"search.minibatches={options.minibatches}"]
    changes += ["pathnet.modules=10", "pathnet.active=3", "search.checkpoint_generations=50"]
    recipe = load_recipe("pathnet-transfer", changes, precision="float32")
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        paths = write_digits(options.out / f"digits{seed}", seed)
        for source, target, method in (("", "a", "scratch"), *(("" if m == "scratch" else "a", "b", m) for m in METHODS)):
            step = Step(seed, None, source, target, method)
            run = fit(step_recipe(recipe, step, options.out), {target: paths[target]}, options.out / step.folder).run
            assert run is not None
            rows.append(score(step, run, paths[target], "test"))
            row = rows[-1]
            reached = "" if row["reached_target"] else " (target not reached)"
            print(
                f"seed {seed} task {target} {method:9} {row['generations']:4} generations{reached}, test "
                f"{row['accuracy']:.1%}, {row['reused']} of {row['modules']} modules reused",
                flush=True,
            )
    second = {m: [row for row in rows if row["target"] == "b" and row["method"] == m] for m in METHODS}
    for method, of in second.items():
        generations = [row["generations"] for row in of]
        print(
            f"second task by {method:9}: median {statistics.median(generations):g} generations, mean "
            f"{statistics.mean(generations):.1f}, test {statistics.mean(row['accuracy'] for row in of):.1%}"
        )
    pairs = list(zip(second["scratch"], second["transfer"], strict=True))
    fewer = sum(moved["generations"] < fresh["generations"] for fresh, moved in pairs)
    print(f"transfer needed fewer generations than scratch in {fewer} of {len(pairs)} seeds")
    with open(options.out / "digits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(options.out, second, options.generations)


def draw(out: Path, second: dict[str, list[dict[str, Any]]], most: int) -> None:
    """The winners' fitness on the second task over generations, a thin line a seed and their mean; a run that ended stays."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, colour in METHODS.items():
        curves = []
        for row in second[method]:
            with open(out / row["run"] / "history.csv", newline="") as file:
                curve = [float(each["accuracy"]) for each in csv.DictReader(file)]
            curves.append(curve + [curve[-1]] * (most - len(curve)))
            axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.6, alpha=0.5)
        axes.plot(range(1, most + 1), np.mean(curves, axis=0), color=colour, linewidth=2, label=method)
    axes.set_xlabel("generation")
    axes.set_ylabel("fitness of the winner on the second task")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out / "digits.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
