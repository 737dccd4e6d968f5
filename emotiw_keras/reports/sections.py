"""The parts of a report's page, from the figures to the commands that reproduce them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from emotiw_keras.evaluation import provenance
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.mistakes import mistakes
from emotiw_keras.evaluation.significance import FEW_EITHER
from emotiw_keras.html import Html, bar, image_tag, joined, scrolling, shaded, table, tag
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.reports import charts
from emotiw_keras.reports.score_tables import (
    ROWS,
    agreement_lines,
    by_what,
    columns,
    interval,
    not_recorded,
    of_intervals,
    on_few_persons,
    percent,
    persons,
    three,
)
from emotiw_keras.runs import Run
from emotiw_keras.text import number_of
from emotiw_keras.training.again import fit_commands, folds_command

MISTAKES = 12
FEW = 5
"""Classes with fewer images than this are named: their figures are unreliable."""
SEEN_BEFORE = {
    "weights": "Earlier, for the weights that the run started from",
    "teachers": "For the teacher networks",
}
"""How the page names images that were seen outside the run's own stages."""


def cautions(assessment: Assessment) -> list[str]:
    """What a reader must know before trusting a figure."""
    result, asked = assessment.result, assessment.question
    lines = []
    if result["selected_on"]:
        lines.append("The run chose its best epoch on these images: the figures are optimistic.")
    if result["leak_free"] is None:
        why = not_recorded(assessment.unrecorded) or f"every image is also in {given_to(assessment)}"
        lines.append(f"No leak-free figures: {why}.")
    if assessment.near is not None and assessment.near.caution is not None:
        lines.append(assessment.near.caution)
    if assessment.near is None and result["leak_free"] is not None:
        why = "near duplicates of the run's images were not looked for, or none of its images are in these data"
        if asked.limit is not None and asked.near_duplicates and assessment.faces.near is None:
            why = "near duplicates are not looked for with --limit, which leaves out what the run was given, too"
        lines.append(f"No near-free figures: {why}.")
    if result["n_found"] < result["n"]:
        lines.append(f"{result['n'] - result['n_found']} images could not be read and are not in the figures.")
    if asked.limit is not None and asked.limit <= result["n"]:
        lines.append(f"At most {asked.limit} images of the split were scored (--limit).")
    if assessment.run.head is not None and assessment.run.labels == LABEL_SETS["ferplus8"].labels and asked.votes is None:
        lines.append("Truth is the labels of the data; --votes scores against what ten people say.")
    lines += [*of_intervals(result), *on_few_persons(result)]
    absent, most = without_images(result)
    if absent:
        told = f"macro F1 and the ABAW score count that as 0, so that macro F1 is at most {three(most)}"
        lines.append(f"No image of {', '.join(absent)}: {told}; balanced accuracy leaves it out.")
    few = [label for label, row in result["per_class"].items() if 0 < row["support"] < FEW]
    if few:
        lines.append(f"Fewer than {FEW} images of {', '.join(few)}: their figures, and the macro averages, are unreliable.")
    return lines


def given_to(assessment: Assessment) -> str:
    """Where the images are that leak-free figures leave out."""
    return f"a train or val split of the run{' that answered them' if assessment.folds else ''}"


def without_images(result: dict[str, Any]) -> tuple[list[str], float]:
    """Classes that no scored image has, and the largest macro F1 that they allow."""
    absent = [label for label, row in result["per_class"].items() if not row["support"]]
    return absent, 1 - len(absent) / len(result["per_class"])


def summary(assessment: Assessment) -> Html:
    """The main figures as cards, cautions, all figures beside the leak-free ones."""
    result = assessment.result
    leak_free = result["leak_free"]
    absent, most = without_images(result)
    f1 = f"95 %: {interval(result['macro_f1_ci95'], three)}" + (f"; at most {three(most)} here" if absent else "")
    cards = [
        ("accuracy", percent(result["accuracy"]), f"95 %: {interval(result['accuracy_ci95'])}"),
        (
            "accuracy, leak-free",
            "none" if leak_free is None else percent(leak_free["accuracy"]),
            "no image is known to be new" if leak_free is None else f"95 %: {interval(leak_free['accuracy_ci95'])}",
        ),
        ("macro F1", three(result["macro_f1"]), f1),
        ("expected cost", three(result["expected_cost"]), "0: correct, 1: the worst confusion"),
        ("calibration error", three(result["ece"]), "0: accuracy equals confidence"),
        ("coverage", percent(result["coverage"]), f"{result['n_found']:,} of {number_of(result['n'], 'images')} scored"),
        ("persons", persons(result), f"intervals are {by_what(result)}"),
    ]
    items = [tag("li", name, tag("span", value, class_="value"), tag("small", note)) for name, value, note in cards]
    head, of = columns(result)
    caption = "All figures."
    if leak_free is not None:
        left_out = f"{result['n'] - leak_free['n']:,} images that are also in {given_to(assessment)}"
        caption += f" Leak-free: without {left_out}."
    if result["leak_free_near"] is not None and leak_free is not None:
        near = leak_free["n"] - result["leak_free_near"]["n"]
        caption += f" Near-free: without {near:,} more that show the same photograph as one of those, nearly the same."
    rows = [(name, *(show(each) for each in of)) for name, show in ROWS]
    how = (
        "Intervals of accuracy and recall: Wilson's. Macro F1: percentile bootstrap over images."
        if result["persons"] is None
        else "Intervals: percentile bootstrap over persons. Of accuracy and recall they are Wilson's of images divided by the "
        f"design effect where fewer than {FEW_EITHER} persons have an image that is read wrongly, or one that is read rightly."
    )
    return joined(
        tag("ul", items, class_="cards"),
        [tag("p", line, class_="note") for line in (*agreement_lines(result), *cautions(assessment))],
        table(["figure", *head], rows, caption, label="Figures"),
        tag("p", f"{how} ABAW score: 0.67 macro F1 + 0.33 accuracy.", class_="quiet"),
    )


