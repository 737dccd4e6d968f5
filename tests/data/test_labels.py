"""Names of expressions: spellings, codes, orders, and what is refused."""

from __future__ import annotations

import pytest

from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.labels import LABEL_SETS, NUMBER_CODES, canonical, label_set, match_classes


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Anger", "angry"),
        ("AN", "angry"),
        (" Ha ", "happy"),
        ("Happiness", "happy"),
        ("SU", "surprise"),
        ("NES", "neutral"),
    ],
)
def test_usual_spellings(word: str, name: str) -> None:
    assert canonical(word) == name


@pytest.mark.parametrize("word", ["unhappy", "angry_man", "3", "", "sadly", "a"])
def test_no_guess_from_a_part_of_a_word(word: str) -> None:
    assert canonical(word) is None


def test_orders_of_the_data_sets() -> None:
    assert LABEL_SETS["basic7"].labels == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    fer = LABEL_SETS["basic7"].labels
    assert list(LABEL_SETS["sfew7"].labels) == sorted(fer)
    assert LABEL_SETS["affwild8"].labels == (*LABEL_SETS["affwild7"].labels, "other")
    assert set(LABEL_SETS["enterface6"].labels) == set(fer) - {"neutral"}
    assert NUMBER_CODES["RAF-DB"]["1"] != NUMBER_CODES["FER-2013"]["1"]


def test_spellings_meet_in_one_label() -> None:
    names, ids = match_classes({"Anger": "a", "angry": "b", "Fear": "c"}, "basic7")
    assert names == LABEL_SETS["basic7"].labels
    assert ids == {"Anger": 0, "angry": 0, "Fear": 2}


def test_own_labels_and_folder_names() -> None:
    names, ids = match_classes({"Smirk": "a", "happiness": "b"}, ("happy", "smirk"))
    assert (names, ids) == (("happy", "smirk"), {"Smirk": 1, "happiness": 0})
    assert match_classes({"zeta": "a", "alpha": "b"}, "folder") == (("alpha", "zeta"), {"alpha": 0, "zeta": 1})


def test_unknown_class_is_named_with_what_is_allowed_and_the_way_out() -> None:
    with pytest.raises(DataError, match=r"'smirk' \(row 3\).*basic7.*angry, disgust.*labels = \"folder\""):
        match_classes({"happy": "row 1", "smirk": "row 3"}, "basic7")
    with pytest.raises(DataError, match="1 is disgust in FER-2013, surprise in RAF-DB"):
        match_classes({"1": "1/a.jpg", "2": "2/a.jpg"}, "basic7")


def test_labels_that_are_given_in_order_are_not_to_be_exchanged() -> None:
    with pytest.raises(DataError, match=r"rename them or leave them out with leave_out = \[\"5\"\]$"):
        match_classes({"5": "5/1.png"}, ["4", "3"])


def test_misspelt_classes_are_asked_about() -> None:
    with pytest.raises(DataError, match=r"did you mean happy by 'hapy', sad by 'saddness'\?\)"):
        match_classes({"happy": "a", "saddness": "b", "hapy": "c"}, "basic7")
    with pytest.raises(DataError, match=r"unknown class name 'smirk'") as caught:
        match_classes({"happy": "a", "smirk": "b"}, "basic7")
    assert "did you mean" not in str(caught.value)


def test_unknown_label_set_and_labels_that_repeat() -> None:
    with pytest.raises(UsageError, match="did you mean 'basic7'"):
        label_set("basic_7")
    with pytest.raises(UsageError, match="each once"):
        match_classes({"happy": "a"}, ("happy", "happiness"))


def test_words_of_a_class_may_be_parted_by_spaces_hyphens_or_underscores() -> None:
    found = {name: f"{name}/1.png" for name in ("very happy", "Very_Happy", "very-happy", "sad")}
    names, position = match_classes(found, "folder")
    assert names == ("sad", "very happy") and [position[name] for name in found] == [1, 1, 1, 0]
