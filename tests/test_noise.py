"""Scores that rest on rounding errors, or on constant maps, say that they cannot tell."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core import METRICS, Explainer, ModelHandle
from core.errors import NotApplicableError
from core.evaluation.agreement import agreement
from core.evaluation.assess import mean_check
from core.evaluation.recommendation import Candidate, recommend
from core.evaluation.rows import Row
from core.evaluation.statistics import summary
from core.evaluation.verdict import finding, verdict
from core.inputs.preprocessing import Preprocessing
from core.metrics.base import MetricInput
from core.metrics.similarity import overlap, spearman, ssim
from core.models.load import load_model
from core.runtime.noise import DRAWS, ROUNDINGS, is_constant, score_noise
from core.runtime.run import Run
from core.synthetic import SYNTHETIC_MODELS
from core.tasks.classification import ClassProbability, ClassScore
from core.tasks.outputs import Scores as RowScores
from core.types import Cost, PercentileRank, Score
from dashboard.actions.formatting import extra_text, sum_error_text
from tests.conftest import images, shared_handle

SIDE = 32
CURVES = ("deletion", "insertion", "srg", "road")
SUBSETS = ("faithfulness_correlation", "sensitivity_n", "infidelity")
FEW: dict[str, dict[str, Any]] = {
    **{key: {"steps": 6} for key in ("deletion", "insertion", "srg")},
    "road": {"steps": 3},
    **{key: {"samples": 20} for key in SUBSETS},
}


class Scores(nn.Module):
    """Scores about some constants, which a picture changes by at most `reach`."""

    def __init__(self, constants: tuple[float, ...], reach: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, len(constants), 3, padding=1).to(dtype)
        self.register_buffer("constants", torch.tensor(constants, dtype=dtype))
        self.reach = reach
        with torch.no_grad():
            weight = torch.randn(self.conv.weight.shape, generator=torch.Generator().manual_seed(2))
            self.conv.weight.copy_(weight)
            self.conv.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv(x.to(self.conv.weight.dtype)).mean((2, 3)).tanh()
        out: Tensor = self.constants + self.reach * found
        return out


def model(
    constants: tuple[float, ...], reach: float = 1.0, dtype: torch.dtype = torch.float32
) -> Explainer:
    preprocessing = Preprocessing((3, SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
    module = Scores(constants, reach, dtype)
    return Explainer(ModelHandle(module, name="scores", preprocessing=preprocessing))


CANNOT_TELL = {
    "two outputs far apart": lambda: (model((37.0, 120.0)), 0),
    "a saturated probability": lambda: (model((37.0, 120.0)), 1),
    "a constant model": lambda: (model((1.0, 2.0), reach=0.0), 0),
    "a score that only rounds": lambda: (model((100.0, 100.5), reach=1e-6), 0),
    "bfloat16 that only rounds": lambda: (model((3.0, 4.0), 0.01, torch.bfloat16), 0),
    "float16 that only rounds": lambda: (model((3.0, 4.0), 0.001, torch.float16), 0),
}


def picture(explainer: Explainer) -> Tensor:
    return images(explainer.model, 1)


@pytest.mark.parametrize("case", CANNOT_TELL)
def test_a_map_is_not_trusted_for_what_is_rounding(case: str) -> None:
    explainer, target = CANNOT_TELL[case]()
    x = picture(explainer)
    answer = explainer.explain(x, "saliency", target=target)
    (found,) = explainer.verdict(x, answer, target=target)
    assert "does not change" in found.unanswered["srg"]
    assert "srg" not in {f.metric for f in found.findings}
    if found.tone == "doubtful":
        assert found.words.startswith("Cannot tell: the score does not change")
    else:  # the gradient of this model is nearly the same at every pixel, whatever its weights
        assert (case, found.tone) == ("float16 that only rounds", "bad")


@pytest.mark.parametrize("key", CURVES)
@pytest.mark.parametrize("case", CANNOT_TELL)
def test_no_curve_that_is_flat_but_for_rounding_is_a_score(case: str, key: str) -> None:
    explainer, target = CANNOT_TELL[case]()
    x = picture(explainer)
    values = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    score = explainer.measure(x, values, key, target=target, **FEW[key])
    assert "does not change" in score.reason()
    rank = explainer.percentile_rank(x, values, key, target=target, maps=3, **FEW[key])
    assert rank.percentile.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_score_that_changes_is_a_score_in_any_precision(dtype: torch.dtype) -> None:
    explainer = model((0.0, 0.0), 8.0, dtype)
    x = torch.ones(1, 3, SIDE, SIDE)
    values = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    target = int(explainer.predict(x).scores[0].argmax())
    for key in CURVES:
        score = explainer.measure(x, values, key, target=target, baseline="zero", **FEW[key])
        assert score.reason() == "", key
        assert 0 < score.noise_of() < 1


@pytest.mark.parametrize("key", SUBSETS)
def test_sets_of_pixels_that_change_nothing_say_nothing(key: str) -> None:
    explainer = model((100.0, 100.5), reach=1e-6)
    x = picture(explainer)
    values = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert "whichever set" in explainer.measure(x, values, key, target=0, **FEW[key]).reason()
    lively = model((0.0, 0.0))
    assert lively.measure(x, values, key, target=0, **FEW[key]).reason() == ""
    flat = lively.measure(x, torch.ones(1, SIDE, SIDE), key, target=0, **FEW[key]).reason()
    assert flat == ("" if key == "infidelity" else "the map has the same value everywhere")


def test_a_sum_is_not_compared_with_a_rise_that_is_rounding() -> None:
    for explainer in (model((1.0, 2.0), reach=0.0), model((100.0, 100.5), reach=1e-6)):
        x = picture(explainer)
        for method in ("integrated_gradients", "idgi", "expected_gradients", "blur_ig"):
            answer = explainer.explain(x, method, target=0)
            assert answer.extras["completeness_error"].isnan().all(), method
            score = explainer.measure(x, answer, "completeness_error", target=0)
            assert score.reason() == "the values should add up to 0, up to rounding errors"
        shap = explainer.explain(x, "kernel_shap", target=0, evaluations=20, segments=6)
        assert shap.extras["efficiency_error"].isnan().all()
    assert "cannot be told" in sum_error_text(math.nan, "take more steps")
    assert "unknown" in extra_text("completeness_error", math.nan)


class Broken(nn.Module):
    """Scores that are not numbers once much of the picture is dark."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([(mean - 0.2).log(), mean], 1)


