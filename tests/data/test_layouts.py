"""Every layout recognised, with its splits and classes; every broken source one clear line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.layouts import find_layout
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import DataError


def image(seed: int, size: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, *names: str) -> Path:
    """Write a different small image under each name; other files hold text."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(i) if name.endswith((".png", ".jpg")) else b"text")
    return root


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(folder))
    return path


@pytest.mark.parametrize("top", ["", "fer/", "a/b/"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_fer_folders(tmp_path: Path, top: str, as_zip: bool) -> None:
    names = [
        f"{top}{split}/{c}/{i}.png"
        for split in ("Training", "PublicTest", "PrivateTest")
        for c, i in [("happy", 1), ("sad", 2)]
    ]
    folder = fill(tmp_path / "set", *names)
    faces = load_faces(zipped(folder) if as_zip else folder)
    assert faces.layout == "split folders"
    assert faces.counts() == {s: {**dict.fromkeys(faces.labels, 0), "happy": 1, "sad": 1} for s in ("train", "val", "test")}
    assert "splits read as: PrivateTest = test, PublicTest = val, Training = train" in faces.report


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    faces = load_faces(fill(tmp_path, "train/an/1.png", "train/ha/x/1.png", f"{val}/an/1.png", "test/ha/1.png"))
    assert {s: sum(n.values()) for s, n in faces.counts().items()} == {"train": 2, "val": 1, "test": 1}
    assert [faces.labels[i] for i in faces.label[faces.indices("train")]] == ["angry", "happy"]
    assert "class names read as: an = angry, ha = happy" in faces.report


def test_class_folders_and_files_that_are_no_images(tmp_path: Path) -> None:
    names = ["LICENSE", "notes.md", "faces.csv", *(f"Anger/{i}.jpg" for i in range(6)), *(f"joy/{i}.png" for i in range(5))]
    faces = load_faces(fill(tmp_path, *names))
    assert faces.layout == "class folders" and len(faces.paths) == 11
    assert any("left out: 3 files (LICENSE, faces.csv, notes.md)" in line for line in faces.report)


def test_sfew_as_published(tmp_path: Path) -> None:
    classes = ["Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]
    names = [f"SFEW_2/{split}/{c}/Airheads_{c}.png" for split in ("Train", "Val") for c in classes]
    faces = load_faces(fill(tmp_path, *names, "SFEW_2/Test/a.png", "SFEW_2/Test/b.png"))
    assert faces.layout == "SFEW"
    assert {s: sum(n.values()) for s, n in faces.counts().items()} == {"train": 7, "val": 7}
    assert any("left out: 2 images of the test split without a class" in line for line in faces.report)
    with pytest.raises(DataError, match="no split 'test'.*train, val"):
        faces.indices("test")


def test_sfew_aligned(tmp_path: Path) -> None:
    names = [f"Train_Aligned_Faces/{c}/a.png" for c in ("Angry", "Happy")]
    names += [f"Val/Val_Aligned_Faces_new/{c}/a.png" for c in ("Angry", "Happy")]
    faces = load_faces(fill(tmp_path, *names, "Test_Aligned_Faces/1.png"))
    assert faces.layout == "SFEW"
    assert faces.split.tolist() == ["train", "train", "val", "val"]


def test_manifest(tmp_path: Path) -> None:
    fill(tmp_path, "pics/1.png", "pics/2.png", "pics/3.png")
    rows = "path,label,split,subject,age\npics/1.png,happy,train,Ann,3\npics/2.png,SU,valid,Bob,4\n\npics/3.png,sad,test,,5\n"
    (tmp_path / "list.csv").write_text("\ufeff" + rows)
    for source in (tmp_path / "list.csv", tmp_path, zipped(tmp_path)):
        faces = load_faces(source)
        assert faces.layout == "manifest"
        assert faces.paths == ["pics/1.png", "pics/2.png", "pics/3.png"]
        assert [faces.labels[i] for i in faces.label] == ["happy", "surprise", "sad"]
        assert faces.split.tolist() == ["train", "val", "test"] and faces.subject == ["Ann", "Bob", ""]
        assert "ignored columns: age" in faces.report


def test_a_manifest_may_name_a_missing_image(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{i}.png" for i in range(6)))
    rows = "".join(f"{i}.png,{'happy' if i % 2 else 'sad'}\n" for i in range(7))
    (tmp_path / "list.csv").write_text("path,label\n" + rows)
    faces = load_faces(tmp_path / "list.csv")
    assert faces.status[6] == "cannot read: No such file or directory" and faces.label[6] == -1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,mood\na.png,happy\n", "the columns are path, mood; expected emotion,pixels"),
        ("", r"empty \(zero bytes\)"),
        ("path,label\n", "no rows below the header"),
        ("path,label\na.png,happy,extra\n", r"row 1 has 3 cells, expected 2 \(path, label\)"),
        ("path,label\na.png,\n", "row 1 has no label"),
        ("path,label\n../a.png,happy\n", r"row 1: the name '../a.png' leads out"),
        ("path,label\n/etc/a.png,happy\n", "leads out"),
        ("path,label\na.png,happy\na.png,sad\n", "row 2 names 'a.png' again after row 1"),
        ("path,label,split\na.png,happy,holdout\n", "row 1: unknown split 'holdout'; expected train, val or test"),
        ("path,label,split\na.png,happy,train\nb.png,sad,\n", "row 2: unknown split ''"),
        ("path,label\na.png,happy\nb.png,smirk\n", r"unknown class name 'smirk' \(b.png\) under labels = 'basic7'"),
        ("path,label\na.png,happy\nb.png,happy\n", "only one class, 'happy', in all 2 images"),
        ('path,label\n"a.png,happy\n', "not a readable CSV"),
        ("path,path,label\na.png,a.png,happy\n", "hold a name twice"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, reason: str) -> None:
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        load_faces(tmp_path / "list.csv")
    assert "\n" not in str(caught.value) and "list.csv" in str(caught.value)


def test_a_manifest_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xe9t\xe9.png,happy\n")
    with pytest.raises(DataError, match="not UTF-8 at byte 11"):
        load_faces(tmp_path / "list.csv")


def test_a_manifest_link_that_leads_out(tmp_path: Path) -> None:
    fill(tmp_path, "secret.png", "set/b.png")
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set" / "list.csv").write_text("path,label\na.png,happy\nb.png,sad\n")
    with pytest.raises(DataError, match=r"the link 'a\.png' leads out"):
        load_faces(tmp_path / "set" / "list.csv")


def fer_rows(count: int, usage: bool = True) -> tuple[list[str], np.ndarray]:
    """Lines of a fer2013.csv and the images in it."""
    images = np.random.default_rng(1).integers(0, 256, (count, 48, 48), dtype=np.uint8)
    parts = ["Training", "PublicTest", "PrivateTest"]
    lines = [
        f"{i % 7},{' '.join(map(str, image.ravel()))}" + (f",{parts[i % 3]}" if usage else "") for i, image in enumerate(images)
    ]
    return ["emotion,pixels,Usage" if usage else "emotion,pixels", *lines], images


def test_fer_csv(tmp_path: Path) -> None:
    lines, images = fer_rows(21)
    path = tmp_path / "set" / "fer2013.csv"
    path.parent.mkdir()
    for text in ("\n".join(lines), "\r\n".join(lines) + "\r\n\r\n"):
        path.write_bytes(text.encode())
        for source in (path, path.parent):
            faces = load_faces(source)
            assert faces.layout == "fer2013.csv" and faces.pixels.shape == (48, 48, 1)
            np.testing.assert_array_equal(faces.pixels.gather(np.arange(21))[..., 0], images)
            assert faces.label.tolist() == [i % 7 for i in range(21)]
            assert faces.split.tolist() == ["train", "val", "test"] * 7
            assert faces.paths[16] == "row 17"


def test_fer_csv_in_other_dress(tmp_path: Path) -> None:
    """Quoted cells, other order, blanks in the column names, no Usage; streamed instead of held."""
    lines, images = fer_rows(30, usage=False)
    cells = [line.split(",") for line in lines[1:]]
    (tmp_path / "x.csv").write_text("\n".join([' "Pixels", "emotion"', *(f'"{p} ","{e}"' for e, p in cells)]))
    faces = load_faces(tmp_path / "x.csv", memory_budget=0)
    assert not faces.pixels.in_memory
    np.testing.assert_array_equal(faces.pixels.gather(np.array([29, 3]))[..., 0], images[[29, 3]])
    assert set(faces.split.tolist()) == {"train", "val", "test"}


def test_fer_csv_under_another_order_of_labels(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join(fer_rows(21)[0]))
    faces = load_faces(tmp_path / "x.csv", labels="sfew7")
    assert [faces.labels[i] for i in faces.label[:7]] == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("row 2", "1,1 2 3,Training", r"row 2 has 3 pixel values, expected 2,304 \(48 x 48\)"),
        ("row 1", "1,1 2 3,Training", "row 1 has 3 pixel values, expected 2,304"),
        ("row 2", "1," + "256 " * 2304 + ",Training", "row 2 holds the pixel value '256', expected whole numbers 0 to 255"),
        ("row 2", "1," + "-1 " * 2304 + ",Training", "row 2 holds the pixel value '-1'"),
        ("row 2", "1," + "1.5 " * 2304 + ",Training", "row 2 holds the pixel value '1.5'"),
        ("row 2", "1,,Training", "row 2 has 0 pixel values"),
        ("row 2", "7," + "1 " * 2304 + ",Training", "row 2 has the emotion '7'; expected 0 angry, 1 disgust"),
        ("row 2", "1," + "1 " * 2304 + ",Hidden", "row 2 has the Usage 'Hidden'; expected Training, PublicTest"),
        ("row 2", "1," + "1 " * 2304, "row 2 has 2 cells, expected 3"),
        ("header", "emotion,Usage", "the columns are emotion, usage; expected emotion,pixels"),
        ("header", "emotion,pixels", "row 1 has 3 cells, expected 2"),
    ],
)
def test_bad_fer_csv(tmp_path: Path, old: str, new: str, reason: str) -> None:
    lines, _ = fer_rows(7)
    lines[{"header": 0, "row 1": 1, "row 2": 2}[old]] = new
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=reason):
        load_faces(tmp_path / "fer2013.csv")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no images: saw no files"),
        (["README.md", "x/notes.txt"], r"no images: saw 2 other files \(README.md, x/notes.txt\)"),
        (["happy/1.png", "happy/2.png"], "only one class, 'happy', in all 2 images"),
        (["data/happy/1.png"], "only one class, 'happy'"),
        (["smirk/1.png", "happy/2.png"], r"unknown class name 'smirk' \(smirk/1.png\) under labels = 'basic7'"),
        (["1/1.png", "2/2.png"], "a number is not a name: 1 is disgust in FER-2013"),
        (["1.png", "2.png"], "layout not recognised: 2 images lie in no class folder; known: fer2013.csv"),
        (
            ["happy/1.png", "sad/1.png", "sheet.png"],
            "1 images lie in no class folder beside the folders happy, sad: sheet.png; move",
        ),
        (["train/happy/1.png", "extra/sad/1.png"], "the folders extra stand beside the splits train"),
        (["train/1.png", "train/sad/1.png"], "train/1.png in no class folder"),
        (["val/sad/1.png", "valid/sad/2.png"], "the folders val, valid are the same split"),
    ],
)
def test_bad_folders(tmp_path: Path, names: list[str], reason: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=reason) as caught:
        load_faces(fill(tmp_path / "set", *names))
    assert "\n" not in str(caught.value)


def test_bad_paths(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"tar")
    (tmp_path / "x.zip").write_bytes(b"no zip")
    (tmp_path / "empty.zip").write_bytes(b"")
    sources: list[tuple[str | Path, str]] = [
        ("", "path of a data set is empty"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "x.tar", "layout not recognised: a file that is neither a zip nor a CSV"),
        (tmp_path / "x.zip", "damaged or no zip"),
        (tmp_path / "empty.zip", r"is empty \(zero bytes\)"),
        ("/dev/null", "neither a file nor a folder"),
    ]
    for path, reason in sources:
        with pytest.raises(DataError, match=reason):
            find_layout(path)


def test_any_class_names_with_folder(tmp_path: Path) -> None:
    faces = load_faces(fill(tmp_path, *(f"{c}/{i}.png" for c in ("smirk", "Awe") for i in range(4))), labels="folder")
    assert faces.labels == ("Awe", "smirk")
