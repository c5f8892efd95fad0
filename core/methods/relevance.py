"""Layer-wise relevance propagation: the score handed back, layer by layer, to the pixels.

All of it is written as gradients: where a rule hands back the relevance ``R``, here flows
``R / x``, so that relevance is input times gradient at every layer, and sums and views need no
rule.
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
from core.methods.backprop import refused, rewritten_gradient
from core.methods.base import Method, register, relative_error
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
"""The function, its weight and its bias."""
Spread = Callable[[Layer, Tensor], Tensor]
"""Contributions of an input to a layer's output, summed: what the output's relevance is shared by.
"""


# -- rules --------------------------------------------------------------------------------------


def _identity(call: Call) -> Tensor:
    """An activation hands all relevance back: its value over its input is a constant factor."""
    return call.with_gradient_of(lambda x: x * (call(x) / x.where(x != 0, 1)).detach())


def _constant(call: Call) -> Tensor:
    """A scale or a gate takes no relevance."""
    return call(*(x.detach() for x in call.inputs))


def _halved(call: Call) -> Tensor:
    """The two factors of a product share its relevance evenly."""
    if len(call.inputs) != 2:
        product: Tensor = call.unchanged()
        return product
    return call.with_gradient_of(lambda a, b: call(a, b) / 2)


def _shared(layer: Layer, spread: Spread, epsilon: float) -> Callable[[Tensor], Tensor]:
    """What hands the relevance of a layer's output back in proportion to contributions."""

    def through(x: Tensor) -> Tensor:
        apply, weight, bias = layer
        parts = spread(layer, x)
        with torch.no_grad():
            share = apply(x, weight, bias) / (parts + epsilon * torch.where(parts < 0, -1.0, 1.0))
        return parts * share

    return through


def _all(layer: Layer, x: Tensor) -> Tensor:
    apply, weight, bias = layer
    return apply(x, weight, bias)


def _positive(layer: Layer, x: Tensor) -> Tensor:
    apply, weight, bias = layer
    rising = apply(x.clamp_min(0), weight.clamp_min(0), None if bias is None else bias.clamp_min(0))
    return rising + apply(x.clamp_max(0), weight.clamp_max(0), None)


def _ones(x: Tensor) -> Tensor:
    """Ones as a multiple of `x`, so that relevance is input times gradient even here."""
    return x / x.detach().where(x != 0, 1)


def _flat(layer: Layer, x: Tensor) -> Tensor:
    apply, weight, _ = layer
    return apply(_ones(x), torch.ones_like(weight), None)


def _squared(layer: Layer, x: Tensor) -> Tensor:
    apply, weight, _ = layer
    return apply(_ones(x), weight**2, None)


def _boxed(low: Tensor, high: Tensor) -> Spread:
    def spread(layer: Layer, x: Tensor) -> Tensor:
        apply, weight, _ = layer
        bottom = apply(low * _ones(x), weight.clamp_min(0), None)
        return apply(x, weight, None) - bottom - apply(high * _ones(x), weight.clamp_max(0), None)

    return spread


class _Layers:
    """The rules for layers with weights during one pass.

    A convolution and the batch normalisation right after it are one layer: whether a weight counts
    as positive is known only after scaling.
    """

    def __init__(self, first: Spread, rest: Spread, epsilon: float) -> None:
        self.first, self.rest, self.epsilon = first, rest, epsilon
        self._waiting: dict[int, tuple[Tensor, Tensor, Layer, Spread]] = {}

    def rules(self) -> dict[str, Callable[[Call], Any]]:
        """By function name."""
        return {
            "conv2d": self.convolution,
            "batch_norm": self.normalisation,
            "linear": self.linear,
        }

    def linear(self, call: Call) -> Tensor:
        """Epsilon: in proportion to all contributions, the bias among them."""
        if len(call.inputs) != 1:
            product: Tensor = call.unchanged()
            return product
        return call.with_gradient_of(_shared(_layer(F.linear, call), _all, self.epsilon))

    def convolution(self, call: Call) -> Tensor:
        """In proportion to contributions, by one rule for the first layer, another for the rest."""
        if len(call.inputs) != 1:
            product: Tensor = call.unchanged()
            return product
        (x,) = call.inputs
        layer, spread = _layer(F.conv2d, call), self.first
        self.first = self.rest
        value = call.with_gradient_of(_shared(layer, spread, self.epsilon))
        self._waiting[id(value)] = value, x, layer, spread
        return value

    def normalisation(self, call: Call) -> Tensor:
        """One layer with the convolution before it, if there is one; else a scale and a shift."""
        output = call.args[0]
        if id(output) not in self._waiting:
            value: Tensor = call.unchanged()
            return value
        _, x, layer, spread = self._waiting.pop(id(output))
        through = _shared(_merged(layer, *call.args[1:], **call.kwargs), spread, self.epsilon)
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
    """A convolution and the batch normalisation after it, as one convolution."""
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
    """What the members of the family share.

    The relevance of the pixels sums to the score but for what biases and stabilisers keep; that
    share comes with every map: ``completeness_error = abs(sum(map) - f(x)) / abs(f(x))``.
    """

    epsilon: float = Field(
        1e-6, ge=1e-12, le=1, description="Keeps shares finite where contributions cancel"
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1, 1)

    @abstractmethod
    def rewriting(self, run: Run) -> BackwardRules:
        """The rules of one pass."""

    @abstractmethod
    def check(self, rules: BackwardRules, logits: Tensor, name: str) -> None:
        """Raise `NotApplicableError` unless the rules suit what the model has computed."""

    def refusal(self, subject: Subject) -> str:
        return refused(subject, self.key, self._relevance)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        values, score = self._relevance(run)
        run.extras["completeness_error"] = relative_error(values.sum((1, 2)), score)
        return values, score

    def _relevance(self, run: Run) -> tuple[Tensor, Tensor]:
        grad, score = rewritten_gradient(
            run,
            lambda: self.rewriting(run),
            lambda rules, logits: self.check(rules, logits, run.subject.name),
        )
        return (run.x * grad).sum(1), score


