"""A generated Aff-Wild2 tree of 40 videos and 200,000 frames: what indexing costs, a short fit, and every row accounted for.

Each part runs in a process of its own, so that its peak memory is its own. The accounting and the score are computed a second
time from the files alone, with plain Python and numpy. Run it from the root of the repository, alone on the machine:
`python -m benchmarks.affwild2`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

INDEX = """
import json, resource, sys, time
from emotiw_keras.data.load import load_faces
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.perf_counter()
faces = load_faces(sys.argv[1], labels="affwild7", grey=False, check=sys.argv[2] == "check")
seconds = time.perf_counter() - start
rows = list(faces.records({}))
names = ("frames", "unlabelled", "missing", "unreadable", "skipped")
print(json.dumps({"seconds": seconds, "bytes": peak() - before, "process_bytes": peak(), "frames": len(faces.video),
                  "rows": {name: sum(int(row[name]) for row in rows) for name in names}}))
"""
RECIPE = """
name = "short"
data = ["affwild2"]
labels = "affwild7"
precision = "float32"
[model]
name = "alexnet"
width = 0.05
input_size = 67
[preprocessing]
mean = [128.0, 128.0, 128.0]
std = [64.0, 64.0, 64.0]
[source.affwild2]
every = 20
[[stage]]
name = "short"
train = ["affwild2:train"]
val = ["affwild2:val"]
epochs = 2
batch_size = 32
accumulate = 4
optimizer = "adam"
learning_rate = 0.001
sampling = "balanced"
monitor = "val_macro_f1"
"""
EMOTIW = [sys.executable, "-c", "from emotiw_keras.cli.main import main; main()"]


def run(command: list[str]) -> tuple[str, float, int]:
    """Output, seconds and peak resident bytes of one process; a child's peak starts at its parent's, so the parent is small."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise click.ClickException(f"{' '.join(command[:8])} ended with {process.returncode}")
        output.seek(0)
        return output.read(), seconds, usage.ru_maxrss * 1024


def by_hand(tree: Path) -> dict[str, dict[str, Any]]:
    """Video -> its split's folder, labels (frame n at n - 1) and the numbers of its pictures, from the files alone."""
    found = {}
    for file in sorted((tree / "annotations" / "EXPR_Set").rglob("*.txt")):
        labels = np.array([int(line) for line in file.read_text().split("\n")[1:] if line])
        there = {int(name.split(".")[0]) for name in os.listdir(tree / "cropped_aligned" / file.stem)}
        found[file.stem] = {"folder": file.parent.name, "labels": labels, "there": there}
    return found


def score_by_hand(videos: dict[str, dict[str, Any]], answers: Path) -> dict[str, Any]:
    """macro-F1 (absent classes are 0), accuracy and 0.67 F1 + 0.33 accuracy of challenge files, on labelled frames alone."""
    truth, told, filled = [], [], 0
    for file in sorted(answers.glob("*.txt")):
        video, lines = videos[file.stem], file.read_text().split()
        assert lines[0].startswith("Neutral,Anger,") and len(lines) == len(video["labels"]) + 1, file
        filled += len(video["labels"]) - len(video["there"])
        for number in sorted(video["there"]):
            if video["labels"][number - 1] >= 0:
                truth.append(video["labels"][number - 1])
                told.append(int(lines[number]))
    t, p = np.array(truth), np.array(told)
    f1 = [2 * ((t == c) & (p == c)).sum() / max(1, (t == c).sum() + (p == c).sum()) for c in range(7)]
    accuracy, macro = float((t == p).mean()), float(np.mean(f1))
    score = 0.67 * macro + 0.33 * accuracy
    return {"n": len(t), "accuracy": accuracy, "macro_f1": macro, "abaw_score": score, "filled": filled}


@click.command()
@click.option("--videos", default=40, show_default=True)
@click.option("--frames", default=200_000, show_default=True)
def main(videos: int, frames: int) -> None:
    """Print what each part costs, as text and as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        module = "emotiw_keras.data.generated"
        told, seconds, _ = run(
            [sys.executable, "-m", module, "affwild2", str(tree), "--videos", str(videos), "--frames", str(frames)]
        )
        click.echo(f"{told.strip()} written in {seconds:.1f} s")
        start = time.perf_counter()
        hand = by_hand(tree)
        labels = [video["labels"] for video in hand.values()]
        unlabelled = sum(int((each < 0).sum()) for each in labels)
        labelled = [np.flatnonzero(each >= 0) + 1 for each in labels]
        used = sum(len(set(each.tolist()) & video["there"]) for each, video in zip(labelled, hand.values(), strict=True))
        rows = {"frames": used, "unlabelled": unlabelled, "missing": sum(map(len, labelled)) - used}
        click.echo(f"by hand: {sum(map(len, labels)):,} rows = {rows}, counted in {time.perf_counter() - start:.1f} s")
        result: dict[str, Any] = {"rows": rows}
        for how in ("list", "check"):
            index = json.loads(run([sys.executable, "-c", INDEX, str(tree), how])[0])
            assert index["rows"] == {**rows, "unreadable": 0, "skipped": 0}, index
            result[how] = index
            click.echo(
                f"index, {how:5}: {index['seconds']:6.2f} s   {index['bytes'] / 2**20:6.1f} MiB above the imports, "
                f"{index['bytes'] / index['frames']:.0f} bytes a frame, process {index['process_bytes'] / 2**20:.0f} MiB"
            )
        recipe = Path(folder) / "short.toml"
        recipe.write_text(RECIPE)
        data, out = f"affwild2={tree}", str(Path(folder) / "run")
        _, seconds, peak = run([*EMOTIW, "fit", str(recipe), "--data", data, "--out", out])
        info = json.loads((Path(out) / "run.json").read_text())["stages"][0]
        result["fit"] = {"seconds": seconds, "peak": peak, "images": info["images"]}
        click.echo(f"fit, 2 epochs of {info['images']:,} images, 4 batches an update: {seconds:.1f} s, {peak / 2**20:.0f} MiB")
        answers = Path(folder) / "answers"
        options = ["--data", str(tree), "--split", "val", "--smooth", "5", "--challenge", str(answers), "--json"]
        told, seconds, peak = run([*EMOTIW, "evaluate", out, *options])
        scores, mine = json.loads(told), score_by_hand(hand, answers)
        judged = [name for name, video in hand.items() if video["folder"] == "Validation_Set"]
        assert sorted(file.stem for file in answers.iterdir()) == judged == sorted(scores["per_video"])
        for key in ("n", "accuracy", "macro_f1", "abaw_score"):
            assert abs(scores[key] - mine[key]) < 1e-9, (key, scores[key], mine[key])
        result["evaluate"] = {"seconds": seconds, "peak": peak, **mine}
        click.echo(
            f"evaluate, {mine['n']:,} scored frames of {len(judged)} videos, smoothed, challenge files: {seconds:.1f} s, "
            f"{peak / 2**20:.0f} MiB; macro-F1 {mine['macro_f1']:.4f}, accuracy {mine['accuracy']:.4f}, score "
            f"{mine['abaw_score']:.4f}, as by hand; {mine['filled']:,} frames without a picture filled"
        )
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
