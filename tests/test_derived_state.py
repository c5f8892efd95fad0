"""What modules keep of their weights follows when these are shuffled, or is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from core import ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.metrics.randomisation import cascade
from core.runtime.model_call import copy_model
from tests.conftest import images


class Layer(nn.Module):
    """A layer whose weight is doubled on the way; subclasses keep the doubled weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, 8)
        self.head = nn.Linear(8, 7)

    def doubled(self) -> Tensor:
        return 2 * self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x).mean((2, 3)) @ self.doubled().T
        return out


class InDict(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def doubled(self) -> Tensor:
        if "cpu" not in self.cache:
            self.cache["cpu"] = super().doubled()
        return self.cache["cpu"]


class InAttribute(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None

    def doubled(self) -> Tensor:
        if self.cache is None:
            self.cache = super().doubled()
        return self.cache


class InList(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.cache: list[Tensor] = []

    def doubled(self) -> Tensor:
        if not self.cache:
            self.cache.append(super().doubled())
        return self.cache[0]


class InProperty(Layer):
    @functools.cached_property
    def kept(self) -> Tensor:
        return super().doubled()

    def doubled(self) -> Tensor:
        return self.kept


class InMethod(Layer):
    @functools.lru_cache(maxsize=4)  # noqa: B019
    def kept(self) -> Tensor:
        return super().doubled()

    def doubled(self) -> Tensor:
        return self.kept()


def handle_of(model: nn.Module) -> ModelHandle:
    sized = Preprocessing((3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    return ModelHandle(model.eval(), name="lent", preprocessing=sized)


@pytest.mark.parametrize("kind", [Layer, InDict, InAttribute, InList, InProperty, InMethod])
def test_a_cache_follows_the_shuffled_weights(kind: type[Layer]) -> None:
    torch.manual_seed(0)
    model = kind()
    owner = handle_of(model)
    x = images(owner, 2)
    before = model(x)  # with gradients, as its owner would
    for shuffled in cascade(owner, 2, seed=0):
        copied: Any = shuffled.model
        expected = copied.conv(x).mean((2, 3)) @ (2 * copied.head.weight).T
        torch.testing.assert_close(copied(x), expected)
        assert not torch.allclose(copied(x), before)
    torch.testing.assert_close(model(x), before)


class Folded(Layer):
    """Computes something from its weights once, when it is built."""

    def __init__(self, buffer: bool, how: str) -> None:
        super().__init__()
        weight = self.head.weight.detach()
        kept = {
            "doubled": 2 * weight,
            "rows": weight * torch.linspace(1, 3, 7)[:, None],
            "picked": weight[:, torch.arange(8).flip(0)],
            "exponential": weight.exp(),
        }[how]
        if buffer:
            self.register_buffer("kept", kept, persistent=False)
        else:
            self.kept = kept

    def doubled(self) -> Tensor:
        return self.kept


@pytest.mark.parametrize("buffer", [True, False])
@pytest.mark.parametrize("how", ["doubled", "rows", "picked", "exponential"])
def test_what_cannot_follow_is_refused(how: str, buffer: bool) -> None:
    owner = handle_of(Folded(buffer, how))
    with pytest.raises(NotApplicableError, match=r"lent keeps a tensor .* in 'kept'"):
        next(iter(cascade(owner, 2, seed=0)))


class Constants(Layer):
    """Keeps constants that have nothing to do with its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.linspace(0, 1, 3)[:, None, None]
        self.register_buffer("window", torch.hann_window(32))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - self.mean) * self.window)


def test_constants_are_no_reason() -> None:
    owner = handle_of(Constants())
    assert len(list(cascade(owner, 2, seed=0))) == 2


@pytest.mark.parametrize("name", ["levit_128s", "tiny_vit_5m_224"])
def test_attention_biases_are_shuffled(name: str) -> None:
    model = timm.create_model(name, num_classes=7).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    owner = ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))
    x = images(owner, 1)
    model(x)  # with gradients: timm keeps a tensor with its graph
    for shuffled in cascade(owner, 2, seed=0):
        out = shuffled.model(x)
        for module in shuffled.model.modules():
            cache = vars(module).get("attention_bias_cache")
            if cache:
                biases = module.attention_biases[:, module.attention_bias_idxs]
                for kept in cache.values():
                    torch.testing.assert_close(kept, biases)
        assert torch.isfinite(out).all()


def test_what_shares_memory_shares_it_in_the_copy() -> None:
    model = Layer()
    model.tied = nn.Linear(8, 7)
    model.tied.weight = model.head.weight
    model.same_memory = nn.Parameter(model.head.weight.data[:3])
    model.view = model.head.weight.detach()[1:]
    model.graph = model.head.weight * 2
    copied: Any = copy_model(model, name="lent")
    assert copied.tied.weight is copied.head.weight
    with torch.no_grad():
        copied.head.weight.fill_(5)
    assert (copied.same_memory == 5).all()
    assert (copied.view == 5).all()
    assert not (model.head.weight == 5).any()
    assert copied.graph.grad_fn is None
    assert isinstance(copied.same_memory, nn.Parameter)
