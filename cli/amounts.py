"""Numbers that options take."""

from __future__ import annotations

import math
from typing import Any

import click


class Amount(click.FloatRange):
    """A `click.FloatRange` without nan, which is below no bound, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a number that can be meant", param, ctx)
        return number
