"""A small FER-2013 as it is distributed in files, its votes, and readers that answer in a way one can foretell."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.votes import VOTED
from emotiw_keras.labels import LABEL_SETS

LABELS = LABEL_SETS["basic7"].labels
COLUMNS = [
    "Usage",
    "Image name",
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
]
EACH = 3

# Reads the class out of a corner that the fixture wrote there; says the last class where the corner is anything else.
ADAPTER = """
import json, sys
import numpy as np
LABELS = ["happy", "angry", "disgust", "fear", "sad", "surprise", "neutral"]
print("a line of some library")
print(json.dumps({"labels": LABELS, "version": "1.2", "how": "its corner"}), flush=True)
ORDER = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
for line in sys.stdin:
    asked = json.loads(line)
    faces = np.load(asked["faces"])
    said = np.clip(np.rint(faces[:, :4, :4].mean(axis=(1, 2)) / 30).astype(int), 0, 6)
    answers = np.full((len(faces), 7), 0.05, np.float32)
    answers[np.arange(len(faces)), [LABELS.index(ORDER[each]) for each in said]] = 0.7
    np.save(asked["answers"], answers)
    print(json.dumps({"done": len(faces)}), flush=True)
"""


@pytest.fixture(scope="session")
def fer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`data`, a folder of Training|PublicTest|PrivateTest/class/, `votes` and `rows`.

    Of the 21 test faces the first of each class also stands in Training. The corner of a face says its class; ten people say
    the same of the first two faces of a class, and of the third six say contempt and four the class.
    """
    folder = tmp_path_factory.mktemp("fer")
    generator = np.random.default_rng(0)
    rows, votes = [], []
    for split in ("Training", "PublicTest", "PrivateTest"):
        for number, label in enumerate(LABELS):
            place = folder / "data" / split / label
            place.mkdir(parents=True)
            for i in range(EACH):
                pixels = generator.integers(0, 256, (48, 48), dtype=np.uint8)
                pixels[:4, :4] = 30 * number
                if split == "PrivateTest" and i == 0:
                    pixels = np.asarray(Image.open(folder / "data" / "Training" / label / "0.png"))
                Image.fromarray(pixels).save(place / f"{i}.png")
                counts = dict.fromkeys(COLUMNS[2:], 0)
                column = COLUMNS[2 + VOTED.index(label)]
                counts[column] = 10
                if i == 2:
                    counts |= {column: 4, "contempt": 6}
                rows.append([f"{split}/{label}/{i}.png", len(votes)])
                votes.append([split, "", *counts.values()])
    for name, head, lines in (("votes", COLUMNS, votes), ("rows", ["file", "row"], rows)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([head, *lines])
    return {"data": folder / "data", "votes": folder / "votes.csv", "rows": folder / "rows.csv"}


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split folders of faces of 60 x 60, which FER-2013 has not."""
    folder = tmp_path_factory.mktemp("larger")
    for number, split in enumerate(("Training", "PublicTest", "PrivateTest")):
        for label in ("happy", "sad"):
            (folder / split / label).mkdir(parents=True)
            pixels = np.random.default_rng(len(label) + 9 * number).integers(0, 256, (60, 60), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / label / "0.png")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    """A command that answers as `ADAPTER` does."""
    (tmp_path / "my_model.py").write_text(ADAPTER)
    return f"{sys.executable} {tmp_path / 'my_model.py'}"
