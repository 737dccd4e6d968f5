"""Near duplicates: what is found and what is taken wrongly, on a list and on generated cuts; time and memory by size.

    python -m benchmarks.near_duplicates --faces fer2013_jpg.zip --list pairs.csv --generated   precision, recall (Markdown)
    python -m benchmarks.near_duplicates --faces fer2013_jpg.zip --scale 36000 500000       time and memory, each by itself
    python -m benchmarks.near_duplicates --faces fer2013_jpg.zip --learn projection.npz

A list names in each row a picture of the test split (`private`) and another of train or val that shows the same photograph. A
picture counts as found if its photograph stands in train or val nearly the same; of those found beyond the list a sheet is
written (`--sheet FILE.png`), because only a look tells whether the list lacks them. Generated cuts (`--generated`) are made of
pictures that have no near duplicate in the set: each is changed in one way and looked for among all the others.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import processor
from emotiw_keras.data.duplicates import also_in
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.near import pairs as near
from emotiw_keras.data.near.embedding import FEATURES, SIDE, Projection, features, mirrored_order, thumbnails
from emotiw_keras.data.near.threshold import LOWEST, THRESHOLD
from emotiw_keras.data.pixel_stores import MemoryPixels, PackedPixels
from emotiw_keras.data.splits import group_ids

THRESHOLDS = (0.95, 0.96, THRESHOLD, 0.98, 0.99)
AMONG, CUTS = 5000, 1000  # images that are looked through, and those of them that are changed in each way


def warped(image: np.ndarray, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """Another cut, `scale` times as wide, moved by pixels; what lies outside repeats the border."""
    middle = (SIDE - 1) / 2
    warp = np.array([[scale, 0, middle * (1 - scale) + shift[0]], [0, scale, middle * (1 - scale) + shift[1]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, warp, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def encoded(image: np.ndarray, quality: int) -> np.ndarray:
    """A picture after a JPEG of that quality."""
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def marked(image: np.ndarray) -> np.ndarray:
    """A picture with half transparent letters over it."""
    letters = cv2.putText(image.copy(), "photo", (5, 40), cv2.FONT_HERSHEY_PLAIN, 0.8, 255, 1)
    return cv2.addWeighted(image, 0.6, letters, 0.4, 0)


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CHANGES: dict[str, Change] = {
    "shift up to 3 pixels": lambda p, g: warped(p, 1, tuple(g.uniform(-3, 3, 2))),
    "shift up to 6 pixels": lambda p, g: warped(p, 1, tuple(g.uniform(-6, 6, 2))),
    "cut 0.8 to 1.25": lambda p, g: warped(p, float(np.exp(g.uniform(-0.22, 0.22))), (0, 0)),
    "cut and shift up to 4": lambda p, g: warped(p, float(np.exp(g.uniform(-0.22, 0.22))), tuple(g.uniform(-4, 4, 2))),
    "mirrored": lambda p, g: np.ascontiguousarray(p[:, ::-1]),
    "mirrored and shift up to 4": lambda p, g: warped(np.ascontiguousarray(p[:, ::-1]), 1, tuple(g.uniform(-4, 4, 2))),
    "JPEG quality 20": lambda p, g: encoded(p, 20),
    "darker, JPEG quality 50": lambda p, g: encoded((p * 0.6).astype(np.uint8), 50),
    "half the size and back": lambda p, g: cv2.resize(cv2.resize(p, (24, 24), interpolation=cv2.INTER_AREA), (SIDE, SIDE)),
    "marked": lambda p, g: marked(p),
}


def load() -> str:
    """How busy the machine is, in words."""
    return f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def all_pairs(pixels: np.ndarray, hashes: list[str]) -> near.NearPairs:
    """Every pair from `LOWEST` on, nothing taken from the cache: uint8 (pictures, SIDE, SIDE)."""
    store = MemoryPixels(pixels[..., None], np.ones(len(pixels), bool))
    kept, near.WORTH_KEEPING = near.WORTH_KEEPING, len(pixels) + 1
    try:
        return near.near_pairs([store], [hashes], LOWEST)
    finally:
        near.WORTH_KEEPING = kept


def photographs(hashes: list[str], pairs: near.NearPairs, threshold: float) -> np.ndarray:
    """int (pictures,), the same number for one photograph."""
    chosen = pairs.at(pairs.correlation >= threshold)
    return group_ids(hashes, [""] * len(hashes), zip(chosen.first.tolist(), chosen.second.tolist(), strict=True))


def against_list(faces: FaceSet, pairs: near.NearPairs, listed: Path, sheet: Path | None, thumbs: np.ndarray) -> None:
    """What is found of a list, and beyond it."""
    place = {path: i for i, path in enumerate(faces.paths)}
    with listed.open() as file:
        wanted = {place[row["private"]] for row in csv.DictReader(file)}
    equal = set(np.flatnonzero(also_in(faces.pixel_hash, faces.split, ["test"], ["train", "val"])).tolist())
    print(f"\n{len(wanted):,} listed beside {len(equal):,} equal ones\n")
    print("| correlation from | found | of the list | recall | beyond the list | share of the list | largest group |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for threshold in THRESHOLDS:
        number = photographs(list(faces.pixel_hash), pairs, threshold)
        stands = np.isin(number, np.unique(number[faces.split != "test"])) & (faces.split == "test")
        found = set(np.flatnonzero(stands).tolist()) - equal
        right, beyond = found & wanted, found - wanted
        size = np.bincount(number[np.unique([pairs.first, pairs.second])]).max()
        cells = (
            f"{len(found):,}",
            len(right),
            f"{len(right) / len(wanted):.1%}",
            len(beyond),
            f"{len(right) / len(found):.1%}",
        )
        print(f"| {threshold:g} | {' | '.join(map(str, cells))} | {size} |")
        if threshold == THRESHOLD and sheet is not None:
            draw(sorted(beyond), pairs, thumbs, list(faces.pixel_hash), faces.split != "test", sheet)


def draw(beyond: list[int], pairs: near.NearPairs, thumbs: np.ndarray, hashes: list[str], known: np.ndarray, to: Path) -> None:
    """Each picture over its best mate; a grey square where the two are only linked through others."""
    elsewhere = {hashes[i] for i in np.flatnonzero(known)}
    mate: dict[str, int] = {}
    for k in np.argsort(pairs.correlation, kind="stable").tolist():
        for one, other in ((pairs.first[k], pairs.second[k]), (pairs.second[k], pairs.first[k])):
            if hashes[other] in elsewhere:
                mate[hashes[one]] = int(other)
    none = np.full((SIDE, SIDE), 128, np.uint8)
    mates = [thumbs[mate[hashes[i]]] if hashes[i] in mate else none for i in beyond]
    columns = [np.vstack([thumbs[i], other]) for i, other in zip(beyond, mates, strict=True)]
    columns += [np.vstack([none, none])] * (-len(columns) % 20)
    cv2.imwrite(str(to), np.vstack([np.hstack(columns[start : start + 20]) for start in range(0, len(columns), 20)]))


def on_generated(faces: FaceSet, pairs: near.NearPairs, thumbs: np.ndarray) -> None:
    """Recall of each change, and pairs of a changed picture with another than its own."""
    number = photographs(list(faces.pixel_hash), pairs, LOWEST)
    single = np.flatnonzero((np.bincount(number)[number] == 1) & (thumbs.std(axis=(1, 2)) >= 10))
    generator = np.random.default_rng(0)
    single = generator.permutation(single)[:AMONG]
    chosen = single[:CUTS]
    base, names = thumbs[single], [f"own {i}" for i in range(len(single))]
    where = {int(i): at for at, i in enumerate(single)}
    print(
        f"\n{len(chosen):,} of {len(single):,} pictures without a near duplicate, changed and looked for among all of these\n"
    )
    print("| change | " + " | ".join(f"recall at {threshold:g}" for threshold in THRESHOLDS) + " | wrong pairs at 0.97 |")
    print("|---|" + "---:|" * (len(THRESHOLDS) + 1))
    for name, change in CHANGES.items():
        changed = np.stack([change(thumbs[i], generator) for i in chosen])
        found = all_pairs(np.concatenate([base, changed]), [*names, *(f"changed {i}" for i in range(len(chosen)))])
        of_changed = found.second >= len(base)
        origin = np.array([where[int(i)] for i in chosen])
        right = of_changed & (found.first == origin[np.maximum(found.second - len(base), 0)])
        recalls = [f"{(right & (found.correlation >= threshold)).sum() / len(chosen):.1%}" for threshold in THRESHOLDS]
        wrong = int((of_changed & ~right & (found.correlation >= THRESHOLD)).sum())
        print(f"| {name} | {' | '.join(recalls)} | {wrong} |", flush=True)


def strange(count: int, faces: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """Pictures that show nothing twice: noise of three scales, over a face each where faces are given; uint8."""
    field = np.zeros((count * SIDE, SIDE), np.float32)
    for sigma in (1.5, 4, 9):
        noise = cv2.GaussianBlur(generator.standard_normal(field.shape, np.float32), (0, 0), sigma)
        field += noise / noise.std()
    images = 128 + 30 * field.reshape(count, SIDE, SIDE)
    if faces is not None:
        images = 0.5 * images + 0.6 * faces[generator.integers(len(faces), size=count)]
    return np.clip(images, 0, 255).astype(np.uint8)


def at_scale(count: int, faces: np.ndarray | None) -> None:
    """One search of `count` generated pictures out of a file, a hundredth of them cut again; a line of the table."""
    generator = np.random.default_rng(count)
    twins = count // 100
    with tempfile.TemporaryFile() as file:
        store = PackedPixels(file, (SIDE, SIDE, 1), np.ones(count, bool))
        for start in range(0, count, 5000):
            block = strange(min(5000, count - start), faces, generator)
            for i, image in enumerate(block):
                store.put(start + i, image[..., None])
        for i in range(twins):  # the last ones are cuts of the first
            cut = warped(store.gather(np.array([i]))[0, ..., 0], 1.1, (2, -3))
            store.put(count - 1 - i, cut[..., None])
        near.WORTH_KEEPING = count + 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, busy = time.perf_counter(), time.process_time()
        pairs = near.near_pairs([store], [[str(i) for i in range(count)]], THRESHOLD)
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
    right = int(((pairs.second == count - 1 - pairs.first) & (pairs.first < twins)).sum())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = f"{most / 2**10:,.0f} MiB ({(most - before) / 2**10:,.0f} more than before)"
    print(
        f"| {count:,} | {wall:,.0f} s | {busy:,.0f} s | {memory} | {right:,} of {twins:,} | {len(pairs) - right:,} | {load()} |"
    )


def learn(thumbs: np.ndarray, to: Path) -> None:
    """The projection: discriminant analysis of 6,000 pictures and three cuts of each, even and odd directions apart."""
    from scipy.linalg import eigh

    generator = np.random.default_rng(1)
    chosen = thumbs[generator.permutation(len(thumbs))[:6000]]

    def cut(image: np.ndarray) -> np.ndarray:
        return warped(image, float(np.exp(generator.uniform(-0.223, 0.223))), tuple(generator.uniform(-6, 6, 2)))

    order, whole = mirrored_order(), features(chosen)
    apart = np.concatenate([features(np.stack([cut(each) for each in chosen])) - whole for _ in range(3)])

    def symmetric(matrix: np.ndarray) -> np.ndarray:
        return (matrix + matrix[order][:, order]) / 2

    within, total = symmetric(apart.T @ apart / len(apart)), symmetric(np.cov(whole.T))
    values, vectors = np.linalg.eigh(np.eye(FEATURES)[order])
    found: list[tuple[float, int, np.ndarray]] = []
    for parity, sign in enumerate((1, -1)):
        basis = vectors[:, np.abs(values - sign) < 0.5]
        ridge = 0.03 * np.trace(within) / FEATURES * np.eye(basis.shape[1])
        gains, directions = eigh(basis.T @ total @ basis, basis.T @ within @ basis + ridge)
        found += [(float(gain), parity, basis @ directions[:, i]) for i, gain in enumerate(gains)]
    best = sorted(sorted(found, key=lambda each: -each[0])[:48], key=lambda each: each[1])
    matrix = np.stack([direction for _, _, direction in best], axis=1)
    mean = (whole.mean(axis=0) + whole.mean(axis=0)[order]) / 2
    by = Projection(mean.astype(np.float16), (matrix / np.abs(matrix).max()).astype(np.float16), sum(not p for _, p, _ in best))
    np.savez(to, mean=by.mean, matrix=by.matrix, even=np.int16(by.even))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near_duplicates", description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, help="FER-2013 in any layout that keeps its splits")
    parser.add_argument("--list", type=Path, help="CSV of pairs: private, other")
    parser.add_argument("--sheet", type=Path, help="PNG of what is found beyond the list")
    parser.add_argument("--generated", action="store_true", help="recall of generated changes")
    parser.add_argument("--scale", type=int, nargs="+", default=[], help="numbers of generated pictures to search")
    parser.add_argument("--learn", type=Path, help="learn the projection anew from train, into this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.scale:
        print("| pictures | time | of the processor | memory at most | found | wrong | machine |")
        print("|---:|---:|---:|---:|---:|---:|---|")
        for count in asked.scale:
            sys.stdout.flush()
            faces = [] if asked.faces is None else ["--faces", str(asked.faces)]
            subprocess.run([sys.executable, "-m", "benchmarks.near_duplicates", "--one", str(count), *faces], check=True)
    thumbs = faces = None
    if asked.faces is not None and (asked.one or asked.learn or asked.list or asked.generated):
        faces = load_faces(asked.faces, val_share=0, near_duplicates=0)
        thumbs = thumbnails(faces.pixels.gather(np.arange(len(faces.paths))))
    if asked.one:
        at_scale(asked.one, thumbs)
        return
    if faces is None or thumbs is None:
        if not asked.scale:
            parser.error("give --faces with --list, --generated or --learn, or --scale")
        return
    if asked.learn:
        first: dict[str, int] = {}
        for i in np.flatnonzero(faces.split == "train").tolist():
            first.setdefault(faces.pixel_hash[i], i)
        learn(thumbs[list(first.values())], asked.learn)
    if asked.list or asked.generated:
        wall, busy = time.perf_counter(), time.process_time()
        pairs = all_pairs(thumbs, list(faces.pixel_hash))
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        print(f"{len(thumbs):,} pictures: {wall:.0f} s, {busy:.0f} s of the processor ({load()})", flush=True)
        if asked.list:
            against_list(faces, pairs, asked.list, asked.sheet, thumbs)
        if asked.generated:
            on_generated(faces, pairs, thumbs)


if __name__ == "__main__":
    main()
