"""Deletion and insertion, on a model whose answer is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from torch import Tensor, nn

from core import METRICS, Explainer, ModelHandle
from core.errors import NotApplicableError, TimmscopeError, UnknownNameError
from core.inputs.preprocessing import Preprocessing
from core.metrics.base import MetricContext, MetricInput
from core.metrics.faithfulness import ranking
from core.metrics.faithfulness_subsets import correlation
from core.perturb.imputation import NOISE, imputed
from tests.conftest import images, shared_handle

SIDE = 16


class Spot(nn.Module):
    """Its first class looks at one 4 x 4 spot, its second is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        spot = x[:, :, 4:8, 4:8].mean((1, 2, 3))
        return torch.stack([self.gain * spot, torch.zeros_like(spot)], 1)


@pytest.fixture
def spot() -> Explainer:
    preprocessing = Preprocessing(input_size=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Explainer(ModelHandle(Spot(), name="spot", preprocessing=preprocessing))


def white() -> Tensor:
    return torch.ones(1, 3, SIDE, SIDE)


def evidence() -> Tensor:
    ground_truth = torch.zeros(1, SIDE, SIDE)
    ground_truth[:, 4:8, 4:8] = 1
    return ground_truth


def test_the_true_evidence_beats_its_inverse_and_the_controls(spot: Explainer) -> None:
    for key in ("deletion", "insertion", "srg"):
        cls, params = METRICS[key], {"baseline": "zero", "steps": 16}
        right = spot.measure(white(), evidence(), key, target=0, **params).value[0]
        wrong = spot.measure(white(), -evidence(), key, target=0, **params).value[0]
        controls = spot.controls(white(), key, target=0, **params)
        others = [wrong, *(score.value[0] for score in controls.values())]
        assert len(controls) >= 2
        if cls.higher_is_better:
            assert right > max(others)
        else:
            assert right < min(others)


def test_the_curve_runs_from_the_picture_to_the_baseline(spot: Explainer) -> None:
    score = spot.measure(white(), evidence(), "deletion", target=0, steps=16, baseline="zero")
    full, empty = torch.tensor([4.0, 0.0]).softmax(0)[0], 0.5
    assert score.curve_x is not None
    assert score.curve_y is not None
    assert score.curve_y.shape == (1, 17)
    torch.testing.assert_close(score.curve_x, torch.linspace(0, 1, 17))
    assert score.curve_y[0, 0].item() == pytest.approx(full.item())
    # 16 of 256 pixels hold all the evidence, and one step takes 16.
    torch.testing.assert_close(score.curve_y[0, 1:], torch.full((16,), empty))
    by_hand = (0.5 * (full + empty) + 15 * empty) / 16
    assert score.value[0].item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_insertion_mirrors_deletion(spot: Explainer) -> None:
    params = {"baseline": "zero", "steps": 16}
    gone = spot.measure(white(), evidence(), "deletion", target=0, **params)
    back = spot.measure(white(), -evidence(), "insertion", target=0, **params)
    assert gone.curve_y is not None
    assert back.curve_y is not None
    assert back.curve_y[0, -1] == gone.curve_y[0, 0]
    assert back.curve_y[0, 0] == gone.curve_y[0, -1]


def test_steps_that_do_not_divide_the_pixels_count_the_last_part(spot: Explainer) -> None:
    score = spot.measure(white(), evidence(), "deletion", target=0, steps=7, baseline="zero")
    assert score.curve_x is not None
    assert score.curve_y is not None
    assert score.curve_x[-1] == 1
    assert score.curve_y[0, -1].item() == pytest.approx(0.5)


def test_ties_are_broken_at_random_but_reproducibly() -> None:
    flat = torch.zeros(1, 10, 10)
    one, same = (ranking(flat, torch.Generator().manual_seed(0)) for _ in range(2))
    other = ranking(flat, torch.Generator().manual_seed(1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert sorted(one[0].tolist()) == list(range(100))
    assert one[0].tolist() != list(range(100))


def test_a_coarse_map_is_brought_to_the_pixels_first(spot: Explainer) -> None:
    coarse = torch.zeros(1, 4, 4)
    coarse[:, 1, 1] = 1
    score = spot.measure(white(), coarse, "deletion", target=0, steps=16, baseline="zero")
    assert score.value[0] < 0.6


def test_several_images_are_scored_as_each_alone() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 2)
    maps = torch.rand(2, *x.shape[2:], generator=torch.Generator().manual_seed(0))
    both = Explainer(owner).measure(x, maps, "insertion", target=1, steps=5)
    for i in range(2):
        alone = Explainer(owner).measure(x[i], maps[i : i + 1], "insertion", target=1, steps=5)
        torch.testing.assert_close(both.value[i], alone.value[0], rtol=1e-4, atol=1e-5)


def test_a_contrast_is_measured_by_its_probabilities(spot: Explainer) -> None:
    score = spot.measure(white(), evidence(), "deletion", target="0-1", steps=4)
    assert score.curve_y is not None
    p = torch.tensor([4.0, 0.0]).softmax(0)
    assert score.curve_y[0, 0].item() == pytest.approx((p[0] - p[1]).item(), abs=1e-6)


def test_maps_that_cannot_be_ranked_are_refused(spot: Explainer) -> None:
    with pytest.raises(TimmscopeError, match="not finite"):
        spot.measure(white(), torch.full((1, SIDE, SIDE), torch.nan), "deletion", target=0)
    with pytest.raises(TimmscopeError, match="does not fit"):
        spot.measure(white(), torch.zeros(2, SIDE, SIDE), "deletion", target=0)
    with pytest.raises(TimmscopeError, match="steps"):
        spot.measure(white(), evidence(), "deletion", target=0, steps=0)
    with pytest.raises(UnknownNameError, match="did you mean 'deletion'"):
        spot.measure(white(), evidence(), "deletoin", target=0)


# -- curves that share their pictures -------------------------------------------------------------


def rows_of(explainer: Explainer, x: Tensor, maps: list[Tensor], steps: int) -> int:
    """Rows that deletion, insertion and gain of several maps take together."""
    return sum(
        explainer.measure(x, values, key, target=1, steps=steps).cost.forward
        for values in maps
        for key in ("deletion", "insertion", "srg")
    )


@pytest.mark.parametrize("count", [1, 3])
def test_three_metrics_of_several_maps_share_their_rows(count: int) -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, *x.shape[2:], generator=generator) for _ in range(count)]
    assert rows_of(Explainer(owner), x, maps, steps=7) == count * 2 * 6 + 2


