"""The page of the study of Ng et al. 2015: its table beside the paper's figures, what agrees, confusions, images, commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.evaluation.significance import holm
from emotiw_keras.html import Html, Part, bar, image_tag, joined, page, scrolling, table, tag
from emotiw_keras.reports.charts import interval_chart
from emotiw_keras.reports.comparison_page import LEVEL, counted_class, p_value
from emotiw_keras.reports.score_tables import FEW_PERSONS, percent, three
from emotiw_keras.reports.sections import confusion_table
from emotiw_keras.studies.staged import Row
from emotiw_keras.studies.staged_arms import REMEDIES
from emotiw_keras.studies.staged_table import Difference, difference, disgust, of_splits, of_tests, row_of, table_rows

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet

# Ng et al. 2015 on SFEW, as far as its text tells; its figures 3 to 6 are images, whose numbers are not at hand.
PAPER = {
    "direct": "37.8 % (val, inferred)",
    "fer28": "about 49 - 54 % (test, inferred; FER28 or FER32 is not stated)",
    "fer32-target": "48.5 % val, 55.6 % test, its best (FER28 or FER32 is not stated)",
    "joint": "about 1.5 points below two stages (test)",
}
FACES_SHOWN = 10
NOT_TESTED = (
    "SFEW itself, which its authors give to registered users: --data target=SFEW fills in the rest.",
    "ImageNet weights of AlexNet and VGG-CNN-M-2048: give the files as --net alexnet=FILE --net vgg_cnn_m_2048=FILE.",
    "The paper's 30 epochs at 227 or 224 pixels, where the recipes below name fewer.",
)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper that two arms can support: that `better` is more accurate than `worse`."""

    statement: str
    better: str
    worse: str


CLAIMS = (
    Claim("Two stages (ImageNet, FER, target) beat fine-tuning on the target directly.", "fer28-target", "direct"),
    Claim("They still do where direct fine-tuning has as many updates.", "fer28-target", "direct-long"),
    Claim("FER alone, without the target, beats fine-tuning on the target directly.", "fer28", "direct"),
    Claim("The target stage after FER gains over FER alone (the paper: within a few points).", "fer28-target", "fer28"),
    Claim("Two stages beat one stage on FER and target together (the paper: by about 1.5 points).", "fer32-target", "joint"),
    Claim("More FER images in the first stage help: FER32 over FER28.", "fer32-target", "fer28-target"),
    Claim("Quantity: all of FER28 over a quarter of it.", "fer28-target", "fer28-25pc-target"),
    Claim("Learning rate 0.001 on FER over 0.01, said to overfit sooner.", "fer28-target", "fer28-rate0.01-target"),
    Claim("ImageNet weights over random ones where only the target trains.", "direct", "scratch"),
)


def verdict(found: Difference, p: float) -> str:
    """Whether a claim was seen, by the p value that counts."""
    if p >= LEVEL:
        return "undecided"
    return "agrees" if found.only_one > found.only_other else "does not agree"


def study_page(
    rows: Sequence[Row], sets: Mapping[str, FaceSet], recipes: Mapping[str, str], command: str, unfinished: int = 0
) -> str:
    """One HTML document that is self-contained.

    Args:
        rows: from `study`.
        sets: the data sets by name, as read for the page.
        recipes: name -> TOML, as the runs had them.
        command: the command that reproduces the study.
        unfinished: arms that have not been run yet.
    """
    nets = list(dict.fromkeys(row.arm.net.name for row in rows))
    parts: list[Part] = [
        tag("h1", "Fine-tuning in stages, beside direct, joint and none"),
        tag(
            "p",
            "The comparison of Ng, Nguyen, Vonikakis and Winkler (ICMI 2015) on other data: the share of the target's test "
            "images that is classified correctly, means over seeds; each seed splits anew a target without splits of its own.",
        ),
    ]
    if unfinished:
        parts.append(tag("p", f"Under way: {unfinished} arms have not been run yet.", class_="note"))
    parts += [_figures(rows, net) for net in nets]
    parts += [tag("h2", "What agrees with the paper"), [_claims(rows, net) for net in nets]]
    parts += [tag("h2", "Classes that are never predicted")]
    parts += [tag("p", line, class_="note") for faces in sets.values() for line in concentrated(faces)]
    parts += [[_remedies(rows, net) for net in nets]]
    parts += [tag("h2", "Confusions"), [_confusions(rows, net) for net in nets]]
    parts += [tag("h2", "Images"), _distributions(sets), [_mosaic(faces) for faces in sets.values()]]
    parts += [tag("h2", "What was not tested"), tag("ul", [tag("li", line) for line in NOT_TESTED])]
    parts += [tag("h2", "How to reproduce this"), tag("pre", tag("code", command))]
    for name, text in recipes.items():
        parts.append(tag("details", tag("summary", f"{name} as run"), scrolling(tag("pre", tag("code", text)), name)))
    return page("Fine-tuning in stages", *parts)


