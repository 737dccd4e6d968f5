"""Two finished runs with labels in different orders, and a test set with a file that cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import pytest

from emotiw_keras.data.generated import LABELS
from emotiw_keras.data.load import load_faces
from emotiw_keras.runs import DATA_COLUMNS
from tests.conftest import write_run


@pytest.fixture(scope="session")
def side_by_side(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `one` and `two` (the same network, one of whose labels stand elsewhere), `other` (three other
    labels) and `faces` (14 test images; `one` was trained on the first, `two` selected on the second)."""
    folder = tmp_path_factory.mktemp("work")
    faces = load_faces("generated:small", limit=14)
    pixels = [faces.pixels.gather([i])[0] for i in faces.indices("test")[:14]]
    labels = [LABELS[faces.label[i]] for i in faces.indices("test")[:14]]
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / "faces" / "test" / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    (folder / "faces" / "test" / "sad" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    order = (*LABELS[3:], *LABELS[:3])
    shutil.copytree(run_folder, folder / "one")
    write_run(folder / "two", labels=order, min_max=True)
    write_run(folder / "other", labels=("calm", "glad", "tense"))
    hashes = [faces.pixel_hash[i] for i in faces.indices("test")[:14]]
    for name, seen, status in (("one", 0, "train"), ("two", 1, "val"), ("other", 2, "train")):
        info = json.loads((folder / name / "run.json").read_text())
        info |= {"stages": [{"name": "s"}], "sources": {"small": str(folder / "faces")}, "seed": 3}
        (folder / name / "run.json").write_text(json.dumps(info))
        with open(folder / name / "data.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, DATA_COLUMNS)
            writer.writeheader()
            row = {"stage": "s", "data": "small", "path": "x.png", "pixel_hash": hashes[seen], "label": labels[seen]}
            writer.writerow({**row, "split": status, "status": status})
    return folder
