"""The text format of protocol buffers, as Caffe's prototxt files use it.

Source: "Text Format Language Specification", protobuf.dev. Read are fields, messages with or without a colon, lists, strings
with escapes, numbers, names and comments; extensions and `Any` are refused. Text is parsed without a table of fields first,
and `TextDecoder` then holds it against one, so that a misspelt setting is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.caffe_schema import OTHERS
from emotiw_keras.formats.protobuf import Message, Schema, Spec, checked_name, shortest

LARGEST = 4 << 20
"""Bytes of a text; the definitions of the deepest networks have a tenth."""
MOST_TOKENS = 300_000
"""Words, numbers, strings and marks of a text; they bound the time it takes."""
DEEPEST = 64
_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f\v]+|\#[^\n]*)+)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<mark>[-{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"} | {c: c for c in "\\'\"?"}
_CLOSING = {"{": "}", "<": ">"}
_INT = re.compile(r"[-+]?[0-9]{1,19}")


@dataclass(frozen=True)
class Token:
    """A piece of the text: kind "word", "number", "string", "mark" or "end", and the line it stands in."""

    kind: str
    text: str
    line: int


Tree = dict[str, list[Any]]
"""Field name -> its values: a `Token` or another `Tree`."""


def parse(data: bytes, where: str) -> Tree:
    """The fields of a text.

    Raises:
        ModelError: too large, too deep, or not text format; it names the line.

    Example:
        >>> parse(b'layer { name: "conv1" }', "x")["layer"][0]["name"][0].text
        'conv1'
    """
    if len(data) > LARGEST:
        raise ModelError(f"{where} has {len(data):,} bytes, more than the {LARGEST:,} a prototxt may have")
    # Comments may be in any encoding; a name that is not UTF-8 is refused where it is used.
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return _Parser(text, where).message(None, 0)


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self._tokens = self._scan(text)
        self._next = next(self._tokens)

    def fault(self, what: str, line: int) -> NoReturn:
        raise ModelError(f"{self.where}, line {line}: {what}; expected the text form of a Caffe network")

    def _scan(self, text: str) -> Iterator[Token]:
        at, line, count = 0, 1, 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self.fault(f"cannot read {text[at : at + 12]!r}", line)
            at = match.end()
            kind = match.lastgroup or ""
            if kind != "space":
                count += 1
                if count > MOST_TOKENS:
                    self.fault(f"more than {MOST_TOKENS:,} words and marks", line)
                yield Token(kind, match.group(), line)
            line += match.group().count("\n")
        yield Token("end", "", line)

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._tokens)
        return token

    def _skip(self, *marks: str) -> bool:
        found = self._next.kind == "mark" and self._next.text in marks
        if found:
            self._take()
        return found

    def message(self, closing: str | None, depth: int) -> Tree:
        if depth > DEEPEST:
            self.fault(f"messages more than {DEEPEST} deep", self._next.line)
        tree: Tree = {}
        while True:
            token = self._take()
            if token.kind == "end" if closing is None else token.kind == "mark" and token.text == closing:
                return tree
            if token.kind != "word":
                self.fault(
                    f"{token.text[:40]!r} where a field's name should be" if token.text else "the text ends early", token.line
                )
            colon = self._skip(":")
            tree.setdefault(token.text, []).extend(self._values(colon, depth))
            self._skip(",", ";")

    def _values(self, colon: bool, depth: int) -> list[Any]:
        if not self._skip("["):
            return [self._value(colon, depth)]
        values: list[Any] = []
        while not self._skip("]"):
            if values and not self._skip(","):
                self.fault(f"{self._next.text[:40]!r} in a list, expected a comma", self._next.line)
            values.append(self._value(colon, depth))
        return values

    def _value(self, colon: bool, depth: int) -> Any:
        token = self._take()
        if token.kind == "mark" and token.text in _CLOSING:
            return self.message(_CLOSING[token.text], depth + 1)
        if not colon:
            self.fault(f"{token.text[:40]!r} where ':' or '{{' should be", token.line)
        if token.kind == "string":
            parts = [self._unquoted(token)]
            while self._next.kind == "string":
                parts.append(self._unquoted(self._take()))
            return Token("string", "".join(parts), token.line)
        if token.text == "-" and self._next.kind in ("word", "number"):
            return Token("number", "-" + self._take().text, token.line)
        if token.kind not in ("word", "number"):
            self.fault(f"{token.text[:40]!r} where a value should be", token.line)
        return token

    def _unquoted(self, token: Token) -> str:
        def replace(match: re.Match[str]) -> str:
            octal, hexadecimal, letter = match.groups()
            if letter is not None and letter not in _ESCAPES:
                self.fault(f"unknown escape \\{letter}", token.line)
            return _ESCAPES[letter] if letter is not None else chr(int(octal, 8) if octal else int(hexadecimal, 16))

        return _ESCAPE.sub(replace, token.text[1:-1])


class TextDecoder:
    """Holds a parsed text against tables of fields; what `protobuf.Wire` is for bytes."""

    def __init__(self, where: str) -> None:
        self.where = where

    def decode(self, message: Tree, schema: Schema) -> Message:
        """The fields of one message.

        Raises:
            ModelError: a field that the table does not have, twice where once is allowed, or of another kind.
        """
        specs = {spec.name: spec for spec in schema.values()}
        decoded: Message = {}
        for name, values in message.items():
            spec = specs.get(name)
            if spec is None:
                # Settings of layer types that are not computed here: the layer's type tells, later.
                if not name.endswith("_param") and OTHERS not in specs:
                    raise ModelError(f"{self.where}: unknown field {name[:80]}; known here are {', '.join(sorted(specs))}")
                continue
            if len(values) > 1 and not spec.repeated:
                raise ModelError(f"{self.where}: {name} stands {len(values)} times in one message, expected once")
            if spec.kind != "any":
                decoded[name] = [self._value(value, spec) for value in values]
        return decoded

    def _value(self, value: Any, spec: Spec) -> Any:
        if spec.kind == "message":
            if isinstance(value, dict):
                return value
            self._refuse(value, spec, "a message in braces")
        if isinstance(value, dict):
            self._refuse(value, spec, "one value")
        text, kind = value.text, value.kind
        if spec.kind == "str" and kind == "string":
            return checked_name(text, self.where)
        if spec.kind == "enum" and kind == "word" and text in spec.names.values():
            return text
        if spec.kind == "bool" and (kind, text) in _BOOLS:
            return _BOOLS[kind, text]
        if spec.kind == "int" and kind == "number" and _INT.fullmatch(text):
            return int(text)
        if spec.kind == "float" and (kind == "number" or text.lower() in ("inf", "infinity", "nan")):
            number = _float(text)
            if number is not None:
                return number
        expected = {"enum": f"one of {', '.join(spec.names.values())}", "str": "a string in quotes", "bool": "true or false"}
        self._refuse(value, spec, expected.get(spec.kind, "a number"))

    def _refuse(self, value: Any, spec: Spec, expected: str) -> NoReturn:
        found = "a message" if isinstance(value, dict) else f"{value.text[:40]!r} in line {value.line}"
        raise ModelError(f"{self.where}: {spec.name} is {found}, expected {expected}")


_BOOLS = {("word", word): word[0] in "tT" for word in ("true", "false", "t", "f", "True", "False")}
_BOOLS |= {("number", "1"): True, ("number", "0"): False}


def _float(text: str) -> float | None:
    try:
        return shortest(float(text.rstrip("fF") if not text.lower().endswith("inf") else text))
    except ValueError:
        return None
