"""Which call of a module belongs to the picture, where a module runs several times in one pass.

A backbone may be applied to the picture and to its mirror image, an activation be shared by many
layers, a head by every level of a pyramid. A map can only be laid over the picture if it belongs to
a call that sees the picture as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core.runtime.autograd_graph import nodes_from
from core.runtime.capture import CallPath
from core.types import Layout

CallId = tuple[str, int]
"""The name of a module, and how often it was called before in the same forward pass."""


@dataclass(slots=True)
class SeenCall:
    """One call of a module in a forward pass.

    Attributes:
        path: the calls under way, the outermost first; this call is the last.
        cells: number of cells of what it was given, 0 if that lies on no grid.
        source: the operation of the autograd graph that its input comes from.
        result: the operation that its output comes from.
        layout: how its output lies on a grid; None if it does not.
        tensor: whether it gave one tensor.
        nbytes: size of that tensor.
    """

    path: CallPath
    cells: int
    source: Any = None
    result: Any = None
    layout: Layout | None = None
    tensor: bool = False
    nbytes: int = 0


@dataclass
class CallLog:
    """The calls of a forward pass of one image; its methods are observers for `observe_calls`.

    Attributes:
        layout_of: the layout of a tensor of one image.
        begun: the calls in the order in which they began.
        done: those that ended, in the order in which they ended.
    """

    layout_of: Callable[[Tensor], Layout | None]
    begun: dict[CallId, SeenCall] = field(default_factory=dict)
    done: dict[CallId, SeenCall] = field(default_factory=dict)

    def before(self, path: CallPath, given: Tensor | None) -> None:
        """A module is called."""
        layout = None if given is None else self.layout_of(given)
        cells = 0 if layout is None else layout.grid[0] * layout.grid[1]
        self.begun[path[-1]] = SeenCall(path, cells, None if given is None else given.grad_fn)

    def after(self, path: CallPath, output: Any) -> None:
        """A module is done."""
        call = self.done[path[-1]] = self.begun[path[-1]]
        if isinstance(output, Tensor):
            call.tensor, call.nbytes = True, output.nelement() * output.element_size()
            call.layout, call.result = self.layout_of(output), output.grad_fn


@dataclass(frozen=True, slots=True)
class CallChoice:
    """Which calls the maps of modules come from.

    Attributes:
        chosen: by name, the call that a module's output is recorded of.
        kept: the calls whose attention maps count.
    """

    chosen: Mapping[str, int]
    kept: frozenset[CallId]


def choose_calls(log: CallLog, misplaced: Collection[CallId]) -> CallChoice:
    """Chooses, of all calls of each module, the one that its map belongs to.

    Of the calls that see the picture as it is, the one with the finest grid comes first, and of
    equals the earliest. If later calls work on what that call gave, as in a block that is applied
    over and over, the last of them is chosen: it is what the others lead to. Calls side by side, as
    on several sizes of the picture, are left out with all that runs within them.

    Args:
        log: the calls of a forward pass.
        misplaced: the calls that see the picture mirrored, turned or cropped.
    """
    groups: dict[str, list[SeenCall]] = {}
    for call in log.begun.values():
        groups.setdefault(call.path[-1][0], []).append(call)
    chosen: dict[str, int] = {}
    kept: set[CallId] = set()
    for name, calls in groups.items():
        fit = [
            call
            for call in calls
            if call.path[-1] not in misplaced and all(outer in kept for outer in call.path[:-1])
        ]
        chain = _chain([call for call in fit if call.layout is not None] or fit)
        chosen[name] = (chain or calls)[-1].path[-1][1]
        kept |= {call.path[-1] for call in chain}
    return CallChoice(chosen, frozenset(kept))


def _chain(calls: list[SeenCall]) -> list[SeenCall]:
    """The call with the finest grid, and those that work on what it gave, one after the other."""
    if len(calls) < 2:
        return calls
    sizes = [
        call.layout.grid[0] * call.layout.grid[1] if call.layout is not None else call.cells
        for call in calls
    ]
    first = sizes.index(max(sizes))
    chain = [calls[first]]
    for call in calls[first + 1 :]:
        if chain[-1].result is None or call.source is None or _leads_to(chain[-1], call):
            chain.append(call)
    return chain


def _leads_to(earlier: SeenCall, later: SeenCall) -> bool:
    """Whether the input of a call was computed from the output of an earlier one."""
    return any(node is earlier.result for node in nodes_from(later.source))
