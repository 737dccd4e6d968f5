"""Files below a folder in the order of their names, as they are found: a folder of any size is sorted in bounded memory."""

from __future__ import annotations

import contextlib
import glob
import heapq
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

AT_ONCE = 100_000
"""Names that are sorted in memory; more go through a temporary file."""
_GLOB = re.compile(
    r"(?P<deep>\*\*/)|(?P<rest>\*\*)|(?P<any>\*)|(?P<one>\?)|\[(?P<not>!)?(?P<set>[^]]+)\]|(?P<plain>.)", re.DOTALL
)


def in_order(names: Iterable[str], at_once: int = AT_ONCE) -> Iterator[str]:
    """Strings sorted; at most about `at_once` of them in memory, the others in sorted runs on the disk.

    Example:
        >>> list(in_order(["c", "a", "d", "b"], at_once=2))
        ['a', 'b', 'c', 'd']
    """
    with contextlib.ExitStack() as stack:
        runs: list[Iterator[str]] = []
        held: list[str] = []
        for name in names:
            held.append(name)
            if len(held) >= at_once:
                # Escaped, so that a name with a line break, or one that is no text, stays a line.
                file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
                file.writelines(json.dumps(each) + "\n" for each in sorted(held))
                file.seek(0)
                runs.append(map(json.loads, file))
                held = []
        held.sort()
        yield from heapq.merge(*runs, held) if runs else held


def scan(folder: str, hidden: Sequence[re.Pattern[str]] = ()) -> Iterator[str]:
    """Names in a folder, sorted; those of folders, and of links to folders, end in `/`. Hidden ones are left out, but for
    those that one of `hidden` matches.

    Raises:
        OSError: it cannot be read.
    """

    def names() -> Iterator[str]:
        with os.scandir(folder) as found:
            for each in found:
                if not each.name.startswith(".") or any(way.fullmatch(each.name) for way in hidden):
                    yield each.name + ("/" if _is_folder(each) else "")

    return in_order(names())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that runs in a circle: reading it will say so
        return False


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """What relative names with `/` a glob pattern matches, as `glob` has it: `*` and `?` within a name, `**` across folders;
    no mark stands for the dot that a hidden name begins with.

    Example:
        >>> bool(glob_pattern("**/*.jpg").fullmatch("a/b/c.jpg")), bool(glob_pattern("*.jpg").fullmatch("a/b.jpg"))
        (True, False)
    """
    text = ""
    for part in _GLOB.finditer(pattern):
        if part["plain"] is None and part["deep"] is None and pattern[: part.start()][-1:] in ("", "/"):
            text += r"(?!\.)"
        if part["deep"]:
            text += r"(?:(?!\.)[^/]+/)*"
        elif part["rest"]:
            text += r"(?:[^/]|/(?!\.))*"
        elif part["any"]:
            text += r"[^/]*"
        elif part["one"]:
            text += r"[^/]"
        elif part["set"]:
            text += f"[{'^' if part['not'] else ''}{re.escape(part['set']).replace(re.escape('-'), '-')}]"
        else:
            text += re.escape(part["plain"])
    return re.compile(text, re.DOTALL)


def matching(pattern: str) -> Iterator[str]:
    """Paths that a glob pattern matches, each once, sorted; a folder ends in `/`, and is given whole, and so is one that cannot
    be read where the pattern leads into it. A hidden name is matched by a part that begins with a dot."""
    pattern = pattern.replace(os.sep, "/")
    while pattern.endswith("**/"):  # folders, whose own are given with them
        pattern = pattern[:-3] or "./"
    parts = pattern.rstrip("/").split("/")
    fixed = next((i for i, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    if fixed == len(parts) or {".", ".."} & set(parts[fixed:]):
        yield from _by_glob(pattern)
        return
    root = "/".join(parts[:fixed])
    rest = "/".join(parts[fixed:])
    ways = [None if "**" in part else glob_pattern(part) for part in parts[fixed:]]
    hidden = [glob_pattern(part) for part in parts[fixed:] if part.startswith(".")]
    found = _matching("" if fixed == 0 else root + "/", glob_pattern(rest), ways, hidden)
    yield from (path for path in found if path.endswith("/") or not pattern.endswith("/"))


def _by_glob(pattern: str) -> Iterator[str]:
    """The same of names alone, and of patterns with `.` or `..`, which no walk meets."""
    for path in sorted(set(glob.glob(pattern, recursive=True))):
        if not any(map(_in_a_circle, map(str, Path(path).parents))):
            yield path.rstrip("/") + "/" if os.path.isdir(path) else path


def _leads(folder: str, ways: Sequence[re.Pattern[str] | None]) -> bool:
    """Whether what a pattern matches may lie in a folder: by its parts, None for `**`."""
    names = folder.split("/")
    for name, way in zip(names, ways, strict=False):
        if way is None:
            return True
        if not way.fullmatch(name):
            return False
    return len(names) < len(ways)


def _in_a_circle(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return os.path.islink(folder) and os.path.realpath(folder) in map(os.path.realpath, Path(folder).parents)


def _matching(
    root: str,
    wanted: re.Pattern[str],
    ways: Sequence[re.Pattern[str] | None],
    hidden: Sequence[re.Pattern[str]],
) -> Iterator[str]:
    levels = [("", scan(root or ".", hidden))]
    while levels:
        below, names = levels[-1]
        try:
            name = next(names, None)
        except (FileNotFoundError, NotADirectoryError):
            name = None  # nothing matches there
        except OSError:
            yield (root + below) or "./"
            name = None
        if name is None:
            levels.pop()
            continue
        relative = below + name
        if name.endswith("/"):
            if wanted.fullmatch(relative[:-1]):
                yield root + relative
            elif _leads(relative[:-1], ways) and not _in_a_circle(root + relative[:-1]):
                levels.append((relative, scan(root + relative, hidden)))
        elif wanted.fullmatch(relative):
            yield root + relative
