"""The report folder: images are decoded and looked at, tables are read back, the page holds what it was given, escaped."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.data.generated import LABELS as SEVEN
from emotiw_keras.data.generated import draw_faces
from emotiw_keras.errors import OutputError
from emotiw_keras.evaluation.assessment import Assessment, Predictions
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.evaluation.mistakes import most_confident
from emotiw_keras.evaluation.predictions_csv import predictions_csv
from emotiw_keras.html import Html, joined, page, table, tag
from emotiw_keras.reports.evaluation_report import confusion_png, report_page, write_report
from emotiw_keras.reports.score_tables import figures_table
from emotiw_keras.reports.sections import cautions, confusion_table, reproduce
from emotiw_keras.runs import Run
from emotiw_keras.serving.rows import csv_lines

LABELS = ("angry", "happy", "sad")
NASTY = "<img src=x onerror=alert(1)>&\"'.png"


@pytest.fixture
def told() -> Predictions:
    truth = np.array([0, 1, 1, 2, -1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [np.nan] * 3], np.float32)
    status = ["ok"] * 4 + ["cannot decode: truncated"]
    return Predictions(LABELS, ["a.png", "b, with comma.png", "c.png", "d.png", "e.png"], status, truth, probabilities)


@pytest.fixture(scope="module")
def assessment(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    """Of a run that tells a history, on 21 faces of which one has a nasty name and one cannot be read."""
    folder = tmp_path_factory.mktemp("report")
    images, labels = draw_faces(21, size=32, seed=1)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "faces" / "test" / SEVEN[label] / (NASTY if i == 0 else f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "faces" / "test" / "sad" / "torn.png").write_bytes(b"torn")
    run = shutil.copytree(run_folder, folder / "<b>run")
    info = json.loads((run / "run.json").read_text())
    stage = {"name": "only", "images": 10, "epochs": 2, "best_epoch": 2, "val_accuracy": 0.5, "val_macro_f1": 0.4}
    (run / "run.json").write_text(json.dumps(info | {"stages": [stage], "seed": 11, "sources": {"data": "faces & more"}}))
    (run / "recipe.toml").write_text('name = "</code><script>alert(1)</script>"\n')
    header = "stage,epoch,learning_rate,loss,accuracy,val_loss,val_accuracy\n"
    (run / "history.csv").write_text(header + "only,1,0.1,2,0.2,1.9,0.3\nonly,2,0.1,1.5,0.4,1.6,0.5\n")
    columns = "stage,data,path,pixel_hash,label,subject,split,status\n"
    rows = ["only,data,t/1.png,h1,happy,,train,train\n"] * 3 + ["only,data,t/2.png,h2,sad,,val,val\n"]
    (run / "data.csv").write_text(columns + "".join(rows) + "only,data,t/3.png,h3,sad,,test,held out\n")
    return assess(Run.open(run), folder / "faces")


class Reader(HTMLParser):
    """Checks that elements are closed in order, and keeps texts, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_predictions_csv_reads_back(told):
    rows = list(csv.DictReader(predictions_csv(told).splitlines()))
    assert [row["path"] for row in rows] == told.paths
    assert [row["label"] for row in rows] == ["angry", "happy", "happy", "sad", ""]
    assert [row["predicted"] for row in rows] == ["angry", "happy", "angry", "sad", ""]
    assert float(rows[1]["happy"]) == pytest.approx(0.7) and rows[4]["happy"] == ""
    assert rows[4]["status"] == "cannot decode: truncated"


