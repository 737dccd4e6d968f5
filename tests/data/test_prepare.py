"""`prepare` as a library, with a detector that finds pairs of white squares: rows, files, resuming, and what `fit` reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.contact_sheet import MOST, write_contact_sheets
from emotiw_keras.data.images import ImageError, decode_image
from emotiw_keras.data.layouts.prepared import FACES_COLUMNS
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.prepare import prepare
from emotiw_keras.data.prepare.source import find_images, open_for_reading, output_stems
from emotiw_keras.errors import DataError, OutputError, RunError, UsageError
from emotiw_keras.faces.alignment import align
from tests.data.dotted import ONE, Dotted, build, content, photo, rows_of, save
from tests.locks import lock

ROOT = Path(__file__).resolve().parents[2]
# DESIGN's header, letter for letter.
HEADER = (
    "path,face,x,y,width,height,left_x,left_y,right_x,right_y,detector_score,roll_degrees,sharpness,label,split,status,output"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("prepare")
    source = build(root / "photos")
    prepare(source, root / "faces", detector=Dotted(), workers=1)
    return source, root / "faces"


def test_folders_table_and_summary(prepared: tuple[Path, Path]) -> None:
    source, out = prepared
    assert (out / "faces.csv").read_text().splitlines()[0] == HEADER == ",".join(FACES_COLUMNS)
    rows = rows_of(out)
    assert [row["path"] for row in rows] == sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    by_path = {row["path"]: row for row in rows}
    face = by_path["Train/Happy/1.png"]
    assert {name: face[name] for name in ("face", "label", "split", "status", "output")} == {
        "face": "0", "label": "Happy", "split": "train", "status": "ok", "output": "Train/Happy/1.png",
    }  # fmt: skip
    assert [float(face[name]) for name in FACES_COLUMNS[2:12]] == [40, 18, 80, 96, 60, 50, 100, 50, 0.9, 0]
    assert by_path["Test/unknown.png"]["label"] == "" and by_path["Test/unknown.png"]["split"] == "test"
    nobody = by_path["Train/Angry/nobody.png"]
    assert nobody["status"] == "no face found" and nobody["output"] == nobody["x"] == nobody["face"] == ""
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["pictures"], summary["with_face"], summary["without_face"]) == (14, 13, 1)
    angry = summary["groups"][0]
    assert (angry["split"], angry["label"], angry["pictures"], angry["coverage"]) == ("train", "Angry", 4, 0.75)


def test_a_face_is_what_align_gives_and_its_sharpness_can_be_recomputed(prepared: tuple[Path, Path]) -> None:
    source, out = prepared
    crop = decode_image((out / "Val/Angry/2.png").read_bytes())
    image = decode_image((source / "Val/Angry/2.png").read_bytes())
    assert crop.shape == (256, 256, 1) and crop.min() == 0 and crop.max() == 255
    np.testing.assert_array_equal(crop[..., 0], align(image, [(60, 50), (100, 50)]))
    # The Laplacian by hand: neighbours minus four times the middle, mirrored at the border without repeating it.
    wide = np.pad(crop[..., 0].astype(float), 1, mode="reflect")
    laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * wide[1:-1, 1:-1]
    row = next(row for row in rows_of(out) if row["output"] == "Val/Angry/2.png")
    assert float(row["sharpness"]) == pytest.approx(laplacian.var(), abs=0.006)


def test_fit_reads_what_was_prepared(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = prepared
    faces = load_faces(out)
    assert faces.layout == "prepared faces" and faces.pixels.shape == (256, 256, 1) and faces.reading == "B"
    assert {split: sum(counts.values()) for split, counts in faces.counts().items()} == {"train": 6, "val": 6}
    assert faces.counts()["val"]["happy"] == 3
    report = "\n".join(faces.report)
    assert "without a class, left out: 1 (Test/unknown.png)" in report
    assert "without a face of their own, left out: 1 (Train/Angry/nobody.png)" in report
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", out.parent, out.name)
    for other in (packed, out / "faces.csv"):
        again = load_faces(other)
        assert again.paths == faces.paths and again.pixel_hash == faces.pixel_hash


@pytest.mark.skipif(os.name == "nt", reason="there it parts folders")
def test_a_backslash_in_the_name_of_a_photo_is_a_letter_where_its_face_is_read(tmp_path: Path) -> None:
    for name in ("sad/1.png", "happy/back\\slash.png"):
        save(tmp_path / "photos" / name, photo(ONE))
    prepare(tmp_path / "photos", tmp_path / "out", detector=Dotted(), workers=1)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "out")
    for place, name in ((tmp_path / "out", "back\\slash.png"), (packed, "back/slash.png")):
        assert sorted(load_faces(place).paths) == [f"happy/{name}", "sad/1.png"]


def test_faces_without_their_settings_are_refused(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[1], out)
    (out / "prepare.json").write_text('{"reading": "Z"}')
    with pytest.raises(DataError, match="unknown reading 'Z' of the crop; known: A, B, C, D"):
        load_faces(out)
    (out / "prepare.json").unlink()
    with pytest.raises(DataError, match="prepare.json beside it, which says how the faces were cut: "):
        load_faces(out)


def test_class_folders_stay_class_folders(tmp_path: Path) -> None:
    for label in ("calm", "tense"):
        for i in range(10):
            save(tmp_path / "photos" / label / f"{i}.png", photo(ONE, seed=i + len(label) * 50))
    prepare(tmp_path / "photos", tmp_path / "out", detector=Dotted(), workers=1)
    faces = load_faces(tmp_path / "out", labels="folder")
    assert faces.labels == ("calm", "tense") and (faces.label >= 0).sum() == 20
    assert {row["split"] for row in rows_of(tmp_path / "out")} == {""}
    # Loaders that know folders alone see the classes and nothing else.
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["calm", "tense"]


def test_which_of_several_faces(tmp_path: Path) -> None:
    # 40 apart at the top right; 20.4 apart, nearer to the centre; 20 apart at the left.
    faces = (((110, 20), (150, 20)), ((70, 60), (90, 64)), ((10, 100), (30, 100)))
    save(tmp_path / "photos" / "three.png", photo(*faces))
    expected = {
        "largest": [("ok", "three.png"), ("not the largest face", ""), ("not the largest face", "")],
        "central": [("not the central face", ""), ("ok", "three.png"), ("not the central face", "")],
        "all": [("ok", "three.png"), ("ok", "three.face1.png"), ("ok", "three.face2.png")],
    }
    for which, wanted in expected.items():
        summary = prepare(tmp_path / "photos", tmp_path / which, detector=Dotted(), faces=which, workers=1)
        rows = rows_of(tmp_path / which)
        assert [(row["status"], row["output"]) for row in rows] == wanted
        assert [row["face"] for row in rows] == ["0", "1", "2"] and {row["path"] for row in rows} == {"three.png"}
        assert summary.total.faces == sum(status == "ok" for status, _ in wanted)
        assert sorted(path.name for path in (tmp_path / which).glob("*.png")) == sorted(o for _, o in wanted if o)


def test_an_image_without_a_face_gives_its_centre_on_request(tmp_path: Path) -> None:
    image = photo(size=(100, 160))
    image[:, 30:130] = np.arange(50, 150, dtype=np.uint8)
    save(tmp_path / "photos" / "sad" / "a.png", image)
    save(tmp_path / "photos" / "happy" / "b.png", photo(ONE))
    summary = prepare(tmp_path / "photos", tmp_path / "out", detector=Dotted(), no_face="centre", workers=1)
    row = rows_of(tmp_path / "out")[1]
    assert row["status"] == "no face found: centre of the image" and row["output"] == "sad/a.png"
    assert [row[name] for name in ("x", "y", "width", "height", "left_x", "face")] == ["30", "0", "100", "100", "", ""]
    crop = decode_image((tmp_path / "out/sad/a.png").read_bytes())[..., 0].astype(int)
    assert (crop[0, 0], crop[0, -1]) == (0, 255) and (np.diff(crop[0]) >= 0).all() and (crop == crop[0]).all()
    assert (summary.total.with_face, summary.total.without_face, summary.total.centres) == (1, 1, 1)
    report = "\n".join(load_faces(tmp_path / "out", fractions=(1.0, 0.0, 0.0)).report)
    assert "not sure, kept: 1 (sad/a.png)" in report


def test_every_kind_of_image_and_of_damage_is_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    face = photo(ONE)
    colour = Image.fromarray(np.repeat(face[..., None], 3, axis=-1))
    save(folder / "plain.png", face)
    save(folder / "colour.jpg", colour, quality=95)
    rgba = colour.convert("RGBA")
    rgba.putalpha(128)
    save(folder / "rgba.png", rgba)
    save(folder / "palette.png", colour.quantize(64))
    save(folder / "cmyk.jpg", colour.convert("CMYK"), quality=95)
    save(folder / "deep.png", Image.fromarray(face.astype(np.uint16) * 256 + 7))
    turned = Image.Exif()
    turned[0x0112] = 6
    save(folder / "exif.jpg", colour.rotate(90, expand=True), quality=95, exif=turned)
    save(folder / "moving.gif", colour, save_all=True, append_images=[colour.rotate(180)])
    good = {"plain.png", "colour.jpg", "rgba.png", "palette.png", "cmyk.jpg", "deep.png", "exif.jpg", "moving.gif"}
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes((folder / "colour.jpg").read_bytes()[:900])
    (folder / "text.png").write_text("no image")
    (folder / "huge.pgm").write_bytes(b"P5 20000 20000 255 ")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    save(tmp_path / "elsewhere.png", face)
    (folder / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "out.mp4").symlink_to(tmp_path / "elsewhere.png")
    (folder / "loop").symlink_to(folder)
    (folder / "notes.txt").write_text("left out")
    bad = {
        "zero.png": "zero bytes",
        "cut.jpg": "truncated",
        "text.png": "known format",
        "huge.pgm": "400,000,000",
        "gone.png": "",
        "out.png": "a link that leads out of the folder",
        "out.mp4": "a link that leads out of the folder",
    }
    said: list[str] = []
    summary = prepare(folder, tmp_path / "out", detector=Dotted(), workers=2, say=said.append)
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert set(rows) == good | set(bad) and any("(notes.txt, loop (a linked folder))" in line for line in said)
    assert "holds several images; the first is read: 1 image (moving.gif)" in said
    for name in good:
        row = rows[name]
        assert row["status"] == "ok", (name, row)
        assert float(row["left_x"]) == pytest.approx(60, abs=0.6) and float(row["left_y"]) == pytest.approx(50, abs=0.6)
    for name, words in bad.items():
        assert rows[name]["status"].startswith("unreadable: ") and words in rows[name]["status"]
        assert rows[name]["output"] == ""
    assert [path for path, _ in summary.unreadable] == sorted(bad)
    # Of plain.png and its namesakes in other formats none overwrote another.
    assert len(list((tmp_path / "out").glob("*.png"))) == len(good)


def test_the_result_does_not_depend_on_the_number_of_workers(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = prepared
    prepare(source, tmp_path / "two", detector=Dotted(), workers=3)
    assert content(tmp_path / "two") == content(out)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Killed without a chance to say goodbye, a parent leaves no process behind."""
    source = tmp_path / "photos"
    for i in range(300):
        save(source / f"{i}.png", photo(ONE, seed=i))
    code = (
        "import sys; from emotiw_keras.data.prepare import prepare; from tests.data.dotted import Dotted; "
        "prepare(sys.argv[1], sys.argv[2], detector=Dotted(), workers=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(tmp_path / "out")], cwd=ROOT)
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not task.exists():
        process.kill()
        pytest.skip("this system does not list the children of a process")

    def children() -> list[str]:
        return [pid for thread in task.parent.parent.iterdir() for pid in (thread / "children").read_text().split()]

    while not (tmp_path / "out" / ".prepare.jsonl").exists() or len(pids := children()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()

    def alive(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def test_sources_of_other_kinds(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = prepared
    packed = shutil.make_archive(str(tmp_path / "photos"), "zip", source)
    prepare(packed, tmp_path / "zip", detector=Dotted(), workers=1)
    assert (tmp_path / "zip/faces.csv").read_bytes() == (out / "faces.csv").read_bytes()
    prepare(source / "Train/Happy/1.png", tmp_path / "one", detector=Dotted(), workers=1)
    assert [(row["path"], row["output"], row["label"]) for row in rows_of(tmp_path / "one")] == [("1.png", "1.png", "")]
    assert (tmp_path / "one/1.png").read_bytes() == (out / "Train/Happy/1.png").read_bytes()
    lines = ("path,label,split", "photos/Test/unknown.png,fear,val", "photos/Val/Happy/0.png,joy,train", "")
    (source.parent / "list.csv").write_text("\n".join(lines))
    prepare(source.parent / "list.csv", tmp_path / "list", detector=Dotted(), workers=1)
    found = [(row["label"], row["split"], row["output"]) for row in rows_of(tmp_path / "list")]
    assert found == [("fear", "val", "photos/Test/unknown.png"), ("joy", "train", "photos/Val/Happy/0.png")]
    assert load_faces(tmp_path / "list").counts()["train"]["happy"] == 1


def test_wrong_use_is_refused_and_nothing_is_touched(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = prepared
    before = content(out)

    def refuse(kind: type[Exception], words: str, src: Path = source, to: Path = out, **options: object) -> None:
        with pytest.raises(kind, match=words):
            prepare(src, to, **{"detector": Dotted(), "workers": 1, **options})

    refuse(RunError, "faces 'largest', now 'all'", faces="all")
    refuse(RunError, "reading 'B', now 'C'", reading="C")
    refuse(RunError, "source 'photos', now 'Train'", src=source / "Train")
    refuse(UsageError, "known: largest", faces="smallest")
    refuse(UsageError, "known: skip, centre", no_face="center")
    refuse(UsageError, "known: A, B, C, D", reading="E")
    refuse(UsageError, "'nobody'; known: ", detector="nobody", to=tmp_path / "new")
    refuse(UsageError, "one in the other", to=source / "faces")
    refuse(UsageError, "one in the other", to=source)
    refuse(UsageError, "one in the other", to=source.parent)
    refuse(DataError, "No such file", src=tmp_path / "nowhere", to=tmp_path / "new")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    refuse(DataError, "no images.*a.txt", src=tmp_path / "texts", to=tmp_path / "new")
    refuse(RunError, "other things .a.txt", to=tmp_path / "texts")
    refuse(OutputError, "is a file", to=tmp_path / "texts" / "a.txt")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "prepare.json").write_text("{")
    refuse(RunError, "prepare.json is damaged", to=tmp_path / "odd")
    assert not (tmp_path / "new").exists() and content(out) == before


def test_a_class_called_like_a_file_of_prepare_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("faces.csv", "Summary.json", "contact_sheet_happy.jpg"):
        save(tmp_path / name / "photos" / name / "1.png", photo(ONE))
        save(tmp_path / name / "photos" / "sad" / "1.png", photo(ONE))
        with pytest.raises(UsageError, match=f"its folder '{name}' is called like a file that prepare writes; rename it"):
            prepare(tmp_path / name / "photos", tmp_path / "out", detector=Dotted(), workers=1)
        assert not (tmp_path / "out").exists()


def test_a_photo_and_a_manifest_may_lie_beside_the_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `emotiw prepare a.png faces`: the folder of the photo was taken for the source, and faces below it refused."""
    for name in ("a.png", "photos/b.png", "photos/more/c.png"):
        save(tmp_path / name, photo(ONE, seed=len(name)))
    (tmp_path / "list.csv").write_text("path,label\na.png,happy\nphotos/b.png,sad\n")
    monkeypatch.chdir(tmp_path)
    for source, out in (("a.png", "faces"), ("list.csv", "listed"), ("photos/b.png", "photos/more/faces")):
        assert prepare(source, out, detector=Dotted(), workers=1).total.with_face == (2 if source == "list.csv" else 1)
    for source, out in (("a.png", "."), ("a.png", ".."), ("list.csv", "."), ("list.csv", "photos"), ("photos/b.png", "photos")):
        with pytest.raises(UsageError, match="one in the other"):
            prepare(source, out, detector=Dotted(), workers=1)


def test_names_that_meet_keep_apart() -> None:
    paths = ["a/x.jpg", "a/X.png", "a/x.face1.jpg", "a/.png", "b/x.jpg", "x" * 300 + ".jpg", "x" * 300 + ".png"]
    stems = output_stems(paths)
    assert stems[:3] == ["a/x", "a/X.png", "a/x.face1.jpg"] and stems[4] == "b/x"
    assert len({stem.casefold() for stem in stems}) == len(paths)
    assert all(len(stem.rpartition("/")[2]) <= 200 for stem in stems)
    assert output_stems(paths) == stems
    frames = ["a/x.f00002.png", "a/x.f00002.face1.jpg", "a/x.f0.jpg", "a/x.mp4"]
    assert output_stems(frames) == ["a/x.f00002.png", "a/x.f00002.face1.jpg", "a/x.f0", "a/x"]
    assert output_stems(["a.jpg", "A.png/b.jpg"]) == ["a.jpg", "A.png/b"]


def test_names_no_table_can_hold(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for name in ("new\nline, and comma", "smile ☺", "back\\slash"):
        save(source / "happy" / f"{name}.png", photo(ONE))
    try:
        save(Path(os.fsdecode(os.fsencode(source) + b"/happy/\xff\xfe.png")), photo(ONE))
    except OSError:
        pytest.skip("this file system takes no such names")
    prepare(source, tmp_path / "out", detector=Dotted(), workers=1)
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert sorted(row["path"] for row in rows)[0] == "happy/\\xff\\xfe.png"
    assert all((tmp_path / "out" / row["output"]).is_file() for row in rows)


def test_folders_say_class_and_split(tmp_path: Path) -> None:
    def listed(*names: str) -> list[tuple[str, str]]:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            for name in names:
                file.writestr(name, b"x")
        return [(item.label, item.split) for item in find_images(tmp_path / "a.zip").items]

    assert listed("SFEW/Train/Train_Aligned_Faces/Angry/a.png") == [("Angry", "train")]
    assert listed("Test/a.png", "Train/Sad/b.png", "Val/Val_Aligned_Faces_new/Sad/c.png") == [
        ("", "test"), ("Sad", "train"), ("Sad", "val"),
    ]  # fmt: skip
    assert listed("Training/happy/a.png", "PublicTest/happy/b.png") == [("happy", "val"), ("happy", "train")]
    assert listed("happy/deep/er/a.png", "sad/b.png") == [("happy", ""), ("sad", "")]
    assert listed("a.png", "happy/b.png") == [("", ""), ("happy", "")]
    assert listed("extra/sad/x.png", "train/happy/a.png") == [("sad", ""), ("happy", "train")]


def test_a_folder_below_that_cannot_be_read_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.png", "happy/y.png", "sad/b/z.png", "sad/c.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    lock(monkeypatch, tmp_path / "d" / "a", tmp_path / "d" / "sad" / "b")
    source = find_images(tmp_path / "d")
    found = [(item.path, item.label, item.stem) for item in source.items]
    assert found == [("happy/y.png", "happy", "happy/y"), ("sad/c.png", "sad", "sad/c"), ("a", "", "a"), ("sad/b", "", "sad/b")]
    with pytest.raises(ImageError, match="cannot read: Permission denied"):
        open_for_reading(source.path).read("sad/b")
    # A set that is trained on is to be whole.
    with pytest.raises(DataError, match="Permission denied; check its permissions"):
        load_faces(tmp_path / "d")
    lock(monkeypatch, *(tmp_path / "d" / name for name in ("a", "happy", "sad")))
    with pytest.raises(DataError, match="cannot read .*d/a: Permission denied"):
        find_images(tmp_path / "d")


def test_contact_sheets(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = prepared
    names = sorted(path.name for path in out.glob("contact_sheet*"))
    assert names == ["contact_sheet.jpg", "contact_sheet_Angry.jpg", "contact_sheet_Happy.jpg"]
    save(tmp_path / "f.png", np.full((256, 256), 200, np.uint8))
    (tmp_path / "contact_sheet_gone.jpg").write_bytes(b"of a class that is gone")
    row = {"output": "f.png", "label": "happy", "split": "train", "status": "ok", "detector_score": "0.9"}
    rows = [row] * 11 + [{**row, "status": "no face found"}, {**row, "output": ""}]
    assert write_contact_sheets(tmp_path, rows) == [tmp_path / "contact_sheet_happy.jpg"]
    sheet = np.asarray(Image.open(tmp_path / "contact_sheet_happy.jpg")).astype(int)
    assert not (tmp_path / "contact_sheet_gone.jpg").exists()
    # Ten in a row: the middle of the first face, its green frame, the twelfth's amber frame, and no thirteenth.
    assert abs(sheet[34 + 10 + 60, 10 + 60] - 200).max() < 8
    green, amber = sheet[34 + 10 + 60, 11], sheet[34 + 10 + 162 + 60, 10 + 130 + 1]
    assert green[1] > 100 > green[0] and amber[0] > 150 > 60 > amber[2]
    assert (sheet[34 + 10 + 162 + 60, 10 + 2 * 130 + 60] > 245).all()
    write_contact_sheets(tmp_path, [row] * (3 * MOST))
    many = np.asarray(Image.open(tmp_path / "contact_sheet_happy.jpg"))
    assert many.shape[0] == 34 + 10 + MOST // 10 * 162
