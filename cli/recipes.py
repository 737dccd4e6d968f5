"""`emotiw recipes`: the training schemes that ship."""

from __future__ import annotations

import json

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import check_output, put


@click.command()
@click.argument("name", required=False, shell_complete=completion.recipes)
@click.option("--json", "as_json", is_flag=True, help="JSON: name, description and names of the stages.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes that ship, or print the text of recipe NAME, to copy and change.

    \b
    Examples:
      emotiw recipes
      emotiw recipes finetune > mine.toml
    """
    from emotiw_keras.training.recipe import load_recipe, recipe_names, recipe_text

    chosen = [name] if name else recipe_names()
    if name and not as_json:
        load_recipe(name)
        check_output()
        click.echo(recipe_text(name), nl=False)
        return
    loaded = [load_recipe(each) for each in chosen]
    if as_json:
        rows = [
            {"name": recipe.name, "description": recipe.description, "stages": [stage.name for stage in recipe.stages]}
            for recipe in loaded
        ]
        put(json.dumps(rows[0] if name else rows))
        return
    width = max(len(recipe.name) for recipe in loaded)
    for recipe in loaded:
        put(f"{recipe.name.ljust(width)}  {recipe.description} [{' -> '.join(stage.name for stage in recipe.stages)}]")
