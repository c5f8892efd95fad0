"""One method's map over the picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core import METHODS, Attribution, Explainer
from core.export import colour_range, contrast_ends, map_on_input
from core.inputs.batch import OnPartial, OnProgress
from core.methods.base import Method
from core.methods.configuration import Configuration
from core.registry import key_of
from core.types import Cost
from core.views.maps import STAGE_SIDE, overlay_panel, picture_uri
from core.views.panels import Panel
from dashboard.actions.code_snippet import code_snippet, command_line
from dashboard.actions.formatting import (
    SUM_ERRORS,
    cost_text,
    extras_text,
    partial_text,
    regions_text,
    sum_error_text,
)
from dashboard.actions.question import (
    Answers,
    Question,
    ResolvedQuestion,
    Settings,
    layer_or_default,
    params_of,
    resolve,
)
from dashboard.state import Service
from dashboard.state.streaming import Show, streamed
from dashboard.state.tasks import Task

CONTRAST = {"relu": False}
"""Parameters, unless a person sets them, where two classes are compared: what speaks for the other
class is shown too."""


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """One method's map.

    Attributes:
        question: picture, model and class.
        method: name of the method or configuration.
        layer: the layer of the method; empty for its own choice.
        settings: parameters a person set.
        stop_after: how many samples a slow method takes at most; None for all.
    """

    question: Question
    method: str
    layer: str | None
    settings: Settings
    stop_after: int | None = None

    def __hash__(self) -> int:
        settings = json.dumps(self.settings, sort_keys=True, default=str)
        return hash((self.question, self.method, self.layer, settings, self.stop_after))

    @property
    def identity(self) -> str:
        """A short text that two requests share if they ask for the same."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()

    def at(self, layer: str | None) -> ExplainRequest:
        """The same at another layer; an empty one leaves it."""
        return replace(self, layer=layer) if layer else self


@dataclass(frozen=True)
class ExplainResult:
    """One explanation as the page shows it.

    Attributes:
        panels: the map over the picture.
        summary: how far the map can be believed, in Markdown.
        code: Python that gives the same map, and draws it.
        command: the command line that does the same.
        request: what was asked for, so that the map can be saved and tested.
        answers: which question it answers.
    """

    panels: list[Panel]
    summary: str
    code: str
    command: str
    request: ExplainRequest
    answers: Answers = field(default_factory=Answers)


def explain(
    service: Service, request: ExplainRequest, on_progress: OnProgress | None = None
) -> ExplainResult:
    """One method's map over the picture.

    Raises:
        TimmscopeError: there is none; the sentence is the reason.
    """
    *_, result = paint(service, request, on_progress)
    return result


def paint(
    service: Service, request: ExplainRequest, on_progress: OnProgress | None = None
) -> Iterator[ExplainResult]:
    """One method's map over the picture; of a slow method, partial maps before it.

    Where `on_progress` is a `Task`, its visitor may find a partial map good enough. Then that is
    the result.

    Raises:
        TimmscopeError: there is none; the sentence is the reason.
    """
    resolved = resolve(service, request.question, on_progress)
    if remaining_cost(resolved, request).pace == "instant":
        with service.slow.held(on_progress) as on_step:
            found = attribution_of(resolved, request, on_step)
        _note_time(service, request, found)
        yield _result(resolved, request, found)
        return

    def job(show: Show[ExplainResult]) -> ExplainResult:
        def report(done: int, expected: int) -> None:
            show(None)
            if on_progress is not None:
                on_progress(done, expected)

        def on_partial(found: Attribution) -> bool:
            enough = isinstance(on_progress, Task) and on_progress.enough
            if not enough:
                show(_result(resolved, request, found, painting=True))
            return enough

        with service.slow.slot(report) as on_step:
            found = attribution_of(resolved, request, on_step, on_partial)
        _note_time(service, request, found)
        return _result(resolved, request, found)

    yield from streamed(job)


def _note_time(service: Service, request: ExplainRequest, found: Attribution) -> None:
    """Remember how long a whole map by a method's default parameters took."""
    usual = METHODS.make(found.method).model_dump()
    if found.partial is None and found.params == usual:
        question = request.question
        service.times.note(question.model, question.weights, found.method, found.cost.seconds)


def _result(
    resolved: ResolvedQuestion, request: ExplainRequest, found: Attribution, painting: bool = False
) -> ExplainResult:
    """An attribution as the page shows it.

    Args:
        resolved: the question.
        request: what was asked for.
        found: the attribution.
        painting: whether it is still being worked on.
    """
    same: dict[str, Any] = {"layer": layer_or_default(found.layer, request.layer)}
    if found.partial is not None:  # stopped, or asked for with so many samples
        same["stop_after"] = [None, found.partial.done]
    answers = resolved.answers([request.method], same=same)
    # Asked for without a class or a layer, it is the same map as with those that were taken.
    request = replace(request, question=resolved.question, layer=found.layer or request.layer)
    if found.partial is not None:
        request = replace(request, stop_after=found.partial.done)
        answers = replace(answers, partial=partial_text(found), painting=painting)
    answers = replace(answers, about=request.identity)
    return ExplainResult(
        [overlay(resolved, found)],
        summary(found),
        code_snippet(resolved, found),
        command_line(resolved, found),
        request,
        answers,
    )


