"""Intervals and tests by person: by simulation of persons whose images are answered alike, and against their definitions."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.assessment import Assessment, Predictions, figures
from emotiw_keras.evaluation.calibration import by_agreement
from emotiw_keras.evaluation.compare import compare
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.evaluation.metrics import scores
from emotiw_keras.evaluation.predictions_csv import predictions_csv
from emotiw_keras.evaluation.provenance import stage_persons
from emotiw_keras.evaluation.significance import (
    accuracy_difference_interval,
    macro_f1_interval,
    mcnemar,
    paired_test,
    person_numbers,
    share_interval,
    wilson_interval,
)
from emotiw_keras.reports.comparison_page import comparison_page, comparison_text
from emotiw_keras.reports.evaluation_report import report_page
from emotiw_keras.reports.score_tables import of_intervals, on_few_persons, per_class_table
from emotiw_keras.runs import DATA_COLUMNS, Run

PERSONS, SETS = 40, 400


def answered(random: np.random.Generator, person: np.ndarray) -> np.ndarray:
    """Whether each image is answered rightly, bool (n,): each person has an own share, 1 / 2 on average."""
    return random.random(len(person)) < random.beta(1, 1, PERSONS)[person]


def drawn(random: np.random.Generator) -> np.ndarray:
    """The person of each image: 1 to 19 images each."""
    return np.repeat(np.arange(PERSONS), random.integers(1, 20, PERSONS))


def test_intervals_by_person_cover_what_they_say_and_those_by_image_far_less() -> None:
    random, covered = np.random.default_rng(0), np.zeros(2)
    for _ in range(SETS):
        person = drawn(random)
        right = answered(random, person)
        ends = np.array([share_interval(right, person), share_interval(right)])
        covered += (ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5)
    by_person, by_image = covered / SETS
    assert 0.92 <= by_person <= 0.98 and by_image < 0.75


@pytest.mark.parametrize("persons", [12, 40])
@pytest.mark.parametrize("mean", [0.5, 0.9, 0.95, 0.98])
def test_intervals_by_person_cover_where_nearly_all_is_right_and_are_never_narrower(mean: float, persons: int) -> None:
    random, covered, sets = np.random.default_rng(5), 0, 100
    for alike in (1, 4, 20):
        for _ in range(sets):
            person = np.repeat(np.arange(persons), random.integers(1, 20, persons))
            right = random.random(len(person)) < random.beta(mean * alike, (1 - mean) * alike, persons)[person]
            low, high = share_interval(right, person)
            by_image = share_interval(right)
            assert low <= by_image[0] and high >= by_image[1]
            covered += low <= mean <= high
    assert covered >= 0.93 * 3 * sets


def test_one_image_read_wrongly_makes_an_interval_hardly_narrower() -> None:
    right, person = np.ones(30, bool), np.arange(30) % 15
    low, high = share_interval(right, person)
    right[0] = False
    assert abs(share_interval(right, person)[0] - low) < 0.05 and high == 1


def test_the_test_by_person_rejects_as_often_as_it_says_and_that_by_image_far_more() -> None:
    random, rejected = np.random.default_rng(1), np.zeros(2)
    for _ in range(SETS):
        person = drawn(random)
        a, b = answered(random, person), answered(random, person)
        rejected += [paired_test(a, b, person) < 0.05, paired_test(a, b) < 0.05]
    by_person, by_image = rejected / SETS
    assert 0.02 <= by_person <= 0.08 and by_image > 0.2


def test_a_difference_that_holds_for_all_persons_is_found() -> None:
    random, person = np.random.default_rng(2), np.arange(400) // 10
    a = random.random(400) < 0.5
    b = a | (random.random(400) < 0.3)
    assert paired_test(a, b, person) < 1e-6
    low, high = accuracy_difference_interval(a, b, person)
    assert 0 < low < b.mean() - a.mean() < high
    assert paired_test(a, a, person) == 1
    alone = np.arange(18)
    assert paired_test(alone < 9, alone >= 9, alone) == 1  # nine each, and not 0.9999999999999999
    low, high = accuracy_difference_interval(a, a, person)
    assert low == -high and high == pytest.approx(wilson_interval(0, 40)[1], abs=0.03)  # of 40 persons, who all stay


def test_the_test_by_person_adds_up_all_exchanges() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        person = random.integers(0, 8, 30)
        a, b = random.random(30) < 0.4, random.random(30) < 0.6
        gain = np.array([(b[person == each].sum() - a[person == each].sum()) for each in range(8)], int)
        sums = np.array([np.dot(signs, gain) for signs in product((-1, 1), repeat=8)])
        assert paired_test(a, b, person) == pytest.approx((np.abs(sums) >= abs(gain.sum())).mean())
        # one image a person: McNemar's
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        assert paired_test(a, b, np.arange(30)) == pytest.approx(mcnemar(only_a, only_b)) == paired_test(a, b)


def test_persons_are_drawn_as_one_by_one() -> None:
    random = np.random.default_rng(4)
    person = np.concatenate([np.repeat(np.arange(12), random.integers(2, 9, 12)), np.arange(12, 40)])  # some of one image
    right = random.random(len(person)) < random.random(40)[person]
    hits, images = np.bincount(person, right), np.bincount(person)
    rows = random.integers(0, 40, (20_000, 40))
    expected = np.percentile(hits[rows].sum(axis=1) / images[rows].sum(axis=1), (2.5, 97.5))
    assert share_interval(right, person) == pytest.approx(expected, abs=0.015)
    truth, said = np.zeros(len(person), int), (~right).astype(int)
    wide, narrow = macro_f1_interval(truth, said, 2, person), macro_f1_interval(truth, said, 2)
    assert wide[1] - wide[0] > 1.2 * (narrow[1] - narrow[0])
    assert macro_f1_interval(truth, said, 2, np.arange(len(person))) == narrow


def test_few_persons_tell_no_more_than_their_images() -> None:
    right, person = np.arange(11) > 0, np.arange(11) // 6  # two persons, one of them always right
    low, high = share_interval(right, person)
    assert low < share_interval(right)[0] and high > share_interval(right)[1]
    for persons, few in ((9, True), (10, False)):
        who = np.arange(4 * persons) // 4
        hits = np.arange(4 * persons) % 4 > 0
        hits[0] = True  # all persons but the first have three of four, so that draws of them hardly differ
        a, truth = np.zeros(len(hits), bool), np.zeros(len(hits), int)
        for by_person, by_image in (
            (macro_f1_interval(truth, (~hits).astype(int), 2, who), macro_f1_interval(truth, (~hits).astype(int), 2)),
            (accuracy_difference_interval(a, hits, who), accuracy_difference_interval(a, hits)),
        ):
            assert (by_person[0] <= by_image[0] and by_person[1] >= by_image[1]) == few


def test_persons_who_are_all_read_rightly_count_hardly_more_than_once_each() -> None:
    right, person = np.ones(600, bool), np.arange(600) // 10
    assert share_interval(right, person)[0] == pytest.approx(wilson_interval(60, 60)[0], abs=0.01)
    assert share_interval(right)[0] > 0.99
    assert person_numbers(["", ""]) is None and person_numbers([]) is None
    assert person_numbers(["", "a", "", "a"]).tolist() == [0, 1, 2, 1]  # type: ignore[union-attr]


def test_figures_tell_persons_beside_images() -> None:
    truth = np.array([0] * 6 + [1] * 4)
    probabilities = np.eye(2)[[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]
    subject = ["a"] * 3 + ["b"] * 3 + ["a", "c", "", ""]
    result = scores(truth, probabilities, ("no", "yes"), subject=subject)
    assert (result["persons"], result["person_unknown"]) == (3, 2)
    assert [row["persons"] for row in result["per_class"].values()] == [2, 2]
    assert result["per_class"]["no"]["recall_ci95"] == pytest.approx([0.015, 0.985], abs=0.001)  # of two persons one is read
    plain = scores(truth, probabilities, ("no", "yes"))
    assert plain["persons"] is None and plain["person_unknown"] == 10 and plain["accuracy"] == result["accuracy"]
    assert plain["per_class"]["no"]["recall_ci95"] == list(wilson_interval(3, 6))
    assert plain["per_class"]["no"]["persons"] is None
    with pytest.raises(ValueError, match="9 persons for 10 images"):
        scores(truth, probabilities, ("no", "yes"), subject=subject[1:])
    assert "| no    |     1.000 |  0.500 |  0.015 - 0.985 | 0.667 |      6 |       2 |" in per_class_table(result)
    named = scores(truth, probabilities, ("n|o\n", "yes"), subject=subject)
    assert "\n| n\\|o  |" in per_class_table(named)


def test_columns_and_classes_of_few_persons_are_named_where_all_images_show_enough() -> None:
    def result(persons: int, unknown: int = 0) -> dict[str, Any]:
        subject = [str(row) if row < persons else "" for row in range(persons + unknown)]
        truth = np.arange(persons + unknown) >= 15
        of = scores(truth.astype(int), np.eye(2)[truth.astype(int)], ("no", "yes"), subject=subject)
        return of | {"leak_free": None, "leak_free_near": None}

    whole = result(40) | {"leak_free": result(14), "leak_free_near": result(0, 3)}
    (line,) = on_few_persons(whole)
    assert line.startswith("Fewer than 20 persons in leak-free (14), no (15): ")
    assert on_few_persons(result(19)) == [] and "rest on 19 persons alone" in of_intervals(result(19))[0]
    assert on_few_persons(result(16, 30)) == []  # the others of a class may each be somebody else


def test_persons_stay_with_the_answers() -> None:
    subject = ["a", "", "=b"]
    told = Predictions(
        ("no", "yes"), ["x", "y", "z"], ["ok"] * 3, np.array([0, 1, 1]), np.eye(2, dtype=np.float32)[[0, 1, 0]], subject
    )
    assert told.select(np.array([2, 0])).subject == ["=b", "a"]
    assert predictions_csv(told).splitlines()[1] == "x,no,no,1,0,ok,a"
    assert predictions_csv(replace(told, subject=())).splitlines()[1] == "x,no,no,1,0,ok,"


def test_intervals_where_votes_agree_are_by_person() -> None:
    truth, said, votes = np.zeros(40, int), np.arange(40) // 20, np.zeros((40, 10), int)
    votes[:, 0] = 10  # all ten agree
    told = Predictions(("no", "yes"), ["x"] * 40, ["ok"] * 40, truth, np.eye(2, dtype=np.float32)[said])
    by_image = by_agreement(told, votes)["agreed"]["accuracy_ci95"]
    assert by_image == list(wilson_interval(20, 40))
    of_two = by_agreement(replace(told, subject=["anna"] * 20 + ["bert"] * 20), votes)["agreed"]
    assert (of_two["n"], of_two["accuracy"], of_two["accuracy_ci95"]) == (40, 0.5, pytest.approx([0.015, 0.985], abs=0.001))


@pytest.fixture(scope="module")
def known(side_by_side: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `side_by_side`; `one` knows who its image shows, which the data do not say."""
    folder = tmp_path_factory.mktemp("known")
    for name in ("one", "two", "faces"):
        shutil.copytree(side_by_side / name, folder / name)
    rows = list(csv.DictReader((folder / "one" / "data.csv").open(newline="")))
    with open(folder / "one" / "data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, DATA_COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "subject": "anna"} for row in rows)
    return folder


@pytest.fixture(scope="module")
def by_pattern(known: Path) -> tuple[Assessment, Assessment]:
    """Fourteen images, of seven persons by their names: of person 0 the images 0 and 1, and so on."""
    pattern = r"^(1?[0-9])[.]png"
    one, two = (assess(Run.open(known / name), known / "faces", subject_pattern=pattern) for name in ("one", "two"))
    return one, two


def test_persons_are_those_of_the_data_and_else_those_the_run_knew(known: Path, by_pattern) -> None:
    told = assess(Run.open(known / "one"), known / "faces")
    assert (told.result["persons"], told.result["person_unknown"]) == (1, 13)
    assert [person for person in told.predictions.subject if person] == ["anna"]
    assert by_pattern[0].result["persons"] == 14 and "torn.png" in str(by_pattern[0].predictions.paths)
    assert by_pattern[0].result["per_class"]["sad"]["persons"] == 2
    assert assess(Run.open(known / "two"), known / "faces").result["persons"] is None


def test_reports_and_comparisons_say_by_what(by_pattern, known: Path) -> None:
    def paired(assessment: Assessment) -> Assessment:
        """The same with two images to each person."""
        subject = [person and str(int(person) // 2) for person in assessment.predictions.subject]
        told = replace(assessment.predictions, subject=subject)
        result = figures(told, assessment.seen, assessment.question, selected_on=False)
        return replace(assessment, predictions=told, result={**assessment.result, **result, "leak_free_near": None})

    one, two = map(paired, by_pattern)
    result = compare([one, two])
    assert (result["persons"], result["person_unknown"], result["runs"][0]["persons"]) == (7, 0, 7)
    a, b = (each.predictions.predicted == each.predictions.truth for each in (one, two))
    order = {path: row for row, path in enumerate(two.predictions.paths)}
    b = b[[order[path] for path in one.predictions.paths]]
    read, number = one.predictions.readable, person_numbers(one.predictions.subject)
    (pair,) = result["pairs"]
    assert pair["mcnemar_p"] == paired_test(a[read], b[read], number[read])  # type: ignore[index]
    assert json.loads(json.dumps(result)) == result
    text, page = comparison_text(result), comparison_page(result, "faces", "emotiw compare")
    assert "14 images of 7 persons" in text and "permutation by person p" in text and "rest on 7 persons alone" in text
    assert "95 %, by person" in page and "exact permutation test by person" in page and "14 images of 7 persons" in page
    report = report_page(one)
    assert "divided by the design effect where fewer than 50 persons have" in report
    assert (
        "14 images of 7 persons" in report and "intervals are by person" in report and "Intervals rest on 7 persons" in report
    )
    plain = [assess(Run.open(known / "two"), known / "faces")] * 2
    assert "Intervals are by image, as nobody knows who is shown" in comparison_text(compare(plain))
    assert "McNemar p" in comparison_text(compare(plain)) and "95 %, by image" in comparison_page(compare(plain), "faces", "x")


def test_a_pattern_that_fits_no_file_is_refused(known: Path) -> None:
    with pytest.raises(UsageError, match="is no regular expression"):
        assess(Run.open(known / "one"), known / "faces", subject_pattern="(")


def test_pages_count_the_persons_that_a_run_saw(known: Path) -> None:
    one, two = Run.open(known / "one"), Run.open(known / "two")
    assert stage_persons(one) == {"s": {"train": 1}} and stage_persons(two) == {}
    page = report_page(assess(one, known / "faces"))
    row = '<th scope="row">persons</th><td>1</td></tr>'
    assert page.count(row) == 2  # of what it was trained on, and of what was scored
