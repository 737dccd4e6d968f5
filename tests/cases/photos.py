"""Checks of cases about images and videos."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cases.tools import CONTROL, Case, expect


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A disk of this size, which only who may mount can have."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True
    )
    expect(mounted.returncode == 0, f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def annotate_full_disk(case: Case) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(case.work / "photo.jpg", quality=95)
    model = case.model()
    with small_disk(case.work / "disk", "1500k") as disk:
        there = os.statvfs(disk)
        (disk / "fill").write_bytes(bytes(there.f_bavail * there.f_frsize - (24 << 10)))
        command = ["predict", "photo.jpg", "--model", model, "--faces", "whole", "--annotate", disk / "ann"]
        case.emotiw(*command, code=6, said="free some space")
        left = [path.name for path in disk.rglob("*") if path.is_file()]
        expect(left == ["fill"], f"left on the full disk: {left}")


def big_photo_small_faces(case: Case) -> None:
    from emotiw_keras.faces.detectors import detect

    photos = case.data / "photos"
    expect(photos.is_dir(), f"the photos are not at {photos}")
    crowd = Image.open(photos / "dlib_faces" / "faces" / "bald_guys.jpg").convert("RGB")
    crowd = np.asarray(crowd.resize((crowd.width // 2, crowd.height // 2), Image.Resampling.BOX))
    background = Image.open(photos / "noface" / "china.png").convert("RGB")
    for width, height in ((4000, 3000), (6000, 4000), (8064, 6048)):
        large = np.array(background.resize((width, height)))
        top, left = (height - crowd.shape[0]) // 2, (width - crowd.shape[1]) // 2
        large[top : top + crowd.shape[0], left : left + crowd.shape[1]] = crowd
        found = len(detect(large))
        case.commands.append((f"detect, {width} x {height}", 0, f"{found} of 24 faces"))
        expect(found >= 23, f"{found} of 24 faces in {width} x {height} pixels")
    found = len(detect(np.hstack([crowd[:500]] * 6)))
    case.commands.append(("detect, a panorama", 0, f"{found} of 96 faces"))
    expect(found >= 92, f"{found} of 96 faces in the panorama")


def film_editlist_false_alarm(case: Case) -> None:
    done = case.emotiw("predict", case.folder / "editlist.mp4", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expect(rows and not any(row.get("error") for row in rows), f"rows {rows[:2]}")


def film_name_colon(case: Case) -> None:
    case.copy("one.mp4", "12:30:05.mp4")
    case.emotiw("predict", "12:30:05.mp4", said="12:30:05.mp4")


def film_name_not_utf8_segfault(case: Case) -> None:
    (case.work / "videos").mkdir()
    case.copy("one.mp4", b"videos/bad\xfe.mp4")
    case.copy("one.mp4", "videos/whole.mp4")
    done = case.emotiw("predict", "videos")
    expect("bad" in done.stdout and "whole.mp4" in done.stdout, f"rows: {done.stdout[-300:]}")


def heic_folder(case: Case) -> None:
    for name in ("IMG_0001.HEIC", "a.webp"):
        (case.work / "photos").mkdir(exist_ok=True)
        case.copy(name, f"photos/{name}")
    case.emotiw("predict", "photos", code=3, said=r"IMG_0001\.HEIC.*(HEIC image|cut short)")
    case.emotiw("predict", "photos/IMG_0001.HEIC", code=3, said=r"(pip install 'emotiw-keras\[heic\]'|cut short|HEIC)")


def heic_grid_one_tile(case: Case) -> None:
    try:
        import pillow_heif  # noqa: F401 - asked whether it is there
    except ImportError:
        case.emotiw("predict", case.folder / "grid.heic", code=3, said=r"HEIC image.*pip install 'emotiw-keras\[heic\]'")
        return
    done = case.emotiw("predict", case.folder / "grid.heic", "--json")
    expect(len(done.stdout.splitlines()) == 2, f"two faces expected: {done.stdout[:300]}")


def jpeg_scan_bomb(case: Case) -> None:
    started = time.monotonic()
    case.emotiw("predict", case.folder / "manyscans.jpg", code=3, said="scans")
    expect(time.monotonic() - started < 60, "took over a minute")
    (case.work / "set" / "happy").mkdir(parents=True)
    shutil.copy(case.folder / "manyscans.jpg", case.work / "set" / "happy")
    case.emotiw("prepare", "set", "faces", code=(3, 4), said="scans")


def nan_weights_predict(case: Case) -> None:
    import h5py

    from emotiw_keras.files import sha256_file

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)).save(case.work / "a.png")
    model = case.model()
    info = json.loads((model / "run.json").read_text())

    def spoil(name: str, value: object) -> None:
        if isinstance(value, h5py.Dataset) and value.ndim == 1:
            value[...] = np.nan

    with h5py.File(model / "model.weights.h5", "r+") as file:
        file.visititems(spoil)
    info["weights"]["sha256"] = sha256_file(model / "model.weights.h5")
    (model / "run.json").write_text(json.dumps(info))
    for more in ([], ["--json"]):
        done = case.emotiw("predict", "a.png", "--model", model, "--faces", "whole", *more, code=(5, 8), said="finite|NaN|nan")
        expect("nan" not in done.stdout.lower(), f"an answer: {done.stdout}")
    case.emotiw("evaluate", model, "--data", "generated:small", "--limit", 14, code=(5, 8), said="finite|NaN|nan")
    other = case.model("other")
    info = json.loads((other / "run.json").read_text())
    info["preprocessing"]["std"] = [0.0, 0.0, 0.0]
    (other / "run.json").write_text(json.dumps(info))
    case.emotiw("predict", "a.png", "--model", other, "--faces", "whole", code=8, said="preprocessing.std")


def predict_one_picture(case: Case) -> None:
    from emotiw_keras import Predictor
    from emotiw_keras.errors import EmotiwError

    reader = Predictor(str(case.model()))
    for shape in ((344, 450, 3), (344, 450)):
        try:
            rows = reader.predict(np.zeros(shape, np.uint8))
        except EmotiwError as error:
            case.commands.append((f"predict(image of {shape})", 0, str(error)))
            continue
        expect(False, f"answers of shape {np.shape(rows)} for one image of {shape}")


def terminal_escapes(case: Case) -> None:
    names = ("a\x1b]0;PWNED\x07.png", "b\x1b[31m.png", "c\u202egnp.png", "d\nline.png")
    (case.work / "set" / "happy").mkdir(parents=True)
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)).save(image, "PNG")
    for number, name in enumerate(names):
        (case.work / "set" / "happy" / name).write_bytes(image.getvalue() if number % 2 else b"no image")
    run = case.work / "labels"
    from tests.conftest import write_run

    write_run(run, labels=("ca\nlm", "gl\x1b[31mad", "tense"))
    for command in (
        ["prepare", "set", "faces"],
        ["predict", "set", "--model", run, "--faces", "whole", "--annotate", "annotated"],
        ["predict", "set", "--model", run, "--faces", "whole", "--json"],
    ):
        done = case.emotiw(*command, code=(0, 3, 4))
        found = CONTROL.search(done.stdout + done.stderr)
        expect(found is None, f"{command[0]} prints {found and ascii(found[0])}: {ascii(done.stdout + done.stderr)[:400]}")
