"""Colours, panels and the way values travel to the page."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from core.errors import TimmscopeError, UnknownNameError
from core.inputs.preprocessing import Geometry
from core.views import charts, colour, display, maps, panels

RNG = np.random.default_rng(0)
MAPS = {
    "magnitudes": RNG.random((7, 9)),
    "signed": RNG.normal(size=(7, 9)),
    "tiny": RNG.normal(size=(3, 3)) * 1e-9,
    "huge": RNG.random((3, 3)) * 1e9,
    "constant": np.full((4, 4), 2.5),
    "zero": np.zeros((4, 4)),
    "single": np.array([[-3.0]]),
}
EVERY = pytest.mark.parametrize("name", colour.COLORMAPS)
MAP = pytest.mark.parametrize("values", MAPS.values(), ids=MAPS)


def crop(left: float, top: float, right: float, bottom: float) -> Geometry:
    return Geometry(picture=(60, 100), input=(32, 32), box=(left, top, right, bottom))


WHOLE = crop(0, 0, 100, 60)
GREY = Image.new("RGB", (100, 60), (100, 100, 100))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


# Colormaps


@EVERY
def test_colormap_runs_from_zero_to_one(name: str) -> None:
    known = colour.colormap(name)
    at = [position for position, _ in known.stops]
    assert (at[0], at[-1]) == (0, 1)
    assert at == sorted(set(at))
    table = colour.lut(name)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert tuple(table[0]) == known.stops[0][1]
    assert tuple(table[-1]) == known.stops[-1][1]


@pytest.mark.parametrize("name", [n for n, c in colour.COLORMAPS.items() if c.kind == "diverging"])
def test_diverging_colormaps_are_palest_in_the_middle(name: str) -> None:
    light = colour.lut(name).astype(int).sum(axis=1)
    assert abs(int(light.argmax()) - 127.5) < 20
    assert 0.5 in dict(colour.colormap(name).stops)


def test_red_is_for_and_blue_against() -> None:
    against, favour = colour.lut("RdBu")[[10, 245]].astype(int)
    assert favour[0] > favour[2] + 50
    assert against[2] > against[0] + 50


@pytest.mark.parametrize("name", ["viridis", "inferno", "magma", "plasma", "cividis", "gray"])
def test_perceptual_colormaps_grow_lighter(name: str) -> None:
    luminance = colour.lut(name) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -0.8).all()
    assert luminance[-1] > luminance[0] + 100


def test_unknown_colormap_suggests_one() -> None:
    with pytest.raises(UnknownNameError, match=r"no colormap 'virids'; did you mean 'viridis'"):
        colour.lut("virids")


@EVERY
@pytest.mark.parametrize("signed", [False, True])
def test_faded_stops_are_clear_where_evidence_is_none(name: str, signed: bool) -> None:
    alpha = {at: a for at, _, a in colour.stops(name, signed)}
    assert alpha[0.5 if signed else 0.0] == 0
    assert alpha[1.0] == 1
    assert alpha[0.0] == (1 if signed else 0)


@EVERY
@pytest.mark.parametrize("signed", [False, True])
def test_zero_takes_the_middle_colour_of_a_diverging_colormap(name: str, signed: bool) -> None:
    known = colour.colormap(name)
    expected = dict(known.stops)[0.5 if known.kind == "diverging" else 0.0]
    zero = 0.5 if signed and known.kind == "diverging" else 0.0
    assert {at: rgb for at, rgb, _ in colour.stops(name, signed)}[zero] == expected


@EVERY
@pytest.mark.parametrize("signed", [False, True])
def test_page_and_picture_use_the_same_colours(name: str, signed: bool) -> None:
    span = (-2.0, 2.0) if signed else (0.0, 2.0)
    at, rgb, _ = zip(*colour.stops(name, signed), strict=True)
    values = np.array([at]) * (span[1] - span[0]) + span[0]
    drawn = colour.colourise(values, name, span)[0].astype(int)
    assert abs(drawn - np.array(rgb)).max() <= 6


# Ranges


@MAP
def test_limits_hold_every_value_and_zero_is_an_end_or_the_middle(values: np.ndarray) -> None:
    low, high = colour.limits(values)
    assert low < high
    assert (values >= low - 1e-6 * high).all()
    assert (values <= high * (1 + 1e-6)).all()
    assert low == (-high if values.min() < 0 else 0)


def test_limits_ignore_rounding_below_zero() -> None:
    assert colour.limits([1.0, -1e-8])[0] == 0
    assert colour.limits([1.0, -1e-3])[0] == -1


def test_percentile_cuts_outliers_but_never_everything() -> None:
    values = np.r_[np.linspace(0, 1, 99), 100]
    assert colour.limits(values)[1] == 100
    assert colour.limits(values, percentile=95)[1] < 1
    sparse = np.r_[np.zeros(99), 3.0]
    assert colour.limits(sparse, percentile=50) == (0, 3)


def test_limits_can_be_told_the_sign() -> None:
    assert colour.limits([0.0, 2.0], signed=True) == (-2, 2)
    assert colour.limits([-5.0, 2.0], signed=False) == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    values = np.array([[0.0, bad], [1.0, 2.0]])
    for draw in (
        lambda: colour.limits(values),
        lambda: colour.colourise(values, "gray", (0, 1)),
        lambda: maps.pack(values),
        lambda: maps.overlay_panel(GREY, values, WHOLE),
    ):
        with pytest.raises(TimmscopeError, match="1 of the map's 4 values are not finite"):
            draw()


@pytest.mark.parametrize("percentile", [0, -1, 100.5, float("nan")])
def test_percentile_outside_its_range_is_refused(percentile: float) -> None:
    with pytest.raises(TimmscopeError, match="percentile"):
        colour.limits([1.0], percentile=percentile)


def test_colours_beyond_the_range_saturate() -> None:
    drawn = colour.colourise([[-9, 0, 1, 9]], "gray", (0, 1))[0, :, 0]
    assert drawn.tolist() == [0, 0, 255, 255]
    with pytest.raises(TimmscopeError, match="colour range 1 to 1 is empty"):
        colour.colourise([[0]], "gray", (1, 1))


# What makes a map readable

SIDE = 100
DUST = RNG.normal(size=(SIDE, SIDE))
"""A value for each pixel that says nothing about the next one, like a gradient."""
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
"""A value for each pixel that changes slowly."""


def with_one(values: np.ndarray, extreme: float) -> np.ndarray:
    """The map with one extreme pixel."""
    changed = values.copy()
    changed[30, 40] = extreme
    return changed


@pytest.mark.parametrize("extreme", [1e4, -1e4])
@pytest.mark.parametrize("values", [DUST, abs(DUST), RAMP, 3 + RAMP, RAMP - 0.5], ids=range(5))
@pytest.mark.parametrize("smooth", [False, True])
def test_one_extreme_pixel_hardly_moves_the_range(
    values: np.ndarray, extreme: float, smooth: bool
) -> None:
    if not colour.is_signed(values):
        extreme = abs(extreme)  # the other sign would make it a signed map
    found = display.display_limits(with_one(values, extreme), smooth=smooth)
    assert found == pytest.approx(display.display_limits(values, smooth=smooth), rel=0.02)


@pytest.mark.parametrize("floor", [1.0, 9.7])
@pytest.mark.parametrize("side", [7, SIDE])
def test_colours_start_at_the_lowest_value_of_a_map_with_a_large_constant_part(
    floor: float, side: int
) -> None:
    values = floor + np.linspace(0, 1, side * side).reshape(side, side)
    low, high = display.display_limits(values)
    assert (low, high) == pytest.approx((floor, floor + 1), abs=0.011)
    shown = colour.colourise(values, "gray", (low, high))[..., 0]
    assert (shown.min(), shown.max()) == (0, 255)
    assert display.display_limits(-values) == (-high, -low)
    assert not colour.is_diverging((-high, -low))


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("side", [7, SIDE])
def test_colours_start_at_zero_where_the_lowest_value_is_near_it(floor: float, side: int) -> None:
    values = np.linspace(floor, 1, side * side).reshape(side, side)
    assert display.display_limits(values) == (0, pytest.approx(1, abs=0.011))
    assert display.display_limits(-values) == pytest.approx((-1, 1), abs=0.011)


@MAP
def test_the_range_of_a_map_with_both_signs_is_symmetric(values: np.ndarray) -> None:
    low, high = display.display_limits(values)
    assert low < high
    if values.min() < 0 < values.max():
        assert low == -high


@pytest.mark.parametrize("value", [2.5, -2.5, 0.0, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(4, 4), (SIDE, SIDE)])
def test_a_constant_map_has_a_range(value: float, shape: tuple[int, int]) -> None:
    values = np.full(shape, value)
    low, high = display.display_limits(values)
    assert low < high
    assert low == (-high if value < 0 else 0)
    assert (display.drawn(values) == values.astype(np.float32)).all()
    panel = maps.overlay_panel(GREY, values, WHOLE)
    assert panel["smoothing"] is None
    assert valid(panel)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_range_is_made_of_what_is_no_number(bad: float) -> None:
    for show in (display.display_limits, display.drawn, display.smoothing_text):
        with pytest.raises(TimmscopeError, match="1 of the map's 10000 values are not finite"):
            show(with_one(DUST, bad))


def test_maps_that_share_a_range_start_at_zero_if_one_is_far_below_another() -> None:
    assert display.display_limits([[3.0, 4.0]], [[3.5, 5.0]]) == (3, 5)
    assert display.display_limits([[3.0, 4.0]], [[30.0, 50.0]]) == (0, 50)
    assert display.display_limits([[3.0, 4.0]], [[-1.0, 2.0]]) == (-4, 4)
    assert display.display_limits([[3.0, 4.0]], [[-6.0, -5.0]]) == (-6, 6)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_both_signs_are_seen_beside_one_extreme_pixel(extreme: float) -> None:
    values = with_one(np.repeat([[-1.0] * 50 + [1.0] * 50], SIDE, axis=0), extreme)
    span = display.display_limits(values)
    shown = colour.colourise(display.drawn(values), "RdBu", span).astype(int)
    against, favour = shown[80, 10], shown[80, 90]
    assert against[2] > against[0] + 60
    assert favour[0] > favour[2] + 60


def test_dust_is_smoothed_and_what_is_smooth_is_left_alone() -> None:
    assert display.smoothing_radius(DUST) == round(display.SHARE * SIDE) == 2
    assert display.smoothing_radius(np.tile(DUST, (3, 3))) == 6
    tiles = RNG.normal(size=(10, 10)).repeat(10, 0).repeat(10, 1)
    coarse = colour.finite(Image.fromarray(DUST[:7, :7]).resize((SIDE, SIDE)))
    for kept in (DUST[:64, :64], RAMP, 3 + RAMP, tiles, coarse, np.zeros((SIDE, SIDE))):
        assert display.smoothing_radius(kept) == 0
        assert (display.drawn(kept) == kept.astype(np.float32)).all()
    assert (display.drawn(DUST, smooth=False) == DUST.astype(np.float32)).all()


def test_smoothing_averages_over_the_radius_it_states() -> None:
    at = np.arange(SIDE) - 40
    bell = np.exp(-(at**2) / (2 * display.smoothing_radius(DUST) ** 2))
    weights = np.outer(np.exp(-((np.arange(SIDE) - 30) ** 2) / (2 * 2**2)), bell)
    expected = float((weights * DUST).sum() / weights.sum())
    assert display.drawn(DUST)[30, 40] == pytest.approx(expected, abs=1e-3)
    assert display.drawn(DUST).mean() == pytest.approx(DUST.mean(), abs=0.01)


def test_a_smoothed_panel_says_so_and_holds_the_raw_values() -> None:
    panel = maps.overlay_panel(GREY, DUST, WHOLE, caption="0.3 s")
    assert panel["caption"] == "0.3 s · shown smoothed, radius 2 px"
    (trace,) = panel["figure"]["data"]
    step = float(np.ptp(DUST)) / 65535
    assert abs(maps.unpack(trace["z"]) - DUST).max() <= step
    assert "%{customdata:" in trace["hovertemplate"]
    assert (trace["zmin"], trace["zmax"]) == display.display_limits(DUST)
    smoothing = panel["smoothing"]
    assert smoothing is not None
    assert smoothing["caption"] == "0.3 s"
    means = display.drawn(DUST).clip(trace["zmin"], trace["zmax"])
    shown = maps.unpack(maps.pack(means, "u1"))
    assert smoothing["z"] == maps.pack(means, "u1")
    assert abs(shown - means).max() <= np.ptp(means) / 255
    plainly = smoothing["unsmoothed"]
    assert (plainly["zmin"], plainly["zmax"]) == display.display_limits(DUST, smooth=False)
    assert plainly["zmax"] > 2 * trace["zmax"]
    assert valid(panel)


def test_panels_of_squares_and_of_smooth_maps_are_not_smoothed() -> None:
    squares = maps.overlay_panel(GREY, DUST, WHOLE, smooth=False)
    for panel in (squares, maps.overlay_panel(GREY, RAMP, WHOLE), maps.map_panel(DUST)):
        assert (panel["smoothing"], panel["caption"]) == (None, "")
        assert "%{z:" in panel["figure"]["data"][0]["hovertemplate"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        (MAPS["constant"], ["0", "1.2", "2.5"]),
        (9.7 + RAMP, ["≤9.71", "10.2", "≥10.7"]),
        (with_one(np.sign(RAMP - 0.5), 50.0), ["-1", "0", "≥1"]),
        (with_one(np.sign(RAMP - 0.5), -50.0), ["≤-1", "0", "1"]),
        (RAMP, ["0", "0.5", "≥0.99"]),
    ],
    ids=["all within", "offset", "above", "below", "from zero"],
)
def test_the_colour_bar_tells_raw_values_and_where_the_map_goes_beyond(
    values: np.ndarray, ticks: list[str]
) -> None:
    (trace,) = maps.overlay_panel(GREY, values, WHOLE)["figure"]["data"]
    assert trace["colorbar"]["ticktext"] == ticks
    assert trace["colorbar"]["tickvals"][::2] == [trace["zmin"], trace["zmax"]]


# Overlay


def test_overlay_touches_only_what_the_model_saw() -> None:
    drawn = pixels(colour.overlay(GREY, np.ones((4, 4)), crop(20, 0, 80, 60), "gray", 0.5))
    assert (drawn[:, :20] == 100).all()
    assert (drawn[:, 80:] == 100).all()
    assert abs(drawn[2:58, 22:78] - (100 + 255) / 2).max() <= 1


def test_overlay_lands_where_the_crop_was() -> None:
    values = np.zeros((2, 2))
    values[1, 0] = 1
    drawn = pixels(colour.overlay(GREY, values, crop(20, 10, 60, 50), "gray", 1.0))[..., 0]
    bottom, right = np.unravel_index(drawn[12:48, 22:58].argmax(), (36, 36))
    assert bottom > 18 > right
    assert drawn[45, 25] > 240
    assert drawn[15, 55] < 10


def test_overlay_outlines_a_crop_but_not_a_whole() -> None:
    whole = pixels(colour.overlay(GREY, np.zeros((4, 4)), WHOLE, alpha=0))
    assert (whole == 100).all()
    part = pixels(colour.overlay(GREY, np.zeros((4, 4)), crop(20, 10, 60, 50), alpha=0))
    assert (part[10, 20:60] == 0).all()
    assert (part[11, 21:59] == 255).all()
    assert (part[13:47, 23:57] == 100).all()


def test_overlay_clips_a_box_beyond_the_picture() -> None:
    drawn = pixels(colour.overlay(GREY, np.ones((4, 4)), crop(0, -20, 100, 80), "gray", 1.0))
    assert drawn.shape == (60, 100, 3)
    assert (drawn == 255).all()


def test_faded_overlay_shows_the_picture_where_evidence_is_none() -> None:
    values = np.array([[0.0] * 8 + [1.0] * 8] * 8)
    drawn = pixels(colour.overlay(GREY, values, WHOLE, "gray", 1.0, fade=True))
    assert (drawn[:, :40] == 100).all()
    assert (drawn[:, 60:] == 255).all()


def test_signed_overlay_is_red_and_blue() -> None:
    values = np.array([[-1.0, 1.0]]).repeat(8, axis=1)
    drawn = pixels(colour.overlay(GREY, values, WHOLE))
    assert drawn[30, 5, 2] > drawn[30, 5, 0]
    assert drawn[30, 95, 0] > drawn[30, 95, 2]


def test_overlay_of_a_huge_picture_is_bounded() -> None:
    huge = Image.new("L", (5000, 1000))
    where = Geometry(picture=(1000, 5000), input=(8, 8), box=(0, 0, 5000, 1000))
    assert colour.overlay(huge, np.ones((2, 2)), where).size == (2048, 410)


# Overlay: colours laid over the picture, pixel by pixel

PHOTO = Image.fromarray(RNG.integers(0, 256, (60, 100, 3), dtype=np.uint8))
FINE = {"magnitudes": RNG.random((60, 100)), "signed": RNG.uniform(-1, 1, (60, 100))}
"""A value for each pixel of the photograph, so that nothing is enlarged."""


def laid(*args: Any, picture: Image.Image = PHOTO, **options: Any) -> np.ndarray:
    return pixels(colour.overlay(picture, *args, **options))


def blended(
    values: np.ndarray, name: str, span: tuple[float, float], alpha: float, fade: bool
) -> np.ndarray:
    """Opacity times the colour between two stops, and the rest of the photograph."""
    signed = span[0] < 0
    at = ((values - span[0]) / (span[1] - span[0])).clip(0, 1)
    places, rgb, _ = zip(*colour.stops(name, signed), strict=True)
    colours = np.stack([np.interp(at, places, channel) for channel in zip(*rgb, strict=True)], -1)
    evidence = abs(values) / span[1] if signed else values / span[1]
    share = alpha * (evidence.clip(0, 1) if fade else np.ones(values.shape))[..., None]
    return share * colours + (1 - share) * pixels(PHOTO)


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("values", FINE.values(), ids=FINE)
def test_overlay_blends_colours_and_picture_by_opacity(
    values: np.ndarray, alpha: float, fade: bool
) -> None:
    span = (-0.8 if values.min() < 0 else 0.0, 0.8)  # some values lie beyond
    found = laid(values, WHOLE, "gray", alpha, fade, limits=span)
    assert abs(found - blended(values, "gray", span, alpha, fade)).max() <= 2


@EVERY
@pytest.mark.parametrize("values", FINE.values(), ids=FINE)
def test_overlay_takes_the_colours_of_the_colormap_chosen(name: str, values: np.ndarray) -> None:
    span = (-1.0 if values.min() < 0 else 0.0, 1.0)
    found = laid(values, WHOLE, name, 0.7, limits=span)
    assert abs(found - blended(values, name, span, 0.7, fade=False)).max() <= 5


def test_overlay_of_no_opacity_is_the_picture_and_of_full_opacity_the_colours() -> None:
    values = FINE["signed"]
    assert (laid(values, WHOLE, "RdBu", 0.0) == pixels(PHOTO)).all()
    colours = colour.colourise(values, "RdBu", colour.limits(values))
    assert (laid(values, WHOLE, "RdBu", 1.0) == colours).all()


def test_overlay_left_alone_has_the_default_opacity_and_colours() -> None:
    for values, name in ((FINE["magnitudes"], "inferno"), (FINE["signed"], "RdBu")):
        span = colour.limits(values)
        assert (
            laid(values, WHOLE) == laid(values, WHOLE, name, colour.ALPHA, False, limits=span)
        ).all()
        assert (
            abs(laid(values, WHOLE) - blended(values, name, span, colour.ALPHA, False)).max() <= 5
        )


def test_overlay_in_a_range_shared_with_signed_maps_has_their_colours() -> None:
    values, shared = FINE["magnitudes"], (-2.0, 2.0)
    found = laid(values, WHOLE, limits=shared)
    assert (found == laid(values, WHOLE, "RdBu", limits=shared)).all()
    assert abs(found - blended(values, "RdBu", shared, colour.ALPHA, fade=False)).max() <= 5
    faded = laid(0 * values, WHOLE, "RdBu", 1.0, True, limits=shared)
    assert abs(faded - pixels(PHOTO)).max() <= 2, "zero lies in the middle, and is clear"


def test_overlay_spreads_a_coarse_map_linearly_between_its_cells() -> None:
    found = laid(np.array([[0.0, 1.0]]), WHOLE, "gray", 1.0)[30, :, 0]
    expected = ((np.arange(100) + 0.5) / 50 - 0.5).clip(0, 1) * 255  # cell centres: 25 and 75
    assert abs(found - expected).max() <= 2


def test_overlay_of_a_picture_scaled_down_keeps_the_box_in_place() -> None:
    found = laid(np.ones((4, 4)), crop(20, 10, 60, 50), "gray", 1.0, picture=GREY, side=50)
    assert found.shape == (30, 50, 3)
    assert (found[7:23, 12:28] == 255).all()
    outside = np.ones((30, 50), bool)
    outside[5:25, 10:30] = False
    assert (found[outside] == 100).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_overlay_takes_a_picture_of_any_mode(mode: str) -> None:
    picture = PHOTO.convert(mode)
    found = laid(FINE["signed"], WHOLE, alpha=0.3, picture=picture)
    assert (found == laid(FINE["signed"], WHOLE, alpha=0.3, picture=picture.convert("RGB"))).all()


# Panels


@MAP
def test_packed_values_are_within_half_a_step(values: np.ndarray) -> None:
    packed = json.loads(json.dumps(maps.pack(values)))
    back = maps.unpack(packed)
    step = (packed["hi"] - packed["lo"]) / 65535
    rounding = np.spacing(np.float32(abs(values).max()))
    assert back.shape == values.shape
    assert abs(back - values).max() <= step / 2 + 2 * rounding


def test_packed_extremes_are_exact() -> None:
    values = MAPS["signed"].astype(np.float32)
    back = maps.unpack(maps.pack(values))
    assert back.min() == values.min()
    assert back.max() == values.max()


def valid(panel: panels.Panel) -> Any:
    """The panel's figure as Plotly's own classes take it, which refuse a wrong name or value."""
    data = [
        trace | ({"z": maps.unpack(trace["z"])} if "z" in trace else {})
        for trace in panel["figure"]["data"]
    ]
    json.dumps(panel, allow_nan=False)
    return go.Figure(data, panel["figure"]["layout"])


def test_cells_of_the_map_tile_the_box() -> None:
    panel = maps.overlay_panel(GREY, np.ones((4, 8)), crop(20, 10, 60, 50))
    trace = valid(panel).data[0]
    # Edge coordinate e of the box is axis coordinate e - 0.5: pixel 0 is centred on 0.
    assert trace.x0 - trace.dx / 2 == pytest.approx(20 - 0.5)
    assert trace.x0 + 7.5 * trace.dx == pytest.approx(60 - 0.5)
    assert trace.y0 - trace.dy / 2 == pytest.approx(10 - 0.5)
    assert trace.y0 + 3.5 * trace.dy == pytest.approx(50 - 0.5)
    assert (trace.dx, trace.dy) == (5, 10)


def test_axes_count_the_original_pictures_pixels() -> None:
    big = Image.new("RGB", (3000, 1500))
    where = Geometry(picture=(1500, 3000), input=(8, 8), box=(0, 0, 3000, 1500))
    figure = valid(maps.overlay_panel(big, np.ones((8, 8)), where))
    assert figure.layout.xaxis.range == (-0.5, 2999.5)
    assert figure.layout.yaxis.range == (1499.5, -0.5)
    image = figure.layout.images[0]
    assert (image.x, image.y, image.sizex, image.sizey) == (-0.5, -0.5, 3000, 1500)
    data = base64.b64decode(image.source.partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (1024, 512)


def test_crop_is_outlined_in_the_panel() -> None:
    panel = maps.overlay_panel(GREY, np.ones((4, 4)), crop(20, 10, 60, 50))
    dim, *outline = valid(panel).layout.shapes
    assert {(s.x0, s.y0, s.x1, s.y1) for s in outline} == {(19.5, 9.5, 59.5, 49.5)}
    assert dim.path == "M-0.5,-0.5H99.5V59.5H-0.5ZM19.5,9.5H59.5V49.5H19.5Z"
    assert dim.fillrule == "evenodd"
    assert panel["seen"] == "The model sees 27% of this picture"
    padded = maps.overlay_panel(GREY, np.ones((4, 4)), crop(-20, 10, 60, 50))
    assert "M-0.5,9.5H59.5V49.5H-0.5Z" in valid(padded).layout.shapes[0].path
    assert not valid(maps.overlay_panel(GREY, np.ones((4, 4)), WHOLE)).layout.shapes


def test_signed_maps_say_so_and_share_a_range_if_told() -> None:
    own = maps.overlay_panel(GREY, MAPS["signed"], WHOLE)
    assert own["signed"]
    assert own["figure"]["data"][0]["zmin"] == -own["figure"]["data"][0]["zmax"]
    shared = maps.overlay_panel(GREY, MAPS["magnitudes"], WHOLE, limits=(-9, 9))
    assert shared["signed"]
    assert shared["figure"]["data"][0]["zmax"] == 9
    assert not maps.overlay_panel(GREY, MAPS["magnitudes"], WHOLE)["signed"]


def test_zoom_belongs_to_the_picture() -> None:
    def revision(picture: Image.Image, values: np.ndarray) -> str:
        return str(maps.overlay_panel(picture, values, WHOLE)["figure"]["layout"]["uirevision"])

    other = Image.new("RGB", (100, 60), (0, 0, 99))
    assert revision(GREY, MAPS["signed"]) == revision(GREY, MAPS["magnitudes"])
    assert revision(GREY, MAPS["signed"]) != revision(other, MAPS["signed"])


def test_encoded_picture_serves_for_the_picture() -> None:
    uri = maps.picture_uri(GREY)
    first = maps.overlay_panel(GREY, MAPS["signed"], WHOLE, title="a")
    assert maps.overlay_panel(uri, MAPS["signed"], WHOLE, title="a") == first


@pytest.mark.parametrize("shape", [(3,), (1, 3, 3), (0, 3)])
def test_what_is_no_map_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TimmscopeError, match=r"shape .* cannot be drawn"):
        maps.overlay_panel(GREY, np.zeros(shape), WHOLE)
    with pytest.raises(TimmscopeError, match=r"shape .* cannot be drawn"):
        maps.map_panel(np.zeros(shape))


def test_small_map_counts_its_cells() -> None:
    panel = maps.map_panel(RNG.random((14, 7)), "Head 3")
    trace = valid(panel).data[0]
    assert (trace.x0, trace.y0, trace.dx, trace.dy) == (0, 0, 1, 1)
    assert panel["aspect"] == 2
    assert panel["map"]


def test_bars_keep_rows_of_one_name_apart() -> None:
    panel = charts.bars_panel([("crane", 0.6), ("crane", 0.3), ("<b>kite</b>", 0.1)])
    figure = valid(panel)
    assert list(figure.data[1].y) == [0, 1, 2]
    assert list(figure.data[1].x) == [0.6, 0.3, 0.1]
    notes = [a.text for a in figure.layout.annotations]
    assert notes[:2] == ["crane", "<b>60.0%</b>"]
    assert notes[4] == "&lt;b&gt;kite&lt;/b&gt;"
    colours = figure.data[1].marker.color
    assert colours[0] != colours[1] == colours[2]


def test_bars_of_other_values_are_told_as_they_are() -> None:
    rows = [("feature 3", 12.5), ("feature 1", 5.0), ("feature 2", -1.0)]
    figure = valid(charts.bars_panel(rows, shares=False))
    assert list(figure.data[1].x) == [1, 0.4, 0]
    notes = [a.text for a in figure.layout.annotations]
    assert notes[1::2] == ["<b>12.5</b>", "<b>5</b>", "<b>-1</b>"]
    assert list(charts.bars_panel([("a", -2.0)], shares=False)["figure"]["data"][1]["x"]) == [0]


def test_curves_tell_controls_from_methods() -> None:
    line = {"x": [0, 0.5, 1], "y": [1, 0.4, 0]}
    curves: list[charts.Curve] = [
        {"name": "a", **line, "auc": 0.45},
        {"name": "b", **line},
        {"name": "random", **line, "style": "dash"},
        {"name": "<i>sobel", **line, "style": "dash", "auc": None},
    ]
    one, two, random, sobel = valid(charts.curves_panel(curves, "removed", "score")).data
    assert (one.line.dash, random.line.dash) == ("solid", "dash")
    assert len({one.line.color, two.line.color, random.line.color}) == 3
    assert random.line.color == sobel.line.color
    assert random.line.dash != sobel.line.dash
    assert "0.450" in one.name
    assert sobel.name == "&lt;i&gt;sobel"


def test_curve_with_missing_points_is_refused() -> None:
    with pytest.raises(TimmscopeError, match="curve 'a' has 2 x but 1 y values"):
        charts.curves_panel([{"name": "a", "x": [0, 1], "y": [1]}], "x", "y")


def test_panels_without_a_figure_say_why() -> None:
    error = panels.error_panel("Rollout", "this model has no attention")
    assert (error["tone"], error["caption"]) == ("error", "this model has no attention")
    assert panels.empty_panel("choose a picture")["tone"] == ""
    assert not valid(error).data


HOSTILE = "</script><img src=x onerror=alert(1)>%{x}${alert(1)}{{value}}`"


def test_text_stays_data() -> None:
    panel = maps.overlay_panel(GREY, MAPS["signed"], WHOLE, title=HOSTILE, caption=HOSTILE)
    assert (panel["title"], panel["caption"]) == (HOSTILE, HOSTILE)
    drawn = [
        maps.overlay_panel(GREY, MAPS["signed"], WHOLE, unit=HOSTILE),
        charts.bars_panel([(HOSTILE, 0.5)]),
        charts.curves_panel([{"name": HOSTILE, "x": [0], "y": [0]}], HOSTILE, HOSTILE),
    ]
    for panel in drawn:
        assert valid(panel)
        layout = {**panel["figure"]["layout"], "uirevision": ""}  # a name that is never drawn
        # Not by plotly's to_json, which escapes whatever it is given.
        figure = json.dumps({**panel["figure"], "layout": layout})
        assert "&lt;img" in figure
        assert "<img" not in figure
        assert "</script" not in figure


def test_borders_run_between_segments_in_picture_pixels() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    place = crop(20, 10, 60, 40)  # ten picture pixels to each cell
    figure = valid(maps.overlay_panel(GREY, np.ones((3, 4)), place, segments=labels))
    dark, light, dim, *outline = figure.layout.shapes
    assert dark.path == light.path == "M19.5,29.5H59.5M39.5,9.5V29.5"
    assert dim.fillrule == "evenodd"
    assert len(outline) == 2
    one = maps.overlay_panel(GREY, np.ones((3, 4)), WHOLE, segments=np.zeros((3, 4), int))
    assert not valid(one).layout.shapes


def test_any_object_with_the_right_names_places_a_map() -> None:
    place = SimpleNamespace(picture=(60, 100), box=(0, 0, 100, 60), whole=True)
    one = maps.overlay_panel(GREY, MAPS["signed"], place)
    assert one == maps.overlay_panel(GREY, MAPS["signed"], WHOLE)


def test_a_matrix_names_its_rows_and_columns_as_they_are() -> None:
    panel = charts.matrix_panel([[1, 0.5], [-0.001, 1]], ["<b>one", "two"], title="Likeness")
    (trace,) = panel["figure"]["data"]
    rows = [note["text"] for note in panel["figure"]["layout"]["annotations"]]
    assert rows == ["1  &lt;b&gt;one", "2  two"]
    assert panel["figure"]["layout"]["xaxis"]["ticktext"] == ["1", "2"]
    assert trace["text"] == [["1.00", "0.50"], ["0.00", "1.00"]]
    assert trace["customdata"][1][0] == "two and &lt;b&gt;one"
    assert (trace["zmin"], trace["zmax"]) == (0, 1)
    assert not panel["map"], "its colours are not the reader's to change"
    assert panel["height"] > 0


def test_a_finding_has_a_tone_and_nothing_to_draw() -> None:
    panel = panels.finding_panel("Does it?", "It does.", "good")
    assert (panel["tone"], panel["figure"]["data"]) == ("good", [])
