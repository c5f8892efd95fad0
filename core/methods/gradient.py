"""Input gradients, and their average over noise."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from core.engine import Run, Subject
from core.errors import unknown
from core.methods.base import METHODS, Method, register
from core.types import Law, Need

Reduction = Literal["max", "l2", "mean", "sum"]


def input_gradient(run: Run) -> tuple[Tensor, Tensor]:
    """The target's gradient with respect to the images (B, C, H, W), and its score (B,)."""
    parts = list(run.gradients([(run.x, run.owner)], expected=len(run.x)))
    return torch.cat([grad for _, _, grad in parts]), torch.cat([score for _, score, _ in parts])


@register(
    "saliency",
    label="Saliency",
    family="gradient",
    about="Best for seeing which pixels the score reacts to; not for how much they contributed.",
    paper="arXiv:1312.6034",
    needs=[Need.GRADIENT],
    laws=[Law.CLASS_SENSITIVE, Law.NONNEGATIVE],
)
class Saliency(Method):
    """The size of the input gradient (Simonyan et al., 2013)."""

    reduction: Reduction = Field(
        "max", description="Colour channels to one: largest, length, mean of sizes, or signed sum"
    )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = input_gradient(run)
        if self.reduction == "sum":
            return grad.sum(1), score
        if self.reduction == "l2":
            return grad.norm(dim=1), score
        return (grad.abs().amax(1) if self.reduction == "max" else grad.abs().mean(1)), score


@register(
    "input_x_gradient",
    label="Input x gradient",
    family="gradient",
    about="Best as a first-order account of each pixel; not where the model saturates.",
    paper="arXiv:1605.01713",
    needs=[Need.GRADIENT],
    laws=[Law.CLASS_SENSITIVE, Law.LINEAR_EXACT],
)
class InputXGradient(Method):
    """Gradient times input in model units, summed over channels (Shrikumar et al., 2016)."""

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = input_gradient(run)
        return (run.x * grad).sum(1), score


def _bases(schema: dict[str, Any]) -> None:
    schema["enum"] = [
        key
        for key, cls in METHODS.items()
        if key != "smoothgrad" and Law.MODEL_FREE not in cls.laws
    ]


@register(
    "smoothgrad",
    label="SmoothGrad",
    family="gradient",
    about="Best for calming a noisy map of any base method; not for exact amounts.",
    paper="arXiv:1706.03825",
    needs=[Need.GRADIENT],
    laws=[Law.CLASS_SENSITIVE],
)
class SmoothGrad(Method):
    """A base method's map, averaged over noisy copies of the picture (Smilkov et al., 2017)."""

    base: str = Field("saliency", description="The method to smooth", json_schema_extra=_bases)
    samples: int = Field(25, ge=1, le=500, description="Noisy copies per picture")
    noise: float = Field(
        0.15, ge=0, le=1, description="Standard deviation, as a fraction of the picture's range"
    )

    @field_validator("base")
    @classmethod
    def _is_method(cls, base: str) -> str:
        allowed: dict[str, Any] = {}
        _bases(allowed)
        if base not in allowed["enum"]:
            raise unknown("base method", base, allowed["enum"])
        return base

    def requires(self) -> frozenset[Need]:
        return METHODS[self.base].needs

    def layer_needs(self) -> frozenset[Need]:
        return METHODS.make(self.base).layer_needs()

    def refusal(self, subject: Subject) -> str:
        return METHODS.make(self.base).refusal(subject)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        base, count, generator = METHODS.make(self.base), len(run.x), run.generator()
        spread = self.noise * (run.x.amax((1, 2, 3)) - run.x.amin((1, 2, 3)))[:, None, None, None]
        at_once = max(1, run.subject.budget.start // count)
        total: Tensor | None = None
        for first in range(0, self.samples, at_once):
            copies = min(at_once, self.samples - first)
            # Drawn one by one: what a generator gives depends on how much it is asked for at once.
            drawn = [torch.randn(run.x.shape[1:], generator=generator) for _ in range(copies)]
            noise = torch.stack(drawn)[:, None].to(run.x)
            rows = (run.x + noise * spread).flatten(0, 1)
            values, _ = base.attribute(run.nested(rows, run.owner.repeat(copies)))
            part = values.unflatten(0, (copies, count)).sum(0)
            total = part if total is None else total + part
        assert total is not None
        return total / self.samples, run.score()
