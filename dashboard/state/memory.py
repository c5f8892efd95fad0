"""Free memory goes back to the system.

The C library of Linux gives each thread a pool to allocate from, and keeps what is freed there for
later. The page's work moves among many threads, so that each pool grew to hold the largest pass: of
2.6 GB after three pictures, 1.6 GB were free. Other systems do not need it.
"""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8
"""The number of pools, for ``mallopt``; from malloc.h."""
POOLS = 2
"""How many pools there are; more bring no speed."""


def limit_pools() -> bool:
    """Let all threads share a few pools; of use before there are many threads.

    Returns:
        Whether the C library knows pools.
    """
    library = _library()
    return hasattr(library, "mallopt") and bool(library.mallopt(M_ARENA_MAX, POOLS))


def give_back() -> bool:
    """Return free memory to the system; takes some tenths of a second.

    Returns:
        Whether there was any.
    """
    library = _library()
    return hasattr(library, "malloc_trim") and bool(library.malloc_trim(0))


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
