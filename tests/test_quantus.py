"""Our metrics against Quantus where it is right, and against arithmetic where it is not."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from quantus.functions.perturb_func import noisy_linear_imputation
from quantus.functions.similarity_func import correlation_spearman, ssim
from quantus.helpers.model.pytorch_model import PyTorchModel
from quantus.helpers.utils import calculate_auc
from torch import Tensor, nn

from core import METRICS, Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.metrics import similarity
from core.metrics.randomisation import cascade
from core.perturb.imputation import imputed
from tests.conftest import CLASSES, handle, images, shared_handle
from tests.test_oracles import doubled

TOLERANCE = 1e-5
"""How far we may be from Quantus, which works in float32."""

pytestmark = pytest.mark.filterwarnings("ignore:The combination of the value of the passed softmax")


@pytest.fixture(autouse=True)
def trapz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring back what Quantus integrates with; numpy 2 took it away."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)


def agree(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    """The same values to `tolerance`, which differ among themselves by far more."""
    ours, theirs = (np.asarray(v, dtype=float) for v in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.ptp(theirs) > 100 * tolerance, "the reference says nothing"
    assert np.abs(ours - theirs).max() <= tolerance


def asked(
    metric: Any,
    x: Tensor,
    maps: Tensor | None = None,
    classes: Sequence[int] = (),
    ground_truth: Tensor | None = None,
    model: nn.Module | None = None,
    **more: Any,
) -> Any:
    """What one of Quantus' metrics says of maps (B, H, W) or (B, C, H, W)."""
    if maps is not None and maps.ndim == 3:
        maps = maps[:, None]
    return metric(
        model=model,
        x_batch=x.numpy(),
        y_batch=np.array(classes or [0] * len(x)),
        a_batch=None if maps is None else maps.double().numpy(),
        s_batch=None if ground_truth is None else ground_truth[:, None].numpy(),
        channel_first=True,
        **more,
    )


def quiet(kind: Any, **params: Any) -> Any:
    """A metric of Quantus that neither prints advice nor waits for it to be read."""
    return kind(disable_warnings=True, return_aggregate=False, **params)


def signed(x: Tensor, seed: int = 0) -> Tensor:
    """Maps (B, H, W) of both signs, brightness and noise; no two values of one are alike."""
    noise = torch.rand((len(x), *x.shape[2:]), generator=torch.Generator().manual_seed(seed))
    ranks = (x.mean(1) + noise).flatten(1).argsort(1).argsort(1)
    return (ranks / ranks.shape[1] - 0.4).view_as(noise)


def clean(owner: ModelHandle) -> nn.Module:
    """A copy of the model in evaluation mode, for a library that may leave it dirty."""
    return copy.deepcopy(owner.model).eval().requires_grad_()


class Doubled(nn.Module):
    """A model in float64 for a library that hands on float32."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x.double())
        return scores


def likely(model: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """(B,) the probability of each picture's class."""
    with torch.no_grad():
        return model(x).softmax(1)[range(len(x)), list(classes)]


@contextmanager
def shown(subject: ModelHandle | nn.Module) -> Iterator[list[Tensor]]:
    """Every batch of rows that goes through the model, as it goes."""
    rows: list[Tensor] = []

    def see(_module: nn.Module, args: tuple[Tensor]) -> None:
        rows.append(args[0].detach().clone())

    model = subject if isinstance(subject, nn.Module) else subject.model
    hook = model.register_forward_pre_hook(see)
    owned = isinstance(subject, ModelHandle) and subject.owned
    if isinstance(subject, ModelHandle):
        subject.owned = True  # so that the hook goes unnoticed
    try:
        yield rows
    finally:
        hook.remove()
        if isinstance(subject, ModelHandle):
            subject.owned = owned


def count(rows: list[Tensor]) -> int:
    return sum(len(some) for some in rows)


# -- shape --------------------------------------------------------------------------------------

SHAPES = {"complexity": quantus.Complexity, "sparseness": quantus.Sparseness}


@pytest.mark.parametrize("key", SHAPES)
def test_shape_is_quantus(key: str) -> None:
    owner = shared_handle("vit_registers")
    x, explainer = images(owner, 4), Explainer(owner)
    maps = signed(x)
    maps[1] = maps[1].clamp_min(0)
    maps[2] = maps[2].sign() * maps[2] ** 4
    maps[3] = explainer.explain(x, "saliency", target=1).values[3]
    ours = explainer.measure(x, maps, key, target=1)
    metric = quiet(SHAPES[key], normalise_func_kwargs={"normalise_axes": (1, 2, 3)})
    agree(ours.value, asked(metric, x, maps))


