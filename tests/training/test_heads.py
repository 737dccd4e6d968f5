"""Several heads on one trunk: what images teach to each, what is trained, served, exported and scored."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.votes import VOTED
from emotiw_keras.errors import DataError, ModelError, RunError, UsageError
from emotiw_keras.evaluation.evaluate import assess, evaluate
from emotiw_keras.evaluation.pack import pack
from emotiw_keras.evaluation.provenance import evaluate_command
from emotiw_keras.heads import side_by_side
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.reports.sections import cautions
from emotiw_keras.run_facts import check_info
from emotiw_keras.runs import Run
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.feeds import epoch_batches
from emotiw_keras.training.fit import fit
from emotiw_keras.training.head_labels import drawn_classes, head_labels
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.recipe import load_recipe, parse_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.train_step import StageSteps

BASIC = LABEL_SETS["basic7"].labels
RECIPE = """
name = "two"
data = ["fer"]
precision = "float32"
near_duplicates = 0

[model]
name = "face_vgg"
width = 0.25
heads = {fer = "basic7", votes = "ferplus8"}

[[stage]]
name = "both"
train = ["fer:train"]
val = ["fer:val"]
epochs = 2
batch_size = 16
learning_rate = 0.02
"""


def changes(source: dict[str, str], *more: str) -> list[str]:
    return [*(f"source.fer.{key}={value}" for key, value in source.items()), *more]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "two.toml"
    file.write_text(RECIPE)
    return str(file)


@pytest.fixture(scope="module")
def two(voted: tuple[str, dict[str, str]], recipe_file: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run with two heads, and what was said."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("two") / "run"
    run = fit(load_recipe(recipe_file, changes(voted[1])), {"fer": voted[0]}, out, say=said.append).run
    assert run is not None
    return run, said


def pool_of(voted: tuple[str, dict[str, str]], split: str = "train") -> Pool:
    faces = load_faces(voted[0], near_duplicates=0, **voted[1])
    return Pool([(faces, faces.indices(split))], 48, True)


HEADS = side_by_side({"fer": BASIC, "votes": VOTED})


def test_an_image_teaches_the_heads_that_it_has_labels_for(voted: tuple[str, dict[str, str]]) -> None:
    pool = pool_of(voted)
    rows = head_labels(pool, HEADS, Stage("s", train=("fer:train",)))
    own, shares = rows[:, :7], rows[:, 7:]
    np.testing.assert_array_equal(own.argmax(axis=1), pool.labels)
    np.testing.assert_array_equal(own.sum(axis=1), 1)
    there = shares.any(axis=1)
    assert 0 < there.sum() < len(pool)
    np.testing.assert_allclose(np.sort(shares[there], axis=1)[:, -2:], [[0.3, 0.7]] * there.sum(), atol=1e-6)
    assert [VOTED[i] for i in shares[there].argmax(axis=1)] == [BASIC[i] for i in pool.labels[there]]
    # validation takes the majority
    assert set(np.unique(head_labels(pool, HEADS, Stage("s", train=("fer:train",)), False))) == {0, 1}
    # a head alone, or without own labels
    (only,) = side_by_side({"votes": VOTED})
    np.testing.assert_array_equal(head_labels(pool, (only,), Stage("s", train=("fer:train",))), shares)


def test_faces_that_people_disagree_about_count_less(voted: tuple[str, dict[str, str]]) -> None:
    pool = pool_of(voted)
    plain, weighed = (
        head_labels(pool, HEADS, Stage("s", train=("fer:train",), entropy_weight=weight)) for weight in (0.0, 0.5)
    )
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / np.log(8)
    there = plain[:, 7:].any(axis=1)
    np.testing.assert_allclose(weighed[there], plain[there] * (1 - 0.5 * entropy), rtol=1e-5)
    np.testing.assert_array_equal(weighed[~there], plain[~there])


def test_a_rare_class_of_a_head_counts_more(voted: tuple[str, dict[str, str]]) -> None:
    pool = pool_of(voted)
    plain, balanced = (
        head_labels(pool, HEADS, Stage("s", train=("fer:train",), class_weight=word)) for word in ("none", "balanced")
    )
    for head in HEADS:
        counts = np.bincount(plain[:, head.columns][plain[:, head.columns].any(axis=1)].argmax(axis=1), minlength=8)
        sums = balanced[:, head.columns].sum(axis=1)
        for row, total in zip(plain[:, head.columns], sums, strict=True):
            wanted = counts.sum() / ((counts > 0).sum() * counts[row.argmax()]) if row.any() else 0
            assert total == pytest.approx(wanted, rel=1e-5)


def test_a_class_is_drawn_by_the_votes() -> None:
    labels = np.tile(np.array([[0, 1, 0.5, 0.25, 0.25, 0]], np.float32), (4000, 1))
    labels[0, 2:] = 0  # without votes
    drawn = drawn_classes(labels, slice(2, 6), (1, 2))
    np.testing.assert_array_equal(drawn[:, :2], labels[:, :2])
    assert not drawn[0, 2:].any() and set(np.unique(drawn[1:, 2:])) == {0, 1}
    np.testing.assert_allclose(drawn[1:, 2:].mean(axis=0), [0.5, 0.25, 0.25, 0], atol=0.03)
    np.testing.assert_array_equal(drawn, drawn_classes(labels, slice(2, 6), (1, 2)))
    assert (drawn != drawn_classes(labels, slice(2, 6), (1, 3))).any()


def test_each_epoch_draws_the_classes_of_its_images(voted: tuple[str, dict[str, str]]) -> None:
    pool = pool_of(voted)
    stage = Stage("s", train=("fer:train",), batch_size=16, votes="probabilistic")
    shares = head_labels(pool, HEADS, stage)
    pool.labels, pool.drawn = shares, HEADS[1].columns
    crops = StageCrops(stage, len(pool), 0, (3, 1))

    def epoch(number: int) -> np.ndarray:
        """The labels of an epoch, in the order of the pool."""
        labels = np.empty_like(shares)
        taken = np.concatenate([batch[2].numpy() for batch in epoch_batches(pool, stage, crops, number, 0)])
        labels[crops.order(number, pool.labels)] = taken
        return labels

    first, second = epoch(0), epoch(1)
    np.testing.assert_array_equal(first, epoch(0))
    assert (first != second).any() and (first[:, :7] == shares[:, :7]).all()
    for labels in (first, second):
        assert set(np.unique(labels)) == {0, 1} and (shares[labels > 0] > 0).all()
        np.testing.assert_array_equal(labels[:, 7:].any(axis=1), shares[:, 7:].any(axis=1))


LABELS = np.zeros((4, 15), np.float32)
LABELS[0, [2, 7, 8]] = 1, 0.6, 0.4
LABELS[1, 3] = 1
LABELS[2, 9] = 0.5  # counts half
LABELS[3, [0, 10, 11]] = 1, 0.5, 0.5


def first_loss(labels: np.ndarray = LABELS, taught: np.ndarray | None = None, **settings: object) -> tuple[float, float, list]:
    """Loss and right answers of a first step, and the log-probabilities of both heads before it."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Dense(15)(keras.layers.Flatten()(image)))
    face_input = FaceInput(resize=8, crop=8, mean=(128.0,) * 3, std=(64.0,) * 3)
    named = () if taught is None else ("teacher",)
    stage = Stage("s", train=("a:train",), random_crop=False, mirror=False, teachers=named, **settings)  # type: ignore[arg-type]
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    import tensorflow as tf

    teachers = None if taught is None else lambda faces, temperature: taught
    steps = StageSteps(
        model, face_input, stage, np.ones(15, np.float32), optimizer, (8, 8, 1), teachers=teachers,  # type: ignore[arg-type]
        labels=tf.TensorSpec((None, 15), tf.float32), heads=HEADS,
    )  # fmt: skip
    images = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 1), np.uint8)
    logits = keras.ops.convert_to_numpy(model(face_input(images))).astype(np.float64)
    loss, right = steps.train(images, np.zeros((4, 3), np.int32), labels, 0.1)
    logs = [part - np.log(np.exp(part).sum(axis=1, keepdims=True)) for part in (logits[:, :7], logits[:, 7:])]
    return loss, right, logs


