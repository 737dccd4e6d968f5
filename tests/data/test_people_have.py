"""Folders and tables as people have them: other spellings, splits, encodings and names, read or refused in one line."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.archive import ZipArchive, printable
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts import find_layout
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.prepare.source import find_images
from emotiw_keras.errors import DataError, UsageError
from tests.data.look_alikes import LAYOUTS, fer_lines, noise, write


def fill(root: Path, *names: str, start: int = 0) -> Path:
    for i, name in enumerate(names):
        write(root / name, noise(start + i))
    return root


def total(faces: object) -> dict[str, int]:
    return {split: sum(of.values()) for split, of in faces.counts().items()}  # type: ignore[attr-defined]


# Folders


def test_spellings_of_one_name_are_one_class(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{i}.png" for s, c in (("train", "Happy"), ("val", "happy"), ("test", "Happiness")) for i in range(2)]
    names += [f"{s}/{c}/{i}.png" for s, c in (("train", "Smirk"), ("val", "smirk"), ("test", "SMIRK")) for i in range(2)]
    names += [f"train/{unicodedata.normalize('NFD', 'Béat')}/1.png", f"val/{unicodedata.normalize('NFC', 'Béat')}/1.png"]
    faces = load_faces(fill(tmp_path, *names), labels="folder")
    assert faces.labels[1:] == ("happy", "smirk") and len(faces.labels) == 3
    assert faces.counts()["train"] == faces.counts()["val"] == dict(zip(faces.labels, (1, 2, 2), strict=True))
    assert any("Happiness = happy" in line and "SMIRK = smirk" in line for line in faces.report)
    again = load_faces(tmp_path, labels=faces.labels)  # as `evaluate` reads for a run with these labels
    assert again.label.tolist() == faces.label.tolist()


def test_folders_of_sets_are_splits(tmp_path: Path) -> None:
    faces = load_faces(fill(tmp_path, *(f"{s}_set/{c}/1.png" for s in ("train", "val", "test") for c in ("happy", "sad"))))
    assert faces.layout == "split folders" and total(faces) == {"train": 2, "val": 2, "test": 2}
    assert "splits read as: test_set = test, train_set = train, val_set = val" in faces.report


@pytest.mark.parametrize("top", ["", "train/"])
def test_folders_of_persons_are_persons(tmp_path: Path, top: str) -> None:
    names = [f"{top}{p}/{c}/{i}.png" for p in ("anna", "ben", "cleo") for c in ("Happy", "Sad") for i in range(2)]
    faces = load_faces(fill(tmp_path, *names), labels="folder", val_share=0.3 if top else 0)
    assert faces.labels == ("Happy", "Sad") and faces.subject == [name.split("/")[-3] for name in sorted(names)]
    assert any(line.startswith("folders read as persons: anna, ben, cleo") for line in faces.report)
    by_person = {person: {str(faces.split[i]) for i, p in enumerate(faces.subject) if p == person} for person in faces.subject}
    assert all(len(splits) == 1 for splits in by_person.values())


def test_what_systems_and_viewers_leave_is_no_class_and_is_named(tmp_path: Path) -> None:
    names = [f"{c}/{i}.png" for c in ("happy", "sad") for i in range(4)]
    system = ["happy/@eaDir/1.png/THUMB.jpg", "@eaDir/sad/x.jpg", "thumbnails/a.jpg", "sad/Thumbs/a.jpg"]
    fill(tmp_path / "set", *names, *system)
    packed = tmp_path / "set.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for name in (*names, *system, "__MACOSX/happy/._1.png"):
            file.write(tmp_path / "set" / name, name) if not name.startswith("__") else file.writestr(name, b"x")
    for source in (tmp_path / "set", packed):
        faces = load_faces(source, labels="folder")
        assert faces.labels == ("happy", "sad") and len(faces.paths) == 8
        told = next(line for line in faces.report if "folders of systems and viewers left out" in line)
        assert all(folder in told for folder in ("@eaDir", "happy/@eaDir", "thumbnails", "sad/Thumbs"))


def test_train_and_test_alone_give_val_a_part_of_train_by_person(tmp_path: Path) -> None:
    names = [f"train/{c}/p{p:02d}_{i}.png" for c in ("happy", "sad") for p in range(10) for i in range(2)]
    fill(tmp_path, *names, *(f"test/{c}/q{i}.png" for c in ("happy", "sad") for i in range(3)))
    plain = load_faces(tmp_path)
    assert total(plain) == {"train": 36, "val": 4, "test": 6}
    assert plain.counts()["val"]["happy"] == plain.counts()["val"]["sad"] == 2
    line = "no val in the source: 10% of train are val (val_share), stratified, seed 0, duplicates kept together"
    assert line in plain.report
    faces = load_faces(tmp_path, subject_pattern=r"^([pq]\d+)", val_share=0.3, seed=3)
    persons = {split: {faces.subject[i] for i in faces.indices(split)} for split in ("train", "val")}
    assert len(persons["val"]) == 3 and not persons["train"] & persons["val"]
    assert (faces.split == load_faces(tmp_path, subject_pattern=r"^([pq]\d+)", val_share=0.3, seed=3).split).all()
    assert total(load_faces(tmp_path, limit=3)) == {"train": 3, "val": 3, "test": 3}
    assert total(load_faces(tmp_path, val_share=0)) == {"train": 40, "test": 6}
    with pytest.raises(UsageError, match="val_share = 1"):
        load_faces(tmp_path, val_share=1)


@pytest.mark.parametrize(
    ("top", "lacks"), [(("train/", "val/"), "its own val"), (("",), "no splits"), (("val/", "test/"), "its own val")]
)
def test_a_share_for_val_that_is_taken_of_nothing_is_refused(tmp_path: Path, top: tuple[str, ...], lacks: str) -> None:
    fill(tmp_path, *(f"{each}{c}/{i}.png" for each in top for c in ("happy", "sad") for i in range(9)))
    with pytest.raises(UsageError, match=f"val_share = 0.3: .* has {lacks}; it is the share of a train without a val"):
        load_faces(tmp_path, val_share=0.3)
    assert sum(total(load_faces(tmp_path)).values()) == sum(total(load_faces(tmp_path, val_share=0)).values()) == 18 * len(top)


def test_names_that_are_no_utf8_are_read_and_written_as_escapes(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{c}/{i}.png" for c in ("happy", "sad") for i in range(4)))
    odd = os.fsencode(tmp_path / "sad") + b"/caf\xe9.png"
    folder = os.fsencode(tmp_path) + b"/stra\xdfe"
    try:
        os.mkdir(folder)
        for i, path in enumerate((odd, folder + b"/1.png")):
            Path(os.fsdecode(path)).write_bytes(write(tmp_path.parent / "x.png", noise(50 + i)).read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    faces = load_faces(tmp_path, labels="folder")
    assert faces.labels == ("happy", "sad", "stra\\xdfe") and "sad/caf\\xe9.png" in faces.paths
    assert set(faces.status) == {"ok"} and len(faces.paths) == 10
    text = io.StringIO()
    csv.DictWriter(text, ["data", "path", "pixel_hash", "label", "subject", "split", "status"]).writerows(faces.records({}))
    (text.getvalue() + "\n".join(faces.report)).encode()  # every table and line can be written
    assert printable("café") == "café"


# Tables


def test_a_manifest_in_other_dress(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b c.png")
    rows = [["path", "label", "split"], ["a.png", "happy", "train"], ["b c.png", "sad", "Test Set"]]
    for separator in ",;\t|":
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
            for end in ("\n", "\r\n", "\r"):
                text = end.join(separator.join(f'"{cell}"' if " " in cell else cell for cell in row) for row in rows) + end
                (tmp_path / "list.csv").write_bytes(text.encode(encoding))
                faces = load_faces(tmp_path / "list.csv", val_share=0)
                assert faces.paths == ["a.png", "b c.png"] and faces.split.tolist() == ["train", "test"], (
                    separator,
                    encoding,
                    end,
                )
                assert [faces.labels[i] for i in faces.label] == ["happy", "sad"]
    (tmp_path / "list.csv").write_text("sep=;\r\npath;label\r\na.png;happy\r\nb c.png;sad\r\n")
    assert len(load_faces(tmp_path / "list.csv").paths) == 2
    (tmp_path / "list.csv").unlink()
    (tmp_path / "list.tsv").write_text("filename\temotion\na.png\thappy\nb c.png\tsad\n")
    faces = load_faces(tmp_path / "list.tsv")
    assert "columns read as: filename = path, emotion = label" in faces.report


def test_a_manifest_with_absolute_paths_inside_the_folder(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", "a.png", "x/b.png")
    (root / "list.csv").write_text(f"image,label\n{root}/a.png,happy\n{root}/x/../x/b.png,sad\n")
    for source in (root, root / "list.csv"):
        assert load_faces(source).paths == ["a.png", "x/b.png"]
    (tmp_path / "way").symlink_to(root, target_is_directory=True)
    assert load_faces(tmp_path / "way" / "list.csv").paths == ["a.png", "x/b.png"]
    (root / "list.csv").write_text(f"image,label\n{tmp_path}/c.png,happy\n{root}/x/b.png,sad\n")
    with pytest.raises(DataError, match="row 1: the name .* leads out of it; expected a relative name"):
        load_faces(root / "list.csv")


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_with_accents_are_found_however_they_are_composed(tmp_path: Path, in_table: str, on_disk: str) -> None:
    name = "Zoé.png"
    root = fill(tmp_path / "set", unicodedata.normalize(on_disk, name), "b.png")  # type: ignore[arg-type]
    table = f"path,label\n{unicodedata.normalize(in_table, name)},happy\nb.png,sad\n"  # type: ignore[arg-type]
    (root / "list.csv").write_text(table, encoding="utf-8")
    for source in (root, root / "list.csv"):
        assert set(load_faces(source).status) == {"ok"}


def test_images_that_a_manifest_does_not_name_are_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", "a.png", "b.png", "spare.png")
    (root / "list.csv").write_text("path,label\na.png,happy\nb.png,sad\n")
    assert "images that no class is given for, so left out: 1 (spare.png)" in load_faces(root).report


def test_archives_within_are_named(tmp_path: Path) -> None:
    (tmp_path / "basic" / "Image").mkdir(parents=True)
    (tmp_path / "basic" / "Image" / "aligned.zip").write_bytes(b"zip")
    with pytest.raises(DataError, match="no images: saw 1 other file .*; unpack basic/Image/aligned.zip there; known"):
        load_faces(tmp_path)


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "set", *(f"{c}/{i}.png" for c in ("happy", "sad") for i in range(2)))
    assert len(load_faces("~/set").paths) == 4


def expect_fer(source: Path, count: int = 21) -> None:
    faces = load_faces(source)
    np.testing.assert_array_equal(
        faces.pixels.gather(np.arange(count))[..., 0], np.array([noise(i, (12, 12)) for i in range(count)])
    )
    assert faces.label.tolist() == [i % 7 for i in range(count)] and faces.layout == "fer2013.csv"
    assert faces.split.tolist() == (["train", "val", "test"] * count)[:count]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_fer2013_in_other_dress(tmp_path: Path, encoding: str, separator: str, end: str) -> None:
    lines = [line.split(",") for line in fer_lines(21)]
    lines[1:] = [[f"{emotion}.0", f'"{pixels}"', usage] for emotion, pixels, usage in lines[1:]]
    path = tmp_path / "fer2013.csv"
    path.write_bytes((end.join(separator.join(cells) for cells in lines) + end).encode(encoding))
    expect_fer(path)


def test_fer2013_zipped_and_the_four_files_of_the_challenge(tmp_path: Path) -> None:
    root = tmp_path / "challenge"
    root.mkdir()
    lines = [line.split(",") for line in fer_lines(21)]
    (root / "icml_face_data.csv").write_text(
        "\n".join(",".join((e, u, p)) for e, p, u in [["emotion", " pixels", " Usage"], *lines[1:]])
    )
    (root / "train.csv").write_text("\n".join(fer_lines(7, usage=False)))
    (root / "test.csv").write_text("pixels\n" + "\n".join(line.split(",")[1] for line in fer_lines(7)[1:]))
    (root / "example_submission.csv").write_text("emotion\n0\n1\n")
    expect_fer(root)
    assert any("example_submission.csv, test.csv, train.csv" in line for line in load_faces(root).report)
    packed = tmp_path / "fer.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted(root.iterdir()):
            file.write(each, f"challenge/{each.name}")
    expect_fer(packed)
    (root / "other.csv").write_text("\n".join(fer_lines(7)))
    with pytest.raises(DataError, match="holds icml_face_data.csv, other.csv, train.csv, each with emotion and pixels"):
        load_faces(root)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_table_in_a_zip_may_be_larger_than_an_image_and_is_checked(tmp_path: Path, packing: int) -> None:
    """A table of 70 MB, unpacked a block at a time; one byte changed is an error, not other pixels."""
    filler = "\n".join(fer_lines(2)[1:]) + "\n"
    text = "emotion,pixels,Usage\n" + filler + " \n" * (35 * 2**20)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", packing, compresslevel=1) as file:
        file.writestr("fer2013.csv", text)
    with open(tmp_path / "out", "w+b") as target:
        ZipArchive(path).copy("fer2013.csv", target)
        assert target.tell() == len(text) > 64 * 2**20
    archive = ZipArchive(path)
    with pytest.raises(ImageError, match="larger than 64 MiB"):
        archive.read("fer2013.csv")
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with open(tmp_path / "out", "w+b") as target, pytest.raises(ImageError, match="damaged zip"):
        ZipArchive(path).copy("fer2013.csv", target)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("list.csv", b"path;label\n\xff\xfe;happy\n", "not UTF-8 at byte 11; save it as UTF-8"),
        ("list.csv", "path,label\na.png,happy\n".encode("utf-16")[:-1], "not UTF-16 at byte"),
        (
            "list.csv",
            b"who,what\na.png,happy\n",
            "the columns are who, what; expected emotion,pixels.*path may be called",
        ),
        ("fer.csv", b"emotion;pixels\n0;1 2\n0;1 2;3\n", "row 2 has 3 cells, expected 2"),
        ("fer.csv", b"emotion,pixels\n0.5,1 2\n", "has the emotion '0.5'"),
    ],
)
def test_tables_that_cannot_be_read_say_what_to_change(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        find_layout(tmp_path / name)
    assert "\n" not in str(caught.value)


# The same before faces are cut out


def test_prepare_reads_classes_and_persons_as_fit_does(tmp_path: Path) -> None:
    names = [f"{p}/{c}/{i}.png" for p in ("anna", "ben") for c in ("Happy", "Sad") for i in range(2)]
    source = find_images(fill(tmp_path / "persons", *names))
    assert [(item.label, item.subject) for item in source.items] == [(n.split("/")[1], n.split("/")[0]) for n in sorted(names)]
    for name in ("kdef", "jaffe"):
        LAYOUTS[name][1](tmp_path / name)
        items = find_images(tmp_path / name).items
        faces = load_faces(tmp_path / name)
        told = [(faces.labels[i], person) for i, person in zip(faces.label, faces.subject, strict=True)]
        assert [(item.label, item.subject) for item in items] == told
    names = [f"{s}_set/{c}/1.png" for s in ("train", "val") for c in ("happy", "sad")]
    source = find_images(fill(tmp_path / "split", *names, "@eaDir/x.png"))
    assert [(item.split, item.label) for item in source.items] == [(s, c) for s in ("train", "val") for c in ("happy", "sad")]
    assert any("@eaDir" in note for note in source.notes)


def test_empty_lines_above_a_header_and_columns_without_a_name(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text("\n\r\n,path,label\n0,a.png,happy\n1,b.png,sad\n")
    faces = load_faces(tmp_path / "list.csv", val_share=0)
    assert faces.paths == ["a.png", "b.png"] and any("ignored columns: (no name)" in line for line in faces.report)
