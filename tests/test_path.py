"""The path family against formulas written out by hand, and the adaptive integral's promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core import Explainer, ModelHandle
from core.errors import TimmscopeError
from core.inputs.preprocessing import Preprocessing
from core.methods import quadrature
from core.methods.base import METHODS
from core.methods.path_blur import blurred
from core.perturb.baselines import baseline_images
from core.runtime.batching import Budget
from core.runtime.cache import Cache
from core.runtime.run import Run
from core.tasks.classification import ClassScore
from tests.conftest import ZOO, build, images, shared_handle

SIZE = 12
CLASSES = (2, 0)
"""What the two pictures are asked about."""
BLACK = {"baselines": ["black"]}


class Small(nn.Module):
    """One hidden layer of which every integral can be checked."""

    def __init__(self, bend: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.inner = nn.Linear(3 * SIZE * SIZE, 24)
        self.bend = bend
        self.outer = nn.Linear(24, 3)
        with torch.no_grad():
            for layer, scale in ((self.inner, 0.1), (self.outer, 1.0)):
                layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator))
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(self.bend(self.inner(x.flatten(1))))
        return out


def small(bend: nn.Module | None = None) -> ModelHandle:
    settings = Preprocessing(input_size=(3, SIZE, SIZE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return ModelHandle(Small(bend or nn.ReLU()).double(), name="small", preprocessing=settings)


def asked(owner: ModelHandle, x: Tensor | None = None, **question: Any) -> Run:
    """Two pictures in float64, each with a class of its own."""
    x = images(owner, 2).double() if x is None else x
    return Run(owner, x, ClassScore(CLASSES[: len(x)]), **question)


def answer(key: str, run: Run, **params: Any) -> Tensor:
    """The map; its sum is held against the error reported."""
    values, _ = METHODS.make(key, params).attribute(run)
    return values


def gradient(model: nn.Module, x: Tensor, classes: tuple[int, ...] = CLASSES) -> Tensor:
    x = x.detach().clone().requires_grad_()
    score = model(x)[range(len(x)), classes[: len(x)]].sum()
    return torch.autograd.grad(score, x)[0]


def score(model: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = model(x)[range(len(x)), CLASSES[: len(x)]].detach()
    return found


def black(run: Run) -> Tensor:
    return run.subject.pixel(0.0).to(run.x).expand_as(run.x)


def off(ours: Tensor, exact: Tensor) -> float:
    """The distance as a share of the reference's length."""
    assert ours.shape == exact.shape
    return float((ours - exact).norm() / exact.norm())


def rise_over(run: Run, *starts: Tensor) -> Tensor:
    model = run.subject.model
    return score(model, run.x) - torch.stack([score(model, s) for s in starts]).mean(0)


def assert_error_is(run: Run, values: Tensor, rise: Tensor) -> None:
    """The completeness error reported is the map's, against a rise known by other means."""
    error = (values.sum((1, 2)) - rise).abs() / rise.abs()
    torch.testing.assert_close(run.extras["completeness_error"], error, rtol=1e-6, atol=1e-10)


# -- integrated gradients, adaptive -------------------------------------------------------------


def exact_integral(run: Run, start: Tensor) -> Tensor:
    """Integrated gradients of a hidden layer of ReLUs: each is on for a known part of the way."""
    model: Any = run.subject.model
    before, after = (model.inner(x.flatten(1)).detach() for x in (start, run.x))
    crossing = before / (before - after)
    on = torch.where(after > 0, 1 - crossing, crossing)
    on = torch.where(before * after > 0, (after > 0).double(), on)
    gate = on * model.outer.weight.detach()[list(CLASSES)]
    weight: Tensor = (gate @ model.inner.weight.detach()).view_as(run.x)
    return ((run.x - start) * weight).sum(1)


def test_a_finer_tolerance_comes_nearer_to_the_exact_integral() -> None:
    distances, passes = [], []
    for tolerance in (0.1, 0.01, 0.001):
        run = asked(small())
        values = answer("integrated_gradients", run, tolerance=tolerance, steps=1000, **BLACK)
        assert run.extras["converged"].tolist() == [1, 1]
        assert run.extras["completeness_error"].max() <= tolerance
        assert_error_is(run, values, rise_over(run, black(run)))
        distances.append(off(values, exact_integral(run, black(run))))
        passes.append(run.extras["passes"].sum())
    assert distances == sorted(distances, reverse=True)
    assert passes == sorted(passes)
    assert distances[-1] < 2e-3


