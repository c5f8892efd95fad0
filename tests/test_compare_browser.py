"""The Compare tab in a real browser. Leaves pictures in screenshots/."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

from dashboard.state import Service
from tests.browser import launched, violations
from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from tests.browser import Visit

pytestmark = pytest.mark.browser

SHOTS = Path(__file__).parent.parent / "screenshots"
TIMEOUT = 90_000
"""Milliseconds to wait for an answer on a busy machine."""
CARDS = "#compare-result .ts-card"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service(checks=False)) as address:
        yield address


Open = Callable[..., "Visit"]


def opened(visit: Visit) -> Visit:
    """The page at its Compare tab, once the first explanation is there."""
    page = visit.page
    page.set_default_timeout(TIMEOUT)
    expect(page.locator("#result .js-plotly-plot").first).to_be_visible(timeout=TIMEOUT)
    tab = page.get_by_role("tab", name="Compare")
    if not tab.is_visible():
        page.locator(".overflow-menu button").first.click()
        tab = page.locator(".overflow-dropdown button", has_text="Compare")
    tab.click()
    return visit


def chosen(page: Page, dropdown: str, *texts: str) -> None:
    """Pick entries of a dropdown, in place of those that are there."""
    if page.locator(f"{dropdown} .remove-all").is_visible():
        page.locator(f"{dropdown} .remove-all").click()
    field = page.locator(f"{dropdown} input").first
    for text in texts:
        field.click()
        field.fill(text)
        page.get_by_role("option", name=text).first.click()
    field.press("Escape")


def compared(page: Page, cards: int) -> Locator:
    """Press Compare, and wait until every card is drawn."""
    page.click("#compare-run")
    found = page.locator(CARDS)
    expect(found).to_have_count(cards, timeout=TIMEOUT)
    for i in range(cards):
        found.nth(i).scroll_into_view_if_needed()
        expect(found.nth(i).locator(".main-svg").first).to_be_visible(timeout=TIMEOUT)
    found.nth(1).scroll_into_view_if_needed()
    return found


def three_methods(page: Page) -> Locator:
    """The picture, three maps, where they disagree, and how far they agree."""
    chosen(page, "#compare-methods", "Grad-CAM", "HiResCAM", "LayerCAM")
    return compared(page, 6)


def at(card: Locator, across: float, down: float) -> tuple[float, float]:
    """A point of a card's figure, in shares of it, on the screen."""
    box = card.locator(".nsewdrag").bounding_box()
    assert box is not None
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def point_at(card: Locator, across: float, down: float) -> None:
    x, y = at(card, across, down)
    card.page.mouse.move(x - 3, y - 3)
    card.page.mouse.move(x, y)


def ranges(page: Page) -> list[str]:
    """What each map shows of the picture."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('#compare-result .js-plotly-plot')]
          .filter((plot) => plot.layout.images)
          .map(({layout: {xaxis, yaxis}}) => [...xaxis.range, ...yaxis.range])
          .map((ends) => ends.map(Math.round).join())"""
    )
    return found


def titles(page: Page) -> list[str]:
    return page.locator(f"{CARDS} .ts-title").all_text_contents()


def settled(visit: Visit) -> int:
    """How many requests the page has made, once it has made none for a while."""
    before = -1
    while before != len(visit.requests):
        before = len(visit.requests)
        visit.page.wait_for_timeout(4000)
    return before


def ribbon(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator("#compare-answer")).to_have_attribute("data-ribbon", text, timeout=TIMEOUT)


