"""Learning curves: drawn, decoded, and checked for what they must show."""

import cv2
import numpy as np
import pytest

from emotiw_keras.errors import DataError
from emotiw_keras.history import read_history, steps
from emotiw_keras.training.curves import learning_curves

HEADER = "stage,epoch,learning_rate,loss,accuracy,val_loss,val_accuracy,seconds,images_per_second\n"
ROWS = [
    "large,1,0.01,1.9,0.20,1.8,0.25,3.0,200\n",
    "large,2,0.01,1.2,0.55,1.1,0.60,3.0,200\n",
    "large,3,0.001,0.8,0.70,0.9,0.65,3.0,200\n",
    "small,1,0.01,1.5,0.40,1.4,0.45,1.0,200\n",
    "small,2,0.01,1.0,0.60,,,1.0,200\n",
]
TRAIN, VAL, SHADE = (9, 105, 218), (188, 76, 0), (221, 244, 255)


def _draw(folder, text: str) -> np.ndarray:
    (folder / "history.csv").write_text(text)
    learning_curves(folder / "history.csv", folder / "curves.png")
    return cv2.imread(str(folder / "curves.png"))[..., ::-1]


def _columns(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.flatnonzero((np.abs(image.astype(int) - colour).sum(axis=-1) < 12).any(axis=0))


def test_both_panels_show_train_val_and_the_second_stage_shaded(tmp_path):
    image = _draw(tmp_path, HEADER + "".join(ROWS))
    half = image.shape[1] // 2
    for panel in (image[:, :half], image[:, half:]):
        train, val, shade = (_columns(panel, colour) for colour in (TRAIN, VAL, SHADE))
        assert len(train) > 50 and len(val) > 50
        # The second stage holds 2 of 5 epochs, the right part of the panel.
        assert shade.min() > panel.shape[1] * 0.5 and shade.max() - shade.min() > panel.shape[1] * 0.25


def test_a_drop_of_the_learning_rate_is_marked_within_its_stage_only(tmp_path):
    def grey(image: np.ndarray) -> int:
        return int((np.abs(image.astype(int) - (140, 149, 159)).sum(axis=-1) < 6).sum())

    constant = [row.replace(",0.001,", ",0.01,") for row in ROWS]
    with_drop, without = _draw(tmp_path, HEADER + "".join(ROWS)), _draw(tmp_path, HEADER + "".join(constant))
    assert grey(with_drop) > grey(without) + 200
    # From 0.001 back to 0.01 at the start of a stage is no drop, nor is a lower start of the next stage.
    lower_start = constant[:3] + [row.replace(",0.01,", ",0.001,") for row in constant[3:]]
    assert grey(_draw(tmp_path, HEADER + "".join(lower_start))) == grey(without)


def test_one_epoch_and_an_unmeasured_figure_are_drawn(tmp_path):
    assert _draw(tmp_path, HEADER + ROWS[0]).shape[2] == 3
    epochs = read_history(_history(tmp_path, HEADER + ROWS[4]))
    assert np.isnan(epochs[0].val_loss) and epochs[0].accuracy == 0.6


def _history(folder, text: str):
    (folder / "history.csv").write_text(text)
    return folder / "history.csv"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER, "holds no epoch"),
        ("stage,epoch,loss\n", "lacks the columns learning_rate, accuracy"),
        (HEADER + ROWS[0].replace("1.9", "much"), "line 2: loss is 'much'"),
        ("", "lacks the columns stage"),
    ],
)
def test_a_damaged_history_is_one_error_and_leaves_no_image(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        learning_curves(_history(tmp_path, text), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_missing_history_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing.csv"):
        learning_curves(tmp_path / "nothing.csv", tmp_path / "curves.png")


def test_steps_are_told_from_a_rate_that_glides():
    assert steps([1.0, 1.0, 0.1, 0.1, 0.01]) == [(2, 0.1), (4, 0.01)]
    assert steps([0.5 * (1 + np.cos(np.pi * t / 12)) for t in range(12)]) == []
    assert steps([0.1, 1.0, 1.0]) == [] and steps([1.0]) == []