def test_scores_that_are_not_numbers_are_no_evidence() -> None:
    preprocessing = Preprocessing((3, SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
    explainer = Explainer(ModelHandle(Broken(), name="broken", preprocessing=preprocessing))
    x = torch.ones(1, 3, SIDE, SIDE)
    values = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for key in ("deletion", "insertion", "srg"):
        score = explainer.measure(x, values, key, target=0, baseline="black", **FEW[key])
        assert "not finite" in score.reason(), key
    sets = explainer.measure(x, values, "sensitivity_n", target=0, baseline="black", samples=20)
    assert "not finite" in sets.reason()
    nothing = Score(torch.tensor([math.nan]), "srg", {})
    told = verdict({"srg": nothing}, {}, {})
    assert told.tone == "doubtful"
    assert told.findings == []


def test_a_recommendation_does_not_rest_on_rounding() -> None:
    explainer = model((37.0, 120.0))
    x = picture(explainer)
    maps = explainer.compare(x, ["saliency", "input_x_gradient"], target=0).results
    with pytest.raises(NotApplicableError, match=r"cannot tell.*does not change"):
        explainer.recommend(x, maps, target=0)
    candidates = [Candidate("a", [0.3 + 1e-9], Cost(9)), Candidate("b", [0.3], Cost(1))]
    chosen = recommend(candidates, {"random": [0.0]}, {k: k for k in "ab"}, noise=1e-6)
    assert chosen.method == "b", "equal but for rounding, and cheaper"
    level = recommend(
        [Candidate("a", [1e-9], Cost(1))], {"r": [0.0]}, {"a": "A", "r": "R"}, noise=1e-6
    )
    assert level.method is None
    broken = recommend([Candidate("a", [math.nan], Cost(1))], {"r": [0.0]}, {"a": "A", "r": "R"})
    assert broken.method is None


def test_a_finding_takes_scores_for_equal_that_differ_by_rounding() -> None:
    controls = {"random": 0.1, "centre": 0.3}
    assert finding("srg", 0.3 + 1e-7, controls).tone == "good"
    assert finding("srg", 0.3 + 1e-7, controls, noise=1e-6).tone == "doubtful"
    assert finding("srg", 1e-7, {"random": -0.5}, noise=1e-6).tone == "bad"
    tiny = Score(torch.tensor([4e-38]), "srg", {}, noise=torch.tensor([1e-6]))
    none = {"srg": {"random": replace(tiny, value=torch.tensor([0.0]))}}
    told = verdict({"srg": tiny}, none, {})
    assert told.tone == "doubtful"
    assert "larger than rounding errors" in told.unanswered["srg"]


def test_a_rank_counts_scores_that_differ_by_rounding_as_equal() -> None:
    own = Score(torch.tensor([0.5]), "srg", {}, noise=torch.tensor([1e-6]))
    others = torch.tensor([[0.5 - 1e-7], [0.5 + 1e-7], [0.1]])
    assert PercentileRank.among(own, others, higher_is_better=True).percentile.item() == (
        pytest.approx(100 * 2 / 3, abs=1e-4)
    )


def test_statistics_of_many_pictures_do_not_rest_on_rounding() -> None:
    rows = [
        Row(f"{i}.png", method, "deletion", value=0.5 + shift * (1 + i))
        for i in range(8)
        for method, shift in (("gradcam", 1e-9), ("saliency", 0.0), ("random", 0.4))
    ]
    found = summary(rows)["deletion"]
    assert "no clear difference from gradcam" in found["advice"]
    pair = next(p for p in found["pairs"] if set(p["methods"]) == {"gradcam", "saliency"})
    assert pair["p"] == 1


def test_rounding_errors_stay_below_what_counts_as_noise() -> None:
    """Against the same model in double precision and in other batches, on real weights."""
    handles = [load_model(name) for name in SYNTHETIC_MODELS]
    for handle in (Explainer().model, *handles):
        x = handle.samples
        exact = copy.deepcopy(handle.model).double().eval()
        with torch.no_grad():
            theirs, together = exact(x.double()), handle.model(x)
            alone = torch.cat([handle.model(one[None]) for one in x])
        owner = torch.arange(len(x))
        run = Run(handle, x)
        for target in (ClassScore(1), ClassProbability(1), ClassScore(0) - ClassScore(1)):
            floor = score_noise(run, target, RowScores(together), owner)
            for other in (theirs, alone.double()):
                ours = target(RowScores(together.double()), owner)
                error = (ours - target(RowScores(other), owner)).abs()
                assert (error <= floor.double()).all(), (handle.name, target.key)
            assert floor.max() < 1e-4, "and real differences stay above it"
    assert (ROUNDINGS, DRAWS) == (8, 16)


# -- constant maps --------------------------------------------------------------------------------


def test_nothing_is_like_or_unlike_a_constant_map() -> None:
    a = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    for alike in (spearman, overlap, ssim):
        for flat in (torch.zeros(12, 12), torch.full((12, 12), 0.1), 0.1 + 1e-9 * a):
            assert math.isnan(alike(a, flat))
            assert math.isnan(alike(flat, a))
            assert math.isnan(alike(flat, flat))
        assert alike(1e-30 * a, a) == pytest.approx(1), "small is not constant"
    found = agreement({"a": a, "zeros": torch.zeros(12, 12)})
    for table in (found.spearman, found.overlap, found.ssim):
        assert table.diagonal().eq(1).all()
        assert table[0, 1].isnan()
    assert is_constant(torch.stack([a, 0 * a])).tolist() == [False, True]


def scripted(maps: list[Tensor], monkeypatch: pytest.MonkeyPatch, **params: Any) -> Score:
    """Randomisation of Grad-CAM where the shuffled models give these maps before the ReLU."""
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "saliency", target=1)
    left = iter(maps)
    monkeypatch.setattr(
        type(METRICS["randomisation"]()), "maps", lambda self, run, context: next(left)
    )
    return explainer.measure(x, answer, "randomisation", target=1, steps=len(maps), **params)


def test_steps_with_a_constant_map_are_left_out_of_randomisation_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = shared_handle("resnet")
    own = Explainer(owner).explain(images(owner, 1), "saliency", target=1).values
    nothing = torch.zeros_like(own)
    found = scripted([own, nothing, own, nothing], monkeypatch)
    assert found.value.item() == pytest.approx(1), "not 0.5, as if zeros were unlike"
    assert found.curve_y is not None
    assert found.curve_y.isnan().tolist() == [[False, False, True, False, True]]
    assert found.notes[0].startswith("2 of 4 steps left out")
    assert found.reason() == ""
    empty = scripted([nothing, nothing, nothing], monkeypatch, smooth=1)
    assert empty.value.isnan().all()
    assert "with shuffled weights" in empty.reason()


def test_randomisation_compares_maps_before_their_relu() -> None:
    """An all negative map of the shuffled model becomes zeros, as unlike as can be."""
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 2)
    for method in ("gradcam", "layercam", "eigencam"):
        with_relu, without = (
            explainer.measure(
                x, explainer.explain(x, method, target=1, relu=relu), "randomisation", target=1
            )
            for relu in (True, False)
        )
        torch.testing.assert_close(with_relu.value, without.value)


