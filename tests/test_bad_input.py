"""Bad input at the command line: one clear line and its exit code, nothing lost or half-written, no traceback."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.files import sha256_file

Emotiw = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = """
name = "bad"
data = ["data"]
[model]
name = "alexnet"
width = 0.05
input_size = 67
[[stage]]
name = "one"
train = ["data:train"]
val = ["data:val"]
epochs = 1
"""
CLASSES = ("angry", "happy")


def image(seed: int = 0, shape: tuple[int, ...] = (48, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def class_folder(folder: Path, names: tuple[str, ...] = CLASSES, each: int = 6) -> Path:
    for number, name in enumerate(names):
        for i in range(each):
            file = folder / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image(100 * number + i).save(file)
    return folder


def enormous_png() -> bytes:
    """A PNG whose header says 20,000 x 20,000; its pixels are never needed to refuse it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_001) * 50)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def row(label: int = 0, count: int = 48 * 48, value: int = 7) -> str:
    return f"{label},{' '.join([str(value)] * (count - 1) + [str(label)])},Training"


def missing(folder: Path) -> Path:
    return folder / "nowhere"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def empty_file(folder: Path) -> Path:
    (folder / "data.zip").write_bytes(b"")
    return folder / "data.zip"


def csv_of(*rows: str, header: str = "emotion,pixels,Usage") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "fer2013.csv").write_text("\n".join([header, *rows]) + "\n")
        return folder / "fer2013.csv"

    return make


def one_class(folder: Path) -> Path:
    return class_folder(folder / "one", ("happy",))


def unknown_classes(folder: Path) -> Path:
    return class_folder(folder / "odd", ("happy", "hangry"))


def no_images(folder: Path) -> Path:
    (folder / "texts" / "happy").mkdir(parents=True)
    (folder / "texts" / "happy" / "a.txt").write_text("no image")
    return folder / "texts"


def escaping_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "evil.zip", "w") as file:
        file.writestr("../../escaped.png", b"x")
        file.writestr("happy/a.png", b"x")
    return folder / "evil.zip"


def bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("happy/a.png", bytes(300 << 20))
        file.writestr("angry/a.png", b"x")
    return folder / "bomb.zip"


