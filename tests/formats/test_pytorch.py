"""PyTorch's two file forms, written without PyTorch and, where it is installed, by PyTorch itself."""

from __future__ import annotations

import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import zipped
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.pytorch import read_pytorch
from tests.formats.write_pytorch import MAGIC, Name, Storage, Tensor, tensor, write_legacy, write_zip

Write = Callable[..., None]
both = pytest.mark.parametrize("write", [write_zip, write_legacy])


def _net(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {
        "features.0.weight": (8, 3, 5, 5),
        "features.0.bias": (8,),
        "features.1.weight": (8,),
        "features.1.bias": (8,),
        "features.1.running_mean": (8,),
        "features.1.running_var": (8,),
        "classifier.weight": (5, 12),
        "classifier.bias": (5,),
    }
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def refused(path: Path, limits: Limits | None = None) -> str:
    """The error of a file, which must be one line that names it."""
    with pytest.raises(ModelError) as caught:
        read_pytorch(path, limits)
    message = str(caught.value)
    assert path.name in message and message.isprintable(), message
    return message


def _same(foreign: Foreign, want: dict[str, np.ndarray]) -> None:
    assert list(foreign.arrays) == list(want)
    for name, array in want.items():
        read = foreign.arrays[name]
        assert read.dtype == array.dtype and read.shape == array.shape, name
        assert read.tobytes() == array.tobytes(), name


@both
def test_reads_a_state_dict_bit_for_bit_and_names_batch_normalisation(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    net = _net()
    write(path, net | {"features.1.num_batches_tracked": np.array(7, np.int64)})
    foreign = read_pytorch(path)
    roles = {"running_mean": "mean", "running_var": "variance", "weight": "gamma", "bias": "beta"}
    want = {
        name if not name.startswith("features.1.") else f"features.1.{roles[name.rpartition('.')[2]]}": array
        for name, array in net.items()
    }
    _same(foreign, want)
    assert foreign.layout == "oihw" and foreign.nodes is None and foreign.channel_order is None
    assert foreign.ignored == {"features.1.num_batches_tracked": "counts the steps of training"}
    assert ("zip" in foreign.format) == (write is write_zip)


@both
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "model_state", "params", "weights", "ema"])
def test_takes_the_state_dict_out_of_a_checkpoint(tmp_path: Path, write: Write, key: str) -> None:
    path = tmp_path / "net.pth"
    net = {name: array for name, array in _net().items() if not name.startswith("features.1")}
    state = {f"module.{name}": array for name, array in net.items()}
    write(
        path,
        {
            "epoch": 3,
            "arch": "alexnet",
            key: state,
            "optimizer": {"lr": 0.1},
            "best": np.float32(1.5),
            "t": tensor(net["classifier.bias"]),
        },
    )
    foreign = read_pytorch(path)
    _same(foreign, net)
    assert set(foreign.ignored) == {"epoch", "arch", "optimizer", "best", "t", "module."}
    assert "5" not in foreign.ignored["module."] and "4 names" in foreign.ignored["module."]