def test_sparseness_has_no_floor_and_no_neighbours() -> None:
    """Quantus adds 1e-7 to every pixel, after dividing by the largest value of the whole batch."""
    owner = shared_handle("vit_registers")
    x, explainer = images(owner, 2), Explainer(owner)
    pixels = x[0, 0].numel()
    single = torch.zeros(2, *x.shape[2:])
    single[0, 5, 7], single[1, 5, 7] = 1, 1e-5
    ours = explainer.measure(x, single, "sparseness", target=1).value
    assert ours.tolist() == pytest.approx([1 - 1 / pixels] * 2, abs=1e-6)
    large, small = asked(quiet(quantus.Sparseness), x, single)
    assert 1 - 1 / pixels - large == pytest.approx(pixels * 1e-7, rel=0.01)
    assert small < 0.98


# -- place --------------------------------------------------------------------------------------


def evidence(x: Tensor) -> Tensor:
    """Masks (B, H, W), a rectangle of another size on each picture."""
    ground_truth = torch.zeros(len(x), *x.shape[2:], dtype=torch.bool)
    for image, mask in enumerate(ground_truth):
        mask[3 : 20 + 7 * image, 10 : 25 + 9 * image] = True
    return ground_truth


def on_and_off(x: Tensor) -> Tensor:
    """Maps of both signs, whose largest value lies on the evidence of every other picture."""
    maps = signed(x)
    maps[::2, 5, 12] = 0.7
    maps[1::2, 60, 2] = 0.7
    return maps


PLACES = {
    "pointing_game": lambda: quiet(quantus.PointingGame),
    "mass_accuracy": lambda: quiet(quantus.RelevanceMassAccuracy, abs=True),
    "energy_inside": lambda: quiet(
        quantus.AttributionLocalisation, abs=False, positive_attributions=True
    ),
    "rank_accuracy": lambda: quiet(quantus.RelevanceRankAccuracy),
}


@pytest.mark.parametrize("key", PLACES)
def test_place_is_quantus(key: str) -> None:
    owner = shared_handle("vit_registers")
    x = images(owner, 4)
    maps, ground_truth = on_and_off(x), evidence(x)
    ours = Explainer(owner).measure(x, maps, key, target=1, ground_truth=ground_truth)
    agree(ours.value, asked(PLACES[key](), x, maps, ground_truth=ground_truth))


def test_iou_is_made_of_quantus_intersections() -> None:
    owner = shared_handle("vit_registers")
    x = images(owner, 2)
    maps, ground_truth = signed(x), evidence(x)
    ours = Explainer(owner).measure(
        x, maps, "iou", target=1, ground_truth=ground_truth, thresholds=12
    )
    assert ours.curve_y is not None
    curve = torch.zeros(2, 13)
    for image, step in itertools.product(range(2), range(13)):
        values, mask = maps[image : image + 1], ground_truth[image : image + 1]
        over = int(((values >= step / 12 * values.max()) & (values > 0)).sum())
        (share,) = asked(quiet(quantus.TopKIntersection, k=over), x[:1], values, ground_truth=mask)
        curve[image, step] = share * over / (over + int(mask.sum()) - share * over)
    agree(ours.curve_y, curve)
    agree(ours.value, curve.amax(1))


def test_of_tied_maxima_each_counts_as_much() -> None:
    """Quantus lets one of them suffice; ours is its mean over which of them leads by a little."""
    owner = shared_handle("vit_registers")
    x = images(owner, 4)
    ground_truth, flat = evidence(x[:1]), torch.zeros(1, *x.shape[2:])
    tied = [(5, 12), (60, 2), (61, 40), (30, 50)]  # the first lies on the evidence
    for row, column in tied:
        flat[0, row, column] = 1
    ours = Explainer(owner).measure(
        x[:1], flat, "pointing_game", target=1, ground_truth=ground_truth
    )
    ahead = flat.repeat(4, 1, 1)
    for image, (row, column) in enumerate(tied):
        ahead[image, row, column] = 1.5
    each = asked(quiet(quantus.PointingGame), x, ahead, ground_truth=ground_truth.repeat(4, 1, 1))
    assert ours.value.item() == pytest.approx(np.mean(each)) == 0.25
    assert asked(quiet(quantus.PointingGame), x[:1], flat, ground_truth=ground_truth) == [1.0]


