"""Several methods, models or pictures side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core import METHODS, Attribution, Explainer
from core.errors import CancelledError, TimmscopeError, unknown
from core.evaluation.agreement import Agreement
from core.evaluation.side_by_side import Side, SideBySide, side_by_side
from core.explainer import numbered
from core.export import colour_range, map_on_input
from core.inputs.batch import InputBatch, OnProgress
from core.inputs.crop import WHOLE, Box, read_crop
from core.inputs.preprocessing import Geometry
from core.methods.configuration import Configuration, label_of
from core.registry import key_of
from core.types import Comparison, Cost
from core.views.charts import matrix_panel
from core.views.colour import Limits
from core.views.maps import linked, overlay_panel, picture_panel, picture_uri
from core.views.panels import Panel, empty_panel, switch_panel
from dashboard.actions.formatting import cost_text, extras_text
from dashboard.actions.question import (
    ANY,
    Answers,
    Question,
    ResolvedQuestion,
    Settings,
    compare_methods,
    estimate_methods,
    params_of,
    resolve,
)
from dashboard.actions.reasons import RANDOM, Chosen, Failure, failures_of, reason_cards
from dashboard.state import Service

Ranges = tuple[Limits, Limits]
Asked = tuple[Explainer, InputBatch]
"""A model, and the picture that it is asked about."""
COST_HEADERS = ["Compared", "Forward passes", "Backward passes", "Time (ms)", "Notes"]
What = Literal["methods", "models", "pictures"]
"""What is compared."""
WHAT: Mapping[What, str] = {"methods": "Methods", "models": "Models", "pictures": "Pictures"}
"""What can be compared, with the names people read."""
MAX_MODELS = 4
"""The most models that stand side by side: each of them is held in memory."""


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """Several methods on one question; or one method on several models, or on two pictures.

    Attributes:
        question: picture, model and class.
        methods: names of methods or configurations, such as "lime(samples=200)".
        settings: parameters a person set.
        layer: the layer of CAM methods; empty for the model's own choice.
        what: what is compared; see `WHAT`.
        method: the method, where models or pictures are compared.
        models: the models beside that of the question; one may be taken untrained, see `RANDOM`.
        second: path of the picture beside that of the question.
        own_class: where models or pictures are compared, whether each explains its own prediction;
            otherwise the class of the question is explained everywhere.
    """

    question: Question
    methods: Sequence[str]
    settings: Settings
    layer: str | None
    what: str = "methods"
    method: str = "gradcam"
    models: Sequence[str] = ()
    second: str | None = None
    own_class: bool = False

    @property
    def chosen(self) -> Chosen:
        """What is compared, as it is listed; of pictures, the method."""
        if self.what == "methods":
            return Chosen("compare", "method", self.methods, "compare-run")
        return Chosen("compare", "model", self.models, "compare-run")


@dataclass(frozen=True)
class CompareResult:
    """Maps side by side.

    Attributes:
        panels: the picture, the maps, the reasons why others have none, then how far maps agree.
        table: a row for each map; see `COST_HEADERS`.
        answers: which question it answers.
    """

    panels: list[Panel]
    table: list[list[Any]] = field(default_factory=list)
    answers: Answers = field(default_factory=Answers)


@dataclass(frozen=True)
class _Card:
    """One of the maps, with what is said of it.

    Attributes:
        name: tells it from the others.
        title: what people read.
        batch: the picture as the model sees it.
        found: the map.
        says: what stands before the cost.
        score: by which the page can order the maps; None where it is not known yet.
    """

    name: str
    title: str
    batch: InputBatch
    found: Attribution
    says: str = ""
    score: float | None = None


def compare(
    service: Service, request: CompareRequest, on_progress: OnProgress | None = None
) -> CompareResult:
    """Several methods, models or pictures side by side; one that fails says so in its card.

    Raises:
        TimmscopeError: the question cannot be answered at all.
        UnknownNameError: nothing of that name can be compared.
    """
    if request.what not in _COMPARED:
        raise unknown("comparison", request.what, list(_COMPARED))
    missing, run = _COMPARED[request.what]
    if message := missing(request):
        return CompareResult([empty_panel(message)])
    return run(service, request, on_progress)


# -- methods --------------------------------------------------------------------------------------


def _no_methods(request: CompareRequest) -> str:
    return "" if request.methods else "Choose at least one method."


def _methods(
    service: Service, request: CompareRequest, on_progress: OnProgress | None
) -> CompareResult:
    resolved = resolve(service, request.question, on_progress)
    asked = request.methods, request.settings, request.layer
    with service.slow.turn(estimate_methods(resolved, *asked), on_progress) as on_step:
        comparison = compare_methods(resolved, *asked, on_step)
    keys = _in_order(comparison, request.methods)
    cards = [
        _Card(key, label_of(key), resolved.batch, comparison.results[key])
        for key in keys
        if key in comparison.results
    ]
    failed = failures_of(comparison, request.methods, request.settings)
    agreement = (
        resolved.explainer.agreement(resolved.batch, comparison.results) if cards[1:] else None
    )
    same = dict.fromkeys(("method", "models", "second", "own_class"), ANY)
    return CompareResult(
        linked(
            [
                *_maps(cards),
                *reason_cards(failed, request.chosen),
                *_agreement(cards, agreement, resolved.batch.geometries[0].box),
            ]
        ),
        _table(cards, failed),
        resolved.answers(request.methods, same=same),
    )


def _in_order(comparison: Comparison, methods: Sequence[str]) -> list[str]:
    """The keys of a comparison in the order in which the methods were chosen."""
    chosen = [METHODS[key_of(name)].key for name in methods]
    keys = [*comparison.results, *comparison.errors]
    return sorted(keys, key=lambda key: chosen.index(key_of(key)))


# -- models and pictures --------------------------------------------------------------------------


def _no_models(request: CompareRequest) -> str:
    if not request.models:
        return "Choose at least one more model."
    if len(request.models) >= MAX_MODELS:
        return f"Choose at most {MAX_MODELS - 1} more models."
    return ""


def _models(
    service: Service, request: CompareRequest, on_progress: OnProgress | None
) -> CompareResult:
    resolved = resolve(service, request.question, on_progress)
    asked, failed = on_models(service, resolved, request.models, on_progress)
    compared = _side_by_side(service, request, resolved, asked, on_progress)
    return _shown(request, resolved, compared, failed, f"{len(asked)} models")


def on_models(
    service: Service,
    resolved: ResolvedQuestion,
    models: Sequence[str],
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Asked], list[Failure]]:
    """The picture of a question for its own model and for others, by name; and models that fail.

    Args:
        service: holds the models.
        resolved: the question.
        models: the others; one that ends in `RANDOM` is taken untrained.
        on_progress: called while a model loads.
    """
    question = resolved.question
    untrained = RANDOM if question.weights == "random" else ""
    found = {f"{question.model}{untrained}": resolved.explainer}
    failed: list[Failure] = []
    for name in models:
        try:
            plain = name.removesuffix(RANDOM)
            weights = "random" if plain != name else question.weights
            found.setdefault(name, service.models.get(plain, weights, on_progress))
        except CancelledError:
            raise
        except TimmscopeError as error:
            failed.append(Failure(name, str(error), [name], error.ways_out))
    asked = {
        name: (one, service.batches.get(one, question.picture, question.crop))
        for name, one in found.items()
    }
    return asked, failed


def _no_picture(request: CompareRequest) -> str:
    return "" if request.second else "Add a second picture."


def _pictures(
    service: Service, request: CompareRequest, on_progress: OnProgress | None
) -> CompareResult:
    resolved = resolve(service, request.question, on_progress)
    asked = on_pictures(service, resolved, request.second)
    found = _side_by_side(service, request, resolved, asked, on_progress)
    return _shown(request, resolved, found, [], "2 pictures")


def on_pictures(
    service: Service, resolved: ResolvedQuestion, second: str | None
) -> dict[str, Asked]:
    """The picture of a question and another, by name, for its model.

    Raises:
        TimmscopeError: the other cannot be read.
    """
    # A box is a part of the question's own picture.
    whole = WHOLE if read_crop(resolved.question.crop) == WHOLE else None
    other = service.batches.get(resolved.explainer, second, whole)
    names = numbered([Path(str(path)).stem for path in (resolved.question.picture, second)])
    return {
        name: (resolved.explainer, batch)
        for name, batch in zip(names, (resolved.batch, other), strict=True)
    }


def _side_by_side(
    service: Service,
    request: CompareRequest,
    resolved: ResolvedQuestion,
    asked: Mapping[str, Asked],
    on_progress: OnProgress | None,
) -> SideBySide:
    cls = METHODS[key_of(request.method)]
    params = {cls.key: params_of(request.settings, cls.key, cls)}
    configuration = Configuration.parse(request.method, params)
    cost = estimate_sides(asked, configuration)
    with service.slow.turn(cost, on_progress) as on_step:
        return side_by_side(
            asked,
            configuration,
            target=None if request.own_class else resolved.target,
            on_progress=on_step,
        )


def estimate_sides(
    asked: Mapping[str, Asked], configuration: Configuration, layer: str | None = None
) -> Cost:
    """What one method's maps on several models or pictures cost at most."""
    method = configuration.method
    return sum((one.estimate_cost(method, layer) for one, _ in asked.values()), Cost())


