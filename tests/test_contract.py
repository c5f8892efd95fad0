"""What every method owes on every model it runs on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle, load_model
from core.errors import CancelledError, ModelFailure, NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.runtime.batching import Budget
from core.runtime.cache import Cache
from core.tasks.classification import ClassScore
from core.types import Need
from tests.conftest import build, handle, images, pairs, quick, refused, shared_handle


@pytest.mark.parametrize(("key", "name"), pairs())
def test_one_finite_map_per_image_and_the_models_own_score(key: str, name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 2)
    answer = Explainer(owner).explain(x, quick(key), target=ClassScore((1, 3)))
    assert answer.values.dtype == torch.float32
    assert answer.values.shape[0] == 2
    assert answer.values.ndim == 3
    assert min(answer.values.shape[1:]) >= 3
    assert torch.isfinite(answer.values).all()
    with torch.no_grad():
        own = owner.model.eval()(x)
    torch.testing.assert_close(answer.score, own[[0, 1], [1, 3]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("key", "name"), pairs())
def test_each_image_keeps_its_target_whatever_the_chunks(
    key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = shared_handle(name)
    x = images(owner, 3)
    classes = (4, 0, 2)
    maps = []
    for rows in (2, 16):
        monkeypatch.setitem(vars(owner), "budget", Budget(rows))
        maps.append(Explainer(owner).explain(x, quick(key), target=ClassScore(classes)).values)
    alone = [
        Explainer(owner).explain(x[i], quick(key), target=c).values for i, c in enumerate(classes)
    ]
    scale = maps[0].abs().max()
    for other in (*maps[1:], torch.cat(alone)):
        torch.testing.assert_close(maps[0] / scale, other / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("key", "name"), pairs())
def test_the_same_seed_gives_the_same_map(key: str, name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 1)
    first, again = (Explainer(owner).explain(x, quick(key), target=1, seed=5) for _ in range(2))
    assert torch.equal(first.values, again.values)


@pytest.mark.parametrize(("key", "name"), refused())
def test_a_method_that_cannot_run_says_why(key: str, name: str) -> None:
    owner = shared_handle(name)
    with pytest.raises(NotApplicableError) as refusal:
        Explainer(owner).explain(images(owner, 1), quick(key))
    assert len(str(refusal.value)) > 30
    assert "\n" not in str(refusal.value)


# -- leaves no trace ----------------------------------------------------------------------------


def state_of(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Everything an explanation must leave as it was."""
    return {
        "modes": {n: m.training for n, m in model.named_modules()},
        "hooks": {
            n: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for n, m in model.named_modules()
        },
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": {
            n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "values": {n: v.clone() for n, v in model.state_dict().items()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "pixels": x.clone(),
        "pixel_grad": (x.requires_grad, x.grad),
        "random": torch.get_rng_state(),
        "modes_of_torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def assert_same(before: Any, after: Any, where: str = "") -> None:
    """Bit for bit the same, all the way down."""
    if isinstance(before, dict):
        assert before.keys() == after.keys(), where
        for key in before:
            assert_same(before[key], after[key], f"{where}/{key}")
    elif isinstance(before, Tensor):
        assert torch.equal(before, after), where
    else:
        assert before == after, where


def in_the_middle_of_training(name: str) -> nn.Module:
    """A model with mixed modes, a frozen part and gradients from a step under way."""
    model = build(name).train()
    children = list(model.children())
    children[0].eval()
    for parameter in children[0].parameters():
        parameter.requires_grad_(False)
    for index, parameter in enumerate(model.parameters()):
        if parameter.requires_grad and index % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    return model


TRACED = ["resnet", "mambaout", "swin", "vit", "vit_registers"]


@pytest.mark.parametrize(("key", "name"), [p for p in pairs() if p.values[1] in TRACED])
def test_leaves_no_trace_after_success(key: str, name: str) -> None:
    model = in_the_middle_of_training(name)
    owner = ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))
    x = images(owner, 1)
    before = state_of(model, x)
    with torch.no_grad():
        Explainer(owner).explain(x, quick(key), target=1)
    assert_same(before, state_of(model, x))


