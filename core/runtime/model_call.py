"""Call the user's model, and tell its faults from our own.

A model is foreign code and may raise anything. Everything in `core` that runs a model, a part of
it, or autograd through it, does so by way of the functions of this module, which turn what the
model raises into a `ModelFailure`. What passes through unchanged:

- a `TimmscopeError`, such as one that a hook of ours raises in the middle of the model's forward
  pass;
- out of memory, which leads to smaller passes;
- a fault of our own code (a hook, a rule for the backward pass), so that it is seen with its
  traceback as the bug it is;
- what is no `Exception`, such as `KeyboardInterrupt`.
"""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import MemoryExhaustedError, ModelFailure, TimmscopeError
from core.runtime.batching import is_out_of_memory

_OUR_PACKAGE = __name__.partition(".")[0]
_CALLS = nn.Module.__module__
"""The module of torch through which every call of a model goes."""


def call_model(function: Callable[..., Any], *args: Any, name: str, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, where `function` is a model or a part of one.

    Args:
        function: the model, one of its modules, or a method of these.
        *args: its positional arguments.
        name: what the model is called in messages.
        **kwargs: its keyword arguments.

    Raises:
        ModelFailure: the model raised; the original error is the `__cause__`.
    """
    sentence = (
        "{name} failed in its forward pass ({error}); check that the model works on its own, in "
        "evaluation mode and with images of this size"
    )
    return _call(sentence, name, function, *args, **kwargs)


def differentiate(
    outputs: Tensor,
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | None = None,
    *,
    name: str,
    **options: bool,
) -> tuple[Tensor, ...]:
    """The gradients of `outputs` with respect to `inputs`, through a model.

    Args:
        outputs: what is differentiated: a scalar, or any tensor if `grad_outputs` is given.
        inputs: one or several tensors that `outputs` was computed from.
        grad_outputs: the factor on the gradient of each value of `outputs`; of its shape.
        name: what the model is called in messages.
        **options: those of `torch.autograd.grad`: `retain_graph`, `create_graph`, `allow_unused`,
            `materialize_grads`.

    Returns:
        One gradient for each input, of its shape; None, with `allow_unused`, where there is none.

    Raises:
        ModelFailure: the backward pass failed; the original error is the `__cause__`.
    """
    sentence = (
        "the gradient of {name} cannot be computed ({error}); choose a method that needs no "
        "gradient, such as occlusion"
    )
    gradients: tuple[Tensor, ...] = _call(
        sentence, name, torch.autograd.grad, outputs, inputs, grad_outputs, **options
    )
    return gradients


def load_foreign(function: Callable[..., Any], *args: Any, name: str, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, which builds or loads a model with a library's code.

    Raises:
        ModelFailure: the library raised; the original error is the `__cause__`.
        MemoryExhaustedError: the model does not fit into memory.
    """
    sentence = "{name} cannot be loaded ({error}); check that it loads on its own"
    try:
        return _call(sentence, name, function, *args, **kwargs)
    except (RuntimeError, MemoryError) as error:
        if told := failure_of(error):
            raise told from error
        raise


def failure_of(error: Exception) -> TimmscopeError | None:
    """What an error means to a person: the one place where a page or a server asks.

    Returns:
        The error itself if it is a `TimmscopeError`; the error to show if the memory is used up, or
        if a model raised it while it ran; None if it is a fault of our own.
    """
    if isinstance(error, TimmscopeError):
        return error
    if is_out_of_memory(error):
        return MemoryExhaustedError(
            "this does not fit into the memory that is left; free memory, or choose a smaller model"
        )
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    ran_model = any(frame.f_globals.get("__name__") == _CALLS for frame in frames)
    if not ran_model or _is_fault_of_ours(error):
        return None
    return ModelFailure(f"the model failed ({_in_short(error)}); check that it works on its own")


def copy_model(model: nn.Module, *, name: str) -> nn.Module:
    """A deep copy of a model; tensors that share memory share it in the copy too.

    A tensor that a module keeps along with the graph it was computed by is copied without it.

    Raises:
        ModelFailure: it cannot be copied; the original error is the `__cause__`.
    """
    sentence = "{name} cannot be copied ({error}); make copy.deepcopy(model) work"
    copied: nn.Module = _call(sentence, name, copy.deepcopy, model, _copied_tensors(model))
    return copied


def _copied_tensors(model: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`: copies of a model's tensors, of each memory one, by `id`."""
    memo: dict[int, Any] = {}
    memories: dict[int, torch.UntypedStorage] = {}
    for tensor in _tensors_of([vars(module) for module in model.modules()]):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            continue
        if tensor.is_quantized or tensor.device.type == "meta":
            continue
        memory = tensor.untyped_storage()
        copied = memories.setdefault(memory.data_ptr(), memory.clone())
        plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
            copied, tensor.storage_offset(), tensor.size(), tensor.stride()
        )
        wanted = tensor.requires_grad and tensor.is_leaf
        if isinstance(tensor, nn.Parameter):
            plain = nn.Parameter(plain, wanted)
        memo[id(tensor)] = plain if plain.requires_grad == wanted else plain.requires_grad_()
    return memo


def _tensors_of(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif depth < 6 and isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_of(part, depth + 1)


def call_for_model(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, called in the middle of a forward pass as the model would.

    For code that stands between a model and what it calls: an error raised in `function` itself
    counts as the model's, not as ours. Nothing is caught here; `call_model` does so further out.
    """
    return function(*args, **kwargs)


def _call(sentence: str, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except TimmscopeError:
        raise
    except Exception as error:  # foreign code may raise anything
        if is_out_of_memory(error) or _is_fault_of_ours(error):
            raise
        raise ModelFailure(sentence.format(name=name, error=_in_short(error))) from error


def _is_fault_of_ours(error: Exception) -> bool:
    """Whether the innermost code that raised `error`, libraries aside, is ours.

    Where our code runs code of the model (a frame of this module), the fault is the model's.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package == "torch" or package in sys.stdlib_module_names:
            continue
        return package == _OUR_PACKAGE and module != __name__
    return False


def _in_short(error: Exception) -> str:
    """The kind and the first line of an error.

    >>> _in_short(KeyError("x")), _in_short(RuntimeError())
    ("KeyError: 'x'", 'RuntimeError')
    """
    kind, text = type(error).__name__, str(error).strip().partition("\n")[0]
    return f"{kind}: {text[:200]}" if text else kind
