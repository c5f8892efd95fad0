"""What modules keep that was computed from their weights, and what must follow when these change.

A cache that a module fills again when it is empty can be emptied. A tensor that was computed from
the weights once and for all cannot follow them, and is found by its values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import CellType
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError, ModelFailure, NotApplicableError
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.subject import Subject

Holder = tuple[str, str]
"""The name of a module, and an attribute of it."""
SMALLEST_DERIVED = 8
"""Tensors with fewer values are too small to tell what they were computed from."""


class DerivedState:
    """The caches of a copy of a model whose weights are about to be changed.

    Args:
        subject: the copy.

    Raises:
        NotApplicableError: there are weights that cannot be changed, or it keeps something that was
            computed from its weights and is not renewed.
    """

    def __init__(self, subject: Subject) -> None:
        self.model, self.name, self._forward = subject.model, subject.name, subject.forward
        self.modules = dict(self.model.named_modules())
        noise = torch.randn((1, *subject.input_size), generator=torch.Generator().manual_seed(0))
        self._x = noise.to(subject.pixel(0.5))
        self._refuse_fixed_weights()
        self._refuse_bound_functions()
        self.clear_function_caches()
        held = [holder for holder in self._holders() if self._value(holder) is not None]
        self.caches = self._renewed(held)
        for holder in set(held) - set(self.caches):
            self._refuse_if_derived(holder, tensors_in(self._value(holder)))
        for name, module in self.modules.items():
            for key, buffer in module._buffers.items():
                self._refuse_if_derived((name, key), [] if buffer is None else [buffer])

    def clear(self) -> None:
        """Empty every cache, so that the next pass fills it from the weights as they are."""
        self.clear_function_caches()
        for holder in self.caches:
            self._empty(holder)

    def clear_function_caches(self) -> None:
        """Empty `functools` caches of methods and properties."""
        for module in self.modules.values():
            for cls in type(module).__mro__:
                for key, member in vars(cls).items():
                    if isinstance(member, functools.cached_property):
                        module.__dict__.pop(key, None)
                    elif callable(getattr(member, "cache_clear", None)):
                        member.cache_clear()

    def _holders(self) -> Iterator[Holder]:
        """The attributes that hold tensors which are no parameters, buffers or views of these."""
        own = {
            t.untyped_storage().data_ptr()
            for t in (*self.model.parameters(), *self.model.buffers())
        }
        for name, module in self.modules.items():
            for key, value in vars(module).items():
                if key.startswith(("_parameters", "_buffers", "_modules")) or "hooks" in key:
                    continue
                found = [t for t in tensors_in(value) if t.is_floating_point()]
                if any(t.untyped_storage().data_ptr() not in own for t in found):
                    yield name, key

    def _renewed(self, held: list[Holder]) -> list[Holder]:
        """Those that a pass fills again once they are empty, with the same output."""
        if not held:
            return []
        expected = self._output()
        if expected is None or self._is_renewed(held, expected):
            return [] if expected is None else held
        return [holder for holder in held if self._is_renewed([holder], expected)]

    def _is_renewed(self, held: list[Holder], expected: Tensor) -> bool:
        kept = [(holder, self._value(holder)) for holder in held]
        for holder in held:
            self._empty(holder)
        found = self._output()
        good = found is not None and torch.allclose(found, expected, rtol=1e-3, atol=1e-5)
        if good and all(tensors_in(self._value(holder)) for holder in held):
            return True
        for (name, key), value in kept:
            self.modules[name].__dict__[key] = value
        return False

    def _value(self, holder: Holder) -> Any:
        return vars(self.modules[holder[0]]).get(holder[1])

    def _empty(self, holder: Holder) -> None:
        value = self._value(holder)
        empty = type(value)() if isinstance(value, (dict, list)) else None
        self.modules[holder[0]].__dict__[holder[1]] = empty

    def _output(self) -> Tensor | None:
        """The model's scores of a noise image; None if it fails."""
        with evaluation_mode(self.model), torch.no_grad():
            try:
                return self._forward(self._x).float()
            except (ModelFailure, ModelError):
                return None

    def _refuse_fixed_weights(self) -> None:
        """Weights that are constants of the code, or packed, as in frozen or quantised modules."""
        packed = any(
            isinstance(value, torch.ScriptObject)
            for module in self.modules.values()
            for value in vars(module).values()
        )
        if packed or next(self.model.parameters(), None) is None:
            raise NotApplicableError(
                f"{self.name} is frozen or quantised, so its weights cannot be shuffled; load the "
                "original module"
            )

    def _refuse_bound_functions(self) -> None:
        """Functions that a copy shares with the original, and that go on using its weights."""
        own = set(map(id, self.modules.values()))
        for name, module in self.modules.items():
            for key, value in vars(module).items():
                if callable(getattr(value, "cache_clear", None)):
                    raise self._refusal((name, key), "a cached function of the model it was copied")
                if any(id(held) not in own for held in _modules_held(value)):
                    raise self._refusal((name, key), "a function of the model it was copied")

    def _refuse_if_derived(self, holder: Holder, tensors: list[Tensor]) -> None:
        weights = list(self.modules[holder[0]].parameters())
        own = {weight.untyped_storage().data_ptr() for weight in weights}
        for tensor in tensors:
            tied = tensor.untyped_storage().data_ptr() in own
            if not tied and any(looks_derived(tensor, weight) for weight in weights):
                raise self._refusal(holder, "a tensor computed")

    def _refusal(self, holder: Holder, what: str) -> NotApplicableError:
        path = ".".join(part for part in holder if part)
        return NotApplicableError(
            f"{self.name} keeps {what} from its weights in {path!r}, which would not follow when "
            "they are shuffled; compute it in the forward pass"
        )


