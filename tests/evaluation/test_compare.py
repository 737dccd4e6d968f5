"""Runs side by side and averaged: recomputed from their own answers, with labels in another order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.compare import compare
from emotiw_keras.evaluation.ensemble import ensemble, matched
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.labels import label_columns
from emotiw_keras.reports.comparison_page import comparison_page, comparison_text
from emotiw_keras.reports.sections import cautions
from emotiw_keras.runs import Run


@pytest.fixture(scope="module")
def assessed(side_by_side: Path) -> tuple[Assessment, Assessment]:
    one, two = (assess(Run.open(side_by_side / name), side_by_side / "faces") for name in ("one", "two"))
    return one, two


def test_labels_are_matched_by_name(assessed) -> None:
    one, two = assessed
    first, second = matched(assessed)
    assert first.labels == second.labels == one.predictions.labels != two.predictions.labels
    assert np.array_equal(first.truth, second.truth) and first.paths == second.paths
    for row, path in enumerate(second.paths):
        own = two.predictions.paths.index(path)
        for label in first.labels:
            told = two.predictions.probabilities[own, two.predictions.labels.index(label)]
            np.testing.assert_equal(second.probabilities[row, first.labels.index(label)], told)
    assert label_columns(("sad", "happy"), ("happy", "calm")) is None
    assert label_columns(("sad", "happy", "calm"), ("Calm", "sadness", "joy")) == [2, 0, 1]


def test_classes_are_matched_however_they_are_written(assessed) -> None:
    written = {"happy": ("very happy", "Very_Happy"), "sad": ("caf\u00e9", "cafe\u0301"), "angry": ("angry", "ANGER")}

    def named(assessment: Assessment, which: int) -> Assessment:
        labels = tuple(written[each][which] if each in written else each for each in assessment.predictions.labels)
        run = replace(assessment.run, info={**assessment.run.info, "labels": list(labels)})
        return replace(assessment, run=run, predictions=replace(assessment.predictions, labels=labels))

    one, two = assessed
    first, second = matched([named(one, 0), named(two, 1)])
    assert first.labels == second.labels and "very happy" in second.labels
    np.testing.assert_array_equal(second.probabilities, matched(assessed)[1].probabilities)
    assert label_columns(("a b", "a_b"), ("a-b", "a b")) is None  # not told apart, so that none takes the other's column
    assert label_columns(("happy", "joy", "sad"), ("joy", "happy", "sad")) == [
        1,
        0,
        2,
    ]  # two words for one, as they are written


def test_pairs_are_tested_on_the_same_images(assessed) -> None:
    result = compare(assessed)
    first, second = matched(assessed)
    read = first.readable
    truth, a, b = first.truth[read], first.predicted[read], second.predicted[read]
    assert (result["n"], result["n_found"], len(result["pairs"])) == (15, 14, 1)
    (pair,) = result["pairs"]
    only_a, only_b = int(((a == truth) & (b != truth)).sum()), int(((b == truth) & (a != truth)).sum())
    assert (pair["a"], pair["b"], pair["only_a_right"], pair["only_b_right"]) == ("one", "two", only_a, only_b)
    assert pair["mcnemar_p"] == pair["mcnemar_p_holm"]
    assert pair["mcnemar_p"] == pytest.approx(binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1)
    f1 = [f1_score(truth, each, average="macro", labels=range(7), zero_division=0) for each in (a, b)]
    assert pair["macro_f1_difference"] == pytest.approx(f1[1] - f1[0])
    assert [run["macro_f1"] for run in result["runs"]] == pytest.approx(f1)
    assert pair["agreement"] == pytest.approx((a == b).mean())
    # What one was trained on and the other selected on is left out for both.
    assert (result["leak_free"]["n"], result["leak_free"]["n_found"]) == (13, 12)
    assert [run["selected_on"] for run in result["leak_free"]["runs"]] == [False, False]
    assert "15 asked for); 2 were given to one of the runs" in comparison_text(result)
    assert json.loads(json.dumps(result)) == result


def test_why_no_image_is_left_is_told_alike_in_text_and_page(assessed) -> None:
    """Of batches that a user's dataset gave, no image is known to have been given to the run."""
    one, two = (replace(each, seen=np.ones_like(each.seen)) for each in assessed)
    batches = replace(two, run=replace(two.run, info={**two.run.info, "unrecorded": ["faces:train"]}))
    for pair, runs, why in (
        ((one, two), [], "every image was given to one of the runs"),
        ((one, batches), ["two"], "not all images that trained two are recorded"),
    ):
        result = compare(pair)
        assert (result["leak_free"], result["unrecorded"]) == (None, runs)
        for words in (comparison_text(result), comparison_page(result, "faces", "emotiw compare")):
            assert f"No leak-free comparison: {why}." in words and words.count("to one of the runs") == (not runs)
    none = replace(one, result={**one.result, "leak_free": None})
    assert "No leak-free figures: every image is also in a train or val split of the run." in cautions(none)
    assert "No leak-free figures: not all images that trained two are recorded." in cautions(replace(none, run=batches.run))


