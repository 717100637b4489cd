"""What becomes of memory that was freed."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path
from quidnunc.peer.memory import BLOCK_BYTES, give_back_large_blocks

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


give_back_large_blocks()
b"x" * (16 * BLOCK_BYTES)
before, blocks, pins = held(), [], []
for _ in range(8):
    blocks.append(b"x" * (4 * BLOCK_BYTES))
    pins.append(b"x" * 100_000)  # keeps a heap from shrinking
most = held()
blocks.clear()
print(most - before >= 32 * BLOCK_BYTES, held() - before < 8 * BLOCK_BYTES)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator only")
def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    assert done.stdout.split() == [b"True", b"True"]
