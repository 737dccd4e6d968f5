"""Near duplicates between a split and what the run was given: the pairs as images, and as a table."""

from __future__ import annotations

from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.resize import resize
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.mistakes import SIDE
from emotiw_keras.html import Html, image_tag, joined, tag
from emotiw_keras.text import csv_text, sheet_cell

SHOWN = 24
NEAR_FILE = "near_duplicates.csv"


def near_section(assessment: Assessment) -> Html | None:
    """A heading and the pairs, the least sure first; None where there is nothing to show."""
    near = assessment.near
    if near is None or not len(near.pairs):
        return None
    faces, pairs = assessment.faces, near.pairs[::-1][:SHOWN]
    pixels = faces.pixels.gather(pairs.reshape(-1)).reshape(len(pairs), 2, *faces.pixels.shape)
    items = []
    for (mine, theirs), correlation, both in zip(pairs.tolist(), near.correlation[::-1].tolist(), pixels, strict=False):
        words = joined(
            tag("strong", f"{correlation:.3f}"), f" {faces.labels[faces.label[mine]]}, given to the run as ",
            tag("strong", _label(faces, theirs)),
            tag("span", f"{faces.paths[mine]} and {faces.paths[theirs]}", class_="path"),
        )  # fmt: skip
        one, other = (resize(each, SIDE, SIDE) for each in both)
        shown = (image_tag(one, "Face of the split"), image_tag(other, "Face that the run was given"))
        items.append(tag("li", tag("figure", *shown, tag("figcaption", words))))
    number = int(near.near.sum())
    told = (
        f"{number:,} images of the split are not equal to one that the run was given for training or selection, but show "
        f"the same photograph, cut, shifted, mirrored or marked otherwise. The {len(items)} least sure of {len(near.pairs):,} "
        f"pairs, by the correlation of their aligned pixels; all stand in {NEAR_FILE}."
    )
    return joined(
        tag("h2", "Near duplicates of what the run was given"),
        tag("p", told, class_="quiet"),
        None if near.caution is None else tag("p", near.caution, class_="note"),
        tag("ul", items, class_="cards faces"),
    )


def _label(faces: FaceSet, image: int) -> str:
    """The label of an image; "no majority" for one that the run was given and that votes have none for."""
    return faces.labels[faces.label[image]] if faces.label[image] >= 0 else "no majority"


def near_csv(assessment: Assessment) -> str:
    """The table `path,label,given,given_label,correlation`, one line a pair, the surest first."""
    rows = [["path", "label", "given", "given_label", "correlation"]]
    faces, near = assessment.faces, assessment.near
    assert near is not None, "written only where near duplicates were looked for"
    for (mine, theirs), correlation in zip(near.pairs.tolist(), near.correlation.tolist(), strict=True):
        both = [sheet_cell(value) for i in (mine, theirs) for value in (faces.paths[i], _label(faces, i))]
        rows.append([*both, f"{correlation:.4f}"])
    return csv_text(rows)