def folds(assessment: Assessment) -> Html | None:
    """The figures of each fold of a cross-validation."""
    if not assessment.folds:
        return None
    rows = [
        (row["run"], f"{row['n_found']:,}", persons(row), percent(row["accuracy"]), three(row["macro_f1"]))
        for row in assessment.result["folds"]
    ]
    caption = "Each image is answered by the run of its fold, which was not given it; the figures above are of all together."
    return table(["fold", "images", "persons", "accuracy", "macro F1"], rows, caption, label="Folds")


def classes(assessment: Assessment) -> Html:
    """Figures of each class, and the confusion matrix."""
    result = assessment.result
    labels, confusion = result["labels"], np.array(result["confusion"])
    rows = []
    for i, (label, row) in enumerate(result["per_class"].items()):
        wrong = np.where(np.arange(len(labels)) == i, -1, confusion[i])
        taken = f"{labels[wrong.argmax()]} ({wrong.max()})" if wrong.max() > 0 else "-"
        ends = "-" if row["recall_ci95"] is None else interval(row["recall_ci95"])
        figures = (three(row["precision"]), bar(three(row["recall"]), row["recall"]), ends, three(row["f1"]))
        rows.append((label, *figures, f"{row['support']:,}", persons(row), taken))
    head = ["class", "precision", "recall", "95 % of recall", "F1", "images", "persons", "most often confused with"]
    return joined(
        table(head, rows, "Each class by itself", left=(7,)),
        tag("h3", "Confusion matrix"),
        confusion_table(labels, confusion),
    )


MOST_CELLS = 100
"""Classes whose confusion matrix is a table of the page: a page of a million cells opens in no browser."""


def confusion_table(labels: Sequence[str], confusion: np.ndarray) -> Html:
    """A confusion matrix (classes, classes), rows are the truth, coloured by the share of the row; of many classes a line
    instead, which says where the counts are."""
    if len(labels) > MOST_CELLS:
        return tag("p", f"The confusions of {len(labels):,} classes are in confusion.png, their counts in scores.json.")
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    rows = [
        (
            f"{label} ({int(totals[i, 0]):,})",
            *(shaded(f"{n:,}", shares[i, j], i == j) for j, n in enumerate(confusion[i].tolist())),
        )
        for i, label in enumerate(labels)
    ]
    caption = "Rows: the true class (images). Columns: the predicted class. Colour: the share of the row."
    return table(["true class", *labels], rows, caption, label="Confusion matrix", matrix=True)


def calibration(assessment: Assessment) -> Html:
    """The reliability diagram."""
    predictions = assessment.predictions
    read = predictions.readable
    chart = charts.reliability_chart(predictions.truth[read], predictions.probabilities[read])
    words = (
        "Blue: the accuracy of answers with a given confidence; on the dashed line, accuracy equals confidence. Grey: the "
        "share of all images with that confidence."
    )
    return tag("figure", chart, tag("figcaption", words), class_="chart", style="max-width: 34rem")


def wrong_answers(assessment: Assessment) -> Html:
    """The most confident mistakes with LayerCAM."""
    found, reason = mistakes(assessment, MISTAKES)
    if not found:
        return tag("p", "Every readable image was classified correctly.")
    items = []
    for each in found:
        what = f"{each.truth} taken for {each.predicted}"
        heat = None if each.heat is None else image_tag(each.heat, f"LayerCAM: where the network looked for {each.predicted}")
        words = joined(
            tag("strong", each.predicted), f" {each.confidence:.0%}, is ", tag("strong", each.truth), f" ({each.of_truth:.0%})",
            tag("span", each.path, class_="path"),
        )  # fmt: skip
        items.append(tag("li", tag("figure", image_tag(each.face, f"Face: {what}"), heat, tag("figcaption", words))))
    explanation = (
        f"LayerCAM is left out: {reason}."
        if reason is not None
        else "Beside each face its LayerCAM (Jiang et al. 2021) for the predicted class: bright where a late "
        "convolution found evidence for it."
    )
    return joined(tag("p", explanation, class_="quiet"), tag("ul", items, class_="cards faces"))


