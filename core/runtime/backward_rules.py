"""Replace the gradients of chosen functions by other rules during a pass.

Modified-gradient methods (guided backpropagation, DeepLift, layer-wise relevance propagation) run
the model as it is and change only what flows back. Here that is a table from function names to
rules. A rule gets one `Call` and gives its value, with another gradient. The calls themselves are
intercepted by a torch function mode, so it makes no difference whether a model uses modules or
functions, and no module, class or global state changes.

Functions for which the table has no rule are found in the autograd graph, which holds every
operation whether or not it could be intercepted: `BackwardRules.check` refuses an output that
depends on the images through a nonlinear operation without a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.errors import NotApplicableError
from core.runtime.attention_capture import attention_weights, multi_head_attention
from core.runtime.autograd_graph import nodes_from
from core.runtime.model_call import call_for_model

Function = Callable[..., Tensor]


class Call:
    """One call of a function, some of whose arguments depend on the images.

    Attributes:
        name: the function's name, the same for all its spellings (`x * y`, `x.mul_(y)`).
        args: its positional arguments.
        kwargs: its keyword arguments.
        inputs: those of its arguments that depend on the images.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        spelling = getattr(func, "__name__", "")
        bare = spelling.strip("_")
        self.name = _SPELLINGS.get(bare, bare)
        self.args, self.kwargs = args, kwargs
        self.inputs = [a for a in (*args, *kwargs.values()) if _depends(a)]
        self._func = func
        self._in_place = spelling.endswith("_") and (
            not spelling.endswith("__") or spelling.startswith("__i")
        )

    def __call__(self, *inputs: Tensor, **changes: Any) -> Tensor:
        """The function's value for other `inputs`; nothing is written in place."""
        given = iter(inputs)
        args = [next(given) if _depends(a) else a for a in self.args]
        kwargs = {k: next(given) if _depends(v) else v for k, v in self.kwargs.items()}
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        func = self._func
        if self._in_place:
            func = getattr(Tensor, self.name, None) or getattr(F, self.name)
        value: Tensor = func(*args, **kwargs, **changes)
        return value

    def unchanged(self) -> Any:
        """What the call gives as the model made it, with its own gradient."""
        return call_for_model(self._func, *self.args, **self.kwargs)

    def with_gradient_of(self, function: Function) -> Tensor:
        """The call's own value, with the gradient of ``function(*inputs)``."""
        return with_gradient_of(self, function, *self.inputs)


Rule = Callable[[Call], Any]
"""Computes a call: gives its value, with whatever gradient is wanted."""


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


