"""Record what passes through a model's modules, with hooks that remove themselves.

Everything is a context manager: when its block ends, well or not, the model is as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.jit._script import RecursiveScriptModule

from core.errors import NotApplicableError, unknown

CallPath = tuple[tuple[str, int], ...]
"""The calls under way, the outermost first: each a module's name and how often that module was
called before in the block."""


def hookable_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its name, but for those of TorchScript, whose hooks are not called.

    A traced module that Python calls itself is among them; what runs within it is not.
    """
    for name, module in model.named_modules():
        if not isinstance(module, RecursiveScriptModule):
            yield name, module


@contextmanager
def record_layers(
    model: nn.Module, names: Sequence[str], calls: Mapping[str, int] = MappingProxyType({})
) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named modules during a forward pass in the block.

    The autograd graph starts at the first of these modules unless it has started before (at an
    input that requires gradients), so a backward pass goes no deeper than it must. What is recorded
    is a copy of what flows on: an in-place activation that follows cannot change it.

    Args:
        model: the model.
        names: the modules.
        calls: by name, which call of a module to record, counted from 0; other calls of it are left
            alone. A module that is not named here leaves its last output.

    Yields:
        Output by module name, each part of the graph of whatever is computed from it.

    Raises:
        UnknownNameError: there is no such module.
        NotApplicableError: in the forward pass, a module gives anything but one tensor.
    """
    modules = dict(model.named_modules())
    outputs: dict[str, Tensor] = {}
    finished: Counter[str] = Counter()

    def record(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        finished[name] += 1
        if calls.get(name, finished[name] - 1) != finished[name] - 1:
            return output
        if not isinstance(output, Tensor):
            raise NotApplicableError(
                f"layer {name!r} gives a {type(output).__name__}, not one tensor; "
                "choose another layer"
            )
        kept = output.clone() if output.requires_grad else output.detach().clone().requires_grad_()
        outputs[name] = kept
        return kept.clone()

    with ExitStack() as stack:
        for name in names:
            if name not in modules:
                raise unknown("layer", name, modules)
            handle = modules[name].register_forward_hook(partial(record, name))
            stack.callback(handle.remove)
        yield outputs


@contextmanager
def change_layer(
    model: nn.Module, name: str, call: int, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """In the block, one call of a module gives ``change(output)`` instead of its output."""
    finished = 0

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        nonlocal finished
        finished += 1
        return change(output) if finished - 1 == call else output

    with ExitStack() as stack:
        stack.callback(model.get_submodule(name).register_forward_hook(after).remove)
        yield


@contextmanager
def record_inputs(model: nn.Module, names: Collection[str]) -> Iterator[list[Tensor]]:
    """Record the first argument of each call of the named modules, where it is a tensor."""
    inputs: list[Tensor] = []

    def before(_module: nn.Module, args: Any) -> None:
        inputs.extend(value for value in args[:1] if isinstance(value, Tensor))

    with ExitStack() as stack:
        for name in names:
            hook = model.get_submodule(name).register_forward_pre_hook(before)
            stack.callback(hook.remove)
        yield inputs


@contextmanager
def record_and_detach(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named modules; what follows each gets a detached copy.

    So the graph of each output goes back to the named module before it, and no further. Modules
    that give anything but one tensor are left alone.

    Yields:
        Output by module name.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        outputs[name] = output
        return output.detach().clone()

    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_hook(partial(record, name)).remove)
        yield outputs


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module that maps one tensor to one tensor.

    Attributes:
        name: the module's name.
        index: how often the module was called before in the block.
        input: a detached copy of what it was given.
        output: what it gave, part of the graph of whatever is computed from it.
    """

    name: str
    index: int
    input: Tensor
    output: Tensor


@contextmanager
def record_calls(model: nn.Module, names: Collection[str]) -> Iterator[list[ModuleCall]]:
    """Record every call of the named modules that maps one tensor to one tensor.

    Yields:
        The calls, in order of execution.
    """
    calls: list[ModuleCall] = []
    inputs: list[Tensor | None] = []
    finished: Counter[str] = Counter()

    def before(_module: nn.Module, args: Any) -> None:
        single = len(args) == 1 and isinstance(args[0], Tensor)
        inputs.append(args[0].detach().clone() if single else None)

    def after(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        given = inputs.pop()
        index = finished[name]
        finished[name] += 1
        if given is None or not isinstance(output, Tensor):
            return output
        calls.append(ModuleCall(name, index, given, output))
        return output.clone()

    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for name in names:
            stack.callback(modules[name].register_forward_pre_hook(before).remove)
            stack.callback(modules[name].register_forward_hook(partial(after, name)).remove)
        yield calls


@contextmanager
def observe_calls(
    model: nn.Module,
    before: Callable[[CallPath, Tensor | None], None],
    after: Callable[[CallPath, Any], None],
) -> Iterator[list[tuple[str, int]]]:
    """Watch every call of every named module; nothing that passes is changed.

    Args:
        model: the model.
        before: called as ``before(path, input)`` when a module is called; `path` ends with this
            call, and `input` is the first tensor among its arguments.
        after: called as ``after(path, output)`` when the module is done; None is the output of one
            that failed.

    Yields:
        The calls under way at any moment, the innermost last.
    """
    running: list[tuple[str, int]] = []
    called: Counter[str] = Counter()

    def enter(name: str, _module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        running.append((name, called[name]))
        called[name] += 1
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        before(tuple(running), next(tensors, None))

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        after(tuple(running), output)
        running.pop()

    with ExitStack() as stack:
        for name, module in hookable_modules(model):
            if name:
                hook = partial(enter, name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield running


@contextmanager
def modules_called_with(model: nn.Module, x: Tensor) -> Iterator[list[str]]:
    """Find the modules that get `x` itself, the very object, as an argument.

    Yields:
        Their names, in order of execution; a module called several times is listed each time.
    """
    names: list[str] = []

    def before(name: str, _module: nn.Module, args: Any) -> None:
        if any(value is x for value in args):
            names.append(name)

    with ExitStack() as stack:
        for name, module in hookable_modules(model):
            stack.callback(module.register_forward_pre_hook(partial(before, name)).remove)
        yield names


@contextmanager
def record_all_tensors(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record every tensor that enters or leaves a module, in order and as part of the graph.

    Yields:
        The tensors; one that leaves a module and enters the next is there once.
    """
    tensors: list[Tensor] = []

    def record(value: Any) -> None:
        if isinstance(value, Tensor) and not any(value is last for last in tensors[-1:]):
            tensors.append(value)

    def before(_module: nn.Module, args: Any) -> None:
        for value in args:
            record(value)

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        record(output)

    with hook_every_module(model, before, after):
        yield tensors


@contextmanager
def hook_every_module(
    model: nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Call ``before(module, args)`` and ``after(module, args, output)`` around every module."""
    with ExitStack() as stack:
        for _, module in hookable_modules(model):
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield
