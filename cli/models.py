"""`emotiw models`: the networks that can be trained."""

from __future__ import annotations

import json

import click

from emotiw_keras.cli.console import put

COLUMNS = ("name", "class", "input", "parameters", "channels", "paper")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array with everything that is known of each.")
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
            spec.channel_order,
            spec.paper,
        )
        for spec in specs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = [
            cell.rjust(width) if column == 3 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        put("  ".join(cells).rstrip())
