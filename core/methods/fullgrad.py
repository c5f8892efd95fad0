"""Everything that makes up the score: the input's part and the part of every bias on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.methods.base import Method, cached_refusal, register
from core.runtime.capture import record_calls
from core.runtime.model_call import call_model, differentiate
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.base import Target
from core.types import Cost, Layout, Need, Property, upsample

MOST_LEFT_OVER = 0.01
"""The completeness error up to which the parts are taken to make up the score: measured, 1e-5 or
less where they do, and 0.04 or more where they do not."""
ROUNDING = 1e-6
"""A bias smaller than this share of the output it is part of is none."""


@register(
    "fullgrad",
    label="FullGrad",
    family="cam",
    about="Best for a full account of the score, biases too; not for attention or gating.",
    paper="arXiv:1905.00780",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class FullGrad(Method):
    """Input times gradient, and bias times gradient of every layer (Srinivas & Fleuret, 2019).

    Each part of a model is linear up to a bias: its own, what a normalisation adds, what a
    saturated or smooth activation adds to its slope times its input. The map is the sum of all
    these terms, each where its cell lies on the picture; what lies nowhere, such as the
    classifier's bias, is spread evenly. It sums to the score itself, and
    `extras["completeness_error"]` says by how much it does not, as a share of the score. Products
    of activations, as in attention and gating, are part of no layer: a model in which more than 1%
    of the score of some picture of noise is left over is refused. Finding the biases takes a second
    run through each part, and is counted.

    With `scaling="paper"` each channel of each term is made positive and stretched from 0 to 1
    before they are summed, as the authors do for display; what lies nowhere is left out.
    """

    scaling: Literal["none", "paper"] = Field(
        "none",
        description="none: exact signed amounts; paper: every channel of every term from 0 to 1",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2, 2)

    def refusal(self, subject: Subject) -> str:
        return cached_refusal(subject, self.key, lambda: _left_over(subject))

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        size, target = (run.x.shape[2], run.x.shape[3]), run.target
        place = _placed if self.scaling == "none" else _scaled

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            score, found = terms(run, target, rows, owner)
            values, total = torch.zeros_like(rows[:, 0]), torch.zeros_like(score).double()
            for layout, term in found:
                values += place(term, layout, size)
                total += _sum(term)
            return score, values, total

        run.progress.expect(4 * len(run.x))
        passes = [p for _, p in run.stream([(run.x, run.owner)], step, backward=True, copies=2)]
        score, values, total = (torch.cat(parts) for parts in zip(*passes, strict=True))
        size_of_score = score.double().abs().clamp_min(torch.finfo(torch.float32).tiny)
        run.extras["completeness_error"] = (total - score).abs() / size_of_score
        return values, score


def terms(
    run: Run, target: Target, rows: Tensor, owner: Tensor
) -> tuple[Tensor, Iterator[tuple[Layout | None, Tensor]]]:
    """The score (n,), and what adds up to it: terms (n, ...) with their layouts.

    The first is input times gradient; the others are bias times gradient of one part each. To be
    called in a step of `Run.stream`.
    """
    model, rows = run.subject.model, rows.detach().requires_grad_()
    name = run.subject.name
    with record_calls(model, smallest_parts(model)) as calls:
        score = target(run.logits(rows), owner)
    if not score.requires_grad:
        raise NotApplicableError(f"{name} has no gradient from output to input")
    calls = [call for call in calls if call.output.requires_grad]
    outputs = [call.output for call in calls]
    first, *grads = differentiate(
        score.sum(), [rows, *outputs], name=name, allow_unused=True, materialize_grads=True
    )

    def found() -> Iterator[tuple[Layout | None, Tensor]]:
        pixels = Layout("NCHW", (rows.shape[2], rows.shape[3]), rows.shape[1])
        yield pixels, first * rows.detach()
        for call, grad in zip(calls, grads, strict=True):
            bias = implicit_bias(model.get_submodule(call.name), call.input, name=name)
            if bias is None:
                continue
            if len(grad) == len(rows):
                yield _layout_of(run.subject, call.name, grad), grad * bias
            elif len(grad) % len(rows) == 0:  # windows of each row
                yield None, (grad * bias).unflatten(0, (len(rows), -1))

    return score.detach(), found()


def _layout_of(subject: Subject, name: str, output: Tensor) -> Layout | None:
    """How one of a layer's outputs lies on the picture: a layer may be called at several sizes."""
    layer = subject.layers.get(name)
    layout = layer.layout if layer is not None else None
    return layout if layout is not None and layout.shape == output.shape[1:] else None


