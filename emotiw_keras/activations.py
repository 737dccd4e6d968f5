"""How large the activations of a run's network become, as `emotiw pack` found it: what computing in int8 must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emotiw_keras.errors import RunError
from emotiw_keras.sealed import read_sealed, sealed_json

ACTIVATIONS_FILE = "activations.json"
LARGEST = 1e30
"""No activation is so large: beyond it products run over in float32."""


@dataclass(frozen=True)
class Activations:
    """The least and the greatest value of each tensor that the network multiplies.

    Attributes:
        weights: SHA-256 of the weights that they hold for.
        images: how many faces gave them, each plain and mirrored.
        compared: how many faces were read in int8 and in float32; 0 before that was done.
        same: the share of them that got the same answer, of several heads the least.
        ranges: step of the network -> (least, greatest), float32.
    """

    weights: str
    images: int
    compared: int
    same: float
    ranges: Mapping[str, tuple[float, float]]

    def to_json(self) -> str:
        """What `read_activations` reads."""
        return sealed_json({"format": 1, **asdict(self)})


def read_activations(folder: Path, weights: str) -> Activations | None:
    """What a run folder says of its activations; None where it says nothing.

    Args:
        folder: of the run.
        weights: SHA-256 of its weight file.

    Raises:
        RunError: the file is damaged, or is of other weights.
    """
    path = folder / ACTIVATIONS_FILE
    if not path.exists():
        return None
    content = read_sealed(path)
    values: dict[str, Any] = {key: content.get(key) for key in Activations.__dataclass_fields__}
    if (
        content.get("format") != 1
        or not all(type(values[key]) is int and values[key] >= 0 for key in ("images", "compared"))
        or type(values["same"]) not in (int, float)
        or not 0 <= values["same"] <= 1
        or not isinstance(values["weights"], str)
        or not isinstance(values["ranges"], dict)
        or not all(map(_is_range, values["ranges"].values()))
    ):
        raise RunError(f"{folder} is damaged: {ACTIVATIONS_FILE} does not hold the ranges of activations")
    if values["weights"] != weights:
        raise RunError(f"{folder} is damaged: {ACTIVATIONS_FILE} is of other weights; take it out, or put back a whole copy")
    return Activations(**values)


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(each) in (int, float) for each in value)
    return numbers and -LARGEST < value[0] <= value[1] < LARGEST