def test_a_class_that_is_called_like_a_column_has_its_own(told):
    rows = list(csv.DictReader(predictions_csv(replace(told, labels=("path", "happy", "status"))).splitlines()))
    assert [row["path"] for row in rows] == told.paths and rows[4]["status"] == "cannot decode: truncated"
    assert float(rows[1]["happy"]) == pytest.approx(0.7)
    assert float(rows[1]["probability of path"]) + float(rows[1]["probability of status"]) == pytest.approx(0.3)
    keys = (
        "frame",
        "seconds",
        "face",
        "box",
        "eyes",
        "detector_score",
        "label",
        "probabilities",
        "uncertain",
        "derived",
        "doubt",
    )
    row = {"path": "a.png", **dict.fromkeys(keys), "error": "no face found"}
    (header, _) = csv_lines(("x", "sad", "uncertain"))(row).split("\n")
    columns = header.split(",")
    assert len(set(columns)) == len(columns) == 22
    assert columns[14:17] == ["probability of x", "sad", "probability of uncertain"]


def test_confusion_png_is_dark_where_the_rates_are_high(tmp_path):
    path = tmp_path / "confusion.png"
    confusion_png([[90, 10, 0], [0, 5, 5], [0, 0, 0]], LABELS, path, title="of 110 images")
    image = cv2.imread(str(path))
    assert image is not None and image.shape[1] > 1.5 * image.shape[0] > 600
    # Both panels hold one cell in the darkest blue of a rate of 0.9, 90 images as well as 90 %.
    dark = (np.abs(image.astype(int) - (135, 69, 8)).sum(axis=-1) < 40).any(axis=0)
    half = image.shape[1] // 2
    assert dark[:half].sum() > 30 and dark[half:].sum() > 30


def test_a_confusion_of_hundreds_of_classes_stays_a_picture_and_a_line(tmp_path):
    confusion = np.eye(400, dtype=int)
    confusion_png(confusion, [f"c{i}" for i in range(400)], tmp_path / "many.png")
    assert max(cv2.imread(str(tmp_path / "many.png")).shape) < 9000
    told = str(confusion_table([f"c{i}" for i in range(400)], confusion))
    assert "400 classes are in confusion.png" in told and len(told) < 200


def test_confusion_png_of_many_classes_and_of_two(tmp_path):
    for k in (2, 42):
        confusion_png(np.eye(k, dtype=int).tolist(), [f"class {i}" for i in range(k)], tmp_path / f"{k}.png")
        assert cv2.imread(str(tmp_path / f"{k}.png")) is not None


@pytest.mark.filterwarnings("error")  # Matplotlib's, where names leave no room
def test_confusion_png_leaves_the_matrix_room_beside_long_names(tmp_path):
    confusion_png([[3, 0], [0, 4]], ["a" * 120, "b" * 60], tmp_path / "long.png")
    image = cv2.imread(str(tmp_path / "long.png")).astype(int)
    dark = np.abs(image - (107, 48, 8)).sum(axis=-1) < 40  # a rate of 1
    assert dark.mean() > 0.05


def test_report_folder(assessment, tmp_path):
    paths = write_report(tmp_path / "new" / "report", assessment)
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new" / "report").iterdir())
    assert [path.name for path in paths] == ["report.html", "scores.json", "predictions.csv", "confusion.png", "faces.png"]
    assert json.loads(paths[1].read_text()) == assessment.result
    read = Reader(paths[0].read_text("utf-8"))
    words, result = " ".join(read.texts), assessment.result
    assert f"{100 * result['accuracy']:.1f} %" in words and "1 images could not be read" in words
    assert f"{result['expected_cost']:.3f}" in words and "Russell and Mehrabian 1977" in words
    assert "SHA-256 " + assessment.run.fingerprint in words and "11" in read.texts
    assert [label for label in SEVEN if label not in words] == []
    images = read.all("img")
    wrong = int((assessment.predictions.predicted != assessment.predictions.truth)[assessment.predictions.readable].sum())
    assert len(images) == 2 * min(wrong, 12) > 0 and all(image["alt"] for image in images)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    charts = [svg["aria-label"] for svg in read.all("svg")]
    assert f"expected calibration error {result['ece']:.3f}" in charts[0]
    assert charts[1].startswith(f"Accuracy over coverage: {result['accuracy']:.1%} of all answers, ")
    assert "The run does not say which answers are too unsure" in words and result["uncertain"] is None
    assert charts[2] == "accuracy over 2 epochs; in the last: train 0.400, val 0.500"
    # 3 of 3 training images are happy, the one for selection is sad.
    assert "3 (100.0%)" in read.texts and "1 (100.0%)" in read.texts


