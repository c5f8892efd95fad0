"""Record the softmax attention maps of a model as they are computed.

The calls themselves are intercepted by a torch function mode, so it makes no difference how a model
spells attention: fused attention is computed explicitly, a softmax over the last axis of a tensor
of four or more axes is attention. No module is patched and nothing global changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.runtime.capture import hookable_modules
from core.runtime.model_call import call_for_model, differentiate

_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_SOFTMAX = frozenset({torch.softmax, F.softmax, Tensor.softmax})


@contextmanager
def record_attention(
    model: nn.Module, replace: Callable[[str, Tensor], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record every softmax attention map computed during a forward pass in the block.

    Args:
        model: where attention is computed.
        replace: gives the map that is recorded, and used by the model, in place of the map of this
            name.

    Yields:
        Maps (..., queries, keys) by the name of the module that computed them, in order of
        execution; a second map within one module is called ``name:2``.
    """
    running: list[str] = []  # the modules under way, the innermost last
    maps: dict[str, Tensor] = {}

    def record(weights: Tensor) -> Tensor:
        name = running[-1] if running else ""
        count = sum(key == name or key.startswith(f"{name}:") for key in maps)
        name = f"{name}:{count + 1}" if count else name
        maps[name] = weights if replace is None else replace(name, weights)
        return maps[name] if replace is None else maps[name].clone()

    def before(name: str, module: nn.Module, _args: Any) -> None:
        running.append(name.rpartition(".")[0] if isinstance(module, nn.Softmax) else name)

    def after(_module: nn.Module, _args: Any, _output: Any) -> None:
        running.pop()

    with ExitStack() as hooks:
        for name, module in hookable_modules(model):
            hooks.callback(module.register_forward_pre_hook(partial(before, name)).remove)
            hooks.callback(module.register_forward_hook(after, always_call=True).remove)
        hooks.enter_context(_InterceptAttention(record))
        yield maps


def as_graph_leaf(_name: str, weights: Tensor) -> Tensor:
    """The same attention map, to differentiate by; for `replace` of `record_attention`.

    The autograd graph starts here unless it has started before.
    """
    return weights if weights.requires_grad else weights.detach().clone().requires_grad_()


def attention_map_gradients(
    score: Tensor, maps: Mapping[str, Tensor], *, name: str, retain_graph: bool = False
) -> dict[str, Tensor]:
    """The gradients of a scalar with respect to each attention map.

    Args:
        score: the scalar.
        maps: the recorded maps, see `record_attention` and `as_graph_leaf`.
        name: what the model is called in messages.
        retain_graph: whether another scalar of the same pass is differentiated after it.

    Returns:
        Gradients by the maps' names, zero for a map that the score does not depend on; empty if it
        depends on none.
    """
    if not score.requires_grad:
        return {}
    found = differentiate(
        score, list(maps.values()), name=name, allow_unused=True, retain_graph=retain_graph
    )
    if all(grad is None for grad in found):
        return {}
    return {
        key: torch.zeros_like(weights) if grad is None else grad
        for (key, weights), grad in zip(maps.items(), found, strict=True)
    }


