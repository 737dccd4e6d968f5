"""The runs that pages are written of are those that evaluation compares."""

from __future__ import annotations

from tests.evaluation.conftest import side_by_side

__all__ = ["side_by_side"]
