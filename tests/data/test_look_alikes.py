"""Each known set is read as it is distributed: its classes, splits and persons, from a folder and from a zip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.layouts import TABLE, classes_of, find_layout
from emotiw_keras.data.layouts.affectnet import number_of
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import DataError
from tests.data.look_alikes import LAYOUTS, fer_lines, ferplus, noise, rafdb, write


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(folder))
    return path


def shown(faces: FaceSet) -> dict[str, dict[str, int]]:
    return {split: {label: n for label, n in of.items() if n} for split, of in faces.counts().items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_as_it_is_distributed(name: str, tmp_path: Path) -> None:
    layout, make = LAYOUTS[name]
    expected = make(tmp_path / "set")
    for source in (tmp_path / "set", zipped(tmp_path / "set")):
        faces = load_faces(source, labels="ferplus8" if name == "ferplus" else "basic7", val_share=0)
        assert faces.layout == layout and set(faces.status) == {"ok"}
        assert not expected or shown(faces) == expected
        assert len(classes_of(source)) == (3 if name in ("ferplus", "ckplus", "affectnet_tables") else 7)


def test_rafdb_numbers_mean_what_rafdb_says_and_files_tell_the_split(tmp_path: Path) -> None:
    rafdb(tmp_path / "set")
    faces = load_faces(tmp_path / "set", val_share=0)
    assert faces.labels[faces.label[faces.paths.index("basic/Image/aligned/train_00001_aligned.jpg")]] == "surprise"
    (tmp_path / "set" / "basic" / "Image" / "aligned" / "train_00003_aligned.jpg").unlink()
    write(tmp_path / "set" / "spare.jpg", noise(5))
    report = "\n".join(load_faces(tmp_path / "set", val_share=0).report)
    assert "images of the list that are not there: 1 (train_00003)" in report
    assert "images that no class is given for, so left out: 1 (spare.jpg)" in report
    (tmp_path / "set" / "basic" / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 8\n")
    with pytest.raises(DataError, match="line 1 is 'train_00001.jpg 8'"):
        load_faces(tmp_path / "set")


def test_the_votes_of_ferplus_replace_the_labels_and_nobody_is_counted_twice(tmp_path: Path) -> None:
    ferplus(tmp_path)
    faces = load_faces(tmp_path, labels="ferplus8")
    np.testing.assert_array_equal(faces.pixels.gather(np.array([4]))[0, ..., 0], noise(4))
    assert [faces.labels[i] for i in faces.label] == ["sad"] * 3 + ["neutral"] * 3 + ["contempt"] * 3
    assert any("left out: 3 images" in line for line in faces.report)
    again = load_faces(tmp_path / "fer2013new.csv", labels="ferplus8")
    assert again.paths == faces.paths and again.pixel_hash == faces.pixel_hash
    (tmp_path / "fer2013.csv").write_text("\n".join(fer_lines(11)))
    with pytest.raises(DataError, match="has 11 rows, the other labels 12"):
        load_faces(tmp_path, labels="ferplus8")
    (tmp_path / "fer2013.csv").unlink()
    with pytest.raises(DataError, match=r"whose images are in fer2013.csv; put it beside them"):
        load_faces(tmp_path, labels="ferplus8")


def test_contempt_names_the_ways_out(tmp_path: Path) -> None:
    ferplus(tmp_path)
    with pytest.raises(DataError, match="unknown class name 'contempt'") as caught:
        load_faces(tmp_path, name="target")
    assert "--set 'source.target.leave_out=[\"contempt\"]'" in str(caught.value)
    assert 'labels = "ferplus8"' in str(caught.value) and 'labels = "folder"' in str(caught.value)
    assert set(load_faces(tmp_path, leave_out=["contempt"]).counts()["train"]) == set(
        load_faces("generated:small", limit=7).labels
    )


@pytest.mark.parametrize(("name", "persons"), [("ckplus", 12), ("kdef", 5), ("jaffe", 5)])
def test_persons_that_file_names_tell_stand_in_one_split(name: str, persons: int, tmp_path: Path) -> None:
    LAYOUTS[name][1](tmp_path)
    faces = load_faces(tmp_path, fractions=(0.6, 0.2, 0.2))
    assert len(set(faces.subject)) == persons and "" not in faces.subject
    of = {split: {faces.subject[i] for i in faces.indices(split)} for split in ("train", "val", "test")}
    assert not (of["train"] & of["val"] or of["train"] & of["test"] or of["val"] & of["test"])
    assert any("persons kept together" in line for line in faces.report)


def test_faces_of_a_list_of_boxes_are_cut_out_and_those_of_a_photo_stay_together(tmp_path: Path) -> None:
    LAYOUTS["expw"][1](tmp_path)
    faces = load_faces(tmp_path, grey=False)
    assert len(faces.paths) == 15 and faces.pixels.shape == (24, 24, 3)
    position = faces.paths.index("image/origin/smile_1.jpg#1")
    from emotiw_keras.data.images import decode_image

    photo = decode_image((tmp_path / "image" / "origin" / "smile_1.jpg").read_bytes())
    np.testing.assert_array_equal(faces.pixels.gather(np.array([position]))[0], photo[6:30, 40:64])
    assert faces.labels[faces.label[position]] == "fear"
    for photo_name in set(faces.subject):
        assert len({str(faces.split[i]) for i, name in enumerate(faces.subject) if name == photo_name}) == 1
    (tmp_path / "label" / "label.lst").write_text("smile_1.jpg 0 5 10 34 29 51.5 9\n")
    with pytest.raises(DataError, match=r"label.lst: line 1 is .* expression 0 to 6"):
        load_faces(tmp_path)


def test_numbers_in_numpy_files_are_read_and_nothing_else_is(tmp_path: Path) -> None:
    for value, word in (("3", "3"), (b"3", "3"), (3, "3"), (np.int16(258), "258"), (np.array([7], ">i4"), "7"), ("6.0", "6")):
        np.save(tmp_path / "x.npy", np.array(value))
        assert number_of((tmp_path / "x.npy").read_bytes()) == word
    np.save(tmp_path / "x.npy", np.array({"exp": 3}, object), allow_pickle=True)
    with pytest.raises(DataError, match="type .O, expected a number"):
        number_of((tmp_path / "x.npy").read_bytes())
    np.save(tmp_path / "x.npy", np.zeros(3))
    for data, reason in ((b"no", "no NumPy file"), (b"\x93NUMPY\x01\x00\x10\x00{'descr'", "damaged header")):
        with pytest.raises(DataError, match=reason):
            number_of(data)
    with pytest.raises(DataError, match="expected one number"):
        number_of((tmp_path / "x.npy").read_bytes())


def test_every_layout_of_the_table_is_reached(tmp_path: Path) -> None:
    """Each row says yes to its own sets alone among those above it: none hides another."""
    for name, (_, make) in LAYOUTS.items():
        make(tmp_path / name)
    assert len({layout.name for layout in TABLE}) == len(TABLE)
    assert {find_layout(tmp_path / name).layout for name in LAYOUTS} == {layout for layout, _ in LAYOUTS.values()}