def test_pointing_and_zooming_are_shared_without_a_request(visit: Open, url: str) -> None:
    seen = opened(visit(url))
    page = seen.page
    cards = three_methods(page)
    before = settled(seen)
    point_at(cards.nth(1), 0.5, 0.4)
    crosses = page.locator(f"{CARDS} .ts-cross:visible")
    expect(crosses).to_have_count(5)
    expect(cards.nth(0).locator(".ts-value")).to_be_hidden()
    expect(cards.nth(1).locator(".ts-value")).to_be_hidden()  # Plotly says it
    own = cards.nth(1).locator(".hovertext").first
    expect(own).to_be_visible()
    values = cards.locator(".ts-value:visible")
    expect(values).to_have_count(3)
    for text in values.all_text_contents():
        assert float(text) == float(text)
    places = page.evaluate(
        f"""[...document.querySelectorAll('{CARDS} .ts-cross:not([hidden])')]
          .map((cross) => cross.style.getPropertyValue('--ts-x').slice(0, 5))"""
    )
    assert len(set(places)) == 1
    point_at(cards.nth(0), 0.02, 0.4)
    expect(values).to_have_text(["not seen"] * 4)
    page.mouse.move(5, 5)
    expect(crosses).to_have_count(0)

    whole = ranges(page)
    page.mouse.move(*at(cards.nth(2), 0.3, 0.3))
    page.mouse.down()
    page.mouse.move(*at(cards.nth(2), 0.6, 0.6), steps=5)
    page.mouse.up()
    page.wait_for_function(
        "whole => [...document.querySelectorAll('#compare-result .js-plotly-plot')]"
        ".filter(p => p.layout.images).every(p => Math.round(p.layout.xaxis.range[1]) < whole)",
        arg=int(whole[0].split(",")[1]) - 20,
    )
    assert len(set(ranges(page))) == 1
    page.mouse.dblclick(*at(cards.nth(3), 0.5, 0.5))
    page.wait_for_function(
        "whole => [...document.querySelectorAll('#compare-result .js-plotly-plot')]"
        ".filter(p => p.layout.images).every(p => Math.round(p.layout.xaxis.range[1]) === whole)",
        arg=int(whole[0].split(",")[1]),
    )
    assert ranges(page) == whole
    assert seen.requests[before:] == []


def test_a_zoom_stays_when_a_panel_is_drawn_again(visit: Open, url: str) -> None:
    page = opened(visit(url)).page
    cards = three_methods(page)
    page.mouse.move(*at(cards.nth(1), 0.3, 0.3))
    page.mouse.down()
    page.mouse.move(*at(cards.nth(1), 0.6, 0.6), steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelectorAll('#compare-result .js-plotly-plot')[2]"
                           ".layout.xaxis.range[0] > 20")  # fmt: skip
    zoomed = ranges(page)
    page.evaluate("document.querySelectorAll('#compare-result .ts-card')[2].card.draw()")
    page.wait_for_timeout(300)
    assert ranges(page) == zoomed


def spans(page: Page) -> list[list[float]]:
    """The range of colours of each map, as it is drawn."""
    found: list[list[float]] = page.evaluate(
        """() => [...document.querySelectorAll('#compare-result .js-plotly-plot')]
          .filter((plot) => plot.layout.images && plot.data[0].colorbar).slice(0, 3)
          .map(({data: [trace]}) => [trace.zmin, trace.zmax])"""
    )
    return found


def test_maps_share_a_range_of_colours_without_a_request(visit: Open, url: str) -> None:
    seen = opened(visit(url))
    page = seen.page
    before = settled(seen)
    together = page.locator("#colour-range").get_by_label("Shared")
    together.check()
    assert settled(seen) == before, "nobody has pressed Compare"
    expect(page.locator(f"{CARDS} .ts-plot .main-svg")).to_have_count(0)

    chosen(page, "#compare-methods", "Grad-CAM", "HiResCAM", "Saliency")
    compared(page, 6)
    before = settled(seen)
    shared = spans(page)
    assert len(shared) == 3
    assert len({tuple(span) for span in shared}) == 1, "maps that come later take it too"
    page.locator("#colour-range").get_by_label("Own").check()
    page.wait_for_timeout(300)
    own = spans(page)
    assert len({tuple(span) for span in own}) > 1
    assert max(high for _, high in own) == shared[0][1]
    page.locator("#smooth input").uncheck()
    together.check()
    page.wait_for_timeout(300)
    assert len({tuple(span) for span in spans(page)}) == 1
    assert seen.requests[before:] == []


def test_order_and_measure_change_without_a_request(visit: Open, url: str) -> None:
    seen = opened(visit(url))
    page = seen.page
    cards = three_methods(page)
    as_chosen = titles(page)
    assert as_chosen[0] == "Picture"
    before = settled(seen)
    page.locator("#compare-order").get_by_label("Cost").check()
    costs = page.evaluate(
        """() => [...document.querySelectorAll('#compare-result .ts-card')].slice(1, 4)
          .map(({card}) => card.panel.ranks.cost)"""
    )
    assert costs == sorted(costs)
    assert titles(page)[0] == "Picture"
    assert titles(page)[4:] == as_chosen[4:]
    page.locator("#compare-order").get_by_label("As chosen").check()
    assert titles(page) == as_chosen
    switch = cards.last.get_by_role("radio")
    expect(switch).to_have_count(4)
    switch.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(cards.last.locator(".ts-caption")).to_contain_text("Structural similarity")
    expect(cards.last.get_by_label("SSIM")).to_be_checked()
    assert seen.requests[before:] == []

    page.click("#recommend")
    expect(page.locator("#advice")).to_contain_text("symmetric relevance gain", timeout=TIMEOUT)
    expect(page.locator(f"{CARDS} .ts-score:visible")).to_have_count(3)
    before = len(seen.requests)
    page.locator("#compare-order").get_by_label("Score").check()
    gains = page.locator(f"{CARDS} .ts-score:visible").all_text_contents()
    assert gains == sorted(gains, key=lambda text: -float(text.split()[-1]))
    assert seen.requests[before:] == []
    top, below = (page.locator(one).bounding_box() for one in ("#advice", "#compare-result"))
    assert top is not None
    assert below is not None
    assert top["y"] < below["y"]


