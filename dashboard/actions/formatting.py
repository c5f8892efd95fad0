"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Collection

import torch

from core.types import Attribution, Cost

SUMS = ("completeness_error", "efficiency_error")
"""Extras of methods whose values add up, to the score's rise, up to that error."""


def pass_counts(cost: Cost) -> str:
    """Passes through the model, such as "1 forward, 1 backward".

    >>> pass_counts(Cost(50, 50)), pass_counts(Cost(1))
    ('50 forward, 50 backward', '1 forward')
    """
    return f"{cost.forward} forward" + (f", {cost.backward} backward" if cost.backward else "")


def spent(cost: Cost) -> str:
    """Passes and time that an answer took.

    >>> spent(Cost(1, 1, 0.02)), spent(Cost(400, 0, 12.34))
    ('1 forward, 1 backward, 20 ms', '400 forward, 12.3 s')
    """
    time = f"{cost.seconds * 1000:.0f} ms" if cost.seconds < 1 else f"{cost.seconds:.1f} s"
    return f"{pass_counts(cost)}, {time}"


def promised(cost: Cost) -> str:
    """What an answer will take; it may take less, where others have asked for the same passes.

    >>> promised(Cost(1, 1)), promised(Cost(4000))
    ('At most 1 forward, 1 backward pass: instant', 'At most 4000 forward passes: minutes')
    >>> promised(Cost())
    'No pass: instant'
    """
    if not cost.forward:
        return "No pass: instant"
    last = cost.backward or cost.forward
    return f"At most {pass_counts(cost)} {'pass' if last == 1 else 'passes'}: {cost.pace}"


def fact(name: str, value: float) -> str:
    """One of an attribution's extras.

    >>> fact("completeness_error", 0.0213), fact("r2", 0.8312), fact("converged", 0)
    ('completeness error 2.1%', 'R² 0.83', 'converged: no')
    >>> fact("standard_error", 0.01234)
    'standard error 1.2% of the largest value, on average'
    """
    words = name.replace("_", " ")
    if name == "converged":
        return f"converged: {'yes' if value else 'no'}"
    if name == "r2":
        return f"R² {value:.2f}"
    if name == "standard_error":
        return f"{words} {value:.1%} of the largest value, on average"
    if name.endswith("_error"):
        return f"{words} {value:.1%}"
    return f"{words} {value:.3g}"


def regions(found: Attribution) -> str:
    """What the parts of the first picture say; empty for maps that are not made of parts."""
    labels = found.extras.get("segments")
    if labels is None:
        return ""
    parts = labels[0].flatten().long()
    weights = torch.zeros(int(parts.max()) + 1).index_add_(0, parts, found.values[0].flatten())
    if not any(name in found.extras for name in SUMS):
        weights /= parts.bincount()
    told = [f"{len(weights)} regions"]
    for side, word in ((weights[weights > 0], "for"), (-weights[weights < 0], "against")):
        strongest = f", the strongest by {float(side.max()):.3g}" if len(side) else ""
        told.append(f"{len(side)} {'speaks' if len(side) == 1 else 'speak'} {word} it{strongest}")
    return f"{told[0]}: {told[1]}; {told[2]}"


def facts(found: Attribution, besides: Collection[str] = ()) -> str:
    """What else a method found of the first image, besides what is told elsewhere."""
    told = [fact(name, value) for name, value in found.facts().items() if name not in besides]
    return "; ".join(told)
