"""Small maps beside the likeliest classes, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from core import Explainer
from dashboard.state import Service
from tests.browser import Visit, launched, violations
from tests.test_dashboard_browser import TIMEOUT, choose, layer_list, opened, settled, title

pytestmark = pytest.mark.browser

NOTE = "#prediction .ts-class-note[role=status]"
DRAWN_JS = """() => {
  const all = [...document.querySelectorAll("#prediction canvas")];
  const distinct = new Set(all.map((canvas) => canvas.toDataURL()));
  return all.length === 5 && distinct.size >= 4 && all.every((canvas) => canvas.width === 80); }"""


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(checks=False)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with launched(service) as address:
        yield address


@pytest.fixture
def seen(visit: Callable[..., Visit], url: str) -> Visit:
    return ready(opened(visit(url)))


def ready(visit: Visit) -> Visit:
    expect(visit.page.locator("#film button").first).to_be_visible(timeout=TIMEOUT)
    settled(visit)
    return visit


def toggle(page: Page) -> Locator:
    return page.get_by_role("button", name="Small maps")


def shows(page: Page, note: str) -> None:
    """Wait until five maps, not all alike, are there and true."""
    expect(page.locator(NOTE)).to_have_text(f"{note}. Each has its own colour range.")
    expect(page.locator("#prediction .ts-class-list")).not_to_have_class(re.compile("stale"))
    page.wait_for_function(DRAWN_JS, timeout=TIMEOUT)


def pictures(page: Page) -> list[str]:
    found: list[str] = page.locator("#prediction canvas").evaluate_all(
        "(all) => all.map((canvas) => canvas.toDataURL())"
    )
    return found


def test_each_class_shows_its_map_and_a_press_chooses_it(seen: Visit) -> None:
    page = seen.page
    expect(page.locator("#prediction canvas")).to_have_count(0)
    toggle(page).focus()
    page.keyboard.press("Enter")
    expect(toggle(page)).to_have_attribute("aria-pressed", "true")
    shows(page, "Small maps: Grad-CAM")
    assert violations(page) == []
    before = pictures(page)
    page.locator("#prediction canvas").nth(1).click()
    title(page, "Why cup?")
    expect(page.locator("#result .ts-caption")).to_contain_text("backward pass")
    shows(page, "Small maps: Grad-CAM")
    assert pictures(page) == before, "they do not depend on the class chosen"
    toggle(page).click()
    expect(page.locator("#prediction canvas")).to_have_count(0)
    expect(page.locator(NOTE)).to_have_text("")
    settled(seen)
    count = len(seen.requests)
    toggle(page).click()
    shows(page, "Small maps: Grad-CAM")
    settled(seen)
    assert len(seen.requests) == count, "what is known is not asked again"


def test_maps_that_answer_something_else_are_greyed_at_once_and_asked_anew(seen: Visit) -> None:
    page = seen.page
    toggle(page).click()
    shows(page, "Small maps: Grad-CAM")
    before = pictures(page)
    page.evaluate(
        """() => { window.greyed = 0;
             new MutationObserver(() => { window.greyed += Boolean(document.querySelector('.ts-class-stale')); })
               .observe(document.querySelector('#prediction'), {subtree: true, attributes: true}); }"""  # noqa: E501
    )
    choose(page, "#method", "LayerCAM")
    title(page, "LayerCAM")
    shows(page, "Small maps: LayerCAM")
    assert page.evaluate("window.greyed") > 0
    layercam = pictures(page)
    assert layercam != before
    page.locator("#film button").nth(3).click()
    expect(layer_list(page)).to_have_value("blocks.4")
    page.wait_for_function(
        "(old) => document.querySelector('#prediction canvas').toDataURL() !== old",
        arg=layercam[0],
        timeout=TIMEOUT,
    )
    shows(page, "Small maps: LayerCAM")
    page.get_by_role("button", name="rocket", exact=True).click()
    title(page, "Why missile?")
    shows(page, "Small maps: LayerCAM")
    assert pictures(page)[0] not in (before[0], layercam[0])


def test_small_maps_about_another_model_stay(seen: Visit) -> None:
    page = seen.page
    toggle(page).click()
    shows(page, "Small maps: Grad-CAM")
    choose(page, "#model", "world_resnet")
    title(page, "Why striped disc?")
    expect(layer_list(page)).to_have_value("layer4", timeout=TIMEOUT)
    settled(seen)
    expect(page.locator(NOTE)).to_contain_text("Small maps: Grad-CAM")
    expect(page.locator("#prediction .ts-class-list")).not_to_have_class(re.compile("stale"))


def test_a_slow_method_leaves_the_small_maps_to_another(seen: Visit) -> None:
    page = seen.page
    toggle(page).click()
    shows(page, "Small maps: Grad-CAM")
    choose(page, "#method", "Integrated Gradients")
    title(page, "Integrated Gradients")
    shows(page, "Small maps: Grad-CAM, because Integrated Gradients takes longer")
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    expect(page.locator(NOTE)).to_have_text(
        "Small maps: Eigen-CAM, the same for every class", timeout=TIMEOUT
    )


def test_the_server_is_asked_nothing_until_maps_are_wanted(
    seen: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, asked = seen.page, []
    monkeypatch.setattr(Explainer, "explain_classes", lambda *_, **__: asked.append(1))
    page.locator("#prediction .ts-class-main").nth(2).click()
    title(page, "Why consomme?")
    page.locator("#film button").nth(3).click()
    expect(layer_list(page)).to_have_value("blocks.4")
    settled(seen)
    assert asked == []
    expect(page.locator("#prediction canvas")).to_have_count(0)


def test_colours_follow_the_view(seen: Visit) -> None:
    page = seen.page
    toggle(page).click()
    shows(page, "Small maps: Grad-CAM")
    before = pictures(page)
    page.locator("#alpha input[type=range]").fill("0.1")
    page.wait_for_function(
        "(old) => document.querySelector('#prediction canvas').toDataURL() !== old",
        arg=before[0],
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone(visit: Callable[..., Visit], url: str, dark: bool) -> None:
    page = ready(opened(visit(url, width=390, height=844, dark=dark, touch=True))).page
    page.locator(".ts-phone-bar").get_by_role("button", name="Class").tap()
    toggle(page).tap()
    shows(page, "Small maps: Grad-CAM")
    assert violations(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    page.locator("#prediction canvas").nth(1).tap()
    title(page, "Why cup?")
