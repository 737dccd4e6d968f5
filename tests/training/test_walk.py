"""The walks of CONTRIBUTING.md, of an image from the zip to the loss and of a learning rate: what is called, in what order."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotiw_keras import Stage, StagedFineTuner
from emotiw_keras.models import AlexNet

GUIDE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
Call = tuple[str, tuple[Any, ...], Any]


def walk(title: str) -> list[str]:
    """The functions of a walk, as module:name, in order."""
    table = next(part for part in GUIDE.read_text().split(title)[1].split("\n\n") if part.startswith("|"))
    rows = re.findall(r"^\| (\d+) \| `([\w/]+)\.py` \| `([\w.]+)` \|", table, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, table.count("\n")))
    return [f"emotiw_keras.{file.replace('/', '.')}:{name}" for _, file, name in rows]


def watch(monkeypatch: pytest.MonkeyPatch, names: list[str], calls: list[Call]) -> None:
    """Note each call of these functions, with its arguments and what it gives, wherever it is called from."""

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            place = len(calls)
            calls.append((name, args, None))
            result = function(*args, **kwargs)
            calls[place] = (name, args, result)
            return result

        return noted

    for name in names:
        module, _, path = name.partition(":")
        *owners, attribute = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        function = getattr(owner, attribute)
        if inspect.isclass(function):  # a class stands for making one
            monkeypatch.setattr(function, "__post_init__", noting(name, function.__post_init__))
        elif owners:
            monkeypatch.setattr(owner, attribute, noting(name, function))
        else:  # by whatever module has imported it
            noted = noting(name, function)
            for other in [each for key, each in sys.modules.items() if key.startswith("emotiw_keras")]:
                if getattr(other, attribute, None) is function:
                    monkeypatch.setattr(other, attribute, noted)


def order(calls: list[Call]) -> list[str]:
    """The names in the order of their first calls."""
    return list(dict.fromkeys(name for name, _, _ in calls))


@pytest.fixture
def zipped(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A zip as FER-2013 is handed on, 48 x 48 and grey, and the pixels of one of its images."""
    rng = np.random.default_rng(1)
    path = tmp_path / "fer2013.zip"
    with zipfile.ZipFile(path, "w") as file:
        for split, count in (("Training", 4), ("PublicTest", 2)):
            for name in ("happy", "sad"):
                for number in range(count):
                    pixels = rng.integers(0, 256, (48, 48), np.uint8)
                    file.writestr(f"{split}/{name}/{number}.png", cv2.imencode(".png", pixels)[1].tobytes())
                    if (split, name, number) == ("Training", "happy", 0):
                        marked = pixels[..., None]
    return path, marked


def train(data: Path, out: Path, **settings: Any) -> None:
    model = AlexNet(weights=None, classes=2, input_shape=(67, 67, 3), width=0.05)
    stage = Stage("one", train=("fer:train",), val=("fer:val",), epochs=1, batch_size=8, **settings)
    StagedFineTuner(model, [stage], data={"fer": data}, run_dir=out, width=0.05, labels="folder", say=None).fit()


def test_an_image_goes_from_the_zip_to_the_loss_in_ten_functions(
    zipped: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, calls = walk("## Follow one image"), list[Call]()
    assert len(names) <= 10
    watch(monkeypatch, names, calls)
    path, image = zipped
    train(path, tmp_path / "run")
    assert order(calls) == names
    # What passes is this very image: read and decoded, in a batch of bytes, and in the batch that makes an update.
    of = {name.partition(":")[2]: [(args, result) for each, args, result in calls if each == name] for name in names}
    for function in ("ArchiveImages.image", "decode_image"):
        assert any(np.array_equal(result, image) for _, result in of[function]), function
    assert any((batch == image).all(axis=(1, 2, 3)).any() for _, batch in of["Pool.gather"])
    assert any((args[1].numpy() == image).all(axis=(1, 2, 3)).any() for args, _ in of["StageSteps.train"])


def test_a_learning_rate_goes_from_the_stage_to_the_optimizer_in_four(
    zipped: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, calls = walk("And the learning rate of a stage:"), list[Call]()
    assert len(names) <= 4
    watch(monkeypatch, names, calls)
    train(zipped[0], tmp_path / "run", learning_rate=0.00123)
    assert order(calls) == names
    given = {name.partition(":")[2]: (args, result) for name, args, result in reversed(calls)}
    assert given["learning_rates"][0][0].learning_rate == 0.00123
    assert given["StageTraining._scheduled"][1] == pytest.approx(0.00123)
    steps, *_, rate = given["StageSteps.train"][0]
    assert rate == pytest.approx(0.00123) and float(steps.optimizer.learning_rate) == pytest.approx(0.00123)
