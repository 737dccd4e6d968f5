"""Runs that were damaged, or that a stranger made: refused by name, never a figure and never a traceback."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emotiw_keras import sealed
from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.errors import EmotiwError, ModelError, RunError
from emotiw_keras.files import sha256_file
from emotiw_keras.history import COLUMNS
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.run_view import run_view
from emotiw_keras.runs import DATA_COLUMNS, Run, believed_hashes
from emotiw_keras.sealed import read_sealed, sealed_json
from emotiw_keras.training import checkpoints
from emotiw_keras.training.curves import learning_curves
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe

from .conftest import RECIPE


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, faces: dict[str, str]) -> Path:
    """A finished run of two stages."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tiny.toml").write_text(RECIPE)
    run = fit(load_recipe(str(folder / "tiny.toml")), faces, folder / "run").run
    assert run is not None
    return run.path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def as_of_0_1(run: Path) -> dict[str, Any]:
    """Take out of run.json the hashes that emotiw 0.1 did not keep."""
    info = read_sealed(run / "run.json")
    del info["files"]
    (run / "run.json").write_text(json.dumps(info))
    return info


def halved(text: bytes) -> bytes:
    return b"".join(text.splitlines(keepends=True)[: len(text.splitlines()) // 2])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half of the lines": halved,
    "cut in a line": lambda text: halved(text)[:-9],
    "empty": lambda text: b"",
    "zeros": lambda text: bytes(len(text)),
    "no text": lambda text: b"\xff" + text,
    "a quote": lambda text: text.replace(b"\n", b'\n"', 1),
}


@pytest.mark.parametrize("old", [False, True], ids=["with hashes", "of 0.1"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_data_csv_gives_no_figure(
    copy: Path, damage: Callable[[bytes], bytes], old: bool, faces: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    if old:
        as_of_0_1(copy)
    (copy / "data.csv").write_bytes(damage((copy / "data.csv").read_bytes()))
    assert emotiw(["evaluate", str(copy), "--data", faces["target"], "--split", "train", "--json"]) == RunError.exit_code
    told = capsys.readouterr()
    assert "data.csv" in told.err and not told.out


@pytest.mark.parametrize("name", ["recipe.toml", "history.csv", "data.csv"])
def test_one_changed_byte_of_any_believed_file_is_told_by_name(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(RunError, match=name):
        Run.open(copy)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_answers_without_the_file_on_uncertainty_are_given_with_a_warning(
    copy: Path, faces: dict[str, str], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (copy / "uncertainty.json").unlink()
    image = str(next(Path(faces["target"]).rglob("*.png")))
    words = {"predict": [image, "--faces", "whole", "--model", str(copy)], "evaluate": [str(copy), "--data", faces["target"]]}
    assert emotiw([command, *words[command], "-q"]) == 0
    told = capsys.readouterr()
    assert told.err.count("lacks uncertainty.json, which run.json names: no answer is called uncertain") == 1 and told.out


def test_a_digit_edited_in_run_json_is_noticed(copy: Path) -> None:
    text = (copy / "run.json").read_text()
    assert '"seed": 0' in text
    (copy / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match="checksum"):
        Run.open(copy)


def test_a_checksum_that_lost_its_name_is_damage(tmp_path: Path) -> None:
    text = sealed_json({"format": 1, "labels": ["a", "b"]})
    (tmp_path / "run.json").write_text(text.replace('"checksum"', '"chgcksum"'))
    with pytest.raises(RunError, match="run.json calls its checksum 'chgcksum'"):
        read_sealed(tmp_path / "run.json")
    (tmp_path / "run.json").write_text('{"format": 1, "weights": "%s"}' % ("0" * 64))  # as one of 0.1, which had none
    assert read_sealed(tmp_path / "run.json")["format"] == 1


def test_a_file_of_many_keys_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text was tried as the checksum, and each key counted among all for one that stands twice: hours for a megabyte."""
    many = ",".join(f'"k{number}":""' for number in range(100_000))
    asked = []
    made = sealed._checksum
    monkeypatch.setattr(sealed, "_checksum", lambda content: (asked.append(len(content)), made(content))[1])
    (tmp_path / "run.json").write_text(f'{{"format":1,{many}}}')
    assert len(read_sealed(tmp_path / "run.json")) == 100_001 and len(asked) <= 1
    (tmp_path / "run.json").write_text(f'{{"format":1,{many},"k99999":""}}')
    with pytest.raises(RunError, match="'k99999' stands twice in one object"):
        read_sealed(tmp_path / "run.json")


def test_a_run_of_0_1_still_opens(copy: Path) -> None:
    as_of_0_1(copy)
    run = Run.open(copy)
    assert len(run.rows()) == 2 * (70 + 49)
    assert {row["status"] for row in run.rows()} >= {"train", "val"}


def test_the_same_command_as_with_0_1_is_known_by_its_recipe(copy: Path, faces: dict[str, str], recipe_file: Path) -> None:
    """That version wrote a recipe without the settings that it had not."""
    info, recipe, said = as_of_0_1(copy), copy / "recipe.toml", list[str]()
    info["versions"]["emotiw_keras"] = "0.1.0"
    (copy / "run.json").write_text(json.dumps(info))
    lacking = "low_light|blur|noise|jpeg|degrade|occlude"
    recipe.write_text(re.sub(rf"(?m)^({lacking}) = .*\n", "", recipe.read_text()))
    fit(load_recipe(str(recipe_file)), faces, copy, say=said.append)
    assert any("is finished already" in line for line in said)
    by = "by an earlier version, emotiw 0.1.0,"
    with pytest.raises(RunError, match=f"was made {by} from another recipe or other data: stage.two.noise: 0.0 -> 20.0; give"):
        fit(load_recipe(str(recipe_file), ["two.noise=20"]), faces, copy)
    (copy / "run.json").write_text(json.dumps({**info, "finished": False}))
    with pytest.raises(RunError, match=f"was begun {by} whose unfinished runs this one does not go on with; .*--restart"):
        fit(load_recipe(str(recipe_file)), faces, copy)


@pytest.mark.parametrize("old", [False, True], ids=["with hashes", "of 0.1"])
def test_damage_of_an_unfinished_run_is_told_by_name(copy: Path, faces: dict[str, str], tmp_path: Path, old: bool) -> None:
    """Between two stages: the marker of the first, the recipe, the data."""
    info = as_of_0_1(copy)
    shutil.rmtree(copy / "stages" / "02-two")
    (copy / WEIGHTS_FILE).unlink()
    info |= {"finished": False, "stages": [], "files": believed_hashes(copy)}
    (copy / "run.json").write_text(json.dumps(info) if old else sealed_json(info))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    marker = copy / "stages" / "01-one" / "done.json"
    whole = {path: path.read_bytes() for path in (marker, copy / "recipe.toml", copy / "data.csv")}
    for path, content in whole.items():
        for damaged in (content[: len(content) // 2], content.replace(b"0", b"1", 1), b"[" * 100_000, b"[]", b"\xff"):
            path.write_bytes(damaged)
            with pytest.raises(RunError, match=path.name.replace(".", r"\.")):
                fit(load_recipe(str(tmp_path / "tiny.toml")), faces, copy)
        path.write_bytes(content)


HOSTILE = (None, True, -1, 0, 10**12, 10**400, 0.5, "x", "", "../x", [], [1], [[]], {}, {"x": 1}, [None] * 3, "\x1b[31m")


def places(table: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested tables and lists."""
    found = [at] if at else []
    items = table.items() if isinstance(table, dict) else enumerate(table[:3]) if isinstance(table, list) else ()
    for key, value in items:
        found += places(value, (*at, key))
    return found


def test_no_odd_value_in_any_field_of_run_json_ends_in_a_traceback(copy: Path) -> None:
    """Hundreds of values: each run is refused in words, or opens and its rows, settings and facts can be read."""
    info = as_of_0_1(copy)
    info["weights"]["variables"] = info["weights"]["variables"][:2]
    refused = 0
    for place in places(info):
        for value in HOSTILE:
            changed = json.loads(json.dumps(info))
            table = changed
            for key in place[:-1]:
                table = table[key]
            table[place[-1]] = value
            (copy / "run.json").write_text(json.dumps(changed))
            try:
                run = Run.open(copy)
                facts = (run.rows(), run.seen(), run.selected_on, run.crop, run.crops, run.labels, run.name, run.fingerprint)
                assert facts and run.face_input().resize <= 2048
            except RunError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 400
    assert refused > 500


def test_a_run_whose_losses_ran_away_opens_and_others_do_not(copy: Path) -> None:
    """Losses of any size are figures that `fit` wrote; what is no number is none."""
    info = as_of_0_1(copy)
    for loss, opens in ((1.35e37, True), (1.7e308, True), (10**400, False), ("1", False), (True, False)):
        info["stages"][0]["val_loss"] = loss
        (copy / "run.json").write_text(json.dumps(info))
        with contextlib.nullcontext() if opens else pytest.raises(RunError, match="stages"):
            assert Run.open(copy).info["stages"][0]["val_loss"] == loss


def test_sizes_that_run_json_claims_are_refused_before_they_cost_anything(copy: Path) -> None:
    info = as_of_0_1(copy)
    for table, key, value in (
        ("preprocessing", "resize", 1_000_000),
        ("model", "width", 1000.0),
        ("model", "classes", 10**9),
        ("model", "input_shape", [10**6, 10**6, 3]),
        ("model", "options", {"weights": "../secret"}),
        ("model", "options", {"classes": 3}),
    ):
        (copy / "run.json").write_text(json.dumps({**info, table: {**info[table], key: value}}))
        with pytest.raises(RunError, match=rf"{table}\.{key}"):
            Run.open(copy)


def with_weights(run: Path, change: Callable[[h5py.File], None]) -> Run:
    """Change the weight file as a stranger would, the hash of run.json made to fit."""
    with h5py.File(run / WEIGHTS_FILE, "r+") as file:
        change(file)
    info = as_of_0_1(run)
    info["weights"]["sha256"] = sha256_file(run / WEIGHTS_FILE)
    (run / "run.json").write_text(json.dumps(info))
    return Run.open(run)


def first_array(file: h5py.File) -> h5py.Dataset:
    found: list[h5py.Dataset] = []
    file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) and item.ndim == 1 else None)
    return found[0]


def test_weights_that_point_at_other_files_are_refused(finished: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(4096, dtype=np.float32).tobytes())

    def external(file: h5py.File) -> None:
        array = first_array(file)
        name, shape = array.name, array.shape
        del file[name]
        file.create_dataset(name, shape, "float32", external=[(str(secret), 0, 4 * math.prod(shape))])

    def link(file: h5py.File) -> None:
        name = first_array(file).name
        del file[name]
        file[name] = h5py.ExternalLink(str(secret), "/x")

    for number, change in enumerate((external, link)):
        run = with_weights(Path(shutil.copytree(finished, tmp_path / str(number))), change)
        with pytest.raises(ModelError, match=r"stored in another file|ExternalLink"):
            run.build()


def test_a_network_that_answers_no_number_is_an_error_everywhere(
    copy: Path, faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(file: h5py.File) -> None:
        first_array(file)[...] = np.nan

    with_weights(copy, spoil)
    (copy / "uncertainty.json").unlink()  # of the weights as they were
    image = str(next(Path(faces["target"]).rglob("*.png")))
    for command in (
        ["predict", image, "--faces", "whole", "--model", str(copy), "--json"],
        ["evaluate", str(copy), "--data", faces["target"], "--json"],
        ["export", str(copy), str(tmp_path / "served")],
        ["card", str(copy), "--data", faces["target"], "--out", str(tmp_path / "card.md")],
    ):
        assert emotiw(command) == ModelError.exit_code
        told = capsys.readouterr()
        assert "nan" in told.err and not told.out
    assert not (tmp_path / "served").exists()


def test_data_csv_with_more_rows_is_noticed_too(copy: Path) -> None:
    as_of_0_1(copy)
    with open(copy / "data.csv", "a", newline="") as file:
        row = dict.fromkeys(DATA_COLUMNS, "") | {"stage": "one", "data": "fer"}
        csv.DictWriter(file, DATA_COLUMNS, lineterminator="\n").writerow(row)
    with pytest.raises(EmotiwError, match="rows of fer for stage one"):
        Run.open(copy).rows()


def cut_short(run: Path) -> Path:
    """A run in its second stage, as a stranger would hand it over: without checksums."""
    info = as_of_0_1(run)
    (run / WEIGHTS_FILE).unlink()
    (run / "uncertainty.json").unlink(missing_ok=True)
    (run / "stages" / "02-two" / "done.json").unlink()
    (run / "run.json").write_text(json.dumps({**info, "finished": False, "stages": []}))
    return run


def goes_on(run: Path, faces: dict[str, str], recipe: Path) -> None:
    fit(load_recipe(str(recipe)), faces, run)


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the facts of a checkpoint, its name made to fit."""
    found = checkpoints.load(file)
    meta = json.loads(json.dumps(found.meta))
    change(meta["state"])
    file.unlink()
    checkpoints.save(file.parent, file.stem.rsplit("-", 1)[0], found.arrays, {key: meta[key] for key in meta if key != "rest"})


def test_a_run_that_goes_on_writes_and_removes_nothing_outside_of_it(
    finished: Path, faces: dict[str, str], recipe_file: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    mine = ("events.out.tfevents.1.host", "best-mine.npz", ".notes.npz", "e0001-s000000-0123456789abcdef.npz")
    (victim / "one").mkdir(parents=True)
    for place in (victim, victim / "one"):
        for name in mine:
            (place / name).write_text("precious")

    def of_another_stage(run: Path) -> None:
        marker = run / "stages" / "01-one" / "done.json"
        done = read_sealed(marker)
        done["rows"][0]["stage"] = f"../../{victim.name}"
        marker.write_text(json.dumps(done))

    def linked(name: str) -> Callable[[Path], None]:
        def change(run: Path) -> None:
            if (run / name).exists():
                shutil.rmtree(run / name)
            (run / name).symlink_to(victim)

        return change

    def linked_part(run: Path) -> None:
        (run / "stages" / "02-two" / ".e0002-s000001.npz").symlink_to(victim / "best-mine.npz")

    changes = (of_another_stage, linked("stages"), linked("stages/02-two"), linked("events"), linked("events/one"), linked_part)
    for number, change in enumerate(changes):
        run = cut_short(Path(shutil.copytree(finished, tmp_path / f"run{number}")))
        change(run)
        with pytest.raises(RunError, match=r"damaged"):
            goes_on(run, faces, recipe_file)
    there = sorted(str(path.relative_to(victim)) for path in victim.rglob("*") if path.is_file())
    assert there == sorted([*mine, *(f"one/{name}" for name in mine)])


def test_pruning_takes_nothing_but_checkpoints(copy: Path, faces: dict[str, str], recipe_file: Path) -> None:
    cut_short(copy)
    rewrite(next((copy / "stages" / "02-two").glob("e0002-*.npz")), lambda state: None)
    mine = [copy / "stages" / "02-two" / name for name in ("best-mine.npz", ".notes.npz")]
    for path in mine:
        path.write_text("precious")
    (copy / "stages" / "02-two" / ".e0001-s000000.npz").write_text("left of a kill")
    newest = next((copy / "stages" / "02-two").glob("e0002-*.npz"))
    newest.unlink()  # so that an epoch is trained, and its checkpoint written
    goes_on(copy, faces, recipe_file)
    assert all(path.read_text() == "precious" for path in mine)
    assert not (copy / "stages" / "02-two" / ".e0001-s000000.npz").exists()


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "epochs beyond all": lambda state: state.update(epoch=10**9),
    "epoch below 0": lambda state: state.update(epoch=-1),
    "epoch a text": lambda state: state.update(epoch="x"),
    "step below 0": lambda state: state.update(step=-5),
    "step beyond the epoch": lambda state: state.update(step=3),
    "rows of nothing": lambda state: state.update(rows=["x"]),
    "rows without epochs": lambda state: state.update(rows=[{}, {}]),
    "rows of another stage": lambda state: state["rows"][0].update(stage="../x"),
    "fewer rows": lambda state: state["rows"].pop(),
    "best of no epoch": lambda state: state["best"].update(epoch=99),
    "best elsewhere": lambda state: state["best"].update(file="../01-one/best-e0001-0123456789abcdef.npz"),
    "best without value": lambda state: state["best"].update(value=None),
    "best of nothing": lambda state: state.update(best={}),
    "start elsewhere": lambda state: state.update(start="../x.npz"),
    "callbacks of nothing": lambda state: state.update(callbacks=[1]),
    "callbacks with code": lambda state: state.update(callbacks=[{"": "Mine", "value": {"pickle": "gASVJA=="}}]),
    "a rate that is none": lambda state: state.update(rate_at_zero=None),
    "fewer hashes": lambda state: state["before"].popitem(),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_the_state_of_a_checkpoint_is_checked(
    copy: Path, change: Callable[[dict[str, Any]], Any], faces: dict[str, str], recipe_file: Path
) -> None:
    cut_short(copy)
    rewrite(next((copy / "stages" / "02-two").glob("e0002-*.npz")), change)
    with pytest.raises(RunError, match="is damaged: it says"):
        goes_on(copy, faces, recipe_file)


MARKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no name": lambda done: done.pop("name"),
    "no epochs": lambda done: done.pop("epochs"),
    "epoch a text": lambda done: done["rows"][0].update(epoch="x"),
    "loss a text": lambda done: done["rows"][0].update(loss="y"),
    "rows of nothing": lambda done: done.update(rows=["x"]),
    "best elsewhere": lambda done: done.update(best_file="../02-two/x.npz"),
    "callbacks of nothing": lambda done: done.update(callbacks=[{"": 3}]),
}


@pytest.mark.parametrize("change", MARKERS.values(), ids=MARKERS)
def test_the_marker_of_a_stage_is_checked(
    copy: Path, change: Callable[[dict[str, Any]], Any], faces: dict[str, str], recipe_file: Path
) -> None:
    cut_short(copy)
    marker = copy / "stages" / "01-one" / "done.json"
    done = read_sealed(marker)
    change(done)
    marker.write_text(json.dumps(done))
    with pytest.raises(RunError, match=r"done\.json is damaged"):
        goes_on(copy, faces, recipe_file)


def test_a_number_that_no_toml_has_is_damage(copy: Path, faces: dict[str, str], recipe_file: Path) -> None:
    cut_short(copy)
    info = json.loads((copy / "run.json").read_text())
    (copy / "recipe.toml").write_text((copy / "recipe.toml").read_text().replace("epochs = 3", f"epochs = 0x{'f' * 6000}"))
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match="a whole number of 24,000 bits"):
        goes_on(copy, faces, recipe_file)


def test_what_becomes_of_a_face_must_be_what_the_network_takes(copy: Path) -> None:
    info = as_of_0_1(copy)
    for changed in (
        {"preprocessing": {**info["preprocessing"], "crop": 35}},
        {"preprocessing": {**info["preprocessing"], "input_channels": 1}},
        {"model": {**info["model"], "input_shape": [67, 35, 3]}},
    ):
        (copy / "run.json").write_text(json.dumps({**info, **changed}))
        with pytest.raises(RunError, match=r"preprocessing\.crop = .* but model\.input_shape"):
            Run.open(copy)
    for name in (None, {"a": 1}, 2**62, 1e29):
        (copy / "run.json").write_text(json.dumps({**info, "model": {**info["model"], "name": name}}))
        with pytest.raises(RunError, match=r"model\.name"):
            Run.open(copy)
    (copy / "run.json").write_text(json.dumps({**info, "crop": {"reading": "Z", "stretch": False}}))
    with pytest.raises(RunError, match="crop = .*expected a table of reading, one of A, B, C, D"):
        Run.open(copy)
    (copy / "run.json").write_text(json.dumps({**info, "model": {}}))
    with pytest.raises(RunError, match=r"model\.name"):
        Run.open(copy)


def test_a_report_does_not_wait_for_a_pipe_nor_follow_a_link(copy: Path, tmp_path: Path) -> None:
    as_of_0_1(copy)
    (copy / "history.csv").unlink()
    (tmp_path / "secret.csv").write_text("secret")
    for place in (lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero"),
                  lambda path: path.symlink_to(tmp_path / "secret.csv")):  # fmt: skip
        place(copy / "history.csv")
        assert "No learning curves" in run_view(Run.open(copy))
        (copy / "history.csv").unlink()


def test_losses_of_any_size_and_sign_are_drawn(copy: Path, tmp_path: Path) -> None:
    as_of_0_1(copy)
    head = ",".join(COLUMNS)
    for losses in (("-1", "-2"), ("1e-323", "0"), ("1e308", "1"), ("-1e308", "1e308"), ("", "")):
        lines = [f"one,{number},0.1,{loss},0.5,{loss},0.5" for number, loss in enumerate(losses, 1)]
        (copy / "history.csv").write_text("\n".join([head, *lines]) + "\n")
        assert "polyline" in run_view(Run.open(copy))
        learning_curves(copy / "history.csv", tmp_path / "curves.png")


def test_nothing_of_run_json_is_markup_in_a_card(copy: Path, faces: dict[str, str], tmp_path: Path) -> None:
    info = as_of_0_1(copy)
    nasty = "</code><img src=x><script>alert(1)</script>\x1b]0;P\x07`"
    info |= {
        "precision": nasty,
        "sources": dict.fromkeys(info["sources"], nasty),
        "versions": {"emotiw_keras": nasty, nasty: "1"},
    }
    for found in info["data"].values():
        found |= {"layout": nasty, "fingerprint": nasty}
    (copy / "run.json").write_text(json.dumps(info))
    assert emotiw(["card", str(copy), "--data", faces["target"], "--out", str(tmp_path / "card.md"), "-q"]) == 0
    card = (tmp_path / "card.md").read_text()
    outside = re.sub(r"(`{3,})\n.*?\n\1", "", card, flags=re.DOTALL)
    assert "\x1b" not in card and "\x07" not in card
    assert not re.search(r"(?<!\\)<(?!!--)", outside.split("---", 2)[2])
