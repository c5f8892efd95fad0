"""What scores say of trusting a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core import METRICS, Explainer
from core.evaluation.verdict import QUESTIONS, Verdict, verdict
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


def test_every_question_is_a_metric_with_an_answer_in_words() -> None:
    assert set(QUESTIONS) <= set(METRICS)
    assert {f.metric for f in judged().findings} == set(QUESTIONS)
    assert all(f.words.endswith(".") for f in judged().findings)


def test_a_map_that_passes_every_test_is_good() -> None:
    assert judged().tone == "good"


@pytest.mark.parametrize(
    ("values", "tone", "words"),
    [
        ({"srg": -0.1}, "bad", "know nothing"),
        ({"srg": 0.0}, "bad", "know nothing"),
        ({"srg": 0.2}, "doubtful", "centre orders pixels at least as well"),
        ({"randomisation": 0.95}, "bad", "what the model has learnt"),
        ({"randomisation": 0.6}, "doubtful", "much of it stays"),
        ({"max_sensitivity": 3.0}, "doubtful", "another map altogether"),
        ({"completeness_error": 0.5}, "doubtful", "do not add up"),
        ({"class_sensitivity": 1.0}, "doubtful", "the same one"),
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
    assert "rows; ask for it by itself" in found.unanswered["max_sensitivity"]
    assert "rows; ask" not in found.unanswered.get("class_sensitivity", "")
    assert [card["caption"] for card in cards(found)][-1].startswith("Not tested: it takes")


def test_a_verdict_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "gradcam", target=1)
    first = explainer.verdict(x, answer, target=1)

    def again(*_: Any) -> None:
        raise AssertionError("measured again")

    for key in QUESTIONS:
        if key != "completeness_error":
            monkeypatch.setattr(METRICS[key], "measure", again)
    assert explainer.verdict(x, answer, target=1) == first
