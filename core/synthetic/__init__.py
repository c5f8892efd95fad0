"""Worlds with known truth: generated pictures, and small models trained on them.

A model of the world knows six classes of objects and nothing else. What its explanations ought to
point at is known pixel by pixel, so that they can be right or wrong. The weights are part of the
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
    """A model of the world.

    Attributes:
        name: what `load_model` calls it.
        architecture: timm's name of it.
        args: how it differs from timm's.
        classifier: the module that gives the scores.
        rate: the highest learning rate it was trained with.
        views: how many pictures it saw in training, repetitions counted.
        cells: whether it was also taught, in training, what each cell of its last grid shows.
        rescaled: whether its weights began at a size that goes by the width of each layer; timm's
            fixed one is made for wider networks.
    """

    name: str
    architecture: str
    args: Mapping[str, Any]
    classifier: str
    rate: float
    views: int
    cells: bool = False
    rescaled: bool = False

    @property
    def file(self) -> Path:
        """Its weights."""
        return FOLDER / f"{self.name}.safetensors"

    def cfg(self) -> dict[str, Any]:
        """Timm's `pretrained_cfg`: how pictures are prepared, what the classes are called."""
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


_FINE: Mapping[str, Any] = MappingProxyType({"output_stride": 16})

RECIPES: Mapping[str, SyntheticModel] = MappingProxyType(
    {
        world.name: world
        for world in (
            SyntheticModel(
                "world_vit",
                "test_vit",
                MappingProxyType({"img_size": SIDE, "patch_size": 12}),
                "head",
                rate=2e-3,
                views=352_000,
                cells=True,
            ),
            SyntheticModel(
                "world_convnext",
                "test_convnext",
                MappingProxyType({**_FINE, "ls_init_value": None, "stem_type": "overlap_act"}),
                "head.fc",
                rate=4e-3,
                views=160_000,
                cells=True,
                rescaled=True,
            ),
            SyntheticModel("world_resnet", "test_resnet", _FINE, "fc", rate=3e-3, views=80_000),
        )
    }
)
"""The models that can be trained: a transformer with a class token on a grid of 8 x 8, and two
convolutional networks that keep one of 6 x 6 to the end."""

SYNTHETIC_MODELS: Mapping[str, SyntheticModel] = MappingProxyType(
    {name: world for name, world in RECIPES.items() if world.file.is_file()}
)
"""The models by name, those whose weights are here."""
