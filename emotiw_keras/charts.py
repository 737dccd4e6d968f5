"""Axes and learning curves as SVG inside a page: sharp at every width, in the colours of light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from emotiw_keras.history import Epoch
from emotiw_keras.html import Html, tag
from emotiw_keras.text import number_of

WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 26, 24, 42  # margins
MOST_POINTS = 2000
LARGEST, SMALLEST = 1e100, 1e-100
"""Of what an axis shows, and of the room between its ends."""


def short(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}"


def frame(
    across: Callable[[float], float],
    up: Callable[[float], float],
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_title: str,
    y_title: str,
) -> list[Html]:
    """Grid, ticks and titles of the axes."""
    parts = []
    for value, text in y_ticks:
        y = up(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=short(y), y2=short(y), class_="grid"))
        parts.append(tag("text", text, x=LEFT - 6, y=short(y + 5), text_anchor="end", class_="quiet"))
    for value, text in x_ticks:
        parts.append(tag("text", text, x=short(across(value)), y=HEIGHT - BOTTOM + 18, text_anchor="middle", class_="quiet"))
    parts.append(tag("text", x_title, x=(LEFT + WIDTH - RIGHT) // 2, y=HEIGHT - 4, text_anchor="middle"))
    parts.append(tag("text", y_title, x=4, y=14))
    return parts


def svg(label: str, *parts: object) -> Html:
    """The whole chart; `label` says it in words."""
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def curve_chart(epochs: Sequence[Epoch], measure: str) -> Html:
    """Loss or accuracy over the epochs of all stages, for train and val; each second stage on a shaded ground.

    Args:
        epochs: in their order.
        measure: "loss" or "accuracy".
    """
    names = {"train": measure, "val": f"val_{measure}"}
    lines = {kind: [getattr(epoch, name) for epoch in epochs] for kind, name in names.items()}
    known = [value for values in lines.values() for value in values if math.isfinite(value)]
    low, top = (0.0, 1.0) if measure == "accuracy" else _ends(known)

    def across(epoch: float) -> float:
        return LEFT + (epoch + 0.5) / len(epochs) * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - min(max((value - low) / (top - low), 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    step = _nice((top - low) / 5)
    rate = measure == "accuracy"
    marks = range(math.ceil(low / step - 1e-9), int(top / step + 1e-9) + 1)
    y_ticks = [(i * step, f"{100 * i * step:.0f} %" if rate else f"{i * step:.3g}") for i in marks]
    every = max(1, round(len(epochs) / 6))
    x_ticks = [(i, str(i + 1)) for i in range(len(epochs)) if (i + 1) % every == 0 or i == 0 and every > 2]
    parts: list[Html] = []
    start = 0
    for number, (stage, group) in enumerate(groupby(epochs, key=lambda epoch: epoch.stage)):
        count = len(list(group))
        left, right = across(start - 0.5), across(start + count - 0.5)
        if number % 2:
            band = {"x": short(left), "width": short(right - left), "y": TOP, "height": HEIGHT - TOP - BOTTOM}
            parts.append(tag("rect", class_="band", **band))
        if right - left > 7 * len(stage):
            parts.append(tag("text", stage, x=short((left + right) / 2), y=TOP + 14, text_anchor="middle", class_="quiet"))
        start += count
    parts += frame(across, up, x_ticks, y_ticks, "epoch, counted over all stages", measure)
    for kind, values in lines.items():
        thinned = range(0, len(values), 1 + len(values) // MOST_POINTS)
        points = [(across(i), up(values[i])) for i in thinned if math.isfinite(values[i])]
        if len(points) > 1:
            parts.append(tag("polyline", points=" ".join(f"{short(x)},{short(y)}" for x, y in points), class_=kind))
        if len(points) <= 40:
            parts += [tag("circle", cx=short(x), cy=short(y), r=3, class_=f"dot {kind}") for x, y in points]
    finite = {kind: [value for value in values if math.isfinite(value)] for kind, values in lines.items()}
    last = ", ".join(f"{kind} {values[-1]:.3f}" for kind, values in finite.items() if values)
    return svg(f"{measure} over {number_of(len(epochs), 'epochs')}; in the last: {last}", *parts)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Where an axis begins and ends: 0 is on it, and figures beyond all measure stand at its end."""
    low, high = (min(max(value, -LARGEST), LARGEST) for value in (min(values, default=0.0), max(values, default=1.0)))
    low, high = min(low * 1.05, 0.0), max(high * 1.05, 0.0)
    return (low, high) if high - low > SMALLEST else (low, low + 1.0)


def _nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
