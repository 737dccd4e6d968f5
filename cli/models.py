"""`emotiw models`: the networks that can be trained."""

from __future__ import annotations

import json

import click

from emotiw_keras.cli.console import put, put_table

COLUMNS = ("name", "class", "input", "parameters", "channels", "paper")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array with everything known about each network.")
def models(as_json: bool) -> None:
    """List the networks: names for --model, input size, parameters as released, paper.

    \b
    Example: emotiw models --json
    """
    import dataclasses

    from emotiw_keras.models.registry import application_names, get_spec, model_names

    specs = [get_spec(name) for name in (*model_names(), *application_names())]
    if as_json:
        put(json.dumps([dataclasses.asdict(spec) for spec in specs]))
        return
    rows = [COLUMNS] + [
        (
            spec.name,
            spec.class_name,
            f"{spec.input_size}x{spec.input_size}",
            f"{spec.parameters:,}",
            "grey" if spec.input_channels == 1 else spec.channel_order,
            spec.paper,
        )
        for spec in specs
    ]
    put_table(rows, right=3)
