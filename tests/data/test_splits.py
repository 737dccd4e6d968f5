"""Splits: shares, seeds, and nobody on two sides."""

from __future__ import annotations

import numpy as np
import pytest

from emotiw_keras.data.splits import assign_splits, check_fractions, counts_table, group_ids, limit_mask, subjects
from emotiw_keras.errors import DataError, UsageError

SPLITS = ("train", "val", "test")


def table(label: np.ndarray, split: np.ndarray) -> dict[str, list[int]]:
    return {name: np.bincount(label[split == name], minlength=label.max() + 1).tolist() for name in SPLITS}


def test_single_images_are_shared_out_exactly() -> None:
    label = np.repeat([0, 1, 2], [400, 200, 20])
    split = assign_splits(label, np.arange(620), seed=3)
    assert table(label, split) == {"train": [320, 160, 16], "val": [40, 20, 2], "test": [40, 20, 2]}


@pytest.mark.parametrize("seed", range(5))
def test_small_classes_reach_every_split(seed: int) -> None:
    label = np.repeat([0, 1, 2, 3], [300, 3, 4, 21])
    for counts in table(label, assign_splits(label, np.arange(len(label)), seed=seed)).values():
        assert min(counts) >= 1


def test_two_groups_or_one_cannot_reach_three_splits() -> None:
    label = np.repeat([0, 1, 2], [30, 5, 2])
    group = np.concatenate([np.arange(30), [30] * 5, [31, 32]])
    split = assign_splits(label, group)
    assert len(set(split[label == 1])) == 1 and len(set(split[label == 2])) == 2


def test_groups_stay_whole_and_shares_are_close() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 300, 2000)
    label = rng.choice(5, 2000, p=[0.4, 0.3, 0.2, 0.08, 0.02])
    split = assign_splits(label, group, seed=1)
    for g in np.unique(group):
        assert len(set(split[group == g])) == 1
    for label_id in range(5):
        share = np.mean(split[label == label_id] == "train")
        assert share == pytest.approx(0.8, abs=0.05)


def test_seed_decides_and_nothing_else() -> None:
    label = np.arange(200) % 4
    first = assign_splits(label, np.arange(200), seed=1)
    np.testing.assert_array_equal(first, assign_splits(label, np.arange(200), seed=1))
    assert (first != assign_splits(label, np.arange(200), seed=2)).any()


def test_a_share_of_zero_gets_nothing() -> None:
    split = assign_splits(np.arange(50) % 2, np.arange(50), (0.8, 0.2, 0.0))
    assert {name: int((split == name).sum()) for name in SPLITS} == {"train": 40, "val": 10, "test": 0}


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5)])
def test_fractions_that_are_no_shares(fractions: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="three shares"):
        check_fractions(fractions)


def test_groups_join_pixels_and_persons_in_a_chain() -> None:
    hashes = ["a", "b", "b", "c", "d", "", ""]
    people = ["Ann", "Ann", "Bob", "Bob", "", "", ""]
    assert group_ids(hashes, people).tolist() == [0, 0, 0, 0, 1, 2, 3]


def test_subjects_from_file_names() -> None:
    pattern = r"^(.*?)_?(?:\d+[a-z]?)?\.jpg$"
    names = ["sad/Al_Gore_0002.jpg", "angry/Al_Gore_0001.jpg", "fear/Jaya_12b.jpg", "x/Ann.jpg", "x/Ann.png"]
    assert subjects(names, pattern) == ["Al_Gore", "Al_Gore", "Jaya", "Ann", ""]
    assert subjects(["a/s01_x.png"], r"s\d+") == ["s01"]
    with pytest.raises(DataError, match=r"matches none of 1 file names, such as 'a/b\.png'"):
        subjects(["a/b.png"], "person")
    with pytest.raises(UsageError, match="no regular expression"):
        subjects(["a/b.png"], "(")


def test_limit_is_stratified_and_per_split() -> None:
    label = np.repeat([0, 1, 2, -1], [600, 300, 10, 5])
    split = np.where(np.arange(915) % 3 == 0, "val", "train")
    mask = limit_mask(label, split, 30, seed=4)
    for name in ("train", "val"):
        counts = np.bincount(label[mask & (split == name)])
        assert counts.tolist() == [19, 10, 1]
    np.testing.assert_array_equal(mask, limit_mask(label, split, 30, seed=4))
    assert (mask != limit_mask(label, split, 30, seed=5)).any()
    assert limit_mask(label, split, 10_000).sum() == 910
    assert limit_mask(label, split, 1).sum() == 2
    with pytest.raises(UsageError, match="limit = 0"):
        limit_mask(label, split, 0)


def test_table_lines() -> None:
    lines = counts_table({"train": {"happy": 1200, "sad": 3}, "val": {"happy": 7, "sad": 0}})
    assert lines == [
        "split  happy  sad  total",
        "train  1,200    3  1,203",
        "  val      7    0      7",
        "no images of sad in val",
    ]
