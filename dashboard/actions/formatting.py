"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Collection
from math import isnan

import torch

from core.metrics.axiomatic import ADDS_UP, ERRORS
from core.types import Attribution, Cost

SUM_ERRORS = ERRORS
"""Extras of methods whose values should add up, and by how much they miss."""
PARTIAL_ERRORS = ("completeness_error", "unresolved_share", "block_share")
"""Extras that tell how far a partial map without standard errors may be from the whole one."""
NOT_SHOWN = {"tail_rows"}
"""Extras that say nothing to a reader of the page."""
TOLD_IF_ANY = {"outlying_tokens", "largest_on_outlier"}
"""Extras that say something only if they are not 0."""


def pass_counts(cost: Cost) -> str:
    """Passes through the model.

    >>> pass_counts(Cost(50, 50)), pass_counts(Cost(1)), pass_counts(Cost(4000))
    ('50 forward, 50 backward passes', '1 forward pass', '4,000 forward passes')
    >>> pass_counts(Cost(0, 1))
    '1 backward pass'
    """
    counts = {"forward": cost.forward, "backward": cost.backward}
    told = ", ".join(f"{count:,} {way}" for way, count in counts.items() if count)
    return f"{told} {'pass' if (cost.backward or cost.forward) == 1 else 'passes'}"


def cost_text(cost: Cost) -> str:
    """Passes and time that an answer took.

    >>> cost_text(Cost(1, 1, 0.02)), cost_text(Cost(400, 0, 12.34)), cost_text(Cost(0, 0, 0.001))
    ('1 forward, 1 backward pass, 20 ms', '400 forward passes, 12.3 s', 'reused, 1 ms')
    """
    time = f"{cost.seconds * 1000:.0f} ms" if cost.seconds < 1 else f"{cost.seconds:.1f} s"
    return f"{pass_counts(cost) if cost.forward or cost.backward else 'reused'}, {time}"


def estimate_text(cost: Cost) -> str:
    """How long an answer takes; less, where passes are shared with earlier answers.

    >>> estimate_text(Cost(1, 1)), estimate_text(Cost(4000))
    ('Instant (1 forward, 1 backward pass)', 'Minutes (4,000 forward passes)')
    >>> estimate_text(Cost())
    'Instant (no pass through the model)'
    """
    passes = pass_counts(cost) if cost.forward else "no pass through the model"
    return f"{cost.pace.capitalize()} ({passes})"


def extra_text(name: str, value: float) -> str:
    """One of an attribution's extras.

    >>> extra_text("completeness_error", 0.0213), extra_text("r2", 0.8312)
    ('completeness error 2.1%', 'R² 0.83')
    >>> extra_text("outlying_tokens", 2)
    '2 tokens of outlying norm, which hold no evidence'
    >>> extra_text("converged", 0), extra_text("standard_error", 0.01234)
    ('converged: no', 'standard error 1.2% of the largest value, on average')
    """
    words = name.replace("_", " ")
    if name == "outlying_tokens":
        return (
            f"{value:.0f} token{'' if value == 1 else 's'} of outlying norm, which hold no evidence"
        )
    if name == "largest_on_outlier":
        return "the largest value lies on such a token: mask outlying tokens"
    if name == "converged":
        return f"converged: {'yes' if value else 'no'}"
    if name == "unresolved_share":
        return f"{value:.0%} of the score's change not yet located"
    if name == "block_share":
        return f"resolved to blocks of {value:.1%} of the picture on average"
    if name == "r2":
        return f"R² {value:.2f}"
    if name == "standard_error":
        return f"{words} {value:.1%} of the largest value, on average"
    if name.endswith("_error") and isnan(value):
        return f"{words} unknown, as the values should add up to nearly 0"
    if name.endswith("_error"):
        return f"{words} {value:.1%}"
    return f"{words} {value:.3g}"


def partial_text(found: Attribution) -> str:
    """How far the first picture's map was taken, and how sure it is; empty if it is finished."""
    if found.partial is None:
        return ""
    facts, noise = found.facts(), found.noise_share()
    error = next((extra_text(n, facts[n]) for n in PARTIAL_ERRORS if n in facts), "")
    if noise is not None:
        error = f"standard error {noise:.0%} of the map's spread"
    return ", ".join(filter(None, [str(found.partial), error]))


def extras_text(found: Attribution, leave_out: Collection[str] = ()) -> str:
    """What else a method found out about the first picture; `leave_out` names what is not told."""
    hidden = {*leave_out, *NOT_SHOWN}
    return "; ".join(
        extra_text(name, value)
        for name, value in found.facts().items()
        if name not in hidden and (value or name not in TOLD_IF_ANY)
    )


def sum_error_text(error: float, advice: str) -> str:
    """How well a map's values add up to the score, and the method's advice if they do not.

    >>> sum_error_text(0.0213, "take more steps")
    'The map accounts for the score to within 2.1%.'
    >>> sum_error_text(0.123, "take more steps")
    'The map misses the score by 12.3%; take more steps.'
    """
    if isnan(error):
        return "The values should add up to nearly 0 here, so how well they do cannot be told."
    if error < ADDS_UP:
        return f"The map accounts for the score to within {error:.1%}."
    return f"The map misses the score by {error:.1%}; {advice}."


def regions_text(found: Attribution) -> str:
    """How many regions of the first picture support the class; empty for maps without regions."""
    labels = found.extras.get("segments")
    if labels is None:
        return ""
    parts = labels[0].flatten().long()
    weights = torch.zeros(int(parts.max()) + 1).index_add_(0, parts, found.values[0].flatten())
    if not any(name in found.extras for name in SUM_ERRORS):
        weights /= parts.bincount()
    support, oppose = weights[weights > 0], -weights[weights < 0]
    verb = "supports" if len(support) == 1 else "support"
    text = f"{len(support)} of {len(weights)} regions {verb} the class{_strongest(support)}"
    if len(oppose):
        verb = "opposes" if len(oppose) == 1 else "oppose"
        text += f"; {len(oppose)} {verb} it{_strongest(oppose)}"
    return f"{text}."


def _strongest(weights: torch.Tensor) -> str:
    return f" (strongest: {float(weights.max()):.3g})" if len(weights) else ""