@pytest.mark.parametrize("steps", [4, 7, 16])
def test_the_gain_is_insertion_less_deletion(spot: Explainer, steps: int) -> None:
    params: dict[str, Any] = {"steps": steps, "baseline": "black", "target": 0}
    got = {
        key: spot.measure(white(), evidence(), key, **params)
        for key in ("deletion", "insertion", "srg")
    }
    expected = got["insertion"].value - got["deletion"].value
    torch.testing.assert_close(got["srg"].value, expected, atol=1e-6, rtol=0)
    curve = got["srg"].curve_y
    assert curve is not None
    assert curve[0, 0] == curve[0, -1] == 0


# -- imputation -----------------------------------------------------------------------------------


def random_mask(share: float, seed: int = 0) -> Tensor:
    return torch.rand(20, 20, generator=torch.Generator().manual_seed(seed)) > share


REFERENCE_WARNS = pytest.mark.filterwarnings("ignore:__array_wrap__")


@REFERENCE_WARNS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_the_references(share: float) -> None:
    x = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    shown = random_mask(share)
    theirs = NoisyLinearImputer(noise=0.0)(x, shown.float())
    ours = imputed(x, shown[None], noise=0.0)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_imputed_pixels_are_the_mean_of_their_neighbours() -> None:
    x = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(1))
    shown = torch.ones(20, 20, dtype=torch.bool)
    shown[5, 5] = False
    around = x[0, 4:7, 4:7]
    beside, across = around[0, 1] + around[1, 0] + around[1, 2] + around[2, 1], around[::2, ::2]
    expected = beside / 6 + across.sum() / 12
    found = imputed(x, shown[None], noise=0.0)
    assert found[0, 0, 5, 5].item() == pytest.approx(expected.item(), abs=1e-6)
    nothing = imputed(x, torch.zeros(1, 20, 20, dtype=torch.bool), noise=0.0)
    torch.testing.assert_close(nothing[0], x.mean((1, 2), keepdim=True).expand_as(x))


@REFERENCE_WARNS
def test_road_is_the_references_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.perturb.imputation.NOISE", 0.0)
    preprocessing = Preprocessing(input_size=(3, 20, 20), mean=(0.5,) * 3, std=(0.5,) * 3)
    owner = ModelHandle(Spot(), name="spot", preprocessing=preprocessing)
    x, values = torch.rand(2, 1, 3, 20, 20, generator=torch.Generator().manual_seed(2))
    values = values[:, 0]  # no two alike: the reference takes ties all at once
    ours = Explainer(owner).measure(x, values, "road", target=0)

    def softmax(output: Tensor) -> Tensor:
        return output.softmax(-1)[0]

    reference = ROADCombined()
    for averager in (reference.morf_averager, reference.lerf_averager):
        kind = averager.imputer
        averager.imputer = functools.partial(quiet, kind)
    theirs = reference(x, values.numpy(), [softmax], owner.model)
    assert float(ours.value[0]) == pytest.approx(float(theirs[0]), abs=1e-5)


