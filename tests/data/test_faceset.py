"""A data set as a whole: what is kept, where the pixels are, what happens to images that cannot be read."""

from __future__ import annotations

import io
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.images import decode_image
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.errors import DataError, UsageError

CLASSES = ("angry", "happy", "sad")


def colourful(root: Path, count: int = 12, sizes: tuple[tuple[int, int], ...] = ((20, 24), (33, 30), (64, 40))) -> Path:
    """Class folders of colour PNGs, of mixed sizes unless one is given."""
    rng = np.random.default_rng(7)
    for name in CLASSES:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (*sizes[i % len(sizes)], 3)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"p{i // 2}_{i}.png")
    return root


def test_one_size_is_kept(tmp_path: Path) -> None:
    faces = load_faces(colourful(tmp_path, sizes=((20, 24),)), grey=False)
    assert faces.pixels.shape == (20, 24, 3) and faces.pixels.in_memory
    expected = np.asarray(Image.open(tmp_path / faces.paths[5]))
    np.testing.assert_array_equal(faces.pixels.gather(np.array([5]))[0], expected)


@pytest.fixture(params=[True, False], ids=["packed", "streamed"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether the disk has room for what memory has not."""
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path_factory.mktemp("cache")))
    if not request.param:
        monkeypatch.setattr("emotiw_keras.data.pixel_pass.packing_file", lambda size: None)
    return request.param


def test_images_above_the_size_are_resized_once_to_the_bytes_the_device_would_make(tmp_path: Path) -> None:
    faces = load_faces(colourful(tmp_path, sizes=((60, 70),)), size=40)
    assert faces.pixels.shape == (40, 40, 1)
    image = to_grey(np.asarray(Image.open(tmp_path / faces.paths[5])))
    device = FaceInput(resize=40, crop=40, mean=(0.0, 0.0, 0.0))(image[None])[0, ..., :1]
    np.testing.assert_array_equal(faces.pixels.gather(np.array([5]))[0], device)


def test_a_packed_file_has_no_name_and_a_short_one_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    faces = load_faces(colourful(tmp_path / "faces"), memory_budget=0, size=16)
    assert list((tmp_path / "cache").iterdir()) == []
    part = faces.pixels.select(np.array([7, 3]))
    np.testing.assert_array_equal(part.gather(np.array([1, 0])), faces.pixels.gather(np.array([3, 7])))
    os.ftruncate(faces.pixels._file.fileno(), 10)
    with pytest.raises(DataError, match="the file of packed images is short: 10 of 256 bytes"):
        faces.pixels.gather(np.array([0]))


@pytest.mark.parametrize("grey", [True, False])
def test_mixed_sizes_come_to_one_by_the_shared_resize(tmp_path: Path, grey: bool, room: bool) -> None:
    colourful(tmp_path)
    held = load_faces(tmp_path, grey=grey, size=32)
    streamed = load_faces(tmp_path, grey=grey, size=32, memory_budget=1000)
    assert held.pixels.in_memory and not streamed.pixels.in_memory
    assert held.pixels.shape == streamed.pixels.shape == (32, 32, 1 if grey else 3)
    told = "so they are packed once into a temporary file" if room else "so they are decoded in each epoch, as the disk is full"
    assert any(f"GiB of memory allowed, {told}" in line for line in streamed.report)
    order = np.array([35, 0, 17, 17])
    np.testing.assert_array_equal(held.pixels.gather(order), streamed.pixels.gather(order))
    image = np.asarray(Image.open(tmp_path / held.paths[17]))
    np.testing.assert_array_equal(held.pixels.gather(order)[2], resize(to_grey(image) if grey else image, 32, 32))
    assert held.pixel_hash == streamed.pixel_hash
    np.testing.assert_array_equal(held.split, streamed.split)


def test_a_large_set_is_packed_and_without_room_on_the_disk_held(
    tmp_path: Path, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    colourful(tmp_path)
    held = load_faces(tmp_path, size=32)
    monkeypatch.setattr("emotiw_keras.data.pixel_pass.HELD_BYTES", 1000)
    faces = load_faces(tmp_path, size=32)
    assert held.pixels.in_memory and faces.pixels.in_memory is not room
    assert any("packed once" in line for line in faces.report) is room
    np.testing.assert_array_equal(held.pixels.gather(np.arange(36)), faces.pixels.gather(np.arange(36)))


def test_grey_images_in_a_colour_set_are_repeated(tmp_path: Path) -> None:
    colourful(tmp_path, sizes=((16, 16),))
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "sad" / "grey.png")
    faces = load_faces(tmp_path, grey=False)
    image = faces.pixels.gather(np.array([faces.paths.index("sad/grey.png")]))[0]
    assert (image == np.arange(256).reshape(16, 16, 1)).all()


def test_unreadable_images_stay_as_rows(tmp_path: Path, room: bool) -> None:
    colourful(tmp_path, sizes=((16, 16),))
    whole = (tmp_path / "angry" / "p0_0.png").read_bytes()
    tiny = io.BytesIO()
    Image.new("L", (1, 1)).save(tiny, "PNG")
    bad = {
        "angry/cut.png": whole[:-200], "angry/empty.png": b"", "happy/text.jpg": b"hello", "sad/tiny.png": tiny.getvalue()
    }  # fmt: skip
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    gif = io.BytesIO()
    Image.fromarray(np.asarray(Image.open(tmp_path / "sad" / "p0_0.png"))).save(gif, "GIF")
    (tmp_path / "sad" / "really_a_gif.jpg").write_bytes(gif.getvalue())
    for budget in (None, 0):
        faces = load_faces(tmp_path, memory_budget=budget)
        status = dict(zip(faces.paths, faces.status, strict=True))
        assert status["angry/empty.png"] == "zero bytes"
        assert status["angry/cut.png"].startswith("cannot decode")
        assert status["happy/text.jpg"].startswith("not an image")
        assert status["sad/tiny.png"] == "1 x 1 pixels, smaller than 8 pixels a side"
        assert status["sad/really_a_gif.jpg"] == "ok"
        lost = [faces.paths.index(name) for name in bad]
        assert (faces.label[lost] == -1).all() and not any(faces.pixel_hash[i] for i in lost)
        assert len(faces.indices("all")) == 37 and not set(lost) & set(faces.indices("all").tolist())
        assert sum(sum(of.values()) for of in faces.counts().values()) == 37
        assert any(line.startswith("unreadable, so left out: 4 (angry/cut.png: ") for line in faces.report)
        with pytest.raises(DataError, match="unreadable"):
            faces.pixels.gather(np.array(lost))


def test_classes_without_a_usable_image_and_empty_folders_are_named(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    colourful(root, sizes=((16, 16),))
    (root / "fear").mkdir()
    (root / "fear" / "only.png").write_bytes(b"not a picture")
    for name in ("disgust", "surprise/inner"):
        (root / name).mkdir(parents=True)
    (root / "disgust" / ".gitkeep").touch()
    shutil.make_archive(str(tmp_path / "faces"), "zip", root)
    for source in (root, tmp_path / "faces.zip"):
        report = load_faces(source, labels="folder").report
        assert "classes of which no image can be used: fear" in report
        assert "folders without files: 2 (disgust, surprise/inner)" in report


def test_nothing_readable(tmp_path: Path) -> None:
    for name in ("happy/a.png", "sad/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="none of 2 images can be used; the first, happy/a.png: zero bytes"):
        load_faces(tmp_path)


def test_persons_stay_on_one_side_and_the_split_repeats(tmp_path: Path) -> None:
    colourful(tmp_path, 30)
    first = load_faces(tmp_path, subject_pattern=r"^(p\d+)_", seed=5)
    assert first.subject[0] == "p0"
    for person in set(first.subject):
        assert len({s for s, p in zip(first.split.tolist(), first.subject, strict=True) if p == person}) == 1
    again = load_faces(tmp_path, subject_pattern=r"^(p\d+)_", seed=5, workers=1)
    np.testing.assert_array_equal(first.split, again.split)
    assert (first.split != load_faces(tmp_path, subject_pattern=r"^(p\d+)_", seed=6).split).any()
    assert any("15 persons kept together" in line for line in first.report)


def test_indices_and_the_error_that_lists_the_splits(tmp_path: Path) -> None:
    faces = load_faces(colourful(tmp_path))
    parts = [faces.indices(split) for split in ("train", "val", "test")]
    assert sorted(np.concatenate(parts).tolist()) == faces.indices("all").tolist()
    assert all((np.diff(part) > 0).all() for part in parts)
    with pytest.raises(DataError, match="no split 'dev'.*it has train, val, test, and all"):
        faces.indices("dev")


def test_a_short_look_takes_the_rest_on_trust(tmp_path: Path) -> None:
    colourful(tmp_path, 20)
    (tmp_path / "angry" / "broken.png").write_bytes(b"no image")
    whole, glanced = load_faces(tmp_path, size=16), load_faces(tmp_path, size=16, seconds=0)
    assert not any(glanced.pixel_hash) and set(glanced.status) == {"ok"} and whole.status.count("ok") == len(whole.paths) - 1
    assert any("looked at 0 of" in line and "taken on trust" in line for line in glanced.report)
    assert set(glanced.split.tolist()) == {"train", "val", "test"}
    position = glanced.paths.index(whole.paths[5])
    np.testing.assert_array_equal(glanced.pixels.gather(np.array([position])), whole.pixels.gather(np.array([5])))
    patient = load_faces(tmp_path, size=16, seconds=600)
    assert patient.pixel_hash == whole.pixel_hash and patient.report == whole.report


def test_limit(tmp_path: Path) -> None:
    colourful(tmp_path / "plain", 20)
    plain = load_faces(tmp_path / "plain", limit=6)
    assert {s: sum(of.values()) for s, of in plain.counts().items()} == {"train": 6, "val": 6, "test": 6}
    assert plain.counts()["train"]["angry"] == 2
    np.testing.assert_array_equal(
        plain.pixels.gather(np.array([3]))[0],
        resize(to_grey(decode_image((tmp_path / "plain" / plain.paths[3]).read_bytes())), 256, 256),
    )
    for split in ("train", "test"):
        colourful(tmp_path / "cut" / split, 20)
    cut = load_faces(tmp_path / "cut", limit=9, size=16, val_share=0)
    assert len(cut.paths) == 18 and any("limit: at most 9 a split, 18 of 120 taken" in line for line in cut.report)


def test_bad_arguments(tmp_path: Path) -> None:
    colourful(tmp_path, 3)
    with pytest.raises(UsageError, match="size = 4"):
        load_faces(tmp_path, size=4)
    for wrong in (
        {"limit": 0}, {"limit": 2.5}, {"limit": True}, {"limit": "9"}, {"workers": 0}, {"workers": -1}, {"seed": -1},
        {"seed": None}, {"size": 20.5}, {"every": 1.5}, {"frames_per_video": -1}, {"memory_budget": -1}, {"seconds": -1},
        {"seconds": np.nan}, {"val_share": 1}, {"val_share": "a"}, {"fractions": "abc"}, {"fractions": 0.8},
        {"fractions": np.array(0.8)}, {"near_duplicates": "much"}, {"near_duplicates": True}, {"memory_budget": 2.5},
        {"folds": 5},
    ):  # fmt: skip
        name = next(iter(wrong))
        with pytest.raises(UsageError, match=f"{name} = .*: expected"):
            load_faces(tmp_path, **wrong)  # type: ignore[arg-type]
    plain = load_faces(tmp_path, near_duplicates=False, val_share=False, memory_budget=2e9)
    assert plain.near is None and plain.pixels.in_memory
    numpys = load_faces(tmp_path, limit=np.int64(2), size=np.uint8(16), seconds=np.float32(60))  # type: ignore[arg-type]
    assert numpys.paths == load_faces(tmp_path, limit=2, size=16).paths
    with pytest.raises(UsageError, match="unknown label set 'basic8'"):
        load_faces(tmp_path, labels="basic8")


@pytest.mark.parametrize("room", [False], indirect=True)
def test_a_file_that_vanishes_while_streaming(tmp_path: Path, room: bool) -> None:
    faces = load_faces(colourful(tmp_path), memory_budget=0)
    (tmp_path / faces.paths[4]).unlink()
    with pytest.raises(DataError, match="image 4 of the data set cannot be read: cannot read: No such.*has it changed since"):
        faces.pixels.gather(np.array([3, 4, 5]))


def test_many_threads_gather_from_a_stream(tmp_path: Path, room: bool) -> None:
    faces = load_faces(colourful(tmp_path), memory_budget=0, size=40)
    expected = load_faces(tmp_path, size=40).pixels.gather(np.arange(36))
    before = threading.active_count()
    with ThreadPoolExecutor(6) as pool:
        for batch in pool.map(lambda _: faces.pixels.gather(np.arange(36)), range(12)):
            np.testing.assert_array_equal(batch, expected)
    assert threading.active_count() <= before + 2


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_faces(colourful(tmp_path, 40), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (120, 120) and seen == sorted(seen)


def test_an_interruption_stops_the_reading(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_faces(colourful(tmp_path, 40), progress=stop)
