"""A finished run says which answers are too unsure, by validation images that trained nothing and are no test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from emotiw_keras import Predictor, Stage, StagedFineTuner
from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.out_of_fold import read_out_of_fold
from emotiw_keras.runs import Run
from emotiw_keras.training import stage_sequence
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.recipe_tables import InputSettings
from emotiw_keras.uncertainty import UNCERTAINTY_FILE, usable_entropy

SHORT = ("stage.epochs=1", "near_duplicates=0")
NONE = "no answer will be called uncertain: that takes two validation images for each class, in files or arrays of bytes"


def trained(recipe: Path, faces: dict[str, str], out: Path, *changes: str) -> tuple[Run, list[str]]:
    said: list[str] = []
    run = fit(load_recipe(str(recipe), [*SHORT, *changes]), faces, out, say=said.append).run
    assert run is not None
    return run, said


def expected(run: Run, source: str, split: str = "val", **options: object) -> tuple[float, int]:
    """The entropy that evaluation's own answers give."""
    found = assess(run, source, split=split, near_duplicates=0, **options).predictions  # type: ignore[arg-type]
    read = found.readable
    return usable_entropy(found.truth[read], found.probabilities[read]), int(read.sum())


def check(run: Run, source: str, **options: object) -> None:
    usable = run.usable
    assert usable is not None and usable.chosen_on == "val" and usable.weights == run.fingerprint
    entropy, images = expected(run, source, **options)
    assert usable.entropy == pytest.approx(entropy, abs=1e-5) and usable.images == images


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_run_says_what_evaluation_would(
    precision: str, recipe_file: Path, faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, said = trained(recipe_file, faces, tmp_path / "run", f"precision={precision}")
    check(run, faces["target"])
    assert run.usable is not None
    line = f"answers with an entropy above {run.usable.entropy:.3f} will be called uncertain; by 14 validation images"
    if not run.usable.coverage:
        line = "all answers will be called uncertain: of 14 validation images"
    assert any(each.startswith(line) for each in said)
    photo = next(Path(faces["target"], "test").rglob("*.png"))
    assert emotiw(["predict", str(photo), "--model", str(run.path), "--faces", "whole", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["uncertain"] in (True, False) and "does not say which entropy" not in told.err


@pytest.mark.parametrize("val", ["[]", "['target:test']"])
def test_without_validation_images_it_says_nothing(val: str, recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    run, said = trained(recipe_file, faces, tmp_path / "run", f"two.val={val}")
    assert run.usable is None and any(line.startswith(NONE) for line in said)


def test_images_that_trained_the_run_choose_nothing(recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    changes = ("two.train=['target:train','target:val']", "duplicates=keep")
    run, said = trained(recipe_file, faces, tmp_path / "run", *changes)
    assert run.usable is None and any(line.startswith(NONE) for line in said)


def own(folder: Path, pixels: np.ndarray, held: int = 12, **settings: Any) -> tuple[Run, list[str]]:
    """A run of a user's own network on generated faces of three classes."""
    model = keras.Sequential(
        [keras.Input((24, 24, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    said: list[str] = []
    label = np.arange(len(pixels)) % 3
    stage = Stage("s", train=("d:train",), val=("d:val",), epochs=1, optimizer="adam", learning_rate=0.01)
    data = {"d": {"train": (pixels[held:], label[held:]), "val": (pixels[:held], label[:held])}}
    tuner = StagedFineTuner(model, [stage], data=data, run_dir=folder, say=said.append, **settings)
    run = tuner.fit()
    assert run is not None
    return run, said


@pytest.mark.parametrize("preprocessing", [None, InputSettings(channels="grey")], ids=["as they are", "prepared"])
def test_a_network_of_ones_own_says_what_its_predictor_would(preprocessing: InputSettings | None, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 1)).astype(np.uint8)
    run, said = own(tmp_path / "run", pixels, preprocessing=preprocessing)
    assert run.usable is not None and run.usable.images == 12 and not any(line.startswith(NONE) for line in said)
    answers = Predictor(run).predict(list(pixels[:12]))
    assert run.usable.entropy == pytest.approx(usable_entropy(np.arange(12) % 3, answers), abs=1e-5)


def test_why_a_network_of_ones_own_says_nothing_is_told_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 1)).astype(np.uint8)
    _, said = own(tmp_path / "numbers", pixels / np.float32(255))
    assert any("that takes faces as bytes, uint8, and this network was trained on numbers" in line for line in said)
    _, said = own(tmp_path / "few", pixels, 5)
    assert any(line.startswith(NONE) for line in said) and not any("emotiw pack" in line for line in said), (
        "which cannot make it again"
    )


def test_a_classifier_that_is_fitted_again_is_judged_by_its_folds(faces: dict[str, str], tmp_path: Path) -> None:
    head = tmp_path / "head.toml"
    head.write_text(
        'name = "head"\ndata = ["target"]\nprecision = "float32"\n[model]\nname = "face_vgg"\nwidth = 0.1\nfeatures = 5\n'
        '[[stage]]\nname = "head"\nkind = "head"\ntrain = ["target:train"]\nval = ["target:val"]\nrefit = true\n'
    )
    target = {"target": faces["target"]}

    def of(name: str, *changes: str) -> Run:
        found = fit(load_recipe(str(head), ["near_duplicates=0", *changes]), target, tmp_path / name).run
        assert found is not None
        return found

    again, once = of("again"), of("once", "head.refit=false")
    assert again.fingerprint != once.fingerprint and again.usable is not None and once.usable is not None
    check(once, faces["target"])
    kept = read_out_of_fold(again)
    assert kept is not None and again.usable.entropy == pytest.approx(usable_entropy(*kept), abs=1e-5)
    assert (again.usable.images, again.usable.chosen_on) == (len(kept[0]), "cross-validation")


def test_a_kill_before_it_is_written_changes_nothing(
    recipe_file: Path, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = trained(recipe_file, faces, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for place in ("settled", "write_info"):  # just before the file, and just before the run is said to be finished
        broken = tmp_path / place
        with monkeypatch.context() as patch:
            patch.setattr(stage_sequence, place, killed)
            with pytest.raises(Killed):
                trained(recipe_file, faces, broken)
        run, _ = trained(recipe_file, faces, broken)
        assert (run.path / UNCERTAINTY_FILE).read_bytes() == (whole.path / UNCERTAINTY_FILE).read_bytes()
