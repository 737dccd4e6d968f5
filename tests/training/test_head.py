"""Stages of kind "head": a classifier fitted at once, chosen by persons, one network afterwards."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.errors import DataError, ModelError, RunError, UsageError
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.evaluation.metrics import at_temperature, best_temperature, expected_calibration_error
from emotiw_keras.evaluation.pack import pack
from emotiw_keras.out_of_fold import read_out_of_fold
from emotiw_keras.runs import OUT_OF_FOLD_FILE, Run
from emotiw_keras.sealed import sealed_json
from emotiw_keras.training.fit import fit
from emotiw_keras.training.linear_head import LinearHead, fit_linear_head
from emotiw_keras.training.recipe import Recipe, load_recipe, parse_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_images import left_out

RECIPE = """
name = "heads"
data = ["fer"]
precision = "float32"
keep = "best"
[model]
name = "face_vgg"
width = 0.1
features = 5
[source.fer]
subject_pattern = "^(person[0-9]+)_"
[[stage]]
name = "head"
kind = "head"
train = ["fer:train"]
val = ["fer:val"]
class_weight = "balanced"
monitor = "val_loss"
refit = true
[[stage]]
name = "rest"
train = ["fer:train"]
val = ["fer:val"]
monitor = "val_loss"
epochs = 1
batch_size = 16
optimizer = "adam"
learning_rate = 0.3
"""
NONE = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)


def told_apart(images: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 (2, images, 4) that tell three classes apart, and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    features = random.normal(0, 0.7, (2, images, 4)).astype(np.float32)
    features[:, np.arange(images), labels] += 2
    return features * np.array([1, 10, 0.1, 1], np.float32) + 5, labels


def fitted(
    features: np.ndarray, labels: np.ndarray, start: tuple[np.ndarray, np.ndarray] = NONE, **changes: object
) -> LinearHead:
    settings = {"weights": np.ones(3), "groups": np.arange(len(labels))} | changes
    groups = settings.pop("groups")
    return fit_linear_head(features, labels, groups, start, **settings)  # type: ignore[arg-type]


def test_the_weights_are_for_the_features_as_they_come() -> None:
    features, labels = told_apart()
    head = fitted(features, labels)
    fresh, truth = told_apart(300, seed=1)
    answers = (fresh[0] @ head.kernel + head.bias).argmax(axis=1)
    assert (answers == truth).mean() > 0.9 and head.accuracy > 0.85 and not head.start
    again = fitted(features, labels)
    np.testing.assert_array_equal(again.kernel, head.kernel)


def test_a_start_that_knows_the_classes_is_gone_by_where_features_say_nothing() -> None:
    features, labels = told_apart(30)
    noise = np.random.default_rng(2).normal(size=(2, 30, 60)).astype(np.float32)
    kernel = np.concatenate([np.zeros((60, 3)), np.diag([1, 0.1, 10]), np.zeros((1, 3))]).astype(np.float32)
    both = np.concatenate([noise, features], axis=2)
    knowing = kernel, -5 * kernel.sum(axis=0)
    head = fitted(both, labels, knowing)
    assert head.start and head.accuracy > fitted(both, labels, (0 * kernel, knowing[1])).accuracy


def test_no_person_helps_to_read_itself() -> None:
    """Each person has one expression, and features that show nothing but the person: nothing can be learned from others."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(12), 6)
    features = np.eye(12, dtype=np.float32)[person][None] + random.normal(0, 0.01, (1, 72, 12)).astype(np.float32)
    start = np.zeros((12, 3), np.float32), np.zeros(3, np.float32)
    labels = person % 3
    assert fitted(features, labels, start).accuracy > 0.9  # persons on two sides
    assert fitted(features, labels, start, groups=person).accuracy < 0.6


def test_rare_classes_are_found_where_images_are_weighted() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0] * 90 + [1] * 6)
    features = random.normal(0, 1, (1, 96, 2)).astype(np.float32)
    features[0, :, 0] += 1.5 * labels
    start = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)

    def found(weights: np.ndarray) -> float:
        head = fit_linear_head(features, labels, np.arange(96), start, weights=weights)
        # what is told counts each image once, however they are weighted
        told = head.answers[np.arange(96), labels]
        assert head.accuracy == pytest.approx((head.answers.argmax(axis=1) == labels).mean())
        assert head.log_loss == pytest.approx(-np.log(told).mean())
        return float(((features[0] @ head.kernel + head.bias).argmax(axis=1) == 1)[labels == 1].mean())

    assert found(np.array([96 / 180, 96 / 12])) > found(np.ones(2))


