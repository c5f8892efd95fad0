"""What is asked of maps beyond one score: standing, frames, mosaics, sanity, recommendations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core import METHODS, METRICS, Explainer, ModelHandle
from core.errors import NotApplicableError, TimmscopeError
from core.evaluation.recommendation import Candidate, recommend
from core.inputs.preprocessing import Preprocessing
from core.inputs.samples import sample_files
from core.metrics.localisation_grid import companions, mosaic, quarters
from core.models import zoo
from core.runtime.run import Run
from core.types import Cost, PercentileRank, Score
from tests.conftest import SAMPLES, handle, images, quick, shared_handle

NAMES = {key: cls.label for key, cls in METHODS.items()}


class Bright(nn.Module):
    """Class 0 adds up what is bright on the left of the picture, class 1 on the right."""

    def forward(self, x: Tensor) -> Tensor:
        light, half = x.mean(1), x.shape[3] // 2
        return torch.stack([light[:, :, :half].mean((1, 2)), light[:, :, half:].mean((1, 2))], 1)


def bright() -> Explainer:
    prepared = Preprocessing((3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Explainer(ModelHandle(Bright(), name="bright", preprocessing=prepared))


# -- among random maps ----------------------------------------------------------------------------


def test_a_standing_counts_worse_maps_and_half_of_equal_ones() -> None:
    own = Score(torch.tensor([0.5, 0.1]), "srg", {})
    others = torch.tensor([[0.2, 0.2], [0.5, 0.3], [0.4, 0.1], [0.9, 0.0]])
    assert PercentileRank.among(own, others, higher_is_better=True).percentile.tolist() == [
        62.5,
        37.5,
    ]
    assert PercentileRank.among(own, others, higher_is_better=False).percentile.tolist() == [
        37.5,
        62.5,
    ]


@pytest.mark.parametrize(
    ("metric", "params"),
    [
        ("srg", {"baseline": "black"}),
        ("faithfulness_correlation", {"baseline": "black"}),
        ("energy_inside", {}),
        ("deletion", {"baseline": "black"}),
    ],
)
def test_what_speaks_stands_above_random_maps_and_its_opposite_below(
    metric: str, params: dict[str, Any]
) -> None:
    explainer, x = bright(), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = torch.zeros(1, 8, 8)
    values[:, :, :4] = 1
    ground_truth = torch.zeros(1, 32, 32, dtype=torch.bool)
    ground_truth[:, :, :16] = True
    asked: dict[str, Any] = {"target": 0, "ground_truth": ground_truth, "maps": 12, **params}
    assert explainer.percentile_rank(x, values, metric, **asked).percentile.item() == 100
    assert explainer.percentile_rank(x, 1 - values, metric, **asked).percentile.item() == 0


def test_random_maps_lie_on_the_maps_grid_and_follow_the_seed() -> None:
    explainer, x = bright(), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, again, other = (
        explainer.percentile_rank(x, torch.rand(1, 4, 4), "complexity", maps=5, seed=seed).others
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    noise = torch.rand((1, 4, 4), generator=torch.Generator().manual_seed(1))
    assert explainer.measure(x, noise, "complexity").value == one[0]


def test_other_pictures_in_the_batch_change_nothing() -> None:
    explainer, x = bright(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = torch.rand(2, 4, 4)
    both, alone = (
        explainer.percentile_rank(x[: len(v)], v, "srg", maps=3, target=0, steps=3)
        for v in (values, values[:1])
    )
    torch.testing.assert_close(both.others[:, :1], alone.others)


@pytest.mark.parametrize("maps", [0, -3])
def test_no_map_to_stand_among_is_said(maps: int) -> None:
    with pytest.raises(TimmscopeError, match=f"among {maps} random maps"):
        bright().percentile_rank(torch.rand(1, 3, 32, 32), torch.rand(1, 4, 4), "srg", maps=maps)


def test_a_metric_that_asks_the_method_has_no_standing() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "gradcam")
    with pytest.raises(NotApplicableError, match="a random map has none"):
        explainer.percentile_rank(x, answer, "max_sensitivity")


@pytest.mark.parametrize("higher", [False, True])
def test_a_map_that_scores_as_all_others_stands_in_the_middle(higher: bool) -> None:
    own = Score(torch.tensor([0.3]), "srg", {})
    random_maps = PercentileRank.among(own, torch.full((7, 1), 0.3), higher_is_better=higher)
    assert random_maps.percentile.tolist() == [50]


def test_a_standing_knows_which_way_a_metric_is_better() -> None:
    x, flat, lone = torch.ones(1, 3, 32, 32), torch.ones(1, 8, 8), torch.zeros(1, 8, 8)
    lone[:, 2, 3] = 1
    for metric in ("complexity", "sparseness"):  # lower is better, higher is better
        assert bright().percentile_rank(x, flat, metric, maps=4).percentile == 0
        assert bright().percentile_rank(x, lone, metric, maps=4).percentile == 100


# -- one step of a curve --------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["mean", "imputation"])
@pytest.mark.parametrize("metric", ["deletion", "insertion"])
def test_a_frame_is_what_the_curve_was_measured_on(metric: str, baseline: str) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 2)
    answer = explainer.explain(x, "gradcam", target=1)
    how: dict[str, Any] = {"steps": 6, "baseline": baseline}
    score = explainer.measure(x, answer, metric, target=1, **how)
    assert score.curve_x is not None
    assert score.curve_y is not None
    for step in range(7):
        shown = explainer.curve_step(x, answer, metric, step=step, **how)
        assert shown.fraction == pytest.approx(float(score.curve_x[step]))
        found = shown.prediction.probabilities[:, 1]
        torch.testing.assert_close(found, score.curve_y[:, step], rtol=1e-4, atol=1e-6)
        own = owner.preprocessing.to_pixels(x)
        kept = (shown.pixels - own).abs().amax(1) < 1e-6
        share = kept.float().mean().item()
        expected = shown.fraction if metric == "insertion" else 1 - shown.fraction
        assert share == pytest.approx(expected, abs=0.02)


def test_looking_at_a_measured_curve_takes_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = handle("resnet")
    owner.owned = True  # so that the change below goes unnoticed
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "gradcam", target=1)
    explainer.measure(x, answer, "srg", target=1)
    kept = owner.fingerprint()

    def forward(*_: object) -> None:
        raise AssertionError("a pass was made")

    monkeypatch.setattr(owner.model, "forward", forward)
    assert owner.fingerprint() == kept
    for metric in ("deletion", "insertion"):
        explainer.curve_step(x, answer, metric, step=9)


def test_steps_and_metrics_without_frames_are_named() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "gradcam", target=1)
    with pytest.raises(TimmscopeError, match="no step 29; steps go from 0 to 28"):
        explainer.curve_step(x, answer, "deletion", step=29)
    with pytest.raises(NotApplicableError, match="Complexity does not remove pixels"):
        explainer.curve_step(x, answer, "complexity", step=1)


# -- grid pointing game ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_mosaic_shows_four_pictures_in_quarters(size: tuple[int, int]) -> None:
    x = torch.full((3, *size), 9.0)
    others = torch.arange(3.0)[:, None, None, None].expand(3, 3, *size)
    for place, (rows, columns) in enumerate(quarters(*size)):
        whole = mosaic(x, others, place, size)
        assert whole.shape == x.shape
        whole = whole.round(decimals=4)
        assert (whole == 9).sum() == x[:, rows, columns].numel()
        assert (whole[:, rows, columns] == 9).all()
        assert set(whole.unique().tolist()) == {0, 1, 2, 9}


def test_pictures_are_whole_where_the_model_can_see_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, ...]] = []
    original = METHODS["saliency"].attribute

    def attribute(self: Any, run: Run) -> Any:
        seen.append(tuple(run.x.shape))
        return original(self, run)

    for name, side in (("resnet", 2), ("vit_registers", 1)):
        owner = shared_handle(name)
        explainer, x = Explainer(owner), images(owner, 1)
        answer = explainer.explain(x, "saliency", target=1)
        monkeypatch.setattr(METHODS["saliency"], "attribute", attribute)
        seen.clear()
        found = explainer.measure(x, answer, "grid_pointing_game", target=1, places=1)
        channels, height, width = owner.input_size
        assert seen == [(1, channels, side * height, side * width)]
        assert found.params["halved"] == (side == 1)
        monkeypatch.undo()


def test_pictures_are_halved_where_the_layer_means_nothing_in_larger_ones() -> None:
    owner = zoo.member("crossvit").handle()
    explainer, x = Explainer(owner), images(owner, 1)
    score = explainer.measure(x, explainer.explain(x, "gradcam"), "grid_pointing_game", places=1)
    assert score.params["halved"]


def test_controls_score_a_quarter_and_grad_cam_more(lite0: Explainer) -> None:
    picture = SAMPLES / "coffee.jpg"
    scores = {
        key: lite0.measure(picture, lite0.explain(picture, key), "grid_pointing_game")
        for key in ("gradcam", "centre", "random")
    }
    values = {key: score.value.item() for key, score in scores.items()}
    assert values["centre"] == pytest.approx(0.25, abs=1e-3)
    assert values["random"] == pytest.approx(0.25, abs=0.01)
    assert values["gradcam"] > 0.6
    assert scores["random"].cost.forward == 4  # the method is asked once for each quarter
    other = SAMPLES / "rocket.jpg"
    again = lite0.measure(other, lite0.explain(other, "random"), "grid_pointing_game")
    assert again.cost.forward == 4  # the samples have been asked


def test_the_picture_itself_is_no_company(lite0: Explainer) -> None:
    batch = lite0.prepare(SAMPLES / "coffee.jpg")
    run = lite0._run(lite0.query(batch, target="espresso"), None)
    for other in companions(run)[0]:
        assert (other - batch.x[0]).abs().max() > 0.5


def test_a_game_needs_pictures_that_say_less() -> None:
    explainer = bright()
    x = torch.full((1, 3, 32, 32), -1.0)
    answer = explainer.explain(x, "saliency", target=0)
    with pytest.raises(NotApplicableError, match=f"only 0 of the {len(sample_files())} samples"):
        explainer.measure(x, answer, "grid_pointing_game", target=0)


@pytest.mark.parametrize(("level", "share"), [(0.0, 0.0), (-1.0, 0.0), (2.0, 0.25)])
def test_flat_maps_find_their_quarter_by_chance_or_not_at_all(level: float, share: float) -> None:
    explainer = bright()
    x = torch.ones(1, 3, 32, 32)
    answer = explainer.explain(x, "saliency", target=0)

    def attribute(_self: Any, run: Run) -> Any:
        return torch.full((len(run.x), *run.x.shape[2:]), level), run.score()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["saliency"], "attribute", attribute)
        found = explainer.measure(x, answer, "grid_pointing_game", target=0)
    assert found.value.item() == pytest.approx(share, abs=1e-6)


# -- sanity ---------------------------------------------------------------------------------------


def test_sanity_is_found_out_once_for_a_method_and_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shared_handle("resnet")
    explainer = Explainer(owner)
    first = explainer.sanity_checks("gradcam")
    assert set(first) == {"class_sensitivity", "randomisation"}
    assert all(score.value.shape == (3,) for score in first.values())

    def again(*_: object) -> None:
        raise AssertionError("measured again")

    for key in first:
        monkeypatch.setattr(METRICS[key], "measure", again)
    assert torch.equal(
        explainer.sanity_checks("gradcam")["randomisation"].value, first["randomisation"].value
    )
    with pytest.raises(AssertionError, match="measured again"):
        explainer.sanity_checks("layercam")


def test_a_verdict_does_not_compute_what_it_says_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "rise", target=1, masks=250)

    def measure(*_: object) -> None:
        raise AssertionError("measured although it takes too long")

    monkeypatch.setattr(METRICS["randomisation"], "measure", measure)
    (found,) = explainer.verdict(x, answer, target=1)
    assert "rows; measure it by itself" in found.unanswered["randomisation"]
    assert {f.metric for f in found.findings} == {"srg", "max_sensitivity", "class_sensitivity"}


def test_another_picture_does_not_ask_again_whether_a_method_is_sane() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 2)
    told = []
    for one in x:
        answer = explainer.explain(one, "gradcam")
        (found,) = explainer.verdict(one, answer)
        told.append({f.metric: f.value for f in found.findings})
    assert told[0]["randomisation"] == told[1]["randomisation"]
    assert told[0]["srg"] != told[1]["srg"]


# -- recommendations ------------------------------------------------------------------------------


def contender(key: str, low: float, high: float, passes: int = 10) -> Candidate:
    return Candidate(key, (low, (low + high) / 2, high), Cost(passes))


CONTROLS = {"random": (0.0, 0.0, 0.0), "centre": (0.1, 0.2, 0.3)}


@pytest.mark.parametrize(
    ("contenders", "method", "words"),
    [
        (
            [contender("gradcam", 0.5, 0.6, 3), contender("layercam", 0.2, 0.3, 3)],
            "gradcam",
            "of those that do better than the controls",
        ),
        (
            [contender("occlusion", 0.5, 0.6, 300), contender("gradcam", 0.42, 0.62, 3)],
            "gradcam",
            "does as well (0.52) at 1% of the cost",
        ),
        (
            [contender("gradcam", 0.5, 0.6, 3), contender("occlusion", 0.42, 0.62, 300)],
            "gradcam",
            "no clear difference from Occlusion",
        ),
        (
            [contender("gradcam", 0.5, 0.6), contender("saliency", 0.0, 0.1)],
            "gradcam",
            "Do not trust Saliency here: Centre (control) does at least as well.",
        ),
        ([contender("saliency", 0.0, 0.1)], None, "Take none of them"),
    ],
)
def test_the_best_is_recommended_or_the_cheapest_that_is_level_with_it(
    contenders: list[Candidate], method: str | None, words: str
) -> None:
    found = recommend(contenders, CONTROLS, NAMES)
    assert found.method == method
    assert words in found.words
    assert found.firm == (method is not None)
    assert [c.gain for c in found.ranking] == sorted((c.gain for c in contenders), reverse=True)


def test_a_gain_that_hangs_on_how_pixels_are_removed_is_read_with_care() -> None:
    found = recommend([contender("gradcam", 0.3, 0.3)], CONTROLS, NAMES)
    assert found.method == "gradcam"
    assert not found.firm
    assert "Read it with care: with another baseline, Centre (control)" in found.words


def test_a_gain_above_every_control_in_every_way_is_firm_however_ways_differ() -> None:
    found = recommend([contender("gradcam", 0.15, 0.35)], CONTROLS, NAMES)
    assert found.firm, (
        "0.15 is more than 0.1 there, though less than what the control gains elsewhere"
    )
    assert "care" not in found.words


def priced(key: str, gain: float, forward: int, backward: int) -> Candidate:
    return Candidate(key, (gain,), Cost(forward, backward))


def test_a_backward_pass_counts_as_two_forward_ones_when_the_cheapest_is_taken() -> None:
    gradients, masks = priced("saliency", 0.6, 10, 10), priced("occlusion", 0.6, 25, 0)
    assert (gradients.cost_in_passes, masks.cost_in_passes) == (30, 25)
    for contenders in ([gradients, masks], [masks, gradients]):
        found = recommend(contenders, {"random": (0.0,)}, NAMES)
        assert found.method == "occlusion"
        assert [c.method for c in found.ranking] == ["occlusion", "saliency"]
    best = Candidate("saliency", (0.7, 0.6), Cost(10, 10))
    level = Candidate("occlusion", (0.5, 0.7), Cost(25))
    found = recommend([best, level], {"random": (0.0, 0.0)}, NAMES)
    assert found.method == "occlusion"
    assert "does as well (0.60) at 83% of the cost" in found.words


def test_a_gain_equal_to_a_controls_is_no_better_than_it() -> None:
    found = recommend([priced("gradcam", 0.25, 1, 1)], {"centre": (0.25,)}, NAMES)
    assert (found.method, dict(found.doubtful)) == (None, {"gradcam": "centre"})
    more = np.nextafter(0.25, 1)
    found = recommend([priced("gradcam", more, 1, 1)], {"centre": (0.25,)}, NAMES)
    assert (found.method, found.firm) == ("gradcam", True)


@pytest.mark.parametrize(("last", "firm"), [(0.3, False), (0.31, True)])
def test_one_way_in_which_a_control_gains_as_much_is_enough_for_care(
    last: float, firm: bool
) -> None:
    own = Candidate("gradcam", (0.6, 0.6, last), Cost(1, 1))
    found = recommend([own], {"centre": (0.1, 0.2, 0.3)}, NAMES)
    assert found.method == "gradcam"
    assert found.firm == firm


@pytest.mark.parametrize(("last", "chosen"), [(0.5, "gradcam"), (0.49, "occlusion")])
def test_one_way_in_which_it_gains_as_much_makes_a_method_level(last: float, chosen: str) -> None:
    best = Candidate("occlusion", (0.6, 0.6, 0.5), Cost(300))
    other = Candidate("gradcam", (0.4, 0.4, last), Cost(1, 1))
    assert recommend([best, other], {"random": (0.0, 0.0, 0.0)}, NAMES).method == chosen


def test_the_strongest_control_is_the_rival() -> None:
    controls = {"random": (0.0,), "centre": (0.4,), "sobel": (0.2,)}
    found = recommend([priced("gradcam", 0.3, 1, 1)], controls, NAMES)
    assert found.doubtful == {"gradcam": "centre"}
    assert "Centre (control) gains 0.40" in found.words


@pytest.mark.parametrize("key", ["gradcam", "saliency", "integrated_gradients", "occlusion"])
def test_progress_counts_rows_forward_and_backward(key: str) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    method = quick(key)
    cost = explainer.explain(x, method, target=1).cost
    assert explainer.estimate_rows(method, None) == cost.forward + cost.backward


def test_a_recommendation_is_drawn_from_what_is_measured(lite0: Explainer) -> None:
    picture = SAMPLES / "chelsea.jpg"
    answers = lite0.compare(picture, ["gradcam", "saliency", "random"]).results
    told: list[tuple[int, int]] = []
    found = lite0.recommend(picture, answers, on_progress=lambda *at: told.append(at))
    assert {c.method for c in found.ranking} == {"gradcam", "saliency"}
    assert set(found.controls) == {"random", "sobel", "centre"}
    gains = [  # each by an explainer that has kept nothing
        Explainer(lite0.model)
        .measure(picture, answers["gradcam"], "srg", steps=14, baseline=way)
        .value.item()
        for way in ("blur", "mean", "black")
    ]
    assert len({round(gain, 3) for gain in gains}) == 3
    own = next(c for c in found.ranking if c.method == "gradcam")
    np.testing.assert_allclose(own.gains, gains, rtol=1e-5)
    assert told[-1] == (1500, 1500)
    assert told == sorted(told)


def test_what_cannot_be_recommended_is_said(lite0: Explainer) -> None:
    picture = SAMPLES / "chelsea.jpg"
    control = lite0.compare(picture, ["random"]).results
    with pytest.raises(NotApplicableError, match="no method to recommend"):
        lite0.recommend(picture, control)
    with pytest.raises(NotApplicableError, match="about one picture, not 2"):
        lite0.recommend(lite0.prepare([picture, picture]), control)
