"""What docs/serving.md and the Dockerfiles say: their commands are understood, their `curl` lines answered."""

from __future__ import annotations

import ast
import base64
import fnmatch
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from emotiw_keras.cli.serve import serve
from tests.serving.services import encoded, photo, service
from tests.test_readme import understood

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "serving.md").read_text("utf-8")
DOCKERFILES = ("Dockerfile", "Dockerfile.tfserving")


def lines(start: str) -> list[str]:
    """The lines of its blocks that begin so."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
    return [line.partition(" #")[0].strip() for line in blocks.splitlines() if line.startswith(start)]


def words_of(dockerfile: str, instruction: str) -> list[str]:
    """What stands behind each such instruction."""
    text = (ROOT / dockerfile).read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.+)$", text, re.MULTILINE)


def test_its_commands_are_understood() -> None:
    commands = lines("emotiw ")
    assert len(commands) >= 3
    for command in commands:
        understood(shlex.split(command)[1:])
    for command in lines("docker run"):
        options = shlex.split(command.partition(" emotiw")[2])
        serve.make_context("serve", options, parent=click.Context(serve))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_its_requests_are_answered(tmp_path: Path) -> None:
    for name, kind in (("party.jpg", "JPEG"), ("me.png", "PNG"), ("face.png", "PNG")):
        (tmp_path / name).write_bytes(encoded(photo(), kind))
    with service() as served:
        asked = [line for line in lines("curl") if ":8000/" in line]
        assert len(asked) == 4
        for line in asked:
            command = line.replace(":8000", f":{served.port}").replace("curl", "curl -sS", 1)
            command = command.replace("/9j/4AAQ", base64.b64encode(encoded(photo(), "JPEG")).decode())
            done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            rows = told.get("rows", [told])
            assert all(row["label"] for row in rows) and len(rows) == line.count("files=@") + ("-F" not in line)


def test_the_rows_of_tensorflow_serving_are_as_its_warm_up() -> None:
    """The request that the guide sends has the signature's own input; its answer is tested in test_served_rows.py."""
    (made,) = lines("printf")
    told = json.loads(shlex.split(made)[1] % "aGk=")
    assert told == {"instances": [{"image_bytes": {"b64": "aGk="}}]}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_a_dockerfile_copies_is_sent_to_the_builder(name: str) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = [rule[1:] for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    for path in sent:
        assert path == "served" or (ROOT / path).exists(), path
    wanted = (
        ["served"]
        if "tfserving" in name
        else ["emotiw_keras", "cli", "weights", "light", "setup.cfg", "pyproject.toml", "constraints.txt"]
    )
    assert all(any(fnmatch.fnmatch(path, each) for each in sent) for path in wanted)


def test_the_image_installs_extras_that_exist_and_starts_the_service() -> None:
    (installed,) = re.findall(r"'\./light\[([\w,]+)\]'", (ROOT / "Dockerfile").read_text())
    (extras,) = re.findall(r"^EXTRAS = (.+)$", (ROOT / "light/setup.py").read_text(), re.MULTILINE)
    assert set(installed.split(",")) <= set(ast.literal_eval(extras))
    (entry,) = words_of("Dockerfile", "ENTRYPOINT")
    command = json.loads(entry)
    assert command[:2] == ["emotiw-light", "serve"]
    serve.make_context("serve", command[2:], parent=click.Context(serve))
    assert words_of("Dockerfile", "USER") == ["10001:10001"]


def test_tensorflow_serving_is_of_the_release_that_exports() -> None:
    (version,) = re.findall(r"^ARG SERVING=(.+)$", (ROOT / "Dockerfile.tfserving").read_text(), re.MULTILINE)
    setup = (ROOT / "setup.cfg").read_text()
    assert f"tensorflow>={version.rpartition('.')[0]}," in setup
