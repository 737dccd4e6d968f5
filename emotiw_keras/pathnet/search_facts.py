"""What a search may have left in a run folder: its state and its results, as `training.stage_facts` checks them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from emotiw_keras.errors import RunError
from emotiw_keras.pathnet.search import PathNetSettings, Search
from emotiw_keras.plain_facts import Holds, boolean, figure, integer, list_of, one_of, table_of, text
from emotiw_keras.training.stage_facts import COUNT, check, rows_of

_PATH = re.compile(r"\d{1,4}([-/]\d{1,4})*")


def log_of(name: str, settings: PathNetSettings) -> Holds:
    """Rows of search.csv of one search."""

    def path(value: Any) -> bool:
        if not text(value) or not _PATH.fullmatch(value):
            return False
        layers = [list(map(int, genes.split("-"))) for genes in value.split("/")]
        return len(layers) == settings.layers and all(gene < settings.modules for genes in layers for gene in genes)

    expected: dict[str, Holds] = {
        "search": one_of(name), "kind": text, "path": path,
        **dict.fromkeys(("generation", "individual", "won", "minibatches"), COUNT), "fitness": figure, "loss": figure,
    }  # fmt: skip

    def row(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() == expected.keys() and all(expected[key](value[key]) for key in value)

    return list_of(row)


def check_state(state: Mapping[str, Any], search: Search, settings: PathNetSettings, where: str) -> None:
    """RunError for a state of a search (`State`) that cannot be meant.

    Args:
        state: its fields.
        search: whose it is.
        settings: how many modules there are.
        where: the checkpoint.
    """
    place = integer(0, search.population - 1), f"a whole number below {search.population}"
    facts: dict[str, tuple[Holds, str]] = {
        **dict.fromkeys(("generation", "minibatches"), (COUNT, "a whole number")),
        "ended": (integer(0, search.generations), f"a whole number up to {search.generations}"),
        "last": place,
        "best": place,
        "rows": (rows_of(search.name), f"rows of search {search.name!r}, numbered from 1"),
        "log": (log_of(search.name, settings), f"trials of search {search.name!r}"),
        "before": (table_of(text), "a table of hashes"),
    }
    check(state, facts, where)
    done, ended, rows = state["generation"], state["ended"], len(state["rows"])
    if rows != done or (done < ended if ended else done >= search.generations):
        raise RunError(
            f"{where} is damaged: it says {done} generations, {rows} rows, and that the search ended after {ended}; begin anew "
            "with --restart"
        )


def check_arrays(
    arrays: Mapping[str, np.ndarray], facts: Mapping[str, tuple[int | None, ...]], modules: int, where: str
) -> None:
    """RunError for arrays of a checkpoint that are missing, of another shape or type, or name modules that there are not.

    Args:
        arrays: by name.
        facts: shapes of some, None for a side of any length.
        modules: how many there are in a layer.
        where: the checkpoint.
    """
    kinds = {"population": "iu", "frozen": "b"}
    for name, shape in facts.items():
        found = arrays.get(name)
        fits = found is not None and len(found.shape) == len(shape) and found.dtype.kind in kinds.get(name, "f")
        if not fits or any(wanted not in (None, side) for wanted, side in zip(shape, found.shape, strict=True)):  # type: ignore[union-attr]
            told = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise RunError(f"{where} holds {told} for {name}, expected {shape}; begin anew with --restart")
    population = arrays["population"]
    if population.min() < 0 or population.max() >= modules:
        raise RunError(f"{where} is damaged: it says paths through modules that the recipe has not")


def done_facts(name: str, settings: PathNetSettings) -> dict[str, tuple[Holds, str]]:
    """What becomes of a search, beyond what every stage leaves."""
    genes = list_of(integer(0, settings.modules - 1))
    some: Holds = lambda layer: genes(layer) and bool(layer)  # noqa: E731
    return {
        "path": (list_of(some, settings.layers), f"modules of {settings.layers} layers"),
        **dict.fromkeys(("reused", "frozen"), (list_of(genes, settings.layers), f"modules of {settings.layers} layers")),
        "generations": (COUNT, "a whole number"),
        "reached_target": (boolean, "true or false"),
        "fitness": (figure, "a number"),
        "log": (log_of(name, settings), f"trials of search {name!r}"),
    }
