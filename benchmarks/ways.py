"""What each fast way brings here: a train step and answers with all ways, beside those with one of them left out.

    python -m benchmarks.ways --network alexnet --what train --precision float32
    python -m benchmarks.ways --network face_vgg --what batch one --precision float32 bfloat16

Contestants take turns, some at a time because each holds a network; in every group the one with all ways is asked anew, and the
gain of a way is the rate with all over the rate without it. A way that a processor does not use shows 1.00 by itself. How many
lines each costs is in RECORDS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.report import Table, spread
from benchmarks.train import LIMITS, RATE, grey_input, network_of, our_step
from benchmarks.turns import Contestant, rate_of, serve, summary

ALL = "all ways"
RUN = "WAYS_RUN"
NEVER = 1 << 62


def _no(*_: Any, **__: Any) -> bool:
    return False


def _without_winograd() -> None:
    from emotiw_keras.models.kernels import winograd

    winograd.suits = _no  # type: ignore[assignment]


def _without_loops() -> None:
    from emotiw_keras.models.kernels import fused

    fused.suits = _no  # type: ignore[assignment]


def _without_regrouping() -> None:
    from emotiw_keras.models.kernels import space_to_depth

    space_to_depth.suits = _no  # type: ignore[assignment]


def _without_dense_blocks() -> None:
    from emotiw_keras.models import layers

    layers.LARGE_KERNEL = NEVER


def _without_normalisation_blocks() -> None:
    from emotiw_keras.models import layers

    layers.BLOCKED_FROM = NEVER


def _without_batch_normalisation() -> None:
    from emotiw_keras.models import layers

    layers.BatchNormalization.is_fused = _no  # type: ignore[assignment,method-assign]


def _without_grey() -> None:
    from emotiw_keras.data import one_channel

    one_channel.for_grey = lambda model, face_input: (model, face_input)  # type: ignore[assignment]


def _without_casts_once() -> None:
    from emotiw_keras.models.kernels import cast_once

    cast_once.narrow_kernels = lambda net: net  # type: ignore[assignment]


def _without_large_pages() -> None:
    from emotiw_keras import hardware

    hardware._large_pages = lambda *_: None  # type: ignore[assignment]


def _without_kept_memory() -> None:
    from emotiw_keras import hardware

    hardware.keep_memory = _no  # type: ignore[assignment]


def _without_any() -> None:
    from emotiw_keras import config

    config.fast_kernels(False)


LEAVE_OUT: dict[str, Callable[[], None]] = {
    ALL: lambda: None,
    "Winograd": _without_winograd,
    "loops": _without_loops,
    "regrouping": _without_regrouping,
    "dense blocks": _without_dense_blocks,
    "LRN blocks": _without_normalisation_blocks,
    "batch normalisation": _without_batch_normalisation,
    "one grey channel": _without_grey,
    "casts once": _without_casts_once,
    "large pages": _without_large_pages,
    "kept memory": _without_kept_memory,
    "all of EMOTIW_FAST_KERNELS": _without_any,
}
"""Way -> what leaves it out in a process that has built no network yet."""


def _trains(options: argparse.Namespace) -> None:
    """Images a second of train steps. What must agree is what the first step learns: the logarithms of the lengths of all
    gradients, decay included, which stand in the optimizer's histories afterwards."""
    import keras

    from emotiw_keras import hardware

    hardware.keep_memory()
    keras.config.set_dtype_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[options.precision])
    face_input, _ = grey_input(options.network)
    step, _, _, optimizer = our_step(network_of(options.network, options.width), face_input, options.batch)
    step()
    lengths = [np.linalg.norm(history.numpy() / RATE) for history in optimizer.histories]
    serve(np.log(lengths), rate_of(step, options.batch, options.seconds))


def _answers(options: argparse.Namespace) -> None:
    """Faces a second of batches, or of one after the other."""
    from emotiw_keras import hardware
    from emotiw_keras.serving.predictor import Predictor

    hardware.keep_memory()
    policy = {"bfloat16": "mixed_bfloat16"}.get(options.precision, options.precision)
    predictor = Predictor(Path(os.environ[RUN]), precision=policy, engine="tensorflow")
    count = options.batch if options.what == "batch" else 1
    shape = (count, predictor.side, predictor.side, predictor.channels)
    faces = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for _ in range(2):
        predictor.classify(faces)
    serve(predictor.classify(faces), rate_of(lambda: predictor.classify(faces), count, options.seconds))


