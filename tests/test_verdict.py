"""What scores say of trusting a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core import METRICS, Explainer
from core.evaluation.verdict import (
    Verdict,
    explanations_needed,
    rule_of,
    sanity_metrics,
    verdict,
    verdict_metrics,
)
from core.types import Score
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


def test_the_page_shows_the_worst_first_with_its_controls() -> None:
    shown = cards(judged(srg=0.2, max_sensitivity=3.0))
    assert [card["tone"] for card in shown[:3]] == ["doubtful", "bad", "doubtful"]
    told = next(card["caption"] for card in shown if "Symmetric" in card["caption"])
    assert "Beside it: Random (control) 0, Edges (control) 0.1, Centre (control) 0.3." in told


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
    assert "rows; ask for it by itself" in found.unanswered["max_sensitivity"]
    assert "rows; ask" not in found.unanswered.get("class_sensitivity", "")
    assert [card["caption"] for card in cards(found)][-1].startswith("Not asked: it takes")


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
