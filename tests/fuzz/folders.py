"""Readers of several files at once: a folder in which one file is replaced by what the fuzzer makes of it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from emotiw_keras import history
from emotiw_keras.data.near import pairs
from emotiw_keras.data.prepare import run as preparing
from emotiw_keras.data.prepare.journal import Journal
from emotiw_keras.data.prepare.source import Item
from emotiw_keras.errors import EmotiwError
from emotiw_keras.formats import caffe, inspect, onnx, safe_tensors
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.runs import Run
from emotiw_keras.serving import speeds
from emotiw_keras.serving.exported import Exported
from emotiw_keras.training import recipe, teachers
from emotiw_keras.weights import cache, manifest
from emotiw_keras.weights.transfer import Part
from tests.formats.fuzz_seeds import CAFFE, CAFFE_2, ONNX, SHAPES
from tests.formats.write_caffe import write_caffemodel, write_prototxt
from tests.formats.write_onnx import Op, concat, write_onnx

LIMITS = Limits(total_bytes=16 << 20, arrays=5000)


class Scratch:
    """A folder whose files are put back as they were where a file of it has been replaced."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.files = files
        for name, content in files.items():
            self.put(name, content)

    def put(self, name: str, content: bytes) -> Path:
        """Write a file."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    @contextlib.contextmanager
    def replaced(self, data: bytes) -> Iterator[Path]:
        """The folder with the file that the first byte chooses holding the rest."""
        names = list(self.files)
        name = names[data[0] % len(names)] if data else names[0]
        self.put(name, data[1:])
        try:
            yield self.path
        finally:
            self.put(name, self.files[name])

    def seeds(self) -> tuple[bytes, ...]:
        """Each file with the byte that chooses it."""
        return tuple(bytes([number]) + content for number, content in enumerate(self.files.values()))


RUN: dict[str, bytes] = {
    "run.json": json.dumps({
        "format": 1, "recipe": "small", "finished": True, "labels": ["happy", "sad"], "crops": 2, "seed": 0, "threads": 1,
        "model": {"name": "alexnet", "width": 0.125, "classes": 2, "input_shape": [67, 67, 3]},
        "preprocessing": {"channels": "grey", "resize": 72, "crop": 67, "min_max": False, "channel_order": "rgb",
                          "mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0], "mean_image": None},
        "weights": {"sha256": "0" * 64, "variables": [["conv1/kernel", [11, 11, 3, 12], "float32"]]},
        "stages": [{"name": "one", "epochs": 2, "best_epoch": 1, "val_accuracy": 0.5, "val_loss": 1.0}],
        "data": {"faces": {"images": 2}}, "crop": {"reading": "B", "stretch": False}, "versions": {"keras": "3"},
    }, indent=1).encode(),
    "data.csv": b"stage,data,path,pixel_hash,label,subject,split,status\none,faces,a.png,00ff,happy,,train,train\n"
    b"one,faces,b.png,00fe,sad,,val,val\n",
    "history.csv": b"stage,epoch,learning_rate,loss,accuracy,val_loss,val_accuracy,seconds\none,1,0.1,1.5,0.5,1.4,0.5,3\n",
    "recipe.toml": b'name = "small"\ndata = ["faces"]\n[model]\nname = "alexnet"\n'
    b'[[stage]]\nname = "one"\ntrain = ["faces:train"]\n',
    "model.weights.h5": b"",
}  # fmt: skip


def _read_run(scratch: Scratch, data: bytes) -> None:
    with scratch.replaced(data) as folder:
        with contextlib.suppress(EmotiwError):
            history.read_history(folder / "history.csv")
        with contextlib.suppress(EmotiwError):
            recipe.load_recipe(str(folder / "recipe.toml"))
        run = Run.open(folder)
        run.rows(), run.seen(), run.selected_on, run.crop, run.crops, run.labels, run.name, run.unrecorded
        assert run.training_seconds is not None


PREPARED_LINE = {"member": "a.png", "state": "1:1", "stem": "a", "label": "happy", "split": ""}


def _journal(*changes: dict[str, Any]) -> bytes:
    row = {"path": "a.png", "label": "happy", "output": "a.png", "status": "ok"}
    return b"".join(json.dumps({**PREPARED_LINE, "rows": [row], **change}).encode() + b"\n" for change in changes)


PREPARED: dict[str, bytes] = {
    ".prepare.jsonl": _journal({}, {"stem": "b", "rows": [{"path": "a.png", "label": "happy", "output": "b.face1.png"}]}),
    "prepare.json": b'{"format": 1, "source": "photos", "reading": "B", "size": 96}',
}
ITEM = Item(0, "a.png", "a.png", "happy", "", "a", "1:1")


def _read_prepared(scratch: Scratch, victim: Path, data: bytes) -> None:
    with scratch.replaced(data) as folder:
        journal = Journal(folder)
        journal.usable([ITEM])
        journal.outputs()
        journal.remove_all_but(set())
        assert victim.read_bytes() == b"not yours"
        preparing._stored(folder / "prepare.json")


def _walk(foreign: Foreign) -> None:
    with np.errstate(all="ignore"):
        for array in foreign.arrays.values():
            array.sum()
    json.dumps(inspect.describe(foreign))
    inspect.table(foreign)


def _read_shards(scratch: Scratch, data: bytes) -> None:
    with scratch.replaced(data) as folder:
        _walk(safe_tensors.read_index(folder / "net.safetensors.index.json", LIMITS))


def _shards() -> Scratch:
    arrays = {"conv1.weight": np.ones((4, 2, 3, 3), np.float32), "conv1.bias": np.ones(4, np.float16)}
    parts = {
        "net-00001-of-00002.safetensors": safetensors.numpy.save(arrays, {"format": "pt"}),
        "net-00002-of-00002.safetensors": safetensors.numpy.save({"fc.weight": np.arange(6.0).reshape(2, 3)}),
    }
    first, second = parts
    listed = {"weight_map": {**dict.fromkeys(arrays, first), "fc.weight": second}, "metadata": {"total_size": 344}}
    return Scratch({"net.safetensors.index.json": json.dumps(listed).encode(), **parts})


def _read_onnx_data(scratch: Scratch, data: bytes) -> None:
    with scratch.replaced(data) as folder:
        _walk(onnx.read_onnx(folder / "net.onnx", LIMITS))


def _onnx_with_data() -> Scratch:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "net.onnx")
        write_onnx(path, ONNX, inputs=SHAPES, outputs=["prob"], external="net.onnx.data")
        return Scratch({each.name: each.read_bytes() for each in (path, path.with_name("net.onnx.data"))})


def _read_caffe(scratch: Scratch, data: bytes) -> None:
    """A definition with its arrays; the two pairs have layers of the same names."""
    with scratch.replaced(data) as folder:
        for number in range(2):
            definition = caffe.read_prototxt(folder / f"{number}.prototxt", LIMITS)
            _walk(definition)
            _walk(caffe.with_prototxt(caffe.read_caffemodel(folder / f"{number}.caffemodel", LIMITS), definition))


def _caffe() -> Scratch:
    with tempfile.TemporaryDirectory() as place:
        for number, (layers, inputs) in enumerate(((CAFFE, SHAPES), (CAFFE_2, None))):
            write_prototxt(Path(place, f"{number}.prototxt"), layers, inputs=inputs)
            write_caffemodel(Path(place, f"{number}.caffemodel"), layers, inputs=inputs)
        return Scratch({path.name: path.read_bytes() for path in sorted(Path(place).iterdir())})


def _read_teachers(scratch: Scratch, labels: tuple[str, ...], settings: dict[str, Any], data: bytes) -> None:
    """A recipe whose stage names a run as its teacher; the recipe or a file of that run is replaced."""
    with scratch.replaced(data) as folder:
        text = (folder / "student.toml").read_bytes().decode("utf-8", "replace").replace("TEACHER", str(folder))
        found = recipe.parse_recipe(text, "student.toml")
        if len(text) < 2000 and all(str(folder) in name for stage in found.stages for name in getattr(stage, "teachers", ())):
            for run in teachers.teacher_runs(found, labels, settings).values():
                run.rows()


def _taught() -> Scratch:
    student = (
        RUN["recipe.toml"] + b'epochs = 1\nbatch_size = 8\nlearning_rate = 0.1\nteachers = ["TEACHER"]\nteacher_weight = 0.5\n'
    )
    return Scratch({"student.toml": student, **RUN})


def _read_manifest(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    entries = manifest._read.__wrapped__(path)
    for entry in entries.values():
        assert "/" not in entry.filename and cache.file_path(entry, path.parent).parent.parent.parent == path.parent
        cache.compare(entry, path)


MANIFEST = b"""[net-caffe]
kind = "weights"
format = "caffemodel"
model = "alexnet"
default = true
url = "http://example.org/net.caffemodel"
mirrors = ["https://example.net/net.caffemodel"]
size = 12
licence = "none"
[net-caffe.hashes]
md5 = "0123456789abcdef0123456789abcdef"
[of-a-package]
kind = "detector"
format = "tflite"
package = "mesh==1.0"
file = "mesh.tflite"
[of-a-package.hashes]
sha256_prefix = "01234567"
sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
"""


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _exported_seed() -> bytes:
    facts = {
        "labels": ["happy", "sad"], "input": {"shape": ["batch", 8, 8, 1], "colour": "grey"},
        "preprocessing": {"channels": "grey", "resize": 8, "crop": 8}, "crop": {"reading": "B", "stretch": False},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        front = [
            Op("Cast", ["pixels"], ["cast"], {"to": 1}),
            Op("Transpose", ["cast"], ["turned"], {"perm": [0, 3, 1, 2]}),
            concat("data", ["turned", "turned"]),
        ]
        inputs = {"pixels": (0, 8, 8, 1)}
        write_onnx(path := Path(place, "net.onnx"), [*front, *ONNX], inputs=inputs, outputs=["prob"], opset=17)
        return path.read_bytes() + _field(14, _field(1, b"emotiw") + _field(2, json.dumps(facts).encode()))


def _read_exported(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # the file of before may still be mapped
    path.write_bytes(data)
    opened = Exported.open(path)
    assert opened.labels and opened.settings and opened.crop and opened.crops and opened.fingerprint


def _read_kept(scratch: Scratch, data: bytes) -> None:
    """What caches keep is used or found anew, whatever the files hold; only a record of a hash is refused."""
    with scratch.replaced(data) as folder:
        pairs._read(folder / "pairs.npz", 9)
        speeds._kept(folder / "speeds.json")
        Part(folder / "net").validator("http://example.org/net")
        cache.recorded(folder / "net")


def _kept() -> Scratch:
    pair = io.BytesIO()
    np.savez(pair, first=np.array([1]), second=np.array([2]), correlation=np.array([0.9], "f4"), mirrored=np.array([False]))
    return Scratch({
        "pairs.npz": pair.getvalue(), "speeds.json": b'{"faces_per_second": {"onnx": 5.5, "opencv": 1.0}}',
        "net.part.json": b'{"url": "http://example.org/net", "validator": "\\"1\\""}',
        "net.sha256": hashlib.sha256(b"").hexdigest().encode() + b"  net\n", "net": b"",
    })  # fmt: skip


def folder_targets() -> dict[str, Callable[[], tuple[Callable[[bytes], object], tuple[bytes, ...], tuple[str, ...]]]]:
    """Name -> what makes a reader of bytes, its seeds, and the words that it compares with."""
    Made = tuple[Callable[[bytes], object], tuple[bytes, ...], tuple[str, ...]]

    def scratch_of(make: Callable[[], Scratch], read: Callable[..., None], *words: str) -> Made:
        scratch = make()
        return functools.partial(read, scratch), scratch.seeds(), words

    def run() -> Made:
        return scratch_of(lambda: Scratch(RUN), _read_run, *json.loads(RUN["run.json"]), "files", "val_macro_f1", "videos")

    def prepared() -> Made:
        victim = Path(tempfile.mkdtemp(), "victim.txt")
        victim.write_bytes(b"not yours")
        scratch = Scratch(PREPARED)
        seeds = (*scratch.seeds(), b"\0" + _journal({"stem": "../victim", "rows": [{"output": str(victim)}]}))
        words = ("member", "rows", "output", ".face1.png", ".f00001", "state", "check", "..", "/")
        return functools.partial(_read_prepared, scratch, victim), seeds, words

    def taught() -> Made:
        info = json.loads(RUN["run.json"])
        scratch = _taught()
        read = functools.partial(_read_teachers, scratch, tuple(info["labels"]), info["preprocessing"])
        return read, scratch.seeds(), ("teachers", "teacher_weight", "temperature", "labels", "preprocessing")

    def one(read: Callable[[Path, bytes], None], name: str, seed: bytes, *words: str) -> Made:
        return functools.partial(read, Path(tempfile.mkdtemp(), name)), (seed,), words

    return {
        "run folder": run,
        "prepared folder": prepared,
        "teachers": taught,
        "safetensors shards": lambda: scratch_of(
            _shards, _read_shards, "weight_map", "data_offsets", "dtype", "BF16", "F8_E5M2", "../"
        ),
        "ONNX beside": lambda: scratch_of(
            _onnx_with_data, _read_onnx_data, "location", "offset", "length", "net.onnx.data", "../"
        ),
        "Caffe pair": lambda: scratch_of(_caffe, _read_caffe, "layer", "layers", "bottom", "top", "type", "convolution_param"),
        "weights manifest": lambda: one(
            _read_manifest, "manifest.toml", MANIFEST, "package", "file", "mirrors", "sha512", "=="
        ),
        "exported model": lambda: one(_read_exported, "net.onnx", _exported_seed(), "labels", "resize", "shape", "RGB"),
        "caches": lambda: scratch_of(_kept, _read_kept, "descr", "shape", "fortran_order"),
    }