def contestant(options: argparse.Namespace) -> None:
    """A process that leaves one way out."""
    LEAVE_OUT[options.without]()
    (_trains if options.what == "train" else _answers)(options)


def measure(options: argparse.Namespace, what: str, precision: str) -> Table:
    """Rates without each way beside the rate with all of them."""
    limit = LIMITS[precision] if what == "train" else 1e-4 if precision == "float32" else 0.05
    common = [f"--network={options.network}", f"--what={what}", f"--precision={precision}", f"--batch={options.batch}"]
    common += [f"--width={options.width}", f"--seconds={options.seconds}"]
    ways = [name for name in options.ways if name != ALL]
    rows, figures = [], {}
    for first in range(0, len(ways), options.at_once):
        names = [ALL, *ways[first : first + options.at_once]]
        workers = [Contestant(name, ["benchmarks.ways", "--without", name, *common]) for name in names]
        gaps = [worker.check(workers[0].outputs, limit) for worker in workers]
        rounds: list[list[float]] = [[] for _ in workers]
        for turn in range(options.rounds + 1):
            for worker, own in zip(workers, rounds, strict=True):
                rate = worker.figure()
                if turn:
                    own.append(rate)
        for worker in workers:
            worker.close()
        for name, own, gap in zip(names[1:], rounds[1:], gaps[1:], strict=True):
            gain = summary([a / b for a, b in zip(rounds[0], own, strict=True)])
            both = {"with all": summary(rounds[0]), "without": summary(own)}
            figures[name] = {"gain": gain, **both, "differs": gap}
            rates = [cell for each in both.values() for cell in spread(each)]
            rows.append((name, *rates, *spread(gain, 2), f"{gap:.0e}"))
            print("  ".join(rows[-1]), flush=True)
    columns = ("left out", "with all", "least - most", "without it", "least - most", "gain", "least - most", "differs")
    told = {"train": "train step, images a second", "batch": "answers, faces a second", "one": "one face, answers a second"}
    title = f"{options.network}, {precision}, batch {options.batch if what != 'one' else 1}: {told[what]}"
    return Table(title, columns, rows, figures={"network": options.network, "what": what, "precision": precision, **figures})


def main() -> None:
    """Tables; or with `--without` a contestant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ways", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="alexnet", help="of the zoo (alexnet)")
    parser.add_argument("--what", nargs="+", choices=("train", "batch", "one"), default=["train"])
    parser.add_argument("--precision", nargs="+", choices=machine.PRECISIONS, help="(those that the processor has)")
    parser.add_argument("--ways", nargs="+", choices=tuple(LEAVE_OUT), default=list(LEAVE_OUT), help="to leave out (each)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0, help="share of the network's channels (1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (3)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=3, help="ways left out beside the contestant with all (3)")
    parser.add_argument("--json", type=Path, default=Path("ways.json"))
    parser.add_argument("--avx2", action="store_true", help="compute as a processor with AVX2 only")
    parser.add_argument("--without", choices=tuple(LEAVE_OUT), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.without:
        options.what, options.precision = options.what[0], options.precision[0]
        contestant(options)
        return
    if options.avx2:
        machine.hold_to_avx2()
    options.precision = options.precision or list(machine.precisions())
    facts, tables = machine.describe(), []
    print(f"{facts['processor']}, {' '.join(facts['flags'])}, {time.strftime('%F')}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[RUN] = str(Path(folder, "run"))
        if set(options.what) != {"train"}:
            os.environ["KERAS_BACKEND"] = "tensorflow"
            from benchmarks.random_run import soften, write_random_run

            write_random_run(Path(folder, "run"), options.network, options.width)
            soften(Path(folder, "run"))
        for what in options.what:
            for precision in options.precision:
                tables.append(measure(options, what, precision))
                print("\n" + "\n".join(tables[-1].lines()), flush=True)
                told = {"machine": facts, "tables": [{"title": table.title, **table.figures} for table in tables]}
                options.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
