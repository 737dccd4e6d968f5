"""Our predictor beside the SavedModel, TFLite, ONNX Runtime, OpenVINO and PyTorch on one network: batches and single faces.

All runtimes get our own exports of the run; PyTorch gets the authors' network with the run's weights and ready-made floats, the
others uint8 faces. Probabilities must agree before anything is timed: to 3e-5 in float32, 0.05 in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.report import Options, Table, spread
from benchmarks.train import measured
from benchmarks.turns import Contestant, serve, summary

Answer = Callable[[np.ndarray], np.ndarray]
LIMITS = {"float32": 3e-5, "bfloat16": 0.05}
BATCH = 64
FOLDER = "FORWARD_FOLDER"


def _predictor(folder: Path, precision: str) -> Answer:
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.serving.predictor import Predictor

    keep_memory()
    policy = {"bfloat16": "mixed_bfloat16"}.get(precision, precision)
    predictor = Predictor(folder / "run", precision=policy, engine="tensorflow")
    return lambda faces: predictor.classify(faces)


def _savedmodel(folder: Path, precision: str) -> Answer:
    import tensorflow as tf

    model = tf.saved_model.load(str(folder / "savedmodel" / "1"))
    call = model.signatures["pixels"]
    # The model must outlive its signature.
    return lambda faces, model=model: call(pixels=tf.constant(faces))["probabilities"].numpy()  # type: ignore[misc]


def _tflite(folder: Path, precision: str) -> Answer:
    import tensorflow as tf

    from emotiw_keras.hardware import processor_threads

    interpreter = tf.lite.Interpreter(model_path=str(folder / "model.tflite"), num_threads=processor_threads())
    runner = interpreter.get_signature_runner("serving_default")
    return lambda faces: runner(pixels=faces)["probabilities"]


def _onnxruntime(folder: Path, precision: str) -> Answer:
    from emotiw_keras.engines import onnxruntime_module

    session = onnxruntime_module().InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda faces: session.run(["probabilities"], {"pixels": faces})[0]


def _openvino(folder: Path, precision: str) -> Answer:
    from emotiw_keras.engines import openvino_module

    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    model = openvino_module().Core().compile_model(str(folder / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda faces: model([faces])[0]


def _torch(layout: str) -> Callable[[Path, str], Answer]:
    def start(folder: Path, precision: str) -> Answer:
        import torch

        from benchmarks.train import torch_input, torch_network

        facts = json.loads((folder / "facts.json").read_text())
        with np.load(folder / "torch.npz") as file:
            stored = dict(file)
        net = torch_network(facts["network"], stored, layout).eval()
        cast: Any = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
        # keyed by the number of faces: what the others are given as bytes
        ready = {len(x): torch_input(x, layout) for x in (stored["floats"], stored["floats"][:1])}

        def answer(faces: np.ndarray) -> np.ndarray:
            with torch.inference_mode(), cast:
                return torch.softmax(net(ready[len(faces)]).float(), dim=-1).numpy()

        return answer

    return start


CONTESTANTS: dict[str, Callable[[Path, str], Answer]] = {
    "predictor float32": _predictor,
    "predictor bfloat16": _predictor,
    "savedmodel float32": _savedmodel,
    "tflite float32": _tflite,
    "onnxruntime float32": _onnxruntime,
    "openvino float32": _openvino,
    "openvino bfloat16": _openvino,
    **{f"torch {layout} {p}": _torch(layout) for layout in ("NCHW", "channels_last") for p in ("float32", "bfloat16")},
}


def contestant(name: str, seconds: float) -> None:
    """A process of its own: answers "64" with faces a second, "1" with milliseconds of each call, a file's name with a file."""
    folder = Path(os.environ[FOLDER])
    answer = CONTESTANTS[name](folder, name.split()[-1])
    faces = np.load(folder / "faces.npy")

    def turn(question: str) -> Any:
        if not question.isdigit():
            many = np.load(question, mmap_mode="r")
            chosen = [answer(np.ascontiguousarray(many[start : start + BATCH])) for start in range(0, len(many), BATCH)]
            return np.concatenate(chosen).astype(float).tolist()
        some = np.ascontiguousarray(faces[: int(question)])
        for _ in range(2):
            answer(some)
        taken: list[float] = []
        while sum(taken) < seconds or len(taken) < 3:
            start = time.perf_counter()
            answer(some)
            taken.append(time.perf_counter() - start)
        return len(some) * len(taken) / sum(taken) if len(some) > 1 else [1000 * each for each in taken]

    serve(answer(faces), turn)