def test_rank_accuracy_of_ties_is_quantus_over_all_their_orders() -> None:
    """Quantus takes tied pixels in whatever order they are sorted."""
    owner = shared_handle("vit_registers")
    x = images(owner, 2)
    ground_truth, flat = torch.zeros(2, 1, *x.shape[2:])
    ground_truth[0, 0, :3] = 1  # three pixels of evidence
    flat[0, 0, 0] = 2
    tied = [(0, 1), (0, 2), (40, 40), (41, 41), (42, 42)]
    for row, column in tied:
        flat[0, row, column] = 1
    ours = Explainer(owner).measure(
        x[:1], flat, "rank_accuracy", target=1, ground_truth=ground_truth
    )
    orders = list(itertools.permutations(range(5)))
    apart = flat.repeat(len(orders), 1, 1)
    for image, order in enumerate(orders):
        for (row, column), place in zip(tied, order, strict=True):
            apart[image, row, column] += place / 10
    many = torch.zeros(len(orders), *x.shape[1:])
    masks = ground_truth.bool().repeat(len(orders), 1, 1)
    each = asked(quiet(quantus.RelevanceRankAccuracy), many, apart, ground_truth=masks)
    by_hand = (1 + 2 * 2 / 5) / 3
    assert ours.value.item() == pytest.approx(float(np.mean(each)), abs=TOLERANCE)
    assert ours.value.item() == pytest.approx(by_hand, abs=1e-6)
    (one,) = asked(
        quiet(quantus.RelevanceRankAccuracy), x[:1], flat, ground_truth=ground_truth.bool()
    )
    assert min(abs(one - hits / 3) for hits in (1, 2, 3)) < 1e-6, "a whole number of pixels"


def test_mass_that_speaks_against_the_target_is_mass() -> None:
    """By default Quantus divides signed sums, which are shares of nothing."""
    owner = shared_handle("vit_registers")
    x = images(owner, 1)
    ground_truth, maps = torch.zeros(2, 1, *x.shape[2:])
    ground_truth[0, :2] = 1
    maps[0, 0, 0], maps[0, 1, 0], maps[0, 9, 9] = 3, 1, -2
    ask = Explainer(owner).measure
    mass, energy = (
        ask(x, maps, key, target=1, ground_truth=ground_truth).value.item()
        for key in ("mass_accuracy", "energy_inside")
    )
    assert (mass, energy) == (pytest.approx(4 / 6), pytest.approx(1))
    assert asked(quiet(quantus.RelevanceMassAccuracy), x, maps, ground_truth=ground_truth) == [2.0]


# -- likeness -----------------------------------------------------------------------------------


def test_likeness_of_maps_is_quantus() -> None:
    x = images(shared_handle("vit_registers"), 3)
    some, others = signed(x, 1), x.mean(1)
    some = some + 0.2 * others
    some[1] = some[1].clamp_min(0)  # ties
    flat = [maps.flatten(1).double().numpy() for maps in (some, others)]
    ours = [similarity.spearman(a, b) for a, b in zip(some, others, strict=True)]
    agree(ours, correlation_spearman(*flat, batched=True))
    unit = [maps - maps.amin((1, 2), keepdim=True) for maps in (some, others)]
    unit = [(maps / maps.amax((1, 2), keepdim=True)).double() for maps in unit]
    ours = [similarity.ssim(a, b) for a, b in zip(some, others, strict=True)]
    agree(ours, ssim(*(maps.numpy() for maps in unit), batched=True))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_overlap_of_maps_is_made_of_quantus_intersections(share: float) -> None:
    x = images(shared_handle("vit_registers"), 3)
    some, others = signed(x, 1) + 0.2 * x.mean(1), x.mean(1)
    k = round(share * x[0, 0].numel())
    bars = others.flatten(1).topk(k).values[:, -1]
    tops = others >= bars[:, None, None]
    shares = np.array(asked(quiet(quantus.TopKIntersection, k=k), x, some, ground_truth=tops))
    ours = [similarity.overlap(a, b, share) for a, b in zip(some, others, strict=True)]
    agree(ours, shares / (2 - shares))


# -- removal ------------------------------------------------------------------------------------


