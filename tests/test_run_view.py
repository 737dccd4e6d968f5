"""What a notebook and a prompt show of a run."""

from __future__ import annotations

import html
import re
from pathlib import Path

from emotiw_keras.runs import Run
from tests.conftest import write_run

HISTORY = "stage,epoch,learning_rate,loss,accuracy,val_loss,val_accuracy\ns,1,0.1,2,0.2,1.9,0.3\ns,2,0.1,1.5,0.4,1.7,0.5\n"


def test_a_notebook_shows_name_classes_and_curves_and_nothing_of_it_is_markup(tmp_path: Path) -> None:
    folder = tmp_path / "<b>bold"
    write_run(folder, labels=("<script>alert(1)</script>", "glad", '"><img src=x>'))
    run = Run.open(folder)
    run.info["stages"] = [{"name": "<i>s", "images": 12_345, "epochs": 2, "best_epoch": 2, "val_accuracy": 0.5}]
    shown = run._repr_html_()
    frame = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="" title="[^"]*" style="[^"]*"></iframe>', shown)
    assert frame is not None and "<b>" not in shown
    page = html.unescape(frame[1])
    assert not re.search(r"<(script|img|i|b)[ >]", page) and "&lt;script&gt;alert(1)&lt;/script&gt;, glad" in page
    assert "<td" in page and "50.0 %" in page and "12,345" in page and "No learning curves" in page
    (folder / "history.csv").write_text(HISTORY)
    assert html.unescape(Run.open(folder)._repr_html_()).count("<svg") == 2


def test_a_prompt_shows_a_line(tmp_path: Path) -> None:
    write_run(tmp_path / "first", labels=("calm", "glad", "tense"))
    run = Run.open(tmp_path / "first")
    assert repr(run) == f"Run('{tmp_path / 'first'}', {run.model_name}, 3 classes)"
    assert repr(Run.open("fer28-face-vgg")).startswith("Run('fer28-face-vgg', ")
