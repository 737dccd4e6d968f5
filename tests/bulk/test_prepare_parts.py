"""`emotiw prepare --runner`: rows as in `faces.csv`, and tars that `emotiw fit` reads once they are unpacked."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import tarfile
from pathlib import Path

import cv2
import pytest
from PIL import Image

from emotiw_keras.bulk.job import Job, named_inputs, versions_of
from emotiw_keras.bulk.run import _below_class, run
from emotiw_keras.bulk.summary import lines, summarise
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.prepare import prepare
from tests.bulk.conftest import digest, in_process
from tests.serving.marked import MarkedEyes, background, frames_of, put_face, write_video


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("emotiw_keras.faces.detectors.get_detector", lambda name=None, min_face=None, engine=None: MarkedEyes())
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        image = background(seed=number)
        for place in range(number % 3):
            put_face(image, 10 + 100 * place, 40, 96, seed=number)
        path = Path("src", "train" if number < 8 else "test", "sad" if number % 2 else "happy", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    Path("src/train/sad/bad.png").write_bytes(b"no image")


def job(out: str, kind: str = "jsonl", **changes: object) -> Job:
    settings = {"detector": "blazeface", "faces": "all", "no_face": "skip", "reading": "B", "frames": 3} | changes
    sizes = {"inputs": 5, "bytes": 1 << 20}
    return Job("prepare", out, settings, kind, named_inputs(("src",)), sizes, versions_of("opencv", kind))


def rows(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(folder, "faces.csv").open()))


def test_the_rows_and_faces_are_those_of_prepare() -> None:
    tally = run(job("out"), ["src"], in_process, lambda line: None)
    prepare("src", "plain", detector=MarkedEyes(), faces="all", near_duplicates=0, workers=1)
    mine, theirs = rows("out"), rows("plain")
    assert tally.counts() == {"inputs": 13, "images": 13, "rows": len(theirs), "faces": 12, "failed": 1}
    names = {}
    for ours, other in zip(mine, theirs, strict=True):
        assert ours["path"] == f"src/{other['path']}"
        assert {k: v for k, v in other.items() if k not in ("path", "output")}.items() <= ours.items()
        names[ours["output"]] = other["output"]
    for part in sorted(Path("out").glob("*.tar")):
        with tarfile.open(part) as file:
            assert {(member.mtime, member.uid, member.mode) for member in file.getmembers()} <= {(0, 0, 0o644)}
            for member in file.getmembers():
                assert file.extractfile(member).read() == Path("plain", names.pop(member.name)).read_bytes()  # type: ignore[union-attr]
            file.extractall("out", filter="data")
    assert set(names) == {""}
    faces = load_faces("out")
    assert faces.layout == "prepared faces" and len(faces.label) == 12 and {"train", "test"} <= set(faces.split)


def test_formats_films_and_a_second_run_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("src")
    Path("src/happy").mkdir(parents=True)
    write_video("src/happy/film.mp4", frames_of(9))
    run(job("out"), ["src"], in_process, lambda line: None)
    assert [(row["frame"], row["label"]) for row in rows("out")] == [("1", "happy"), ("4", "happy"), ("7", "happy")]
    before = digest("out")
    Path("out/part-00000000.tar").unlink()
    said: list[str] = []
    run(job("out"), ["src"], in_process, said.append)
    assert "part-00000000.tar is missing or damaged" in said[0] and digest("out") == before
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    run(job("columns", "parquet"), ["src"], in_process, lambda line: None)
    assert rows("columns") == rows("out")


@pytest.mark.parametrize(
    ("path", "label", "below"),
    [
        ("src/happy/anna/1.png", "happy", "anna"),
        ("/happy/src/happy/anna/1.png", "happy", "anna"),
        ("src/happy/1.png", "happy", ""),
        ("/src/photos/1.png", "", ""),  # of no class, and the path begins with nothing
    ],
)
def test_the_folder_below_the_class_of_a_face(path: str, label: str, below: str) -> None:
    assert _below_class({"path": path, "label": label, "output": "1.png", "subject": ""}) == below
    assert _below_class({"path": path, "label": label, "output": "1.png", "subject": "anna"}) == ""


def test_persons_are_those_of_names_and_manifests_and_a_line_says_what_is_not_read() -> None:
    (Path("src/train/happy") / "anna").mkdir()
    Path("src/train/happy/1.png").write_bytes(Path("src/train/sad/1.png").read_bytes())
    Path("src/train/happy/1.png").rename("src/train/happy/anna/1.png")
    said: list[str] = []
    run(job("out"), ["src"], in_process, said.append)
    assert [line for line in said if line.startswith("folders below the classes, such as 'anna', are not read as persons")]
    shutil.rmtree("out")
    Path("list.csv").write_text("path,label,subject\nsrc/train/happy/anna/1.png,happy,anna\nsrc/train/sad/1.png,sad,ben\n")
    listed = dataclasses.replace(job("told"), inputs=named_inputs(("list.csv",)))
    said.clear()
    run(listed, ["list.csv"], in_process, said.append)
    with tarfile.open("told/part-00000000.tar") as file:
        file.extractall("told", filter="data")
    faces = load_faces("told")
    assert set(faces.subject) == {"anna", "ben"} and not faces.guessed_persons
    assert not any("persons" in line and "names of folders" in line for line in (*said, *faces.report))


def test_what_a_photo_holds_besides_is_counted() -> None:
    first, second = (Image.fromarray(background(seed=seed)) for seed in (0, 1))
    first.save("moving.gif", save_all=True, append_images=[second])
    tally = run(job("out"), ["moving.gif"], in_process, lambda line: None)
    assert tally.notes == {"holds several images; the first is read": 1}


def test_a_film_that_breaks_off_is_one_failure_and_no_frame_more() -> None:
    write_video("film.avi", frames_of(20))
    film = Path("film.avi").read_bytes()
    Path("film.avi").write_bytes(film[: int(0.7 * len(film))])
    Path("bad.png").write_bytes(b"no image")
    tally = run(job("out", frames=8), ["film.avi", "bad.png"], in_process, lambda line: None)
    frames = {row["frame"] for row in rows("out")} - {""}
    assert tally.failed == 2 and 0 < len(frames) < 8 and tally.images == len(frames) + 1
    assert [(group.pictures, group.unreadable) for group in summarise("out").groups.values()] == [(2, 2)]


def test_the_summary_counts_by_class_and_checks_the_tars() -> None:
    run(job("out", faces="largest"), ["src"], in_process, lambda line: None)
    found = summarise("out", check=True)
    by_class = {(group.split, group.label): (group.pictures, group.faces, group.unreadable) for group in found.groups.values()}
    assert by_class == {
        ("train", "happy"): (4, 2, 0), ("train", "sad"): (5, 3, 1), ("test", "happy"): (2, 2, 0), ("test", "sad"): (2, 1, 0),
    }  # fmt: skip
    assert "  train sad: 5 inputs, 3 faces, 1 without, 1 unreadable" in lines(found)
    part = Path("out/part-00000001.tar")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    summarise("out")
    with pytest.raises(Exception, match="part-00000001.tar is damaged"):
        summarise("out", check=True)
