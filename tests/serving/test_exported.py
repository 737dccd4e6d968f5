"""Exported ONNX files opened again by `Predictor` and `emotiw predict`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed (the extra [onnx])")
import onnx
from PIL import Image

from emotiw_keras import engines
from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.errors import EmotiwError, ModelError, UsageError
from emotiw_keras.runs import Run
from emotiw_keras.serving import portable
from emotiw_keras.serving.auto import open_engine
from emotiw_keras.serving.exported import Exported
from emotiw_keras.serving.input_images import InputImage
from emotiw_keras.serving.pipeline import Pipeline
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.uncertainty import Usable, entropy

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports with TensorFlow")


@pytest.fixture(scope="module")
def file(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(run_folder, tmp_path_factory.mktemp("exported") / "face.onnx")


def written(run: Path, path: Path) -> Path:
    """What `export_onnx` writes, without the fresh process."""
    from emotiw_keras.serving.export import facts_of
    from emotiw_keras.serving.folding import fold

    predictor = Predictor(run, crops=1, engine="tensorflow")
    facts = {**facts_of(predictor), "input": portable._input_facts(predictor)}
    portable._write_onnx(fold(predictor.net, predictor.face_input), facts, path)
    return path


def changed(file: Path, path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(file)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("engine", ["auto", *engines.installed()])
def test_it_answers_as_its_run_does(engine: str, file: Path, run_folder: Path) -> None:
    faces = np.random.default_rng(3).integers(0, 256, (5, 90, 80, 3), np.uint8)
    light = Predictor(file, engine=engine)
    assert light.labels == Predictor(run_folder).labels and light.crops == 1
    expected = Predictor(run_folder, crops=1, engine="tensorflow").predict(faces)
    np.testing.assert_allclose(light.predict(faces), expected, atol=1e-5)


def test_convert_names_what_needs_no_conversion(
    file: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, told in (
        (file, "was written by `emotiw export`"),
        (run_folder / "model.weights.h5", "is a run's, whose classifier may be of its own kind"),
        (run_folder, "it is a run folder, which --weights and --model take as it is"),
    ):
        assert emotiw(["convert", str(source), "--model", "face_vgg", "--out", str(tmp_path / "a.weights.h5")]) == 5
        assert told in capsys.readouterr().err and not any(tmp_path.iterdir())
    assert emotiw(["convert", str(file), "--inspect"]) == 0
    assert "by `emotiw export`" in capsys.readouterr().out


def test_what_is_uncertain_travels_with_it(run_folder: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(run_folder, tmp_path / "run"))
    faces = np.random.default_rng(3).integers(0, 256, (5, 48, 48, 1), np.uint8)
    unsure = np.sort(entropy(Predictor(run, crops=1).predict(faces)))
    found = Usable(float(unsure[1:3].mean()), run.fingerprint, "val", 9, 0.5, 0.5, 0.5)
    (run.path / "uncertainty.json").write_text(found.to_json())
    file = written(run.path, tmp_path / "face.onnx")
    for source in (file, run):
        for engine in engines.installed():
            predictor = Predictor(source, crops=1, engine=engine)
            images = [InputImage(str(number), face) for number, face in enumerate(faces)]
            readings = [each.faces[0] for each in Pipeline(predictor, whole=True).read(images)]
            assert sum(reading.uncertain is True for reading in readings) == 3, (source, engine)
    with pytest.raises(ModelError, match="usable_entropy"):
        Exported.open(changed(file, tmp_path / "odd.onnx", lambda model: said(model, usable_entropy="low")))


def test_each_head_brings_what_is_uncertain_of_it(tmp_path: Path) -> None:
    run = Run.open("fer28-face-vgg-votes")
    limits = {head.name: run.with_head(head.name).usable_entropy for head in run.heads}
    assert None not in limits.values() and len(set(limits.values())) == 2
    file = written(run, tmp_path / "face.onnx")
    assert Exported.open(file).usable_entropy == run.usable_entropy
    assert {name: Exported.open(file).with_head(name).usable_entropy for name in limits} == limits

    def older(model: onnx.ModelProto) -> None:
        entry = next(each for each in model.metadata_props if each.key == "emotiw")
        facts = json.loads(entry.value)
        entry.value = json.dumps({key: value for key, value in facts.items() if key not in ("usable_entropies", "checksum")})

    before = Exported.open(changed(file, tmp_path / "older.onnx", older))
    assert {name: before.with_head(name).usable_entropy for name in limits} == {"votes": limits["votes"], "fer": None}
    with pytest.raises(ModelError, match="usable_entropies"):
        Exported.open(changed(file, tmp_path / "odd.onnx", lambda model: said(model, usable_entropies={"fer": 9.0})))


def said(model: onnx.ModelProto, **facts: object) -> None:
    """Change what an export says of itself."""
    entry = next(each for each in model.metadata_props if each.key == "emotiw")
    entry.value = json.dumps({**json.loads(entry.value), **facts})


def test_colour_and_stretch_travel_with_it(colour_run_folder: Path, tmp_path: Path) -> None:
    faces = np.random.default_rng(3).integers(90, 150, (4, 50, 76, 3), np.uint8)
    exported = written(colour_run_folder, tmp_path / "colour.onnx")
    expected = Predictor(colour_run_folder, crops=1, engine="tensorflow").predict(faces)
    for engine in engines.installed():
        np.testing.assert_allclose(Predictor(exported, engine=engine).predict(faces), expected, atol=1e-5, err_msg=engine)


def test_the_cut_of_its_run_travels_with_it(run_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(run_folder, tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "crop": {"reading": "A", "stretch": True}}))
    assert Predictor(written(folder, tmp_path / "a.onnx")).source.crop == {"reading": "A", "stretch": True}


def test_the_command_takes_it(predict: Callable, file: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 60), 90, np.uint8)).save(tmp_path / "a.png")
    given = predict("a.png", "--faces", "whole", "--model", file, json_rows=False)
    of_run = predict("a.png", "--faces", "whole", json_rows=False)
    assert given.code == 0 and given.out.split()[:2] == of_run.out.split()[:2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"engine": "tensorflow"}, "only light engines compute"), ({"crops": 2}, "2 crops need the run")],
)
def test_what_it_cannot_do_is_refused(arguments: dict, words: str, file: Path) -> None:
    with pytest.raises(UsageError, match=words):
        Predictor(file, **arguments)


def test_it_is_no_run(file: Path, tmp_path: Path) -> None:
    for ask in (lambda: Predictor(file).net, lambda: Predictor(file).run, lambda: portable.export_onnx(file, tmp_path / "x")):
        with pytest.raises(UsageError, match="is an exported model"):
            ask()


def spoil_facts(change: Callable[[dict], object]) -> Callable[[onnx.ModelProto], object]:
    def spoil(model: onnx.ModelProto) -> None:
        facts = json.loads(model.metadata_props[0].value)
        change(facts)
        facts.pop("checksum", None)  # as who changes a file on purpose does
        model.metadata_props[0].value = json.dumps(facts)

    return spoil


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Loop", ["pixels"], ["x"]))


def foreign_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def old_reduction(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("ReduceMax", ["pixels"], ["x"], axes=(1, 2, 3)))


def outside(model: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../secret")


def much_of_little(op: str) -> Callable[[onnx.ModelProto], object]:
    """What takes gigabytes by operators that the export writes."""

    def grow(model: onnx.ModelProto) -> None:
        def add(op: str, inputs: list[str], output: str, *numbers: int, **settings: object) -> None:
            if numbers:
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), f"{output}.numbers"))
                inputs = [*inputs, f"{output}.numbers"]
            model.graph.node.append(onnx.helper.make_node(op, inputs, [output], **settings))

        if op == "Pad":
            add("Pad", ["pixels"], "padded", 0, 0, 0, 0, 0, 16000, 16000, 0)
        if op == "Conv":
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 76, 1, 1), np.float32), "kernel"))
            pads, ones = (16000,) * 4, (1, 1)
            sizes = {"kernel_shape": ones, "strides": (9999, 9999), "dilations": ones, "group": 1}
            add("Conv", ["pixels", "kernel"], "sparse", pads=pads, **sizes)
        if op == "Transpose":
            add("Transpose", ["pixels"], "turned", perm=(1, 0, 2, 3))
        if op in ("Mul", "Max"):
            add("Reshape", ["pixels"], "rows", 0, 5776, 1)
            add("Reshape", ["pixels"], "columns", 0, 1, 5776)
            add("Mul", ["rows", "columns"], "products")
            for number in range(9 if op == "Max" else 0):
                add("Max", ["products"], f"kept_{number}")
        if op == "Mul":
            add("Concat", ["products"] * 9, "all", axis=1)

    return grow


def hidden_graph(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
    attribute.g.node.add(op_type="Loop")


def hidden_array(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[46000, 46000])


def larger_than_stored(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 10**9


def stored_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def of_other_faces(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 20000


def of_floats(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def of_other_operators(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9


def of_functions(model: onnx.ModelProto) -> None:
    model.functions.add(name="Relu")


HEADS = [{"name": "votes", "labels": list("abcdefgh")}, {"name": "fer", "labels": list("abcdefg")}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (foreign_operator, "the operator 'Loop'"),
        (foreign_domain, "the operator 'Cast'"),
        (outside, "in another file"),
        (old_reduction, "an older version of emotiw"),
        (lambda model: model.metadata_props.pop(), "says nothing of labels"),
        (spoil_facts(lambda facts: facts.update(labels=["a", "a"])), "labels = "),
        (spoil_facts(lambda facts: facts["preprocessing"].update(resize=10**6)), "preprocessing.resize = 1000000"),
        (spoil_facts(lambda facts: facts["input"].update(shape=["batch", 75, 76, 1])), "input = "),
        (spoil_facts(lambda facts: facts.update(crop=3)), "crop = 3"),
        (spoil_facts(lambda facts: facts.update(crop={"reading": "Z", "stretch": False})), "crop = {'reading': 'Z'"),
        (spoil_facts(lambda facts: facts.update(head="nope")), "head = 'nope'"),
        (spoil_facts(lambda facts: facts.update(heads=HEADS, head="nope")), "head = 'nope'"),
        (spoil_facts(lambda facts: facts.update(heads=HEADS, head="votes")), "head = 'votes' with labels = "),
        (spoil_facts(lambda facts: facts.update(heads=HEADS)), "head = None"),
        (much_of_little("Pad"), r"layer padded \(Pad\) would make"),
        (much_of_little("Conv"), r"layer sparse \(Conv\) would make"),
        (much_of_little("Mul"), r"layer all \(Concat\) would make"),
        (much_of_little("Max"), "bytes and .* multiplications for each face"),
        (much_of_little("Transpose"), r"its step turned \(Transpose\) does not fit"),
        (hidden_graph, "field 6 beside"),
        (hidden_array, "field 15 beside"),
        (larger_than_stored, "has .* bytes"),
        (stored_twice, "two tensors named"),
        (of_other_faces, "does not take what it says"),
        (of_floats, "does not take what it says"),
        (of_other_operators, "ONNX operators 17"),
        (of_functions, "field 25 beside"),
    ],
)
def test_a_strangers_file_is_refused(change: Callable, words: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        Exported.open(changed(file, tmp_path / "b.onnx", change))


def test_a_second_graph_that_an_engine_would_read_too_is_refused(file: Path, tmp_path: Path) -> None:
    first = onnx.ModelProto()
    array = first.graph.initializer.add(name="secret", data_location=onnx.TensorProto.EXTERNAL)
    array.external_data.add(key="location", value="secret.txt")
    (tmp_path / "b.onnx").write_bytes(first.SerializeToString() + file.read_bytes())
    with pytest.raises(ModelError, match="b.onnx: graph stands more than once"):
        Exported.open(tmp_path / "b.onnx")


@pytest.mark.parametrize("engine", engines.installed())
def test_faces_of_a_large_network_are_computed_a_few_at_a_time(engine: str, file: Path) -> None:
    faces = np.random.default_rng(3).integers(0, 256, (5, 76, 76, 1), np.uint8)
    whole = Exported.open(file)
    few = replace(whole, at_once=2)
    assert whole.at_once > 64
    expected, found = (open_engine(engine, source, 1, faces.shape[1:])(faces) for source in (whole, few))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert open_engine(engine, few, 1, faces.shape[1:])(faces[:0]).shape == (0, expected.shape[1])


def test_a_changed_bit_or_digit_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    weights = len(whole) // 2
    digits = whole.index(b'"resize"')
    for place in (weights, digits + 12):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "b.onnx").write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            Exported.open(tmp_path / "b.onnx")


def test_a_cut_or_other_file_is_one_line(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"no model at all")):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(EmotiwError) as error:
            Predictor(path)
        assert "\n" not in str(error.value) and name in str(error.value)


def test_more_labels_than_answers_are_refused(file: Path, tmp_path: Path) -> None:
    many = spoil_facts(lambda facts: facts.update(labels=[*facts["labels"], "more"]))
    with pytest.raises(ModelError, match="answers 7 classes, its labels are 8"):
        Predictor(changed(file, tmp_path / "c.onnx", many)).predict(np.zeros((1, 76, 76, 1), np.uint8))
