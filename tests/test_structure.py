"""A lent model that is changed is another model: its fingerprint, its answers and its layers."""

from __future__ import annotations

import functools
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core import Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.models.structure import structure
from tests.conftest import images
from tests.test_code_rules import ROOT

SCALE = [1.0]


class Half(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Settings:
    """An object of the user's own."""

    def __init__(self) -> None:
        self.factor = 1.0


class Network(nn.Module):
    """A small network with settings of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 4, 2)
        self.act: nn.Module = nn.LeakyReLU(0.1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 7)
        self.scale = 1.0
        self.scales = [1.0, 2.0]
        self.table = {"a": {"b": 1.0}}
        self.pair: tuple[float, ...] = (1.0, 2.0)
        self.settings = Settings()
        self.constant = torch.ones(8)
        self.constants = [torch.ones(8)]
        self.unregistered = [nn.Linear(8, 8)]
        self.function: Callable[[Tensor], Tensor] = torch.sigmoid
        self.partial = functools.partial(torch.mul, other=torch.tensor(1.0))
        self.register_buffer("volatile", torch.ones(8), persistent=False)
        nn.init.eye_(self.unregistered[0].weight)
        factor = [1.0]
        self.closure = lambda x: x * factor[0]
        self.calls = 0
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.act(self.norm(self.stem(x)))
        x = self.function(x) * self.scale * self.scales[0] * self.table["a"]["b"] * self.pair[0]
        x = self.closure(self.partial(x)) * self.settings.factor * SCALE[0]
        x = x.mean((2, 3)) * self.constant * self.constants[0] * self.volatile
        self.last = self.unregistered[0](x)
        out: Tensor = self.head(self.last)
        return out


def half(*arguments: Any) -> Tensor:
    """A forward hook that halves a layer's output."""
    output: Tensor = arguments[-1]
    return output * 0.5


def _closure(model: Network) -> None:
    model.closure.__closure__[0].cell_contents[0] = 3.0  # type: ignore[attr-defined]


def _forward(model: Network) -> None:
    old = model.act.forward
    model.act.forward = lambda x: old(x) + 1  # type: ignore[method-assign]


def _bound_forward(model: Network) -> None:
    def forward(self: Network, x: Tensor) -> Tensor:
        return 2 * Network.forward(self, x)

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]


