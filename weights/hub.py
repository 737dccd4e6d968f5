"""Runs on the Hugging Face Hub: `hf://user/name` or `hf://user/name@revision` in place of a run folder.

The hub's own client (`huggingface_hub`, an extra) speaks to it. Only the files that a run consists of are fetched, never code;
where they come from says nothing about them: the folder is opened like that of any stranger.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from emotiw_keras.errors import ModelError, OutputError, RunError, UsageError
from emotiw_keras.files import replace_flushed, sha256_file, write_atomic, writing
from emotiw_keras.locking import locked
from emotiw_keras.sealed import read_sealed
from emotiw_keras.text import shown
from emotiw_keras.weights.cache import cache_dir
from emotiw_keras.weights.fetch import offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
ADDRESS = re.compile(
    r"hf://(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[A-Za-z0-9][\w./-]{0,127}))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
REFUSED = re.compile(r"HTTP status \w+ error \((\d{3})\b")
FILES = (
    "model.weights.h5",
    "recipe.toml",
    "data.csv.xz",
    "history.csv",
    "mean_image.npy",
    "uncertainty.json",
    "out_of_fold.csv",
    "curves.png",
    "README.md",
    "run.json",
)
"""What a run on the hub consists of; the last makes it one, and is put there last."""
WEIGHTS_FILE, INFO_FILE = FILES[0], FILES[-1]
LARGEST = 2 << 30
"""Bytes of all of them together."""


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether it names a run on the hub.

    Example:
        >>> is_address("hf://anna/faces"), is_address("runs/faces")
        (True, False)
    """
    return os.fspath(text).startswith(SCHEME)


def split_address(address: str) -> tuple[str, str]:
    """(user/name, revision) of an address; the revision is "main" if it names none.

    Raises:
        UsageError: it is no address.

    Example:
        >>> split_address("hf://anna/faces@v2")
        ('anna/faces', 'v2')
    """
    found = ADDRESS.fullmatch(address)
    # The hub has no names with "--", and none that end in a sign or in ".git".
    if found is None or ".." in address or "--" in found["name"] or re.search(r"[-.](/|$)|\.git$", found["name"]):
        raise UsageError(f"{shown(address)} is no run on the hub; expected hf://user/name or hf://user/name@revision")
    return found["name"], found["revision"] or "main"


def client() -> HfApi:
    """The hub's client.

    Raises:
        ModelError: it is not installed, or $EMOTIW_OFFLINE forbids to ask.
    """
    if offline():
        raise ModelError("the hub cannot be asked: EMOTIW_OFFLINE is set")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ModelError("the hub needs the package huggingface_hub: pip install 'emotiw-keras[hub]'")
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="emotiw_keras")