class _InterceptAttention(TorchFunctionMode):
    """Shows attention weights to `record` as they are computed, and uses what it gives back."""

    def __init__(self, record: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = call_for_model(func, *args, **kwargs)
        if func in _SOFTMAX and result.ndim >= 4:
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if axis in (-1, result.ndim - 1):
                return self.record(result)
        return result

    def _fused(self, *args: Any, **kwargs: Any) -> Tensor:
        """`F.scaled_dot_product_attention`, computed step by step."""
        try:
            weights, value = attention_weights(*args, **kwargs)
        except (RuntimeError, TypeError):
            call_for_model(F.scaled_dot_product_attention, *args, **kwargs)  # is the call at fault?
            raise
        return self.record(weights) @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """`F.multi_head_attention_forward`, computed step by step."""
        try:
            return multi_head_attention(self.record, *args, **kwargs)
        except (RuntimeError, TypeError):
            call_for_model(F.multi_head_attention_forward, *args, **kwargs)  # is the call at fault?
            raise


def multi_head_attention(
    use: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """What `F.multi_head_attention_forward` computes in evaluation mode, in plain functions.

    Args:
        use: shown the attention map (B, heads, T, S); gives the one to go on with.
        *args: those of the function.
        **kwargs: those of the function.

    Returns:
        The output (T, B, E), and the weights as the function returns them. Without a batch axis in
        the inputs there is none in these either.
    """
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    given = SimpleNamespace(**bound.arguments)
    batched = given.query.ndim == 3
    q, k, v = _projected(given, batched)
    images, heads = q.shape[1], given.num_heads
    if given.bias_k is not None and given.bias_v is not None:
        k, v = (
            torch.cat([t, b.repeat(1, images, 1)])
            for t, b in ((k, given.bias_k), (v, given.bias_v))
        )
    q, k, v = (t.unflatten(2, (heads, -1)).permute(1, 2, 0, 3) for t in (q, k, v))
    k, v = (
        t if static is None else static.unflatten(0, (images, heads))
        for t, static in ((k, given.static_k), (v, given.static_v))
    )
    if given.add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    shape = images, heads, q.shape[2], k.shape[2]
    mask = _merged_mask(given.attn_mask, given.key_padding_mask, shape, q)
    attn = use(attention_weights(q, k, v, mask)[0])
    mixed = (attn @ v).permute(2, 0, 1, 3).flatten(2)
    output = F.linear(mixed, given.out_proj_weight, given.out_proj_bias)
    shown = attn.mean(1) if given.average_attn_weights else attn
    if not batched:
        output, shown = output[:, 0], shown[0]
    return output, shown if given.need_weights else None


def _projected(given: SimpleNamespace, batched: bool) -> list[Tensor]:
    """Queries, keys and values (T, B, E) from the arguments of multi-head attention."""
    inputs = [t if batched else t.unsqueeze(1) for t in (given.query, given.key, given.value)]
    if given.use_separate_proj_weight:
        weights = [given.q_proj_weight, given.k_proj_weight, given.v_proj_weight]
    else:
        weights = list(given.in_proj_weight.chunk(3))
    biases = [None] * 3 if given.in_proj_bias is None else list(given.in_proj_bias.chunk(3))
    return [F.linear(t, w, b) for t, w, b in zip(inputs, weights, biases, strict=True)]


def _merged_mask(
    attn_mask: Tensor | None, padding: Tensor | None, shape: tuple[int, int, int, int], like: Tensor
) -> Tensor | None:
    """The masks of `F.multi_head_attention_forward` (True hides) as one that is added to logits.

    Args:
        attn_mask: (T, S) or (B * heads, T, S).
        padding: (B, S) or (S,).
        shape: (B, heads, T, S), where S may have grown by a key or two that are never hidden.
        like: gives data type and device.
    """
    images, heads, _, keys = shape
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (images, heads)))
    if padding is not None:
        masks.append(padding.reshape(images, 1, 1, -1))
    total = None
    for mask in masks:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape).to(like).masked_fill(mask, -torch.inf)
        mask = F.pad(mask, (0, keys - mask.shape[-1]))
        total = mask if total is None else total + mask
    return total


def attention_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # ignored: there is no dropout in evaluation mode
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `F.scaled_dot_product_attention` computes on the way; the arguments are the same.

    Returns:
        The attention weights (..., T, S), and the values (..., S, E) that they weight: `value`, its
        heads repeated with `enable_gqa`. A row whose keys are all masked has weights 0, not NaN.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = query @ key.transpose(-2, -1) * scale
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        logits = logits.masked_fill(~attn_mask, -torch.inf) if boolean else logits + attn_mask
    fully_masked = logits.amax(-1, keepdim=True) == -torch.inf
    return logits.softmax(-1).masked_fill(fully_masked, 0.0), value
