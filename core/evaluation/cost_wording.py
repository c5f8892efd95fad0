"""How a cost is put into words."""

from __future__ import annotations


def cost_share(share: float) -> str:
    """A cost as a share of another, in words.

    >>> cost_share(0.25), cost_share(0.001)
    ('25% of the cost', 'a fraction of the cost')
    """
    return "a fraction of the cost" if share < 0.01 else f"{share:.0%} of the cost"
