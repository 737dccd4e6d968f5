"""FER+'s votes: joined to the images of FER-2013 in any layout, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.data.load import load_faces
from emotiw_keras.data.votes import agreed, entropy, labels_of, share_votes
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.labels import VOTE_MODES
from tests.data.look_alikes import BASIC, fer_lines, noise, write

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
PARTS = ("Training", "PublicTest", "PrivateTest")


def votes_file(folder: Path, votes: list[str], usage: tuple[str, ...] = PARTS) -> Path:
    rows = [f"{usage[i % 3]},fer{i:07d}.png,{vote}" for i, vote in enumerate(votes)]
    file = folder / "fer2013new.csv"
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    return file


def some_votes(count: int) -> list[str]:
    """Row i has i % 9 votes for fear and the rest for happiness."""
    return [f"0,{10 - i % 9},0,0,0,0,{i % 9},0,0,0" for i in range(count)]


@pytest.fixture
def csv_set(tmp_path: Path) -> Path:
    file = tmp_path / "set" / "fer2013.csv"
    file.parent.mkdir()
    file.write_text("\n".join(fer_lines(21)))
    return file


@pytest.fixture
def folder_set(tmp_path: Path) -> tuple[Path, Path]:
    """The same images in Kaggle's split folders, with names of their own; and the table of their rows."""
    rows = ["file,row"]
    for i in range(21):
        name = f"{PARTS[i % 3]}/{BASIC[i % 7]}/{PARTS[i % 3]}_{9000 - 7 * i}.png"
        write(tmp_path / "fer" / name, noise(i))
        rows.append(f"{name},{i}")
    (tmp_path / "rows.csv").write_text("\n".join(rows[:-1]) + "\n")  # the last image has no row
    return tmp_path / "fer", tmp_path / "rows.csv"


def test_rows_of_fer2013_and_files_in_folders_get_the_same_votes(
    tmp_path: Path, csv_set: Path, folder_set: tuple[Path, Path]
) -> None:
    votes = votes_file(tmp_path, some_votes(21))
    by_order = load_faces(csv_set, votes=votes)
    folder, rows = folder_set
    by_table = load_faces(folder, votes=votes, votes_rows=rows)
    assert by_order.labels == BASIC  # the labels stay FER's own
    assert by_order.votes is not None and by_table.votes is not None
    found = dict(zip(by_order.pixel_hash, by_order.votes.tolist(), strict=True))
    assert found[by_order.pixel_hash[5]] == [0, 5, 0, 0, 0, 0, 5, 0, 0, 0]
    there = by_table.votes.any(axis=1)
    assert there.sum() == 20
    kept = [(each, votes) for each, votes, has in zip(by_table.pixel_hash, by_table.votes.tolist(), there, strict=True) if has]
    assert all(found[each] == votes for each, votes in kept)
    assert any("20 of 21 images" in line for line in by_table.report)


def test_votes_follow_limits_and_classes_that_are_left_out(tmp_path: Path, csv_set: Path) -> None:
    votes = votes_file(tmp_path, some_votes(21))
    whole = load_faces(csv_set, votes=votes)
    assert whole.votes is not None
    known = dict(zip(whole.pixel_hash, whole.votes.tolist(), strict=True))
    part = load_faces(csv_set, votes=votes, leave_out=("fear",), limit=4)
    assert part.votes is not None and len(part.votes) == 12
    assert [known[each] for each in part.pixel_hash] == part.votes.tolist()
    assert whole.facts() != load_faces(csv_set).facts()  # a run is not gone on with under other votes


def test_a_split_that_differs_is_an_error(tmp_path: Path, csv_set: Path, folder_set: tuple[Path, Path]) -> None:
    turned = votes_file(tmp_path, some_votes(21), (PARTS[1], PARTS[0], PARTS[2]))
    with pytest.raises(DataError, match=r"14 images of .* stand in another split .* row 0 there is val"):
        load_faces(csv_set, votes=turned)
    with pytest.raises(DataError, match="stand in another split"):
        load_faces(folder_set[0], votes=turned, votes_rows=folder_set[1])


