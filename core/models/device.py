"""Where a model runs, and whether it fits there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from core.errors import MemoryExhaustedError, unknown


def available_devices() -> list[str]:
    """The devices of this machine, fastest first.

    >>> available_devices()[-1]
    'cpu'
    """
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    metal = ["mps:0"] if torch.backends.mps.is_available() else []
    return [*cards, *metal, "cpu"]


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device to use: the one asked for, or else the fastest there is (cuda, mps, cpu).

    The answer carries its index, so that it equals the ``device`` of the tensors that live there.

    Args:
        device: a name such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None chooses.

    Raises:
        UnknownNameError: this machine has no such device.

    >>> choose_device("cpu")
    device(type='cpu')
    >>> choose_device("toaster")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    core.errors.UnknownNameError: no device 'toaster'; choose one of ...cpu
    """
    known = available_devices()
    wanted = known[0] if device is None else str(device).strip().lower()
    kind = wanted.partition(":")[0]
    if wanted == "cuda" and "cuda:0" in known:
        wanted = f"cuda:{torch.cuda.current_device()}"
    elif wanted == "mps":
        wanted = "mps:0"
    elif wanted == "cpu:0":
        wanted = "cpu"
    if wanted not in known:
        raise unknown("device", wanted, known if kind not in known else [kind])
    return torch.device(wanted)


def size_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; the meta device counts as if it held them."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def free_bytes(device: torch.device) -> int | None:
    """Memory that `device` can still give, in bytes; None where it cannot be told."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_ram()


def free_ram(root: Path = Path("/")) -> int | None:
    """Memory left to this process in bytes, a container's own limit included.

    Args:
        root: where the system's `proc` and `sys` folders lie.
    """
    bounds = [_meminfo(root / "proc/meminfo"), *map(_cgroup, _cgroups(root))]
    return min((b for b in bounds if b is not None), default=None)


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _cgroups(root: Path) -> list[Path]:
    """This process's control group (version 2) and all that enclose it."""
    base = root / "sys/fs/cgroup"
    try:
        own = (root / "proc/self/cgroup").read_text().strip().splitlines()[-1].split(":", 2)[2]
    except (OSError, IndexError):
        own = "/"
    leaf = base / own.lstrip("/")
    return [leaf, *(parent for parent in leaf.parents if parent.is_relative_to(base))]


def _cgroup(group: Path) -> int | None:
    """What a control group may still use; page cache that can be dropped counts as free."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    droppable = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    return max(0, limit - used + droppable)


def require_room(needed: int, device: torch.device, name: str) -> None:
    """Refuse a model that `device` has no room for.

    Args:
        needed: its size in bytes.
        device: where it is to live.
        name: how to call it in the sentence.

    Raises:
        MemoryExhaustedError: `needed` exceeds what is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise _too_large(needed, free, device, name)


def move_to_device(model: nn.Module, device: torch.device, name: str) -> nn.Module:
    """Move a model of ours to `device`, ready to be looked at: eval mode, frozen.

    On the CPU its 2-D convolutions are stored channels last, which runs faster there. Only they:
    other four-dimensional parameters (position tables) may be reshaped by code that expects rows.

    Raises:
        MemoryExhaustedError: the device ran out of memory on the way.
    """
    model.eval().requires_grad_(False)
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        model.to("cpu")
        raise _too_large(size_of(model), free_bytes(device), device, name) from error
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    return model


def _too_large(
    needed: int, free: int | None, device: torch.device, name: str
) -> MemoryExhaustedError:
    rest = "too little" if free is None else gigabytes(free)
    return MemoryExhaustedError(
        f"{name} needs {gigabytes(needed)} of memory and {device} has {rest} left; "
        "choose a smaller model or another device"
    )


def gigabytes(size: int) -> str:
    """A size in words.

    >>> gigabytes(17_600_000_000), gigabytes(18_826_032)
    ('17.6 GB', '18.8 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
