"""What the endpoints of the API give: plain values that JSON can hold."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

Values = list[list[float]]
"""A map (h, w), row by row."""


class Output(TypedDict):
    """A class, or what else the model gives.

    Attributes:
        index: its number.
        label: its name.
        value: its probability, or the number itself.
    """

    index: int
    label: str
    value: float | None


class Predicted(TypedDict):
    """What a model predicts.

    Attributes:
        model: its name.
        kind: what it gives: class, output or feature.
        activation: how its outputs are read.
        predictions: the likeliest first.
        notes: what a person should know of the picture and of the model.
        crop: which part of the picture the model saw.
    """

    model: str
    kind: str
    activation: str
    predictions: list[Output]
    notes: list[str]
    crop: dict[str, Any]


class Hidden(TypedDict):
    """What a model says while a part of a picture is hidden.

    Attributes:
        model: its name.
        crop: which part of the picture the model saw.
        target: the class, or what else is followed, in words.
        hidden: how much of what the model sees was hidden, from 0 to 1.
        baseline: what replaced it.
        score: of the target before and after, and its unit.
        before: the prediction before.
        after: the prediction while the part is hidden.
    """

    model: str
    crop: dict[str, Any]
    target: str
    hidden: float | None
    baseline: str
    score: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]


class Explained(TypedDict):
    """One method's map.

    Attributes:
        target: what it explains, in words.
        score: the target's score of the unchanged picture.
        method: the method's key.
        layer: the layer it was taken at; null for a method without one.
        params: the method's parameters.
        cost: passes, seconds and memory.
        values: the map, raw and signed, on its own grid; null if it was not asked for.
        summary: how far it can be believed, in words.
        errors: what the map does not account for, and other numbers that the method gives.
        python: code that makes it again, and draws it.
        command: the command line that does the same.
        context: model, prediction, crop, versions, and what else it depends on.
    """

    target: str
    score: float | None
    method: str
    layer: str | None
    params: dict[str, Any]
    cost: dict[str, Any]
    values: Values | None
    summary: str
    errors: dict[str, Any]
    python: str
    command: str
    context: dict[str, Any]


class Compared(TypedDict):
    """Several methods' maps.

    Attributes:
        results: by method or configuration: score, layer, params, cost and values.
        errors: by method, why it has no map.
        ways_out: by method without a map, changes that help, the best first.
        agreement: how far the methods agree, as square tables; null for fewer than two.
        context: model, prediction, target, crop, versions.
    """

    results: dict[str, dict[str, Any]]
    errors: dict[str, str]
    ways_out: dict[str, list[dict[str, Any]]]
    agreement: dict[str, Any] | None
    context: dict[str, Any]


class SideBySide(TypedDict):
    """One method's maps on several models or pictures.

    Attributes:
        sides: by model or picture: prediction, target, crop, and the map with its score, layer,
            params, cost and values.
        errors: by model or picture, why it has no map.
        ways_out: by model or picture without a map, changes that help, the best first.
        agreement: how far the maps of several models agree, as square tables; absent otherwise.
        seen_by_all: the part of the picture that all models saw; absent where none is compared.
    """

    sides: dict[str, dict[str, Any]]
    errors: dict[str, str]
    ways_out: dict[str, list[dict[str, Any]]]
    agreement: NotRequired[dict[str, Any]]
    seen_by_all: NotRequired[list[float]]


class Measured(TypedDict):
    """Metrics of several methods' maps.

    Attributes:
        scores: by method and metric: value, controls, cost, and an interval, a percentile or
            advice where there is one.
        errors: by method, metric or both as method.metric, why there is no score.
        ways_out: by method without a map, changes that help, the best first.
        context: model, prediction, target, crop, versions.
    """

    scores: dict[str, dict[str, Any]]
    errors: dict[str, str]
    ways_out: dict[str, list[dict[str, Any]]]
    context: dict[str, Any]


class Trusted(TypedDict):
    """The verdict on a map.

    Attributes:
        tone: good, doubtful or bad.
        words: why, in a sentence.
        findings: by metric: value, tone, words and the controls' scores.
        unanswered: by metric, why it was not tested.
        target: what the map explains, in words.
    """

    tone: str
    words: str
    findings: dict[str, dict[str, Any]]
    unanswered: dict[str, str]
    target: str


class Recommended(TypedDict):
    """Which of several methods to use.

    Attributes:
        method: its name; null if none is better than every control.
        firm: whether it is better than every control, whatever replaces removed pixels.
        words: why, in a sentence or two.
        ranking: the methods, the best first, with their gain and passes.
        controls: the gain of each control.
        doubtful: for each method that is no better than a control, that control.
        errors: by method, why it has no map.
        ways_out: by method without a map, changes that help, the best first.
    """

    method: str | None
    firm: bool
    words: str
    ranking: list[dict[str, Any]]
    controls: dict[str, float | None]
    doubtful: dict[str, str]
    errors: dict[str, str]
    ways_out: dict[str, list[dict[str, Any]]]


class Channels(TypedDict):
    """The channels of a layer that respond most.

    Attributes:
        layer: the layer.
        grid: height and width of its maps.
        channels: their numbers.
        statistics: of the whole layer.
        maps: one for each channel.
    """

    layer: str
    grid: list[int]
    channels: list[int]
    statistics: dict[str, Any]
    maps: list[Values]


class Heads(TypedDict):
    """The attention heads of a layer.

    Attributes:
        layer: the layer.
        grid: height and width of the maps.
        maps: for each head how much the query attends to each patch.
    """

    layer: str
    grid: list[int]
    maps: list[Values]
