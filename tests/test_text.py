"""Names that strangers chose take over neither a terminal nor a spreadsheet, wherever they are shown."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.evaluation.predictions_csv import predictions_csv
from emotiw_keras.fonts import drawable, get_font
from emotiw_keras.html import tag
from emotiw_keras.reports.evaluation_report import confusion_png
from emotiw_keras.text import csv_text, sheet_cell, shown
from emotiw_keras.training.run_writer import table_text
from tests.conftest import write_run

EVIL = "a\x1b]0;PWNED\x07\x1b[31m\u202egnp"
# Anything but printable characters and line breaks.
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def image(path: Path, whole: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8)).save(path, "PNG")
    if not whole:
        path.write_bytes(path.read_bytes()[:60])


def test_every_name_comes_back_from_a_table() -> None:
    names = ["a\rb.png", "\r", "c\r\nd.png", 'e"f,g\nh.png', "\u2028.png", " i ", ""]
    rows = [["path", "number"], *([name, number] for number, name in enumerate(names))]
    text = csv_text(rows)
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:] == [[n, str(i)] for i, n in enumerate(names)]
    assert table_text(("path", "more"), [{"path": "a\rb", "other": 1}]) == 'path,more\n"a\rb",""\n'


def test_what_is_escaped_and_what_is_left_alone() -> None:
    assert shown("Müller ñ 東京\u3000顔 👩\u200d🚀.jpg") == "Müller ñ 東京\u3000顔 👩\u200d🚀.jpg"
    assert shown("a\nb\rc\x1b[31m\x07\x9b\u202e\u2028\udcff") == r"a\nb\rc\x1b[31m\x07\x9b\u202e\u2028\udcff"
    assert [sheet_cell(text) for text in ("=1+1", "+1", "-1", "@x", "a=1")] == ["'=1+1", "'+1", "'-1", "'@x", "a=1"]


def test_predict_and_prepare_show_names_escaped(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    monkeypatch.chdir(tmp_path)
    image(folder / f"{EVIL}.png")
    image(folder / "two\nlines.png")
    image(folder / "=1+1.png")
    image(folder / f"{EVIL} torn.png", whole=False)
    monkeypatch.chdir(folder)
    command = ["predict", ".", "--model", str(run_folder), "--faces", "whole"]
    assert emotiw(command) == 3
    told = capsys.readouterr()
    assert not RAW.search(told.out + told.err), repr(told.out + told.err)
    assert len(told.out.splitlines()) == 4 and r"\x1b]0;PWNED\x07" in told.out
    assert emotiw(["predict", *sorted(path.name for path in folder.iterdir()), *command[2:], "--csv"]) == 3
    told = capsys.readouterr()
    assert not RAW.search(told.out + told.err)
    rows = list(csv.DictReader(io.StringIO(told.out)))
    assert [row["path"] for row in rows].count("'=1+1.png") == 1 and len(rows) == 4
    assert emotiw([*command, "--json"]) == 3
    told = capsys.readouterr()
    assert f"{EVIL}.png" in {json.loads(line)["path"].removeprefix("./") for line in told.out.splitlines()}
    assert emotiw(["prepare", ".", str(tmp_path / "out"), "--detector", "viola_jones", "--workers", "1"]) == 3
    told = capsys.readouterr()
    assert not RAW.search(re.sub(r"\r  [\d,]+ of [\d,]+ images", "", told.out + told.err))
    assert r"\x1b[31m" in told.err


def test_labels_of_a_run_are_drawn_and_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", labels=("two\nlines", EVIL, "=1+1", "$\\frac$ $x^$"))
    image(tmp_path / "a.png")
    command = ["predict", str(tmp_path / "a.png"), "--model", str(run), "--faces", "whole"]
    assert emotiw([*command, "--annotate", str(tmp_path / "ann"), "--explain", str(tmp_path / "why")]) == 0
    told = capsys.readouterr()
    assert not RAW.search(told.out + told.err) and told.out.count("\n") == 1
    assert len(list((tmp_path / "ann").iterdir())) == len(list((tmp_path / "why").iterdir())) == 1
    shutil.rmtree(tmp_path / "ann")


def test_tables_pages_and_charts(tmp_path: Path) -> None:
    labels = ("two\nlines", "=1+1", "$\\frac$ $x^$")
    confusion_png([[1, 0, 0], [0, 1, 0], [0, 0, 1]], labels, tmp_path / "confusion.png", title="$ $ $")
    told = Predictions(labels, [f"@{EVIL}"], ["ok"], np.array([1]), np.full((1, 3), 1 / 3, np.float32))
    rows = list(csv.reader(io.StringIO(predictions_csv(told))))
    assert rows[0][3:6] == [r"two\nlines", "'=1+1", labels[2]] and rows[1][0].startswith("'@a\\x1b") and rows[1][1] == "'=1+1"
    page = tag("p", EVIL, title=EVIL)
    assert not RAW.search(page) and r"\x1b[31m\u202e" in page
    assert re.search(r"<p", page)


def test_errors_are_one_line_that_a_terminal_survives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["evaluate", str(tmp_path / EVIL)],
        ["convert", str(tmp_path / f"{EVIL}.onnx"), "--inspect"],
        ["predict", str(tmp_path / EVIL), "--model", str(tmp_path / EVIL)],
        [EVIL],
        ["fit", EVIL, "--out", str(tmp_path / "run")],
    ):
        assert emotiw(command) in (2, 4, 5, 8)
        told = capsys.readouterr()
        assert not RAW.search(told.err + told.out) and "PWNED" in told.err


NAMES = ["ärgerlich", "радость", "恐怖", "驚喜", "sad"]


def test_names_are_drawn_in_letters_or_numbers_and_never_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [drawable(name) for name in NAMES] == ["ärgerlich", "радость", r"\u6050\u6016", r"\u9a5a\u559c", "sad"]
    drawn = {bytes(get_font(14).getmask(drawable(name))) for name in NAMES}
    assert len(drawn) == len(NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion_png(np.eye(5, dtype=int), NAMES, tmp_path / "plain.png")
    # Marks that stand on no letter of the font are not taken for its own.
    assert drawable("दु") == r"\u0926\u0941" != drawable("दा")
    # Of a font that a user names; this one, which Matplotlib has too, lacks Cyrillic letters.
    named = Path(get_font(14).path).with_name("STIXGeneral.ttf")  # type: ignore[union-attr, arg-type]
    monkeypatch.setenv("EMOTIW_FONT", str(named))
    assert Path(get_font(14).path) == named and drawable("恐") == r"\u6050"  # type: ignore[union-attr, arg-type]
    confusion_png(np.eye(5, dtype=int), NAMES, tmp_path / "named.png")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "named.png").read_bytes()
    monkeypatch.setenv("EMOTIW_FONT", str(tmp_path / "none.ttf"))
    with pytest.raises(UsageError, match=r"EMOTIW_FONT=.*none.ttf: no font can be read there"):
        get_font(14)
    assert emotiw(["evaluate", "fer28-face-vgg", "--data", str(tmp_path)]) == UsageError.exit_code, "before anything is read"
    # A font of signs alone would draw all English names alike.
    monkeypatch.setenv("EMOTIW_FONT", str(named.with_name("STIXSizOneSymReg.ttf")))
    with pytest.raises(UsageError, match="expected a font of English letters and digits too"):
        drawable("sad")


def test_without_matplotlib_letters_that_are_not_english_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [drawable(name) for name in ("sad", "恐", "я")] == ["sad", r"\u6050", r"\u044f"]


def test_a_line_about_a_table_of_strangers_stays_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "faces.csv"
    table.write_text("path,label," + ",".join(f"c{number}" for number in range(50_000)) + "\na.png,happy\n")
    assert emotiw(["fit", "finetune", "--data", f"data={table}", "--out", str(tmp_path / "run"), "--dry-run"]) == 4
    told = capsys.readouterr().err
    assert "has 2 cells, expected 50,002 (path, label, c0, c1, c2 and 49,997 more)" in told and len(told) < 1_000
    assert emotiw(["predict", "x" * 100_000, "--model", "fer28-face-vgg"]) != 0
    told = capsys.readouterr().err
    assert "characters left out) ..." in told and len(told) < 3_000
