"""The public door to data: a path in any known layout becomes a set of faces."""

from __future__ import annotations

import os
from typing import Any

from emotiw_keras.data.faceset import FaceSet, read_faces


def load_faces(source: str | os.PathLike[str], **settings: Any) -> FaceSet:
    """Read a data set in any layout that `--data` knows.

    Args:
        source: `fer2013.csv`, a folder or zip of classes or of splits and classes, a manifest CSV, SFEW, Aff-Wild2,
            what `emotiw prepare` made; or "generated:large" and "generated:small", faces that the package draws.
        **settings: those of `read_faces`: `labels`, `grey`, `size`, `subject_pattern`, `leave_out`, `fractions`, `folds`,
            `seed`, `limit`, ...

    Returns:
        The set: `labels`, `splits`, `counts()`, `report` (what was decided, in lines), `dataset(split, batch_size=...)`.

    Raises:
        DataError: missing, empty or damaged source, unknown layout or class names.
        UsageError: a setting that cannot be meant.

    Example:
        >>> faces = load_faces("generated:small", limit=14)
        >>> faces.labels[:2], faces.counts()["val"]["happy"]
        (('angry', 'disgust'), 2)
    """
    return read_faces(source, **settings)