def write_all(folder: Path, options: Options) -> Path:
    """The run, its exports, the faces and what PyTorch needs, in a folder; returns the run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from benchmarks.random_run import soften, write_random_run
    from benchmarks.train import torch_arrays
    from emotiw_keras.serving import export, portable
    from emotiw_keras.serving.predictor import Predictor

    if options.run is not None:
        (folder / "run").symlink_to(options.run.resolve())
    else:
        write_random_run(folder / "run", width=0.1 if options.quick else 1.0)
        soften(folder / "run")
    predictor = Predictor(folder / "run", engine="tensorflow")
    shape = (BATCH, predictor.side, predictor.side, predictor.channels)
    np.save(folder / "faces.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    export.export_savedmodel(folder / "run", folder / "savedmodel")
    portable.export_tflite(folder / "run", folder / "model.tflite")
    portable.export_onnx(folder / "run", folder / "model.onnx")
    prepared = np.asarray(predictor.face_input(np.load(folder / "faces.npy")))
    np.savez(folder / "torch.npz", **torch_arrays(predictor.net), floats=prepared)
    (folder / "facts.json").write_text(json.dumps({"network": predictor.run.model_name}))
    return folder / "run"


def agreement(folder: Path, options: Options, run: Path, workers: dict[str, Contestant]) -> list[str]:
    """Top-1 of ours against ONNX Runtime's on the test images of FER-2013, and the accuracy in each precision."""
    if options.faces is None:
        return ["FER-2013 is not at hand (--faces PATH): no comparison of labels."]
    from emotiw_keras.data.resize import resize
    from emotiw_keras.evaluation.evaluate import read_source
    from emotiw_keras.runs import Run

    opened = Run.open(run)
    faces = read_source(opened, options.faces, limit=70 if options.quick else None)
    chosen = faces.indices("test")
    side = opened.settings["resize"]
    prepared = np.stack([resize(image, side, side) for image in faces.pixels.gather(chosen)])
    np.save(folder / "test.npy", prepared)
    names = measured(("onnxruntime float32", "predictor float32", "predictor bfloat16"))
    answers = {name: np.array(workers[name].figure(str(folder / "test.npy"))) for name in names}
    top = {name: rows.argmax(axis=1) for name, rows in answers.items()}
    right = {name: float((rows == faces.label[chosen]).mean()) for name, rows in top.items()}
    lines = []
    for name in names[1:]:
        other = int((top[name] != top[names[0]]).sum())
        share = other / len(chosen)
        lines.append(
            f"{name}: another first label than ONNX Runtime on {other} of {len(chosen):,} test images ({share:.2%}), "
            f"accuracy {right[name]:.2%} against {right[names[0]]:.2%}"
        )
    kind = "the run given" if options.run is not None else "random weights, so accuracy means nothing"
    return [*lines[:-1], lines[-1] + f" ({kind})."]


def run(options: Options) -> list[Table]:
    """One table: faces a second, median and 99th percentile of one face, and how far the probabilities are from ours."""
    seconds, rounds = (0.1, 1) if options.quick else (2.0, options.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = write_all(folder, options)
        workers = {
            name: Contestant(name, ["benchmarks.forward", name, str(seconds)], {FOLDER: scratch})
            for name in measured(CONTESTANTS)
        }
        wanted = workers["predictor float32"].outputs
        gaps = {name: worker.check(wanted, LIMITS[name.split()[-1]]) for name, worker in workers.items()}
        batches: dict[str, list[float]] = {name: [] for name in workers}
        singles: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                batches[name].append(worker.figure(str(BATCH)))
                singles[name] += worker.figure("1")
        notes = agreement(folder, options, made, workers)
        if machine.held():
            notes.append("ONNX Runtime, TFLite and OpenVINO cannot be held to AVX2: their figures are of the whole processor.")
        for worker in workers.values():
            worker.close()
    rates = {name: summary(figures) for name, figures in batches.items()}
    base = rates["onnxruntime float32"]["median"]
    latency = {name: (float(np.percentile(ms, 50)), float(np.percentile(ms, 99)), len(ms)) for name, ms in singles.items()}
    rows = []
    for name, row in rates.items():
        p50, p99, _ = latency[name]
        rows.append((name, *spread(row), f"{row['median'] / base:.2f}", f"{p50:.2f}", f"{p99:.2f}", f"{gaps[name]:.0e}"))
    title = f"Forward, batch {BATCH}, faces a second; one face, milliseconds"
    columns = ("", "median", "least - most", "/ ONNX Runtime", "p50", "p99", "differs")
    figures = {"faces_per_second": rates, "single_ms_p50_p99_calls": latency, "differences": gaps, "notes": notes}
    return [Table(title, columns, rows, notes, figures)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(CONTESTANTS))
    parser.add_argument("seconds", type=float)
    chosen = parser.parse_args()
    contestant(chosen.name, chosen.seconds)
