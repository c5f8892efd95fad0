"""What the page can do: plain functions from what a person asked to what the page shows.

They know no widgets, so they can be called, tested and offered as an API without a browser. What
went wrong comes back as a card that says so; nothing a person can cause raises, but for
`CancelledError` where they no longer want the answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import METHODS, METRICS, Attribution, Explainer
from core.errors import CancelledError, TimmscopeError
from core.explainer import Comparison, Look, OnProgress
from core.export import (
    colour_range,
    context_facts,
    map_on_input,
    result_facts,
    save_npz,
    save_png,
)
from core.methods.base import Method
from core.targets import Combination, Target
from core.types import Cost, Need, Prediction, Score
from core.views.colour import is_signed, limits
from core.views.figures import (
    Panel,
    bars_panel,
    curves_panel,
    empty_panel,
    error_panel,
    map_panel,
    overlay_panel,
    picture_uri,
)
from dashboard.controls import params_of
from dashboard.state import Question, Service

logger = logging.getLogger(__name__)

Choices = list[tuple[str, Any]]
Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """A question met with its picture, model and target."""

    explainer: Explainer
    look: Look
    prediction: Prediction
    target: Target

    @property
    def about(self) -> str:
        """The target in words."""
        return self.target.describe(self.prediction)


def ask(service: Service, question: Question) -> Asked:
    """Load, decode, predict; each only the first time.

    Raises:
        TimmscopeError: the picture, the model or the target does not do.
    """
    explainer = service.explainer(question.model, question.weights)
    look = service.look(explainer, question.picture)
    prediction = explainer.predict(look)
    target = question.to_target(explainer, prediction.top(1)[0][0])
    return Asked(explainer, look, prediction, target)


# -- model and prediction -----------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFacts:
    """What the page needs to know of a model to offer choices.

    Attributes:
        methods: (label, key) of every method; those the model cannot run say so.
        layers: layers on a grid, the meaningful ones first.
        default_layer: where CAM methods look.
        attention: layers whose attention lies on the picture.
        summary: a sentence about the model.
        error: why it could not be loaded; empty if it was.
    """

    methods: Choices = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    default_layer: str | None = None
    attention: list[str] = field(default_factory=list)
    summary: str = ""
    error: str = ""


def describe_model(service: Service, model: str, weights: str) -> ModelFacts:
    """Load a model and say what can be asked of it."""
    try:
        handle = service.explainer(model, weights).model
    except TimmscopeError as error:
        return ModelFacts(
            methods=[(cls.label, key) for key, cls in METHODS.items()], error=str(error)
        )
    count = sum(p.numel() for p in handle.model.parameters()) / 1e6
    height, width = handle.preprocessing.input_size[1:]
    return ModelFacts(
        methods=[
            (cls.label + (" · not for this model" if why_not(handle, key) else ""), key)
            for key, cls in METHODS.items()
        ],
        layers=handle.choices([Need.LAYER]),
        default_layer=handle.default_layer,
        attention=handle.choices([Need.ATTENTION]),
        summary=f"{count:.1f} M parameters, {handle.outputs} classes, sees {width} x {height} "
        f"pixels, on {handle.device}. Weights: {handle.source}.",
    )


def why_not(handle: Any, key: str) -> str:
    """Why a model cannot be explained by a method with default parameters; empty if it can."""
    method: Method = METHODS.make(key)
    return str(handle.why_not(method.requires()) or method.refusal(handle))


@dataclass(frozen=True)
class MethodFacts:
    """What the page needs to know of a method on a model.

    Attributes:
        about: what it is good for, in Markdown, with the reason if the model cannot run it.
        layers: where it can look.
        layer: where it looks unless told otherwise.
    """

    about: str
    layers: list[str] = field(default_factory=list)
    layer: str | None = None


def describe_method(service: Service, model: str, weights: str, key: str) -> MethodFacts:
    """What a method is good for, and where it can look in a model."""
    cls = METHODS[key]
    try:
        handle = service.explainer(model, weights).model
    except TimmscopeError:
        return MethodFacts(cls.about)
    if reason := why_not(handle, key):
        return MethodFacts(f"{cls.about}\n\n**Not for this model:** {reason}.")
    needs = METHODS.make(key).layer_needs()
    return MethodFacts(cls.about, handle.choices(needs), handle.resolve_layer(needs, None))


@dataclass(frozen=True)
class Seen:
    """What the model says of a picture.

    Attributes:
        panels: the likeliest classes as bars, or why there are none.
        classes: (label, index) of every class, likeliest first.
        predicted: the predicted class.
        notes: what a person should know of the picture.
    """

    panels: list[Panel]
    classes: Choices
    predicted: int | None
    notes: str


def predict(service: Service, question: Question) -> Seen:
    """The top classes, and every class to choose from."""
    try:
        explainer = service.explainer(question.model, question.weights)
        look = service.look(explainer, question.picture)
        prediction = explainer.predict(look)
    except TimmscopeError as error:
        return Seen([trouble("No prediction", question, error)], [], None, "")
    top = prediction.top(5)
    likely: Choices = [(f"{label} · {p:.1%}", index) for index, label, p in top]
    first = {index for _, index in likely}
    others: Choices = [
        (prediction.label(i), i) for i in range(prediction.logits.shape[1]) if i not in first
    ]
    notes = list(look.pictures[0].notes)
    if question.weights == "random":
        notes.append("random weights: the prediction means nothing")
    panel = bars_panel(
        [(label, p) for _, label, p in top],
        title="Prediction",
        caption="Click a bar to explain that class.",
    )
    return Seen([panel], likely + others, top[0][0], "; ".join(notes))


def trouble(title: str, question: Question, error: TimmscopeError) -> Panel:
    """A card for what went wrong, or for what to do first."""
    return error_panel(title, str(error)) if question.picture else empty_panel(str(error))


# -- explain ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """One explanation as the page shows it.

    Attributes:
        panels: the overlay, or why there is none.
        summary: what it took, and how far it can be believed, in Markdown.
        recipe: Python that gives the same map.
    """

    panels: list[Panel]
    summary: str = ""
    recipe: str = ""


def explain(
    service: Service,
    question: Question,
    method: str,
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> Explained:
    """One method's map over the picture."""
    try:
        asked = ask(service, question)
        params = params_of(settings, method, METHODS[method])
        found = asked.explainer.explain(
            asked.look,
            method,
            target=asked.target,
            layer=suitable_layer(asked.explainer, method, layer),
            on_progress=on_progress,
            **params,
        )
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Explained([trouble("Not explained", question, error)])
    except RuntimeError as error:  # the model's own code
        logger.exception("%s failed", method)
        return Explained([error_panel("Not explained", str(error).partition("\n")[0])])
    panel = overlay_panel(
        asked.look.pictures[0].image,
        map_on_input(asked.look, found),
        asked.look.geometries[0],
        title=f"{METHODS[method].label}: why {asked.about}",
        caption=caption(asked, found),
        limits=colour_range(found),
        unit=unit_of(found, asked.target),
    )
    return Explained([panel], summary(found), recipe(question, asked, found))


