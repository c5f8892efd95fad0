"""FullGrad: the score decomposed into contributions of the input and of all biases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.methods.base import Method, cached_refusal, register
from core.runtime.capture import ModuleCall, hookable_modules, record_calls
from core.runtime.model_call import call_model, differentiate
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.base import Target
from core.types import Cost, Layout, Need, Property, upsample

MAX_COMPLETENESS_ERROR = 0.01
"""Largest completeness error of a model that FullGrad accepts. Measured: 1e-5 or less where the
terms sum to the score, 0.04 or more where they do not."""
ROUNDING = 1e-6
"""A bias below this share of the layer's largest output counts as rounding error."""


@register(
    "fullgrad",
    label="FullGrad",
    family="cam",
    about="Best for a full decomposition of the score; not for models with attention or gating.",
    paper="arXiv:1905.00780",
    needs=[Need.GRADIENT],
    properties=[Property.CLASS_SENSITIVE, Property.LOCALISES],
)
class FullGrad(Method):
    """Input times gradient plus bias times gradient of every layer (Srinivas & Fleuret, 2019).

    Around its input, each layer is linear up to a bias: its own bias, the shift of a normalisation,
    or what a nonlinear activation adds to slope times input. The map is the sum of all these terms,
    each at the position of its cell on the picture. Terms without a position, such as the
    classifier's bias, or those of a call on a mirrored or cropped picture, are spread evenly. The
    map sums to the score; `extras["completeness_error"]` is the difference as a share of the score.
    Products of activations, as in attention and gating, belong to no layer. Therefore models are
    refused if more than 1 % of the score of some noise image is missing. Finding the biases runs
    each layer a second time, which is counted as cost.

    With `scaling="paper"`, the absolute values of each channel of each term are rescaled to 0 to 1
    before they are summed, as the authors do for display. Terms without a position are left out.
    """

    scaling: Literal["none", "paper"] = Field(
        "none",
        description="none: exact signed contributions; paper: each channel of each term is "
        "rescaled to 0 to 1 before the sum, for display",
    )

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(2, 2)

    def refusal(self, subject: Subject) -> str:
        return cached_refusal(subject, self.key, lambda: _incomplete(subject))

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        size, target = (run.x.shape[2], run.x.shape[3]), run.target
        project = _project if self.scaling == "none" else _project_rescaled

        def step(rows: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            score, found = terms(run, target, rows, owner)
            values, total = torch.zeros_like(rows[:, 0]), torch.zeros_like(score).double()
            for layout, term in found:
                values += project(term, layout, size)
                total += _sum(term)
            return score, values, total

        run.progress.expect(4 * len(run.x))
        passes = [p for _, p in run.stream([(run.x, run.owner)], step, backward=True, copies=2)]
        score, values, total = (torch.cat(parts) for parts in zip(*passes, strict=True))
        if self.scaling == "none":  # rescaled terms add up to nothing in particular
            size_of_score = score.double().abs().clamp_min(torch.finfo(torch.float32).tiny)
            run.extras["completeness_error"] = (total - score).abs() / size_of_score
        return values, score


def terms(
    run: Run, target: Target, rows: Tensor, owner: Tensor
) -> tuple[Tensor, Iterator[tuple[Layout | None, Tensor]]]:
    """Decomposes the score into terms. Call it in a step of `Run.stream`.

    Args:
        run: the run.
        target: the target to explain.
        rows: (n, C, H, W) images.
        owner: (n,) the explained image of each row.

    Returns:
        The score (n,), and an iterator over (layout, term (n, ...)). The first term is input times
        gradient; each other term is bias times gradient of one module.

    Raises:
        NotApplicableError: the model's output has no gradient with respect to its input.
    """
    model, rows = run.subject.model, rows.detach().requires_grad_()
    name = run.subject.name
    with record_calls(model, smallest_parts(model)) as calls:
        score = target(run.forward(rows), owner)
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
                yield _layout_of(run.subject, call, grad), grad * bias
            elif len(grad) % len(rows) == 0:  # windows of each row
                yield None, (grad * bias).unflatten(0, (len(rows), -1))

    return score.detach(), found()


def _layout_of(subject: Subject, call: ModuleCall, output: Tensor) -> Layout | None:
    """The layout of a call's output; None if it was called with another size than in the probe."""
    layer = subject.layers.get(call.name)
    layouts = layer.layouts if layer is not None else ()
    layout = layouts[call.index] if call.index < len(layouts) else None
    return layout if layout is not None and layout.shape == output.shape[1:] else None


def smallest_parts(model: nn.Module) -> list[str]:
    """Names of the modules that count as one operation: none of their children has parameters.

    What hooks do not see, as in TorchScript, is left out; FullGrad then finds terms missing.
    """
    found: dict[nn.Module, str] = {}
    hookable = dict(hookable_modules(model))

    def visit(name: str, module: nn.Module) -> None:
        if all(next(child.parameters(), None) is None for child in module.children()):
            if not isinstance(module, nn.Identity | nn.Dropout | nn.Flatten):
                found.setdefault(module, name)
            return
        for key, child in module.named_children():
            visit(f"{name}.{key}" if name else key, child)

    visit("", model)
    return [name for name in found.values() if name in hookable]


def implicit_bias(part: nn.Module, given: Tensor, *, name: str) -> Tensor | None:
    """The bias of a module at an input: its output minus its Jacobian times the input.

    The Jacobian-vector product is computed by differentiating twice.

    Args:
        part: a module that counts as one operation.
        given: its input.
        name: what the model is called in messages.

    Returns:
        The bias, broadcastable to the output; None if it is zero.
    """
    if isinstance(part, nn.Conv2d):
        return None if part.bias is None else part.bias[:, None, None]
    if isinstance(part, nn.Linear):
        return part.bias
    if type(part) is nn.BatchNorm2d and part.running_mean is not None:
        zeros = torch.zeros_like(part.running_mean)[None, :, None, None]
        added: Tensor = call_model(part, zeros, name=name)
        return added[0]
    if isinstance(part, nn.Hardsigmoid):  # piecewise linear; torch has no second gradient
        output: Tensor = call_model(part.forward, given.clone(), name=name)
        linear = torch.where(given.abs() < 3, given / 6, 0)
    else:
        with torch.enable_grad():
            at = given.clone().requires_grad_()
            output = call_model(part.forward, at.clone(), name=name)
            if not output.requires_grad:
                return None
            direction = torch.zeros_like(output, requires_grad=True)
            (back,) = differentiate(output, at, direction, name=name, create_graph=True)
            (linear,) = differentiate(
                (back * given).sum(), direction, name=name, materialize_grads=True
            )
    bias: Tensor = output.detach() - linear
    least = ROUNDING * output.detach().abs().amax()
    return bias.where(bias.abs() > least, 0) if bool((bias.abs() > least).any()) else None


def _project(term: Tensor, layout: Layout | None, size: tuple[int, int]) -> Tensor:
    """A term upsampled to a map (n, H, W) with the same sum."""
    pixels, total = size[0] * size[1], _sum(term).to(term)[:, None, None]
    if layout is None:
        return (total / pixels).expand(-1, *size)
    cells = layout.to_nchw(term).sum(1)
    upsampled = upsample(cells, size) * (cells[0].numel() / pixels)
    return upsampled + (total - _sum(upsampled).to(upsampled)[:, None, None]) / pixels


def _project_rescaled(term: Tensor, layout: Layout | None, size: tuple[int, int]) -> Tensor:
    """Absolute values of a term as a map (n, H, W), every channel rescaled to 0 to 1."""
    if layout is None:
        return term.new_zeros(len(term), *size)
    cells = layout.to_nchw(term).abs()
    above = cells - cells.amin((2, 3), keepdim=True)
    return upsample((above / (1e-7 + above.amax((2, 3), keepdim=True))).sum(1), size)


def _sum(term: Tensor) -> Tensor:
    return term.double().flatten(1).sum(1)


# -- models it fits -----------------------------------------------------------------------------


def _incomplete(subject: Subject) -> str:
    """Why the terms do not sum to the score, tested on noise images; empty if they do."""
    low, high = subject.pixel(0.0), subject.pixel(1.0)
    noise = torch.rand((4, *subject.input_size), generator=torch.Generator().manual_seed(0))
    run = Run(subject, low + noise.to(low) * (high - low))
    try:
        FullGrad().attribute(run)
    except NotApplicableError as reason:
        return str(reason)
    missing = float(run.extras["completeness_error"].max())
    if missing <= MAX_COMPLETENESS_ERROR:
        return ""
    return (
        f"FullGrad's terms must sum to the score, and {missing:.0%} of the score of {subject.name} "
        "is missing, because products of activations (attention, gating) belong to no layer; use "
        "input_x_gradient"
    )
