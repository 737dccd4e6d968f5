"""Commands that are killed before a chosen file operation, and commands that may write no more than so many bytes.

Each runs in a process of its own, forked from one that has TensorFlow imported. What it left must be whole or swept: the same
command again ends as one that was let alone, or says that its place is taken, and then whatever lies there is whole.
"""

from __future__ import annotations

import builtins
import csv
import io
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import processes
from tests.chaos.campaign import RECIPE, Campaign, believed, content_of

NEVER = 1 << 40
SECONDS_FOR_ONE = 200
_TAKEN = (2, 6)
"""Exit codes with which a command says that its place is taken."""


def killed(before: str, counted: str, *words: str) -> None:
    """The command line, which ends as by SIGKILL before that many file operations: a file opened for writing, flushed,
    renamed or removed, or a folder made. How many there were goes into the file `counted`."""
    left = made = int(before)

    def watched(function: Callable[..., Any], counts: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if counts(*arguments, **options):
                left -= 1
                if left < 0:
                    os._exit(137)
            return function(*arguments, **options)

        return call

    def writes(_: Any, mode: str = "r", *__: Any, **___: Any) -> bool:
        return bool(set(mode) & set("wax+"))

    for name in ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))
    opened = watched(io.open, writes)
    builtins.open = io.open = opened  # type: ignore[assignment]
    try:
        processes.emotiw(*words)
    finally:
        descriptor = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, str(made - left).encode())
        os.close(descriptor)


