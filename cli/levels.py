"""--quiet and --verbose, which every command takes."""

from __future__ import annotations

import click

from emotiw_keras import talk


def _set(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    setattr(talk, str(parameter.name), True)
    if talk.quiet and talk.verbose:
        raise click.UsageError("--quiet and --verbose cannot be combined; choose one", ctx)
    if talk.verbose:
        from emotiw_keras.cli.quiet import loud_tensorflow

        loud_tensorflow()


def with_levels(command: click.Command) -> click.Command:
    """The command, or each of a group, with the two options."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            with_levels(each)
    elif "quiet" not in {parameter.name for parameter in command.params}:
        command.params += [
            click.Option(
                ["-q", "--quiet"], is_flag=True, expose_value=False, is_eager=True, callback=_set,
                help="Warnings, errors and inputs that are left out alone; no progress.",
            ),
            click.Option(
                ["-v", "--verbose"], is_flag=True, expose_value=False, is_eager=True, callback=_set,
                help="Also the traceback of an error, TensorFlow's own log, and lists in full.",
            ),
        ]  # fmt: skip
    return command
