"""Walk the graph that autograd has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def nodes_from(node: Any) -> Iterator[Any]:
    """A node of the autograd graph and all that its value was computed from, each once.

    Args:
        node: the `grad_fn` of a tensor; None gives nothing.
    """
    waiting = [] if node is None else [node]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        fresh = [n for n, _ in node.next_functions if n is not None]
        fresh = [n for n in dict.fromkeys(fresh) if n not in seen]
        seen.update(fresh)
        waiting += fresh


def is_differentiable(output: Tensor) -> bool:
    """Whether every operation that `output` was computed by has a derivative.

    Those of quantised layers have none: autograd then gives zeros, or only a part of the gradient.
    """
    nodes = nodes_from(output.grad_fn)
    return output.requires_grad and not any("NotImplemented" in node.name() for node in nodes)


def has_gradient(output: Tensor, leaf: Tensor) -> bool:
    """Whether the gradient of `output` with respect to a leaf of the graph can be computed.

    >>> import torch
    >>> x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    >>> has_gradient(x.exp(), x), has_gradient(x.exp(), y)
    (True, False)
    """
    leaves = (getattr(node, "variable", None) for node in nodes_from(output.grad_fn))
    return is_differentiable(output) and (output is leaf or any(one is leaf for one in leaves))