def test_few_images_that_are_all_read_rightly_do_not_make_answers_sure() -> None:
    """Without doubt about their labels the least temperature would be the best: each answer would be 1.000."""
    features, labels = told_apart(30)
    features[:, np.arange(30), labels] += 100 * np.array([1, 10, 0.1, 1], np.float32)[labels]
    head = fitted(features, labels)
    assert head.accuracy == 1 and 0.9 < head.answers.max(axis=1).mean() < 0.99


def test_images_that_the_start_was_made_from_do_not_judge() -> None:
    """Features of images that the network was trained on tell their classes, and those of others do not."""
    random = np.random.default_rng(1)
    labels, new = np.arange(120) % 3, np.arange(120) >= 60
    features = random.normal(0, 0.3, (1, 120, 4)).astype(np.float32)
    features[:, np.arange(120)[~new], labels[~new]] += 5
    blinded = fitted(features, labels, judged=new)
    assert blinded.answers.shape == (60, 3) and blinded.accuracy < 0.55 and blinded.answers.max(axis=1).mean() < 0.6
    assert fitted(features, labels).answers[new].max(axis=1).mean() > blinded.answers.max(axis=1).mean()
    start = np.eye(4, 3, dtype=np.float32) * 9, np.zeros(3, np.float32)
    none = fitted(features, labels, start, judged=np.zeros(120, bool))
    assert not none.start and none.temperature >= 1 and none.answers.shape == (0, 3)


