"""What `emotiw --version` reports: the versions of everything, and what the processor can do."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from typing import Any

import emotiw_keras
from emotiw_keras.hardware import processor_flags, processor_threads

PACKAGES = (
    "tensorflow", "keras", "numpy", "opencv-python-headless", "opencv-python", "scipy", "scikit-learn", "pillow",
    "h5py", "matplotlib", "click", "tensorboard", "jax", "torch",
)  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts() -> dict[str, Any]:
    """Versions, processor and threads, read without importing TensorFlow.

    Example:
        >>> facts()["emotiw_keras"]
        '0.2.0'
    """
    return {
        "emotiw_keras": emotiw_keras.__version__,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES if _version(package) is not None},
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor_flags": list(processor_flags()),
        "threads": processor_threads(),
        "keras_backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
    }


def report(as_json: bool = False) -> str:
    """The text of `emotiw --version`; one JSON object with `as_json`."""
    found = facts()
    if as_json:
        return json.dumps(found)
    lines = [f"emotiw_keras {found['emotiw_keras']}", f"python {found['python']}"]
    lines += [f"{package} {version}" for package, version in found["packages"].items()]
    lines.append(f"system {found['system']} {found['machine']}")
    lines.append(f"processor flags {' '.join(found['processor_flags']) or 'unknown'}")
    lines.append(f"threads {found['threads']}")
    return "\n".join(lines)