def onto(ground: Tensor) -> Callable[..., np.ndarray]:
    """Replaces features by those of the pictures `ground` (B, C, H, W)."""
    flat = ground.flatten(1).numpy()

    def put(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        found, rows = arr.copy(), np.arange(len(arr))[:, None]
        found[rows, indices] = flat[rows, indices]
        return found

    return put


def becomes(baseline: str, owner: ModelHandle, x: Tensor) -> dict[str, Any]:
    """Our baseline as parameters of Quantus, whose own names mean something else."""
    if baseline == "mean":
        return {"perturb_func": onto(x.mean((2, 3), keepdim=True).expand_as(x))}
    if baseline == "zero":
        return {"perturb_baseline": 0.0}
    (level,) = owner.pixel({"black": 0.0, "white": 1.0}[baseline]).unique().tolist()
    return {"perturb_baseline": level}


def flipped(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    classes: Sequence[int],
    steps: int,
    **params: Any,
) -> Tensor:
    """(B, steps + 1) Quantus' curve at whole pixels, with the unperturbed picture before it.

    A step of theirs takes as many features as one of ours takes pixels, which have a feature for
    each channel.
    """
    channels, pixels = x.shape[1], x[0, 0].numel()
    metric = quiet(quantus.PixelFlipping, features_in_step=pixels // steps, **params)
    theirs = torch.tensor(asked(metric, x, maps, classes, model=model))
    assert theirs.shape == (len(x), channels * steps)
    before = likely(model, x, classes)[:, None]
    return torch.cat([before, theirs[:, channels - 1 :: channels]], 1)


CURVES = [
    ("resnet", "black", 8),
    ("resnet", "mean", 5),
    ("swin", "zero", 28),
    ("vit_registers", "white", 16),
    ("vit_pooled", "mean", 2),
]


@pytest.mark.parametrize(("name", "baseline", "steps"), CURVES)
def test_removal_curves_are_quantus_pixel_flipping(name: str, baseline: str, steps: int) -> None:
    owner = shared_handle(name)
    x, classes, model = images(owner, 2), (1, 3), clean(owner)
    explainer, maps = Explainer(owner), signed(x)
    params = becomes(baseline, owner, x)
    most = flipped(model, x, maps, classes, steps, **params)
    least = flipped(model, x, -maps, classes, steps, **params)
    curves = {"deletion": most, "insertion": least.flip(1), "srg": least - most}
    ours = {
        key: explainer.measure(x, maps, key, target=classes, steps=steps, baseline=baseline)
        for key in curves
    }
    for key, curve in curves.items():
        agree(ours[key].curve_y, curve)
    areas = [calculate_auc(curve.numpy(), batched=True) / steps for curve in curves.values()]
    agree(torch.stack([score.value for score in ours.values()]), areas)


def test_rows_of_deletion_against_quantus_pixel_flipping() -> None:
    """28 steps take 28 rows of a picture that has been explained, and Quantus 84.

    To see the unperturbed picture takes a row more, and so does the first map on a baseline.
    """
    owner = handle("swin")
    owner.owned = True  # so that the hooks that count go unnoticed
    x, explainer, explained = images(owner, 1), Explainer(owner), Explainer(owner)
    answer = explained.explain(x, "gradcam", target=1)
    with shown(owner) as rows:
        explainer.measure(x, answer, "deletion", target=1, steps=28)
        fresh = count(rows)
        explainer.measure(x, signed(x), "deletion", target=1, steps=28)
        another = count(rows) - fresh
        rows.clear()
        explained.measure(x, answer, "deletion", target=1, steps=28)
        after_explaining = count(rows)
    assert (fresh, after_explaining, another) == (29, 28, 27)
    model = clean(owner)
    with shown(model) as rows:
        flipping = quiet(quantus.PixelFlipping, features_in_step=x[0, 0].numel() // 28)
        asked(flipping, x, signed(x), [1], model=model)
    assert count(rows) == 84


class Share(nn.Module):
    """The first class is what a picture of ones has left, channel by channel."""

    def __init__(self, channels: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(channels)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        score = (self.weight * x).sum(1).mean((1, 2))
        return torch.stack([score, torch.zeros_like(score)], 1)


def small(model: nn.Module, channels: int = 3, side: int = 12) -> ModelHandle:
    """A model of pictures with black at -1, zero at grey and white at 1."""
    size = (channels, side, side)
    preprocessing = Preprocessing(size, mean=(0.5,) * channels, std=(0.5,) * channels)
    owner = ModelHandle(model.eval(), name="small", preprocessing=preprocessing)
    assert owner.outputs == 2, "tried out now, so that it shows no row of its own later"
    return owner


def test_steps_that_do_not_divide_the_pixels() -> None:
    """Quantus refuses them."""
    owner = small(Share([4.0, 0.0, 0.0]))
    x = torch.ones(1, 3, 12, 12)
    maps = signed(x)
    ours = Explainer(owner).measure(x, maps, "deletion", target=0, steps=7, baseline="zero")
    assert ours.curve_x is not None
    assert ours.curve_y is not None
    gone = [0, 21, 41, 62, 82, 103, 123, 144]
    left = [1 / (1 + math.exp(-4 * (1 - pixels / 144))) for pixels in gone]
    assert ours.curve_x.tolist() == pytest.approx([pixels / 144 for pixels in gone])
    assert ours.curve_y[0].tolist() == pytest.approx(left, abs=1e-6)
    parts = zip(gone, gone[1:], left, left[1:], strict=False)
    area = sum((b - a) / 144 * (p + q) / 2 for a, b, p, q in parts)
    assert ours.value.item() == pytest.approx(area, abs=1e-6)
    with pytest.raises(AssertionError, match="modulo remainder"):
        asked(quiet(quantus.PixelFlipping, features_in_step=21), x, maps, model=owner.model)


def test_an_area_is_a_mean_probability() -> None:
    """Quantus' grows with the number of steps, and leaves out the step from the picture itself."""
    owner = small(Share([4.0, 0.0, 0.0]))
    x = torch.ones(1, 3, 12, 12)
    maps = signed(x)
    for steps in (4, 12):
        ours = Explainer(owner).measure(x, maps, "deletion", target=0, steps=steps, baseline="zero")
        left = [1 / (1 + math.exp(-4 * (1 - step / steps))) for step in range(steps + 1)]
        area = (sum(left) - (left[0] + left[-1]) / 2) / steps
        assert ours.value.item() == pytest.approx(area, abs=1e-6)
        params = {"features_in_step": 144 // steps, "perturb_baseline": 0.0}
        by_points = {}
        for whole in (False, True):
            metric = quiet(quantus.PixelFlipping, return_auc_per_sample=whole, **params)
            by_points[whole] = asked(metric, x, maps, model=owner.model)[0]
        curve = by_points[False]
        assert len(curve) == 3 * steps
        assert by_points[True] == pytest.approx(sum(curve) - (curve[0] + curve[-1]) / 2)
        assert by_points[True] > steps


def test_tied_pixels_go_whole() -> None:
    """Where values tie, Quantus takes a channel of one pixel, then a channel of another."""
    owner = small(Share([4.0, 0.0, 0.0]))
    x = torch.ones(1, 3, 12, 12)
    maps = torch.zeros(1, 12, 12)
    maps[0, 0, 0] = 1
    with shown(owner) as rows:
        ours = Explainer(owner).measure(x, maps, "deletion", target=0, steps=12, baseline="zero")
        own = torch.cat(rows)
        rows.clear()
        flipped(owner.model, x, maps, [0], 12, perturb_baseline=0.0)
        their_own = torch.cat(rows)[3::3]  # at whole pixels, if pixels went whole
    left = [1 / (1 + math.exp(-4 * (1 - step / 12))) for step in range(13)]
    assert ours.curve_y is not None
    assert ours.curve_y[0].tolist() == pytest.approx(left, abs=1e-6)

    def torn(pictures: Tensor) -> bool:
        return bool((pictures != pictures[:, :1]).any())

    assert not torn(own)
    assert torn(their_own)


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_removed_pixels_become_what_the_baseline_says(baseline: str) -> None:
    """Quantus' black is the picture's darkest value; its mean is of all channels, and drifts."""
    owner = small(Share([4.0, -1.0, 2.0]))
    x = (
        torch.linspace(-0.5, 0.9, 144).view(1, 1, 12, 12)
        + torch.tensor([0.0, 0.05, 0.1])[None, :, None, None]
    )
    maps = signed(x)
    with shown(owner) as rows:
        Explainer(owner).measure(x, maps, "deletion", target=0, steps=4, baseline=baseline)
        own = [row for batch in rows for row in batch]
        rows.clear()
        flipped(owner.model, x, maps, [0], 4, perturb_baseline=baseline)
        emptied = rows[-2][0]
    mean = x[0].mean((1, 2))
    ground = mean if baseline == "mean" else torch.tensor([-1.0] * 3)
    assert any(torch.allclose(row, ground[:, None, None].expand_as(row)) for row in own)
    if baseline == "black":
        torch.testing.assert_close(emptied, torch.full_like(emptied, -0.5))
    else:
        assert emptied.unique().numel() > 3
        assert abs(float(emptied.mean() - mean.mean())) > 1e-4


# -- imputation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
def test_imputation_is_quantus(share: float) -> None:
    x = images(shared_handle("vit_registers"), 1)[0]
    drawn = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(2))
    hidden = drawn < share
    indices = np.flatnonzero(hidden.numpy())
    theirs = noisy_linear_imputation(x.double().numpy(), indices, noise=0.0)
    agree(imputed(x, ~hidden[None], noise=0.0)[0], theirs)


class Grey(nn.Module):
    """Two classes of pictures with one channel."""

    def __init__(self, side: int = 20) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.randn(side**2, 2, generator=generator) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.tanh(x.flatten(1) @ self.weight)


PERCENT = list(range(10, 100, 10))


def test_road_is_quantus_on_one_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.perturb.imputation.NOISE", 0.0)
    owner = small(Grey(), 1, 20)
    x = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1
    maps, classes = signed(x), (0, 1, 0)
    ours = Explainer(owner).measure(x, maps, "road", target=classes)
    curves = []
    for ranked in (maps, -maps):
        with shown(owner) as rows:
            metric = quiet(quantus.ROAD, percentages=PERCENT, noise=0.0)
            right = asked(metric, x, ranked, classes, model=owner.model)
            pictures = list(rows)
        curve = torch.stack([likely(owner.model, row, classes) for row in pictures], 1)
        assert [right[p] for p in PERCENT] == pytest.approx((curve > 0.5).float().mean(0).tolist())
        curves.append(curve)
    gain = (curves[1] - curves[0]) / 2
    assert ours.curve_y is not None
    agree(ours.curve_y[:, 1:-1], gain)
    agree(ours.value, gain.mean(1))


def test_road_takes_pixels_where_quantus_takes_features() -> None:
    """Of three channels Quantus ranks every feature, and takes its number for that of a pixel."""
    owner = small(Share([4.0, 0.0, 0.0]))
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    maps = signed(x)
    with shown(owner) as rows:
        Explainer(owner).measure(x, maps, "road", target=0, steps=4)
        pictures = torch.cat(rows)
    changed = (pictures != x).any(1).flatten(1).sum(1)
    assert sorted(changed.tolist()) == [0, *sorted([36, 72, 108] * 2), 144]
    with pytest.raises(IndexError, match="out of bounds"):
        asked(quiet(quantus.ROAD, percentages=[25]), x, maps, model=owner.model)


# -- subsets ------------------------------------------------------------------------------------


def sets(x: Tensor, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Random sets of pixels, each of its share of the picture, as our seed draws them."""
    pixels, generator = x[0, 0].numel(), torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(pixels, generator=generator)[: round(s * pixels)] for s in shares]
    return [some.numpy() for some in drawn]


def correlations(
    monkeypatch: pytest.MonkeyPatch,
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    classes: Sequence[int],
    removed: Sequence[np.ndarray],
    **params: Any,
) -> Any:
    """Quantus' faithfulness correlation over these sets of pixels, all channels of each."""
    channels, pixels = x.shape[1], x[0, 0].numel()
    features = [np.concatenate([some + c * pixels for c in range(channels)]) for some in removed]
    draws = iter([some for some in features for _ in x])
    metric = quiet(quantus.FaithfulnessCorrelation, nr_runs=len(removed), subset_size=1, **params)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "choice", lambda *_, **__: next(draws))
        found = asked(metric, x, maps, classes, model=model)
    assert next(draws, None) is None, "it used all of them"
    return found


@pytest.mark.parametrize(
    ("name", "baseline", "size"),
    [("resnet", "black", 0.05), ("swin", "zero", 0.3), ("vit_registers", "mean", 0.01)],
)
def test_faithfulness_correlation_is_quantus(
    monkeypatch: pytest.MonkeyPatch, name: str, baseline: str, size: float
) -> None:
    # In float64: a correlation of small drops shows the rounding of float32.
    owner = doubled(name)
    x, classes, model = images(owner, 2), (1, 3), Doubled(clean(owner)).eval()
    maps = signed(x)
    ours = Explainer(owner).measure(
        x.double(),
        maps,
        "faithfulness_correlation",
        target=classes,
        samples=12,
        size=size,
        baseline=baseline,
        seed=5,
    )
    removed, params = sets(x, [size] * 12, 5), becomes(baseline, owner, x)
    theirs = correlations(monkeypatch, model, x, maps, classes, removed, **params)
    agree(ours.value, theirs)


def test_sensitivity_n_is_quantus_correlation_at_each_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = shared_handle("vit_registers")
    x, classes, model = images(owner, 2), (1, 3), clean(owner)
    maps = signed(x)
    asks = {"samples": 30, "sizes": 3, "baseline": "zero", "seed": 5}
    ours = Explainer(owner).measure(x, maps, "sensitivity_n", target=classes, **asks)
    shares = [0.01, math.sqrt(0.01 * 0.8), 0.8]
    removed = sets(x, [share for share in shares for _ in range(10)], 5)
    curve = [
        correlations(
            monkeypatch, model, x, maps, classes, removed[at : at + 10], perturb_baseline=0.0
        )
        for at in (0, 10, 20)
    ]
    assert ours.curve_x is not None
    assert ours.curve_x.tolist() == pytest.approx(shares)
    agree(ours.curve_y, np.stack(curve, 1))
    agree(ours.value, np.mean(curve, 0))


class Additive(nn.Module):
    """The first class adds up weighted pixels: what a set of pixels adds is known."""

    def __init__(self, side: int = 12) -> None:
        super().__init__()
        weight = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = (x.mean(1) * self.weight).sum((1, 2))
        return torch.stack([score, 0 * score], 1)


def test_an_exact_map_has_all_the_sensitivity_there_is() -> None:
    """Quantus sets what all steps so far cost against what this one's features are given.

    It does so across pictures, not sets, and where 80% of the features are asked for takes 25%.
    """
    model = Additive()
    owner = small(model)
    x = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    exact = (x.mean(1) * model.weight).detach()
    ours = Explainer(owner).measure(x, exact, "sensitivity_n", target=0, baseline="zero")
    assert ours.value.tolist() == pytest.approx([1] * 6, abs=1e-5)
    seen: list[np.ndarray] = []

    def similarity(a: np.ndarray, b: np.ndarray, **_: Any) -> np.ndarray:
        seen.append(a)
        return np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(a, b, strict=True)])

    metric = quiet(
        quantus.SensitivityN, features_in_step=12, perturb_baseline=0.0, similarity_func=similarity
    )
    theirs = asked(metric, x, exact, model=model, softmax=False)
    assert theirs[0] == pytest.approx(1, abs=1e-5)
    assert min(theirs) < 0.9
    (lost,) = seen
    assert lost.shape == (9, 6)
    assert 12 * len(lost) / (3 * 144) == 0.25


def squares(x: Tensor, side: int, samples: int, seed: int) -> list[np.ndarray]:
    """Random squares of pixels, as our seed draws them."""
    height, width = x.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(height - side + 1, (samples,), generator=generator).tolist()
    lefts = torch.randint(width - side + 1, (samples,), generator=generator).tolist()
    places = np.arange(height * width).reshape(height, width)
    return [
        places[top : top + side, left : left + side].ravel()
        for top, left in zip(tops, lefts, strict=True)
    ]


def test_infidelity_is_quantus_at_the_scale_that_serves_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Theirs is a parabola of the map's scale, of which ours is the lowest point.

    Quantus multiplies a map by what the picture lost, so it gets ours divided by that. It removes
    one patch after another and puts none back; here each starts from the picture.
    """
    owner = shared_handle("vit_registers")
    x, classes, model = images(owner, 2).clamp_min(0.2), (1, 3), clean(owner)
    explainer = Explainer(owner)
    maps = explainer.explain(x, "input_x_gradient", target=classes).values
    ours = explainer.measure(
        x, maps, "infidelity", target=classes, samples=10, side=0.25, baseline="zero", seed=5
    )
    pixels = x[0, 0].numel()
    features = [
        np.stack([np.concatenate([some + c * pixels for c in range(3)])] * 2)
        for some in squares(x, 16, 10, 5)
    ]
    monkeypatch.setattr("quantus.helpers.utils.get_block_indices", lambda *_: features)
    fresh, empty = x.flatten(1).numpy(), onto(0 * x)
    metric = quiet(
        quantus.Infidelity,
        n_perturb_samples=1,
        perturb_patch_sizes=[16],
        perturb_func=lambda arr, indices, **_: empty(fresh, indices),
    )

    def theirs(scale: float) -> np.ndarray:
        per_loss = scale * (maps[:, None].double() / (3 * x.double()))
        return asked(metric, x, per_loss, classes, model=model)

    # Through three scales goes one parabola; its height at zero is what saying nothing costs.
    scales = np.array([-0.01, 0.01, 0.02])
    bend, slope, nothing = np.polyfit(scales, np.stack([theirs(s) for s in scales]), 2)
    agree(ours.value, 1 - slope**2 / (4 * bend * nothing))


def test_each_square_is_removed_from_the_whole_picture() -> None:
    """Quantus leaves out all squares up to this one, and asks the same again for every sample."""
    model = Additive()
    owner = small(model)
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    maps = signed(x)
    with shown(owner) as rows:
        Explainer(owner).measure(
            x, maps, "infidelity", target=0, samples=9, side=1 / 3, baseline="zero"
        )
        own = torch.cat(rows)
        rows.clear()
        metric = quiet(
            quantus.Infidelity, perturb_patch_sizes=[4], n_perturb_samples=2, perturb_baseline=0.0
        )
        asked(metric, x, maps, model=model)
        theirs = torch.cat(rows)
    assert sorted((own == 0).sum((1, 2, 3)).tolist()) == [0] + [3 * 16] * 9
    once = [3 * 16 * step for step in range(1, 10)]
    assert (theirs == 0).sum((1, 2, 3)).tolist() == [0, *once, *once]


# -- what asks the method again -----------------------------------------------------------------


METHOD = {"method": "saliency", "reduction": "sum"}
"""A map of both signs, whose likeness to another may be below zero."""


def gradient(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
    """The same map (B, 1, H, W), as Quantus asks for it."""
    x = torch.as_tensor(inputs, dtype=torch.float32).clone().requires_grad_()
    score = copy.deepcopy(model).eval()(x)[range(len(x)), list(targets)].sum()
    (grad,) = torch.autograd.grad(score, x)
    return grad.sum(1, keepdim=True).numpy()


@pytest.mark.parametrize("name", ["resnet", "vit_registers"])
def test_max_sensitivity_is_quantus_on_the_same_pictures(name: str) -> None:
    owner = shared_handle(name)
    x, classes, model = images(owner, 2), (1, 3), clean(owner)
    explainer = Explainer(owner)
    answer = explainer.explain(x, target=classes, **METHOD)
    ours = explainer.measure(
        x, answer, "max_sensitivity", target=classes, samples=4, radius=0.1, seed=5
    )
    generator = torch.Generator().manual_seed(5)
    drawn = [2 * torch.rand(x.shape[1:], generator=generator) - 1 for _ in range(4)]
    span = float((owner.pixel(1.0) - owner.pixel(0.0)).unique())
    noises = iter([0.1 * span * noise.flatten().numpy() for noise in drawn])
    metric = quiet(
        quantus.MaxSensitivity, nr_samples=4, perturb_func=lambda arr, **_: arr + next(noises)
    )
    theirs = asked(metric, x, answer.values, classes, model=model, explain_func=gradient)
    agree(ours.value, theirs)


def shuffled_alike(
    monkeypatch: pytest.MonkeyPatch, owner: ModelHandle, steps: int, seed: int
) -> None:
    """Have Quantus randomise the layers as we do; its own starts them anew."""

    def models(*_: Any, **__: Any) -> Iterator[tuple[str, nn.Module]]:
        for step, subject in enumerate(cascade(owner, steps, seed)):
            yield str(step), subject.model.eval()

    monkeypatch.setattr(PyTorchModel, "get_random_layer_generator", models)


@pytest.mark.parametrize("name", ["resnet", "vit_registers"])
def test_randomisation_is_quantus_on_the_same_models(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    owner = shared_handle(name)
    x, classes, model = images(owner, 2), (1, 3), clean(owner)
    explainer = Explainer(owner)
    answer = explainer.explain(x, target=classes, **METHOD)
    ours = explainer.measure(x, answer, "randomisation", target=classes, steps=3, seed=5)
    shuffled_alike(monkeypatch, owner, 3, 5)
    again = {"model": model, "explain_func": gradient}
    theirs = asked(quiet(quantus.MPRT, abs=False), x, answer.values, classes, **again)
    either = np.array([theirs[step] for step in "012"]).T
    assert either.min() < -100 * TOLERANCE, "turned around counts as alike, if it occurs"
    alike = np.abs(either)
    assert ours.curve_y is not None
    agree(ours.curve_y[:, 1:], alike)
    agree(ours.value, alike.mean(1))
    # Quantus' mean takes in the likeness of the model to itself.
    metric = quiet(quantus.MPRT, abs=False, return_average_correlation=True)
    average = asked(metric, x, answer.values, classes, **again)
    by_hand = [(1 + sum(theirs[step][image] for step in "012")) / 4 for image in range(2)]
    assert average == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("name", ["resnet", "vit_registers"])
def test_randomised_entropy_is_quantus_on_the_same_models(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    owner = shared_handle(name)
    x, classes, model = images(owner, 2), (1, 3), clean(owner)
    explainer = Explainer(owner)
    answer = explainer.explain(x, target=classes, **METHOD)
    ours = explainer.measure(x, answer, "randomisation_entropy", target=classes, seed=5)
    shuffled_alike(monkeypatch, owner, 1, 5)
    metric = quiet(quantus.EfficientMPRT, skip_layers=False, complexity_func_kwargs={"n_bins": 100})
    again = {"model": model, "explain_func": gradient}
    agree(ours.value, asked(metric, x, answer.values, classes, **again))


def test_class_sensitivity_is_quantus_random_logit_for_the_runner_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = shared_handle("resnet")
    x, classes, model = images(owner, 3), (1, 3, 5), clean(owner)
    explainer = Explainer(owner)
    answer = explainer.explain(x, target=classes, **METHOD)
    metric_of_ours = METRICS.make("class_sensitivity", {"rival": "next"})
    ours = explainer.measure(x, answer, metric_of_ours, target=classes)
    with torch.no_grad():
        ranked = model(x).argsort(descending=True).tolist()
    others = [next(c for c in row if c != own) for row, own in zip(ranked, classes, strict=True)]
    places = [other - (other > own) for other, own in zip(others, classes, strict=True)]
    monkeypatch.setattr(np.random, "randint", lambda *_: np.array(places))
    metric = quiet(quantus.RandomLogit, num_classes=CLASSES, similarity_func=correlation_spearman)
    theirs = asked(metric, x, answer.values, classes, model=model, explain_func=gradient)
    agree(ours.value, theirs)


def test_completeness_error_is_the_gap_that_quantus_sees() -> None:
    """Quantus asks whether two sums of floats are equal to the last bit.

    A map with one channel it sets against the loss of the first channel only.
    """
    owner = shared_handle("vit_registers")
    x, classes, model = images(owner, 3), (1, 3, 5), clean(owner)
    explainer = Explainer(owner)
    answer = explainer.explain(
        x, "integrated_gradients", target=classes, steps=4, baselines=("zero",)
    )
    ours = explainer.measure(x, answer, "completeness_error", target=classes)
    rises: list[np.ndarray] = []

    def rise(found: np.ndarray) -> np.ndarray:
        rises.append(found)
        return found

    metric = quiet(quantus.Completeness, normalise=False, perturb_baseline=0.0, output_func=rise)
    maps = answer.values[:, None]
    verdicts = asked(metric, x, maps.expand_as(x) / 3, classes, model=model)
    asked(metric, x, maps, classes, model=model)
    explained, by_one_channel = rises
    total = maps.double().sum((1, 2, 3)).numpy()
    agree(ours.value, np.abs(total - explained) / np.abs(explained))
    assert not any(verdicts)
    less = x.clone()
    less[:, 0] = 0
    with torch.no_grad():
        lost = (model(x) - model(less))[range(3), list(classes)]
    agree(lost, by_one_channel)
    assert np.abs(by_one_channel - explained).min() > 0.01
