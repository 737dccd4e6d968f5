"""Runs of ours beside other packages that read expressions, on the test faces of FER-2013, all fed the same crops.

Accuracy with all images and without those that also stand in the train or val split, how many faces have the first contestant's
label and by how much a probability differs from its, faces a second in batches of 64, median and 99th percentile of the time of
one face, the process's largest memory, size of the weights, version and licence. Each contestant is a process of its own, in an
environment of its own; after all have answered all faces they take turns while the others wait.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_worker import serve

PEERS = {
    "fer": "peer_fer.py",
    "fer_keras": "peer_fer.py",
    "facex": "peer_facex.py",
    "facial_emotion_recognition": "peer_facial.py",
    "what_the_face": "peer_wtf.py",
    "face_api": "peer_node.mjs",
    "human": "peer_node.mjs",
}
LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def ours(path: str, precision: str, crops: int | None, engine: str) -> None:
    """Be a contestant: a run of ours."""
    import emotiw_keras
    from emotiw_keras.run_facts import WEIGHTS_FILE
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(Run.open(path), crops=crops, precision=precision, engine=engine)
    size = (predictor.run.path / WEIGHTS_FILE).stat().st_size
    facts = {"version": emotiw_keras.__version__, "licence": "MIT", "bytes": size}
    serve(lambda faces: predictor.predict(faces[..., None]), predictor.labels, facts)


def read_test(data: str, limit: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test faces uint8 (n, 48, 48), their labels int (n,), and which also stand in train or val, bool (n,)."""
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.data.splits import stratified

    faces = load_faces(data, labels=LABELS, grey=True, size=48)
    test = faces.indices("test")
    known = {faces.pixel_hash[i] for name in ("train", "val") for i in faces.indices(name)}
    if limit is not None:
        test = stratified(test, faces.label[test], limit)
    pixels = faces.pixels.gather(test)[..., 0]
    if pixels.shape[1:] != (48, 48):
        sys.exit(f"{data} holds faces of {pixels.shape[1:]} pixels; expected FER-2013's 48 x 48")
    return pixels, faces.label[test], np.array([faces.pixel_hash[i] in known for i in test])


def variants(options: argparse.Namespace) -> dict[str, list[str]]:
    """Each run on each engine, in each precision and with each number of crops: name -> the arguments that ask for it."""
    from emotiw_keras.engines import computing_in

    found = {}
    every = itertools.product(options.run, options.engine, options.precision, options.crops or [None])
    for run, engine, precision, crops in every:
        if precision != "float32" and engine not in ("tensorflow", *computing_in(precision)):
            print(f"{engine} does not compute in {precision} here: left out", file=sys.stderr)
            continue
        marks = [engine] if len(options.engine) > 1 else []
        marks += [precision.removeprefix("mixed_")] if len(options.precision) > 1 else []
        marks += [f"{crops} crop{'s' if crops > 1 else ''}"] if crops else []
        asked = ["--run", run, "--engine", engine, "--precision", precision, *(["--crops", str(crops)] if crops else [])]
        found[", ".join([Path(run).name, *marks])] = asked
    return found