def limited(most: str, *words: str) -> None:
    """The command line, none of whose files may grow beyond so many bytes: more is cut short and then refused, as on a full
    disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), resource.RLIM_INFINITY))
    processes.emotiw(*words)


@dataclass(frozen=True)
class Command:
    """A command that writes to OUT.

    Attributes:
        words: its words; {m} is the material and {out} is OUT.
        made: what of OUT is compared.
        name: what OUT is called.
        at_once: whether OUT is there whole or not at all, so that what a killed one left is what another one makes.
    """

    words: str
    made: Callable[[Path], Any]
    name: str = "out"
    at_once: bool = False


def training(run: Path) -> Any:
    """The weights of a run, and its history without the times."""
    with open(run / "history.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)]
    left = [path.name for path in run.rglob(".*") if path.is_file()]
    return believed(run)[3], rows, left


def weights(file: Path) -> Any:
    """The arrays of a weight file."""
    from emotiw_keras.formats.reading import read

    return {name: array.tobytes() for name, array in read(file).arrays.items()}


def packed(run: Path) -> Any:
    """What commands take from a packed run."""
    return believed(run)[1:4:2]


def report(folder: Path) -> Any:
    """The tables of a report, and that its pages and images are there."""
    files = content_of(folder)
    return files["scores.json"], files["predictions.csv"], sorted(files)


def served(folder: Path) -> Any:
    """What a SavedModel says of faces that are drawn, to four digits (its bytes are others each time), and its files."""
    import tensorflow as tf

    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    said = tf.saved_model.load(str(folder / "1")).signatures["pixels"](pixels=tf.constant(faces))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return np.round(said["probabilities"].numpy(), 4).tolist(), said["labels"].numpy().tolist(), files


def side_by_side(folder: Path) -> Any:
    """The figures of a comparison, and that its page is there."""
    files = content_of(folder)
    return files["compare.json"], sorted(files)


_FREEZES = 'rules = [["conv1", 0.0], ["*", 1.0]]\ncache_features = true\ncrops_per_image = 1'
FROZEN = RECIPE.replace('name = "two"', f'name = "two"\n{_FREEZES}')
COMMANDS = {
    "fit": Command("fit {m}/chaos.toml --data faces={m}/faces --limit 7 --out {out}", training),
    "fit, kept features": Command("fit {m}/frozen.toml --data faces={m}/faces --limit 7 --out {out}", training),
    "prepare": Command("prepare {m}/photos {out} --no-face centre --workers 1", content_of),
    "predict --annotate": Command("predict {m}/photos --model {m}/run --faces whole --annotate {out}", content_of),
    "convert": Command("convert {m}/alexnet.weights.h5 --model alexnet --width 0.0625 --out {out}", weights, "a.weights.h5"),
    "pack": Command("pack {m}/run {out} --data {m}/faces", packed, at_once=True),
    "export, ONNX": Command("export {m}/run {out} --format onnx", lambda file: file.read_bytes(), "a.onnx", at_once=True),
    "export, TFLite": Command("export {m}/run {out} --format tflite", lambda file: file.read_bytes(), "a.tflite", at_once=True),
    "export, SavedModel": Command("export {m}/run {out}", served, at_once=True),
    "evaluate --out": Command("evaluate {m}/run --data {m}/faces --limit 7 --out {out}", report),
    "compare --out": Command("compare {m}/run {m}/run --data {m}/faces --limit 7 --out {out}", side_by_side),
    "card": Command("card {m}/run --data {m}/faces --limit 7 --out {out}", lambda file: file.read_bytes(), "card.md"),
}


class Commands:
    """The commands, what each makes when it is let alone, and how many file operations that takes.

    Args:
        campaign: counts.
        material: a folder with the faces and a run; recipes, photos and weights are added.
    """

    def __init__(self, campaign: Campaign, material: Path) -> None:
        from emotiw_keras.models import registry

        self._campaign, self._material = campaign, material
        (material / "chaos.toml").write_text(RECIPE)
        (material / "frozen.toml").write_text(FROZEN)
        (material / "photos").mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (3, 90, 80, 3), np.uint8)
        for number, pixels in enumerate(noise):
            Image.fromarray(pixels).save(material / "photos" / f"{number}.png")
        registry.build("alexnet", weights=None, classes=7, width=0.0625).save_weights(material / "alexnet.weights.h5")
        self._numbers = itertools.count()
        self._known: dict[str, tuple[Any, int, int]] = {}

    def _run(self, how: Callable[..., None], first: tuple[object, ...], words: str, out: Path) -> Any:
        parts = [part.format(m=self._material, out=out) for part in words.split()]
        environment = {**os.environ, "EMOTIW_CACHE": str(out.parent / "cache")}
        return processes.run(how, *map(str, first), *parts, timeout=SECONDS_FOR_ONE, cwd=out.parent, env=environment)

    def _place(self, command: Command) -> Path:
        folder = self._campaign.folder / f"place-{next(self._numbers)}"
        folder.mkdir()
        return folder / command.name

    def known(self, name: str) -> tuple[Any, int, int]:
        """What a command makes that is let alone, its file operations, and the bytes of the largest file it writes."""
        if name not in self._known:
            command = COMMANDS[name]
            out = self._place(command)
            counted = out.parent / "count"
            done = self._run(killed, (NEVER, counted), command.words, out)
            assert done.returncode == 0, f"{name}: {done.stderr}"
            files = [path for path in (out, *out.rglob("*")) if path.is_file()]
            self._known[name] = command.made(out), int(counted.read_text()), max(path.stat().st_size for path in files)
            shutil.rmtree(out.parent)
        return self._known[name]

    def trial(self, part: str, name: str, how: Callable[..., None], first: tuple[object, ...], codes: tuple[int, ...]) -> None:
        """Run a command with a fault, and again without."""
        command, (expected, _, _) = COMMANDS[name], self.known(name)
        out = self._place(command)

        def answer() -> Any:
            done = self._run(how, first, command.words, out)
            assert done.returncode in codes, f"exit code {done.returncode}: {done.stderr}"
            assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
            again = self._run(processes.emotiw, (), command.words, out)
            if again.returncode in _TAKEN and out.exists():
                self._whole(out)
                if command.at_once:
                    assert command.made(out) == expected, "the place is taken by something else than the command makes"
                fresh = self._place(command)
                again = self._run(processes.emotiw, (), command.words, fresh)
                assert again.returncode == 0, again.stderr
                made = command.made(fresh)
                shutil.rmtree(fresh.parent)
                return made
            assert again.returncode == 0, f"again: exit code {again.returncode}: {again.stderr}"
            left = [path.name for path in out.parent.iterdir() if path.name not in (out.name, "cache", "count")]
            assert not left, f"beside it is left {left}"
            return command.made(out)

        self._campaign.trial(f"{part} {name}", f"{first}", answer, expected)
        shutil.rmtree(out.parent, ignore_errors=True)

    @staticmethod
    def _whole(out: Path) -> None:
        """What lies in a place that is taken can be read to its end; a hidden file is what was just being written."""
        for path in (out, *out.rglob("*")):
            if path.suffix in (".png", ".jpg") and not path.name.startswith("."):
                with Image.open(path) as image:
                    image.load()


def kills(commands: Commands, campaign: Campaign) -> None:
    """Each command in turn, killed before a file operation that is drawn."""
    for name in itertools.cycle(COMMANDS):
        if campaign.over():
            return
        at = campaign.random.randrange(commands.known(name)[1])
        commands.trial("kill:", name, killed, (at, os.devnull), (0, 137))


def full_disks(commands: Commands, campaign: Campaign) -> None:
    """Each command in turn, whose files may grow to a size that is drawn."""
    for name in itertools.cycle(COMMANDS):
        if campaign.over():
            return
        most = int(commands.known(name)[2] ** campaign.random.uniform(0.3, 1))
        commands.trial("full disk:", name, limited, (most,), (0, 6))
