"""The stage in a real browser: other views, hidden parts, layers, the badge, and the phone."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from core import Explainer
from core.models import embedded
from dashboard.actions.model import OffersRequest, describe_model
from dashboard.state import Service
from tests.browser import Visit, launched, violations
from tests.test_dashboard_browser import (
    TIMEOUT,
    choose,
    layer_list,
    opened,
    settled,
    shot,
    title,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(checks=False)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with launched(service) as address:
        yield address


@pytest.fixture
def seen(visit: Callable[..., Visit], url: str) -> Visit:
    return on_stage(opened(visit(url)))


def on_stage(visit: Visit) -> Visit:
    """The page once its stage and its filmstrip can be used."""
    expect(visit.page.locator("#result .ts-switch")).to_be_visible(timeout=TIMEOUT)
    expect(visit.page.locator("#film button").first).to_be_visible(timeout=TIMEOUT)
    return visit


def trace(page: Page) -> dict[str, Any]:
    """How the map on the stage is drawn."""
    found: dict[str, Any] = page.evaluate(
        """() => { const t = document.querySelector('#result .js-plotly-plot')._fullData[0];
                   return {opacity: t.opacity, colours: t.colorscale, z: t.z.length}; }"""
    )
    return found


def drag(page: Page, left: float, top: float, right: float, bottom: float) -> None:
    """Drag over the picture; positions as shares of its width and height."""
    box = page.locator(".ts-marks").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + right * box["width"], box["y"] + bottom * box["height"], steps=6)
    page.mouse.up()


def test_the_view_is_switched_without_a_request(seen: Visit) -> None:
    page = seen.page
    settled(seen)
    count = len(seen.requests)
    page.get_by_role("button", name="Picture", exact=True).click()
    assert trace(page)["opacity"] == 0
    page.get_by_role("button", name="Map", exact=True).click()
    assert trace(page)["opacity"] == 1
    page.get_by_role("button", name="Slide", exact=True).click()
    divider = page.get_by_label("Picture to the left, map to the right")
    divider.fill("25")
    assert "75" in (page.locator(".ts-cover").evaluate("one => one.style.clipPath"))
    page.get_by_role("button", name="Overlay", exact=True).click()
    assert trace(page)["opacity"] == pytest.approx(0.65)
    page.locator("#strongest input[type=range]").fill("20")
    page.wait_for_function(
        """() => document.querySelector('#result .js-plotly-plot')._fullData[0].colorscale
                 .some(([, colour]) => colour.endsWith(',0)'))"""
    )
    assert len(seen.requests) == count


def test_the_colour_bar_stays_when_the_address_changes(seen: Visit) -> None:
    """Plotly refers to gradients by the page's address, as it was when the figure was made."""
    page = seen.page
    page.locator("#prediction .ts-class-main").nth(1).click()
    title(page, "Why cup?")
    choose(page, "#colormap", "viridis")
    page.wait_for_url(re.compile("colormap=viridis"))
    fills = page.locator("#result .js-plotly-plot").evaluate(
        "plot => [...plot.querySelectorAll('[style*=\"url(\"]')].map(one => one.style.fill)"
    )
    assert fills
    assert not any("http" in fill for fill in fills)


def test_a_hidden_box_changes_the_classes_and_comes_back(seen: Visit) -> None:
    page = seen.page
    first = page.locator(".ts-class-value").first
    before = first.inner_text()
    page.get_by_role("button", name="Draw a box to hide").click()
    drag(page, 0.35, 0.2, 0.6, 0.6)
    effect = page.locator(".ts-effect")
    expect(effect).to_contain_text(re.compile(r"hidden, espresso goes from .* to"))
    expect(first).not_to_have_text(before)
    expect(first).to_contain_text(before)
    shot(page, "hide-1280-light")
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(first).to_have_text(before)
    expect(effect).to_have_text("")
    page.get_by_role("button", name="Redo", exact=True).click()
    expect(effect).to_contain_text("espresso goes from")
    page.get_by_role("combobox", name="What is hidden").select_option("keep")
    expect(effect).to_contain_text(re.compile("With [5-9]"))
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(first).to_have_text(before)


