"""The documentation holds together: links lead somewhere, every page is in the contents, the notebooks run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXTS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "weights/shipped").rglob("*.md")),
)
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What `#...` may follow a page's name: its headings as the repository's pages and the site name them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(prose(path)):
        if ":" in target:
            assert target.startswith(("https://", "mailto:")), target
            continue
        goal = (path.parent / target).resolve() if target else path
        assert goal.exists(), f"{target}: no such file"
        assert goal.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(goal), f"{target}#{anchor}: no such heading"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/site.py, which is no part of the package."""
    module = ModuleType("site_of_docs")
    module.__file__ = str(ROOT / "docs/site.py")
    exec(compile((ROOT / "docs/site.py").read_text(encoding="utf-8"), module.__file__, "exec"), module.__dict__)
    return module


def test_every_page_is_in_the_contents(site: ModuleType, tmp_path: Path) -> None:
    site.lay_out(tmp_path / "out")
    pages = {path.relative_to(tmp_path / "out").with_suffix("").as_posix() for path in (tmp_path / "out").rglob("*.md")}
    listed = [line for line in site.CONTENTS.splitlines() if line and not line.startswith((":", "`"))]
    assert sorted(listed) == sorted(pages - {"index"})
    commands = (tmp_path / "out/reference/commands.md").read_text(encoding="utf-8")
    assert "## emotiw fit\n" in commands and "## emotiw weights fetch\n" in commands and "--precision" in commands


def test_a_link_to_nowhere_ends_the_build(site: ModuleType) -> None:
    assert (
        site.turned("[a](docs/photos.md#b) `x` [c](https://d)", "README.md", "index.md")
        == "[a](photos.md#b) `x` [c](https://d)"
    )
    assert site.turned("[a](../../README.md)", "docs/reference/data.md", "reference/data.md") == "[a](../index.md)"
    with pytest.raises(ValueError, match="README.md: the link to docs/none.md leads to no page"):
        site.turned("[a](docs/none.md)", "README.md", "index.md")


def program(notebook: Path) -> str:
    """The cells of a notebook as one program; `!` begins a command for the shell, as in Jupyter, which must succeed."""
    lines = ["import subprocess"]
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            lines += "".join(cell["source"]).splitlines()
    return "\n".join(
        f"subprocess.run({line[1:]!r}, shell=True, check=True)" if line.startswith("!") else line for line in lines
    )


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_and_holds_no_output(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert all(cell["outputs"] == [] for cell in content["cells"] if cell["cell_type"] == "code"), "outputs grow old"
    compile(program(notebook), notebook.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    variables.pop("KERAS_BACKEND", None)
    for _ in range(2):  # "Run all" is often pressed again
        done = subprocess.run(
            [sys.executable, "-c", program(notebook)], cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
