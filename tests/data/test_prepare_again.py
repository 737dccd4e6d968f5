"""A folder of faces that is prepared again: what it does then, and what it refuses, of its own files and of strangers'."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.layouts.prepared import FACES_COLUMNS
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.prepare import prepare
from emotiw_keras.data.prepare.journal import Journal
from emotiw_keras.data.prepare.source import Item
from emotiw_keras.errors import DataError, OutputError, RunError
from tests.data.dotted import ONE, Dotted, build, content, photo, rows_of, save

ROOT = Path(__file__).resolve().parents[2]


def test_again_does_only_what_is_missing_or_has_changed(tmp_path: Path) -> None:
    source, out = build(tmp_path / "photos", each=2), tmp_path / "out"
    assert prepare(source, out, detector=Dotted(), workers=1).new == 10
    first = content(out)
    said: list[str] = []
    assert prepare(source, out, detector=Dotted(), workers=1, say=said.append).new == 0
    assert content(out) == first and "10 of 10 images are done already: nothing left to do" in said
    save(source / "Train" / "Happy" / "new.png", photo(ONE, seed=77))
    save(source / "Train" / "Happy" / "0.png", photo(ONE, size=(130, 160), seed=78))
    (source / "Val" / "Happy" / "0.png").unlink()
    (out / "Val" / "Happy" / "1.png").unlink()
    assert prepare(source, out, detector=Dotted(), workers=1).new == 3
    fresh = tmp_path / "fresh"
    prepare(source, fresh, detector=Dotted(), workers=1)
    assert content(out) == content(fresh)


def test_faces_of_an_earlier_version_go_on_with_a_word(tmp_path: Path) -> None:
    source, out = build(tmp_path / "photos", each=1), tmp_path / "out"
    prepare(source, out, detector=Dotted(), workers=1)
    settings = json.loads((out / "prepare.json").read_text())
    del settings["edition"], settings["place"]
    (out / "prepare.json").write_text(json.dumps(settings))
    said: list[str] = []
    prepare(source, out, detector=Dotted(), workers=1, say=said.append)
    assert not [line for line in said if "earlier version" in line], "nothing is mixed"
    for seed in (77, 78):
        save(source / "Train" / "Happy" / f"{seed}.png", photo(ONE, seed=seed))
        said.clear()
        assert prepare(source, out, detector=Dotted(), workers=1, say=said.append).new == 1
        assert [line for line in said if "warning: they were made by an earlier version" in line], said
    assert {**settings, "edition": 0}.items() <= json.loads((out / "prepare.json").read_text()).items()


def test_other_bytes_of_the_same_size_and_time_are_read_and_folders_of_before_go_on(tmp_path: Path) -> None:
    source, out = tmp_path / "photos", tmp_path / "out"
    for name in "ab":
        save(source / f"{name}.bmp", photo(ONE))
    assert prepare(source, out, detector=Dotted(), workers=1).new == 2
    # Journals did not have the time of change.
    journal = out / ".prepare.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert all(line["state"].count(":") == 2 for line in lines)
    old = [{**line, "state": line["state"].rpartition(":")[0]} for line in lines]
    for line in old:
        del line["check"]
    journal.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert prepare(source, out, detector=Dotted(), workers=1).new == 0
    assert [json.loads(line) for line in journal.read_text().splitlines()] == lines
    before = (source / "a.bmp").stat()
    save(source / "a.bmp", photo())
    os.utime(source / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (source / "a.bmp").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    summary = prepare(source, out, detector=Dotted(), workers=1)
    assert (summary.new, summary.total.with_face) == (1, 1)


def test_a_kill_at_any_moment_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    source, out = tmp_path / "photos", tmp_path / "out"
    for i in range(80):
        save(source / ("happy", "sad")[i % 2] / f"{i}.png", photo(ONE, seed=i))
    prepare(source, tmp_path / "whole", detector=Dotted(), workers=2)
    code = (
        "import sys; from emotiw_keras.data.prepare import prepare; from tests.data.dotted import Dotted; "
        "prepare(sys.argv[1], sys.argv[2], detector=Dotted(), workers=2)"
    )
    command = [sys.executable, "-c", code, str(source), str(out)]
    for enough in (5, 40):
        process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 60
        journal = out / ".prepare.jsonl"
        while (journal.read_bytes().count(b"\n") if journal.exists() else 0) < enough:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "faces.csv").exists()
    # As if the last kill had hit while a line and a face were being written.
    with open(journal, "a") as file:
        file.write('{"member": "happy/0.png", "sta')
    (out / ".4711.0.png").write_bytes(b"half a f")
    summary = prepare(source, out, detector=Dotted(), workers=2)
    assert 0 < summary.new <= 40 and content(out) == content(tmp_path / "whole")


def test_an_image_that_kills_its_process_is_named_and_tried_again_later(tmp_path: Path) -> None:
    source, out = build(tmp_path / "photos", each=2), tmp_path / "out"
    killer = source / "Train" / "Angry" / "killer.png"
    save(killer, np.full((50, 50), 13, np.uint8))
    summary = prepare(source, out, detector=Dotted(), workers=2)
    assert summary.unreadable == [("Train/Angry/killer.png", "the process that read it was ended by SIGKILL")]
    assert summary.total.with_face == 9
    assert prepare(source, out, detector=Dotted(), workers=2).new == 1


def test_persons_of_a_manifest_and_of_folders_are_kept_when_it_goes_on(tmp_path: Path) -> None:
    people = [f"{label}/{who}" for who in ("anna", "ben", "cleo", "dora", "emil") for label in ("happy", "sad")]
    for number, person in enumerate(people):
        save(tmp_path / "set" / "photos" / person / "1.png", photo(ONE, seed=number))
    table = "".join(f"photos/{person}/1.png,{person.replace('/', ',p-')}\n" for person in people)
    (tmp_path / "set" / "list.csv").write_text(f"path,label,subject\n{table}")
    for source, out, mark in (("list.csv", "told", "p-"), ("photos", "read", "")):
        for _ in range(2):
            prepare(tmp_path / "set" / source, tmp_path / out, detector=Dotted(), workers=1)
            assert [row["subject"] for row in rows_of(tmp_path / out)] == [
                mark + row["path"].split("/")[-2] for row in rows_of(tmp_path / out)
            ]
    told, read = load_faces(tmp_path / "told"), load_faces(tmp_path / "read")
    assert read.guessed_persons and any("names of folders" in line for line in read.report)
    assert not told.guessed_persons and not any("names of folders" in line for line in told.report)


def test_another_folder_of_the_same_name_is_refused_and_a_moved_one_goes_on(tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    # b's first is called as one of a.
    for name in ("a/photos/1.png", "a/photos/happy/2.png", "b/photos/1.png", "b/photos/3.png"):
        save(tmp_path / name, photo(ONE, seed=len(name) + int(name[-5])))
    prepare(tmp_path / "a/photos", out, detector=Dotted(), workers=1)
    before = content(out)
    with pytest.raises(
        RunError, match="out holds 2 faces of images of another place that .*b/photos has not, .*; name another"
    ):
        prepare(tmp_path / "b/photos", out, detector=Dotted(), workers=1)
    assert content(out) == before
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "moved/photos/happy").rename(tmp_path / "moved/photos/glad")
    assert prepare(tmp_path / "moved/photos", out, detector=Dotted(), workers=1, say=said.append).new == 1
    (tmp_path / "moved/photos/1.png").unlink()
    assert prepare(tmp_path / "moved/photos", out, detector=Dotted(), workers=1, say=said.append).new == 0
    assert said.count("images that are gone or have changed: 1 face of them removed") == 2 and not (out / "1.png").exists()
    assert str(tmp_path) not in (out / "prepare.json").read_text()


def test_the_place_of_a_list_is_its_own_and_folders_of_before_go_on_without_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(tmp_path / name, photo(ONE, seed=len(name) + int(name[-5])))
        (tmp_path / name).with_name("list.csv").write_text("path,label\n1.png,sad\n")
    (tmp_path / "a/list.csv").write_text("path,label\n1.png,sad\n2.png,happy\n")
    prepare(tmp_path / "a/list.csv", out, detector=Dotted(), workers=1)
    for _ in range(2):
        with pytest.raises(RunError, match="that .*b/list.csv has not, .*; name another folder for the faces of .*b/list.csv"):
            prepare(tmp_path / "b/list.csv", out, detector=Dotted(), workers=1)
        settings = json.loads((out / "prepare.json").read_text())
        settings.pop("place", None)
        (out / "prepare.json").write_text(json.dumps(settings))
    (tmp_path / "a/list.csv").write_text("path,label\n1.png,sad\n")
    prepare(tmp_path / "a/list.csv", out, detector=Dotted(), workers=1)
    assert [row["output"] for row in rows_of(out)] == ["1.png"] and "place" in json.loads((out / "prepare.json").read_text())


def test_a_folder_that_got_no_further_than_its_settings_may_change_them(tmp_path: Path) -> None:
    source = build(tmp_path / "photos", each=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepare.json").write_text('{"format": 1, "source": "photos", "faces": "all"}')
    assert prepare(source, tmp_path / "out", detector=Dotted(), workers=1).total.faces == 5


def test_photos_in_which_no_face_was_found_are_looked_at_again_in_another_way(tmp_path: Path) -> None:
    save(tmp_path / "photos/happy/1.png", np.full((64, 64, 3), 90, np.uint8))
    assert prepare(tmp_path / "photos", tmp_path / "out", detector=Dotted(), workers=1).total.faces == 0
    assert prepare(tmp_path / "photos", tmp_path / "out", detector=Dotted(), no_face="centre", workers=1).new == 1
    assert rows_of(tmp_path / "out")[0]["output"]


def test_a_journal_deletes_and_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    """A prepared folder from a stranger: its journal names any files as faces of images that are gone."""
    source, out = build(tmp_path / "photos", each=1), tmp_path / "out"
    prepare(source, out, detector=Dotted(), workers=1)
    clean = content(out)
    face = next(out.rglob("Happy/*.png")).read_bytes()
    victims = [tmp_path / "victim.png", out / "letter.txt", out / "photo.png", tmp_path / "elsewhere" / "gone.png"]
    victims[3].parent.mkdir()
    victims[0].write_bytes(face)
    victims[1].write_text("dear ...")
    save(victims[2], np.zeros((9, 7, 3), np.uint8))
    victims[3].write_bytes(face)
    (out / "link").symlink_to(victims[3].parent)
    marks = {"member": "gone.jpg", "state": "1:1", "label": "", "split": ""}
    named = ["../victim", str(tmp_path / "victim"), "x/../../victim", "letter", "photo", "link/gone"]
    lines = [json.dumps({**marks, "stem": stem, "rows": [{"path": "gone.jpg", "output": f"{stem}.png"}]}) for stem in named]
    lines += [json.dumps({**marks, "stem": "gone", "rows": [{"path": "gone.jpg", "output": name}]}) for name in ("letter.txt",)]
    first = json.loads((out / ".prepare.jsonl").read_text().splitlines()[0])
    for key in ("member", "state", "stem", "label", "split", "rows"):
        for odd in (5, None, [1], {}, ["a"], "../x", [{"output": 5}], [{"unknown": "1"}], [{"label": "../../x", "output": ""}]):
            lines.append(json.dumps({**first, key: odd, "check": None}))
            lines.append(json.dumps({name: value for name, value in {**first, key: odd}.items() if name != "check"}))
    with open(out / ".prepare.jsonl", "a") as file:
        file.write("\n".join([*lines, "[" * 100_000, "\0"]) + "\n")
    prepare(source, out, detector=Dotted(), workers=1)
    assert all(victim.exists() for victim in victims)
    (out / "link").unlink()
    for victim in victims[1:3]:
        victim.unlink()
    assert content(out) == clean


def test_a_digit_that_changed_in_the_journal_is_done_again(tmp_path: Path) -> None:
    source, out = build(tmp_path / "photos", each=1), tmp_path / "out"
    prepare(source, out, detector=Dotted(), workers=1)
    clean, journal = content(out), (out / ".prepare.jsonl").read_text()
    assert '"width": "' in journal
    (out / ".prepare.jsonl").write_text(journal.replace('"width": "', '"width": "9', 1))
    assert prepare(source, out, detector=Dotted(), workers=1).new == 1
    assert content(out) == clean


def test_a_damaged_face_is_told_by_name(tmp_path: Path) -> None:
    source, out = build(tmp_path / "photos", each=1), tmp_path / "out"
    prepare(source, out, detector=Dotted(), workers=1)
    face = next(out.rglob("Happy/*.png"))
    face.write_bytes(face.read_bytes()[:300])
    with pytest.raises(DataError, match=f"{face.name} is damaged .* remove it"):
        prepare(source, out, detector=Dotted(), workers=1)


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    source, out = build(tmp_path / "photos", each=1), tmp_path / "out"
    prepare(source, out, detector=Dotted(), workers=1)
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(out / "Train" / "Happy")
    (out / "Train" / "Happy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="a link out of"):
        prepare(source, out, detector=Dotted(), workers=1)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_faces_of_a_folder_that_cannot_be_read_stay(tmp_path: Path) -> None:
    for name in ("a.png", "b/c.png", "gone.png"):
        save(tmp_path / name, np.zeros((8, 8), np.uint8))
    items = [Item(i, name, name, "", "", name[:-4], "1:2:3") for i, name in enumerate(("a.png", "b/c.png", "gone.png"))]
    rows = {item.index: [dict.fromkeys(FACES_COLUMNS, "") | {"path": item.path, "output": item.path}] for item in items}
    with Journal(tmp_path) as journal:
        for item in items:
            journal.add(item, rows[item.index])
    locked = Journal(tmp_path)
    locked.keep_below(["b"])
    locked.remove_all_but({"a.png"})
    locked.rewrite(items[:1], rows)
    assert (tmp_path / "b" / "c.png").exists() and not (tmp_path / "gone.png").exists()
    assert sorted(Journal(tmp_path).usable(items)) == [0, 1], "it is done already once the folder can be read again"
    known = [dataclasses.replace(item, subject="anna") for item in items]
    assert {row["subject"] for rows in Journal(tmp_path).usable(known).values() for row in rows} == {"anna"}


def test_an_image_too_deep_in_a_zip_for_a_path_has_its_face_by_a_hash(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo(ONE))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("a.png", "d/" * 2500 + "a.png"):
            file.write(tmp_path / "a.png", name)
    for new in (2, 0):
        assert prepare(tmp_path / "a.zip", tmp_path / "out", detector=Dotted(), workers=1).new == new
    outputs = [row["output"] for row in rows_of(tmp_path / "out")]
    assert outputs[0] == "a.png" and re.fullmatch("[0-9a-f]{16}/a.png", outputs[1])