def _figures(rows: Sequence[Row], net: str) -> Html:
    lines, shares = [], []
    for each in table_rows(rows):
        if each["net"] != net:
            continue
        shares.append((each["description"], each["accuracy"], each["low"], each["high"]))
        pair = ends = against = ""
        if each["p"] != "":
            pair = f"{each['only_this']} : {each['only_other']}, {p_value(each['p'])}, {p_value(each['p_holm'])}"
            against, ends = f"{each['points']:+.1f}", f"{each['points_low']:+.1f} to {each['points_high']:+.1f}"
        lines.append(
            (
                each["description"],
                f"{each['updates']:,}",
                len(each["seeds"].split()),
                bar(percent(each["accuracy"]), each["accuracy"]),
                f"{100 * each['least']:.1f} - {100 * each['most']:.1f}",
                f"{100 * each['low']:.1f} - {100 * each['high']:.1f}",
                three(each["macro_f1"]),
                three(each["expected_cost"]),
                disgust(each),
                against,
                ends,
                pair,
                "" if each["large_accuracy"] == "" else percent(each["large_accuracy"]),
                PAPER.get(each["arm"], ""),
            )
        )
    head = [
        "method", "updates", "seeds", "accuracy", "least - most", "95 %", "macro F1", "expected cost",
        "recall of disgust (95 %), what it rests on", "points against its base", "95 %",
        "only right here : there, p, Holm's p", "FER test", "the paper, on SFEW",
    ]  # fmt: skip
    caption = (
        f"{net}. The base is direct fine-tuning; for remedies, crops, ensembles and direct fine-tuning with as many updates "
        "it is the plain FER28 -> target. All answers to a person's images, or to an image, are one in intervals and tests. "
        f"{of_splits(rows)} {of_tests(list(table_rows(rows)))} Updates: of the trainings to their last epochs."
    )
    words = f"{net}: accuracy on the target's test images, mean over seeds, and its 95 % interval"
    return joined(interval_chart(shares, words), table(head, lines, caption, left=(13,), label=f"Figures of {net}"))


def _claims(rows: Sequence[Row], net: str) -> Html | None:
    told: list[tuple[Claim, Difference]] = []
    for claim in CLAIMS:
        one, other = row_of(rows, net, claim.better), row_of(rows, net, claim.worse)
        if one is not None and other is not None:
            told.append((claim, difference(one, other)))
    lines = [
        (
            claim.statement,
            verdict(found, p),
            f"{100 * found.points:+.1f}",
            f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
            f"{found.only_one} : {found.only_other}",
            p_value(found.p),
            p_value(p),
            f"{found.n:,}",
            "-" if found.persons is None else f"{found.persons:,}",
        )
        for (claim, found), p in zip(told, holm([found.p for _, found in told]), strict=True)
    ]
    head = ["claim", f"here (Holm's p < {LEVEL})", "points", "95 %", "only one right", "p", "Holm's p", "answers", "persons"]
    caption = f"{net}: sentences of the paper that two rows above can support; Holm's method over these"
    return table(head, lines, caption, left=(1,)) if lines else None


