"""Start-up: `emotiw --help` and `emotiw models` beside an empty Python, `emotiw predict one.png` beside its bare imports.

`predict one.png` is the command as it stands: the model that ships, a face to find in the picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.random_run import write_random_run
from benchmarks.report import Options, Table, spread
from benchmarks.turns import ROOT, summary
from emotiw_keras.data.generated import draw_faces

EMOTIW = "from emotiw_keras.cli.main import main; main()"


def seconds(arguments: list[str]) -> float:
    """Seconds of a Python process that must end well; its output goes nowhere."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def run(options: Options) -> list[Table]:
    """Two groups, each beside what it is measured against; the first round, which fills the caches, is left out."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    rounds = (1, 1) if options.quick else (15, options.rounds)
    light = {"python -c pass": ["-c", "pass"]}
    light |= {f"emotiw {word}": ["-c", EMOTIW, word] for word in ("--help", "models")}
    groups = [(light, rounds[0], 0.15)]
    with tempfile.TemporaryDirectory() as folder:
        made, image = write_random_run(Path(folder, "run")), Path(folder, "one.png")
        cv2.imwrite(str(image), draw_faces(1, size=256)[0][0])
        imports = "import tensorflow, keras"
        heavy = {
            f"python -c '{imports}'": ["-c", imports],
            "emotiw predict one.png": ["-c", EMOTIW, "predict", str(image)],
            "the same with AlexNet, 244 MB": ["-c", EMOTIW, "predict", str(image), "--model", str(made), "--faces", "whole"],
        }
        groups.append((heavy, rounds[1], 1.5))
        rows, figures = [], {}
        for commands, count, bar in groups:
            taken: dict[str, list[float]] = {name: [] for name in commands}
            for turn in range(count + 1):
                for name, arguments in commands.items():
                    found = seconds(arguments)
                    if turn:
                        taken[name].append(found)
            base = summary(next(iter(taken.values())))["median"]
            for name, each in taken.items():
                told = summary(each)
                more = "" if told["median"] == base else f"{told['median'] - base:+.3f}"
                rows.append((name, *spread(told, 3), more, "" if not more else f"{bar:g}"))
                figures[name] = told
    return [Table("Start-up, seconds", ("", "median", "least - most", "beyond the first", "bar"), rows, figures=figures)]
