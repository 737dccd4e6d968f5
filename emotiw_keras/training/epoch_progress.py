"""What a person sees while a network trains: images per second, time left, one line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from emotiw_keras.training.stage import Stage

SECONDS_BETWEEN_REDRAWS = 0.2


def silent(line: str) -> None:
    """Take a line and show it to nobody."""


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """A line that redraws itself on a terminal, and one lasting line an epoch anywhere.

    Args:
        terminal: where the redrawn line goes, or None to draw none.
    """

    def __init__(self, terminal: TextIO | None = None) -> None:
        self.terminal = terminal
        self._drawn = 0.0
        self._line = ""

    @classmethod
    def on_stderr(cls) -> Progress:
        """Redraws only where standard error is a terminal."""
        return cls(sys.stderr if sys.stderr.isatty() else None)

    def step(
        self,
        stage: Stage,
        epoch: int,
        step: int,
        steps: int,
        loss: float,
        right: float,
        seconds: float,
        images: int | None = None,
    ) -> None:
        """After a step: `epoch` from 0, `step` of `steps` done, sums over the epoch so far.

        `images` are those of an epoch; its last step has fewer than the others where they do not go up in whole batches.
        """
        whole = steps * stage.batch_size if images is None else images
        done = min(step * stage.batch_size, whole)
        rate = done / max(seconds, 1e-9)
        left = ((stage.epochs - epoch) * whole - done) / rate
        self._line = (
            f"{stage.name} epoch {epoch + 1}/{stage.epochs}, step {step}/{steps}: loss {loss / done:.3f}, "
            f"accuracy {right / done:.1%}, {rate:.1f} images/s, {duration(left)} left"
        )
        self.redraw(self._line)

    def redraw(self, line: str) -> None:
        """Show a line in place of the last one, on a terminal and not too often."""
        now = time.monotonic()
        if self.terminal is not None and now - self._drawn > SECONDS_BETWEEN_REDRAWS:
            self._drawn = now
            self.terminal.write(f"\r\x1b[K{line}")
            self.terminal.flush()

    def note(self, say: Callable[[str], None]) -> None:
        """A lasting line in the middle of a long epoch, where no line redraws itself."""
        if self.terminal is None:
            say(f"  {self._line}")

    def epoch(self, say: Callable[[str], None], stage: Stage, row: Mapping[str, Any], best: bool) -> None:
        """After an epoch: its row of the history."""
        self.close()
        val = f", val accuracy {row['val_accuracy']:.1%}, val loss {row['val_loss']:.3f}" if "val_loss" in row else ""
        if stage.monitor == "val_macro_f1" and row.get("val_macro_f1") is not None:
            val += f", val macro F1 {row['val_macro_f1']:.3f}"
        left = (stage.epochs - row["epoch"]) * row["seconds"]
        say(
            f"  {stage.name} epoch {row['epoch']}/{stage.epochs}: loss {row['loss']:.3f}, accuracy {row['accuracy']:.1%}{val}"
            f"{' (best)' if best and val else ''}, {row['images_per_second']:.1f} images/s"
            + (f", {duration(left)} left" if row["epoch"] < stage.epochs else "")
        )

    def close(self) -> None:
        """Clear the redrawn line."""
        if self.terminal is not None and self._drawn:
            self.terminal.write("\r\x1b[K")
            self.terminal.flush()
