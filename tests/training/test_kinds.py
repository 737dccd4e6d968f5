"""A kind of recipe of one's own needs its module and a row in `KINDS`, and nothing of `training` knows it otherwise."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from emotiw_keras.errors import UsageError
from emotiw_keras.training import kinds
from emotiw_keras.training.checked_fields import SettingError, setting
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import Recipe, load_recipe, parse_recipe
from emotiw_keras.training.stage import Part

TEXT = """
name = "probing"
data = ["fer"]
[bench]
height = 2
[[probe]]
name = "one"
train = ["fer:train"]
depth = 4
"""


@dataclass(frozen=True)
class Probe(Part):
    table: ClassVar[str] = "probe"
    depth: int = setting(1, low=1)


@dataclass(frozen=True)
class Bench:
    height: int = setting(1, low=1)


class Probes(kinds.Kind):
    part = Probe
    tables: ClassVar[Mapping[str, type]] = {"bench": Bench}
    selects = False

    def check(self, recipe: Recipe) -> None:
        if recipe.stages[0].depth > 9:
            raise SettingError(f"depth of probe 'one' is {recipe.stages[0].depth}, expected 9 at most", "depth")

    def describe(self, prepared: Any, folder: Path, say: Callable[[str], None]) -> None:
        images = sum(map(len, prepared.roles["one"].train.values()))
        say(f"would probe {images} images {prepared.recipe.stages[0].depth} deep from {prepared.recipe.tables['bench'].height}")


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("probes_of_a_test")
    module.KIND = Probes()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(kinds.KINDS, "probe", module.__name__)


def test_its_recipes_are_read_written_and_changed(tmp_path: Path) -> None:
    recipe = parse_recipe(TEXT, "text")
    assert recipe.stages == (Probe("one", ("fer:train",), depth=4),) and recipe.table == "probe"
    assert parse_recipe(recipe.to_toml(), "again") == recipe
    file = tmp_path / "probing.toml"
    file.write_text(TEXT)
    changed = load_recipe(str(file), ["probe.depth=5", "bench.height=3"])
    assert (changed.stages[0].depth, changed.tables["bench"].height) == (5, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("depth = 4", "depth = 0"), r"text, line 9: depth of probe 'one' is 0"),
        (("depth = 4", "depth = 10"), r"text, line 9: depth of probe 'one' is 10, expected 9 at most"),
        (("[[probe]]", "[[stage]]"), r"\[bench\] belongs to a recipe with \[\[probe\]\]"),
        (("height = 2", "height = 0"), r"text, line 5: height of bench is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(change: tuple[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_recipe(TEXT.replace(*change), "text")


def test_it_is_asked_what_a_run_would_be(tmp_path: Path) -> None:
    said: list[str] = []
    fit(parse_recipe(TEXT, "text"), {"fer": "generated:large"}, tmp_path / "run", dry_run=True, say=said.append)
    assert "would probe 2100 images 4 deep from 2" in said
    assert any(line.startswith("probe one: trains on 2,100 images") for line in said)
    assert not (tmp_path / "run").exists()
