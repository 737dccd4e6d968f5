"""The `emotiw` command: finds the subcommand, turns errors into one line and an exit code."""

from __future__ import annotations

import _thread
import atexit
import errno
import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any, cast

import click

from emotiw_keras import progress, talk
from emotiw_keras.errors import FULL, EmotiwError, ModelError, OutputError, UsageError, WorkerError
from emotiw_keras.text import shown, shown_line, shown_lines
from emotiw_keras.training.interrupts import Interrupted, hang_up, leave_terminal

# name -> (module, one-line help): listed here so that `emotiw --help` imports no command.
COMMANDS = {
    "fit": ("emotiw_keras.cli.fit", "Train a network in stages by a recipe, into a run folder."),
    "evaluate": ("emotiw_keras.cli.evaluate", "Score run folders on a data set."),
    "compare": ("emotiw_keras.cli.compare", "Put runs side by side, with paired significance."),
    "audit": ("emotiw_keras.cli.audit", "Score any reader of expressions on FER-2013."),
    "card": ("emotiw_keras.cli.card", "Write the model card of a run."),
    "predict": ("emotiw_keras.cli.predict", "Read the expression of each face, one row per face."),
    "serve": ("emotiw_keras.cli.serve", "Serve a page to try it, and expressions over HTTP."),
    "summary": ("emotiw_keras.cli.summary", "Count what the parts of predict and prepare say together."),
    "prepare": ("emotiw_keras.cli.prepare", "Find, align and cut out the faces of a raw data set."),
    "staged-study": ("emotiw_keras.cli.staged_study", "Compare fine-tuning in stages with direct, joint and none."),
    "pathnet-study": ("emotiw_keras.cli.pathnet_study", "Compare PathNet's transfer with its controls."),
    "export": ("emotiw_keras.cli.export", "Turn a run folder into a model that can be served."),
    "pack": ("emotiw_keras.cli.pack", "Write a run as a small folder to ship."),
    "push": ("emotiw_keras.cli.push", "Put a run on the Hugging Face Hub."),
    "convert": ("emotiw_keras.cli.convert", "Turn weights of another framework into Keras weights."),
    "weights": ("emotiw_keras.cli.weights", "List, fetch and verify the files of original weights."),
    "models": ("emotiw_keras.cli.models", "List the networks."),
    "recipes": ("emotiw_keras.cli.recipes", "List the recipes that ship, or print one."),
}

FULL_INSTALL = ("keras", "matplotlib", "safetensors", "scipy", "sklearn", "tensorflow", "threadpoolctl", "tomli_w")
"""What the small distribution, which predicts alone, does without."""
INTERRUPTED = 128 + signal.SIGINT
AGAIN_SECONDS = 0.05
BROKEN_PIPE = 128 + 13  # SIGPIPE, which Windows has not