def quiet(kind: Any, percentile: int) -> Any:
    """One of the reference's metrics without noise."""
    metric = kind(percentile)
    metric.perturbation.imputer.noise = 0.0
    return metric


def test_noise_lies_on_imputed_pixels_and_nowhere_else() -> None:
    x, noise = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(3))
    shown = random_mask(0.5)
    plain, noisy = (imputed(x, shown[None], noise=n)[0] for n in (0.0, noise))
    torch.testing.assert_close((noisy - plain)[:, ~shown], noise[:, ~shown])
    assert torch.equal(noisy[:, shown], x[:, shown])


def test_road_shows_the_model_imputed_pixels_with_the_references_noise(spot: Explainer) -> None:
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    values = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE).float()
    seen: list[Tensor] = []
    model = spot.model.model
    assert spot.model.probe
    hook = model.register_forward_pre_hook(lambda _, args: seen.extend(args[0].clone()))
    spot.predict(x)  # a model with another hook is another model, and is looked at anew
    seen.clear()
    spot.measure(x, values, "road", target=0, steps=4)
    hook.remove()
    changed = [row for row in seen if not torch.equal(row, x[0])]
    hidden = [(row != x[0]).all(0) for row in changed]
    shares = sorted(round(mask.float().mean().item(), 2) for mask in hidden)
    assert shares == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1], "from either end, and everything"
    assert NoisyLinearImputer().noise == NOISE == 0.01
    for row, mask in zip(changed, hidden, strict=True):
        noise = (row - imputed(x[0], ~mask[None], noise=0.0)[0])[:, mask]
        assert noise.std().item() == pytest.approx(0.01, rel=0.2)
        assert abs(noise.mean().item()) < 0.003


def test_the_noise_of_imputation_follows_the_seed(spot: Explainer) -> None:
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    values = torch.arange(SIDE * SIDE).view(1, SIDE, SIDE).float()
    one, again, other = (
        Explainer(spot.model).measure(x, values, "road", target=0, seed=seed).value.item()
        for seed in (0, 0, 1)
    )
    assert one == again != other


# -- shape, place, subsets, stability -------------------------------------------------------------


def test_shape_of_maps_is_as_worked_out_by_hand(spot: Explainer) -> None:
    flat, single = torch.full((1, SIDE, SIDE), -2.0), torch.zeros(1, SIDE, SIDE)
    single[0, 3, 3] = -1
    cases = {"complexity": (math.log(SIDE**2), 0.0), "sparseness": (0.0, 1 - 1 / SIDE**2)}
    for key, (of_flat, of_single) in cases.items():
        for values, expected in ((flat, of_flat), (single, of_single), (0 * flat, of_flat)):
            found = spot.measure(white(), values, key, target=0).value.item()
            assert found == pytest.approx(expected, abs=1e-6), key


def test_places_are_as_worked_out_by_hand(spot: Explainer) -> None:
    ground_truth = evidence().bool()
    half = torch.zeros(1, SIDE, SIDE)
    half[:, 4:8, 6:10] = 1  # 8 of its 16 pixels on the evidence, which has 16
    half[:, 0, 0] = -4
    expected = {
        "pointing_game": 0.5,
        "energy_inside": 0.5,
        "mass_accuracy": 8 / 20,
        "rank_accuracy": 0.5,
        "iou": 8 / 24,
    }
    for key, value in expected.items():
        found = spot.measure(white(), half, key, target=0, ground_truth=ground_truth).value.item()
        assert found == pytest.approx(value, abs=1e-6), key
        right = spot.measure(
            white(), evidence(), key, target=0, ground_truth=ground_truth
        ).value.item()
        assert right == pytest.approx(1), key
        wrong = spot.measure(
            white(), -evidence(), key, target=0, ground_truth=ground_truth
        ).value.item()
        assert wrong < 0.1 or key == "mass_accuracy", key


CHANCE = 16 / SIDE**2
FINDS_NOTHING = {
    "pointing_game": (CHANCE, CHANCE),
    "energy_inside": (0.0, 0.0),
    "mass_accuracy": (0.0, CHANCE),
    "rank_accuracy": (CHANCE, CHANCE),
    "iou": (0.0, 0.0),
}
"""What each metric of places says of a map of zeros, and of one of a negative constant."""


