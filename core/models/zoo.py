"""The smallest model of every timm family, with random weights, for tests on all families.

The model and input size of each family are measured by `smallest` and `least_size` and stored in
`zoo.json`.
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
"""File with the model and input size of each family."""
CLASSES = 7
"""Number of classes of a model with a classifier."""
DEPTH = 3
"""Number of transformer blocks, where timm can set it; some families have no small variant."""
LINEAR = nn.Linear | nn.Conv2d
LEAST = 1e-3
"""A weight tensor whose largest absolute value is below this is drawn again."""
SIDES = (64, 96, 112, 128, 160, 192, 224, 256)
"""Input sizes to try before the model's own size, in pixels."""
LARGEST = 512
"""Upper limit of the reference input size, in pixels."""


@dataclass(frozen=True, slots=True)
class Member:
    """The model that represents a family.

    Attributes:
        family: timm's name of the module that defines the family.
        model: timm's name of the model.
        side: side of its square input, in pixels.
    """

    family: str
    model: str
    side: int

    def handle(self) -> ModelHandle:
        """A new handle on the model, with random weights."""
        return build(self.model, self.side)


@cache
def members() -> dict[str, Member]:
    """The member of every family by the family's name."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {family: Member(family, name, side) for family, (name, side) in table.items()}


def member(family: str) -> Member:
    """The model that represents `family`.

    Raises:
        UnknownNameError: there is no such family.
    """
    if family not in members():
        raise unknown("family", family, members())
    return members()[family]


def build(name: str, side: int | None = None) -> ModelHandle:
    """A timm model with random weights from a fixed seed whose output depends on the picture.

    Several families initialise the classifier or branches with zeros, and untrained batch
    normalisations may remove the signal. Then the output does not depend on the input. So weights
    near zero are drawn again, batch normalisations get the statistics of noise images, and the
    classifier is scaled so that logits differ between pictures.

    Args:
        name: timm's name of the model.
        side: side of the square input in pixels; None for the model's own size.
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
    """Smooth noise images (count, C, H, W) in model units, determined by the seed."""
    channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, channels, 8, 8), generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


@torch.no_grad()
def _settle(model: nn.Module, noise: Tensor, name: str) -> None:
    """Sets the statistics of all batch normalisations to those of one batch of noise."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # None averages all batches equally
        layer.train()
    if layers:
        call_model(model, noise, name=name)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval().momentum = momentum


@torch.no_grad()
def _spread(model: Any, noise: Tensor, name: str) -> None:
    """Scales a linear classifier so that a logit varies by about 1 between noise images."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    heads = head if isinstance(head, tuple | list) else [head]
    linear = [m for h in heads if h is not None for m in h.modules() if isinstance(m, LINEAR)]
    if linear:  # several classifiers are used side by side
        spread = call_model(model, noise, name=name).std(0).mean()
        for module in linear:
            module.weight /= spread


def _built(name: str, side: int | None) -> nn.Module:
    """The timm model, with reduced depth and the given input size if timm accepts them."""
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    settings = {"num_classes": CLASSES} if cfg is None or cfg.num_classes else {}
    size = {} if side is None else {"img_size": side}
    for options in ({**size, "depth": DEPTH}, size, {"depth": DEPTH}):
        with suppress(TypeError, ValueError, AssertionError):  # no such argument, or not this value
            sized: nn.Module = timm.create_model(name, **settings, **options)
            return sized
    try:
        model: nn.Module = timm.create_model(name, **settings)
    except UNBUILDABLE as error:
        raise ModelError(f"{name} cannot be built ({error}); choose another model") from error
    return model


# -- how the table was made ------------------------------------------------------------------------


def smallest(family: str) -> str:
    """The model with the fewest parameters of a family."""
    names: list[str] = sorted(timm.list_models(module=family))
    return min(names, key=_parameters)


def _parameters(name: str) -> float:
    """Number of parameters, counted on the meta device; infinite if that fails."""
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name)
    except UNBUILDABLE:
        return float("inf")
    return sum(parameter.numel() for parameter in model.parameters())


def least_size(name: str) -> int:
    """The smallest input side, in pixels, with the same default layer as at the usual size.

    Raises:
        TimmscopeError: the model has no default layer.
    """
    cfg = get_pretrained_cfg(name, allow_unregistered=True)
    usual = min(LARGEST, cfg.input_size[-1] if cfg is not None else LARGEST)
    usual_layer = _default_layer(name, usual)
    for side in sorted({*SIDES, usual}):
        if usual_layer is not None and _default_layer(name, side) == usual_layer:
            return side
    raise TimmscopeError(f"{name} has no layer on a grid; choose another model for its family")


def _default_layer(name: str, side: int) -> str | None:
    """The default layer of CAM methods; None if the model cannot take inputs of that size."""
    try:
        return build(name, side).default_layer
    except TimmscopeError:
        return None
