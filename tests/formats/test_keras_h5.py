"""Keras' HDF5 files, written in Keras' own layouts, and by Keras itself."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.keras_h5 import read_keras_archive, read_keras_h5

RANDOM = np.random.default_rng(9)
LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "conv1": {"conv1/kernel:0": (3, 3, 3, 4), "conv1/bias:0": (4,)},
    "conv1/bn": {
        "conv1/bn/gamma:0": (4,),
        "conv1/bn/beta:0": (4,),
        "conv1/bn/moving_mean:0": (4,),
        "conv1/bn/moving_variance:0": (4,),
    },
    "dropout": {},
    "fc": {"fc_W_1:0": (4, 2), "fc_b_1:0": (2,)},
    "inner": {"a/kernel:0": (2, 2), "a/bias:0": (2,), "b/kernel:0": (2, 2), "b/bias:0": (2,)},
}
NAMES = {
    "conv1.weight": "conv1/kernel:0",
    "conv1.bias": "conv1/bias:0",
    "conv1/bn.gamma": "conv1/bn/gamma:0",
    "conv1/bn.beta": "conv1/bn/beta:0",
    "conv1/bn.mean": "conv1/bn/moving_mean:0",
    "conv1/bn.variance": "conv1/bn/moving_variance:0",
    "fc.weight": "fc_W_1:0",
    "fc.bias": "fc_b_1:0",
    "a.weight": "a/kernel:0",
    "a.bias": "a/bias:0",
    "b.weight": "b/kernel:0",
    "b.bias": "b/bias:0",
}


def write_old(path: Path, *, whole: bool, split: bool = False, version: str | None = "2.2.4") -> dict[str, np.ndarray]:
    """A file as Keras 2 wrote it; `split` as it does where the names are longer than an attribute may be."""
    values = {}
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        names = np.array([name.encode() for name in LAYERS if "/" not in name])
        # Keras makes a group within a group of a layer's name with a slash, and lists neither of them otherwise.
        names = np.array([*names, b"conv1_bn"])
        if split:
            group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:2], names[2:]
        else:
            group.attrs["layer_names"] = names
        for layer, weights in LAYERS.items():
            place = group.create_group(layer.replace("/", "_"))
            place.attrs["weight_names"] = np.array([name.encode() for name in weights], "S40")
            for name, shape in weights.items():
                values[name] = RANDOM.normal(size=shape).astype(np.float32)
                place[name] = values[name]
        if version:
            file.attrs["keras_version"] = version.encode()
        if whole:
            file.attrs["model_config"] = json.dumps({"class_name": "Lambda", "config": {"function": ["4wEA", None]}}).encode()
            file.create_group("optimizer_weights")["m"] = np.zeros(3)
    return values


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_old_files(tmp_path: Path, whole: bool, split: bool) -> None:
    values = write_old(tmp_path / "a.h5", whole=whole, split=split)
    foreign = read_keras_h5(tmp_path / "a.h5")
    assert foreign.layout == "hwio" and foreign.nodes is None
    assert {name.replace("conv1/bn", "conv1_bn") for name in NAMES} == set(foreign.arrays)
    for name, source in NAMES.items():
        np.testing.assert_array_equal(foreign.arrays[name.replace("conv1/bn", "conv1_bn")], values[source])
    assert set(foreign.ignored) == ({"model_config", "optimizer_weights"} if whole else set())


@pytest.mark.parametrize("version", [None, "1.2.2"])
def test_keras_1_says_no_layout(tmp_path: Path, version: str | None) -> None:
    write_old(tmp_path / "a.h5", whole=False, version=version)
    foreign = read_keras_h5(tmp_path / "a.h5")
    assert foreign.layout is None and "180 degrees" in foreign.ignored["backend"]


def test_written_by_keras(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inner = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")])
    layers = [
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, name="c1"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.Lambda(lambda x: x + 1),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.5),
        inner,
        keras.layers.LayerNormalization(name="ln"),
        keras.layers.Dense(2, name="out"),
    ]
    model = keras.Sequential(layers)
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    bn, ln = model.get_layer("bn").weights, model.get_layer("ln").weights
    expected = dict(zip(("bn.gamma", "bn.beta", "bn.mean", "bn.variance"), bn, strict=True))
    for layer in (model.get_layer("c1"), model.get_layer("out"), *inner.layers):
        expected |= {f"{layer.name}.weight": layer.kernel, f"{layer.name}.bias": layer.bias}
    for name, roles in (("model.h5", ("gamma", "beta")), ("model.weights.h5", ("0", "1"))):
        foreign = read_keras_h5(tmp_path / name)
        wanted = expected | {f"ln.{role}": weight for role, weight in zip(roles, ln, strict=True)}
        found = {key.removeprefix(f"{inner.name}/"): array for key, array in foreign.arrays.items()}
        assert set(found) == set(wanted)
        for key, weight in wanted.items():
            np.testing.assert_array_equal(found[key], keras.ops.convert_to_numpy(weight))
        assert foreign.layout == "hwio"
        assert ("model_config" in foreign.ignored) == (name == "model.h5")


def test_keras_3_seeds_optimizer_and_same_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for place, name in (("layers/dense", "fc"), ("layers/model/layers/dense", "fc")):
            group = file.create_group(f"{place}/vars")
            group.attrs["name"] = name
            group["0"], group["1"] = np.zeros((2, 3)), np.zeros(3)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        file["optimizer/vars/0"] = np.zeros(5)
        for i in range(11):
            file[f"layers/lstm/vars/{i}"] = np.full(1, i)
    foreign = read_keras_h5(tmp_path / "a.weights.h5")
    assert {"fc.weight", "fc.bias", "layers/model/layers/dense.weight", "layers/model/layers/dense.bias"} < set(foreign.arrays)
    assert [foreign.arrays[f"layers/lstm.{i}"][0] for i in range(11)] == list(range(11))
    assert set(foreign.ignored) == {"layers/dropout/seed_generator", "optimizer"}


def test_contradictions(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_old(path, whole=False)
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/kernel:0"]
    with pytest.raises(ModelError, match="no weight 'conv1/kernel:0'"):
        read_keras_h5(path)
    with h5py.File(path, "r+") as file:
        del file["conv1"]
    with pytest.raises(ModelError, match="no group of layer 'conv1'"):
        read_keras_h5(path)
    with h5py.File(path, "w") as file:
        file["values"] = np.zeros(3)
    with pytest.raises(ModelError, match="holds 'values'; expected"):
        read_keras_h5(path)
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/kernel"] = np.zeros(3)
    with pytest.raises(ModelError, match="numbered variables"):
        read_keras_h5(path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["../fc", "fc"]
        file.create_group("fc").attrs["weight_names"] = ["./x", "/fc"]
    with pytest.raises(ModelError, match="no group of layer '../fc'"):
        read_keras_h5(path)


def test_link_out_of_the_file(tmp_path: Path) -> None:
    write_old(tmp_path / "other.h5", whole=False)
    write_old(tmp_path / "a.h5", whole=True)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["model_weights/fc"]
        file["model_weights/fc"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/fc")
    with pytest.raises(ModelError, match="ExternalLink"):
        read_keras_h5(tmp_path / "a.h5")


@pytest.mark.parametrize("whole", [False, True])
def test_truncation_and_flipped_bytes(tmp_path: Path, whole: bool) -> None:
    write_old(tmp_path / "a.h5", whole=whole)
    content = (tmp_path / "a.h5").read_bytes()
    damaged = [content[: len(content) * part // 37] for part in range(37)]
    for _ in range(150):
        changed = bytearray(content)
        for at in RANDOM.integers(0, len(content), 3):
            changed[at] = int(RANDOM.choice([0, 1, 127, 255]))
        damaged.append(bytes(changed))
    errors = 0
    for data in damaged:
        (tmp_path / "b.h5").write_bytes(data)
        try:
            read_keras_h5(tmp_path / "b.h5", Limits(total_bytes=1 << 20, arrays=2000))
        except ModelError as error:
            errors += 1
            assert "\n" not in str(error)
    assert errors > 37


def test_names_as_keras_3_writes_them_are_not_counted_by_the_files_size(tmp_path: Path) -> None:
    """h5py 3 writes a list of names as texts of no fixed length, of which only the file's size is known to bound each."""
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        names = [f"layer{number}".encode() for number in range(200)]
        file.attrs["layer_names"], file.attrs["keras_version"] = names, "3.15.1"
        for name in names:
            layer = file.create_group(name)
            layer.attrs["weight_names"] = [b"kernel", b"bias"]
            layer["kernel"], layer["bias"] = np.ones((8, 8), np.float32), np.ones(8, np.float32)
    limits = Limits(total_bytes=20 * path.stat().st_size)
    assert len(read_keras_h5(path, limits).arrays) == 400


