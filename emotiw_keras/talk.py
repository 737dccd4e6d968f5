"""How much is told: lines that --quiet keeps, and lists that --verbose gives in full.

The command line sets `quiet` and `verbose`; in Python both stay False unless you set them.
"""

from __future__ import annotations

quiet = False
verbose = False


class Notice(str):
    """A line that stays with --quiet: a warning, an input that is left out or cannot be read, a wait for another process.

    Example:
        >>> Notice("warning: 3 images are left out").upper()
        'WARNING: 3 IMAGES ARE LEFT OUT'
    """


def most(count: int) -> int | None:
    """Where a list of names is cut: after `count`, or with --verbose nowhere (None).

    Example:
        >>> ["a", "b", "c"][: most(2)]
        ['a', 'b']
    """
    return None if verbose else count
