"""Gradients with modified backward rules: guided backpropagation and guided Grad-CAM."""

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
from core.types import Cost, Need, Property, upsample

RuleFactory = Callable[[], BackwardRules]
"""Makes the backward rules for one pass."""


def rewritten_gradient(
    run: Run, make_rules: RuleFactory, check: Callable[[BackwardRules, Tensor], None]
) -> tuple[Tensor, Tensor]:
    """The input gradient under modified backward rules.

    Args:
        run: the images and the target.
        make_rules: makes the backward rules for one pass.
        check: called with the rules and the graph of each pass's outputs; raises
            `NotApplicableError` if the rules do not fit the model.

    Returns:
        gradient (B, C, H, W) and score (B,).
    """
    target, count = run.target, len(run.x)

    def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.detach().requires_grad_()
        with make_rules() as rules:
            outputs = run.forward(rows)
        check(rules, outputs.graph)
        score = target(outputs, owner)
        (grad,) = differentiate(score.sum(), rows, name=run.subject.name)
        return grad, score.detach()

    run.progress.expect(2 * count)
    stream = run.stream([(run.x, run.owner)], step, backward=True, expected=count)
    grads, scores = zip(*(found for _, found in stream), strict=True)
    return torch.cat(grads), torch.cat(scores)


def refusal_of_attempt(subject: Subject, key: str, attempt: Callable[[Run], object]) -> str:
    """Runs `attempt` once on a grey picture and returns why it refuses the model.

    Args:
        subject: the model.
        key: the method's key, under which the answer is cached.
        attempt: raises `NotApplicableError` if the model does not fit.

    Returns:
        The reason as a sentence; empty if the attempt succeeds.
    """

    def find_refusal() -> str:
        grey = subject.pixel(0.5).expand(1, *subject.input_size)
        try:
            attempt(Run(subject, grey))
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


_GUIDED_RULES = dict.fromkeys(("relu", "relu6", "hardtanh", "threshold"), _guided)


def _guided_gradient(run: Run) -> tuple[Tensor, Tensor]:
    name = run.subject.name

    def check(rules: BackwardRules, graph: Tensor) -> None:
        others = [
            n.removesuffix("Kernel").lower() for n in sorted(nonlinear_operations(graph) & _SMOOTH)
        ]
        if others or not rules.used:
            uses = f"uses {others[0]}" if others else "has none"
            raise NotApplicableError(
                f"guided backpropagation is defined for ReLU, and {name} {uses}; use saliency"
            )
        rules.check(graph, "guided backpropagation", name, "saliency")

    return rewritten_gradient(run, lambda: BackwardRules(_GUIDED_RULES, {}, _KNOWN), check)


@register(
    "guided_backprop",
    label="Guided backpropagation",
    family="gradient",
    about="Best for fine edges in ReLU networks; not for telling classes apart.",
    paper="arXiv:1412.6806",
    needs=[Need.GRADIENT],
    properties=[Property.LOCALISES, Property.NONNEGATIVE],
)
class GuidedBackprop(Method):
    """The input gradient, where every ReLU passes back only positive gradients.

    Source: Springenberg et al. (2014). In a model without ReLU the result would be the plain
    gradient, so the method refuses those models. Its maps of different classes are nearly the same:
    on EfficientNet-Lite0 their mean rank correlation is 0.98.
    """

    reduction: Reduction = Field(
        "max",
        description="How colour channels are combined: max (largest absolute value), l2 (Euclidean "
        "norm), mean (mean absolute value) or sum (signed sum)",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    def refusal(self, subject: Subject) -> str:
        return refusal_of_attempt(subject, "guided_backprop", _guided_gradient)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = _guided_gradient(run)
        return reduced(grad, self.reduction), score


@register(
    "guided_gradcam",
    label="Guided Grad-CAM",
    family="cam",
    about="Best for fine detail in the region that Grad-CAM finds; not for models without ReLU.",
    paper="arXiv:1610.02391",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES, Property.NONNEGATIVE],
)
class GuidedGradCAM(GuidedBackprop):
    """Guided backpropagation times upsampled Grad-CAM, pixel by pixel (Selvaraju et al., 2017)."""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2, 2)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        region, _ = METHODS.make("gradcam").attribute(run)
        fine, score = super().attribute(run)
        return fine * upsample(region, (fine.shape[-2], fine.shape[-1])), score