def test_nodes_that_gather_at_the_kinks_beat_even_ones() -> None:
    run = asked(small())
    exact = exact_integral(run, black(run))
    ours = answer("integrated_gradients", run, tolerance=1e-3, steps=200, **BLACK)
    spent = int(run.extras["passes"].max())
    even = answer("integrated_gradients", asked(small()), steps=spent, **BLACK)
    assert off(ours, exact) < 0.5 * off(even, exact)


def test_steps_that_do_not_suffice_are_admitted() -> None:
    run = asked(small())
    values = answer("integrated_gradients", run, tolerance=1e-6, steps=20, **BLACK)
    assert run.extras["converged"].tolist() == [0, 0]
    assert run.extras["passes"].tolist() == [20, 20]
    assert (run.cost_counter.forward, run.cost_counter.backward) == (2 * (20 + 2), 2 * 20)
    assert_error_is(run, values, rise_over(run, black(run)))
    assert run.extras["completeness_error"].min() > 1e-6


def test_one_path_that_does_not_converge_is_admitted_whichever_it_is() -> None:
    run = asked(small())
    starts = torch.stack([black(run), run.x])  # from itself a picture has no way to go
    for ways in (starts, starts.flip(0)):
        found = quadrature.integrate(run, ways, torch.full((2,), 1e-6), 20)
        assert found.converged.tolist() == [0, 0]
        assert found.passes.tolist() == [20 + quadrature.INITIAL_NODES] * 2


def test_a_sum_that_is_right_by_chance_does_not_settle_the_matter() -> None:
    run = asked(small(), images(small(), 1).double())
    path = quadrature.Path(run.x * 0, run.x, run.owner, tolerance=0.1, max_passes=100)
    for place, slope in ((0.0, 3.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, -1.0)):
        parts = torch.full((SIZE, SIZE), slope / SIZE**2)
        path.nodes[place] = quadrature.Node(place, slope, parts)
    assert abs(float(path.integral().sum()) - 1.0) < 1e-6
    assert not path.converged


def test_a_straight_score_is_settled_at_once() -> None:
    owner = small(nn.Identity())
    run = asked(owner)
    answer("integrated_gradients", run, tolerance=0.01, steps=500)
    assert run.extras["passes"].tolist() == [quadrature.INITIAL_NODES] * 2
    assert run.extras["completeness_error"].max() < 1e-10


def test_a_picture_that_is_its_own_baseline_gets_nothing() -> None:
    owner = small()
    for key in ("integrated_gradients", "guided_ig", "idgi"):
        run = asked(owner, owner.pixel(0.0).double().expand(2, 3, SIZE, SIZE).clone())
        params = {"tolerance": 0.01} if key == "integrated_gradients" else {}
        values = answer(key, run, **params)
        # A row's score may differ in its last bit with the rows beside it, as IDGI's do.
        assert values.abs().sum() <= 1e-12 * run.score().abs().sum(), key


def test_neither_company_nor_chunks_nor_memory_change_where_the_nodes_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params: dict[str, Any] = {"tolerance": 0.002, "steps": 60, "baselines": ("black", "blur")}
    together = asked(small())
    values = answer("integrated_gradients", together, **params)
    for kept, rows in ((1, 1), (1, 7), (2**28, 3)):
        monkeypatch.setattr(quadrature, "MAX_BYTES", kept)
        for i, c in enumerate(CLASSES):
            owner = small()
            owner.budget = Budget(rows)
            alone = Run(owner, images(owner, 2).double()[i : i + 1], ClassScore(c))
            torch.testing.assert_close(
                answer("integrated_gradients", alone, **params)[0], values[i]
            )
            assert alone.extras["passes"][0] == together.extras["passes"][i]


