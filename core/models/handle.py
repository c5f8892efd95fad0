"""ModelHandle: any timm model behind one face."""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ModelError, ModelFailure, NotApplicableError, unknown
from core.inputs.preprocessing import Preprocessing
from core.inputs.samples import sample_inputs
from core.models.layers import Probe, probe
from core.runtime.batching import Budget, is_out_of_memory
from core.runtime.model_call import copy_model
from core.runtime.streaming import memory_exhausted
from core.tasks.outputs import has_no_classes
from core.types import AttentionLayer, Layer, Need

PASS_BYTES = 2 * 2**30
"""What the layer outputs of one pass may take."""


class ModelHandle:
    """A model with all that is needed to ask it about a picture.

    Args:
        model: maps (B, C, H, W) to (B, N). An owned one is not to be changed from outside.
        name: what it is called, in messages and in results.
        preprocessing: from a picture to the model's input.
        labels: class names in output order; None if unknown.
        device: where the model is.
        source: where the weights come from, in words.
        owned: whether nobody else can change the model; a model lent by the caller is checked for
            changed weights each time.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        labels: Sequence[str] | None = None,
        device: torch.device | None = None,
        source: str = "",
        owned: bool = False,
    ) -> None:
        self.model = model
        self.name = name
        self.preprocessing = preprocessing
        self.labels = labels
        self.source = source
        self.owned = owned
        first = next(model.parameters(), torch.empty(0))
        self.device = device or first.device
        self.dtype = first.dtype if first.is_floating_point() else torch.float32
        self.lock = _lock_of(model)
        self._hashed: tuple[object, str] | None = None
        self._kept: dict[str, Tensor] | None = None
        self._enlarged: dict[int, ModelHandle | None] = {}

    def __repr__(self) -> str:
        return f"ModelHandle({self.name!r}, {self.outputs} outputs, {self.device})"

    # -- what it is -----------------------------------------------------------------------------

    @cached_property
    def probe(self) -> Probe:
        """What a pass of noise told about the layers; taken once, when first needed.

        Raises:
            ModelFailure: the model raised an error.
            ModelError: the model does not give one row of scores per image.
            MemoryExhaustedError: not even one image fits into memory.
        """
        size = self.preprocessing.input_size
        try:
            with self.lock:
                return probe(self.model, size, self.name)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            row = torch.empty((1, *size), device="meta")
            raise memory_exhausted(self.name, row, self.device) from None

    @property
    def outputs(self) -> int:
        """Number of outputs (classes)."""
        return self.probe.outputs

    @property
    def features(self) -> bool:
        """Whether the outputs are features of a model without classes."""
        return has_no_classes(self.model)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of what the model sees."""
        return self.preprocessing.input_size

    @property
    def stem(self) -> str | None:
        """The convolution that alone sees the picture; None if there is none."""
        return self.probe.stem

    @cached_property
    def budget(self) -> Budget:
        """Rows per pass: as many as keep the machine busy without waste.

        On a CPU more rows gain nothing (measured on resnet50, EfficientNet-Lite0 and ViT-S with 4
        to 32 rows), the fewer where a backward pass keeps every layer's output.
        """
        room = PASS_BYTES // max(1, self.probe.row_bytes)
        if self.device.type == "cpu":
            return Budget(max(1, min(16, room)), max(1, min(8, room)))
        return Budget(max(8, min(256, room)))

    def fingerprint(self) -> str:
        """A digest of the architecture and weights; another one as soon as a weight changes."""
        if self._kept is None or not self.owned:
            self._kept = self._tensors()
        tensors = self._kept
        quick: object
        if self.owned:
            quick = [(t.data_ptr(), t._version) for t in tensors.values()]
        else:
            sums = [(n, t.shape, t.dtype, int(checksum(t))) for n, t in tensors.items()]
            quick = structure(self.model), sums
        if self._hashed is None or self._hashed[0] != quick:
            self._hashed = quick, self._digest(tensors)
        return self._hashed[1]

    def _tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, looked up anew: a lent model may get others."""
        named = itertools.chain(self.model.named_parameters(), self.model.named_buffers())
        return {name: tensor.detach() for name, tensor in named}

    def _digest(self, tensors: Mapping[str, Tensor]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self.name} {structure(self.model)} {self.preprocessing}".encode())
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_octets(tensor.cpu()).numpy().tobytes())
        return digest.hexdigest()

    # -- its layers -----------------------------------------------------------------------------

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Every module by name, in order of execution."""
        return self.probe.layers

    @property
    def attention_layers(self) -> Mapping[str, AttentionLayer]:
        """Every module that computes attention, by name."""
        return self.probe.attention

    @property
    def default_layer(self) -> str | None:
        """Where CAM methods look unless told otherwise."""
        return self.probe.default_layer

    def stages(self) -> list[Layer]:
        """The short list: layers on a grid that close a stage, and the default layer."""
        return [
            layer
            for layer in self.layers.values()
            if layer.layout is not None and (layer.stage or layer.name == self.default_layer)
        ]

    def choices(self, needs: Iterable[Need]) -> list[str]:
        """The layers a person can choose for a method with these needs, meaningful ones first."""
        if Need.ATTENTION in needs:
            return [a.name for a in self.attention_layers.values() if a.layout is not None]
        if Need.LAYER not in needs:
            return []
        short = [layer.name for layer in self.stages()]
        rest = [n for n, layer in self.layers.items() if layer.layout is not None]
        return list(dict.fromkeys(short + rest))

    def resolve_layer(self, needs: Iterable[Need], name: str | None) -> str | None:
        """The layer a method with these needs looks at, given what the caller named (or None).

        Raises:
            UnknownNameError: there is no such layer.
            NotApplicableError: the layer does not suit.
        """
        needs = frozenset(needs)
        choices = self.choices(needs)
        known = {*self.layers, *self.attention_layers}
        if name is not None and name not in known:
            raise unknown("layer", name, choices or known, f"in {self.name}")
        if not choices:
            return None
        if name is None:
            return choices[-1] if Need.ATTENTION in needs else self.default_layer
        if name in choices:
            return name
        if Need.ATTENTION in needs:
            within = [c for c in choices if c.startswith(f"{name}.")]
            if within:
                return within[0]
        attends = Need.ATTENTION in needs
        kind = "attend over the whole picture" if attends else "lie on a spatial grid"
        way_out = choices[-1] if attends else choices[0]
        raise NotApplicableError(
            f"layer {name!r} of {self.name} does not {kind}; choose one such as {way_out!r}"
        )

    # -- what it can do -------------------------------------------------------------------------

    @cached_property
    def supports(self) -> frozenset[Need]:
        """The needs this model meets."""
        return frozenset(need for need in Need if not self._reason(need))

    def why_not(self, needs: Iterable[Need]) -> str:
        """Why a method with these needs cannot run on this model; empty if it can."""
        return next((reason for need in sorted(needs) if (reason := self._reason(need))), "")

    def _reason(self, need: Need) -> str:
        if need is Need.ATTENTION:
            return self._attention_reason()
        if not self.probe.differentiable:
            return f"{self.name} has no gradient from its output to its input"
        if need is Need.LAYER and self.default_layer is None:
            return f"{self.name} has no layer that lies on a spatial grid of at least 3x3"
        return ""

    def _attention_reason(self) -> str:
        found = list(self.attention_layers.values())
        if not found:
            return f"{self.name} computes no softmax attention; choose a CAM or gradient method"
        if all(layer.layout is None for layer in found):
            return (
                f"attention in {self.name} cannot be laid over the picture: in {found[-1].name!r} "
                f"{found[-1].reason}"
            )
        return ""

    @cached_property
    def samples(self) -> Tensor:
        """(n, C, H, W) the pictures that come along, in model units, on the model's device."""
        return sample_inputs(self.preprocessing).to(self.device, self.dtype)

    def enlarged(self, times: int) -> ModelHandle | None:
        """The same model for pictures `times` as high and wide; None if it cannot take them.

        Raises:
            MemoryExhaustedError: such a picture does not fit into memory.
        """
        if times not in self._enlarged:
            channels, height, width = self.input_size
            sized = replace(
                self.preprocessing, input_size=(channels, times * height, times * width)
            )
            twin = self._with(self.model, sized, owned=self.owned)
            try:
                fits = twin.outputs == self.outputs
            except (ModelFailure, ModelError, NotApplicableError):  # it cannot take that size
                fits = False
            self._enlarged[times] = twin if fits else None
        return self._enlarged[times]

    def clone(self) -> ModelHandle:
        """A handle on a copy of the model, whose weights may be changed.

        Raises:
            ModelFailure: the model cannot be copied.
        """
        twin = self._with(copy_model(self.model, name=self.name), self.preprocessing, owned=True)
        twin.__dict__["probe"] = self.probe  # the layers are where they were
        return twin

    def _with(self, model: nn.Module, preprocessing: Preprocessing, *, owned: bool) -> ModelHandle:
        return ModelHandle(
            model,
            name=self.name,
            preprocessing=preprocessing,
            labels=self.labels,
            device=self.device,
            source=self.source,
            owned=owned,
        )

    # -- pixels ---------------------------------------------------------------------------------

    def pixel(self, value: float) -> Tensor:
        """A grey level in [0, 1] as (C, 1, 1) model units, on the model's device."""
        return self.preprocessing.pixel(value).to(self.device, self.dtype)

    def to_pixels(self, x: Tensor) -> Tensor:
        """Model units (..., C, H, W) as a person sees them: pixel values in [0, 1]."""
        return self.preprocessing.to_pixels(x)