def data(assessment: Assessment, run: Run) -> Html:
    """Images of each class in each role, stage by stage, and in what was scored here."""
    parts = []
    here = {label: row["support"] for label, row in assessment.result["per_class"].items()}
    known = provenance.stage_persons(run)
    for stage, roles in provenance.stage_images(run).items():
        kept = [role for role in (provenance.TRAIN, provenance.VAL, provenance.TEST, provenance.DROPPED) if role in roles]
        rows = [(label, *_bars([roles[role] for role in kept], label)) for label in run.labels]
        rows.append(("all", *(f"{sum(roles[role].values()):,}" for role in kept)))
        if stage in known:
            rows.append(("persons", *(f"{known[stage][role]:,}" for role in kept)))
        name = SEEN_BEFORE.get(stage, f"Stage {stage}")
        parts.append(table(["class", *kept], rows, f"{name}: images of each class as the run saw them"))
    rows = [(label, *_bars([here], label)) for label in here]
    parts.append(
        table(
            ["class", "images"],
            [*rows, ("all", f"{sum(here.values()):,}"), ("persons", persons(assessment.result))],
            "Scored here",
        )
    )
    return joined(*parts)


def _bars(counts: Iterable[Any], label: str) -> list[Html]:
    cells = []
    for each in counts:
        total = sum(each.values())
        share = each.get(label, 0) / total if total else 0.0
        cells.append(bar(f"{each.get(label, 0):,} ({share:.1%})", share))
    return cells


def costs(assessment: Assessment) -> Html:
    """What the expected cost counts."""
    result, used = assessment.result, assessment.question.costs
    rows = [
        (label, *(shaded(f"{cost:.2f}", cost, i == j) for j, cost in enumerate(used.matrix[i].tolist())))
        for i, label in enumerate(result["labels"])
    ]
    source = f"{used.source[0].upper()}{used.source[1:]}"
    return tag(
        "details",
        tag("summary", "What each confusion costs"),
        tag("p", f"{source}. The expected cost is the mean over images of what the answer costs."),
        table(
            ["true class", *result["labels"]],
            rows,
            "Rows: the true class. Columns: the predicted class.",
            label="Costs",
            matrix=True,
        ),
    )


def reproduce(assessment: Assessment) -> Html:
    """Commands, versions, fingerprints and recipes."""
    runs = assessment.runs
    faces = assessment.faces
    head = [
        tag("h3", "These figures"),
        tag("pre", tag("code", provenance.evaluate_command(assessment))),
        _facts(
            [
                ("data", f"{faces.source} ({faces.layout}, {number_of(len(faces.paths), 'images')})"),
                ("computed with", _pairs(provenance.versions())),
                ("precision", "float32"),
                ("crops", "as each member says" if assessment.question.crops is None else assessment.question.crops),
            ]
        ),
    ]
    if assessment.folder is not None:
        head += [tag("h3", "Its runs"), tag("pre", tag("code", folds_command(assessment.folder, runs[0])))]
    return joined(head, [_run_facts(run, assessment.folder is None) for run in runs])


def _run_facts(run: Run, alone: bool) -> Html:
    info = run.info
    model = info["model"]
    facts: list[tuple[str, Any]] = [
        ("network", f"{model['name']}, width {model['width']:g}, input {' x '.join(map(str, model['input_shape']))}"),
        ("weights", tag("code", f"SHA-256 {run.fingerprint}")),
        ("seed", info.get("seed", "not recorded")),
        ("precision", info.get("precision", "not recorded")),
        ("threads", info.get("threads", "not recorded")),
        ("trained with", _pairs(info.get("versions", {})) or "not recorded"),
        ("preprocessing", _pairs(run.settings)),
    ]
    for name, found in info.get("data", {}).items():
        source = info.get("sources", {}).get(name)  # a packed run does not tell
        facts.append((f"data {name}", _pairs(({"from": source} if source else {}) | found)))
    recipe = run.path / "recipe.toml"
    again = [tag("pre", tag("code", fit_commands(run)))] if alone else []
    parts = [tag("h3", f"The run {run.name}"), *again, _facts(facts)]
    if recipe.is_file():
        text = run.content("recipe.toml").decode("utf-8", errors="replace")
        parts.append(tag("details", tag("summary", "The recipe as run"), scrolling(tag("pre", tag("code", text)), "Recipe")))
    return joined(*parts)


def _facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    return tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in pairs])


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
