"""Near duplicates: one photograph cut, shifted, mirrored, marked or encoded otherwise, found, kept together and said."""

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotiw_keras.data.load import load_faces
from emotiw_keras.data.near import pairs as near
from emotiw_keras.data.near.embedding import FEATURES, embed, features, mirrored_order, shipped_projection
from emotiw_keras.data.near.groups import photographs
from emotiw_keras.data.near.search import LIKENESS, MOST, propose
from emotiw_keras.data.near.threshold import THRESHOLD
from emotiw_keras.data.pixel_stores import MemoryPixels
from emotiw_keras.errors import OutputError, UsageError
from emotiw_keras.training.recipe import load_recipe, parse_recipe
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.stage_images import DROPPED_NEAR, stage_roles
from tests.cuts import cut, encoded, marked, photos, write

COUNT = 40


CHANGES = {
    "shifted": lambda photo: cut(photo, 16, 9),
    "larger cut": lambda photo: cut(photo, 8, 9, 56),
    "smaller cut": lambda photo: cut(photo, 15, 14, 41),
    "mirrored": lambda photo: np.ascontiguousarray(cut(photo)[:, ::-1]),
    "marked": lambda photo: marked(cut(photo)),
    "encoded": lambda photo: encoded(cut(photo)),
}


def found(images: np.ndarray, threshold: float = THRESHOLD) -> near.NearPairs:
    store = MemoryPixels(images[..., None], np.ones(len(images), bool))
    return near.near_pairs([store], [[str(i) for i in range(len(images))]], threshold)


def cut_twice(count: int) -> np.ndarray:
    """Photographs, and behind them the same cut a little otherwise: uint8 (2 * count, 48, 48)."""
    whole = photos(count)
    return np.stack([*map(cut, whole), *(cut(photo, 14, 11) for photo in whole)])


@pytest.mark.parametrize("change", CHANGES)
def test_a_photograph_is_found_again_and_no_other_taken_for_it(change: str) -> None:
    whole = photos(COUNT)
    images = np.stack([*map(cut, whole), *map(CHANGES[change], whole)])
    pairs = found(images)
    right = pairs.second == pairs.first + COUNT
    assert right.all(), "two photographs taken for one"
    assert right.sum() >= 0.9 * COUNT
    assert (pairs.mirrored == (change == "mirrored")).mean() > 0.9


def test_the_features_of_a_mirrored_image_are_those_of_the_image_in_another_order() -> None:
    images = np.stack([cut(photo) for photo in photos(3)])
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(features(mirrored), features(images)[:, mirrored_order()], atol=1e-4)
    even = shipped_projection().even
    one, other = embed(images), embed(mirrored)
    assert features(images).shape == (3, FEATURES)
    np.testing.assert_allclose(one[:, :even], other[:, :even], atol=2e-3)
    np.testing.assert_allclose(one[:, even:], -other[:, even:], atol=2e-3)


@pytest.mark.parametrize("parts", [1, 3])
def test_of_many_alike_the_most_alike_are_proposed(parts: int) -> None:
    draw = np.random.default_rng(3)
    vectors = draw.standard_normal((2500, 6)).astype(np.float32)  # of so few dimensions hundreds are alike
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    part = draw.integers(parts, size=len(vectors))
    proposals = list(propose(vectors, 4, part if parts > 1 else None))
    first, second, mirrored = (
        np.concatenate([getattr(some, name) for some in proposals]) for name in ("first", "second", "mirrored")
    )
    odd = vectors[:, 4:] @ vectors[:, 4:].T
    alike = vectors[:, :4] @ vectors[:, :4].T + np.abs(odd)
    assert np.array_equal(np.unique(first), first[np.flatnonzero(np.diff(first, prepend=-1))]), "by first image"
    for i in range(len(vectors)):
        later = np.arange(i + 1, len(vectors))
        later = later[(alike[i, later] > LIKENESS) & ((part[i] != part[later]) | (parts == 1))]
        best = later[np.argsort(-alike[i, later], kind="stable")][:MOST]
        got = second[first == i]
        assert len(got) == len(best)
        np.testing.assert_allclose(alike[i, got], alike[i, best], atol=1e-5)
        np.testing.assert_array_equal(mirrored[first == i], odd[i, got] < 0)


