"""The endpoints: functions ``endpoint(service, request, on_progress) -> JSON``.

They are to programs what `dashboard.actions` are to the page, and give numbers where those give
cards. A docstring up to its "Raises" is what the API says of the endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradio import FileData
from torch import Tensor

from core import METHODS, METRICS, Attribution
from core.errors import NotApplicableError, TimmscopeError
from core.evaluation.side_by_side import side_by_side
from core.export import context_facts, result_facts
from core.inputs.batch import OnProgress
from core.methods.configuration import Configuration
from core.models.listing import list_models
from core.registry import key_of, named_instances, parse_instance
from core.report import (
    add_scores,
    agreement_facts,
    features_facts,
    hiding_facts,
    layers_facts,
    method_facts,
    metric_facts,
    recommendation_facts,
    side_by_side_facts,
    side_facts,
    verdict_facts,
    ways_out_facts,
)
from core.tasks.query import Query
from core.types import Comparison, Need, finite
from dashboard import actions
from dashboard.actions.code_snippet import code_snippet, command_line
from dashboard.actions.compare import Asked, estimate_sides, on_models, on_pictures
from dashboard.actions.evidence import ground_truth_of
from dashboard.actions.explain import summary
from dashboard.actions.methods import why_not
from dashboard.actions.question import load_and_predict
from dashboard.actions.reasons import Failure
from dashboard.api import requests, results
from dashboard.state import MODELS, Service

DIGITS = 7
"""Significant digits of a map's values, as many as they have."""


def predict(
    service: Service, request: requests.PredictRequest, on_progress: OnProgress | None = None
) -> results.Predicted:
    """What the model says of a picture: the likeliest classes with their probability.

    Raises:
        TimmscopeError: the model or the picture cannot be used.
    """
    explainer, batch, prediction = load_and_predict(service, request.question, on_progress)
    notes = [*batch.pictures[0].notes, explainer.model.domain_note]
    return {
        "model": explainer.model.name,
        "kind": prediction.kind,
        "activation": prediction.activation,
        "predictions": [
            {"index": index, "label": label, "value": finite(value)}
            for index, label, value in prediction.top(request.top)
        ],
        "notes": [note for note in notes if note],
        "crop": batch.geometries[0].to_dict(),
    }


def explain(
    service: Service, request: requests.MapRequest, on_progress: OnProgress | None = None
) -> results.Explained:
    """The map of one method: how much each part of the picture speaks for the class.

    Raises:
        TimmscopeError: there is none; the sentence is the reason.
    """
    resolved, found = _explained(service, request, on_progress)
    facts = _map_facts(found, request.values)
    answer: Any = {
        "target": resolved.target_name,
        "method": found.method,
        **{name: facts.pop(name) for name in ("score", "layer", "params", "cost", "values")},
        "summary": summary(found),
        "errors": facts,
        "python": code_snippet(resolved, found),
        "command": command_line(resolved, found),
        "context": _context(resolved),
    }
    explained: results.Explained = answer
    return explained


def hide(
    service: Service, request: requests.HideRequest, on_progress: OnProgress | None = None
) -> results.Hidden:
    """What the model says while a part of the picture is hidden, and what it said before.

    Raises:
        TimmscopeError: no part is named, it cannot be read, or the model sees nothing of it.
    """
    resolved = actions.resolve(service, request.question, on_progress)
    file = None if request.mask is None else request.mask.path
    region = ground_truth_of(resolved, actions.Evidence(request.box, file))
    if region is None:
        raise TimmscopeError("Nothing is hidden yet; give a box, left,top,right,bottom, or a mask.")
    with service.slow.held():
        found = resolved.explainer.hide(
            resolved.batch,
            region,
            keep_only=request.keep_only,
            baseline=request.baseline,
            target=resolved.target,
        )
    about: Any = {
        "model": resolved.explainer.model.name,
        "crop": resolved.batch.geometries[0].to_dict(),
        **hiding_facts(found),
    }
    hidden: results.Hidden = about
    return hidden


def compare(
    service: Service, request: requests.MapsRequest, on_progress: OnProgress | None = None
) -> results.Compared:
    """The maps of several methods about the same class, and how far they agree.

    Raises:
        TimmscopeError: the question cannot be answered by any method.
    """
    resolved = actions.resolve(service, request.question, on_progress)
    cost = resolved.explainer.estimate(resolved.batch, request.methods, **_asked(resolved, request))
    with service.slow.turn(cost, on_progress) as on_step:
        found = _compared(resolved, request, on_step)
    maps = found.results
    agreement = resolved.explainer.agreement(resolved.batch, maps) if len(maps) > 1 else None
    return {
        "results": {key: _map_facts(one, request.values) for key, one in maps.items()},
        "errors": dict(found.errors),
        "ways_out": ways_out_facts(found.ways_out),
        "agreement": None if agreement is None else agreement_facts(agreement),
        "context": _context(resolved),
    }


