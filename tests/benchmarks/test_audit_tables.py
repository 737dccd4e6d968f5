"""AUDIT.md's tables come from an audit, not from hands."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.audit_tables import BEGIN, END, PAGE, put
from emotiw_keras.audit.audit import audit
from emotiw_keras.audit.entries import Entry
from emotiw_keras.audit.faces import LABELS, AuditFaces
from emotiw_keras.reports.audit_page import audit_text


def test_the_tables_are_replaced_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.arange(7)
    never = np.zeros(7, bool)
    faces = AuditFaces("fer", np.zeros((7, 48, 48), np.uint8), truth, never, never, None, {}, False, ())

    class Knows:
        labels, facts, identity = LABELS, {"trained_on": "unknown", "selected_on": "unknown"}, ""

        def __enter__(self) -> Knows:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def predict(self, asked: np.ndarray) -> np.ndarray:
            return np.eye(7, dtype=np.float32)[: len(asked)]

    monkeypatch.setattr("emotiw_keras.audit.audit.opened", lambda *_: Knows())
    result = audit([Entry("knows all", run="r")], faces)
    page = PAGE.read_text("utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    new = put(page, result)
    assert new == f"{before}{BEGIN}\n\n{audit_text(result)}\n\n{END}{after}" and put(new, result) == new
    assert "| knows all | 100.0 % (64.6 - 100.0) |" in new
    part = copy.deepcopy(result)
    part["data"]["limited"] = True
    with pytest.raises(SystemExit, match="expected all"):
        put(page, part)
    result["models"].append({"name": "lost", "error": "gone", "trained_on": "unknown", "selected_on": "unknown"})
    with pytest.raises(SystemExit, match="could not ask lost"):
        put(page, result)
    with pytest.raises(SystemExit, match="has no place"):
        put("a page", result)


def test_pages_say_what_the_audit_found() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    photos, recipes = ((docs / name).read_text("utf-8") for name in ("photos.md", "recipes.md"))
    table = PAGE.read_text("utf-8").split("## Accuracy on FER-2013's own labels")[1].split("\n## ")[0]
    found = re.findall(r"^\| (\S.*?) +\| ([\d.]+) % .*?\| ([\d.]+) %", table, re.MULTILINE)
    rows = {name: figures for name, *figures in found if not name.startswith("fer28")}
    said = re.search(r"the best model found in another package reaches ([\d.]+) and ([\d.]+) %(.*)", photos, re.DOTALL)
    assert said is not None and [said[1], said[2]] in rows.values()
    for name, figures in rows.items():
        assert float(figures[0]) <= float(said[1]) or "{} and {} %".format(*figures) in said[3], name
    near = re.search(r"(\d+) more nearly so", table)
    assert near is not None and f"{near[1]} of FER-2013's test images" in recipes
