"""Whether a module holds the pretrained weights that its configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from core.errors import ModelError
from core.models import checkpoint, embedded, hub


def holds_pretrained(model: nn.Module, cfg: Mapping[str, Any]) -> bool:
    """Whether the module's weights are those of the kept file of its configuration.

    False also where no file is kept on this machine: nothing is downloaded for it, and who has
    loaded pretrained weights has the file.

    Args:
        model: a timm model.
        cfg: its `pretrained_cfg`.
    """
    state = model.state_dict()
    if any(not isinstance(tensor, Tensor) or tensor.is_meta for tensor in state.values()):
        return False
    try:
        return _same_as_kept(state, cfg)
    except (SafetensorError, OSError, ModelError):
        return False


def _same_as_kept(state: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> bool:
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    if embedded.is_embedded(name):
        return embedded.is_available(name) and _same(state, embedded.weights(name))
    file = _kept_file(cfg)
    if file is None:
        return False
    if file.suffix != ".safetensors":
        return _same(state, checkpoint.read_weights(file))
    with safetensors.safe_open(file, framework="pt") as kept:
        return _equal(state, set(kept.keys()), kept.get_tensor)


def _kept_file(cfg: Mapping[str, Any]) -> Path | None:
    """The file that timm has downloaded; None if there is none."""
    repo, url = cfg.get("hf_hub_id"), cfg.get("url")
    if repo:
        names = (cfg["hf_hub_filename"],) if cfg.get("hf_hub_filename") else hub.WEIGHTS
        copies = (hub.cached_copy(str(repo), str(name)) for name in names)
        found = next((copy for copy in copies if copy), None)
        return None if found is None else Path(found)
    if isinstance(url, str) and url:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
        return file if file.is_file() else None
    return None


def _same(state: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> bool:
    return _equal(state, set(kept), kept.__getitem__)


def _equal(state: Mapping[str, Tensor], names: set[str], kept: Callable[[str], Tensor]) -> bool:
    """Whether every weight is the kept one; counters of batches say nothing of the weights."""
    wanted = [name for name in state if not name.endswith("num_batches_tracked")]
    return names.issuperset(wanted) and all(
        torch.equal(kept(name).to(state[name].dtype), state[name].cpu()) for name in wanted
    )
