"""Deletion and insertion, on a model whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core import METRICS, Explainer, ModelHandle
from core.errors import TimmscopeError, UnknownNameError
from core.metrics.removal import ranking
from core.preprocessing import Preprocessing
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
    truth = torch.zeros(1, SIDE, SIDE)
    truth[:, 4:8, 4:8] = 1
    return truth


def test_the_true_evidence_beats_its_inverse_and_the_controls(spot: Explainer) -> None:
    for key, cls in METRICS.items():
        params = {"baseline": "zero", "steps": 16}
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
    score = spot.measure(white(), evidence(), "deletion", target=0, steps=16)
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
    score = spot.measure(white(), evidence(), "deletion", target=0, steps=7)
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
    score = spot.measure(white(), coarse, "deletion", target=0, steps=16)
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
