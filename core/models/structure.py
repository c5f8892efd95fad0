"""What a model computes, apart from its parameters and buffers: its modules, settings and hooks.

`structure` is a digest of all that can be read from the outside: classes, attributes, hooks, the
code of forward methods and of functions held, and what closures and the global variables of these
functions hold. Three things cannot be told: what lies outside of Python, as in a file or a compiled
extension; the code of functions that a forward method calls by their global names; and another
value of a setting that the model's own forward pass changes, such as a counter or a cache, of which
only the kind is compared.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import pathlib
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

Setting = tuple[str, str]
"""The name of a module, and an attribute of it."""
MAX_DEPTH = 8
"""How deep objects within objects are read."""
MAX_OBJECTS = 100_000
"""How many objects are read of one setting; the rest is left out."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_HANDLED = frozenset({"training", "_modules", *vars(nn.Module()), *_HOOKS})
_PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, pathlib.PurePath)
_SPELT = (torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout, range, slice)
_CHANGED_BY_FORWARD: weakref.WeakKeyDictionary[nn.Module, frozenset[Setting]] = (
    weakref.WeakKeyDictionary()
)


def structure(model: nn.Module) -> str:
    """A digest that changes with a model's modules, settings and hooks, but not with its weights.

    Whether the model is in training mode makes no difference, as it is always run in evaluation
    mode. Of settings that a forward pass changes by itself (see `ignore_changes`), only the kind is
    compared.
    """
    digest = hashlib.blake2b(digest_size=16)
    loose = _CHANGED_BY_FORWARD.get(model, frozenset())
    for setting, text in settings(model, loose).items():
        digest.update(f"{setting} {text}\n".encode(errors="replace"))
    return digest.hexdigest()


def text_of(value: Any) -> str:
    """A text that is the same for equal values, whatever they hold; it holds no addresses."""
    return _Reader({}).text(value)


def settings(model: nn.Module, loose: Iterable[Setting] = ()) -> dict[Setting, str]:
    """A text for each setting of each module, the same in every process.

    Args:
        model: the model.
        loose: the settings that only the kind is told of.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found, loose = {}, frozenset(loose)
    for name, module in model.named_modules():
        for key, value in _settings_of(module):
            reader = _Reader(names, contents=(name, key) not in loose)
            found[name, key] = reader.text(value)
    for kind in _GLOBAL_HOOKS:
        hooks = getattr(torch_module, kind, {})
        if hooks:
            found["", kind] = _Reader(names).text(list(hooks.values()))
    return found


def ignore_changes(
    model: nn.Module, before: Mapping[Setting, str], after: Mapping[Setting, str]
) -> None:
    """Let `structure` compare only the kind of what changed between two readings of `settings`."""
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    _CHANGED_BY_FORWARD[model] = _CHANGED_BY_FORWARD.get(model, frozenset()) | changed


def ignore_as_in(copied: nn.Module, model: nn.Module) -> None:
    """Let `structure` treat a copy of a model as it treats the model."""
    _CHANGED_BY_FORWARD[copied] = _CHANGED_BY_FORWARD.get(model, frozenset())


def _settings_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What decides what a module computes, by name."""
    yield "class", type(module)
    yield "class.forward", getattr(type(module), "forward", None)
    if isinstance(module, torch.jit.ScriptModule):
        yield from _script_of(module)
        return
    yield "children", list(module._modules)
    for kind in _HOOKS:
        for index, hook in enumerate(getattr(module, kind).values()):
            yield f"{kind}.{index}", hook
    for key, value in vars(module).items():
        if key not in _HANDLED:
            yield key, value


def _script_of(module: torch.jit.ScriptModule) -> Iterator[tuple[str, Any]]:
    """The code of a module of TorchScript, and the constants in it, frozen weights among them."""
    try:
        code, constants = module.code_with_constants
    except AttributeError:  # a part that is not called
        return
    yield "code", code
    yield "constants", dict(constants.const_mapping)