def smallest_parts(model: nn.Module) -> list[str]:
    """The modules that can be taken for one operation: no module in them has parameters."""
    found: dict[nn.Module, str] = {}

    def visit(name: str, module: nn.Module) -> None:
        if all(next(child.parameters(), None) is None for child in module.children()):
            if not isinstance(module, nn.Identity | nn.Dropout | nn.Flatten):
                found.setdefault(module, name)
            return
        for key, child in module.named_children():
            visit(f"{name}.{key}" if name else key, child)

    visit("", model)
    return list(found.values())


def implicit_bias(part: nn.Module, given: Tensor, *, name: str) -> Tensor | None:
    """What a part adds to its Jacobian times its input: its bias at this input; None for none.

    The Jacobian times the input is the gradient, with respect to a direction, of the input times
    the gradient along it.
    """
    if isinstance(part, nn.Conv2d):
        return None if part.bias is None else part.bias[:, None, None]
    if isinstance(part, nn.Linear):
        return part.bias
    if type(part) is nn.BatchNorm2d and part.running_mean is not None:
        zeros = torch.zeros_like(part.running_mean)[None, :, None, None]
        added: Tensor = call_model(part, zeros, name=name)
        return added[0]
    if isinstance(part, nn.Hardsigmoid):  # straight between its knees; torch has no second gradient
        output: Tensor = call_model(part.forward, given.clone(), name=name)
        along = torch.where(given.abs() < 3, given / 6, 0)
    else:
        with torch.enable_grad():
            at = given.clone().requires_grad_()
            output = call_model(part.forward, at.clone(), name=name)
            if not output.requires_grad:
                return None
            direction = torch.zeros_like(output, requires_grad=True)
            (back,) = differentiate(output, at, direction, name=name, create_graph=True)
            (along,) = differentiate(
                (back * given).sum(), direction, name=name, materialize_grads=True
            )
    bias: Tensor = output.detach() - along
    least = ROUNDING * output.detach().abs().amax()
    return bias.where(bias.abs() > least, 0) if bool((bias.abs() > least).any()) else None


def _placed(term: Tensor, layout: Layout | None, size: tuple[int, int]) -> Tensor:
    """A term as a map (n, H, W) of the same sum."""
    pixels, total = size[0] * size[1], _sum(term).to(term)[:, None, None]
    if layout is None:
        return (total / pixels).expand(-1, *size)
    cells = layout.to_nchw(term).sum(1)
    over = upsample(cells, size) * (cells[0].numel() / pixels)
    return over + (total - _sum(over).to(over)[:, None, None]) / pixels


def _scaled(term: Tensor, layout: Layout | None, size: tuple[int, int]) -> Tensor:
    """The sizes of a term as a map (n, H, W), every channel from 0 to 1."""
    if layout is None:
        return term.new_zeros(len(term), *size)
    cells = layout.to_nchw(term).abs()
    above = cells - cells.amin((2, 3), keepdim=True)
    return upsample((above / (1e-7 + above.amax((2, 3), keepdim=True))).sum(1), size)


def _sum(term: Tensor) -> Tensor:
    return term.double().flatten(1).sum(1)


# -- where it holds -----------------------------------------------------------------------------


def _left_over(subject: Subject) -> str:
    """Why the terms do not add up in this model, tried on pictures of noise; empty if they do."""
    low, high = subject.pixel(0.0), subject.pixel(1.0)
    noise = torch.rand((4, *subject.input_size), generator=torch.Generator().manual_seed(0))
    run = Run(subject, low + noise.to(low) * (high - low))
    try:
        FullGrad().attribute(run)
    except NotApplicableError as reason:
        return str(reason)
    left_over = float(run.extras["completeness_error"].max())
    if left_over <= MOST_LEFT_OVER:
        return ""
    return (
        f"FullGrad adds up the input's and the biases' parts of the score, and {left_over:.0%} of "
        f"that of {subject.name} is left over: products of activations, as in attention or gating, "
        "are part of no layer; use input_x_gradient"
    )
