"""The table of the study of two stages: each arm beside the one that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotiw_keras.evaluation.significance import accuracy_difference_interval, holm, paired_test, person_numbers
from emotiw_keras.studies.staged import Row
from emotiw_keras.text import csv_text, number_of

RESULTS_FILE, TABLE_FILE, PAGE_FILE = "results.csv", "results.md", "study.html"


@dataclass(frozen=True)
class Difference:
    """How an arm differs from another in the answers of all seeds that both have, on the same test images. All answers to a
    person's images stand for one, and where nobody is known those to one image.

    Attributes:
        points: accuracy of the one less that of the other, mean over the seeds.
        only_one, only_other: answers that only the one, or only the other, has right.
        p: exact paired test on these (`significance.paired_test`).
        n: answers of each.
        persons: persons they show, None if nobody is known.
        low, high: 95 % interval of the difference in accuracy of all these images, 0..1, by bootstrap.
    """

    points: float
    only_one: int
    only_other: int
    p: float
    n: int
    persons: int | None
    low: float
    high: float


def difference(one: Row, other: Row) -> Difference:
    """`one` less `other`, over the seeds that both have."""
    points, all_a, all_b, shown, paths = [], list[bool](), list[bool](), list[str](), list[str]()
    for seed in one.answers:
        if seed not in other.answers:
            continue
        a, b = one.answers[seed], other.answers[seed]
        assert a.paths == b.paths, "both are cut to the same test images of the same source"
        right_a, right_b = a.predicted == a.truth, b.predicted == b.truth
        points.append(float(right_a.mean() - right_b.mean()))
        all_a += right_a.tolist()
        all_b += right_b.tolist()
        shown += a.subject or [""] * len(a.paths)
        paths += a.paths
    x, y = np.array(all_a, bool), np.array(all_b, bool)
    persons = person_numbers([person or f"image {path}" for person, path in zip(shown, paths, strict=True)])
    return Difference(
        float(np.mean(points)),
        int((x & ~y).sum()),
        int((y & ~x).sum()),
        paired_test(y, x, persons),
        len(paths),
        len(set(shown) - {""}) or None,
        *accuracy_difference_interval(y, x, persons),
    )


def row_of(rows: Sequence[Row], net: str, key: str) -> Row | None:
    """The row of a network's arm, if it was run."""
    return next((row for row in rows if (row.arm.net.name, row.arm.key) == (net, key)), None)


COLUMNS = (
    "net", "arm", "description", "seeds", "test_images", "persons", "accuracy", "low", "high", "least", "most", "macro_f1",
    "balanced_accuracy", "expected_cost", "recall_disgust", "disgust_low", "disgust_high", "disgust_images", "disgust_persons",
    "against", "points", "points_low", "points_high", "only_this", "only_other", "p", "p_holm", "updates", "large_accuracy",
    "seconds",
)  # fmt: skip


def base_of(key: str) -> str:
    """What an arm is compared with: remedies, ways to answer, and direct fine-tuning with as many updates with the plain two
    stages; everything else with direct."""
    return "fer28-target" if key.startswith("fer28-target-") or key in ("ensemble", "direct-long") else "direct"


