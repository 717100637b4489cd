"""Memory that the daemon frees goes back to the system."""

from __future__ import annotations

import ctypes

BLOCK_BYTES = 1_048_576
_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Have glibc unmap every block of BLOCK_BYTES or more as soon as it is freed; nothing happens elsewhere.

    By itself it raises that size to the largest block ever freed (mallopt(3)). A daemon that exchanges a large model
    then keeps several times the model's size: 130 MiB instead of 79 with one of 13 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES)
