"""A packed run: the same answers in half the bytes, and as sure as it is right."""

from __future__ import annotations

import gzip
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.cli.main import run as emotiw_here
from emotiw_keras.engines import computing_in
from emotiw_keras.errors import DataError, ModelError, OutputError, RunError, UsageError
from emotiw_keras.evaluation.conditions import CONDITIONS
from emotiw_keras.evaluation.evaluate import assess, predict
from emotiw_keras.evaluation.metrics import expected_calibration_error
from emotiw_keras.evaluation.pack import best_temperature, pack
from emotiw_keras.runs import Run
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.uncertainty import entropy


def test_the_temperature_that_was_used_is_found() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 5)) * 2
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([generator.choice(5, p=row) for row in likely])
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
    assert best_temperature(truth, sharp) == pytest.approx(3, rel=0.05)


def test_a_packed_run_answers_as_the_run_at_its_temperature(side_by_side: Path, tmp_path: Path, emotiw) -> None:
    run, faces = Run.open(side_by_side / "two"), side_by_side / "faces"
    done = emotiw("pack", run.path, tmp_path / "small", "--data", faces, "--split", "test", "--crops", "2")
    assert done.returncode == 0, done.stderr
    packed = Run.open(tmp_path / "small")
    assert packed.crops == 2 and packed.rows() == run.rows() and packed.seen() == run.seen()
    assert packed.labels == run.labels and "sources" in packed.info and not packed.info["sources"]
    assert {path.name for path in packed.path.iterdir()} >= {"run.json", "model.weights.h5", "data.csv.xz"}
    size = [(folder.path / "model.weights.h5").stat().st_size for folder in (run, packed)]
    assert size[1] < 0.7 * size[0]
    usable = packed.usable
    assert usable is not None and usable.chosen_on == "test" and run.usable is None
    found = assess(packed, faces, split="test")
    rows = found.predictions.readable
    unsure = entropy(found.predictions.probabilities[rows])
    assert usable.images == rows.sum() and usable.coverage == pytest.approx((unsure <= usable.entropy + 1e-6).mean(), abs=0.08)
    assert found.result["uncertain"]["entropy"] == usable.entropy
    temperature = packed.info["packed"]["temperature"]
    assert temperature != 1 and f"temperature {temperature:.3f}" in done.stdout
    whole, small = (assess(each, faces, split="test", crops=1).predictions for each in (run, packed))
    told = whole.probabilities[whole.readable].astype(np.float64) ** (1 / temperature)
    np.testing.assert_allclose(small.probabilities[small.readable], told / told.sum(axis=1, keepdims=True), atol=5e-3)
    np.testing.assert_array_equal(whole.predicted, small.predicted)


