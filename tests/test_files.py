"""A new file or folder takes its name once, however many write it at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from emotiw_keras.cli import main as cli_main
from emotiw_keras.cli import places
from emotiw_keras.errors import OutputError
from emotiw_keras.files import (
    atomic_path,
    check_file_place,
    check_folder_place,
    check_ours,
    check_replaced,
    local_path,
    place_new,
    writing,
)
from emotiw_keras.html import page
from emotiw_keras.reports.evaluation_report import FILES

AT_ONCE = 8


def _no_link(source: Path, target: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(("folders", "links"), [(False, True), (False, False), (True, True)])
def test_of_several_at_once_one_takes_a_new_name_and_the_others_are_told(
    folders: bool, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_link)
    target, together = tmp_path / "target", Barrier(AT_ONCE)

    def take(number: int) -> bool:
        source = tmp_path / f"source{number}"
        file = source / "file" if folders else source
        file.parent.mkdir(exist_ok=True)
        file.write_text(str(number))
        together.wait()
        try:
            place_new(source, target)
        except OutputError as error:
            assert str(error).startswith(f"{target} exists already")
            return False
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        took = list(pool.map(take, range(AT_ONCE)))
    assert sum(took) == 1
    assert (target / "file" if folders else target).read_text() == str(took.index(True))


def test_a_name_that_was_taken_in_vain_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "link", _no_link)
    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "source").write_text("whole")
    with pytest.raises(OSError, match="Input/output error"):
        place_new(tmp_path / "source", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_without_hard_links_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_link)
    for text in ("first", "second"):
        try:
            with atomic_path(tmp_path / "target", new=True) as temporary:
                temporary.write_text(text)
        except OutputError:
            assert text == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["target"] and (tmp_path / "target").read_text() == "first"


def test_the_home_folder_is_meant_everywhere_and_a_name_of_no_user_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local_path("~/x") == tmp_path / "home" / "x"
    assert local_path("~no-such-user-here/x") == Path("~no-such-user-here/x")
    for kind in (places.LOCAL, places.RUN, places.ANYWHERE):
        assert kind.convert("~/x", None, None) == str(tmp_path / "home" / "x")
        assert kind.convert("~no-such-user-here", None, None) == "~no-such-user-here"


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / ("a" * 300)
    check_folder_place(place, "scores.json")  # which is no place of a file yet
    with pytest.raises(OutputError, match="File name too long"), writing(place):
        place.mkdir()


STUDY = ["--data", "fer=a", "--data", "target=b", "--net", "alexnet=none"]
INTO_FOLDERS = {
    "compare.json": ["compare", "a", "b"],
    "compare.html": ["compare", "a", "b"],
    "audit.json": ["audit", "a", "--data", "faces"],
    "audit.md": ["audit", "a", "--data", "faces"],
    "audit.html": ["audit", "a", "--data", "faces"],
    "results.csv": ["staged-study", *STUDY],
    "study.html": ["staged-study", *STUDY],
    "results.md": ["pathnet-study", "--data", "a=a", "--data", "b=b"],
}


@pytest.mark.parametrize(("name", "words"), INTO_FOLDERS.items(), ids=INTO_FOLDERS)
def test_a_file_that_a_command_did_not_write_is_not_replaced(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    assert cli_main.run([*words, "--out", str(tmp_path)]) == 6
    told = capsys.readouterr().err
    assert f"{tmp_path / name} exists and is not of " in told and "; choose another folder, or move that file away" in told
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_report_is_known_by_its_scores_or_its_page(tmp_path: Path) -> None:
    check_replaced(tmp_path / "new", FILES, "a report")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "faces.png").write_text("whose?")
    with pytest.raises(OutputError, match="faces.png exists and is not of a report"):
        check_replaced(tmp_path, FILES, "a report")
    for name, ours in (("report.html", page("a run")), ("scores.json", '{"selected_on": false}')):
        (tmp_path / name).write_text(ours)
        check_replaced(tmp_path, FILES, "a report")
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="exists and is not of a report"):
            check_replaced(tmp_path, FILES, "a report")
        (tmp_path / name).unlink()


def test_a_file_that_cannot_be_written_is_named_not_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**place: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    for check in (check_file_place, lambda file: check_ours(file, "mark", "a page")):
        with pytest.raises(OutputError, match="^cannot write x7.md: Permission denied"):
            check("x7.md")