def test_a_part_is_painted_and_the_strongest_part_is_marked(seen: Visit) -> None:
    page = seen.page
    page.get_by_role("button", name="Paint a part to hide").click()
    drag(page, 0.4, 0.3, 0.6, 0.5)
    effect = page.locator(".ts-effect")
    expect(effect).to_contain_text("espresso goes from")
    painted = effect.inner_text()
    page.get_by_role("button", name="Reset", exact=True).click()
    page.get_by_role("button", name="Mark the strongest 10 %").click()
    expect(effect).to_contain_text("With 10% of what the model sees hidden")
    assert effect.inner_text() != painted


def test_a_box_is_moved_by_the_keyboard(seen: Visit) -> None:
    page = seen.page
    page.get_by_role("button", name="Draw a box to hide").press("Enter")
    marks = page.locator(".ts-marks")
    expect(marks).to_be_focused()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".ts-effect")).to_contain_text("espresso goes from")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Look", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )


def test_a_part_that_the_model_does_not_see_says_so(seen: Visit) -> None:
    page = seen.page
    page.get_by_role("button", name="Draw a box to hide").click()
    drag(page, 0.01, 0.4, 0.08, 0.7)
    expect(page.locator(".ts-effect")).to_have_text(re.compile("The model does not see that part"))


def test_layers_are_scrubbed_without_a_request(seen: Visit) -> None:
    page = seen.page
    settled(seen)
    count = len(seen.requests)
    stops = page.locator("#film button")
    expect(stops).to_have_count(6)
    layers = layer_list(page)
    stops.nth(2).click()
    expect(page.locator("#result .ts-caption")).to_contain_text("layer blocks.2")
    expect(layers).to_have_value("blocks.2")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#result .ts-caption")).to_contain_text("layer blocks.1")
    expect(page.locator("#explain-answer")).to_have_attribute("data-ribbon", "")
    page.wait_for_url(re.compile(r"[?&]layer=blocks\.1\b"))
    expect(page.get_by_role("button", name="Back to Grad-CAM, espresso")).to_have_count(3)
    assert len(seen.requests) == count
    with page.expect_download() as waiting:
        page.click("#save-json")
    assert "blocks.1" in waiting.value.path().read_text()


def test_a_cheap_map_gets_a_badge(seen: Visit, service: Service) -> None:
    page = seen.page
    page.click("#test")
    badge = page.locator("#test")
    expect(badge).to_contain_text("checks", timeout=TIMEOUT)
    expect(badge).to_have_class(re.compile("ts-badge-(good|doubtful|bad)"))
    tests = page.locator("#verdict .ts-card").first
    expect(tests).to_contain_text("Verdict: ")
    expect(tests).to_be_visible()
    count = len(seen.requests)
    badge.click()
    expect(tests).to_be_hidden()
    expect(badge).to_have_attribute("aria-expanded", "false")
    badge.press("Enter")
    expect(tests).to_be_visible()
    expect(badge).to_have_attribute("aria-expanded", "true")
    badge.press("Escape")
    expect(tests).to_be_hidden()
    badge.click()
    assert seen.requests[count:] == []
    page.locator("#prediction .ts-class-main").nth(1).click()
    title(page, "Why cup?")
    expect(badge).to_have_text("Can this map be trusted?")


def test_tests_that_were_made_unasked_open_without_a_request(
    visit: Callable[..., Visit],
) -> None:
    service = Service()
    # What a model offers takes long to find out, and would take the time of the tests.
    describe_model(service, OffersRequest(embedded.NAME, "pretrained"))
    with launched(service) as address:
        seen = visit(address)
        page = seen.page
        badge, tests = page.locator("#test"), page.locator("#verdict .ts-card").first
        expect(badge).to_contain_text("checks", timeout=TIMEOUT)
        expect(tests).to_be_hidden()
        page.wait_for_timeout(500)
        count = len(seen.requests)
        badge.click()
        expect(tests).to_be_visible()
        expect(tests).to_contain_text("Verdict: ")
        assert seen.requests[count:] == []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], threading.Event]]:
    """``held("verdict")`` makes that method of `Explainer` wait for the event that it gives."""
    events: list[threading.Event] = []

    def hold(name: str) -> threading.Event:
        events.append(let := threading.Event())
        work = getattr(Explainer, name)

        def late(*args: Any, **more: Any) -> Any:
            let.wait(60)
            return work(*args, **more)

        monkeypatch.setattr(Explainer, name, late)
        return let

    yield hold
    for event in events:
        event.set()


UNTESTED = "Can this map be trusted?"