def test_what_cannot_be_learned_from_is_told() -> None:
    features, labels = told_apart(12)
    with pytest.raises(DataError, match="all 12 training images are of one class"):
        fitted(features, labels * 0)
    with pytest.raises(DataError, match="all 12 training images show one person.*no subject_pattern"):
        fitted(features, labels, groups=np.zeros(12, np.int64))
    assert fitted(features, labels, groups=np.arange(12) // 6).folds == 2
    assert fitted(features, np.minimum(labels, 1)).kernel.shape == (4, 3)  # a class without images has an output


def test_without_a_fold_that_leaves_two_classes_nothing_is_judged() -> None:
    labels = np.arange(30) % 2
    head = fitted(told_apart(30)[0], labels, groups=labels)
    assert (head.folds, head.accuracy, head.log_loss) == (0, None, None)
    assert head.temperature >= 1 and not head.start and head.answers.shape == (0, 3)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(RECIPE, "heads")


@pytest.fixture(scope="module")
def trained(recipe: Recipe, faces: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    said: list[str] = []
    run = fit(recipe, {"fer": faces["fer"]}, tmp_path_factory.mktemp("heads") / "run", say=said.append).run
    assert run is not None
    return run, said


def test_the_better_stage_is_kept_and_fitted_again(trained: tuple[Run, list[str]], faces: dict[str, str]) -> None:
    run, said = trained
    head, rest = run.info["stages"]
    assert head["val_loss"] < rest["val_loss"] and run.info["kept"] == "head"
    refitted = run.info["refitted"]
    assert refitted["images"] > head["images"] and any("is fitted again, with its" in line for line in said)
    assert any("by cross-validation in" in line for line in said)
    assert run.info["model"]["features"] == 5
    # an ordinary network afterwards
    assert assess(run, faces["fer"], split="test").result["accuracy"] > 1 / 7


def test_a_run_from_weights_that_its_images_made_says_so(
    trained: tuple[Run, list[str]], recipe: Recipe, faces: dict[str, str], tmp_path: Path
) -> None:
    first, said = trained
    assert not any("trained the weights" in line for line in said)
    again: list[str] = []
    settings = replace(recipe, model=replace(recipe.model, weights=str(first.path)))
    second = fit(settings, {"fer": faces["fer"]}, tmp_path / "again", say=again.append).run
    assert second is not None
    images = second.info["stages"][0]["images"]
    told = f"{images:,} of its {images:,} images trained the weights that it starts from, so nothing can judge"
    assert any(told in line for line in again)
    assert second.info["stages"][0]["head"]["temperature"] >= 1 and not second.info["stages"][0]["head"]["start"]
    assert read_out_of_fold(second) is None
    # What only chose an epoch has trained nothing.
    one = replace(recipe, stages=recipe.stages[1:], model=replace(recipe.model, features=0))
    plain = fit(one, {"fer": faces["fer"]}, tmp_path / "plain").run
    assert plain is not None
    third: list[str] = []
    settings = replace(recipe, model=replace(recipe.model, weights=str(plain.path), features=0), stages=recipe.stages[:1])
    fit(settings, {"fer": faces["fer"]}, tmp_path / "third", say=third.append)
    assert any(
        f"{images:,} of its {images + 14:,} images trained" in line and "the 14 others alone judge" in line for line in third
    )


def test_a_head_behind_a_stage_knows_what_that_trained_on(recipe: Recipe, faces: dict[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    turned = replace(recipe, stages=recipe.stages[::-1], model=replace(recipe.model, features=0))
    run = fit(turned, {"fer": faces["fer"]}, tmp_path / "run", say=said.append).run
    assert run is not None
    rest, head = run.info["stages"]
    told = [line for line in said if "or stage 'rest', so" in line and line.endswith("put it before them")]
    assert f"{rest['images']:,} of its {head['images']:,} images trained" in told[0] and "nothing can judge" in told[0]
    assert "the 14 others alone judge" in told[1] and head["head"]["temperature"] >= 1 and not head["head"]["start"]
    kept = read_out_of_fold(run)
    assert kept is not None and len(kept[0]) == 14


def test_images_that_fitted_the_classifier_again_calibrate_nothing(
    trained: tuple[Run, list[str]], faces: dict[str, str], tmp_path: Path
) -> None:
    run, source = trained[0], faces["fer"]
    of_head = [row["status"] for row in run.each_row_as_trained() if row["split"] == "val" and row["stage"] == "head"]
    assert set(of_head) == {"train"}
    kept = read_out_of_fold(run)
    assert kept is not None
    truth, told = kept
    assert len(truth) == run.info["refitted"]["images"]
    right = told.argmax(axis=1) == truth
    assert run.info["refitted"]["accuracy"] == pytest.approx(right.mean())
    assert run.info["refitted"]["log_loss"] == pytest.approx(-np.log(told[np.arange(len(truth)), truth]).mean(), abs=1e-4)

    done = pack(run, tmp_path / "small", source)
    packed = Run.open(tmp_path / "small")
    assert done.chosen_on == "cross-validation" and packed.info["packed"]["images"] == len(truth)
    assert done.temperature == pytest.approx(best_temperature(truth, told))
    assert done.ece == pytest.approx(
        [expected_calibration_error(truth, each) for each in (told, at_temperature(told, done.temperature))]
    )
    assert packed.usable is not None and packed.usable.chosen_on == "cross-validation"
    found = assess(run, source, calibrate=True, near_duplicates=0).result["calibrated"]
    assert (found["chosen_on"], found["images"]) == ("cross-validation", len(truth))
    assert found["temperature"] == pytest.approx(done.temperature)
    # what is packed is calibrated already; images that are new to the run choose themselves
    assert pack(packed, tmp_path / "again", source).temperature == pytest.approx(1, abs=0.02)
    assert pack(run, tmp_path / "other", source, split="test").chosen_on == "test"
    with pytest.raises(UsageError, match="its cross-validation knows them as they are alone"):
        pack(run, tmp_path / "none", source, calibrate="robust")
    # a run of before kept no such answers
    shutil.copytree(run.path, tmp_path / "before")
    (tmp_path / "before" / OUT_OF_FOLD_FILE).unlink()
    with pytest.raises(RunError, match=f"{OUT_OF_FOLD_FILE} cannot be read"):
        pack(Run.open(tmp_path / "before"), tmp_path / "none", source)
    files = {name: digest for name, digest in run.info["files"].items() if name != OUT_OF_FOLD_FILE}
    info = {key: value for key, value in run.info.items() if key != "checksum"}
    (tmp_path / "before" / "run.json").write_text(sealed_json({**info, "files": files}))
    with pytest.raises(DataError, match="has 0 images .* fitted again on its validation images .* name images that are new"):
        pack(Run.open(tmp_path / "before"), tmp_path / "none", source)


def test_what_comes_from_it_knows_that_they_trained_it(
    trained: tuple[Run, list[str]], recipe: Recipe, faces: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    asked = load_recipe(
        str(tmp_path / "r.toml"), [f"model.weights={trained[0].path}", "head.refit=false", "rest.val_least=1000"]
    )
    run = fit(asked, {"fer": faces["fer"]}, tmp_path / "run").run
    assert run is not None
    with pytest.raises(DataError, match="has 0 images that can be read and that the run was not trained on"):
        pack(run, tmp_path / "small", faces["fer"])


@pytest.mark.parametrize("line", ["  head: accuracy", "stage 2 rest:", "stage head is fitted again"])
def test_stopped_anywhere_it_ends_in_the_same_bits(
    line: str, trained: tuple[Run, list[str]], recipe: Recipe, faces: dict[str, str], tmp_path: Path
) -> None:
    def stop(told: str) -> None:
        if told.startswith(line):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(recipe, {"fer": faces["fer"]}, tmp_path / "run", say=stop)
    run = fit(recipe, {"fer": faces["fer"]}, tmp_path / "run").run
    assert run is not None and run.fingerprint == trained[0].fingerprint


def test_a_stage_with_too_few_validation_images_is_left_out(recipe: Recipe, faces: dict[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    asked = load_recipe_text(RECIPE.replace("learning_rate = 0.3", "learning_rate = 0.3\nval_least = 1000"), tmp_path)
    run = fit(asked, {"fer": faces["fer"]}, tmp_path / "run", say=said.append).run
    assert run is not None and [stage["name"] for stage in run.info["stages"]] == ["head"]
    assert any("stage rest is left out: it has" in line and "val_least is 1,000" in line for line in said)
    tried: list[str] = []
    fit(asked, {"fer": faces["fer"]}, tmp_path / "tried", say=tried.append, dry_run=True)
    assert any("stage rest is left out: it has" in line for line in tried)
    assert not any(line.startswith("stage rest:") and "epochs" in line for line in tried)
    wrong = load_recipe_text(
        (tmp_path / "r.toml").read_text().replace("val_least", 'rules = [["nothing", 1.0]]\nval_least'), tmp_path
    )
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="stage 'rest'.*nothing"):
            fit(wrong, {"fer": faces["fer"]}, tmp_path / "wrong", dry_run=dry_run)
    assert not (tmp_path / "wrong").exists()


def test_settings_of_a_stage_that_is_left_out_are_named_with_the_way_to_have_them_count() -> None:
    asked = load_recipe(
        "finetune", ["stage.noise=20", "all.epochs=7", "stage.train_share=0.5", "stage.folds=3", "stage.momentum=0"]
    )
    told = left_out(asked.stages, {"head": 70, "all": 70}, asked.asked)
    assert list(told) == ["all"]
    # train_share counts in the stage that is trained, folds are of that alone, and momentum 0 is of neither
    assert told["all"].endswith(
        "70 validation images, val_least is 100; set for it, and without effect: noise = 20.0, epochs = 7; "
        "to train it give more, or --set all.val_least=0"
    )
    assert not left_out(asked.stages, {"head": 70, "all": 100}, asked.asked)
    plain = load_recipe("finetune", ["all.val_least=200"])
    assert left_out(plain.stages, {"head": 9, "all": 150}, plain.asked)["all"].endswith("val_least is 200")
    assert parse_recipe(asked.to_toml(), "r") == asked
    alone = load_recipe("finetune").stages[1:]
    with pytest.raises(UsageError, match="no stage has as many validation images"):
        left_out(alone, {"all": 1}, ())


def load_recipe_text(text: str, folder: Path) -> Recipe:
    (folder / "r.toml").write_text(text)
    return load_recipe(str(folder / "r.toml"))


def test_what_a_head_does_not_heed_is_refused() -> None:
    with pytest.raises(UsageError, match="epochs of stage 'a' is 3, not heeded by a stage of kind 'head'"):
        Stage("a", train=("d:train",), kind="head", epochs=3)
    with pytest.raises(UsageError, match="folds of stage 'a' is 3, not heeded by a stage of kind 'gradient'"):
        Stage("a", train=("d:train",), folds=3)
    with pytest.raises(UsageError, match="refit of stage 'a' needs validation images"):
        Stage("a", train=("d:train",), kind="head", refit=True)
    plain = Stage("a", train=("d:train",))
    written = Recipe("r", (plain,), ("d",)).to_table()
    assert "kind" not in written["stage"][0] and "features" not in written["model"]
    asked = Recipe("r", (Stage("h", train=("d:train",), kind="head"), plain), ("d",))
    assert parse_recipe(asked.to_toml(), "r") == asked


def test_a_network_without_a_linear_classifier_is_refused_before_anything_is_written(
    faces: dict[str, str], tmp_path: Path
) -> None:
    text = RECIPE.replace('"face_vgg"', '"squeezenet"').replace("features = 5\n", "input_size = 67\n")
    for dry_run in (True, False):
        with pytest.raises(ModelError, match="ends with conv10"):
            fit(load_recipe_text(text, tmp_path), {"fer": faces["fer"]}, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()
