"""What a person sees while a network trains."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from emotiw_keras.progress import Bar
from emotiw_keras.training.epoch_progress import Progress
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import Stage

from .conftest import RECIPE


def test_the_line_of_the_last_step_divides_by_the_images_there_are() -> None:
    """70 images in batches of 32: the third step has 6, and 65 right of 70 are 92.9 %."""
    terminal, said = io.StringIO(), list[str]()
    with_bar, progress = Progress(Bar("images", terminal)), Progress()
    stage = Stage("one", train=("data:train",), val=(), epochs=2, batch_size=32, learning_rate=0.1)
    for each in (progress, with_bar):
        each.step(stage, 0, 3, 3, 35.0, 65, 7.0, 70)
        each.note(said.append)
    assert said == ["  one epoch 1/2, step 3/3: loss 0.500, accuracy 92.9%, 10.0 images/s, 7 s left"]
    drawn = terminal.getvalue()
    assert all(words in drawn for words in ("one epoch 1/2:  50%", "70/140", "loss 0.500, accuracy 92.9%"))
    with_bar.close()


def test_macro_f1_is_shown_and_written_where_it_chooses_the_epoch(faces: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    changes = ["one.monitor='val_macro_f1'", "one.epochs=2", "two.epochs=1"]
    said: list[str] = []
    run = fit(load_recipe(str(tmp_path / "tiny.toml"), changes), faces, tmp_path / "run", say=said.append).run
    assert run is not None
    shown = [line for line in said if "val macro F1" in line]
    assert len(shown) == 2 and all("one epoch" in line for line in shown)
    with open(run.path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-1] == "val_macro_f1"
    for line, row in zip(shown, rows, strict=False):
        assert f"val macro F1 {float(row['val_macro_f1']):.3f}" in line
