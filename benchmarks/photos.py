"""Photos a second through `emotiw predict` and `emotiw prepare`, this tree and another in turns, and where the time goes.

    python -m benchmarks.photos --photos ../shared/data/photos --old ../before [--sets small large film] [--rounds 3]

The photos of the folder, turned a little and lit anew, are stored as JPEG of 640 x 480 and of 4000 x 3000 pixels, the latter
within a larger scene, and two faces move through a film of 60 frames a second. Each turn is a process that reads them from disk
to rows; what it takes to start and the first photos are not counted. Beside each rate stands that of a program that only
decodes. The boxes and eyes of both trees are compared on the photos as they are.

`--growth 100 1000 10000` has seconds and peak memory of `predict` by the number of photos, or of frames, instead.
`--old PATH` is the root of another checkout, such as `git worktree add PATH COMMIT` makes; `--engine` and `--precision` are of
this tree alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETS = {"small": ((640, 480), 400), "large": ((4000, 3000), 24), "film": ((1280, 720), 600)}
WARM_UP = 8
EVERY = 5


def photos_below(folder: Path) -> list[Path]:
    """The JPEG and PNG photos below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def write_photos(paths: list[Path], out: Path, count: int, size: tuple[int, int], progressive: bool) -> None:
    """Write `count` variants, each filling `size`; what is larger than its photo is filled by the photo itself, blurred."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    out.mkdir()
    for index in range(count):
        image = cv2.imread(str(paths[index % len(paths)]))
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), generator.uniform(-8, 8), 1)
        image = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        image = cv2.convertScaleAbs(image, alpha=generator.uniform(0.8, 1.2))
        scale = min(size[0] / width, size[1] / height, 2.0)
        inner = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        scene = cv2.resize(cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_CUBIC)
        left, top = ((size[axis] - inner.shape[1 - axis]) // 2 for axis in (0, 1))
        scene[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        options = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
        cv2.imwrite(str(out / f"{index:05}.jpg"), scene, options)


def write_film(paths: list[Path], out: Path, count: int, size: tuple[int, int]) -> None:
    """A film in which the first and the last photo move to and fro, side by side."""
    import cv2
    import numpy as np

    out.mkdir()
    film = cv2.VideoWriter(str(out / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 60.0, size)
    two = [cv2.imread(str(path)) for path in (paths[0], paths[-1])]
    for frame in range(count):
        scene = np.full((size[1], size[0], 3), 96, np.uint8)
        for place, image in enumerate(two):
            scale = min(size[0] / 2 / image.shape[1], size[1] / image.shape[0]) * 0.9
            inner = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            left = round(place * size[0] / 2 + 12 * (1 + np.sin(frame / 20 + place)))
            scene[20 : 20 + inner.shape[0], left : left + inner.shape[1]] = inner
        film.write(scene)
    film.release()


def timed(seconds: dict[str, float], name: str, function: Any) -> Any:
    """The function, its seconds of processor time added up, those of threads that it starts not."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds[name] += time.thread_time() - start

    return call


