"""Stopwatch, memory meter and FLOP counter."""

from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.subjects import Work


def seconds(work: Work) -> float:
    """One run of `work`."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def turns(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """The seconds of each, turn by turn, after a warm-up: what slows one slows all."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        order = list(works) if turn % 2 == 0 else list(works)[::-1]
        for name in order:
            times[name].append(seconds(works[name]))
    return times


def ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """The median over turns of one's time over another's."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def flops(work: Work) -> int:
    """Floating point operations of one run."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def peak_bytes(work: Work, device: torch.device) -> int:
    """Most memory that `work` takes beyond what was in use; on a CPU, only in a fresh process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident_bytes(reset=True)
    work()
    return _resident_bytes() - before


def _resident_bytes(reset: bool = False) -> int:
    """The process's high-water mark; on Linux it can be lowered to the present level."""
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were taken on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()
