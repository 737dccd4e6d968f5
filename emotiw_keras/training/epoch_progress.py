"""What a person sees while a network trains: images per second, time left, one line an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emotiw_keras.progress import Bar
from emotiw_keras.training.stage import Stage


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
    """A bar of a stage where somebody watches, and one lasting line an epoch anywhere.

    Args:
        bar: to draw, or None.
    """

    def __init__(self, bar: Bar | None = None) -> None:
        self.bar = bar if bar is not None and bar.seen else None
        self._line = ""

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
        if self.bar is not None:
            where = f"{stage.name} epoch {epoch + 1}/{stage.epochs}"
            note = f"loss {loss / done:.3f}, accuracy {right / done:.1%}"
            self.bar.to(epoch * whole + done, stage.epochs * whole, where, note)

    def note(self, say: Callable[[str], None]) -> None:
        """A lasting line in the middle of a long epoch, where no bar is seen."""
        if self.bar is None:
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
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
