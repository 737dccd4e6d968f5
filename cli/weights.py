"""`emotiw weights`: the files of original weights, where they come from, and whether they are the right ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emotiw_keras.cli.console import put, put_made, put_table, tell, warn
from emotiw_keras.errors import ModelError
from emotiw_keras.progress import Bar

if TYPE_CHECKING:
    from emotiw_keras.weights.manifest import Entry

COLUMNS = ("key", "model", "MB", "licence", "in the cache")


@click.group()
def weights() -> None:
    """List, fetch and verify the files of original weights.

    They are kept in $EMOTIW_CACHE, or ~/.cache/emotiw_keras. EMOTIW_OFFLINE=1 forbids every download.

    \b
    Example: emotiw weights fetch alexnet
    """


@weights.command("list", short_help="List the files that can be fetched.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array with everything known about each file.")
def list_files(as_json: bool) -> None:
    """List the files that can be fetched: key, network, size, licence, and whether it is in the cache.

    A star marks the file that `emotiw weights fetch MODEL` takes.

    \b
    Example: emotiw weights list --json
    """
    import dataclasses

    from emotiw_keras.weights.cache import file_path
    from emotiw_keras.weights.manifest import load_manifest

    entries = list(load_manifest().values())
    if as_json:
        rows = [
            {**dataclasses.asdict(entry), "path": str(file_path(entry)), "in_cache": file_path(entry).is_file()}
            for entry in entries
        ]
        put(json.dumps(rows))
        return
    table = [COLUMNS] + [
        (
            entry.key,
            entry.model + (" *" if entry.default else ""),
            f"{entry.size / 1e6:.1f}" if entry.size else "?",
            entry.licence or "not stated",
            "yes" if file_path(entry).is_file() else "no",
        )
        for entry in entries
    ]
    put_table(table, right=2)


@weights.command(short_help="Fetch files into the cache, and convert them.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--no-convert", is_flag=True, help="Leave the file as it is; AlexNet(weights='imagenet') needs it converted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array: key, path, sha256, and the converted file or null.")
def fetch(names: tuple[str, ...], no_convert: bool, as_json: bool) -> None:
    """Fetch files into the cache, and convert those of the networks here.

    NAME is a key of `emotiw weights list`, or a network, for its usual file. An interrupted download resumes where it
    stopped; no file gets its name before its hash is checked.

    \b
    Example: emotiw weights fetch alexnet vgg_cnn-mean
    """
    from emotiw_keras.weights import cache
    from emotiw_keras.weights.fetch import fetch as fetch_file
    from emotiw_keras.weights.manifest import get_entry

    rows = []
    for entry in {entry.key: entry for entry in map(get_entry, names)}.values():
        _tell_licence(entry)
        bar = Bar("B")
        path = fetch_file(entry, progress=bar.to, say=tell)
        bar.close()
        row = {"key": entry.key, "path": str(path), "sha256": cache.recorded(path), "converted": None}
        if not no_convert:
            converted = _convert(entry, path)
            row["converted"] = str(converted) if converted else None
        rows.append(row)
        if not as_json:
            put_made(f"{path}  sha256 {row['sha256']}" + (f"\n{row['converted']}" if row["converted"] else ""))
    if as_json:
        put_made(json.dumps(rows))


@weights.command(short_help="Compare the files in the cache with their hashes.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON array: key, path, sha256, and what is wrong or null.")
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Compare the files in the cache with the published sizes and hashes, and with those recorded at the first download.

    Without a NAME, every file that is there. Ends with 5 if one is missing or wrong.

    \b
    Example: emotiw weights verify
    """
    from emotiw_keras.weights import cache
    from emotiw_keras.weights.manifest import get_entry, load_manifest

    known = load_manifest()
    entries = list(map(get_entry, names)) or [entry for entry in known.values() if cache.file_path(entry).exists()]
    rows, wrong = [], []
    for entry in entries:
        row = {"key": entry.key, "path": str(cache.file_path(entry)), "sha256": None, "wrong": None}
        try:
            row["sha256"] = cache.verify(entry, cache.file_path(entry))
        except ModelError as error:
            row["wrong"] = str(error)
            wrong.append(str(error))
        rows.append(row)
        if not as_json:
            put(f"{'WRONG' if row['wrong'] else 'ok   '}  {entry.key}  {row['path']}")
    if as_json:
        put(json.dumps(rows))
    folder = cache.cache_dir() / cache.FILES
    if not names:
        strangers = sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []
        if strangers:
            warn(f"not in the manifest, so not checked: {', '.join(strangers)} in {folder}")
        if not entries:
            warn(f"no fetched file in {folder}")
    if wrong:
        raise ModelError(f"{len(wrong)} of {len(rows)} files are wrong: {'; '.join(wrong)}")


def _tell_licence(entry: Entry) -> None:
    licence = entry.licence or "none is stated; ask its authors what you may do with it"
    tell(f"{entry.key}: licence: {licence}")
    if entry.non_commercial:
        warn(f"{entry.key}: WARNING: for non-commercial use only; what is trained from it may be bound by the same terms")


def _convert(entry: Entry, path: Path) -> Path | None:
    """Convert the file of a network that is built here, for weights="imagenet" and its like; None if there is nothing to do."""
    from emotiw_keras.models.registry import model_names
    from emotiw_keras.weights.manifest import ARCHIVES

    if entry.kind != "weights" or entry.model not in model_names():
        return None
    if entry.format in ARCHIVES:
        warn(f"{entry.key}: an archive; unpack it and give a file of it to `emotiw convert --model {entry.model}`")
        return None
    from emotiw_keras.conversion.convert import convert_to_cache

    return convert_to_cache(entry.model, path, say=tell)
