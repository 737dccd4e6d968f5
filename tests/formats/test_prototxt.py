"""The text form of Caffe networks: its grammar, its fields, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.caffe import read_prototxt
from emotiw_keras.formats.foreign import Foreign
from emotiw_keras.formats.prototxt import parse


def read(text: str | bytes, folder: Path) -> Foreign:
    path = folder / "net.prototxt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_prototxt(path)


def test_the_grammar() -> None:
    tree = parse(
        b"""# a comment " { with marks
        a: 1, b: -2.5e3; c: - 4 d: 'it\\'s' "\\x41\\102\\n" e { f: TRUE g < h: .5f > } i: { } j: [1, 2, 3] k [{a: 1}, {}] l: []
        a: inf""",
        "x",
    )
    words = {name: [value.text if not isinstance(value, dict) else value for value in values] for name, values in tree.items()}
    assert words["a"] == ["1", "inf"] and words["b"] == ["-2.5e3"] and words["c"] == ["-4"]
    assert words["d"] == ["it'sAB\n"] and words["j"] == ["1", "2", "3"] and words["i"] == [{}] and words["l"] == []
    assert tree["e"][0]["g"][0]["h"][0].text == ".5f" and len(tree["k"]) == 2
    assert tree["a"][1].line == 3


def test_a_network_in_the_loosest_spelling(tmp_path: Path) -> None:
    net = read(
        b"\xef\xbb\xbf# \xb5 in another encoding\n"
        b"name: 'n' input: 'data' input_shape: { dim: [1, 3, 6] dim: 6 }\n"
        b"layer: { name: 'c' type: 'Convolution' bottom: 'data', top: 'c';\n"
        b"convolution_param < num_output: 4 kernel_size: 3 kernel_size: 2 bias_term: 0 weight_filler: {type: 'x'} > }",
        tmp_path,
    )
    assert net.inputs == {"data": (1, 3, 6, 6)} and net.nodes is not None
    assert net.nodes[0].attrs["size"] == (3, 2) and net.nodes[0].arrays == ("c.weight",)


def test_rules_choose_the_layers_of_the_test_phase(tmp_path: Path) -> None:
    rules = {
        "plain": "",
        "test": "include { phase: TEST }",
        "train": "include { phase: TRAIN }",
        "both": "include { phase: TRAIN } include { phase: TEST }",
        "not_test": "exclude { phase: TEST }",
        "not_train": "exclude { phase: TRAIN }",
        "stage": "include { stage: 'deploy' }",
        "level": "include { min_level: 1 }",
        "not_stage": "include { not_stage: 'fit' }",
    }
    text = "input: 'x' input_dim: [1, 1, 1, 1]\n" + "\n".join(
        f"layer {{ name: '{name}' type: 'ReLU' bottom: 'x' top: '{name}' {rule} }}" for name, rule in rules.items()
    )
    net = read(text, tmp_path)
    assert net.nodes is not None and [node.name for node in net.nodes] == ["plain", "test", "both", "not_train", "not_stage"]
    assert net.ignored == {
        "train": "only for the phase TRAIN",
        "not_test": "excluded at test time",
        "stage": "not included at test time",
        "level": "not included at test time",
    }


LAYER = "layer { name: 'a' type: 'Convolution' bottom: 'x' top: 'a' convolution_param { num_output: 2 kernel_size: 1 %s } }"
REFUSED = {
    "layer { name: 'a'": "the text ends early",
    "layer { name 'a' }": "where ':' or '{' should be",
    "layer } {": "where ':' or '{' should be",
    "}": "'}' where a field's name should be",
    "layer { name: 'a }": "cannot read",
    'layer { name: "a\nb" }': "line 1: cannot read",
    "layer: [ {} {} ]": "expected a comma",
    "layer: [": "where a value should be",
    "a: 3x": "cannot read",
    "a: 'x\\q'": "unknown escape",
    "[caffe.x]: 3": "where a field's name should be",
    "layer " + "{ a " * 70: "more than 64 deep",
    "net: 'train.prototxt' base_lr: 0.01": "unknown field net",
    "name: 'empty'": "without layers",
    "layer: 3": "layer is '3' in line 1, expected a message in braces",
    "layer { name: a }": "expected a string in quotes",
    "layer { name: { } }": "name is a message, expected one value",
    "layer { name: 'a' name: 'b' }": "name stands 2 times",
    "layer { name: 'a\\n' type: 'ReLU' }": "damaged name",
    "layers { type: RELUX }": "expected one of NONE, ACCURACY",
    "layer { include { phase: DEPLOY } }": "expected one of TRAIN, TEST",
    "layer { blobs { num: 1 data: 1 } type: 'ReLU' name: 'a' }": "holds arrays as text",
    "input: 'a' input_dim: 1 layer { }": "expected one each",
    LAYER % "kernel_sise: 3": "unknown field kernel_sise; known here are axis, bias_filler, bias_term",
    LAYER % "pad: 1.5": "pad is '1.5' in line 1, expected a number",
    LAYER % "bias_term: 2": "expected true or false",
    LAYER % "stride: 99999999999999999999": "expected a number",
    LAYER % "group: 0": "group 0, expected 1 to",
    "layer { type: 'LRN' name: 'n' bottom: 'x' top: 'n' lrn_param { alpha: nan } }": "expected a finite number",
    "layer { type: 'LRN' name: 'n' bottom: 'x' top: 'n' lrn_param { alpha: 1e99 } }": "expected a finite number",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="net.prototxt") as caught:
        read(text, tmp_path)
    assert REFUSED[text] in str(caught.value) and "\n" not in str(caught.value)


def test_size_and_bytes_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="more than the 4,194,304"):
        read(b"#" * (4 << 20) + b"\n", tmp_path)
    with pytest.raises(ModelError, match="more than 300,000 words and marks"):
        read("a:1 " * 200_000, tmp_path)
    with pytest.raises(ModelError, match="more than 300,000 words and marks"):
        read("a{}" * 200_000, tmp_path)
    with pytest.raises(ModelError, match="without layers"):
        read("#\n" * 500_000, tmp_path)
    with pytest.raises(ModelError, match="damaged name"):
        read(b"layer { name: '\xff\xfe' type: 'ReLU' }", tmp_path)
    with pytest.raises(ModelError):
        read(bytes(range(256)), tmp_path)
