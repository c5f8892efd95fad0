"""Results as files: what the pixels of a PNG are, and the range of colours that maps share."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.export import Style, colour_range, save_png
from core.inputs.batch import InputBatch
from core.inputs.image import Picture
from core.inputs.preprocessing import Geometry, Preprocessing
from core.types import Attribution
from core.views import colour
from core.views.colour import ALPHA
from core.views.display import FINE, display_limits, drawn

SIDE = 40
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
WHOLE = Geometry(picture=(SIDE, SIDE), input=(SIDE, SIDE), box=(0, 0, SIDE, SIDE))
SEEN = InputBatch(
    torch.zeros(1, 3, SIDE, SIDE),
    "digest",
    Preprocessing(input_size=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3),
    (Picture(PHOTO, "photo.png"),),
    (WHOLE,),
)


def given(values: Tensor) -> Attribution:
    return Attribution(values[None], torch.zeros(1), "made up", {})


def spread(low: float, high: float, side: int = SIDE) -> Attribution:
    """A map of evenly spread values, both ends among them."""
    return given(torch.linspace(low, high, side * side).view(side, side))


SIGNED, MAGNITUDES = spread(-1, 2), spread(0, 2)


def saved(folder: Path, answer: Attribution, **asked: Any) -> np.ndarray:
    save_png(folder / "map.png", SEEN, answer, Style(**asked))
    with Image.open(folder / "map.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture).astype(int)


def blended(answer: Attribution, name: str, alpha: float, fade: bool) -> np.ndarray:
    """Opacity times the colour of each value, and the rest of the photograph."""
    low, high = (-2.0, 2.0) if answer is SIGNED else (0.0, 2.0)
    values = answer.values[0].numpy()
    share = alpha * (abs(values) / high if fade else np.ones(values.shape))[..., None]
    colours = colour.colourise(values, name, (low, high)).astype(float)
    return share * colours + (1 - share) * np.asarray(PHOTO)


# -- the pixels of a PNG --------------------------------------------------------------------------


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", ["gray", "viridis", "RdBu", "coolwarm"])
@pytest.mark.parametrize("answer", [SIGNED, MAGNITUDES], ids=["signed", "magnitudes"])
def test_a_png_is_the_stated_blend(
    answer: Attribution, name: str, alpha: float, fade: bool, tmp_path: Path
) -> None:
    found = saved(tmp_path, answer, colormap=name, alpha=alpha, fade=fade)
    assert abs(found - blended(answer, name, alpha, fade)).max() <= 2


@pytest.mark.parametrize("fade", [False, True])
def test_a_png_by_hand(fade: bool, tmp_path: Path) -> None:
    answer = given(torch.full((SIDE, SIDE), 0.2))  # low enough for colours to start at zero
    answer.values[0, 20:] = 1.0  # the largest: white in gray, and never faded
    found = saved(tmp_path, answer, colormap="gray", alpha=0.4, fade=fade)
    photo, share = np.asarray(PHOTO).astype(float), 0.08 if fade else 0.4
    assert abs(found[:20] - (share * 51 + (1 - share) * photo[:20])).max() <= 2
    assert abs(found[20:] - (0.4 * 255 + 0.6 * photo[20:])).max() <= 2


@pytest.mark.parametrize(
    ("answer", "name"), [(SIGNED, "RdBu"), (MAGNITUDES, "inferno")], ids=["signed", "magnitudes"]
)
def test_a_png_left_alone_is_three_fifths_of_the_default_colours(
    answer: Attribution, name: str, tmp_path: Path
) -> None:
    found = saved(tmp_path, answer)
    assert abs(found - blended(answer, name, ALPHA, fade=False)).max() <= 2
    assert (found == saved(tmp_path, answer, colormap="auto", alpha=ALPHA, fade=False)).all()


def test_a_png_is_of_the_map_in_input_pixels(tmp_path: Path) -> None:
    coarse = given(torch.tensor([[0.0, 1.0]]))
    found = saved(tmp_path, coarse, colormap="gray", alpha=1.0)[7, :, 0]
    expected = ((np.arange(SIDE) + 0.5) / (SIDE / 2) - 0.5).clip(0, 1) * 255
    assert abs(found - expected).max() <= 2


# -- ranges ---------------------------------------------------------------------------------------


def test_a_range_of_its_own_is_symmetric_for_a_signed_map() -> None:
    assert colour_range(SIGNED) == (-2, 2)
    assert colour_range(spread(-3, 1)) == (-3, 3)
    assert colour_range(MAGNITUDES) == (0, 2)
    assert colour_range(spread(0, 0)) == (0, 1)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([spread(-1, 2), spread(-5, 1)], (-5, 5)),
        ([spread(-1, 2), spread(-1, 3)], (-3, 3)),
        ([spread(-1, 2), spread(0, 4)], (-4, 4)),
        ([spread(-7, 2), spread(0, 4)], (-7, 7)),
        ([spread(-1, 2), spread(0, 4), spread(-6, -5)], (-6, 6)),
        ([spread(0, 2), spread(0, 4)], (0, 4)),
    ],
)
def test_a_shared_range_holds_every_map_and_is_symmetric_if_one_is_signed(
    maps: list[Attribution], expected: tuple[float, float]
) -> None:
    for order in itertools.permutations(maps):
        assert colour_range(*order) == expected


def test_an_empty_map_has_no_say_in_a_shared_range() -> None:
    empty = spread(0, 0)
    assert colour_range(empty, spread(0, 1e-4)) == pytest.approx((0, 1e-4))
    assert colour_range(spread(-1e-4, 5e-5), empty) == pytest.approx((-1e-4, 1e-4))
    assert colour_range(empty, empty) == (0, 1)


def test_only_maps_with_a_value_for_each_pixel_end_at_a_percentile() -> None:
    def lone(side: int) -> Attribution:
        values = torch.ones(side, side)
        values[0, 0] = 9
        return given(values)

    assert FINE == 64 * 64
    assert colour_range(lone(64)) == (0, 9)
    assert colour_range(lone(65)) == (0, 1)
    assert colour_range(lone(65), lone(64)) == (0, 9)
    even = spread(0, 1, side=100)
    assert colour_range(even)[1] == pytest.approx(0.99, abs=1e-4)


def test_dust_is_saved_smoothed_and_plain_if_told(tmp_path: Path) -> None:
    answer = given(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)))
    raw = answer.values[0].numpy().copy()
    batch = dataclasses.replace(
        SEEN,
        x=torch.zeros(1, 3, 100, 100),
        geometries=(dataclasses.replace(WHOLE, input=(100, 100)),),
    )
    for smooth in (True, False):
        save_png(tmp_path / "map.png", batch, answer, Style("gray", 1.0, smooth=smooth))
        span = display_limits(raw, smooth=smooth)
        assert colour_range(answer, smooth=smooth) == span
        shown = colour.overlay(PHOTO, drawn(raw, smooth), WHOLE, "gray", 1.0, limits=span)
        with Image.open(tmp_path / "map.png") as picture:
            assert picture.tobytes() == shown.tobytes()
    assert (answer.values[0].numpy() == raw).all(), "a view changes no value"
    assert colour_range(answer)[1] < colour_range(answer, smooth=False)[1] / 2


def test_a_large_constant_part_is_no_part_of_the_colours(tmp_path: Path) -> None:
    answer = spread(9, 10)
    assert colour_range(answer) == (9, 10)
    found = saved(tmp_path, answer, colormap="gray", alpha=1.0)
    assert (found.min(), found.max()) == (0, 255)
    faded = saved(tmp_path, answer, alpha=1.0, fade=True)
    assert abs(faded[0, :5] - np.asarray(PHOTO).astype(int)[0, :5]).max() <= 2
