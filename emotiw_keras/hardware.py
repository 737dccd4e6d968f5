"""What the processor can do, read without loading a framework."""

from __future__ import annotations

import functools
import os
from pathlib import Path

# Flags that decide speed here, as the Linux kernel spells them.
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")


@functools.cache
def processor_flags() -> tuple[str, ...]:
    """The processor's flags among `FLAGS`; empty where the system does not list them."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return ()
    words: set[str] = set()
    for line in file.read_text("utf-8", "replace").splitlines():
        if line.lower().startswith(("flags", "features")):
            words |= set(line.split(":", 1)[1].split())
    return tuple(flag for flag in FLAGS if flag in words)


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor_flags()))


def processor_threads() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
