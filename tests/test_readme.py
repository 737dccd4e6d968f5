"""The README and the pages do what they say: every block below `<!-- runs -->` is run, in order, in one scratch folder.

The other commands need photos, videos, data sets or downloads that are not here. They are read as `emotiw` reads them: its
options, and of `fit` the recipe, its settings, its names of data sets and what `--weights` means.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from emotiw_keras.cli.main import cli
from emotiw_keras.errors import UsageError
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.start import run_of

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^<!-- runs -->\s*\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash", "shell", "console")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each block of a page that runs; of console blocks the lines after a prompt."""
    found = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = text.splitlines()
        if language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        found.append((language, "\n".join(lines)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_marked_as_running_is_a_block_that_runs(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= {*SHELLS, "python"}
    assert len(blocks(page)) == page.read_text(encoding="utf-8").count("<!-- runs -->")


def test_the_readme_has_commands_that_run() -> None:
    languages = [language for language, _ in blocks(README)]
    assert any(language in SHELLS for language in languages) and "python" in languages
    assert "emotiw fit" in "".join(text for _, text in blocks(README))


def commands() -> list[tuple[list[str], bool]]:
    """The words of every `emotiw ...` of the pages, and whether it stands in a block: in running text it may be cut short."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    lines = [(line, True) for line in re.findall(r"^emotiw .*$", text.replace("\\\n", " "), re.MULTILINE)]
    lines += [(line.replace("\n", " "), False) for line in re.findall(r"`(emotiw\s[^`]+)`", text)]
    found = [(shlex.split(line, comments=True)[1:], whole) for line, whole in lines]
    return [(words[: words.index(">")] if ">" in words else words, whole) for words, whole in found]


def understood(command: list[str], whole: bool = True) -> None:
    """Parse one command as `emotiw` does, and of `fit` what it says of the training; raises what a user would be told."""
    context = click.Context(cli, info_name="emotiw")
    name, each, rest = cli.resolve_command(context, list(command))
    assert name is not None and each is not None
    try:
        given = each.make_context(name, rest, parent=context).params
    except click.MissingParameter:
        assert not whole, "a parameter is missing"
        return
    if name != "fit":
        return
    recipe = load_recipe(given["recipe"], given["changes"], limit=given["limit"], seed=given["seed"])
    assert {item.partition("=")[0] for item in given["data"]} <= set(recipe.data), f"{given['recipe']} knows {recipe.data}"
    weights = given["weights"]
    if weights is not None and "/" not in weights and "." not in weights and weights != "imagenet":
        assert run_of(weights) is not None, f"{weights}: no model that ships"


def test_every_command_of_the_pages_is_understood() -> None:
    found = commands()
    assert len(found) > 40
    for command, whole in found:
        try:
            understood(command, whole)
        except Exception as error:
            raise AssertionError(f"emotiw {shlex.join(command)}: {error}") from error


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("predict --modle x a.jpg", "--modle"),
        ("fit finetune --data faces=x --out y", "knows"),
        ("fit finetune --data data=x --out y --set a=1", "'a'"),
        ("fit finetune --data data=x --out y --weights fer28-vgg", "no model that ships"),
        ("fit finetune --data data=x", "missing"),
        ("fitt", "no such command"),
    ],
)
def test_a_command_that_is_wrong_would_be_found(wrong: str, reason: str) -> None:
    with pytest.raises((AssertionError, click.ClickException, UsageError), match=reason):
        understood(shlex.split(wrong))


@pytest.mark.slow
def test_the_pages_blocks_run(tmp_path: Path) -> None:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    variables.pop("KERAS_BACKEND", None)
    # The README's first: what it makes (`my_faces`, `runs/mine`) the pages go on with.
    for language, text in [block for page in PAGES for block in blocks(page)]:
        if language == "python":
            command = [sys.executable, "-c", text]
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{text}\n--- exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "nothing can judge" not in done.stderr, f"{text}\n--- trains on what its weights know\n{done.stderr[-4000:]}"