REPEATED = [k for k, cls in METRICS.items() if MetricInput.METHOD in cls.needs]


@pytest.mark.parametrize("key", sorted({*REPEATED} - {"grid_pointing_game", "completeness_error"}))
def test_a_constant_map_is_no_evidence_of_anything(key: str) -> None:
    explainer = model((1.0, 2.0), reach=0.0)  # every gradient is zero
    x = picture(explainer)
    answer = explainer.explain(x, "saliency", target=0)
    assert not answer.values.any()
    score = explainer.measure(x, answer, key, target=0)
    assert score.reason() == "the map has the same value everywhere"


def test_sample_pictures_that_cannot_tell_are_left_out_and_counted() -> None:
    value = torch.tensor([0.2, math.nan, 0.6])
    some = Score(value, "randomisation", {}, cannot_tell=("", "it is flat", ""), notes=("", "", ""))
    mean = mean_check(some, 2)
    assert mean.value.tolist() == pytest.approx([0.4, 0.4])
    assert mean.notes == ("1 of 3 sample pictures left out: it is flat",) * 2
    told = verdict({"randomisation": mean}, {}, {})
    assert "1 of 3 sample pictures left out: it is flat." in told.findings[0].words
    none = mean_check(replace(some, value=value * math.nan, cannot_tell=("flat",) * 3))
    (finding_, words) = verdict({"randomisation": none}, {}, {}), "cannot tell: flat"
    assert finding_.unanswered == {"randomisation": words}
    assert finding_.tone == "doubtful"
