"""A model card: what a run is, what it was trained on, what it can do and must not do, for people and for the Hugging Face Hub.

Its form follows M. Mitchell et al.: Model Cards for Model Reporting, 2019, and the metadata of Hugging Face's model cards.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emotiw_keras.evaluation import provenance
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.metrics import ECE_BINS
from emotiw_keras.files import check_ours, write_atomic
from emotiw_keras.locking import sweep_beside
from emotiw_keras.reports.score_tables import agreement_lines, counted, figures_table, interval, percent, persons, three
from emotiw_keras.reports.sections import cautions, given_to
from emotiw_keras.runs import Run
from emotiw_keras.text import markdown_words as _plain
from emotiw_keras.text import shown_lines
from emotiw_keras.training.again import fit_commands, folds_command
from emotiw_keras.without_places import base_name

MARK = "<!-- written by emotiw card -->"

USE = """\
## Intended use

Research on facial expression recognition, and programs in which a wrong answer does no harm: sorting one's own
photos, art, games, teaching how such networks work and fail. It takes the crop of one face and gives a probability
for each class.

Not for decisions about people: hiring, promotion, grading, insurance, policing, border control, diagnosis, lie
detection.

## Limits

- **An expression is not an emotion.** The classes name how a face looks to the people who labelled it, not what
  somebody feels; how far one tells the other is disputed, and differs between persons, situations and cultures (L. F.
  Barrett et al.: Emotional Expressions Reconsidered, 2019).
- **Faces from the web.** Sets such as FER-2013 were gathered with search words: many faces are posed or acted.
  Spontaneous, subtle and mixed expressions, unusual light, poses, masks and glasses are rarer there than in life.
- **Noisy labels.** Human raters agree with the labels of FER-2013 in about 65 % of its images; some are no faces at
  all.
- **Who is in the data is not known.** The data tell no age, gender, skin colour or culture, so that the figures above
  cannot be broken down by them. They may be worse for some people; that was not measured.
- **Rare classes** rest on few images: read the intervals in the table.

## Law

In the European Union, Article 5(1)(f) of Regulation (EU) 2024/1689 (the AI Act) prohibits, since 2 February 2025,
"the placing on the market, the putting into service for this specific purpose, or the use of AI systems to infer
emotions of a natural person in the areas of workplace and education institutions, except where the use of the AI
system is intended to be put in place or into the market for medical or safety reasons". Elsewhere emotion recognition
systems are listed as high-risk (Annex III, point 1(c)), and people exposed to one must be told (Article 50(3)). This
is no legal advice.
"""


@dataclass(frozen=True)
class CardFacts:
    """Facts that a run does not record.

    Attributes:
        name: of the model.
        licence: identifier of the weights' licence, as the Hugging Face Hub lists them.
        datasets: identifiers of the data sets it was trained on; those of the run's sources if empty.
        data_terms: the terms of the training data, as their source states them; "" if nobody says.
    """

    name: str
    licence: str = "other"
    datasets: tuple[str, ...] = ()
    data_terms: str = ""


def _code(text: str) -> str:
    """A block of code that its text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{shown_lines(text)}\n{fence}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(text.replace(":", "-")).stem.lower()).strip("-") or "data"


def metadata(assessment: Assessment, facts: CardFacts) -> dict[str, Any]:
    """The metadata of the card, with the keys that the Hugging Face Hub reads; no figures where the run was trained on all
    of the images."""
    result, asked = assessment.result, assessment.question
    sources = list(assessment.run.info.get("sources", {}).values())
    measured = [("accuracy", "accuracy", "accuracy"), ("f1", "macro F1", "macro_f1"), ("ece", "calibration error", "ece")]
    scores = [{"type": kind, "name": name, "value": result[key]} for kind, name, key in measured]
    if result["leak_free"] is not None:
        scores += [
            {"type": kind, "name": f"{name}, leak-free", "value": result["leak_free"][key]} for kind, name, key in measured
        ]
    scored_on = {
        "name": Path(asked.source).name,
        "type": _slug(asked.source),
        "split": "out of fold" if assessment.folds else asked.split,
    }
    task = {"type": "image-classification", "name": "facial expression recognition"}
    results = [{"task": task, "dataset": scored_on, "metrics": scores}]
    told: dict[str, Any] = {
        "license": facts.licence,
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "image-classification", "keras", assessment.run.model_name],
        "datasets": list(facts.datasets) or sorted({_slug(source) for source in sources}),
        "metrics": ["accuracy", "f1"],
    }
    return told if result["leak_free"] is None else told | {"model-index": [{"name": facts.name, "results": results}]}


def _yaml(values: dict[str, Any]) -> str:
    """Each value as JSON, which YAML contains."""
    lines = []
    for key, value in values.items():
        text = json.dumps(value, ensure_ascii=False, indent=2 if key == "model-index" else None)
        lines.append(f"{key}: " + text.replace("\n", "\n  "))
    return "\n".join(lines)


