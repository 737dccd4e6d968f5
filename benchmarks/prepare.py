"""`emotiw prepare` on many photos: pictures per second, where the time goes, and whether a killed run ends in the same bytes.

    python benchmarks/prepare.py PHOTOS [--count 2000] [--workers 2] [--kills 3] [--detector NAME] [--json FILE]

PHOTOS is a folder of photos. From each as many variants are made (mirrored, turned a little, scaled; JPEG, in two class
folders) as it takes to have --count pictures. They are prepared once in one go; then once more into another folder, where the
process is killed --kills times on the way and started again. The two folders must hold the same bytes, or the script ends with
an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.data.images import decode_image
from emotiw_keras.data.prepare import Summary, prepare

CLASSES = ("happy", "sad")
LONGEST = 960  # pixels of the longer side of a variant, at most


def write_variants(photos: list[Path], folder: Path, count: int) -> float:
    """Write `count` variants; returns their mean size in megapixels."""
    generator = np.random.default_rng(0)
    pixels = 0
    for number in range(count):
        path = photos[number % len(photos)]
        image = decode_image(path.read_bytes())
        image = np.ascontiguousarray(image[:, ::-1] if generator.random() < 0.5 else image)
        height, width = image.shape[:2]
        scale = min(1.0, LONGEST / max(height, width)) * generator.uniform(0.6, 1.0)
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), generator.uniform(-15, 15), scale)
        size = (round(width * scale), round(height * scale))
        turn[:, 2] += (size[0] / 2 - width / 2, size[1] / 2 - height / 2)
        # Averages where it shrinks, as a camera would.
        variant = cv2.warpAffine(cv2.GaussianBlur(image, (0, 0), 0.4 / scale), turn, size, borderMode=cv2.BORDER_REFLECT)
        variant = variant[..., ::-1] if variant.ndim == 3 else variant
        target = folder / CLASSES[number % 2] / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(target), variant, [cv2.IMWRITE_JPEG_QUALITY, 90]):
            raise OSError(f"cannot write {target}")
        pixels += size[0] * size[1]
    return pixels / count / 1e6


def digest(folder: Path) -> dict[str, str]:
    """Name -> hash of each file of a folder, hidden ones too."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def killed(source: Path, out: Path, options: argparse.Namespace) -> int:
    """Prepare with kills on the way, each after an equal share of the pictures; returns how many hit."""
    code = "from emotiw_keras.cli.main import main; main()"
    command = [sys.executable, "-c", code, "prepare", str(source), str(out), f"--workers={options.workers}"]
    command += ["--detector", options.detector] if options.detector else []
    journal = out / ".prepare.jsonl"
    hits = 0
    for kill in range(1, options.kills + 1):
        enough = kill * options.count // (options.kills + 1)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (journal.read_bytes().count(b"\n") if journal.exists() else 0) < enough:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        hits += process.wait() == -signal.SIGKILL
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return hits


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder of photos, searched through")
    parser.add_argument("--count", type=int, default=2000, help="pictures (2000)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--kills", type=int, default=3, help="how often the second run is killed (3)")
    parser.add_argument("--detector", help="name of the detector")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        parser.error(f"no photos in {options.photos}")
    with tempfile.TemporaryDirectory() as folder:
        source, whole, again = (Path(folder) / name for name in ("photos", "whole", "again"))
        megapixels = write_variants(photos, source, options.count)
        start = time.perf_counter()
        summary: Summary = prepare(source, whole, detector=options.detector, workers=options.workers)
        seconds = time.perf_counter() - start
        hits = killed(source, again, options)
        first, second = digest(whole), digest(again)
    differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    steps = sum(summary.seconds.values())
    figures = {
        "pictures": options.count,
        "megapixels_each": round(megapixels, 3),
        "workers": options.workers,
        "coverage": round(summary.total.coverage, 4),
        "seconds": round(seconds, 2),
        "pictures_per_second": round(options.count / seconds, 2),
        "shares": {name: round(value / steps, 4) for name, value in summary.seconds.items()},
        "kills": hits,
        "files": len(first),
        "differing": differing,
    }
    print(f"{options.count:,} pictures of {megapixels:.2f} megapixels, {summary.total.coverage:.1%} with a face")
    print(f"{options.count / seconds:.1f} pictures a second with {options.workers} workers ({seconds:.1f} s)")
    print("of the workers' time: " + ", ".join(f"{name} {value / steps:.1%}" for name, value in summary.seconds.items()))
    print(f"killed {hits} times and gone on: {len(differing)} of {len(first):,} files differ")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if differing:
        sys.exit(f"error: not the same bytes: {', '.join(differing[:5])}")


if __name__ == "__main__":
    main()
