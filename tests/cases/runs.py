"""Checks of cases about data sets, trainings and run folders."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests import processes
from tests.cases.tools import ROOT, SMALL_RECIPE, Case, expect


def history_of(run: Path) -> list[dict[str, str]]:
    """The lines of its history, without the times."""
    with open(run / "history.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)]


def adam_ignores_rule_rates(case: Case) -> None:
    command = ["fit", case.copy("rates.toml"), "--data", f"data={case.faces()}"]
    case.emotiw(*command, "--out", "slow")
    case.emotiw(*command, "--out", "fast", "--set", 'one.rules=[["*",1.0]]')
    slow, fast = (history_of(case.work / name) for name in ("slow", "fast"))
    expect(slow != fast, "a ten thousandth of the rate gives the same history")


def data_csv_cut_leak_free(case: Case) -> None:
    run = case.fitted()
    whole = (run / "data.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    damages = {"half its lines": b"".join(lines[: len(lines) // 2]), "empty": b"", "zeros": bytes(len(whole)),
               "cut in a line": whole[: len(whole) // 2 + 3]}  # fmt: skip
    for what, content in damages.items():
        (run / "data.csv").write_bytes(content)
        command = ["evaluate", "run", "--data", "generated:small", "--limit", 28, "--split", "train"]
        done = case.emotiw(*command, "--json", code=8, said=r"data\.csv")
        expect("accuracy" not in done.stdout, f"{what}: figures all the same")
        case.emotiw(*command, "--out", "page", code=8, said=r"data\.csv")
        case.emotiw("card", "run", "--out", "card.md", code=8, said=r"data\.csv")
    (run / "data.csv").write_bytes(whole)
    done = case.emotiw("evaluate", "run", "--data", "generated:small", "--limit", 70, "--split", "train", "--json")
    expect("leak_free" in done.stdout, "nothing is said of leaks")


def failed_start_claims_out(case: Case) -> None:
    faces = case.faces()
    wrong = ["fit", "finetune", "--data", f"data={faces}", "--out", "run", "--epochs", 1]
    case.emotiw(*wrong, "--weights", "nowhere.h5", code=(2, 5))
    case.emotiw(*wrong, "--weights", "fer28-face-vgg-votes", "--set", 'stage.rules=[["no_such_layer", 1.0]]', code=2)
    (case.work / "small.toml").write_text(SMALL_RECIPE.replace("input_size = 67", "input_size = 20"))
    case.emotiw("fit", "small.toml", "--data", f"data={faces}", "--out", "run", code=(2, 5))
    left = list((case.work / "run").rglob("*")) if (case.work / "run").exists() else []
    expect(not left, f"starts that failed left {[path.name for path in left]}")
    case.emotiw(*wrong, "--weights", "fer28-face-vgg-votes")


def readme_weights_by_name(case: Case) -> None:
    faces = case.faces("my_faces")
    case.emotiw(
        "fit", "finetune", "--data", f"data={faces}", "--weights", "fer28-face-vgg-votes", "--out", "runs/mine", "--epochs", 1
    )


# Trims and reads where others write and rename, as `fit` does with the features of a frozen start.
_RACE = """
import sys, threading, time
from pathlib import Path
from emotiw_keras.training import features
root = Path(sys.argv[1])
(root / "a_set").mkdir(parents=True)
(root / "stray.txt").write_text("not a set")
reader = object.__new__(features.Features)
reader.folder = root / "a_set"
over = []
def write():
    while not over:
        for i in range(5):
            aside = root / "a_set" / f".{i}.tmp"
            aside.write_bytes(b"x")
            aside.rename(root / "a_set" / f"{i:06d}-{'0' * 16}.features")
        for path in (root / "a_set").glob("0*"):
            path.unlink(missing_ok=True)
writer = threading.Thread(target=write)
writer.start()
try:
    for _ in range(2000):
        features.trim(root, {"a_set"})
        reader._whole_blocks(lambda line: None)
        features.stored_bytes(root)
finally:
    over.append(1)
    writer.join()