_SPELLINGS = {
    **dict.fromkeys(("imul", "rmul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "true_divide", "divide", "idiv"), "div"),
    "rtruediv": "rdiv",
    **dict.fromkeys(("bmm", "mm", "rmatmul", "imatmul"), "matmul"),
    **dict.fromkeys(("ipow", "float_power"), "pow"),
    **dict.fromkeys(("clip",), "clamp"),
    **dict.fromkeys(("absolute",), "abs"),
}


class _WithGradientOf(torch.autograd.Function):
    """The value of one function with the gradient of another, computed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Function, function: Function, *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        found = value(*inputs)
        return found.clone() if found._is_view() else found  # a model may write into it

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            out = ctx.function(*leaves)
        return None, None, *torch.autograd.grad(out, leaves, grads[0])


def with_gradient_of(value: Function, function: Function, *inputs: Tensor) -> Tensor:
    """``value(*inputs)``, with the gradient of ``function(*inputs)``."""
    out: Tensor = _WithGradientOf.apply(value, function, *inputs)
    return out


class BackwardRules(TorchFunctionMode):
    """A context manager that applies rules in place of functions within its block.

    Only calls with an argument that depends on the images are concerned.

    Args:
        rules: by the name of a function, the rule that computes a call of it.
        decompositions: by the name of a function, the same function written in simpler ones, each
            of which may have a rule.
        allowed: operations of the autograd graph that are nonlinear but may stay as they are.

    Attributes:
        used: the names of the functions that were replaced, with the most axes of what each was
            given: a softmax over class scores has two, over attention more.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        decompositions: Mapping[str, Callable[..., Any]],
        allowed: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.rules, self.decompositions = rules, decompositions
        self.allowed = frozenset(allowed)
        self.used: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = Call(func, args, kwargs or {})
        known = call.name in self.rules or call.name in self.decompositions
        if not call.inputs or not known:
            return call.unchanged()
        self.used[call.name] = max(self.used.get(call.name, 0), call.inputs[0].ndim)
        if call.name in self.rules:
            return self.rules[call.name](call)
        with self:
            return self.decompositions[call.name](*call.args, **call.kwargs)

    def check(self, output: Tensor, method: str, model: str, way_out: str) -> None:
        """Refuse an output that depends on the images through an operation without a rule.

        Args:
            output: (n, ...) computed within the block.
            method: what the method is called in the message.
            model: what the model is called in the message.
            way_out: another method to suggest.

        Raises:
            NotApplicableError: there is a nonlinear operation without a rule.
        """
        missing = sorted(nonlinear_operations(output) - self.allowed)
        if missing:
            raise NotApplicableError(
                f"{method} has no rule for {', '.join(missing).lower()}, on which {model} depends; "
                f"use {way_out}"
            )


# -- operations without a rule ------------------------------------------------------------------

_LINEAR_NAMES = """
    AccumulateGrad Add Sub Rsub Neg Sum Mean Cat Stack Where Clone ToCopy Copy CopyBackwards Alias
    View UnsafeView ReshapeAlias Permute Transpose T Expand Squeeze Unsqueeze Select Slice Split
    SplitWithSizes UnsafeSplit Unbind Unfold Index IndexSelect Gather Repeat Roll Flip MaskedFill
    AsStrided CopySlices ConstantPadNd ReflectionPad1D ReflectionPad2D ReplicationPad2D AvgPool2D
    AdaptiveAvgPool2D UpsampleNearest2D UpsampleBilinear2D UpsampleBicubic2D UpsampleBilinear2DAa
    Im2Col Col2Im PixelShuffle PixelUnshuffle NativeBatchNorm CudnnBatchNorm MiopenBatchNorm
    Diagonal Cumsum _WithGradientOf
"""
_MULTILINEAR_NAMES = "Mul Mm Bmm Mv Dot Addmm Addbmm Baddbmm Convolution Linear"
_LINEAR = frozenset(_LINEAR_NAMES.split())
_MULTILINEAR = frozenset(_MULTILINEAR_NAMES.split())  # linear if one argument alone varies


def nonlinear_operations(output: Tensor) -> set[str]:
    """The nonlinear operations between `output` and the leaves of its autograd graph.

    Returns:
        Their names as the autograd graph spells them, without "Backward".

    >>> x = torch.ones(2, requires_grad=True)
    >>> sorted(nonlinear_operations((3 * x + 1).sum() * x.exp()))
    ['Exp', 'Mul']
    """
    found: set[str] = set()
    for node in nodes_from(output.grad_fn):
        name = node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")
        depends = [source is not None for source, _ in node.next_functions]
        if not _is_linear(name, node, depends):
            found.add(name)
    return found


def _is_linear(name: str, node: Any, depends: list[bool]) -> bool:
    if getattr(node, "_saved_training", False):  # statistics of the images themselves
        return False
    if name == "Div":
        return not any(depends[1:])
    return name in _LINEAR or (name in _MULTILINEAR and sum(depends) == 1)


# -- functions written in simpler ones ----------------------------------------------------------


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)


def _layer_norm(
    input: Tensor,
    normalized_shape: Collection[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    return _scaled(_standardised(input, axes, eps), weight, bias)


def _rms_norm(
    input: Tensor,
    normalized_shape: Collection[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _scaled(
        input * torch.rsqrt((input * input).mean(axes, keepdim=True) + eps), weight, None
    )


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    groups = _standardised(input.unflatten(1, (num_groups, -1)).flatten(2), (2,), eps)
    broad = (-1,) + (1,) * (input.ndim - 2)
    weight, bias = (t if t is None else t.view(broad) for t in (weight, bias))
    return _scaled(groups.reshape(input.shape), weight, bias)


def _attention(*args: Any, **kwargs: Any) -> Tensor:
    weights, value = attention_weights(*args, **kwargs)
    return weights @ value


def _multi_head(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    return multi_head_attention(lambda attn: attn, *args, **kwargs)


def _normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    if p == 2:
        length = torch.sqrt((input * input).sum(dim, keepdim=True))
    else:
        length = input.norm(p, dim, keepdim=True)
    return input * torch.reciprocal(length.clamp_min(eps))


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _divided(input: Any, other: Any) -> Tensor:
    inverse = torch.reciprocal(other) if isinstance(other, Tensor) else 1 / other
    quotient: Tensor = input * inverse
    return quotient


DECOMPOSITIONS: Mapping[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "normalize": _normalize,
    "glu": _glu,
    "div": _divided,
    "rdiv": lambda input, other: other * torch.reciprocal(input),
}
"""Normalisation, attention and quotients, written in sums, products and functions of one number."""

ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "leaky_relu",
    "prelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "tanh",
    "softsign",
)
"""Functions of one number that are 0 at 0."""
GATES = ("sigmoid", "hardsigmoid")
"""Functions of one number that switch what they are multiplied with on and off."""
PRODUCTS = ("mul", "matmul", "einsum")
"""Products of tensors."""
MAX_POOLS = ("MaxPool2DWithIndices", "AdaptiveMaxPool2D")
"""Max pools as the autograd graph calls them; they hand the gradient to the largest value."""
