"""The manifest that ships, what a broken one is told, and the names of the classes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.models.registry import get_spec, model_names
from emotiw_keras.weights.imagenet import imagenet_classes, imagenet_synsets
from emotiw_keras.weights.manifest import ARCHIVES, get_entry, load_manifest

ENTRIES = load_manifest()


@pytest.mark.parametrize("name", [name for name in model_names() if get_spec(name).weights])
def test_every_network_has_one_file_that_is_fetched_for_it(name: str) -> None:
    entry = get_entry(name)
    assert entry.model == name and entry.default and entry.kind == "weights" and entry.format not in ARCHIVES
    assert [other.key for other in ENTRIES.values() if other.model == name and other.default] == [entry.key]
    assert bool(entry.licence) == (get_spec(name).licence != "not stated")
    assert entry.non_commercial == ("non-commercial" in get_spec(name).licence)


def test_keys_are_no_names_of_networks_and_files_do_not_meet() -> None:
    assert not set(ENTRIES) & set(model_names())
    assert {entry.model for entry in ENTRIES.values()} <= {"", *model_names()}
    assert len({(entry.key, entry.filename) for entry in ENTRIES.values()}) == len(ENTRIES)


def test_what_has_no_whole_hash_is_fetched_with_encryption_alone() -> None:
    open_ones = [entry.key for entry in ENTRIES.values() if not entry.pinned and any(u.startswith("http:") for u in entry.urls)]
    assert open_ones == []


def test_known_sizes_and_hashes() -> None:
    assert get_entry("alexnet").size == 243_862_414
    assert get_entry("alexnet").hashes["sha1"] == "9116a64c0fbe4459d18f4bb6b56d647b63920377"
    assert get_entry("vgg_cnn_m_2048-matconvnet").hashes == {"md5": "087ec812e0a09980bd934e2e7ba157f6"}
    for entry in ENTRIES.values():
        if "sha256_prefix" in entry.hashes:
            assert f"-{entry.hashes['sha256_prefix']}.pth" in entry.filename
            assert entry.hashes.get("sha256", entry.hashes["sha256_prefix"]).startswith(entry.hashes["sha256_prefix"])
        assert entry.non_commercial == ("non-commercial" in entry.licence)
        assert entry.paper and (not entry.size or entry.size < 2**31)


@pytest.mark.parametrize(
    ("key", "place"),
    [("yunet", "face_models/face_detection_yunet_2023mar.onnx"), ("caffe-mean", "foreign_weights/bvlc/ilsvrc_2012_mean.npy")],
)
def test_files_that_are_here_are_those_of_the_manifest(shared_data: Path, key: str, place: str) -> None:
    data = (shared_data / place).read_bytes()
    assert (ENTRIES[key].size, ENTRIES[key].hashes["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert ENTRIES[key].filename == Path(place).name


def test_an_unknown_name_is_met_with_the_likely_one() -> None:
    with pytest.raises(ModelError, match="did you mean alexnet-caffe\\? .* or a model: alexnet, caffenet"):
        get_entry("alexnet-cafe")


GOOD = 'kind = "weights"\nformat = "mat"\nurl = "https://a.org/x.mat"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "cannot read the weights manifest"),
        ("a = 1", r"\[a\] must have kind, format and url"),
        ('[a]\nkind = "weights"', "must have kind, format and url"),
        (f"[a]\n{GOOD}sha = 1", "and nothing but kind, format"),
        (f"[a]\n{GOOD}size = '1'", "has size = '1'; expected a int"),
        (f"[a]\n{GOOD}size = true", "has size = True"),
        (f"[a]\n{GOOD}size = -1", "one is impossible"),
        ("[a]\n" + GOOD.replace('"mat"', '"exe"'), "format 'exe'"),
        (f"[a]\n{GOOD.replace('https', 'file')}", "expected http or https"),
        (f"[a]\n{GOOD}mirrors = ['ftp://b.org/x']", "expected http or https"),
        (f"[a]\n{GOOD}file = '../x'", "expected plain names"),
        (f"['../a']\n{GOOD}", "expected plain names"),
        (f"[a]\n{GOOD}hashes = {{md5 = 'abc'}}", "has md5 = 'abc'"),
        (f"[a]\n{GOOD}hashes = {{crc = '{'0' * 32}'}}", "has crc = "),
        (f"[a]\n{GOOD}hashes = {{md5 = 5}}", "has md5 = 5"),
        (f"[a]\n{GOOD}hashes = {{sha256_prefix = 'abcdefg1'}}", "or a sha256_prefix"),
        (f"[a]\n{GOOD}default = true", "the default of no model"),
        (f"[a]\n{GOOD}default = true\nmodel='m'\n[b]\n{GOOD}default = true\nmodel='m'", "more than one default file of m"),
    ],
)
def test_a_broken_manifest_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=said):
        load_manifest(path)


def test_the_classes_are_in_the_usual_order() -> None:
    names, synsets = imagenet_classes(), imagenet_synsets()
    assert len(names) == len(set(names)) == len(synsets) == len(set(synsets)) == 1000
    assert list(synsets) == sorted(synsets) and all(len(synset) == 9 for synset in synsets)
    known = {
        0: "tench",
        134: "crane (bird)",
        281: "tabby",
        285: "Egyptian cat",
        517: "crane",
        967: "espresso",
        999: "toilet tissue",
    }
    assert {index: names[index] for index in known} == known
    assert (synsets[0], synsets[285], synsets[999]) == ("n01440764", "n02124075", "n15075141")
