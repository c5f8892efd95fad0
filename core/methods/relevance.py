"""Layer-wise relevance propagation (LRP): the score is propagated back to the pixels by rules.

The rules are written as gradients. Where a rule propagates the relevance ``R`` to an input ``x``,
the modified gradient is ``R / x``. So the relevance is input times gradient at every layer, and
sums and views need no rule.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError
from core.methods.backprop import refusal_of_attempt, rewritten_gradient
from core.methods.base import ONLY_ORDER, Method, register, relative_error
from core.runtime.backward_rules import (
    ACTIVATIONS,
    DECOMPOSITIONS,
    GATES,
    MAX_POOLS,
    PRODUCTS,
    BackwardRules,
    Call,
    nonlinear_operations,
    with_gradient_of,
)
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property

Affine = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A layer as a function of its input, weight and bias."""
Layer = tuple[Affine, Tensor, Tensor | None]
"""An affine function, its weight and its bias."""
Contributions = Callable[[Layer, Tensor], Tensor]
"""Sums the contributions of a layer's input to each output. The relevance of the output is
distributed in proportion to these contributions."""


# -- rules --------------------------------------------------------------------------------------


def _identity(call: Call) -> Tensor:
    """An activation passes all relevance on: output / input counts as a constant factor."""
    return call.with_gradient_of(lambda x: x * (call(x) / x.where(x != 0, 1)).detach())


def _constant(call: Call) -> Tensor:
    """A scale or a gate gets no relevance: it counts as a constant."""
    return call(*(x.detach() for x in call.inputs))


def _halved(call: Call) -> Tensor:
    """The two factors of a product get half of its relevance each."""
    if len(call.inputs) != 2:
        product: Tensor = call.unchanged()
        return product
    return call.with_gradient_of(lambda a, b: call(a, b) / 2)


def _proportional(
    layer: Layer, contributions: Contributions, epsilon: float
) -> Callable[[Tensor], Tensor]:
    """A function whose gradient distributes relevance in proportion to contributions."""

    def through(x: Tensor) -> Tensor:
        apply, weight, bias = layer
        parts = contributions(layer, x)
        with torch.no_grad():
            share = apply(x, weight, bias) / (parts + epsilon * torch.where(parts < 0, -1.0, 1.0))
        return parts * share

    return through


def _all_contributions(layer: Layer, x: Tensor) -> Tensor:
    apply, weight, bias = layer
    return apply(x, weight, bias)


def _positive_contributions(layer: Layer, x: Tensor) -> Tensor:
    """Contributions above 0 (z+ rule; alpha-beta with alpha 1)."""
    apply, weight, bias = layer
    rising = apply(x.clamp_min(0), weight.clamp_min(0), None if bias is None else bias.clamp_min(0))
    return rising + apply(x.clamp_max(0), weight.clamp_max(0), None)


def _ones(x: Tensor) -> Tensor:
    """Ones written as a multiple of `x`, so that relevance is still input times gradient."""
    return x / x.detach().where(x != 0, 1)


def _uniform_contributions(layer: Layer, x: Tensor) -> Tensor:
    """The same contribution from every input (flat rule)."""
    apply, weight, _ = layer
    return apply(_ones(x), torch.ones_like(weight), None)


def _squared_weights(layer: Layer, x: Tensor) -> Tensor:
    """Contributions by squared weights (w^2 rule)."""
    apply, weight, _ = layer
    return apply(_ones(x), weight**2, None)


def _box_contributions(low: Tensor, high: Tensor) -> Contributions:
    """Contributions relative to the smallest and largest pixel value (z^B rule)."""

    def contributions(layer: Layer, x: Tensor) -> Tensor:
        apply, weight, _ = layer
        bottom = apply(low * _ones(x), weight.clamp_min(0), None)
        return apply(x, weight, None) - bottom - apply(high * _ones(x), weight.clamp_max(0), None)

    return contributions