@pytest.mark.parametrize(
    "key", [key for key, cls in METRICS.items() if MetricInput.GROUND_TRUTH in cls.needs]
)
def test_a_map_that_points_nowhere_finds_nothing_but_by_chance(spot: Explainer, key: str) -> None:
    for values, expected in zip((0.0, -2.0), FINDS_NOTHING[key], strict=True):
        flat, ground_truth = torch.full((1, SIDE, SIDE), values), evidence().bool()
        found = spot.measure(white(), flat, key, target=0, ground_truth=ground_truth)
        assert found.value.item() == pytest.approx(expected, abs=1e-6)
        if found.curve_y is not None:
            assert found.curve_y.amax().item() == pytest.approx(expected, abs=1e-6)


def test_thresholds_of_iou_end_at_the_largest_value_and_hold_it(spot: Explainer) -> None:
    values, ground_truth = evidence(), evidence().bool()
    values[:, 4:6, 4:8] = 2  # half of the evidence
    values[:, 0, 0] = -9
    values[:, 0, 1] = 1e-3
    score = spot.measure(white(), values, "iou", target=0, ground_truth=ground_truth, thresholds=4)
    assert score.curve_x is not None
    assert score.curve_y is not None
    assert score.curve_x.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert score.curve_y[0].tolist() == pytest.approx([16 / 17, 1, 1, 0.5, 0.5])
    assert score.value.item() == 1


def test_a_map_of_zeros_beside_another_in_the_batch_finds_nothing(spot: Explainer) -> None:
    ground_truth, maps = (
        evidence().bool().expand(2, -1, -1),
        torch.cat([0 * evidence(), evidence()]),
    )
    for key, (of_zeros, _) in FINDS_NOTHING.items():
        found = spot.measure(
            white().expand(2, -1, -1, -1), maps, key, target=0, ground_truth=ground_truth
        )
        assert found.value.tolist() == pytest.approx([of_zeros, 1], abs=1e-6), key


def test_a_metric_that_lacks_something_says_what(spot: Explainer) -> None:
    with pytest.raises(NotApplicableError, match="Pointing game needs to know where"):
        spot.measure(white(), evidence(), "pointing_game", target=0)
    with pytest.raises(NotApplicableError, match="Max-sensitivity runs the method again"):
        spot.measure(white(), evidence(), "max_sensitivity", target=0)
    ground_truth = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    with pytest.raises(TimmscopeError, match="marks no pixel"):
        spot.measure(white(), evidence(), "iou", target=0, ground_truth=ground_truth)
    with pytest.raises(TimmscopeError, match="does not fit maps"):
        spot.measure(white(), evidence(), "iou", target=0, ground_truth=ground_truth[:, 1:])
    answer = spot.explain(white(), "sobel", target=0)
    with pytest.raises(NotApplicableError, match="need not add up"):
        spot.measure(white(), answer, "completeness_error", target=0)


