"""The original's check (Fernando et al. 2017, section 3.1): of two easy tasks the second is reached sooner by transfer.

Tasks, chosen anew for every seed: "drawn", as in the paper to tell two digits from each other, then two others, under salt and
pepper noise, in 28x28 pictures that are drawn here by the thousand (MNIST itself is not needed); or "handwritten", five digits
and the other five of scikit-learn's 1,797 pictures of 8x8 (doubled to 16x16), so few that a path learns them by heart. For each
seed: generations until a path's fitness reaches the target, on the second task from new modules, by transfer from the first
task's path, and by training that path on.

Trials are short and the rate is low, so that learning takes longer than the tournaments need to find what is frozen. The target
is one that modules learnt on other digits can reach: towards higher ones transfer loses its lead, and above what holds on
unseen pictures fitness grows by learning by heart, from which frozen modules keep a path. All were found on other seeds
(README.md).
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

NOISE = {"drawn": 0.5, "handwritten": 0.25}
SIDE = {"drawn": 28, "handwritten": 16}
METHODS = {"scratch": "#8c959f", "transfer": "#0969da", "finetune": "#bc4c00"}


def write_tasks(folder: Path, kind: str, noise: float, seed: int, pictures: int) -> dict[str, str]:
    """Two tasks as folders of pictures, `folder`/a and b/SPLIT/DIGIT/."""
    from PIL import Image

    paths = {task: str(folder / task) for task in "ab"}
    settings = f"{kind}, {pictures} pictures, noise {noise}\n"
    if (folder / "done").exists():
        if (folder / "done").read_text() != settings:
            sys.exit(f"{folder} holds other pictures than {settings.strip()}; choose another OUT")
        return paths
    generator = np.random.default_rng(seed)
    digits = generator.permutation(10)
    of_task = {"a": digits[:2], "b": digits[2:4]} if kind == "drawn" else {"a": digits[:5], "b": digits[5:]}
    for task, chosen in of_task.items():
        for digit in chosen:
            images = drawn(int(digit), pictures, generator) if kind == "drawn" else handwritten(int(digit))
            struck = generator.random(images.shape) < noise
            images = np.where(struck, generator.integers(0, 2, images.shape) * 255, images).astype(np.uint8)
            large = images.repeat(SIDE[kind] // images.shape[1], axis=1).repeat(SIDE[kind] // images.shape[2], axis=2)
            # The first of them test: as many of each digit.
            for number, image in enumerate(large):
                split = "test" if number < len(large) // 7 else "train"
                file = folder / task / split / f"digit{digit}" / f"{number:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
    (folder / "done").write_text(settings)
    return paths


def drawn(digit: int, pictures: int, generator: np.random.Generator) -> np.ndarray:
    """A digit in many hands, a sixth more than `pictures`: uint8 (pictures, 28, 28), white on black."""
    import cv2

    fonts = (
        cv2.FONT_HERSHEY_SIMPLEX,
        cv2.FONT_HERSHEY_DUPLEX,
        cv2.FONT_HERSHEY_COMPLEX,
        cv2.FONT_HERSHEY_PLAIN,
        cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    )
    images = np.zeros((pictures + pictures // 6, 28, 28), np.uint8)
    for image in images:
        font = fonts[generator.integers(len(fonts))]
        scale = generator.uniform(0.7, 0.95) * (1.6 if font == cv2.FONT_HERSHEY_PLAIN else 1.0)
        thickness = int(generator.integers(1, 4))
        (width, height), _ = cv2.getTextSize(str(digit), font, scale, thickness)
        cv2.putText(image, str(digit), ((28 - width) // 2, (28 + height) // 2), font, scale, 255, thickness, cv2.LINE_AA)
        turn = cv2.getRotationMatrix2D((14, 14), generator.uniform(-20, 20), 1)
        turn[0, 1] += generator.uniform(-0.2, 0.2)
        turn[:, 2] += generator.uniform(-3, 3, 2)
        image[:] = cv2.warpAffine(image, turn, (28, 28))
    return images


def handwritten(digit: int) -> np.ndarray:
    """scikit-learn's pictures of a digit: uint8 (pictures, 8, 8), white on black."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    return (pictures[labels == digit].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)


def main() -> None:
    """Run what is missing, print generations of every seed, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of all runs; the same command goes on")
    parser.add_argument("--kind", choices=list(NOISE), default="drawn", help="which tasks (drawn)")
    parser.add_argument("--pictures", type=int, default=6000, help="drawn of each digit to train, as MNIST has (6000)")
    parser.add_argument("--noise", type=float, help="share of the pixels that are black or white by chance (by kind)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0, help="the seeds are this and those after it (0)")
    parser.add_argument("--target", type=float, default=0.85, help="fitness to reach (0.85)")
    parser.add_argument("--generations", type=int, default=2000, help="at most (2000)")
    parser.add_argument("--rate", type=float, default=0.001, help="learning rate (0.001)")
    parser.add_argument("--minibatches", type=int, default=10, help="of a trial (10)")
    parser.add_argument("--reduce", choices=("pool", "stride"), default="stride")
    options = parser.parse_args()

    from scipy.stats import wilcoxon

    from emotiw_keras.studies.pathnet_transfer import Step, score, step_recipe
    from emotiw_keras.training.fit import fit
    from emotiw_keras.training.recipe import load_recipe

    changes = [f"model.input_size={SIDE[options.kind]}", "labels=folder", "pathnet.filters=8", "search.val=[]"]
    changes += [f"pathnet.reduce={options.reduce}", "search.mirror=false"]
    changes += [f"search.generations={options.generations}", f"search.target={options.target}"]
    changes += [f"search.learning_rate={options.rate}", f"search.minibatches={options.minibatches}"]
    changes += ["pathnet.modules=10", "pathnet.active=3", "search.checkpoint_generations=100"]
    recipe = load_recipe("pathnet-transfer", changes, precision="float32")
    rows: list[dict[str, Any]] = []
    noise = NOISE[options.kind] if options.noise is None else options.noise
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        paths = write_tasks(options.out / f"digits{seed}", options.kind, noise, seed, options.pictures)
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
    p = wilcoxon(*([row["generations"] for row in second[method]] for method in ("scratch", "transfer"))).pvalue
    print(f"transfer needed fewer generations than scratch in {fewer} of {len(pairs)} seeds (Wilcoxon, two-sided: p {p:.2g})")
    with open(options.out / "digits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(options.out, second)


def draw(out: Path, second: dict[str, list[dict[str, Any]]]) -> None:
    """The winners' fitness on the second task over generations: each seed thin, their mean over 20 generations thick; a run
    that ended stays where it was."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    longest = max(row["generations"] for rows in second.values() for row in rows)
    for method, colour in METHODS.items():
        curves = []
        for row in second[method]:
            with open(out / row["run"] / "history.csv", newline="") as file:
                curve = [float(each["accuracy"]) for each in csv.DictReader(file)]
            curves.append(np.pad(curve, (0, longest - len(curve)), mode="edge"))
            axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.3, alpha=0.3)
        mean = np.mean(curves, axis=0)
        smooth = [mean[max(0, place - 19) : place + 1].mean() for place in range(longest)]
        axes.plot(range(1, longest + 1), smooth, color=colour, linewidth=2, label=method)
    axes.set_xlabel("generation")
    axes.set_ylabel("fitness of the winner on the second task")
    axes.set_xlim(0, longest)
    axes.set_ylim(0.4, 1)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out / "digits.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
