"""Free memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dashboard.state import Service, memory
from tests.test_code_rules import ROOT

PROGRAM = """
import ctypes, threading
from dashboard.state import memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
before = resident()
blocks = [library.malloc(60_000) for _ in range(4000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
full = resident()
for block in blocks[:-1]:  # the last one keeps all the others from going
    library.free(ctypes.c_void_p(block))
kept = resident()
memory.give_back()
print(before, full, kept, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need none of it")
def test_what_is_free_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=True,
    )  # fmt: skip
    before, full, kept, after = map(int, done.stdout.split())
    assert full - before > 200
    assert kept - before > 200
    assert after - before < 40


def test_slow_work_gives_back_when_it_has_ended() -> None:
    assert Service().slow._when_idle is memory.give_back


def test_systems_that_do_not_need_it_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.give_back()
    assert not memory.limit_pools()
