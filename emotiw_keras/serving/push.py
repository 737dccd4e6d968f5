"""A run on the Hugging Face Hub: its weights, its facts and its card, never code and never the names of images or persons."""

from __future__ import annotations

import lzma
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.files import sha256_file
from emotiw_keras.packed_rows import PACKED_ROWS_FILE
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import DATA_COLUMNS, INFO_FILE, VIDEO_COLUMNS, Run, believed_hashes
from emotiw_keras.sealed import sealed_json
from emotiw_keras.text import csv_text, shown
from emotiw_keras.weights.hub import FILES, client, in_words, split_address
from emotiw_keras.without_places import info_without_places, recipe_without_places

CARD, RECIPE_FILE = "README.md", "recipe.toml"
PERSONAL = ("path", "subject")
"""Columns of data.csv that may name somebody."""
PLACE = re.compile(r"(?<![\w.:/\\-])(?:/|[A-Za-z]:[\\/])[^\s`\"'<>|)\]]+")
"""An absolute path, as far as its first blank."""


def push(
    run: Run, name: str, *, card: str | Path | None = None, private: bool = True, revision: str = "main",
    message: str = "", say: Callable[[str], None] = lambda line: None,
) -> str:  # fmt: skip
    """Put a run into a model repository of the hub, which is made if need be, in one commit.

    What goes up is what `Run.open` needs: weights, run.json, recipe, history, curves, and of each training image the hash of
    its pixels, label and role, so that scores stay leak-free. Names of images, persons (and the patterns that find them) and
    where anything lay stay here: the recipe has the base names of what it starts from, is taught by and takes votes from.

    Args:
        run: a finished run.
        name: user/name on the hub.
        card: the model card, as `emotiw card` writes it; None for README.md of the run's folder.
        private: make a new repository private; one that is there stays as it is.
        revision: the branch to commit to.
        message: of the commit.
        say: called with each line for the user.

    Returns:
        The address to open it by, hf://user/name@commit.

    Raises:
        UsageError: no such name can be, there is no card, or the card names a place of this machine.
        ModelError: the hub cannot be asked or refuses.
        RunError: the run is damaged.

    Example:
        >>> push(Run.open("runs/mine"), "anna/faces", card="card.md")     # doctest: +SKIP
        'hf://anna/faces@5d1c2a...'
    """
    split_address(f"hf://{name}@{revision}")
    described = Path(card) if card is not None else run.path / CARD
    if not described.is_file():
        raise UsageError(
            f"{described} is not there: a model on the hub needs its card; write one with `emotiw card {run.called} --data "
            "DATA --out README.md` and name it with --card"
        )
    _check_card(described, run)
    api = client()
    address = f"hf://{name}"
    run.check_weights()
    with tempfile.TemporaryDirectory(prefix="emotiw-push-") as scratch:
        folder = Path(scratch)
        _lay_out(run, described, folder)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        say(", ".join(f"{file} ({size:,} bytes)" for file, size in sizes.items()))
        with in_words(address):
            api.create_repo(name, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                revision=revision,
                commit_message=message or f"emotiw push {run.name}",
                allow_patterns=list(FILES),
            )
    if not done.oid:
        raise ModelError(f"{address}: the hub names no commit")
    return f"{address}@{done.oid}"


def _check_card(card: Path, run: Run) -> None:
    """Refuse a card that says where something lies on this machine, or lay when the run was trained."""
    known = [place for place in run.info.get("sources", {}).values() if len(Path(place).parts) > 1]
    for number, line in enumerate(card.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        there = [place for place in PLACE.findall(line) if len(Path(place).parts) > 2 and Path(place).parent.is_dir()]
        for place in [each for each in known if each in line] + there:
            raise UsageError(
                f"{card}, line {number}, names {shown(place)}, a place of this machine, which others would read; write the "
                "card again with `emotiw card`, or take it out"
            )


def nameless(rows: Iterable[dict[str, str]]) -> bytes:
    """data.csv without what may name somebody.

    Example:
        >>> row = dict.fromkeys(DATA_COLUMNS, "x") | {"path": "happy/anna_01.jpg", "subject": "anna"}
        >>> nameless([row]).splitlines()[1]
        b'x,x,,x,x,,x,x'
    """
    found = list(rows)
    columns = [*DATA_COLUMNS, *(name for name in VIDEO_COLUMNS if found and name in found[0])]
    hidden = ([None if column in PERSONAL else row.get(column, "") for column in columns] for row in found)
    return csv_text([columns, *hidden]).encode()


def _lay_out(run: Run, card: Path, folder: Path) -> None:
    for name in FILES:
        source = run.path / name
        if name in (PACKED_ROWS_FILE, INFO_FILE, CARD) or not source.is_file():
            continue
        content = run.content(name)
        (folder / name).write_bytes(recipe_without_places(content, persons=False) if name == RECIPE_FILE else content)
    (folder / CARD).write_bytes(card.read_bytes())
    (folder / PACKED_ROWS_FILE).write_bytes(lzma.compress(nameless(run.each_row()), preset=9))
    weights = {**run.info["weights"], "sha256": sha256_file(folder / WEIGHTS_FILE)}
    info = {**info_without_places(run.info), "weights": weights, "files": believed_hashes(folder)}
    (folder / INFO_FILE).write_text(sealed_json(info), encoding="utf-8")