def model_card(assessment: Assessment, facts: CardFacts) -> str:
    """The card as Markdown with a metadata block; its figures are those of the assessment. As others read it, it has the base
    names of data and runs and no patterns that find persons.

    Args:
        assessment: of one run, on images that it was not trained on; or of the folds of a cross-validation, with the run of all
            data as its run.
        facts: what the run cannot know.
    """
    run, asked, result = assessment.run, assessment.question, assessment.result
    model = run.info["model"]
    size = " x ".join(map(str, model["input_shape"]))
    title = f"# {_plain(facts.name)}"
    about = (
        f"A network ({_plain(model['name'])}, width {model['width']:g}, input {size}) that reads the expression of one face: "
        f"{', '.join(map(_plain, run.labels))}. Trained with emotiw\\_keras {_plain(_trained_with(run))}."
    )
    if run.head is not None:
        others = [f"{head.name} ({', '.join(map(_plain, head.labels))})" for head in run.heads if head.name != run.head.name]
        about += f" This is its answer {run.head.name}; from the same trunk it also gives {'; '.join(others)} (`--head`)."
    scored = f"{_plain(base_name(asked.source))}, split {asked.split}, {counted(result)} ({result['n']:,} asked for)"
    if assessment.folds:
        scored += f", each answered by that of {len(assessment.folds)} runs which was not given it; this one was given all"
    calibration = (
        f"Expected calibration error {three(result['ece'])} (largest probability, {ECE_BINS} bins), log loss "
        f"{three(result['log_loss'])}: of answers with a confidence of p, about p are right, to within that error on average."
    )
    parts = [
        f"---\n{_yaml(metadata(assessment, facts))}\n---",
        MARK,
        title,
        about,
        "## Figures",
        f"On {scored}; {'of the centre crop' if asked.crops == 1 else f'probabilities are the mean over {asked.crops} crops'}.",
        figures_table(result),
        f"Leak-free: without the images that are also in {given_to(assessment)}. Expected cost: {_plain(asked.costs.source)}.",
        *[f"**{_plain(line)}**" for line in cautions(assessment)],
        *map(_plain, agreement_lines(result)),
        "### Classes",
        _classes(result),
        "### Calibration",
        calibration,
        "## Data",
        _data(run, facts),
        USE.strip(),
        "## Preprocessing",
        "A face of any size is made grey or RGB, resized and cropped; these settings travel with the weights:",
        _code(json.dumps({**run.settings, "crops": run.crops}, indent=2)),
        "## How to use it",
        _code(f"emotiw predict photo.jpg --model {run.name}"),
        "## How to reproduce this",
        f"Licence of the weights: {_plain(facts.licence)}. Seed {run.info.get('seed', 'not recorded')}, "
        f"{_plain(run.info.get('precision', 'precision not recorded'))}, {run.info.get('threads', 'not recorded')} threads. "
        f"SHA-256 of the weights: `{run.fingerprint}`.",
        _code(_again(assessment)),
    ]
    return "\n\n".join(parts) + "\n"


def _again(assessment: Assessment) -> str:
    """The commands that train a run again and give the figures; for those of folds, the commands that train the folds."""
    asked, folder = assessment.question, assessment.folder
    if asked.subject_pattern not in (None, "none"):  # it may hold names of persons
        asked = replace(asked, subject_pattern="PATTERN")
    if folder is None:
        train = fit_commands(assessment.run, base_name)
    else:
        train = folds_command(folder, assessment.folds[0].run, base_name)
        folder = Path(f"{base_name(str(folder))}-again")
    return f"{train}\n{provenance.evaluate_command(replace(assessment, question=asked, folder=folder), base_name)}"


def _trained_with(run: Run) -> str:
    versions = run.info.get("versions", {})
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "emotiw_keras")
    return f"{versions.get('emotiw_keras', '(version not recorded)')}" + (f" ({others})" if others else "")


def _classes(result: dict[str, Any]) -> str:
    leak_free = result["leak_free"]
    lines = ["| class | precision | recall | 95 % of recall | recall, leak-free | F1 | images | persons |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for label, row in result["per_class"].items():
        ends = "-" if row["recall_ci95"] is None else interval(row["recall_ci95"])
        new = (
            "-"
            if leak_free is None or not leak_free["per_class"][label]["support"]
            else percent(leak_free["per_class"][label]["recall"])
        )
        figures = (three(row["precision"]), percent(row["recall"]), ends, new, three(row["f1"]))
        lines.append(f"| {_plain(label)} | " + " | ".join((*figures, f"{row['support']:,}", persons(row))) + " |")
    return "\n".join(lines)


def _data(run: Run, facts: CardFacts) -> str:
    lines = []
    for name, found in run.info.get("data", {}).items():
        source = run.info.get("sources", {}).get(name, found.get("source", "not recorded"))
        kept = f"{found.get('images', '?')} images, {found.get('layout', 'layout not recorded')}"
        told = f"({kept}, fingerprint {found.get('fingerprint', 'not recorded')})"
        lines.append(f"- {_plain(name)}: {_plain(base_name(source))} {_plain(told)}")
    known = provenance.stage_persons(run)
    for stage, roles in provenance.stage_images(run).items():
        counts = ", ".join(f"{sum(each.values()):,} {role}" for role, each in roles.items())
        people = ", ".join(f"{count:,} {role}" for role, count in known.get(stage, {}).items())
        lines.append(f"- stage {_plain(stage)}: {counts}" + (f"; persons: {people}" if people else ""))
    terms = (
        _plain(facts.data_terms) if facts.data_terms else "not stated here; ask their source before you share or sell anything"
    )
    return "\n".join([*lines, f"- terms of the training data: {terms}"])


def check_place(path: str | Path) -> None:
    """See that nothing but an older card is where a card is to be written.

    Raises:
        OutputError: another file is there.
    """
    check_ours(path, MARK, "a model card")


def write_card(path: str | Path, assessment: Assessment, facts: CardFacts) -> None:
    """Write the card; an older card is replaced, any other file is not.

    Raises:
        OutputError: another file is there, or it cannot be written.
    """
    check_place(path)
    sweep_beside(path)
    write_atomic(path, model_card(assessment, facts))
