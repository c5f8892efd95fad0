"""Look inside a model and leave no trace.

This is the only place that touches a model. Everything is a context manager: what it changes is
back as it was when the block ends, whether it ends well or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
def attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record every softmax attention map computed during a forward pass in the block.

    The calls themselves are intercepted, so it makes no difference how a model spells attention:
    fused attention is computed explicitly, a softmax over the last axis of a tensor of four or more
    axes is attention. No module is patched and nothing global changes.

    Yields:
        Maps (..., queries, keys) by the name of the module that computed them, in order of
        execution; a second map within one module is called ``name:2``.
    """
    stack: list[str] = []
    maps: dict[str, Tensor] = {}

    def record(weights: Tensor) -> None:
        name = stack[-1] if stack else ""
        count = sum(key == name or key.startswith(f"{name}:") for key in maps)
        maps[f"{name}:{count + 1}" if count else name] = weights

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


_SOFTMAX = frozenset({torch.softmax, F.softmax, Tensor.softmax})


class _AttentionMode(TorchFunctionMode):
    """Shows attention weights to `record` as they are computed."""

    def __init__(self, record: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            weights, value = _attention_weights(*args, **kwargs)
            self.record(weights)
            return weights @ value
        if func is F.multi_head_attention_forward:  # what it calls inside passes no mode
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim >= 4:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if axis in (-1, result.ndim - 1):
                self.record(result)
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


def _attention_weights(
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