@both
def test_the_only_state_dict_is_taken_whatever_it_is_called(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    net = {name: array for name, array in _net().items() if not name.startswith("features.1")}
    write(path, {"epoch": 3, "model_weights": net, "best": {"epoch": 2}})
    foreign = read_pytorch(path)
    _same(foreign, net)
    assert foreign.ignored["epoch"] == "of type int beside the checkpoint's model_weights"
    write(path, {"generator": net, "discriminator": net})  # which of them nobody says
    assert "holds no tensors under names" in refused(path)


@both
def test_every_dtype_is_kept_and_bfloat16_becomes_float32(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    codes = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    want = {f"{code}.weight": np.arange(-3, 3).astype(code).reshape(2, 3) for code in codes}
    values = np.array([1.5, -2, 0, np.inf, 1e-38, 3.390625], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    cut = (halves.astype(np.uint32) << 16).view(np.float32)
    shapes: dict[str, Any] = dict(want)
    shapes["half"] = Tensor(Storage(halves, "BFloat16Storage"), (2, 2), (3, 1), 1)
    write(path, shapes)
    want["half"] = np.lib.stride_tricks.as_strided(cut[1:], (2, 2), (12, 4))
    _same(read_pytorch(path), want)


@both
def test_strides_offsets_shared_storages_and_parameters(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    base = np.arange(24, dtype=np.float32)
    shared = Storage(base)
    write(
        path,
        {
            "all": Tensor(shared, (4, 6), (6, 1)),
            "transposed": Tensor(shared, (6, 4), (1, 6), parameter=True),
            "part": Tensor(shared, (2, 3), (6, 2), 7),
            "expanded": Tensor(shared, (3, 6), (0, 1), 6),
            "one": Tensor(shared, (), (), 23),
            "single": Tensor(shared, (1, 2), (1 << 61, 1)),
            "none": Tensor(shared, (0, 6), (6, 1), 24),
        },
    )
    grid = base.reshape(4, 6)
    foreign = read_pytorch(path)
    _same(
        foreign,
        {
            "all": grid,
            "transposed": grid.T,
            "part": grid[1:3, 1:6:2],
            "expanded": np.broadcast_to(grid[1], (3, 6)),
            "one": base[23],
            "single": grid[:1, :2],
            "none": grid[:0],
        },
    )
    assert np.shares_memory(foreign.arrays["all"], foreign.arrays["transposed"])
    assert not any(array.flags.writeable for array in foreign.arrays.values() if array.size)


def test_views_of_the_older_form(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    base = np.arange(10, dtype=np.float32)
    write_legacy(path, {"a": Tensor(Storage(base, view=("v", 4, 5)), (2, 2), (2, 1), 1)})
    _same(read_pytorch(path), {"a": base[5:9].reshape(2, 2)})
    write_legacy(path, {"a": Tensor(Storage(base, view=("v", 4, 7)), (2, 2), (2, 1), 1)})
    assert "a view of the storage 0 is larger" in refused(path)
    write_legacy(path, {"a": Tensor(Storage(base, view=("v", 4, 3)), (2, 2), (2, 1), 0)})
    assert "needs 4 numbers of a storage of 3" in refused(path)


def test_deflated_entries_and_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    net = {"a.weight": np.arange(600, dtype=np.float32)}
    write_zip(path, net, method=zipfile.ZIP_DEFLATED)
    _same(read_pytorch(path), net)
    write_zip(path, net, extra={"byteorder": b"big", "data/0": net["a.weight"].astype(">f4").tobytes()})
    read = read_pytorch(path).arrays["a.weight"]
    assert np.array_equal(read, net["a.weight"])
    write_zip(path, net, extra={"byteorder": b"middle"})
    assert "byte order is middle" in refused(path)
    write_zip(path, net, method=zipfile.ZIP_LZMA)
    assert "packing method 14" in refused(path)


@both
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Tensor(Storage(np.zeros(6, np.float32)), (2, 4), (4, 1)), "needs 8 numbers of a storage of 6"),
        (Tensor(Storage(np.zeros(6, np.float32)), (2, 3), (3, 1), 1), "needs 7 numbers of a storage of 6"),
        (Tensor(Storage(np.zeros(6, np.float32)), (2, 2), (1 << 61, 1)), "of a storage of 6"),
        (Tensor(Storage(np.zeros(6, np.float32)), (2, 3), (-3, 1), 3), "damaged offset or strides"),
        (Tensor(Storage(np.zeros(6, np.float32)), (2, 3), (3,)), "damaged offset or strides"),
        (Tensor(Storage(np.zeros(6, np.float32)), (2, 3), (3, 1), -1), "damaged offset or strides"),
        (Tensor(Storage(np.zeros(6, np.float32)), (1 << 20, 1 << 20), (0, 0)), "larger than the 4,294,967,296 bytes"),
        (Tensor(Storage(np.zeros(6, np.float32)), (-2, 3), (3, 1)), "shape holds -2"),
        (Tensor(Storage(np.zeros(6, np.float32)), (0, 1 << 62), (0, 0)), "larger than"),
        (Tensor(Storage(np.zeros(6, np.float32), "QInt8Storage"), (6,), (1,)), "torch.QInt8Storage"),
        (Tensor(Storage(np.zeros(6, np.float32), "Size"), (6,), (1,)), "no known type"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, write: Write, bad: Tensor, words: str) -> None:
    path = tmp_path / "net.pth"
    write(path, {"a.weight": bad})
    assert words in refused(path)


@both
def test_many_large_views_of_a_small_storage_are_refused(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    row = Storage(np.zeros(1 << 10, np.float32))
    write(path, {f"{i}.weight": Tensor(row, (1 << 10, 1 << 10), (0, 1)) for i in range(5)})
    assert "more than the 16,777,216 bytes" in refused(path, Limits(total_bytes=1 << 24))
    halves = Storage(np.zeros(1 << 10, np.uint16), "BFloat16Storage")
    write(path, {f"{i}.weight": Tensor(halves, (1 << 10, 1 << 10), (0, 1)) for i in range(5)})
    assert "more than the 16,777,216 bytes" in refused(path, Limits(total_bytes=1 << 24))
    assert "arrays and entries" in refused(path, Limits(arrays=4))


@both
def test_a_whole_module_or_any_call_is_refused_with_advice(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    for name in (Name("models.alexnet", "AlexNet"), Name("posix", "system"), Name("torch.hub", "load"), Name("torch", "load")):
        write(path, {"a.weight": np.zeros(3, np.float32), "net": name})
        message = refused(path)
        assert f"asks to call {name.module}.{name.attribute}" in message
        assert "save model.state_dict()" in message


@both
@pytest.mark.parametrize("root", [[np.zeros(3, np.float32)], np.zeros(3, np.float32), {}, {"epoch": 3}, 5])
def test_without_names_and_tensors_there_is_nothing_to_read(tmp_path: Path, write: Write, root: object) -> None:
    path = tmp_path / "net.pth"
    write(path, root)
    assert "save model.state_dict()" in refused(path)


def test_two_names_for_one_array_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    zeros = np.zeros(3, np.float32)
    write_zip(path, {"a.mean": zeros, "a.running_mean": zeros})
    assert "two arrays would be named a.mean" in refused(path)
    write_zip(path, {"a\nb": zeros})
    assert "damaged name" in refused(path)


def test_torchscript_and_other_zips(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    net = _net()
    write_zip(path, net, extra={"code/__torch__.py": b"x", "constants.pkl": pickle.dumps(())})
    assert "TorchScript" in refused(path) and "state_dict" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "0 entries data.pkl" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("b/data.pkl", b"N.")
    assert "2 entries data.pkl" in refused(path)


def test_keys_are_no_paths(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    path = folder / "net.pth"
    (tmp_path / "x").write_bytes(bytes(12))
    bad = Tensor(Storage(np.ones(3, np.float32), key="../../x"), (3,), (1,))
    write_zip(path, {"a.weight": bad})
    _same(read_pytorch(path), {"a.weight": np.ones(3, np.float32)})
    assert (tmp_path / "x").read_bytes() == bytes(12) and sorted(item.name for item in folder.iterdir()) == ["net.pth"]
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if "../" not in name}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "storage ../../x is not in it" in refused(path)


def test_a_storage_of_another_size_or_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    net = {"a.weight": np.arange(100, dtype=np.float32)}
    write_zip(path, net, extra={"data/0": bytes(396)})
    assert "storage 0 has 396 bytes, expected 400" in refused(path)
    write_zip(path, net)
    data = bytearray(path.read_bytes())
    data[data.index(net["a.weight"].tobytes()) + 7] ^= 1
    path.write_bytes(data)
    assert "checksum" in refused(path)
    write_zip(
        path,
        {
            "a": Tensor(Storage(np.zeros(2, np.float32), key="k"), (2,), (1,)),
            "b": Tensor(Storage(np.zeros(3, np.float32), key="k"), (3,), (1,)),
        },
    )
    assert "two storages are called k" in refused(path)


def test_zip_bombs_and_endless_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    write_zip(path, {"a.weight": np.zeros(1 << 22, np.float32)}, method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    assert "would unpack to" in refused(path, Limits(total_bytes=1 << 23))
    monkeypatch.setattr("emotiw_keras.formats.foreign.BOMB_FROM", 1 << 20)
    assert "200 times the file" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(300):
            archive.writestr(f"archive/data/{i}", b"")
    assert "300 entries" in refused(path, Limits(arrays=299))
    monkeypatch.setattr(zipped, "DIRECTORY_BYTES", 1 << 12)
    assert "its list of entries has" in refused(path)


def test_a_wrapper_that_stands_there_too_often(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    write_zip(path, {"model." * 20_000 + "weight": np.zeros(1, np.float32)}, method=zipfile.ZIP_DEFLATED)
    assert "damaged name 'model.model." in refused(path)


def test_one_number_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotiw_keras.formats.foreign.BOMB_FROM", 1 << 16)
    path = tmp_path / "net.pth"
    write_zip(path, {"a.weight": Tensor(Storage(np.zeros(1, np.float32)), (1 << 20,), (0,))})
    assert "its arrays take more than the " in refused(path)


def test_the_older_form_by_parts(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    write_legacy(path, _net(), magic=1)
    assert "PyTorch's number" in refused(path)
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in (MAGIC, 1000)))
    assert "protocol 1000" in refused(path)
    laughs: tuple[object, ...] = ()
    for _ in range(60):
        laughs = (laughs, laughs)
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in (MAGIC, laughs)))
    assert "protocol a tuple, expected 1001" in refused(path)
    parts: tuple[object, ...] = (MAGIC, 1001, {})
    start = b"".join(pickle.dumps(part, 2) for part in parts)
    path.write_bytes(start + pickle.dumps({}, 2) + pickle.dumps(5, 2))
    assert "no list" in refused(path)
    path.write_bytes(start + pickle.dumps({}, 2) + pickle.dumps(["0"], 2))
    assert "that no tensor has" in refused(path)


@both
def test_truncated_anywhere(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    write(path, _net())
    data = path.read_bytes()
    for part in range(37):
        path.write_bytes(data[: len(data) * part // 37])
        refused(path)


@both
def test_mutated_anywhere(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "net.pth"
    write(path, _net())
    data = path.read_bytes()
    # Where the pickles and the zip's own records are; between them are the numbers.
    places = [*range(min(1200, len(data))), *range(len(data) - 1200, len(data))]
    draw = random.Random(3)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            changed[draw.choice(places)] = draw.choice((0, 255, 128, draw.randrange(256)))
        path.write_bytes(changed)
        try:
            foreign = read_pytorch(path, Limits(total_bytes=1 << 24))
        except ModelError as error:
            assert str(error).isprintable()
        else:
            assert sum(array.nbytes for array in foreign.arrays.values()) <= 1 << 24


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "no weight file" in refused(tmp_path / "net.pth")
    (tmp_path / "net.pth").touch()
    assert "empty" in refused(tmp_path / "net.pth")
    (tmp_path / "text.pth").write_text("<html>" * 50)
    assert "no opcode" in refused(tmp_path / "text.pth") or refused(tmp_path / "text.pth")


@pytest.mark.parametrize("zip_form", [True, False])
def test_files_of_pytorch_itself(tmp_path: Path, zip_form: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: the files above are written without it")
    path = tmp_path / "net.pth"
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = {
        "conv.weight": torch.nn.Parameter(torch.randn(4, 3, 5, 5)),
        "conv.bias": torch.randn(4),
        "half.weight": torch.randn(3, 4).half(),
        "brain.weight": torch.randn(4, 6).bfloat16()[1:, ::2],
        "transposed": base.t(),
        "part": base[1:5, 2:7:2],
        "expanded": torch.randn(1, 5).expand(4, 5),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "long": torch.arange(7),
        "bool": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(2.5),
    }
    want = {name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy() for name, value in state.items()}
    torch.save(state, path, _use_new_zipfile_serialization=zip_form)
    _same(read_pytorch(path), want)
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path, _use_new_zipfile_serialization=zip_form
    )
    _same(read_pytorch(path), want)
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zip_form)
    assert "torch.nn.modules.linear.Linear" in refused(path)