"""


def features_cache_race(case: Case) -> None:
    case.python("-c", _RACE, case.work / "features")


def folder_labels_case(case: Case) -> None:
    case.python(case.folder / "make.py")
    case.copy("tiny.toml")
    case.emotiw("fit", "tiny.toml", "--data", "data=set", "--set", "labels=folder", "--out", "run", "--epochs", 1)
    done = case.emotiw("evaluate", "run", "--data", "set", "--json")
    labels = json.loads((case.work / "run" / "run.json").read_text())["labels"]
    expect(len(labels) == 3 and done.stdout.strip(), f"classes {labels}")


def latin1_file_name(case: Case) -> None:
    case.python(case.folder / "make.py")
    case.copy("tiny.toml")
    case.emotiw("fit", "tiny.toml", "--data", "data=set", "--out", "run", "--epochs", 1)
    expect(b"Jos" in (case.work / "run" / "data.csv").read_bytes(), "the file of that name is not among the data")
    case.emotiw("evaluate", "run", "--data", "set", "--split", "all")
    os.rename(os.fsencode(case.work / "set" / "sad"), os.fsencode(case.work) + b"/set/tr\xefste")
    case.emotiw("fit", "tiny.toml", "--data", "data=set", "--set", "labels=folder", "--out", "run2", "--epochs", 1)


def near_duplicates(case: Case) -> None:
    """Pairs of one photo, cut or shifted otherwise, in two splits: most are said where the set is read."""
    import zipfile

    pairs = list(csv.DictReader((case.folder / "pairs.csv").read_text().splitlines()))
    chosen = [pair for pair in pairs if 0.999 > float(pair["ecc"]) > 0.985][:60]
    expect(len(chosen) == 60, f"{len(chosen)} pairs")
    packed = case.data / "fer2013" / "fer2013_jpg.zip"
    expect(packed.is_file(), f"the images are not at {packed}")
    with zipfile.ZipFile(packed) as file:
        there = {name.rpartition("/")[2]: name for name in file.namelist()}
        for pair in chosen:
            for column, split in (("private", "test"), ("other", "train")):
                _, label, name = pair[column].split("/")
                target = case.work / "set" / split / label / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read(there[name]))
    from emotiw_keras.data import load_faces

    said = [line for line in load_faces(case.work / "set").report if re.search(r"near|same photo|alike", line)]
    counts = [int(number.replace(",", "")) for line in said for number in re.findall(r"\d[\d,]*", line)]
    case.commands.append(("load_faces(pairs)", 0, said[0] if said else "nothing is said of near duplicates"))
    expect(said and max(counts, default=0) >= 50, f"of 60 pairs in two splits {max(counts, default=0)} are said: {said}")


def prepare_journal_deletes_outside(case: Case) -> None:
    (case.work / "victim.txt").write_text("not yours")
    faces = case.faces("photos", 14)
    case.emotiw("prepare", faces, "out", code=(0, 3))
    journal = case.work / "out" / ".prepare.jsonl"
    gone: dict[str, Any] = {"member": "gone.jpg", "state": "1:1", "stem": "gone", "label": "", "split": ""}
    whole = journal.read_text()
    hostile = [
        [{"output": "../victim.txt"}],
        [{"output": str(case.work / "victim.txt")}],
        5,
        ["a"],
        [{"output": 5}],
        [{"x": "y"}],
    ]
    lines = [json.dumps({**gone, "rows": rows}) for rows in hostile] + [json.dumps({**gone, "member": [1], "rows": []})]
    journal.write_text(whole + "\n".join(lines) + "\n")
    case.emotiw("prepare", faces, "out", code=(0, 3))
    expect((case.work / "victim.txt").is_file(), "a file outside of OUT is gone")


def progress_last_step(case: Case) -> None:
    faces = case.faces()
    command = ["fit", "finetune", "--data", f"data={faces}", "--out", "out", "--epochs", "2", "--set", "all.val_least=0"]
    ours, theirs = pty.openpty()
    text: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # how a terminal says that its other side is closed
                return
            if not part:
                return
            text.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        [sys.executable, "-m", "emotiw_keras.cli.main", *command],
        cwd=case.work, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    reader.join()
    os.close(ours)
    screen = b"".join(text).decode(errors="replace")
    case.commands.append(("emotiw " + " ".join(command), done.returncode, screen.splitlines()[-1] if screen else ""))
    expect(done.returncode == 0, screen[-800:])
    shown = re.findall(r"all epoch (\d+)/\d+.*?(\d+)/(\d+).*?accuracy ([\d.]+)%", screen)  # the bar, as it was redrawn
    whole = re.findall(r"all epoch (\d+)/\d+: loss [\d.]+, accuracy ([\d.]+)%", screen)  # the lasting lines
    last = {epoch: float(accuracy) for epoch, done, images, accuracy in shown if done == images}
    last |= {epoch: float(accuracy) for epoch, accuracy in whole}
    written = {row["epoch"]: 100 * float(row["accuracy"]) for row in history_of(case.work / "out")}
    expect(last, f"no line of an epoch was written: {screen[-300:]}")
    for epoch, accuracy in last.items():
        expect(abs(accuracy - written[epoch]) < 0.06, f"epoch {epoch}: {accuracy} % drawn, {written[epoch]:.1f} % written")


def run_folder_hdf5_external(case: Case) -> None:
    import h5py
    import numpy as np

    from emotiw_keras.files import sha256_file

    secret = case.work / "secret"
    secret.write_bytes(np.full(4096, 0.125, np.float32).tobytes())
    case.faces("photos", 7)
    whole = case.fitted("whole")
    for kind in ("external storage", "external link"):
        run = case.work / kind.replace(" ", "_")
        shutil.copytree(whole, run)
        weights = run / "model.weights.h5"
        with h5py.File(weights, "r+") as file:
            found: list[str] = []
            file.visititems(lambda name, item, found=found: found.append(name) if getattr(item, "ndim", 0) == 1 else None)
            shape = file[found[0]].shape
            del file[found[0]]
            if kind == "external storage":
                file.create_dataset(found[0], shape, np.float32, external=[(str(secret), 0, 4 * shape[0])])
            else:
                with h5py.File(case.work / "other.h5", "w") as other:
                    other["values"] = np.ones(shape, np.float32)
                file[found[0]] = h5py.ExternalLink(str(case.work / "other.h5"), "values")
        info = json.loads((run / "run.json").read_text())
        del info["checksum"]  # as a stranger would
        info["weights"]["sha256"] = sha256_file(weights)
        (run / "uncertainty.json").unlink(missing_ok=True)  # of the weights as they were
        (run / "run.json").write_text(json.dumps(info))
        said = "ExternalLink|stored in another file|another file"
        case.emotiw("predict", "photos", "--model", run, "--faces", "whole", code=(5, 8), said=said)
        case.emotiw("pack", run, "packed", "--data", "generated:small", code=(5, 8), said=said)
        expect(not (case.work / "packed").exists(), "a packed run was written")
        command = ["fit", "small.toml", "--data", "data=generated:small", "--limit", 14, "--weights", run, "--out", "other"]
        recipe = case.work / "small.toml"
        recipe.write_text(SMALL_RECIPE.replace('weights = "none"\n', ""))
        case.emotiw(*command, code=(5, 8), said=said)


def train_test_only(case: Case) -> None:
    case.python(case.folder / "make.py")
    case.copy("tiny.toml")
    case.emotiw("fit", "tiny.toml", "--data", "data=set", "--out", "run", "--epochs", 1, said=r"val.*train|train.*val")
    expect((case.work / "run" / "model.weights.h5").is_file(), "no finished run")


def two_fits_one_out(case: Case) -> None:
    recipe, faces = case.work / "small.toml", case.faces()
    recipe.write_text(SMALL_RECIPE.replace("epochs = 1", "epochs = 4"))
    command = ["fit", str(recipe), "--data", f"data={faces}", "--out", "run"]
    first = processes.Forked(processes.emotiw, *command, cwd=case.work)
    time.sleep(1)
    second = processes.Forked(processes.emotiw, *command, cwd=case.work)
    words = [process.communicate(timeout=300)[1] for process in (first, second)]
    for process, text in zip((first, second), words, strict=True):
        case.commands.append(("emotiw " + " ".join(command), process.returncode or 0, text.splitlines()[-1] if text else ""))
        expect(process.returncode == 0 and "Traceback" not in text, f"exit {process.returncode}: {text[-600:]}")
    expect(
        any(re.search("wait|another|nothing left|finished", text) for text in words), f"no word of the other: {words[1][-300:]}"
    )
    expect(len(history_of(case.work / "run")) == 4, "the history has other than 4 epochs")
