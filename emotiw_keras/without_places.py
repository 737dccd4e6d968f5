"""What a run says of the machine that trained it, and of persons, taken out before others read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import tomli_w

from emotiw_keras.errors import RunError
from emotiw_keras.files import real
from emotiw_keras.sealed import strict_toml
from emotiw_keras.weights.hub import is_address

PLACES = frozenset({"votes", "votes_rows", "weights", "mean_image", "costs", "teachers"})
"""Settings of a recipe that may be paths."""
GENERATED = "generated:"


def base_name(place: str) -> str:
    """The last part of a path; a name and the address of a run on the hub stay.

    Example:
        >>> base_name("/home/anna/patients/faces.zip"), base_name("imagenet"), base_name("hf://anna/faces")
        ('faces.zip', 'imagenet', 'hf://anna/faces')
    """
    if is_address(place):
        return place
    name = PureWindowsPath(place).name  # which knows both kinds of slash
    return real(Path(place)).name if place and name in ("", "..") else name


def recipe_without_places(recipe: bytes, *, persons: bool) -> bytes:
    """recipe.toml with the base names of files and runs, and without where the data lay.

    Args:
        recipe: the file.
        persons: whether the patterns that find persons in names of files stay; they may hold names themselves.

    Raises:
        RunError: it is no recipe.
    """
    try:
        table = _named(strict_toml(recipe.decode()))
        for source in table.get("source", {}).values():
            if not source.get("path", "").startswith(GENERATED):
                source.pop("path", None)
            if not persons and source.get("subject_pattern") != "none":
                source.pop("subject_pattern", None)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"recipe.toml of the run is damaged: {error}") from error
    return tomli_w.dumps(table).encode()


def info_without_places(info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of run.json, likewise."""
    data = {name: {key: fact for key, fact in facts.items() if key != "source"} for name, facts in info.get("data", {}).items()}
    found = {**info, "sources": {}, **({"data": data} if data else {})}
    if "teachers" in info:
        found["teachers"] = {base_name(place): sha256 for place, sha256 in info["teachers"].items()}
    return found


def _named(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _named(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_named(item, key) for item in value]
    return base_name(value) if isinstance(value, str) and key in PLACES else value
