"""data.csv of a packed run, unpacked within bounds: such a file may come from strangers."""

from __future__ import annotations

import lzma
import zlib

PACKED_ROWS_FILE = "data.csv.xz"
PACKED_BY_0_1 = "data.csv.gz"
# Bytes of data.csv, and of memory while it is unpacked.
UNPACKED_LIMIT, UNPACKING_MEMORY = 1 << 30, 128 << 20
_GZIP = 16 + zlib.MAX_WBITS


def unpacked(name: str, packed: bytes) -> bytes:
    """What a packed data.csv of this name holds.

    Raises:
        ValueError: it is no such archive, damaged, cut short, or holds too much.
    """
    unpacker = (
        zlib.decompressobj(_GZIP) if name == PACKED_BY_0_1 else lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACKING_MEMORY)
    )
    try:
        rows = unpacker.decompress(packed, UNPACKED_LIMIT)
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"data.csv cannot be read ({error})") from error
    if not unpacker.eof:
        raise ValueError(f"{name} ends early or holds over {UNPACKED_LIMIT:,} bytes")
    return rows
