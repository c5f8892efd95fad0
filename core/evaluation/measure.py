"""Measures a metric on maps, each score once."""

from __future__ import annotations

import copy

from torch import Tensor

from core.errors import NotApplicableError, TimmscopeError
from core.inputs.batch import digest_of, to_input_size
from core.methods.base import METHODS, Method
from core.metrics.base import Metric, MetricContext, MetricInput, Reattribute
from core.runtime.run import Run
from core.types import Attribution, Score

MISSING = {
    MetricInput.GROUND_TRUTH: "needs to know where the evidence is; give a mask as ground_truth",
    MetricInput.METHOD: "runs the method again; give its attribution, not the map alone",
}
"""Why a metric cannot be measured, by what it lacks."""


STOPPED = "runs the method again to its end; this map was stopped after"
"""Why it cannot be measured on a map of some samples only."""


def measure(
    run: Run, values: Attribution | Tensor, metric: Metric, ground_truth: Tensor | None = None
) -> Score:
    """The scores of maps; a repeated question is answered from the cache.

    Args:
        run: the pictures explained and the target, at the layer of the attribution.
        values: their maps: an attribution, or a tensor (B, h, w).
        metric: the metric.
        ground_truth: (B, H, W) True where the evidence is, for metrics that need it.

    Raises:
        NotApplicableError: the metric lacks what it needs, or does not apply here.
        TimmscopeError: the map explains another target.
    """
    attribution = values if isinstance(values, Attribution) else None
    if attribution is not None:
        check_target(run, attribution)
    maps = to_input_size(maps_of(values), run.x)
    again = signed = None
    if attribution is not None and attribution.partial is None:
        method = METHODS.make(attribution.method, attribution.params)
        again = _rerun(method)
        if getattr(method, "relu", False):
            signed = _rerun(method.model_copy(update={"relu": False}))
    context = MetricContext(ground_truth, attribution, again, signed)
    for needed in sorted(metric.needs):
        if not context.has(needed):
            partial = attribution and needed is MetricInput.METHOD and attribution.partial
            reason = f"{STOPPED} {partial}" if partial else MISSING[needed]
            raise NotApplicableError(f"{metric.label} {reason}")
    key = (
        "measure",
        metric.key,
        metric.model_dump_json(),
        run.asked,
        run.seed,
        digest_of(maps),
        *_inputs_key(metric, attribution, ground_truth),
    )
    kept = run.cache_scope.get_or_compute(key, lambda: metric.measure(run, maps, context))
    return copy.deepcopy(kept)


def check_target(run: Run, attribution: Attribution) -> None:
    """Refuse an attribution that explains another target than the run's.

    Raises:
        TimmscopeError: it does.
    """
    if attribution.target not in ("", run.target.key):
        raise TimmscopeError(
            f"the map explains {attribution.target}, not {run.target.key}; "
            "pass the target that it explains"
        )


def maps_of(values: Attribution | Tensor) -> Tensor:
    """The maps (B, h, w) of an attribution; a tensor passes through."""
    return values.values if isinstance(values, Attribution) else values


def _rerun(method: Method) -> Reattribute:
    """A function that runs a method on other rows."""
    return lambda run: to_input_size(method.attribute(run)[0], run.x)


def _inputs_key(
    metric: Metric, attribution: Attribution | None, ground_truth: Tensor | None
) -> tuple[object, object]:
    """What a score depends on beside the map, as part of a cache key."""
    method = mask = None
    if MetricInput.METHOD in metric.needs and attribution is not None:
        method = attribution.method, str(attribution.params), attribution.layer
    if MetricInput.GROUND_TRUTH in metric.needs and ground_truth is not None:
        mask = digest_of(ground_truth)
    return method, mask
