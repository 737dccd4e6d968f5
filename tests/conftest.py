"""What every test may use: the real data beside the repository, a way to write small run folders, the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emotiw_keras import hardware
from tests import processes

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves

ROOT = Path(__file__).resolve().parents[1]
# Networks that differ from a sibling in one layer's units or order, or have hundreds of layers, which take seconds: what all
# networks must do, these do in slow tests.
SLOW_NETWORKS = {"caffenet", "vgg_cnn_f", "vgg_cnn_m_2048", "vgg_cnn_m_1024", "vgg_cnn_m_128", "vgg_cnn_s", "squeezenet_v1_1"}
SLOW_NETWORKS.add("senet50")


def slow_tests() -> set[str]:
    """The names in slow_tests.txt."""
    lines = (Path(__file__).parent / "slow_tests.txt").read_text().splitlines()
    return {line for line in lines if line and line[0] != "#"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = slow_tests()
    if not any("::" in argument for argument in config.args):
        files = {item.nodeid.partition("::")[0] for item in items}
        there = {item.nodeid.partition("[")[0] for item in items}  # which parameters there are depends on what is installed
        lost = {name for name in named if name.partition("::")[0] in files and name.partition("[")[0] not in there}
        if lost:
            raise pytest.UsageError(f"tests/slow_tests.txt names tests that are not there: {', '.join(sorted(lost))}")
    for item in items:
        if item.nodeid in named:
            item.add_marker("slow")
        values = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value in SLOW_NETWORKS for value in values):
            item.add_marker("slow")
        # Under `ONEDNN_MAX_CPU_ISA=AVX2`, which stands in for a lesser processor, TensorFlow dies of bfloat16.
        half = item.get_closest_marker("bfloat16") or ("bfloat16" in item.nodeid and "tests/formats" not in item.nodeid)
        if half and hardware.bfloat16_is_hidden():
            item.add_marker(pytest.mark.skip("TensorFlow crashes on bfloat16 under this ONEDNN_MAX_CPU_ISA"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is missing."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data (../shared/data beside the repository) is not here")
    return folder


@pytest.fixture(scope="session")
def emotiw() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in its own process, where TensorFlow is imported already: emotiw("predict", "a.png", cwd=...)."""
    return lambda *arguments, **options: processes.run(processes.emotiw, *map(str, arguments), **options)


@pytest.fixture(scope="session")
def started_emotiw() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in a new Python, as a user starts it: for what depends on the start."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        code = "from emotiw_keras.cli.main import main; main()"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        # Quiet by its own means, as for a user.
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        settings: dict[str, Any] = {
            "capture_output": True,
            "text": True,
            "timeout": 300,
            "env": environment,
            "stdin": subprocess.DEVNULL,
        }
        return subprocess.run(command, **{**settings, **options})

    return run


@pytest.fixture(autouse=True)
def forked_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported is loaded again in a forked process; `emotiw export` in its own process starts a new Python for it."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:2] == [sys.executable, "-P"]
        return processes.run(processes.script, *command[2:])

    known = SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("emotiw_keras.serving.export.subprocess", known)


def write_run(folder: Path, *, labels: tuple[str, ...] = (), **changes: Any) -> Path:
    """Write a finished run folder of a narrow AlexNet whose weights are drawn from a seed, and far from even answers.

    Args:
        folder: the new folder.
        labels: class names; the seven basic expressions if empty.
        **changes: preprocessing settings that differ from the model's own.
    """
    import json

    import keras
    import numpy as np

    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.data.preprocessing_settings import settings_for
    from emotiw_keras.files import sha256_file
    from emotiw_keras.keras_names import fingerprint
    from emotiw_keras.labels import LABEL_SETS
    from emotiw_keras.models import registry
    from emotiw_keras.run_facts import WEIGHTS_FILE
    from emotiw_keras.runs import RUN_FORMAT

    labels = labels or LABEL_SETS["basic7"].labels
    shape = (67, 67, 3)
    facts = {"name": "alexnet", "width": 0.125, "classes": len(labels), "input_shape": list(shape)}
    settings = settings_for(registry.get_spec("alexnet"), crop=67, **changes)
    keras.utils.set_random_seed(7)
    model = registry.build("alexnet", weights=None, classes=len(labels), input_shape=shape, width=0.125)
    generator = np.random.default_rng(7)
    for variable in model.weights:
        fan_in = int(np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else 1
        spread = np.sqrt(2 / fan_in) if fan_in > 1 else 0.1
        variable.assign(generator.normal(0, spread, variable.shape))
    # Faces differ little to random filters: the last layer is set so that their mean is even and their spread is not.
    probes = generator.integers(0, 256, (32, 6, 6, 1), np.uint8)
    features = keras.Model(model.input, model.get_layer("fc8").input)(FaceInput.from_settings(settings)(probes))
    features = keras.ops.convert_to_numpy(features)
    kernel = generator.normal(0, 1, (features.shape[1], len(labels)))
    kernel *= 2 / np.std((features - features.mean(axis=0)) @ kernel)
    model.get_layer("fc8").set_weights([kernel, -features.mean(axis=0) @ kernel])
    folder.mkdir(parents=True)
    model.save_weights(folder / WEIGHTS_FILE)
    info = {
        "format": RUN_FORMAT,
        "model": facts,
        "labels": list(labels),
        "preprocessing": settings,
        "weights": {"sha256": sha256_file(folder / WEIGHTS_FILE), "variables": fingerprint(model)},
        "stages": [],
        "finished": True,
    }
    (folder / "run.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder: a narrow AlexNet on 67x67 grey faces."""
    return write_run(tmp_path_factory.mktemp("runs") / "grey")


@pytest.fixture(scope="session")
def colour_run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on colour, stretched to 0..255, with three classes of other names."""
    folder = tmp_path_factory.mktemp("runs") / "colour"
    return write_run(folder, labels=("calm", "glad", "tense"), channels="rgb", min_max=True)


@pytest.fixture
def winograd_calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one with each convolution that is made or traced as Winograd's: the shape of its input."""
    from emotiw_keras.models.kernels import winograd

    calls: list[object] = []
    real = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda x, kernel: (calls.append(x.shape), real(x, kernel))[1])
    return calls