@register(
    "lrp",
    label="LRP",
    family="relevance",
    about="Best for calm, detailed maps of convolutional networks; not for transformers.",
    paper="10.1371/journal.pone.0130140",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class LRP(Relevance):
    """Layer-wise relevance propagation for convolutional networks (Bach et al., 2015).

    Convolutions, merged with the batch normalisation after them, hand relevance to their positive
    contributions, linear layers to all of them; activations pass it on, gates and the scales of
    normalisations take none, maxima give it to the largest.
    """

    rule: Literal["zplus", "epsilon"] = Field(
        "zplus", description="Convolutions share by positive contributions, or by all of them"
    )
    first: Literal["same", "flat", "wsquare", "box"] = Field(
        "same",
        description="The first convolution: like the others, evenly, by squared weights, or by the "
        "distance from the darkest and lightest pixel",
    )

    def rewriting(self, run: Run) -> BackwardRules:
        rest = _positive if self.rule == "zplus" else _all
        black, white = (run.subject.pixel(level).to(run.x) for level in (0.0, 1.0))
        first = {
            "same": rest,
            "flat": _flat,
            "wsquare": _squared,
            "box": _boxed(black, white),
        }[self.first]
        layers = _Layers(first, rest, self.epsilon)
        return BackwardRules({**_FACTORS, **layers.rules()}, DECOMPOSITIONS, MAX_POOLS)

    def check(self, rules: BackwardRules, logits: Tensor, name: str) -> None:
        if "Softmax" in nonlinear_operations(logits):
            raise NotApplicableError(
                f"LRP's rules are made for convolutional networks, and {name} computes attention; "
                "use attnlrp"
            )
        rules.check(logits, "LRP", name, "integrated_gradients")


class AttentionRelevance(Relevance):
    """What the two methods for transformers share."""

    def check(self, rules: BackwardRules, logits: Tensor, name: str) -> None:
        if "softmax" not in rules.used:
            raise NotApplicableError(
                f"{self.label}'s rules are made for attention, and {name} computes none; use lrp"
            )
        rules.check(logits, self.label, name, "integrated_gradients")


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
    """Relevance through attention itself (Achtibat et al., 2024).

    Softmax hands relevance to its logits by its Taylor expansion, two factors share their product's
    evenly, the scale of a normalisation takes none. The expansion's constant keeps a share, so the
    map need not sum to the score.
    """

    def rewriting(self, run: Run) -> BackwardRules:
        layers = _Layers(_all, _all, self.epsilon)
        rules = {**_FACTORS, **layers.rules(), "softmax": Call.unchanged}
        return BackwardRules(rules, DECOMPOSITIONS, {*MAX_POOLS, "Softmax"})


@register(
    "cp_lrp",
    label="CP-LRP",
    family="relevance",
    about="Best for relevance in transformers that adds up; not for why tokens attend as they do.",
    paper="arXiv:2202.07304",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class CpLRP(AttentionRelevance):
    """Relevance along the values that attention mixes, never its weights (Ali et al., 2022).

    Attention weights and the scales of normalisations count as constants. In a model without biases
    the map sums to the score; biases keep their share.
    """

    def rewriting(self, run: Run) -> BackwardRules:
        layers = _Layers(_all, _all, self.epsilon)
        rules = {**_FACTORS, **layers.rules(), "softmax": _constant}
        return BackwardRules(rules, DECOMPOSITIONS, MAX_POOLS)
