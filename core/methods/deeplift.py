"""DeepLIFT and DeepSHAP: backpropagated contributions relative to a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError
from core.methods.backprop import refusal_of_attempt
from core.methods.base import Method, register, relative_error
from core.perturb.baselines import Baseline, Baselines, baseline_images
from core.runtime.backward_rules import (
    ACTIVATIONS,
    DECOMPOSITIONS,
    GATES,
    PRODUCTS,
    BackwardRules,
    Call,
)
from core.runtime.model_call import differentiate
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property

# The first half of the rows of each pass are the images, the second half their baselines.


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim == 0 or len(x) % 2:
        raise NotApplicableError(
            f"DeepLIFT needs images and baselines as rows of every tensor, and a tensor of shape "
            f"{tuple(x.shape)} in the model has another order; use integrated_gradients"
        )
    picture, start = x.chunk(2)
    return picture, start


def _both(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _mean(x: Tensor) -> Tensor:
    picture, start = _halves(x.detach())
    return _both((picture + start) / 2)


def _rescaled(call: Call) -> Tensor:
    """Rescale rule for elementwise functions: slope between the image's and baseline's inputs.

    Where the inputs are equal, the derivative is used.
    """

    def through(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        y = call(leaf)
        (tangent,) = torch.autograd.grad(y.sum(), leaf)
        picture, start = _halves(leaf.detach())
        above, below = _halves(y.detach())
        rise, distance = above - below, picture - start
        far = distance.abs() > torch.finfo(x.dtype).eps ** 0.5 * (picture.abs() + start.abs())
        chord = rise / distance.where(far, 1)
        return x * torch.where(_both(far), _both(chord), tangent)

    return call.with_gradient_of(through)


def _shared(call: Call) -> Tensor:
    """A product of two factors: the gradient of each is the mean of the other factor."""
    if len(call.inputs) != 2:
        product: Tensor = call.unchanged()
        return product
    return call.with_gradient_of(lambda a, b: call(a, _mean(b)) + call(_mean(a), b))


def _pooled(call: Call) -> Tensor:
    """Max pooling: the position of the larger of the two maxima gets the whole difference."""
    pool = getattr(F, call.name)

    def through(x: Tensor) -> Tensor:
        values, places = pool(x, *call.args[1:], **{**call.kwargs, "return_indices": True})
        (above, below), (here, there) = _halves(values.detach()), _halves(places)
        place = _both(here.where(above >= below, there)).flatten(2)
        cell = x.flatten(2).gather(2, place)
        picture, start = _halves(cell.detach())
        distance, rise = picture - start, (above - below).flatten(2)
        share = torch.where(distance == 0, 1, rise / distance.where(distance != 0, 1))
        return (cell * _both(share)).view_as(values)

    return call.with_gradient_of(through)


def _softmax(call: Call) -> Tensor:
    """Softmax: an exact rule that cannot overflow.

    Let ``l_i`` be the logarithmic mean of probability i in the image and in the baseline, and
    ``dx_i`` the difference of logit i. The difference of probability i is exactly
    ``l_i (dx_i - sum_j l_j dx_j / sum_j l_j)``. Where image and baseline are equal, this is the
    derivative of softmax.
    """

    def through(x: Tensor) -> Tensor:
        dim = call.kwargs["dim"] if "dim" in call.kwargs else call.args[1]
        here, there = _halves(torch.log_softmax(x.detach(), dim))
        distance = (here - there).abs()
        equal = ~(distance > 0)  # also where both are -inf
        ratio = torch.where(equal, 1, -torch.expm1(-distance) / distance.where(~equal, 1))
        share = _both(torch.maximum(here, there).exp() * ratio)
        return share * (x - (share * x).sum(dim, keepdim=True) / share.sum(dim, keepdim=True))

    return call.with_gradient_of(through)


_ELEMENTWISE = (
    *ACTIVATIONS,
    *GATES,
    *("exp", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "square", "pow", "abs", "softplus"),
    *("clamp", "clamp_min", "clamp_max", "erf", "logsigmoid", "sin", "cos", "threshold"),
)
_RULES = {
    **dict.fromkeys(_ELEMENTWISE, _rescaled),
    **dict.fromkeys(PRODUCTS, _shared),
    **dict.fromkeys(("max_pool2d", "adaptive_max_pool2d"), _pooled),
    "softmax": _softmax,
}


def _maps(run: Run, starts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Maps averaged over baselines (B, H, W), and the score (B,).

    Sets ``run.extras["completeness_error"]``.
    """
    target, name, count = run.target, run.subject.name, len(run.x)

    def step(pairs: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        rows = pairs.transpose(0, 1).flatten(0, 1).detach().requires_grad_()
        with BackwardRules(_RULES, DECOMPOSITIONS) as rules:
            score = target(run.forward(rows), owner.repeat(2))
        rules.check(score, "DeepLIFT", name, "integrated_gradients")
        picture, start = score.chunk(2)
        (slope,) = differentiate(picture.sum(), rows, name=name)
        values = (slope.chunk(2)[0] * (pairs[:, 0] - pairs[:, 1])).sum(1)
        return values, torch.stack([picture, start], 1).detach()

    chunks = ((torch.stack([run.x, start], 1), run.owner) for start in starts)
    expected = count * len(starts)
    run.progress.expect(4 * expected)
    stream = run.stream(chunks, step, backward=True, expected=expected, copies=2)
    maps, scores = (torch.cat(p) for p in zip(*(found for _, found in stream), strict=True))
    values = maps.unflatten(0, (-1, count)).mean(0)
    score, floor = scores.unflatten(0, (-1, count)).mean(0).unbind(1)
    rise = score - floor
    error = relative_error(run, values.sum((1, 2)), rise, score, floor)
    run.extras["completeness_error"] = error
    return values, score


def _refusal(subject: Subject) -> str:
    return refusal_of_attempt(
        subject, "deeplift", lambda run: _maps(run, [torch.zeros_like(run.x)])
    )


@register(
    "deeplift",
    label="DeepLIFT",
    family="gradient",
    about="Best for exact sums from one pass; not for comparing different implementations.",
    paper="arXiv:1704.02685",
    needs=[Need.GRADIENT],
    properties=[
        Property.CLASS_SENSITIVE,
        Property.LOCALISES,
        Property.COMPLETE,
        Property.LINEAR_EXACT,
    ],
)
class DeepLift(Method):
    """Contribution of each pixel's difference from a baseline (Shrikumar et al., 2017).

    Elementwise functions use the rescale rule: the slope between the values of the image and of the
    baseline replaces the derivative. In a product, the mean of the other factor replaces it.
    Normalisations and attention are decomposed into products and elementwise functions, and softmax
    has an exact rule. So the map sums to ``f(x) - f(baseline)`` in transformers too, up to
    rounding. ``extras["completeness_error"]`` is the relative difference.
    """

    baseline: Baseline = Field("blur", description="The reference input to compare with")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2, 2)

    def refusal(self, subject: Subject) -> str:
        return _refusal(subject)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        return _maps(run, [baseline_images(self.baseline, run)])


@register(
    "deep_shap",
    label="DeepSHAP",
    family="shapley",
    about="Best for exact sums that do not depend on one baseline; not for exact Shapley values.",
    paper="arXiv:1705.07874",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class DeepShap(Method):
    """DeepLIFT, averaged over several baselines (Lundberg & Lee, 2017).

    The map sums to ``f(x)`` minus the mean of ``f`` over the baselines.
    ``extras["completeness_error"]`` is the relative difference.
    """

    baselines: Baselines = Field(
        ("black", "white", "blur", "random"),
        min_length=1,
        max_length=6,
        description="Reference inputs to compare with, 1 to 6; their maps are averaged",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2 * len(self.baselines), 2 * len(self.baselines))

    def refusal(self, subject: Subject) -> str:
        return _refusal(subject)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        generator = run.generator()
        return _maps(run, [baseline_images(name, run, generator) for name in self.baselines])
