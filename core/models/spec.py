"""ModelSpec: the architecture, configuration and weights that a model's name stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from timm.models._hub import load_model_config_from_path
from timm.models._pretrained import PretrainedCfg
from torch import Tensor

from core.errors import ModelError, TimmscopeError, UnknownNameError
from core.models import checkpoint, embedded, hub
from core.models.hugging_face import PROCESSOR, HuggingFaceSpec, is_hugging_face
from core.models.listing import find
from core.synthetic import SYNTHETIC_MODELS

State = dict[str, Tensor]

# Arguments that a foreign configuration may not set: they concern loading, not the module.
_NOT_FOR_CONFIGS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "features_only",
        "model_name",
        "num_classes",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_model_args",
        "pretrained_strict",
    }
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to build a model; it holds no weights.

    Attributes:
        name: the model's name.
        architecture: timm's name of the architecture.
        cfg: timm's `pretrained_cfg` without the location of the weights.
        args: further arguments of the architecture.
        pretrained: loads the pretrained weights and returns them with a text that says where they
            come from.
    """

    name: str
    architecture: str
    cfg: Mapping[str, Any]
    args: Mapping[str, Any]
    pretrained: Callable[[], tuple[State, str]]


def spec_for(source: str | Path, token: str | bool | None = None) -> ModelSpec | HuggingFaceSpec:
    """The spec of a named model. From the hub, only the configuration is downloaded.

    Args:
        source: as in `load_model`, except modules.
        token: access token for the hub; see `load_model`.

    Raises:
        UnknownNameError: there is no such model.
        ModelError: its configuration is unavailable or invalid.
    """
    text = str(source)
    scheme, _, rest = text.partition(":")
    if scheme.lower() in ("hf-hub", "hf_hub"):
        return _hub_spec(rest, token)
    if scheme.lower() == "local-dir":
        return _folder_spec(Path(rest))
    if not isinstance(source, Path):
        try:
            return _timm_spec(text, token)
        except UnknownNameError:
            if not _exists(text):
                raise
    if _exists(text) and Path(text).is_file():
        raise ModelError(
            f"{text!r} is a file of weights; name its architecture as well: "
            f"load_model('resnet50', weights={text!r})"
        )
    return _folder_spec(Path(text))


def _exists(path: str | Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  unlike Path, False for an invalid name


def _timm_spec(name: str, token: str | bool | None) -> ModelSpec:
    cfg = find(name)
    name = name.removeprefix("timm/")
    source = _timm_source(name, cfg, token)
    args = SYNTHETIC_MODELS[name].args if name in SYNTHETIC_MODELS else {}
    return ModelSpec(name, str(cfg.architecture), _without_location(cfg), args, source)


def _timm_source(
    name: str, cfg: PretrainedCfg, token: str | bool | None
) -> Callable[[], tuple[State, str]]:
    what = f"the weights of {name}"
    if embedded.is_embedded(name):
        return lambda: (embedded.weights(name), "embedded")
    if cfg.hf_hub_id:
        return partial(_from_hub, cfg.hf_hub_id, cfg.hf_hub_filename, what, token)
    if isinstance(cfg.url, str) and cfg.url:
        return partial(_from_url, cfg.url, what)
    return partial(_no_weights, name)


def _hub_spec(repo: str, token: str | bool | None) -> ModelSpec | HuggingFaceSpec:
    what = f"hf-hub:{repo[:100]}"
    config = hub.fetch(repo, ("config.json",), what, token)
    if is_hugging_face(config.parent):
        weights = partial(_hub_file, repo, None, f"the weights of {what}", token)
        processor = partial(_hub_file_if_any, repo, PROCESSOR, what, token)
        return HuggingFaceSpec(repo.partition("@")[0], config.parent, weights, processor)
    cfg, architecture, args = _read_config(config.parent, what)
    name = repo.partition("@")[0]
    pretrained = partial(_from_hub, repo, cfg.hf_hub_filename, f"the weights of {what}", token)
    return ModelSpec(name, architecture, _without_location(cfg), args, pretrained)


def _folder_spec(folder: Path) -> ModelSpec | HuggingFaceSpec:
    if not _exists(folder / "config.json"):
        raise ModelError(
            f"there is no config.json in {str(folder)!r}; "
            "name a folder that timm exported a model into"
        )
    if is_hugging_face(folder):
        weights = partial(_folder_file, folder)
        return HuggingFaceSpec(folder.resolve().name, folder, weights, lambda: None)
    cfg, architecture, args = _read_config(folder, str(folder))
    return ModelSpec(
        folder.resolve().name,
        architecture,
        _without_location(cfg),
        args,
        partial(_from_folder, folder),
    )


def _read_config(folder: Path, what: str) -> tuple[PretrainedCfg, str, dict[str, Any]]:
    """Reads `config.json`: configuration with preprocessing and labels, architecture, arguments."""
    known = {field.name for field in fields(PretrainedCfg)}
    try:
        content, architecture, args = load_model_config_from_path(folder)
        cfg = PretrainedCfg(**{k: v for k, v in content.items() if k in known})
        args = {k: v for k, v in args.items() if k not in _NOT_FOR_CONFIGS}
        architecture = find(str(architecture)).architecture
    except TimmscopeError as error:
        raise ModelError(f"{what} has an unknown architecture: {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{what} is not a timm model: its config.json names no architecture; "
            "export it with timm, or use weights=FILE"
        ) from error
    return cfg, str(architecture), args


def _without_location(cfg: PretrainedCfg) -> dict[str, Any]:
    """The configuration without the location of the weights."""
    removed = dict.fromkeys(("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict"))
    return dict(replace(cfg, custom_load=False, **removed).to_dict())


def _from_hub(
    repo: str, file_name: str | None, what: str, token: str | bool | None
) -> tuple[State, str]:
    file, origin = _hub_file(repo, file_name, what, token)
    return checkpoint.read_weights(file), origin


def _hub_file(
    repo: str, file_name: str | None, what: str, token: str | bool | None
) -> tuple[Path, str]:
    """A file of a repository, by default its weights, and a text that says where it comes from."""
    names = (str(file_name),) if file_name else hub.WEIGHTS
    file = hub.fetch(repo, names, what, token)
    return file, f"hf-hub:{repo.partition('@')[0]}@{hub.revision_of(file)}".rstrip("@")


def _hub_file_if_any(repo: str, name: str, what: str, token: str | bool | None) -> None:
    with suppress(ModelError):
        _hub_file(repo, name, what, token)


def _from_url(url: str, what: str) -> tuple[State, str]:
    return checkpoint.read_weights(hub.fetch_url(url, what)), url


def _from_folder(folder: Path) -> tuple[State, str]:
    file, origin = _folder_file(folder)
    return checkpoint.read_weights(file), origin


def _folder_file(folder: Path) -> tuple[Path, str]:
    files = [folder / name for name in hub.WEIGHTS]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise ModelError(
            f"{str(folder)!r} has no {' or '.join(hub.WEIGHTS)}; "
            "use weights=FILE or weights='random'"
        )
    return found, str(found)


def _no_weights(name: str) -> tuple[State, str]:
    raise ModelError(
        f"timm has no pretrained weights for {name}; use weights='random' or weights=FILE"
    )