@contextmanager
def in_words(address: str) -> Iterator[None]:
    """Turn the client's refusals into one line."""
    from huggingface_hub import errors

    # What its transport raises, of httpx or whatever else the client's release uses: the base of the client's own error.
    transport: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{address}: the hub has no such model, or it is private and no token that may read it is set"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{address}: the model has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(f"{address}: no answer from the hub ({_first_line(error.__cause__ or error)})") from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{address}: a file of the run is not there") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = "; set HF_TOKEN to a token that may write there" if status in (401, 403) else ""
        raise ModelError(f"{address}: the hub answered {status or 'no status'}{hint}") from error
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{address}: the answer is not a hub's; is HF_ENDPOINT right?") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{address} is no run on the hub: {_first_line(error)}") from error
    except ValueError as error:  # of a card that the hub does not take
        raise ModelError(f"{address}: {shown(' '.join(str(error).split())[:200])}") from error
    except OSError as error:
        if error.filename is not None:
            raise OutputError(f"{address}: cannot write {error.filename}: {error.strerror}") from error
        if refused := REFUSED.search(str(error)):  # by what speaks for the client where files are large
            hint = "; a hub without Xet is asked with HF_HUB_DISABLE_XET=1" if "xet" in str(error) else ""
            raise ModelError(f"{address}: the hub answered {refused[1]}{hint}") from error
        raise ModelError(f"{address}: no answer from the hub ({_first_line(error)})") from error
    except transport as error:
        raise ModelError(f"{address}: no answer from the hub ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return shown((str(error).splitlines() or [""])[0][:200]) or type(error).__name__


def fetch_run(address: str, cache: Path | None = None) -> Path:
    """The run folder of an address, from the cache or else from the hub.

    A revision that is a commit is asked for once; a branch or tag each time, unless $EMOTIW_OFFLINE is set, when what it was
    last is taken.

    Args:
        address: hf://user/name or hf://user/name@revision.
        cache: the folder of the cache; None for $EMOTIW_CACHE or ~/.cache/emotiw_keras.

    Returns:
        A folder that holds one commit's files.

    Raises:
        UsageError: it is no address.
        ModelError: the hub has no such run, is too far away, or offers more than a run may have.
        RunError: its files are not those that its run.json says, though they were fetched twice.
        OutputError: the cache cannot be written.
    """
    name, revision = split_address(address)
    place = (cache or cache_dir()) / "hub" / name.replace("/", "--")
    last = place / "refs" / revision.replace("/", "--")
    if COMMIT.fullmatch(revision) and _is_whole(place / revision):
        return place / revision
    if offline():
        known = last.read_text(encoding="ascii").strip() if last.is_file() else revision
        if COMMIT.fullmatch(known) and _is_whole(place / known):
            return place / known
        raise ModelError(f"{address} is not in the cache, or damaged there, and EMOTIW_OFFLINE forbids to ask the hub for it")
    api = client()
    with in_words(address):
        info = api.model_info(name, revision=revision, files_metadata=True)
        commit = info.sha or ""
        named = COMMIT.fullmatch(commit)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or () if item.rfilename in FILES}
        total = sum(sizes.values())
    if not named:
        raise ModelError(f"{address}: the hub names no commit")
    if INFO_FILE not in sizes or WEIGHTS_FILE not in sizes:
        raise ModelError(f"{address} is no run of emotiw: it has no {INFO_FILE if INFO_FILE not in sizes else WEIGHTS_FILE}")
    if total > LARGEST:
        raise ModelError(f"{address} has {total:,} bytes, more than the {LARGEST:,} that a run may have")
    folder = place / commit

    def fetch(file: str, into: Path) -> None:
        if not (into / file).is_file():
            with in_words(address):
                api.hf_hub_download(name, file, revision=commit, local_dir=into)

    with locked(folder, lambda: None), writing(folder):
        if not _is_whole(folder):
            _fetch_all(folder, [file for file in FILES if file in sizes], fetch, address)
    write_atomic(last, commit + "\n")
    return folder


def _fetch_all(folder: Path, files: list[str], fetch: Callable[[str, Path], None], address: str) -> None:
    """Fetch what the folder lacks or has otherwise than run.json says, which comes to its place when all others are there."""
    arriving = folder / "arriving"
    (folder / INFO_FILE).unlink(missing_ok=True)
    for _ in range(2):
        for file in files:
            fetch(file, arriving if file == INFO_FILE else folder)
        wrong = _differing(folder, arriving / INFO_FILE)
        if not wrong:
            replace_flushed(arriving / INFO_FILE, folder / INFO_FILE)
            shutil.rmtree(arriving, ignore_errors=True)
            return
        for path in wrong:
            path.unlink()
    raise RunError(
        f"{address} is damaged: {next(iter(wrong.values()))}; it was fetched twice, so tell whoever put it on the hub"
    )


def _is_whole(folder: Path) -> bool:
    return (folder / INFO_FILE).is_file() and not _differing(folder, folder / INFO_FILE)


def _differing(folder: Path, info_file: Path) -> dict[Path, str]:
    """Files of a run that are not what its run.json says, and in which way; what is no run.json is one itself."""
    try:
        info = read_sealed(info_file)
    except RunError:
        return {info_file: f"{INFO_FILE} is not what its checksum says"}
    weights, said = info.get("weights"), info.get("files")
    hashes = dict(said) if isinstance(said, dict) else {}
    hashes[WEIGHTS_FILE] = weights.get("sha256") if isinstance(weights, dict) else None
    found = {}
    for name in FILES:
        if isinstance(hashes.get(name), str) and (folder / name).is_file():
            sha256 = sha256_file(folder / name)
            if sha256 != hashes[name]:
                found[folder / name] = f"{name} has SHA-256 {sha256[:16]}..., run.json says {hashes[name][:16]}..."
    return found
