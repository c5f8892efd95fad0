"""RISE, LIME, superpixels and hidden pixels, against the references and by hand."""

from __future__ import annotations

import itertools
from typing import Any

import lime.lime_base
import lime.lime_image
import numpy as np
import pytest
import skimage.transform
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.methods.lime import Lime, segment_means, similarity
from core.perturb.masks import inpainted
from core.perturb.superpixels import superpixels
from core.tasks.classification import ClassScore
from tests.conftest import SAMPLES, build, images, shared_handle


class Additive(nn.Module):
    """Two weighted sums of the pixels of a small grey picture."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(height * width, 2)
        with torch.no_grad():
            drawn = torch.randn(2, height * width, generator=torch.Generator().manual_seed(4))
            self.fc.weight.copy_(drawn)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


def additive(height: int, width: int) -> ModelHandle:
    preprocessing = Preprocessing(input_size=(1, height, width), mean=(0.0,), std=(1.0,))
    return ModelHandle(Additive(height, width), name="additive", preprocessing=preprocessing)


def rows_of_another_target(key: str, **params: Any) -> tuple[int, Tensor, Tensor]:
    """Rows a second target takes on the same pictures; its map, and the same asked afresh."""
    owner = shared_handle("resnet")
    x, explainer = images(owner, 2), Explainer(owner)
    explainer.explain(x, key, target=1, **params)
    again = explainer.explain(x, key, target=4, **params)
    alone = Explainer(owner).explain(x, key, target=4, **params)
    return again.cost.forward, again.values, alone.values


@pytest.mark.parametrize(
    ("key", "params"),
    [
        ("rise", {"masks": 12}),
        ("lime", {"samples": 12, "segmentation": "grid", "segments": 6}),
        ("shap", {"evaluations": 20}),
        ("kernel_shap", {"evaluations": 20, "segmentation": "grid", "segments": 6}),
    ],
)
def test_another_target_costs_nothing(key: str, params: dict[str, Any]) -> None:
    rows, again, alone = rows_of_another_target(key, **params)
    assert rows == 0
    torch.testing.assert_close(again, alone)


# -- RISE -----------------------------------------------------------------------------------------


def masks_by_hand(
    seed: int, count: int, grid: int, shown: float, size: tuple[int, int]
) -> np.ndarray:
    """Masks (count, H, W) as the paper makes them, from the draws that a seed gives."""
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand((count, grid, grid), generator=generator) < shown).double().numpy()
    cell = np.ceil(np.array(size) / grid).astype(int)
    starts = (torch.rand((count, 2), generator=generator).numpy() * cell).astype(int)
    made = []
    for mask, (top, left) in zip(cells, starts, strict=True):
        large = skimage.transform.resize(
            mask, (grid + 1) * cell, order=1, mode="edge", anti_aliasing=False
        )
        made.append(large[top : top + size[0], left : left + size[1]])
    return np.stack(made)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_rise_is_the_mean_score_under_masks_that_show_a_pixel(name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 2)
    answer = Explainer(owner).explain(
        x, "rise", target=ClassScore((2, 5)), masks=30, grid=5, shown=0.4, seed=3
    )
    masks = torch.from_numpy(masks_by_hand(3, 30, 5, 0.4, (x.shape[2], x.shape[3])))
    model = build(name).double().eval()
    for image, index in enumerate((2, 5)):
        with torch.no_grad():
            scores = model(masks[:, None] * x[image].double())[:, index]
        each = scores[:, None, None] * masks
        torch.testing.assert_close(
            answer.values[image].double(), each.mean(0) / 0.4, rtol=1e-4, atol=1e-5
        )
        error = each.std(0, correction=0) / 30**0.5 / 0.4
        torch.testing.assert_close(
            answer.extras["standard_error"][image].double(), error, rtol=1e-3, atol=1e-4
        )


def test_rise_tends_to_its_expectation_on_an_additive_model() -> None:
    owner = additive(4, 4)
    x = images(owner, 1)
    answer = Explainer(owner).explain(x, "rise", target=1, masks=8000, grid=2)
    expected = np.zeros((4, 4))
    chances = list(itertools.product(itertools.product((0.0, 1.0), repeat=4), range(2), range(2)))
    for cells, top, left in chances:
        large = skimage.transform.resize(
            np.array(cells).reshape(2, 2), (6, 6), order=1, mode="edge", anti_aliasing=False
        )
        mask = large[top : top + 4, left : left + 4]
        with torch.no_grad():
            score = owner.model(x * torch.from_numpy(mask).float())[0, 1]
        expected += float(score) * mask / len(chances) / 0.5
    off = (answer.values[0].double() - torch.from_numpy(expected)).abs()
    error = answer.extras["standard_error"][0].double()
    assert (off < 4 * error).all()
    assert (error < 0.1 * torch.from_numpy(expected).abs().max()).all()


# -- LIME -----------------------------------------------------------------------------------------


class MetricInput(np.random.RandomState):
    """Draws what it is given whenever as many numbers are asked for."""

    drawn: np.ndarray

    def randint(self, low: int, high: int | None = None, size: Any = None, **kwargs: Any) -> Any:
        if size == self.drawn.size:
            return self.drawn.flatten()
        return super().randint(low, high, size, **kwargs)


def drawn_by(seed: int, samples: int, parts: int) -> np.ndarray:
    """The 0s and 1s that a seed gives."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (samples, parts), generator=generator).numpy()