def test_a_verdict_is_about_the_layer_that_is_shown(
    seen: Visit, held: Callable[[str], threading.Event]
) -> None:
    page, badge = seen.page, seen.page.locator("#test")
    page.click("#share")
    expect(page.locator("#link")).to_be_visible()
    badge.click()
    expect(page.locator("#verdict .ts-card").first).to_contain_text("Verdict: ", timeout=TIMEOUT)
    expect(badge).to_contain_text("checks")
    page.locator("#film button").nth(2).click()
    expect(badge).to_have_text(UNTESTED)
    expect(badge).to_have_class(re.compile("ts-badge-unasked"))
    expect(page.locator("#verdict .ts-card")).to_have_count(0)
    expect(page.locator("#link")).to_be_hidden()

    let = held("verdict")
    badge.click()
    page.wait_for_timeout(500)
    page.locator("#film button").nth(3).click()
    let.set()
    settled(seen)
    expect(badge).to_have_text(UNTESTED)
    expect(page.locator("#verdict .ts-card")).to_have_count(0)
    badge.click()
    expect(badge).to_contain_text("checks", timeout=TIMEOUT)


def test_the_film_of_the_answer_before_cannot_be_used(
    seen: Visit, held: Callable[[str], threading.Event]
) -> None:
    page, strip = seen.page, seen.page.locator(".ts-film-strip")
    let = held("explain_layers")
    page.locator("#prediction .ts-class-main").nth(1).click()
    title(page, "Why cup?")
    expect(strip).to_have_class(re.compile("ts-stale"))
    assert strip.evaluate("one => one.inert")
    page.click("#cancel")
    let.set()
    page.locator("#prediction .ts-class-main").nth(2).click()
    title(page, "Why consomme?")
    expect(strip).not_to_have_class(re.compile("ts-stale"))
    page.locator("#film button").nth(2).click()
    title(page, "Why consomme?")
    expect(page.locator("#result .ts-caption")).to_contain_text("layer blocks.2")


def test_on_a_phone_the_answer_comes_first(visit: Callable[..., Visit], url: str) -> None:
    page = on_stage(opened(visit(url, width=390, height=844, touch=True))).page
    box = page.locator("#result .js-plotly-plot").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 500, "the picture is on the first screen"
    assert box["width"] > 350
    for name, field in (("Class", "#target"), ("Method", "#method"), ("Model", "#model")):
        expect(page.locator(field)).to_be_hidden()
        opener = page.locator(".ts-phone-bar").get_by_role("button", name=name)
        opener.tap()
        expect(page.locator(field)).to_be_visible()
        expect(opener).to_have_attribute("aria-expanded", "true")
        page.keyboard.press("Escape")
        expect(page.locator(field)).to_be_hidden()
        expect(opener).to_be_focused()
    page.locator(".ts-phone-bar").get_by_role("button", name="Class").tap()
    page.locator("#prediction .ts-class-main").nth(1).tap()
    title(page, "Why cup?")
    expect(page.locator(".ts-phone-bar")).to_contain_text("cup")
    shot(page, "sheet-390-light")


def test_an_earlier_answer_comes_back(seen: Visit) -> None:
    page = seen.page
    page.get_by_role("button", name="rocket", exact=True).click()
    title(page, "Why missile?")
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    page.locator("#prediction .ts-class-main").nth(2).click()
    title(page, "Why drilling platform?")
    page.get_by_role("button", name="Back to Grad-CAM, espresso").click()
    title(page, "Why espresso?")
    expect(page.locator("#method input")).to_have_value(re.compile("Grad-CAM"))
    expect(page.locator("#target input")).to_have_value(re.compile("espresso"))
    expect(page.locator("#explain-answer")).to_have_attribute("data-ribbon", "")
    page.get_by_role("button", name="Back to Eigen-CAM, drilling platform").click()
    title(page, re.compile("Why drilling platform.*Eigen-CAM"))
    expect(page.locator("#explain-answer")).to_have_attribute("data-ribbon", "", timeout=TIMEOUT)


