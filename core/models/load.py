"""`load_model`: any timm model, from wherever its weights are, behind one `ModelHandle`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from core.errors import ModelError
from core.inputs.preprocessing import Preprocessing
from core.models import checkpoint, embedded
from core.models.device import choose_device, move_to_device, require_room, size_of
from core.models.handle import ModelHandle
from core.models.labels import given_labels, inferred_labels
from core.models.spec import ModelSpec, State, spec_for

DEFAULT_MODEL = embedded.NAME
"""The model that is used where none is named; it needs no download."""

_SEED = 0
_BUILDING = threading.Lock()  # building borrows the process's random state
UNBUILDABLE = (
    TypeError,
    ValueError,
    RuntimeError,
    AssertionError,
    LookupError,
    AttributeError,
)
"""What timm raises where a model cannot be built from its name and arguments."""


def load_model(
    source: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    weights: str | Path | None = None,
    labels: Sequence[str] | str | Path | None = None,
    device: str | torch.device | None = None,
    num_classes: int | None = None,
    preprocessing: Mapping[str, object] | None = None,
    token: str | bool | None = None,
) -> ModelHandle:
    """A model ready to be asked about pictures.

    Args:
        source: a timm name (``"resnet50"``, ``"resnet50.a1_in1k"``); ``"hf-hub:owner/name"``, also
            with ``@revision``; a folder with `config.json` and weights, as timm exports it; or a
            module, which is used as it is, where it is.
        weights: None for the pretrained ones; ``"random"`` for the same random ones each time; or
            a checkpoint for this architecture, whose number of classes is read from the file.
        labels: class names in output order, or a file of them; None takes the model's own or, going
            by the number of classes, ImageNet's.
        device: where to run; None takes the fastest there is.
        num_classes: how many classes random weights are to have; with any other weights, how many
            they are expected to have.
        preprocessing: what to do otherwise than the model's configuration says (`input_size`,
            `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`); a module that has no
            `pretrained_cfg` needs the first three.
        token: for the hub: None for the one this machine is logged in with, False for none, so that
            only what is public is found; or a token.

    Raises:
        UnknownNameError: there is no such model or device.
        ModelError: the weights cannot be had, are damaged or unsafe, or do not fit.
        MemoryExhaustedError: the model is too large for the device.

    >>> load_model(device="cpu")
    ModelHandle('tf_efficientnet_lite0', 1000 outputs, cpu)
    """
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes is {num_classes}; give 1 or more")
    if isinstance(source, nn.Module):
        _refuse_for_modules(source, weights, device)
        return _handle(source, _name_of(source), "", False, labels, num_classes, preprocessing)
    where = choose_device(device)
    spec = spec_for(source, token)
    model, origin = _with_weights(spec, weights, num_classes, where)
    move_to_device(model, where, spec.name)
    return _handle(model, spec.name, origin, True, labels, num_classes, preprocessing)


def _handle(
    model: nn.Module,
    name: str,
    origin: str,
    owned: bool,
    labels: Sequence[str] | str | Path | None,
    num_classes: int | None,
    preprocessing: Mapping[str, object] | None,
) -> ModelHandle:
    declared = getattr(model, "num_classes", None)
    classes = declared if isinstance(declared, int) else num_classes
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if labels is not None:
        labels = given_labels(labels, classes)
    elif classes:
        labels = inferred_labels(cfg, classes)
    return ModelHandle(
        model,
        name=name,
        preprocessing=_preprocessing(model, name, preprocessing or {}),
        labels=labels,
        device=_device_of(model),
        source=origin,
        owned=owned,
    )


def _preprocessing(model: nn.Module, name: str, given: Mapping[str, Any]) -> Preprocessing:
    needed = {"input_size", "mean", "std"}
    if not getattr(model, "pretrained_cfg", None) and not needed <= given.keys():
        raise ModelError(
            f"{name} does not say how its pictures are prepared; pass preprocessing="
            "{'input_size': (3, height, width), 'mean': (r, g, b), 'std': (r, g, b)}"
        )
    try:
        return Preprocessing.from_model(model, **given)
    except TypeError as error:
        raise ModelError(
            f"the preprocessing of {name} has a value of the wrong kind ({error}); "
            "see the fields of Preprocessing"
        ) from error


# -- a module of the caller's ---------------------------------------------------------------------


def _refuse_for_modules(
    model: nn.Module, weights: str | Path | None, device: str | torch.device | None
) -> None:
    if weights is not None:
        raise ModelError("weights cannot be given with a module; load them into it first")
    here = _device_of(model)
    if here.type == "meta":
        raise ModelError("the module is on the meta device, without weights; load them first")
    if device is not None and choose_device(device) != here:
        raise ModelError(
            f"the module is on {here}, not {device}, and is never moved by us; "
            f"call module.to({str(device)!r}) first"
        )


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


def _name_of(model: nn.Module) -> str:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    parts = (cfg.get("architecture"), cfg.get("tag"))
    return ".".join(str(part) for part in parts if part) or type(model).__name__


# -- building -------------------------------------------------------------------------------------


def _with_weights(
    spec: ModelSpec, weights: str | Path | None, classes: int | None, device: torch.device
) -> tuple[nn.Module, str]:
    """The model on the CPU, and where its weights come from."""
    if weights == "random":
        _skeleton(spec, classes, device)
        return _build(spec, classes), f"random weights (seed {_SEED})"
    skeleton = _skeleton(spec, None, device, copies=2)
    if weights is None:
        state, origin = spec.pretrained()
        return _loaded(spec, state, f"the file of {spec.name}", classes, skeleton, device), origin
    state, what = checkpoint.read_weights(weights), repr(Path(weights).name)
    return _loaded(spec, state, what, classes, skeleton, device), str(weights)


def _skeleton(
    spec: ModelSpec, classes: int | None, device: torch.device, copies: int = 1
) -> nn.Module:
    """The model without memory behind its weights, after a look at whether there is room for it.

    It is put together on the CPU first, where there must be room for `copies`: the file's tensors
    and the model's. An architecture that cannot be outlined is built, but only with the arguments
    that timm itself gives: those of a configuration from elsewhere could ask for any size.
    """
    try:
        with torch.device("meta"):
            skeleton = _build(spec, classes)
    except ModelError:
        if spec.args:
            raise
        skeleton = _build(spec, classes)
    require_room(copies * size_of(skeleton), torch.device("cpu"), spec.name)
    require_room(size_of(skeleton), device, spec.name)
    return skeleton


def _build(spec: ModelSpec, classes: int | None, state: State | None = None) -> nn.Module:
    """The model with random weights, the same each time; or with what timm makes of `state`."""
    cfg = {**spec.cfg, "state_dict": state}
    args = dict(spec.args)
    if classes is not None:
        cfg["num_classes"] = args["num_classes"] = classes
    try:
        with _BUILDING, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_SEED)
            model: nn.Module = timm.create_model(
                spec.architecture, pretrained=state is not None, pretrained_cfg=cfg, **args
            )
    except UNBUILDABLE as error:
        cause = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{spec.name} cannot be built as {spec.architecture} ({cause}); check its configuration"
        ) from error
    vars(model).get("pretrained_cfg", {}).pop("state_dict", None)
    return model


def _loaded(
    spec: ModelSpec,
    state: State,
    what: str,
    expected: int | None,
    skeleton: nn.Module,
    device: torch.device,
) -> nn.Module:
    """The model with `state` in it, its head as large as the file's."""
    state = checkpoint.align(state, skeleton.state_dict())
    classes = checkpoint.head_size(state, spec.cfg.get("classifier"))
    has = skeleton.num_classes if classes is None else classes
    if expected not in (None, has):
        raise ModelError(
            f"{what} has {has} classes and num_classes is {expected}; leave "
            "num_classes out, or use weights='random'"
        )
    if has != skeleton.num_classes:
        skeleton = _skeleton(spec, classes, device, copies=2)
    wanted = skeleton.state_dict()
    complete = checkpoint.with_counters(state, wanted)
    differences = checkpoint.misfit(complete, wanted)
    if differences:
        return _converted(spec, state, what, classes, differences)
    checkpoint.require_finite(complete, what)
    model = _build(spec, classes)
    model.load_state_dict(complete)
    return model


def _converted(
    spec: ModelSpec, state: State, what: str, classes: int | None, differences: str
) -> nn.Module:
    """The model with weights that timm knows to convert from another project's names."""
    try:
        model = _build(spec, classes, state)
    except ModelError as error:
        raise _misfit(spec, what, differences) from error
    # Some architectures let timm load in part and say nothing; what stayed random gives it away.
    fresh = dict(_build(spec, classes).named_parameters())
    if any(p.ndim > 1 and torch.equal(p, fresh[n]) for n, p in model.named_parameters()):
        raise _misfit(spec, what, differences)
    checkpoint.require_finite(model.state_dict(), what)
    return model


def _misfit(spec: ModelSpec, what: str, differences: str) -> ModelError:
    return ModelError(
        f"{what} does not fit {spec.architecture}: {differences}; "
        "name the architecture it was trained with"
    )