def test_the_loss_is_the_weighted_sum_of_the_heads() -> None:
    loss, right, (fer, votes) = first_loss(head_weights=(("votes", 2.0),), label_smoothing=0.1)
    each = 0.0
    for labels, logs, weight in ((LABELS[:, :7], fer, 1.0), (LABELS[:, 7:], votes, 2.0)):
        target = labels * 0.9 + 0.1 / logs.shape[1] * labels.sum(axis=1, keepdims=True)
        each += weight * -(target * logs).sum()
    assert loss == pytest.approx(each, rel=1e-5)
    hits = [fer.argmax(axis=1) == LABELS[:, :7].argmax(axis=1), votes.argmax(axis=1) == LABELS[:, 7:].argmax(axis=1)]
    assert right == pytest.approx(
        np.mean([hits[0][0], hits[1][0]]) + hits[0][1] + hits[1][2] + np.mean([hits[0][3], hits[1][3]])
    )


def test_under_multi_label_any_of_the_classes_is_right() -> None:
    loss, _, (fer, votes) = first_loss(votes="multi_label")
    each = -(LABELS[:, :7] * fer).sum()
    for row, logs in zip(LABELS[:, 7:], votes, strict=True):
        wanted = np.where(row > 0, 1.0, 0.001)
        each += -row.sum() * (np.log(wanted) + logs).max()
    assert loss == pytest.approx(each, rel=1e-4)