def peer_command(name: str, python: str, node_folder: str | None) -> list[str]:
    """What starts a peer."""
    file = Path(PEERS[name])
    if file.suffix == ".py":
        return [python, "-m", f"benchmarks.{file.stem}", *([name] if file.stem == "peer_fer" else [])]
    if node_folder is None or not (Path(node_folder) / "node_modules").is_dir() or shutil.which("node") is None:
        sys.exit(f"{name} needs Node and --node-folder, the folder where npm installed its packages; got {node_folder}")
    return ["node", str(Path(__file__).with_name(file.name)), node_folder, name]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Contestant -> its row."""
    from emotiw_keras.audit.adapter import Adapter
    from emotiw_keras.audit.figures import in_order
    from emotiw_keras.evaluation.metrics import expected_calibration_error, wilson_interval

    here = [sys.executable, "-m", "benchmarks.peers", options.data]
    commands = {name: [*here, "--contestant", name, *asked] for name, asked in variants(options).items()}
    for name in options.peers:
        commands[name] = peer_command(name, options.python, options.node_folder)
    pixels, truth, double = read_test(options.data, options.limit)
    turn = {"faces": str(folder / "faces.npy"), "seconds": options.seconds}
    np.save(folder / "faces.npy", pixels)
    print(f"{len(pixels)} faces, {int(double.sum())} of which stand in train or val too", file=sys.stderr)
    contestants = {name: Adapter(command, called=name) for name, command in commands.items()}
    answers = {name: in_order(each.predict(pixels), each.labels, LABELS) for name, each in contestants.items()}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name, each in contestants.items():
            figures = each.ask(turn)
            if number:  # the first round warms up
                rounds[name].append(figures)
    rows: dict[str, dict[str, Any]] = {}
    first = next(iter(answers.values()))
    for name, each in contestants.items():
        each.end()
        right = answers[name].argmax(axis=1) == truth
        single = [ms for figures in rounds[name] for ms in figures["single_ms"]]
        rates = [figures["faces_per_second"] for figures in rounds[name]]
        rows[name] = {
            "n": len(truth),
            "accuracy": float(right.mean()),
            "accuracy_ci95": wilson_interval(int(right.sum()), len(right)),
            "without_duplicates": float(right[~double].mean()),
            "without_duplicates_ci95": wilson_interval(int(right[~double].sum()), int((~double).sum())),
            "ece": expected_calibration_error(truth, answers[name]),
            "same_label": float((answers[name].argmax(axis=1) == first.argmax(axis=1)).mean()),
            "largest_difference": float(np.abs(answers[name] - first).max()),
            "peak_mb": max((figures["peak_mb"] for figures in rounds[name] if "peak_mb" in figures), default=None),
            "faces_per_second": statistics.median(rates),
            "faces_per_second_spread": [min(rates), max(rates)],
            "single_ms_p50": float(np.percentile(single, 50)),
            "single_ms_p99": float(np.percentile(single, 99)),
            **each.facts,
        }
    return rows


def main() -> None:
    """Measure, print one table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data", help="FER-2013: its zip, folder or CSV")
    parser.add_argument("--run", action="append", default=[], help="a run folder of ours; repeatable")
    parser.add_argument("--engine", nargs="+", default=["tensorflow"], help="what computes ours (tensorflow)")
    parser.add_argument("--precision", nargs="+", default=["float32"], help="what ours compute in (float32)")
    parser.add_argument("--crops", nargs="+", type=int, default=[], help="crops that ours average over (as each run says)")
    parser.add_argument("--python", default=sys.executable, help="the Python of an environment that has the peers installed")
    parser.add_argument("--node-folder", help="the folder where npm installed the peers that run in Node")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="what runs beside ours (all)")
    parser.add_argument("--limit", type=int, help="so many test faces, each class in proportion")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each measurement (3)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        crops = options.crops[0] if options.crops else None
        ours(options.run[0], options.precision[0], crops, options.engine[0])
        return
    names = [*variants(options), *options.peers]
    if len({Path(run).name for run in options.run}) < len(options.run) or len(set(names)) < len(names) or not names:
        parser.error(f"name contestants that differ, at least one; got {', '.join(names) or 'none'}")
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(options, Path(scratch))
    figures = ("accuracy", "no twins", "ECE", "same", "differs", "faces/s", "p50 ms", "p99 ms", "peak MB", "MB")
    width = max(map(len, rows)) + 1
    print("\n" + " " * width + "".join(f"{name:>10}" for name in figures) + "  version, licence")
    for name, row in rows.items():
        rates = f"{100 * row['accuracy']:9.2f}%{100 * row['without_duplicates']:9.2f}%{row['ece']:10.3f}"
        rates += f"{100 * row['same_label']:9.2f}%{row['largest_difference']:10.1e}"
        speed = f"{row['faces_per_second']:10.0f}{row['single_ms_p50']:10.2f}{row['single_ms_p99']:10.2f}"
        peak = "not told" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(f"{name:{width}}{rates}{speed}{peak:>10}{row['bytes'] / 1e6:10.2f}  {row['version']}, {row['licence']}")
    if options.json:
        settings = {key: getattr(options, key) for key in ("limit", "rounds", "seconds")}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
