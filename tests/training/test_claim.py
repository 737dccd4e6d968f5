"""A run folder is written only when all has been found good, and by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emotiw_keras.cli.main import run as emotiw
from emotiw_keras.data import load_faces
from emotiw_keras.data.generated import write_images
from emotiw_keras.errors import EmotiwError, UsageError
from emotiw_keras.locking import locked, sweep
from emotiw_keras.runs import Run
from emotiw_keras.training.claim import Claim
from emotiw_keras.training.fit import Outcome, fit
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.run_writer import check_out, move_aside

from .conftest import RECIPE


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "tiny.toml"
    file.write_text(RECIPE)
    return str(file)


MISTAKES = (
    "one.rules=[['convv*', 0.0], ['*', 1.0]]",
    "two.rules=[['fc*', 1.0]]",
    "two.initialise=['fc9']",
    "model.input_size=20",
    "model.weights='imagenet'",
)


def test_a_start_that_fails_leaves_the_folder_free_for_the_corrected_one(
    recipe: str, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "empty"))
    for mistake in MISTAKES:
        with pytest.raises(EmotiwError):
            fit(load_recipe(recipe, [mistake]), faces, tmp_path / "run")
        assert not (tmp_path / "run").exists(), mistake
    assert fit(load_recipe(recipe, ["one.epochs=1", "two.epochs=1"]), faces, tmp_path / "run").run is not None
    before = (tmp_path / "run" / "run.json").read_bytes()
    for mistake in MISTAKES[:2]:
        with pytest.raises(EmotiwError):
            fit(load_recipe(recipe, [mistake]), faces, tmp_path / "run", restart=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before and not (tmp_path / "run.old-1").exists()


@pytest.mark.parametrize("out", ["photos", "photos/runs/mine", "all", "link/mine"])
@pytest.mark.parametrize("more", [[], ["--restart"], ["--dry-run"], ["--restart", "--folds=3"]])
def test_a_run_and_its_data_do_not_lie_one_in_the_other(
    out: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "all" / "photos" / "happy" / "1.png"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"")
    Path("photos").symlink_to("all/photos")
    Path("link").symlink_to("photos")
    restarts_over_data = "--restart" in more and "mine" not in out
    assert emotiw(["fit", "finetune", "--data", "data=photos", "--out", out, *more]) == (8 if restarts_over_data else 2)
    told = "is not a run folder (it holds" if restarts_over_data else f"{out} and the data data=photos lie one in the other"
    assert told in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [photo]


def test_drawn_data_lie_nowhere_and_a_faceset_where_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_out(Path("."), {"small": "generated:small", "gone": "nowhere"}, restart=False)
    write_images("small", tmp_path / "faces", limit=7)
    with pytest.raises(UsageError, match="faces/run and the data a=.*faces lie one in the other"):
        check_out(Path("faces/run"), {"a": load_faces("faces")}, restart=False)


def test_restart_renames_runs_alone_and_by_their_whole_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for name, files in {
        "damaged": ("run.json", "mine.txt"), "folds": ("folds.json",), "begun": ("recipe.toml", ".DS_Store"),
        "cut": ("fold-1",), "lost": ("recipe.toml", "data.csv", "history.csv", "curves.png"),
    }.items():  # fmt: skip
        for file in files:
            (runs / name / file).mkdir(parents=True)
        assert move_aside(runs / name) == runs / f"{name}.old-1"
    (runs / "one" / "run.json").mkdir(parents=True)
    monkeypatch.chdir(runs / "folds.old-1")
    assert move_aside(Path("../one/run.json/..")) == runs / "one.old-1"
    for out in (".", "..", str(runs / "folds.old-1")):
        (Path(out) / "run.json").touch()
        assert emotiw(["fit", "finetune", "--data", "data=nowhere", "--out", out, "--restart"]) == 8
        assert f"--restart would rename {out}, in which this command was started" in capsys.readouterr().err
    assert runs.is_dir()


def test_the_advice_for_missing_weights_is_in_the_words_of_the_command(
    faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "empty"))
    command = ["fit", "finetune", "--data", f"data={faces['target']}", "--out", str(tmp_path / "run")]
    assert emotiw([*command, "--model", "alexnet", "--weights", "imagenet"]) == 5
    told = capsys.readouterr().err
    assert "--weights none" in told and "weights=None" not in told
    assert not (tmp_path / "run").exists()


def test_two_trainings_of_one_folder_go_one_after_the_other(recipe: str, faces: dict[str, str], tmp_path: Path) -> None:
    asked = load_recipe(recipe, ["one.epochs=1", "two.epochs=1"])
    said: list[list[str]] = [[], []]
    outcomes: list[Outcome | BaseException] = []

    def train(number: int) -> None:
        try:
            outcomes.append(fit(asked, faces, tmp_path / "run", say=said[number].append))
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(2)]
    with locked(tmp_path / "run", lambda: None):
        for thread in threads:
            thread.start()
        until = time.monotonic() + 120
        while not all(any("waiting for it" in line for line in lines) for lines in said) and time.monotonic() < until:
            time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert all(isinstance(outcome, Outcome) for outcome in outcomes), outcomes
    assert [any("is finished already" in line for line in lines) for lines in said].count(True) == 1
    assert Run.open(tmp_path / "run").info["finished"]


def test_a_killed_holder_lets_go_and_its_unfinished_files_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path; from emotiw_keras.locking import locked\n"
        "with locked(Path(sys.argv[1]), print):\n"
        "    Path(sys.argv[1], '.4711.data.csv').write_text('half')\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    waited: list[bool] = []
    killer = threading.Timer(0.5, holder.kill)
    killer.start()
    (folder / ".hidden").write_text("mine")
    with locked(folder, lambda: waited.append(True)):
        sweep(folder)
    holder.communicate()
    assert waited == [True]
    assert sorted(os.listdir(folder)) == [".hidden"]


def test_who_waited_for_a_folder_that_was_renamed_holds_the_new_one(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with locked(tmp_path / "run", lambda: order.append("waits")):
            order.append("holds")
            (tmp_path / "run" / "new").touch()

    with locked(tmp_path / "run", lambda: None):
        waiter = threading.Thread(target=wait)
        waiter.start()
        while not order:
            time.sleep(0.01)
        (tmp_path / "run").rename(tmp_path / "run.old-1")
    waiter.join()
    assert order == ["waits", "holds"]
    assert (tmp_path / "run" / "new").exists() and not (tmp_path / "run.old-1" / "new").exists()


def test_what_a_run_that_goes_on_keeps_and_cannot_keep_is_said(tmp_path: Path) -> None:
    """Threads and precision stay what they were; other versions of the packages are a warning."""
    recipe = 'name = "x"\n'
    old = {
        "format": 1,
        "data": {},
        "model": {"name": "own"},
        "threads": 1,
        "precision": "float32",
        "versions": {"keras": "3.1"},
    }
    old["finished"] = False
    said: list[str] = []
    with Claim(tmp_path / "run", recipe, dict(old), said.append) as claim:
        assert not claim.resumes
        claim.take([], False)
    assert said == []
    now = {**old, "threads": 2, "precision": "mixed_bfloat16", "versions": {"keras": "3.2"}}
    with Claim(tmp_path / "run", recipe, now, said.append) as claim:
        assert claim.resumes
        assert claim.take([], False)["threads"] == 1
    assert len(said) == 3
    assert "threads = 1, as the run began, not 2" in said[0] and "precision = float32" in said[1] and "keras 3.1" in said[2]
