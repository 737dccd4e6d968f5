"""What a person sees while paths compete."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from emotiw_keras.progress import Bar
from emotiw_keras.training.epoch_progress import Progress as StageProgress
from emotiw_keras.training.epoch_progress import duration

SECONDS_BETWEEN_LINES = 15.0


class Progress(StageProgress):
    """A bar where somebody watches; a lasting line where the best path was measured, and every quarter of a minute.

    Args:
        bar: to draw, or None.
    """

    def __init__(self, bar: Bar | None = None) -> None:
        super().__init__(bar)
        self._told = time.monotonic()

    def generation(
        self, say: Callable[[str], None], name: str, row: Mapping[str, Any], path: str, left: int, last: bool
    ) -> None:
        """After a generation: its row of the history, the best path so far, and how many generations may follow."""
        val = f", val accuracy {row['val_accuracy']:.1%}" if "val_accuracy" in row else ""
        line = (
            f"{name} generation {row['epoch']}: winner's fitness {row['accuracy']:.1%}, loss {row['loss']:.3f}, best path "
            f"{path}{val}, "
            f"{row['images_per_second']:.0f} images/s" + (f", {duration(left * row['seconds'])} left at most" if left else "")
        )
        if val or last or time.monotonic() - self._told > SECONDS_BETWEEN_LINES:
            self.close()
            self._told = time.monotonic()
            say(f"  {line}")
        elif self.bar is not None:
            note = f"winner's fitness {row['accuracy']:.1%}, best path {path}"
            self.bar.to(row["epoch"], row["epoch"] + left, f"{name}, generations at most", note)
