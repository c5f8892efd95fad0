"""Whether the map on the page deserves trust."""

from __future__ import annotations

import logging

from core import METHODS, METRICS
from core.errors import CancelledError, TimmscopeError
from core.evaluation.verdict import Finding, Verdict
from core.inputs.batch import OnProgress
from core.views.panels import Panel, empty_panel, error_panel, finding_panel
from dashboard.actions.explain import explained
from dashboard.actions.question import Settings, ask, trouble
from dashboard.state import Question, Service

logger = logging.getLogger(__name__)


def assess(
    service: Service,
    question: Question,
    method: str,
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> list[Panel]:
    """The verdict on a map, and a card for each test that it is drawn from."""
    if METHODS[method].is_control:
        return [empty_panel("A control knows nothing of the model, and is not to be trusted.")]
    try:
        asked = ask(service, question, on_progress)
        found = explained(asked, method, settings, layer, on_progress)
        (judged,) = asked.explainer.verdict(
            asked.batch, found, target=asked.target, on_progress=on_progress
        )
    except CancelledError:
        raise
    except TimmscopeError as error:
        return [trouble("Not judged", question, error)]
    except RuntimeError as error:  # the model's own code
        logger.exception("judging %s failed", method)
        return [error_panel("Not judged", str(error).partition("\n")[0])]
    return cards(judged)


def cards(judged: Verdict) -> list[Panel]:
    """A verdict as the page shows it, worst findings first."""
    order = ("bad", "doubtful", "good")
    findings = sorted(judged.findings, key=lambda finding: order.index(finding.tone))
    return [
        finding_panel(f"Verdict: {judged.tone}", judged.words, judged.tone),
        *(_card(finding) for finding in findings),
        *(
            finding_panel(METRICS[key].about, f"Not asked: {reason}.", "unasked")
            for key, reason in judged.unanswered.items()
        ),
    ]


def _card(finding: Finding) -> Panel:
    cls = METRICS[finding.metric]
    better = "higher" if cls.higher_is_better else "lower"
    parts = [finding.words, f"{cls.label} {finding.value:.3g}, {better} is better."]
    if finding.controls:
        told = (f"{METHODS[key].label} {value:.3g}" for key, value in finding.controls.items())
        parts.append(f"Beside it: {', '.join(told)}.")
    return finding_panel(cls.about, " ".join(parts), finding.tone)
