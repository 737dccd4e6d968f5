"""The report folder: pictures are decoded and looked at, tables are read back."""

import csv
import json

import cv2
import numpy as np
import pytest

from emotiw_keras.errors import OutputError
from emotiw_keras.evaluation.metrics import scores
from emotiw_keras.evaluation.report import Predictions, confusion_png, predictions_csv, report_markdown, write_report

LABELS = ("angry", "happy", "sad")


@pytest.fixture
def scored() -> tuple[dict, Predictions]:
    truth = np.array([0, 1, 1, 2, -1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [np.nan] * 3], np.float32)
    status = ["ok"] * 4 + ["cannot decode: truncated"]
    predictions = Predictions(LABELS, ["a.png", "b, with comma.png", "c.png", "d.png", "e.png"], status, truth, probabilities)
    figures = scores(truth[:4], probabilities[:4], LABELS, n=5, n_found=4)
    return {**figures, "split": "test", "selected_on": True, "leak_free": None}, predictions


def test_predictions_csv_reads_back(scored):
    rows = list(csv.DictReader(predictions_csv(scored[1]).splitlines()))
    assert [row["path"] for row in rows] == scored[1].paths
    assert [row["label"] for row in rows] == ["angry", "happy", "happy", "sad", ""]
    assert [row["predicted"] for row in rows] == ["angry", "happy", "angry", "sad", ""]
    assert float(rows[1]["happy"]) == pytest.approx(0.7) and rows[4]["happy"] == ""
    assert rows[4]["status"] == "cannot decode: truncated"


def test_confusion_png_is_dark_where_the_rates_are_high(tmp_path):
    path = tmp_path / "confusion.png"
    confusion_png([[90, 10, 0], [0, 5, 5], [0, 0, 0]], LABELS, path, title="of 110 images")
    image = cv2.imread(str(path))
    assert image is not None and image.shape[1] > 1.5 * image.shape[0] > 600
    # Both panels hold one cell in the darkest blue of a rate of 0.9, 90 images as well as 90 %.
    dark = (np.abs(image.astype(int) - (135, 69, 8)).sum(axis=-1) < 40).any(axis=0)
    half = image.shape[1] // 2
    assert dark[:half].sum() > 30 and dark[half:].sum() > 30


def test_confusion_png_of_many_classes_and_of_two(tmp_path):
    for k in (2, 42):
        confusion_png(np.eye(k, dtype=int).tolist(), [f"class {i}" for i in range(k)], tmp_path / f"{k}.png")
        assert cv2.imread(str(tmp_path / f"{k}.png")) is not None


def test_report_folder(scored, tmp_path):
    result, predictions = scored
    paths = write_report(tmp_path / "new" / "report", result, predictions, "run on data")
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new" / "report").iterdir())
    assert json.loads(paths[0].read_text()) == result
    text = paths[3].read_text()
    assert "75.0 %" in text and "1 images could not be read" in text and "hopeful" in text and "no leak-free figures" in text


def test_report_shows_leak_free_figures_beside_the_others(scored):
    result, predictions = scored
    leak_free = scores(np.array([0, 1]), predictions.probabilities[1:3], LABELS, n=3)
    text = report_markdown({**result, "selected_on": False, "leak_free": leak_free}, "x")
    line = next(line for line in text.splitlines() if line.startswith("| accuracy"))
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["75.0 %", "0.0 %"]
    assert "leaves out 2 images" in text and "hopeful" not in text


def test_a_folder_that_cannot_be_written_is_one_error(scored, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        write_report(tmp_path / "file" / "report", *scored, "x")
