"""Small sets: what `finetune` makes of k images a class, beside the probe it must beat, zero-shot and training from nothing.

python -m benchmarks.small_sets faces.zip --pattern '^(.*?)_?(?:[0-9]+[a-z]?)?[.]jpg$' --out small_sets.md

Persons are cut into folds; of each fold's other persons k images a class are drawn by a seed and the fold is read. Nothing is
chosen on it: strengths come from cross-validation within the training images. Intervals are of persons drawn again, over the
readings of all folds and seeds together; beside each way its difference from the probe with an exact test by person, adjusted
by Holm's method over the table. What was read is kept in a folder beside the table, so that the same command goes on where it
was stopped; rows are written as they come.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from emotiw_keras.audit.adapter import Adapter
from emotiw_keras.data.batches import Pool
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.splits import fold_numbers
from emotiw_keras.evaluation.significance import (
    accuracy_difference_interval,
    holm,
    paired_test,
    person_numbers,
    share_interval,
)
from emotiw_keras.files import write_atomic
from emotiw_keras.inference import Inference
from emotiw_keras.runs import Run
from emotiw_keras.text import csv_text
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe

SIDE = 48
SHIPPED = "fer28-face-vgg-votes"
LAYERS = 5
BATCH = 128
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


@dataclass(frozen=True)
class Cell:
    """What one way made of one training set: which test images are right, whose they are, and how long it took."""

    right: dict[str, bool]
    person: dict[str, str]
    seconds: float

    @classmethod
    def read(cls, file: Path) -> Cell:
        with open(file, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        right = {row["path"]: row["right"] == "1" for row in rows}
        return cls(right, {row["path"]: row["person"] for row in rows}, float(rows[0]["seconds"]))

    def write(self, file: Path) -> None:
        rows = [(path, self.person[path], int(right), round(self.seconds, 1)) for path, right in self.right.items()]
        write_atomic(file, csv_text([("path", "person", "right", "seconds"), *rows]))


Cells = dict[tuple[int, int], Cell]
"""By fold and seed."""


def against(cells: Cells, probe: Cells) -> tuple[float, float, float, float]:
    """The accuracy of one way less that of the probe on the same readings: points, the ends of 95 % by person, and p."""
    both = [(key, path) for key in cells if key in probe for path in cells[key].right]
    mine, its = (np.array([of[key].right[path] for key, path in both], bool) for of in (cells, probe))
    persons = person_numbers([cells[key].person[path] for key, path in both])
    low, high = accuracy_difference_interval(its, mine, persons)
    return 100 * (mine.mean() - its.mean()), 100 * low, 100 * high, paired_test(its, mine, persons)


def table(done: dict[tuple[int, str], Cells]) -> str:
    """The rows of what is done."""
    lines = [
        "| images a class | way | accuracy | 95 % by person | read | fits | fit, median | points against the probe (95 %) "
        "| p, Holm's p |",
        "|--:|---|--:|--:|--:|--:|--:|---|---|",
    ]
    tested = {
        key: against(cells, done[key[0], "probe"])
        for key, cells in done.items()
        if key[1] != "probe" and (key[0], "probe") in done
    }
    adjusted = dict(zip(tested, holm([each[3] for each in tested.values()]), strict=True))
    for (k, way), cells in done.items():
        right = np.array([each for cell in cells.values() for each in cell.right.values()], bool)
        person = [each for cell in cells.values() for each in cell.person.values()]
        low, high = share_interval(right, person_numbers(person))
        points = p = ""
        if (k, way) in tested:
            more, least, most, alone = tested[k, way]
            points, p = f"{more:+.1f} ({least:+.1f} to {most:+.1f})", f"{alone:.2g}, {adjusted[k, way]:.2g}"
        seconds = np.median([cell.seconds for cell in cells.values()])
        lines.append(
            f"| {k or 'all'} | {way} | {right.mean():.1%} | {low:.1%} - {high:.1%} "
            f"| {len(right):,} of {len(set(person)):,} persons | {len(cells)} | {seconds:.0f} s | {points} | {p} |"
        )
    return "\n".join(lines) + "\n"


def draw(faces: FaceSet, fold: np.ndarray, test: int, k: int, seed: int, images: Path, folder: Path) -> Drawn:
    """k images a class (0: all) of the persons outside a fold."""
    usable = faces.label >= 0
    random = np.random.default_rng((seed, test, k))
    pools = [random.permutation(np.flatnonzero(usable & (fold != test) & (faces.label == label))) for label in range(7)]
    train = np.sort(np.concatenate([pool[: k or None] for pool in pools]))
    return Drawn(faces, train, np.flatnonzero(usable & (fold == test)), seed, images, folder)


def answers(run: Run, drawn: Drawn) -> np.ndarray:
    """What a run reads in the test images: labels of the set, int (images,), -1 where it says a class that the set lacks."""
    pool = Pool([(drawn.faces, drawn.test)], run.settings["resize"], True)
    net = Inference(run, pool.shape)
    whole = np.concatenate([net(pool.gather(part)) for part in np.array_split(np.arange(len(pool)), -(-len(pool) // BATCH))])
    labels = drawn.faces.labels
    return np.array([labels.index(label) if label in labels else -1 for label in run.labels])[whole.argmax(axis=1)]


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


def peer(command: str) -> Callable[[Drawn], np.ndarray]:
    """Somebody else's reader as it is, which gets the test images grey and 48 x 48."""

    def read(drawn: Drawn) -> np.ndarray:
        with Adapter(command) as reader:
            said = reader.predict(Pool([(drawn.faces, drawn.test)], SIDE, True).gather(np.arange(len(drawn.test)))[..., 0])
            labels = drawn.faces.labels
            first = np.array([labels.index(label) if label in labels else -1 for label in reader.labels])[said.argmax(axis=1)]
            return np.where(np.isnan(said).any(axis=1), -1, first)  # where it found no face

    return read


