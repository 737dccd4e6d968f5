"""The table of small sets: counts, intervals and tests by person, what was read is read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_sets import Cell, against, table
from emotiw_keras.evaluation.significance import paired_test

PERSON = {f"{i}.png": f"p{i // 4}" for i in range(24)}


def cell(right: range) -> Cell:
    return Cell({path: i in right for i, path in enumerate(PERSON)}, PERSON, 2.5)


def test_rows_stand_beside_the_probe(tmp_path: Path) -> None:
    cell(range(6)).write(tmp_path / "cell.csv")
    assert Cell.read(tmp_path / "cell.csv") == cell(range(6))
    probe, mine = {(0, 0): cell(range(12)), (0, 1): cell(range(12))}, {(0, 0): cell(range(18)), (0, 1): cell(range(16))}
    points, low, high, p = against(mine, probe)
    assert points == pytest.approx(100 * (34 - 24) / 48) and low <= points <= high
    a, b = np.array([*[True] * 12, *[False] * 12] * 2), np.array([*[True] * 18, *[False] * 6, *[True] * 16, *[False] * 8])
    assert p == paired_test(a, b, np.tile(np.arange(24) // 4, 2)) == 0.5  # two of six persons differ, whatever the seeds
    rows = table({(10, "probe"): probe, (10, "finetune"): mine, (0, "zero-shot"): mine}).splitlines()
    assert rows[3].startswith("| 10 | finetune | 70.8% |") and "48 of 6 persons | 2 | 2 s | +20.8 (" in rows[3]
    assert rows[3].endswith("| 0.5, 0.5 |") and rows[4].endswith("|  |  |") and rows[4].startswith("| all | zero-shot |")