def suitable_layer(explainer: Explainer, method: str, layer: str | None) -> str | None:
    """The layer for this method; None where the one chosen before belongs to another kind."""
    needs = METHODS.make(method).layer_needs()
    return layer if layer in explainer.model.choices(needs) else None


def unit_of(found: Attribution, target: Target) -> str:
    """What the values count, where they add up to something."""
    return target.unit if "completeness_error" in found.extras else ""


def caption(asked: Asked, found: Attribution) -> str:
    """What was looked at, and what it took."""
    parts = [f"{asked.target.unit} {float(found.score[0]):.3g}"]
    if found.layer:
        parts.append(f"layer {found.layer}")
    parts.append(work(found.cost))
    if not asked.look.geometries[0].whole:
        parts.append("the outline is what the model saw")
    return " · ".join(parts)


def work(cost: Cost) -> str:
    """Passes and time in words."""
    passes = f"{cost.forward} forward, {cost.backward} backward"
    time = f"{cost.seconds * 1000:.0f} ms" if cost.seconds < 1 else f"{cost.seconds:.1f} s"
    return f"{passes}, {time}"


def summary(found: Attribution) -> str:
    """How far the map can be believed, in words."""
    error = found.extras.get("completeness_error")
    if error is None:
        return ""
    share = float(error[0])
    verdict = "adds up well" if share < 0.05 else "does not add up: take more steps"
    return (
        f"**Completeness error {share:.1%}**: the map's sum against the score's rise; it {verdict}."
    )


def recipe(question: Question, asked: Asked, found: Attribution) -> str:
    """Python that gives the same map."""
    handle = asked.explainer.model
    spec = handle.source if handle.source.startswith("hf-hub:") else handle.name
    weights = ', weights="random"' if question.weights == "random" else ""
    extra = "".join(f", {name}={value!r}" for name, value in found.params.items())
    layer = f", layer={found.layer!r}" if found.layer else ""
    return (
        "from core import Explainer, load_model\n"
        "from core.targets import ClassLogit, ClassProbability\n\n"
        f'explainer = Explainer(load_model("{spec}"{weights}))\n'
        "answer = explainer.explain(\n"
        f'    "picture.jpg", "{found.method}",\n'
        f"    target={code_of(asked.target)}{layer}{extra},\n"
        ")\n"
    )