def predict(source: str, run: str, parts: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Rates of the pipeline as the command uses it; with `parts` the shares of the processor time, computed in one thread."""
    from emotiw_keras.serving import inputs
    from emotiw_keras.serving.decoders import apart
    from emotiw_keras.serving.inputs import decoded, read_inputs
    from emotiw_keras.serving.pipeline import Pipeline
    from emotiw_keras.serving.rows import json_line, rows_of
    from emotiw_keras.serving.video_inputs import opened

    seconds = dict.fromkeys(("decode", "detect", "cut", "network"), 0.0)
    with open(os.devnull, "w") as nowhere, apart(decoded, opened):
        from emotiw_keras.serving.predictor import Predictor

        predictor = Predictor(run, **settings)
        pipeline = Pipeline(predictor, every=EVERY)
        film = any(Path(source).glob("*.mp4"))
        if parts:
            from emotiw_keras.hardware import limit_threads

            limit_threads(1)
            inputs.decode = timed(seconds, "decode", inputs.decoded)
            predictor.cut = timed(seconds, "cut", predictor.cut)
            predictor.classify = timed(seconds, "network", predictor.classify)
        first = [str(path) for path in sorted(Path(source).iterdir())[:WARM_UP]] if not film else [source]
        for _ in range(1 if film else 2):
            for _reading in pipeline.read(read_inputs(first), threads=not parts):
                pass
        if parts:
            finder = predictor.video_detector if film else predictor.detector
            finder.detect = timed(seconds, "detect", finder.detect)
        seconds.update(dict.fromkeys(seconds, 0.0))
        count = faces = 0
        start, worked = time.perf_counter(), time.process_time()
        for reading in pipeline.read(read_inputs([source]), threads=not parts):
            for row in rows_of(reading):
                nowhere.write(json_line(row) + "\n")
            count += 1
            faces += len(reading.faces)
        wall, cpu = time.perf_counter() - start, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = {"images": count, "faces": faces, "rate": count / wall, "seconds": wall, "peak MiB": peak}
    if parts:
        found["milliseconds"] = {name: 1000 * value / count for name, value in (seconds | {"all": cpu}).items()}
    return found


def prepared(source: str) -> dict[str, Any]:
    """Rate of `emotiw prepare`, its processes' start included."""
    from emotiw_keras.data.prepare import prepare

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = prepare(source, Path(folder) / "out", workers=2, near_duplicates=0)
        wall = time.perf_counter() - start
    steps = sum(summary.seconds.values())
    shares = {name: value / steps for name, value in summary.seconds.items()}
    count = len(list(Path(source).iterdir()))
    return {"images": count, "rate": count / wall, "shares": shares}


def decode(source: str) -> dict[str, Any]:
    """Rate of a program that decodes with two threads and does nothing else."""
    from emotiw_keras.data.images import decode_image
    from emotiw_keras.data.prefetch import map_ahead
    from emotiw_keras.serving.video_inputs import opened

    start, count = time.perf_counter(), 0
    for path in sorted(Path(source).iterdir()):
        if path.suffix == ".mp4":
            count += sum(1 for _ in opened(str(path), path.name).frames)
    files = [path for path in sorted(Path(source).iterdir()) if path.suffix == ".jpg"]
    count += sum(1 for _ in map_ahead(lambda path: decode_image(path.read_bytes()).shape, files, 2))
    return {"images": count, "rate": count / (time.perf_counter() - start)}


def found_faces(source: str) -> dict[str, Any]:
    """Name -> boxes and eyes of the faces in the photos below a folder."""
    from emotiw_keras.data.images import decode_image
    from emotiw_keras.faces import get_detector

    detector, found = get_detector(), {}
    for path in photos_below(Path(source)):
        faces = detector.detect(decode_image(path.read_bytes()))
        found[str(path)] = [[*face.box, *face.eyes[0], *face.eyes[1]] for face in faces]
    return {"faces": found}


def compared(first: dict[str, list[list[float]]], second: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Faces that both found, that one alone found, and how far apart their eyes are, in distances between them."""
    import numpy as np

    apart, alone = [], [0, 0]
    for name, faces in first.items():
        left = [np.array(face[4:]).reshape(2, 2) for face in second[name]]
        for face in faces:
            eyes = np.array(face[4:]).reshape(2, 2)
            gaps = [np.linalg.norm(other - eyes, axis=1).max() / np.linalg.norm(eyes[1] - eyes[0]) for other in left]
            if gaps and min(gaps) < 0.5:
                apart.append(float(min(gaps)))
                left.pop(int(np.argmin(gaps)))
            else:
                alone[0] += 1
        alone[1] += len(left)
    median, most = (round(float(np.quantile(apart, at)), 4) if apart else None for at in (0.5, 1.0))
    return {"both": len(apart), "alone": alone, "eyes_apart_median": median, "eyes_apart_most": most}


def links(tree: Path, folder: Path) -> Path:
    """A folder from which Python imports the package of a checkout, whatever is installed."""
    package = folder / "emotiw_keras"
    package.mkdir(parents=True)
    for path in (tree / "emotiw_keras").iterdir():
        (package / path.name).symlink_to(path.resolve())
    for name in ("cli", "weights"):
        (package / name).symlink_to((tree / name).resolve())
    return folder


def ask(imports: Path, what: str, *arguments: Any) -> dict[str, Any]:
    """What a function of this module says in a process that imports another package."""
    also = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(imports), *also]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(Path(__file__)), "--child", json.dumps([what, *arguments])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def growth(
    imports: Path, paths: list[Path], folder: Path, name: str, counts: list[int], more: tuple[Any, ...]
) -> dict[str, Any]:
    """Seconds and peak memory of `predict` on sets of several sizes, each in a process of its own; a hundred files at most."""
    size, _ = SETS[name]
    found = {}
    if name != "film":
        write_photos(paths, folder / "grown", min(100, *counts), size, progressive=False)
    for count in counts:
        source = folder / f"{name}-{count}"
        if name == "film":
            write_film(paths, source, count, size)
        else:
            files = sorted((folder / "grown").iterdir())
            source.mkdir()
            for index in range(count):
                os.link(files[index % len(files)], source / f"{index:06}.jpg")
        found[str(count)] = told = ask(imports, "predict", str(source), *more)
        figures = f"{told['seconds']:.1f} s, {told['rate']:.1f} a second, peak {told['peak MiB']:,} MiB"
        print(f"growth   {name:6} {told['images']:,} images: {figures}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photos with faces")
    parser.add_argument("--old", type=Path, help="root of another checkout, to take turns with")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which of them (all)")
    parser.add_argument("--count", type=int, help="photos, or frames, of each set (400 small, 24 large, 600 of a film)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (3)")
    parser.add_argument("--progressive", action="store_true", help="photos are progressive JPEGs")
    parser.add_argument("--only", nargs="+", choices=("faces", "predict", "prepare", "parts", "decode"), help="not all of it")
    parser.add_argument("--growth", nargs="+", type=int, default=[], metavar="N", help="sets of so many images instead")
    parser.add_argument("--model", default="fer28-face-vgg", help="run folder or name of a model (fer28-face-vgg)")
    parser.add_argument("--engine", help="of `predict`, of this tree, as its option (the command's own choice)")
    parser.add_argument("--precision", help="of `predict`, of this tree, as its option (float32)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *arguments = json.loads(options.child)
        functions = {"predict": predict, "prepare": prepared, "decode": decode, "faces": found_faces}
        print(json.dumps(functions[what](*arguments)))
        return
    if options.photos is None:
        parser.error("--photos is missing: a folder of photos with faces")
    if options.growth and (options.old or options.only or options.count):
        parser.error("--growth measures `predict` of this tree alone, on these numbers: leave --old, --only and --count out")
    settings = {key: getattr(options, key) for key in ("engine", "precision") if getattr(options, key)}
    more = (options.model, False, settings)
    wanted = options.only or ("faces", "predict", "prepare", "parts", "decode")
    if settings and not options.growth and not {"predict", "parts"} & set(wanted):
        parser.error(f"--{' and --'.join(settings)} are for predict and parts, which --only leaves out")
    asked: dict[str, dict[str, Any]] = {"new": settings, "old": {}}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        trees = {"new": links(ROOT, Path(folder) / "new")}
        if options.old is not None:
            trees["old"] = links(options.old, Path(folder) / "old")
        if "faces" in wanted and options.old is not None:
            found = {name: ask(tree, "faces", str(options.photos))["faces"] for name, tree in trees.items()}
            figures["faces"] = compared(found["old"], found["new"])
            print("faces", json.dumps(figures["faces"]), flush=True)
        paths = [path for path in photos_below(options.photos) if "noface" not in path.parts]
        for name in options.sets:
            if options.growth:
                grown = growth(trees["new"], paths, Path(folder), name, options.growth, more)
                figures[f"growth {name}"] = grown
                continue
            size, usual = SETS[name]
            source = Path(folder) / name
            if name == "film":
                write_film(paths, source, options.count or usual, size)
            else:
                write_photos(paths, source, options.count or usual, size, options.progressive)
            for part in ("predict", "prepare"):
                if part not in wanted or (part, name) == ("prepare", "film"):
                    continue
                rates: dict[str, list[float]] = {tree: [] for tree in trees}
                for _ in range(options.rounds):
                    for tree, imports in trees.items():
                        given = (options.model, False, asked[tree]) if part == "predict" else ()
                        rates[tree].append(ask(imports, part, str(source), *given)["rate"])
                figures[f"{part} {name}"] = rates
                told = [
                    f"{tree} {statistics.median(each):.1f} ({min(each):.1f} - {max(each):.1f})" for tree, each in rates.items()
                ]
                ratio = statistics.median(rates["new"]) / statistics.median(rates["old"]) if "old" in rates else 1.0
                print(f"{part:8} {name:6} images/s: {', '.join(told)}; {ratio:.2f} times", flush=True)
            if "parts" in wanted:
                for tree, imports in trees.items():
                    figures[f"parts {name} {tree}"] = found = ask(
                        imports, "predict", str(source), options.model, True, asked[tree]
                    )
                    times = ", ".join(f"{part} {value:.2f}" for part, value in found["milliseconds"].items())
                    print(f"parts    {name:6} {tree}: ms of processor an image, one thread: {times}", flush=True)
            if "decode" in wanted:
                figures[f"decode {name}"] = ask(trees["new"], "decode", str(source))["rate"]
                print(f"decode   {name:6} images/s, two threads, nothing else: {figures[f'decode {name}']:.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
