"""Trials and their counts, and what they are tried on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WRONG = ("wrong answer", "traceback", "touched outside")
RECIPE = """
name = "chaos"
description = "two short stages"
precision = "float32"
data = ["faces"]
[model]
name = "alexnet"
weights = "none"
width = 0.0625
input_size = 67
[[stage]]
name = "one"
train = ["faces:train"]
val = ["faces:val"]
epochs = 1
batch_size = 16
learning_rate = 0.01
[[stage]]
name = "two"
train = ["faces:train"]
val = ["faces:val"]
epochs = 2
batch_size = 16
learning_rate = 0.01
"""


class Campaign:
    """Trials and what came of them.

    Args:
        folder: where it works; what lies outside of the folders under trial must not change.
        seed: of the damages.
        seconds: after which no trial begins.
    """

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self.folder, self.random, self.end = folder, random.Random(seed), time.monotonic() + seconds
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.witness = folder / "witness"
        self.witness.mkdir(parents=True)
        (self.witness / "victim.txt").write_text("not yours")

    def trial(self, part: str, what: str, answer: Callable[[], Any], expected: Any) -> None:
        """Run `answer`; it is refused, gives what is expected, or is a failure."""
        from emotiw_keras.errors import EmotiwError

        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = answer()
            outcome = "same answer" if found == expected else "wrong answer"
        except EmotiwError as error:
            outcome = "refused" if len(str(error).splitlines()) == 1 else "traceback"
        except Exception:
            outcome = "traceback"
            what += "\n" + traceback.format_exc(limit=-4)
        if content_of(self.witness) != {"victim.txt": b"not yours"}:
            outcome = "touched outside"
        self.counts[part, outcome] += 1
        if outcome in WRONG:
            self.failures.append(f"{part}: {outcome}: {what}")

    def damaged(self, content: bytes) -> Iterator[tuple[str, bytes]]:
        """Versions of a file's bytes, without end: bits, digits, cuts, zeros, doubled parts."""
        while True:
            at = self.random.randrange(max(1, len(content)))
            kind = self.random.choice(("bit", "digit", "cut", "zeros", "double", "empty", "drop"))
            changed = bytearray(content)
            if kind == "bit" and content:
                changed[at] ^= 1 << self.random.randrange(8)
            elif kind == "digit":
                digits = [i for i, byte in enumerate(content[: 1 << 16]) if 48 <= byte < 58]
                if not digits:
                    continue
                at = self.random.choice(digits)
                changed[at] = 48 + (changed[at] - 47) % 10
            elif kind == "cut":
                del changed[at:]
            elif kind == "zeros":
                changed[at : at + 64] = bytes(len(changed[at : at + 64]))
            elif kind == "double":
                changed[at:at] = content[at : at + 64]
            elif kind == "empty":
                changed.clear()
            elif kind == "drop":
                del changed[at : at + 16]
            if bytes(changed) != content:
                yield f"{kind} at {at}", bytes(changed)

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.end


def make_faces(folder: Path) -> Path:
    """A small set of drawn faces."""
    from emotiw_keras.data.generated import write_images

    write_images("small", folder, 14)
    return folder


def make_run(folder: Path, faces: Path) -> Path:
    """A finished run of two stages."""
    from emotiw_keras.training.fit import fit
    from emotiw_keras.training.recipe import load_recipe

    recipe = folder.with_suffix(".toml")
    recipe.write_text(RECIPE)
    fit(load_recipe(str(recipe)), {"faces": str(faces)}, folder)
    return folder


def believed(folder: Path) -> tuple[Any, ...]:
    """All that commands take from a run: facts, rows, recipe, history, weights."""
    from emotiw_keras.history import read_history
    from emotiw_keras.runs import Run

    run = Run.open(folder)
    rows = [tuple(row.items()) for row in run.rows()]
    weights = hashlib.sha256(b"".join(np.ascontiguousarray(each.numpy()).tobytes() for each in run.build().weights))
    history = repr(read_history(folder / "history.csv"))
    facts = (json.dumps(run.info, sort_keys=True), run.face_input().settings(), run.content("recipe.toml"))
    return facts, rows, history, weights.hexdigest()


def content_of(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files of a prepared folder that a person looks at."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
