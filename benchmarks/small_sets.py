"""Small sets: what `finetune` makes of k images a class, beside the probe it must beat, zero-shot and training from nothing.

python -m benchmarks.small_sets faces.zip --pattern '^(.*?)_?(?:[0-9]+[a-z]?)?[.]jpg$' --out small_sets.md

Persons are cut into folds; of each fold's other persons k images a class are drawn by a seed and the fold is read. Nothing is
chosen on it: strengths come from cross-validation within the training images. Intervals are percentiles of 2,000 resamples of
persons, over the readings of all folds and seeds together. Rows are written as they come.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.splits import fold_numbers
from emotiw_keras.inference import Inference
from emotiw_keras.runs import Run
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe

SHIPPED = "fer28-face-vgg"
LAYERS = 5
BATCH = 128
RESAMPLES = 2000
DIRECT = """
name = "direct"
data = ["data"]
labels = "folder"
[model]
name = "face_vgg"
[[stage]]
name = "all"
train = ["data:train"]
val = ["data:val"]
batch_size = 32
optimizer = "adam"
learning_rate = 0.001
schedule = "cosine"
class_weight = "balanced"
rotate = 8
zoom = 0.1
shift = 0.08
"""
"""Training from nothing, with the same changes of pictures."""
STRENGTHS = 10.0 ** np.arange(-4, 1.01, 0.5)


@dataclass
class Drawn:
    """One training set and what is read with it, as positions in the set; its pictures lie in a folder of their own."""

    faces: FaceSet
    train: np.ndarray
    test: np.ndarray
    seed: int
    images: Path
    folder: Path


@dataclass
class Tally:
    """Readings of one way at one k: whether right, whose, and seconds of each fit."""

    right: list[np.ndarray] = field(default_factory=list)
    person: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def row(self, k: str, way: str) -> str:
        """A row of the table."""
        right, person = np.concatenate(self.right), np.concatenate(self.person)
        names, number = np.unique(person, return_inverse=True)
        hits, count = np.bincount(number, right), np.bincount(number)
        drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
        low, high = np.percentile(hits[drawn].sum(axis=1) / count[drawn].sum(axis=1), (2.5, 97.5))
        return (
            f"| {k} | {way} | {right.mean():.1%} | {low:.1%} - {high:.1%} | {len(right):,} of {len(names):,} persons | "
            f"{np.median(self.seconds):.0f} s |"
        )


def draw(faces: FaceSet, fold: np.ndarray, test: int, k: int, seed: int, images: Path, folder: Path) -> Drawn:
    """k images a class (0: all) of the persons outside a fold."""
    usable = faces.label >= 0
    random = np.random.default_rng((seed, test, k))
    pools = [random.permutation(np.flatnonzero(usable & (fold != test) & (faces.label == label))) for label in range(7)]
    train = np.sort(np.concatenate([pool[: k or None] for pool in pools]))
    return Drawn(faces, train, np.flatnonzero(usable & (fold == test)), seed, images, folder)


def answers(run: Run, drawn: Drawn) -> np.ndarray:
    """What a run reads in the test images: labels of the set, int (images,)."""
    pool = Pool([(drawn.faces, drawn.test)], run.settings["resize"], True)
    net = Inference(run, pool.shape)
    whole = np.concatenate([net(pool.gather(part)) for part in np.array_split(np.arange(len(pool)), -(-len(pool) // BATCH))])
    return np.array([drawn.faces.labels.index(label) for label in run.labels])[whole.argmax(axis=1)]


def trained(drawn: Drawn, recipe: str, changes: list[str], out: str) -> np.ndarray:
    """A recipe, by its name or its text, on the training images, as a user runs it: a manifest with splits and persons."""
    if "\n" in recipe:
        written = drawn.folder / f"{out}.toml"
        written.write_text(recipe)
        recipe = str(written)
    manifest = drawn.images / "small_sets.csv"
    with open(manifest, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "split", "subject"))
        for split, index in (("train", drawn.train), ("test", drawn.test)):
            for i in index:
                rows.writerow((drawn.faces.paths[i], drawn.faces.labels[drawn.faces.label[i]], split, drawn.faces.subject[i]))
    run = fit(load_recipe(recipe, changes, seed=drawn.seed), {"data": str(manifest)}, drawn.folder / out).run
    assert run is not None
    return answers(run, drawn)


def probe(drawn: Drawn) -> np.ndarray:
    """Logistic regression on the means of the last five activations, standardised; C by cross-validation by persons."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedGroupKFold

    run = Run.open(SHIPPED)
    model, face_input = run.build(), run.face_input()
    taps = [layer.output for layer in model.layers if isinstance(layer, keras.layers.ReLU)][-LAYERS:]
    net = keras.Model(model.inputs[0], [keras.ops.mean(tap, axis=(1, 2)) for tap in taps])

    def features(index: np.ndarray) -> np.ndarray:
        pool = Pool([(drawn.faces, index)], run.settings["resize"], True)
        parts = np.array_split(np.arange(len(pool)), -(-len(pool) // BATCH))
        return np.concatenate(
            [np.hstack([np.asarray(each) for each in net(face_input(pool.gather(part)), training=False)]) for part in parts]
        )

    seen, labels = features(drawn.train), drawn.faces.label[drawn.train]
    mean, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    persons = np.unique([drawn.faces.subject[i] for i in drawn.train], return_inverse=True)[1]
    cuts = list(StratifiedGroupKFold(5, shuffle=True, random_state=drawn.seed).split(seen, labels, persons))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = LogisticRegressionCV(Cs=STRENGTHS, cv=cuts, max_iter=300).fit((seen - mean) / spread, labels)
    return found.predict((features(drawn.test) - mean) / spread)


def ways(names: list[str], epochs: int) -> dict[str, Callable[[Drawn], np.ndarray]]:
    """Name -> how it answers."""
    known: dict[str, Callable[[Drawn], np.ndarray]] = {
        "zero-shot": lambda drawn: answers(Run.open(SHIPPED), drawn),
        "probe": probe,
        "finetune": lambda drawn: trained(drawn, "finetune", [], "finetune"),
        "direct": lambda drawn: trained(drawn, DIRECT, [f"all.epochs={epochs}"], "direct"),
    }
    return {name: known[name] for name in names}


def main() -> None:
    """Draw, train, read, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_sets", description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path, help="a set of faces without splits, the seven expressions")
    parser.add_argument("--pattern", required=True, help="regular expression on file names for the person")
    parser.add_argument("--k", nargs="+", type=int, default=[5, 10, 50, 0], help="images a class; 0 takes all (5 10 50 0)")
    parser.add_argument("--folds", type=int, default=3, help="of persons (3)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the training images (3)")
    parser.add_argument("--ways", nargs="+", default=["zero-shot", "probe", "finetune"], help="also: direct")
    parser.add_argument("--epochs", type=int, default=40, help="of training from nothing (40)")
    parser.add_argument("--out", type=Path, default=Path("small_sets.md"), help="the table (small_sets.md)")
    asked = parser.parse_args()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as unpacked:
        # a copy, since a manifest lies with its images
        images = Path(unpacked) / "faces"
        if asked.faces.is_dir():
            shutil.copytree(asked.faces, images)
        else:
            shutil.unpack_archive(asked.faces, images)
        faces = load_faces(images, size=48, subject_pattern=asked.pattern)
        fold = fold_numbers(faces.subject, asked.folds)
        table = ["| images a class | way | accuracy | 95 % by person | read | fit, median |", "|--:|---|--:|--:|--:|--:|"]
        for k in asked.k:
            for name, answer in ways(asked.ways, asked.epochs).items():
                tally = Tally()
                for test in range(asked.folds):
                    for seed in range(1 if name == "zero-shot" or k == 0 else asked.seeds):
                        with tempfile.TemporaryDirectory() as scratch:
                            drawn = draw(faces, fold, test, k, seed, images, Path(scratch))
                            start = time.monotonic()
                            right = answer(drawn) == faces.label[drawn.test]
                            tally.seconds.append(time.monotonic() - start)
                            tally.right.append(right)
                            tally.person.append(np.array([faces.subject[i] for i in drawn.test]))
                            print(f"k {k or 'all'} {name} fold {test} seed {seed}: {right.mean():.1%}", flush=True)
                table.append(tally.row(str(k or "all"), name))
                asked.out.write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
