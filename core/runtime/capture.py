"""Look inside a model and leave no trace.

This is the only place that touches a model. Everything is a context manager: what it changes is
back as it was when the block ends, whether it ends well or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.errors import NotApplicableError, unknown


@contextmanager
def plain(device: torch.device) -> Iterator[None]:
    """No gradients, and neither the caller's autocast nor inference mode, inside the block."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients switched on, inside the block only.

    Restored afterwards: the mode of every module, each parameter's `requires_grad`, and the random
    state. Autocast and inference mode of the caller do not reach inside.
    """
    modules = list(model.modules())
    own = [p for module in modules for p in module._parameters.values() if p is not None]
    device = own[0].device if own else torch.device("cpu")
    training = [module for module in modules if module.training]
    thawed = [p for p in own if p.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(plain(device))
        stack.enter_context(torch.enable_grad())
        try:
            for module in training:
                module.training = False
            for parameter in thawed:
                parameter.requires_grad_(False)
            yield
        finally:
            for module in training:
                module.training = True
            for parameter in thawed:
                parameter.requires_grad_(True)


@contextmanager
def tap(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named modules during forward passes in the block.

    The autograd graph starts at the first tapped layer unless it has started before (at an input
    that requires gradients), so a backward pass goes no deeper than it must. What is recorded is a
    copy of what flows on: an in-place activation downstream cannot corrupt it. A module called
    several times leaves its last output.

    Yields:
        Output by module name, each part of the graph of whatever is computed from it.

    Raises:
        UnknownNameError: there is no such module.
    """
    modules = dict(model.named_modules())
    taps: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _args: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise NotApplicableError(
                f"layer {name!r} gives a {type(output).__name__}, not one tensor; "
                "choose another layer"
            )
        kept = output.clone() if output.requires_grad else output.detach().clone().requires_grad_()
        taps[name] = kept
        return kept.clone()

    with ExitStack() as stack:
        for name in names:
            if name not in modules:
                raise unknown("layer", name, modules)
            handle = modules[name].register_forward_hook(partial(record, name))
            stack.callback(handle.remove)
        yield taps


