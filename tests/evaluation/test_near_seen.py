"""The second leak-free figure: without what shows the same photograph as an image that the run was given."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.cli import main as cli
from emotiw_keras.data.generated import LABELS
from emotiw_keras.data.load import load_faces
from emotiw_keras.evaluation.cross_validation import _near
from emotiw_keras.evaluation.ensemble import ensemble
from emotiw_keras.evaluation.evaluate import assess, evaluate
from emotiw_keras.evaluation.near_seen import NearSeen
from emotiw_keras.evaluation.provenance import evaluate_command
from emotiw_keras.reports.evaluation_report import write_report
from emotiw_keras.runs import DATA_COLUMNS, Run
from tests.cuts import cut, marked, photos, write


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train: seven photographs; test: seven others, two cuts of the first two, and the third as it is."""
    folder, whole = tmp_path_factory.mktemp("near") / "faces", photos(14)
    write(folder, {f"train/{LABELS[i]}/{i}.png": cut(whole[i]) for i in range(7)})
    write(folder, {f"test/{LABELS[i]}/{i}.png": cut(whole[7 + i]) for i in range(7)})
    again = {"a": cut(whole[0], 15, 10), "b": marked(cut(whole[1])), "c": cut(whole[2])}
    write(folder, {f"test/happy/{name}.png": image for name, image in again.items()})
    return folder


@pytest.fixture(scope="module")
def run(source: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "near"
    shutil.copytree(run_folder, folder)
    info = json.loads((folder / "run.json").read_text()) | {"stages": [{"name": "only"}], "data": {}}
    (folder / "run.json").write_text(json.dumps(info))
    faces = load_faces(source, labels=LABELS, val_share=0)
    with open(folder / "data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, DATA_COLUMNS)
        writer.writeheader()
        for i in faces.indices("train"):
            row = {"stage": "only", "data": "data", "path": faces.paths[i], "pixel_hash": faces.pixel_hash[i]}
            writer.writerow({**row, "label": "", "subject": "", "split": "train", "status": "train"})
    return Run.open(folder)


def test_near_duplicates_of_what_was_given_are_left_out_of_a_figure_of_their_own(run: Run, source: Path) -> None:
    result = evaluate(run, source)
    assert (result["n"], result["leak_free"]["n"], result["leak_free_near"]["n"]) == (10, 9, 7)
    assert "leak_free_near" not in result["leak_free_near"]
    assert evaluate(run, source, near_duplicates=0)["leak_free_near"] is None


def test_the_report_shows_the_pairs(run: Run, source: Path, tmp_path: Path) -> None:
    paths = write_report(tmp_path, assess(run, source))
    assert "near_duplicates.csv" in [path.name for path in paths]
    rows = list(csv.DictReader((tmp_path / "near_duplicates.csv").open()))
    assert {(row["path"], row["given"], row["given_label"]) for row in rows} == {
        ("test/happy/a.png", "train/angry/0.png", "angry"), ("test/happy/b.png", "train/disgust/1.png", "disgust"),
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "Near duplicates of what the run was given" in page and "near-free" in page
    assert page.count("Face that the run was given") == 2
    assert json.loads((tmp_path / "scores.json").read_text())["leak_free_near"]["n"] == 7


def test_the_command_that_gives_the_figures_again_names_a_threshold_of_its_own(run: Run, source: Path) -> None:
    assert "--near-duplicates" not in evaluate_command(assess(run, source))
    assert evaluate_command(assess(run, source, near_duplicates=0.98)).endswith("--near-duplicates 0.98")


def test_an_ensemble_leaves_out_what_any_member_was_given_nearly(run: Run, source: Path) -> None:
    both = ensemble([assess(run, source), assess(run, source)])
    assert both.result["leak_free_near"]["n"] == 7


def test_data_without_what_the_run_was_given_have_no_such_figure(run: Run, source: Path, tmp_path: Path) -> None:
    from emotiw_keras.reports.sections import cautions

    shutil.copytree(source / "test", tmp_path / "test")
    alone = assess(run, tmp_path)
    assert alone.result["leak_free_near"]["n"] == 9, "only the equal one is known here"
    assert any("among 1 of the 7 different images that the run was given" in line for line in cautions(alone))
    (tmp_path / "test" / "happy" / "c.png").unlink()
    nothing = assess(run, tmp_path)
    assert nothing.near is None and nothing.result["leak_free_near"] is None
    assert any(line.startswith("No near-free figures") for line in cautions(nothing))


def test_twins_without_a_majority_of_votes_count_as_what_was_given(
    run: Run, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(path.relative_to(source)) for path in sorted(source.rglob("*.png"))]
    rows = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for name in names:
        votes = "5,5,0,0,0,0,0,0,0,0" if name == "train/angry/0.png" else "0,10,0,0,0,0,0,0,0,0"
        rows.append(f"{'Training' if name.startswith('train') else 'PrivateTest'},,{votes}")
    (tmp_path / "votes.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "rows.csv").write_text("\n".join(["file,row", *(f"{name},{i}" for i, name in enumerate(names))]) + "\n")
    by_votes = {"votes": str(tmp_path / "votes.csv"), "votes_rows": str(tmp_path / "rows.csv")}
    voted = assess(run, source, **by_votes)
    parts = (voted.result, voted.result["leak_free"], voted.result["leak_free_near"])
    assert [part["n"] for part in parts] == [10, 9, 7] and voted.near is not None and voted.near.caution is None
    write_report(tmp_path, voted)
    given = {row["given"]: row["given_label"] for row in csv.DictReader((tmp_path / "near_duplicates.csv").open())}
    assert given == {"train/angry/0.png": "no majority", "train/disgust/1.png": "happy"}
    assert "no majority" in (tmp_path / "report.html").read_text()
    limited = assess(run, source, limit=5, **by_votes)
    assert limited.result["n"] == 5 and limited.near is not None, "all are read, and looked through"
    assert cli.run(["evaluate", "--help"]) == 0
    assert "without --votes only N a split are read of data with splits" in " ".join(capsys.readouterr().out.split())


def test_a_limit_that_leaves_out_what_was_given_gives_no_such_figure(run: Run, source: Path) -> None:
    from emotiw_keras.reports.sections import cautions

    limited = assess(run, source, limit=5)
    assert limited.near is None and limited.result["n"] == 5 and limited.result["leak_free_near"] is None
    assert any("near duplicates are not looked for with --limit" in line for line in cautions(limited))
    assert "At most 5 images of the split were scored (--limit)." in cautions(limited)  # which may be all there are


def test_folds_of_different_sizes_lack_nothing_where_each_has_all_it_was_given() -> None:
    def of(there: int, given: int) -> NearSeen:
        return NearSeen(np.zeros(2, bool), np.zeros((0, 2), np.int64), np.zeros(0, np.float32), there, given)

    whole = _near([of(63, 63), of(64, 64)])
    assert whole is not None and whole.caution is None
    part = _near([of(63, 63), of(50, 64), of(60, 65)])
    assert part is not None and "among 50 of the 64 different" in str(part.caution)


def test_an_ensemble_says_of_which_run_the_data_lack_most(run: Run, source: Path, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    with open(tmp_path / "run" / "data.csv", "a") as file:
        file.write(f"only,data,elsewhere.png,{'0' * 64},,,train,train\n")
    both = ensemble([assess(run, source), assess(Run.open(tmp_path / "run"), source)])
    assert both.near is not None and "among 7 of the 8 different" in str(both.near.caution)