def _recalls(row: Row) -> list[float]:
    """Mean recall of each class over the seeds."""
    return [float(np.mean([each["per_class"][label]["recall"] for each in row.figures()])) for label in _labels(row)]


def _labels(row: Row) -> tuple[str, ...]:
    return next(iter(row.answers.values())).labels


def _remedies(rows: Sequence[Row], net: str) -> Html | None:
    keys = ["direct", "fer28", "fer28-target", *(f"fer28-target-{name.replace(' ', '-')}" for name in REMEDIES)]
    chosen = [row for key in keys if (row := row_of(rows, net, key)) is not None]
    if not chosen:
        return None
    lines = []
    for row in chosen:
        figures = row.figures()
        mean = [float(np.mean([each[key] for each in figures])) for key in ("accuracy", "macro_f1", "expected_cost")]
        lines.append(
            (
                row.arm.description,
                *(bar(percent(value), value) for value in _recalls(row)),
                percent(mean[0]),
                three(mean[1]),
                three(mean[2]),
            )
        )
    classes = [f"{label} ({counted_class(of)})" for label, of in chosen[0].pooled()["per_class"].items()]
    head = ["method", *classes, "accuracy", "macro F1", "expected cost"]
    return table(head, lines, f"{net}: recall of each class (test answers), and what it costs elsewhere (means over seeds)")


def _confusions(rows: Sequence[Row], net: str) -> list[Html]:
    shown = []
    for key in ("direct", "fer28-target", "joint"):
        row = row_of(rows, net, key)
        if row is not None:
            whole = np.sum([np.array(each["confusion"]) for each in row.figures()], axis=0)
            shown += [tag("h3", f"{net}: {row.arm.description}"), confusion_table(_labels(row), whole)]
    return shown


def _distributions(sets: Mapping[str, FaceSet]) -> Html:
    first = next(iter(sets.values()))
    columns, counts = [], []
    for name, faces in sets.items():
        for split in ("train", "val", "test"):
            chosen = faces.label[faces.indices(split)]
            columns.append(f"{name}, {split} ({len(chosen):,})")
            counts.append(np.bincount(chosen[chosen >= 0], minlength=len(first.labels)))
    lines = []
    for place, label in enumerate(first.labels):
        cells = [bar(f"{of[place]:,} ({of[place] / of.sum():.1%})", of[place] / of.sum()) for of in counts]
        lines.append((label, *cells))
    return table(["class", *columns], lines, "Images of each class, the target in the splits of the first seed")


def concentrated(faces: FaceSet) -> list[str]:
    """A sentence on each class that rests on few persons, so that its recall is that of these."""
    lines = []
    for place, label in enumerate(faces.labels):
        counts = Counter(pick(faces.subject, np.flatnonzero(faces.label == place)))
        counts.pop("", None)
        most, images = counts.most_common(2), sum(counts.values())
        of_two = sum(count for _, count in most)
        if counts and (len(counts) < FEW_PERSONS or 2 * of_two > images):
            lines.append(
                f"{label} of {faces.name} rests on {len(counts)} persons, {of_two} of its {images} images show {len(most)} of "
                "them: its recall tells of these persons, not of the expression."
            )
    return lines


def _mosaic(faces: FaceSet) -> Html:
    """Some faces of every class, a row each: uint8, resized to squares of 64 pixels."""
    from emotiw_keras.data.resize import resize

    rows: list[Any] = []
    generator = np.random.default_rng(0)
    for place, _ in enumerate(faces.labels):
        of = np.flatnonzero(faces.label == place)
        chosen = np.sort(generator.permutation(of)[:FACES_SHOWN])
        tiles = [resize(image, 64, 64)[..., :1] for image in (faces.pixels.gather(chosen) if len(chosen) else [])]
        tiles += [np.full((64, 64, 1), 255, np.uint8)] * (FACES_SHOWN - len(tiles))
        rows.append(np.concatenate(tiles, axis=1))
    words = f"{faces.name}: faces of each class, from the top {', '.join(faces.labels)}"
    shown = image_tag(np.concatenate(rows), words)
    return tag("figure", shown, tag("figcaption", words), class_="chart", style="max-width: 42rem")
