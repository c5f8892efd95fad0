"""How much of a score is rounding: differences below it mean nothing.

A model computes in floating point, so its outputs are known up to rounding errors. They differ from
those of the same model in higher precision, and from its own in another batch. Curves, ranks,
verdicts and recommendations take two scores for equal that differ by no more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.runtime.run import Run
from core.tasks.base import Target
from core.tasks.outputs import Outputs

ROUNDINGS = 8.0
"""Error of an output, in units of the machine epsilon times the row's largest absolute output.

Measured against the same model in double precision, on five pictures each changed in four ways:
float32 has 1 to 2 units on average and up to 23, bfloat16 and float16 0.2 to 1 and up to 11."""
DRAWS = 16
"""Random signs of the errors of all outputs that are tried for each score."""
UNCHANGED = "the score does not change, beyond rounding errors, when the picture is removed"
"""Why a curve, and whatever is made of it, says nothing."""
NOT_FINITE = "the score is not finite (NaN or infinite) for some of the pictures"
"""Why scores of a model that overflows say nothing."""
CONSTANT = "the map has the same value everywhere"
"""Why a map cannot be compared with others."""


def machine_epsilon(run: Run, dtype: torch.dtype) -> float:
    """The machine epsilon of the coarsest floating point type that the scores pass through.

    It is that of float32 at least, in which scores are kept.
    """
    types = {p.dtype for p in run.subject.model.parameters()} | {run.x.dtype, dtype}
    return max(torch.finfo(t).eps for t in {*types, torch.float32} if t.is_floating_point)


def rounding(run: Run, scores: Tensor) -> Tensor:
    """How far scores are rounded at least, from their own size; of the shape of `scores`.

    For where the outputs that they were computed from are not at hand; see `score_noise`.
    """
    return ROUNDINGS * machine_epsilon(run, scores.dtype) * scores.detach().abs()


def score_noise(
    run: Run, target: Target, outputs: Outputs, owner: Tensor, scale: float = 0.0
) -> Tensor:
    """How far scores may be off because of rounding.

    Args:
        run: the model.
        target: what turns outputs into scores.
        outputs: the model's outputs.
        owner: (n,) the image that each row belongs to.
        scale: the size of the score's range, such as 1 for a probability, of which a share of one
            epsilon is rounded off; 0 if it has none, and then each score's own size counts.

    Returns:
        (n,) in the unit of the score, on the CPU.
    """
    found = outputs.detach()
    epsilon = machine_epsilon(run, found.graph.dtype)
    generator = torch.Generator().manual_seed(0)
    plain = target(found, owner)
    worst = torch.zeros_like(plain)
    for _ in range(DRAWS):
        off = target(found.disturbed(ROUNDINGS * epsilon, generator), owner)
        worst = torch.maximum(worst, (off - plain).abs())
    return (worst + ROUNDINGS * epsilon * plain.abs().clamp_min(scale)).float().cpu()


def is_constant(values: Tensor) -> Tensor:
    """(B,) whether the values of each map (B, H, W) are equal up to rounding errors.

    >>> is_constant(torch.tensor([[[0.0, 0.0]], [[0.1, 0.1 + 1e-9]], [[0.0, 1e-30]]]))
    tensor([ True,  True, False])
    """
    flat = values.flatten(1).double()
    spread = flat.amax(1) - flat.amin(1)
    limit = ROUNDINGS * torch.finfo(torch.float32).eps * flat.abs().amax(1)
    constant: Tensor = spread <= limit
    return constant


def reasons(untold: Tensor, reason: str) -> tuple[str, ...]:
    """`reason` for each image where `untold` (B,) is true, else an empty text.

    >>> reasons(torch.tensor([True, False]), "no")
    ('no', '')
    """
    return tuple(reason if one else "" for one in untold.tolist())


def first_reasons(*found: tuple[str, ...]) -> tuple[str, ...]:
    """For each image the first reason that is not empty.

    >>> first_reasons(("", "a"), ("b", "b"))
    ('b', 'a')
    """
    return tuple(next(filter(None, each), "") for each in zip(*found, strict=True))
