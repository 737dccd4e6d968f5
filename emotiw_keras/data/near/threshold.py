"""From which correlation on a pair counts as one photograph; loads nothing, so that recipes can name it."""

from __future__ import annotations

from emotiw_keras.arguments import is_number
from emotiw_keras.errors import UsageError
from emotiw_keras.text import briefly

THRESHOLD = 0.97
"""What counts where nobody says otherwise; what it finds, rightly and wrongly, `benchmarks/near_duplicates.py` measures."""
LOWEST = 0.95
"""Below it more and more pairs are other images; pairs from here on are kept, so that a threshold above costs no search."""


def check_threshold(threshold: float) -> float:
    """A threshold that can be meant: 0 (so is False), or `LOWEST` to 1; UsageError otherwise."""
    if threshold is False:
        return 0
    if not is_number(threshold) or (threshold and not LOWEST <= threshold <= 1):
        raise UsageError(
            f"near_duplicates = {briefly(threshold)}: expected a correlation from {LOWEST} (below it they are often other "
            "images) to 1, or 0, which does not look for them"
        )
    return threshold
