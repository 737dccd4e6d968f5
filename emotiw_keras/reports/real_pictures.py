"""What an evaluation says of use on real pictures: answers that are too unsure, and faces that are spoilt."""

from __future__ import annotations

import numpy as np

from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.conditions import CONDITIONS
from emotiw_keras.html import Html, image_tag, joined, table, tag
from emotiw_keras.reports import charts
from emotiw_keras.reports.score_tables import ROBUST_HEAD, by_what, percent, robust_rows
from emotiw_keras.uncertainty import coverage_curve

SHOWN_SIDE = 96


def coverage(assessment: Assessment) -> Html:
    """The accuracy of the surest answers over how many those are."""
    predictions, found = assessment.predictions, assessment.result.get("uncertain")
    read = predictions.readable
    _, covered, accuracy = coverage_curve(predictions.truth[read], predictions.probabilities[read])
    chart = charts.coverage_chart(covered, accuracy, None if found is None else found["coverage"])
    if found is None:
        pack = tag("code", "emotiw pack")
        told = joined("The run does not say which answers are too unsure; ", pack, " settles that on validation images.")
    else:
        share = "-" if found["accuracy"] is None else percent(found["accuracy"])
        told = joined(
            f"Answers with an entropy of at most {found['entropy']:.3f} are usable, by the {found['chosen_on']} images of the "
            f"run: {percent(found['coverage'])} of the answers here, of which {share} are right. ",
            tag("code", "emotiw predict"), " calls the others uncertain.",
        )  # fmt: skip
    words = "The accuracy of the surest answers, over the share of images that are answered."
    figure = tag("figure", chart, tag("figcaption", words), class_="chart", style="max-width: 34rem")
    return joined(tag("h3", "Answers that are left out"), tag("p", told), figure)


def robust_section(assessment: Assessment) -> Html | None:
    """A heading, the figures under each condition, and what becomes of a face; None where that was not asked for."""
    if "robust" not in assessment.result:
        return None
    face = assessment.faces.pixels.gather(assessment.indices[np.flatnonzero(assessment.predictions.readable)[:1]])
    shown = [("as it is", face), *((each.words, each.of(face)) for each in CONDITIONS)]
    items = [tag("li", image_tag(_enlarged(pixels[0]), f"A face, {name}"), tag("small", name)) for name, pixels in shown]
    words = (
        "The same images, spoilt in the same way for every run. Points: the difference to the faces as they are, in points of "
        f"accuracy, with its paired interval. All intervals are {by_what(assessment.result)}."
    )
    rows = robust_rows(assessment.result)
    return joined(
        tag("h2", "Real pictures"),
        table(ROBUST_HEAD, rows, words, label="Spoilt faces"),
        tag("ul", items, class_="cards"),
    )


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Pixels as squares, so that what was done to them can be seen."""
    times = max(1, SHOWN_SIDE // pixels.shape[0])
    return np.repeat(np.repeat(pixels, times, axis=0), times, axis=1)
