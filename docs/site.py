"""Lays out the pages of the site for Sphinx: docs/, what stands elsewhere in the repository, notebooks, every command's help.

`make docs` runs `python docs/site.py build/docs`. A link is written as it works in the repository; here it is turned to the
page that the file becomes, and one that leads nowhere ends the build.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/RECORDS.md": "records.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/AUDIT.md": "audit-results.md",
    "weights/shipped/fer28-face-vgg-votes/README.md": "model-card.md",
    "light/README.md": "light.md",
    "examples/keras_user.py": "keras-user.md",
    "docs/notebooks": "notebooks/your_faces.md",
}
"""A file of the repository -> the page that it becomes; those of docs/ keep their names."""
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]*)(#[^)\s]*)?(\))")
CONTENTS = """
```{toctree}
:hidden:

photos
serving
scale
scale-reading
your-faces
recipes
augmentation
votes
audit
affwild2
pathnet
weights
python
trackers
```
```{toctree}
:hidden:
:caption: Notebooks

notebooks/your_faces
notebooks/zoo
keras-user
```
```{toctree}
:hidden:
:caption: Reference

reference/commands
reference/data
reference/training
reference/serving
reference/models
reference/errors
run-folder
statistics
reproducibility
damaged-files
```
```{toctree}
:hidden:
:caption: About

model-card
results
records
audit-results
benchmarks
light
contributing
changelog
```
"""


def turned(text: str, source: str, page: str) -> str:
    """The Markdown of `source`, a path in the repository, with its links as they must be on `page`.

    Raises:
        ValueError: a link to a file that is not there or becomes no page.

    Example:
        >>> turned("[more](docs/photos.md#scores)", "README.md", "index.md")
        '[more](photos.md#scores)'
    """

    def turn(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups(default="")
        if not target or ":" in target:
            return found.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        goal = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if goal is None or not (ROOT / path).exists():
            raise ValueError(f"{source}: the link to {target} leads to no page; docs/site.py names those outside docs/")
        return f"{before}{posixpath.relpath(goal, posixpath.dirname(page) or '.')}{anchor}{after}"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(turn, part) for part in parts)


def cell_of(kind: str, source: str) -> str:
    """A cell of a notebook as Markdown; `!command` is one for the shell."""
    if kind == "markdown":
        return source
    return f"```sh\n{source[1:]}\n```" if source.startswith("!") else f"```python\n{source}\n```"


def page_of(path: Path) -> str:
    """A file of the repository as Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return f"# {path.name}\n\n```python\n{text}```\n"
    if path.suffix == ".ipynb":
        return "\n\n".join(cell_of(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]) + "\n"
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # metadata of the Hugging Face Hub


def commands() -> str:
    """The help of every command."""
    from emotiw_keras.cli.main import cli

    parts = ["# Commands", "What `emotiw COMMAND --help` says."]
    pending: list[tuple[str, click.Command, click.Context]] = [("emotiw", cli, click.Context(cli, info_name="emotiw"))]
    while pending:
        name, command, context = pending.pop(0)
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
        if isinstance(command, click.Group):
            found = [(below, command.get_command(context, below)) for below in command.list_commands(context)]
            pending[:0] = [
                (f"{name} {below}", each, click.Context(each, info_name=below, parent=context)) for below, each in found if each
            ]
    return "\n\n".join(parts) + "\n"


def lay_out(out: Path) -> None:
    """Write every page and image, and Sphinx' settings, into `out`, which is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    docs = ROOT / "docs"
    sources = {path: page for path, page in PAGES.items() if (ROOT / path).is_file()}
    for path in sorted([*docs.rglob("*.md"), *docs.rglob("*.ipynb")]):
        sources[path.relative_to(ROOT).as_posix()] = path.relative_to(docs).with_suffix(".md").as_posix()
    pages = {page: turned(page_of(ROOT / path), path, page) for path, page in sources.items()}
    pages["index.md"] += CONTENTS
    pages["reference/commands.md"] = commands()
    for page, text in pages.items():
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text(text, encoding="utf-8")
    for path in docs.rglob("*"):  # images, files to download
        if path.is_file() and path.suffix not in (".md", ".ipynb", ".py") and "__pycache__" not in path.parts:
            (out / path.relative_to(docs)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / path.relative_to(docs))
    shutil.copy(docs / "conf.py", out)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
