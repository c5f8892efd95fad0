"""A new metric is one file: everything else finds it through the registry."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.metrics
from core import METRICS, Explainer, cli
from core.evaluation.verdict import sanity_metrics, verdict_metrics
from dashboard import actions
from docs import generate
from tests.conftest import images, shared_handle

METRIC = '''
"""How large the values of a map are."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from core.metrics.base import Metric, MetricContext, check, register
from core.metrics.verdict_rule import Assessment, VerdictRule
from core.runtime.run import Run
from core.types import Score


def assess(value: float, controls: Mapping[str, float]) -> Assessment:
    names = ", ".join(sorted(controls))
    return Assessment("bad", f"It is {value:.0f} loud, beside {names}.")


@register(
    "loudness",
    label="Loudness",
    about="Are the values large?",
    category="complexity",
    higher_is_better=True,
    range=(0.0, float("inf")),
    also_answers=["volume"],
    caveat="It means nothing.",
    verdict=VerdictRule(
        priority=15, assess=assess, uses_controls=True, if_bad="Turn this map down."
    ),
)
class Loudness(Metric):
    """The largest absolute value."""

    gain: float = Field(1.0, ge=0, le=10, description="What to multiply it with")

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        return self.score(run, self.gain * values.abs().amax((1, 2)))
'''


@pytest.fixture
def loudness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The key of a metric that is a file in the package of metrics until the test ends."""
    (tmp_path / "zz_loudness.py").write_text(METRIC, encoding="utf-8")
    monkeypatch.setattr(METRICS, "_classes", {key: METRICS[key] for key in METRICS})
    monkeypatch.setattr(METRICS, "_loaded", False)
    monkeypatch.setattr(core.metrics, "__path__", [*core.metrics.__path__, str(tmp_path)])
    yield "loudness"
    sys.modules.pop("core.metrics.zz_loudness", None)
    vars(core.metrics).pop("zz_loudness", None)


def test_a_metric_in_one_file_is_known_everywhere(
    loudness: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loudness in METRICS
    explainer = Explainer(shared_handle("resnet"))
    x = images(explainer.model, 1)
    answer = explainer.explain(x, "gradcam", target=1)
    score = explainer.measure(x, answer, loudness, target=1, gain=2)
    assert score.value.item() > 0

    assert verdict_metrics()[:2] == ("srg", loudness)
    assert loudness not in sanity_metrics()
    (verdict,) = explainer.verdict(x, answer, target=1)
    found = next(f for f in verdict.findings if f.metric == loudness)
    assert found.tone == "bad"
    assert found.value == pytest.approx(score.value.item() / 2)
    assert found.words.endswith("beside centre, random, sobel.")
    assert verdict.tone == "bad"
    assert verdict.words in {"Turn this map down.", METRICS["srg"].verdict_rule.if_bad}

    assert cli.main(["metrics"]) == 0
    facts = json.loads(capsys.readouterr().out)[loudness]
    assert (facts["category"], facts["caveat"]) == ("complexity", "It means nothing.")
    assert facts["params"]["gain"]["maximum"] == 10

    assert generate.qualities()["volume"] == [loudness]
    page = generate.metrics_section()
    assert page.index("## Category: Complexity") < page.index(f"### `{loudness}`")
    assert page.index(f"### `{loudness}`") < page.index("## Category: Randomisation")
    (group,) = [one for one in actions.metric_groups() if one["label"] == "Complexity"]
    assert ("Loudness *", loudness) in [(one["label"], one["key"]) for one in group["options"]]


def test_it_is_gone_again() -> None:
    assert "loudness" not in METRICS
    assert "loudness" not in verdict_metrics()
