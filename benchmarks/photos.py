"""`emotiw predict` on 2,000 photos: photos and faces per second, where the time goes, and what batching gains.

    python benchmarks/photos.py --photos FOLDER

The photos of the folder are read again and again, each time a little turned, scaled and lit anew and stored as JPEG, until
there are `--count`. AlexNet at full width (random weights). Each row is a process of its own. "one thread" gives the shares,
which sum to 1; "two threads" is what the command does; "one by one" computes each face by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODES = {"two threads": (64, True), "one thread": (64, False), "one by one": (1, False)}


def write_photos(source: Path, out: Path, count: int) -> None:
    """Write `count` variants of the JPEG and PNG photos below a folder."""
    import cv2
    import numpy as np

    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        sys.exit(f"{source}: no photos")
    generator = np.random.default_rng(0)
    for index in range(count):
        image = cv2.imread(str(paths[index % len(paths)]))
        height, width = image.shape[:2]
        scale = generator.uniform(0.8, 1.25)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), generator.uniform(-8, 8), 1)
        turned = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        turned = cv2.resize(turned, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        lit = cv2.convertScaleAbs(turned, alpha=generator.uniform(0.8, 1.2))
        cv2.imwrite(str(out / f"{index:05}.jpg"), lit, [cv2.IMWRITE_JPEG_QUALITY, 92])


def measure(photos: str, run: str, batch: int, threads: bool, detector: str | None) -> dict[str, object]:
    """Read every photo once; rates and shares of the time."""
    from emotiw_keras.faces import alignment
    from emotiw_keras.serving import inputs
    from emotiw_keras.serving.pipeline import Pipeline
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(run, batch_size=batch, detector=detector)
    seconds = dict.fromkeys(("read", "detect", "align", "resize", "net"), 0.0)

    def timed(name: str, function):
        def call(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds[name] += time.perf_counter() - start
            return result

        return call

    inputs.decode_image = timed("read", inputs.decode_image)
    alignment.align = timed("align", alignment.align)
    predictor.detector.detect = timed("detect", predictor.detector.detect)
    predictor.prepare = timed("resize", predictor.prepare)
    predictor.classify = timed("net", predictor.classify)
    # The first call of everything: tracing, loading, allocating.
    first = sorted(Path(photos).iterdir())[:4]
    list(Pipeline(predictor).read(inputs.read_inputs([str(path) for path in first])))
    seconds.update(dict.fromkeys(seconds, 0.0))
    start = time.perf_counter()
    count = faces = 0
    for reading in Pipeline(predictor).read(inputs.read_inputs([photos]), threads=threads):
        count += 1
        faces += len(reading.faces)
    wall = time.perf_counter() - start
    shares = {name: round(value / wall, 3) for name, value in seconds.items()}
    return {
        "photos": count,
        "faces": faces,
        "photos_per_second": round(count / wall, 2),
        "shares": shares,
        "wall": round(wall, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photos with faces")
    parser.add_argument("--count", type=int, default=2000, help="photos to read (2000)")
    parser.add_argument("--detector", help="name of the detector (the default one)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the network (1.0)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    if options.photos is None:
        parser.error("--photos is missing: a folder of photos with faces")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        from random_run import write_random_run

        run = write_random_run(Path(folder) / "run", width=options.width)
        photos = Path(folder) / "photos"
        photos.mkdir()
        write_photos(options.photos, photos, options.count)
        for mode, (batch, threads) in MODES.items():
            child = {"photos": str(photos), "run": str(run), "batch": batch, "threads": threads, "detector": options.detector}
            done = subprocess.run(
                [sys.executable, __file__, "--child", json.dumps(child)], stdout=subprocess.PIPE, text=True, check=True
            )
            result = results[mode] = json.loads(done.stdout.splitlines()[-1])
            shares = "  ".join(f"{name} {share:.0%}" for name, share in result["shares"].items())
            rate, faces = result["photos_per_second"], result["faces"] / result["wall"]
            print(f"{mode:11}  {rate:6.1f} photos/s  {faces:6.1f} faces/s  {shares}")
    net = [results[mode]["shares"]["net"] * results[mode]["wall"] for mode in ("one thread", "one by one")]
    whole = [results[mode]["photos_per_second"] for mode in ("one thread", "one by one")]
    print(f"batches of 64 against one by one: the net {net[1] / net[0]:.2f}, all {whole[0] / whole[1]:.2f} times as fast")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
