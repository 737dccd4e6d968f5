"""Runs go up to the hub and come down again, against a stand-in that speaks its HTTP."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from emotiw_keras.errors import ModelError, RunError, UsageError
from emotiw_keras.runs import Run
from emotiw_keras.serving.push import push
from emotiw_keras.training.recipe import parse_recipe
from emotiw_keras.training.start import run_of
from emotiw_keras.weights import hub as on_hub
from emotiw_keras.weights.shipped import DEFAULT, FOLDER
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


def private_run(folder: Path) -> Run:
    """The model that ships as one's own, in whose run.json and recipe stand places of this machine and names of persons."""
    shutil.copytree(FOLDER / DEFAULT, folder)
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    recipe["model"]["weights"] = "/home/anna/base"
    recipe["preprocessing"]["mean_image"] = "C:\\patients\\mean.npy"
    recipe["source"]["fer"] |= {"path": "/home/anna/patients", "votes": "/home/anna/v.csv"}
    recipe["source"]["fer"]["subject_pattern"] = "(annamueller|bo)"
    recipe["stage"][0]["teachers"] = ["hf://anna/teacher", "/home/anna/teacher"]
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    info = json.loads((folder / "run.json").read_text())
    del info["checksum"]
    info |= {"files": {}, "sources": {"fer": "/home/anna/patients"}, "teachers": {"/home/anna/teacher": "0" * 64}}
    info["data"]["fer"]["source"] = "/home/anna/patients"  # as emotiw 0.1 had it
    (folder / "run.json").write_text(json.dumps(info))
    return Run.open(folder)


def test_no_place_of_this_machine_and_no_pattern_of_persons_goes_up(hub: Hub, tmp_path: Path) -> None:
    run = private_run(tmp_path / "own")
    push(run, "anna/faces")
    _, files = hub.repositories["anna/faces"].commits[-1]
    for name, content in files.items():
        for word in (b"/home/anna", b"annamueller", b"patients"):
            assert word not in content, name
    theirs = Run.from_hub("anna/faces")
    theirs.check_weights()
    assert theirs.info["teachers"] == {"teacher": "0" * 64} and theirs.labels == run.labels
    recipe = parse_recipe(theirs.content("recipe.toml").decode(), "recipe")
    assert recipe.model.weights == "base" and recipe.preprocessing.mean_image == "mean.npy"
    assert recipe.source["fer"].votes == "v.csv" and not recipe.source["fer"].subject_pattern
    assert recipe.stages[0].teachers == ("hf://anna/teacher", "teacher")


@pytest.mark.parametrize("there", [True, False])
def test_a_card_that_names_a_place_of_this_machine_is_not_pushed(tmp_path: Path, there: bool) -> None:
    run, place = private_run(tmp_path / "own"), tmp_path / "patients" if there else "/home/anna/patients"
    (tmp_path / "card.md").write_text(f"# mine\n\nemotiw evaluate mine --data {place} --split test\n")
    with pytest.raises(UsageError, match=r"card.md, line 3, names .*patients, a place of this machine"):
        push(run, "anna/faces", card=tmp_path / "card.md")


def test_a_commit_is_asked_for_once_and_a_branch_offline_is_what_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    address = push(Run.open(DEFAULT), "anna/faces")
    first = on_hub.fetch_run("hf://anna/faces")
    hub.asked.clear()
    assert on_hub.fetch_run(address) == first and hub.asked == []
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    assert on_hub.fetch_run("hf://anna/faces") == first and hub.asked == []
    with pytest.raises(ModelError, match="hf://anna/other is not in the cache, and EMOTIW_OFFLINE forbids"):
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


@pytest.mark.parametrize(
    "address", ["hf://anna", "hf://../x/y", "hf://anna/..", "hf://anna/a@../../b", "hf://anna/a b", "hf:///a"]
)
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
