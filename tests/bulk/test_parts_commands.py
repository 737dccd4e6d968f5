"""`emotiw predict --out`, `emotiw prepare --runner` and `emotiw summary` as a user runs them."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emotiw_keras.cli.main import run as emotiw
from tests.bulk.conftest import rows_of


def test_predict_writes_parts_and_summary_reads_them(
    photos: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "photos", "--model", str(run_folder), "--faces", "whole", "--out", "out", "--jobs", "1"]
    assert emotiw(words) == 3
    out, err = capsys.readouterr()
    assert out == "21 inputs, 21 images and frames, 20 faces, 1 unreadable: out\n"
    assert "emotiw: cannot read photos/bad.png: not an image" in err and len(rows_of("out")) == 21
    assert emotiw(["summary", "out", "--json", "--html", "page.html"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["counts"]["faces"] == 20 and "<h1>Parts of emotiw predict" in Path("page.html").read_text()
    assert emotiw(["summary", "out", "--html", "page.html"]) == 0  # a page is written anew, nothing else is
    part = next(Path("out").glob("part-*.jsonl"))
    before = part.read_bytes()
    assert emotiw(["summary", "out", "--html", str(part)]) == 6 and part.read_bytes() == before
    assert "is not a page written by this command" in capsys.readouterr().err
    assert emotiw(["predict", str(next(photos.glob("sad/*.png"))), *words[2:-3], "one", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "1 input, 1 image or frame, 1 face, 0 unreadable: one\n"
    assert emotiw([*words, "--crops", "10"]) == 8
    assert "begun by another job (crops 1, now 10)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["predict", "photos", "--runner", "ray"], 2, "--runner: only where parts are written; add --out DIR"),
        (["predict", "photos", "--out", "o", "--json"], 2, "--json cannot be combined with parts"),
        (["predict", "photos", "--out", "o", "--explain", "why"], 2, "--explain cannot be combined with parts"),
        (["predict", "photos", "--out", "o", "--address", "auto"], 2, "add --runner ray"),
        (["predict", "photos", "--out", "o", "--detector", "nobody"], 2, "there are blazeface"),
        (["predict", "camera:0", "--out", "o"], 2, "a camera has no end"),
        (["predict", "photos", "--out", "ftp://host/x"], 2, "an address that begins with s3://"),
        (["predict", "photos", "--out", "photos/o"], 2, "lies in the input photos"),
        (["predict", "photos", "--out", "photos/happy"], 2, "lies in the input photos"),
        (["predict", "photos", "--out", "o", "--smooth", "soon"], 2, "expected seconds such as 0.5s"),
        (["predict", "photos", "--out", "o", "--model", "photos"], 8, "not a run folder"),
        (["prepare", "photos", "o", "--jobs", "2"], 2, "--jobs: only where parts are written; add --runner"),
        (["prepare", "photos", "more", "o"], 2, "2 sources: expected one"),
        (["prepare", "photos", "o", "--runner", "local", "--near-duplicates", "0.98"], 2, "--near-duplicates cannot be"),
        (["predict", "photos", "--out", "o.csv"], 2, "for one file leave --out away and end with `--csv > o.csv`"),
        (["predict", "photos", "--out", "o.JSONL"], 2, "for one file leave --out away and end with `--json > o.JSONL`"),
        (["predict", "photos", "--out", "o.parquet"], 2, "a folder of parts; give it a name without this ending; add --format"),
        (["predict", "photos", "--out", "memory://x/o.csv"], 2, "end with `--csv > o.csv`"),
        (["prepare", "photos", "o.csv", "--runner", "local"], 2, "a folder of parts; give it a name without this ending"),
        (["summary", "photos"], 8, "holds no _manifest.json"),
        (["summary", "photos/bad.png"], 8, "is a file, not a folder of parts"),
        (["summary", "o"], 8, "holds no _manifest.json"),
        (["predict", "photos/happy", "--out", "photos/bad.png"], 6, "photos/bad.png"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], code: int, told: str, photos: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "predict" and "--model" not in words:
        words = [*words, "--model", str(run_folder)]
    if words[0] == "predict" and "--detector" not in words:
        words = [*words, "--faces", "whole"]
    assert emotiw(words) == code
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1 and not list(Path().glob("o*"))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_ray_that_is_not_there_is_a_line(
    photos: Path, run_folder: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "photos", "--model", str(run_folder), "--faces", "whole", "--out", "o", "--runner", "ray"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert emotiw(words) == 2 and "pip install 'emotiw-keras[ray]'" in capsys.readouterr().err
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    assert emotiw([*words, "--address", f"127.0.0.1:{free_port}"]) == 2
    assert f"no Ray cluster answers at 127.0.0.1:{free_port} (Connection refused)" in capsys.readouterr().err
    assert emotiw([*words, "--address", "nonsense"]) == 2 and "expected 'auto', or HOST:PORT" in capsys.readouterr().err
    assert not Path("o").exists()


def test_parquet_and_stores_that_are_not_there_are_a_line(
    photos: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(run_folder), "--faces", "whole"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert emotiw(["predict", "photos", *words, "--out", "o", "--format", "parquet"]) == 2
    assert "pip install 'emotiw-keras[parquet]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert emotiw(["predict", "s3://box/photos", *words, "--out", "o"]) == 2
    assert "pip install 'emotiw-keras[cloud]'" in capsys.readouterr().err and not Path("o").exists()


def test_a_job_on_an_object_server(photos: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    server: Callable = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port}"}.items():
        monkeypatch.setenv(name, value)
    started = server(ip_address="127.0.0.1", port=free_port, verbose=False)
    started.start()
    try:
        store = s3fs.S3FileSystem()
        store.mkdir("box")
        store.put("photos", "box/photos", recursive=True)
        words = ["--model", str(run_folder), "--faces", "whole", "--engine", "opencv", "--shard", "7"]
        assert emotiw(["predict", "s3://box/photos", *words, "--out", "s3://box/out", "--jobs", "2"]) == 3
        assert emotiw(["predict", "photos", *words, "--out", "local", "--jobs", "1"]) == 3
        store.get("box/out", "copy", recursive=True)
        mine, theirs = rows_of("copy"), rows_of("local")
        assert [{**row, "path": row["path"].removeprefix("s3://box/")} for row in mine] == theirs
        assert not store.exists("box/out/_done")
        assert emotiw(["predict", "s3://box/photos", *words, "--out", "s3://box/out"]) == 3
        assert emotiw(["summary", "s3://box/out"]) == 0
    finally:
        started.stop()
