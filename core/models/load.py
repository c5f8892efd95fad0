"""`load_model`: loads a timm model from its name, a folder, a checkpoint or a module."""

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
"""The default model; it needs no download."""

_SEED = 0
_BUILDING = threading.Lock()  # building sets the random state of the process
UNBUILDABLE = (
    TypeError,
    ValueError,
    RuntimeError,
    AssertionError,
    LookupError,
    AttributeError,
)
"""Errors that timm raises if a model cannot be built from its name and arguments."""


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
    """Loads a model.

    Args:
        source: a timm name (``"resnet50"``, ``"resnet50.a1_in1k"``); ``"hf-hub:owner/name"``, also
            with ``@revision``; a folder with `config.json` and weights, as timm exports it; or a
            module, which is used unchanged on its own device; of what `torch.compile` or
            `DataParallel` made of a module, that module.
        weights: None for the pretrained weights; ``"random"`` for random weights from a fixed seed;
            or a checkpoint of this architecture, whose number of classes is read from the file.
        labels: class names in output order, or a file of them; None uses those of the model or, if
            the number of classes fits, those of ImageNet.
        device: where to run; None for the fastest device.
        num_classes: number of classes for random weights; for other weights, the expected number.
        preprocessing: settings that replace those of the model's configuration (`input_size`,
            `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`); a module without
            `pretrained_cfg` needs the first three.
        token: access token for the hub; None for the one this machine is logged in with, False for
            none, so that only public models are found.

    Raises:
        UnknownNameError: there is no such model or device.
        ModelError: the weights are unavailable, damaged or unsafe, or do not fit.
        MemoryExhaustedError: the model does not fit into the memory of the device.

    >>> load_model(device="cpu")
    ModelHandle('tf_efficientnet_lite0', 1000 outputs, cpu)
    """
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes is {num_classes}; give 1 or more")
    if isinstance(source, nn.Module):
        source = _original(source)
        _refuse_for_modules(source, weights, device)
        return _handle(source, _name_of(source), "", False, labels, num_classes, preprocessing)
    where = choose_device(device)
    spec = spec_for(source, token)
    with torch.inference_mode(False):  # weights made in it would never have a gradient
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
            f"{name} does not define its preprocessing; pass preprocessing="
            "{'input_size': (3, height, width), 'mean': (r, g, b), 'std': (r, g, b)}"
        )
    try:
        return Preprocessing.from_model(model, **given)
    except TypeError as error:
        raise ModelError(
            f"the preprocessing of {name} has a value of the wrong type ({error}); "
            "see the fields of Preprocessing"
        ) from error


# -- modules of the caller ------------------------------------------------------------------------


def _original(model: nn.Module) -> nn.Module:
    """The module that was compiled, or that is run on several devices."""
    inner = getattr(model, "_orig_mod", None)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = model.module
    return _original(inner) if isinstance(inner, nn.Module) else model


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
            f"the module is on {here}, not {device}, and load_model does not move it; "
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
    """The model on the CPU, and a text that says where its weights come from."""
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
    """Builds the model on the meta device, after checking that it fits into memory.

    The weights are read on the CPU first, which needs memory for `copies` of the model: the tensors
    of the file and those of the model. If an architecture cannot be built on the meta device, it is
    built on the CPU, but only with timm's own arguments, because a foreign configuration could
    request any size.
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
    """The model with random weights from a fixed seed, or with `state` as timm converts it."""
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
    """The model with the weights of `state`, with as many classes as `state` has."""
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
    differences = checkpoint.describe_mismatch(complete, wanted)
    if differences:
        return _converted(spec, state, what, classes, differences)
    checkpoint.require_finite(complete, what)
    model = _build(spec, classes)
    model.load_state_dict(complete)
    return model


def _converted(
    spec: ModelSpec, state: State, what: str, classes: int | None, differences: str
) -> nn.Module:
    """The model with weights that timm converts from another project's naming."""
    try:
        model = _build(spec, classes, state)
    except ModelError as error:
        raise _mismatch(spec, what, differences) from error
    # Some architectures load a part of the weights silently; parameters that stayed random show it.
    fresh = dict(_build(spec, classes).named_parameters())
    if any(p.ndim > 1 and torch.equal(p, fresh[n]) for n, p in model.named_parameters()):
        raise _mismatch(spec, what, differences)
    checkpoint.require_finite(model.state_dict(), what)
    return model


def _mismatch(spec: ModelSpec, what: str, differences: str) -> ModelError:
    return ModelError(
        f"{what} does not fit {spec.architecture}: {differences}; "
        "name the architecture it was trained with"
    )
