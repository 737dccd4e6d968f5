"""Files that a weight file names as parts of itself: only those in its own folder are ever opened."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from emotiw_keras.errors import ModelError


def within_folder(path: Path, location: str, says: str, advice: str) -> Path:
    """The file `location`, relative to the folder of `path`, whatever it says and wherever links lead.

    Args:
        path: the file that names it.
        location: as the file has it.
        says: what the file does with it, for errors: "lists 'a.bin'".
        advice: how to mend it.

    Raises:
        ModelError: it is not within the folder, or is not there.
    """
    wanted = PureWindowsPath(location)  # knows both kinds of slash, and drives
    folder = path.parent.resolve()
    outside = not location or not location.isprintable() or len(location) > 1024
    outside = outside or bool(wanted.root or wanted.drive) or ".." in wanted.parts
    try:
        found = folder if outside else (folder / location).resolve()
        there = found.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise ModelError(f"{path.name} {says}, which cannot be looked up; {advice}") from error
    if outside or not found.is_relative_to(folder):
        raise ModelError(f"{path.name} {says}, which is not within its folder and is not read; {advice}")
    if not there:
        raise ModelError(f"{path.name} {says}, which is missing; {advice}")
    return found
