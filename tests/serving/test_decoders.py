"""Decoders in processes of their own: the same pictures, and a crash of one takes no other input along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.marked import write_film

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoders run apart on Linux, where forking is safe")
# A decoder that crashes on what is called "bad", and in a film at its third frame.
CRASHING = """
import os, signal, sys
from emotiw_keras.data import films
from emotiw_keras.serving import inputs
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
decoded, frame = inputs.decoded, films.FilmReader.frame
def picture(path, data, below):
    if "bad" in path:
        crash()
    return decoded(path, data, below)
def film_frame(film):
    if film.number == 2 and film.fragile:
        crash()
    return frame(film)
begin = films.FilmReader.__init__
def fragile(film, source):
    begin(film, source)
    film.fragile = "bad" in os.fspath(source)
inputs.decoded, films.FilmReader.frame, films.FilmReader.__init__ = picture, film_frame, fragile
"""
READ = """
import json, sys
from emotiw_keras.serving import films, inputs
from emotiw_keras.serving.decoders import apart, current
def seen(names):
    for found in inputs.read_inputs(names):
        for each in getattr(found, "frames", [found]):
            digest = None if each.pixels is None else [list(each.pixels.shape), int(each.pixels.sum())]
            print(json.dumps([each.path, each.frame, each.seconds, each.error, list(each.notes), digest]))
with apart(inputs.decoded, films.opened):
    assert current() is not None
    seen(sys.argv[1:])
print("in this process")
seen(sys.argv[1:])
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and films, of which the names of some begin with "bad"."""
    folder = tmp_path_factory.mktemp("inputs")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for number, name in enumerate(("a.png", "bad.png", "c.jpg", "d.png")):
        Image.fromarray(np.roll(noise, number)).save(folder / name)
    (folder / "e.png").write_bytes(b"no picture")
    frames = [np.roll(np.repeat(np.repeat(noise[:8, :8], 8, 0), 8, 1), number, axis=0) for number in range(6)]
    for name in ("bad_film.mp4", "film.mp4"):
        write_film(folder / name, frames)
    return folder


def test_pictures_and_films_are_those_of_this_process(folder: Path) -> None:
    done = python(READ, folder, folder / "film.mp4", folder / "missing.png")
    apart, _, here = done.stdout.partition("in this process\n")
    assert apart == here and done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in here.splitlines()]
    assert len(rows) == 5 + 6 + 6 + 6 + 1


def test_a_decoder_that_crashes_takes_no_other_input_along(folder: Path, run_folder: Path) -> None:
    command = f"{CRASHING}\nfrom emotiw_keras.cli.main import main\nsys.argv = ['emotiw', *sys.argv[1:]]\nmain()"
    done = python(command, "predict", folder, "--model", run_folder, "--faces", "whole", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    said = "cannot decode: the decoder was ended by SIGSEGV"
    assert errors == {"bad.png": said, "bad_film.mp4": said, "e.png": errors["e.png"]}
    whole = [(Path(row["path"]).name, row["frame"]) for row in rows if not row["error"]]
    frames = [("bad_film.mp4", number) for number in range(2)] + [("film.mp4", number) for number in range(6)]
    assert whole == [("a.png", None), *frames[:2], ("c.jpg", None), ("d.png", None), *frames[2:]]
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert f"bad.png: {said}" in done.stderr
