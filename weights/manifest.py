"""The files the package knows, as `manifest.toml` lists them: where each comes from, under which terms, and how to know it."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emotiw_keras.errors import ModelError
from emotiw_keras.sealed import strict_toml

MANIFEST = Path(__file__).with_name("manifest.toml")
KINDS = ("weights", "mean", "detector")
ARCHIVES = ("tar.gz", "tgz")
FORMATS = ("caffemodel", "binaryproto", "mat", "pth", "onnx", "tflite", "npy", "h5", "pkl", *ARCHIVES)
PREFIX = "sha256_prefix"
"""How PyTorch names its files: the first digits of their SHA-256."""
HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96}


@dataclass(frozen=True)
class Entry:
    """One file: a table of `manifest.toml`, whose fields these are."""

    key: str
    kind: str
    format: str
    url: str = ""
    package: str = ""
    model: str = ""
    file: str = ""
    mirrors: tuple[str, ...] = ()
    size: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)
    default: bool = False
    licence: str = ""
    non_commercial: bool = False
    paper: str = ""
    note: str = ""

    @property
    def filename(self) -> str:
        """What the file is called in the cache."""
        return self.file or urlsplit(self.url).path.rpartition("/")[2]

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, in the order they are tried."""
        return (self.url, *self.mirrors) if self.url else ()

    @property
    def pinned(self) -> bool:
        """Whether a whole hash is published; the few digits of a prefix tell a damaged file, not a forged one."""
        return any(algorithm in HEX_DIGITS for algorithm in self.hashes)


def load_manifest(path: Path | None = None) -> dict[str, Entry]:
    """Key -> entry, in the order of the file (`None`: the one that ships).

    Raises:
        ModelError: the file is missing, is not TOML, or a table has an unknown, missing or impossible field.

    Example:
        >>> load_manifest()["alexnet-caffe"].size
        243862414
    """
    return dict(_read(path or MANIFEST))


@functools.cache
def _read(path: Path) -> dict[str, Entry]:
    try:
        tables = strict_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the weights manifest {path}: {error}") from error
    entries = {key: _entry(key, table, f"{path.name}: [{key}]") for key, table in tables.items()}
    sources = [entry.model for entry in entries.values() if entry.default]
    if doubled := sorted({model for model in sources if sources.count(model) > 1}):
        raise ModelError(f"{path.name}: more than one default file of {', '.join(doubled)}; expected one for each model")
    return entries


def _entry(key: str, table: Any, where: str) -> Entry:
    known = {item.name: item for item in fields(Entry) if item.name != "key"}
    if not isinstance(table, dict) or not {"kind", "format"} <= table.keys() <= known.keys():
        raise ModelError(f"{where} must have kind, format and url or package, and nothing but {', '.join(known)}")
    kinds = {"size": int, "hashes": dict, "mirrors": list, "default": bool, "non_commercial": bool}
    for name, value in table.items():
        if type(value) is not kinds.get(name, str):
            raise ModelError(f"{where} has {name} = {value!r}; expected a {kinds.get(name, str).__name__}")
    entry = Entry(key=key, **{**table, "mirrors": tuple(table.get("mirrors", ()))})
    if entry.kind not in KINDS or entry.format not in FORMATS or entry.size < 0:
        raise ModelError(f"{where} has kind {entry.kind!r}, format {entry.format!r}, size {entry.size}; one is impossible")
    named = all(entry.package.partition("==")) and entry.file and entry.pinned
    if bool(entry.url) == bool(entry.package) or (entry.package and (entry.mirrors or not named)):
        raise ModelError(f"{where} must have a url, or a package NAME==VERSION with the file in it and its whole hash")
    for url in entry.urls:
        if not _is_address(url):
            raise ModelError(f"{where} has the address {url!r}; expected http or https")
    if not _plain(key) or not _plain(entry.filename):
        raise ModelError(f"{where} would be stored as {key}/{entry.filename}; expected plain names")
    for algorithm, digits in entry.hashes.items():
        _check_digits(algorithm, digits, where)
    if entry.default and not (entry.model and entry.kind == "weights" and entry.format not in ARCHIVES):
        raise ModelError(f"{where} is the default of no model, or cannot be converted as it is")
    return entry


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a host in brackets that is no number, a port that is none
        return False


def _plain(name: str) -> bool:
    return bool(name) and not name.startswith(".") and name.replace("-", "").replace("_", "").replace(".", "").isalnum()


def _check_digits(algorithm: str, digits: Any, where: str) -> None:
    right = isinstance(digits, str) and set(digits) <= set("0123456789abcdef")
    if algorithm == PREFIX:
        right = right and 8 <= len(digits) <= 64
    else:
        right = right and len(digits) == HEX_DIGITS.get(algorithm)
    if not right:
        expected = ", ".join(f"{name} of {count}" for name, count in HEX_DIGITS.items())
        raise ModelError(f"{where} has {algorithm} = {digits!r}; expected {expected} lower-case digits, or a {PREFIX}")


def get_entry(name: str, path: Path | None = None) -> Entry:
    """The file with the key `name`, or the default file of the model `name`.

    Raises:
        ModelError: there is neither; the message names the likely ones.

    Example:
        >>> get_entry("alexnet").key
        'alexnet-caffe'
    """
    entries = load_manifest(path)
    if name in entries:
        return entries[name]
    defaults = {entry.model: entry for entry in entries.values() if entry.default}
    if name in defaults:
        return defaults[name]
    near = difflib.get_close_matches(name, [*defaults, *entries], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ModelError(
        f"no file {name!r} in the weights manifest: {hint}expected a key that `emotiw weights list` shows, "
        f"or a model: {', '.join(defaults)}"
    )