def compare_models(
    service: Service, request: requests.ModelsRequest, on_progress: OnProgress | None = None
) -> results.SideBySide:
    """The maps of one method on several models, and how far they agree.

    Raises:
        TimmscopeError: the picture or the first model cannot be used.
    """
    resolved = actions.resolve(service, request.question, on_progress)
    asked, failed = on_models(service, resolved, request.models, on_progress)
    return _side_by_side(service, request, resolved, asked, failed, on_progress)


def compare_pictures(
    service: Service, request: requests.PicturesRequest, on_progress: OnProgress | None = None
) -> results.SideBySide:
    """The maps of one method on two pictures under the same model.

    Raises:
        TimmscopeError: the model or a picture cannot be used.
    """
    resolved = actions.resolve(service, request.question, on_progress)
    asked = on_pictures(service, resolved, request.second.path)
    return _side_by_side(service, request, resolved, asked, [], on_progress)


def measure(
    service: Service, request: requests.MeasureRequest, on_progress: OnProgress | None = None
) -> results.Measured:
    """Metrics of the maps of several methods, beside those of controls that know no model.

    Raises:
        TimmscopeError: the question cannot be answered by any method, there is no such metric, or
            the evidence cannot be read.
    """
    metrics = named_instances(parse_instance(METRICS, name) for name in request.metrics)
    resolved = actions.resolve(service, request.question, on_progress)
    file = None if request.evidence is None else request.evidence.path
    evidence = actions.Evidence(request.box, file, request.label)
    ground_truth = ground_truth_of(resolved, evidence)
    with service.slow.slot(on_progress) as on_step:
        found = _compared(resolved, request, on_step)
        errors = dict(found.errors)
        report: dict[str, Any] = {"results": {key: {} for key in found.results}, "errors": errors}
        query = resolved.explainer.query(
            resolved.batch, target=resolved.target, ground_truth=ground_truth, on_progress=on_step
        )
        for name, metric in metrics.items():
            add_scores(report, resolved.explainer, query, found, name, metric, request.random_maps)
    return {
        "scores": {key: facts.get("scores", {}) for key, facts in report["results"].items()},
        "errors": report["errors"],
        "ways_out": ways_out_facts(found.ways_out),
        "context": _context(resolved),
    }


def verdict(
    service: Service, request: requests.OfMap, on_progress: OnProgress | None = None
) -> results.Trusted:
    """Whether a map can be trusted: tests of it, and what they mean.

    Raises:
        TimmscopeError: there is no map, or it is that of a control.
    """
    if METHODS[key_of(request.method)].is_control:
        raise NotApplicableError(
            "A control does not depend on the model; its map explains nothing."
        )
    resolved = actions.resolve(service, request.question, on_progress)
    with service.slow.slot(on_progress) as on_step:
        found = _map(resolved, request, on_step)
        (tested,) = resolved.explainer.verdict(
            resolved.batch, found, target=resolved.target, on_progress=on_step
        )
    return {**verdict_facts(tested), "target": resolved.target_name}  # type: ignore[typeddict-item]


def recommend(
    service: Service, request: requests.OfMethods, on_progress: OnProgress | None = None
) -> results.Recommended:
    """Which of several methods to use for a picture, and why.

    Raises:
        TimmscopeError: none of the methods can be compared.
    """
    resolved = actions.resolve(service, request.question, on_progress)
    with service.slow.slot(on_progress) as on_step:
        found = _compared(resolved, request, on_step)
        if not found.results:
            (key, reason), *_ = found.errors.items()
            raise NotApplicableError(reason, found.ways_out.get(key, ()))
        advice = resolved.explainer.recommend(
            resolved.batch, found.results, target=resolved.target, on_progress=on_step
        )
    return {
        **recommendation_facts(advice),  # type: ignore[typeddict-item]
        "errors": dict(found.errors),
        "ways_out": ways_out_facts(found.ways_out),
    }


def features(
    service: Service, request: requests.FeaturesRequest, on_progress: OnProgress | None = None
) -> results.Channels:
    """The channels of a layer that respond most, with their maps.

    Raises:
        TimmscopeError: there is no such layer, or it has no feature maps.
    """
    explainer, batch, _ = load_and_predict(service, request.question, on_progress)
    with service.slow.held(on_progress) as on_step:
        found = explainer.features(
            batch, layer=request.layer, top=request.top, by=request.by, on_progress=on_step
        )
    return {**features_facts(found), "maps": [_values(one) for one in found.maps]}  # type: ignore[typeddict-item]


def attention(
    service: Service, request: requests.AttentionRequest, on_progress: OnProgress | None = None
) -> results.Heads:
    """Where each attention head of a layer looks.

    Raises:
        TimmscopeError: the model has no attention that can be drawn, or no such layer or query.
    """
    explainer, batch, _ = load_and_predict(service, request.question, on_progress)
    with service.slow.held(on_progress) as on_step:
        heads = explainer.attention(
            batch, layer=request.layer, query=request.query, on_progress=on_step
        )
    layer = explainer.model.resolve_layer([Need.ATTENTION], request.layer)
    return {
        "layer": str(layer),
        "grid": list(heads.shape[1:]),
        "maps": [_values(head) for head in heads],
    }


