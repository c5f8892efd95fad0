"""`load_model`: loads a timm model from its name, a folder, a checkpoint or a module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import timm
import torch
from torch import nn

from core.errors import RANDOM_WEIGHTS, ModelError, unknown
from core.inputs.preprocessing import Preprocessing
from core.inputs.transforms import from_transform, is_transform
from core.models import checkpoint, embedded, hugging_face
from core.models.device import choose_device, move_to_device, require_room, size_of
from core.models.handle import ModelHandle
from core.models.hugging_face import HuggingFaceSpec
from core.models.kept import holds_pretrained
from core.models.labels import file_labels, given_labels, inferred_labels
from core.models.spec import ModelSpec, State, spec_for
from core.runtime.forward import Forward
from core.tasks.activation import ActivationLike, to_activation
from core.tasks.reading import TASKS, OutputPart, TaskName

DEFAULT_MODEL = embedded.NAME
"""The default model; it needs no download."""

PreprocessingLike = Mapping[str, object] | Preprocessing | Callable[..., object]
"""Settings, a whole `Preprocessing`, or a transform or image processor of another library."""

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


class Reading(TypedDict, total=False):
    """How a model is called, and how what it returns is read; each may be left out.

    Attributes:
        activation: what turns the model's scores into what a person reads: "softmax" (exclusive
            classes), "sigmoid" (each class on its own), "probabilities" (the outputs are), or
            "identity" (numbers, as of a regression); or a function from scores (n, N) to
            probabilities. None finds it: from the softmax or sigmoid that the model ends in, from
            what it declares, or from its single output.
        unit: the unit of outputs that are numbers, such as "mm".
        output: which part of what the model returns holds the scores: a key or attribute, a
            position, or a function of it; None where there is no doubt.
        forward_kwargs: the model's other inputs, by parameter. A tensor whose first axis has length
            1 is repeated for each image.
        image_argument: the parameter that takes the images, if it is not the first.
        task: what the model does: "classification" (one row of scores for each picture) or
            "segmentation" (a map of scores for each class); None to tell by what it returns.
    """

    activation: ActivationLike
    unit: str
    output: OutputPart
    forward_kwargs: Mapping[str, Any]
    image_argument: str | None
    task: TaskName | None


def load_model(
    source: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    weights: str | Path | None = None,
    labels: Sequence[str] | str | Path | None = None,
    device: str | torch.device | None = None,
    num_classes: int | None = None,
    preprocessing: PreprocessingLike | None = None,
    token: str | bool | None = None,
    **reading: Unpack[Reading],
) -> ModelHandle:
    """Loads a model.

    Args:
        source: a timm name (``"resnet50"``, ``"resnet50.a1_in1k"``); ``"hf-hub:owner/name"``, also
            with ``@revision``; a folder with `config.json` and weights, as timm or transformers
            exports it; or a module, which is used unchanged on its own device; of what
            `torch.compile` or `DataParallel` made of a module, that module.
        weights: None for the pretrained weights; ``"random"`` for random weights from a fixed seed;
            or a checkpoint of this architecture, whose number of classes is read from the file.
        labels: class names in output order, or a file of them; None uses those of the model or its
            checkpoint or, if the number of classes fits, those of ImageNet.
        device: where to run; None for the fastest device.
        num_classes: number of classes for random weights; for other weights, the expected number.
        preprocessing: settings that replace those of the model's configuration (`input_size`,
            `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`, `value_range` and the other
            fields of `Preprocessing`); a module without `pretrained_cfg` needs the first three. Or
            a whole `Preprocessing`, such as that of another handle; or a transform of torchvision
            or an image processor of transformers, see `core.inputs.transforms`.
        token: access token for the hub; None for the one this machine is logged in with, False for
            none, so that only public models are found.
        **reading: how the model is called, and how what it returns is read; see `Reading`.

    Raises:
        UnknownNameError: there is no such model or device.
        ModelError: the weights are unavailable, damaged or unsafe, or do not fit.
        MemoryExhaustedError: the model does not fit into the memory of the device.

    >>> load_model(device="cpu")
    ModelHandle('tf_efficientnet_lite0', 1000 outputs, cpu)
    """
    _refuse_senseless(num_classes, reading)
    if isinstance(source, nn.Module):
        source = _original(source)
        _refuse_for_modules(source, weights, device)
        model, name, origin, owned = source, _name_of(source), "", False
    else:
        where = choose_device(device)
        with torch.inference_mode(False):  # weights made in it would never have a gradient
            model, name, origin, kept = _fetched(
                source, weights, num_classes, where, token, preprocessing is None
            )
        preprocessing = kept if preprocessing is None else preprocessing
        owned = True
    return _handle(model, name, origin, owned, labels, num_classes, preprocessing, reading)


def _refuse_senseless(num_classes: int | None, reading: Reading) -> None:
    """Refuse before any work what can be seen to be wrong."""
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes is {num_classes}; give 1 or more")
    if odd := sorted(reading.keys() - Reading.__annotations__.keys()):
        raise TypeError(f"load_model takes no {', '.join(odd)}")
    to_activation(reading.get("activation"), reading.get("unit", ""))
    if (task := reading.get("task")) is not None and task not in TASKS:
        raise unknown("task", task, TASKS)


def _handle(
    model: nn.Module,
    name: str,
    origin: str,
    owned: bool,
    labels: Sequence[str] | str | Path | None,
    num_classes: int | None,
    preprocessing: PreprocessingLike | None,
    reading: Reading,
) -> ModelHandle:
    found = _labels(model, labels, num_classes)
    classes = _classes(model, num_classes) or (len(found) if found else None)
    forward = Forward(
        model,
        name,
        reading.get("output"),
        reading.get("image_argument"),
        dict(reading.get("forward_kwargs") or {}),
        classes,
        task=reading.get("task"),
    )
    return ModelHandle(
        model,
        name=name,
        preprocessing=_preprocessing(model, name, {} if preprocessing is None else preprocessing),
        labels=found,
        device=_device_of(model),
        source=origin,
        owned=owned,
        activation=to_activation(reading.get("activation"), reading.get("unit", "")),
        forward=forward,
    )


def _fetched(
    source: str | Path,
    weights: str | Path | None,
    num_classes: int | None,
    where: torch.device,
    token: str | bool | None,
    prepares: bool,
) -> tuple[nn.Module, str, str, Preprocessing | None]:
    """The model that a name or folder stands for, on its device.

    Returns:
        The model, its name, where its weights come from, and the preprocessing kept beside them,
        if `prepares` asks for it; None where there is none.
    """
    spec, kept = spec_for(source, token), None
    if isinstance(spec, HuggingFaceSpec):
        model, origin = spec.build(weights, where, _SEED)
        name, kept = spec.name, spec.preprocessing() if prepares else None
    else:
        model, origin = _with_weights(spec, weights, num_classes, where)
        # A name stands for weights as well; other weights leave only the architecture of it.
        name = spec.name if weights is None else spec.architecture
    move_to_device(model, where, name)
    return model, name, origin, kept


def _classes(model: nn.Module, given: int | None) -> int | None:
    """How many classes the model declares, or the caller says; None if neither does."""
    declared = getattr(model, "num_classes", None)
    return declared if isinstance(declared, int) else given


def _labels(
    model: nn.Module, given: Sequence[str] | str | Path | None, num_classes: int | None
) -> Sequence[str] | None:
    """The class names given, or those that the model declares; None if unknown."""
    classes = _classes(model, num_classes)
    if given is not None:
        return given_labels(given, classes)
    names = hugging_face.labels_of(model)
    if names is not None:
        return given_labels(names, None)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return inferred_labels(cfg, classes) if classes else None


def _preprocessing(model: nn.Module, name: str, given: PreprocessingLike) -> Preprocessing:
    if isinstance(given, Preprocessing):
        return given
    if is_transform(given):
        return from_transform(given)
    if given == {} and (kept := hugging_face.preprocessing_of(model)) is not None:
        return kept
    if not isinstance(given, Mapping):
        raise ModelError(
            f"preprocessing is {type(given).__name__}; give settings such as {{'crop_pct': 1.0}}, "
            "the preprocessing of a handle, a transform or an image processor"
        )
    needed = {"input_size", "mean", "std"}
    if not getattr(model, "pretrained_cfg", None) and not needed <= given.keys():
        raise ModelError(
            f"{name} does not define its preprocessing; pass preprocessing="
            "{'input_size': (3, height, width), 'mean': (r, g, b), 'std': (r, g, b)}"
        )
    try:
        return Preprocessing.from_model(model, **{str(key): one for key, one in given.items()})
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
    """The architecture, with the tag of the pretrained weights only if the module holds them.

    timm gives every module the configuration of its default weights, whether they were loaded or
    not, and training changes them. So the module is compared with the file that timm has kept.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    kind = getattr(model, "original_name", type(model).__name__)  # of a module of TorchScript
    name = str(cfg.get("architecture") or kind)
    tag = cfg.get("tag")
    return f"{name}.{tag}" if tag and holds_pretrained(model, cfg) else name


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
        try:
            state, origin = spec.pretrained()
        except ModelError as error:
            error.offering(RANDOM_WEIGHTS)
            raise
        what = f"the file of {spec.name}"
    else:
        state, origin = checkpoint.read_weights(weights), str(weights)
        what = repr(Path(weights).name)
    model = _loaded(spec, state, what, classes, skeleton, device)
    names = file_labels(getattr(state, "facts", {}), getattr(model, "num_classes", None))
    if names is not None and (weights is not None or not spec.cfg.get("label_names")):
        cfg: dict[str, Any] = vars(model)["pretrained_cfg"]
        cfg.update(label_names=names, label_descriptions=None)
    return model, origin


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
