"""What scores say of trusting a map."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from core import METHODS, METRICS, Explainer
from core.evaluation import assess
from core.evaluation.verdict import (
    MAX_ROWS,
    Verdict,
    explanations_needed,
    finding,
    finding_of,
    rule_of,
    sanity_metrics,
    verdict,
    verdict_metrics,
)
from core.inputs.batch import InputBatch
from core.inputs.preprocessing import Preprocessing
from core.runtime.run import Run
from core.tasks.query import Query
from core.types import Attribution, Score
from dashboard.actions.verdict import cards
from tests.conftest import images, shared_handle

GOOD = {
    "srg": 0.5,
    "max_sensitivity": 0.1,
    "completeness_error": 0.01,
    "class_sensitivity": 0.2,
    "randomisation": 0.1,
}
CONTROLS = {"random": 0.0, "sobel": 0.1, "centre": 0.3}


def judged(**values: float) -> Verdict:
    def score(key: str, value: float) -> Score:
        return Score(torch.tensor([value]), key, {})

    scores = {key: score(key, value) for key, value in (GOOD | values).items()}
    beside = {"srg": {name: score("srg", value) for name, value in CONTROLS.items()}}
    return verdict(scores, beside, {})


def test_the_metrics_of_a_verdict_say_so_themselves_and_stand_by_priority() -> None:
    assert verdict_metrics() == tuple(GOOD)
    assert sanity_metrics() == ("class_sensitivity", "randomisation")
    assert [f.metric for f in judged().findings] == list(GOOD)
    assert all(f.words.endswith(".") for f in judged().findings)
    priorities = [rule_of(key).priority for key in verdict_metrics()]
    assert len(set(priorities)) == len(priorities)
    with pytest.raises(ValueError, match="deletion does not count"):
        rule_of("deletion")


def test_the_maps_that_a_metric_needs_are_known_beforehand() -> None:
    assert {key: explanations_needed(key) for key in GOOD} == {
        "srg": 0,
        "max_sensitivity": 10,
        "completeness_error": 0,
        "class_sensitivity": 3 * (1 + 1),
        "randomisation": 3 * (6 + 1),
    }


def test_a_map_that_passes_every_test_is_good() -> None:
    assert judged().tone == "good"


@pytest.mark.parametrize(
    ("values", "tone", "words"),
    [
        ({"srg": -0.1}, "bad", "ignore the model"),
        ({"srg": 0.0}, "bad", "ignore the model"),
        ({"srg": 0.2}, "doubtful", "centre finds important pixels at least as well"),
        ({"randomisation": 0.95}, "bad", "what the model learned"),
        ({"randomisation": 0.6}, "doubtful", "much of it stays"),
        ({"max_sensitivity": 3.0}, "doubtful", "a different map"),
        ({"completeness_error": 0.5}, "doubtful", "do not add up"),
        ({"class_sensitivity": 0.95}, "doubtful", "nearly the same"),
        ({"srg": -0.1, "randomisation": 0.95}, "bad", "ignore the model"),
        ({"class_sensitivity": 1.0}, "doubtful", "is the same"),
    ],
)
def test_what_speaks_against_a_map_is_said(values: dict[str, float], tone: str, words: str) -> None:
    found = judged(**values)
    assert found.tone == tone
    assert words in found.words


# -- thresholds: below, at and above each ---------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "threshold", "below", "at", "above"),
    [
        ("max_sensitivity", 0.5, "good", "doubtful", "doubtful"),
        ("max_sensitivity", 1.0, "doubtful", "bad", "bad"),
        ("completeness_error", 0.05, "good", "doubtful", "doubtful"),
        ("completeness_error", 0.2, "doubtful", "bad", "bad"),
        ("class_sensitivity", 0.9, "good", "good", "doubtful"),
        ("class_sensitivity", 0.999, "doubtful", "doubtful", "bad"),
        ("randomisation", 0.5, "good", "doubtful", "doubtful"),
        ("randomisation", 0.8, "doubtful", "bad", "bad"),
        # The controls score 0, 0.1 and 0.3.
        ("srg", 0.0, "bad", "bad", "doubtful"),
        ("srg", 0.1, "doubtful", "doubtful", "doubtful"),
        ("srg", 0.3, "doubtful", "doubtful", "good"),
    ],
)
def test_a_threshold_belongs_to_the_side_that_is_said(
    metric: str, threshold: float, below: str, at: str, above: str
) -> None:
    around = math.nextafter(threshold, -1), threshold, math.nextafter(threshold, 2)
    beside = CONTROLS if metric == "srg" else {}
    assert [finding(metric, value, beside).tone for value in around] == [below, at, above]


@pytest.mark.parametrize("value", [math.inf, 100.0])
@pytest.mark.parametrize("metric", ["max_sensitivity", "completeness_error"])
def test_what_has_no_largest_value_is_bad_however_large(metric: str, value: float) -> None:
    assert finding(metric, value, {}).tone == "bad"


def test_a_map_that_scores_as_a_control_is_not_better_than_it() -> None:
    for name, value in CONTROLS.items():
        judged_as = "bad" if name == "random" else "doubtful"
        assert finding("srg", value, CONTROLS).tone == judged_as
        assert finding("srg", value, {name: value}).tone == ("bad" if value == 0 else judged_as)
    assert finding("srg", 0.4, {"random": 0.4, "centre": 0.1}).tone == "bad"
    assert "The control centre" in finding("srg", 0.3, CONTROLS).words


def test_no_gain_is_bad_even_above_a_random_map_and_no_control_leaves_doubt() -> None:
    assert finding("srg", 0.0, {"random": -0.2}).tone == "bad"
    assert finding("srg", -0.1, {"random": -0.2}).tone == "bad"
    assert finding("srg", 0.1, {"random": -0.2}).tone == "good"
    assert finding("srg", 0.0, {"centre": -0.2}).tone == "bad"
    assert finding("srg", 0.5, {}).tone == "doubtful"


def test_only_the_weakest_findings_are_named_and_none_is_no_praise() -> None:
    assert verdict({}, {}, {}).tone == "doubtful"
    assert judged(randomisation=0.6).words.count(";") == 0
    both = judged(randomisation=0.6, srg=0.2)
    assert both.words == (
        "Read this map with care: the control centre finds important pixels at least as well; "
        "much of it stays when the model's weights are shuffled."
    )
    assert "much of it" not in judged(randomisation=0.6, max_sensitivity=3.0).words


class Scripted:
    """Every metric of its map scores the same; notes which were measured."""

    def __init__(self, rows: int) -> None:
        self.rows, self.measured = rows, set[str]()

    def estimate_rows(self, method: object, layer: str | None) -> int:
        return self.rows

    def measure(self, query: Query, values: Any, metric: Any) -> Score:
        self.measured.add(str(metric))
        return Score(torch.tensor([0.1]), str(metric), {})


@pytest.mark.parametrize("metric", [m for m in verdict_metrics() if explanations_needed(m)])
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_a_metric_is_measured_up_to_the_row_limit(
    metric: str, excess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = Scripted(7 + excess)

    def checks(explainer: Any, configuration: Any, metrics: Any, *_: Any) -> dict[str, Score]:
        return {key: explainer.measure(query, None, key) for key in metrics}

    monkeypatch.setattr(assess, "MAX_ROWS", 7 * explanations_needed(metric))
    monkeypatch.setattr(assess, "sanity_checks", checks)
    monkeypatch.setattr(assess, "controls", lambda *_: {})
    batch = InputBatch(
        torch.zeros(1, 3, 8, 8), "", Preprocessing((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    )
    query, answer = Query(batch), Attribution(torch.zeros(1, 8, 8), torch.zeros(1), "gradcam", {})
    (found,) = assess.verdicts(explainer, query, answer)  # type: ignore[arg-type]
    assert (metric in explainer.measured) == (excess <= 0)
    assert (metric in found.unanswered) == (excess > 0)
    assert {"srg", "completeness_error"} <= explainer.measured
    assert MAX_ROWS == 4000


def test_metrics_run_the_method_as_often_as_a_verdict_reckons() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "random", target=1)
    rows: list[int] = []
    original = METHODS["random"].attribute

    def attribute(self: Any, run: Run) -> Any:
        rows.append(len(run.x))
        return original(self, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["random"], "attribute", attribute)
        for key in verdict_metrics():
            if not explanations_needed(key):
                continue
            rows.clear()
            if key in sanity_metrics():
                Explainer(owner).sanity_checks("random", metrics=[key])
            else:
                explainer.measure(x, answer, key, target=1)
            assert sum(rows) == explanations_needed(key), key


def test_a_bad_score_comes_with_the_advice_of_its_method_and_a_good_one_with_none() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "integrated_gradients", target=1, steps=1)
    for error, words in (
        (0.01, "Its values account for the score."),
        (0.1, "Its values account for the score only roughly; take more steps."),
        (9.0, "Its values do not add up to what they should explain; take more steps."),
    ):
        told = replace(answer, extras={"completeness_error": torch.tensor([error])})
        score = Explainer(owner).measure(x, told, "completeness_error", target=1)
        assert finding_of("completeness_error", score, {}).words == words
        assert score.advice == ("take more steps" if error >= 0.05 else "",)


# -- on the page, and of real maps ----------------------------------------------------------------


def test_the_page_shows_the_worst_first_with_its_controls() -> None:
    shown = cards(judged(srg=0.2, max_sensitivity=3.0))
    assert [card["tone"] for card in shown[:3]] == ["doubtful", "bad", "doubtful"]
    told = next(card["caption"] for card in shown if "Symmetric" in card["caption"])
    assert "For comparison: Random (control) 0, Edges (control) 0.1, Centre (control) 0.3." in told


def test_a_model_free_map_is_never_trusted() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 2)
    answer = explainer.explain(x, "sobel", target=1)
    found = explainer.verdict(x, answer, target=1)
    assert [f.tone for f in found] == ["bad", "bad"]
    assert set(found[0].unanswered) == {"completeness_error"}
    assert {f.metric: f.tone for f in found[0].findings}["randomisation"] == "bad"


def test_a_verdict_does_not_ask_slow_methods_again_and_again() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "occlusion", target=1, window=12, stride=7)
    (found,) = explainer.verdict(x, answer, target=1)
    assert "rows; measure it by itself" in found.unanswered["max_sensitivity"]
    assert "rows; measure" not in found.unanswered.get("class_sensitivity", "")
    assert [card["caption"] for card in cards(found)][-1].startswith("Not tested: it takes")


def test_a_verdict_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "gradcam", target=1)
    first = explainer.verdict(x, answer, target=1)

    def again(*_: Any) -> None:
        raise AssertionError("measured again")

    for key in GOOD:
        if key != "completeness_error":
            monkeypatch.setattr(METRICS[key], "measure", again)
    assert explainer.verdict(x, answer, target=1) == first
