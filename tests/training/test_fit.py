"""From a recipe and folders to a run folder: what it holds, what it refuses, what it starts from."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import DataError, DivergedError, ModelError, OutputError, RunError, UsageError
from emotiw_keras.runs import BELIEVED, Run
from emotiw_keras.training import checkpoints
from emotiw_keras.training.class_weights import class_weights
from emotiw_keras.training.fit import Outcome, fit
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.run_writer import HISTORY_COLUMNS, differences, write_info
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_images import SPARED, stage_roles

from .conftest import write_faces


def train(recipe: Path, faces: dict[str, str], out: Path, *changes: str, **options: object) -> Outcome:
    said: list[str] = []
    outcome = fit(load_recipe(str(recipe), changes), faces, out, say=said.append, **options)  # type: ignore[arg-type]
    train.said = said  # type: ignore[attr-defined]
    return outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, faces: dict[str, str]) -> Run:
    """A finished run of the tiny recipe."""
    folder = tmp_path_factory.mktemp("fit")
    from .conftest import RECIPE

    (folder / "tiny.toml").write_text(RECIPE)
    run = train(folder / "tiny.toml", faces, folder / "run").run
    assert run is not None
    return run


def test_the_run_folder_is_the_contract(finished: Run) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert {"recipe.toml", "run.json", "data.csv", "history.csv", "model.weights.h5", "stages", "events", "curves.png"} <= names
    page = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    lacking = {name for name in (*names, *BELIEVED) if f"`{name}`" not in page and f"`{name}/`" not in page}
    assert not lacking, f"docs/run-folder.md does not list {lacking}"
    with open(finished.path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        ("one", "1"),
        ("one", "2"),
        ("one", "3"),
        ("two", "1"),
        ("two", "2"),
    ]
    recipe = tomllib.loads((finished.path / "recipe.toml").read_text())
    assert recipe["stage"][0]["momentum"] == 0.9 and recipe["seed"] == 0
    (events,) = (finished.path / "events" / "one").glob("events.out.tfevents.*")
    parsed = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(events))]
    assert [event.step for event in parsed[1:]] == [1, 2, 3]
    losses = [value.simple_value for event in parsed[1:] for value in event.summary.value if value.tag == "val_loss"]
    assert losses == pytest.approx([float(row["val_loss"]) for row in rows[:3]])
    assert {path.name for path in (finished.path / "stages").iterdir()} == {"01-one", "02-two"}
    for folder in (finished.path / "stages").iterdir():
        assert (folder / "done.json").is_file()
        assert len(checkpoints.positions(folder)) == 2 and len(list(folder.glob("best-*.npz"))) in (1, 2)
    assert not list(finished.path.rglob(".*"))


def test_the_best_epoch_is_kept_and_starts_the_next_stage(finished: Run) -> None:
    with open(finished.path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    for number, stage in enumerate(finished.info["stages"], 1):
        values = [float(row["val_accuracy"]) for row in rows if row["stage"] == stage["name"]]
        assert stage["best_epoch"] == int(np.argmax(values)) + 1
        assert stage["val_accuracy"] == max(values)
        best = checkpoints.load(finished.path / "stages" / f"{number:02d}-{stage['name']}" / stage["best_file"])
        if number == 1:
            first = {"/".join(name.split("/")[-2:]): value for name, value in best.arrays.items()}
    second = {"/".join(v.path.split("/")[-2:]): v.numpy() for v in finished.build().weights}
    assert all(np.array_equal(second[path], first[path]) == path.startswith("conv") for path in second)  # conv* is frozen


def test_the_weights_of_a_best_epoch_are_written_once(finished: Run) -> None:
    found = [item for folder in (finished.path / "stages").iterdir() for item in checkpoints.positions(folder)]
    once = 0
    for epoch, _, path in found:
        with np.load(path) as file:
            holds = any(name.startswith("array/model/") for name in file.files)
        checkpoint = checkpoints.load(path)
        best = checkpoint.meta["state"]["best"]
        assert holds == (best["epoch"] != epoch)
        weights = {name: value for name, value in checkpoint.arrays.items() if name.startswith("model/")}
        assert weights
        if not holds:
            once += 1
            same = checkpoints.load(path.with_name(best["file"])).arrays
            assert weights.keys() == same.keys() and all(np.array_equal(weights[name], same[name]) for name in same)
    assert once


def test_validation_accuracy_is_that_of_the_finished_network(finished: Run, faces: dict[str, str]) -> None:
    images = load_faces(faces["target"], grey=True)
    index = images.indices("val")
    probabilities = keras.ops.convert_to_numpy(finished.build()(finished.face_input()(images.pixels.gather(index))))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert (probabilities.argmax(axis=1) == images.label[index]).mean() == pytest.approx(
        finished.info["stages"][1]["val_accuracy"]
    )


def test_data_csv_records_every_image_of_every_stage(finished: Run) -> None:
    rows = finished.rows()
    assert len(rows) == 2 * (70 + 49)
    assert {(row["stage"], row["data"], row["split"], row["status"]) for row in rows} == {
        ("one", "fer", "train", "train"),
        ("one", "fer", "val", "val"),
        ("one", "fer", "test", "held out"),
        ("two", "target", "train", "train"),
        ("two", "target", "val", "val"),
        ("two", "target", "test", "held out"),
        *(
            (stage, data, split, "held out")
            for stage, data in (("one", "target"), ("two", "fer"))
            for split in ("train", "val", "test")
        ),
    }
    seen = finished.seen()
    assert {role: len(hashes) for role, hashes in seen.items()} == {"train": 63, "val": 28, "test": 28}
    assert len(finished.selected_on) == 14


def test_the_same_command_again_says_that_it_is_finished(finished: Run, faces: dict[str, str], recipe_file: Path) -> None:
    before = (finished.path / "run.json").read_bytes()
    assert train(recipe_file, faces, finished.path).run is not None
    assert any("is finished already" in line for line in train.said)  # type: ignore[attr-defined]
    assert (finished.path / "run.json").read_bytes() == before


def test_another_recipe_or_other_data_is_refused_and_the_difference_named(
    finished: Run, faces: dict[str, str], recipe_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="stage.two.learning_rate: 0.005 -> 0.5.*--restart"):
        train(recipe_file, faces, finished.path, "two.learning_rate=0.5")
    other = write_faces(tmp_path / "other", {"train": 42, "val": 14, "test": 14}, seed=77)
    with pytest.raises(RunError, match=r"data.fer.fingerprint"):
        train(recipe_file, {**faces, "fer": str(other)}, finished.path)


def test_restart_keeps_the_old_run_under_another_name(
    finished: Run, faces: dict[str, str], recipe_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.path, tmp_path / "run")
    old = (tmp_path / "run" / "model.weights.h5").read_bytes()
    train(recipe_file, faces, tmp_path / "run", "stage.epochs=1", "stage.batch_size=32", "seed=1", restart=True)
    assert (tmp_path / "run.old-1" / "model.weights.h5").read_bytes() == old
    assert (tmp_path / "run" / "model.weights.h5").read_bytes() != old


def test_a_folder_that_is_no_run_is_left_alone(faces: dict[str, str], recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("...")
    with pytest.raises(RunError, match="is not a run folder .*dear.txt"):
        train(recipe_file, faces, tmp_path / "letters")
    (tmp_path / "file").write_text("...")
    with pytest.raises(OutputError, match="is a file"):
        train(recipe_file, faces, tmp_path / "file")


def test_damaged_and_foreign_versions_of_run_json_are_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run.json"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 1')
    with pytest.raises(RunError, match="is damaged"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="format 99"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**finished.info, "finished": False}))
    with pytest.raises(RunError, match="is not finished"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(finished.info))
    with pytest.raises(RunError, match="model.weights.h5 is missing"):
        Run.open(tmp_path)
    content = bytearray((finished.path / "model.weights.h5").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "model.weights.h5").write_bytes(content)
    with pytest.raises(RunError, match="SHA-256"):
        Run.open(tmp_path).build()


def test_a_loss_that_is_no_number_stops_the_stage_and_keeps_the_best_epoch(
    faces: dict[str, str], recipe_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match=r"stage 'two' diverged: the loss is (nan|inf).*epoch \d+, step \d+, learning rate"):
        train(recipe_file, faces, tmp_path / "run", "two.learning_rate=100", "two.momentum=0.9999", "two.epochs=50")
    assert (tmp_path / "run" / "stages" / "01-one" / "done.json").is_file()
    assert not (tmp_path / "run" / "model.weights.h5").exists()


def test_weights_of_a_run_start_another_with_classes_taken_by_name(
    finished: Run, faces: dict[str, str], recipe_file: Path, tmp_path: Path
) -> None:
    """One epoch at a rate that moves nothing visible: the new run answers as the old one, its outputs in the folder's order."""
    changes = [f"model.weights={str(finished.path)!r}", "labels=folder", "stage.epochs=1", "stage.batch_size=64"]
    changes += ["stage.learning_rate=1e-12", "stage.weight_decay=0.0", "two.initialise=[]"]
    run = train(recipe_file, faces, tmp_path / "run", *changes).run
    assert run is not None
    assert run.labels == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise") != finished.labels
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    new = keras.ops.convert_to_numpy(run.build()(run.face_input()(images)))
    old = keras.ops.convert_to_numpy(finished.build()(finished.face_input()(images)))
    np.testing.assert_allclose(new, old[:, [finished.labels.index(label) for label in run.labels]], atol=1e-5)
    assert finished.seen()["train"] <= run.seen()["train"]
    with pytest.raises(ModelError, match="holds alexnet of width 0.05.*--model alexnet --set model.width=0.05"):
        train(recipe_file, faces, tmp_path / "wide", *changes, "model.width=0.1")