@contextmanager
def watch(model: nn.Module, see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call ``see(name, output)`` whenever a named module has run; outputs pass on unchanged."""

    def show(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        see(name, output)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(partial(show, name)).remove)
        yield


@contextmanager
def readers(model: nn.Module, x: Tensor) -> Iterator[list[str]]:
    """Names of the modules that are called with `x` itself, in order of execution."""
    names: list[str] = []

    def enter(name: str, _module: nn.Module, args: Any) -> None:
        if any(value is x for value in args):
            names.append(name)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
        yield names


@contextmanager
def _around(
    model: nn.Module, enter: Callable[..., None], leave: Callable[..., None]
) -> Iterator[None]:
    """Call `enter` before and `leave` after every module."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


@contextmanager
def trail(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record every tensor that enters or leaves a module, in order and as part of the graph."""
    passed: list[Tensor] = []

    def see(value: Any) -> None:
        if isinstance(value, Tensor) and not any(value is last for last in passed[-1:]):
            passed.append(value)

    def enter(_module: nn.Module, args: Any) -> None:
        for value in args:
            see(value)

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        see(output)

    with _around(model, enter, leave):
        yield passed


@contextmanager
def sever(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named modules; what follows each starts a graph of its own.

    Yields:
        Output by module name, each part of the graph since the module named before it.
    """
    outputs: dict[str, Tensor] = {}

    def cut(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        outputs[name] = output
        return output.detach().clone()

    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_hook(partial(cut, name)).remove)
        yield outputs


@contextmanager
def attention(
    model: nn.Module, use: Callable[[str, Tensor], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record every softmax attention map computed during a forward pass in the block.

    The calls themselves are intercepted, so it makes no difference how a model spells attention:
    fused attention is computed explicitly, a softmax over the last axis of a tensor of four or more
    axes is attention. No module is patched and nothing global changes.

    Args:
        model: where attention is computed.
        use: gives the map that is recorded, and used, in place of the named one. Torch's own
            multi-head attention goes on with its own.

    Yields:
        Maps (..., queries, keys) by the name of the module that computed them, in order of
        execution; a second map within one module is called ``name:2``.
    """
    stack: list[str] = []
    maps: dict[str, Tensor] = {}

    def record(weights: Tensor) -> Tensor:
        name = stack[-1] if stack else ""
        count = sum(key == name or key.startswith(f"{name}:") for key in maps)
        name = f"{name}:{count + 1}" if count else name
        maps[name] = weights if use is None else use(name, weights)
        return maps[name] if use is None else maps[name].clone()

    def enter(name: str, module: nn.Module, _args: Any) -> None:
        stack.append(name.rpartition(".")[0] if isinstance(module, nn.Softmax) else name)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        stack.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        hooks.enter_context(_AttentionMode(record))
        yield maps


def in_graph(_name: str, weights: Tensor) -> Tensor:
    """An attention map to differentiate by; the graph starts here unless it has before."""
    return weights if weights.requires_grad else weights.detach().clone().requires_grad_()


def gradients(score: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a scalar with respect to each map; none at all if it depends on none."""
    if not score.requires_grad:
        return {}
    found = torch.autograd.grad(score, list(maps.values()), allow_unused=True)
    if all(grad is None for grad in found):
        return {}
    return {
        name: torch.zeros_like(weights) if grad is None else grad
        for (name, weights), grad in zip(maps.items(), found, strict=True)
    }


_SOFTMAX = frozenset({torch.softmax, F.softmax, Tensor.softmax})


class _AttentionMode(TorchFunctionMode):
    """Shows attention weights to `record` as they are computed, and uses what it gives back."""

    def __init__(self, record: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            weights, value = attention_weights(*args, **kwargs)
            return self.record(weights) @ value
        if func is F.multi_head_attention_forward:  # what it calls inside passes no mode
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim >= 4:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if axis in (-1, result.ndim - 1):
                return self.record(result)
        return result

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """`F.multi_head_attention_forward`, made to give the weights of every head."""
        asked = {"need_weights": True, "average_attn_weights": True, **kwargs}
        kwargs = {**asked, "need_weights": True, "average_attn_weights": False}
        output, weights = F.multi_head_attention_forward(*args, **kwargs)
        assert weights is not None
        self.record(weights)
        if not asked["need_weights"]:
            return output, None
        return output, weights.mean(-3) if asked["average_attn_weights"] else weights


def attention_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # ignored: inference draws no dropout
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """The weights (..., T, S) that fused attention hides, and the values they weight."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = query @ key.transpose(-2, -1) * scale
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        logits = logits.masked_fill(~attn_mask, -torch.inf) if masked else logits + attn_mask
    blind = (
        logits.amax(-1, keepdim=True) == -torch.inf
    )  # who may look nowhere sees nothing, not NaN
    return logits.softmax(-1).masked_fill(blind, 0.0), value


@dataclass
class Past:
    """What a model had done by the time a layer was reached, in a pass of one row.

    Attributes:
        layer: the layer.
        calls: the modules that were done when the layer was last called, each with what it gave, in
            order of execution; the parts of such a module are left out.
        output: what the layer gave.
        copies: whether what is handed out again is to be copied for each row; it must be where a
            model changes it in place.
    """

    layer: nn.Module
    calls: list[tuple[nn.Module, Any]]
    output: Any = None
    copies: bool = False


@contextmanager
def before(model: nn.Module, name: str) -> Iterator[Past]:
    """Record what comes before a layer during the forward pass of one row in the block.

    Everything is copied as soon as it is there: what is later changed in place is kept as it was.

    Yields:
        What `resume` needs, complete when the pass is over.
    """
    layer = dict(model.named_modules())[name]
    found, calls, begun = Past(layer, []), list[tuple[nn.Module, Any]](), list[int]()

    def enter(_module: nn.Module, _args: Any) -> None:
        begun.append(len(calls))

    def leave(module: nn.Module, _args: Any, output: Any) -> None:
        del calls[begun.pop() :]
        kept = _each_tensor(output, torch.clone)
        if module is layer:
            found.calls, found.output = list(calls), kept
        calls.append((module, kept))

    with _around(model, enter, leave):
        yield found


@contextmanager
def resume(past: Past, output: Tensor) -> Iterator[None]:
    """The forward pass in the block costs only what comes after a layer, which gives `output`.

    Whatever ran before hands out again what it gave in the recorded pass, spread over as many rows
    as `output` has. A module that is called again after the layer runs as ever.
    """
    answers: dict[nn.Module, deque[Any]] = {}
    for module, kept in [*past.calls, (past.layer, output)]:
        spread = _each_tensor(kept, partial(_spread, rows=len(output), copy=past.copies))
        answers.setdefault(module, deque()).append(spread)
    with ExitStack() as stack:
        for module, queue in answers.items():
            stack.callback(_restore, module, vars(module).get("forward"))
            vars(module)["forward"] = partial(_answer, queue, module.forward)
        yield


def _answer(queue: deque[Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return queue.popleft() if queue else forward(*args, **kwargs)


def _restore(module: nn.Module, forward: Any) -> None:
    if forward is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = forward


def _spread(tensor: Tensor, rows: int, copy: bool) -> Tensor:
    """One row as many; anything else as it is."""
    single = tensor.ndim > 0 and len(tensor) == 1
    spread = tensor.expand(rows, *tensor.shape[1:]) if single else tensor
    return spread.clone() if copy else spread


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples, lists and mappings with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_tensor(part, change) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_each_tensor(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


@contextmanager
def parts(model: nn.Module, names: Collection[str]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Record every call of the named modules that maps one tensor to one tensor.

    Yields:
        Name, input and output of each call, in order of execution. The input is a detached copy;
        the output is part of the graph of whatever is computed from it.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []
    given: list[Tensor | None] = []

    def enter(_module: nn.Module, args: Any) -> None:
        single = len(args) == 1 and isinstance(args[0], Tensor)
        given.append(args[0].detach().clone() if single else None)

    def leave(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        before = given.pop()
        if before is None or not isinstance(output, Tensor):
            return output
        calls.append((name, before, output))
        return output.clone()

    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_pre_hook(enter).remove)
            stack.callback(modules[name].register_forward_hook(partial(leave, name)).remove)
        yield calls