class Additive(nn.Module):
    """The first class adds up weighted pixels: what a set of pixels adds is known."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (x.mean(1) * self.weight).sum((1, 2))
        return torch.stack([score, 0 * score], 1)


@pytest.fixture
def additive() -> Explainer:
    preprocessing = Preprocessing(input_size=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Explainer(ModelHandle(Additive(), name="additive", preprocessing=preprocessing))


SUBSETS = {"faithfulness_correlation": 1.0, "sensitivity_n": 1.0, "infidelity": 0.0}


@pytest.mark.parametrize("key", SUBSETS)
def test_the_exact_map_of_an_additive_model_is_faithful(additive: Explainer, key: str) -> None:
    exact = additive.model.model.weight.detach()[None]  # type: ignore[union-attr,operator]
    ask = functools.partial(additive.measure, white(), metric=key, target=0, baseline="zero")
    found = ask(3 * exact)
    assert found.value.item() == pytest.approx(SUBSETS[key], abs=1e-4), "scale plays no part"
    assert ask(exact.abs()).value.item() != pytest.approx(SUBSETS[key], abs=0.05)
    assert ask(torch.ones_like(exact)).value.item() == pytest.approx(1 - SUBSETS[key], abs=0.35)
    if found.low is not None:
        assert found.high is not None
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("key", SUBSETS)
def test_another_map_takes_no_pass(additive: Explainer, key: str) -> None:
    first = additive.measure(white(), evidence(), key, target=0)
    assert first.cost.forward > 0
    assert additive.measure(white(), -evidence(), key, target=0).cost.forward == 0


def test_fishers_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    a, noise = torch.randn(2, 2000, 30, generator=generator)
    _, low, high = correlation(a, 0.6 * a + 0.8 * noise)
    assert ((low <= 0.6) & (high >= 0.6)).float().mean().item() == pytest.approx(0.95, abs=0.015)


def test_a_map_that_ignores_the_picture_is_stable_and_a_gradient_of_noise_is_not() -> None:
    owner = shared_handle("resnet")
    x, explainer = images(owner, 1), Explainer(shared_handle("resnet"))
    ask = functools.partial(explainer.measure, x, metric="max_sensitivity", target=1, samples=3)
    assert ask(explainer.explain(x, "centre", target=1)).value.item() == 0
    sharp = ask(explainer.explain(x, "saliency", target=1)).value.item()
    calm = ask(explainer.explain(x, "gradcam", target=1)).value.item()
    assert 0 < calm < sharp


def test_the_completeness_error_is_the_methods_own(additive: Explainer) -> None:
    answer = additive.explain(white(), "integrated_gradients", target=0, baselines=["black"])
    found = additive.measure(white(), answer, "completeness_error", target=0)
    assert found.value.item() == pytest.approx(float(answer.extras["completeness_error"]))
    assert found.cost.forward == 0


@pytest.mark.parametrize("key", METRICS)
def test_a_metric_knows_how_often_it_runs_the_method(key: str) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    metric = METRICS.make(key, QUICK_METRICS.get(key))
    answer = explainer.explain(x, "integrated_gradients", target=1, steps=2)
    run = explainer._run(explainer.query(x, target=1), None)
    calls = []

    def reattribute(asked: Any) -> Tensor:
        calls.append(asked)
        return torch.rand(len(asked.x), *asked.x.shape[2:])

    ground_truth = torch.ones(1, *x.shape[2:], dtype=torch.bool)
    metric.measure(run, answer.values, MetricContext(ground_truth, answer, reattribute))
    assert len(calls) == metric.method_calls()
    assert not calls or MetricInput.METHOD in metric.needs


# -- odd maps -------------------------------------------------------------------------------------

ODD: dict[str, Callable[[int, int], Tensor]] = {
    "constant": lambda h, w: torch.full((1, h, w), 0.7),
    "zero": lambda h, w: torch.zeros(1, h, w),
    "negative": lambda h, w: -torch.rand(1, h, w, generator=torch.Generator().manual_seed(0)) - 1,
    "tied": lambda h, w: (torch.arange(h * w) % 3).float().view(1, h, w),
    "one cell": lambda h, w: torch.ones(1, 1, 1),
}
QUICK_METRICS: dict[str, dict[str, Any]] = {
    "road": {"steps": 3},
    "randomisation": {"steps": 2},
    "max_sensitivity": {"samples": 2},
    "grid_pointing_game": {"places": 1},
    **{key: {"steps": 4} for key in ("deletion", "insertion", "srg")},
    **{key: {"samples": 12} for key in ("faithfulness_correlation", "sensitivity_n", "infidelity")},
}


def asked_of(key: str, values: Tensor) -> Any:
    """A metric of a map that IG is said to have given, on a small model."""
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "integrated_gradients", target=1, steps=2)
    ground_truth = torch.zeros(1, *x.shape[2:], dtype=torch.bool)
    ground_truth[:, :20, :20] = True
    return explainer.measure(
        x,
        replace(answer, values=values),
        key,
        target=1,
        ground_truth=ground_truth,
        **QUICK_METRICS.get(key, {}),
    )


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("key", METRICS)
def test_odd_maps_get_a_defined_answer(key: str, odd: str) -> None:
    _, height, width = shared_handle("resnet").input_size
    score = asked_of(key, ODD[odd](height, width))
    low, high = METRICS[key].range
    if score.value.isnan().any():  # neither like nor unlike another map
        assert odd in {"constant", "zero", "one cell"}
        assert score.reason() == "the map has the same value everywhere"
    else:
        assert low - 1e-6 <= score.value.item() <= high + 1e-6


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", METRICS)
def test_maps_that_are_not_finite_are_refused(key: str, value: float) -> None:
    with pytest.raises(TimmscopeError, match="not finite"):
        asked_of(key, torch.full((1, 8, 8), value))


@pytest.mark.parametrize("key", METRICS)
def test_maps_of_another_number_than_pictures_are_refused(key: str) -> None:
    with pytest.raises(TimmscopeError, match=r"a map of shape .* does not fit"):
        asked_of(key, torch.rand(3, 8, 8))
