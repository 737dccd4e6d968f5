"""Names as training code leaves them: wrappers around networks, counters, other words for weights and biases; split files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.reading import read
from emotiw_keras.formats.wrapped_names import plain_roles, unwrapped
from tests.formats.write_pytorch import write_zip

NAMES = ("features.0.weight", "features.0.bias", "classifier.1.weight", "classifier.1.bias")
ARRAYS = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(NAMES)}
COUNTER = np.array(7, np.int64)
WRAPPED: dict[str, Callable[[str], str]] = {
    "DataParallel": lambda name: f"module.{name}",
    "DataParallel around the features": lambda name: name.replace("features.", "features.module."),
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
    "Lightning around both": lambda name: f"model.module.{name}",
    "a trunk": lambda name: f"backbone.{name}",
    "an encoder in a model": lambda name: f"module.model.encoder.{name}",
}


def write_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


FORMS: dict[str, Callable[[Path, dict[str, np.ndarray]], object]] = {
    "a.pth": write_zip,
    "a.safetensors": lambda path, arrays: safetensors.numpy.save_file(arrays, path),
    "a.npz": lambda path, arrays: np.savez(path, **arrays),
    "a.pkl": write_pickle,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_go_in_every_format_and_are_named(form: str, wrapper: str, tmp_path: Path) -> None:
    names = {WRAPPED[wrapper](name): name for name in NAMES}
    counters = {"features.1.num_batches_tracked": COUNTER, "n_averaged": COUNTER}
    FORMS[form](tmp_path / form, {wrapped: ARRAYS[name] for wrapped, name in names.items()} | counters)
    found = read(tmp_path / form)
    assert set(found.arrays) == set(NAMES)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert set(counters) < set(found.ignored)
    assert any("wrapper" in why for why in found.ignored.values())


def test_what_stands_beside_the_network_keeps_its_name() -> None:
    told: dict[str, str] = {}
    names = ["backbone.conv1.weight", "backbone.conv1.bias", "head.weight"]
    assert list(unwrapped(names, told.__setitem__).values()) == ["conv1.weight", "conv1.bias", "head.weight"]
    assert told == {"backbone.": "a wrapper's prefix, taken off 2 names"}


@pytest.mark.parametrize(
    "names",
    [
        ["module.a", "a"],  # two would be one
        ["model.a", "a", "b"],  # fewer than most
        ["model.a", "model.b", "a"],
        ["modules.a", "modelling.b"],
        [],
    ],
)
def test_names_stay_where_that_would_confuse_them(names: list[str]) -> None:
    told: dict[str, str] = {}
    assert unwrapped(names, told.__setitem__) == {name: name for name in names} and told == {}


def test_other_words_for_weights_and_biases() -> None:
    names = {
        "conv1.weights": "conv1.weight", "conv1.biases": "conv1.bias", "conv2/kernel:0": "conv2.weight",
        "conv2/bias:0": "conv2.bias", "conv3_W": "conv3.weight", "conv3_b": "conv3.bias", "fire2/squeeze1x1.weights":
        "fire2/squeeze1x1.weight", "bn1.scale": "bn1.gamma", "bn1/moving_variance": "bn1.variance", "fc6.weight": "fc6.weight",
        "bn1.running_var": "bn1.running_var", "bn1/moving_mean:0": "bn1.mean", "x.my_scale": "x.my_scale",
        "mean_image": "mean_image", "W": "W",
    }  # fmt: skip
    assert plain_roles(names) == names
    assert plain_roles(["a.weights", "a.weight"]) == {"a.weights": "a.weights", "a.weight": "a.weight"}


@pytest.mark.parametrize("write", [lambda path, content: np.save(path, content, allow_pickle=True), write_pickle])
def test_dictionaries_of_caffe_tensorflow(write: Callable[[Path, object], None], tmp_path: Path) -> None:
    path = tmp_path / ("a.pkl" if write is write_pickle else "a.npy")
    content = {"conv1": {"weights": np.ones((3, 3, 1, 2)), b"biases": np.zeros(2)}, "fc6": {"kernel": np.ones((4, 2))}}
    write(path, content)
    assert list(read(path).arrays) == ["conv1.weight", "conv1.bias", "fc6.weight"]


def _parts(folder: Path, *, index: dict[str, str] | None = None) -> Path:
    names = list(ARRAYS)
    parts = {"model-00001-of-00002.safetensors": names[:1], "model-00002-of-00002.safetensors": names[1:]}
    for part, held in parts.items():
        safetensors.numpy.save_file({f"model.{name}": ARRAYS[name] for name in held}, folder / part)
    listed = {f"model.{name}": part for part, held in parts.items() for name in held} | (index or {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder / "model.safetensors.index.json"


def test_several_safetensors_files_with_their_index(tmp_path: Path) -> None:
    found = read(_parts(tmp_path))
    assert set(found.arrays) == set(NAMES) and found.path.name == "model.safetensors.index.json"
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    with pytest.raises(ModelError, match=r"model-00001-of-00002.safetensors is one of 2 files; give their index"):
        read(tmp_path / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    "index, message",
    [
        ({"x": "../model.safetensors"}, "not within its folder"),
        ({"x": "/etc/passwd"}, "not within its folder"),
        ({"x": "C:\\a.safetensors"}, "not within its folder"),
        ({"x": ""}, "not within its folder"),
        ({"x": "link.safetensors"}, "not within its folder"),
        ({"x": "none.safetensors"}, "which is missing"),
        ({"x": "model-00001-of-00002.safetensors"}, "which does not hold it"),
        ({"model.features.0.weight": "model-00002-of-00002.safetensors"}, "lists model.features.0.weight in"),
    ],
)
def test_an_index_reads_nothing_outside_its_folder(index: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"x" * 20)
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json.*" + message) as caught:
        read(_parts(folder, index=index))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"weight_map": 3}', b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_index_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors.index.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="a.safetensors.index.json"):
        read(path)


def test_the_files_of_an_index_share_the_limits(tmp_path: Path) -> None:
    path = _parts(tmp_path)
    size = sum(part.stat().st_size for part in tmp_path.glob("*.safetensors"))
    read(path, Limits(total_bytes=size))
    with pytest.raises(ModelError, match="more than"):
        read(path, Limits(total_bytes=size - 1))
    with pytest.raises(ModelError, match="more than"):
        read(path, Limits(arrays=3))


def test_wrappers_without_end() -> None:
    found = unwrapped(["net." * 200 + "weight"], lambda what, why: None)
    assert [*found.values()] == ["net." * 184 + "weight"]
