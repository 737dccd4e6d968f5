"""What the shell offers after TAB in place of a recipe, a network or a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def _matching(names: Iterable[str], start: str, otherwise: str) -> list[CompletionItem]:
    """The names that begin so; where there are none, a path of the kind `otherwise`, as the shell completes it."""
    found = [CompletionItem(name) for name in names if name.startswith(start)]
    return found or [CompletionItem(start, type=otherwise)]


def recipes(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Recipes that ship, or a file."""
    from emotiw_keras.training.recipe import recipe_names

    return _matching(recipe_names(), start, "file")


def networks(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Networks of the zoo."""
    from emotiw_keras.models.registry import model_names

    return _matching(model_names(), start, "plain")


def runs(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Run folders here and in runs/, models that ship, or any file."""
    from emotiw_keras.weights.shipped import shipped_models

    here = sorted(path.parent.as_posix() for place in (".", "runs") for path in Path(place).glob("*/run.json"))
    return _matching([*here, *shipped_models()], start, "file")