@pytest.mark.parametrize("whole", [False, True])
def test_kernels_of_theano_are_turned(tmp_path: Path, whole: bool) -> None:
    values = write_old(tmp_path / "a.h5", whole=whole)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        (file["model_weights"] if whole else file).attrs["backend"] = b"theano"
    foreign = read_keras_h5(tmp_path / "a.h5")
    assert "Theano" in foreign.format and "180 degrees" in foreign.format
    np.testing.assert_array_equal(foreign.arrays["conv1.weight"], values["conv1/kernel:0"][::-1, ::-1])
    for name in ("conv1.bias", "fc.weight", "a.weight", "conv1_bn.gamma"):
        np.testing.assert_array_equal(foreign.arrays[name], values[NAMES[name.replace("_bn", "/bn")]])


def test_where_channels_may_be_first_the_order_of_rows_is_open(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_old(path, whole=False)
    assert read_keras_h5(path).flattening_open
    write_old(path, whole=True)
    assert not read_keras_h5(path).flattening_open
    for said, opened in (("channels_last", False), ("channels_first", True), ("channels_first\n", True)):
        layer = {"class_name": "Conv2D", "config": {"data_format": said}}
        with h5py.File(path, "a") as file:
            text = json.dumps({"config": {"layers": [layer]}})
            file.attrs["model_config"] = text.replace("\\n", '"\n"').encode()
        assert read_keras_h5(path).flattening_open == opened
        with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(layer))
            archive.writestr("model.weights.h5", packed_zeros(tmp_path / "b.h5", 8))
        assert read_keras_archive(tmp_path / "a.keras").flattening_open == (said == "channels_first")


def packed_zeros(path: Path, rows: int) -> bytes:
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((rows, 1 << 10), "f4"), compression="gzip")
    return path.read_bytes()


def test_a_zip_in_a_zip_is_no_way_around_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", packed_zeros(tmp_path / "b.h5", 1 << 10))
    assert read_keras_archive(path).arrays["layers/dense.weight"].nbytes == 1 << 22
    monkeypatch.setattr("emotiw_keras.formats.foreign.BOMB_FROM", 1 << 20)
    assert path.stat().st_size * 200 < 1 << 22 < (tmp_path / "b.h5").stat().st_size * 400
    with pytest.raises(ModelError, match=r"^a.keras: '0' declares 4,194,304 bytes in a file of .* packing if you trust it$"):
        read_keras_archive(path)