def test_missing_weights_are_an_error_and_never_random(
    faces: dict[str, str], recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="no such file"):
        train(recipe_file, faces, tmp_path / "run", "model.weights=nothing.h5")
    with pytest.raises(ModelError, match="emotiw weights fetch alexnet"):
        train(recipe_file, faces, tmp_path / "run", "model.weights=imagenet", "model.width=1.0", "model.input_size=0")


def test_data_sets_are_asked_for_by_name(faces: dict[str, str], recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --data target=PATH"):
        train(recipe_file, {"fer": faces["fer"]}, tmp_path / "run")
    with pytest.raises(UsageError, match="knows the data sets fer, target"):
        train(recipe_file, {**faces, "other": "x"}, tmp_path / "run")


def test_a_run_goes_on_though_its_recipe_is_described_otherwise(finished: Run, faces: dict[str, str], tmp_path: Path) -> None:
    text = (finished.path.parent / "tiny.toml").read_text(encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(f'description = "other words"\n{text}', encoding="utf-8")
    run = train(tmp_path / "tiny.toml", faces, finished.path).run
    assert run is not None and run.fingerprint == finished.fingerprint


def test_a_dry_run_writes_nothing(faces: dict[str, str], recipe_file: Path, tmp_path: Path) -> None:
    assert train(recipe_file, faces, tmp_path / "run", dry_run=True).run is None
    assert not (tmp_path / "run").exists()
    text = "\n".join(train.said)  # type: ignore[attr-defined]
    assert "stage one: 3 epochs of 6 steps" in text and "trainable parameters" in text and "nothing was written" in text


def test_a_dry_run_computes_for_a_bounded_time(
    faces: dict[str, str], recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotiw_keras.training import estimate
    from emotiw_keras.training import fit as module

    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(estimate, "TIMING_SECONDS", -1.0)
    assert train(recipe_file, faces, tmp_path / "run", dry_run=True).run is None
    text = "\n".join(train.said)  # type: ignore[attr-defined]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for place, kind, words in ((recipe_file, OutputError, "is a file"), (tmp_path / "mine", RunError, "holds letter.txt")):
        with pytest.raises(kind, match=words):
            train(recipe_file, faces, place, dry_run=True)
    assert "looked at 0 of 70 images, the others taken on trust" in text
    assert "stage one: trains on 42 images" in text  # what nobody has looked at is nobody's twin
    assert "trainable parameters, not timed" in text and "the time below is without one" in text


def test_the_time_of_a_dry_run_is_not_that_of_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    from emotiw_keras.training import estimate

    clock, lasts = [0.0], iter([12.0, 2.0, 1.0, 3.0])
    monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def step() -> None:
        clock[0] += next(lasts)

    assert estimate._best(step) == 1 / estimate.BATCH


def test_a_dry_run_times_the_threads_that_are_asked_for(
    faces: dict[str, str], recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotiw_keras.training import fit as module
    from emotiw_keras.training.stages import Stages

    order: list[object] = []
    monkeypatch.setattr(module, "start_tensorflow", order.append)
    monkeypatch.setattr(Stages, "describe", lambda *given: order.append("timed"))
    train(recipe_file, faces, tmp_path / "run", "precision=float32", dry_run=True, threads=1)
    assert order == [1, "timed"]


def test_a_dry_run_opens_what_a_run_would_start_from(finished: Run, faces: dict[str, str], tmp_path: Path) -> None:
    recipe = finished.path.parent / "tiny.toml"
    weights, image = tmp_path / "start.weights.h5", tmp_path / "mean.npy"
    weights.write_bytes((finished.path / "model.weights.h5").read_bytes()[:-200])
    np.save(image, np.zeros((5, 5, 3), np.float32))
    for change, kind, words in (
        (f"model.weights='{weights}'", ModelError, "start.weights.h5"),
        (f"preprocessing.mean_image='{image}'", DataError, r"mean image has shape \(5, 5, 3\)"),
    ):
        with pytest.raises(kind, match=words):
            train(recipe, faces, tmp_path / "run", change, dry_run=True)
    shutil.copy(finished.path / "model.weights.h5", weights)
    with pytest.raises(ModelError, match="does not fit"):
        train(recipe, faces, tmp_path / "run", f"model.weights='{weights}'", "model.width=0.06", dry_run=True)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="accumulates 100 batches for an update"):
            train(recipe, faces, tmp_path / "run", "one.accumulate=100", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_a_run_hands_its_mean_image_on(finished: Run, faces: dict[str, str], recipe_file: Path, tmp_path: Path) -> None:
    side = finished.settings["resize"]
    image = np.random.default_rng(0).uniform(100, 150, (side, side, 3)).astype(np.float32)
    np.save(tmp_path / "mean.npy", image)
    train(recipe_file, faces, tmp_path / "first", "stage.epochs=1", f"preprocessing.mean_image='{tmp_path / 'mean.npy'}'")
    second = train(recipe_file, faces, tmp_path / "second", "stage.epochs=1", f"model.weights='{tmp_path / 'first'}'").run
    assert second is not None
    np.testing.assert_array_equal(second.face_input().mean_image, image)
    same = (f"model.weights='{tmp_path / 'first'}'", f"preprocessing.mean_image='{tmp_path / 'mean.npy'}'")
    train(recipe_file, faces, tmp_path / "third", *same, dry_run=True)
    np.save(tmp_path / "mean.npy", image + 1)
    with pytest.raises(
        UsageError,
        match="preprocessing.mean_image = .*mean.npy', but .*first, which gives the weights, was trained with 'mean_image.npy'",
    ):
        train(recipe_file, faces, tmp_path / "third", *same, dry_run=True)


def test_preprocessing_that_weights_were_not_trained_with_is_refused(
    finished: Run, faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to be taken and not heeded; a recipe's own gives way to that of weights which the command line names."""
    recipe, weights = str(finished.path.parent / "tiny.toml"), str(finished.path)
    command = ["fit", recipe, "--weights", weights, "--out", str(tmp_path / "run"), "--dry-run"]
    command += [word for name, path in faces.items() for word in ("--data", f"{name}={path}")]
    for change in ("mean=[1.0, 2.0, 3.0]", "channels=rgb", "min_max=true"):
        key = change.partition("=")[0]
        assert emotiw([*command, "--set", f"preprocessing.{change}"]) == 2
        assert f"preprocessing.{key} = " in capsys.readouterr().err
    assert finished.settings["mean"] != [1.0, 2.0, 3.0]
    other = tmp_path / "other.toml"
    other.write_text(Path(recipe).read_text().replace("mean = [128.0, 128.0, 128.0]", "mean = [1.0, 2.0, 3.0]"))
    assert "[1.0, 2.0, 3.0]" in other.read_text() and emotiw([*command[:1], str(other), *command[2:]]) == 0
    # A run of a version that wrote the recipe's own down goes on.
    changes = (f"model.weights={weights!r}", "stage.epochs=1")
    run = train(Path(recipe), faces, tmp_path / "made", *changes).run
    assert run is not None
    (run.path / "recipe.toml").write_text((run.path / "recipe.toml").read_text().replace("128.0", "7.0"))
    write_info(run.path, dict(run.info))
    assert train(Path(recipe), faces, tmp_path / "made", *changes).run.fingerprint == run.fingerprint


def test_unreadable_images_are_left_out_named_and_counted(recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "fer", {"train": 21, "val": 7, "test": 7})
    (folder / "train" / "happy" / "broken.png").write_bytes(b"not an image")
    outcome = train(recipe_file, {**faces, "fer": str(folder)}, tmp_path / "run", "stage.epochs=1")
    assert len(outcome.unreadable) == 1 and "broken.png" in outcome.unreadable[0]
    assert outcome.run is not None
    status = {row["status"] for row in outcome.run.rows() if row["path"].endswith("broken.png")}
    assert len(status) == 1 and "held out" not in status and "train" not in status


def test_twins_of_val_and_test_leave_training_unless_kept(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "fer", {"train": 21, "val": 7, "test": 7})
    twin = next((folder / "test" / "happy").glob("*.png"))
    Image.open(twin).save(folder / "train" / "happy" / "twin.png")
    sets = {"fer": load_faces(folder), "target": load_faces(write_faces(tmp_path / "target", {"train": 14, "val": 7}, seed=9))}
    stage = Stage("s", train=("fer:train",), val=("fer:val",))
    dropped = stage_roles(stage, sets, drop=True)
    assert [sets["fer"].paths[i] for i in dropped.dropped["fer"]] == ["train/happy/twin.png"]
    assert len(dropped.train["fer"]) == 21 and len(stage_roles(stage, sets, drop=False).train["fer"]) == 22
    both = stage_roles(Stage("s", train=("fer:train", "fer:test", "target:train"), val=("fer:val",)), sets, drop=True)
    assert len(both.train["fer"]) == 29 and len(both.train["target"]) == 14 and not len(both.dropped["fer"])


@pytest.mark.slow
def test_a_share_of_the_training_images_is_of_every_class_and_told(faces: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "half.toml").write_text(
        'name = "half"\ndata = ["fer"]\n[model]\nname = "alexnet"\nwidth = 0.05\ninput_size = 67\n[[stage]]\n'
        'name = "s"\ntrain = ["fer:train"]\nval = ["fer:val"]\nepochs = 1\ntrain_share = 0.34\n'
    )
    lines: list[str] = []
    made = {seed: fit(load_recipe(str(tmp_path / "half.toml"), seed=seed), {"fer": faces["fer"]}, tmp_path / f"{seed}",
                      say=lines.append).run for seed in (0, 1)}  # fmt: skip
    taken = {}
    for seed, run in made.items():
        assert run is not None
        rows = [row for row in run.rows() if row["split"] == "train"]
        taken[seed] = {row["path"] for row in rows if row["status"] == "train"}
        of = Counter(row["label"] for row in rows if row["status"] == "train")
        whole = Counter(row["label"] for row in rows)
        assert dict(of) == {label: max(1, round(0.34 * count)) for label, count in whole.items()}
        spared = [row for row in rows if row["status"] == SPARED]
        assert len(spared) + len(taken[seed]) == len(rows) and run.info["stages"][0]["images"] == len(taken[seed])
        assert not run.seen()["train"] & {row["pixel_hash"] for row in spared}
        assert any(f"; {len(spared)} not taken, by train_share" in line for line in lines)
    assert taken[0] != taken[1]


def test_sets_of_other_sizes_train_together(faces: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "joint.toml").write_text(
        'name = "joint"\ndata = ["fer", "target"]\n[model]\nname = "alexnet"\nwidth = 0.05\ninput_size = 67\n[[stage]]\n'
        'name = "joint"\ntrain = ["fer:train", "target:train"]\nval = ["target:val"]\nepochs = 1\nclass_weight = "balanced"\n'
    )
    run = train(tmp_path / "joint.toml", faces, tmp_path / "run").run
    assert run is not None and run.info["stages"][0]["images"] == 63


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_half_precision_trains_with_weights_in_float32(
    precision: str, faces: dict[str, str], recipe_file: Path, tmp_path: Path
) -> None:
    """The losses are those of float32 but for rounding and other dropout masks."""
    run, whole = (
        train(recipe_file, faces, tmp_path / kind, f"precision={kind!r}", "stage.epochs=2").run
        for kind in (precision, "float32")
    )
    assert keras.config.dtype_policy().name == "float32", "the policy of a recipe is not left to what comes after"
    assert run is not None and whole is not None and run.info["precision"] == precision
    assert {str(variable.dtype) for variable in run.build().weights} == {"float32"}
    losses = []
    for folder in (run.path, whole.path):
        with open(folder / "history.csv") as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file) if row["stage"] == "one"][:2])
    assert losses[0] == pytest.approx(losses[1], rel=0.15) and losses[0] != losses[1]
    assert not run.info["stages"][0]["did_not_move"]


def test_balanced_weights_recomputed() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    np.testing.assert_allclose(class_weights(labels, 4, "balanced"), [6 / 9, 2.0, 1.0, 0.0])
    np.testing.assert_allclose(class_weights(labels, 4, "none"), np.ones(4))


def test_effective_weights_recomputed() -> None:
    labels = np.repeat([0, 1, 3], [1000, 10, 100])
    got = class_weights(labels, 4, "effective")
    inverse = np.array([(1 - 0.999) / (1 - 0.999**n) for n in (1000, 10, 100)])
    np.testing.assert_allclose(got[[0, 1, 3]] / got[0], inverse / inverse[0], rtol=1e-5)
    assert got[2] == 0 and got[labels].mean() == pytest.approx(1)


def test_differences_name_keys_and_values() -> None:
    old = {"a": 1, "stage": [{"name": "x", "lr": 1}, {"name": "y", "lr": 2}]}
    new = {"a": 1, "stage": [{"name": "x", "lr": 1}, {"name": "y", "lr": 3}], "b": None}
    assert differences(old, new) == ["stage.y.lr: 2 -> 3"]


def test_a_stage_without_training_images_is_an_error(faces: dict[str, str], recipe_file: Path, tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "fer", {"train": 21, "test": 7})
    with pytest.raises(DataError, match="'val'.*it has train, test.*val_share above 0"):
        train(recipe_file, {**faces, "fer": str(folder)}, tmp_path / "run", "source.fer.val_share=0")


def test_fer28_leaves_703_training_images_out(shared_data: Path) -> None:
    sets = {"fer": load_faces(shared_data / "fer2013" / "fer2013_jpg.zip", near_duplicates=0)}
    roles = stage_roles(Stage("s", train=("fer:train",), val=("fer:val",)), sets, drop=True)
    trained = {sets["fer"].pixel_hash[i] for i in roles.train["fer"]}
    judged = {sets["fer"].pixel_hash[i] for i in np.flatnonzero(sets["fer"].split != "train")}
    assert (len(roles.train["fer"]), len(roles.dropped["fer"])) == (28_006, 703)
    assert not trained & judged
