"""Runs on the Hugging Face Hub: `hf://user/name` or `hf://user/name@revision` in place of a run folder.

The hub's own client (`huggingface_hub`, an extra) speaks to it. Only the files that a run consists of are fetched, never code;
where they come from says nothing about them: the folder is opened like that of any stranger.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from emotiw_keras.errors import ModelError, OutputError, UsageError
from emotiw_keras.files import write_atomic
from emotiw_keras.locking import locked
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
"""What a run on the hub consists of; the last makes it one, and is fetched last."""
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
    if found is None or ".." in address:
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
    except OSError as error:
        if error.filename is not None:
            raise OutputError(f"{address}: cannot write {error.filename}: {error.strerror}") from error
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
        OutputError: the cache cannot be written.
    """
    name, revision = split_address(address)
    place = (cache or cache_dir()) / "hub" / name.replace("/", "--")
    last = place / "refs" / revision.replace("/", "--")
    if COMMIT.fullmatch(revision) and (place / revision / FILES[-1]).is_file():
        return place / revision
    if offline():
        known = last.read_text(encoding="ascii").strip() if last.is_file() else revision
        if COMMIT.fullmatch(known) and (place / known / FILES[-1]).is_file():
            return place / known
        raise ModelError(f"{address} is not in the cache, and EMOTIW_OFFLINE forbids to ask the hub for it")
    api = client()
    with in_words(address):
        info = api.model_info(name, revision=revision, files_metadata=True)
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise ModelError(f"{address}: the hub names no commit")
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or () if item.rfilename in FILES}
    if FILES[-1] not in sizes or FILES[0] not in sizes:
        raise ModelError(f"{address} is no run of emotiw: it has no {FILES[-1] if FILES[-1] not in sizes else FILES[0]}")
    if sum(sizes.values()) > LARGEST:
        raise ModelError(f"{address} has {sum(sizes.values()):,} bytes, more than the {LARGEST:,} that a run may have")
    folder = place / commit
    with locked(folder, lambda: None):
        for file in FILES:
            if file in sizes and not (folder / file).is_file():
                with in_words(address):
                    api.hf_hub_download(name, file, revision=commit, local_dir=folder)
    write_atomic(last, commit + "\n")
    return folder