def test_images_that_no_run_was_given_chose_none(assessed) -> None:
    chosen = [replace(each, result={**each.result, "selected_on": True}) for each in assessed]
    result = compare(chosen)
    assert [run["selected_on"] for part in (result, result["leak_free"]) for run in part["runs"]] == [True, True, False, False]


@pytest.mark.parametrize("first", [0, 1])
def test_differences_go_the_way_of_the_sentence(assessed, first: int) -> None:
    one, two = assessed
    sure = np.where(two.predictions.readable[:, None], np.eye(7)[two.predictions.truth], np.nan).astype(np.float32)
    best = replace(two, predictions=replace(two.predictions, probabilities=sure))
    result = compare([(one, best), (best, one)][first])
    (pair,) = result["pairs"]
    low, high = sorted(100 * abs(end) for end in pair["accuracy_difference_ci95"])
    assert (pair["accuracy_difference"] > 0) is (first == 0)  # b less a, whatever is said of it
    text, page = comparison_text(result), comparison_page(result, "faces", "emotiw compare")
    assert "two is more accurate than one, by" in text and low > 0
    assert f"  accuracy of two less that of one, 95 %: {low:+.1f} to {high:+.1f} points" in text
    assert f"  macro F1 of two less that of one: {abs(pair['macro_f1_difference']):+.3f} (95 %: +" in text
    assert ">two - one<" in page and f">{low:+.1f} to {high:+.1f}<" in page
    assert f">{pair[('only_b_right', 'only_a_right')[first]]} : 0<" in page


def test_three_runs_are_adjusted_together(assessed) -> None:
    one, two = assessed
    result = compare([one, two, one])
    assert [(pair["a"], pair["b"]) for pair in result["pairs"]] == [
        (str(one.run.path), str(two.run.path)), (str(one.run.path), str(one.run.path)), (str(two.run.path), str(one.run.path)),
    ]  # fmt: skip
    assert all(pair["mcnemar_p_holm"] >= pair["mcnemar_p"] for pair in result["pairs"])
    assert result["pairs"][1]["agreement"] == 1 and result["pairs"][1]["macro_f1_difference"] == 0


def test_an_ensemble_is_the_mean_of_probabilities(assessed) -> None:
    both = ensemble(assessed)
    mean = np.mean([each.probabilities for each in matched(assessed)], axis=0)
    read = both.predictions.readable
    np.testing.assert_allclose(both.predictions.probabilities[read], mean[read], atol=1e-6)
    truth = both.predictions.truth[read]
    assert both.result["accuracy"] == pytest.approx((mean[read].argmax(axis=1) == truth).mean())
    assert both.result["log_loss"] == pytest.approx(-np.log(mean[read][np.arange(len(truth)), truth]).mean(), abs=1e-4)
    assert (both.result["leak_free"]["n"], both.name) == (13, "one + two")
    same = ensemble([assessed[0], assessed[0]])
    assert same.result["log_loss"] == pytest.approx(assessed[0].result["log_loss"], abs=1e-6)


def test_persons_do_not_depend_on_the_order_of_the_runs(assessed) -> None:
    def named(assessment: Assessment, name: Callable[[int], str]) -> Assessment:
        told = assessment.predictions
        places = {path: place for place, path in enumerate(sorted(told.paths))}
        return replace(assessment, predictions=replace(told, subject=[name(places[path]) for path in told.paths]))

    # fifteen images: one run names three persons of five, the other twelve of one or two, and who is not in it
    one, two = named(assessed[0], lambda i: f"p{i // 5}"), named(assessed[1], lambda i: "" if i > 12 else f"q{i // 2}")
    ways = [matched(order)[0] for order in ((one, two), (two, one))]
    persons = [dict(zip(each.paths, each.subject, strict=True)) for each in ways]
    # q2 has images of p0 and p1, q4 is in p1, and q5 only in p2
    assert persons[0] == persons[1] and set(persons[0].values()) == {"p0 + p1 + q0 + q1 + q2 + q3 + q4", "p2 + q5 + q6"}
    assert [compare(order)["persons"] for order in ((one, two), (two, one))] == [2, 2]
    nobody = matched([replace(each, predictions=replace(each.predictions, subject=())) for each in (one, two)])
    assert list(nobody[0].subject) == []


def test_what_cannot_be_put_side_by_side_is_told(assessed, side_by_side: Path, tmp_path: Path) -> None:
    one, two = assessed
    with pytest.raises(UsageError, match="at least two"):
        compare([one])
    with pytest.raises(UsageError, match="at least two"):
        ensemble([one])
    fewer = assess(two.run, side_by_side / "faces", limit=5)
    with pytest.raises(DataError, match=r"finds 15 images in split 'test' and .*two 5"):
        compare([one, fewer])