# -- models that others may use or change -------------------------------------------------------


def structure(model: nn.Module) -> str:
    """What a model is made of, weights aside: its modules and their plain settings."""
    settings = [
        (name, key, value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key != "training" and isinstance(value, (str, int, float, tuple, type(None)))
    ]
    return f"{model!r} {settings}"


_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(model: nn.Module) -> AbstractContextManager[object]:
    """One lock per module, however many handles there are on it."""
    with _LOCKS_LOCK:
        lock: AbstractContextManager[object] = _LOCKS.setdefault(model, threading.RLock())
        return lock


def checksum(tensor: Tensor) -> Tensor:
    """A number, where the tensor is, that is another one if any of its values is.

    Its bytes are read as 64-bit words, each times a random number of its place, and added modulo
    2^64: at the speed of memory, many times faster than a digest.

    >>> weights = torch.tensor([1.0, 2.0, 3.0])
    >>> bool(checksum(weights) == checksum(weights.clone()))
    True
    >>> bool(checksum(weights) == checksum(weights.flip(0)))
    False
    """
    octets = _octets(tensor)
    if len(octets) % 8 or octets.storage_offset() % 8:
        octets = F.pad(octets, (0, -len(octets) % 8))
    words = octets.view(torch.int64)
    factors = _factors(1 << len(words).bit_length(), tensor.device)[: len(words)]
    return words.dot(factors) if tensor.device.type == "cpu" else (words * factors).sum()


def _octets(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@functools.lru_cache(maxsize=64)
def _factors(count: int, device: torch.device) -> Tensor:
    """Random odd numbers (count,): odd ones lose no bit of a word."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return (2 * drawn + 1).to(device)
