"""Frozen layers cost nothing twice: where the network is cut, what is kept, and that the results are the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.face_input import FaceInput, draw_crops
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.one_channel import for_grey
from emotiw_keras.errors import UsageError
from emotiw_keras.files import sha256_file
from emotiw_keras.models import AlexNet, SqueezeNet
from emotiw_keras.runs import Run
from emotiw_keras.training import caching, checkpoints, features
from emotiw_keras.training.caching import plan
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.features import Features, discard, features_root, fingerprint, stored_bytes, trim
from emotiw_keras.training.fit import fit
from emotiw_keras.training.freezing import apply_rules
from emotiw_keras.training.frozen import cut_frozen
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.train_step import StageSteps
from tests import processes

from .conftest import RECIPE

FROZEN = (("conv*", 0.0), ("*", 1.0))
ITEM = 12 * 4
"""Bytes of the features of one crop: 12 channels that conv5 and pool5 leave of 67x67 pixels."""


@pytest.fixture(autouse=True)
def no_shared_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOTIW_CACHE", raising=False)


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    return AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.05, classifier_activation=None)


@pytest.fixture
def pool(faces: dict[str, str]) -> Pool:
    images = load_faces(faces["fer"], grey=True)
    return Pool([(images, images.indices("train"))], 76, True)


def stage(**changes: object) -> Stage:
    return Stage("s", train=("fer:train",), **({"rules": FROZEN} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "last"),
    [
        ((("conv*", 0.0), ("*", 1.0)), "flatten"),
        ((("conv*", 0.0), ("fc6", 0.0), ("*", 1.0)), "fc6"),  # drop6 is random
        ((("conv[12]", 0.0), ("*", 1.0)), "pool2"),
        ((("conv5", 0.0), ("*", 1.0)), None),
        ((("*", 1.0),), None),
    ],
)
def test_the_cut_lies_before_the_first_layer_that_trains_or_is_random(
    model: keras.Model, rules: tuple[tuple[str, float], ...], last: str | None
) -> None:
    apply_rules(model, rules, "here")
    cut = cut_frozen(model)
    assert (cut and cut.prefix.layers[-1].name) == last
    if cut is not None:
        image = np.random.default_rng(0).normal(0, 1, (2, 67, 67, 3)).astype(np.float32)
        np.testing.assert_allclose(cut.tail(cut.prefix(image)), model(image), rtol=1e-5, atol=1e-6)
        assert [v.path for v in cut.tail.trainable_variables] == [v.path for v in model.trainable_variables]


def test_a_fire_module_is_not_cut_between_its_branches() -> None:
    network = SqueezeNet(weights=None, classes=7, input_shape=(40, 40, 3), width=0.1, classifier_activation=None)
    apply_rules(network, (("fire4_expand3x3", 1.0), ("fire[5-9]*", 1.0), ("conv10", 1.0), ("*", 0.0)), "here")
    cut = cut_frozen(network)
    assert cut is not None and cut.prefix.layers[-1].name == "fire4_squeeze1x1"


def test_a_frozen_layer_that_assigns_its_own_weights_is_not_cut_off() -> None:
    first, second = keras.layers.Dense(4, name="first"), keras.layers.BatchNormalization(name="second")
    spectral = keras.layers.SpectralNormalization(keras.layers.Dense(4), name="spectral")
    network = keras.Sequential([keras.Input((4,)), first, second, spectral, keras.layers.Dense(2, name="out")])
    apply_rules(network, (("out", 1.0), ("*", 0.0)), "here")
    cut = cut_frozen(network)
    assert cut is not None and cut.prefix.layers[-1].name == "second"


def test_a_network_in_bfloat16_is_cut_in_bfloat16() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.05, classifier_activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    apply_rules(network, FROZEN, "here")
    cut = cut_frozen(network)
    assert cut is not None and cut.prefix.compute_dtype == cut.tail.compute_dtype == "bfloat16"
    image = np.random.default_rng(0).normal(0, 1, (2, 67, 67, 3)).astype(np.float32)
    assert cut.prefix(image).dtype == tf.bfloat16
    np.testing.assert_array_equal(cut.tail(cut.prefix(image)), network(image))


def test_the_backward_pass_ends_at_the_last_frozen_layer(model: keras.Model) -> None:
    """No gradient of a convolution or of its inputs is in the step's graph, and the optimizer holds nothing for them."""
    counts = {}
    for name, rules in (("frozen", FROZEN), ("free", (("*", 1.0),))):
        rates = apply_rules(model, rules, "here")
        optimizer = make_optimizer(stage(rules=rules), model.trainable_variables, rates)
        steps = StageSteps(model, FaceInput(resize=76, crop=67), stage(), np.ones(7, np.float32), optimizer, (48, 48, 1))
        graph = steps._train.get_concrete_function().graph
        nodes = [node.op for node in graph.as_graph_def().node]
        nodes += [node.op for function in graph.as_graph_def().library.function for node in function.node_def]
        counts[name] = sum(op.startswith("Conv2DBackprop") for op in nodes)
        state = {variable.path for variable in optimizer.variables}
        assert any("conv" in path for path in state) == (name == "free")
    assert counts["frozen"] == 0 < counts["free"]