def test_a_teacher_teaches_the_heads_that_it_has_answers_for() -> None:
    taught = np.zeros((4, 15), np.float32)
    taught[:, :7] = 1 / 7
    loss, _, (fer, votes) = first_loss(taught=taught, teacher_weight=0.75, temperature=2.0)
    soft = fer / 2 - np.log(np.exp(fer / 2).sum(axis=1, keepdims=True))
    each = -(0.25 * LABELS[:, :7] * fer).sum() - 0.75 * 4 * (taught[:, :7] * soft).sum() - (LABELS[:, 7:] * votes).sum()
    assert loss == pytest.approx(each, rel=1e-5)


def test_settings_that_do_not_fit_are_refused(recipe_file: str) -> None:
    def recipe(*changed: str) -> None:
        load_recipe(recipe_file, list(changed))

    for change, told in (
        ("model.heads={fer='basic7', votes='ferplus9'}", "labels 'ferplus9'; known are"),
        ("model.heads={'a b'='basic7'}", "heads of model names 'a b'"),
        ("model.head=other", "head of model is 'other'; its heads are fer, votes"),
        ("both.monitor_head=other", "monitor_head of stage 'both' names 'other'; the heads are fer, votes"),
        ("both.head_weights=[['other', 1]]", "head_weights of stage 'both' names 'other'"),
        ("both.head_weights=[['votes', 0]]", "expected weights above 0"),
        ("both.votes=all", "votes of stage 'both' is 'all', allowed are"),
        ("both.sampling=balanced", "sampling of stage 'both' is 'balanced', which a network with several heads does not heed"),
        ("both.cost_weight=1.0", "cost_weight of stage 'both' is 1.0, which a network with several heads does not heed"),
        ("source.fer.votes_rows=x.csv", "votes is empty"),
    ):
        with pytest.raises(UsageError, match=None) as caught:
            recipe(change)
        assert told in str(caught.value)
    alone = ("model.heads={fer='basic7'}", "model.head=fer", "both.head_weights=[]")
    for changes, told in (
        ((*alone, "both.votes=majority"), "votes of stage 'both' is 'majority', which a network without a head for votes"),
        (
            (*alone, "both.entropy_weight=0.5"),
            "entropy_weight of stage 'both' is 0.5, which a network without a head for votes",
        ),
        (("both.val=[]", "both.monitor_head=fer"), "monitor_head of stage 'both' is 'fer', not heeded where val is empty"),
    ):
        with pytest.raises(UsageError, match=told):
            recipe(*changes)
    recipe(*alone)
    single = RECIPE.replace("heads =", "# heads =")
    with pytest.raises(UsageError, match="entropy_weight of stage 'both' is 0.5, which a network with one answer"):
        parse_recipe(single + "entropy_weight = 0.5\n", "here")
    assert "heads" not in parse_recipe(single, "here").to_toml()  # recipes from before are the same
    assert parse_recipe(load_recipe(recipe_file).to_toml(), "again") == load_recipe(recipe_file)
    assert issubclass(SettingError, UsageError)


