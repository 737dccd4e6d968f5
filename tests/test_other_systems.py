"""What POSIX alone has is not needed: the package imports and predicts without it, as on Windows, where no test runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

# fcntl and resource are refused to this package alone: the standard library itself takes them on this system.
WITHOUT_POSIX = """
import os, signal, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            frame = sys._getframe(1)
            while frame and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            if frame and frame.f_globals.get("__name__", "").startswith("emotiw_keras"):
                raise ImportError(f"there is no {name} on this system")
        return None

for name in ("fcntl", "resource"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
for name in ("SIGHUP", "SIGXCPU", "SIGKILL", "SIGUSR1", "SIGALRM"):
    delattr(signal, name)

def refused(*args, **options):
    raise OSError("not on this system")

for name in ("fork", "sysconf", "sched_getaffinity", "posix_fallocate", "pwrite", "statvfs", "mkfifo", "getuid"):
    delattr(os, name)
os.symlink = os.link = refused
os_open = os.open

def open_files_only(path, flags, *rest, **options):
    if not isinstance(path, int) and os.path.isdir(path):
        raise PermissionError(13, "a folder cannot be opened")
    return os_open(path, flags, *rest, **options)

os.open = open_files_only
from emotiw_keras import files, locking
files._WINDOWS = locking._WINDOWS = True
import importlib, pkgutil, emotiw_keras
for module in pkgutil.walk_packages(emotiw_keras.__path__, "emotiw_keras."):
    if "hdf5_helper" not in module.name and "_answers" not in module.name:
        importlib.import_module(module.name)
for name in ("fcntl", "resource"):  # libraries have imported them, as they may
    sys.modules.pop(name, None)
from emotiw_keras.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def test_import_and_predict_without_what_posix_alone_has(run_folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8)).save(tmp_path / "a.png")
    command = ["predict", str(tmp_path / "a.png"), "--model", str(run_folder), "--faces", "whole", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *command, "--annotate", str(tmp_path / "ann")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["error"] is None and abs(sum(row["probabilities"].values()) - 1) < 1e-4
    assert (tmp_path / "ann" / "a.png").is_file()
