"""The faces that one run alone got right, a sheet for each run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotiw_keras.data.resize import resize
from emotiw_keras.evaluation.assessment import Assessment, Predictions
from emotiw_keras.evaluation.ensemble import matched
from emotiw_keras.evaluation.mistakes import SIDE
from emotiw_keras.html import Html, image_tag, joined, tag

SHOWN = 12
"""Faces on a sheet at most."""


def only_right(predictions: Sequence[Predictions]) -> list[np.ndarray]:
    """Of each run the images that it answers rightly and every other wrongly, those it is surest of first: int (n,) each.

    Args:
        predictions: of the runs, on the same images in the same order, with the same labels (`ensemble.matched`).
    """
    right = np.array([each.readable & (each.predicted == each.truth) for each in predictions])
    found = []
    for number, each in enumerate(predictions):
        rows = np.flatnonzero(right[number] & (right.sum(axis=0) == 1))
        sure = each.probabilities[rows, each.truth[rows]]
        found.append(rows[np.argsort(-sure, kind="stable")])
    return found


def only_right_section(assessments: Sequence[Assessment], names: Sequence[str]) -> Html:
    """A sheet for each run: the face, its class and what each run answers.

    Args:
        assessments: of the same images.
        names: of the runs, as the page calls them.
    """
    predictions, first = matched(assessments), assessments[0]
    parts = [tag("h2", "Faces that one run alone got right")]
    for name, rows in zip(names, only_right(predictions), strict=True):
        shown = rows[:SHOWN]
        words = f"{len(rows):,} that {name} alone got right" + (f"; the {SHOWN} it is surest of:" if len(rows) > SHOWN else "")
        parts += [tag("h3", name), tag("p", words, class_="quiet")]
        if len(shown):
            faces = first.faces.pixels.gather(first.indices[shown])
            items = [_item(predictions, names, int(row), face, name) for row, face in zip(shown, faces, strict=True)]
            parts.append(tag("ul", items, class_="cards faces"))
    return joined(*parts)


def _item(predictions: Sequence[Predictions], names: Sequence[str], row: int, face: np.ndarray, name: str) -> Html:
    labels = predictions[0].labels
    truth = labels[predictions[0].truth[row]]
    answers = [
        tag("p", f"{run}: ", tag("strong", labels[each.predicted[row]]), f" {each.probabilities[row].max():.0%}")
        for run, each in zip(names, predictions, strict=True)
    ]
    shown = image_tag(resize(face, SIDE, SIDE), f"Face: {truth}, which {name} alone got right")
    path = tag("figcaption", tag("span", predictions[0].paths[row], class_="path"))
    return tag("li", tag("figure", shown, tag("div", tag("p", "is ", tag("strong", truth)), answers), path))
