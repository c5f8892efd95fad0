"""ModelHandle: a model with its preprocessing, labels and layers."""

from __future__ import annotations

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

from core.errors import ModelError, ModelFailure, NotApplicableError, WayOut, unknown
from core.inputs.preprocessing import Preprocessing
from core.inputs.samples import sample_inputs
from core.models.activations import settle
from core.models.layers import Probe, probe
from core.models.structure import (
    checksum,
    ignore_as_in,
    ignore_changes,
    octets_of,
    settings,
    structure,
    text_of,
)
from core.runtime.batching import Budget, is_out_of_memory
from core.runtime.evaluation_mode import no_grad_no_autocast
from core.runtime.forward import Forward
from core.runtime.model_call import copy_model
from core.runtime.streaming import memory_exhausted
from core.synthetic import SYNTHETIC_MODELS
from core.synthetic.scenes import CLASSES
from core.tasks.activation import Activation
from core.tasks.classification import Classification
from core.tasks.reading import has_no_classes
from core.tasks.segmentation import Segmentation
from core.types import AttentionLayer, Layer, Need, OutputKind

PASS_BYTES = 2 * 2**30
"""Memory for the layer outputs of one pass, in bytes."""


class ModelHandle:
    """A model with everything needed to predict and explain pictures.

    Args:
        model: maps (B, C, H, W) to (B, N), or to (B, N, h, w) if it segments. An owned model must
            not be changed from outside.
        name: the model's name in messages and results.
        preprocessing: maps a picture to the model's input.
        labels: class names in output order; None if unknown.
        device: the device of the model; None takes that of its first parameter.
        source: where the weights come from, as text.
        owned: True if no other code can change the model. The weights of a model lent by the caller
            are checked for changes each time.
        activation: what turns its scores into what a person reads; None to find it.
        forward: how it is called and its scores are found; by default with the images alone.
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
        activation: Activation | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.preprocessing = preprocessing
        self.labels = labels
        self.source = source
        self.owned = owned
        self.activation = activation
        self._call = forward or Forward(model, name)
        first = next(model.parameters(), torch.empty(0))
        self.device = device or first.device
        self.dtype = first.dtype if first.is_floating_point() else torch.float32
        self.lock = _lock_of(model)
        self._hashed: tuple[object, str] | None = None
        self._kept: dict[str, Tensor] | None = None
        self._enlarged: dict[int, ModelHandle | None] = {}
        self._probed: str | None = None  # the structure of the model when it was probed

    def __repr__(self) -> str:
        return f"ModelHandle({self.name!r}, {self.outputs} outputs, {self.device})"

    # -- properties -----------------------------------------------------------------------------

    @cached_property
    def probe(self) -> Probe:
        """The layers of the model, found by one pass of a noise image when first needed.

        Raises:
            ModelFailure: the model raised an error.
            ModelError: the model does not give one row of scores per image, nor maps of scores.
            MemoryExhaustedError: not even one image fits into memory.
        """
        size = self.preprocessing.input_size
        try:
            with self.lock, no_grad_no_autocast(self.device):
                before = {} if self.owned else settings(self.model)
                found = probe(self.model, size, self.name, self._call)
                if not self.owned:
                    ignore_changes(self.model, before, settings(self.model))
                    self._probed = structure(self.model)
                return found
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            row = torch.empty((1, *size), device="meta")
            raise memory_exhausted(self.name, row, self.device) from None

    @property
    def outputs(self) -> int:
        """Number of outputs (classes)."""
        return self.probe.outputs

    @cached_property
    def task(self) -> Classification | Segmentation:
        """How the outputs are read, and what can be asked about them.

        Raises:
            ModelError: the activation that was given contradicts the model.
        """
        activation, _ = self._settled
        if self.probe.dense:
            return Segmentation(activation, self.input_size[1:], self.labels)
        kind: OutputKind = "class" if activation.bounded else "output"
        return Classification(
            activation, self.labels, "feature" if has_no_classes(self.model) else kind
        )

    @cached_property
    def forward(self) -> Forward:
        """One forward pass: from images (n, C, H, W) to scores (n, N)."""
        return replace(self._call, before_ending=self._settled[1])

    @property
    def reading(self) -> str:
        """Identifies how the outputs are read: the task, the part of the outputs, other inputs."""
        call = self.forward
        parts = call.output, call.argument, dict(call.kwargs), call.classes, call.before_ending
        return f"{self.task.key} {text_of(parts)}"

    @cached_property
    def _settled(self) -> tuple[Activation, bool]:
        return settle(self.activation, self.model, self.probe, self.name)

    @property
    def domain_note(self) -> str:
        """What the predictions are worth at most, a sentence; empty if nothing is known of it.

        Random weights predict nothing, and a model of the synthetic scenes knows no other pictures:
        whatever it is shown, it calls one of its six kinds of objects, and often with certainty.
        """
        if self.source.startswith("random"):
            return "The weights are random: the prediction means nothing."
        if self.source == "embedded" and self.name in SYNTHETIC_MODELS:
            return (
                f"{self.name} knows only generated scenes of {len(CLASSES)} kinds of objects: of "
                "any other picture, such as a photograph, the prediction means nothing."
            )
        return ""

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the model's input."""
        return self.preprocessing.input_size

    @property
    def stem(self) -> str | None:
        """The convolution that is the only module to read the picture; None if there is none."""
        return self.probe.stem

    @cached_property
    def budget(self) -> Budget:
        """Rows per pass.

        On a CPU, at most 16 rows forward and 8 backward: more are not faster (measured on resnet50,
        EfficientNet-Lite0 and ViT-S with 4 to 32 rows).
        """
        room = PASS_BYTES // max(1, self.probe.row_bytes)
        if self.device.type == "cpu":
            return Budget(max(1, min(16, room)), max(1, min(8, room)))
        return Budget(max(8, min(256, room)))

    def refresh(self) -> None:
        """Forgets what was found out about a lent model if it has been changed since.

        See `core.models.structure` for what counts as a change.
        """
        if not self.owned and self._probed is not None:
            self._forget_unless(self._structure())

    def _structure(self) -> str:
        with self.lock:
            return structure(self.model)

    def _forget_unless(self, structure_now: str) -> None:
        """Forget what was found out, unless the model has the structure that was probed."""
        if self._probed not in (None, structure_now):
            self._probed = None
            self._enlarged.clear()
            for name in ("probe", "supports", "budget", "task", "forward", "_settled"):
                vars(self).pop(name, None)

    def fingerprint(self) -> str:
        """A digest of name, architecture, preprocessing, weights, settings and hooks.

        It changes with any weight or buffer, with a hook, a submodule, a forward method or an
        attribute of a module that is added, removed or replaced, and with what attributes, hooks
        and closures hold. What cannot be told is in `core.models.structure`.
        """
        if self._kept is None or not self.owned:
            self._kept = self._tensors()
        tensors, now = self._kept, ""
        quick: object
        if self.owned:
            quick = [(t.data_ptr(), t._version) for t in tensors.values()]
        else:
            now = self._structure()
            self._forget_unless(now)
            sums = [(n, t.shape, t.dtype, int(checksum(t))) for n, t in tensors.items()]
            quick = now, sums
        if self._hashed is None or self._hashed[0] != quick:
            self._hashed = quick, self._digest(tensors, now or self._structure())
        return self._hashed[1]

    def _tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, read each time: a lent model may replace them."""
        named = itertools.chain(self.model.named_parameters(), self.model.named_buffers())
        return {name: tensor.detach() for name, tensor in named}

    def _digest(self, tensors: Mapping[str, Tensor], structure_now: str) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self.name} {structure_now} {self.preprocessing}".encode())
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(octets_of(tensor.cpu()).numpy().tobytes())
        return digest.hexdigest()

    # -- layers ---------------------------------------------------------------------------------

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
        """The layer that CAM methods use by default; None if no layer fits."""
        return self.probe.default_layer

    def stages(self) -> list[Layer]:
        """The short list of layers: the last layer of each stage, and the default layer."""
        return [
            layer
            for layer in self.layers.values()
            if _is_offered(layer) and (layer.stage or layer.name == self.default_layer)
        ]

    def choices(self, needs: Iterable[Need]) -> list[str]:
        """The layers offered for a method with these needs, the short list first.

        Any other layer whose output lies on a grid can be named too, even on a grid of one cell.
        """
        if Need.ATTENTION in needs:
            return [a.name for a in self.attention_layers.values() if a.layout is not None]
        if Need.LAYER not in needs:
            return []
        short = [layer.name for layer in self.stages()]
        rest = [n for n, layer in self.layers.items() if _is_offered(layer)]
        return list(dict.fromkeys(short + rest))

    def resolve_layer(self, needs: Iterable[Need], name: str | None) -> str | None:
        """The layer that a method with these needs uses.

        Args:
            needs: the method's needs.
            name: the layer named by the caller; None for the default.

        Returns:
            The layer's name; None if the method uses no layer.

        Raises:
            UnknownNameError: there is no such layer.
            NotApplicableError: the layer does not fit the method.
        """
        needs = frozenset(needs)
        choices = self.choices(needs)
        known = {*self.layers, *self.attention_layers}
        if name is not None and name not in known:
            error = unknown("layer", name, choices or known, f"in {self.name}")
            raise error.offering(*self._layer_ways_out(needs))
        layer = None if name is None else self.layers.get(name)
        if Need.LAYER in needs and layer is not None and layer.layout is not None:
            return name
        if Need.LAYER in needs and layer is not None and layer.reason:
            way_out = f"choose one such as {choices[0]!r}" if choices else "use saliency"
            raise NotApplicableError(
                f"layer {name!r} of {self.name} {layer.reason}; {way_out}",
                self._layer_ways_out(needs),
            )
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
            f"layer {name!r} of {self.name} does not {kind}; choose one such as {way_out!r}",
            self._layer_ways_out(needs),
        )

    def _layer_ways_out(self, needs: Iterable[Need]) -> list[WayOut]:
        """The layer that is used where none is named, as a way out."""
        default = self.resolve_layer(needs, None)
        return [WayOut("layer", default, f"Use {default}")] if default else []

    # -- capabilities ---------------------------------------------------------------------------

    @cached_property
    def supports(self) -> frozenset[Need]:
        """The needs this model meets."""
        return frozenset(need for need in Need if not self._reason(need))

    def why_not(self, needs: Iterable[Need], layer: str | None = None) -> str:
        """Why a method with these needs cannot run on this model; empty if it can.

        Args:
            needs: the method's needs.
            layer: the layer named by the caller; with one, no default layer is needed.
        """
        named = frozenset() if layer is None else frozenset({Need.LAYER})
        wanted = sorted(frozenset(needs) - named)
        return next((reason for need in wanted if (reason := self._reason(need))), "")

    @property
    def hidden_form(self) -> str:
        """Why neither layers nor operations can be seen inside of the model; empty if they can."""
        if any(layer.layout is not None for layer in self.layers.values()):
            return ""
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.model.modules()):
            form = "TorchScript, which shows neither its layers nor its operations"
        elif any("quantized" in type(module).__module__ for module in self.model.modules()):
            form = "quantised, and its layers give integers"
        elif isinstance(self.model, torch.fx.GraphModule):
            form = "an exported graph, which shows neither its layers nor its operations"
        else:
            return ""
        other = "integrated_gradients" if self.probe.differentiable else "occlusion"
        return f"{self.name} is {form}; load the original module, or choose {other}"

    def _reason(self, need: Need) -> str:
        if need is not Need.GRADIENT and self.hidden_form:
            return self.hidden_form
        if need is Need.ATTENTION:
            return self._attention_reason()
        if need is Need.GRADIENT and not self.probe.differentiable:
            return f"{self.name} has no gradient from its output to its input"
        if need is Need.LAYER and self.default_layer is None:
            return self._layer_reason()
        return ""

    def _layer_reason(self) -> str:
        reasons = [layer.reason for layer in self.layers.values() if layer.reason]
        if reasons and not self.choices([Need.LAYER]):
            return f"every layer of {self.name} that lies on a grid {reasons[0]}; use saliency"
        named = [name for name, layer in self.layers.items() if layer.layout is not None]
        way_out = f"; name a layer on a coarser grid, such as {named[-1]!r}" if named else ""
        return f"{self.name} has no layer on a spatial grid of at least 3x3 cells{way_out}"

    def _attention_reason(self) -> str:
        found = list(self.attention_layers.values())
        if not found:
            return f"{self.name} computes no softmax attention; choose a CAM or gradient method"
        if all(layer.layout is None for layer in found):
            return (
                f"attention in {self.name} cannot be mapped to the picture: in {found[-1].name!r} "
                f"{found[-1].reason}"
            )
        return ""

    @cached_property
    def samples(self) -> Tensor:
        """(n, C, H, W) the sample pictures, in model units, on the model's device."""
        with no_grad_no_autocast(self.device):
            return sample_inputs(self.preprocessing).to(self.device, self.dtype)

    def enlarged(self, times: int) -> ModelHandle | None:
        """The same model for inputs `times` as high and wide; None if it cannot take them.

        Raises:
            MemoryExhaustedError: an input of that size does not fit into memory.
        """
        if times not in self._enlarged:
            channels, height, width = self.input_size
            sized = replace(
                self.preprocessing, input_size=(channels, times * height, times * width)
            )
            twin = self._with(self.model, sized, owned=self.owned)
            try:
                fits = twin.outputs == self.outputs
            except (ModelFailure, ModelError, NotApplicableError):  # an unsupported input size
                fits = False
            self._enlarged[times] = twin if fits else None
        return self._enlarged[times]

    def under(self, activation: Activation | None) -> ModelHandle:
        """A handle on the same model that reads its scores with another activation."""
        twin = self._with(self.model, self.preprocessing, owned=self.owned)
        twin.activation = activation
        twin.__dict__["probe"], twin._probed = self.probe, self._probed
        return twin

    def clone(self) -> ModelHandle:
        """A handle on a copy of the model, whose weights may be changed.

        Raises:
            ModelFailure: the model cannot be copied.
        """
        copied = copy_model(self.model, name=self.name)
        ignore_as_in(copied, self.model)
        twin = self._with(copied, self.preprocessing, owned=True)
        twin.__dict__["probe"] = self.probe  # a copy has the same layers
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
            activation=self.activation,
            forward=replace(self._call, model=model),
        )

    # -- pixels ---------------------------------------------------------------------------------

    def pixel(self, value: float) -> Tensor:
        """A grey level in [0, 1] as (C, 1, 1) model units, on the model's device."""
        return self.preprocessing.pixel(value).to(self.device, self.dtype)

    def to_pixels(self, x: Tensor) -> Tensor:
        """Converts model units (..., C, H, W) to pixel values in [0, 1]."""
        return self.preprocessing.to_pixels(x)


def _is_offered(layer: Layer) -> bool:
    """Whether a layer lies on a grid of more than one cell."""
    return layer.layout is not None and min(layer.layout.grid) > 1


# -- models that other code may use or change ---------------------------------------------------


_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(model: nn.Module) -> AbstractContextManager[object]:
    """The lock of a module, shared by all handles on it."""
    with _LOCKS_LOCK:
        lock: AbstractContextManager[object] = _LOCKS.setdefault(model, threading.RLock())
        return lock
