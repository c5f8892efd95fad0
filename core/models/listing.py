"""Lists the available models without building them."""

from __future__ import annotations

import fnmatch
from dataclasses import replace

import timm
from timm.models import get_deprecated_models, get_pretrained_cfg, is_model
from timm.models._pretrained import PretrainedCfg

from core.errors import ModelError, UnknownNameError, unknown
from core.models import embedded, hub
from core.synthetic import SYNTHETIC_MODELS


def list_models(pattern: str = "", limit: int | None = None) -> dict[str, dict[str, object]]:
    """All models by name: the small models trained on synthetic scenes, and timm's.

    Args:
        pattern: part of a name, or a pattern with ``*``, ``?`` or ``[...]``; case is ignored.
        limit: maximum number of models; None for all.

    Returns:
        For each full name (`architecture.tag`): `pretrained`, whether there are trained weights;
        `offline`, whether they need no download; `input_size`, (channels, height, width) in
        pixels; `classes`, 0 for a model without a classifier.

    >>> list_models("tf_*lite0*")["tf_efficientnet_lite0.in1k"]
    {'pretrained': True, 'offline': True, 'input_size': [3, 224, 224], 'classes': 1000}
    """
    pattern = pattern.lower()
    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = [*SYNTHETIC_MODELS, *timm.list_models(include_tags=True)]
    matching = [name for name in names if fnmatch.fnmatchcase(name.lower(), glob)]
    return {name: _facts(name) for name in matching[:limit]}


def _facts(name: str) -> dict[str, object]:
    cfg = find(name)
    available = embedded.is_embedded(name) and embedded.is_available(name)
    return {
        "pretrained": embedded.is_embedded(name) or bool(cfg.has_weights),
        "offline": available or bool(cfg.hf_hub_id and hub.is_cached(cfg.hf_hub_id)),
        "input_size": list(cfg.input_size),
        "classes": cfg.num_classes,
    }


def find(name: str) -> PretrainedCfg:
    """Timm's configuration of a model: architecture, location of the weights, preprocessing.

    Args:
        name: `architecture` or `architecture.tag`, also a deprecated name or one that starts with
            `timm/`; or the name of a model in `core.synthetic`.

    Raises:
        UnknownNameError: timm has no such architecture, or no such tag of it.
        ModelError: timm has removed the model.

    >>> find("timm/resnet50.a1_in1k").hf_hub_id
    'timm/resnet50.a1_in1k'
    >>> find("resnt50").architecture
    Traceback (most recent call last):
    core.errors.UnknownNameError: no model 'resnt50'; did you mean 'resnet50' or 'resnet50t' or \
'resnet50s'?
    """
    if name in SYNTHETIC_MODELS:
        return PretrainedCfg(**SYNTHETIC_MODELS[name].cfg())
    name = _current(name.removeprefix("timm/"))
    if name.startswith(("/", ".")):
        raise UnknownNameError(f"no model {name[:80]!r} in timm and no such folder; check the path")
    if "/" in name:
        raise UnknownNameError(
            f"no model {name[:80]!r} in timm and no such folder; "
            f"write 'hf-hub:{name[:80]}' for a model on the hub"
        )
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        raise unknown("model", name, [*SYNTHETIC_MODELS, *timm.list_models()])
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=not tag) or PretrainedCfg()
    except RuntimeError as error:
        tagged = timm.list_models(f"{architecture}.*", include_tags=True)
        raise unknown("model", name, tagged or [architecture]) from error
    return replace(cfg, architecture=architecture)


def _current(name: str) -> str:
    """The current name of a model that timm has renamed."""
    renamed = get_deprecated_models()
    if name not in renamed:
        return name
    if renamed[name] is None:
        raise ModelError(
            f"timm no longer has {name!r}; the command `models` lists the available ones"
        )
    return str(renamed[name])