def save(
    service: Service, request: requests.SaveRequest, on_progress: OnProgress | None = None
) -> FileData:
    """The map of one method as a file: a picture, raw values, or all that makes it again.

    Raises:
        TimmscopeError: there is no map.
    """
    _explained(service, request, on_progress)
    look = (
        request.colormap, request.opacity, request.fade, request.smooth, request.strongest
    )  # fmt: skip
    wanted = actions.SaveRequest(request.explanation, request.kind, *look)
    path = actions.save(service, wanted, on_progress)
    return FileData(path=path, meta={"_type": "gradio.FileData"})


def methods(
    service: Service, request: requests.OfModel, on_progress: OnProgress | None = None
) -> dict[str, dict[str, Any]]:
    """Every method: what it is good for, its parameters, what it costs, and where it is refused.

    Raises:
        TimmscopeError: the model cannot be loaded.
    """
    handle = service.models.of(request, on_progress).model
    found = {}
    for key, cls in METHODS.items():
        reason = why_not(handle, key)
        facts = method_facts(cls(), None if reason else handle)
        found[key] = {**facts, "refused": reason}
    return found


def metrics(
    service: Service, request: requests.NothingRequest, on_progress: OnProgress | None = None
) -> dict[str, dict[str, Any]]:
    """Every metric: the question it answers, and its parameters."""
    return {key: metric_facts(cls) for key, cls in METRICS.items()}


def models(
    service: Service, request: requests.ListRequest, on_progress: OnProgress | None = None
) -> dict[str, dict[str, Any]]:
    """Models by name: whether they have weights, whether these need a download, input, classes."""
    if request.pattern:
        return list_models(request.pattern, request.limit)
    return {name: facts for one in MODELS for name, facts in list_models(one, 1).items()}


def layers(
    service: Service, request: requests.OfModel, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """The layers of a model: their grid, and which ones compute attention.

    Raises:
        TimmscopeError: the model cannot be loaded.
    """
    return layers_facts(service.models.of(request, on_progress).model)


ENDPOINTS = (
    predict, explain, hide, compare, compare_models, compare_pictures, measure, verdict, recommend,
    features, attention, save, methods, metrics, models, layers,
)  # fmt: skip
"""Every endpoint; each has the name of its function."""


def _asked(
    resolved: actions.ResolvedQuestion, request: requests.OfMap | requests.OfMethods
) -> dict[str, Any]:
    """Target and layer, as an explainer takes them."""
    return {"target": resolved.target, "layer": request.layer or None}


def _explained(
    service: Service, request: requests.OfMap, on_progress: OnProgress | None
) -> tuple[actions.ResolvedQuestion, Attribution]:
    """A question and its map; a slow method takes its turn."""
    resolved = actions.resolve(service, request.question, on_progress)
    cost = resolved.explainer.estimate(
        resolved.batch, [request.method], **_asked(resolved, request)
    )
    with service.slow.turn(cost, on_progress) as on_step:
        return resolved, _map(resolved, request, on_step)


def _map(
    resolved: actions.ResolvedQuestion, request: requests.OfMap, on_step: OnProgress | None
) -> Attribution:
    """The map of a question."""
    return resolved.explainer.explain(
        resolved.batch,
        Configuration.parse(request.method),
        on_progress=on_step,
        **_asked(resolved, request),
    )


def _compared(
    resolved: actions.ResolvedQuestion, request: requests.OfMethods, on_step: OnProgress | None
) -> Comparison:
    """The maps of several methods."""
    return resolved.explainer.compare(
        resolved.batch, request.methods, on_progress=on_step, **_asked(resolved, request)
    )


def _side_by_side(
    service: Service,
    request: requests.ModelsRequest | requests.PicturesRequest,
    resolved: actions.ResolvedQuestion,
    asked: Mapping[str, Asked],
    failed: Sequence[Failure],
    on_progress: OnProgress | None,
) -> results.SideBySide:
    configuration = Configuration.parse(request.method)
    cost = estimate_sides(asked, configuration, request.layer or None)
    with service.slow.turn(cost, on_progress) as on_step:
        found = side_by_side(
            asked,
            configuration,
            target=None if request.own_class else resolved.target,
            layer=request.layer or None,
            on_progress=on_step,
        )
    found = replace(
        found,
        errors={**found.errors, **{one.label: one.reason for one in failed}},
        ways_out={**found.ways_out, **{one.label: one.ways_out for one in failed}},
    )
    facts: Any = {
        "sides": {
            name: {
                **side_facts(asked[name][0].model, side),
                "result": _map_facts(side.attribution, request.values),
            }
            for name, side in found.sides.items()
        },
        **side_by_side_facts(found),
    }
    compared: results.SideBySide = facts
    return compared


def _context(resolved: actions.ResolvedQuestion) -> dict[str, Any]:
    query = Query(resolved.batch, resolved.target)
    return context_facts(resolved.explainer.model, query, resolved.prediction)


def _map_facts(found: Attribution, values: bool) -> dict[str, Any]:
    """An attribution as JSON, with its map if that is asked for."""
    facts = result_facts(found)
    del facts["files"]
    return {**facts, "values": _values(found.values[0]) if values else None}


def _values(found: Tensor) -> results.Values:
    """A map (h, w) as lists."""
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in found.tolist()]
