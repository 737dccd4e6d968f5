"""Charts of a report, as SVG: see `emotiw_keras.charts`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from emotiw_keras.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, short, svg
from emotiw_keras.evaluation.metrics import reliability
from emotiw_keras.html import Html, tag
from emotiw_keras.text import number_of


def reliability_chart(truth: np.ndarray, probabilities: np.ndarray) -> Html:
    """The accuracy at each confidence, over the share of images with that confidence.

    Args:
        truth: int (n,).
        probabilities: float (n, classes), rows summing to 1.
    """
    images, promised, kept = reliability(truth, probabilities)
    bins = len(images)

    def across(value: float) -> float:
        return LEFT + value * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM)

    ticks = [(i / 5, f"{20 * i} %") for i in range(6)]
    parts = frame(across, up, ticks, ticks, "confidence (the largest probability)", "accuracy")
    for number in np.flatnonzero(images):
        left, wide = across(number / bins), (WIDTH - LEFT - RIGHT) / bins
        title = (
            f"confidence {number / bins:.0%} to {(number + 1) / bins:.0%}: {number_of(int(images[number]), 'images')}, "
            f"accuracy {kept[number] / images[number]:.1%}, mean confidence {promised[number] / images[number]:.1%}"
        )
        share = images[number] / images.sum()
        for value, kind in ((kept[number] / images[number], "kept"), (share, "count")):
            inset = 1 if kind == "kept" else wide / 4
            box = {
                "x": short(left + inset),
                "y": short(up(value)),
                "width": short(wide - 2 * inset),
                "height": short(up(0) - up(value)),
            }
            shape = tag("rect", class_=kind, **box)
            parts.append(shape if kind == "count" else _titled(shape, title))
    parts.append(tag("line", x1=short(across(0)), y1=short(up(0)), x2=short(across(1)), y2=short(up(1)), class_="ideal"))
    gap = abs(kept - promised).sum() / images.sum()
    return svg(
        f"Reliability diagram: expected calibration error {gap:.3f} over {number_of(int(images.sum()), 'images')}", *parts
    )


def coverage_chart(coverage: np.ndarray, accuracy: np.ndarray, chosen: float | None) -> Html:
    """The accuracy of the surest answers over the share of images that they are.

    Args:
        coverage: float (m,), rising to 1.
        accuracy: float (m,), of so many of the surest answers.
        chosen: a share to mark, or None.
    """

    def across(value: float) -> float:
        return LEFT + value * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM)

    ticks = [(i / 5, f"{20 * i} %") for i in range(6)]
    parts = frame(across, up, ticks, ticks, "share of images that are answered", "accuracy")
    shown = np.unique(np.linspace(0, len(coverage) - 1, min(200, len(coverage))).round().astype(int))
    points = [(across(coverage[i]), up(accuracy[i])) for i in shown]
    parts.append(tag("polyline", points=" ".join(f"{short(x)},{short(y)}" for x, y in points), class_="train"))
    if chosen is not None:
        parts.append(
            tag("line", x1=short(across(chosen)), x2=short(across(chosen)), y1=short(up(0)), y2=short(up(1)), class_="ideal")
        )
    half = accuracy[np.searchsorted(coverage, 0.5)]
    return svg(f"Accuracy over coverage: {accuracy[-1]:.1%} of all answers, {half:.1%} of the surer half", *parts)


def _titled(shape: Html, title: str) -> Html:
    return tag("g", tag("title", title), shape)


def interval_chart(rows: Sequence[tuple[str, float, float, float]], words: str) -> Html:
    """Shares of 0..1 with their intervals on one scale, a strip each under its name, which may be long.

    Args:
        rows: name, share, and the ends of its interval.
        words: what the chart shows.
    """
    low, high = min(row[2] for row in rows), max(row[3] for row in rows)
    low, high = math.floor(10 * low) / 10, max(math.ceil(10 * high) / 10, math.floor(10 * low) / 10 + 0.1)

    def across(value: float) -> str:
        return short(24 + (value - low) / (high - low) * (WIDTH - 48))

    tenths = [low + 0.1 * i for i in range(round(10 * (high - low)) + 1)]
    grid = [tag("line", x1=across(value), x2=across(value), y1=0, y2=20, class_="grid") for value in tenths]
    parts: list[Html] = []
    for name, value, least, most in rows:
        label = f"{name}: {value:.1%}, 95 %: {least:.1%} to {most:.1%}"
        line = tag("line", x1=across(least), x2=across(most), y1=10, y2=10, class_="train")
        dot = tag("circle", cx=across(value), cy=10, r=5, class_="dot train")
        strip = tag("svg", grid, line, dot, viewBox=f"0 0 {WIDTH} 20", role="img", aria_label=label)
        parts += [tag("small", f"{name}, {100 * value:.1f} %"), strip]
    named = [
        tag("text", f"{100 * value:.0f} %", x=across(value), y=14, text_anchor="middle", class_="quiet") for value in tenths
    ]
    parts.append(tag("svg", named, viewBox=f"0 0 {WIDTH} 20", aria_hidden="true"))
    return tag("figure", parts, tag("figcaption", words), class_="chart", style="max-width: 42rem")