def code_of(target: Target) -> str:
    """A target as Python."""
    if isinstance(target, Combination):
        (_, one), (_, other) = target.terms
        return f"{code_of(one)} - {code_of(other)}"
    return repr(target)


def download(
    service: Service,
    question: Question,
    method: str,
    settings: Settings,
    layer: str | None,
    kind: str,
    colormap: str,
    alpha: float,
    fade: bool,
) -> str:
    """A file with the explanation: PNG as shown, NPZ with raw values, JSON with the recipe.

    Raises:
        TimmscopeError: there is no explanation to save.
    """
    asked = ask(service, question)
    found = asked.explainer.explain(
        asked.look,
        method,
        target=asked.target,
        layer=suitable_layer(asked.explainer, method, layer),
        **params_of(settings, method, METHODS[method]),
    )
    path = service.folder() / f"{Path(str(question.picture)).stem[:40]}.{method}.{kind}"
    if kind == "png":
        save_png(path, asked.look, found, colormap, alpha, fade)
    elif kind == "npz":
        save_npz(path, asked.look, found)
    else:
        path.write_text(report(question, asked, found), encoding="utf-8")
    return str(path)


def report(question: Question, asked: Asked, found: Attribution) -> str:
    """Everything needed to reproduce an explanation, as JSON."""
    return json.dumps(
        {
            **context_facts(asked.explainer, asked.look, asked.prediction, asked.target, seed=0),
            "method": found.method,
            **result_facts(found),
            "python": recipe(question, asked, found),
        },
        indent=2,
        ensure_ascii=False,
    )


# -- compare ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Several methods side by side.

    Attributes:
        panels: a card each, in the order chosen.
        table: method, passes forward and backward, milliseconds, remark.
    """

    panels: list[Panel]
    table: list[list[Any]]


def compare(
    service: Service,
    question: Question,
    methods: Sequence[str],
    settings: Settings,
    layer: str | None,
    shared_range: bool,
    on_progress: OnProgress | None = None,
) -> Compared:
    """Every chosen method on one question; one that fails says so in its card."""
    if not methods:
        return Compared([empty_panel("Choose at least one method to compare.")], [])
    try:
        asked = ask(service, question)
        answer = answers(asked, methods, settings, layer, on_progress)
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Compared([trouble("Not compared", question, error)], [])
    maps = {key: map_on_input(asked.look, found) for key, found in answer.results.items()}
    common = colour_range(*answer.results.values()) if shared_range and maps else None
    uri = picture_uri(asked.look.pictures[0].image)
    panels: list[Panel] = []
    table: list[list[Any]] = []
    for key in dict.fromkeys(METHODS[m].key for m in methods):
        label = METHODS[key].label
        if key in answer.errors:
            panels.append(error_panel(label, answer.errors[key]))
            table.append([label, None, None, None, answer.errors[key]])
            continue
        found = answer.results[key]
        panels.append(
            overlay_panel(
                uri, maps[key], asked.look.geometries[0], title=label, caption=work(found.cost),
                limits=common or colour_range(found),
            )
        )  # fmt: skip
        cost = found.cost
        remark = "; ".join(
            f"{name.replace('_', ' ')} {float(v[0]):.1%}" for name, v in found.extras.items()
        )
        table.append([label, cost.forward, cost.backward, round(cost.seconds * 1000), remark])
    return Compared(panels, table)


def answers(
    asked: Asked,
    methods: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None,
) -> Comparison:
    """Several methods' answers with the parameters a person set."""
    return asked.explainer.compare(
        asked.look,
        list(methods),
        params={key: params_of(settings, key, METHODS[key]) for key in methods},
        target=asked.target,
        layer=layer,
        on_progress=on_progress,
    )


# -- features -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Featured:
    """A layer's feature maps, or a layer's heads.

    Attributes:
        panels: a small map each.
        summary: statistics of the whole layer, in Markdown.
    """

    panels: list[Panel]
    summary: str = ""