class _Reader:
    """Writes values down as texts that hold no addresses.

    Args:
        names: the names of the model's modules by `id`.
        contents: whether what containers, tensors and closures hold is told.
    """

    def __init__(self, names: Mapping[int, str], *, contents: bool = True) -> None:
        self.names, self.contents = names, contents
        self.seen: set[int] = set()

    def text(self, value: Any, depth: int = 0) -> str:
        """A text that is the same for equal values."""
        if isinstance(value, _PLAIN):
            return repr(value) if self.contents else type(value).__name__
        if isinstance(value, type):
            return f"{value.__module__}.{value.__qualname__}"
        if isinstance(value, _SPELT):
            return repr(value)
        if id(value) in self.names:
            return f"module {self.names[id(value)]!r}"
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if depth > MAX_DEPTH or id(value) in self.seen or len(self.seen) > MAX_OBJECTS:
            return kind
        self.seen.add(id(value))
        return f"{kind}({self._inside(value, depth + 1)})"

    def _inside(self, value: Any, depth: int) -> str:
        code = getattr(value, "__code__", None)
        told = _code_text(code) if isinstance(code, types.CodeType) else ""
        if not self.contents:
            return told
        if isinstance(value, Tensor):
            return tensor_text(value)
        if isinstance(value, np.ndarray):
            return f"{value.dtype} {value.shape} {_digest(repr(value.tolist()))}"
        return " ".join([told, *(self.text(part, depth) for part in _parts(value))])


def _parts(value: Any) -> Iterable[Any]:
    """What an object holds."""
    if isinstance(value, Mapping):
        return [part for item in list(value.items()) for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (list, tuple, deque)):
        return list(value)
    if isinstance(value, types.FunctionType):
        held = [value.__defaults__, value.__kwdefaults__, *map(_cell, value.__closure__ or ())]
        return [*held, *_globals_of(value)]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
        return [value.__name__]
    if isinstance(value, nn.Module):  # one that is not registered as a part of the model
        inner = [value._parameters, value._buffers, value._modules]
        return [*inner, *(part for _, part in _settings_of(value))]
    if isinstance(value, torch.ScriptObject):  # such as the packed weights of a quantised layer
        return [value.__getstate__()] if hasattr(value, "__getstate__") else []
    wrapped = getattr(value, "__wrapped__", None)
    slots = [getattr(value, slot, None) for slot in getattr(type(value), "__slots__", ())]
    return [wrapped, vars(value) if hasattr(value, "__dict__") else None, *slots]


def _globals_of(function: types.FunctionType) -> Iterator[Any]:
    """The values of the global variables that a function names; no modules, classes, functions."""
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, (*_PLAIN, Tensor, np.ndarray, Mapping, list, tuple, set)):
            yield value


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


@functools.lru_cache(maxsize=4096)
def _code_text(code: types.CodeType) -> str:
    """A digest of a function's code, functions within it included."""
    constants = [
        _code_text(c) if isinstance(c, types.CodeType) else _constant_text(c)
        for c in code.co_consts
    ]
    return _digest(f"{code.co_qualname} {code.co_code.hex()} {code.co_names} {constants}")


def _constant_text(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


# -- tensors --------------------------------------------------------------------------------------


def tensor_text(tensor: Tensor) -> str:
    """Shape, type and checksum of a tensor."""
    told = f"{tuple(tensor.shape)} {tensor.dtype}"
    if tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return told
    return f"{told} {int(checksum(tensor))}"


def checksum(tensor: Tensor) -> Tensor:
    """A checksum (scalar int64 on the tensor's device) that changes if any value changes.

    The bytes are read as 64-bit words, each is multiplied by a random factor of its position, and
    the products are added modulo 2^64. This is many times faster than a digest.

    >>> weights = torch.tensor([1.0, 2.0, 3.0])
    >>> bool(checksum(weights) == checksum(weights.clone()))
    True
    >>> bool(checksum(weights) == checksum(weights.flip(0)))
    False
    """
    octets = octets_of(tensor)
    if len(octets) % 8 or octets.storage_offset() % 8:
        octets = F.pad(octets, (0, -len(octets) % 8))
    words = octets.view(torch.int64)
    factors = _factors(1 << len(words).bit_length(), tensor.device)[: len(words)]
    return words.dot(factors) if tensor.device.type == "cpu" else (words * factors).sum()


def octets_of(tensor: Tensor) -> Tensor:
    """The bytes of a tensor as uint8."""
    plain = tensor.detach()
    plain = plain.dequantize() if plain.is_quantized else plain.resolve_conj().resolve_neg()
    return plain.contiguous().reshape(-1).view(torch.uint8)


@functools.lru_cache(maxsize=64)
def _factors(count: int, device: torch.device) -> Tensor:
    """Random odd factors (count,); multiplying by an odd number loses no bit of a word."""
    with torch.inference_mode(False):  # they are kept for other callers
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(-(2**62), 2**62, (count,), generator=generator)
        return (2 * drawn + 1).to(device)