def _modules_held(value: Any, depth: int = 0) -> Iterator[nn.Module]:
    """The modules that a function works with: those of its closure, and what it wraps."""
    if isinstance(value, nn.Module):
        yield value
    elif depth < 4 and callable(value) and not isinstance(value, type):
        cells = getattr(value, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if cell != CellType()]
        held += [getattr(value, name, None) for name in ("__self__", "__wrapped__", "func")]
        for inner in held:
            yield from _modules_held(inner, depth + 1)


def tensors_in(value: Any, depth: int = 0) -> list[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    if depth > 4 or not isinstance(value, (Mapping, list, tuple)):
        return []
    parts = value.values() if isinstance(value, Mapping) else value
    return [tensor for part in parts for tensor in tensors_in(part, depth + 1)]


def looks_derived(tensor: Tensor, weight: Tensor) -> bool:
    """Whether a tensor's values are those of a weight: picked, scaled by rows, or in their order.

    >>> weight = torch.tensor([[0.3, -1.0, 2.0, 0.1], [0.7, 0.2, -0.4, 1.5]])
    >>> looks_derived(weight[:, [3, 3, 1, 0]], weight), looks_derived(weight.exp(), weight)
    (True, True)
    >>> looks_derived(weight * torch.tensor([[2.0], [-3.0]]), weight)
    True
    >>> looks_derived(torch.linspace(0, 1, 8).view(2, 4), weight)
    False
    """
    few = min(tensor.numel(), weight.numel()) < SMALLEST_DERIVED or weight.std() == 0
    if few or not tensor.is_floating_point() or tensor.is_quantized or tensor.std() == 0:
        return False
    tensor, weight = tensor.detach().to(weight.dtype), weight.detach()
    if torch.isin(tensor, weight).float().mean() > 0.99:
        return True
    if tensor.ndim < 1 or tensor.numel() != weight.numel():
        return False
    ranks = torch.stack([t.flatten().argsort().argsort().double() for t in (tensor, weight)])
    if torch.corrcoef(ranks)[0, 1].abs() > 0.999:
        return True
    if tensor.shape != weight.shape or tensor.ndim < 2:
        return False
    rows = torch.cosine_similarity(tensor.flatten(1), weight.flatten(1), 1).abs()
    return bool((rows > 0.999).float().mean() > 0.9) and tensor[0].numel() > 2
