"""The figures of an evaluation as rows: for a terminal here, for pages in `sections`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emotiw_keras.evaluation.metrics import told_temperature
from emotiw_keras.text import markdown_words, number_of

Result = dict[str, Any]


def percent(value: float) -> str:
    """0.123 -> "12.3 %"."""
    return f"{100 * value:.1f} %"


def interval(ends: list[float], show: Callable[[float], str] = percent) -> str:
    """Both ends of an interval."""
    return f"{show(ends[0])} - {show(ends[1])}"


def three(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def persons(result: Result) -> str:
    """How many persons a row rests on, "-" where nobody knows."""
    return "-" if result["persons"] is None else f"{result['persons']:,}"


FEW_PERSONS = 20
"""With fewer persons than this an interval by person is itself uncertain, and that of macro F1 or a difference too narrow."""


NARROW = "those of macro F1 and of differences are rather too narrow"


def counted(result: Result) -> str:
    """Such as "1,915 images of 262 persons", or images alone where nobody is known."""
    images = number_of(result["n_found"], "images")
    if result["persons"] is None:
        return images
    unknown = f", {result['person_unknown']:,} of them of unknown ones" if result["person_unknown"] else ""
    return f"{images} of {number_of(result['persons'], 'persons')}{unknown}"


def by_what(result: Result) -> str:
    """Whether intervals and tests are "by person" or "by image"."""
    return "by image" if result["persons"] is None else "by person"


def not_recorded(runs: Sequence[str]) -> str:
    """Why no image is known to be new to these runs, "" where there are none."""
    return f"not all images that trained {' and '.join(runs)} are recorded" if runs else ""


def of_intervals(result: Result) -> list[str]:
    """What a reader must know of the intervals, in sentences."""
    if result["persons"] is None:
        return [
            "Intervals are by image, as nobody knows who is shown: they are too narrow where persons stand in several images "
            "(--subject-pattern names persons by their files)."
        ]
    lines = []
    if result["person_unknown"]:
        lines.append(
            f"Intervals are by person; {result['person_unknown']:,} images of unknown ones count as persons of their own."
        )
    if result["persons"] + result["person_unknown"] < FEW_PERSONS:
        lines.append(f"Intervals rest on {result['persons']} persons alone: {NARROW}.")
    return lines


def on_few_persons(result: Result) -> list[str]:
    """A line that names the columns beside all images, and the classes, that rest on few persons where all images do not."""
    unknown = result["person_unknown"]
    if result["persons"] is None or result["persons"] + unknown < FEW_PERSONS:
        return []
    parts = [(name, each["persons"], each["person_unknown"]) for name, each in zip(*columns(result), strict=True)]
    # how many images of a class show unknown persons is not told: all of them, at most
    classes = [(label, row) for label, row in result["per_class"].items() if row["support"]]
    parts += [(label, row["persons"], min(unknown, row["support"])) for label, row in classes]
    few = [f"{name} ({known})" for name, known, more in parts if known is not None and known + more < FEW_PERSONS]
    return [f"Fewer than {FEW_PERSONS} persons in {', '.join(few)}: how persons differ is hardly seen there."] if few else []


ROWS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("images scored / asked for", lambda r: f"{r['n_found']} / {r['n']}"),
    ("persons", persons),
    ("accuracy", lambda r: percent(r["accuracy"])),
    ("95 % interval", lambda r: interval(r["accuracy_ci95"])),
    ("macro F1", lambda r: three(r["macro_f1"])),
    ("95 % interval of macro F1", lambda r: interval(r["macro_f1_ci95"], three)),
    ("balanced accuracy", lambda r: percent(r["balanced_accuracy"])),
    ("ABAW score", lambda r: three(r["abaw_score"])),
    ("expected cost", lambda r: three(r["expected_cost"])),
    ("calibration error (ECE)", lambda r: three(r["ece"])),
    ("log loss", lambda r: three(r["log_loss"])),
)


def columns(result: Result) -> tuple[list[str], list[Result]]:
    """All images, and beside them the leak-free ones, and those without near duplicates, if there are any."""
    found = [("all images", result), ("leak-free", result.get("leak_free")), ("near-free", result.get("leak_free_near"))]
    return [name for name, each in found if each is not None], [each for _, each in found if each is not None]


def figures_table(result: Result) -> str:
    """The main figures as a Markdown table, all images beside the leak-free ones."""
    head, of = columns(result)
    lines = [f"| {'':<25} | " + " | ".join(f"{name:>17}" for name in head) + " |"]
    lines.append(f"|{'-' * 27}|" + "|".join("-" * 18 + ":" for _ in head) + "|")
    lines += [f"| {name:<25} | " + " | ".join(f"{show(each):>17}" for each in of) + " |" for name, show in ROWS]
    return "\n".join(lines)


def agreement_lines(result: Result) -> list[str]:
    """What is said of votes and of a temperature, in lines for people."""
    lines = []
    if "votes" in result:
        found, told = result["votes"], []
        parts = (("agreed", f"where at least {found['agreed']['votes']} of ten agree"), ("others", "where fewer do"))
        for of, words in ((found[key], words) for key, words in parts if found[key]["n"]):
            told.append(f"{percent(of['accuracy'])} of {of['n']:,} images {words}")
        lines.append(f"Truth is the majority of ten people's votes. Right: {', '.join(told)}.")
    if "calibrated" in result:
        of = result["calibrated"]
        chosen = f"{told_temperature(of['temperature'])}, chosen on {number_of(of['images'], 'images')} of {of['chosen_on']}"
        lines.append(f"At temperature {chosen}: calibration error {three(of['ece'])}, log loss {three(of['log_loss'])}.")
    return lines


def robust_rows(result: Result) -> list[tuple[str, str, str, str, str, str]]:
    """Condition, accuracy, its interval, difference to clean faces in points, its interval, calibration error."""

    def points(value: float) -> str:
        return f"{100 * value:+.1f}"

    rows = [("as they are", percent(result["accuracy"]), interval(result["accuracy_ci95"]), "", "", three(result["ece"]))]
    for row in result["robust"].values():
        ends = f"{points(row['difference_ci95'][0])} to {points(row['difference_ci95'][1])}"
        accuracy = percent(row["accuracy"]), interval(row["accuracy_ci95"])
        rows.append((row["condition"], *accuracy, points(row["difference"]), ends, three(row["ece"])))
    return rows


ROBUST_HEAD = ("the same faces", "accuracy", "95 % interval", "points", "95 % of points", "ECE")


def robust_table(result: Result) -> str:
    """What spoilt faces cost, as a Markdown table."""
    rows = [ROBUST_HEAD, *robust_rows(result)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(ROBUST_HEAD))]
    lines = [
        "| " + " | ".join(f"{cell:<{wide[i]}}" if i == 0 else f"{cell:>{wide[i]}}" for i, cell in enumerate(row)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(wide)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def folds_table(result: Result) -> str:
    """The figures of each fold of a cross-validation as a Markdown table."""
    lines = ["| fold     | images | persons | accuracy | macro F1 |", "|----------|-------:|--------:|---------:|---------:|"]
    for row in result["folds"]:
        figures = f"{percent(row['accuracy']):>8} | {three(row['macro_f1']):>8}"
        lines.append(f"| {row['run']:<8} | {row['n_found']:>6} | {persons(row):>7} | {figures} |")
    return "\n".join(lines)


def per_class_table(result: Result) -> str:
    """Precision, recall with its interval, F1, number of images and of persons of each class as a Markdown table."""
    names = {label: markdown_words(label) for label in result["labels"]}
    width = max(5, *map(len, names.values()))
    lines = [
        f"| {'class':<{width}} | precision | recall | 95 % of recall |    F1 | images | persons |",
        f"|{'-' * (width + 2)}|----------:|-------:|---------------:|------:|-------:|--------:|",
    ]
    for label, row in result["per_class"].items():
        ends = "-" if row["recall_ci95"] is None else interval(row["recall_ci95"], three)
        rates = f"{row['precision']:>9.3f} | {row['recall']:>6.3f} | {ends:>14} | {row['f1']:>5.3f}"
        lines.append(f"| {names[label]:<{width}} | {rates} | {row['support']:>6} | {persons(row):>7} |")
    return "\n".join(lines)
