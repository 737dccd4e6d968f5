"""A new file or folder takes its name once, however many write it at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from emotiw_keras.cli import places
from emotiw_keras.errors import OutputError
from emotiw_keras.files import atomic_path, check_folder_place, local_path, place_new, writing

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
