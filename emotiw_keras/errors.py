"""Errors a user can mend: each is one line of text and the exit code a command ends with."""

import errno

FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))
"""Numbers by which operating systems say that a disk, or what one may use of it, is full."""


class EmotiwError(Exception):
    """Base of every error the package raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(EmotiwError, ValueError):
    """Wrong usage: an option, a recipe or an argument that cannot be meant; a ValueError, as Keras raises for an argument."""

    exit_code = 2


class DataError(EmotiwError):
    """Bad data: missing, unreadable, inconsistent or empty."""

    exit_code = 4


class ModelError(EmotiwError, ValueError):
    """A model or weights that are unknown, missing or do not fit; a ValueError, as Keras raises for such."""

    exit_code = 5


class OutputError(EmotiwError):
    """Something could not be written: no permission, disk full."""

    exit_code = 6


class DivergedError(EmotiwError):
    """Training produced a loss that is not a finite number."""

    exit_code = 7


class RunError(EmotiwError):
    """A run folder that is damaged, unfinished, or was made from another recipe or other data."""

    exit_code = 8


class WorkerError(EmotiwError):
    """A training on several workers that cannot begin or go on: one is missing, was lost, or cannot listen on its address."""

    exit_code = 9