class _WeightRules:
    """The rules for layers with weights, for one pass.

    A convolution and the batch normalisation after it are merged into one layer, because the sign
    of a weight is known only after scaling.
    """

    def __init__(self, first: Contributions, rest: Contributions, epsilon: float) -> None:
        self.first, self.rest, self.epsilon = first, rest, epsilon
        self._stem: Tensor | None = None  # the weight of the first convolution
        self._convolved: dict[int, tuple[Tensor, Tensor, Layer, Contributions]] = {}

    def rules(self) -> dict[str, Callable[[Call], Any]]:
        """The rules by function name."""
        return {
            "conv2d": self.convolution,
            "batch_norm": self.normalisation,
            "linear": self.linear,
        }

    def linear(self, call: Call) -> Tensor:
        """Epsilon rule: in proportion to all contributions, including the bias."""
        if len(call.inputs) != 1:
            product: Tensor = call.unchanged()
            return product
        return call.with_gradient_of(
            _proportional(_layer(F.linear, call), _all_contributions, self.epsilon)
        )

    def convolution(self, call: Call) -> Tensor:
        """In proportion to contributions, with a separate rule for the first convolution."""
        if len(call.inputs) != 1:
            product: Tensor = call.unchanged()
            return product
        (x,) = call.inputs
        layer = _layer(F.conv2d, call)
        self._stem = layer[1] if self._stem is None else self._stem
        contributions = self.first if layer[1] is self._stem else self.rest
        value = call.with_gradient_of(_proportional(layer, contributions, self.epsilon))
        self._convolved[id(value)] = value, x, layer, contributions
        return value

    def normalisation(self, call: Call) -> Tensor:
        """Merged with the convolution before it, if there is one; else a scale and a shift."""
        output = call.args[0]
        if id(output) not in self._convolved:
            value: Tensor = call.unchanged()
            return value
        _, x, layer, contributions = self._convolved.pop(id(output))
        through = _proportional(
            _merged(layer, *call.args[1:], **call.kwargs), contributions, self.epsilon
        )
        return with_gradient_of(lambda _: call(output.detach()), through, x)


def _layer(function: Any, call: Call) -> Layer:
    return _bound(function, *call.args, **call.kwargs)


def _bound(
    function: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **more: Any,
) -> Layer:
    return lambda x, w, b: function(x, w, b, *rest, **more), weight, bias


