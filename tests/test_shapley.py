"""Shapley and Owen values, against their definitions, captum and shap."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import TimmscopeError
from core.inputs.preprocessing import Preprocessing
from core.methods.shapley_kernel import SamplingPlan, distinct_subsets
from core.perturb.baselines import baseline_images
from core.runtime.run import Run
from core.tasks.classification import ClassScore
from tests.conftest import images, shared_handle

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling takes longer than these small games

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports
    import shap


class Game(nn.Module):
    """Three scores in which the pixels of a small grey picture play together, none additively."""

    def __init__(self, height: int, width: int, seed: int = 0) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(height * width, 24), nn.Linear(24, 3)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer, gain in ((self.hidden, 1.0), (self.out, 0.5)):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * gain)
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.hidden(x.flatten(1)).tanh())
        return out


def game(height: int, width: int, seed: int = 0) -> ModelHandle:
    """In float64; black is zero."""
    preprocessing = Preprocessing(input_size=(1, height, width), mean=(0.0,), std=(1.0,))
    model = Game(height, width, seed).double()
    return ModelHandle(model, name="game", preprocessing=preprocessing)


def values_of_sets(owner: ModelHandle, x: Tensor, labels: Tensor, index: int) -> Tensor:
    """(2^d,) the score of each set of parts, by its bits, hidden ones being zero."""
    count = int(labels.max()) + 1
    bits = torch.arange(2**count)[:, None] >> torch.arange(count) & 1
    with torch.no_grad():
        out: Tensor = owner.model.eval()(x * bits[:, labels][:, None])
    return out[:, index]


def shapley(value: Tensor) -> Tensor:
    """The Shapley values (d,) of a game given by the value of each set: the definition."""
    count = int(math.log2(len(value)))
    found = torch.zeros(count, dtype=torch.float64)
    for chosen in range(len(value)):
        size = bin(chosen).count("1")
        for part in range(count):
            if not chosen >> part & 1:
                weight = 1 / (count * math.comb(count - 1, size))
                found[part] += weight * float(value[chosen | 1 << part] - value[chosen])
    return found


def by_part(values: Tensor, labels: Tensor) -> Tensor:
    """What a map (H, W) says of each part."""
    return (
        torch.zeros(int(labels.max()) + 1)
        .double()
        .index_add_(0, labels.flatten(), values.flatten().double())
    )


# -- KernelSHAP -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 2), (1, 3), (2, 4), (3, 3), (2, 5)])
def test_with_evaluations_for_every_set_the_values_are_exact(height: int, width: int) -> None:
    owner, count = game(height, width), height * width
    x = torch.linspace(-1, 1.5, count).double().view(1, 1, height, width)
    labels = torch.arange(count).view(height, width)
    asked = {"segmentation": "grid", "segments": count, "baseline": "zero", "tolerance": 0}
    answer = Explainer(owner).explain(
        x, "kernel_shap", target=1, evaluations=max(4, 2**count), **asked
    )
    expected = shapley(values_of_sets(owner, x, labels, 1))
    torch.testing.assert_close(by_part(answer.values[0], labels), expected, rtol=1e-5, atol=1e-6)
    assert answer.cost.forward == 2**count
    assert float(answer.extras["standard_error"].abs().max()) < 1e-6
    assert float(answer.extras["efficiency_error"]) < 1e-9


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_exact_values_are_captums(name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 2)
    asked = {"segmentation": "grid", "segments": 4, "baseline": "black", "evaluations": 16}
    answer = Explainer(owner).explain(x, "kernel_shap", target=ClassScore((1, 3)), **asked)
    side = x.shape[-1]
    half = torch.arange(side) * 2 // side
    labels = half[:, None] * 2 + half
    model = owner.model.eval().requires_grad_(False)
    theirs = captum.attr.ShapleyValues(model).attribute(
        x,
        baselines=owner.pixel(0.0).expand_as(x).clone(),
        target=torch.tensor([1, 3]),
        feature_mask=labels[None, None].expand_as(x[:1]).clone(),
        perturbations_per_eval=4,
    )[:, 0]
    ours = answer.values * labels.flatten().bincount()[labels]
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_each_image_has_its_own_parts() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 3)
    asked = {"segmentation": "slic", "segments": 6, "evaluations": 30}
    target = ClassScore((4, 0, 2))
    together = Explainer(owner).explain(x, "kernel_shap", target=target, **asked)
    for image in range(3):
        alone = Explainer(owner).explain(x[image], "kernel_shap", target=target.of(image), **asked)
        torch.testing.assert_close(together.values[image], alone.values[0], rtol=1e-3, atol=1e-6)
    assert float(together.extras["efficiency_error"].max()) < 1e-5


@cache
def solved(seed: int) -> tuple[ModelHandle, Tensor, Tensor]:
    """A game of ten parts, its picture, and the exact Shapley values of its first score."""
    owner, x = game(2, 5, seed), torch.ones(1, 1, 2, 5, dtype=torch.float64)
    return owner, x, shapley(values_of_sets(owner, x, torch.arange(10).view(2, 5), 0))


def mean_errors(ask: Callable[[ModelHandle, Tensor, int], Tensor], seeds: int = 12) -> float:
    """Root mean square error against exact Shapley values of games of ten parts."""
    errors = []
    for seed in range(seeds):
        owner, x, exact = solved(seed)
        errors.append(float((ask(owner, x, seed) - exact).square().mean()))
    return float(np.sqrt(np.mean(errors)))


class Counter:
    """A game's first score as a function of rows (n, 10), and how many rows it was asked."""

    def __init__(self, owner: ModelHandle) -> None:
        self.model, self.rows = owner.model.eval(), 0

    def __call__(self, rows: Any) -> Any:
        self.rows += len(rows)
        given = torch.as_tensor(rows).double()
        with torch.no_grad():
            out = self.model(given)[:, 0]
        return out if isinstance(rows, Tensor) else out.numpy()


