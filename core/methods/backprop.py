"""Gradients that flow back by other rules than the model's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from core.errors import NotApplicableError
from core.methods.base import METHODS, Method, cached_refusal, register
from core.methods.gradient import Reduction, reduced
from core.runtime.backward_rules import MAX_POOLS, BackwardRules, Call, nonlinear_operations
from core.runtime.model_call import differentiate
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.classification import ClassLogit
from core.types import Cost, Need, Property, upsample

Rewriting = Callable[[], BackwardRules]
"""Makes the rules of one pass."""


def rewritten_gradient(
    run: Run, rewriting: Rewriting, check: Callable[[BackwardRules, Tensor], None]
) -> tuple[Tensor, Tensor]:
    """The images' gradient (B, C, H, W) by rules instead of calculus, and the score (B,).

    Args:
        run: whose images and target.
        rewriting: makes the rules of one pass.
        check: raises `NotApplicableError` if a pass's rules and its outputs (n, N) do not suit.
    """
    target, count = run.target, len(run.x)

    def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.detach().requires_grad_()
        with rewriting() as rules:
            logits = run.logits(rows)
        check(rules, logits)
        score = target(logits, owner)
        (grad,) = differentiate(score.sum(), rows, name=run.subject.name)
        return grad, score.detach()

    run.progress.expect(2 * count)
    stream = run.stream([(run.x, run.owner)], step, backward=True, expected=count)
    grads, scores = zip(*(found for _, found in stream), strict=True)
    return torch.cat(grads), torch.cat(scores)


def refused(subject: Subject, key: str, attempt: Callable[[Run], object]) -> str:
    """Why `attempt` refuses the model, tried once on a grey picture; empty if it does not."""

    def find_refusal() -> str:
        grey = subject.pixel(0.5).expand(1, *subject.input_size)
        try:
            attempt(Run(subject, grey, ClassLogit(0)))
        except NotApplicableError as refusal:
            return str(refusal)
        return ""

    return cached_refusal(subject, key, find_refusal)


# -- guided backpropagation ---------------------------------------------------------------------

_SMOOTH = {"Elu", "Gelu", "Silu", "Mish", "Hardswish", "LeakyRelu", "PreluKernel", "Tanh"}
_GATES = {"Mul", "Sigmoid", "Hardsigmoid"}
_KNOWN = {"Relu", "Hardtanh", "Threshold", *_GATES, *MAX_POOLS}


def _guided(call: Call) -> Tensor:
    value = call(*call.inputs)
    value.register_hook(lambda grad: grad.clamp_min(0))
    return value


_GUIDES = dict.fromkeys(("relu", "relu6", "hardtanh", "threshold"), _guided)


def _guided_gradient(run: Run) -> tuple[Tensor, Tensor]:
    name = run.subject.name

    def check(rules: BackwardRules, logits: Tensor) -> None:
        others = [
            n.removesuffix("Kernel").lower() for n in sorted(nonlinear_operations(logits) & _SMOOTH)
        ]
        if others or not rules.used:
            uses = f"uses {others[0]}" if others else "has none"
            raise NotApplicableError(
                f"guided backpropagation is defined for ReLU, and {name} {uses}; use saliency"
            )
        rules.check(logits, "guided backpropagation", name, "saliency")

    return rewritten_gradient(run, lambda: BackwardRules(_GUIDES, {}, _KNOWN), check)


@register(
    "guided_backprop",
    label="Guided backpropagation",
    family="gradient",
    about="Best for crisp edges of what a ReLU network sees; not for telling classes apart.",
    paper="arXiv:1412.6806",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class GuidedBackprop(Method):
    """The input gradient, where every ReLU passes back positive values only.

    Springenberg et al. (2014). In a model without ReLU it would be the gradient in disguise, and is
    refused.
    """

    reduction: Reduction = Field(
        "max", description="Colour channels to one: largest, length, mean of sizes, or signed sum"
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def refusal(self, subject: Subject) -> str:
        return refused(subject, "guided_backprop", _guided_gradient)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = _guided_gradient(run)
        return reduced(grad, self.reduction), score


@register(
    "guided_gradcam",
    label="Guided Grad-CAM",
    family="cam",
    about="Best for fine detail within the region Grad-CAM names; not for models without ReLU.",
    paper="arXiv:1610.02391",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class GuidedGradCAM(GuidedBackprop):
    """Guided backpropagation times Grad-CAM, pixel by pixel (Selvaraju et al., 2017)."""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2, 2)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        region, _ = METHODS.make("gradcam").attribute(run)
        fine, score = super().attribute(run)
        return fine * upsample(region, (fine.shape[-2], fine.shape[-1])), score
