"""The machine and the versions that figures belong to, and what its matrix products reach."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from emotiw_keras.hardware import native_bfloat16, processor_flags, processor_threads

PACKAGES = ("tensorflow", "keras", "numpy", "torch", "onnx", "onnxruntime", "openvino", "opencv-python-headless")
PRECISIONS = ("float32", "bfloat16")
SIDE = 4096
HELD_TO_AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Variables that keep TensorFlow, XLA and PyTorch from what a newer processor has beyond AVX2. ONNX Runtime knows none."""

KINDS = {
    "amx": ("amx_tile", "Processors with AMX"),
    "avx512-bf16": ("avx512_bf16", "Processors with AVX-512 and bfloat16, without AMX"),
    "avx512": ("avx512f", "Processors with AVX-512, without bfloat16"),
    "avx2": ("avx2", "Processors with AVX2 only"),
    "other": ("", "Other processors"),
}
"""Kinds of processors, whose figures are told apart: the flag that makes one (the first that is there counts), a heading."""


def hold_to_avx2() -> None:
    """Let this process and those it starts compute as on a processor that has AVX2 only; before a framework is imported."""
    os.environ.update(HELD_TO_AVX2)


def held() -> bool:
    """Whether `hold_to_avx2` counts here."""
    return all(os.environ.get(name) == value for name, value in HELD_TO_AVX2.items())


def flags() -> tuple[str, ...]:
    """The processor's flags that count: of a held one those of AVX2."""
    return tuple(flag for flag in processor_flags() if not held() or flag in ("avx2", "fma"))


def precisions() -> tuple[str, ...]:
    """What is measured here: bfloat16 only where the processor has it, for emulated products take minutes."""
    return PRECISIONS if native_bfloat16() else ("float32",)


def kind(flags: Sequence[str]) -> str:
    """The kind of a processor with these flags.

    Example:
        >>> kind(("avx2", "fma", "avx512f"))
        'avx512'
    """
    return next(name for name, (flag, _) in KINDS.items() if not flag or flag in flags)


def processor() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """What figures depend on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "processor": processor(),
        "cores": processor_threads(),
        "flags": list(flags()),
        "held to AVX2": held(),
        "kind": kind(flags()),
        "native_bfloat16": native_bfloat16(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _product(library: str, precision: str) -> Callable[[], None]:
    if library == "torch":
        import torch

        matrix = torch.randn(SIDE, SIDE).to(getattr(torch, precision))

        def multiply() -> None:
            torch.matmul(matrix, matrix)
    else:
        import tensorflow as tf

        array = tf.cast(tf.random.normal((SIDE, SIDE)), precision)

        def multiply() -> None:
            tf.linalg.matmul(array, array)[0, 0].numpy()

    return multiply


def main() -> None:
    """A contestant: multiplications and additions a second of a product of two matrices of 4096 x 4096."""
    from benchmarks.turns import rate_of, serve

    library, precision = sys.argv[1:]
    serve([0.0, 1.0], rate_of(_product(library, precision), 2 * SIDE**3, 1.0))


def product_rates(rounds: int, torch: bool = True) -> dict[str, Any]:
    """By precision of `precisions`, the best of `rounds` of each library, in turns; and the better of the libraries."""
    from benchmarks.turns import take_turns

    contestants = {f"{library} {p}": (library, p) for p in precisions() for library in (("tf", "torch") if torch else ("tf",))}
    commands = {name: ["benchmarks.machine", *arguments] for name, arguments in contestants.items()}
    figures = take_turns(commands, rounds, dict.fromkeys(commands, 0.0))
    best = {name: max(rates) for name, rates in figures.items()}
    return {p: max(rate for name, rate in best.items() if name.endswith(f" {p}")) for p in precisions()} | {"each": best}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main()
    else:
        print(json.dumps(describe(), indent=1), time.strftime("%F"))
