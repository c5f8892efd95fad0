"""Input gradients, and statistics of them over noisy copies of the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from core.errors import unknown
from core.methods.base import METHODS, Method, register
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property

Reduction = Literal["max", "l2", "mean", "sum"]


def input_gradient(run: Run) -> tuple[Tensor, Tensor]:
    """The gradient of the target with respect to the images (B, C, H, W), and the score (B,)."""
    parts = list(run.gradients([(run.x, run.owner)], expected=len(run.x)))
    return torch.cat([grad for _, _, grad in parts]), torch.cat([score for _, score, _ in parts])


def reduced(grad: Tensor, reduction: Reduction) -> Tensor:
    """Combines colour channels: (B, C, H, W) to (B, H, W); see the `saliency` method."""
    if reduction == "sum":
        return grad.sum(1)
    if reduction == "l2":
        return grad.square().sum(1).sqrt()
    return grad.abs().amax(1) if reduction == "max" else grad.abs().mean(1)


@register(
    "saliency",
    label="Saliency",
    family="gradient",
    about="Best for which pixels the score is sensitive to; not for telling two objects apart.",
    paper="arXiv:1312.6034",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class Saliency(Method):
    """The absolute value of the input gradient (Simonyan et al., 2013)."""

    reduction: Reduction = Field(
        "max",
        description="How colour channels are combined: max (largest absolute value), l2 (Euclidean "
        "norm), mean (mean absolute value) or sum (signed sum)",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = input_gradient(run)
        return reduced(grad, self.reduction), score


@register(
    "input_x_gradient",
    label="Input x gradient",
    family="gradient",
    about="Best for a first-order estimate of each pixel's contribution; not for saturated models.",
    paper="arXiv:1605.01713",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.LINEAR_EXACT],
)
class InputXGradient(Method):
    """Gradient times input in model units, summed over channels (Shrikumar et al., 2016)."""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = input_gradient(run)
        return (run.x * grad).sum(1), score


def _add_base_methods(schema: dict[str, Any]) -> None:
    schema["enum"] = [
        key
        for key, cls in METHODS.items()
        if not issubclass(cls, Noisy) and Property.MODEL_FREE not in cls.properties
    ]


Drawn = tuple[Tensor, dict[str, Tensor]]
"""A map (B, h, w), and extras."""


class Moments:
    """Mean and spread of maps that come a few at a time.

    Attributes:
        seen: number of maps.
        mean: (B, h, w) their mean.
        squares: (B, h, w) the sum of the squares of their distances from the mean.
    """

    def __init__(self) -> None:
        self.seen, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, maps: Tensor) -> None:
        """Adds maps (n, B, h, w). Moments are merged, because sums of squares would cancel."""
        step, delta = len(maps), maps.mean(0) - self.mean.to(maps)
        share = step / (self.seen + step)
        self.squares = (
            self.squares.to(maps) + maps.var(0, correction=0) * step + delta**2 * self.seen * share
        )
        self.mean = self.mean.to(maps) + delta * share
        self.seen += step


class Noisy(Method):
    """Base class of methods that apply another method to noisy copies of the picture."""

    base: str = Field(
        "saliency",
        title="Base method",
        description="The method that is applied to every noisy copy",
        json_schema_extra=_add_base_methods,
    )
    samples: int = Field(25, ge=1, le=500, description="Number of noisy copies of each picture")
    noise: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Standard deviation of the Gaussian noise, as a fraction of the picture's "
        "value range (maximum - minimum)",
    )

    @field_validator("base")
    @classmethod
    def _check_base(cls, base: str) -> str:
        allowed: dict[str, Any] = {}
        _add_base_methods(allowed)
        if base not in allowed["enum"]:
            raise unknown("base method", base, allowed["enum"])
        return base

    def requires(self) -> frozenset[Need]:
        return METHODS[self.base].needs

    def layer_needs(self) -> frozenset[Need]:
        return METHODS.make(self.base).layer_needs()

    def refusal(self, subject: Subject) -> str:
        return METHODS.make(self.base).refusal(subject)

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        each = METHODS.make(self.base).estimate_cost(subject, layer)
        return Cost(
            self.samples * each.forward + 1,
            self.samples * each.backward,
            self.samples * each.seconds,
        )

    def moments(self, run: Run, draw: Callable[[Moments], Drawn]) -> tuple[Tensor, Tensor]:
        """The map that `draw` makes of the base method's maps of noisy copies, and the score.

        Args:
            run: the images and the target.
            draw: gives the map (B, h, w) and extras, from the maps so far.
        """
        found = Moments()
        taken = run.samples(self.samples, "noisy copies", 2)
        for maps in self.noisy_maps(run, taken):
            found.add(maps)
            if found.seen >= 2:
                run.paint(found.seen, lambda: draw(found))
        values, extras = draw(found)
        run.extras |= extras
        return values, run.score()

    def noisy_maps(self, run: Run, samples: int) -> Iterator[Tensor]:
        """Yields the base method's maps of noisy copies, (n, B, h, w), n copies at a time."""
        base, count, generator = METHODS.make(self.base), len(run.x), run.generator()
        spread = self.noise * (run.x.amax((1, 2, 3)) - run.x.amin((1, 2, 3)))[:, None, None, None]
        each = max(1, base.estimate_cost(run.subject, run.layer).forward)
        at_once = max(1, run.subject.budget.rows(backward=True) // (count * each))
        for first in range(0, samples, at_once):
            copies = min(at_once, samples - first)
            # One draw per copy: a large draw gives other numbers than several small ones, and the
            # result must not depend on the memory budget.
            drawn = [torch.randn(run.x.shape[1:], generator=generator) for _ in range(copies)]
            noise = torch.stack(drawn)[:, None].to(run.x)
            rows = (run.x + noise * spread).flatten(0, 1)
            noisy = run.derive(x=rows, owner=run.owner.repeat(copies), extra_layers=())
            values, _ = base.attribute(noisy)
            yield values.unflatten(0, (copies, count))


@register(
    "smoothgrad",
    label="SmoothGrad",
    family="gradient",
    about="Best for smoothing a noisy map of any base method; not for exact contributions.",
    paper="arXiv:1706.03825",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class SmoothGrad(Noisy):
    """A base method's map, averaged over noisy copies of the picture (Smilkov et al., 2017).

    `extras["standard_error"]` is a map of standard errors of that mean.
    """

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        def draw(found: Moments) -> Drawn:
            if found.seen < 2:
                return found.mean, {}
            spread = (found.squares / (found.seen - 1)).sqrt()
            return found.mean, {"standard_error": spread / math.sqrt(found.seen)}

        return self.moments(run, draw)


@register(
    "vargrad",
    label="VarGrad",
    family="gradient",
    about="Best for where a base method's map varies under noise; not for signs or contributions.",
    paper="arXiv:1810.03292",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class VarGrad(Noisy):
    """The variance of a base method's map over noisy copies (Adebayo et al., 2018).

    It is the population variance (divided by the number of copies), so one copy gives 0.
    `extras["standard_error"]` is a map of its standard errors, as for values of a normal
    distribution.
    """

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        def draw(found: Moments) -> Drawn:
            variance = found.squares / found.seen
            if found.seen < 2:
                return variance, {}
            return variance, {"standard_error": variance * math.sqrt(2 / (found.seen - 1))}

        return self.moments(run, draw)
