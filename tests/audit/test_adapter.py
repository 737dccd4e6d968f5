"""Readers in a process of their own: what they say is checked, whatever they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.audit.adapter import Adapter, checked_probabilities
from emotiw_keras.errors import ModelError, UsageError

FACES = np.zeros((3, 48, 48), np.uint8)
SAYS = """
import json, sys
import numpy as np
print(json.dumps({{"labels": ["angry", "happy"]}}), flush=True)
asked = json.loads(sys.stdin.readline())
{then}
"""
DONE = '\nprint(json.dumps({"done": 3}), flush=True)'


HEADER = (
    "head = {0!r}.ljust(4000).encode() + b'\\n'\nopen(asked['answers'], 'wb').write("
    "b'\\x93NUMPY\\x01\\x00' + len(head).to_bytes(2, 'little') + head)"
).replace("{0!r}", '"""{}"""')


def start(folder: Path, text: str, timeout: float = 60) -> Adapter:
    (folder / "reader.py").write_text(text)
    return Adapter([sys.executable, str(folder / "reader.py")], timeout, "mine")


def test_it_is_asked_again_and_again(adapter: str) -> None:
    faces = np.full((2, 48, 48), 30, np.uint8)
    with Adapter(adapter) as mine:
        assert mine.labels[:2] == ("happy", "angry") and mine.facts["version"] == "1.2"
        for pixels, label in ((faces, "disgust"), (4 * faces[:1], "sad")):
            told = mine.predict(pixels)
            assert told.shape == (len(pixels), 7) and told.dtype == np.float32
            np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-6)
            assert {mine.labels[each] for each in told.argmax(axis=1)} == {label}
    assert mine._process.poll() == 0  # its input was closed, and it ended by itself


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("np.save(asked['answers'], np.ones((3, 1), np.float32))" + DONE, r"wrote float32 \(3, 1\); expected float32 \(3, 2\)"),
        ("np.save(asked['answers'], np.ones((3, 2), int))" + DONE, r"wrote int64 \(3, 2\)"),
        ("np.save(asked['answers'], np.array([[{}, 1]] * 3, object))" + DONE, "wrote no .npy of numbers"),
        ("np.save(asked['answers'], np.zeros((3000, 2)))" + DONE, "wrote 48,128 bytes"),
        ("np.save(asked['answers'], np.full((3, 2), np.inf))" + DONE, "not finite for 3 of 3 faces"),
        ("np.save(asked['answers'], np.array([[2.0, -1.0]] * 3))" + DONE, "expected probabilities, of sum 1"),
        ("np.save(asked['answers'], np.ones((3, 2)))" + DONE, "of sum 2 to 2"),
        (DONE, "wrote no .npy"),
        ("print(json.dumps({'done': 2}), flush=True)", 'answered {"done": 2}, expected {"done": 3}'),
        ("print('{nothing', flush=True)", "no line of JSON"),
        ("print(json.dumps({'error': 'no GPU here'}), flush=True)", "says: no GPU here"),
        ("sys.exit(7)", "ended with exit code 7 before it answered"),
        ("open(asked['answers'], 'wb').write(b'PK' + bytes(99))" + DONE, "wrote no .npy of numbers"),
        (HEADER.format("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -7)}") + DONE, "wrote no .npy of numbers"),
        (HEADER.format("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 9999999999999999999)}") + DONE, "wrote no .npy"),
        (HEADER.format("-" * 3000 + "1") + DONE, "wrote no .npy of numbers"),
        (HEADER.format("{'descr': (((") + DONE, "wrote no .npy of numbers"),
        ("import os; os.mkfifo(asked['answers'])" + DONE, "wrote no .npy of numbers"),
    ],
)  # fmt: skip
def test_other_answers_are_one_line(tmp_path: Path, then: str, said: str) -> None:
    with start(tmp_path, SAYS.format(then=then)) as mine, pytest.raises(ModelError, match=said):
        mine.predict(FACES)


def test_a_header_that_promises_more_than_the_file_takes_no_memory(tmp_path: Path) -> None:
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}".ljust(117) + "\\n"
    then = f"open(asked['answers'], 'wb').write(b'\\x93NUMPY\\x01\\x00v\\x00' + b\"{head}\")" + DONE
    with start(tmp_path, SAYS.format(then=then)) as mine, pytest.raises(ModelError, match="wrote no .npy of numbers"):
        mine.predict(FACES)


def test_one_that_has_ended_says_so_again(tmp_path: Path) -> None:
    with start(tmp_path, SAYS.format(then="sys.exit(7)")) as mine:
        for _ in range(2):
            with pytest.raises(ModelError, match="ended with exit code 7"):
                mine.predict(FACES)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ('{"labels": ["angry"]}', "names 1 labels"),
        ('{"labels": ["angry", "angry"]}', "names 2 labels"),
        ('{"labels": "angry"}', "expected {\"labels\""),
        ('{"name": "mine"}', "expected {\"labels\""),
    ],
)  # fmt: skip
def test_the_first_line_says_the_labels(tmp_path: Path, first: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        start(tmp_path, f"print({first!r}, flush=True)\nimport sys; sys.stdin.read()")


def test_a_silent_one_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"said nothing for 0.5 s; give it longer with --timeout"):
        start(tmp_path, "import sys; sys.stdin.read()", timeout=0.5)


def test_one_that_closes_its_answers_is_not_waited_for(tmp_path: Path) -> None:
    then = "import os, time; os.close(1); time.sleep(30)"
    with (
        start(tmp_path, SAYS.format(then=then), timeout=0.5) as mine,
        pytest.raises(ModelError, match="closed its standard output"),
    ):
        mine.predict(FACES)


def test_a_command_that_is_none_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="cannot start it: No such file"):
        Adapter("no-such-command-anywhere")
    with pytest.raises(UsageError, match="No closing quotation"):
        Adapter("python 'mine")
    with pytest.raises(UsageError, match="needs a command"):
        Adapter("  ")


def test_a_row_of_nan_is_a_face_that_was_not_found() -> None:
    told = checked_probabilities(np.array([[0.5, 0.501], [np.nan, np.nan]]), "mine")
    assert np.isnan(told[1]).all() and told[0].sum() == pytest.approx(1)
    with pytest.raises(ModelError, match="not finite for 1 of 2"):
        checked_probabilities(np.array([[0.5, 0.5], [np.nan, 1.0]]), "mine")
