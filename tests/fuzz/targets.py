"""What is fuzzed: each reader of bytes that may come from strangers, with small whole files to begin from.

A target takes bytes and either returns or raises an `EmotiwError`. Anything else is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emotiw_keras import costs
from emotiw_keras.data import archive, images
from emotiw_keras.data import mp4_boxes as video_boxes
from emotiw_keras.data.layouts import find_layout
from emotiw_keras.errors import EmotiwError
from emotiw_keras.formats import caffe_schema, hdf5_trial, inspect, reading
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.zipped import Zip
from emotiw_keras.training import checkpoints, recipe, run_writer
from tests.formats.fuzz_seeds import seeds as weight_seeds
from tests.fuzz.folders import Scratch, folder_targets

_PROTOTXT_WORDS = {spec.name for table in (caffe_schema.NET, caffe_schema.LAYER) for spec in table.values()}
_PROTOTXT_WORDS |= {spec.name for _, table in caffe_schema.PARAMS.values() for spec in table.values()} | {*caffe_schema.PARAMS}
LIMITS = Limits(total_bytes=16 << 20, arrays=5000)
PIXELS = 1 << 20


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: takes the bytes.
        seeds: whole files.
        words: that a reader compares with, for a mutator to try.
        zipped: whether the files are zips, whose members are then mutated and packed anew with right checksums.
        native: whether a library in C is what mostly reads; the command line runs it in another process.
    """

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[str, ...] = field(default=())
    zipped: bool = False
    native: bool = False


def _read_image(data: bytes) -> None:
    with contextlib.suppress(EmotiwError):
        images.read_header(data, max_pixels=PIXELS)
    images.decode_image(data, max_pixels=PIXELS, notes=[])


