"""Names of what is made of inputs: whatever the inputs are called, each gets a place, and no name stops the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emotiw_keras.errors import DataError, OutputError
from emotiw_keras.files import write_atomic
from emotiw_keras.serving.new_folder import NewFolder


@pytest.mark.parametrize(
    "name",
    [
        "a:b",
        "12:30:05",
        "-dash",
        "100%s",
        "a" * 255,
        "ü" * 127,
        "x" * 255 + "/" + "y" * 255,
        "=1+1",
        "d/" * 2500 + "z",
        "C:\\x",
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_every_name_has_a_place_that_can_be_written(name: str, tmp_path: Path) -> None:
    folder = NewFolder(tmp_path / "out")
    places = [folder.place(name, ".face12.png") for _ in range(3)]
    for place in places:
        write_atomic(place, b"x")
    assert len({*places}) == 3 and all(place.read_bytes() == b"x" for place in places)


@pytest.mark.skipif(os.name == "nt", reason="there it parts folders")
def test_a_backslash_is_a_letter(tmp_path: Path) -> None:
    assert NewFolder(tmp_path / "out").place("back\\slash", ".png") == tmp_path / "out" / "back\\slash.png"


def test_long_names_stay_apart(tmp_path: Path) -> None:
    folder = NewFolder(tmp_path / "out")
    assert folder.place("a" * 240 + "1", ".png") != folder.place("a" * 240 + "2", ".png")


@pytest.mark.parametrize("name", ["C:/x", "/x", "../x", "a/../../x", "", "a\0b"])
def test_no_name_leads_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leads out"):
        NewFolder(tmp_path / "out").place(name, ".png")


def test_a_file_in_its_place_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("mine")
    with pytest.raises(OutputError, match="seen is a file; name a new folder"):
        NewFolder(tmp_path / "seen")
    assert (tmp_path / "seen").read_text() == "mine"


def test_only_one_writes_into_a_folder_at_a_time(tmp_path: Path) -> None:
    first = NewFolder(tmp_path / "out")
    with pytest.raises(OutputError, match="out is being written into already; name another folder"):
        NewFolder(tmp_path / "out")
    other = "import sys; from emotiw_keras.serving.new_folder import NewFolder; NewFolder(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", other, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("name another folder, for each command or option its own")
    first.close()
    NewFolder(tmp_path / "out")  # nothing was written, and nobody writes any more


def test_what_is_in_the_way_is_named_and_stays(tmp_path: Path) -> None:
    """A hidden file too, which may be left of a killed command, or anybody's."""
    (tmp_path / ".2024.notes").write_text("mine")
    with pytest.raises(OutputError, match=r"it holds \.2024\.notes"):
        NewFolder(tmp_path)
    assert (tmp_path / ".2024.notes").read_text() == "mine"
