"""Whether the map on the page can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core import METHODS, METRICS
from core.errors import TimmscopeError
from core.evaluation.verdict import Finding, Verdict
from core.inputs.batch import OnProgress
from core.views.panels import Panel, Tone, empty_panel, finding_panel
from dashboard.actions.explain import ExplainRequest, attribution_of, estimated_cost
from dashboard.actions.question import resolve
from dashboard.state import Service


@dataclass(frozen=True, slots=True)
class VerdictRequest:
    """A map to be tested.

    Attributes:
        explanation: the one on the page; None while there is none.
        layer: the layer of the map on the page, where the filmstrip has chosen another one.
    """

    explanation: ExplainRequest | None
    layer: str | None = None


@dataclass(frozen=True)
class VerdictResult:
    """The verdict on a map.

    Attributes:
        panels: the verdict, then a card for each test that it is drawn from.
        badge: the verdict in a few words; empty if there is none.
        tone: "good", "doubtful" or "bad"; empty if there is no verdict.
        about: the `ExplainRequest.identity` of the map.
        layer: the layer of the map.
    """

    panels: list[Panel]
    badge: str = ""
    tone: str = ""
    about: str = ""
    layer: str | None = None

    @classmethod
    def on(
        cls, request: VerdictRequest, panels: list[Panel], badge: str = "", tone: str = ""
    ) -> VerdictResult:
        """A verdict on the map of a request; see the class for the rest."""
        explanation = request.explanation
        if explanation is None:
            return cls(panels, badge, tone)
        layer = explanation.at(request.layer).layer
        return cls(panels, badge, tone, explanation.identity, layer)


def assess(
    service: Service, request: VerdictRequest, on_progress: OnProgress | None = None
) -> VerdictResult:
    """Test the map on the page.

    Raises:
        TimmscopeError: there is no map to test.
    """
    if request.explanation is None:
        raise TimmscopeError("There is no map to test yet. Press Explain first.")
    explanation = request.explanation.at(request.layer)
    if METHODS[explanation.method].is_control:
        message = "A control does not depend on the model, so its map explains nothing."
        return VerdictResult.on(request, [empty_panel(message)])
    resolved = resolve(service, explanation.question, on_progress)
    with service.slow.slot(on_progress) as on_step:
        found = attribution_of(resolved, explanation, on_step)
        (verdict,) = resolved.explainer.verdict(
            resolved.batch, found, target=resolved.target, on_progress=on_step
        )
    return VerdictResult.on(request, cards(verdict), badge(verdict), verdict.tone)


def check_quietly(
    service: Service, request: VerdictRequest, on_progress: OnProgress | None = None
) -> VerdictResult:
    """Test a map that was cheap to make, unless others wait for the machine.

    Raises:
        TimmscopeError: there is no verdict.
    """
    explanation = request.explanation
    if explanation is None or service.slow.is_busy or METHODS[explanation.method].is_control:
        return VerdictResult.on(request, [])
    resolved = resolve(service, explanation.question, on_progress)
    if estimated_cost(resolved, explanation).pace != "instant":
        return VerdictResult.on(request, [])
    return assess(service, request, on_progress)


OUTCOMES: Mapping[Tone, str] = {"good": "passed", "doubtful": "doubtful", "bad": "failed"}
"""What stands beside a check, by its tone."""


def badge(verdict: Verdict) -> str:
    """A verdict in a few words, such as "Doubtful: 1 of 4 checks failed"."""
    total = len(verdict.findings)
    failed = sum(finding.tone != "good" for finding in verdict.findings)
    if not failed:
        return f"{total} of {total} checks passed"
    return f"{verdict.tone.capitalize()}: {failed} of {total} checks failed"


def cards(verdict: Verdict) -> list[Panel]:
    """A verdict as the page shows it: a line for each check, worst first, with details below it."""
    order = ("bad", "doubtful", "good")
    findings = sorted(verdict.findings, key=lambda finding: order.index(finding.tone))
    return [
        finding_panel(f"Verdict: {verdict.tone}", verdict.words, verdict.tone),
        *(_card(finding) for finding in findings),
        *(
            finding_panel(METRICS[key].about, f"Not tested: {reason.rstrip('.')}.", "unasked")
            for key, reason in verdict.unanswered.items()
        ),
    ]


def _card(finding: Finding) -> Panel:
    cls = METRICS[finding.metric]
    better = "higher" if cls.higher_is_better else "lower"
    sentences = [finding.words, f"{cls.label} {finding.value:.3g}, {better} is better."]
    if finding.controls:
        scores = (f"{METHODS[key].label} {value:.3g}" for key, value in finding.controls.items())
        sentences.append(f"For comparison: {', '.join(scores)}.")
    shown = finding_panel(cls.about, " ".join(sentences), finding.tone)
    return {**shown, "method": OUTCOMES[finding.tone]}