def _double_hook(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (2 * args[0],)


CHANGES: dict[str, Callable[[Network], Any]] = {
    "a forward hook": lambda m: m.norm.register_forward_hook(half),
    "a hook on the model": lambda m: m.register_forward_hook(half),
    "a hook with keywords": lambda m: m.norm.register_forward_hook(half, with_kwargs=True),
    "a hook before the forward pass": lambda m: m.norm.register_forward_pre_hook(_double_hook),
    "a hook that is a lambda": lambda m: m.norm.register_forward_hook(lambda *a: a[-1] * 3),
    "a hook that is a partial": lambda m: m.norm.register_forward_hook(
        functools.partial(lambda factor, *a: a[-1] * factor, 2)
    ),
    "a forward method": _forward,
    "the model's forward method": _bound_forward,
    "a submodule": lambda m: setattr(m, "act", nn.Tanh()),
    "a submodule of the same kind": lambda m: setattr(m, "act", nn.LeakyReLU(0.3)),
    "a submodule's setting": lambda m: setattr(m.act, "negative_slope", 0.5),
    "a submodule that is inserted": lambda m: setattr(m, "act", nn.Sequential(m.act, nn.Tanh())),
    "an epsilon": lambda m: setattr(m.norm, "eps", 0.5),
    "batch statistics": lambda m: setattr(m.norm, "running_mean", torch.ones(8)),
    "a float": lambda m: setattr(m, "scale", 2.0),
    "an item of a list": lambda m: m.scales.__setitem__(0, 3.0),
    "an item of a nested dict": lambda m: m.table["a"].__setitem__("b", 3.0),
    "a tuple": lambda m: setattr(m, "pair", (3.0, 2.0)),
    "an object's attribute": lambda m: setattr(m.settings, "factor", 3.0),
    "a plain tensor": lambda m: m.constant.mul_(2),
    "another plain tensor": lambda m: setattr(m, "constant", torch.full((8,), 0.5)),
    "a tensor in a list": lambda m: m.constants[0].mul_(2),
    "a module in a list": lambda m: m.unregistered[0].weight.data.mul_(2),
    "a buffer that is not saved": lambda m: m.volatile.mul_(2),
    "a function": lambda m: setattr(m, "function", torch.tanh),
    "an argument of a partial": lambda m: setattr(
        m, "partial", functools.partial(torch.mul, other=torch.tensor(2.0))
    ),
    "what a closure holds": _closure,
    "a global variable": lambda m: SCALE.__setitem__(0, 2.0),
    "a parametrization": lambda m: parametrize.register_parametrization(m.head, "weight", Half()),
    "a class": lambda m: setattr(m.act, "__class__", nn.ELU) or setattr(m.act, "alpha", 1.0),
}


def lent(model: nn.Module, size: int = 64) -> Explainer:
    sized = Preprocessing((3, size, size), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Explainer(ModelHandle(model, name="network", preprocessing=sized))


@pytest.fixture
def model() -> Any:
    SCALE[0] = 1.0
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield Network().eval()
    SCALE[0] = 1.0


@pytest.mark.parametrize("method", ["gradcam", "input_x_gradient"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_answers_anew(change: str, method: str, model: Network) -> None:
    asker = lent(model)
    x = images(asker.model, 1)
    before, mark = asker.explain(x, method, target=2), asker.model.fingerprint()
    asker.explain(x, "saliency", target=1)
    assert asker.model.fingerprint() == mark
    CHANGES[change](model)
    after = asker.explain(x, method, target=2)
    assert asker.model.fingerprint() != mark
    fresh = lent(model).explain(x, method, target=2)
    assert torch.equal(after.values, fresh.values)
    assert torch.equal(after.score, fresh.score)
    assert not torch.equal(after.score, before.score)


def test_a_hook_that_is_taken_away_brings_the_fingerprint_back(model: Network) -> None:
    asker = lent(model)
    mark = asker.predict(images(asker.model, 1)) and asker.model.probe and asker.model.fingerprint()
    for _ in range(2):
        hook = model.norm.register_forward_hook(half)
        assert asker.model.fingerprint() != mark
        hook.remove()
        assert asker.model.fingerprint() == mark


def test_a_hook_that_keeps_what_it_sees_changes_nothing(model: Network) -> None:
    asker = lent(model)
    x = images(asker.model, 1)
    seen: list[Tensor] = []
    model.norm.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    asker.explain(x, "gradcam", target=2)
    mark, hits = asker.model.fingerprint(), asker.cache.hits
    asker.explain(x, "gradcam", target=2)
    assert asker.model.fingerprint() == mark
    assert asker.cache.hits > hits
    model.norm.register_forward_hook(half)
    assert asker.model.fingerprint() != mark


def test_a_cache_of_the_models_own_changes_nothing() -> None:
    model = timm.create_model("levit_128s", num_classes=7).eval()
    asker = Explainer(
        ModelHandle(model, name="levit", preprocessing=Preprocessing.from_model(model))
    )
    x = images(asker.model, 1)
    asker.explain(x, "saliency", target=1)
    mark, probed = asker.model.fingerprint(), asker.model.probe
    model(x)
    asker.explain(x, "saliency", target=1)
    assert asker.model.fingerprint() == mark
    assert asker.model.probe is probed


def test_layers_are_looked_for_again(model: Network) -> None:
    asker = lent(model)
    x = images(asker.model, 1)
    query = asker.query(x, target=2)
    assert asker.explain(query, "gradcam").values.shape == (1, 16, 16)
    model.stem.stride = (8, 8)
    assert asker.explain(query, "gradcam").values.shape == (1, 8, 8)
    model.norm = nn.Sequential(nn.AvgPool2d(2), model.norm)  # type: ignore[assignment]
    asker.predict(x)
    assert "norm.0" in asker.model.layers


def test_the_training_mode_makes_no_difference(model: Network) -> None:
    mark = structure(model)
    assert structure(model.train()) == mark


PROGRAM = """
import torch
from tests.test_structure import Network
from core.models.structure import structure
torch.manual_seed(0)
print(structure(Network()))
"""


def test_every_process_gives_the_same_digest() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
            timeout=300,
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1
