"""A campaign of faults, `make chaos`: damage, hostile values and kills, in every file that a later command believes.

Each trial damages one thing and runs what reads it. It may be refused in one line, or answer as if nothing had happened; a
traceback, another answer, or a file touched outside of the folder is counted as what it is.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WRONG = ("wrong answer", "traceback", "touched outside")
HOSTILE: tuple[Any, ...] = (None, True, -1, 0, 10**12, 10**400, 0.5, 1e300, [], [1], [[]], {}, {"x": 1})
HOSTILE += ("", "x", "../x", "/etc/passwd", "\x1b[31m", "\0")
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


def damaged_runs(campaign: Campaign, run: Path, most: int) -> None:
    """Damaged bytes in every file of a run."""
    expected = believed(run)
    files = ("run.json", "data.csv", "recipe.toml", "history.csv", "model.weights.h5")
    streams = {name: campaign.damaged((run / name).read_bytes()) for name in files}
    for number in range(most):
        name = files[number % len(files)]
        if campaign.over():
            return
        what, content = next(streams[name])
        whole = (run / name).read_bytes()
        (run / name).write_bytes(content)
        campaign.trial("bytes of a run", f"{name}: {what}", lambda: believed(run), expected)
        (run / name).write_bytes(whole)


def _places(table: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = list(table.items()) if isinstance(table, dict) else list(enumerate(table[:2])) if isinstance(table, list) else []
    return ([at] if at else []) + [place for key, value in items for place in _places(value, (*at, key))]


def _changed(table: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(table))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def hostile_facts(campaign: Campaign, run: Path, most: int) -> None:
    """Hostile values in every field of run.json, its checksum taken out as a stranger would."""
    from emotiw_keras.runs import Run
    from emotiw_keras.sealed import read_sealed

    whole, info = (run / "run.json").read_bytes(), read_sealed(run / "run.json")
    trials = [(place, value) for place in _places(info) for value in HOSTILE]
    campaign.random.shuffle(trials)

    def answer() -> bool:
        opened = Run.open(run)
        return bool((opened.rows(), opened.seen(), opened.selected_on, opened.crop, opened.labels, opened.face_input()))

    for place, value in trials[:most]:
        if campaign.over():
            break
        (run / "run.json").write_text(json.dumps(_changed(info, place, value)))
        campaign.trial("fields of run.json", f"{place} = {value!r:.40}", answer, True)
    (run / "run.json").write_bytes(whole)


def hostile_recipes(campaign: Campaign, most: int) -> None:
    """Hostile values in every field of every recipe that ships."""
    import tomllib

    from emotiw_keras.training.recipe import recipe_from_table, recipe_names, recipe_text

    trials = []
    for name in recipe_names():
        table = tomllib.loads(recipe_text(name))
        trials += [(name, table, place, value) for place in _places(table) for value in HOSTILE if value is not None]
    campaign.random.shuffle(trials)

    def answer(table: dict[str, Any]) -> bool:
        return bool(recipe_from_table(table).to_toml())

    for name, table, place, value in trials[:most]:
        if campaign.over():
            return
        changed = _changed(table, place, value)
        campaign.trial("fields of a recipe", f"{name} {place} = {value!r:.40}", lambda changed=changed: answer(changed), True)


def content_of(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files of a prepared folder that a person looks at."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damaged_prepared(campaign: Campaign, most: int) -> None:
    """Damaged bytes and hostile lines in a prepared folder; then `prepare` again makes what was there, or refuses."""
    from PIL import Image

    from emotiw_keras.data.prepare import prepare
    from tests.data.dotted import Dotted, photo

    source, out = campaign.folder / "photos", campaign.folder / "prepared"
    for label in ("happy", "sad"):
        (source / label).mkdir(parents=True)
        Image.fromarray(photo(((60, 50), (100, 50)), seed=len(label))).save(source / label / "a.png")
    prepare(source, out, detector=Dotted(), workers=1)
    clean = content_of(out)
    journal = clean[".prepare.jsonl"].decode().splitlines()
    record = {key: value for key, value in json.loads(journal[0]).items() if key != "check"}
    rows = [{"path": "gone.png", "output": "../witness/victim.txt"}]
    gone = record | {"member": "gone.png", "stem": "../witness/victim", "rows": rows}
    lines = [json.dumps(gone), json.dumps(gone | {"rows": [{"output": str(campaign.witness / "victim.txt")}]})]
    lines += [json.dumps(_changed(record, place, value)) for place in _places(record) for value in HOSTILE if value != 10**400]
    campaign.random.shuffle(lines)
    # What is written anew in any case, and a face, which only `fit` reads through.
    files = [name for name in (".prepare.jsonl", "prepare.json") if name in clean]
    streams = {name: campaign.damaged(clean[name]) for name in files}

    def answer() -> dict[str, Any]:
        prepare(source, out, detector=Dotted(), workers=1)
        return meant(content_of(out))

    def meant(files: dict[str, bytes]) -> dict[str, Any]:
        # A doubled line of it says the same.
        return files | {"prepare.json": json.loads(files["prepare.json"])}

    for number in range(most):
        if campaign.over():
            return
        if number % 2:
            name = files[number // 2 % len(files)]
            what, content = next(streams[name])
        else:
            name, chosen = ".prepare.jsonl", lines[number // 2 * 8 % len(lines) :][:8]
            what, content = f"lines {chosen}", ("\n".join([*journal, *chosen]) + "\n").encode()
        (out / name).write_bytes(content)
        if number % 2:
            campaign.trial("bytes of a prepared folder", f"{name}: {what}", answer, meant(clean))
        else:  # what a whole line of a stranger says of an image is believed; where it may write and remove is not
            campaign.trial("lines of a journal", what, lambda: bool(answer()), True)
        shutil.rmtree(out)
        for path, data in clean.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(data)


def damaged_features(campaign: Campaign, most: int) -> None:
    """Damaged blocks of a cache of features are noticed and removed."""
    from emotiw_keras.training.features import Features

    folder = campaign.folder / "features"
    block = np.random.default_rng(0).bytes(4096)
    name = f"000000-{hashlib.sha256(block).hexdigest()[:16]}.features"
    stream = campaign.damaged(block)
    reader = object.__new__(Features)
    reader.folder = folder
    for _ in range(most):
        folder.mkdir(exist_ok=True)
        what, content = next(stream)
        (folder / name).write_bytes(content)
        campaign.trial("a cache", what, lambda: (reader._whole_blocks(lambda line: None), list(folder.iterdir())), ({}, []))


# Ends the process, as SIGKILL does, before the file operation of that number.
_KILLED = """
import builtins, io, os, sys
left = int(sys.argv[1])
def counted(function):
    def call(*args, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(137)
        return function(*args, **options)
    return call
os.replace, os.fsync = counted(os.replace), counted(os.fsync)
os.unlink = counted(os.unlink)
from emotiw_keras.cli.main import main
sys.argv = ["emotiw", *sys.argv[2:]]
main()
"""


def kills(campaign: Campaign, faces: Path, expected: Path, most: int) -> None:
    """A training that is killed before a chosen file operation, and again, ends as one that was not."""

    def result(folder: Path) -> tuple[str, list[dict[str, str]]]:
        with open(folder / "history.csv", newline="") as file:
            rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)]
        return believed(folder)[3], rows

    recipe = expected.with_suffix(".toml")
    for number in range(most):
        if campaign.over():
            return
        out = campaign.folder / f"killed-{number}"
        at = campaign.random.randrange(60)
        command = ["fit", str(recipe), "--data", f"faces={faces}", "--out", str(out)]

        def answer(at: int = at, out: Path = out, command: list[str] = command) -> Any:
            python: dict[str, Any] = {"capture_output": True, "text": True, "cwd": ROOT}
            first = subprocess.run([sys.executable, "-c", _KILLED, str(at), *command], **python)
            again = subprocess.run([sys.executable, "-m", "emotiw_keras.cli.main", *command], **python)
            assert first.returncode in (0, 137) and again.returncode == 0, again.stderr
            assert not [path for path in out.rglob(".*") if path.is_file()], "unfinished files are left"
            return result(out)

        campaign.trial("kills", f"before file operation {at}", answer, result(expected))
        shutil.rmtree(out, ignore_errors=True)


def run_campaign(folder: Path, seed: int, seconds: float, small: bool = False) -> Campaign:
    """All parts; `small` ones without trainings that are killed."""
    campaign = Campaign(folder, seed, seconds)
    faces = make_faces(folder / "faces")
    run = make_run(folder / "run", faces)
    hostile_recipes(campaign, 100 if small else 4000)
    hostile_facts(campaign, run, 100 if small else 4000)
    damaged_features(campaign, 30 if small else 1000)
    damaged_prepared(campaign, 4 if small else 80)
    damaged_runs(campaign, run, 10 if small else 400)
    if not small:
        kills(campaign, faces, run, 12)
    return campaign


def main() -> None:
    """Run the campaign; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="after which no trial begins")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = run_campaign(Path(folder).resolve() / "chaos", chosen.seed, chosen.seconds)
    for (part, outcome), count in sorted(campaign.counts.items()):
        print(f"{part:28} {outcome:16} {count:6,}")
    failed = sum(count for (_, outcome), count in campaign.counts.items() if outcome in WRONG)
    print(f"{sum(campaign.counts.values()):,} trials, {failed} failures (seed {chosen.seed})")
    for line in campaign.failures[:10]:
        print(line)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
