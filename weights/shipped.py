"""The trained models that come with the package: run folders, packed by `emotiw pack`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "shipped"
DEFAULT = "fer28-face-vgg-votes"
"""What `emotiw predict` uses where no run is named; called as the recipe that trained it."""


def shipped_models() -> list[str]:
    """The names of the models that ship."""
    return sorted(path.name for path in FOLDER.iterdir() if (path / "run.json").is_file()) if FOLDER.is_dir() else []


def shipped_folder(name: str) -> Path | None:
    """The run folder of the model that ships as `name`, or None.

    Example:
        >>> shipped_folder("no-such-model") is None
        True
    """
    return FOLDER / name if name in shipped_models() else None