def _merged(
    layer: Layer,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Layer:
    """A convolution and the batch normalisation after it as one convolution."""
    apply, kernel, shift = layer
    scale = torch.rsqrt(running_var + eps) * (1 if weight is None else weight)
    offset = ((0 if shift is None else shift) - running_mean) * scale
    merged = kernel * scale.view(-1, *[1] * (kernel.ndim - 1))
    return apply, merged, offset if bias is None else offset + bias


_FACTORS = {
    **dict.fromkeys(ACTIVATIONS, _identity),
    **dict.fromkeys((*GATES, "sqrt", "rsqrt", "reciprocal"), _constant),
    **dict.fromkeys(PRODUCTS, _halved),
}


# -- methods ------------------------------------------------------------------------------------


class Relevance(Method):
    """Base class of relevance propagation methods.

    The relevance of all pixels sums to the score, except for what biases and epsilon absorb. Every
    map comes with ``completeness_error = abs(sum(map) - f(x)) / abs(f(x))``.
    """

    epsilon: float = Field(
        1e-6,
        ge=1e-12,
        le=1,
        description="Added to denominators so that they are not 0 where contributions cancel; "
        "larger values absorb relevance",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    @abstractmethod
    def make_rules(self, run: Run) -> BackwardRules:
        """Makes the backward rules for one pass."""

    @abstractmethod
    def check(self, rules: BackwardRules, graph: Tensor, name: str) -> None:
        """Checks that the rules fit the model.

        Args:
            rules: the rules after a pass.
            graph: a tensor with the graph of the pass's outputs.
            name: the model's name.

        Raises:
            NotApplicableError: they do not fit.
        """

    def refusal(self, subject: Subject) -> str:
        return refusal_of_attempt(subject, self.key, self._relevance)

    def advice(self) -> str:
        return f"what biases and epsilon absorb is not on the map, so {ONLY_ORDER}"

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        values, score = self._relevance(run)
        run.extras["completeness_error"] = relative_error(run, values.sum((1, 2)), score)
        return values, score

    def _relevance(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = rewritten_gradient(
            run,
            lambda: self.make_rules(run),
            lambda rules, graph: self.check(rules, graph, run.subject.name),
        )
        return (run.x * grad).sum(1), score


@register(
    "lrp",
    label="LRP",
    family="relevance",
    about="Best for detailed, clean maps of convolutional networks; not for transformers.",
    paper="10.1371/journal.pone.0130140",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class LRP(Relevance):
    """Layer-wise relevance propagation for convolutional networks (Bach et al., 2015).

    Convolutions, merged with the batch normalisation after them, distribute relevance by positive
    contributions, linear layers by all contributions. Activations pass it on, gates and the scales
    of normalisations get none, and max pooling gives it to the maximum.
    """

    rule: Literal["zplus", "epsilon"] = Field(
        "zplus",
        description="Rule of convolutions: zplus distributes relevance by positive contributions, "
        "epsilon by all contributions",
    )
    first: Literal["same", "flat", "wsquare", "box"] = Field(
        "same",
        title="Rule of the first convolution",
        description="same: as the other convolutions; flat: evenly; wsquare: by squared weights; "
        "box: relative to black and white pixels",
    )

    def make_rules(self, run: Run) -> BackwardRules:
        rest = _positive_contributions if self.rule == "zplus" else _all_contributions
        black, white = (run.subject.pixel(level).to(run.x) for level in (0.0, 1.0))
        first = {
            "same": rest,
            "flat": _uniform_contributions,
            "wsquare": _squared_weights,
            "box": _box_contributions(black, white),
        }[self.first]
        layers = _WeightRules(first, rest, self.epsilon)
        return BackwardRules({**_FACTORS, **layers.rules()}, DECOMPOSITIONS, MAX_POOLS)

    def check(self, rules: BackwardRules, graph: Tensor, name: str) -> None:
        if "Softmax" in nonlinear_operations(graph):
            raise NotApplicableError(
                f"LRP's rules are for convolutional networks, and {name} uses attention; use "
                "attnlrp"
            )
        rules.check(graph, "LRP", name, "integrated_gradients")


class AttentionRelevance(Relevance):
    """Base class of relevance propagation for transformers."""

    def check(self, rules: BackwardRules, graph: Tensor, name: str) -> None:
        if rules.used.get("softmax", 0) <= 2:
            raise NotApplicableError(
                f"{self.label}'s rules are for attention, and {name} uses none; use lrp"
            )
        rules.check(graph, self.label, name, "integrated_gradients")


@register(
    "attnlrp",
    label="AttnLRP",
    family="relevance",
    about="Best for detailed maps of transformers from one pass; not for convolutional networks.",
    paper="arXiv:2402.05602",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class AttnLRP(AttentionRelevance):
    """LRP for transformers that also propagates through attention weights (Achtibat et al., 2024).

    Softmax uses its first-order Taylor expansion, the two factors of a product get half of its
    relevance each, and the scale of a normalisation gets none. The constant term of the expansion
    absorbs relevance, so the map need not sum to the score.
    """

    def make_rules(self, run: Run) -> BackwardRules:
        layers = _WeightRules(_all_contributions, _all_contributions, self.epsilon)
        rules = {**_FACTORS, **layers.rules(), "softmax": Call.unchanged}
        return BackwardRules(rules, DECOMPOSITIONS, {*MAX_POOLS, "Softmax"})


@register(
    "cp_lrp",
    label="CP-LRP",
    family="relevance",
    about="Best for transformer relevance that sums to the score; not for explaining attention.",
    paper="arXiv:2202.07304",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class CpLRP(AttentionRelevance):
    """LRP for transformers that treats attention weights as constants (Ali et al., 2022).

    The scales of normalisations are constants too. In a model without biases the map sums to the
    score; biases absorb relevance.
    """

    def make_rules(self, run: Run) -> BackwardRules:
        layers = _WeightRules(_all_contributions, _all_contributions, self.epsilon)
        rules = {**_FACTORS, **layers.rules(), "softmax": _constant}
        return BackwardRules(rules, DECOMPOSITIONS, MAX_POOLS)
