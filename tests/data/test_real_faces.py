"""The real data beside the repository: FER-2013's known duplicates, and a target set split by person."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.archive import FolderArchive
from emotiw_keras.data.duplicates import also_in, conflicting_groups
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.layouts.ferplus import VOTES, read_votes
from emotiw_keras.data.load import load_faces


@pytest.fixture(scope="module")
def fer(shared_data: Path) -> FaceSet:
    return load_faces(shared_data / "fer2013" / "fer2013_jpg.zip", name="fer", near_duplicates=0)


def test_fer_counts(fer: FaceSet) -> None:
    assert fer.layout == "split folders" and fer.pixels.shape == (48, 48, 1)
    assert list(fer.counts()["train"].values()) == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert list(fer.counts()["val"].values()) == [467, 56, 496, 895, 653, 415, 607]
    assert list(fer.counts()["test"].values()) == [491, 55, 528, 879, 594, 416, 626]


def test_fer_duplicates(fer: FaceSet) -> None:
    def count(these: list[str], others: list[str]) -> int:
        return int(also_in(fer.pixel_hash, fer.split, these, others).sum())

    assert len(set(fer.pixel_hash)) == 34_034
    assert count(["val"], ["train"]) == 280
    assert count(["test"], ["train"]) == 288
    assert count(["test"], ["train", "val"]) == 314
    assert len(conflicting_groups(fer.pixel_hash, fer.label)) == 57
    assert int(fer.constant.sum()) == 12


@pytest.mark.slow
def test_fer_near_duplicates_are_those_of_a_list_made_otherwise(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """742 test images are, by ECC over all pairs, the same photograph as one of another split; 98 % of them are found."""
    listed = shared_data.parent / "cases" / "near-duplicates" / "pairs.csv"
    if not listed.exists():
        pytest.skip(f"{listed} is not there")
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    faces = load_faces(shared_data / "fer2013" / "fer2013_jpg.zip")
    assert faces.near is not None
    photograph = dict(zip(faces.paths, faces.near.photograph.tolist(), strict=True))
    with listed.open() as file:
        pairs = [(row["private"], row["other"]) for row in csv.DictReader(file)]
    of_others = {photograph[other] for _, other in pairs}
    private = {name for name, _ in pairs}
    assert len(private) == 742
    assert sum(photograph[name] in of_others for name in private) >= 0.97 * len(private)


def test_target_split_by_person(shared_data: Path) -> None:
    path, person = shared_data / "target" / "muxspace_small.zip", r"^(.*?)_?(?:\d+[a-z]?)?\.jpg$"
    faces = load_faces(path, size=64, subject_pattern=person, memory_budget=0, near_duplicates=0)
    assert len(faces.paths) == 1915 and "fear" in faces.labels
    assert all(faces.subject)
    sides: dict[str, set[str]] = {}
    for person, split in zip(faces.subject, faces.split.tolist(), strict=True):
        sides.setdefault(person, set()).add(split)
    assert all(len(where) == 1 for where in sides.values())
    for split in ("train", "val", "test"):
        assert all(number >= 2 for number in faces.counts()[split].values())
    total = np.array([sum(of.values()) for of in faces.counts().values()])
    assert total / 1915 == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    assert any("LICENSE, README.md" in line for line in faces.report)


def test_ferplus_votes_of_all_rows(shared_data: Path) -> None:
    """As NumPy counts them: 25,060 images for training, 3,199 and 3,153 have a majority for one of the eight classes."""
    folder = FolderArchive(shared_data / "fer2013", walk=False)
    classes, splits = read_votes(folder, "fer2013new.csv", "fer2013new.csv")
    votes = np.genfromtxt(shared_data / "fer2013" / "fer2013new.csv", int, delimiter=",", skip_header=1, usecols=range(2, 12))
    votes = np.where(votes > 1, votes, 0)
    clear = (2 * votes.max(axis=1) > votes.sum(axis=1)) & (votes.argmax(axis=1) < 8)
    assert [bool(name) for name in classes] == clear.tolist()
    assert [VOTES.index(name) for name in classes if name] == votes.argmax(axis=1)[clear].tolist()
    kept = [split for split, name in zip(splits, classes, strict=True) if name]
    assert [kept.count(split) for split in ("train", "val", "test")] == [25_060, 3_199, 3_153]