def test_adaptive_baselines_are_averaged() -> None:
    names = ("black", "white", "blur")
    params: dict[str, Any] = {"tolerance": 1e-9, "steps": 40}
    alone, run = [asked(small()) for _ in names], asked(small())
    maps = [
        answer("integrated_gradients", one, baselines=[name], **params)
        for one, name in zip(alone, names, strict=True)
    ]
    values = answer("integrated_gradients", run, baselines=names, **params)
    torch.testing.assert_close(values, sum(maps, torch.zeros_like(values)) / 3)
    assert torch.equal(
        run.extras["passes"], torch.stack([one.extras["passes"] for one in alone]).sum(0)
    )


@pytest.mark.parametrize("name", ["vit_pooled", "vit_registers"])
def test_the_adaptive_map_is_the_finely_integrated_one(name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 1)
    explainer = Explainer(owner, cache=Cache())
    fine = explainer.explain(x, "integrated_gradients", target=1, steps=200)
    ours = explainer.explain(x, "integrated_gradients", target=1, steps=100, tolerance=0.02)
    assert ours.extras["converged"].tolist() == [1]
    assert ours.extras["completeness_error"].item() <= 0.02
    assert ours.cost.backward == ours.extras["passes"].item() <= 100
    assert off(ours.values, fine.values) < 0.2


def test_a_tolerance_needs_steps_to_adapt() -> None:
    with pytest.raises(TimmscopeError, match="at least 3 steps"):
        METHODS.make("integrated_gradients", {"tolerance": 0.1, "steps": 2})


# -- blur integrated gradients ------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0, 50.0])
def test_blur_is_scipys(sigma: float) -> None:
    x = images(shared_handle("resnet"), 1)[..., :40, :56].double()
    theirs = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="constant")
    torch.testing.assert_close(blurred(x, sigma), torch.from_numpy(theirs))


def test_blur_ig_of_a_linear_score_is_the_weight_of_what_blurring_takes() -> None:
    run = asked(small(nn.Identity()))
    values = answer("blur_ig", run, steps=7, max_sigma=4.0)
    soft = blurred(run.x, 4.0)
    exact = ((run.x - soft) * gradient(run.subject.model, run.x)).sum(1)
    torch.testing.assert_close(values, exact)
    assert_error_is(run, values, rise_over(run, soft))


def test_blur_ig_tends_to_the_integral_of_the_authors_program() -> None:
    run = asked(small(nn.Tanh()))
    steps, sigma, nudge = 300, 3.0, 1e-4
    theirs = torch.zeros_like(run.x)
    for step in range(steps):
        soft = blurred(run.x, step * sigma / steps) if step else run.x
        slope = (blurred(run.x, step * sigma / steps + nudge) - soft) / nudge
        theirs -= sigma / steps * slope * gradient(run.subject.model, soft)
    values = answer("blur_ig", run, steps=50, max_sigma=sigma)
    assert off(values, theirs.sum(1)) < 0.02
    assert_error_is(run, values, rise_over(run, blurred(run.x, sigma)))


# -- guided integrated gradients ----------------------------------------------------------------


