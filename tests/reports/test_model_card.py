"""The model card: its metadata is YAML that is also JSON a line, its figures are evaluate's, nothing else is overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from emotiw_keras.errors import OutputError
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.reports.model_card import CardFacts, model_card, write_card
from emotiw_keras.runs import Run


@pytest.fixture(scope="module")
def assessment(side_by_side: Path) -> Assessment:
    return assess(Run.open(side_by_side / "one"), side_by_side / "faces")


def front_matter(text: str) -> dict:
    """The metadata block: `key: JSON`, a value's further lines indented, which every YAML reader takes."""
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert block is not None
    entries = re.split(r"\n(?=\S)", block[1])
    pairs = [entry.split(": ", 1) for entry in entries]
    assert all(re.fullmatch(r"[a-z-]+|library_name|pipeline_tag", key) for key, _ in pairs)
    return {key: json.loads(value) for key, value in pairs}


def test_the_metadata_reads_back_with_the_figures(assessment: Assessment) -> None:
    facts = CardFacts('name: "with" # signs', "mit", ("fer2013",))
    told = front_matter(model_card(assessment, facts))
    assert told["license"] == "mit" and told["pipeline_tag"] == "image-classification" and told["datasets"] == ["fer2013"]
    (model,) = told["model-index"]
    assert model["name"] == facts.name and model["results"][0]["dataset"] == {"name": "faces", "type": "faces", "split": "test"}
    values = {each["name"]: each["value"] for each in model["results"][0]["metrics"]}
    result = assessment.result
    assert values["accuracy"] == result["accuracy"] and values["macro F1"] == result["macro_f1"]
    assert values["accuracy, leak-free"] == result["leak_free"]["accuracy"] and values["calibration error"] == result["ece"]
    assert front_matter(model_card(assessment, CardFacts("x")))["datasets"] == ["faces"]


def test_the_text_tells_figures_data_limits_and_law(assessment: Assessment) -> None:
    text = model_card(assessment, CardFacts("one", "mit", (), "for *research* only"))
    result = assessment.result
    for label, row in result["per_class"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells[0] == f"{row['precision']:.3f}" and cells[1] == f"{100 * row['recall']:.1f} %"
        assert cells[-2:] == [str(row["support"]), "-"]
    assert f"| accuracy                  | {100 * result['accuracy']:>15.1f} % |" in text
    assert "for \\*research\\* only" in text and "1 images could not be read" in text
    assert "Article 5(1)(f) of Regulation (EU) 2024/1689" in text and "workplace and education institutions" in " ".join(
        text.split()
    )
    assert assessment.run.fingerprint in text and "emotiw evaluate" in text and "emotiw fit" in text


def test_a_card_names_no_place_of_this_machine(side_by_side: Path) -> None:
    found = assess(Run.open(side_by_side / "one"), side_by_side / "faces", subject_pattern="^(anna|[0-9])")
    text = model_card(found, CardFacts("one"))
    assert str(side_by_side) not in text and "anna" not in text
    assert "emotiw fit one/recipe.toml --data small=faces --out one-again" in text
    assert "emotiw evaluate one --data faces --split test --crops 1 --subject-pattern PATTERN" in text
    assert "On faces, split test" in text


def test_a_card_is_replaced_and_nothing_else(assessment: Assessment, tmp_path: Path) -> None:
    write_card(tmp_path / "README.md", assessment, CardFacts("one"))
    write_card(tmp_path / "README.md", assessment, CardFacts("two"))
    assert "# two" in (tmp_path / "README.md").read_text()
    (tmp_path / "mine.md").write_text("my own words")
    with pytest.raises(OutputError, match="not a model card"):
        write_card(tmp_path / "mine.md", assessment, CardFacts("one"))
    with pytest.raises(OutputError, match="not a model card"):
        write_card(tmp_path, assessment, CardFacts("one"))
    assert (tmp_path / "mine.md").read_text() == "my own words"


def test_the_command_writes_the_figures_of_evaluate(emotiw, side_by_side: Path) -> None:
    done = emotiw("card", "one", "--data", "faces", "--out", "card/README.md", "--license", "mit", cwd=side_by_side)
    assert done.returncode == 3 and done.stdout.strip() == "card/README.md", done.stderr
    told = front_matter((side_by_side / "card" / "README.md").read_text())
    result = assess(Run.open(side_by_side / "one"), side_by_side / "faces").result
    assert told["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(result["accuracy"])