def ours(budget: int) -> Callable[[ModelHandle, Tensor, int], Tensor]:
    def ask(owner: ModelHandle, x: Tensor, seed: int) -> Tensor:
        asked = {"segmentation": "grid", "segments": 10, "baseline": "zero", "tolerance": 0}
        answer = Explainer(owner).explain(
            x, "kernel_shap", target=0, evaluations=budget, seed=seed, **asked
        )
        assert answer.cost.forward <= budget
        return answer.values[0].double().flatten()

    return ask


def captums(budget: int) -> Callable[[ModelHandle, Tensor, int], Tensor]:
    def ask(owner: ModelHandle, x: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        score = Counter(owner)
        peer = captum.attr.KernelShap(score)
        found = peer.attribute(x.flatten(1), n_samples=budget, perturbations_per_eval=64)
        assert score.rows >= budget
        return found[0].double()

    return ask


def shaps(budget: int) -> Callable[[ModelHandle, Tensor, int], Tensor]:
    def ask(owner: ModelHandle, x: Tensor, seed: int) -> Tensor:
        np.random.seed(seed)  # it draws from there
        score = Counter(owner)
        peer = shap.KernelExplainer(score, np.zeros((1, 10)))
        before = score.rows
        found = peer.shap_values(x.flatten(1).numpy(), nsamples=budget - 2, l1_reg=0, silent=True)
        assert score.rows - before >= budget - 2
        return torch.from_numpy(np.asarray(found)).flatten().double()

    return ask


@pytest.mark.parametrize("budget", [64, 128, 256])
def test_half_the_evaluations_of_captum_and_no_more_than_shap_for_the_same_error(
    budget: int,
) -> None:
    error = mean_errors(ours(budget))
    assert error <= mean_errors(captums(2 * budget))
    assert error <= mean_errors(shaps(budget))


def test_the_standard_error_is_how_far_the_values_are() -> None:
    shares, asked = [], {"segmentation": "grid", "segments": 10, "baseline": "zero", "tolerance": 0}
    for seed in range(20):
        owner, x, exact = solved(seed)
        answer = Explainer(owner).explain(
            x, "kernel_shap", target=0, evaluations=200, seed=seed, **asked
        )
        error = answer.extras["standard_error"][0].flatten()
        shares.append((answer.values[0].flatten().double() - exact) / error)
    spread = float(torch.cat(shares).square().mean().sqrt())
    assert 0.7 < spread < 1.3


def test_it_stops_when_the_standard_error_is_small_enough() -> None:
    owner, x = game(4, 5), torch.ones(1, 1, 4, 5, dtype=torch.float64)
    asked = {"segmentation": "grid", "segments": 20, "baseline": "zero", "evaluations": 4000}
    costs = []
    for tolerance in (0.0, 0.03, 0.1):
        answer = Explainer(owner).explain(x, "kernel_shap", target=0, tolerance=tolerance, **asked)
        error = answer.extras["standard_error"].mean() / answer.values.abs().max()
        assert float(error) <= tolerance or not tolerance
        costs.append(answer.cost.forward)
    assert costs[0] == 4000
    assert costs[0] > costs[1] > costs[2] >= 130


def test_another_target_pays_only_for_the_rounds_it_needs_more() -> None:
    owner, x = game(4, 5), torch.ones(1, 1, 4, 5, dtype=torch.float64)
    asked = {"segmentation": "grid", "segments": 20, "baseline": "zero", "tolerance": 0.02}
    explainer = Explainer(owner)
    paid = [explainer.explain(x, "kernel_shap", target=t, **asked).cost.forward for t in range(3)]
    alone = [Explainer(owner).explain(x, "kernel_shap", target=t, **asked) for t in range(3)]
    assert sum(paid) == max(a.cost.forward for a in alone)
    again = explainer.explain(x, "kernel_shap", target=2, **asked)
    torch.testing.assert_close(again.values, alone[2].values)


def test_too_few_evaluations_are_refused_with_the_way_out() -> None:
    owner = shared_handle("resnet")
    with pytest.raises(TimmscopeError, match=r"= 60 is too few for 49 segments; give at least 102"):
        Explainer(owner).explain(
            images(owner, 1), "kernel_shap", target=1, segmentation="grid", evaluations=60
        )


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_a_plan_of_all_pairs_has_every_set_once(count: int) -> None:
    plan = SamplingPlan.of(count, 10**6, torch.Generator().manual_seed(0))
    sets = torch.cat([plan.sets, ~plan.sets]).tolist()
    assert len(sets) == len({tuple(s) for s in sets}) == 2**count - 2


def test_a_plan_asks_about_no_set_twice_and_first_about_those_that_weigh_most() -> None:
    plan = SamplingPlan.of(30, 200, torch.Generator().manual_seed(0))
    sets = torch.cat([plan.sets, ~plan.sets]).tolist()
    assert len({tuple(s) for s in sets}) == 400
    taken = plan.stratum.bincount(minlength=15)
    assert int(taken[0]) == 30
    assert int(taken.min()) >= 1
    assert taken[1] > taken[5] > taken[10]
    assert torch.equal(plan.sets.sum(1), plan.stratum + 1)


@pytest.mark.parametrize(("size", "number"), [(2, 3), (2, 28), (4, 5), (4, 35)])
def test_distinct_sets_are_distinct(size: int, number: int) -> None:
    sets = distinct_subsets(8, size, number, torch.Generator().manual_seed(1))
    assert sets.shape == (number, 8)
    assert (sets.sum(1) == size).all()
    assert len(sets.unique(dim=0)) == number
    if size == 4:
        assert sets[:, 0].all()


# -- Partition ------------------------------------------------------------------------------------


def owen(value: Callable[[frozenset[int]], float], tree: Any) -> dict[int, float]:
    """Owen values of a tree of nested pairs: mean gain over all orders that keep pairs together."""

    def orders(node: Any) -> list[list[int]]:
        if isinstance(node, int):
            return [[node]]
        one, other = (orders(child) for child in node)
        return [a + b for p, q in ((one, other), (other, one)) for a in p for b in q]

    total: dict[int, float] = {}
    every = orders(tree)
    for order in every:
        for i, part in enumerate(order):
            gain = value(frozenset(order[: i + 1])) - value(frozenset(order[:i]))
            total[part] = total.get(part, 0.0) + gain / len(every)
    return total


def test_with_evaluations_for_the_whole_tree_the_values_are_owens() -> None:
    owner = game(2, 4)
    x = torch.linspace(-1, 2, 8).double().view(1, 1, 2, 4)
    answer = Explainer(owner).explain(x, "shap", target=2, evaluations=1000, baseline="zero")
    score = values_of_sets(owner, x, torch.arange(8).view(2, 4), 2)
    tree = (((0, 1), (4, 5)), ((2, 3), (6, 7)))  # halves across the longer side, then rows
    expected = owen(lambda parts: float(score[sum(1 << p for p in parts)]), tree)
    found = answer.values[0].flatten().double()
    torch.testing.assert_close(
        found, torch.tensor([expected[p] for p in range(8)]).double(), rtol=1e-5, atol=1e-6
    )
    assert answer.cost.forward < 1000


@pytest.mark.parametrize("order", ["outputs", "target"])
@pytest.mark.parametrize("evaluations", [34, 100, 300])
def test_owen_values_under_a_budget_are_shaps(order: str, evaluations: int) -> None:
    owner = game(
        8, 16
    )  # it numbers pixels from the far corner, and so halves an odd side otherwise
    x = torch.randn(1, 1, 8, 16, generator=torch.Generator().manual_seed(2)).double()
    answer = Explainer(owner).explain(
        x, "shap", target=1, evaluations=evaluations, order=order, baseline="zero"
    )

    def score(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out = owner.model.eval()(torch.from_numpy(rows).permute(0, 3, 1, 2).double())
        return (out if order == "outputs" else out[:, 1:2]).numpy()

    masker = shap.maskers.Image(np.zeros((8, 16, 1)), (8, 16, 1))
    peer = shap.PartitionExplainer(score, masker)
    picture = x.permute(0, 2, 3, 1).numpy()
    found = peer(picture, max_evals=evaluations, batch_size=32, silent=True).values
    expected = torch.from_numpy(found[0, :, :, 0, 1 if order == "outputs" else 0])
    torch.testing.assert_close(answer.values[0].double(), expected, rtol=1e-5, atol=1e-6)
    assert answer.cost.forward == evaluations


@pytest.mark.parametrize("baseline", ["blur", "mean", "inpaint", "black", "white", "zero"])
def test_the_map_sums_to_the_rise_over_the_hidden_picture(baseline: Any) -> None:
    owner = shared_handle("resnet")
    x, target = images(owner, 2), ClassScore((1, 3))
    answer = Explainer(owner).explain(x, "shap", target=target, evaluations=40, baseline=baseline)
    run = Run(owner, x, target)
    ground = baseline_images("mean" if baseline == "inpaint" else baseline, run)
    floor = Explainer(owner).predict(ground.clone()).scores[[0, 1], [1, 3]]
    rise = answer.score - floor
    error = (answer.values.sum((1, 2)) - rise).abs() / rise.abs()
    assert float(error.max()) < 1e-5 * max(1.0, float((answer.score / rise).abs().max()))
    assert float(answer.extras["efficiency_error"].max()) < 1e-5


def test_on_an_additive_model_every_pixel_gets_its_own_contribution() -> None:
    preprocessing = Preprocessing(input_size=(1, 8, 8), mean=(0.0,), std=(1.0,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    owner = ModelHandle(model, name="additive", preprocessing=preprocessing)
    x = images(owner, 2).double()
    answer = Explainer(owner).explain(x, "shap", target=1, evaluations=20000, baseline="black")
    expected = model[1].weight[1].detach().view(8, 8) * x[:, 0]
    torch.testing.assert_close(answer.values.double(), expected, rtol=1e-4, atol=1e-5)


def test_more_evaluations_look_closer_where_it_matters() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    x[..., x.shape[-1] // 2 :] = 0
    found = []
    for evaluations in (20, 120):
        answer = Explainer(owner).explain(
            x, "shap", target=1, evaluations=evaluations, baseline="zero"
        )
        busy, blank = answer.values[0].chunk(2, 1)
        assert float(blank.abs().max()) < 1e-3 * float(busy.abs().max())
        found.append(len(busy.unique()))
    assert found[1] > 1.5 * found[0]


def test_orders_differ_in_cost_for_a_second_target_alone() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    for order, cost in (("outputs", 0), ("target", 39)):
        explainer = Explainer(owner)
        explainer.explain(x, "shap", target=1, evaluations=40, order=order)
        again = explainer.explain(x, "shap", target=4, evaluations=40, order=order)
        assert again.cost.forward == cost
