"""Small sets laid out as the known ones are distributed: same folders, names, columns and numbers, images of noise."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

BASIC = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def noise(seed: int, size: tuple[int, int] = (12, 12), colour: bool = False) -> np.ndarray:
    """uint8 (height, width) or (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".tiff": "TIFF"}.get(path.suffix.lower(), "JPEG")
    Image.fromarray(image).save(buffer, kind)
    path.write_bytes(buffer.getvalue())
    return path


def fer_lines(count: int, usage: bool = True, side: int = 12) -> list[str]:
    """Rows of `fer2013.csv` with images of `noise(row)`; emotions 0 to 6 in turn, splits in turn."""
    parts = ("Training", "PublicTest", "PrivateTest")
    rows = [f"{i % 7},{' '.join(map(str, noise(i, (side, side)).ravel()))}" for i in range(count)]
    if not usage:
        return ["emotion,pixels", *rows]
    return ["emotion,pixels,Usage", *(f"{row},{parts[i % 3]}" for i, row in enumerate(rows))]


def rafdb(root: Path) -> dict[str, dict[str, int]]:
    """`basic/EmoLabel/list_patition_label.txt` and `basic/Image/aligned/`: 14 of train, 7 of test."""
    lines = []
    for split, count in (("train", 14), ("test", 7)):
        for i in range(count):
            lines.append(f"{split}_{i + 1:05d}.jpg {i % 7 + 1}")
            write(root / "basic" / "Image" / "aligned" / f"{split}_{i + 1:05d}_aligned.jpg", noise(len(lines), colour=True))
    (root / "basic" / "EmoLabel").mkdir(parents=True)
    (root / "basic" / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return {"train": dict.fromkeys(BASIC, 2), "test": dict.fromkeys(BASIC, 1)}


def rafdb_folders(root: Path) -> dict[str, dict[str, int]]:
    """As Kaggle has it: `DATASET/train/1/train_00001_aligned.jpg` and two tables beside it."""
    for split, count in (("train", 14), ("test", 7)):
        for i in range(count):
            file = root / "DATASET" / split / str(i % 7 + 1) / f"{split}_{i + 1:05d}_aligned.jpg"
            write(file, noise(i + 100 * count, colour=True))
        rows = "".join(f"{split}_{i + 1:05d}.jpg,{i % 7 + 1}\n" for i in range(count))
        (root / f"{split}_labels.csv").write_text("image,label\n" + rows)
    return {"train": dict.fromkeys(BASIC, 2), "test": dict.fromkeys(BASIC, 1)}


def ferplus(root: Path) -> dict[str, dict[str, int]]:
    """`fer2013.csv` and `fer2013new.csv`: three images of a class a split; three rows stay out."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fer2013.csv").write_text("\n".join(fer_lines(12)))
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes = ["1,0,0,9,0,0,0,0,0,0"] * 3 + ["8,1,1,0,0,0,0,0,0,0"] * 3 + ["0,0,1,1,1,1,1,5,0,0"] * 3
    # no majority; most do not know; no face
    votes += ["5,5,0,0,0,0,0,0,0,0", "0,4,0,0,0,0,0,0,6,0", "0,0,0,0,0,0,0,0,0,10"]
    usage = ("Training", "PublicTest", "PrivateTest")
    rows = [f"{usage[i % 3]},{'' if i == 11 else f'fer{i:07d}.png'},{vote}" for i, vote in enumerate(votes)]
    (root / "fer2013new.csv").write_text("\n".join([header, *rows]) + "\n")
    return {split: {"sad": 1, "neutral": 1, "contempt": 1} for split in ("train", "val", "test")}


def affectnet(root: Path) -> dict[str, dict[str, int]]:
    """`train_set/images/0.jpg`, `train_set/annotations/0_exp.npy` (a number as text) and its likes; and `val_set/`."""
    names = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry")
    for split, count in (("train_set", 14), ("val_set", 7)):
        for i in range(count):
            write(root / split / "images" / f"{i}.jpg", noise(i + 50 * count, colour=True))
            (root / split / "annotations").mkdir(parents=True, exist_ok=True)
            for kind, value in (("exp", str(i % 7)), ("val", "0.25"), ("aro", "-0.5")):
                np.save(root / split / "annotations" / f"{i}_{kind}.npy", np.array(value))
            np.save(root / split / "annotations" / f"{i}_lnd.npy", np.zeros(136))
    return {"train": dict.fromkeys(names, 2), "val": dict.fromkeys(names, 1)}


def affectnet_tables(root: Path) -> dict[str, dict[str, int]]:
    """`training.csv` and `validation.csv` with boxes of faces in images below numbered folders; 9 is "uncertain"."""
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    for table, codes in (("training", (0, 1, 2, 9)), ("validation", (1, 2))):
        rows = ""
        for i, code in enumerate(codes):
            write(root / "Manually_Annotated_Images" / str(i) / f"{table}.jpg", noise(i, (40, 50), colour=True))
            rows += f"{i}/{table}.jpg,10,5,30,30,1;2;3,{code},0.1,0.2\n"
        (root / f"{table}.csv").write_text(header + rows)
    return {"train": {"neutral": 1, "happy": 1, "sad": 1}, "val": {"happy": 1, "sad": 1}}


def ckplus(root: Path) -> dict[str, dict[str, int]]:
    """CK+48: class folders; three frames of each of 12 persons, `S010_004_00000017.png`."""
    for person in range(12):
        for frame in range(3):
            name = ("anger", "happy", "sadness")[person % 3]
            write(root / "CK+48" / name / f"S{person:03d}_001_{frame:08d}.png", noise(person * 3 + frame))
    return {}


def kdef(root: Path) -> dict[str, dict[str, int]]:
    """A folder for each person and session: `KDEF/AF01/AF01ANS.JPG`."""
    people = [f"{session}{person}" for session in "AB" for person in ("F01", "F02", "M01", "M02", "M03")]
    for p, name in enumerate(people):
        for k, code in enumerate(("AF", "AN", "DI", "HA", "NE", "SA", "SU")):
            write(root / "KDEF" / name / f"{name}{code}S.JPG", noise(p * 7 + k, colour=True))
    return {}


def jaffe(root: Path) -> dict[str, dict[str, int]]:
    """All images in one folder: `jaffe/KA.AN1.39.tiff`."""
    for p, person in enumerate(("KA", "KL", "MK", "NA", "UY")):
        for k, code in enumerate(("AN", "DI", "FE", "HA", "NE", "SA", "SU")):
            write(root / "jaffe" / f"{person}.{code}1.{p * 7 + k}.tiff", noise(p * 7 + k))
    (root / "jaffe" / "README").write_text("about")
    return {}


def expw(root: Path) -> dict[str, dict[str, int]]:
    """`label/label.lst` and photos with one or two faces each in `image/origin/`."""
    lines = []
    for photo in range(10):
        name = f"smile_{photo}.jpg"
        write(root / "image" / "origin" / name, noise(photo, (60, 80), colour=True))
        for face in range(1 + photo % 2):
            top, left = 5 + face, 10 + 30 * face
            lines.append(f"{name} {face} {top} {left} {left + 24} {top + 24} 51.5 {(photo + face) % 7}")
    (root / "label").mkdir()
    (root / "label" / "label.lst").write_text("\n".join(lines) + "\n")
    return {}


LAYOUTS: dict[str, tuple[str, Callable[[Path], dict[str, dict[str, int]]]]] = {
    "rafdb": ("RAF-DB", rafdb),
    "rafdb_folders": ("RAF-DB", rafdb_folders),
    "ferplus": ("FER+", ferplus),
    "affectnet": ("AffectNet", affectnet),
    "affectnet_tables": ("AffectNet", affectnet_tables),
    "ckplus": ("class folders", ckplus),
    "kdef": ("KDEF", kdef),
    "jaffe": ("JAFFE", jaffe),
    "expw": ("ExpW", expw),
}
"""Name -> (what the reader calls the layout, what writes such a set and returns its counts where it has splits)."""
