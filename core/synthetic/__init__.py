"""Synthetic scenes with known evidence, and small models trained on them.

The models distinguish six classes of objects. The pixels that show the evidence of a class are
known, so explanations of these models can be checked against them. The weights are part of the
repository; ``python -m core.synthetic.train`` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.inputs.assets import asset
from core.synthetic.scenes import CLASSES, SIDE

FOLDER = asset("synthetic")
"""Where the weights and a few pictures lie."""


@dataclass(frozen=True, slots=True)
class SyntheticModel:
    """A small model that is trained on synthetic scenes.

    Attributes:
        name: its name for `load_model`.
        architecture: timm's name of the architecture.
        args: arguments of the architecture that differ from timm's defaults.
        classifier: name of the classifier module.
        max_learning_rate: the highest learning rate in training.
        training_images: number of images seen in training, including repetitions.
        cell_supervision: whether training also predicted the class of each cell of the last grid.
        rescaled_init: whether the initial weights of each layer are scaled by its width. Timm's
            fixed scale is meant for wider networks.
    """

    name: str
    architecture: str
    args: Mapping[str, Any]
    classifier: str
    max_learning_rate: float
    training_images: int
    cell_supervision: bool = False
    rescaled_init: bool = False

    @property
    def file(self) -> Path:
        """Path of the weights file."""
        return FOLDER / f"{self.name}.safetensors"

    def cfg(self) -> dict[str, Any]:
        """Timm's `pretrained_cfg` with preprocessing and class names."""
        return {
            "architecture": self.architecture,
            "input_size": (3, SIDE, SIDE),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "crop_pct": 1.0,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "num_classes": len(CLASSES),
            "label_names": CLASSES,
            "classifier": self.classifier,
            "license": "apache-2.0",
        }


_FINE_GRID: Mapping[str, Any] = MappingProxyType({"output_stride": 16})

RECIPES: Mapping[str, SyntheticModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            SyntheticModel(
                "world_vit",
                "test_vit",
                MappingProxyType({"img_size": SIDE, "patch_size": 12}),
                "head",
                max_learning_rate=2e-3,
                training_images=352_000,
                cell_supervision=True,
            ),
            SyntheticModel(
                "world_convnext",
                "test_convnext",
                MappingProxyType({**_FINE_GRID, "ls_init_value": None, "stem_type": "overlap_act"}),
                "head.fc",
                max_learning_rate=4e-3,
                training_images=160_000,
                cell_supervision=True,
                rescaled_init=True,
            ),
            SyntheticModel(
                "world_resnet",
                "test_resnet",
                _FINE_GRID,
                "fc",
                max_learning_rate=3e-3,
                training_images=80_000,
            ),
        )
    }
)
"""All models by name: a transformer with a class token and a grid of 8 x 8 patches, and two
convolutional networks whose last grid is 6 x 6."""

SYNTHETIC_MODELS: Mapping[str, SyntheticModel] = MappingProxyType(
    {name: model for name, model in RECIPES.items() if model.file.is_file()}
)
"""The models whose weights file exists, by name."""
