"""One model of every family timm has, as small as it comes.

What is said of any timm model is tried on these. Which model and which picture size stand for a
family is measured, by `smallest` and `least_size`, and kept in `zoo.json`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ModelError, TimmscopeError, unknown
from core.inputs.preprocessing import Preprocessing
from core.models.handle import ModelHandle
from core.models.load import UNBUILDABLE
from core.runtime.model_call import call_model

TABLE = Path(__file__).with_name("zoo.json")
"""The model and the picture size of each family."""
CLASSES = 7
"""How many classes a model gets that has any."""
DEPTH = 3
"""How many blocks a transformer keeps, where timm lets one choose: some have no small variant."""
LINEAR = nn.Linear | nn.Conv2d
LEAST = 1e-3
"""Weights of which none is as large as this are drawn anew."""
SIDES = (64, 96, 112, 128, 160, 192, 224, 256)
"""Picture sizes to try before the usual one, in pixels."""
LARGEST = 512
"""Models made for larger pictures are compared with themselves at this size, in pixels."""


@dataclass(frozen=True, slots=True)
class Member:
    """What stands for a family.

    Attributes:
        family: timm's name of the module that defines it.
        model: timm's name of the model.
        side: of the square pictures it is given, in pixels.
    """

    family: str
    model: str
    side: int

    def handle(self) -> ModelHandle:
        """A fresh handle on it, with random weights."""
        return build(self.model, self.side)


@cache
def members() -> dict[str, Member]:
    """Every family's member by the family's name."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {family: Member(family, name, side) for family, (name, side) in table.items()}


def member(family: str) -> Member:
    """What stands for `family`.

    Raises:
        UnknownNameError: there is no such family.
    """
    if family not in members():
        raise unknown("family", family, members())
    return members()[family]


def build(name: str, side: int | None = None) -> ModelHandle:
    """A timm model with random weights, the same each time, that tells pictures apart.

    Several families start from a classifier or branches of zeros or nearly so, and others lose the
    picture on the way, as their normalisations do not know yet what they will see. Then nothing
    depends on anything. So no weights are left next to zero, batch normalisations are shown noise,
    and classifiers are scaled to differ between pictures.

    Args:
        name: timm's name of the model.
        side: of the pictures it is to see; by default what it was made for.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = _built(name, side)
        for key, parameter in model.named_parameters():
            if not key.endswith("bias") and parameter.abs().max() < LEAST:
                nn.init.normal_(parameter, std=0.05)
        seen = {} if side is None else {"input_size": (3, side, side)}
        prepared = Preprocessing.from_model(model, **seen)
        noise = smooth_noise(4, prepared.input_size, seed=0)
        _settle(model.eval(), noise, name)
        _spread(model, noise, name)
    return ModelHandle(model, name=name, preprocessing=prepared, owned=True)


def smooth_noise(count: int, size: tuple[int, int, int], seed: int) -> Tensor:
    """Pictures of smooth noise (count, C, H, W) in model units, the same for the same seed."""
    channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, channels, 8, 8), generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


@torch.no_grad()
def _settle(model: nn.Module, noise: Tensor, name: str) -> None:
    """Let batch normalisations take their statistics from one batch of noise."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean of what is seen
        layer.train()
    if layers:
        call_model(model, noise, name=name)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval().momentum = momentum


@torch.no_grad()
def _spread(model: Any, noise: Tensor, name: str) -> None:
    """Scale a linear classifier so that a logit varies by about one between pictures of noise."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    heads = head if isinstance(head, tuple | list) else [head]
    linear = [m for h in heads if h is not None for m in h.modules() if isinstance(m, LINEAR)]
    if linear:  # side by side, where there are several
        spread = call_model(model, noise, name=name).std(0).mean()
        for module in linear:
            module.weight /= spread


def _built(name: str, side: int | None) -> nn.Module:
    """The model as timm makes it, told its depth and the size of its pictures if it can be told."""
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    settings = {"num_classes": CLASSES} if cfg is None or cfg.num_classes else {}
    size = {} if side is None else {"img_size": side}
    for wish in ({**size, "depth": DEPTH}, size, {"depth": DEPTH}):
        with suppress(TypeError, ValueError, AssertionError):  # no such argument, or not this value
            sized: nn.Module = timm.create_model(name, **settings, **wish)
            return sized
    try:
        model: nn.Module = timm.create_model(name, **settings)
    except UNBUILDABLE as error:
        raise ModelError(f"{name} cannot be built ({error}); choose another model") from error
    return model


# -- how the table came to be ----------------------------------------------------------------------


def smallest(family: str) -> str:
    """The model of a family that has the fewest parameters."""
    names: list[str] = sorted(timm.list_models(module=family))
    return min(names, key=_parameters)


def _parameters(name: str) -> float:
    """How many a model has, counted without making room for them; infinite if that fails."""
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name)
    except UNBUILDABLE:
        return float("inf")
    return sum(parameter.numel() for parameter in model.parameters())


def least_size(name: str) -> int:
    """The smallest picture, in pixels, on which CAMs look where they do at the usual size.

    Raises:
        TimmscopeError: there is no layer to look at.
    """
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    usual = min(LARGEST, cfg.input_size[-1] if cfg is not None else LARGEST)
    place = _place(name, usual)
    for side in sorted({*SIDES, usual}):
        if place is not None and _place(name, side) == place:
            return side
    raise TimmscopeError(f"{name} has no layer to look at; choose another model for its family")


def _place(name: str, side: int) -> str | None:
    """Where CAMs look by default; None where the model cannot take pictures of that size."""
    try:
        return build(name, side).default_layer
    except TimmscopeError:
        return None
