"""Where a stranger's folder has a pipe, a device or a folder in the place of a file, nobody waits for it; and kept results."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.data.prepare.journal import JOURNAL_FILE, Journal
from emotiw_keras.errors import EmotiwError, ModelError, OutputError, RunError
from emotiw_keras.files import check_regular, read_regular
from emotiw_keras.runs import Run
from emotiw_keras.sealed import kept, read_sealed
from emotiw_keras.serving.input_images import InputImage
from emotiw_keras.serving.inputs import expand, read_inputs
from emotiw_keras.training import checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """A read that waits is ended."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a pipe"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", [pipe, device, folder, circle])
def test_what_is_no_file_is_refused_in_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    names = ("run.json", "data.csv", JOURNAL_FILE, "e0001-s000001-0000000000000000.npz")
    for name in names:
        make(tmp_path / name)
    run = Run(tmp_path, {"files": {}})
    readers: list[Callable[[], object]] = [
        lambda: read_sealed(tmp_path / "run.json"),
        lambda: run.content("data.csv"),
        lambda: checkpoints.load(tmp_path / names[-1]),
    ]
    if make is not circle:  # which `Path.exists` calls missing, and appending to tells
        readers.append(lambda: Journal(tmp_path))
    for read in readers:
        with pytest.raises(RunError, match=r"^[^\n]*$"):
            read()
    assert checkpoints.best_of(tmp_path / names[-1]) == ""
    with pytest.raises(OSError):
        check_regular(tmp_path / "run.json")


def test_a_pipe_is_read_where_it_is_named_itself_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*names: str) -> list[InputImage]:
        found = list(read_inputs(expand(names)))
        assert all(isinstance(each, InputImage) for each in found)
        return found  # type: ignore[return-value]

    png = cv2.imencode(".png", np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(png)
    pipe(tmp_path / "b.png")
    for content, error in (
        (png, ""),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "a video in a pipe"),
        (b"words", "not an image in a known format"),
        (bytes(70_000), "allowed for one image"),
    ):
        reader, writer = os.pipe()
        with monkeypatch.context() as patch, os.fdopen(writer, "wb") as file:
            patch.setattr("emotiw_keras.serving.inputs.MEMBER_BYTES", 60_000)
            thread = threading.Thread(target=lambda content=content, file=file: (file.write(content), file.close()))
            thread.start()
            (found,) = read(f"/dev/fd/{reader}")
            os.close(reader)
            thread.join()
        assert (found.pixels is not None and found.pixels.shape[:2] == (8, 8)) if not error else error in (found.error or "")
    # nobody writes into it: whether named or not, nobody waits
    assert [each.error for each in read(str(tmp_path / "b.png"))] == [
        "zero bytes came out of this pipe; start first what writes into it"
    ]
    monkeypatch.setattr("emotiw_keras.serving.inputs._read_pipe", lambda *_: pytest.fail("opened a pipe that nobody named"))
    assert [each.error for each in read(str(tmp_path))] == [None]
    assert [each.error for each in read(str(tmp_path / "*.png"))] == [None, "not a file"]


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    assert read_regular(tmp_path / "a", 4) == b"1234"
    with pytest.raises(OSError, match="over 3 bytes"):
        read_regular(tmp_path / "a", 3)


def test_a_kept_result_is_made_once_and_damage_is_told(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> float:
        made.append(1)
        return 0.1 + 0.2

    file = tmp_path / "score.json"
    assert kept(file, make, float) == kept(file, make, float) == 0.1 + 0.2
    assert made == [1]
    text = file.read_text()
    for damaged in (text.replace("0.3", "0.4"), text[:-4], "", '{"kept": "x"}', '{"kept": null}', "[]", '{"other": 1}'):
        file.write_text(damaged)
        with pytest.raises(EmotiwError, match=r"^[^\n]*score\.json[^\n]*$"):
            kept(file, make, float)
    assert np.isnan(kept(tmp_path / "none.json", lambda: [float("nan")], lambda found: np.array(found, np.float32))).all()


@pytest.mark.parametrize("make", [pipe, device, circle])
@pytest.mark.parametrize("words", [["evaluate", "nowhere"], ["compare", "nowhere", "nowhere"], ["card", "nowhere"]])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    words: list[str], make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    make(out)
    if words[0] == "card" and make is circle:
        pytest.skip("a link that leads nowhere is replaced by a card")
    assert emotiw([*words, "--out", str(out)]) == OutputError.exit_code
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and str(out) in told
    assert emotiw([*words, "--out", str(tmp_path / "free")]) == ModelError.exit_code


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "nowhere", "--out", "/proc/out"],
        ["compare", "nowhere", "nowhere", "--out", "/proc/out"],
        ["card", "nowhere", "--out", "/proc/out.md"],
        ["convert", "nowhere.npz", "--model", "alexnet", "--out", "/proc/out.weights.h5"],
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert emotiw(words) == OutputError.exit_code
    assert capsys.readouterr().err.startswith("emotiw: error: cannot write /proc")
