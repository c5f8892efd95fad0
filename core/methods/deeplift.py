"""DeepLIFT: the model's own account of how the score rose from a baseline to the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError
from core.methods.backprop import refused
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

# Every pass holds the pictures in the first half of its rows, their baselines in the second.


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim == 0 or len(x) % 2:
        raise NotApplicableError(
            f"DeepLIFT compares a picture with its baseline row by row, and a tensor of shape "
            f"{tuple(x.shape)} on the way does not hold them in rows; use integrated_gradients"
        )
    picture, start = x.chunk(2)
    return picture, start


def _both(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _mean(x: Tensor) -> Tensor:
    picture, start = _halves(x.detach())
    return _both((picture + start) / 2)


def _rescaled(call: Call) -> Tensor:
    """A function of one number: the slope of the chord, which is the tangent where they meet."""

    def through(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        y = call(leaf)
        (tangent,) = torch.autograd.grad(y.sum(), leaf)
        picture, start = _halves(leaf.detach())
        above, below = _halves(y.detach())
        rise, way = above - below, picture - start
        far = way.abs() > torch.finfo(x.dtype).eps ** 0.5 * (picture.abs() + start.abs())
        chord = rise / way.where(far, 1)
        return x * torch.where(_both(far), _both(chord), tangent)

    return call.with_gradient_of(through)


def _shared(call: Call) -> Tensor:
    """A product of two factors: each accounts for its own rise, times the other's mean."""
    if len(call.inputs) != 2:
        product: Tensor = call.unchanged()
        return product
    return call.with_gradient_of(lambda a, b: call(a, _mean(b)) + call(_mean(a), b))


def _pooled(call: Call) -> Tensor:
    """A maximum: the cell that is largest where the maximum is larger accounts for its rise."""
    pool = getattr(F, call.name)

    def through(x: Tensor) -> Tensor:
        values, places = pool(x, *call.args[1:], **{**call.kwargs, "return_indices": True})
        (above, below), (here, there) = _halves(values.detach()), _halves(places)
        place = _both(here.where(above >= below, there)).flatten(2)
        cell = x.flatten(2).gather(2, place)
        picture, start = _halves(cell.detach())
        way, rise = picture - start, (above - below).flatten(2)
        share = torch.where(way == 0, 1, rise / way.where(way != 0, 1))
        return (cell * _both(share)).view_as(values)

    return call.with_gradient_of(through)


def _softmax(call: Call) -> Tensor:
    """Softmax: a logit accounts for its share's rise as far as it rose more than the others.

    With ``l`` the logarithmic mean of a share in the picture and in the baseline, the rise of share
    i is ``l_i (dx_i - sum_j l_j dx_j / sum_j l_j)`` exactly, and where both meet the slope is
    softmax's own. No exponential of a difference between picture and baseline is taken.
    """

    def through(x: Tensor) -> Tensor:
        dim = call.kwargs["dim"] if "dim" in call.kwargs else call.args[1]
        here, there = _halves(torch.log_softmax(x.detach(), dim))
        way = (here - there).abs()
        flat = ~(way > 0)  # where both are -inf, too
        ratio = torch.where(flat, 1, -torch.expm1(-way) / way.where(~flat, 1))
        share = _both(torch.maximum(here, there).exp() * ratio)
        return share * (x - (share * x).sum(dim, keepdim=True) / share.sum(dim, keepdim=True))

    return call.with_gradient_of(through)


_ONE_NUMBER = (
    *ACTIVATIONS,
    *GATES,
    *("exp", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "square", "pow", "abs", "softplus"),
    *("clamp", "clamp_min", "clamp_max", "erf", "logsigmoid", "sin", "cos", "threshold"),
)
_RULES = {
    **dict.fromkeys(_ONE_NUMBER, _rescaled),
    **dict.fromkeys(PRODUCTS, _shared),
    **dict.fromkeys(("max_pool2d", "adaptive_max_pool2d"), _pooled),
    "softmax": _softmax,
}


def _maps(run: Run, starts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Maps averaged over baselines (B, H, W), and the score (B,); leaves the completeness error."""
    target, name, count = run.target, run.subject.name, len(run.x)

    def step(pairs: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        rows = pairs.transpose(0, 1).flatten(0, 1).detach().requires_grad_()
        with BackwardRules(_RULES, DECOMPOSITIONS) as rules:
            score = target(run.logits(rows), owner.repeat(2))
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
    error = relative_error(values.sum((1, 2)), rise)
    run.extras["completeness_error"] = error
    return values, score


def _refusal(subject: Subject) -> str:
    return refused(subject, "deeplift", lambda run: _maps(run, [torch.zeros_like(run.x)]))


@register(
    "deeplift",
    label="DeepLIFT",
    family="gradient",
    about="Best for exact sums from one pass instead of many; not for comparing implementations.",
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
    """How far each pixel's way from the baseline raised the score (Shrikumar et al., 2017).

    The rescale rule: a function of one number passes back the slope of its chord. A product passes
    back the mean of the other factor; normalisations and attention are taken apart into products
    and functions of one number. Softmax has an exact rule of its own, which no gap between picture
    and baseline makes overflow. So the map sums to ``f(x) - f(baseline)`` in transformers, too, up
    to rounding; the completeness error comes with every map.
    """

    baseline: Baseline = Field("black", description="The picture that says nothing")

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
    about="Best for exact sums that hang on no single baseline; not for true Shapley values.",
    paper="arXiv:1705.07874",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class DeepShap(Method):
    """DeepLIFT, averaged over several baselines (Lundberg & Lee, 2017).

    The map sums to ``f(x)`` less the mean of ``f`` over the baselines; the completeness error comes
    with every map.
    """

    baselines: Baselines = Field(
        ("black", "white", "blur", "random"),
        min_length=1,
        max_length=6,
        description="Pictures that say nothing; the maps are averaged",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2 * len(self.baselines), 2 * len(self.baselines))

    def refusal(self, subject: Subject) -> str:
        return _refusal(subject)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        generator = run.generator()
        return _maps(run, [baseline_images(name, run, generator) for name in self.baselines])