def test_two_earlier_answers_stand_side_by_side_without_a_request(seen: Visit) -> None:
    page = seen.page
    for place, label in ((1, "cup"), (2, "consomme")):
        page.locator("#prediction .ts-class-main").nth(place).click()
        title(page, f"Why {label}?")
    compare = page.get_by_role("button", name="Compare two")
    expect(compare).to_be_disabled()
    settled(seen)
    count = len(seen.requests)
    for label in ("cup", "espresso", "consomme"):  # of three the last two count
        page.get_by_role("checkbox", name=f"Compare Grad-CAM, {label}").check()
    expect(page.get_by_role("checkbox", name="Compare Grad-CAM, cup")).not_to_be_checked()
    compare.focus()
    page.keyboard.press("Enter")
    pair = page.get_by_role("region", name="Two answers side by side")
    expect(pair.locator(".js-plotly-plot")).to_have_count(2)
    expect(pair.locator(".ts-title")).to_have_text(
        ["Why espresso?Grad-CAM", "Why consomme?Grad-CAM"]
    )
    expect(pair.locator(".ts-caption").first).to_contain_text(
        "tf_efficientnet_lite0 · coffee.jpg · "
    )
    assert violations(page) == []
    shot(page, "pair-1280-light")
    pair.get_by_role("button", name="Close").click()
    expect(pair).to_be_hidden()
    expect(compare).to_be_focused()
    assert len(seen.requests) == count


def test_a_reload_shows_the_same(seen: Visit) -> None:
    page = seen.page
    page.get_by_role("button", name="rocket", exact=True).click()
    title(page, "Why missile?")
    page.locator("#prediction .ts-class-main").nth(1).click()
    title(page, "Why projectile?")
    choose(page, "#method", "LayerCAM")
    title(page, "LayerCAM")
    page.locator("#alpha input[type=range]").fill("0.3")
    page.get_by_role("button", name="Slide", exact=True).click()
    page.wait_for_url(re.compile(r"(?=.*picture=rocket.jpg)(?=.*alpha=0.3)(?=.*shown=slide)"))
    address = page.url
    page.goto("about:blank")
    seen.errors.clear()  # leaving a page ends its streams
    page.goto(address)
    title(page, re.compile("Why projectile.*LayerCAM"))
    assert trace(page)["opacity"] == pytest.approx(0.3)
    slide = page.get_by_role("button", name="Slide", exact=True)
    expect(slide).to_have_attribute("aria-pressed", "true")


def test_a_method_is_found_among_all_and_taken(seen: Visit) -> None:
    page = seen.page
    opener = page.get_by_role("button", name="All methods …")
    opener.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="HiResCAM")).to_be_visible(timeout=TIMEOUT)
    expect(dialog.locator(".ts-guide-card", has_text="Grad-CAM").locator("canvas")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()
    opener.press("Enter")
    expect(dialog.get_by_role("button", name="HiResCAM")).to_be_visible(timeout=TIMEOUT)
    page.keyboard.type("nothing of the kind")
    expect(dialog.get_by_text("No method of that name.")).to_be_visible()
    page.get_by_label("Search methods").fill("provably")
    expect(dialog.locator(".ts-guide-card:visible")).to_have_count(1)
    refused = dialog.get_by_text(re.compile("Not for this model: \\d+"))
    refused.click()
    expect(dialog.get_by_text("Attention rollout", exact=True)).to_be_visible()
    assert violations(page) == []
    dialog.get_by_role("button", name="HiResCAM").press("Enter")
    expect(dialog).to_be_hidden()
    title(page, "HiResCAM")
    expect(page.locator("#method input")).to_have_value(re.compile("HiResCAM"))


def test_parts_that_look_alike_are_hidden_by_a_click(seen: Visit) -> None:
    page = seen.page
    page.get_by_role("button", name="Click parts that look alike to hide them").click()
    page.wait_for_function(
        """() => { const c = document.querySelector('.ts-marks');
                   return c.getContext('2d').getImageData(0, 0, c.width, c.height).data
                           .some((value) => value > 0); }""",
        timeout=TIMEOUT,
    )  # the edges of the parts
    effect = page.locator("#result .ts-effect")
    drag(page, 0.5, 0.5, 0.5, 0.5)
    expect(effect).to_contain_text("hidden, espresso goes from", timeout=TIMEOUT)
    one = effect.inner_text()
    drag(page, 0.5, 0.35, 0.5, 0.35)
    expect(effect).not_to_have_text(one, timeout=TIMEOUT)
    drag(page, 0.5, 0.35, 0.5, 0.35)  # the same part again: it is taken away
    expect(effect).to_have_text(one, timeout=TIMEOUT)
    page.get_by_role("button", name="Undo").click()
    expect(effect).not_to_have_text(one, timeout=TIMEOUT)