def _shown(
    request: CompareRequest,
    resolved: ResolvedQuestion,
    found: SideBySide,
    failed: Sequence[Failure],
    counted: str,
) -> CompareResult:
    sides = found.sides
    cards = [
        _Card(name, name, side.query.batch, side.attribution, _said(side), side.target_value)
        for name, side in sides.items()
    ]
    listed = request.chosen.names if request.what == "models" else ()
    failed = [
        *(
            Failure(name, why, [name] if name in listed else [], found.ways_out.get(name, ()))
            for name, why in found.errors.items()
        ),
        *failed,
    ]
    panels = [
        *_maps(cards),
        *reason_cards(failed, request.chosen),
        *_agreement(cards, found.agreement, found.seen_by_all),
    ]
    same: dict[str, Any] = dict.fromkeys(("methods", "layer"), ANY)
    same[{"models": "second", "pictures": "models"}[request.what]] = ANY
    if request.own_class:
        same |= dict.fromkeys(("target", "versus", "against", "unit"), ANY)
    answers = resolved.answers([request.method], same=same)
    target = "" if request.own_class else f", {resolved.target_name}"
    label = f"{label_of(request.method)} on {counted}{target}"
    return CompareResult(
        linked(panels), _table(cards, failed), Answers(label, answers.same, answers.settings)
    )