def _image_seeds() -> tuple[bytes, ...]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    colour, grey = Image.fromarray(noise), Image.fromarray(noise[..., 0])
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) << 4)
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = 6
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "JPEG", {}), (grey, "JPEG", {"progressive": True}), (colour, "JPEG", {"exif": exif}),
        (colour.convert("CMYK"), "JPEG", {}), (colour, "PNG", {}), (grey.convert("1"), "PNG", {}), (deep, "PNG", {}),
        (colour.convert("P"), "PNG", {"exif": exif}), (colour.convert("RGBA"), "PNG", {}), (colour, "BMP", {}),
        (grey, "BMP", {}), (colour, "GIF", {"save_all": True, "append_images": [grey]}), (colour, "WEBP", {}),
        (colour, "WEBP", {"save_all": True, "append_images": [grey]}), (colour, "TIFF", {}), (deep, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}), (colour, "TIFF", {"compression": "tiff_deflate"}), (colour, "PPM", {}),
        (grey, "PPM", {}), (colour, "AVIF", {}),
    ]  # fmt: skip
    found = [b"P2\n# a comment\n8 8 15\n" + b" 7" * 64, b"P3 8 8 255 " + b"1 2 3 " * 64]
    for image, kind, options in wanted:
        file = io.BytesIO()
        with contextlib.suppress(KeyError):  # a Pillow without this format
            image.save(file, kind, **options)
            found.append(file.getvalue())
    return tuple(found)


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of an MP4 video."""
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _video_seed() -> bytes:
    clock = bytes(12) + struct.pack(">II", 1000, 2000) + bytes(4)
    edits = box(b"edts", box(b"elst", struct.pack(">II", 0, 1), struct.pack(">Iii", 1000, 0, 1 << 16)))
    sizes = box(b"minf", box(b"stbl", box(b"stsz", struct.pack(">III", 0, 0, 50))))
    media = box(b"mdia", box(b"mdhd", clock), box(b"hdlr", bytes(8) + b"vide" + bytes(12)), sizes)
    cover = box(b"udta", box(b"meta", bytes(4), box(b"ilst", box(b"covr", b"image"))))
    return box(b"ftyp", b"isom" + bytes(8)) + box(b"moov", box(b"mvhd", clock), box(b"trak", edits, media), cover)


def _read_video(data: bytes) -> None:
    file = io.BytesIO(data)
    video_boxes.boxes_cut(file)
    track = video_boxes.video_track(file)
    if track is not None:
        assert track.trimmed in (True, False)
    video_boxes.WithoutCover(io.BytesIO(data)).read()


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def _read_zip(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with contextlib.suppress(EmotiwError):
        weights = Zip(path, LIMITS)
        for name in weights.sizes:
            weights.read(name)
    opened = archive.ZipArchive(path, archive.Limits(member=1 << 20, total=16 << 20))
    for name in opened.names:
        with contextlib.suppress(EmotiwError):
            opened.read(name)
        with contextlib.suppress(EmotiwError):
            opened.read(name, 100)
        if opened.size(name) < 1 << 20:
            opened.copy(name, io.BytesIO())


_PIXELS = b" ".join(b"%d" % (i % 256) for i in range(64))
TABLES: dict[str, bytes] = {
    "fer2013.csv": b"emotion,pixels,Usage\n0,%b,Training\n3,%b,PublicTest\n4,%b,PrivateTest\n" % (_PIXELS, _PIXELS, _PIXELS),
    "labels.csv": b"path,label,split,subject\na.png,happy,train,1\nb.png,sad,val,2\n",
    "semicolons.csv": b'\xef\xbb\xbfsep=;\r\nfilename;emotion\r\n"a.png";happy\r\nb.png;4.0\r\n',
    "wide.csv": "image\tlabel\na.png\tHappy\nb.png\tSad\n".encode("utf-16"),
    "label.lst": b"a.jpg 0 10 12 40 50 0.9 3\nb.jpg 0 10 12 40 50 0.9 4\n",
    "fer2013new.csv": b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    b"Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0\nPublicTest,fer0000001.png,0,9,0,1,0,0,0,0,0,0\n",
    "EmoLabel/list_patition_label.txt": b"train_00001.jpg 5\ntest_0001.jpg 4\n",
    "training.csv": b"subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    b"1/a.jpg,0,0,10,10,1;2;3,1,0.5,0.5\n1/b.jpg,0,0,10,10,1;2,2,0.5,0.5\n",
    "annotations/Train_Set/video1.txt": b"Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n0\n3\n-1\n4\n",
    "faces.csv": b"path,face,x,y,width,height,left_x,left_y,right_x,right_y,detector_score,roll_degrees,sharpness,label,split,"
    b"status,output\na.png,0,1,2,30,30,4,4,9,4,0.9,0,5,happy,train,ok,a.png\nb.png,0,1,2,30,30,4,4,9,4,0.9,0,5,sad,val,ok,b.png\n",
}


def _read_table(scratch: Scratch, data: bytes) -> None:
    """A folder that holds the one table that the first byte names, and two images."""
    names = list(TABLES)
    name = names[data[0] % len(names)] if data else names[0]
    path = scratch.put(name, data[1:])
    try:
        refusals: list[EmotiwError] = []
        for source in (scratch.path, path):
            try:
                found = find_layout(source)
            except EmotiwError as error:
                refusals.append(error)
                continue
            images = getattr(found, "pictures", None)
            for row in range(min(3, len(getattr(found, "names", ())))) if images is not None else ():
                with contextlib.suppress(EmotiwError):
                    images.shape(row), images.image(row)
        if refusals:
            raise refusals[0]
    finally:
        path.unlink()
        for folder in {scratch.path / part.split("/")[0] for part in TABLES if "/" in part}:
            shutil.rmtree(folder, ignore_errors=True)


def _read_checkpoint(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    checkpoints.best_of(path)
    named = path.with_name(f"e0001-s000001-{checkpoints.sha256_file(path)[: checkpoints.HASH_CHARACTERS]}.npz")
    path.rename(named)
    try:
        checkpoints.load(named)
    finally:
        named.unlink()


def _checkpoint_seed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        meta = {"state": {"best": {"file": "best-e1-0000000000000000.npz"}}, "step": 1}
        return checkpoints.save(Path(folder), "e0001-s000001", {"kernel": np.ones((2, 3), np.float32)}, meta).read_bytes()


def _read_done(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    run_writer.read_done(path)


def _read_toml(path: Path, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(EmotiwError):
        recipe.parse_recipe(text, "recipe.toml").to_toml()
    path.write_bytes(data)
    costs.read_costs(path, ("happy", "sad"))


def _read_weights(path: Path, kind: str, data: bytes) -> None:
    path.unlink(missing_ok=True)  # the file of before may still be mapped
    path.write_bytes(data)
    refusals: list[EmotiwError] = []
    for read in (lambda: reading.read(path, LIMITS), lambda: _reader(kind)(path, LIMITS)):
        try:
            with np.errstate(all="ignore"):
                foreign = read()
                for array in foreign.arrays.values():
                    array.sum()
                json.dumps(inspect.describe(foreign))
                inspect.table(foreign)
        except EmotiwError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _reader(kind: str) -> Callable[[Path, Limits], Any]:
    module, function = reading.READERS[kind]
    return getattr(__import__(f"emotiw_keras.formats.{module}", fromlist=[function]), function)


def target_names() -> list[str]:
    """The names of all targets."""
    own = ["images", "video boxes", "zip", "tables", "checkpoint", "done marker", "TOML"]
    return own + list(folder_targets()) + list(reading.READERS)


def make(name: str) -> Target:
    """A target by its name; what it writes goes to a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    if name in reading.READERS:
        hdf5_trial.inside = True
        mine = [seed for seed in weight_seeds() if seed.format == name and len(seed.data) < 1 << 16]
        suffixes = [seed.suffix for seed in mine]
        path = folder / f"net{max(suffixes, key=suffixes.count)}"
        data = tuple(seed.data for seed in mine)
        native = name in ("Keras HDF5", "Keras model", "MatConvNet")
        words = tuple(sorted(_PROTOTXT_WORDS)) if name == "Caffe prototxt" else ()
        return Target(lambda data: _read_weights(path, name, data), data, words, zipped=data[0][:2] == b"PK", native=native)
    if name == "images":
        return Target(_read_image, _image_seeds(), native=True)
    if name == "video boxes":
        return Target(_read_video, (_video_seed(),), words=("moov", "trak", "mdia", "edts", "elst", "covr"))
    if name == "zip":
        members = {"a/b.txt": b"text " * 30, "c.csv": b"a,b\n1,2\n"}
        found = (_zip(members), _zip(members, zipfile.ZIP_STORED))
        return Target(lambda data: _read_zip(folder / "a.zip", data), found)
    if name == "tables":
        image = _image_seeds()[6]
        scratch = Scratch({"a.png": image, "b.png": image})
        found = tuple(bytes([i]) + content for i, content in enumerate(TABLES.values()))
        return Target(lambda data: _read_table(scratch, data), found, words=("train", "val", "happy", "Training"))
    if name in folder_targets():
        read, found, words = folder_targets()[name]()
        return Target(read, found, words=words)
    if name == "checkpoint":
        return Target(lambda data: _read_checkpoint(folder / "e.npz", data), (_checkpoint_seed(),), zipped=True)
    if name == "done marker":
        marker = b'{"best_file": "best-e1-0000000000000000.npz", "best_epoch": 1, "rows": [{"epoch": 1, "loss": 0.5}]}'
        return Target(lambda data: _read_done(folder / "done.json", data), (marker,), words=("best_file", "checksum"))
    assert name == "TOML"
    texts = [recipe.recipe_text(each) for each in recipe.recipe_names()] + ["[costs.happy]\nsad = 0.5\n"]
    return Target(lambda data: _read_toml(folder / "a.toml", data), tuple(text.encode() for text in texts))
