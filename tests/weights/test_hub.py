"""Runs go up to the hub and come down again, against a stand-in that speaks its HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from emotiw_keras.errors import ModelError, RunError, UsageError
from emotiw_keras.runs import DATA_COLUMNS, Run
from emotiw_keras.serving.push import push
from emotiw_keras.training.recipe import load_recipe, parse_recipe
from emotiw_keras.training.start import run_of
from emotiw_keras.weights import hub as on_hub
from emotiw_keras.weights.shipped import DEFAULT, FOLDER
from tests.weights import hub_server
from tests.weights.hub_server import TOKEN, Hub, standing_in

constants = pytest.importorskip("huggingface_hub.constants", reason="needs pip install 'emotiw-keras[hub]'")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with an empty cache and a token."""
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EMOTIW_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with standing_in() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_run_goes_up_without_names_and_opens_by_its_address(hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    address = push(Run.open(DEFAULT), "anna/faces", say=said.append)
    commit, files = hub.repositories["anna/faces"].commits[-1]
    assert address == f"hf://anna/faces@{commit}" and hub.repositories["anna/faces"].private
    assert sorted(set(files) - {".gitattributes"}) == sorted(set(on_hub.FILES) & {*files})
    assert "model.weights.h5" in said[0] and "run.json" in said[0]

    ours, theirs = Run.open(DEFAULT), Run.from_hub("anna/faces")
    assert theirs.labels == ours.labels and theirs.fingerprint == ours.fingerprint
    theirs.check_weights()
    assert theirs.seen() == ours.seen()
    assert {row["path"] for row in theirs.each_row()} == {""}
    assert theirs.path.is_relative_to(tmp_path / "cache")
    other = run_of(address)
    assert other is not None and other.path == theirs.path


@pytest.fixture
def own(run_folder: Path, tmp_path: Path) -> Run:
    """A small run of one's own, in whose run.json and recipe stand places of this machine and names of persons."""
    folder = tmp_path / "own"
    shutil.copytree(run_folder, folder)
    (folder / "README.md").write_text("# mine\n")
    (folder / "data.csv").write_text(",".join(DATA_COLUMNS) + "\n")
    recipe = load_recipe(DEFAULT).to_table()
    recipe["model"]["weights"] = "/home/anna/base"
    recipe["preprocessing"]["mean_image"] = "C:\\patients\\mean.npy"
    recipe["source"]["fer"] = {
        "path": "/home/anna/patients",
        "subject_pattern": "(annamueller|bo)",
        "votes": "/home/anna/v.csv",
    }
    recipe["stage"][0]["teachers"] = ["hf://anna/teacher", "/home/anna/teacher"]
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    info = json.loads((folder / "run.json").read_text())
    info |= {"sources": {"fer": "/home/anna/patients"}, "teachers": {"/home/anna/teacher": "0" * 64}}
    info["data"] = {"fer": {"source": "/home/anna/patients"}}  # as emotiw 0.1 had it
    (folder / "run.json").write_text(json.dumps(info))
    return Run.open(folder)


def test_no_place_of_this_machine_and_no_pattern_of_persons_goes_up(hub: Hub, own: Run) -> None:
    push(own, "anna/faces")
    _, files = hub.repositories["anna/faces"].commits[-1]
    for name, content in files.items():
        for word in (b"/home/anna", b"annamueller", b"patients"):
            assert word not in content, name
    theirs = Run.from_hub("anna/faces")
    theirs.check_weights()
    assert theirs.info["teachers"] == {"teacher": "0" * 64} and theirs.labels == own.labels
    recipe = parse_recipe(theirs.content("recipe.toml").decode(), "recipe")
    assert recipe.model.weights == "base" and recipe.preprocessing.mean_image == "mean.npy"
    assert recipe.source["fer"].votes == "v.csv" and not recipe.source["fer"].subject_pattern
    assert recipe.stages[0].teachers == ("hf://anna/teacher", "teacher")


@pytest.mark.parametrize("there", [True, False])
def test_a_card_that_names_a_place_of_this_machine_is_not_pushed(own: Run, tmp_path: Path, there: bool) -> None:
    place = tmp_path / "patients" if there else "/home/anna/patients"
    (tmp_path / "card.md").write_text(f"# mine\n\nemotiw evaluate mine --data {place} --split test\n")
    with pytest.raises(UsageError, match=r"card.md, line 3, names .*patients, a place of this machine"):
        push(own, "anna/faces", card=tmp_path / "card.md")


def test_a_commit_is_asked_for_once_and_a_branch_offline_is_what_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    address = push(Run.open(DEFAULT), "anna/faces")
    first = on_hub.fetch_run("hf://anna/faces")
    hub.asked.clear()
    assert on_hub.fetch_run(address) == first and hub.asked == []
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    assert on_hub.fetch_run("hf://anna/faces") == first and hub.asked == []
    with pytest.raises(ModelError, match="hf://anna/other is not in the cache, or damaged there, and EMOTIW_OFFLINE forbids"):
        on_hub.fetch_run("hf://anna/other")
    with pytest.raises(ModelError, match="EMOTIW_OFFLINE is set"):
        push(Run.open(DEFAULT), "anna/faces")


def test_code_and_other_files_stay_on_the_hub(hub: Hub) -> None:
    push(Run.open(DEFAULT), "anna/faces")
    hub.repositories["anna/faces"].add({"model.py": b"import os", "../out.txt": b"x", "weights.pkl": b"\x80"})
    folder = on_hub.fetch_run("hf://anna/faces")
    assert {path.name for path in folder.iterdir() if path.is_file()} <= set(on_hub.FILES)


def test_a_damaged_or_changed_file_is_no_run(hub: Hub) -> None:
    push(Run.open(DEFAULT), "anna/faces")
    hub.repositories["anna/faces"].add({"recipe.toml": b"name = 'other'\n"})
    with pytest.raises(RunError, match=r"recipe.toml has SHA-256"):
        Run.from_hub("anna/faces")


def damaged(content: bytes) -> bytes:
    """The same number of bytes, one of them another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("name", ["model.weights.h5", "recipe.toml", "run.json"])
def test_a_run_that_arrives_damaged_is_fetched_again(hub: Hub, own: Run, name: str) -> None:
    address = push(own, "anna/faces")
    files = hub.repositories["anna/faces"].commits[-1][1]
    good, files[name] = files[name], damaged(files[name])
    hub.asked.clear()
    with pytest.raises(RunError, match=f"{address} is damaged: {name} .*it was fetched twice"):
        Run.open(address)
    assert len([line for line in hub.asked if line.startswith("GET") and line.endswith(name)]) == 2
    files[name] = good
    Run.open(address).check_weights()


def test_a_run_that_is_damaged_in_the_cache_is_fetched_again(hub: Hub, own: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    address = push(own, "anna/faces")
    weights = Run.open(address).path / "model.weights.h5"
    weights.write_bytes(damaged(weights.read_bytes()))
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    with pytest.raises(ModelError, match="is not in the cache, or damaged there, and EMOTIW_OFFLINE forbids"):
        Run.open(address)
    monkeypatch.delenv("EMOTIW_OFFLINE")
    Run.open(address).check_weights()


def test_a_download_that_is_cut_leaves_no_run_and_goes_on(hub: Hub) -> None:
    push(Run.open(DEFAULT), "anna/faces")
    hub.break_after = 1000
    with pytest.raises(ModelError, match="no answer from the hub"):
        on_hub.fetch_run("hf://anna/faces")
    hub.break_after = 0
    assert Run.from_hub("anna/faces").labels == Run.open(DEFAULT).labels


def test_what_the_hub_refuses_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="hf://anna/none: the hub has no such model, or it is private"):
        on_hub.fetch_run("hf://anna/none")
    push(Run.open(DEFAULT), "anna/faces")
    with pytest.raises(ModelError, match="no such revision"):
        on_hub.fetch_run("hf://anna/faces@v9")
    hub.repositories["anna/empty"] = type(hub.repositories["anna/faces"])(False)
    hub.repositories["anna/empty"].add({"README.md": b"# nothing"})
    with pytest.raises(ModelError, match=r"is no run of emotiw: it has no run.json"):
        on_hub.fetch_run("hf://anna/empty")
    hub.sizes["model.weights.h5"] = 10**12
    with pytest.raises(ModelError, match=r"more than the 2,147,483,648 that a run may have"):
        on_hub.fetch_run("hf://anna/faces")
    hub.repositories["anna/faces"].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelError, match="the hub has no such model, or it is private"):
        on_hub.fetch_run("hf://anna/faces")
    with pytest.raises(ModelError, match="the hub answered 401; set HF_TOKEN"):
        push(Run.open(DEFAULT), "anna/mine")


def test_no_hub_at_all_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="hf://anna/faces: no answer from the hub"):
        on_hub.fetch_run("hf://anna/faces")


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"id": 5, "sha": "zz", "siblings": [{}]}', b'{"sha": 5}'])
def test_an_answer_that_is_not_a_hubs_is_one_line(hub: Hub, own: Run, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(hub_server._Handler, "do_GET", lambda self: self._send(200, content))
    monkeypatch.setattr(hub_server._Handler, "do_POST", lambda self: self._send(200, content))
    for asked in (lambda: on_hub.fetch_run("hf://anna/faces"), lambda: push(own, "anna/faces")):
        with pytest.raises(ModelError, match=r"hf://anna/faces: the answer is not a hub's; is HF_ENDPOINT right\?"):
            asked()


def test_a_hub_without_xet_is_told_as_one(hub: Hub, own: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(ModelError, match="the hub answered 404; a hub without Xet is asked with HF_HUB_DISABLE_XET=1"):
        push(own, "anna/faces")


@pytest.mark.parametrize(
    "address",
    [
        "hf://anna", "hf://../x/y", "hf://anna/..", "hf://anna/a@../../b", "hf://anna/a b", "hf:///a", "hf://anna/a--b",
        "hf://anna/a-", "hf://anna./a", "hf://anna/a.git", "hf://anna/a--b@v1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected hf://user/name"):
        on_hub.fetch_run(address)


def test_a_model_without_a_card_is_not_pushed(tmp_path: Path) -> None:
    for path in (FOLDER / DEFAULT).iterdir():
        if path.name != "README.md":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        UsageError, match=r"README.md is not there: a model on the hub needs its card; write one with `emotiw card"
    ):
        push(Run.open(tmp_path), "anna/faces")
