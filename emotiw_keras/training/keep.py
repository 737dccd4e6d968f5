"""Which stage's weights a run ends with: those of the last one, or of the best one where several choose alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emotiw_keras.talk import Notice
from emotiw_keras.training.stage import Stage

KEEPS = ("last", "best")


def kept_stage(stages: Sequence[Stage], results: Sequence[Mapping[str, Any]], keep: str, say: Callable[[str], None]) -> int:
    """The position of the stage whose best epoch is kept, and a line where it is not the best, or not the last.

    Stages are compared with the last one where they choose their epoch on the same images by the same figure; of equal ones the
    latest counts.

    Args:
        stages: in order.
        results: of each, its figures by name, such as `val_accuracy`.
        keep: "last" or "best".
        say: takes the line.
    """
    last = len(stages) - 1
    monitor = stages[last].monitor
    alike = [i for i, stage in enumerate(stages) if stage.val and (stage.val, stage.monitor) == (stages[last].val, monitor)]
    scored = [i for i in alike if results[i].get(monitor) is not None]
    if last not in scored:
        return last
    best = max(scored, key=lambda i: ((-1 if monitor == "val_loss" else 1) * results[i][monitor], i))
    if best == last:
        return last
    ends, other = (f"{stages[i].name} ends with {monitor} {_figure(results[i][monitor], monitor)}" for i in (last, best))
    if keep == "best":
        say(f"stage {stages[best].name} is kept: stage {ends}, {other}")
        return best
    say(Notice(f"warning: stage {ends}, worse than before: stage {other}; the last is kept (--set keep=best keeps the best)"))
    return last


def _figure(value: float, monitor: str) -> str:
    return f"{value:.4f}" if monitor == "val_loss" else f"{value:.1%}"
