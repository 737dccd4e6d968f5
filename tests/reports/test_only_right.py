"""The sheet of faces that one run alone got right."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.evaluation.compare import compare
from emotiw_keras.evaluation.ensemble import matched
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.reports.only_right import only_right, only_right_section
from emotiw_keras.runs import Run


def said(*rows: tuple[float, float]) -> Predictions:
    return Predictions(("a", "b"), list("12345"), ["ok"] * 5, np.array([0, 0, 1, 1, 0]), np.array(rows, np.float32))


def test_right_by_one_alone_and_the_surest_first() -> None:
    one = said((0.6, 0.4), (0.9, 0.1), (0.2, 0.8), (0.7, 0.3), (np.nan, np.nan))
    two = said((0.4, 0.6), (0.2, 0.8), (0.1, 0.9), (0.4, 0.6), (np.nan, np.nan))
    three = said((0.1, 0.9), (0.1, 0.9), (0.1, 0.9), (0.8, 0.2), (np.nan, np.nan))
    assert [rows.tolist() for rows in only_right([one, two, three])] == [[1, 0], [3], []]


def test_the_sheets_hold_what_the_table_counts(side_by_side: Path) -> None:
    both = [assess(Run.open(side_by_side / name), side_by_side / "faces") for name in ("one", "two")]
    (pair,) = compare(both)["pairs"]
    found = only_right(matched(both))
    assert [len(rows) for rows in found] == [pair["only_a_right"], pair["only_b_right"]]
    page = only_right_section(both, ["<one>", "two"])
    assert "<one>" not in page and page.count("<img ") == sum(map(len, found)) <= 14
    assert page.count('which two alone got right"') == len(found[1])
    for row in np.concatenate(found):
        assert both[0].predictions.paths[row] in page