def table_rows(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A row of results.csv for each arm: means over its seeds, intervals of all its answers, by person where any is known.

    `p_holm` is `p` adjusted by Holm's method for all comparisons of the table.
    """
    told = [_table_row(row, rows) for row in rows]
    tested = [each for each in told if each["p"] != ""]
    for each, p in zip(tested, holm([each["p"] for each in tested]), strict=True):
        each["p_holm"] = p
    yield from told


def _table_row(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    of, pooled = row.figures(), row.pooled()
    mean = {key: float(np.mean([each[key] for each in of])) for key in ("macro_f1", "balanced_accuracy", "expected_cost")}
    accuracy = [each["accuracy"] for each in of]
    disgust = [each["per_class"]["disgust"]["recall"] for each in of if "disgust" in each["per_class"]]
    base = row_of(rows, row.arm.net.name, base_of(row.arm.key))
    against: dict[str, Any] = dict.fromkeys(_AGAINST, "")
    if base is not None and base is not row:
        found = difference(row, base)
        against = {"against": base.arm.key, "points": round(100 * found.points, 3), "p": found.p}
        against |= {"points_low": round(100 * found.low, 3), "points_high": round(100 * found.high, 3), "p_holm": found.p}
        against |= {"only_this": found.only_one, "only_other": found.only_other}
    rare = pooled["per_class"].get("disgust", {"recall_ci95": None, "support": "", "persons": None})
    low, high = rare["recall_ci95"] or ("", "")
    return {
        "net": row.arm.net.name,
        "arm": row.arm.key,
        "description": row.arm.description,
        "seeds": " ".join(map(str, row.answers)),
        "test_images": sum(each["n_found"] for each in of),
        "persons": "" if pooled["persons"] is None else pooled["persons"],
        "accuracy": float(np.mean(accuracy)),
        "low": pooled["accuracy_ci95"][0],
        "high": pooled["accuracy_ci95"][1],
        "least": min(accuracy),
        "most": max(accuracy),
        **mean,
        "recall_disgust": float(np.mean(disgust)) if disgust else "",
        "disgust_low": low,
        "disgust_high": high,
        "disgust_images": rare["support"],
        "disgust_persons": "" if pooled["persons"] is None or rare["persons"] is None else rare["persons"],
        **against,
        "updates": row.updates,
        "large_accuracy": "" if row.large_accuracy is None else row.large_accuracy,
        "seconds": round(row.seconds, 1),
    }


_AGAINST = ("against", "points", "points_low", "points_high", "only_this", "only_other", "p", "p_holm")


def results_csv(rows: Sequence[Row]) -> str:
    """results.csv as text."""
    return csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in table_rows(rows))])


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: each way's accuracy, macro F1 and recall of disgust, and how it differs from its base."""
    lines = [
        "| network | way | updates | seeds | accuracy (least - most) | 95 % | macro F1 | disgust | points against (95 %) | "
        "only one right, p, Holm's p |",
        "|---|---|---:|---:|---|---|---:|---|---|---|",
    ]
    told = list(table_rows(rows))
    for each in told:
        spread = f"{each['accuracy']:.1%} ({each['least']:.1%} - {each['most']:.1%})"
        points = pair = ""
        if each["p"] != "":
            points = f"{each['points']:+.1f} {each['against']} ({each['points_low']:+.1f} to {each['points_high']:+.1f})"
            pair = f"{each['only_this']} : {each['only_other']}, {each['p']:.2g}, {each['p_holm']:.2g}"
        seeds, f1 = len(each["seeds"].split()), f"{each['macro_f1']:.3f}"
        ends = f"{each['low']:.1%} - {each['high']:.1%}"
        cells = (each["net"], each["description"], f"{each['updates']:,}", seeds, spread, ends, f1, disgust(each), points, pair)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "", of_splits(rows), of_tests(told)]


def disgust(row: Mapping[str, Any]) -> str:
    """The recall of disgust in a row of `table_rows`, its interval, and on what it rests."""
    if row["recall_disgust"] == "":
        return ""
    ends = "" if row["disgust_low"] == "" else f" ({row['disgust_low']:.1%} - {row['disgust_high']:.1%})"
    persons = "" if row["disgust_persons"] == "" else f" of {row['disgust_persons']} persons"
    return f"{row['recall_disgust']:.1%}{ends}, {row['disgust_images']} answers{persons}"


def of_splits(rows: Sequence[Row]) -> str:
    """A sentence on how many different test images and test splits the seeds have: of few persons cuts may be alike."""
    tested = {seed: frozenset(found.paths) for row in rows for seed, found in row.answers.items()}
    images = number_of(len(frozenset().union(*tested.values())), "different images")
    return f"Tested on {images}; distinct test splits: {len(set(tested.values()))}, of {number_of(len(tested), 'seeds')}."


def of_tests(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the intervals and tests of `table_rows`."""
    tests = sum(each["p"] != "" for each in rows)
    adjusted = f"; Holm's method over {tests} comparisons" if tests else ""
    if all(each["persons"] == "" for each in rows):
        how = "bootstrap; permutation, exact, which is McNemar's of one seed"
        return f"Intervals and tests by image, as nobody knows who is shown ({how}){adjusted}."
    most = max(each["persons"] for each in rows if each["persons"] != "")
    return f"Intervals and tests by person, {most:,} in the test splits (bootstrap; permutation, exact){adjusted}."
