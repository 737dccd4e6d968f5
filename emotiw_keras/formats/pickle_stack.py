"""The stack, marks and memo of a pickle's machine, which fail in one way where a damaged pickle takes what is not there."""

from __future__ import annotations

from typing import Any, NoReturn

from emotiw_keras.formats.pickle_ops import Opcodes, shown

STEPS = 500_000
"""Opcodes of one pickle, and items that its calls copy; a tensor takes about thirty."""


class Stack:
    """Values above the last mark in `stack`, those below it put by.

    Every method raises ModelError, with the name of the file, for what a sound pickle never does.
    """

    def __init__(self, opcodes: Opcodes) -> None:
        self.opcodes = opcodes
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0

    def fail(self, what: str) -> NoReturn:
        """Raise the error of a damaged pickle: "its pickle ... at byte N"."""
        self.opcodes.fail(f"its pickle {what} at byte {self.opcodes.position:,}")

    def spend(self, count: int) -> None:
        """Count steps, so that no pickle can keep the machine busy."""
        self._steps += count
        if self._steps > STEPS:
            self.fail(f"has taken more than {STEPS:,} steps, which no weight file does,")

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self.stack.append(value)

    def need(self, count: int) -> None:
        """Check that there are as many values above the mark."""
        if len(self.stack) < count:
            self.fail(f"takes {count} values from a stack of {len(self.stack)}")

    def pop(self) -> Any:
        """Take the top value."""
        self.need(1)
        return self.stack.pop()

    def top(self, kind: type | tuple[type, ...], does: str) -> Any:
        """The top value, left there, which must be of a kind; `does` says what is done to it."""
        self.need(1)
        if not isinstance(self.stack[-1], kind):
            self.fail(f"{does} a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def mark(self) -> None:
        """Put the values by and start with none."""
        self._below.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """Take all values above the last mark."""
        if not self._below:
            self.fail("goes back to a mark that it never set")
        items, self.stack = self.stack, self._below.pop()
        return items

    def get(self, index: int) -> None:
        """Put the object of a number on top."""
        if index not in self._memo:
            self.fail(f"uses its object {shown(index)}, which it has not made")
        self.push(self._memo[index])

    def put(self, index: int | None = None) -> None:
        """Number the top value, with the next number if none is given."""
        self.need(1)
        number = len(self._memo) if index is None else index
        if not 0 <= number < STEPS:
            self.fail(f"numbers an object {shown(number)}, expected less than {STEPS:,}")
        self._memo[number] = self.stack[-1]