class Commands(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        from emotiw_keras.cli.levels import with_levels

        return with_levels(getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_")))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            import difflib

            listed = self.list_commands(ctx)
            close = difflib.get_close_matches(name, listed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(listed)}"
            ctx.fail(f"no such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from emotiw_keras.cli.console import check_output
    from emotiw_keras.cli.version import report

    check_output()

    # --json may stand on either side of --version, so it is looked up among the words, not among what is parsed so far.
    click.echo(report(as_json="--json" in sys.argv[1:] or bool(ctx.params.get("as_json"))))
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=_print_version,
    help="Versions of everything, for bug reports.",
)
@click.option("--json", "as_json", is_flag=True, is_eager=True, help="With --version: as JSON.")
def cli(as_json: bool) -> None:
    """Facial expression networks, fine-tuned in stages.

    \b
    emotiw fit --out runs/first                 train on faces the package draws itself
    emotiw evaluate runs/first                  score the run
    emotiw predict me.jpg --model runs/first    find the faces in a photo and read their expressions
    emotiw export runs/first served             make a SavedModel of it

    Data goes to standard output, progress and messages to standard error; -q after a command leaves warnings and errors
    alone, -v tells more. Exit codes: 0 done, 2 wrong usage, 3 done
    but some inputs could not be read, 4 bad data, 5 bad or missing model, 6 cannot write, 7 training diverged, 8
    damaged or other run, 9 another worker of the training is missing or was lost.
    """
    if as_json:
        raise click.UsageError("--json stands before the command; put it behind, where the command has it")
    if os.environ.get("EMOTIW_FONT"):  # a wrong one is told before anything is computed
        from emotiw_keras.fonts import get_font

        get_font(16)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _say_error(message: str, error: BaseException | None = None) -> None:
    progress.clear()
    with suppress(OSError):  # the exit code says it too
        line = f"emotiw: error: {_one_line(message)}"
        click.echo(shown(line) if talk.verbose else shown_line(line), err=True)
        if talk.verbose and error is not None:
            import traceback

            click.echo(shown_lines("".join(traceback.format_exception(error)).rstrip()), err=True)


def _drop_output() -> None:
    """What is still buffered for standard output must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_lost() -> bool:
    """Whether the working folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


class _Terminated(SystemExit):
    """SIGTERM where no training holds it back until the end of its step, or the end of the terminal."""


def _terminated(signum: int, frame: Any) -> None:
    if signum != signal.SIGTERM:
        leave_terminal()
    raise _Terminated(128 + signum)


def _dropped(ignored: Any) -> None:
    """What Python cannot raise, as in callbacks of its garbage collector, it drops: a signal that came there comes again."""
    number = {_Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(ignored.exc_type)
    if number is None:
        sys.__unraisablehook__(ignored)
        return
    # On Windows os.kill ends a process as it is.
    resend = partial(_thread.interrupt_main, number) if os.name == "nt" else partial(os.kill, os.getpid(), number)
    again = threading.Timer(AGAIN_SECONDS, resend)
    again.daemon = True
    again.start()


def heed_signals() -> None:
    """SIGTERM, and SIGHUP unless `nohup` holds it off, end a command as SIGINT does, and none is lost."""
    signal.signal(signal.SIGTERM, _terminated)
    for number in hang_up():
        signal.signal(number, _terminated)
    sys.unraisablehook = _dropped


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; an error that is a bug of ours rises with its traceback."""
    talk.quiet = talk.verbose = False
    try:
        result = cli.main(args=arguments, prog_name="emotiw", standalone_mode=False)
        # In this mode click returns the code of ctx.exit(); a command's own return value is not a code unless it is
        # an int.
        code = result if isinstance(result, int) else 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except EmotiwError as error:
        _say_error(str(error), error)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help_hint = f"; see '{context.command_path} --help'" if context is not None else ""
        _say_error(error.format_message().rstrip(".") + help_hint)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        progress.clear()
        click.echo("emotiw: interrupted", err=True)
        return INTERRUPTED
    except Interrupted as error:
        click.echo(shown(f"emotiw: {_one_line(str(error))}"), err=True)
        return error.exit_code
    except _Terminated as error:
        progress.clear()
        with suppress(OSError):
            click.echo("emotiw: terminated", err=True)
        return cast(int, error.code)
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 1:  # that of click, where it notices first
            raise
        _drop_output()  # its reader has gone
        return BROKEN_PIPE
    except OSError as error:
        if error.errno == errno.ENOENT and _is_lost():
            _say_error("the folder that it was started in is gone, so that no name is found from there; `cd` to another", error)
            return UsageError.exit_code
        if error.errno not in FULL:
            raise
        _drop_output()
        where = error.filename or "standard output, or a temporary file"
        _say_error(f"cannot write {where}: {error.strerror}; free some space and run the same command again", error)
        return OutputError.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in FULL_INSTALL:
            raise
        told = "predict and serve do without it for a file that `emotiw export RUN face.onnx --format onnx` wrote"
        _say_error(f"this needs {error.name}, which is not installed; pip install emotiw-keras brings it ({told})", error)
        return ModelError.exit_code
    except Exception as error:
        # TensorFlow has its own class for it, which cannot be named here without importing TensorFlow.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        detail = f" ({_one_line(str(error))[:200]})" if str(error) else ""
        _say_error(f"out of memory{detail}; use a smaller batch or --limit, or close other programs", error)
        return 1


def _leave(ended: list[int]) -> None:
    """The end of a command that used TensorFlow: to take its modules apart takes Python most of a second."""
    if ended and "tensorflow" in sys.modules:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):
                stream.flush()
        os._exit(ended[0])


def main() -> None:
    """The entry point of the `emotiw` script."""
    from emotiw_keras.cli.quiet import quiet_tensorflow

    ended: list[int] = []
    atexit.register(_leave, ended)  # handlers run in reverse: those registered from here on before this one
    quiet_tensorflow()
    # Take of a GPU's memory what is needed, not all of it.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    heed_signals()
    ended.append(run())
    if ended[0] == WorkerError.exit_code or "TF_CONFIG" in os.environ:
        _leave(ended)  # what TensorFlow does at the end would wait for workers that are gone
    sys.exit(ended[0])


if __name__ == "__main__":
    main()
