"""Where a later stage ends worse than one before it, that is said, and the better one is kept on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.errors import UsageError
from emotiw_keras.training import checkpoints
from emotiw_keras.training.fit import fit
from emotiw_keras.training.keep import kept_stage
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import Stage

from .test_first_hour import RECIPE

# A rate at which a network forgets, and does not diverge.
SECOND = """
[[stage]]
name = "worse"
train = ["data:train"]
val = ["data:val"]
epochs = 1
batch_size = 16
optimizer = "adam"
learning_rate = 0.2
schedule = "constant"
"""


def stages(*monitors: str, val: tuple[str, ...] = ("a:val",)) -> list[Stage]:
    return [Stage(f"s{i}", train=("a:train",), val=val, monitor=monitor) for i, monitor in enumerate(monitors)]


@pytest.mark.parametrize(
    ("monitor", "values", "keep", "kept", "words"),
    [
        ("val_accuracy", [0.6, 0.5], "last", 1, "warning: stage s1 ends with val_accuracy 50.0%, worse than before: stage s0"),
        ("val_accuracy", [0.6, 0.5], "best", 0, "stage s0 is kept: stage s1 ends with val_accuracy 50.0%, s0 ends"),
        ("val_accuracy", [0.5, 0.7, 0.6], "best", 1, "stage s1 is kept"),
        ("val_accuracy", [0.6, 0.6], "best", 1, ""),
        ("val_loss", [0.6, 0.5], "best", 1, ""),
        (
            "val_loss",
            [0.5, 0.6],
            "best",
            0,
            "is kept: stage s1 ends with val_loss 0.6000, s0 ends with val_loss 0.5000",
        ),
    ],
)
def test_the_best_of_stages_that_choose_alike(monitor: str, values: list[float], keep: str, kept: int, words: str) -> None:
    said: list[str] = []
    results = [{monitor: value} for value in values]
    assert kept_stage(stages(*[monitor] * len(values)), results, keep, said.append) == kept
    assert len(said) == bool(words) and words in "".join(said)


def test_stages_that_choose_otherwise_are_not_compared() -> None:
    said: list[str] = []
    results = [{"val_accuracy": 0.9, "val_loss": 0.1}, {"val_accuracy": 0.5, "val_loss": 0.9}]
    assert kept_stage(stages("val_accuracy", "val_loss"), results, "best", said.append) == 1
    other = [stages("val_accuracy", val=("b:val",))[0], stages("val_accuracy")[0]]
    assert kept_stage(other, results, "best", said.append) == 1
    assert kept_stage(stages("val_accuracy", "val_accuracy", val=()), results, "best", said.append) == 1 and not said


def test_a_run_keeps_the_stage_that_is_asked_for(faces: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(RECIPE + SECOND)
    said: list[str] = []
    recipe = load_recipe(str(tmp_path / "two.toml"), ["keep=best", "labels=basic7", "stage.monitor=val_loss"])
    run = fit(recipe, {"data": faces["fer"]}, tmp_path / "run", say=said.append).run
    assert run is not None and run.info["kept"] == "s" and any(line.startswith("stage s is kept") for line in said)
    done = checkpoints.load(next((run.path / "stages" / "01-s").glob("best-*.npz")))
    stored = [value for name, value in sorted(done.arrays.items()) if name.startswith("model/")]
    for variable, value in zip(run.build().variables, stored, strict=True):
        if value.dtype.kind == "f":  # the others are where dropout draws from next
            np.testing.assert_array_equal(variable.numpy(), value)
    assert fit(recipe, {"data": faces["fer"]}, tmp_path / "run").run == run


def test_a_recipe_that_says_nothing_of_it_is_written_as_it_was_before_there_was_a_choice() -> None:
    recipe = load_recipe("fer28-scratch", ["source.fer.leave_out=['contempt']"])
    assert "keep" not in recipe.to_toml() and "val_share" not in recipe.to_toml()
    changed = load_recipe("fer28-scratch", ["keep=best", "source.fer.val_share=0.2"]).to_toml()
    assert 'keep = "best"' in changed and "val_share = 0.2" in changed


def test_a_last_stage_without_val_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(RECIPE + SECOND)
    with pytest.raises(
        UsageError, match="keep is 'best', but stage 'worse', the last, has no val to be compared on; name sets"
    ):
        load_recipe(str(tmp_path / "two.toml"), ["keep=best", "worse.val=[]"])
    load_recipe(str(tmp_path / "two.toml"), ["keep=best", "s.val=[]"])


def test_a_search_has_nothing_to_keep() -> None:
    with pytest.raises(UsageError, match="keep is 'best'; a search keeps"):
        load_recipe("pathnet", ["keep=best"])
