"""Damage in what other commands write and read again: exported models, packed runs, prepared faces, places for reports."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.campaign import Campaign
from tests.cuts import photos

REFUSED = (3, 4, 5, 6, 8)


def damaged_others(campaign: Campaign, run: Path, faces: Path) -> None:
    """The command line, in this process, on a folder of which one file is damaged."""
    from PIL import Image

    from emotiw_keras.cli.main import run as emotiw
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.errors import RunError

    folder = campaign.folder / "others"
    for number, pixels in enumerate(photos(8)):
        place = folder / "photos" / ("happy", "sad")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")

    def told(*words: object) -> tuple[int, str]:
        said, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            code = emotiw(list(map(str, words)))
        assert "Traceback" not in told.getvalue(), told.getvalue()
        if code in REFUSED:
            raise RunError(told.getvalue().splitlines()[-1])
        return code, said.getvalue()

    made = (
        told("export", run, folder / "a.onnx", "--format", "onnx"),
        told("pack", run, folder / "packed", "--data", faces),
        told("prepare", folder / "photos", folder / "faces", "--no-face", "centre", "--workers", 1),
    )
    assert [code for code, _ in made] == [0, 0, 0], made
    photo = folder / "photos" / "happy" / "0.png"
    predict = ("predict", photo, "--faces", "whole", "--json", "--model")
    packed = [f"packed/{name}" for name in ("run.json", "model.weights.h5", "recipe.toml", "history.csv")]
    commands: dict[str, tuple[Callable[[], Any], list[str]]] = {
        "bytes of an exported model": (lambda: told(*predict, folder / "a.onnx"), ["a.onnx"]),
        "bytes of a packed run": (lambda: told(*predict, folder / "packed"), packed),
        "bytes of a table of faces": (lambda: bool(load_faces(folder / "faces").paths), ["faces/faces.csv"]),
        "bytes of a photo": (lambda: told(*predict, run)[0], ["photos/happy/0.png"]),
    }
    expected = {part: answer() for part, (answer, _) in commands.items()}
    streams = {name: campaign.damaged((folder / name).read_bytes()) for _, names in commands.values() for name in names}
    places = itertools.count()
    for part, turn in itertools.cycle((part, turn) for part in commands for turn in range(2)):
        if campaign.over():
            break
        answer, names = commands[part]
        name = names[next(places) % len(names)]
        what, content = next(streams[name])
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(content)

        campaign.trial(part, f"{name}: {what} ({turn})", answer, expected[part])
        (folder / name).write_bytes(whole)
    _links(campaign, run, faces, told)
    shutil.rmtree(folder)


def _links(campaign: Campaign, run: Path, faces: Path, told: Callable[..., tuple[int, str]]) -> None:
    """Places for reports whose files are links to somebody else's."""
    victim = campaign.witness / "victim.txt"
    for number, (name, words) in enumerate((("scores.json", ("evaluate", run, "--data", faces, "--limit", 7, "--out")),
                                            ("", ("card", run, "--data", faces, "--limit", 7, "--out")))):  # fmt: skip
        place = campaign.folder / f"linked-{number}"
        if name:
            place.mkdir()
        (place / name if name else place).symlink_to(victim)
        campaign.trial("links in a place", f"{words[0]}", lambda: told(*words, place)[0], 0)  # noqa: B023
