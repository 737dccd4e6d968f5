"""The small distribution: the same package under another name, with what `predict` needs and nothing else.

`make dist` builds it beside the full one. It is the whole tree with `emotiw_keras` renamed to `emotiw_light`, so that both can
be installed together and removed apart; version and bounds stand in the full one's setup.cfg alone.
"""

from __future__ import annotations

import configparser
import re
import shutil
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parents[1]
NAME = "emotiw_light"
NEEDED = ("click", "filelock", "h5py", "numpy", "opencv-python-headless", "pillow", "tqdm")
"""What finds faces, reads expressions and opens exported models."""
EXTRAS = ("engines", "heic", "interlaced", "serve")
"""Extras of the full one that it has too."""
COMMANDS = ("models", "predict", "serve", "summary", "weights")
"""Commands that need nothing that it lacks; others are told as those of the full one, which is called `emotiw`."""
BUILD = Path(__file__).parent / "build" / "renamed"


def renamed(text: str) -> str:
    """Source code that imports the package, and tells of its command, by its other name."""
    text = re.sub(rf"\bemotiw-keras(?=\[({'|'.join(EXTRAS)})\])", "emotiw-light", text)  # what messages say to install
    text = re.sub(r"(?<=prog_name=\")emotiw(?=\")|(?<=\")emotiw(?=: | serve\")", "emotiw-light", text)
    text = text.replace("return list(COMMANDS)", f"return list({COMMANDS})")  # what its help lists
    text = re.sub(rf"\n    emotiw (?!({'|'.join(COMMANDS)})\b)[a-z-]+ [^\n]*  [^\n]*", "", text)  # and gives examples of
    text = re.sub(rf"((?<=`)|(?<=  )|(?<=: )|(?<=&& ))emotiw(?= ({'|'.join(COMMANDS)})\b)", "emotiw-light", text)
    return re.sub(r"\bemotiw_keras(?=\.[a-z_])|(?<=from )emotiw_keras\b|(?<=import )emotiw_keras\b", NAME, text)


full = configparser.ConfigParser()
full.read(ROOT / "setup.cfg")
lines = [line for line in full["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
needed = [line for line in lines if re.split(r"[<>=~!]", line)[0] in NEEDED]
assert len(needed) == len(NEEDED), needed
homes = {"emotiw_keras": "emotiw_keras", "emotiw_keras/cli": "cli", "emotiw_keras/weights": "weights"}
shutil.rmtree(BUILD, ignore_errors=True)
for place, source in homes.items():
    target = BUILD / place.replace("emotiw_keras", NAME)
    shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
for path in BUILD.rglob("*.py"):
    path.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")
default = re.search(r'^DEFAULT = "(.+)"$', (ROOT / "weights/shipped.py").read_text(encoding="utf-8"), re.MULTILINE)
assert default is not None
for model in (BUILD / NAME / "weights/shipped").iterdir():
    if model.name != default[1]:  # one model is enough to predict
        shutil.rmtree(model)
version = re.search(r'^__version__ = "(.+)"$', (ROOT / "emotiw_keras/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
assert version is not None

setup(
    name="emotiw-light",
    version=version[1],
    description="Facial expressions in photos and videos, without TensorFlow: emotiw-keras for those who only predict",
    long_description=(ROOT / "light/README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=full["options"]["python_requires"],
    packages=sorted(path.parent.relative_to(BUILD).as_posix().replace("/", ".") for path in BUILD.rglob("__init__.py")),
    package_dir={"": BUILD.relative_to(Path(__file__).parent).as_posix()},
    package_data={
        name.replace("emotiw_keras", NAME): re.split(r"[,\s]+", value.strip())
        for name, value in full["options.package_data"].items()
    },
    install_requires=needed,
    extras_require={
        extra: [line for line in full["options.extras_require"][extra].splitlines() if line and not line.startswith("#")]
        for extra in EXTRAS
    },
    entry_points={"console_scripts": [f"emotiw-light = {NAME}.cli.main:main"]},
)