@pytest.mark.skipif(not computing_in("int8"), reason="takes ONNX Runtime and a processor with VNNI")
def test_a_packed_run_is_computed_in_int8_if_that_answers_alike(
    side_by_side: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, faces, told = Run.open(side_by_side / "two"), side_by_side / "faces", []
    packed = Run.open(str(pack(run, tmp_path / "small", faces, split="test", say=told.append).path))
    found = packed.activations
    assert found is not None, told[-1]
    assert found.weights == packed.fingerprint and found.images == found.compared == 14
    assert found.same >= 13 / 14 and f"--precision int8: of 14 images {found.same:.1%} get the same answer" in "\n".join(told)
    assert "activations.json" in packed.info["files"]
    images = [path for path in faces.rglob("*.png") if path.stat().st_size > 200][:20]
    exact, coarse = (Predictor(packed, precision=kind).predict(images) for kind in ("float32", "int8"))
    assert 0 < np.abs(exact - coarse).max() < 0.1
    monkeypatch.setattr("emotiw_keras.evaluation.pack.compared", lambda run, images: (12 / 14, 0.3))
    again = Run.open(str(pack(run, tmp_path / "again", faces, split="test", say=told.append).path))
    assert again.activations is None and "not for --precision int8: of 14 images" in told[-1]
    with pytest.raises(UsageError, match="does not say how large its activations are"):
        Predictor(again, precision="int8")
    with monkeypatch.context() as patch:
        patch.setattr("emotiw_keras.evaluation.pack.computing_in", lambda _: ())
        assert Run.open(str(pack(run, tmp_path / "third", faces, split="test", say=told.append).path)).activations is None
    assert "that takes ONNX Runtime and a processor that multiplies bytes" in told[-1]


def test_a_packed_run_does_not_say_where_things_lay(side_by_side: Path, tmp_path: Path) -> None:
    shutil.copytree(side_by_side / "two", tmp_path / "two")
    recipe = '[model]\nweights = "/home/anna/base"\n[source.data]\npath = "/home/anna/x"\nsubject_pattern = "(.*)_"\n'
    (tmp_path / "two" / "recipe.toml").write_text(recipe)
    packed = Run.open(pack(Run.open(tmp_path / "two"), tmp_path / "small", side_by_side / "faces", split="test").path)
    table = tomllib.loads(packed.content("recipe.toml").decode())
    assert table == {"model": {"weights": "base"}, "source": {"data": {"subject_pattern": "(.*)_"}}}


def test_what_was_trained_on_chooses_no_temperature(side_by_side: Path, tmp_path: Path) -> None:
    faces = side_by_side / "faces"
    assert pack(Run.open(side_by_side / "two"), tmp_path / "two", faces, split="test").temperature != 1
    assert Run.open(tmp_path / "two").info["packed"]["images"] == 14  # of 15 one is torn
    with pytest.raises(DataError, match="'test' of .* has 13 images that can be read and that the run was not trained on"):
        pack(Run.open(side_by_side / "one"), tmp_path / "one", faces, split="test")


def test_what_is_there_stays_and_damage_is_told(side_by_side: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, faces = Run.open(side_by_side / "two"), side_by_side / "faces"
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        pack(run, tmp_path / "there", faces, split="test")
    with pytest.raises(
        UsageError, match="votes_rows = no-such.csv says which row of votes an image is, but votes are not given"
    ):
        pack(run, tmp_path / "small", faces, split="test", votes_rows="no-such.csv")
    packed = pack(run, tmp_path / "small", faces, split="test").path
    assert not list(tmp_path.glob(".*"))
    rows = packed / "data.csv.xz"
    with monkeypatch.context() as patch:
        patch.setattr("emotiw_keras.packed_rows.UNPACKED_LIMIT", len(Run.open(packed).data_csv()) - 1)
        with pytest.raises(RunError, match="holds over"):
            Run.open(packed).rows()
    content = run.data_csv()
    rows.write_bytes(rows.read_bytes()[:-20])
    with pytest.raises(RunError, match="data.csv.xz ends early"):
        Run.open(packed).rows()
    rows.write_bytes(b"no archive, whatever its name says")
    with pytest.raises(RunError, match="data.csv cannot be read"):
        Run.open(packed).rows()
    rows.unlink()
    rows = rows.with_suffix(".gz")  # as emotiw 0.1 packed them
    rows.write_bytes(gzip.compress(content))
    assert Run.open(packed).rows() == run.rows()
    with monkeypatch.context() as patch:
        patch.setattr("emotiw_keras.packed_rows.UNPACKED_LIMIT", len(content) - 1)
        with pytest.raises(RunError, match="data.csv.gz ends early or holds over"):
            Run.open(packed).rows()
    for damaged in (gzip.compress(content)[:-2], b"none"):
        rows.write_bytes(damaged)
        with pytest.raises(RunError, match="is damaged: data.csv"):
            Run.open(packed).rows()
    with pytest.raises(ModelError, match="there is no run folder no-such"):
        Run.open("no-such")


def test_a_temperature_can_suit_spoilt_faces_too(
    side_by_side: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotiw_keras.evaluation.metrics.TEMPERATURES", (0.2, 500.0))  # a network that has learned little
    run, faces = Run.open(side_by_side / "two"), side_by_side / "faces"
    words = ["pack", str(run.path), str(tmp_path / "small"), "--data", str(faces), "--split", "test", "--calibrate", "robust"]
    assert emotiw_here([*words, "--crops", "2"]) == 0
    said = capsys.readouterr().err
    assert all(f"{start}the same faces: {CONDITIONS[0].words}" in said.splitlines() for start in ("", "once packed: "))
    found = assess(run, faces, split="test", crops=2)
    rows = found.predictions.readable
    packed = Run.open(tmp_path / "small")
    facts = packed.info["packed"]

    def answers(side: Run) -> list[np.ndarray]:
        return [predict(side, found.faces, found.indices[rows], crops=2, condition=each) for each in (None, *CONDITIONS)]

    truth, shares = found.predictions.truth[rows], answers(run)
    temperature = best_temperature(np.tile(truth, len(shares)), np.concatenate(shares))
    assert facts["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert abs(temperature - best_temperature(truth, shares[0])) > 0.01  # which clean faces alone would have
    assert list(facts["conditions"]) == ["clean", *(each.name for each in CONDITIONS)]
    # those of the packed run, which divides the logits of each crop and averages then
    for before, after, told in zip(shares, answers(packed), facts["conditions"].values(), strict=True):
        assert told == pytest.approx([expected_calibration_error(truth, each) for each in (before, after)], abs=1e-6)
    assert facts["conditions"]["clean"] == facts["ece"]
    # packed once more, it says what is in its weights already
    again = pack(packed, tmp_path / "again", faces, split="test")
    assert Run.open(again.path).info["packed"]["before"] == facts
    with pytest.raises(UsageError, match="calibrate = 'dark'; expected one of clean, robust"):
        pack(run, tmp_path / "none", faces, calibrate="dark")