def estimated_cost(resolved: ResolvedQuestion, request: ExplainRequest) -> Cost:
    """What the map costs at most.

    Raises:
        TimmscopeError: the method cannot explain the model.
    """
    method, handle = configuration_of(request).method, resolved.explainer.model
    resolved.explainer.require_runnable(method)
    layer = suitable_layer(resolved.explainer, method, request.layer)
    return method.estimate_cost(handle, handle.resolve_layer(method.layer_needs(), layer))


def remaining_cost(resolved: ResolvedQuestion, request: ExplainRequest) -> Cost:
    """What the map costs at most; nothing where it is kept in the cache.

    Raises:
        TimmscopeError: the method cannot explain the model.
    """
    configuration = configuration_of(request)
    resolved.explainer.require_runnable(configuration.method)
    return resolved.explainer.estimate(
        resolved.batch,
        [configuration],
        target=resolved.target,
        layer=suitable_layer(resolved.explainer, configuration.method, request.layer),
        stop_after=request.stop_after,
    )


def configuration_of(request: ExplainRequest) -> Configuration:
    """The method, with the parameters a person set.

    Raises:
        TimmscopeError: there is no such method, or a parameter is out of range.
    """
    cls = METHODS[key_of(request.method)]
    params = params_of(request.settings, cls.key, cls)
    if request.question.has_versus:
        params = {**params_of({cls.key: CONTRAST}, cls.key, cls), **params}
    return Configuration.parse(request.method, {cls.key: params})


def attribution_of(
    resolved: ResolvedQuestion,
    request: ExplainRequest,
    on_progress: OnProgress | None = None,
    on_partial: OnPartial | None = None,
) -> Attribution:
    """The method's attribution, with the parameters a person set.

    Raises:
        TimmscopeError: there is none; the sentence is the reason.
    """
    configuration = configuration_of(request)
    return resolved.explainer.explain(
        resolved.batch,
        configuration,
        target=resolved.target,
        layer=suitable_layer(resolved.explainer, configuration.method, request.layer),
        on_progress=on_progress,
        on_partial=on_partial,
        stop_after=request.stop_after,
    )


def suitable_layer(explainer: Explainer, method: Method, layer: str | None) -> str | None:
    """The chosen layer if the method can use it; otherwise None, the method's choice."""
    return layer if layer in explainer.model.choices(method.layer_needs()) else None


def overlay(resolved: ResolvedQuestion, found: Attribution, picture: str = "") -> Panel:
    """A map over the picture, with what it says in a sentence.

    Args:
        resolved: the question.
        found: the map.
        picture: the picture's `picture_uri`, where several maps share it.
    """
    segments = found.extras.get("segments")
    adds_up = any(name in found.extras for name in SUM_ERRORS)
    shown = overlay_panel(
        picture or picture_uri(resolved.batch.pictures[0].image, STAGE_SIDE),
        map_on_input(resolved.batch, found),
        resolved.batch.geometries[0],
        title=f"Why {resolved.target_name}?",
        caption=_caption(resolved, found),
        limits=colour_range(found),
        unsmoothed=colour_range(found, smooth=False),
        unit=resolved.target.unit if adds_up else "",
        segments=None if segments is None else segments[0].numpy(),
        ends=contrast_ends(resolved.target, resolved.prediction),
    )
    shown["method"] = METHODS[found.method].label
    shown["words"] = _words(resolved, found)
    return shown


def _words(resolved: ResolvedQuestion, found: Attribution) -> str:
    """Where the map lies, and what hiding that part does, in a sentence; empty for a control."""
    if METHODS[found.method].is_control:
        return "A control: this map does not depend on the model, so it explains nothing."
    (summary,) = resolved.explainer.evidence(resolved.batch, found, target=resolved.target)
    return summary.words


def _caption(resolved: ResolvedQuestion, found: Attribution) -> str:
    """How far the map was taken, the score, the layer and the cost."""
    score, measured_in = f"{float(found.score[0]):.3g}", resolved.prediction.unit
    parts = [f"{score} {measured_in}" if measured_in else f"{resolved.target.unit} {score}"]
    if found.partial is not None:
        parts.insert(0, partial_text(found))
    if found.layer:
        parts.append(f"layer {found.layer}")
    parts.append(cost_text(found.cost))
    return " · ".join(parts)


def summary(found: Attribution) -> str:
    """How far the map can be believed, in words."""
    advice = METHODS.make(found.method, found.params).advice()
    sentences = [
        sum_error_text(float(found.extras[name][0]), advice)
        for name in SUM_ERRORS
        if name in found.extras
    ]
    if not found.values.any():
        hidden = " What speaks against it is hidden by ReLU." if found.params.get("relu") else ""
        sentences.append(f"The map is zero everywhere.{hidden}")
    sentences.append(regions_text(found))
    if extras := extras_text(found, leave_out=SUM_ERRORS):
        sentences.append(f"{extras[0].upper()}{extras[1:]}.")
    return " ".join(filter(None, sentences))
