"""Devices: which there are, and whether a model fits into their memory."""

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
    """The requested device, or the fastest of this machine (cuda, mps, cpu).

    The result has an index, so that it equals the ``device`` of its tensors.

    Args:
        device: a name such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None for the fastest.

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
    """Bytes of a model's parameters and buffers; also for a model on the meta device."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of `device` in bytes; None if it is unknown."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_ram()


def free_ram(root: Path = Path("/")) -> int | None:
    """Free memory of this process in bytes, limited by its container; None if it is unknown.

    Args:
        root: the folder that contains `proc` and `sys`.
    """
    bounds = [_meminfo(root / "proc/meminfo"), *map(_cgroup, _cgroups(root))]
    return min((b for b in bounds if b is not None), default=None)


def _meminfo(path: Path) -> int | None:
    """Bytes of available memory in a `meminfo` file; None if there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _cgroups(root: Path) -> list[Path]:
    """The folders of this process's control group (version 2) and its parents."""
    base = root / "sys/fs/cgroup"
    try:
        own = (root / "proc/self/cgroup").read_text().strip().splitlines()[-1].split(":", 2)[2]
    except (OSError, IndexError):
        own = "/"
    leaf = base / own.lstrip("/")
    return [leaf, *(parent for parent in leaf.parents if parent.is_relative_to(base))]


def _cgroup(group: Path) -> int | None:
    """Bytes that a control group may still use; inactive page cache counts as free."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    droppable = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    return max(0, limit - used + droppable)


def require_room(needed: int, device: torch.device, name: str) -> None:
    """Refuses a model that does not fit into the free memory of a device.

    Args:
        needed: size of the model in bytes.
        device: the device it will run on.
        name: the model's name, for the error message.

    Raises:
        MemoryExhaustedError: less than `needed` bytes are free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise _too_large(needed, free, device, name)


def move_to_device(model: nn.Module, device: torch.device, name: str) -> nn.Module:
    """Moves an owned model to a device, in evaluation mode and with frozen parameters.

    On the CPU, 2-D convolutions are stored channels last, which is faster. Other four-dimensional
    parameters (position tables) are left as they are, because the model may reshape them.

    Args:
        model: the model; it is changed in place.
        device: the target device.
        name: the model's name, for the error message.

    Returns:
        The same model.

    Raises:
        MemoryExhaustedError: the device ran out of memory.
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
    """A size in bytes as text in GB or MB.

    >>> gigabytes(17_600_000_000), gigabytes(18_826_032)
    ('17.6 GB', '18.8 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
