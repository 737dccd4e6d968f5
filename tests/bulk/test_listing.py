"""From names to entries: streamed, in one order, each input once, and nothing that leads elsewhere."""

from __future__ import annotations

import glob
import inspect
import io
import os
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emotiw_keras.bulk.entries import Entry, shards
from emotiw_keras.bulk.listing import check_inputs, entries
from emotiw_keras.bulk.places import store_of
from emotiw_keras.data import walking
from emotiw_keras.data.archive import FolderArchive, is_image
from emotiw_keras.data.layouts.folders import sampled
from emotiw_keras.data.prepare.source import find_images
from emotiw_keras.data.walking import in_order, matching
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.files import make_folder, walk, write_atomic
from emotiw_keras.locking import sweep
from emotiw_keras.serving.inputs import expand, read_inputs
from tests.locks import lock

NAMES = ["b.png", "b/a.png", "b0.png", "b/c/x.jpg", "b-1/z.png", "Z.png", "\u00e9.png", "b/c.png"]


def listed(*inputs: str) -> list[Entry]:
    return list(entries(inputs, lambda remark: None))


def make(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 10)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_is_listed_in_the_order_in_which_predict_reads_it() -> None:
    make(Path("d"), [*NAMES, ".hidden/a.png", "@eadir/t.png", "notes.txt"])
    remarks: list[str] = []
    found = [entry.path for entry in entries(["d"], remarks.append)]
    assert found == [f"d/{name}" for name in FolderArchive(Path("d")).names if is_image(name)]
    assert remarks == ["d: no images or videos, so left out: 2 files (@eadir/, notes.txt)"]


