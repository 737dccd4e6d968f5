"""Identities of images, and which of them stand on two sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from emotiw_keras.data.duplicates import also_in, conflicting_groups, duplicate_groups, pixel_hash
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.load import load_faces

NOISE = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)


def test_grey_in_three_channels_is_grey() -> None:
    grey = NOISE[0][..., None]
    colour = np.repeat(grey, 3, axis=2)
    assert pixel_hash(grey) == pixel_hash(colour) and len(pixel_hash(grey)) == 32
    colour[3, 3, 1] ^= 1
    assert pixel_hash(colour) != pixel_hash(grey)


def test_shape_is_part_of_the_identity() -> None:
    assert pixel_hash(np.zeros((8, 16, 1), np.uint8)) != pixel_hash(np.zeros((16, 8, 1), np.uint8))


def test_groups() -> None:
    hashes = ["a", "b", "a", "", "b", "c", ""]
    assert [g.tolist() for g in duplicate_groups(hashes)] == [[0, 2], [1, 4]]
    assert [g.tolist() for g in conflicting_groups(hashes, np.array([0, 1, 0, -1, 2, 1, -1]))] == [[1, 4]]
    split = np.array(["train", "train", "val", "", "test", "test", ""])
    assert np.flatnonzero(also_in(hashes, split, ["train"], ["val", "test"])).tolist() == [0, 1]
    assert np.flatnonzero(also_in(hashes, split, ["test"], ["train"])).tolist() == [4]


def leaky(root: Path) -> FaceSet:
    """train 0-4, of which 0 is also in val, 1 in test under another label; 2 twice in train; 4 constant."""
    places = [
        ("train/happy/0.png", 0), ("train/happy/1.png", 1), ("train/sad/2.png", 2), ("train/sad/3.png", 2),
        ("train/sad/4.png", None), ("val/happy/5.bmp", 0), ("val/sad/6.png", 6), ("test/sad/7.png", 1),
    ]  # fmt: skip
    for name, number in places:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(NOISE[0] * 0 + 9 if number is None else NOISE[number]).save(root / name)
    return load_faces(root)


def test_the_report_tells(tmp_path: Path) -> None:
    report = leaky(tmp_path).report
    assert "duplicates: 5 different images of 8, 3 repeat another exactly" in report
    assert "duplicates: 1 val images also stand in train" in report
    assert "duplicates: 1 test images also stand in train" in report
    assert "conflicting labels: 1 images carry more than one label (test/sad/7.png sad, train/happy/1.png happy)" in report
    assert "constant images (every pixel the same): 1 (train/sad/4.png)" in report


def test_split_keeps_duplicates_together(tmp_path: Path) -> None:
    for i in range(60):
        folder = tmp_path / ("happy" if i % 2 else "sad")
        folder.mkdir(exist_ok=True)
        Image.fromarray(NOISE[i // 3]).save(folder / f"{i}.png")
    faces = load_faces(tmp_path)
    for group in duplicate_groups(faces.pixel_hash):
        assert len(set(faces.split[group].tolist())) == 1
