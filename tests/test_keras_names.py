"""`.keras` files of ours load behind `import emotiw_keras` alone, which itself loads no Keras."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from emotiw_keras import keras_names

ROOT = Path(__file__).resolve().parents[1] / "emotiw_keras"


def test_every_registered_class_is_named_with_its_module() -> None:
    found = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any("register_keras" in ast.unparse(d) for d in node.decorator_list):
                found[node.name] = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert found == keras_names.HOMES


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from emotiw_keras.models import AlexNet
    from emotiw_keras.training.optimizers import CaffeSGD

    model = AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.1)
    model.compile(CaffeSGD(0.01), "mse")
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    model.save(path)
    return path


AFTERWARDS = """
import importlib.util, sys
import emotiw_keras
assert not {"keras", "tensorflow", "numpy"} & set(sys.modules), "importing the package loads them"
importlib.util.find_spec("keras")  # as TensorFlow does to see whether it is there
import keras
print(keras.models.load_model(sys.argv[1]).get_layer("norm1").call.__module__)
"""


def test_a_file_loads_where_keras_comes_later(saved: Path) -> None:
    done = subprocess.run([sys.executable, "-c", AFTERWARDS, saved], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, ["emotiw_keras.models.layers"]), done.stderr[-2000:]


def test_a_file_loads_where_keras_was_there_before(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    known = keras.saving.get_custom_objects()
    for name in keras_names.HOMES:
        monkeypatch.delitem(known, f"emotiw_keras>{name}", raising=False)
    with pytest.raises(TypeError, match="Could not locate class"):
        keras.models.load_model(saved)
    finders = list(sys.meta_path)
    keras_names.announce()
    assert "not imported yet" in repr(known["emotiw_keras>Dense"])
    model = keras.models.load_model(saved)
    assert [type(model.get_layer(name)).__module__ for name in ("norm1", "fc6")] == ["emotiw_keras.models.layers"] * 2
    assert sys.meta_path == finders


def test_a_class_that_is_there_keeps_its_name() -> None:
    import keras

    from emotiw_keras.models.layers import Dense

    keras_names.announce()
    assert keras.saving.get_registered_object("emotiw_keras>Dense") is Dense