def test_nothing_is_joined_by_a_guess(tmp_path: Path, csv_set: Path, folder_set: tuple[Path, Path]) -> None:
    votes = votes_file(tmp_path, some_votes(20))
    with pytest.raises(DataError, match=r"has 21 rows, .* 20; expected the same rows"):
        load_faces(csv_set, votes=votes)
    with pytest.raises(
        DataError,
        match=r"does not say which row .*with --votes-rows FILE, of emotiw fit with --set source.NAME.votes_rows=FILE",
    ):
        load_faces(folder_set[0], votes=votes)
    with pytest.raises(UsageError, match="votes are not given"):
        load_faces(csv_set, votes_rows=folder_set[1])
    with pytest.raises(DataError, match="no such file"):
        load_faces(csv_set, votes=tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="no column 'neutral'"):
        load_faces(csv_set, votes=folder_set[1])
    rows = tmp_path / "wrong.csv"
    for text, told in (
        ("file,row\na.png,3\nb.png,3\n", "gives row 3 to a.png and to b.png"),
        ("file,row\na.png,20\n", "expected a file and a row from 0 to 19"),
        ("name,row\na.png,2\n", "expected file,row"),
        ("file,row\na.png,2\n", "no image of"),
    ):
        rows.write_text(text)
        with pytest.raises(DataError, match=told):
            load_faces(folder_set[0], votes=votes, votes_rows=rows)


def test_files_called_as_fer_plus_calls_them_say_their_row(tmp_path: Path) -> None:
    for i in (2, 5, 11, 14):
        write(tmp_path / "set" / "PrivateTest" / BASIC[i % 7] / f"fer{i:07d}.png", noise(i))
    faces = load_faces(tmp_path / "set", votes=votes_file(tmp_path, some_votes(15)))
    assert faces.votes is not None
    assert sorted(faces.votes[:, 6].tolist()) == [2, 2, 5, 5]  # 2, 5, 11 % 9, 14 % 9


def test_equal_images_share_votes_where_these_agree() -> None:
    votes = np.zeros((5, 10), np.int32)
    votes[0, 1] = votes[2, 1] = 10
    votes[3, 2] = 10
    assert share_votes(votes, ["a", "a", "b", "b", ""]) == 1
    assert votes[1, 1] == 10 and not votes[4].any()
    assert share_votes(np.array([[0] * 10, [1] + [0] * 9, [2] + [0] * 9]), ["a", "a", "a"]) == 0


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        # a single vote is a mistake; the majority has more than half of the others
        (
            [0, 6, 3, 1, 0, 0, 0, 0, 0, 0],
            {"majority": {1: 1}, "multi_label": {1: 6 / 9, 2: 3 / 9}, "cross_entropy": {1: 6 / 9, 2: 3 / 9}},
        ),
        # half is no majority
        (
            [5, 5, 0, 0, 0, 0, 0, 0, 0, 0],
            {"majority": {}, "multi_label": {0: 0.5, 1: 0.5}, "cross_entropy": {0: 0.5, 1: 0.5}},
        ),
        # unknown in front leaves the image out, behind it is not learned
        ([0, 4, 0, 0, 0, 0, 0, 0, 6, 0], {"majority": {}, "multi_label": {}, "cross_entropy": {}}),
        ([0, 6, 0, 0, 0, 0, 0, 0, 4, 0], {"majority": {1: 1}, "multi_label": {1: 1}, "cross_entropy": {1: 1}}),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], {"majority": {}, "multi_label": {}, "cross_entropy": {}}),
        # four classes share the votes
        ([0, 2, 2, 2, 2, 2, 0, 0, 0, 0], {"majority": {}, "multi_label": {}, "cross_entropy": {}}),
        # ten people of ten opinions
        ([1] * 10, {"majority": {}, "multi_label": {}, "cross_entropy": {}}),
        # no votes
        ([0] * 10, {"majority": {}, "multi_label": {}, "cross_entropy": {}}),
    ],
)  # fmt: skip
def test_votes_become_labels_as_their_authors_make_them(votes: list[int], expected: dict[str, dict[int, float]]) -> None:
    for mode in VOTE_MODES:
        row = np.zeros(8)
        for place, share in expected["cross_entropy" if mode == "probabilistic" else mode].items():
            row[place] = share
        np.testing.assert_allclose(labels_of(np.array([votes]), mode), [row], atol=1e-6, err_msg=mode)


def test_disagreement() -> None:
    assert entropy(np.eye(8)[:1]).tolist() == [0.0]
    np.testing.assert_allclose(entropy(np.full((1, 8), 1 / 8)), [1.0])
    assert agreed(np.array([[8, 2, 0, 0, 0, 0, 0, 0, 0, 0], [7, 3, 0, 0, 0, 0, 0, 0, 0, 0], [0] * 8 + [10, 0]])).tolist() == [
        True, False, False,
    ]  # fmt: skip


def test_real_votes(shared_data: Path) -> None:
    folder = shared_data / "fer2013"
    faces = load_faces(
        folder / "fer2013_jpg.zip",
        votes=folder / "fer2013new.csv",
        votes_rows=folder / "ferplus_rows.csv",
        near_duplicates=0,
    )
    assert faces.votes is not None
    majority, test = labels_of(faces.votes, "majority"), faces.split == "test"
    assert int(majority[test].any(axis=1).sum()) == 3152
    assert int(agreed(faces.votes)[test].sum()) == 1853
