"""What is built is what is installed: every package, the recipes, the command, the declared ranges."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import emotiw_keras

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that nothing is left behind in them."""
    source, out = tmp_path_factory.mktemp("source") / "emotiw", tmp_path_factory.mktemp("wheel")
    wanted = ("emotiw_keras", "cli", "weights", "setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md")
    source.mkdir()
    for name in wanted:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {f"emotiw_keras/{path.relative_to(ROOT / 'emotiw_keras')}" for path in (ROOT / "emotiw_keras").rglob("*.py")}
    expected |= {f"emotiw_keras/cli/{path.name}" for path in (ROOT / "cli").glob("*.py")}
    expected |= {f"emotiw_keras/weights/{path.name}" for path in (ROOT / "weights").glob("*.py")}
    expected |= {
        f"emotiw_keras/training/recipes/{path.name}" for path in (ROOT / "emotiw_keras/training/recipes").glob("*.toml")
    }
    expected |= {"emotiw_keras/py.typed", "emotiw_keras/weights/manifest.toml"}
    assert expected <= names
    assert not [name for name in names if name.split("/")[0] in ("tests", "cli", "weights", "benchmarks")]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_constraints_pin_what_is_declared_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", line), f"{line!r} is no pin"
            name, version = line.split("==")
            pins[name.lower().replace("_", "-")] = version
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = [
        setup["options"]["install_requires"],
        *(setup["options.extras_require"][extra] for extra in ("dev", "docs", "hub", "jax", "onnx")),
    ]
    for line in "\n".join(declared).splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), line
    assert "torch" not in pins


def test_the_version_is_told_once() -> None:
    assert f"version: {emotiw_keras.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{emotiw_keras.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_are_loaded_on_first_use() -> None:
    code = (
        "import sys, emotiw_keras\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert set(emotiw_keras.__all__) <= set(dir(emotiw_keras))\n"
        "print(*(getattr(emotiw_keras, name).__name__ for name in emotiw_keras.__all__ if name != '__version__'))\n"
        "try:\n    emotiw_keras.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Predictor Recipe Run Stage StagedFineTuner",
        "module 'emotiw_keras' has no attribute 'nothing'",
    ]


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment_runs_the_quick_start(wheel: Path, tmp_path: Path) -> None:
    """The wheel in a new environment trains, scores, predicts and exports, far from the source folder.

    Only the wheel is installed there. Its dependencies (TensorFlow alone is over a gigabyte) are not installed a
    second time: a .pth file puts this environment's packages behind the new environment's own. Python does not read
    .pth files of a folder that came in that way, so this environment's editable installation does not come along, and
    the package can only be the wheel's. What this leaves open, whether every dependency is declared, is checked by
    its own means: the ranges of the wheel against what is installed, here below, and the imports of the sources
    against setup.cfg, in test_imports.py.
    """
    environment = tmp_path / "empty"
    venv.create(environment, with_pip=False, symlinks=True)
    binaries = environment / "bin"
    python = binaries / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.check_output([python, "-c", query], text=True).strip())
    for requirement in map(Requirement, _requirements(own)):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert requirement.specifier.contains(metadata.version(requirement.name)), requirement
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work = tmp_path / "work"
    work.mkdir()
    variables = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "KERAS_BACKEND")
    }
    variables["PATH"] = f"{binaries}{os.pathsep}{variables['PATH']}"

    def run(*command: str) -> str:
        result = subprocess.run(command, capture_output=True, text=True, cwd=work, env=variables)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
        return result.stdout

    place = run("python", "-c", "import emotiw_keras.cli, emotiw_keras.weights; print(emotiw_keras.__file__)")
    assert Path(place.strip()).is_relative_to(environment)
    assert run("emotiw", "--version").startswith(f"emotiw_keras {emotiw_keras.__version__}\n")
    assert "demo" in run("emotiw", "recipes")
    assert "alexnet" in run("emotiw", "models")
    run("emotiw", "fit", "--out", "run", "--epochs", "1", "--limit", "21")
    draw = (
        "from PIL import Image; from emotiw_keras.data.generated import draw_faces\n"
        "Image.fromarray(draw_faces(1)[0][0, ..., 0]).save('face.png')"
    )
    run("python", "-c", draw)
    assert run("emotiw", "predict", "face.png", "--model", "run", "--faces", "whole").startswith("face.png: ")
    assert "faces agree" in run("emotiw", "export", "run", "served")


def _requirements(site: Path) -> list[str]:
    (found,) = [each for each in metadata.distributions(path=[str(site)]) if each.metadata["Name"] == "emotiw-keras"]
    return found.requires or []
