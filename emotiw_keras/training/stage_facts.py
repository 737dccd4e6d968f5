"""What a stage or search has left in a run folder, checked before it is believed: a run may come from a stranger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotiw_keras.errors import RunError
from emotiw_keras.plain_facts import Holds, boolean, figure, integer, list_of, table_of, text
from emotiw_keras.sealed import read_sealed
from emotiw_keras.training.callback_state import is_entries
from emotiw_keras.training.checkpoints import is_best

COUNT = integer(0, 1 << 53)


def rows_of(stage: str) -> Holds:
    """Rows of history.csv of one stage, their epochs in order from 1 on."""

    def holds(rows: Any) -> bool:
        return isinstance(rows, list) and all(
            isinstance(row, dict)
            and row.get("stage") == stage
            and row.get("epoch") == number
            and all(value is None or type(value) in (int, float) for key, value in row.items() if key != "stage")
            for number, row in enumerate(rows, 1)
        )

    return holds


def best_name(value: Any) -> bool:
    """The name of a best file in the stage's own folder."""
    return isinstance(value, str) and is_best(value)


def check(values: Mapping[str, Any], expected: Mapping[str, tuple[Holds, str]], where: str) -> None:
    """RunError for a value that is missing or cannot be meant."""
    for key, (holds, words) in expected.items():
        if not holds(values.get(key)):
            shown = f"{values[key]!r:.60}" if key in values else "nothing"
            raise RunError(f"{where} is damaged: it says {shown} for {key}, expected {words}; begin anew with --restart")


def read_done(marker: Path, stage: str, more: Mapping[str, tuple[Holds, str]] | None = None) -> dict[str, Any]:
    """What became of a stage or search that is done.

    Args:
        marker: its done.json.
        stage: its name.
        more: what a kind of training writes besides.

    Raises:
        RunError: the marker is damaged, or of another stage.
    """
    result = read_sealed(marker)
    expected: dict[str, tuple[Holds, str]] = {
        "name": (lambda value: value == stage, f"{stage!r}"),
        "epochs": (COUNT, "a whole number"),
        "best_epoch": (COUNT, "a whole number"),
        "best_file": (best_name, "the name of a best file"),
        "rows": (rows_of(stage), f"rows of stage {stage!r}, numbered from 1"),
        "images": (COUNT, "a whole number"),
        # an earlier version wrote none, nor does a stage that calls none
        "callbacks": (lambda value: value is None or list_of(is_entries)(value), "what callbacks have gathered"),
        **dict.fromkeys(
            ("val_accuracy", "val_loss", "val_macro_f1"), (lambda value: value is None or figure(value), "a number")
        ),
        **(more or {}),
    }
    check(result, expected, str(marker))
    return result


def check_state(state: Mapping[str, Any], stage: str, epochs: int, steps: int, where: str) -> None:
    """RunError for a state of a stage (`StageState`) that cannot be meant.

    Args:
        state: its fields.
        stage: its name.
        epochs: that it has at most.
        steps: of an epoch.
        where: the checkpoint.
    """
    check(state, _state_facts(stage, epochs, steps), where)
    done, best = state["epoch"], state["best"].get("epoch", 0)
    if len(state["rows"]) != done or not min(done, 1) <= best <= done:
        raise RunError(
            f"{where} is damaged: it says {done} epochs, {len(state['rows'])} rows, and epoch {best} for the best; begin anew "
            "with --restart"
        )


def _state_facts(stage: str, epochs: int, steps: int) -> dict[str, tuple[Holds, str]]:
    """What the state of a stage may be, by the names of `StageState`'s fields.

    Args:
        stage: its name.
        epochs: that it has at most.
        steps: of an epoch.
    """

    def best(value: Any) -> bool:
        whole = isinstance(value, dict) and value.keys() == {"epoch", "value", "file"}
        return value == {} or (
            whole and integer(1, epochs)(value["epoch"]) and figure(value["value"]) and best_name(value["file"])
        )

    counted, numbered = integer(0, epochs), integer(0, max(steps - 1, 0))
    return {
        "epoch": (counted, f"a whole number up to {epochs}"),
        "step": (numbered, f"a whole number below {steps}"),
        **dict.fromkeys(("loss", "right", "seconds", "rate", "rate_factor", "rate_at_zero"), (figure, "a number")),
        "waited": (counted, f"a whole number up to {epochs}"),
        **dict.fromkeys(("features", "stopped"), (boolean, "true or false")),
        "callbacks": (list_of(is_entries), "what callbacks have gathered"),
        "best": (best, "an epoch, its value and the name of its file"),
        "rows": (rows_of(stage), f"rows of stage {stage!r}, numbered from 1"),
        "before": (table_of(text), "a table of hashes"),
        "start": (lambda value: value == "" or best_name(value), "the name of a file"),
    }