def test_the_commands(emotiw, side_by_side: Path) -> None:
    done = emotiw(
        "compare", "one", "two", "--data", "faces", "--near-duplicates", 0, "--json", "--out", "cmp", cwd=side_by_side
    )
    assert done.returncode == 3 and done.stderr.count("could not read test/sad/torn.png") == 1, done.stderr
    result = json.loads(done.stdout)
    assert json.loads((side_by_side / "cmp" / "compare.json").read_text()) == result
    page = (side_by_side / "cmp" / "compare.html").read_text()
    assert "one against two" in page and "emotiw compare one two --data faces" in page
    assert "--split test" in page and "--near-duplicates 0.0" in page
    done = emotiw("evaluate", "one", "two", "--ensemble", "--data", "faces", "--json", "--crops", 2, cwd=side_by_side)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["run"] for line in lines] == ["one", "two", "ensemble"] and lines[2]["members"] == ["one", "two"]
    assert [line["crops"] for line in lines] == [2, 2, 2]


def test_a_head_is_for_the_runs_that_have_it(side_by_side: Path, capsys, monkeypatch) -> None:
    from emotiw_keras.cli.main import run

    monkeypatch.chdir(side_by_side)
    words = ["compare", "one", "fer28-face-vgg-votes", "--data", "faces", "--json"]
    assert run([*words, "--head", "fer", "--out", "with-head"]) == 3
    assert [each["run"] for each in json.loads(capsys.readouterr().out)["runs"]] == ["one", "fer28-face-vgg-votes"]
    assert "--head fer" in (side_by_side / "with-head" / "compare.html").read_text()
    assert run(["evaluate", "one", "fer28-face-vgg-votes", "--ensemble", "--data", "faces", "--json", "--head", "fer"]) == 3
    ensemble_line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ensemble_line["members"][0] == "one" and len(ensemble_line["labels"]) == 7


def test_a_head_that_only_others_have_is_named(side_by_side: Path, capsys) -> None:
    from emotiw_keras.cli.scoring import with_head

    one, two, votes = (Run.open(each) for each in (side_by_side / "one", side_by_side / "two", "fer28-face-vgg-votes"))
    more = replace(votes, info={**votes.info, "heads": [{**each, "name": each["name"] + "2"} for each in votes.info["heads"]]})
    more.info["head"] = "votes2"
    found = with_head([one, more, votes], "fer")
    assert [each.chosen for each in found] == [None, None, "fer"]
    assert "has no head 'fer': its answers are those of votes2" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"none of the runs has the head 'fer': .*one has one answer; .*two has one answer$"):
        with_head([one, two], "fer")
    with pytest.raises(UsageError, match="has no head 'fer': its network gives one answer"):
        with_head([one], "fer")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("compare", "one"), 2, "at least two runs"),
        (("compare", "one", "nothing"), 5, "no run folder"),
        (("compare", "other", "one"), 2, "other and one know different labels: calm, glad, tense, and angry, "),
        (("compare", "one", "fer28-face-vgg-votes"), 2, "compared: give --head fer, which fer28-face-vgg-votes has"),
        (("evaluate", "fer28-face-vgg-votes", "two", "--ensemble"), 2, "give --head fer, which fer28-face-vgg-votes has"),
        (
            ("compare", "one", "two", "--head", "fer"),
            2,
            "none of the runs has the head 'fer': one has one answer; two has one answer",
        ),
        (("evaluate", "one", "--head", "fer"), 2, "one has no head 'fer': its network gives one answer"),
        (("evaluate", "one", "--ensemble"), 2, "at least two"),
        (("evaluate", "one", "two", "--crops", "3"), 2, "'3' is not one of"),
        (("evaluate", "one", "--costs", "none.toml"), 4, "none.toml"),
    ],
)
def test_wrong_use_is_one_line_and_its_exit_code(side_by_side: Path, capsys, monkeypatch, arguments, code, says) -> None:
    from emotiw_keras.cli.main import run

    monkeypatch.chdir(side_by_side)
    assert run([*arguments, "--data", "faces"]) == code
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("emotiw: error:") and says in last and out == ""


def test_other_labels_are_refused(assessed, side_by_side: Path, tmp_path: Path) -> None:
    import shutil

    for old, new in (("angry", "calm"), ("happy", "glad"), ("sad", "tense")):
        shutil.copytree(side_by_side / "faces" / "test" / old, tmp_path / "faces" / "test" / new)
    other = assess(Run.open(side_by_side / "other"), tmp_path / "faces")
    with pytest.raises(UsageError, match="know different labels: angry, .*calm, glad, tense"):
        ensemble([assessed[0], other])