def _said(side: Side) -> str:
    """What the model says of the picture, and of the class that is explained."""
    said = f"Predicts {side.prediction.describe()}"
    _, predicted, _ = side.prediction.top(1)[0]
    if side.target_name == predicted:
        return said
    value = side.target_value
    told = "" if value is None else f" ({side.prediction.text(value)})"
    return f"{said} · explains {side.target_name}{told}"


# -- cards ----------------------------------------------------------------------------------------


def _maps(cards: Sequence[_Card]) -> list[Panel]:
    """Each picture, followed by the maps over it."""
    shared = _ranges(*(card.found for card in cards)) if cards[1:] else None
    crops = len({card.batch.geometries[0] for card in cards}) > 1
    uris: dict[str, str] = {}
    panels: list[Panel] = []
    for card in cards:
        picture = card.batch.pictures[0]
        if picture.digest not in uris:
            uris[picture.digest] = picture_uri(picture.image)
            title = "Picture" if len(uris) == 1 else "Second picture"
            caption = f"{picture.size[1]:,} x {picture.size[0]:,} pixels"
            panels.append(
                picture_panel(picture.image, title=title, caption=caption, uri=uris[picture.digest])
            )
        panels.append(_map_card(card, uris[picture.digest], shared, crops))
    return panels


def _ranges(*found: Attribution) -> Ranges:
    """The ranges of colours of maps that share them: drawn smoothed, and as they are."""
    return colour_range(*found), colour_range(*found, smooth=False)