@pytest.mark.parametrize("top", [0, 3])
def test_lime_is_limes_own(top: int) -> None:
    owner, seed, samples = shared_handle("resnet"), 7, 60
    x = images(owner, 2)
    target = ClassScore((1, 3))
    asked = {"segmentation": "slic", "segments": 20, "samples": samples, "top": top}
    answer = Explainer(owner).explain(x, "lime", target=target, seed=seed, **asked)
    for image, index in enumerate((1, 3)):
        labels = answer.extras["segments"][image].numpy()
        random = MetricInput(0)
        random.drawn = drawn_by(seed, samples, labels.max() + 1)

        def classify(pictures: np.ndarray, **_: Any) -> np.ndarray:
            with torch.no_grad():
                rows = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
                return owner.model.eval()(rows).double().numpy()

        peer = lime.lime_image.LimeImageExplainer(
            random_state=random, feature_selection="highest_weights"
        )
        found = peer.explain_instance(
            x[image].permute(1, 2, 0).double().numpy(),
            classify,
            labels=(index,),
            top_labels=None,
            num_samples=samples,
            num_features=top or 1000,
            segmentation_fn=lambda _, labels=labels: labels,
        )
        theirs = np.zeros(labels.max() + 1)
        for part, weight in found.local_exp[index]:
            theirs[part] = weight
        ours = answer.values[image].double()
        expected = torch.from_numpy(theirs[labels])
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
        score = found.score[index] if isinstance(found.score, dict) else found.score
        assert float(answer.extras["r2"][image]) == pytest.approx(score, abs=1e-4)
        if top:
            assert np.count_nonzero(np.unique(ours.numpy())) == top


def test_likeness_is_the_kernel_over_the_cosine_distance() -> None:
    shown = drawn_by(0, 20, 6).astype(float)
    shown[0], shown[1] = 1, 0
    alike = shown.sum(1) / np.sqrt(np.maximum(shown.sum(1), 1) * 6)
    expected = np.exp(-((1 - alike) ** 2) / (2 * 0.3**2))
    np.testing.assert_allclose(similarity(shown, 0.3), expected)


def test_lime_finds_the_weights_of_an_additive_model() -> None:
    owner = additive(6, 6)
    x = images(owner, 1)
    asked = {"segmentation": "grid", "segments": 9, "samples": 200, "baseline": "zero", "alpha": 0}
    answer = Explainer(owner).explain(x, "lime", target=1, **asked)
    shares = (owner.model.fc.weight[1].view(6, 6) * x[0, 0]).detach()  # type: ignore[union-attr, operator]
    parts = shares.unflatten(0, (3, 2)).unflatten(2, (3, 2)).sum((1, 3))
    expected = parts.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(answer.values[0], expected, rtol=1e-4, atol=1e-4)
    assert float(answer.extras["r2"]) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_lasso_is_never_empty_however_small_the_scores(scale: float) -> None:
    owner = additive(6, 6)
    x = images(owner, 1)
    asked = {"segmentation": "grid", "segments": 9, "samples": 200, "baseline": "zero"}
    target = scale * ClassScore(1)
    few, many = (
        Explainer(owner).explain(
            x, "lime", target=target, regression="lasso", sparsity=share, **asked
        )
        for share in (0.9, 0.001)
    )
    ridge = Explainer(owner).explain(x, "lime", target=target, alpha=0, **asked)
    assert 0 < np.count_nonzero(few.values.unique()) < 5
    off = (many.values - ridge.values).abs().max()
    assert off < 0.01 * ridge.values.abs().max()


