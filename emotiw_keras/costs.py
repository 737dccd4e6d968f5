"""What it costs to take one expression for another: little where the two are felt alike, most where they are opposites.

Ng et al. 2015 end by asking for a score that forgives confusions between similar expressions. Here two expressions are as far
apart as their words are in pleasure and arousal, the plane of Russell's circumplex (J. A. Russell: A Circumplex Model of
Affect, Journal of Personality and Social Psychology 39, 1980).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import DataError
from emotiw_keras.files import read_regular
from emotiw_keras.labels import canonical
from emotiw_keras.sealed import strict_toml

# Mean ratings of pleasure and arousal, -1..1, of the words angry, disgusted, fearful, happy, sad and surprised: J. A. Russell
# and A. Mehrabian: Evidence for a Three-Factor Theory of Emotions, Journal of Research in Personality 11, 1977, pages 273-294.
# Their third factor, dominance, is no axis of the circumplex and is left out. Neutral was not rated; the middle of both scales
# is our choice. Contempt is left out because we know of no rating of it in the same study.
CIRCUMPLEX: dict[str, tuple[float, float]] = {
    "angry": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "happy": (0.81, 0.51),
    "sad": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
    "neutral": (0.0, 0.0),
}
CIRCUMPLEX_SOURCE = "distance in pleasure and arousal (Russell and Mehrabian 1977; neutral in the middle)"
NO_POINT_SOURCE = "1 for every confusion with {names}, which have no place there"
MOST_BYTES = 1 << 20
"""Of a file of costs."""
ALL_EQUAL_SOURCE = "1 for every confusion: none of the classes is an expression with a known pleasure and arousal"


@dataclass(frozen=True)
class Costs:
    """What each confusion costs.

    Attributes:
        matrix: float32 (classes, classes), rows are the truth, columns what was predicted; 0 on the diagonal, 1 at most.
        source: where the figures come from, in one line.
    """

    matrix: np.ndarray
    source: str


def cost_matrix(labels: Sequence[str], file: str | os.PathLike[str] | None = None) -> np.ndarray:
    """What each confusion costs: float32 (classes, classes), rows are the truth; 0 on the diagonal, 1 the largest.

    Args:
        labels: the class names, in their usual spellings or any others.
        file: a TOML file of costs (see `read_costs`); None takes distances on the circumplex, divided by the largest between
            any two of these classes. A class without a place there costs 1 against every other.

    Raises:
        DataError: the file cannot be used.

    Example:
        >>> cost_matrix(["angry", "fear", "happy", "sad"])[0].round(2)
        array([0.  , 0.08, 0.81, 0.53], dtype=float32)
    """
    return costs_of(labels, file).matrix


def costs_of(labels: Sequence[str], file: str | os.PathLike[str] | None = None) -> Costs:
    """`cost_matrix` with a line that says where its figures come from."""
    if file is not None:
        return Costs(read_costs(file, labels), f"costs in {Path(file).name}")
    names = [canonical(label) or label for label in labels]
    placed = [i for i, name in enumerate(names) if name in CIRCUMPLEX]
    matrix = 1.0 - np.eye(len(labels))
    if len({names[i] for i in placed}) < 2:
        return Costs(matrix.astype(np.float32), ALL_EQUAL_SOURCE)
    points = np.array([CIRCUMPLEX[names[i]] for i in placed])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    matrix[np.ix_(placed, placed)] = distances / distances.max()
    source = CIRCUMPLEX_SOURCE
    others = [label for i, label in enumerate(labels) if i not in placed]
    if others:
        source += "; " + NO_POINT_SOURCE.format(names=", ".join(others))
    return Costs(matrix.astype(np.float32), source)


def read_costs(file: str | os.PathLike[str], labels: Sequence[str]) -> np.ndarray:
    """Costs from a TOML file: a table `costs`, for each true class a table of what each wrong answer costs, 0..1.

    Labels are matched as they are written, else by their usual spellings. A confusion that is not named costs 1; the two
    directions may differ.

    Args:
        file: such as `[costs.angry]` with `disgust = 0.2` below it.
        labels: the class names, in the order of rows and columns.

    Returns:
        float32 (classes, classes), rows are the truth.

    Raises:
        DataError: no such file, no TOML, a class that is none of the labels, or a cost outside 0..1.
    """
    expected = "expected a table [costs.TRUTH] with lines PREDICTED = 0..1 for each class"
    try:
        table = strict_toml(read_regular(file, MOST_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot read the costs in {os.fspath(file)}: {reason}; {expected}") from error
    rows = table.get("costs")
    if not isinstance(rows, Mapping) or set(table) != {"costs"}:
        raise DataError(f"{os.fspath(file)} holds {', '.join(table) or 'nothing'}; {expected}")
    places = {canonical(label): i for i, label in enumerate(labels)} | {label: i for i, label in enumerate(labels)}

    def place(name: str) -> int:
        key = name if name in places else canonical(name)
        if key is None or key not in places:
            raise DataError(f"{os.fspath(file)} names the class {name!r}; the classes are {', '.join(labels)}")
        return places[key]

    matrix = 1.0 - np.eye(len(labels))
    for truth, row in rows.items():
        if not isinstance(row, Mapping):
            raise DataError(f"{os.fspath(file)}: costs.{truth} is {row!r}; {expected}")
        for predicted, cost in row.items():
            where = place(truth), place(predicted)
            if not _is_cost(cost) or (where[0] == where[1] and cost != 0):
                raise DataError(
                    f"{os.fspath(file)}: costs.{truth}.{predicted} is {cost!r}; expected 0..1, and 0 for the right answer"
                )
            matrix[where] = cost
    return matrix.astype(np.float32)


def _is_cost(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
