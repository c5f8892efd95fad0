"""One method on several classes of the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.errors import TimmscopeError
from core.evaluation.assess import ExplainerLike
from core.methods.configuration import Configuration
from core.models.named_layer import layer_name
from core.runtime.batching import joint_progress
from core.tasks.base import TargetLike
from core.tasks.query import Query
from core.types import Attribution, Prediction

MOST_LIKELY = 5
"""How many classes are explained where none is named."""


def likeliest(prediction: Prediction, count: int = MOST_LIKELY) -> list[TargetLike]:
    """The likeliest classes, first come first: of several pictures, each picture's own as a tuple.

    Of a segmenter the largest ones, as many as every picture has.

    >>> import torch
    >>> scores = torch.tensor([[0.0, 2.0, 1.0]])
    >>> likeliest(Prediction(scores, scores.softmax(1)), 2)
    [1, 2]
    """
    tops = [prediction.top(count, image) for image in range(len(prediction.values))]
    by_rank = [tuple(index for index, _, _ in rank) for rank in zip(*tops, strict=False)]
    return [rank[0] if len(rank) == 1 else rank for rank in by_rank]


def explain_classes(
    explainer: ExplainerLike,
    query: Query,
    configuration: Configuration,
    targets: Sequence[TargetLike] | None = None,
) -> dict[TargetLike, Attribution]:
    """The map of each of several targets.

    Args:
        explainer: answers for one target.
        query: the pictures; its own target is not explained.
        configuration: the method, and its layer.
        targets: what to explain; None for the likeliest classes.

    Returns:
        Attributions by target, as it was given.

    Raises:
        TimmscopeError: a target is a list, which names no entry of a mapping.
    """
    given = likeliest(explainer.predict(query)) if targets is None else targets
    for one in given:
        if isinstance(one, (list, set)):
            raise TimmscopeError(
                f"target {str(one)[:80]} cannot name a result; give a tuple for one class of each "
                "picture, and a frozenset for a sum"
            )
    asked = {one: explainer.target(one, len(query)) for one in given}
    together = tuple(target for target in asked.values() if target is not None)
    layer = layer_name(explainer.model, configuration.layer) or query.layer
    rows = explainer.estimate_rows(configuration.method, layer) * len(query)
    return {
        one: explainer.explain(
            replace(query, target=target, extra_targets=together, on_progress=report),
            configuration,
        )
        for (one, target), report in zip(
            asked.items(), joint_progress(query.on_progress, [rows] * len(asked)), strict=True
        )
    }
