"""Small data and recipes for training tests: drawn faces in files, a narrow AlexNet on 67x67 pixels."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.data.votes import VOTED
from emotiw_keras.labels import LABEL_SETS

RECIPE = """
name = "tiny"
data = ["fer", "target"]
precision = "float32"

[model]
name = "alexnet"
width = 0.05
input_size = 67

[preprocessing]
mean = [128.0, 128.0, 128.0]
std = [64.0, 64.0, 64.0]

[[stage]]
name = "one"
train = ["fer:train"]
val = ["fer:val"]
epochs = 3
batch_size = 8
learning_rate = 0.01

[[stage]]
name = "two"
train = ["target:train"]
val = ["target:val"]
epochs = 2
batch_size = 8
learning_rate = 0.005
rules = [["conv*", "freeze"], ["*", 1.0]]
initialise = ["fc8"]
"""


def write_faces(folder: Path, counts: dict[str, int], seed: int = 0, size: int = 48) -> Path:
    """Drawn faces as PNG files in `folder`/SPLIT/CLASS/."""
    for number, (split, count) in enumerate(counts.items()):
        images, labels = draw_faces(count, size=size, seed=(seed, number))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / split / LABEL_SETS["basic7"].labels[label] / f"person{i // 7:02d}_{i:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(file)
    return folder


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two small sets of drawn faces: data set name -> folder."""
    root = tmp_path_factory.mktemp("faces")
    fer = write_faces(root / "fer", {"train": 42, "val": 14, "test": 14})
    target = write_faces(root / "target", {"train": 21, "val": 14, "test": 14}, seed=5, size=96)
    return {"fer": str(fer), "target": str(target)}


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny two-stage recipe as a file."""
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(RECIPE)
    return file


USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


@pytest.fixture(scope="session")
def voted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Drawn faces, and what [source.fer] says of their votes."""
    root = tmp_path_factory.mktemp("voted")
    faces = write_faces(root / "fer", {"train": 42, "val": 21, "test": 21})
    return str(faces), write_votes(faces, root)


def write_votes(faces: Path, root: Path, most: int = 7) -> dict[str, str]:
    """Votes for drawn faces as FER+ has them: so many of ten for an image's own class, the others for the next one; every
    seventh has none. What a source says of them."""
    columns = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
    with open(root / "votes.csv", "w", newline="") as votes, open(root / "rows.csv", "w", newline="") as rows:
        table, places = csv.writer(votes), csv.writer(rows)
        table.writerow(["Usage", "Image name", *columns])
        places.writerow(["file", "row"])
        files = sorted(faces.rglob("*.png"))
        for number, file in enumerate(files):
            own = VOTED.index(file.parent.name)
            counts = [0] * 10
            counts[own], counts[(own + 1) % 8] = (0, 0) if number % 7 == 6 else (most, 10 - most)
            table.writerow([USAGE.get(file.parent.parent.name, "Training"), "", *counts])
            places.writerow([file.relative_to(faces).as_posix(), number])
    return {"votes": str(root / "votes.csv"), "votes_rows": str(root / "rows.csv")}