def test_crops_of_an_epoch_come_from_those_kept() -> None:
    crops = StageCrops(stage(crops_per_image=3), 50, 9, (5, 1))
    kept = crops.kept()
    assert kept.shape == (3, 50, 3) and len(np.unique(kept.reshape(-1, 3), axis=0)) > 75
    assert kept[..., :2].min() == 0 and kept[..., :2].max() == 9 and set(np.unique(kept[..., 2])) == {0, 1}
    epochs = [crops.of_epoch(epoch) for epoch in range(3)]
    for taken in epochs:
        assert (taken == kept).all(axis=2).any(axis=0).all()
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(epochs[1], StageCrops(stage(crops_per_image=3), 50, 9, (5, 1)).of_epoch(1))


def test_free_and_centre_crops_are_drawn_as_ever() -> None:
    """The draws of runs made before there were kept crops."""
    for epoch in (0, 4):
        drawn = draw_crops(50, 9, mirror=True, seed=(5, 1, epoch, 1))
        free = StageCrops(stage(), 50, 9, (5, 1))
        assert free.per_image == 0 and np.array_equal(free.of_epoch(epoch), drawn)
        centre = StageCrops(stage(random_crop=False), 50, 9, (5, 1))
        drawn[:, :2] = 4
        assert centre.per_image == 2 and np.array_equal(centre.of_epoch(epoch), drawn)
    still = StageCrops(stage(random_crop=False, mirror=False), 50, 9, (5, 1))
    assert still.per_image == 1 and np.array_equal(still.of_epoch(3), np.tile([4, 4, 0], (50, 1)))


def made(model: keras.Model, pool: Pool, root: Path, crops: np.ndarray | None, say: Callable[[str], None] = print) -> Features:
    """Features of a pool in the folder that their fingerprint names."""
    apply_rules(model, FROZEN, "here")
    cut = cut_frozen(model)
    assert cut is not None
    face_input = FaceInput(resize=76, crop=67)
    kept = Features(root / fingerprint(cut.prefix, face_input, pool, crops, {}), cut.prefix, face_input, pool, crops)
    kept.computed = kept.prepare(say, lambda: None)  # type: ignore[attr-defined]
    return kept


