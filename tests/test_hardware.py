"""What the process asks of the system's memory."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import ctypes, json, sys
from emotiw_keras.hardware import keep_memory

def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith(field + ":"))

if sys.argv[1] == "limited":
    import resource
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))
before, taken = kib("Rss"), keep_memory()
asked = kib("Rss")
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
block = libc.malloc(3 << 30)
ctypes.memset(block, 1, 256 << 20)
libc.free(block)
print(json.dumps({"taken": taken, "asked": asked - before, "kept": kib("Rss") - asked, "large": kib("AnonHugePages")}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not THP.exists(), reason="Linux with glibc and large pages only")
@pytest.mark.parametrize("limit", ["none", "limited"])
def test_freed_memory_stays_and_is_of_large_pages(limit: str) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, limit], capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout)
    assert told["taken"]
    assert told["asked"] < 4096  # addresses alone
    assert told["kept"] > 250 << 10
    if limit == "limited" and "[always]" not in THP.read_text():
        assert told["large"] == 0
    elif limit == "none" and "[never]" not in THP.read_text():
        assert told["large"] > 128 << 10