def test_changing_the_fit_alone_costs_nothing() -> None:
    owner = shared_handle("resnet")
    x, explainer = images(owner, 1), Explainer(owner)
    asked = {"segmentation": "grid", "samples": 20}
    explainer.explain(x, "lime", target=1, **asked)
    for change in ({"top": 3}, {"regression": "lasso"}, {"kernel_width": 1.0}, {"alpha": 5.0}):
        assert explainer.explain(x, "lime", target=1, **asked, **change).cost.forward == 0
    assert (
        explainer.explain(x, "lime", target=1, **{**asked, "baseline": "blur"}).cost.forward == 19
    )


def test_what_hides_a_part_is_its_mean() -> None:
    x = torch.arange(12.0).view(1, 3, 4)
    labels = torch.tensor([[0, 0, 1, 1]] * 3)
    means = segment_means(x, labels)
    assert means[0, :, :2].unique().tolist() == [4.5]
    assert means[0, :, 2:].unique().tolist() == [6.5]


def test_lime_takes_the_references_defaults() -> None:
    asked = Lime()
    assert (asked.segmentation, asked.samples, asked.kernel_width) == ("quickshift", 1000, 0.25)
    assert (asked.baseline, asked.regression, asked.alpha) == ("segment", "ridge", 1.0)


# -- parts and what hides them --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["slic", "quickshift", "felzenszwalb", "grid"])
@pytest.mark.parametrize("channels", [1, 3])
def test_superpixels_leave_no_number_out(how: Any, channels: int) -> None:
    owner = shared_handle("resnet")
    pixels = owner.to_pixels(images(owner, 1)[0, :channels, :48, :64])[:channels]
    labels = superpixels(pixels, how, count=12)
    assert labels.shape == (48, 64)
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    assert 2 <= int(labels.max()) + 1 < 300
    assert torch.equal(labels, superpixels(pixels, how, count=12))


def test_parts_are_those_of_the_picture_as_a_person_sees_it(lite0: Explainer) -> None:
    batch = lite0.prepare(SAMPLES / "coffee.jpg")
    shown = lite0.model.to_pixels(batch.x[0])
    answer = lite0.explain(batch, "lime", segmentation="slic", segments=30, samples=10, seed=1)
    assert torch.equal(answer.extras["segments"][0], superpixels(shown, "slic", 30))


def test_a_blank_picture_is_explained_as_one_part() -> None:
    owner = shared_handle("resnet")
    x = owner.pixel(0.5).expand(1, *owner.input_size).clone()
    for key in ("lime", "kernel_shap"):
        asked = {"samples": 10} if key == "lime" else {"evaluations": 4}
        answer = Explainer(owner).explain(
            x, key, target=1, segmentation="felzenszwalb", baseline="black", **asked
        )
        assert len(answer.values.unique()) == 1
    rise = answer.score - Explainer(owner).predict(owner.pixel(0.0).expand_as(x)).scores[:, 1]
    torch.testing.assert_close(answer.values.sum((1, 2)), rise, rtol=1e-3, atol=1e-4)


def test_inpainting_continues_what_is_shown() -> None:
    across = torch.linspace(0, 1, 32).expand(1, 24, 32)
    shown = torch.ones(3, 24, 32, dtype=torch.bool)
    shown[0, 8:16, 12:20] = False
    shown[1] = False
    filled = inpainted(across, shown)
    assert torch.equal(filled[2], across)
    assert torch.equal(filled[0][:, shown[0]], across[:, shown[0]])
    assert (filled[0] - across).abs().max() < 0.15
    torch.testing.assert_close(filled[1], across.mean().expand_as(across))


def test_inpainting_a_lone_pixel_spreads_it() -> None:
    x = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0))
    shown = torch.zeros(1, 7, 5, dtype=torch.bool)
    shown[0, 2, 3] = True
    torch.testing.assert_close(inpainted(x, shown)[0], x[:, 2, 3][:, None, None].expand_as(x))


def test_inpainting_from_nothing_gives_the_mean_colour() -> None:
    x = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 7, 5, dtype=torch.bool)
    colour = x.mean((1, 2))[:, None, None]
    torch.testing.assert_close(inpainted(x, nothing)[0], colour.expand_as(x))