def test_two_models_on_one_picture(visit: Open, url: str) -> None:
    page = opened(visit(url)).page
    page.locator("#compare-what").get_by_label("Models").check()
    expect(page.locator("#recommend")).to_be_hidden()
    chosen(page, "#compare-models", "world_resnet")
    page.click("#compare-run")
    error = page.locator("#compare-result [data-tone=error]")
    expect(error).to_contain_text("world_resnet has no class 'espresso'", timeout=TIMEOUT)
    page.locator("#compare-class").get_by_label("Each its own prediction").check()
    ribbon(page, "For: Grad-CAM on 2 models, espresso")
    cards = compared(page, 5)
    ribbon(page, "")
    expect(cards.nth(1)).to_contain_text("Predicts espresso")
    expect(cards.nth(2)).to_contain_text(re.compile(r"Predicts .* of the picture"))
    expect(cards.last).to_contain_text("Compared where all look")
    point_at(cards.nth(0), 0.5, 0.5)
    expect(page.locator(f"{CARDS} .ts-value:visible")).to_have_count(3)
    page.locator("#compare-what").get_by_label("Methods").check()
    ribbon(page, "For: Grad-CAM on 2 models")


def test_two_pictures_under_one_model(visit: Open, url: str) -> None:
    page = opened(visit(url)).page
    page.locator("#compare-what").get_by_label("Pictures").check()
    page.click("#compare-run")
    expect(page.locator("#compare-result")).to_contain_text("Add a second picture", timeout=TIMEOUT)
    page.locator("#compare-second input[type=file]").set_input_files(SAMPLES / "chelsea.jpg")
    expect(page.locator("#compare-second img")).to_be_visible()
    cards = compared(page, 4)
    assert titles(page) == ["Picture", "coffee", "Second picture", "chelsea"]
    expect(cards.nth(3)).to_contain_text("explains espresso")
    point_at(cards.nth(1), 0.5, 0.5)
    expect(page.locator(f"{CARDS} .ts-cross:visible")).to_have_count(2)
    point_at(cards.nth(3), 0.5, 0.5)
    expect(cards.nth(2).locator(".ts-cross")).to_be_visible()
    expect(page.locator(f"{CARDS} .ts-cross:visible")).to_have_count(2)


def test_a_method_is_added_with_another_setting(visit: Open, url: str) -> None:
    page = opened(visit(url)).page
    chosen(page, "#compare-methods", "CAM · Grad-CAM")
    page.get_by_text("Add a method with another setting").click()
    chosen(page, "#variant-parameter", "ReLU")
    page.locator("#variant-value textarea, #variant-value input").fill("false")
    page.click("#variant-add")
    expect(page.locator("#compare-methods")).to_contain_text("gradcam(relu=False)")
    compared(page, 5)
    assert titles(page)[1:3] == ["Grad-CAM", "Grad-CAM (relu=False)"]
    page.locator("#variant-value textarea, #variant-value input").fill("perhaps")
    page.click("#variant-add")
    expect(page.get_by_text("gradcam.relu = perhaps")).to_be_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_filled_tab_fits_and_is_accessible(
    visit: Open, url: str, width: int, dark: bool
) -> None:
    page = opened(visit(url, width=width, height=844, dark=dark)).page
    three_methods(page)
    page.click("#recommend")
    expect(page.locator("#advice")).to_contain_text("symmetric relevance gain", timeout=TIMEOUT)
    page.get_by_text("Add a method with another setting").click()
    SHOTS.mkdir(exist_ok=True)
    name = f"compare-filled-{width}-{'dark' if dark else 'light'}.png"
    page.screenshot(path=SHOTS / name, full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert violations(page) == []
