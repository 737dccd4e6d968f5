"""The audit: every reader asked about the same faces, one after the other, and what came of it as one table of figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras import __version__
from emotiw_keras.audit.entries import UNKNOWN, Entry, distinct
from emotiw_keras.audit.faces import CONDITIONS, LABELS, AuditFaces
from emotiw_keras.audit.figures import check_labels, in_order, of_answers, of_humans, share
from emotiw_keras.audit.kept import KeptAnswers
from emotiw_keras.audit.readers import Reader, opened
from emotiw_keras.errors import EmotiwError

TIMEOUT = 1800.0
AS_THEY_ARE = "clean"
Ask = Callable[[Entry, Reader, np.ndarray, str], np.ndarray]
"""An entry, its reader, faces and what they are called -> the reader's probabilities."""


def audit(
    entries: Sequence[Entry],
    faces: AuditFaces,
    *,
    timeout: float = TIMEOUT,
    say: Callable[[str], None] | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Ask every reader, and put the figures side by side. Nothing is chosen by them: the test faces are only read.

    A reader that cannot be asked does not end the audit: its row has `error`.

    Args:
        entries: what is audited.
        faces: from `read_test`.
        timeout: seconds that an adapter has for each answer.
        say: takes a line when a reader begins.
        keep: a folder that takes every answer, and out of which answers are taken that are there already (`KeptAnswers`).

    Returns:
        `{"version", "data", "conditions", "humans", "models": [row, ...]}`, ready for JSON. A row has `name`, `labels`, facts
        (`how`, `trained_on`, `selected_on`, ...) and the figures of `figures.of_answers`, `robust` among them; or `error`.

    Raises:
        UsageError: two entries have one name.
    """
    rows, say = [], say or (lambda _: None)
    ask: Ask = _ask if keep is None else KeptAnswers(keep, say).ask
    for number, entry in enumerate(distinct(entries), start=1):
        say(f"{number} of {len(entries)}: {entry.name}")
        try:
            rows.append({"name": entry.name, **_row(entry, faces, timeout, ask)})
        except EmotiwError as error:
            facts = {"trained_on": entry.trained_on or UNKNOWN, "selected_on": entry.selected_on or UNKNOWN}
            rows.append({"name": entry.name, **facts, "error": str(error), "exit_code": error.exit_code})
    of_test = {"all": len(faces.truth), "twins": int(faces.twin.sum())}
    if faces.near is not None:
        of_test["near_twins"] = int((faces.near & ~faces.twin).sum())
    if faces.majority is not None and faces.agreed is not None and faces.votes is not None:
        of_test["with_votes"] = int((faces.votes.sum(axis=1) > 0).sum())
        of_test["with_a_majority"] = int((faces.majority >= 0).sum())
        of_test["agreed"] = int(faces.agreed.sum())
    return {
        "version": __version__,
        "data": {"source": faces.source, "split": "test", "limited": faces.limited, "faces": of_test},
        "conditions": CONDITIONS,
        "humans": of_humans(faces),
        "models": rows,
    }


def _ask(entry: Entry, reader: Reader, faces: np.ndarray, called: str) -> np.ndarray:
    return reader.predict(faces)


def softened(answers: np.ndarray) -> bool:
    """Whether probabilities come of a softmax over numbers that were probabilities already: for each face they are then the
    softmax of numbers of sum 1, none below 0.

    Example:
        >>> sharp = np.array([[0.9, 0.1], [0.2, 0.8]])
        >>> softened(sharp), softened(np.exp(sharp) / np.exp(sharp).sum(axis=1, keepdims=True))
        (False, True)
    """
    found = answers[~np.isnan(answers).any(axis=1)].astype(np.float64)
    if not len(found) or found.min() <= 0:
        return False
    logs = np.log(found)
    before = logs + (1 - logs.sum(axis=1, keepdims=True)) / logs.shape[1]
    return bool(before.min() >= -1e-4)


def _row(entry: Entry, faces: AuditFaces, timeout: float, ask: Ask) -> dict[str, Any]:
    with opened(entry, faces, timeout) as reader:
        check_labels(reader.labels, entry.name)
        clean = ask(entry, reader, faces.pixels, AS_THEY_ARE)
        figures = of_answers(clean, reader.labels, faces)
        facts = dict(reader.facts)
        if entry.output == "logits" and softened(clean):
            facts["how"] += (
                '; warning: these look like probabilities, which are stated to be logits: try output = "probabilities"'
            )
        robust = {}
        for condition in CONDITIONS:
            answers = in_order(ask(entry, reader, faces.under(condition), condition), reader.labels, LABELS)
            lost = np.isnan(answers).any(axis=1)
            said = np.where(lost, -1, np.nan_to_num(answers, nan=-1.0).argmax(axis=1))
            robust[condition] = share(said == faces.truth)
        return {"labels": list(reader.labels), **facts, **figures, "robust": robust}