def test_a_head_without_labels_is_an_error(voted: tuple[str, dict[str, str]], recipe_file: str, tmp_path: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(DataError, match=r"no training image with labels for head 'votes'; .*source\.fer\.votes"):
            fit(load_recipe(recipe_file), {"fer": voted[0]}, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="squeezenet does not") as caught:
        wanted = changes(voted[1], "model.name=squeezenet", "model.input_size=67")
        fit(load_recipe(recipe_file, wanted), {"fer": voted[0]}, tmp_path / "run")
    assert "Dense layer" in str(caught.value)


def test_a_run_says_both_and_gives_either(
    two: tuple[Run, list[str]], voted: tuple[str, dict[str, str]], run_folder: Path
) -> None:
    run, said = two
    assert "stage both: training: 42 images for head fer, 36 images for head votes" in said
    assert run.labels == BASIC and run.with_head("votes").labels == VOTED
    assert [head.name for head in run.heads] == ["fer", "votes"] and run.info["model"]["classes"] == 15
    header = (run.path / "history.csv").read_text().splitlines()[0]
    assert "val_fer_accuracy" in header and "val_votes_loss" in header
    with pytest.raises(UsageError, match="has no head 'other'; it has fer, votes"):
        run.with_head("other")
    with pytest.raises(UsageError, match="has no head 'votes': its network gives one answer"):
        Run.open(run_folder, head="votes")
    faces = load_faces(voted[0], near_duplicates=0).pixels.gather(np.arange(5))
    for name, classes in (("fer", 7), ("votes", 8)):
        answers = [Predictor(run, head=name, engine=engine).predict(faces) for engine in ("tensorflow", "opencv")]
        assert answers[0].shape == (5, classes)
        np.testing.assert_allclose(answers[0].sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
    np.testing.assert_array_equal(
        Predictor(run, engine="opencv").predict(faces), Predictor(run, head="fer", engine="opencv").predict(faces)
    )


def test_damage_of_heads_is_told(run_folder: Path, tmp_path: Path) -> None:
    info = json.loads((run_folder / "run.json").read_text())
    info["heads"] = [{"name": head.name, "labels": list(head.labels)} for head in HEADS]
    info |= {"head": "fer", "labels": list(BASIC), "model": {**info["model"], "classes": 15}}
    check_info(info, tmp_path)
    for change, told in (
        ({"head": "other"}, "head = 'other'"),
        ({"heads": [{"name": "fer", "labels": list(BASIC)}]}, "names 7 labels for 15 classes"),
        ({"heads": [{"name": "../x", "labels": list(BASIC)}]}, "says heads ="),
        ({"heads": {"fer": list(BASIC)}}, "says heads ="),
        ({"labels": list(VOTED)}, "whose labels are not its labels"),
    ):
        with pytest.raises(RunError) as caught:
            check_info({**info, **change}, tmp_path)
        assert told in str(caught.value)


def test_it_is_scored_by_labels_and_by_votes(two: tuple[Run, list[str]], voted: tuple[str, dict[str, str]]) -> None:
    run, (source, votes) = two[0], voted
    own = evaluate(run, source, near_duplicates=0)
    assert own["n"] == 21 and own["labels"] == list(BASIC) and "votes" not in own
    asked = {"near_duplicates": 0, "votes": votes["votes"], "votes_rows": votes["votes_rows"]}
    majority = evaluate(run.with_head("votes"), source, **asked, calibrate=True)  # type: ignore[arg-type]
    assert majority["n"] == 18 and majority["labels"] == list(VOTED)
    assert majority["votes"]["majority"] == 18 and majority["votes"]["agreed"]["n"] == 0
    assert majority["votes"]["others"]["accuracy"] == majority["accuracy"]
    assert majority["calibrated"]["images"] == 18 and majority["calibrated"]["log_loss"] <= majority["log_loss"] * 1.2
    again = evaluate_command(assess(run.with_head("votes"), source, **asked, limit=5))  # type: ignore[arg-type]
    wanted = f"--near-duplicates 0 --head votes --votes {votes['votes']} --votes-rows {votes['votes_rows']}"
    assert again.endswith(f"--limit 5 --crops 1 {wanted}")
    told = "Truth is the labels of the data; --votes scores against what ten people say."
    assert told in cautions(assess(run.with_head("votes"), source, near_duplicates=0))
    assert told not in cautions(assess(run.with_head("votes"), source, **asked))  # type: ignore[arg-type]
    # a network with one answer is scored by the votes too, on the classes that it knows
    assert evaluate(run, source, **asked)["n"] == 18  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="calibrate chooses a temperature on val"):
        evaluate(run, source, split="val", calibrate=True)


def test_it_is_packed_with_a_temperature_for_each_head(
    two: tuple[Run, list[str]], voted: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    run, (source, votes) = two[0], voted
    done = pack(run, tmp_path / "small", source, **votes, head="votes")
    packed = Run.open(tmp_path / "small")
    # the recipe of a run that is given away does not say where votes lay
    assert 'votes = "votes.csv"\nvotes_rows = "rows.csv"' in (packed.path / "recipe.toml").read_text()
    assert packed.labels == VOTED and packed.info["head"] == "votes" and set(done.heads) == {"fer", "votes"}
    faces = load_faces(source, near_duplicates=0).pixels.gather(np.arange(6))
    for name in ("fer", "votes"):
        whole, small = (Predictor(each, head=name, engine="opencv").predict(faces).astype(np.float64) for each in (run, packed))
        told = whole ** (1 / done.heads[name][0])
        np.testing.assert_allclose(small, told / told.sum(axis=1, keepdims=True), atol=5e-3)


def test_training_starts_from_one_answer_and_from_two(
    two: tuple[Run, list[str]], voted: tuple[str, dict[str, str]], recipe_file: str, tmp_path: Path
) -> None:
    run, (source, votes) = two[0], voted
    said: list[str] = []
    # frozen but for nothing to learn: the answers are those of the start
    still = changes(votes, f"model.weights={run.path}", "both.epochs=1", "both.learning_rate=1e-9", "model.head=votes")
    again = fit(load_recipe(recipe_file, still), {"fer": source}, tmp_path / "again", say=said.append).run
    assert again is not None and again.labels == VOTED
    assert any("heads: fer by class name; votes by class name" in line for line in said)
    single = tmp_path / "single.toml"
    single.write_text(RECIPE.replace("heads =", "# heads =").replace("near_dup", 'labels = "ferplus8"\nnear_dup'))
    one = fit(load_recipe(str(single), still[2:5]), {"fer": source}, tmp_path / "one", say=said.append).run
    assert one is not None and one.labels == VOTED and not one.heads  # the head that knows these classes gave them
    assert not any("starts anew" in line for line in said)


def test_both_answers_are_exported(two: tuple[Run, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import tensorflow as tf

    from emotiw_keras.serving.export import export_savedmodel
    from emotiw_keras.serving.portable import export_onnx, export_tflite

    run = two[0].with_head("votes")
    assert export_onnx(run, tmp_path / "face.onnx").labels == VOTED
    export_savedmodel(run, tmp_path / "served")
    export_tflite(run, tmp_path / "face.tflite")
    small = tf.lite.Interpreter(str(tmp_path / "face.tflite")).get_signature_runner()
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    found = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["pixels"](pixels=tf.constant(faces))
    assert {key for key in found if key.startswith("labels")} == {"labels", "labels_fer", "labels_votes"}
    for name, labels in (("fer", BASIC), ("votes", VOTED)):
        wanted = Predictor(run, head=name, engine="opencv").predict(faces)
        np.testing.assert_allclose(found[f"probabilities_{name}"].numpy(), wanted, atol=1e-5)
        np.testing.assert_allclose(small(pixels=faces)[f"probabilities_{name}"], wanted, atol=1e-5)
        assert found[f"labels_{name}"].numpy()[0].tolist() == [label.encode() for label in labels]
        for engine in ("opencv", "onnxruntime"):
            exported = Predictor(tmp_path / "face.onnx", head=name, engine=engine)
            assert exported.labels == labels
            np.testing.assert_allclose(exported.predict(faces), wanted, atol=1e-5)
    np.testing.assert_array_equal(found["probabilities"].numpy(), found["probabilities_votes"].numpy())
    np.testing.assert_array_equal(small(pixels=faces)["probabilities"], small(pixels=faces)["probabilities_votes"])
    assert Predictor(tmp_path / "face.onnx").labels == VOTED
    with pytest.raises(UsageError, match="has no head 'other'"):
        Predictor(tmp_path / "face.onnx", head="other")
