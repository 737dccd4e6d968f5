"""Folders that cannot be read, for whoever runs the tests: the root user reads all of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def lock(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Let no one list these folders."""
    real, closed = os.scandir, {os.path.realpath(folder) for folder in folders}

    def scandir(path: Any = ".") -> Any:
        if os.path.realpath(path) in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