def test_features_are_those_of_the_network(
    model: keras.Model, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, over several blocks, for the chosen crop of each image: the same bits where the batches are the same."""
    monkeypatch.setattr(features, "BLOCK_BYTES", 10 * ITEM)
    monkeypatch.setattr(features, "BATCH", 10)
    crops = StageCrops(stage(crops_per_image=2), len(pool), 9, (0, 1))
    kept = made(model, pool, tmp_path, crops.kept())
    assert kept.computed == 2 * len(pool) and len(list(kept.folder.iterdir())) >= 10  # type: ignore[attr-defined]
    order = np.random.default_rng(1).permutation(len(pool))[:20]
    colour = FaceInput(resize=76, crop=67)
    net, given = for_grey(kept.prefix, colour)  # what the stage computes without features
    assert given.input_channels == 1
    for epoch in (0, 1):
        kept.choose(crops.chosen(epoch))
        images, draws = pool.gather(order), crops.of_epoch(epoch)[order]
        np.testing.assert_allclose(kept.gather(order), net(given(images, draws)), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(kept.gather(order), kept.prefix(colour(images, draws)), rtol=1e-4, atol=1e-3)
    centre = made(model, pool, tmp_path, None)
    batches = [np.arange(first, min(first + 10, len(pool))) for first in range(0, len(pool), 10)]
    assert len(batches[-1]) == 2
    computed = tf.function(lambda images: net(given(images), training=False))
    for positions in batches:
        np.testing.assert_array_equal(centre.gather(positions), computed(pool.gather(positions)))


@pytest.mark.parametrize("block", [1, 13, 30])
def test_features_do_not_depend_on_the_size_of_blocks(
    model: keras.Model, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Nor so on which blocks a kill left: a batch of another size gives other last bits, on some processors of any size."""
    monkeypatch.setattr(features, "BATCH", 16)
    positions = np.arange(len(pool))
    whole = made(model, pool, tmp_path, None).gather(positions)
    monkeypatch.setattr(features, "BLOCK_BYTES", block * ITEM)
    kept = made(model, pool, tmp_path, None)
    np.testing.assert_array_equal(kept.gather(positions), whole)
    blocks = sorted(kept.folder.iterdir())
    assert len(blocks) == 3 and {path.stat().st_size for path in blocks} == {16 * ITEM, 10 * ITEM}
    blocks[1].unlink()
    again = made(model, pool, tmp_path, None)
    assert again.computed == 16  # type: ignore[attr-defined]
    np.testing.assert_array_equal(again.gather(positions), whole)


def test_a_damaged_block_is_computed_anew_and_an_unfinished_one_never_read(
    model: keras.Model, pool: Pool, tmp_path: Path
) -> None:
    first = made(model, pool, tmp_path, None)
    positions = np.arange(len(pool))
    wanted = first.gather(positions)
    assert made(model, pool, tmp_path, None).computed == 0  # type: ignore[attr-defined]
    (block,) = first.folder.glob("*.features")
    content = bytearray(block.read_bytes())
    content[100] ^= 1
    block.unlink()
    block.write_bytes(content)
    unfinished = first.folder / ".12345.000000"
    unfinished.write_bytes(content[:50])
    os.utime(unfinished, (0, 0))
    said: list[str] = []
    again = made(model, pool, tmp_path, None, said.append)
    assert len(said) == 1 and "are damaged; computing them anew" in said[0]
    np.testing.assert_array_equal(again.gather(positions), wanted)
    assert [path.name for path in first.folder.iterdir()] == [block.name]


def test_the_fingerprint_follows_all_that_features_depend_on(model: keras.Model, pool: Pool, faces: dict[str, str]) -> None:
    apply_rules(model, FROZEN, "here")
    cut = cut_frozen(model)
    assert cut is not None
    crops = StageCrops(stage(crops_per_image=2), len(pool), 9, (0, 1)).kept()
    face_input = FaceInput(resize=76, crop=67)

    def name(**changes: object) -> str:
        values = {"prefix": cut.prefix, "face_input": face_input, "pool": pool, "crops": crops, "facts": {"threads": 2}}
        return fingerprint(**(values | changes))  # type: ignore[arg-type]

    first = name()
    assert name() == first == name(face_input=FaceInput(resize=76, crop=67))
    other = crops.copy()
    other[1, 7, 2] ^= 1
    images = load_faces(faces["fer"], grey=True)
    fewer = Pool([(images, images.indices("train")[::-1])], 76, True)
    names = {
        first,
        name(crops=other),
        name(crops=None),
        name(pool=fewer),
        name(face_input=FaceInput(resize=76, crop=67, std=(2.0, 2.0, 2.0))),
        name(facts={"threads": 1}),
    }
    assert len(names) == 6
    model.get_layer("fc8").bias.assign(np.ones(7))
    assert name() == first
    model.get_layer("conv3").bias.assign(np.ones(model.get_layer("conv3").bias.shape))
    assert name() not in names


def test_plans_say_why(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(rules: tuple[tuple[str, float], ...] = FROZEN, **changes: object) -> caching.Plan:
        one = stage(rules=rules, **changes)
        apply_rules(model, rules, "here")
        return plan(model, one, StageCrops(one, 100, 9, (0, 1)), 20, tmp_path / "no" / "run")

    assert planned(rules=(("*", 1.0),)).told == ""
    assert planned(cache_features=False, random_crop=False).told == ""
    assert planned().told.startswith("conv1 to conv5 frozen, computed anew every epoch: crops are drawn anew; crops_per_image")
    few = planned(crops_per_image=4, epochs=5)
    assert not few.against and few.crops == 420 and few.bytes == 420 * few.cut.prefix.output_shape[1] * 4  # type: ignore[union-attr]
    assert "computed once: features of 420 crops, 0 MB" in few.told
    assert "5 crops of each image are no fewer than 5 epochs" in planned(crops_per_image=5, epochs=5).told
    assert not planned(crops_per_image=5, epochs=5, cache_features=True).against
    with pytest.raises(UsageError, match="its rules freeze no start of alexnet"):
        planned(rules=(("*", 1.0),), cache_features=True, random_crop=False)
    monkeypatch.setattr(caching, "BUDGET_BYTES", 1000)
    assert "cache_features = true keeps them all the same" in planned(random_crop=False).told
    assert not planned(random_crop=False, cache_features=True).against
    monkeypatch.setattr(caching, "SPARE_NETWORKS", 1 << 60)
    assert " 0.0 MB to spare" in planned(random_crop=False).told
    with pytest.raises(UsageError, match="to spare"):
        planned(random_crop=False, cache_features=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_features": "always"}, "allowed are 'auto', True, False"),
        ({"cache_features": 1}, "expected true, false or a text"),
        ({"cache_features": True}, "set crops_per_image, or random_crop = false"),
        ({"crops_per_image": 2, "random_crop": False}, "needs random_crop = true"),
        ({"crops_per_image": -1}, "at least 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        stage(**settings)


def run(recipe_file: Path, faces: dict[str, str], out: Path, *changes: str) -> tuple[Run, list[str]]:
    said: list[str] = []
    finished = fit(load_recipe(str(recipe_file), changes), {"target": faces["target"]}, out, say=said.append).run
    assert finished is not None
    return finished, said


@pytest.fixture
def frozen_recipe(tmp_path: Path) -> Path:
    """The second stage of the tiny recipe alone, on two crops of each image."""
    head, _, second = RECIPE.replace('["fer", "target"]', '["target"]').split("[[stage]]")
    file = tmp_path / "frozen.toml"
    file.write_text(f"{head}[[stage]]{second}".replace("epochs = 2", "epochs = 3\ncrops_per_image = 2"))
    return file


def test_a_run_with_kept_features_ends_as_one_without(
    frozen_recipe: Path, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, momentum and the order included. A kill leaves whole blocks, which the next run and another's trial use."""
    monkeypatch.setattr(features, "BATCH", 8)
    anew, said = run(frozen_recipe, faces, tmp_path / "anew", "two.cache_features=false")
    assert not any("features" in line for line in said)
    kept, said = run(frozen_recipe, faces, tmp_path / "kept")
    assert any("conv1 to conv5 frozen, computed once: features of 56 crops" in line for line in said)
    assert any("features of 56 crops computed in" in line for line in said)
    assert not (kept.path / "features").exists()
    folder = Path("stages") / "01-two"
    ends = [checkpoints.load(checkpoints.positions(each.path / folder)[0][2]).arrays for each in (anew, kept)]
    # weights, momentum and the generators of dropout after the last epoch
    for (name, one), (_, other) in zip(*(sorted(end.items()) for end in ends), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-7, err_msg=name)

    # all features of an image in one block, and in blocks of a batch, of which a kill leaves some
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "BLOCK_BYTES", 8 * ITEM)
    left = killed_while_computing(frozen_recipe, faces, tmp_path / "broken")
    broken, said = run(frozen_recipe, faces, tmp_path / "broken")
    assert any(f"features of {56 - left} crops computed in" in line for line in said), (left, said)
    assert sha256_file(broken.path / "model.weights.h5") == sha256_file(kept.path / "model.weights.h5")
    trial, said = run(frozen_recipe, faces, tmp_path / "trial", "two.learning_rate=0.02")
    assert any("all were there already" in line for line in said)
    assert sha256_file(trial.path / "model.weights.h5") != sha256_file(kept.path / "model.weights.h5")


def test_a_dry_run_tells_the_plan_and_counts_its_disk(
    frozen_recipe: Path, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for choice in ("'auto'", "false"):
        said: list[str] = []
        recipe = load_recipe(
            str(frozen_recipe), ["two.epochs=30000", "two.crops_per_image=1000", f"two.cache_features={choice}"]
        )
        fit(recipe, {"target": faces["target"]}, tmp_path / "run", dry_run=True, say=said.append)
        told.append(said)
    assert any("computed once: features of 21,014 crops, 1 MB" in line for line in told[0])
    disk = [float(said[-1].split(" MB")[0].split()[-1]) for said in told]
    assert disk[0] - disk[1] == pytest.approx(21_014 * ITEM / 1e6, abs=1)
    assert not (tmp_path / "run").exists()


def run_slowly(recipe_file: Path, faces: dict[str, str], out: Path) -> None:
    """The run in small blocks, which stops after the second: in a process of its own, which it changes."""
    write, written = features.Features._write, []

    def slow(*arguments: object) -> object:
        written.append(write(*arguments))
        if len(written) == 2:
            time.sleep(600)
        return written[-1]

    features.Features._write, features.BLOCK_BYTES, features.BATCH = slow, 8 * ITEM, 8
    run(recipe_file, faces, out)


def killed_while_computing(recipe_file: Path, faces: dict[str, str], out: Path) -> int:
    """Kill a run between two of its blocks; how many crops lie in whole blocks then."""
    process = processes.Forked(run_slowly, recipe_file, faces, out)
    root, deadline = features_root(out), time.monotonic() + 120
    while len(list(root.glob("*/*.features"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    blocks = list(root.glob("*/*.features"))
    assert len(blocks) == 2
    return sum(block.stat().st_size for block in blocks) // ITEM


def test_shared_features_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set used longest ago goes first; none of the last day, none in use."""
    monkeypatch.setattr(features, "SHARED_BYTES", 250)
    for age, name in enumerate(("new", "used", "old", "older")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000000-0123456789abcdef.features").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - age * 90_000,) * 2)
    trim(tmp_path, {"used"})
    assert {path.name for path in tmp_path.iterdir()} == {"new", "used"}
    trim(tmp_path, {"new", "used"})
    assert {path.name for path in tmp_path.iterdir()} == {"new", "used"}


def test_other_processes_may_write_and_trim_in_a_shared_folder(tmp_path: Path) -> None:
    """Another process makes, renames and removes files and sets all the while; stray files are left alone."""
    (tmp_path / "letter.txt").write_text("dear ...")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    writer = subprocess.Popen([sys.executable, "-c", _SECOND_WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        reader = object.__new__(Features)
        reader.folder = tmp_path / "set"
        for _ in range(1500):
            trim(tmp_path, set())
            stored_bytes(tmp_path)
            reader._whole_blocks(lambda line: None)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    assert (tmp_path / "letter.txt").exists() and (tmp_path / "photos" / "a.jpg").exists()


_SECOND_WRITER = """
import os, shutil, sys
root = sys.argv[1]
said = False
while True:
    folder = os.path.join(root, "set")
    os.makedirs(folder, exist_ok=True)
    for number in range(20):
        aside = os.path.join(folder, f".1.{number:06d}")
        with open(aside, "wb") as file:
            file.write(b"x")
        os.replace(aside, os.path.join(folder, f"{number:06d}-2d711642b726b044.features"))
        if not said:
            print("ready", flush=True)
            said = True
    shutil.rmtree(folder)
"""


def test_where_features_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert features_root(tmp_path) == tmp_path / "features"
    (tmp_path / "features" / "a").mkdir(parents=True)
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "shared"))
    assert features_root(tmp_path) == tmp_path / "shared" / "features"
    (tmp_path / "shared" / "features").mkdir(parents=True)
    discard(tmp_path)
    assert not (tmp_path / "features").exists() and (tmp_path / "shared" / "features").exists()
