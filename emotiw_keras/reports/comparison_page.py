"""A comparison for people: as text, and as one HTML page."""

from __future__ import annotations

from typing import Any

from emotiw_keras.html import Html, Part, bar, joined, page, table, tag
from emotiw_keras.reports.score_tables import by_what, counted, interval, not_recorded, of_intervals, percent, three
from emotiw_keras.text import number_of, shown

LEVEL = 0.05
Comparison = dict[str, Any]


def p_value(value: float) -> str:
    """Three digits, or that it is smaller."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def test_of(part: Comparison) -> str:
    """What the paired test of a comparison is called."""
    return "McNemar" if part["persons"] is None else "permutation by person"


def verdict(pair: dict[str, Any], several: bool, pair_test: str) -> str:
    """What the paired test says of a pair, in words."""
    better, worse = (pair["b"], pair["a"]) if pair["accuracy_difference"] > 0 else (pair["a"], pair["b"])
    points = 100 * abs(pair["accuracy_difference"])
    adjusted = f", {p_value(pair['mcnemar_p_holm'])} by Holm's method" if several else ""
    test = f"{pair_test} p {p_value(pair['mcnemar_p'])}{adjusted}"
    if pair["mcnemar_p_holm"] < LEVEL:
        return f"{better} is more accurate than {worse}, by {points:.1f} points ({test})"
    return f"{pair['a']} and {pair['b']} cannot be told apart by accuracy: {points:.1f} points apart ({test})"


def better_second(pair: dict[str, Any]) -> dict[str, Any]:
    """A pair with the more accurate run as `b`, so that all differences, b less a, go the way that `verdict` says."""
    if pair["accuracy_difference"] >= 0:
        return pair
    turned = {**pair, "a": pair["b"], "b": pair["a"]}
    turned |= {"only_a_right": pair["only_b_right"], "only_b_right": pair["only_a_right"]}
    for key in ("accuracy_difference", "macro_f1_difference"):
        low, high = pair[f"{key}_ci95"]
        turned |= {key: 0.0 - pair[key], f"{key}_ci95": [0.0 - high, 0.0 - low]}  # without a zero of minus sign
    return turned


def comparison_text(comparison: Comparison) -> str:
    """For a terminal."""
    leak_free = comparison["leak_free"]
    given = 0 if leak_free is None else comparison["n"] - leak_free["n"]
    known = f"; {given:,} were given to one of the runs" if given else ""
    parts = [_text_of(comparison, f"split {comparison['split']}, {counted(comparison)} ({comparison['n']:,} asked for){known}")]
    if given:
        parts.append(_text_of(leak_free, f"leak-free, {counted(leak_free)} that none of the runs was given"))
    else:
        parts.append(_all_or_none(comparison))
    return "\n\n".join(parts)


def _all_or_none(comparison: Comparison) -> str:
    """Why there is no leak-free comparison beside that of all images."""
    if comparison["leak_free"] is not None:
        return "Leak-free: none of these images was given to any of the runs."
    return f"No leak-free comparison: {not_recorded(comparison['unrecorded']) or 'every image was given to one of the runs'}."


def _text_of(part: Comparison, heading: str) -> str:
    width = max(3, *(len(run["run"]) for run in part["runs"]))
    lines = [heading, "", f"{'run':<{width}}  accuracy  95 % interval       macro F1  ECE"]
    for run in part["runs"]:
        ends = interval(run["accuracy_ci95"])
        selected = "  (selected on these images)" if run["selected_on"] else ""
        figures = f"{percent(run['accuracy']):>8}  {ends:<18}  {three(run['macro_f1']):>8}  {three(run['ece'])}"
        lines.append(f"{run['run']:<{width}}  {figures}{selected}")
    lines.append("")
    for pair in map(better_second, part["pairs"]):
        low, high = pair["macro_f1_difference_ci95"]
        lines.append(verdict(pair, len(part["pairs"]) > 1, test_of(part)) + ".")
        least, most = (100 * end for end in pair["accuracy_difference_ci95"])
        lines.append(f"  accuracy of {pair['b']} less that of {pair['a']}, 95 %: {least:+.1f} to {most:+.1f} points")
        f1 = f"{pair['macro_f1_difference']:+.3f} (95 %: {low:+.3f} to {high:+.3f})"
        lines.append(f"  macro F1 of {pair['b']} less that of {pair['a']}: {f1}; same answer on {percent(pair['agreement'])}")
    return "\n".join(map(shown, [*lines, *of_intervals(part)]))


def comparison_page(comparison: Comparison, source: str, command: str, faces: Html | None = None) -> str:
    """One HTML document that is self-contained.

    Args:
        comparison: from `compare`.
        source: the data, as the user named it.
        command: the command that reproduces it.
        faces: those that one run alone got right (`only_right_section`).
    """
    names = [run["run"] for run in comparison["runs"]]
    leak_free = comparison["leak_free"]
    parts: list[Part] = [
        tag("h1", " against ".join(names)),
        tag(
            "p",
            f"{source}, split {comparison['split']}, {counted(comparison)} ({comparison['n']:,} asked for)",
            class_="quiet",
        ),
        [tag("p", line, class_="note") for line in of_intervals(comparison)],
        [
            tag("p", f"{run['run']} chose its best epoch on these images: its figures are optimistic.", class_="note")
            for run in comparison["runs"]
            if run["selected_on"]
        ],
        _figures(comparison, "All images"),
        _recalls(comparison),
        _pairs(comparison),
        faces,
        tag("h2", "Leak-free"),
    ]
    if leak_free is None or leak_free["n"] == comparison["n"]:
        parts.append(tag("p", _all_or_none(comparison)))
    else:
        left_out = comparison["n"] - leak_free["n"]
        words = f"{left_out:,} images that were given to one of the runs are left out; {leak_free['n']:,} remain."
        parts += [
            tag("p", words),
            [tag("p", line, class_="note") for line in of_intervals(leak_free) if line not in of_intervals(comparison)],
            _figures(leak_free, "Images that are new to all runs"),
            _recalls(leak_free),
            _pairs(leak_free),
        ]
    parts += [tag("h2", "How to reproduce this"), tag("pre", tag("code", command))]
    return page(" against ".join(names), *parts)


def _figures(part: Comparison, caption: str) -> Html:
    best = max(run["accuracy"] for run in part["runs"])
    rows = []
    for run in part["runs"]:
        accuracy = tag("strong", percent(run["accuracy"])) if run["accuracy"] == best else percent(run["accuracy"])
        f1 = interval(run["macro_f1_ci95"], three)
        rest = (three(run["balanced_accuracy"]), three(run["expected_cost"]), three(run["ece"]), three(run["log_loss"]))
        rows.append((run["run"], accuracy, interval(run["accuracy_ci95"]), three(run["macro_f1"]), f1, *rest))
    ends = f"95 %, {by_what(part)}"
    head = ["run", "accuracy", ends, "macro F1", ends, "balanced", "expected cost", "ECE", "log loss"]
    return table(head, rows, caption)


def counted_class(row: dict[str, Any]) -> str:
    """Images of a class, and the persons that they show where any is known."""
    return f"{row['support']:,}" + ("" if row["persons"] is None else f" of {number_of(row['persons'], 'persons')}")


def _recalls(part: Comparison) -> Html:
    labels = part["runs"][0]["per_class"]
    rows = [
        (
            f"{label} ({counted_class(labels[label])})",
            *(bar(three(run["per_class"][label]["recall"]), run["per_class"][label]["recall"]) for run in part["runs"]),
        )
        for label in labels
    ]
    return table(["class (images)", *(run["run"] for run in part["runs"])], rows, "Recall of each class")


def _pairs(part: Comparison) -> Html:
    several = len(part["pairs"]) > 1
    rows = []
    for pair in map(better_second, part["pairs"]):
        low, high = pair["macro_f1_difference_ci95"]
        least, most = (100 * end for end in pair["accuracy_difference_ci95"])
        kind = None if pair["mcnemar_p_holm"] >= LEVEL else "better"
        cells = [
            f"{pair['b']} - {pair['a']}",
            tag("span", f"{100 * pair['accuracy_difference']:+.1f}", class_=kind),
            f"{least:+.1f} to {most:+.1f}",
            f"{pair['only_b_right']} : {pair['only_a_right']}",
            p_value(pair["mcnemar_p"]),
            *([p_value(pair["mcnemar_p_holm"])] if several else []),
            f"{pair['macro_f1_difference']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            percent(pair["agreement"]),
            three(pair["kappa"]),
        ]
        rows.append(cells)
    head = ["difference", "accuracy, points", "95 %", "only one right", f"{test_of(part)} p", *(["Holm p"] if several else [])]
    head += ["macro F1", "95 %", "same answer", "kappa"]
    test = "exact McNemar test" if part["persons"] is None else "exact permutation test by person"
    caption = f"Pairs, on the same images: {test} of accuracy, paired bootstrap {by_what(part)} of differences"
    words = [tag("p", verdict(pair, several, test_of(part)) + ".") for pair in part["pairs"]]
    return joined(table(head, rows, caption + ("; Holm's adjustment over all pairs" if several else "")), words)