def ways(epochs: int, adapters: dict[str, str]) -> dict[str, Callable[[Drawn], np.ndarray]]:
    """Name -> how it answers."""
    return {
        "zero-shot": lambda drawn: answers(Run.open(SHIPPED), drawn),
        "probe": probe,
        "finetune": lambda drawn: trained(drawn, "finetune", [], "finetune"),
        "direct": lambda drawn: trained(drawn, DIRECT, [f"all.epochs={epochs}"], "direct"),
        **{name: peer(command) for name, command in adapters.items()},
    }


def main() -> None:
    """Draw, train, read, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_sets", description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path, help="a set of faces without splits, the seven expressions")
    parser.add_argument("--pattern", required=True, help="regular expression on file names for the person")
    parser.add_argument("--k", nargs="+", type=int, default=[5, 10, 50, 0], help="images a class; 0 takes all (5 10 50 0)")
    parser.add_argument("--folds", type=int, default=3, help="of persons (3)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the training images (3)")
    parser.add_argument("--ways", nargs="+", default=["zero-shot", "probe", "finetune"], help="also: direct, names of adapters")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=COMMAND", help="another's reader, as it is")
    parser.add_argument("--epochs", type=int, default=40, help="of training from nothing (40)")
    parser.add_argument("--out", type=Path, default=Path("small_sets.md"), help="the table (small_sets.md)")
    asked = parser.parse_args()
    adapters = {name: command for name, _, command in (word.partition("=") for word in asked.adapter)}
    known = ways(asked.epochs, adapters)
    if unknown := sorted(set(asked.ways) - set(known)):
        parser.error(f"--ways {' '.join(unknown)}: expected some of {', '.join(known)}; --adapter NAME=COMMAND adds one")
    if idle := sorted(set(adapters) - set(asked.ways) | set(adapters) & set(ways(0, {}))):
        parser.error(
            f"--adapter {', '.join(idle)}: the name of an adapter stands among --ways too, and is of none that is there"
        )
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as unpacked:
        # a copy, since a manifest lies with its images
        images = Path(unpacked) / "faces"
        if asked.faces.is_dir():
            shutil.copytree(asked.faces, images)
        else:
            shutil.unpack_archive(asked.faces, images)
        faces = load_faces(images, size=SIDE, subject_pattern=asked.pattern)
        fold = fold_numbers(faces.subject, asked.folds)
        done: dict[tuple[int, str], Cells] = {}
        untrained = {"zero-shot", *adapters}
        for k in asked.k:
            for name, answer in ((name, known[name]) for name in asked.ways):
                for test in range(asked.folds):
                    for seed in range(1 if name in untrained or k == 0 else asked.seeds):
                        file = asked.out.with_suffix("") / f"{k or 'all'}-{name}-fold{test}-of-{asked.folds}-seed{seed}.csv"
                        if not file.exists():
                            with tempfile.TemporaryDirectory() as scratch:
                                cell(draw(faces, fold, test, k, seed, images, Path(scratch)), answer).write(file)
                        done.setdefault((k, name), {})[test, seed] = found = Cell.read(file)
                        print(
                            f"k {k or 'all'} {name} fold {test} seed {seed}: {np.mean(list(found.right.values())):.1%}",
                            flush=True,
                        )
                        write_atomic(asked.out, table(done))
    print(table(done), end="")


def cell(drawn: Drawn, answer: Callable[[Drawn], np.ndarray]) -> Cell:
    """Train, and read the test images."""
    start = time.monotonic()
    right = answer(drawn) == drawn.faces.label[drawn.test]
    seconds = time.monotonic() - start
    paths = [drawn.faces.paths[i] for i in drawn.test]
    persons = [drawn.faces.subject[i] for i in drawn.test]
    return Cell(dict(zip(paths, map(bool, right), strict=True)), dict(zip(paths, persons, strict=True)), seconds)


if __name__ == "__main__":
    main()
