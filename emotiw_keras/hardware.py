"""What the processor can do, read without loading a framework."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from emotiw_keras.errors import UsageError

# Flags that decide speed here, as the Linux kernel spells them.
FLAGS = (
    "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx_vnni", "avx512_vnni", "amx_bf16", "amx_int8", "amx_tile",
    "asimd", "asimddp", "bf16", "sve",
)  # fmt: skip

# Values of ONEDNN_MAX_CPU_ISA under which oneDNN has no bfloat16.
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")

LARGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


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
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor_flags())) and not bfloat16_is_hidden()


def multiplies_bytes() -> bool:
    """Whether the processor adds up products of bytes in words of 32 bits; others add pairs in 16, which can run over."""
    return bool({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp"} & set(processor_flags()))


def bfloat16_is_hidden() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA hides AVX-512 from oneDNN where the processor has it: TensorFlow gives it products of bfloat16
    all the same, and crashes."""
    asked = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return asked in WITHOUT_BFLOAT16 and "avx512f" in processor_flags()


def check_precision(policy: str) -> None:
    """Refuse a dtype policy that would crash the process.

    Raises:
        UsageError: bfloat16 where `bfloat16_is_hidden`.
    """
    if "bfloat16" in policy and bfloat16_is_hidden():
        raise UsageError(
            f"{policy} crashes TensorFlow where ONEDNN_MAX_CPU_ISA hides AVX-512 that the processor has; "
            "unset it, or compute in float32"
        )


def bfloat16_tiles() -> bool:
    """Whether the processor multiplies whole tiles of bfloat16 at once (AMX), several times as fast as float32."""
    return "amx_bf16" in processor_flags()


_limit: int | None = None


def limit_threads(count: int) -> None:
    """Let what computes here use so many threads: many such processes share a machine, and a sum's order, and with it the last
    bits, depends on the number. Call it before TensorFlow is imported.
    """
    global _limit
    import cv2

    _limit = count
    cv2.setNumThreads(count)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(count)


def thread_limit() -> int | None:
    """What `limit_threads` said last."""
    return _limit


def processor_threads() -> int:
    """Processors this process may run on, or the number of threads that it was limited to."""
    if _limit is not None:
        return _limit
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> bool:
    """Let freed memory stay with the process, and ask for large pages, where the C library is glibc; call it before arrays are
    made.

    By default glibc gives every large block back to the system at once, and each training step faults a gigabyte of fresh pages
    in again: nearly a third of a step of AlexNet on two cores. With pages of 4 KiB another tenth goes into finding them.

    Returns:
        Whether the C library took the settings.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # another system or C library: nothing to mend
        return False
    one_arena, no_mmap, never_trim, grow_by = (-8, 1), (-4, 0), (-1, -1), (-2, 64 << 20)
    # A list, so that every call is made.
    taken = all([mallopt(*option) for option in (one_arena, no_mmap, never_trim, grow_by)])  # noqa: C419
    if taken and _addresses_are_free():
        _large_pages(libc, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return taken


def _addresses_are_free() -> bool:
    """Whether addresses without memory behind them count for nothing: no limit, nor a system that promises all it gives out."""
    try:
        import resource
    except ImportError:  # not on Windows
        return False

    strict = Path("/proc/sys/vm/overcommit_memory")
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return limits == [resource.RLIM_INFINITY] * 2 and strict.exists() and strict.read_text().strip() != "2"


def _large_pages(libc: ctypes.CDLL, size: int) -> None:
    """Grow the heap by so many addresses, which it keeps, and ask for large pages in them, which may not be granted."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block:
        start = -(-block // LARGE_PAGE) * LARGE_PAGE
        libc.madvise(start, (block + size - start) // LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE)
        libc.free(block)


def available_memory() -> int:
    """Bytes that can be taken now: what the system has left, or less where a control group sets a limit."""
    left = _system_memory()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        numbers = [_number(path) for path in (limit, used)]
        if numbers[0] is not None and numbers[1] is not None:
            left = min(left, max(0, numbers[0] - numbers[1]))
    return left


def _system_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc on this system: ask for the physical pages below
    if not hasattr(os, "sysconf"):
        return 2 << 30  # Windows tells neither in this way: what any machine that trains has to spare
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None  # no such control group, or "max": no limit
