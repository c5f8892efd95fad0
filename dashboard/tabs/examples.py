"""The example pictures that the page offers."""

from __future__ import annotations

from core.inputs.assets import asset

SAMPLES = asset("samples")
EXAMPLES = {
    "cat": "chelsea.jpg",
    "coffee": "coffee.jpg",
    "cat and coffee": "chelsea_coffee.jpg",
    "rocket": "rocket.jpg",
    "astronaut": "astronaut.jpg",
}
FIRST = "coffee"
"""The example that the page opens with: one that the default model is sure of."""
SCENES = asset("synthetic")
SCENE_EXAMPLES = {path.stem.replace("_", " "): path.name for path in sorted(SCENES.glob("*.png"))}
EXAMPLE_FILES = {
    name: str(folder / name)
    for folder, names in ((SAMPLES, EXAMPLES), (SCENES, SCENE_EXAMPLES))
    for name in names.values()
}
"""Example pictures by file name, as the page's address names them."""
