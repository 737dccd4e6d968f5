"""The commands that train a run again: those of the Makefile, whose `make reproduce` is tried in full."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.runs import Run
from emotiw_keras.training.again import fit_commands, how_to_make
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.start import parent_run
from emotiw_keras.training.teachers import teacher_runs
from emotiw_keras.weights.shipped import DEFAULT, shipped_models

ROOT = Path(__file__).resolve().parents[2]
VOTES = "--set source.fer.votes=fer2013new.csv"


def test_a_model_that_ships_is_trained_again_as_the_makefile_trains_it() -> None:
    rule = re.search(r"^reproduce:.*?\n\n", (ROOT / "Makefile").read_text(), re.DOTALL | re.MULTILINE)
    assert rule is not None
    loops = re.findall(r"for recipe in (.*?);(.*?)done", rule[0], re.DOTALL)
    made = {name: "source.fer.votes=" in fit for names, fit in loops for name in names.split()}
    *fits, pack = fit_commands(Run.open(DEFAULT)).splitlines()
    assert {line.split()[2]: VOTES in line and "source.fer.votes_rows=" in line for line in fits} == made
    assert [line.split()[2] for line in fits] == list(made), "in the same order"
    for before, line in zip(made, fits[:-1], strict=False):
        assert line.endswith(f"--out runs/{before}")
    assert pack.startswith(f"emotiw pack {DEFAULT}-again ") and "--crops 2 --head votes --votes fer2013new.csv" in pack
    assert "--crops 2 --head votes" in rule[0]


@pytest.mark.parametrize("name", shipped_models())
def test_the_card_of_a_model_that_ships_gives_these_commands(name: str) -> None:
    run = Run.open(name)
    assert fit_commands(run) in (run.path / "README.md").read_text()


def test_a_run_of_ones_own_names_where_its_votes_were(tmp_path: Path) -> None:
    shutil.copytree(Run.open(DEFAULT).path, tmp_path / "own")
    assert fit_commands(Run.open(tmp_path / "own")) == (
        f"emotiw fit {tmp_path}/own/recipe.toml --data fer=PATH {VOTES} --set source.fer.votes_rows=ferplus_rows.csv "
        f"--out {tmp_path}/own-again"
    )
    (tmp_path / "own" / "recipe.toml").unlink()
    assert "votes" not in fit_commands(Run.open(tmp_path / "own"))


def test_a_run_that_is_not_there_is_named_with_all_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        parent_run(load_recipe(DEFAULT, ["source.fer.votes=mine.csv"]))
    told = re.findall(
        r"`emotiw fit (\S+) --data fer=PATH (?:--set source.fer.votes=(\S+) )?--out runs/(\S+)`", str(caught.value)
    )
    names = ["fer28-face-vgg-base", "fer28-face-vgg-large", "fer28-face-vgg", "fer28-face-vgg-votes-base"]
    assert told == [(name, "mine.csv" if "votes" in name else "", name) for name in names]
    (tmp_path / "runs" / "fer28-face-vgg").mkdir(parents=True)
    assert how_to_make("runs/fer28-face-vgg-votes-base").count("emotiw fit") == 1, "what is there needs nothing before it"
    with pytest.raises(ModelError, match="teacher runs/fer28-face-vgg-base: there is no run folder .*makes it"):
        teacher_runs(load_recipe("fer28-face-vgg"), ("a", "b"), {})


@pytest.mark.parametrize("name", ["demo", "demo-direct"])
def test_a_recipe_that_has_its_data_is_not_told_to_be_given_them(name: str) -> None:
    assert how_to_make(f"runs/{name}") == f"; `emotiw fit {name} --out runs/{name}` makes it"


def test_a_teacher_that_ships_is_given_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = """ships: --set 'both.teachers=["fer28-face-vgg", "runs/other"]'"""
    both = ["both.teachers=['runs/fer28-face-vgg', 'runs/other']"]
    with pytest.raises(ModelError, match=f"teacher runs/fer28-face-vgg: .*; the model fer28-face-vgg {re.escape(told)}$"):
        teacher_runs(load_recipe("fer28-face-vgg-votes-base", both), ("a", "b"), {})
