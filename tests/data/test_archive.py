"""Folders and zips: nothing escapes, nothing explodes, threads may read at once."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emotiw_keras.data.archive import FolderArchive, Limits, ZipArchive, is_image, open_archive
from emotiw_keras.data.images import ImageError
from emotiw_keras.errors import DataError


def pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_folder_and_zip_list_and_read_the_same(tmp_path: Path) -> None:
    members = {
        "b/two.png": b"22" * 500,
        "a.txt": b"1",
        ".hidden": b"x",
        "b/.DS_Store": b"x",
        "__MACOSX/b/._two.png": b"x",
    }
    for name, data in members.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(data)
    archives = [open_archive(tmp_path / "f")]
    archives += [open_archive(pack(tmp_path / f"{m}.zip", members, m)) for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    for archive in archives:
        assert archive.names == ["a.txt", "b/two.png"]
        assert archive.read("b/two.png") == b"22" * 500
        assert archive.read("b/two.png", 3) == b"222"


def test_image_names() -> None:
    assert is_image("a/B.JPG") and is_image("x.y.png")
    assert not is_image("README.md") and not is_image("jpg") and not is_image("a.d/.png")


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/x.png", "C:/x.png", "..\\out.png"])
def test_zip_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out"):
        ZipArchive(pack(tmp_path / "x.zip", {"ok/a.png": b"1", name: b"1"}))


def test_zip_with_a_symbolic_link(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="symbolic link"):
        ZipArchive(tmp_path / "x.zip")


def test_folder_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.png").write_bytes(b"1")
    (root / "same.png").symlink_to(root / "in" / "a.png")
    (root / "again").symlink_to(root / "in", target_is_directory=True)
    (root / "in" / "loop").symlink_to(root, target_is_directory=True)
    archive = FolderArchive(root)
    linked = ["again (a linked folder)", "in/loop (a linked folder)"]
    assert archive.names == ["in/a.png", "same.png"] and archive.left_out == linked
    # One that leads nowhere is a file that cannot be read, and no way out where something comes to lie there.
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    archive = FolderArchive(root)
    with pytest.raises(ImageError, match="No such file"):
        archive.read("out.png")
    (tmp_path / "secret.png").write_bytes(b"2")
    with pytest.raises(DataError, match=r"'out\.png' leads out"):
        archive.read("out.png")
    with pytest.raises(DataError, match=r"'out\.png' leads out"):
        FolderArchive(root)
    told = FolderArchive(root, outward=True)
    assert told.names == ["in/a.png", "out.png", "same.png"] and told.read("same.png") == b"1"
    with pytest.raises(ImageError, match="a link that leads out of the folder"):
        told.read("out.png")


def test_special_files_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    archive = FolderArchive(tmp_path)
    assert archive.names == [] and archive.left_out == ["pipe.png"]
    with pytest.raises(ImageError, match="not a regular file"):
        archive.read("pipe.png")


def test_bombs_are_refused_from_the_directory(tmp_path: Path) -> None:
    big = pack(tmp_path / "big.zip", {"a.png": b"\0" * (65 * 2**20)})
    assert big.stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to 68,157,440 bytes, more than the 67,108,864"):
        ZipArchive(big)
    many = pack(tmp_path / "many.zip", {f"{i}.png": b"\0" * 100_000 for i in range(50)})
    with pytest.raises(DataError, match="zip bomb"):
        ZipArchive(many, Limits(ratio_from=1_000_000))
    with pytest.raises(DataError, match="zip bomb"):
        ZipArchive(many, Limits(total=1_000_000))
    assert len(ZipArchive(many).names) == 50


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", {"a.png": b"\0" * 1_000_000})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 1000)))
    with pytest.raises(ImageError, match="wrong size or checksum"):
        ZipArchive(path).read("a.png")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", {"a.png": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="encrypted"):
        ZipArchive(path)


def test_damaged_zips(tmp_path: Path) -> None:
    whole = pack(tmp_path / "x.zip", {"a.png": os.urandom(2000), "b.png": b"2" * 50}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:1000])
    with pytest.raises(DataError, match="damaged or no zip"):
        ZipArchive(tmp_path / "cut.zip")
    (tmp_path / "flipped.zip").write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    archive = ZipArchive(tmp_path / "flipped.zip")
    assert archive.read("b.png") == b"2" * 50
    with pytest.raises(ImageError, match="damaged zip"):
        archive.read("a.png")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unknown_packing_and_names_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="packing method 12; expected deflated or stored"):
        ZipArchive(pack(tmp_path / "x.zip", {"a.png": b"1"}, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file:
        file.writestr("a.png", b"1")
        file.writestr("a.png", b"2")
    with pytest.raises(DataError, match=r"'a\.png' twice"):
        ZipArchive(tmp_path / "twice.zip")


def test_a_zip_behind_other_bytes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.png", b"123")
    (tmp_path / "x.zip").write_bytes(b"#!/bin/sh\n" * 9 + buffer.getvalue())
    assert ZipArchive(tmp_path / "x.zip").read("a.png") == b"123"


def test_threads_read_at_once(tmp_path: Path) -> None:
    members = {f"{i}.png": bytes([i]) * (500 + i) for i in range(60)}
    archive = ZipArchive(pack(tmp_path / "x.zip", members))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(archive.read, list(members) * 10)) == list(members.values()) * 10
