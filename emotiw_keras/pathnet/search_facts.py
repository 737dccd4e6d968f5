"""What a search may have left in a run folder: its state and its results, as `training.stage_facts` checks them."""

from __future__ import annotations

import re
from typing import Any

from emotiw_keras.pathnet.search import PathNetSettings, Search
from emotiw_keras.plain_facts import Holds, boolean, figure, integer, list_of, one_of, table_of, text
from emotiw_keras.training.stage_facts import COUNT, rows_of

_PATH = re.compile(r"\d{1,4}([-/]\d{1,4})*")


def log_of(name: str) -> Holds:
    """Rows of search.csv of one search."""
    expected: dict[str, Holds] = {
        "search": one_of(name), "kind": text, "path": lambda value: text(value) and bool(_PATH.fullmatch(value)),
        **dict.fromkeys(("generation", "individual", "won", "minibatches"), COUNT), "fitness": figure, "loss": figure,
    }  # fmt: skip

    def row(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() == expected.keys() and all(expected[key](value[key]) for key in value)

    return list_of(row)


def state_facts(search: Search) -> dict[str, tuple[Holds, str]]:
    """What the state of a search may be, by the names of `State`'s fields."""
    place = integer(0, search.population - 1), f"a whole number below {search.population}"
    return {
        **dict.fromkeys(("generation", "minibatches"), (COUNT, "a whole number")),
        "ended": (integer(0, search.generations), f"a whole number up to {search.generations}"),
        "last": place,
        "best": place,
        "rows": (rows_of(search.name), f"rows of search {search.name!r}, numbered from 1"),
        "log": (log_of(search.name), f"trials of search {search.name!r}"),
        "before": (table_of(text), "a table of hashes"),
    }


def done_facts(name: str, settings: PathNetSettings) -> dict[str, tuple[Holds, str]]:
    """What becomes of a search, beyond what every stage leaves."""
    modules = list_of(list_of(integer(0, settings.modules - 1)), settings.layers)
    return {
        **dict.fromkeys(("path", "reused", "frozen"), (modules, f"modules of {settings.layers} layers")),
        "generations": (COUNT, "a whole number"),
        "reached_target": (boolean, "true or false"),
        "fitness": (figure, "a number"),
        "log": (log_of(name), f"trials of search {name!r}"),
    }