@pytest.fixture
def few_calls() -> Iterator[None]:
    """Calls inside each other end at 60, as those of a process do at 1,000."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 60)
    yield
    sys.setrecursionlimit(before)


def test_folders_may_lie_in_each_other_without_end(few_calls: None) -> None:
    folder = "d/" * 200
    make_folder(Path(folder, "e"))
    write_atomic(f"{folder}/e/b.png", b"x")
    write_atomic("d/a.png", b"x")
    assert (
        [entry.path for entry in listed("d")]
        == ["d/a.png", f"{folder}e/b.png"]
        == [entry.path for entry in listed("d/**/*.png")]
    )
    assert FolderArchive(Path("d")).names == ["a.png", f"{folder[2:]}e/b.png"]
    found = sampled(lambda below: [name + "/" * os.path.isdir(below + name) for name in sorted(os.listdir(below or "."))])
    assert sorted(found) == ["d/a.png", f"{folder}e/b.png"]
    write_atomic(f"{folder}/e/.1.b.png", b"half")
    sweep(Path("d"))
    assert [name for _, _, names in walk("d") for name in names] == ["a.png", "b.png"]


def test_a_folder_below_that_cannot_be_read_is_an_error_and_costs_no_other_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    make(Path("d"), ["a/x.png", "b.png", "e/f/y.png", "e/g.png"])
    lock(monkeypatch, Path("d/a"), Path("d/e/f"))
    refused = "cannot read: Permission denied"
    wanted = [("d/a", refused), ("d/b.png", ""), ("d/e/f", refused), ("d/e/g.png", "")]
    assert [(entry.path, entry.error) for entry in listed("d")] == wanted
    assert [(entry.path, entry.error) for entry in listed("d/**/*.png")] == wanted
    # `predict` without --out reads the same; what is read here is no image.
    for name in ("d", "d/**/*.png"):
        plain = [(image.path, image.error or "") for image in read_inputs(expand([name]))]
        assert [path for path, _ in plain] == [path for path, _ in wanted]
        assert sum("Permission denied" in error for _, error in plain) == 2
    assert [(entry.path, entry.error) for entry in listed("d/e*/*.png")] == [("d/e/g.png", "")], (
        "not what it does not lead into"
    )
    lock(monkeypatch, Path("d"))
    assert [(entry.path, entry.error) for entry in listed("d")] == [("d", refused)]


def test_a_flat_folder_of_any_size_is_sorted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number * 7919 % 60013:06d}" + "-long-name" * 6 for number in range(60013)]
    tracemalloc.start()
    count, last = 0, ""
    for name in in_order(iter(names), at_once=2_000):
        assert last < name
        count, last = count + 1, name
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60013 and peak < 2_500_000, peak
    monkeypatch.setattr(walking.in_order, "__defaults__", (3,))
    make(Path("d"), [*NAMES, "a\nb.png"])
    assert [entry.name for entry in listed("d")] == sorted([*NAMES, "a\nb.png"])


@pytest.mark.parametrize("pattern", ["d/*.png", "d/**/*.png", "d/b*/*.png", "d/[!b]*.png", "d/?.png", "d/b/**", "*/*.png"])
def test_globs_match_what_pythons_do_each_once(pattern: str) -> None:
    make(Path("d"), NAMES)
    wanted = {path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}
    found = [path for path in matching(pattern) if not path.endswith("/")]
    for folder in (path for path in matching(pattern) if path.endswith("/")):
        found += [str(path) for path in Path(folder).rglob("*") if path.is_file()]
    assert len(found) == len(set(found)) and wanted <= set(found)
    if pattern != "d/b/**":
        assert wanted == set(found)


def test_patterns_find_what_is_hidden_by_its_dot_and_folders_by_a_slash() -> None:
    make(Path("d"), ["a/.h/x.png", "a/b.png", ".z.png"])
    assert list(matching("d/.*")) == ["d/.z.png"]
    assert list(matching("*/*/.h/*.png")) == ["d/a/.h/x.png"]
    assert list(matching("d/*/")) == ["d/a/"] and list(matching("d/a/*/")) == []
    assert list(matching("d/**/*.png")) == ["d/a/b.png"]
    assert list(matching("d/**/.h/*.png")) == ["d/a/.h/x.png"] and list(matching("**/.*.png")) == ["d/.z.png"]
    assert list(matching("d/**/")) == ["d/"] and list(matching("d/*/**/")) == ["d/a/"] and list(matching("**/")) == ["./"]
    assert list(matching("d/*/../.*.png")) == ["d/a/../.z.png"] and list(matching("*/./a/*.png")) == ["d/./a/b.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_patterns_lead_into_linked_folders_and_round_no_circle() -> None:
    make(Path("d"), ["a/x.png", "e/y.png"])
    make(Path("aside"), ["z.png"])
    Path("d/linked").symlink_to("../aside")
    Path("d/a/up").symlink_to("..")
    Path("aside/e").symlink_to("../d/e")
    Path("d/e/back").symlink_to("../../aside")
    assert list(matching("d/*/*.png")) == ["d/a/x.png", "d/e/y.png", "d/linked/z.png"]
    make(Path("aside"), [".h/.i/w.png"])
    assert list(matching("d/**/.h/.*/*.png")) == ["d/e/back/.h/.i/w.png", "d/linked/.h/.i/w.png"]
    assert list(matching("d/**/*.png")) == [
        "d/a/x.png", "d/e/back/z.png", "d/e/y.png", "d/linked/e/y.png", "d/linked/z.png",
    ]  # fmt: skip
    assert expand(["d/**/*.png"]) == list(matching("d/**/*.png")), "without --out as with it"


@pytest.mark.parametrize(
    "names",
    [
        ["p/happy/1.png", "p/sad/2.png"],
        ["a/b/train/happy/1.png", "a/b/test/sad/2.png"],
        ["SFEW/Train/Train_Aligned_Faces/Angry/1.png", "SFEW/Test/2.png"],
        ["set/anna/happy/1.png", "set/ben/happy/1.png"],
        ["AudioVisualClip/DC/sa07.avi", "AudioVisualClip/KL/h01.avi"],
        ["enterface database/subject 1/anger/sentence 1/s1_an_1.avi", "enterface database/subject 2/anger/s2_an_1.avi"],
        ["KDEF/AF01/AF01ANS.JPG", "KDEF/AM02/AM02HAS.JPG"],
        ["CK/happy/S010_004_00000017.png", "CK/sad/S011_004_00000017.png"],
        ["cats/1.png", "cats/2.png"],
        ["su/happy/1.png", "su/sad/1.png", "su/2.png"],
        ["1.png", "happy/2.png"],
        ["su/1.png", "su/2.png", "su/x/3.png", "su/y/4.png", "su/happy/5.png"],
        ["in/set/happy/1.png", "in/set/sad/2.png"],
    ],
)
def test_names_say_what_they_say_to_prepare(names: list[str]) -> None:
    make(Path("d"), [*names, "docs/more/readme.txt"])
    with zipfile.ZipFile("d.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    tar("d.tar", [(name, b"x") for name in names])
    expected = [(item.path, item.label, item.split, item.subject) for item in find_images("d").items]
    for source in ("d", "d.zip", "d.tar"):
        found = [(entry.name, entry.label, entry.split, entry.subject) for entry in listed(source)]
        assert sorted(found) == sorted(expected), source


def test_one_file_called_as_in_a_known_set_does_not_outdo_its_folder() -> None:
    make(Path("d"), ["positive/AF01HAS.JPG", "positive/q.jpg", "negative/AF01SAS.JPG", "negative/w.jpg"])
    make(Path("d"), ["happy/KA.AN1.39.tiff", "positive/s1_an_1.avi", "negative/DC_a01.avi"])
    assert all(entry.label == entry.name.split("/")[0] for entry in listed("d")), listed("d")
    make(Path("sets"), ["q.jpg", "jaffe/KA.AN1.39.tiff", "KDEF/AF01/AF01HAS.JPG", "subject 1/anger/s1_an_1.avi", "DC/a01.avi"])
    told = {entry.name.split("/")[0]: (entry.label, entry.subject) for entry in listed("sets")}
    assert told == {
        "q.jpg": ("", ""), "jaffe": ("angry", "KA"), "KDEF": ("happy", "F01"), "subject 1": ("angry", "s01"),
        "DC": ("angry", "DC"),
    }  # fmt: skip


def test_a_class_that_is_an_input_of_its_own_stays_one() -> None:
    tar("happy.tar", [("happy/001/a.png", b"x"), ("happy/002/b.png", b"x")])
    assert [entry.label for entry in listed("happy.tar")] == ["happy", "happy"]


def test_shards_are_cut_by_number_and_by_bytes() -> None:
    sizes = [3, 3, 3, 20, 1, 1, 1, 1]
    stream = [Entry(str(i), "", "file", "", size) for i, size in enumerate(sizes)]
    cut = [[entry.size for entry in shard.entries] for shard in shards(stream, most=3, most_bytes=8)]
    assert cut == [[3, 3], [3], [20], [1, 1, 1], [1]]
    digests = [shard.digest for shard in shards(stream, 4)]
    changed = [Entry(str(i), "", "file", "", size, "later" if i == 6 else "") for i, size in enumerate(sizes)]
    assert [a == b for a, b in zip(digests, (s.digest for s in shards(changed, 4)), strict=True)] == [True, False]


def test_lists_and_manifests_name_what_lies_beside_them() -> None:
    make(Path("d"), NAMES)
    Path("d/list.txt").write_text("b.png\n\nb/a.png\r\nmissing.png\n" + os.path.abspath("d/Z.png"))
    assert [(entry.path, entry.error) for entry in listed("d/list.txt")] == [
        ("d/b.png", ""), ("d/b/a.png", ""), ("d/missing.png", "no such file or folder"), (os.path.abspath("d/Z.png"), ""),
    ]  # fmt: skip
    Path("d/m.csv").write_text("Label;path;subject;split\nsad;b/a.png;anna;val\n;b.png;;\n")
    assert [(e.path, e.label, e.subject, e.split) for e in listed("d/m.csv")] == [
        ("d/b/a.png", "sad", "anna", "val"), ("d/b.png", "", "", ""),
    ]  # fmt: skip


def test_comments_in_a_list_are_left_out_and_counted() -> None:
    make(Path("d"), ["#1.png", "b.png"])
    Path("d/list.txt").write_text("# all of monday\n#1.png\n#gone.png\nb.png\n")
    remarks: list[str] = []
    assert [(entry.path, entry.error) for entry in entries(["d/list.txt"], remarks.append)] == [
        ("d/#1.png", ""),
        ("d/b.png", ""),
    ]
    assert remarks == ["d/list.txt: comments, so left out: 2 lines that begin with # and name no file"]
    Path("d/list.txt").write_text("# nothing yet\n")
    assert [entry.error for entry in listed("d/list.txt")] == ["names no inputs"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "file,label\na.png,sad\n", "no column 'path', but file, label"),
        ("m.csv", "label,path\nsad\n", "row 1 has 1 cells, expected 2"),
        ("l.txt", "a\0b\n", "line 1 is no path"),
        ("m.parquet", "nothing", "not a readable Parquet file"),
        ("gone.txt", None, "No such file"),
    ],
)
def test_a_list_that_is_none_is_one_line(name: str, text: str | None, words: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(DataError, match=words):
        listed(name)


def test_parquet_manifests_are_read() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    import pyarrow

    make(Path("d"), NAMES)
    parquet.write_table(pyarrow.table({"path": ["b.png", "b/a.png"], "label": ["sad", None]}), "d/m.parquet")
    assert [(entry.path, entry.label) for entry in listed("d/m.parquet")] == [("d/b.png", "sad"), ("d/b/a.png", "b")][:1] + [
        ("d/b/a.png", "")
    ]


def tar(name: str, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(name, "w") as file:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def test_members_of_tars_and_zips_are_entries_with_their_places() -> None:
    tar("a.tar", [("k/0.jpg", b"first"), ("k/0.json", b"{}"), ("k/1.jpg", b"second")])
    tar("b.tar", [("back\\slash.jpg", b"x")])
    assert [entry.path for entry in listed("b.tar")] == ["b.tar/back\\slash.jpg" if os.sep == "/" else "b.tar/back/slash.jpg"]
    found = listed("a.tar")
    assert [(entry.path, entry.label) for entry in found] == [("a.tar/k/0.jpg", "k"), ("a.tar/k/1.jpg", "k")]
    data = Path("a.tar").read_bytes()
    assert [data[entry.offset : entry.offset + entry.size] for entry in found] == [b"first", b"second"]
    with zipfile.ZipFile("c.zip", "w") as archive:
        archive.writestr("x/b.png", "1")
        archive.writestr("a.png", "22")
    assert [(entry.path, entry.size, entry.member) for entry in listed("c.zip")] == [
        ("c.zip/a.png", 2, "a.png"), ("c.zip/x/b.png", 1, "x/b.png"),
    ]  # fmt: skip


def test_hostile_and_damaged_tars_are_rows() -> None:
    with tarfile.open("links.tar", "w") as file:
        for name, kind, target in (("a.png", tarfile.SYMTYPE, "/etc/passwd"), ("../b.png", tarfile.REGTYPE, "")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info, io.BytesIO())
    first, second = listed("links.tar")
    assert "not a plain file" in first.error and "leads out" in second.error
    tar("cut.tar", [("0.jpg", b"x" * 2000), ("1.jpg", b"y" * 2000)])
    data = Path("cut.tar").read_bytes()
    Path("cut.tar").write_bytes(data[:3000])
    found = listed("cut.tar")
    assert found[0].error == "" and found[-1].error != "" and found[-1].path == "cut.tar"
    with tarfile.open("packed.tar", "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.png"))
    assert [entry.error[:26] for entry in listed("packed.tar")] == ["a tar packed by gzip can o"]
    Path("no.tar").write_bytes(b"anything else" * 100)
    assert "damaged, or no tar" in listed("no.tar")[0].error


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("about")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_said_of_a_member_takes_little_memory(kind: bytes, first: bool) -> None:
    with open("long.tar", "wb") as file:
        file.write(b"" if first else header(tarfile.REGTYPE, 0))
        file.write(header(kind, 100_000_000))
        file.truncate(101_000_000)
    tracemalloc.start()
    found = listed("long.tar")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert "names and other texts of a member of 100,000,000 bytes; 1,048,576 at most" in found[-1].error


def test_what_is_said_of_a_member_again_and_again_is_bounded() -> None:
    record = b"512 comment=" + b"x" * 499 + b"\n"
    Path("chain.tar").write_bytes((header(tarfile.XHDTYPE, 512) + record) * 3000)
    assert "damaged, or no tar" in listed("chain.tar")[-1].error
    Path("for_all.tar").write_bytes((header(tarfile.XGLTYPE, 300_032) + bytes(300_032) + header(tarfile.REGTYPE, 0)) * 4)
    assert "1,048,576 at most" in listed("for_all.tar")[-1].error
    with tarfile.open("good.tar", "w", format=tarfile.PAX_FORMAT) as file:  # each of them may have as much
        for number in range(3):
            info = tarfile.TarInfo("k/" + "y" * 100 + f"{number}.png")
            info.pax_headers = {"comment": "x" * 500_000}
            file.addfile(info)
    assert [entry.error for entry in listed("good.tar")] == ["", "", ""]


def test_a_sparse_member_is_a_row_and_its_map_has_a_bound() -> None:
    info = tarfile.TarInfo("disk.png")
    info.type = tarfile.GNUTYPE_SPARSE
    for goes_on in (0, 1):
        head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        head[482], head[148:156] = goes_on, b" " * 8
        head[148:156] = f"{sum(head):06o}\0 ".encode()
        tar("good.tar", [("a.jpg", b"x" * 100)])
        behind = bytes(511 - 7) + b"\1" + bytes(7)  # another block of the map, and so on
        Path("sparse.tar").write_bytes(bytes(head) + (behind * 9 if goes_on else Path("good.tar").read_bytes()))
        found = listed("sparse.tar")
        if goes_on:
            assert [entry.error for entry in found] == [
                "damaged, or no tar: a sparse member whose map goes on without a bound; pack it again without --sparse"
            ]
        else:
            assert "a sparse one" in found[0].error and (found[1].path, found[1].error) == ("sparse.tar/a.jpg", "")


def test_tars_that_stop_before_their_end_say_so() -> None:
    """A damaged header, a second tar behind the first, sizes that lead back: nothing is lost without a word or read forever."""
    tar("two.tar", [("0.jpg", b"x" * 100), ("1.jpg", b"y" * 100)])
    data = Path("two.tar").read_bytes()
    Path("header.tar").write_bytes(data[:1024] + bytes([data[1024] ^ 1]) + data[1025:])
    Path("both.tar").write_bytes(data + data)
    for name in ("header.tar", "both.tar"):
        found = listed(name)
        assert found[0].path == f"{name}/0.jpg" and "no member, and not the end" in found[-1].error
    for kind in (tarfile.REGTYPE, b"Z"):
        for member in ("a.png", ".hidden"):
            info = tarfile.TarInfo(member)
            info.type = kind
            head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
            head[124:136] = b"\xff" * 10 + (-512).to_bytes(2, "big", signed=True)  # a number that is no text: negative
            head[148:156] = b" " * 8
            head[148:156] = f"{sum(head):06o}\0 ".encode()
            Path("back.tar").write_bytes(bytes(head) + bytes(1024))
            assert "leads back" in listed("back.tar")[-1].error


def test_a_link_out_of_a_folder_is_a_row_and_linked_folders_are_not_entered() -> None:
    make(Path("d"), ["a.png"])
    make(Path("other"), ["secret.png"])
    os.symlink(os.path.abspath("other/secret.png"), "d/s.png")
    os.symlink(os.path.abspath("other"), "d/folder")
    found = listed("d")
    assert [entry.path for entry in found] == ["d/a.png", "d/s.png"] and "leads out" in found[1].error


@pytest.mark.parametrize(("name", "words"), [("camera:0", "has no end"), ("ftp://x/y", "address that begins with s3://")])
def test_inputs_that_cannot_be_meant_are_refused_at_once(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_inputs([name])


@pytest.mark.parametrize(
    ("address", "lacking", "words"),
    [
        ("az://box/x", "adlfs", r"az:// and abfs:// need `pip install 'emotiw-keras\[cloud\]' adlfs`"),
        ("hdfs://host/x", "pyarrow", "hdfs:// needs `pip install pyarrow` and Hadoop's own client"),
        ("gs://box/x", "gcsfs", "s3:// and gs:// need"),
    ],
)
def test_a_store_whose_package_is_not_there_says_which(
    address: str, lacking: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="addresses need fsspec")
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(UsageError, match=words):
        store_of(address)


def test_each_folder_of_a_store_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory", reason="addresses need fsspec").MemoryFileSystem
    store, asked, ls = memory(), list[str](), memory.ls
    for number in range(12):
        store.pipe(f"/many/set/class {number:02d}/deep/a.png", b"a")
    store.pipe("/many/docs/readme.txt", b"r")
    monkeypatch.setattr(memory, "ls", lambda self, path, **options: (asked.append(path), ls(self, path, **options))[1])
    found = listed("memory://many")
    assert [entry.label for entry in found] == [f"class {number:02d}" for number in range(12)]
    assert len(asked) == len(set(asked)) == 27
    store.rm("/many", recursive=True)


def test_a_folder_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    make(Path("d"), [f"set/{label}/{number}.png" for label in ("happy", "sad", "fear") for number in range(100)])
    looked = list[str]()
    monkeypatch.setattr("emotiw_keras.bulk.listing.is_image", lambda name: looked.append(name) or is_image(name))
    assert len(listed("d")) == 300 and len(looked) < 310


def test_a_store_is_listed_and_read() -> None:
    fsspec = pytest.importorskip("fsspec", reason="addresses need fsspec")
    from emotiw_keras.bulk.opening import Opener
    from emotiw_keras.bulk.places import folder_at, write

    store = fsspec.filesystem("memory")
    tar("a.tar", [("k/0.jpg", b"first"), ("k/1.jpg", b"second")])
    with store.open("/box/list.txt", "w") as file:
        file.write("# both\nsad/b.png\nmemory://box/c.png\n")
    for name, data in (("c.png", b"c"), ("sad/b.png", b"bb"), ("more/a.tar", Path("a.tar").read_bytes()), (".h.png", b"")):
        store.pipe(f"/box/photos/{name}" if name != "more/a.tar" else "/box/a.tar", data)
    found = listed("memory://box/photos")
    assert [(entry.path, entry.size, entry.label) for entry in found] == [
        ("memory://box/photos/c.png", 1, ""), ("memory://box/photos/sad/b.png", 2, "sad"),
    ]  # fmt: skip
    store.pipe("/all/in/sad/b.png", b"b")
    store.pipe("/all/in/happy/c.png", b"c")
    assert [entry.label for entry in listed("memory://all")] == ["happy", "sad"]
    members = listed("memory://box/a.tar")
    assert [entry.path for entry in members] == ["memory://box/a.tar/k/0.jpg", "memory://box/a.tar/k/1.jpg"]
    places: list[int] = []
    assert [data for _, data in Opener().fetched([*found, *members], places.append, {})] == [b"c", b"bb", b"first", b"second"]
    assert places == [0, 1, 2, 3]
    assert [entry.path for entry in listed("memory://box/list.txt")] == ["memory://box/sad/b.png", "memory://box/c.png"]
    Path("inventory.csv").write_text("path,size,etag,label\nmemory://box/gone.png,7,abc,sad\nmemory://box/c.png,,,\n")
    told, asked = listed("inventory.csv")
    assert (told.size, told.state, told.label, told.error) == (7, "abc", "sad", "")  # the store was not asked
    assert "no such file" in asked.error
    folder = folder_at("memory://box/out")
    assert folder.some_name() is None and folder.read("x") is None and folder.size("x") is None
    write(folder, "_done/x", "abc")
    assert (folder.some_name(), folder.read("_done/x"), folder.size("_done/x")) == ("_done", b"abc", 3)
    folder.remove_folder("_done")
    folder.remove_folder("_done")
    assert folder.read("_done/x") is None
    store.rm("/box", recursive=True)