def test_the_page_asks_for_nothing_and_runs_nothing(assessment):
    text = report_page(assessment)
    read = Reader(text)
    assert read.all("script") == read.all("link") == [] and "<script" not in text
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert {value.split(":")[0] for _, each in read.tags for key, value in each.items() if key in ("src", "href")} == {"data"}
    (policy,) = [each["content"] for each in read.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    # What data and files say is text, whatever it looks like.
    assert "<b>run" in "".join(read.texts) and "</code><script>alert(1)</script>" in "".join(read.texts)
    assert read.all("b") == []


def test_a_nasty_file_name_is_text(assessment):
    told = assessment.predictions
    readable = told.readable
    row = next(i for i, path in enumerate(told.paths) if path.endswith(NASTY))
    wrong = np.full(told.probabilities.shape, 0.001, np.float32)
    wrong[np.arange(len(wrong)), (told.truth + 1) % 7] = 0.994 - 0.1 * (np.arange(len(wrong)) != row)
    wrong[~readable] = np.nan
    sure = replace(assessment, predictions=replace(told, probabilities=wrong))
    assert most_confident(sure, 3)[0] == row
    read = Reader(report_page(sure))
    assert any(text.endswith(NASTY) for text in read.texts)


def test_all_right_has_no_mistakes_to_show(assessment):
    told = assessment.predictions
    right = np.eye(7, dtype=np.float32)[told.truth]
    right[~told.readable] = np.nan
    text = report_page(replace(assessment, predictions=replace(told, probabilities=right)))
    assert "was classified correctly" in text and "<img" not in text


def test_a_run_that_ships_does_not_say_from_nowhere(assessment):
    text = reproduce(replace(assessment, run=Run.open("fer28-face-vgg-votes")))
    assert "<dt>data fer</dt><dd>layout split folders, images 35887" in text


def test_leak_free_figures_stand_beside_the_others(assessment):
    leak_free = {**assessment.result, "accuracy": 0.125}
    line = next(
        line
        for line in figures_table({**assessment.result, "accuracy": 0.75, "leak_free": leak_free}).splitlines()
        if line.startswith("| accuracy")
    )
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["75.0 %", "12.5 %"]


def test_a_class_without_images_is_told_beside_macro_f1(assessment):
    told = "No image of sad: macro F1 and the ABAW score count that as 0, so that macro F1 is at most 0.857"
    assert not any("at most" in line for line in cautions(assessment))
    rows = assessment.result["per_class"]
    one = replace(assessment, result=assessment.result | {"per_class": rows | {"sad": rows["sad"] | {"support": 0}}})
    lines = cautions(one)
    assert sum(line.startswith(told) for line in lines) == 1
    assert not any(line.startswith("Fewer than") and " sad" in line for line in lines)
    assert "; at most 0.857 here" in report_page(one)


def test_markup_is_escaped_by_construction():
    assert tag("a", "<b>", class_="x", title='"') == '<a class="x" title="&quot;">&lt;b&gt;</a>'
    assert joined("<", Html("<br>"), None, [1, ["&"]]) == "&lt;<br>1&amp;"
    assert tag("p", "bytes \udcff that are no text") == "<p>bytes \\udcff that are no text</p>"
    read = Reader(page("<title>", table(["a", "b"], [("<x>", 1)], "caption <&>")))
    assert "<title>" in read.texts and "<x>" in read.texts and "caption <&>" in read.texts


def test_a_folder_that_cannot_be_written_is_one_error(assessment, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        write_report(tmp_path / "file" / "report", assessment)
