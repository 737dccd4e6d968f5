"""The columns of an audit by hand, what states a file, and the command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras import engines
from emotiw_keras.audit.adapter import Adapter
from emotiw_keras.audit.audit import audit
from emotiw_keras.audit.entries import Entry, Input, adapter_entry, read_entries
from emotiw_keras.audit.faces import CONDITIONS, LABELS, AuditFaces, read_test
from emotiw_keras.audit.figures import check_labels, of_answers, of_humans
from emotiw_keras.audit.readers import opened, prepared
from emotiw_keras.cli.main import run
from emotiw_keras.data.votes import VOTED
from emotiw_keras.errors import DataError, ModelError, UsageError

FILE = '[[model]]\nname = "a"\nfile = "a.onnx"\nlabels = ["angry", "happy"]\noutput = "logits"\n'
INPUT = '[model.input]\nside = 8\nchannels = "grey"\norder = "nchw"\nlow = 0\nhigh = 1\n'


def some_faces(truth: list[int], votes: list[list[int]] | None = None) -> AuditFaces:
    """Faces of which the first is an equal twin and the second a near one."""
    n = len(truth)
    place = np.arange(n)
    counts = None if votes is None else np.array(votes)
    pixels = np.full((n, 48, 48), 128, np.uint8)
    return AuditFaces("fer", pixels, np.array(truth), place == 0, place < 2, counts, {}, False, ())


def sure(said: list[str], labels: tuple[str, ...]) -> np.ndarray:
    answers = np.full((len(said), len(labels)), 0.2 / (len(labels) - 1))
    for row, label in zip(answers, said, strict=True):
        row[:] = np.nan if label == "" else row
        row[labels.index(label) if label else 0] = 0.8 if label else np.nan
    return answers


def votes_for(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in (*VOTED, "unknown", "nf")]


def test_figures_by_hand() -> None:
    said = ["angry", "angry", "happy", "", "happy"]
    faces = some_faces([0, 1, 3, 3, 3])
    found = of_answers(sure(said, LABELS), LABELS, faces)
    assert found["all"]["value"] == 3 / 5 and found["all"]["n"] == 5 and found["found"] == 4  # one face was not found: wrong
    assert found["without_twins"]["value"] == 2 / 4 and found["without_near_twins"] | {"ci95": 0} == {
        "value": 2 / 3,
        "ci95": 0,
        "n": 3,
    }
    assert (
        found["recall"]["happy"]["value"] == 2 / 3
        and found["recall"]["disgust"]["value"] == 0
        and found["recall"]["fear"] is None
    )
    assert found["ece"] == pytest.approx(abs(0.8 - 3 / 4))
    assert found["all"]["ci95"] == pytest.approx([0.2307, 0.8824], abs=1e-3)  # Wilson's
    assert "ferplus_8" not in found
    f1 = {"angry": 2 / 3, "happy": 4 / 5}  # of three happy faces two were found and right
    assert found["macro_f1"]["value"] == pytest.approx(sum(f1.values()) / 7) and found["macro_f1"]["n"] == 5
    assert found["precision"] == {label: {"angry": 1 / 2, "happy": 1}.get(label, 0) for label in LABELS}


def test_macro_f1_counts_faces_that_were_not_found() -> None:
    truth = list(range(7)) * 20
    told = sure([LABELS[each] if number % 2 else "" for number, each in enumerate(truth)], LABELS)
    half = of_answers(told, LABELS, some_faces(truth))["macro_f1"]
    assert half["value"] == pytest.approx(2 / 3)  # precision 1, recall a half
    assert half["ci95"][0] < 2 / 3 < half["ci95"][1] < 0.8
    whole = of_answers(sure([LABELS[each] for each in truth], LABELS), LABELS, some_faces(truth))["macro_f1"]
    assert [whole["value"], whole["ci95"][1]] == pytest.approx([1, 1]) and 0.9 < whole["ci95"][0] < 0.95


def test_votes_by_hand() -> None:
    votes = [
        votes_for(angry=10),
        votes_for(angry=5, contempt=5),  # no majority
        votes_for(contempt=9, happy=1),
        votes_for(happy=6, neutral=4),
        votes_for(unknown=8, happy=2),  # a majority that is no expression
    ]
    faces = some_faces([0] * 5, votes)
    said = ["angry", "angry", "happy", "neutral", "happy"]
    seven = of_answers(sure(said, LABELS), LABELS, faces)
    assert seven["ferplus_8"] | {"ci95": 0} == {"value": 1 / 3, "ci95": 0, "n": 3}
    assert seven["ferplus_7"] | {"ci95": 0} == {"value": 1 / 2, "ci95": 0, "n": 2}
    assert seven["ferplus_agreed"] | {"ci95": 0} == {"value": 1 / 2, "ci95": 0, "n": 2}
    assert seven["with_a_rater"]["value"] == pytest.approx(np.mean([1.0, 0.5, 0.1, 0.4, 0.2]))
    eight = of_answers(sure(["angry", "angry", "contempt", "neutral", "happy"], VOTED), VOTED, faces)
    assert eight["ferplus_8"]["value"] == 2 / 3 and eight["ferplus_7"]["value"] == 1 / 2
    assert eight["all"]["value"] >= 2 / 5  # of FER-2013's seven contempt is none: what is left decides
    people = of_humans(faces)
    one = [1.0, (20 + 20) / 90, 72 / 90, (30 + 12) / 90, (56 + 2) / 90]
    assert people["one_rater_with_another"]["value"] == pytest.approx(np.mean(one))  # type: ignore[index]
    assert people["best_answer_with_a_rater"]["value"] == pytest.approx(np.mean([1, 0.5, 0.9, 0.6, 0.2]))  # type: ignore[index]


def test_no_face_found_and_strange_labels_are_refused() -> None:
    with pytest.raises(ModelError, match="no face of 2 was found"):
        of_answers(sure(["", ""], LABELS), LABELS, some_faces([0, 1]))
    with pytest.raises(ModelError, match="no fear, surprise; expected"):
        check_labels(("angry", "disgust", "happy", "sad", "neutral"), "mine")
    check_labels(("Anger", "Disgusted", "Fearful", "Joy", "Sadness", "Suprise", "Neutral", "smirk"), "mine")
    with pytest.raises(ModelError, match="one class twice"):
        check_labels((*LABELS, "Anger"), "mine")


def test_worse_pictures_are_what_they_are_called() -> None:
    faces = some_faces([0] * 40)
    faces.pixels[:, -1, -1] = np.arange(40)  # each face has its own noise, drawn from its pixels
    noise = faces.under("noise")[:, :-1].astype(float) - 128
    assert noise.std() == pytest.approx(15, rel=0.02) and abs(noise.mean()) < 0.2
    assert (faces.under("noise") == faces.under("noise")).all()  # the same seed
    faces.pixels[:, 24:, :] = 228
    edge = faces.under("blur")[0, :, 20].astype(float)
    assert edge[22] == pytest.approx(128 + 100 * 0.159, abs=2)  # the normal distribution's share beyond 1.5 of 1.5 pixels
    few = faces.under("small")
    assert few.shape == faces.pixels.shape and few[0, 0, 0] == 128 and few[0, -1, 0] == 228


def test_the_test_split_is_read_with_its_leaks_and_votes(fer: dict[str, Path], larger: Path) -> None:
    faces = read_test(fer["data"], fer["votes"], fer["rows"])
    assert len(faces.truth) == 21 and faces.pixels.shape == (21, 48, 48) and faces.twin.sum() == 7
    assert faces.agreed is not None and faces.agreed.sum() == 14
    assert faces.majority is not None and [VOTED[each] for each in faces.majority].count("contempt") == 7
    with pytest.raises(DataError, match="has faces of 60 x 60 pixels .* expected FER-2013: 48 x 48, and train, val and test"):
        read_test(larger)


def test_a_file_states_all_that_it_takes(tmp_path: Path) -> None:
    def wrong(text: str, said: str) -> None:
        (tmp_path / "models.toml").write_text(text)
        with pytest.raises(UsageError, match=said):
            read_entries(tmp_path / "models.toml")

    wrong('name = "a"', "expected .*model.* tables")
    wrong('[[model]]\nname = "a"', "one of run, adapter and file")
    wrong('[[model]]\nname = "a"\nrun = "r"\nfile = "f"', "one of run, adapter and file")
    wrong('[[model]]\nname = "a"\nfile = "f"', "labels, input, output not stated; .* never guessed")
    wrong('[[model]]\nname = "a"\nrun = "r"\ntrust = true', "trust belongs to file, not to run")
    wrong('[[model]]\nname = "a"\nadapter = "r"\nhead = "votes"', "head belongs to run, not to adapter")
    wrong('[[model]]\nname = "a"\nrun = "r"\nlabel = []', "unknown key 'label'")
    wrong(FILE + '[model.input]\nside = 8\nchannels = "grey"\n', "order, low, high not stated")
    wrong(FILE + INPUT.replace('"grey"', '"red"'), "channels = 'red'; expected one of grey, rgb, bgr")
    wrong(FILE + INPUT + "mean = [1, 2]", "expected 1 number, one a channel")
    wrong(FILE + INPUT.replace("high = 1", "high = 0"), "expected two that differ")
    wrong(FILE + INPUT.replace("side = 8", "side = 100000"), "side = 100000")
    (tmp_path / "models.toml").write_text(FILE + INPUT + 'std = [0.5]\n[[model]]\nname = "b"\nrun = "r"\ncrops = 1\n')
    first, second = read_entries(tmp_path / "models.toml")
    assert first.input == Input(8, "grey", "nchw", 0.0, 1.0, (), (0.5,)) and second == Entry("b", run="r", crops=1)
    assert adapter_entry("mine=python a.py") == Entry("mine", adapter="python a.py")
    assert adapter_entry("A=1 python a.py").name == "A" and adapter_entry("python a.py --x=1").adapter == "python a.py --x=1"


def test_faces_reach_a_file_as_stated() -> None:
    faces = np.stack([np.full((48, 48), 255, np.uint8), np.zeros((48, 48), np.uint8)])
    given = prepared(faces, Input(8, "rgb", "nchw", -1.0, 1.0, (0.5, 0.0, 0.0), (1.0, 2.0, 1.0)))
    assert given.shape == (2, 3, 8, 8) and given.dtype == np.float32
    assert given[:, :, 0, 0].tolist() == [[0.5, 0.5, 1.0], [-1.5, -0.5, -1.0]]
    assert prepared(faces, Input(48, "grey", "nhwc", 0, 255)).shape == (2, 48, 48, 1)


WEIGHTS = np.random.default_rng(1).normal(size=(64, 7)).astype(np.float32)


def onnx_model(batch: int | str, *more: str, old: bool = False) -> Any:
    """Faces of 8 x 8 times `WEIGHTS`; `more` are inputs that nothing needs, an old file lists its weights among them."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, kind, [batch, *shape])] for name, shape in (("x", (1, 8, 8)), ("y", (7,)))]
    ends[0] += [helper.make_tensor_value_info(name, kind, [batch]) for name in more]
    if old:
        ends[0].insert(0, helper.make_tensor_value_info("w", kind, WEIGHTS.shape))
    graph = helper.make_graph(nodes, "g", *ends, [onnx.numpy_helper.from_array(WEIGHTS, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_a_file_of_a_fixed_batch_is_asked_in_whole_ones(batch: int, old: bool, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx_model(batch, old=old).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (10, 48, 48), dtype=np.uint8)
    given = Input(8, "grey", "nchw", 0.0, 1.0)
    entry = Entry("a", file=str(tmp_path / "a.onnx"), labels=LABELS, input=given, output="logits")
    with opened(entry, some_faces([0]), 10) as reader:
        told = reader.predict(pixels)
    powers = np.exp(prepared(pixels, given).reshape(10, 64) @ WEIGHTS)
    np.testing.assert_allclose(told, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_file_that_says_its_input_itself_is_given_without_a_table(tmp_path: Path) -> None:
    ours, whole, strange = onnx_model("n"), onnx_model("n"), onnx_model("n")
    ours.metadata_props.add(key="emotiw", value="{}")
    whole.graph.input[0].type.tensor_type.elem_type = 2  # uint8
    strange.graph.node[0].op_type = "Strange"
    entries = []
    for name, model in (("ours", ours), ("whole", whole), ("strange", strange)):
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        given = Input(8, "grey", "nchw", 0.0, 1.0)
        entries.append(Entry(name, file=str(tmp_path / f"{name}.onnx"), labels=LABELS, input=given, output="logits"))
    said = [row["error"] for row in audit(entries, some_faces([0, 1]))["models"]]
    assert "is of `emotiw export` and says itself what it takes; give ours.onnx itself, without a table" in said[0]
    assert "whole.onnx takes no floating-point numbers; expected float32" in said[1]
    assert "cannot compute the network of strange" in said[2] and said[2].endswith("; ask it by an adapter")


def test_a_file_that_takes_more_than_faces_is_an_error_of_its_row(tmp_path: Path) -> None:
    entries = []
    for name, model in (("good", onnx_model("n")), ("two", onnx_model("n", "q")), ("many", onnx_model(5000))):
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        given = Input(8, "grey", "nchw", 0.0, 1.0)
        entries.append(Entry(name, file=str(tmp_path / f"{name}.onnx"), labels=LABELS, input=given, output="logits"))
    entries.append(Entry("nul", adapter="py\0thon"))
    good, two, many, nul = audit(entries, some_faces([0, 1]))["models"]
    assert good["all"]["n"] == 2
    assert "two.onnx has 2 inputs; expected one, the faces" in two["error"]
    assert "takes 5,000 faces at a time; expected at most 4,096" in many["error"]
    assert nul["error"] == "adapter nul: cannot start it: embedded null byte"
    if "onnxruntime" in engines.installed():
        with pytest.raises(ModelError, match="onnxruntime cannot compute the network of two.*; choose another engine"):
            engines.load("onnxruntime", (tmp_path / "two.onnx").read_bytes(), "two", "y")(np.zeros((1, 1, 8, 8), np.float32))


@pytest.mark.parametrize("size", [[7], []])
def test_a_file_that_answers_with_whole_numbers_is_an_error_of_its_row(size: list[int], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx_model("n")
    kind = onnx.TensorProto.INT64
    if size:
        model.graph.node.append(onnx.helper.make_node("Cast", ["y"], ["whole"], to=kind))
    else:
        model.graph.node.append(onnx.helper.make_node("ArgMax", ["y"], ["whole"], axis=1, keepdims=0))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("whole", kind, ["n", *size]))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    given = Input(8, "grey", "nchw", 0.0, 1.0)
    (row,) = audit(
        [Entry("a", file=str(tmp_path / "a.onnx"), labels=LABELS, input=given, output="logits")], some_faces([0, 1])
    )["models"]
    assert "a.onnx answers with whole numbers" in row["error"] and "expected probabilities or logits" in row["error"]


def test_a_file_of_half_precision_gets_faces_in_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    if "onnxruntime" not in engines.installed():
        pytest.skip("needs onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT16
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, kind, ["n", *shape])] for name, shape in (("x", (1, 8, 8)), ("y", (7,)))]
    graph = helper.make_graph(nodes, "g", *ends, [onnx.numpy_helper.from_array(WEIGHTS.astype(np.float16), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    given = Input(8, "grey", "nchw", 0.0, 1.0)
    entry = Entry("a", file=str(tmp_path / "a.onnx"), labels=LABELS, input=given, output="logits")
    faces = some_faces([0, 1])
    with opened(entry, faces, 10) as reader:
        told = reader.predict(faces.pixels)
    powers = np.exp(prepared(faces.pixels, given).reshape(2, 64) @ WEIGHTS)
    np.testing.assert_allclose(told, powers / powers.sum(axis=1, keepdims=True), atol=0.02)


def test_probabilities_that_are_called_logits_have_a_note_in_their_row(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx_model("n")
    model.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"], axis=1))
    model.graph.output[0].name = "p"
    onnx.save(model, tmp_path / "a.onnx")
    given, faces = Input(8, "grey", "nchw", 0.0, 1.0), some_faces([0, 1])
    notes = []
    for output in ("logits", "probabilities"):
        entry = Entry("a", file=str(tmp_path / "a.onnx"), labels=LABELS, input=given, output=output)
        notes.append("look like probabilities" in audit([entry], faces)["models"][0]["how"])
    assert notes == [True, False]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("net.pth", "net.pth is none that an audit computes; expected an ONNX file, .*: export it as ONNX"),
        ("net.tflite", "net.tflite is none that an audit computes"),
        ("net.weights.h5", "net.weights.h5 holds weights alone; save the whole model"),
        ("net.h5", "net.h5 holds weights alone; save the whole model"),
    ],
)
def test_a_file_that_nothing_can_compute_is_told_before_it_is_to_be_trusted(name: str, words: str, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / name, "w") as file:
        file.attrs["layer_names"] = [b"fc8"]
    for trust in (True,) if name == "net.h5" else (False, True):  # what it holds is looked at in files that are trusted
        given = Input(8, "grey", "nhwc", 0, 1)
        entry = Entry("a", file=str(tmp_path / name), labels=LABELS, input=given, output="logits", trust=trust)
        with pytest.raises(ModelError, match=words), opened(entry, some_faces([0]), 10):
            pass


def test_files_beside_the_table_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "models.toml").write_text(FILE + INPUT)
    (tmp_path / "tables" / "a.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert [each.file for each in read_entries("tables/models.toml")] == [str(Path("tables/a.onnx"))]
    (tmp_path / "a.onnx").touch()
    assert [each.file for each in read_entries("tables/models.toml")] == ["a.onnx"]


def test_an_onnx_file_answers_as_it_computes(tmp_path: Path, fer: dict[str, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    model, weights = onnx_model("n"), WEIGHTS
    onnx.save(model, tmp_path / "a.onnx")
    faces = read_test(fer["data"])
    given = Input(8, "grey", "nchw", 0.0, 1.0, batch=4)
    entry = Entry("a", file=str(tmp_path / "a.onnx"), labels=LABELS, input=given, output="logits")
    with opened(entry, faces, 10) as reader:
        told = reader.predict(faces.pixels)
    logits = prepared(faces.pixels, given).reshape(21, 64) @ weights
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(told, expected, atol=1e-5)
    wrong = Entry("a", file=str(tmp_path / "a.onnx"), labels=LABELS[:6], input=given, output="logits")
    with opened(wrong, faces, 10) as reader, pytest.raises(ModelError, match="its labels say 6 numbers a face"):
        reader.predict(faces.pixels)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    hidden = onnx_model("n")
    within = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["w"], value=tensor)], "within", [], [])
    hidden.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=within))
    for each in (model, hidden):
        (tmp_path / "a.onnx").write_bytes(each.SerializeToString())
        with pytest.raises(ModelError, match="keeps w in another file"), opened(entry, faces, 10):
            pass


def test_a_keras_file_is_a_program_that_must_be_trusted(tmp_path: Path) -> None:
    (tmp_path / "a.keras").write_bytes(b"PK")
    entry = Entry("a", file=str(tmp_path / "a.keras"), labels=LABELS, input=Input(8, "grey", "nhwc", 0, 1), output="logits")
    with pytest.raises(ModelError, match="set trust = true"), opened(entry, some_faces([0]), 10):
        pass


def test_keras_files_that_are_damaged_or_take_other_numbers_are_errors_of_their_rows(tmp_path: Path) -> None:
    import zipfile

    import h5py
    import keras

    def network(**given: Any) -> keras.Model:
        faces = keras.Input((8, 8, 1), **given)
        return keras.Model(faces, keras.layers.Dense(7)(keras.layers.Flatten()(keras.layers.Rescaling(1.0)(faces))))

    import tensorflow as tf

    whole = tf.function(lambda x: tf.zeros(tf.shape(x)[0], tf.int32), [tf.TensorSpec((None, 8, 8, 1), tf.float32)])
    tf.saved_model.save(tf.Module(), str(tmp_path / "whole"), {"serving_default": whole})
    good = network(batch_size=4)
    good.save(tmp_path / "good.keras")
    network(dtype="uint8").save(tmp_path / "bytes.keras")
    good.save(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "empty.h5", "a") as file:
        del file["model_weights"]
    with zipfile.ZipFile(tmp_path / "lacking.keras", "w") as file:
        file.writestr("metadata.json", "{}")
    given = Input(8, "grey", "nhwc", 0.0, 1.0)
    entries = [
        Entry(name, file=str(tmp_path / name), labels=LABELS, input=given, output="logits", trust=True)
        for name in ("good.keras", "bytes.keras", "whole", "empty.h5", "lacking.keras")
    ]
    faces = some_faces([0] * 6)
    right, other, numbers, *damaged = audit(entries, faces)["models"]
    assert "whole answers with whole numbers" in numbers["error"]
    assert right["all"]["n"] == 6  # asked in fours, as the file says
    assert "bytes.keras takes uint8; expected float32" in other["error"]
    assert all("Keras cannot load" in row["error"] for row in damaged)


def test_one_command_puts_all_side_by_side(
    fer: dict[str, Path], adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(fer["data"]), "--votes", str(fer["votes"]), "--votes-rows", str(fer["rows"])]
    broken = f"broken={sys.executable} -c exit(3)"
    words = ["audit", "fer28-face-vgg-votes", "--adapter", f"mine={adapter}", "--adapter", broken, *given]
    assert run([*words, "--json", "--out", str(tmp_path / "out")]) == 3
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found == json.loads((tmp_path / "out" / "audit.json").read_text())
    of_faces = {"all": 21, "twins": 7, "with_votes": 21, "with_a_majority": 21, "agreed": 14}
    assert of_faces.items() <= found["data"]["faces"].items()
    ours, mine, lost = found["models"]
    assert ours["trained_on"] == "other pictures" and ours["selected_on"] == "other pictures"
    assert ours["all"]["n"] == 21 and set(ours["robust"]) == set(CONDITIONS)
    assert mine["all"]["value"] == 1 and mine["without_twins"]["n"] == 14 and mine["trained_on"] == "unknown"
    assert mine["ferplus_8"]["value"] == 14 / 21 and mine["ferplus_7"]["value"] == 1 and mine["how"] == "its corner"
    assert mine["with_a_rater"]["value"] == pytest.approx((14 + 7 * 0.4) / 21)
    assert "ended with exit code 3" in lost["error"] and "could not ask broken" in err
    assert "| mine" in (tmp_path / "out" / "audit.md").read_text()
    assert "could not be asked" in (tmp_path / "out" / "audit.html").read_text()


def test_an_audit_that_is_run_again_asks_only_what_has_changed(
    fer: dict[str, Path], adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count, mine = tmp_path / "asked", tmp_path / "my_model.py"
    whole = mine.read_text().replace("    faces =", f"    open({str(count)!r}, 'a').write('x')\n    faces =")
    mine.write_text(whole)
    words = ["audit", "--adapter", f"mine={adapter}", "--data", str(fer["data"]), "--near-duplicates", "0", "--json"]
    words += ["--out", str(tmp_path / "out")]
    sets = 1 + len(CONDITIONS)

    def told(*more: str) -> tuple[dict[str, Any], str, int]:
        before = len(count.read_text()) if count.exists() else 0
        run([*words, *more])
        out, err = capsys.readouterr()
        return json.loads(out)["models"][0], err, len(count.read_text()) - before

    # interrupted after two sets of faces
    mine.write_text(whole.replace("    faces =", f"    if len(open({str(count)!r}).read()) == 3: sys.exit(1)\n    faces ="))
    lost, _, asked = told("--resume")
    assert "ended with exit code 1" in lost["error"] and asked == 3
    mine.write_text(whole)
    first, err, asked = told("--resume")
    assert asked == sets - 2 and err.count("as it answered before") == 2
    again, err, asked = told("--resume")
    assert again == first and asked == 0 and err.count("as it answered before") == sets
    kept = sorted((tmp_path / "out" / "answers").iterdir())
    assert len(kept) == sets and kept[0].name.startswith("mine-blur-")
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    again, err, asked = told("--resume")
    assert again == first and asked == 1 and f"{kept[0].name} is damaged; asked again" in err
    assert told()[::2] == (first, sets)  # without the option everything is asked
    assert told("--resume", "--limit", "14")[2] == sets  # other faces
    mine.write_text(whole.replace('"1.2"', '"1.3"'))
    changed, _, asked = told("--resume")
    assert changed["version"] == "1.3" and asked == sets
    assert run([*words[:-2], "--resume"]) == 2 and "name one with --out DIR" in capsys.readouterr().err


def test_the_adapter_of_the_docs_answers(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text("utf-8")
    code = re.search(r"^<!-- adapter -->\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code is not None and len([line for line in code[1].splitlines() if line.strip()]) <= 20
    (tmp_path / "my_model.py").write_text(code[1])
    with Adapter([sys.executable, str(tmp_path / "my_model.py")]) as mine:
        told = mine.predict(np.full((2, 48, 48), 255, np.uint8))
        check_labels(mine.labels, "mine")
    assert told.tolist() == [[1.0] + [0.0] * 6] * 2
    states = re.search(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert states is not None
    (tmp_path / "models.toml").write_text(states[1])
    assert [each.name for each in read_entries(tmp_path / "models.toml")] == ["mine", "a run, one crop", "another package"]


def test_the_published_audit_can_be_stated() -> None:
    entries = read_entries(Path(__file__).resolve().parents[2] / "benchmarks" / "audit.toml")
    assert {each.name for each in entries} >= {"fer28-face-vgg-votes", "fer", "human", "face-api", "facex"}


def test_wrong_usage_is_one_line(fer: dict[str, Path], larger: Path, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(fer["data"])]
    for words, code, said in (
        (data, 2, "name a model, a TOML file of models or --adapter"),
        (["--adapter", f"a={adapter}", "--adapter", f"a={adapter}", *data], 2, "two models are called 'a'"),
        (["no-such.toml", *data], 2, "cannot read no-such.toml: No such file"),
        (["no-such-run", *data], 5, "there is no run folder"),
        (["fer28-face-vgg-votes", "--data", str(larger)], 4, "expected FER-2013"),
        (["a", *data, "--timeout", "1e300"], 2, "a timeout of 1e+300 s"),
        *((["a", *data, "--timeout", seconds], 2, f"{seconds} is not a number") for seconds in ("nan", "inf")),
        (["a", *data, "--out", "/proc/audit"], 6, "cannot write /proc/audit: "),
        (["a", *data, "--out", __file__], 6, "is no folder; choose another place"),
    ):
        assert run(["audit", *words]) == code
        assert said in capsys.readouterr().err


def test_a_head_that_a_run_has_not_is_named_in_its_row() -> None:
    (row,) = audit([Entry("a", run="fer28-face-vgg-votes", head="others")], some_faces([0]))["models"]
    assert "others" in row["error"] and row["exit_code"] == 2


def test_two_readers_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two models are called 'a'"):
        audit([Entry("a", run="r"), Entry("a", run="s")], some_faces([0]))