class Failing(nn.Module):
    """Fails in its n-th forward pass."""

    def __init__(self, inner: nn.Module, passes: int) -> None:
        super().__init__()
        self.inner, self.passes = inner, passes

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.passes -= 1
        if self.passes < 0:
            raise RuntimeError("the model broke")
        return out


@pytest.mark.parametrize(("key", "name"), [p for p in pairs() if p.values[1] in TRACED])
@pytest.mark.parametrize("passes", [0, 1])
def test_leaves_no_trace_after_failure(key: str, name: str, passes: int) -> None:
    model = Failing(in_the_middle_of_training(name), 10**6)
    inner = model.inner
    owner = ModelHandle(
        model,
        name=name,
        preprocessing=Preprocessing.from_model(inner),  # type: ignore[arg-type]
    )
    assert owner.probe
    owner.budget = Budget(1)
    x = images(owner, 1)
    model.passes = passes
    before = state_of(model, x)
    before.pop("attributes")
    explainer = Explainer(owner)
    with suppress(ModelFailure):  # some methods need no pass beyond the first
        explainer.explain(x, quick(key), target=1)
    after = state_of(model, x)
    after.pop("attributes")
    assert_same(before, after)
    model.passes = 10**6
    assert torch.isfinite(explainer.explain(x, quick(key), target=1).values).all()


def test_a_cancelled_run_leaves_no_trace_and_can_be_asked_again() -> None:
    owner = handle("resnet")
    owner.budget = Budget(1)
    explainer = Explainer(owner)
    x = images(owner, 1)
    before = state_of(owner.model, x)

    def stop(done: int, _expected: int) -> None:
        if done > 4:
            raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        explainer.explain(x, "integrated_gradients", target=1, steps=8, on_progress=stop)
    assert_same(before, state_of(owner.model, x))
    assert explainer.explain(x, "integrated_gradients", target=1, steps=8).cost.backward == 8


def test_works_under_no_grad_inference_mode_and_autocast() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    plain = Explainer(owner).explain(x, "saliency", target=1).values
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with context:
            given = x.clone()
            assert torch.equal(Explainer(owner).explain(given, "saliency", target=1).values, plain)


def test_randomised_weights_change_every_map_but_the_controls() -> None:
    one, other = handle("resnet", seed=0), handle("resnet", seed=1)
    x = images(one, 1)
    for key, cls in ((p.values[0], p.values[1]) for p in pairs() if p.values[1] == "resnet"):
        del cls
        maps = [Explainer(h).explain(x, quick(key), target=1).values for h in (one, other)]
        same = torch.equal(*maps)
        assert same == (quick(key).family == "control"), key


def test_needs_are_met_by_the_models_that_are_said_to() -> None:
    assert Need.ATTENTION in shared_handle("vit").supports
    assert Need.ATTENTION not in shared_handle("resnet").supports
    assert all(Need.LAYER in shared_handle(n).supports for n in ("resnet", "swin", "vit_pooled"))


def test_two_threads_with_handles_of_their_own_leave_a_shared_module_as_it_was() -> None:
    model = in_the_middle_of_training("resnet")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    x = images(shared_handle("resnet"), 1)

    def ask(target: int) -> None:
        owner = ModelHandle(model, name="lent", preprocessing=Preprocessing.from_model(model))
        owner.budget = Budget(1)
        for seed in range(2):
            Explainer(owner).explain(x, quick("occlusion"), target=target, seed=seed)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert_same(before, dict(model.state_dict()))
    assert_same(
        {n: m.training for n, m in in_the_middle_of_training("resnet").named_modules()},
        {n: m.training for n, m in model.named_modules()},
    )


def test_models_that_differ_in_structure_alone_do_not_share_answers() -> None:
    cache = Cache()
    plain, other = (
        load_model(n, weights="random") for n in ("efficientnet_b0", "tf_efficientnet_b0")
    )
    x = images(plain, 1)
    maps = [
        Explainer(h, cache=cache).explain(x, "saliency", target=3).values for h in (plain, other)
    ]
    assert not torch.equal(*maps)


def test_a_lent_model_whose_parts_are_replaced_is_asked_anew() -> None:
    owner = handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    first = explainer.explain(x, "saliency", target=1).values
    for module in owner.model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    assert not torch.equal(first, explainer.explain(x, "saliency", target=1).values)
