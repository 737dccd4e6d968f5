"""Where the time of `emotiw fit` goes: its steps, and what stands between the steps of two epochs.

    python benchmarks/ends.py --images 28709 --val 3589 -- fit fer28-scratch --data fer=fer2013.zip --epochs 5 --limit 448

The run goes into a folder that is removed. What is told is of the epochs from the second to the last but one, each from its
first step to that of the next, medians: seconds of its steps at the pace of the median step; what steps took beyond that;
waits for batches; validation; copies of weights, and files that are waited for; the rest. "whole / bare" is what an epoch of
`--images` training and `--val` validation images makes of its bare steps: steps and waits grow with the ones, validation with
the others, checkpoints with time, the rest does not.

It needs nothing beside it, so that the Python of another tree can run it: old and new take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

PARTS = ("_epoch", "_validate", "_close_epoch", "_save")
"""Methods of a stage's training, one after the other in an epoch."""
STARTED = time.perf_counter()


def watch(owner: Any, name: str, note: Callable[[float], None]) -> None:
    """Note how long each call of a method takes."""
    method = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            note(time.perf_counter() - start)

    setattr(owner, name, timed)


def measured(command: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What each epoch of the first stage took but its first and last; how many images, validation images and steps one has, and
    when the first began."""
    from emotiw_keras.cli.main import run
    from emotiw_keras.training.stage_training import StageTraining
    from emotiw_keras.training.train_step import StageSteps

    epochs: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}

    def begin(self: StageTraining) -> None:
        now = time.perf_counter()
        if not facts:
            facts.update(steps=self.per_epoch, images=self.images, val=0 if self.val is None else len(self.val))
            facts.update({"stage": self.number, "until stage 1": now - STARTED})
        if self.number == facts["stage"]:
            epochs.append({"began": now, "steps": [], "stepping": True, "told": 0.0, **dict.fromkeys(PARTS, 0.0)})
        method(self)
        epochs[-1]["stepping"] = False

    def adding(name: str) -> Callable[[float], None]:
        def add(seconds: float) -> None:
            epochs[-1][name] += seconds

        return add

    def tell(seconds: float) -> None:
        epochs[-1]["told"] += seconds if epochs[-1]["stepping"] else 0.0

    watch(StageSteps, "train", lambda seconds: epochs[-1]["steps"].append(seconds))
    for name in PARTS:
        watch(StageTraining, name, adding(name))
    if hasattr(StageTraining, "_tell_epoch"):  # in the next epoch, where a tree writes behind the steps
        watch(StageTraining, "_tell_epoch", tell)
    method = StageTraining._epoch
    StageTraining._epoch = begin  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        code = run([*command, f"--out={folder}/run"])
    if code:
        sys.exit(f"emotiw {' '.join(command)} ended with {code}")
    for epoch, after in zip(epochs, epochs[1:], strict=False):
        epoch["period"] = after["began"] - epoch["began"]
    return epochs[1:-1], facts


def shares(
    epochs: list[dict[str, Any]], facts: dict[str, Any], images: int, val: int, between_checkpoints: float
) -> dict[str, float]:
    """Seconds of an epoch by what they go to; what an epoch of so many images would make of its bare steps."""
    pace = statistics.median(seconds for epoch in epochs for seconds in epoch["steps"])
    parts = [
        {
            "steps": pace * facts["steps"],
            "steps beyond": sum(epoch["steps"]) - pace * facts["steps"],
            "waits": epoch["_epoch"] - sum(epoch["steps"]) - epoch["told"],
            "validation": epoch["_validate"],
            "copies and files": epoch["_close_epoch"] + epoch["_save"],
            "rest": epoch["period"] - sum(epoch[name] for name in PARTS) + epoch["told"],
        }
        for epoch in epochs
    ]
    found = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    more, more_val = images / facts["images"], val / facts["val"] if facts["val"] else 0.0
    bare, waits, validation = more * found["steps"], more * found["waits"], more_val * found["validation"]
    saves = 1 + (bare + waits) // between_checkpoints
    ends = saves * (found["copies and files"] + found["steps beyond"]) + found["rest"]
    return found | {
        "step": pace,
        "images a second": facts["images"] / (found["steps"] + found["waits"]),
        "whole, images a second": images / (bare + waits + validation + ends),
        "whole / bare": bare / (bare + waits + validation + ends),
        "the same without validation": bare / (bare + waits + ends),
    }


def main() -> None:
    """One fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="training images of a whole epoch (those of this fit)")
    parser.add_argument("--val", type=int, help="its validation images (those of this fit)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- fit RECIPE ... without --out")
    chosen = parser.parse_args()
    epochs, facts = measured(chosen.command[chosen.command[:1] == ["--"] :])
    if not epochs:
        sys.exit("an epoch that is neither the first nor the last is measured; give --epochs 3 or more")
    from emotiw_keras.training.stage_training import SECONDS_BETWEEN_CHECKPOINTS

    images = facts["images"] if chosen.images is None else chosen.images
    val = facts["val"] if chosen.val is None else chosen.val
    found = shares(epochs, facts, images, val, SECONDS_BETWEEN_CHECKPOINTS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {**found, **facts, "epochs": len(epochs), "peak MiB": peak}
    print(json.dumps({name: round(value, 4) for name, value in told.items()}))


if __name__ == "__main__":
    main()
