"""What training starts from: what "auto" means, and the weights of another run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from emotiw_keras import hardware
from emotiw_keras.cli.fit import _network
from emotiw_keras.errors import ModelError, RunError, UsageError
from emotiw_keras.models.registry import get_spec
from emotiw_keras.training import start
from emotiw_keras.training.fit import fit
from emotiw_keras.training.prepared_data import photo_crop, prepare
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage_images import DROPPED, data_rows
from emotiw_keras.training.start import parent_run, run_of, start_model

BASE = "emotiw fit fer28-face-vgg-base --data fer=PATH --out runs/fer28-face-vgg-base"


@pytest.mark.parametrize(
    ("native", "gain", "policy"), [(False, 9.0, "float32"), (True, 0.54, "float32"), (True, 1.75, "mixed_bfloat16")]
)
def test_auto_is_bfloat16_where_it_is_native_and_faster(
    native: bool, gain: float, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "native_bfloat16", lambda: native)
    monkeypatch.setattr(start, "bfloat16_gain", lambda: gain)
    assert start.resolve_precision("auto") == policy
    assert start.resolve_precision("mixed_float16") == "mixed_float16"


def test_bfloat16_that_would_crash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "processor_flags", lambda: ("avx2", "avx512f", "avx512_bf16"))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    with pytest.raises(UsageError, match="unset it, or compute in float32"):
        start.resolve_precision("mixed_bfloat16")
    assert start.resolve_precision("auto") == "float32"
    monkeypatch.setattr(hardware, "processor_flags", lambda: ("avx2",))
    assert start.resolve_precision("mixed_bfloat16") == "mixed_bfloat16"


def test_the_gain_of_bfloat16_is_a_ratio_of_times() -> None:
    assert 0.001 < start.bfloat16_gain(side=64, rounds=2) < 1000


@pytest.mark.parametrize(
    ("readings", "crop"),
    [
        (("B",), {"reading": "B", "stretch": True}),
        (("C", "C"), {"reading": "C", "stretch": True}),
        (("B", ""), {"reading": "B", "stretch": False}),
        (("A", "C"), {"reading": "B", "stretch": False}),
    ],
)
def test_photos_are_cut_as_the_faces_trained_on(readings: tuple[str, ...], crop: dict[str, object]) -> None:
    stage = SimpleNamespace(train=[f"set{i}:train" for i in range(len(readings))])
    sets = {f"set{i}": SimpleNamespace(reading=reading) for i, reading in enumerate(readings)}
    assert photo_crop(stage, sets) == crop


@pytest.mark.parametrize("name", ["squeezenet", "face_vgg"])
def test_a_run_gives_its_weights_to_a_network_that_ends_in_another_layer(
    name: str, faces: dict[str, str], tmp_path: Path
) -> None:
    size = {"squeezenet": 67, "face_vgg": 48}[name]
    changes = [f"model.name={name}", "model.width=0.1", f"model.input_size={size}", "stage.epochs=1", "stage.batch_size=16"]
    recipe = load_recipe("fer28-scratch", changes, precision="float32")
    first = fit(recipe, {"fer": faces["fer"]}, tmp_path / "first").run
    assert first is not None
    second = load_recipe("fer28-scratch", [*changes, f"model.weights={tmp_path / 'first'}"], precision="float32")
    prepared = prepare(second, {"fer": faces["fer"]})
    model = start_model(prepared.recipe, prepared.info, prepared.parent, lambda line: None)
    known = {weight.path: weight.numpy() for weight in first.build().weights}
    assert model.weights and all(np.array_equal(weight.numpy(), known[weight.path]) for weight in model.weights)
    said: list[str] = []
    labels = [label.upper() for label in reversed(prepared.info["labels"])]
    turned = start_model(prepared.recipe, {**prepared.info, "labels": labels}, prepared.parent, said.append)
    bias = get_spec(name).classifier + "/bias"
    assert np.array_equal(known[bias][::-1], {each.path: each.numpy() for each in turned.weights}[bias])
    start_model(prepared.recipe, {**prepared.info, "labels": ["smirk", *labels[1:]]}, prepared.parent, said.append)
    assert "taken by class name" in said[0] and "it lacks the classes smirk, so" in said[1]


def test_what_the_run_before_saw_in_several_stages_is_recorded_once() -> None:
    row = {"stage": "fer", "path": "a.png", "pixel_hash": "a", "status": "train"}
    before = [row, row | {"status": "val"}, row | {"path": "b.png"}, row | {"status": "held out"}, row | {"stage": "settle"}]
    recorded = [(row["stage"], row["path"], row["status"]) for row in data_rows([], {}, {}, before)]
    assert recorded == [("weights", "a.png", "train"), ("weights", "a.png", "val"), ("weights", "b.png", "train")]


def test_what_one_run_before_left_out_and_another_used_is_recorded_as_used() -> None:
    row = {"stage": "fer", "path": "a.png", "pixel_hash": "a", "status": DROPPED}
    before = [row, row | {"path": "c.png", "pixel_hash": "c"}, row | {"stage": "taught", "status": "train"}]
    recorded = [(row["path"], row["status"]) for row in data_rows([], {}, {}, before)]
    assert recorded == [("c.png", DROPPED), ("a.png", "train")]
    taught = [(row["path"], row["status"]) for row in data_rows([], {}, {}, [], before)]
    assert taught == [("a.png", "train"), ("c.png", DROPPED)]


def test_a_run_that_a_shipped_recipe_makes_is_named_with_its_command(faces: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=f"`{BASE}` makes it"):
        prepare(load_recipe("fer28-face-vgg"), {"fer": faces["fer"]})


def test_a_model_that_ships_is_started_from_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("fer28-face-vgg-votes")
    assert run is not None and run.ships
    assert parent_run(load_recipe("finetune", ["model.weights=fer28-face-vgg-votes", "model.name=face_vgg"])) == run
    assert run_of("imagenet") is None and run_of("none") is None and run_of("nothing.h5") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fer28-face-vgg-votes").mkdir()
    with pytest.raises(RunError, match="not a run folder"):  # what lies there comes first, and is not passed over in silence
        run_of("fer28-face-vgg-votes")


def test_a_home_folder_is_found_and_the_advice_of_an_error_retrains_no_model_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.h5").write_bytes(b"weights")
    assert parent_run(load_recipe("finetune", ["model.weights=~/mine.h5"])) is None
    with pytest.raises(ModelError, match="the model fer28-face-vgg-votes ships: give its name alone") as caught:
        parent_run(load_recipe("finetune", ["model.weights=runs/fer28-face-vgg-votes"]))
    assert "emotiw fit" not in str(caught.value)
    with pytest.raises(ModelError, match=f"`{BASE}` makes it"):
        parent_run(load_recipe("finetune", ["model.weights=runs/fer28-face-vgg-base"]))


def test_a_run_gives_weights_to_a_network_of_its_own_name_and_size(faces: dict[str, str]) -> None:
    def ready(*changes: str) -> list[int]:
        side: list[int] = prepare(load_recipe("finetune", changes, precision="float32"), {"data": faces["target"]}).info[
            "model"
        ]["input_shape"]
        return side

    told = "model.input_size = 64, but fer28-face-vgg-votes, which gives the weights, was trained with 48; leave it out"
    with pytest.raises(UsageError, match=told):
        ready("model.input_size=64")
    assert ready("model.input_size=48") == ready() == [48, 48, 1]
    with pytest.raises(ModelError, match="fer28-face-vgg-votes holds face_vgg of width 1, asked for is alexnet of width 1"):
        ready("model.name=alexnet")  # whose name is told, not that 48 pixels are too few for it


def test_a_network_named_beside_its_run_has_the_size_and_width_of_that_run() -> None:
    named = [f"model.{key}" for key in ("name='face_vgg'", "width=1.0", "input_size=48")]
    assert _network("demo", None, "fer28-face-vgg-votes")[-3:] == named
    assert _network("demo", "face_vgg", "fer28-face-vgg-votes")[-3:] == named