def damaged_zip(folder: Path) -> Path:
    source = shutil.make_archive(str(folder / "whole"), "zip", class_folder(folder / "whole"))
    content = Path(source).read_bytes()
    (folder / "cut.zip").write_bytes(content[: len(content) // 2])
    return folder / "cut.zip"


def all_broken(folder: Path) -> Path:
    for name in CLASSES:
        (folder / "broken" / name).mkdir(parents=True)
        (folder / "broken" / name / "a.png").write_bytes(b"not an image")
    return folder / "broken"


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (missing, 4, ["nowhere", "No such file"]),
        (empty_folder, 4, ["empty"]),
        (empty_file, 4, ["data.zip"]),
        (csv_of(header="emotion,pixel"), 4, ["pixels"]),
        (csv_of(row(0), row(1, count=100)), 4, ["row 2", "100", "2,304"]),
        (csv_of(row(0), row(1, value=256)), 4, ["row 2", "256"]),
        (csv_of(row(0), row(7)), 4, ["row 2", "7"]),
        (csv_of(row(0), row(1).replace("7 ", "x ", 1)), 4, ["row 2"]),
        (csv_of(), 4, ["no "]),
        (one_class, 4, ["happy"]),
        (unknown_classes, 4, ["hangry", "folder"]),
        (no_images, 4, ["texts"]),
        (escaping_zip, 4, ["../../escaped.png"]),
        (bomb, 4, ["bomb.zip"]),
        (damaged_zip, 4, ["cut.zip"]),
        (all_broken, 4, ["broken"]),
    ],
)
def test_data_that_cannot_be_used(
    make: Callable[[Path], Path], code: int, words: list[str], tmp_path: Path, emotiw: Emotiw
) -> None:
    (tmp_path / "bad.toml").write_text(RECIPE)
    done = emotiw("fit", "bad.toml", "--data", f"data={make(tmp_path)}", "--out", "run", cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code, done.stderr
    assert last.startswith("emotiw: error: ") and "Traceback" not in done.stderr
    for word in words:
        assert word in last
    assert not (tmp_path / "run").exists() and not (tmp_path.parent / "escaped.png").exists()


def test_single_images_that_are_odd_are_read_or_named(tmp_path: Path, emotiw: Emotiw, run_folder: Path) -> None:
    """Each odd image is a row: read where its pixels can be had, named with the reason where not; the rest goes on."""
    folder = tmp_path / "odd"
    folder.mkdir()
    image().save(folder / "good.png")
    image().save(folder / "gif.gif")
    (folder / "gif.gif").rename(folder / "gif_named.jpg")
    Image.fromarray(np.random.default_rng(1).integers(0, 65536, (48, 48)).astype(np.uint16)).save(folder / "deep.png")
    image(shape=(48, 48, 4)).save(folder / "rgba.png")
    image(shape=(48, 48, 3)).quantize(16).save(folder / "palette.png")
    image(shape=(48, 48, 3)).convert("CMYK").save(folder / "cmyk.jpg")
    readable = {"good.png", "gif_named.jpg", "deep.png", "rgba.png", "palette.png", "cmyk.jpg"}
    (folder / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    image().save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "zero.png").write_bytes(b"")
    image(shape=(1, 1)).save(folder / "dot.png")
    (folder / "enormous.png").write_bytes(enormous_png())
    unreadable = {
        "corrupt.jpg": "",
        "cut.jpg": "truncated",
        "zero.png": "zero bytes",
        "dot.png": "1 x 1",
        "enormous.png": "400,000,000 pixels",
    }
    done = emotiw("predict", folder, folder / "missing.png", "--model", run_folder, "--faces", "whole", "--json", cwd=tmp_path)
    rows = {Path(item["path"]).name: item for item in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 3 and set(rows) == readable | set(unreadable) | {"missing.png"}
    for name in readable:
        assert rows[name]["error"] is None
        assert sum(rows[name]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    for name, reason in {**unreadable, "missing.png": ""}.items():
        assert rows[name]["probabilities"] is None and rows[name]["label"] is None
        assert reason in rows[name]["error"]
        assert any(name in line for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict", "a.png", "--model", "nowhere"], 5, ["nowhere"]),
        (["predict", "a.png", "--model", "empty"], 8, ["empty", "run.json"]),
        (["evaluate", "half", "--data", "x"], 8, ["half", "not finished"]),
        (["evaluate", "other", "--data", "x"], 8, ["format 99"]),
        (["export", "empty", "out"], 8, ["run.json"]),
        (["fit", "nothing", "--out", "run"], 2, ["'nothing'", "demo"]),
        (["fit", "demo", "--out", "run", "--set", "large.epoch=1"], 2, ["'epoch'", "'epochs'"]),
        (["fit", "demo", "--out", "run", "--data", "fer=x"], 2, ["fer", "large, small"]),
        (["fit", "bad.toml", "--out", "run"], 2, ["--data data=PATH"]),
        (["fit", "wrong.toml", "--out", "run"], 2, ["wrong.toml, line 12", "at least 1"]),
        (["fit", "demo"], 2, ["--out"]),
        (["fit", "demo", "--out", "file/run"], 6, ["file/run"]),
        (["fit", "demo", "--out", "file"], 6, ["is a file"]),
        (["fit", "demo", "--out", "letters"], 8, ["letters", "not a run folder"]),
        (["fit", "demo", "--out", "run", "--weights", "nowhere.h5"], 5, ["nowhere.h5"]),
        (["fits"], 2, ["fits", "'fit'"]),
    ],
)
def test_wrong_usage(arguments: list[str], code: int, words: list[str], tmp_path: Path, emotiw: Emotiw) -> None:
    (tmp_path / "bad.toml").write_text(RECIPE)
    (tmp_path / "wrong.toml").write_text(RECIPE.replace("epochs = 1", "epochs = 0"))
    (tmp_path / "file").write_text("somebody's")
    for name, text in {"half": '{"format": 1, "finished": false}', "other": '{"format": 99}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("somebody's")
    image().save(tmp_path / "a.png")
    done = emotiw(*arguments, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code, done.stderr
    assert last.startswith("emotiw: error: ") and "Traceback" not in done.stderr
    for word in words:
        assert word in last, last
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "file").read_text() == (tmp_path / "letters" / "dear.txt").read_text() == "somebody's"


def small_files() -> None:
    """No file may grow beyond 300 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path, emotiw: Emotiw) -> None:
    """The best epoch's weights fit, the checkpoint, which holds them again, does not."""
    (tmp_path / "bad.toml").write_text(RECIPE)
    data = class_folder(tmp_path / "data", each=20)
    command = ["fit", "bad.toml", "--data", f"data={data}", "--out", "run", "--set", "one.average_decay=0.9"]
    done = emotiw(*command, cwd=tmp_path, preexec_fn=small_files)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 6, done.stderr
    assert last.startswith("emotiw: error: cannot write ") and "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob(".*"))
    (best,) = (tmp_path / "run" / "stages").rglob("*.npz")
    assert sha256_file(best).startswith(best.stem.removeprefix("best-e0001-"))
    again = emotiw(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
