"""Decoders in processes of their own: the same images, and a crash of one takes no other input along."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.marked import write_video

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoders run apart on Linux, where forking is safe")
# A decoder that crashes on what is called "bad", and in a video at its third frame.
CRASHING = """
import os, signal, sys
from emotiw_keras.data import video_files as videos
from emotiw_keras.serving import inputs
def crash():
    os.kill(os.getpid(), signal.SIGSEGV)
decoded, frame = inputs.decoded, videos.VideoReader.frame
def image(path, data, below):
    if "bad" in path:
        crash()
    return decoded(path, data, below)
def video_frame(video):
    if video.number == 2 and video.fragile:
        crash()
    return frame(video)
begin = videos.VideoReader.__init__
def fragile(video, source, **more):
    begin(video, source, **more)
    video.fragile = "bad" in os.fspath(source)
inputs.decoded, videos.VideoReader.frame, videos.VideoReader.__init__ = image, video_frame, fragile
"""
READ = """
import json, sys
from emotiw_keras.serving import inputs, video_inputs
from emotiw_keras.serving.decoders import apart, current
def seen(names):
    for found in inputs.read_inputs(names):
        for each in getattr(found, "frames", [found]):
            digest = None if each.pixels is None else [list(each.pixels.shape), int(each.pixels.sum())]
            print(json.dumps([each.path, each.frame, each.seconds, each.error, list(each.notes), digest]))
with apart(inputs.decoded, video_inputs.opened):
    assert current() is not None
    seen(sys.argv[1:])
print("in this process")
seen(sys.argv[1:])
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and videos, of which the names of some begin with "bad"."""
    folder = tmp_path_factory.mktemp("inputs")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for number, name in enumerate(("a.png", "bad.png", "c.jpg", "d.png")):
        Image.fromarray(np.roll(noise, number)).save(folder / name)
    (folder / "e.png").write_bytes(b"no image")
    frames = [np.roll(np.repeat(np.repeat(noise[:8, :8], 8, 0), 8, 1), number, axis=0) for number in range(6)]
    for name in ("bad_video.mp4", "video.mp4"):
        write_video(folder / name, frames)
    return folder


def test_images_and_videos_are_those_of_this_process(folder: Path) -> None:
    done = python(READ, folder, folder / "video.mp4", folder / "missing.png")
    apart, _, here = done.stdout.partition("in this process\n")
    assert apart == here and done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in here.splitlines()]
    assert len(rows) == 5 + 6 + 6 + 6 + 1


def test_threads_that_opencv_has_started_already_do_no_harm(folder: Path) -> None:
    busy = "import cv2, numpy, time\ncv2.setNumThreads(4)\ncv2.blur(numpy.ones((2000, 2000, 3)), (31, 31))\ntime.sleep(0.2)\n"
    done = python(busy + READ + "assert cv2.getNumThreads() == 4", folder / "video.mp4")
    apart, _, here = done.stdout.partition("in this process\n")
    assert apart == here and len(here.splitlines()) == 6 and done.returncode == 0, done.stderr


LEFT = """
import sys
from emotiw_keras.serving import inputs, video_inputs
from emotiw_keras.serving.decoders import apart
with apart(inputs.decoded, video_inputs.opened):
    (film,) = inputs.read_inputs(sys.argv[1:])
    assert next(film.frames).error is None
"""
"""A film that is left in the middle, as by Ctrl-C: its frames end after the decoders have."""


def test_a_film_that_is_left_says_nothing(folder: Path) -> None:
    done = python(LEFT, folder / "video.mp4")
    assert done.returncode == 0 and "Exception" not in done.stderr, done.stderr


def test_a_decoder_that_crashes_takes_no_other_input_along(folder: Path, run_folder: Path) -> None:
    command = f"{CRASHING}\nfrom emotiw_keras.cli.main import main\nsys.argv = ['emotiw', *sys.argv[1:]]\nmain()"
    done = python(command, "predict", folder, "--model", run_folder, "--faces", "whole", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    said = "cannot decode: the decoder was ended by SIGSEGV"
    assert errors == {"bad.png": said, "bad_video.mp4": said, "e.png": errors["e.png"]}
    whole = [(Path(row["path"]).name, row["frame"]) for row in rows if not row["error"]]
    frames = [("bad_video.mp4", number) for number in range(2)] + [("video.mp4", number) for number in range(6)]
    assert whole == [("a.png", None), *frames[:2], ("c.jpg", None), ("d.png", None), *frames[2:]]
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert f"bad.png: {said}" in done.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
from emotiw_keras.serving import inputs, video_inputs
from emotiw_keras.serving.decoders import DecodersLost, apart
decoded = inputs.decoded
def image(path, data, below):
    if "bad" in path:
        os.kill(os.getppid() if sys.argv[1] == "mother" else os.getpid(), signal.SIGKILL)
        if sys.argv[1] == "mother":
            os._exit(0)
    return decoded(path, data, below)
with apart(image, video_inputs.opened, blameless=sys.argv[2] == "blameless"):
    for name in ("a.png", "bad.png", "c.jpg"):
        try:
            print(name, inputs.read_file(str(Path(sys.argv[3], name)), name).error)
        except DecodersLost as error:
            print(name, "lost:", error)
            break
"""


BUSY = """
import os, signal, sys, threading, time
from emotiw_keras.serving import inputs, video_inputs
from emotiw_keras.serving.decoders import apart, current
def image(path, data, below):
    os.kill(os.getpid(), signal.SIGTERM)
    print(os.getppid(), os.getpid(), file=sys.stderr, flush=True)
    time.sleep(600)
def ask():
    print(current().image("a", b"", "a").error, file=sys.stderr, flush=True)
with apart(image, video_inputs.opened):
    threading.Thread(target=ask, daemon=True).start()
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_decoders_end_with_who_started_them_and_not_before() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None and process.stderr is not None
        both = [Path("/proc", number) for number in process.stderr.readline().split()]
        there = [each.exists() for each in both]
        process.stdin.close()
        process.wait(30)
        assert there == [True, True]  # SIGTERM is not for them
        end = time.monotonic() + 30
        while any(alive(each) for each in both):
            assert time.monotonic() < end
            time.sleep(0.02)


def alive(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("victim", "way", "told"),
    [
        ("mother", "plain", "lost: the process that starts decoders was ended from outside; run the same command again"),
        ("mother", "blameless", "lost: the process that starts decoders was ended from outside; run the same command again"),
        ("child", "blameless", "lost: a decoder was ended by SIGKILL; run the same command again"),
        ("child", "plain", "cannot decode: the decoder was ended by SIGKILL"),
    ],
)
def test_a_kill_from_outside_is_no_fault_of_the_file(victim: str, way: str, told: str, folder: Path) -> None:
    done = python(KILLED, victim, way, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["a.png None", f"bad.png {told}"]
    assert (done.stdout.splitlines()[2:] == ["c.jpg None"]) == (victim == "child" and way == "plain")
