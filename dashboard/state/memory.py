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
    return bool(_call("mallopt", M_ARENA_MAX, POOLS))


def give_back() -> bool:
    """Return free memory to the system; takes some tenths of a second.

    Returns:
        Whether there was any.
    """
    return bool(_call("malloc_trim", 0))


def _call(name: str, *numbers: int) -> int:
    """A function of the C library; 0 where it has none of that name."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return 0 if function is None else int(function(*numbers))