def features(
    service: Service, question: Question, layer: str | None, top: int, by: str
) -> Featured:
    """The channels of a layer that respond most."""
    try:
        asked = ask(service, question)
        found = asked.explainer.features(
            asked.look,
            layer=layer,
            top=int(top),
            by="variance" if by == "variance" else "activation",
        )
    except TimmscopeError as error:
        return Featured([trouble("No feature maps", question, error)])
    height, width = found.maps.shape[1:]
    text = (
        f"**{found.layer}**: {found.total} channels of {width} x {height}, {found.active} active. "
        f"Mean {found.mean:.3g}, standard deviation {found.std:.3g}, sparsity {found.sparsity:.1%} "
        "(values under 1% of the largest)."
    )
    signed = is_signed(found.maps)
    panels = [
        map_panel(values.numpy(), f"channel {int(channel)}", limits=limits(values, signed=signed))
        for values, channel in zip(found.maps, found.channels, strict=True)
    ]
    return Featured(panels, text)


def attention(service: Service, question: Question, layer: str | None, query: str) -> Featured:
    """Where each head of a layer looks, over the picture."""
    try:
        asked = ask(service, question)
        heads = asked.explainer.attention(asked.look, layer=layer, query=query.strip() or "auto")
    except TimmscopeError as error:
        return Featured([trouble("No attention maps", question, error)])
    uri = picture_uri(asked.look.pictures[0].image, side=480)
    panels = [
        overlay_panel(
            uri, head.numpy(), asked.look.geometries[0], title=f"head {i}", smooth=False,
            colorbar=False,
        )
        for i, head in enumerate(heads)
    ]  # fmt: skip
    return Featured(panels, f"{len(heads)} heads; each map is what the query token attends to.")


# -- metrics ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Curves and scores.

    Attributes:
        panels: a chart for each metric.
        table: method, then a column for each metric.
        headers: of the table.
    """

    panels: list[Panel]
    table: list[list[Any]]
    headers: list[str]


def measure(
    service: Service,
    question: Question,
    methods: Sequence[str],
    metrics: Sequence[str],
    settings: Settings,
    layer: str | None,
    on_progress: OnProgress | None = None,
) -> Measured:
    """Metrics of the chosen methods, beside the controls."""
    if not methods or not metrics:
        return Measured([empty_panel("Choose at least one method and one metric.")], [], ["Method"])
    try:
        asked = ask(service, question)
        answer = answers(asked, methods, settings, layer, on_progress)
        scores = {
            key: _scores(asked, answer.results, key, settings, on_progress) for key in metrics
        }
    except CancelledError:
        raise
    except TimmscopeError as error:
        return Measured([trouble("Not measured", question, error)], [], ["Method"])
    panels = [_curves(key, found) for key, found in scores.items() if _has_curve(found)]
    panels += [error_panel(METHODS[key].label, why) for key, why in answer.errors.items()]
    rows = next(iter(scores.values()))
    table = [
        [METHODS[key].label, *(round(float(scores[m][key].value[0]), 4) for m in metrics)]
        for key in rows
    ]
    headers = [_with_arrow(key) for key in metrics]
    return Measured(panels, table, ["Method", *headers])


def _scores(
    asked: Asked,
    results: Any,
    metric: str,
    settings: Settings,
    on_progress: OnProgress | None,
) -> dict[str, Score]:
    """The metric of each result and then of each control."""
    instance = METRICS.make(metric, params_of(settings, metric, METRICS[metric]))
    own = {
        key: asked.explainer.measure(
            asked.look, found, instance, target=asked.target, on_progress=on_progress
        )
        for key, found in results.items()
    }
    controls = asked.explainer.controls(
        asked.look, instance, target=asked.target, on_progress=on_progress
    )
    return own | controls


def _has_curve(scores: dict[str, Score]) -> bool:
    return all(score.curve_x is not None for score in scores.values())


def _curves(metric: str, scores: dict[str, Score]) -> Panel:
    cls = METRICS[metric]
    curves: list[Any] = []
    for key, score in scores.items():
        assert score.curve_x is not None
        assert score.curve_y is not None
        curves.append(
            {
                "name": METHODS[key].label,
                "x": score.curve_x.tolist(),
                "y": score.curve_y[0].tolist(),
                "style": "dash" if METHODS[key].family == "control" else "solid",
                "auc": float(score.value[0]),
            }
        )
    better = "higher" if cls.higher_is_better else "lower"
    verb = "restored" if cls.higher_is_better else "removed"
    return curves_panel(
        curves, f"share of pixels {verb}", "probability", title=_with_arrow(metric),
        caption=f"{cls.about} Area under the curve; {better} is better.",
    )  # fmt: skip


def _with_arrow(metric: str) -> str:
    return f"{METRICS[metric].label} {'↑' if METRICS[metric].higher_is_better else '↓'}"
