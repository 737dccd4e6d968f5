"""The small distribution predicts without what it leaves out, and says what it leaves out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

from emotiw_keras.data.generated import write_images

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("click", "filelock", "h5py", "numpy", "opencv-python-headless", "pillow", "tqdm")
LARGEST = 300e6


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the small wheel and links to the packages that it names, and nothing else; its folder of commands."""
    source, out, home = (tmp_path_factory.mktemp(name) for name in ("source", "wheel", "home"))
    for name in ("emotiw_keras", "cli", "weights", "light"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    shutil.copy(ROOT / "setup.cfg", source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source / "light")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = out.glob("emotiw_light-*.whl")
    venv.create(home, with_pip=False, symlinks=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin/python"),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    size = sum(path.stat().st_size for path in (packages / "emotiw_light").rglob("*") if path.is_file())
    for name in NEEDED:
        distribution = metadata.distribution(name)
        size += sum(
            Path(str(file.locate())).stat().st_size for file in distribution.files or [] if Path(str(file.locate())).is_file()
        )
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    assert size < LARGEST, f"{size / 1e6:.0f} MB"
    return home / "bin"


def run(command: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One command."""
    return subprocess.run([str(command), *words], capture_output=True, text=True, cwd=cwd)


def test_it_answers_as_the_full_one(light: Path, tmp_path: Path) -> None:
    write_images("small", str(tmp_path / "faces"), limit=7)
    words = ("predict", "faces", "--faces", "whole", "--json")
    small = run(light / "emotiw-light", *words, cwd=tmp_path)
    full = run(Path(sys.executable).parent / "emotiw", *words, cwd=tmp_path)
    assert small.returncode == 0, small.stderr
    assert small.stdout == full.stdout and len(small.stdout.splitlines()) > 6
    assert abs(sum(json.loads(small.stdout.splitlines()[0])["probabilities"].values()) - 1) < 1e-5


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ("fit demo --out x", "which is not installed; pip install emotiw-keras brings it", 5),
        ("evaluate fer28-face-vgg-votes --data faces", "which is not installed; pip install emotiw-keras brings it", 5),
        ("serve", "pip install 'emotiw-light[serve]'", 2),
        ("predict faces --engine tensorflow", "TensorFlow is not installed; pip install emotiw-keras brings it", 2),
        (
            "predict faces --precision mixed_bfloat16",
            "TensorFlow is not installed, and no other engine here computes in mixed_",
            2,
        ),
        ("predict faces --explain why", "error: TensorFlow is not installed; pip install emotiw-keras brings it\n", 2),
        ("predict faces --detector yunet", "get it with `emotiw-light weights fetch yunet`", 5),
        ("predict", "emotiw-light: error: Missing argument 'INPUT...'; see 'emotiw-light predict --help'", 2),
    ],
)
def test_what_it_leaves_out_is_a_line(light: Path, tmp_path: Path, words: str, said: str, code: int) -> None:
    write_images("small", str(tmp_path / "faces"), limit=7)
    done = run(light / "emotiw-light", *words.split(), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_its_command_goes_by_its_name(light: Path, tmp_path: Path) -> None:
    said = run(light / "emotiw-light", "predict", "--help", cwd=tmp_path).stdout
    assert said.startswith("Usage: emotiw-light predict ") and "emotiw-light predict party.jpg --model runs/first\n" in said
    assert "list.txt --out read --jobs 8 && emotiw-light summary read\n" in said
    assert "`emotiw export --format onnx`" in " ".join(said.split())  # which it has not: that of the full one
    listed = run(light / "emotiw-light", "--help", cwd=tmp_path).stdout
    assert "emotiw-light predict me.jpg" in listed and not {"fit", "export", "evaluate"} & set(listed.split()), listed
    assert {"predict", "serve", "summary", "models", "weights"} <= set(listed.split())
    assert (
        "the commands are models, predict, serve, summary, weights" in run(light / "emotiw-light", "foo", cwd=tmp_path).stderr
    )
    code = "from emotiw_light.serving.web import openapi as asked; print(open(asked.__file__).read())"
    assert '"title": "emotiw-light serve"' in run(light / "python", "-c", code, cwd=tmp_path).stdout
    write_images("small", str(tmp_path / "faces"), limit=7)
    run(light / "emotiw-light", "predict", "faces", "--faces", "whole", "--out", "read", cwd=tmp_path)
    summary = run(light / "emotiw-light", "summary", "read", cwd=tmp_path)
    assert summary.returncode == 0 and "faces an image" in summary.stdout, summary.stderr


def test_it_stands_beside_the_full_one(light: Path, tmp_path: Path) -> None:
    code = "import sys, emotiw_light; emotiw_light.Predictor; print([m for m in sys.modules if m.startswith('emotiw_keras')])"
    done = run(light / "python", "-c", code, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr
