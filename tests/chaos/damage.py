"""Damaged bytes and hostile values in the files that a later command believes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.chaos.campaign import Campaign, believed, content_of

HOSTILE: tuple[Any, ...] = (None, True, -1, 0, 10**12, 10**400, 0.5, 1e300, [], [1], [[]], {}, {"x": 1})
HOSTILE += ("", "x", "../x", "/etc/passwd", "\x1b[31m", "\0")


def damaged_runs(campaign: Campaign, run: Path, most: int) -> None:
    """Damaged bytes in every file of a run."""
    expected = believed(run)
    files = ("run.json", "data.csv", "recipe.toml", "history.csv", "model.weights.h5")
    streams = {name: campaign.damaged((run / name).read_bytes()) for name in files}
    for number in range(most):
        name = files[number % len(files)]
        if campaign.over():
            return
        what, content = next(streams[name])
        whole = (run / name).read_bytes()
        (run / name).write_bytes(content)
        campaign.trial("bytes of a run", f"{name}: {what}", lambda: believed(run), expected)
        (run / name).write_bytes(whole)


def _places(table: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = list(table.items()) if isinstance(table, dict) else list(enumerate(table[:2])) if isinstance(table, list) else []
    return ([at] if at else []) + [place for key, value in items for place in _places(value, (*at, key))]


def _changed(table: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(table))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def hostile_facts(campaign: Campaign, run: Path, most: int) -> None:
    """Hostile values in every field of run.json, its checksum taken out as a stranger would."""
    from emotiw_keras.runs import Run
    from emotiw_keras.sealed import read_sealed

    whole, info = (run / "run.json").read_bytes(), read_sealed(run / "run.json")
    trials = [(place, value) for place in _places(info) for value in HOSTILE]
    campaign.random.shuffle(trials)

    def answer() -> bool:
        opened = Run.open(run)
        return bool((opened.rows(), opened.seen(), opened.selected_on, opened.crop, opened.labels, opened.face_input()))

    for place, value in trials[:most]:
        if campaign.over():
            break
        (run / "run.json").write_text(json.dumps(_changed(info, place, value)))
        campaign.trial("fields of run.json", f"{place} = {value!r:.40}", answer, True)
    (run / "run.json").write_bytes(whole)


def hostile_recipes(campaign: Campaign, most: int) -> None:
    """Hostile values in every field of every recipe that ships."""
    import tomllib

    from emotiw_keras.training.recipe import recipe_from_table, recipe_names, recipe_text

    trials = []
    for name in recipe_names():
        table = tomllib.loads(recipe_text(name))
        trials += [(name, table, place, value) for place in _places(table) for value in HOSTILE if value is not None]
    campaign.random.shuffle(trials)

    def answer(table: dict[str, Any]) -> bool:
        return bool(recipe_from_table(table).to_toml())

    for name, table, place, value in trials[:most]:
        if campaign.over():
            return
        changed = _changed(table, place, value)
        campaign.trial("fields of a recipe", f"{name} {place} = {value!r:.40}", lambda changed=changed: answer(changed), True)


def damaged_prepared(campaign: Campaign, most: int) -> None:
    """Damaged bytes and hostile lines in a prepared folder; then `prepare` again makes what was there, or refuses."""
    from PIL import Image

    from emotiw_keras.data.prepare import prepare
    from tests.data.dotted import Dotted, photo

    source, out = campaign.folder / "photos", campaign.folder / "prepared"
    for label in ("happy", "sad"):
        (source / label).mkdir(parents=True)
        Image.fromarray(photo(((60, 50), (100, 50)), seed=len(label))).save(source / label / "a.png")
    prepare(source, out, detector=Dotted(), workers=1)
    clean = content_of(out)
    journal = clean[".prepare.jsonl"].decode().splitlines()
    record = {key: value for key, value in json.loads(journal[0]).items() if key != "check"}
    rows = [{"path": "gone.png", "output": "../witness/victim.txt"}]
    gone = record | {"member": "gone.png", "stem": "../witness/victim", "rows": rows}
    lines = [json.dumps(gone), json.dumps(gone | {"rows": [{"output": str(campaign.witness / "victim.txt")}]})]
    lines += [json.dumps(_changed(record, place, value)) for place in _places(record) for value in HOSTILE if value != 10**400]
    campaign.random.shuffle(lines)
    # What is written anew in any case, and a face, which only `fit` reads through.
    files = [name for name in (".prepare.jsonl", "prepare.json") if name in clean]
    streams = {name: campaign.damaged(clean[name]) for name in files}

    def answer() -> dict[str, Any]:
        prepare(source, out, detector=Dotted(), workers=1)
        return meant(content_of(out))

    def meant(files: dict[str, bytes]) -> dict[str, Any]:
        # A doubled line of it says the same.
        return files | {"prepare.json": json.loads(files["prepare.json"])}

    for number in range(most):
        if campaign.over():
            return
        if number % 2:
            name = files[number // 2 % len(files)]
            what, content = next(streams[name])
        else:
            name, chosen = ".prepare.jsonl", lines[number // 2 * 8 % len(lines) :][:8]
            what, content = f"lines {chosen}", ("\n".join([*journal, *chosen]) + "\n").encode()
        (out / name).write_bytes(content)
        if number % 2:
            campaign.trial("bytes of a prepared folder", f"{name}: {what}", answer, meant(clean))
        else:  # what a whole line of a stranger says of an image is believed; where it may write and remove is not
            campaign.trial("lines of a journal", what, lambda: bool(answer()), True)
        shutil.rmtree(out)
        for path, data in clean.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(data)


def damaged_features(campaign: Campaign, most: int) -> None:
    """Damaged blocks of a cache of features are noticed and removed."""
    from emotiw_keras.training.features import Features

    folder = campaign.folder / "features"
    block = np.random.default_rng(0).bytes(4096)
    name = f"000000-{hashlib.sha256(block).hexdigest()[:16]}.features"
    stream = campaign.damaged(block)
    reader = object.__new__(Features)
    reader.folder = folder
    for _ in range(most):
        if campaign.over():
            return
        folder.mkdir(exist_ok=True)
        what, content = next(stream)
        (folder / name).write_bytes(content)
        campaign.trial("a cache", what, lambda: (reader._whole_blocks(lambda line: None), list(folder.iterdir())), ({}, []))