@pytest.mark.parametrize("disk", ["room", "full"])
def test_thumbnails_that_memory_does_not_hold_give_the_same_pairs(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    images = cut_twice(20)
    expected = found(images)
    monkeypatch.setattr(near, "_HELD", 1000)
    if disk == "full":
        monkeypatch.setattr(near, "packing_file", lambda size: None)
    pairs = found(images)
    assert len(pairs) and pairs.second.tolist() == expected.second.tolist()
    assert pairs.correlation.tolist() == expected.correlation.tolist()


def test_flat_images_are_no_duplicates_and_a_burst_is_one_group(tmp_path: Path) -> None:
    flat = np.full((4, 48, 48), 90, np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None]
    assert len(found(flat)) == 0
    photo = photos(1)[0]
    burst = np.stack([cut(photo, 10 + k % 5, 10 + k // 5) for k in range(40)])
    write(tmp_path, {f"train/happy/{k}.png": each for k, each in enumerate(burst)} | {"train/sad/s.png": cut(photos(2)[1])})
    faces = load_faces(tmp_path, val_share=0)
    assert faces.near is not None
    _, size = np.unique(faces.near.photograph, return_counts=True)
    assert sorted(size.tolist()) == [1, 40], "more than MOST follow the first one, and all hang together"


def two_labels(folder: Path, count: int = 30, seed: int = 0) -> Path:
    """Class folders in which each photograph stands twice, cut otherwise."""
    for i, photo in enumerate(photos(count, seed=seed)):
        label = ("happy", "sad")[i % 2]
        write(folder, {f"{label}/{i}.png": cut(photo), f"{label}/{i}_again.png": cut(photo, 14, 10)})
    return folder


def test_a_cut_keeps_them_together_and_says_so(tmp_path: Path) -> None:
    folder = two_labels(tmp_path / "faces")
    faces = load_faces(folder)
    split = dict(zip(faces.paths, faces.split.tolist(), strict=True))
    assert all(split[path] == split[path.replace(".png", "_again.png")] for path in split if "again" not in path)
    report = "\n".join(faces.report)
    assert "near duplicates: 30 pairs of different images show one photograph" in report
    without = load_faces(folder, near_duplicates=0)
    assert without.near is None and "near duplicates: not looked for" in without.report
    split = dict(zip(without.paths, without.split.tolist(), strict=True))
    assert any(split[path] != split[path.replace(".png", "_again.png")] for path in split if "again" not in path)


def test_a_head_chooses_by_folds_that_keep_them_together(tmp_path: Path) -> None:
    from emotiw_keras.data.batches import Pool
    from emotiw_keras.training.head import _groups

    faces = load_faces(two_labels(tmp_path / "faces"))
    alone = load_faces(two_labels(tmp_path / "others"), near_duplicates=0)
    parts = [(alone, np.arange(10)), (faces, faces.indices("all")[::-1])]
    groups = _groups([Pool(parts, 48, True)])
    paths = [faces.paths[i] for i in faces.indices("all")[::-1]]
    of = dict(zip(paths, groups[10:].tolist(), strict=True))
    assert all(of[path] == of[path.replace(".png", "_again.png")] for path in paths if "again" not in path)
    assert len(set(of.values())) == len(paths) // 2


def test_a_long_search_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(near, "WORTH_KEEPING", 10)
    folder, said = two_labels(tmp_path / "faces"), []
    for _ in range(2):
        load_faces(folder, say=said.append)
    assert len(said) == 1 and said[0].startswith("looking for near duplicates among 60 images; what is found is kept in")


def splits(folder: Path) -> Path:
    """train of eight photographs, of which test holds two cut otherwise and one equal."""
    whole = photos(10)
    for i in range(8):
        write(folder, {f"train/{('happy', 'sad')[i % 2]}/{i}.png": cut(whole[i])})
    write(folder, {"test/happy/a.png": cut(whole[0], 15, 12), "test/sad/b.png": marked(cut(whole[1]))})
    write(folder, {"test/happy/c.png": cut(whole[2]), "test/sad/d.png": cut(whole[8])})
    return folder


def test_training_drops_what_stands_in_test_nearly_the_same(tmp_path: Path) -> None:
    faces = load_faces(splits(tmp_path), name="fer", val_share=0)
    assert "duplicates: 1 test images also stand in train" in faces.report
    assert "near duplicates: 2 more test images stand in train nearly the same" in faces.report
    sets, stage = {"fer": faces}, Stage("s", train=("fer:train",))
    numbers, between = photographs(sets)
    roles = stage_roles(stage, sets, True, numbers)
    assert between == 0
    assert [faces.paths[i] for i in roles.near["fer"]] == ["train/happy/0.png", "train/sad/1.png"]
    assert [faces.paths[i] for i in roles.dropped["fer"]] == ["train/happy/2.png"] and len(roles.train["fer"]) == 5
    assert len(stage_roles(stage, sets, False, {}).train["fer"]) == 8
    assert DROPPED_NEAR.startswith("dropped"), "what was dropped counts as seen in leak-free figures"


def test_training_drops_what_stands_in_the_test_of_another_set(tmp_path: Path) -> None:
    whole = photos(6)
    large, small = tmp_path / "large", tmp_path / "small"
    write(large, {f"train/{('happy', 'sad')[i % 2]}/{i}.png": cut(whole[i]) for i in range(6)})
    write(small, {"train/happy/x.png": cut(photos(1, seed=5)[0]), "train/sad/y.png": cut(photos(1, seed=6)[0])})
    write(small, {"test/happy/t.png": cut(whole[4], 9, 14), "test/sad/u.png": cut(photos(1, seed=7)[0])})
    sets = {"fer": load_faces(large, name="fer", val_share=0), "target": load_faces(small, name="target", val_share=0)}
    numbers, between = photographs(sets)
    roles = stage_roles(Stage("s", train=("fer:train",)), sets, True, numbers)
    assert between == 1 and [sets["fer"].paths[i] for i in roles.near["fer"]] == ["train/happy/4.png"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which the pairs of small sets are kept too."""
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path))
    monkeypatch.setattr(near, "WORTH_KEEPING", 0)
    return tmp_path


def test_what_is_found_is_kept_and_a_damaged_file_is_found_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = cut_twice(12)
    first = found(images)
    (kept,) = cache.glob("near/*/pairs.npz")
    with monkeypatch.context() as patch:
        patch.setattr(near, "search", lambda *asked: pytest.fail("searched again"))
        again = found(images)
        assert len(first) == 12 and again.correlation.tolist() == first.correlation.tolist()
        assert len(found(images, 0.999)) < 12, "a higher threshold needs no second search"
    kept.write_bytes(kept.read_bytes()[:40])
    assert found(images).second.tolist() == first.second.tolist()
    assert len(kept.read_bytes()) > 40


def test_a_cache_that_cannot_be_written_costs_one_search(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searches, search = [], near.search

    def counted(*asked: object) -> near.NearPairs:
        searches.append(1)
        return search(*asked)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(near, "search", counted)
    monkeypatch.setattr(near, "write_atomic", full)
    assert len(found(cut_twice(12))) == 12
    assert len(searches) == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("correlation", lambda values: np.full_like(values, np.nan)),
        ("correlation", lambda values: values * 1e9),
        ("first", lambda values: values.astype(np.float64)),
        ("second", lambda values: values.astype(np.complex64)),
    ],
)
def test_pairs_that_no_search_gives_are_searched_anew(
    name: str, change: Callable[[np.ndarray], np.ndarray], cache: Path
) -> None:
    images = cut_twice(12)
    first = found(images)
    (kept,) = cache.glob("near/*/pairs.npz")
    with np.load(kept) as stored:
        arrays = dict(stored)
    np.savez(kept, **{**arrays, name: change(arrays[name])})
    assert found(images).correlation.tolist() == first.correlation.tolist()
    with np.load(kept) as stored:
        assert stored[name].dtype == arrays[name].dtype and (stored[name] == arrays[name]).all(), "and written anew"


@pytest.mark.usefixtures("cache")
def test_sets_that_begin_elsewhere_have_other_pairs() -> None:
    one, other = photos(2)
    shown = {"a": cut(one), "b": cut(one, 14, 11), "": cut(other), "c": cut(other)}

    def across(*hashes: list[str]) -> int:
        stores = [
            MemoryPixels(np.stack([shown[d] for d in each])[..., None], np.array([d != "" for d in each])) for each in hashes
        ]
        return len(near.near_pairs(stores, hashes, across=True))

    assert across(["a", "", "b"], ["c"]) == 0, "a and b stand in one set"
    assert across(["a"], ["b", "", "c"]) == 1


def test_a_threshold_that_cannot_be_meant_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="near_duplicates = 0.5: expected a correlation from 0.95"):
        load_faces(tmp_path, near_duplicates=0.5)
    with pytest.raises(UsageError, match="near_duplicates = 0.5"):
        load_recipe("finetune", ["near_duplicates=0.5"])
    recipe = load_recipe("finetune", ["near_duplicates=0"])
    assert recipe.near_duplicates == 0 and parse_recipe(recipe.to_toml(), "again") == recipe
    assert "near_duplicates" not in load_recipe("finetune").to_table(), "recipes of older runs stay the same"


def test_prepared_faces_are_listed_as_images(tmp_path: Path) -> None:
    from emotiw_keras.data.prepare.near import list_near_duplicates

    whole = photos(4)
    write(tmp_path, {f"{i}.png": cut(photo) for i, photo in enumerate(whole)} | {"again.png": cut(whole[1], 15, 10)})
    names = ["0.png", "1.png", "2.png", "3.png", "again.png"]
    pairs = list_near_duplicates(tmp_path, names, THRESHOLD)
    assert pairs is not None and len(pairs) == 1
    (row,) = csv.DictReader((tmp_path / "near_duplicates.csv").open())
    assert (row["output"], row["other"], row["mirrored"]) == ("1.png", "again.png", "no")
    sheet = cv2.imread(str(tmp_path / "near_duplicates.jpg"))
    assert sheet is not None and sheet.shape[1] >= 2 * 112
    assert list_near_duplicates(tmp_path, names, 0) is None and not (tmp_path / "near_duplicates.csv").exists()
