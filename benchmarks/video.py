"""`emotiw predict` on a film of 640x480 with two faces: frames per second, and resident memory as the film gets longer.

    python benchmarks/video.py --photo two_people.jpg

The film pans, turns and zooms over the photo, whose faces should stay in view. Detect, align and AlexNet at full width (random
weights). Each row is a process of its own; the first 70 frames are not timed. "single" answers each frame before it takes the
next, as a camera needs it; "batched" is what a film file gets. "detect", "cut" and "net" are shares of the time that passed;
they may sum to more than 1, because two threads work at once.
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

WIDTH, HEIGHT, RATE = 640, 480, 30
WARM_UP = 70  # frames: one full batch of two faces each, and more
MARKS = (300, 3000)


def write_video(photo: Path, path: Path, count: int) -> None:
    """Write an MPEG-4 film of `count` frames that moves over a photo."""
    import cv2
    import numpy as np

    image = cv2.imread(str(photo))
    if image is None:
        sys.exit(f"{photo}: no picture")
    height, width = image.shape[:2]
    fit = min(WIDTH / width, HEIGHT / height)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for index in range(count):
        phase = 2 * np.pi * index / 150
        zoom = fit * (1 + 0.05 * np.sin(phase / 2))
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 4 * np.sin(phase / 3), zoom)
        matrix[:, 2] += (WIDTH / 2 - width / 2 + 25 * np.sin(phase), HEIGHT / 2 - height / 2 + 15 * np.cos(phase))
        writer.write(cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE))
    writer.release()


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(video: str, run: str, every: int, single: bool, detector: str | None) -> dict[str, object]:
    """Read the film once; frames per second after the warm-up, faces a frame, detections, memory at the marks."""
    from emotiw_keras.serving.inputs import expand, read_inputs
    from emotiw_keras.serving.pipeline import Pipeline
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(run, detector=detector)
    seconds = {"detect": 0.0, "cut": 0.0, "net": 0.0}
    asked = 0

    def timed(name: str, function):
        def call(*arguments):
            nonlocal asked
            start = time.perf_counter()
            result = function(*arguments)
            seconds[name] += time.perf_counter() - start
            asked += name == "detect"
            return result

        return call

    predictor.detector.detect = timed("detect", predictor.detector.detect)
    predictor.cut = timed("cut", predictor.cut)
    predictor.classify = timed("net", predictor.classify)
    pipeline = Pipeline(predictor, every=every, ahead=1 if single else None)
    memory, faces, start, count = {}, 0, 0.0, 0
    for count, reading in enumerate(pipeline.read(read_inputs(expand([video])), threads=not single), start=1):
        faces += len(reading.faces)
        if count == WARM_UP:
            seconds.update(dict.fromkeys(seconds, 0.0))
            start = time.perf_counter()
        if count in MARKS:
            memory[count] = round(resident(), 1)
    wall = time.perf_counter() - start
    return {
        "every": every,
        "mode": "single" if single else "batched",
        "frames": count,
        "fps": round((count - WARM_UP) / wall, 2),
        "faces_per_frame": round(faces / count, 3),
        "detections": asked,
        "shares": {name: round(value / wall, 3) for name, value in seconds.items()},
        "resident_mb": memory,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, help="a photo with two faces")
    parser.add_argument("--detector", help="name of the detector (the default one)")
    parser.add_argument("--frames", type=int, default=300, help="frames of the timed films (300)")
    parser.add_argument("--long", type=int, default=MARKS[-1], help="frames of the film for memory, 0 for none (3000)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the network (1.0)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.child:
        print(json.dumps(measure(**json.loads(options.child))))
        return
    if options.photo is None:
        parser.error("--photo is missing: a photo with two faces")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        from random_run import write_random_run

        run = write_random_run(Path(folder) / "run", width=options.width)
        short, long = Path(folder) / "short.mp4", Path(folder) / "long.mp4"
        write_video(options.photo, short, options.frames)
        settings = [(short, every, single) for every in (1, 5) for single in (True, False)]
        if options.long:
            write_video(options.photo, long, options.long)
            settings.append((long, 5, False))
        print(
            f"{'every':>5} {'mode':>8} {'frames':>6} {'fps':>6} {'faces':>6} {'detect':>7} {'cut':>6} {'net':>6}  resident MB"
        )
        for video, every, single in settings:
            child = {"film": str(video), "run": str(run), "every": every, "single": single, "detector": options.detector}
            done = subprocess.run(
                [sys.executable, __file__, "--child", json.dumps(child)], stdout=subprocess.PIPE, text=True, check=True
            )
            result = json.loads(done.stdout.splitlines()[-1])
            results.append(result)
            shares = result["shares"]
            marks = ", ".join(f"{memory:.0f} after {count} frames" for count, memory in result["resident_mb"].items())
            print(
                f"{every:5} {result['mode']:>8} {result['frames']:6} {result['fps']:6.1f} {result['faces_per_frame']:6.2f} "
                f"{shares['detect']:7.0%} {shares['cut']:6.0%} {shares['net']:6.0%}  {marks}"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
