"""Contact sheets: every method's map of one picture, drawn as saved files and notebooks draw it.

``make screenshots`` writes them into this folder. A method that cannot explain the model is left
out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from core import METHODS, Attribution, Explainer, sample_picture

DOCS = Path(__file__).parent
SHEETS = {
    "contact_sheet_lite0.jpg": ("tf_efficientnet_lite0", "chelsea"),
    "contact_sheet_world_vit.jpg": ("world_vit", "striped_disc"),
}
"""File name: model and picture."""
COLUMNS, SIDE, TITLE, GAP = 8, 200, 22, 10
"""Maps in a row; width of a map, height of its title and space around it, in pixels."""


def write_all() -> None:
    """Write the sheet of each model."""
    for name, (model, picture) in SHEETS.items():
        explainer = Explainer(model)
        query = explainer.query(sample_picture(picture))
        found = explainer.compare(query, list(METHODS))
        sheet(found.results).save(DOCS / name, quality=82, optimize=True)


def sheet(found: Mapping[str, Attribution]) -> Image.Image:
    """The maps of methods side by side, each below the method's name, after the picture itself."""
    first = next(iter(found.values()))
    cells = [("The picture", _cell(first, alpha=0.0))]
    cells += [(METHODS[key].label, _cell(one)) for key, one in found.items()]
    return _grid(cells)


def _cell(found: Attribution, **look: Any) -> Image.Image:
    """The part of the picture that the model saw, under its map."""
    (shown,) = found.pictures
    left, top, right, bottom = shown.box
    scale = SIDE / (right - left)
    drawn = found.overlay(size=round(max(shown.picture) * scale), **look)
    return drawn.crop(
        (round(left * scale), round(top * scale), round(right * scale), round(bottom * scale))
    )


def _grid(cells: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    width, height = cells[0][1].size
    across, down = width + GAP, height + TITLE + GAP
    size = (COLUMNS * across + GAP, math.ceil(len(cells) / COLUMNS) * down + GAP)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for i, (title, picture) in enumerate(cells):
        x, y = GAP + i % COLUMNS * across, GAP + i // COLUMNS * down
        pen.text((x, y), title, fill="black", font=font)
        page.paste(picture, (x, y + TITLE))
    return page


if __name__ == "__main__":
    write_all()
