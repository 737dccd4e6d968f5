"""Folders below the classes are persons where that is plain, and a line says so or why not; a pattern has the last word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.layouts.person_folders import persons_by_folder
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.splits import Folds
from emotiw_keras.errors import DataError
from tests.data.look_alikes import noise, write

PEOPLE = ("anna", "ben", "cleo", "dora", "emil", "fay")


def fill(root: Path, top: str = "") -> Path:
    """Two images of each of six persons under each of two classes."""
    number = 0
    for label in ("happy", "sad"):
        for person in PEOPLE:
            for image in range(2):
                write(root / top / label / person / f"{image}.png", noise(number))
                number += 1
    return root


@pytest.mark.parametrize("top", ["", "train"])
def test_folders_below_the_classes_are_persons(tmp_path: Path, top: str) -> None:
    faces = load_faces(fill(tmp_path, top))
    assert faces.subject == [path.split("/")[-2] for path in faces.paths] and faces.guessed_persons
    assert any(line.startswith("folders below the classes read as persons: anna, ben, cleo") for line in faces.report)
    sides: dict[str, set[str]] = {}
    for person, split in zip(faces.subject, faces.split.tolist(), strict=True):
        sides.setdefault(person, set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values()) and len(set().union(*sides.values())) > 1


def test_folds_are_by_person_without_a_pattern(tmp_path: Path) -> None:
    faces = load_faces(fill(tmp_path), folds=Folds(3, 0))
    assert any("6 persons in 3 folds" in line for line in faces.report)
    persons = {split: {faces.subject[i] for i in faces.indices(split)} for split in ("train", "val", "test")}
    assert [len(persons[split]) for split in ("train", "val", "test")] == [2, 2, 2]
    assert len(set().union(*persons.values())) == 6


def test_a_pattern_has_the_last_word(tmp_path: Path) -> None:
    fill(tmp_path)
    by_file = load_faces(tmp_path, subject_pattern=r"^(\d)")
    assert by_file.subject == [path[-5] for path in by_file.paths] and not by_file.guessed_persons
    nobody = load_faces(tmp_path, subject_pattern="none")
    assert set(nobody.subject) == {""} and not any("persons" in line for line in nobody.report)
    above = load_faces(tmp_path, subject_pattern="^([^/]+)/")
    assert above.subject == [path.split("/")[0] for path in above.paths]
    with pytest.raises(DataError, match="matches none"):
        load_faces(tmp_path, subject_pattern="/nobody/")


def spread(*under: tuple[str, list[str]]) -> list[tuple[str, str, str]]:
    return [(label, folder, "1.png") for label, folders in under for folder in folders]


@pytest.mark.parametrize(
    ("places", "why"),
    [
        (spread(("happy", ["anna", "ben", "cleo"]), ("sad", ["anna", "ben", "cleo"])), "fewer than 5"),
        (spread(*((c, [*PEOPLE, "front"]) for c in ("happy", "sad"))), "front is no person's name"),
        (spread(*((c, [f"clip_{i}" for i in range(9)]) for c in ("happy", "sad"))), "clip_0 is no person's name"),
        (spread(*((c, [*PEOPLE, "validation"]) for c in ("happy", "sad"))), "validation is no person's name"),
        (spread(*((c, [*PEOPLE, "surprised"]) for c in ("happy", "sad"))), "surprised is no person's name"),
        (spread(("happy", ["0012", "0047", "0101"]), ("sad", ["0201", "0333", "0101"])), "4 of 5 are in one class alone"),
        (spread(("happy", [f"{i:03d}" for i in range(1, 9)]), ("sad", [f"{i:03d}" for i in range(1, 7)])), "numbered anew"),
        ([*spread(*((c, list(PEOPLE)) for c in ("happy", "sad"))), ("sad", "1.png")], "1 images lie beside them"),
    ],
)
def test_what_may_be_something_else_is_nobody_and_the_reason_is_told(places: list[tuple[str, ...]], why: str) -> None:
    persons, told = persons_by_folder(places)
    assert persons is None and why in told and told.startswith("folders below the classes are not read as persons (")


def test_numbers_that_every_class_shares_are_persons() -> None:
    places = spread(*((c, [f"{i:03d}" for i in range(1, 9)]) for c in ("happy", "sad")))
    assert persons_by_folder(places)[0] == [folder for _, folder, _ in places]
    some = spread(("happy", ["003", "007", "011", "012"]), ("sad", ["003", "007", "011", "020"]))
    assert persons_by_folder(some)[0] == [folder for _, folder, _ in some]


def test_numbers_that_may_be_clips_stay_together_and_a_line_says_how_to_part_them(tmp_path: Path) -> None:
    for number in range(24):
        label, clip = divmod(number // 2, 6)
        write(tmp_path / ("happy", "sad")[label] / str(clip + 1) / f"{number}.png", noise(number))
    faces = load_faces(tmp_path)
    (told,) = [line for line in faces.report if "read as persons" in line]
    assert set(faces.subject) == set("123456") and "they are numbers, the same in each class" in told
    clips = load_faces(tmp_path, subject_pattern=told.split("'")[1])
    assert set(clips.subject) == {f"{label}/{clip}" for label in ("happy", "sad") for clip in range(1, 7)}
    assert "numbers" not in persons_by_folder(spread(*((c, [*PEOPLE]) for c in ("happy", "sad"))))[1]
    assert "numbers" not in persons_by_folder(spread(*((c, ["003", "007", "011", "020", "021"]) for c in ("happy", "sad"))))[1]


def test_prepare_reads_the_same_persons_and_a_pattern_overrides_what_it_wrote(tmp_path: Path) -> None:
    from emotiw_keras.data.prepare.run import prepare

    source = fill(tmp_path / "photos")
    prepare(source, tmp_path / "faces", no_face="centre", workers=1)
    faces = load_faces(tmp_path / "faces")
    assert faces.layout == "prepared faces" and faces.guessed_persons and set(faces.subject) == set(PEOPLE)
    assert set(load_faces(tmp_path / "faces", subject_pattern="none").subject) == {""}


def test_what_a_run_knew_counts_more_than_folders(tmp_path: Path) -> None:
    from emotiw_keras.evaluation.run_splits import persons_of

    faces = load_faces(fill(tmp_path))

    class Known:
        """A run that was told another person of the first image."""

        def each_row(self) -> list[dict[str, str]]:
            return [{"pixel_hash": faces.pixel_hash[0], "subject": "zoe"}]

    assert persons_of(faces, np.arange(3), Known()) == ["zoe", faces.subject[1], faces.subject[2]]
