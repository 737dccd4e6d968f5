"""PathNet's search: changes and contests, what a trial does to the modules, and runs that end the same whatever happens."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.errors import DivergedError, ModelError, RunError, UsageError
from emotiw_keras.files import sha256_file
from emotiw_keras.pathnet import evolution
from emotiw_keras.pathnet.search import PathNetSettings
from emotiw_keras.runs import Run
from emotiw_keras.training import checkpoints
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe
from tests import processes

SMALL = ["model.input_size=16", "pathnet.filters=4", "pathnet.modules=5", "pathnet.layers=2", "pathnet.active=2"]
SMALL += ["pathnet.reduce='stride'", "search.generations=6", "search.minibatches=3", "search.batch_size=8"]
SMALL += ["search.population=4", "search.validate_generations=3", "search.checkpoint_generations=2"]


def recipe(name: str, *changes: str, **options: object):
    return load_recipe(name, [*SMALL, *changes], precision="float32", **options)


def trained(name: str, faces: dict[str, str], out: Path, *changes: str, **options: object) -> Run:
    a, b = faces.values()
    paths = {"data": a} if name == "pathnet" else {"a": a, "b": b}
    run = fit(recipe(name, *changes, **options), paths, out).run
    assert run is not None
    return run


def log_of(run: Run) -> list[dict[str, str]]:
    with open(run.path / "search.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def transferred(faces: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained("pathnet-transfer", faces, tmp_path_factory.mktemp("pathnet") / "transfer")


# Paths and contests


def test_genes_change_by_at_most_two_around_the_corner_with_probability_one_over_their_number() -> None:
    generator = np.random.default_rng(0)
    genotype = np.array([[0, 9, 5], [1, 8, 4]])
    changed = np.stack([evolution.mutate(genotype, 10, generator) for _ in range(6000)])
    assert changed.min() >= 0 and changed.max() <= 9
    steps = (changed - genotype + 5) % 10 - 5
    assert sorted(np.unique(steps)) == [-2, -1, 0, 1, 2]
    # 0 - 1 and 0 - 2 come round to 9 and 8, 9 + 1 and 9 + 2 to 0 and 1.
    assert set(np.unique(changed[:, 0, 0])) == {0, 1, 2, 8, 9} and set(np.unique(changed[:, 0, 1])) == {7, 8, 9, 0, 1}
    # A gene is chosen with 1/6 and then moves in four of five cases: 0.1333; five standard deviations are 0.009.
    assert (steps != 0).mean() == pytest.approx(4 / 5 / 6, abs=0.009)
    counts = [np.mean(steps == step) for step in (-2, -1, 1, 2)]
    assert counts == pytest.approx([1 / 30] * 4, abs=0.005)
    assert np.array_equal(genotype, [[0, 9, 5], [1, 8, 4]])


def test_the_loser_becomes_a_changed_copy_of_the_winner_and_nobody_else_moves() -> None:
    generator = np.random.default_rng(1)
    population = evolution.draw_population(6, 3, 10, 3, generator)
    before, fitness = population.copy(), np.full(6, np.nan)
    winner = evolution.contest(population, fitness, np.array([4, 2]), [0.25, 0.5], 10, generator)
    assert winner == 2
    others = [0, 1, 2, 3, 5]
    assert np.array_equal(population[others], before[others])
    far = (population[4] - before[2] + 5) % 10 - 5
    assert np.abs(far).max() <= 2 and fitness[2] == 0.5 and np.isnan(fitness[4])
    assert evolution.best_of(fitness, 2) == 2


def test_contestants_differ_and_everyone_comes_up() -> None:
    generator = np.random.default_rng(2)
    drawn = np.stack([evolution.draw_contestants(5, 2, generator) for _ in range(2000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert np.bincount(drawn.ravel()) / drawn.size == pytest.approx([0.2] * 5, abs=0.03)


def test_the_best_is_the_highest_and_of_equals_the_last_winner() -> None:
    assert evolution.best_of(np.array([0.5, np.nan, 0.7, 0.7]), 3) == 3
    assert evolution.best_of(np.array([0.5, np.nan, 0.7, 0.7]), 0) == 2


# A trial against the plain network of its path


@pytest.fixture
def bank():
    from emotiw_keras.pathnet.bank import Bank

    made = Bank(PathNetSettings(layers=2, modules=5, active=3, filters=4, reduce="pool"), 1.0, (12, 12, 3))
    made.initialise((0,), np.zeros((2, 5), bool))
    made.new_readout(3, (0,))
    rng = np.random.default_rng(3)
    for bias in made.biases:
        bias.assign(rng.normal(0, 0.3, bias.shape))
    made.readout[0].assign(rng.normal(0, 0.3, (made.units, 3)))
    return made


def face_input():
    from emotiw_keras.data.face_input import FaceInput

    return FaceInput(resize=14, crop=12, mean=(128,) * 3, std=(64,) * 3)


def images_of(steps: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    crops = rng.integers(0, 2, (steps, batch, 3)).astype(np.int32)
    return rng.integers(0, 256, (steps, batch, 16, 16, 1), np.uint8), crops, rng.integers(0, 3, (steps, batch)).astype(np.int32)


PATHS = [((0, 2, 4), (1, 3)), ((3,), (0, 1, 2)), ((1,), (4,))]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("combine", ["sum", "average"])
def test_the_bank_answers_as_the_plain_network_of_the_path(bank, path, combine: str) -> None:
    import dataclasses

    from emotiw_keras.pathnet.path_step import PathSteps

    bank.settings = dataclasses.replace(bank.settings, combine=combine)
    x = np.random.default_rng(5).normal(0, 1, (6, 12, 12, 3)).astype(np.float32)
    expected = bank.network(path)(x).numpy()
    np.testing.assert_allclose(PathSteps(bank, face_input()).logits(x, path).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.std(expected, axis=0).max() > 0


@pytest.mark.parametrize("path", PATHS)
def test_a_trial_moves_weights_as_kerass_own_descent_does_and_frozen_ones_not_at_all(bank, path) -> None:
    import keras
    import tensorflow as tf

    from emotiw_keras.models.pathnet import module_name
    from emotiw_keras.pathnet.path_step import PathSteps

    images, crops, labels = images_of(3, 8)
    bank.freeze(((path[0][0],), ()))
    frozen, everything = bank.digests(bank.frozen), bank.digests(np.ones((2, 5), bool))
    plain, given = bank.network(path), face_input()
    plain.get_layer(module_name(1, path[0][0])).trainable = False
    descent, loss, right = keras.optimizers.SGD(0.1), 0.0, 0
    for i in range(3):
        with tf.GradientTape() as tape:
            answers = plain(given(images[i], crops[i]), training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels[i], answers, from_logits=True)
            mean = tf.reduce_mean(losses)
        descent.apply(tape.gradient(mean, plain.trainable_variables), plain.trainable_variables)
        loss, right = loss + float(tf.reduce_sum(losses)), right + int((answers.numpy().argmax(1) == labels[i]).sum())
    got = PathSteps(bank, given).trial(images, crops, labels, path, 0.1)
    assert got == (pytest.approx(loss, rel=1e-4), right)
    for mine, theirs in zip(bank.network(path).get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
    assert bank.digests(bank.frozen) == frozen
    after = bank.digests(np.ones((2, 5), bool))
    moved = {name for name in after if after[name] != everything[name]}
    assert moved == {module_name(n, m) for n, genes in enumerate(path, 1) for m in genes} - set(frozen)


def test_minibatches_go_through_the_images_again_and_again_each_epoch_once(faces: dict[str, str]) -> None:
    from emotiw_keras.data.batches import Pool
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.pathnet.search import Search
    from emotiw_keras.pathnet.stream import Stream

    images = load_faces(faces["fer"])
    pool = Pool([(images, images.indices("train"))], 48, True)
    search = Search("a", train=("a:train",), batch_size=10, random_crop=True)

    def of(stream: Stream, first: int, count: int) -> list[bytes]:
        got, crops, labels = stream.minibatches(first, count)
        assert got.shape == (count, 10, 48, 48, 1) and crops.shape == (count, 10, 3) and labels.shape == (count, 10)
        assert crops[..., :2].max() <= 4 and crops[..., 2].max() == 1
        return [image.tobytes() for image in got.reshape(-1, 48, 48, 1)]

    stream = Stream(pool, search, 4, (0, 1))
    seen = of(stream, 0, 21)  # 210 images of 42: five epochs
    for epoch in range(5):
        assert len(set(seen[42 * epoch : 42 * epoch + 42])) == 42
    assert of(Stream(pool, search, 4, (0, 1)), 7, 3) == seen[70:100]
    assert of(Stream(pool, search, 4, (1, 1)), 0, 3) != seen[:30]


# Whole runs


def test_a_run_folder(transferred: Run, faces: dict[str, str]) -> None:
    there = {path.name for path in transferred.path.iterdir()}
    assert {"recipe.toml", "run.json", "data.csv", "history.csv", "search.csv", "model.weights.h5", "stages"} <= there
    assert {"curves.png", "fitness.png", "paths.png", "events"} <= there
    one, two = transferred.info["stages"]
    assert [one["name"], two["name"]] == ["a", "b"] and one["generations"] == two["generations"] == 6
    assert not any(one["frozen"]) and two["frozen"] == one["path"]
    assert two["reused"] == [sorted(set(genes) & set(held)) for genes, held in zip(two["path"], one["path"], strict=True)]
    assert one["minibatches"] == 6 * 2 * 3
    assert transferred.info["model"]["options"]["path"] == two["path"]
    log = log_of(transferred)
    assert len(log) == 2 * 6 * 2
    assert all(sum(int(row["won"]) for row in log if (row["search"], row["generation"]) == key) == 1 for key in
               {(row["search"], row["generation"]) for row in log})  # fmt: skip
    for search in ("a", "b"):
        last = [row for row in log if row["search"] == search]
        assert {row["generation"] for row in last} == {str(n) for n in range(1, 7)}
    with open(transferred.path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["epoch"]) for row in rows] == [(s, str(n)) for s in "ab" for n in range(1, 7)]
    for result in (one, two):
        own = [
            row
            for row in log
            if row["search"] == result["name"]
            and row["path"] == evolution.path_text([tuple(genes) for genes in result["path"]])
        ]
        assert result["fitness"] == float(own[-1]["fitness"]), "that of the path beside it, not of the last winner"
    assert [bool(row["val_accuracy"]) for row in rows] == [n % 3 == 0 for _ in "ab" for n in range(1, 7)]


def test_the_finished_network_is_the_banks_path(transferred: Run, faces: dict[str, str]) -> None:
    from emotiw_keras.evaluation.evaluate import evaluate
    from emotiw_keras.models.pathnet import module_name
    from emotiw_keras.training import checkpoints

    two = transferred.info["stages"][1]
    net = transferred.build()
    names = [module_name(n, gene) for n, genes in enumerate(two["path"], 1) for gene in genes] + ["readout"]
    assert [layer.name for layer in net.layers if layer.weights] == names
    stored = checkpoints.load(transferred.path / "stages" / "02-b" / two["best_file"]).arrays
    for n, genes in enumerate(two["path"], 1):
        for gene in genes:
            kernel, bias = net.get_layer(module_name(n, gene)).get_weights()
            assert np.array_equal(kernel, stored[f"layer{n}/kernel"][gene])
            assert np.array_equal(bias, stored[f"layer{n}/bias"][gene])
    assert evaluate(transferred, faces["target"], split="val")["accuracy"] == pytest.approx(two["val_accuracy"])


@pytest.mark.slow
def test_a_path_is_predicted_with_and_exported(transferred: Run, tmp_path: Path) -> None:
    import tensorflow as tf

    from emotiw_keras.data.generated import draw_faces
    from emotiw_keras.serving.export import export_savedmodel
    from emotiw_keras.serving.predictor import Predictor

    images, _ = draw_faces(3, size=16)
    report = export_savedmodel(transferred, tmp_path / "served")
    assert report.largest_difference <= 1e-5
    served = tf.saved_model.load(str(tmp_path / "served" / "1"))
    given = transferred.face_input()(images)
    expected = transferred.build()(given).numpy()
    np.testing.assert_allclose(Predictor(transferred).predict(images), expected, atol=1e-6)
    got = served.signatures["pixels"](pixels=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_what_the_first_task_froze_never_moves_and_all_else_is_new(transferred: Run) -> None:
    from emotiw_keras.training import checkpoints

    one, two = (
        checkpoints.load(transferred.path / "stages" / folder / stage["best_file"]).arrays
        for folder, stage in zip(("01-a", "02-b"), transferred.info["stages"], strict=True)
    )
    path = transferred.info["stages"][0]["path"]
    for n, held in enumerate(path, 1):
        for module in range(5):
            same = np.array_equal(one[f"layer{n}/kernel"][module], two[f"layer{n}/kernel"][module])
            assert same == (module in held), (n, module)
    assert not np.array_equal(one["readout/kernel"], two["readout/kernel"])


def test_paths_of_all_transfers_stay_frozen_and_a_run_hands_on_its_last(faces: dict[str, str], tmp_path: Path) -> None:
    two = recipe("pathnet-transfer", "search.generations=1", "search.validate_generations=0")
    third = dataclasses.replace(two.stages[1], name="c")
    a, b = faces.values()
    run = fit(dataclasses.replace(two, stages=(*two.stages, third)), {"a": a, "b": b}, tmp_path / "three").run
    assert run is not None
    first, second, last = run.info["stages"]
    both = [sorted({*one, *other}) for one, other in zip(first["path"], second["path"], strict=True)]
    assert second["frozen"] == first["path"] and last["frozen"] == both != second["path"]
    weights = f"model.weights={str(run.path)!r}"
    moved = trained("pathnet", faces, tmp_path / "moved", "search.generations=1", weights, "data.start='transfer'")
    assert moved.info["stages"][0]["frozen"] == last["path"]


@pytest.mark.slow
def test_a_run_of_its_own_takes_the_path_of_another(transferred: Run, faces: dict[str, str], tmp_path: Path) -> None:
    first = trained("pathnet", faces, tmp_path / "first")
    # The same seed gives the same bits, another seed others: the first search of two is this one.
    (result,), (before, _) = first.info["stages"], transferred.info["stages"]
    assert result["path"] == before["path"] and result["val_loss"] == before["val_loss"]
    other = trained("pathnet", faces, tmp_path / "other", "search.generations=1", seed=1)
    assert log_of(other)[0]["path"] != log_of(first)[0]["path"]
    weights = f"model.weights={str(first.path)!r}"
    moved = trained("pathnet", faces, tmp_path / "moved", weights, "data.start='transfer'")
    (result,) = moved.info["stages"]
    assert result["frozen"] == first.info["stages"][0]["path"] and result["start"] == "transfer"
    # It draws as the second search of a recipe does, not once more what the first drew, whose best path is frozen.
    paths = [[row["path"] for row in rows[:2]] for rows in (log_of(first), log_of(moved))]
    assert paths[0] != paths[1] == [row["path"] for row in log_of(transferred) if row["search"] == "b"][:2]
    assert moved.info["searches_before"] == 1
    tuned = trained("pathnet", faces, tmp_path / "tuned", weights, "data.start='finetune'")
    (result,) = tuned.info["stages"]
    assert result["path"] == first.info["stages"][0]["path"] and result["minibatches"] == 6 * 2 * 3
    assert {row["kind"] for row in log_of(tuned)} == {"finetune"}
    before, after = first.build(), tuned.build()
    assert all(
        not np.array_equal(before.get_layer(layer.name).get_weights()[0], layer.get_weights()[0])
        for layer in after.layers
        if layer.weights
    )
    with pytest.raises(ModelError, match="was made with filters = 4, this recipe has 8; add --set pathnet.filters=4"):
        trained("pathnet", faces, tmp_path / "odd", weights, "data.start='transfer'", "pathnet.filters=8")


def test_a_plain_recipe_trains_the_path_of_a_run_on(transferred: Run, faces: dict[str, str], tmp_path: Path) -> None:
    changes = [f"model.weights={str(transferred.path)!r}", "model.name='pathnet'", "model.input_size=16", "stage.epochs=1"]
    plain = fit(load_recipe("finetune", changes, precision="float32"), {"data": faces["target"]}, tmp_path / "plain").run
    assert plain is not None and plain.info["model"]["options"] == transferred.info["model"]["options"]
    of_path, of_plain = ({layer.name for layer in run.build().layers if layer.weights} for run in (transferred, plain))
    assert of_plain == of_path


def test_a_target_ends_the_search_and_final_epochs_follow_it(faces: dict[str, str], tmp_path: Path) -> None:
    run = trained("pathnet", faces, tmp_path / "run", "data.target=0.01", "data.final_epochs=2")
    (result,) = run.info["stages"]
    # 42 images twice are 11 minibatches of 8, in pieces of 3. A trial of few images may have none right.
    generations = result["generations"]
    assert result["reached_target"] and result["epochs"] == generations + 4
    log = log_of(run)
    assert [row["kind"] for row in log] == ["search"] * 2 * generations + ["final"] * 4
    reached = [float(row["fitness"]) >= 0.01 for row in log if row["kind"] == "search"]
    assert any(reached[-2:]) and not any(reached[:-2])
    assert len({row["path"] for row in log if row["kind"] == "final"}) == 1


def test_a_rate_that_is_too_large_ends_with_a_word(faces: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="search 'data' diverged: .* in generation"):
        trained("pathnet", faces, tmp_path / "run", "data.learning_rate=100.0", "search.generations=50")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.start='transfer'"], "start of search 'data' is 'transfer', which needs the run of a search"),
        (["model.weights='runs/x'"], "which uses no weights"),
        (["pathnet.active=6"], "active of pathnet is 6, more than its 5 modules"),
        (["data.tournament=5"], "tournament of search 'data' is 5, more than its population of 4"),
        (["model.name='alexnet'"], r"\[\[search\]\] needs 'pathnet'"),
        (["data.epochs=3"], "search 'data' has no setting 'epochs'"),
        (["stage.epochs=3"], "there is no table 'stage'; known are data, search, model, preprocessing, pathnet"),
        (["precision='mixed_float16'"], "a search computes in float32 or mixed_bfloat16"),
        (["data.train=['fer:train']"], "train of search 'data' names the data set 'fer'"),
    ],
)
def test_settings_that_cannot_be_meant(changes: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_recipe("pathnet", [*SMALL, *changes])


def test_epochs_of_the_command_line_are_for_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emotiw(["fit", "pathnet", "--epochs", "3", "--data", "data=x", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "--epochs is for recipes of stages; recipe 'pathnet' lists [[search]]" in told
    assert "--set search.generations=3" in told and "stage.epochs" not in told


def test_a_recipe_has_stages_or_searches_and_writes_itself_down() -> None:
    from emotiw_keras.training.recipe import parse_recipe

    chosen = recipe("pathnet-transfer")
    assert parse_recipe(chosen.to_toml(), "again") == chosen
    both = chosen.to_toml() + '\n[[stage]]\nname = "c"\ntrain = ["a:train"]\n'
    with pytest.raises(UsageError, match=r"has \[\[stage\]\] and \[\[search\]\]"):
        parse_recipe(both, "both")
    with pytest.raises(UsageError, match=r"\[pathnet\] belongs to a recipe with \[\[search\]\]"):
        parse_recipe(load_recipe("finetune").to_toml() + "\n[pathnet]\nmodules = 3\n", "odd")
    broken = chosen.to_toml().replace("generations = 6", "generations = 0", 1)
    line = broken.splitlines().index("generations = 0") + 1
    with pytest.raises(UsageError, match=f"broken, line {line}: generations of search 'a' is 0"):
        parse_recipe(broken, "broken")


# Damage, and strangers


def unfinished(run: Run, out: Path) -> Path:
    """A copy whose second search is under way, its checksums taken out."""
    folder = Path(shutil.copytree(run.path, out))
    info = json.loads((folder / "run.json").read_text())
    for key in ("checksum", "files", "weights"):
        info.pop(key, None)
    (folder / "run.json").write_text(json.dumps({**info, "finished": False, "stages": []}))
    (folder / "stages" / "02-b" / "done.json").unlink()
    return folder


ARRAYS: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "no population": lambda arrays: arrays.pop("population"),
    "population of fractions": lambda arrays: arrays.update(population=arrays["population"] + 0.5),
    "population of no number": lambda arrays: arrays.update(population=np.full(arrays["population"].shape, np.nan)),
    "population of texts": lambda arrays: arrays.update(population=arrays["population"].astype("U4")),
    "population of other modules": lambda arrays: arrays.update(population=arrays["population"] + 99),
    "fitness of texts": lambda arrays: arrays.update(fitness=arrays["fitness"].astype("U4")),
    "another readout": lambda arrays: arrays.update({"readout/bias": np.zeros(2, np.float32)}),
    "nothing frozen": lambda arrays: arrays.update(frozen=np.zeros_like(arrays["frozen"])),
}
STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no rows": lambda state: state.update(rows=[]),
    "never ended": lambda state: state.update(generation=99, ended=0),
    "ended later": lambda state: state.update(ended=6, generation=2, rows=state["rows"][:2]),
    "a path of no module": lambda state: state["log"][0].update(path="9999-0/0"),
    "a place of nobody": lambda state: state.update(best=99),
    "rows of another": lambda state: state["rows"][0].update(stage="../a"),
}


@pytest.mark.parametrize("what", [*ARRAYS, *STATES])
def test_a_search_that_goes_on_believes_no_odd_checkpoint(
    what: str, transferred: Run, faces: dict[str, str], tmp_path: Path
) -> None:
    folder = unfinished(transferred, tmp_path / "run")
    for file in (folder / "stages" / "02-b").glob("e*.npz"):
        found = checkpoints.load(file)
        arrays, state = dict(found.arrays), json.loads(json.dumps(found.meta["state"]))
        if what in ARRAYS:
            ARRAYS[what](arrays)
        else:
            STATES[what](state)
        file.unlink()
        checkpoints.save(file.parent, file.stem.rsplit("-", 1)[0], arrays, {"state": state})
    with pytest.raises(RunError, match=r"02-b/e\d+"):
        trained("pathnet-transfer", faces, folder)


DONE: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty layers": lambda done: done.update(path=[[], []]),
    "no module": lambda done: done.update(path=[[99], [0]]),
    "accuracy a text": lambda done: done.update(val_accuracy="x"),
    "fewer than no images": lambda done: done.update(images=-1),
}


@pytest.mark.parametrize("change", DONE.values(), ids=DONE)
def test_the_marker_of_a_search_is_checked_before_the_next(
    change: Callable[[dict[str, Any]], object], transferred: Run, faces: dict[str, str], tmp_path: Path
) -> None:
    folder = unfinished(transferred, tmp_path / "run")
    marker = folder / "stages" / "01-a" / "done.json"
    done = json.loads(marker.read_text())
    del done["checksum"]
    change(done)
    marker.write_text(json.dumps(done))
    with pytest.raises(RunError, match=r"01-a/done\.json is damaged"):
        trained("pathnet-transfer", faces, folder)


# Surviving


class Command:
    """`emotiw fit pathnet-transfer` in a process of its own."""

    def __init__(self, faces: dict[str, str], run: Path) -> None:
        self.run = run
        a, b = faces.values()
        changes = [word for change in [*SMALL, "search.generations=20"] for word in ("--set", change)]
        arguments = ["fit", "pathnet-transfer", f"--data=a={a}", f"--data=b={b}", f"--out={run}", *changes]
        arguments.append("--precision=float32")
        self.arguments = arguments

    def start(self) -> processes.Forked:
        return processes.Forked(processes.emotiw, *self.arguments)

    def finish(self) -> str:
        process = self.start()
        _, talk = process.communicate(timeout=300)
        assert process.returncode == 0, talk
        return talk

    def kill_after_checkpoint(self, folder: str, count: int, number: int = signal.SIGKILL) -> tuple[int, str]:
        """Send a signal when so many checkpoints have come and gone in a search's folder."""
        process, seen = self.start(), set()
        place, deadline = self.run / "stages" / folder, time.monotonic() + 200
        while process.poll() is None and len(seen) < count and time.monotonic() < deadline:
            seen |= {name for name in (os.listdir(place) if place.is_dir() else []) if name.startswith("e")}
            time.sleep(0.001)
        process.send_signal(number)
        _, talk = process.communicate(timeout=60)
        return process.returncode, talk


@pytest.mark.slow
def test_killed_in_both_searches_it_ends_bit_identical(faces: dict[str, str], tmp_path: Path) -> None:
    whole, broken = Command(faces, tmp_path / "whole"), Command(faces, tmp_path / "broken")
    whole.finish()
    assert broken.kill_after_checkpoint("01-a", 3)[0] == -signal.SIGKILL
    code, talk = broken.kill_after_checkpoint("02-b", 3, signal.SIGTERM)
    assert "search 1 a: going on at generation" in talk
    assert code == 143 and "stopped and saved; the same command goes on" in talk and "Traceback" not in talk
    talk = broken.finish()
    assert "search 1 a: finished before" in talk and "search 2 b: going on at generation" in talk
    assert sha256_file(broken.run / "model.weights.h5") == sha256_file(whole.run / "model.weights.h5")
    assert (broken.run / "search.csv").read_text() == (whole.run / "search.csv").read_text()
    one, other = (json.loads((each.run / "run.json").read_text())["stages"] for each in (whole, broken))
    assert one == other
