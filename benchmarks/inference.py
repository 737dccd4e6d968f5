"""Our predictor, the SavedModel, TFLite and ONNX Runtime on one network: batches a second, and how long one face takes.

    python -m benchmarks.inference --json inference.json

AlexNet at full width with random weights is exported in every format; ONNX Runtime runs our own export (the
extra `onnx`). All take the same prepared uint8 faces and must give the same probabilities before anything is timed.
Each is a process of its own; they are measured in turns while the others wait. "predictor" is `Predictor.classify`, the others
call their runtime directly. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from emotiw_keras.hardware import processor_flags, processor_threads

Answer = Callable[[np.ndarray], np.ndarray]
LIMIT = 1e-5
FILES = {"predictor": "run", "savedmodel": "savedmodel", "tflite": "model.tflite", "onnxruntime": "model.onnx"}
PACKAGES = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime")


def _predictor(path: str) -> Answer:
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.serving.predictor import Predictor

    keep_memory()
    predictor = Predictor(path)
    return lambda faces: predictor.classify(list(faces))


def _savedmodel(path: str) -> Answer:
    import tensorflow as tf

    model = tf.saved_model.load(path)
    call = model.signatures["pixels"]
    # The model must outlive its signature.
    return lambda faces, model=model: call(pixels=tf.constant(faces))["probabilities"].numpy()  # type: ignore[misc]


def _tflite(path: str) -> Answer:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=path, num_threads=processor_threads())
    runner = interpreter.get_signature_runner("serving_default")
    return lambda faces: runner(pixels=faces)["probabilities"]


def _onnxruntime(path: str) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda faces: session.run(["probabilities"], {"pixels": faces})[0]


OPEN: dict[str, Callable[[str], Answer]] = {
    "predictor": _predictor,
    "savedmodel": _savedmodel,
    "tflite": _tflite,
    "onnxruntime": _onnxruntime,
}


def contestant(name: str, folder: Path) -> None:
    """A process of its own: stores its answers, then times each line `BATCH SECONDS` of standard input."""
    answer = OPEN[name](str(folder / FILES[name]))
    faces = np.load(folder / "faces.npy")
    np.save(folder / f"{name}.npy", answer(faces))
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = int(line.split()[0]), float(line.split()[1])
        some = faces[:batch]
        for _ in range(3):
            answer(some)
        taken: list[float] = []
        while sum(taken) < seconds or len(taken) < 3:
            start = time.perf_counter()
            answer(some)
            taken.append(time.perf_counter() - start)
        print(json.dumps(taken), flush=True)


def write_all(folder: Path, options: argparse.Namespace) -> None:
    """The run, its exports and the faces, in a folder."""
    from benchmarks.random_run import write_random_run
    from emotiw_keras.serving import export, portable

    run = write_random_run(folder / "run", model=options.model, width=options.width)
    soften(run, options.batch, folder / "faces.npy")
    writers = {
        "savedmodel": export.export_savedmodel,
        "tflite": portable.export_tflite,
        "onnxruntime": portable.export_onnx,
    }
    for name in options.peers:
        report = writers[name](run, folder / FILES[name])
        print(f"{name}: {report.megabytes:.1f} MB, {report.compared} faces agree within {report.largest_difference:.1e}")


def soften(run: Path, batch: int, faces_file: Path) -> None:
    """Write random faces, and scale the last layer until the probabilities of the run are far from 0 and 1.

    Else every answer would be the same whatever the arithmetic, and comparing them would prove nothing.
    """
    from emotiw_keras.files import sha256_file
    from emotiw_keras.runs import WEIGHTS_FILE
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(run)
    shape = (batch, predictor.side, predictor.side, predictor.channels)
    faces = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.save(faces_file, faces)
    last = [layer for layer in predictor.net.layers if layer.weights][-1]
    while predictor.classify(list(faces[:4])).max() > 0.8:
        last.set_weights([weight / 2 for weight in last.get_weights()])
    predictor.net.save_weights(run / WEIGHTS_FILE)
    info = json.loads((run / "run.json").read_text())
    info["weights"]["sha256"] = sha256_file(run / WEIGHTS_FILE)
    (run / "run.json").write_text(json.dumps(info))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rates and latencies of all contestants, one a round each, in turns."""
    workers: dict[str, subprocess.Popen[str]] = {}
    gaps = {}
    for name in ("predictor", *options.peers):
        command = [sys.executable, "-m", "benchmarks.inference", "--contestant", name, "--folder", str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        workers[name] = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        if workers[name].stdout.readline() != "ready\n":  # type: ignore[union-attr]
            raise SystemExit(f"inference: {name} did not start; nothing was measured")
        found, wanted = np.load(folder / f"{name}.npy"), np.load(folder / "predictor.npy")
        gaps[name] = float(np.abs(found - wanted).max())
        # Not "gap > LIMIT": a nan must fail too.
        if not gaps[name] <= LIMIT:
            raise SystemExit(f"inference: {name} differs from the predictor by {gaps[name]:.2g}; nothing was measured")
    batches: dict[str, list[float]] = {name: [] for name in workers}
    singles: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            for batch, store in ((options.batch, batches), (1, singles)):
                worker.stdin.write(f"{batch} {options.seconds}\n")  # type: ignore[union-attr]
                worker.stdin.flush()  # type: ignore[union-attr]
                taken = json.loads(worker.stdout.readline())  # type: ignore[union-attr]
                # One rate a round; of single faces every call counts.
                store[name] += [batch / statistics.mean(taken)] if batch > 1 else [1000 * each for each in taken]
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
        worker.wait()
    return {
        name: {
            "images_per_second": statistics.median(batches[name]),
            "spread": [min(batches[name]), max(batches[name])],
            "single_ms_p50": float(np.percentile(singles[name], 50)),
            "single_ms_p99": float(np.percentile(singles[name], 99)),
            "single_calls": len(singles[name]),
            "largest_difference": gaps[name],
        }
        for name in workers
    }


def main() -> None:
    """Measure, print one table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", default="alexnet", help="name in the registry (alexnet)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the network (1.0)")
    parser.add_argument("--batch", type=int, default=64, help="faces of a batch (64)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each measurement (3)")
    peers = list(FILES)[1:]
    parser.add_argument("--peers", nargs="*", default=peers, choices=peers, help="what runs beside us (all)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--contestant", choices=tuple(FILES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contestant(options.contestant, options.folder)
        return
    missing = [each for each in ("onnx", "onnxruntime") if importlib.util.find_spec(each) is None]
    if missing and "onnxruntime" in options.peers:
        parser.error(f"{' and '.join(missing)} missing: pip install onnx onnxruntime, or choose other --peers")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_all(folder, options)
        rows = measure(folder, options)
    print(f"\n{options.model} at width {options.width:g}, batch {options.batch}, medians of {options.rounds} rounds")
    print(f"{'':12} {'faces/s':>8} {'least':>8} {'most':>8} {'ours':>6} {'p50 ms':>8} {'p99 ms':>8} {'differs':>9}")
    ours = rows["predictor"]["images_per_second"]
    for name, row in rows.items():
        low, high = row["spread"]
        print(
            f"{name:12} {row['images_per_second']:8.1f} {low:8.1f} {high:8.1f} {ours / row['images_per_second']:6.2f} "
            f"{row['single_ms_p50']:8.2f} {row['single_ms_p99']:8.2f} {row['largest_difference']:9.1e}"
        )
    if options.json:
        from importlib import metadata

        versions = {name: metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
        machine = {"python": platform.python_version(), "threads": processor_threads(), "flags": list(processor_flags())}
        settings = {key: getattr(options, key) for key in ("model", "width", "batch", "rounds", "seconds")}
        facts = {"settings": settings, "machine": machine, "versions": versions, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