def guided_by_hand(
    model: nn.Module, start: Tensor, x: Tensor, target: int, steps: int, fraction: float, far: float
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's algorithm for one picture (C, H, W), in pixels rather than shares of the way."""
    base, end = start.numpy(), x.numpy()
    total = np.abs(end - base).sum()
    at, found = base.copy(), np.zeros_like(base)
    for step in range(1, steps + 1):
        grad = gradient(model, torch.from_numpy(at)[None], (target,))[0].numpy()
        least, most = (
            base + np.clip(step / steps + sign * far, 0, 1) * (end - base) for sign in (-1, 1)
        )
        left = total * (1 - step / steps)
        was = at.copy()
        behind = np.abs(at - base) < np.abs(least - base)
        at[behind] = least[behind]
        while np.abs(end - at).sum() > left + 1e-9 * total:
            size = np.where(np.isclose(at, most, rtol=0, atol=1e-12), np.inf, np.abs(grad))
            limit = np.sort(size.ravel())[int(fraction * (size.size - 1))]
            chosen = (size <= limit) & (size < np.inf)
            gain = np.abs(most - at)[chosen].sum()
            part = min(1.0, (np.abs(end - at).sum() - left) / gain)
            at[chosen] += part * (most - at)[chosen]
        found += (at - was) * grad
    return found, at


@pytest.mark.parametrize(
    ("steps", "fraction", "far"), [(5, 0.25, 0.02), (12, 0.1, 0.3), (4, 0.5, 1.0), (6, 1.0, 0.1)]
)
def test_guided_ig_is_the_papers_algorithm(steps: int, fraction: float, far: float) -> None:
    run = asked(small())
    values = answer(
        "guided_ig", run, steps=steps, fraction=fraction, max_dist=far, baseline="black"
    )
    for i, target in enumerate(CLASSES):
        theirs, end = guided_by_hand(
            run.subject.model, black(run)[i], run.x[i], target, steps, fraction, far
        )
        np.testing.assert_allclose(end, run.x[i].numpy(), atol=1e-6)
        assert off(values[i], torch.from_numpy(theirs).sum(0)) < 1e-5
    assert_error_is(run, values, rise_over(run, black(run)))
    assert (run.cost_counter.forward, run.cost_counter.backward) == (2 * (steps + 1), 2 * steps)


def test_guided_ig_without_leeway_is_a_left_riemann_sum() -> None:
    run = asked(small())
    values = answer("guided_ig", run, steps=6, max_dist=0, baseline="black")
    way = run.x - black(run)
    grads = [gradient(run.subject.model, black(run) + i / 6 * way) for i in range(6)]
    torch.testing.assert_close(values, (way * sum(grads) / 6).sum(1), rtol=1e-5, atol=1e-7)


def test_guided_ig_goes_first_where_the_model_reacts_least() -> None:
    run = asked(small(nn.Identity()))
    method: Any = METHODS.make("guided_ig", {"steps": 4, "max_dist": 1.0, "fraction": 0.1})
    reaction = gradient(run.subject.model, run.x).abs()[0]
    gone = method._advance(torch.zeros_like(reaction), (run.x - black(run))[0].abs(), reaction, 0)
    assert reaction[gone > 0].max() <= reaction[gone == 0].min()


# -- important direction gradient integration ---------------------------------------------------


def test_idgi_shares_out_each_steps_change_by_squared_gradients() -> None:
    run, steps = asked(small()), 9
    values = answer("idgi", run, steps=steps, baseline="white")
    model, start = run.subject.model, run.subject.pixel(1.0).to(run.x).expand_as(run.x)
    exact = torch.zeros_like(run.x)
    for step in range(steps):
        here, there = (start + s / steps * (run.x - start) for s in (step, step + 1))
        squared = gradient(model, here) ** 2
        change = score(model, there) - score(model, here)
        exact += (change / squared.sum((1, 2, 3)))[:, None, None, None] * squared
    torch.testing.assert_close(values, exact.sum(1))
    assert_error_is(run, values, rise_over(run, start))


@pytest.mark.parametrize("steps", [1, 3])
def test_idgi_is_complete_however_few_the_steps(steps: int) -> None:
    run = asked(small())
    answer("idgi", run, steps=steps)
    assert run.extras["completeness_error"].max() < 1e-12
    assert (run.cost_counter.forward, run.cost_counter.backward) == (2 * (steps + 1), 2 * steps)


# -- expected gradients -------------------------------------------------------------------------


def test_expected_gradients_written_out_with_the_same_draws() -> None:
    names, samples, seed = ("black", "random", "blur"), 8, 5
    run = asked(small(), seed=seed)
    values = answer("expected_gradients", run, samples=samples, baselines=names, noise=0.1)
    model, generator = run.subject.model, torch.Generator().manual_seed(seed)
    low, high = (run.subject.pixel(level).to(run.x) for level in (0.0, 1.0))
    spread = 0.1 * (run.x.amax((1, 2, 3)) - run.x.amin((1, 2, 3)))[:, None, None, None]
    blur = baseline_images("blur", run)
    exact, starts = torch.zeros_like(run.x), []
    for sample in range(samples):
        kind, parts = names[sample % 3], [3, 3, 2][sample % 3]
        part = {3: (1, 0, 2), 2: (0, 1)}[parts][sample // 3]  # from coarse to fine
        along = (part + float(torch.rand((), generator=generator))) / parts
        start = {"black": black(run), "blur": blur}.get(kind)
        if start is None:
            noise = torch.rand(run.x.shape[1:], generator=generator).double()
            start = (low + noise * (high - low)).expand_as(run.x)
        end = run.x + spread * torch.randn(run.x.shape[1:], generator=generator).double()
        exact += (end - start) * gradient(model, start + along * (end - start)) / samples
        starts.append(start)
    torch.testing.assert_close(values, exact.sum(1))
    assert_error_is(run, values, rise_over(run, *starts))
    assert run.cost_counter.forward == 2 * (
        samples + 1 + 3 + 1 + 1
    )  # black, three random, blur; itself


def test_expected_gradients_are_captums_gradient_shap_in_distribution() -> None:
    run = asked(small(nn.Tanh()))
    values = answer("expected_gradients", run, samples=1000, baselines=("black", "white"))
    white = run.subject.pixel(1.0).to(run.x).expand_as(run.x)
    model = copy.deepcopy(run.subject.model)
    np.random.seed(0)
    torch.manual_seed(0)
    theirs = captum.attr.GradientShap(model).attribute(
        run.x.clone().requires_grad_(),
        torch.stack([black(run)[0], white[0]]),
        n_samples=2000,
        stdevs=0.0,
        target=list(CLASSES),
    )
    assert off(values, theirs.detach().sum(1)) < 0.05


def test_expected_gradients_tend_to_the_mean_integrated_gradients() -> None:
    names = ("black", "white", "blur")
    exact = answer("integrated_gradients", asked(small()), steps=400, baselines=names)
    distances = [
        off(answer("expected_gradients", asked(small()), samples=n, baselines=names), exact)
        for n in (30, 300)
    ]
    assert distances[1] < 0.02
    assert distances[1] < 0.3 * distances[0]


def test_each_image_gets_the_same_draws_and_another_seed_gets_others() -> None:
    owner = small()
    x = images(owner, 2).double()
    target = ClassScore(CLASSES)
    ask: Callable[..., Tensor] = lambda run: answer("expected_gradients", run, samples=8, noise=0.1)
    both = ask(Run(owner, x, target, seed=1))
    alone = ask(Run(owner, x[1:], ClassScore(CLASSES[1]), seed=1))
    torch.testing.assert_close(both[1:], alone)
    assert off(ask(Run(owner, x, target, seed=2)), both) > 0.01


# -- the first layer ----------------------------------------------------------------------------


class ConvolutionsOf(TorchFunctionMode):
    """Counts the calls of one convolution."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.calls = weight, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is nn.functional.conv2d and args[1] is self.weight
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ZOO)
def test_the_first_layer_runs_once_for_the_whole_path_and_the_map_is_the_same(name: str) -> None:
    settings = shared_handle(name).preprocessing
    owner, plain = (
        ModelHandle(build(name).double(), name=name, preprocessing=settings) for _ in range(2)
    )
    assert owner.stem is not None
    vars(plain)["probe"] = replace(plain.probe, stem=None)
    x, asked = images(owner, 2), {"target": 1, "steps": 9, "baselines": ("black", "blur")}
    owner.budget = plain.budget = Budget(4)
    convolution: Any = owner.model.get_submodule(owner.stem)
    with ConvolutionsOf(convolution.weight) as counted:
        ours = Explainer(owner).explain(x, "integrated_gradients", **asked)
    whole = 2  # passes: the pictures' own, the baselines'
    assert counted.calls == whole + 3  # the baselines, the pictures, and back
    long = Explainer(plain).explain(x, "integrated_gradients", **asked)
    assert (ours.values - long.values).abs().max() < 1e-6 * long.values.abs().max()
    assert (ours.cost.forward, ours.cost.backward) == (long.cost.forward, long.cost.backward)


class Twice(nn.Module):
    """Sees the picture through a convolution and once more past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).amax((2, 3)) + x.mean((1, 2, 3))[:, None]


class Scaled(Twice):
    """Changes the picture before the convolution sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(2 * x).amax((2, 3))


class Two(Twice):
    """Sees the picture through two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).amax((2, 3)) + self.other(x).amax((2, 3))


@pytest.mark.parametrize("kind", [Twice, Scaled, Two])
def test_a_first_layer_that_is_not_alone_is_none(kind: type[nn.Module]) -> None:
    settings = Preprocessing(input_size=(3, SIZE, SIZE), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert ModelHandle(kind(), name="odd", preprocessing=settings).stem is None
