"""--quiet and --verbose: on every command, and what each leaves out or adds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from emotiw_keras import talk
from emotiw_keras.cli import main as cli_main
from emotiw_keras.cli.quiet import QuietTensorFlow, quiet_tensorflow
from tests.cli.test_prepare import noise

Emotiw = Callable[..., "subprocess.CompletedProcess[str]"]


def commands() -> list[click.Command]:
    """Every command, and those inside of groups."""
    found = [cli_main.cli.get_command(click.Context(cli_main.cli), name) for name in cli_main.COMMANDS]
    groups = [each for each in found if isinstance(each, click.Group)]
    assert len(found) == len(cli_main.COMMANDS) and groups
    return [*(each for each in found if each not in groups), *(one for each in groups for one in each.commands.values())]


def test_every_command_has_both_once() -> None:
    for command in [*commands(), *commands()]:
        spelt = [word for parameter in command.params for word in parameter.opts]
        assert [spelt.count(word) for word in ("-q", "--quiet", "-v", "--verbose")] == [1, 1, 1, 1], command.name


def test_both_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main.run(["models", "-q", "-v"]) == 2
    said = "--quiet and --verbose cannot be combined; choose one; see 'emotiw models --help'"
    assert capsys.readouterr().err == f"emotiw: error: {said}\n"


def test_verbose_shows_the_traceback_under_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {}
    for level in ("-q", "-v"):
        assert cli_main.run(["predict", "face.png", "--model", "runs/none", level]) == 5
        lines[level] = capsys.readouterr().err.splitlines()
    assert len(lines["-q"]) == 1 and lines["-v"][0] == lines["-q"][0]
    assert lines["-v"][1] == "Traceback (most recent call last):" and "ModelError: there is no run folder" in lines["-v"][-1]


def test_verbose_gives_tensorflow_its_voice_back_and_the_next_command_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # as `main` has it
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    quiet_tensorflow()
    assert cli_main.run(["recipes"]) == 0
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3" and isinstance(sys.meta_path[0], QuietTensorFlow)
    assert cli_main.run(["recipes", "-v"]) == 0
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0" and not isinstance(sys.meta_path[0], QuietTensorFlow)
    assert talk.verbose
    assert cli_main.run(["recipes"]) == 0 and not talk.verbose


def test_tensorflow_is_silent_though_somebody_asked_before_whether_it_is_there() -> None:
    """Its libraries write while they are loaded, whatever the log level: a look for it must not use the hook up."""
    code = "import importlib.util as u\nfrom emotiw_keras.cli.quiet import quiet_tensorflow\nquiet_tensorflow()\n"
    code += "assert u.find_spec('tensorflow') and u.find_spec('tensorflow')\nimport tensorflow"
    variables = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_quiet_names_what_is_left_out_and_nothing_else(emotiw: Emotiw, tmp_path: Path) -> None:
    noise(tmp_path / "photos" / "happy" / "a.png")
    (tmp_path / "photos" / "happy" / "zero.png").write_bytes(b"")
    for number in range(7):
        (tmp_path / "photos" / f"{number}.txt").write_text("no image")
    words = ("prepare", "photos", "out", "--detector", "viola_jones", "--workers", 1, "--near-duplicates", 0)
    told = emotiw(*words, "--quiet", cwd=tmp_path)
    assert told.returncode == 3 and told.stdout
    assert told.stderr.splitlines() == [
        "no images or videos, so left out: 7 files (0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more)",
        "emotiw: cannot read happy/zero.png: zero bytes",
    ]
    everything = emotiw(*words, "--verbose", cwd=tmp_path)
    assert everything.returncode == 3
    assert everything.stderr.splitlines()[0] == (
        "no images or videos, so left out: 7 files (0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt)"
    )
    assert "2 of 2 images are done already: nothing left to do" in everything.stderr


def test_quiet_downloads_still_warn_of_strange_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "stranger.npz").write_bytes(b"x")
    assert cli_main.run(["weights", "verify", "-q"]) == 0
    assert "not in the manifest, so not checked: stranger.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("begin", "level"),
    [
        ("from emotiw_keras.cli.quiet import quiet_tensorflow; quiet_tensorflow()", "40"),
        ("from emotiw_keras.training.start import start_tensorflow; start_tensorflow()", "0"),
    ],
    ids=["on the command line", "in somebody's Python"],
)
def test_tensorflows_own_warnings_are_hidden_by_the_commands_alone(begin: str, level: str) -> None:
    code = f"{begin}; import tensorflow as tf; print(tf.get_logger().level)"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == level, done.stderr