def _map_card(card: _Card, uri: str, shared: Ranges | None, crops: bool) -> Panel:
    limits, unsmoothed = _ranges(card.found)
    geometry, cost = card.batch.geometries[0], card.found.cost
    seen = f"sees {_share(geometry, geometry.box):.0%} of the picture" if crops else ""
    shown = overlay_panel(
        uri,
        map_on_input(card.batch, card.found),
        geometry,
        title=card.title,
        caption=" · ".join(filter(None, [card.says, seen, cost_text(cost)])),
        limits=limits,
        unsmoothed=unsmoothed,
        shared=shared,
    )
    score = {} if card.score is None else {"score": card.score}
    return {**shown, "name": card.name, "ranks": {"cost": cost.seconds, **score}}


def _share(geometry: Geometry, box: Box) -> float:
    """How much of a picture lies in a box, of which a part may lie outside of it."""
    height, width = geometry.picture
    left, top, right, bottom = box
    across = min(right, width) - max(left, 0)
    return across * (min(bottom, height) - max(top, 0)) / (width * height)


def _table(cards: Sequence[_Card], failed: Sequence[Failure]) -> list[list[Any]]:
    rows = [
        [
            card.title,
            card.found.cost.forward,
            card.found.cost.backward,
            round(card.found.cost.seconds * 1000),
            extras_text(card.found),
        ]
        for card in cards
    ]
    return rows + [[one.label, None, None, None, "no map: see its card"] for one in failed]


MEASURES = {
    "pearson": ("Correlation", "1: two maps differ in scale only; 0: unrelated."),
    "spearman": ("Rank", "Rank correlation. 1: two maps rank all pixels alike; 0: unrelated."),
    "ssim": ("SSIM", "Structural similarity. 1: two maps look alike, each in its own range."),
    "overlap": ("Overlap", "Shared part of the 10% of pixels that either map ranks highest."),
}
"""Measures of agreement: the label in the switch, and what the numbers mean."""


def _agreement(cards: Sequence[_Card], found: Agreement | None, box: Box | None) -> list[Panel]:
    """How far maps agree, and where they do not; nothing where they cannot be compared."""
    if found is None or box is None:
        return []
    titles = [card.title for card in cards]
    geometry = cards[0].batch.geometries[0]
    crops = len({card.batch.geometries[0].box for card in cards}) > 1
    on = f" Compared where all look: {_share(geometry, box):.0%} of the picture." if crops else ""
    charts = {
        label: matrix_panel(
            getattr(found, name).tolist(), titles, title="How far they agree", caption=text + on
        )
        for name, (label, text) in MEASURES.items()
    }
    where = overlay_panel(
        picture_uri(cards[0].batch.pictures[0].image),
        found.disagreement.numpy(),
        Geometry(geometry.picture, geometry.input, box),
        title="Where they disagree",
        caption="Spread of each pixel's rank across the maps; 0 where all agree",
        limits=(0.0, 0.5),
    )
    return [where, switch_panel(charts)]


_Run = Callable[[Service, CompareRequest, OnProgress | None], CompareResult]
_COMPARED: Mapping[str, tuple[Callable[[CompareRequest], str], _Run]] = {
    "methods": (_no_methods, _methods),
    "models": (_no_models, _models),
    "pictures": (_no_picture, _pictures),
}
"""By what is compared: what a person must choose first, and what makes the result."""
