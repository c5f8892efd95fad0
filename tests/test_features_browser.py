"""The Features and Metrics tabs in a browser: touching, opening, pinning, drawing, scrubbing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from core import Explainer, load_model
from dashboard.state import Service
from tests.browser import Visit, launched
from tests.conftest import SAMPLES
from tests.test_dashboard_browser import TIMEOUT, drawn, opened, settled, shot

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service()) as address:
        yield address


@pytest.fixture
def seen(visit: Callable[..., Visit], url: str) -> Visit:
    return opened(visit(url))


def on_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def touched(seen: Visit, model: str = "") -> Page:
    """The page once the patches of its picture have arrived."""
    page = seen.page
    if model:
        page.locator("#model input").fill(model)
        page.locator("#model input").press("Enter")
        expect(page.locator("#about-model")).to_contain_text("0.3 M", timeout=TIMEOUT)
        settled(seen)
    on_tab(page, "Features")
    page.click("#patch-run")
    drawn(page, "#patches", 1)
    settled(seen)
    return page


def shown(page: Page) -> dict[str, Any]:
    """What the card of the touched patch draws."""
    found: dict[str, Any] = page.evaluate(
        """() => { const plot = document.querySelector('#patches .js-plotly-plot');
             const [map] = plot.data;
             return {z: map.z.map((row) => [...row]), zmin: map.zmin, zmax: map.zmax,
                     shapes: plot.layout.shapes.length}; }"""
    )
    return found


def words(page: Page) -> str:
    return page.locator("#patches .ts-patch-words").inner_text()


# -- touch a patch ------------------------------------------------------------------------------


def test_patch_layer_and_head_are_drawn_without_a_request(seen: Visit) -> None:
    page = touched(seen, "world_vit")
    asked = len(seen.requests)
    page.get_by_role("button", name="Attention", exact=True).click()
    expect(page.get_by_role("button", name="Attention", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    slider = page.locator("#patches .ts-patch-slider")
    last = slider.get_attribute("aria-valuetext")
    slider.focus()
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") != last
    before = shown(page)
    page.get_by_role("button", name="Head 1", exact=True).click()
    assert shown(page)["z"] != before["z"]
    stage = page.locator("#patches .ts-patch-picture")
    stage.focus()
    stage.press("ArrowLeft")
    stage.press("ArrowUp")
    at = words(page)
    found = shown(page)
    plot = page.locator("#patches .ts-plot")
    box = plot.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    expect(page.locator("#patches .ts-patch-words")).not_to_have_text(at)
    page.get_by_role("button", name="class token").click()
    expect(page.locator("#patches .ts-patch-words")).to_contain_text("The class token.")
    assert len(seen.requests) == asked, "everything happened in the browser"

    own = Explainer(load_model("world_vit")).patches(SAMPLES / "coffee.jpg").attention[0]
    column, row = (int(number) for number in re.findall(r"(?:column|row) (\d+) of", at))
    values = own.maps((row - 1) * own.grid[1] + column - 1)[1]
    peak = float(values.max())
    for mine, theirs in zip(values.tolist(), found["z"], strict=True):
        assert theirs == pytest.approx(mine, abs=peak / 400)


def test_a_cnn_says_why_it_has_no_attention_and_what_is_merged(seen: Visit) -> None:
    page = touched(seen)
    expect(page.get_by_role("button", name="Attention", exact=True)).to_be_disabled()
    expect(page.locator("#patches .ts-patch-notes")).to_contain_text(
        "No attention: tf_efficientnet_lite0 computes no softmax attention"
    )
    expect(page.locator("#patches .ts-patch-notes")).to_contain_text("On fine grids (112 x 112")


def test_patches_of_another_picture_are_asked_for_anew(seen: Visit) -> None:
    page = touched(seen)
    area = page.locator("#patches-answer")
    expect(area).to_have_attribute("data-ribbon", "")
    page.get_by_role("button", name="rocket", exact=True).click()
    expect(area).to_have_attribute("data-ribbon", "For: patches in tf_efficientnet_lite0")
    expect(page.locator("#prediction")).to_contain_text("missile", timeout=TIMEOUT)
    page.click("#patch-run")
    expect(area).to_have_attribute("data-ribbon", "", timeout=TIMEOUT)


# -- channels -----------------------------------------------------------------------------------


def test_a_channel_opens_large_and_gives_the_focus_back(seen: Visit) -> None:
    page = seen.page
    on_tab(page, "Features")
    page.click("#feature-run")
    drawn(page, "#feature-maps .ts-all")
    settled(seen)
    asked = len(seen.requests)
    card = page.locator("#feature-maps .ts-all .ts-card").nth(1)
    name = card.locator(".ts-title").inner_text()
    dialog = page.locator("#feature-maps dialog")
    card.locator(".ts-open").press("Enter")
    expect(dialog).to_be_visible()
    expect(dialog.locator(".ts-title")).to_have_text(name)
    expect(dialog.locator(".ts-caption")).to_contain_text("bn2 of tf_efficientnet_lite0")
    expect(dialog.locator(".js-plotly-plot")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".ts-title")).not_to_have_text(name)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(card.locator(".ts-open")).to_be_focused()
    box = card.locator(".ts-plot").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(dialog.locator(".ts-title")).to_have_text(name)
    page.keyboard.press("Escape")
    assert len(seen.requests) == asked


def test_a_pinned_channel_stays_with_its_layers_name(seen: Visit) -> None:
    page = seen.page
    on_tab(page, "Features")
    page.click("#feature-run")
    drawn(page, "#feature-maps .ts-all")
    card = page.locator("#feature-maps .ts-all .ts-card").first
    name = card.locator(".ts-title").inner_text()
    card.locator(".ts-pin").click()
    expect(card.locator(".ts-pin")).to_have_attribute("aria-pressed", "true")
    page.locator("#feature-layer input").click()
    page.locator("#feature-layer input").fill("blocks.4")
    page.get_by_role("option", name="blocks.4", exact=True).click()
    expect(page.locator("#feature-statistics")).to_contain_text("blocks.4", timeout=TIMEOUT)
    pin = page.locator("#feature-maps .ts-pins .ts-card")
    expect(pin).to_have_count(1)
    expect(pin.locator(".ts-title")).to_have_text(name)
    expect(pin.locator(".ts-caption")).to_contain_text("bn2 of tf_efficientnet_lite0")
    shot(page, "features-pinned-1280-light")
    pin.locator(".ts-pin").click()
    expect(page.locator("#feature-maps .ts-pinned")).to_be_hidden()


# -- metrics ------------------------------------------------------------------------------------


def test_metrics_stand_under_their_questions(seen: Visit) -> None:
    page = seen.page
    on_tab(page, "Metrics")
    groups = page.locator("#metrics fieldset")
    expect(groups).to_have_count(6)
    expect(groups.first.locator("legend")).to_contain_text("Does the score change")
    ticked = page.locator("#metrics input:checked")
    expect(ticked).to_have_count(3)
    page.locator("#metrics").get_by_label("Insertion").uncheck()
    page.locator("#metrics").get_by_label("Symmetric relevance gain").uncheck()
    page.click("#metric-run")
    expect(page.locator("#scores")).to_contain_text("Deletion", timeout=TIMEOUT)
    expect(page.locator("#scores")).not_to_contain_text("Insertion")


def test_the_cursor_moves_at_once_on_the_curve_that_is_inspected(seen: Visit) -> None:
    page = seen.page
    on_tab(page, "Metrics")
    page.click("#metric-run")
    drawn(page, "#metric-result", 1)
    drawn(page, "#curve-step", 2)
    expect(page.locator("#metric-result .ts-title")).to_have_text("Deletion ↓")
    cursor = "document.querySelector('#metric-result .js-plotly-plot').data.at(-1).x[0]"
    assert page.evaluate(cursor) == 0.25
    page.locator("#share input[type=number]").fill("60")
    page.locator("#share input[type=number]").press("Enter")
    page.wait_for_function(f"{cursor} === 0.6")
    expect(page.locator("#curve-step .ts-title").first).to_have_text("61% removed", timeout=TIMEOUT)
    page.locator("#curve input").click()
    page.get_by_role("option", name="LayerCAM: insertion").click()
    expect(page.locator("#metric-result .ts-title")).to_have_text("Insertion ↑")
    shot(page, "metrics-1280-light")


def test_evidence_is_drawn_on_the_picture_with_one_button(seen: Visit) -> None:
    page = seen.page
    on_tab(page, "Metrics")
    page.click("#draw")
    dialog = page.locator("#drawing dialog")
    expect(dialog).to_be_visible(timeout=TIMEOUT)
    canvas = dialog.locator("canvas")
    box = canvas.bounding_box()
    assert box is not None
    assert box["width"] > 400

    def drag(left: float, top: float, right: float, bottom: float) -> None:
        page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + right * box["width"], box["y"] + bottom * box["height"], steps=8)
        page.mouse.up()

    drag(0.1, 0.1, 0.6, 0.9)
    dialog.get_by_role("button", name="Brush").click()
    drag(0.7, 0.2, 0.9, 0.6)
    shot(page, "drawing-1280-light")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#drawing .ts-draw-said")).to_have_text("")
    page.click("#draw")
    expect(dialog).to_be_visible(timeout=TIMEOUT)
    dialog.get_by_role("button", name="Box").click()
    drag(0.1, 0.1, 0.6, 0.9)
    canvas.press("Enter")
    dialog.get_by_role("button", name="Undo").click()
    dialog.get_by_role("button", name="Done").click()
    expect(page.locator("#drawing .ts-draw-said")).to_have_text("Evidence marked: 1 box.")
    expect(page.locator("#draw")).to_be_focused()
    page.locator("#metrics").get_by_label("Energy inside").check()
    page.click("#metric-run")
    expect(page.locator("#scores")).to_contain_text("Energy inside", timeout=TIMEOUT)
    answer = page.locator("#measure-answer")
    expect(answer).to_have_attribute("data-ribbon", "")
    page.click("#draw")
    expect(dialog).to_be_visible(timeout=TIMEOUT)
    expect(answer).to_have_attribute("data-ribbon", "")
    dialog.get_by_role("button", name="Clear").click()
    dialog.get_by_role("button", name="Done").click()
    expect(answer).to_have_attribute("data-ribbon", "For: 2 methods, espresso")
    page.get_by_role("button", name="rocket", exact=True).click()
    expect(page.locator("#drawing .ts-draw-said")).to_have_text("", timeout=TIMEOUT)
