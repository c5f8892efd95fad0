"""The part of the picture that the model sees, chosen on the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from core.errors import TimmscopeError
from dashboard import actions
from dashboard.actions import Question
from dashboard.actions.compare import CompareRequest
from dashboard.actions.explain import ExplainRequest
from dashboard.actions.hide import HideRequest
from dashboard.components import CropBox
from dashboard.state import Service
from tests.browser import Visit, launched, violations
from tests.conftest import SAMPLES
from tests.test_dashboard_browser import TIMEOUT, drawn, opened, settled, shot, title
from tests.test_javascript import COMPONENTS, call

COFFEE = str(SAMPLES / "coffee.jpg")
ASKED = Question(COFFEE, "tf_efficientnet_lite0", "pretrained", None, None, "logit")
BOX = "100,20,300,220"


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(checks=False)


# -- without a browser --------------------------------------------------------------------------


def test_a_prediction_tells_which_part_was_seen(service: Service) -> None:
    own = actions.predict(service, ASKED)
    assert own.seen is not None
    assert (own.seen.width, own.seen.height, own.seen.aspect) == (600, 400, 1)
    assert (own.seen.box, own.seen.crop) == ((125.0, 25.0, 475.0, 375.0), "")
    part = actions.predict(service, replace(ASKED, crop=BOX))
    assert (part.seen.box, part.seen.crop) == ((100.0, 20.0, 300.0, 220.0), BOX)
    assert part.likely != own.likely


def test_every_answer_is_about_the_part(service: Service) -> None:
    question = replace(ASKED, crop=BOX)
    found = actions.explain(service, ExplainRequest(question, "gradcam", None, {}))
    assert found.panels[0]["seen"] == "The model sees 17% of this picture"
    assert f"crop='{BOX}'" in found.code
    assert found.request.question.crop == BOX
    hidden = actions.hide(service, HideRequest(question, {"width": 6, "height": 4, "bits": "QAAA"}))
    assert hidden.words.startswith("With 20% of what the model sees hidden")
    compared = actions.compare(
        service, CompareRequest(question, ["gradcam"], {}, None, "models", "gradcam",
                                ["tf_efficientnet_lite0 (random weights)"]),
    )  # fmt: skip
    maps = [panel for panel in compared.panels if panel.get("ranks")]
    assert [one["seen"] for one in maps] == ["The model sees 17% of this picture"] * 2


def test_a_second_picture_has_its_own_view_or_is_seen_whole_too(service: Service) -> None:
    chelsea = str(SAMPLES / "chelsea.jpg")
    seen = {}
    for crop in (None, "whole", BOX):
        question = replace(ASKED, crop=crop)
        request = CompareRequest(question, [], {}, None, "pictures", second=chelsea)
        panels = actions.compare(service, request).panels
        seen[crop] = [one["seen"] for one in panels if one.get("ranks")]
    own = seen[None][1]
    assert own.startswith("The model sees")
    assert seen["whole"] == ["", ""]
    assert seen[BOX] == ["The model sees 17% of this picture", own]


def test_a_part_that_is_none_is_told_at_the_picture(service: Service) -> None:
    for crop in ("1,2,3", "2000,0,2100,100", "0,0,nan,4"):
        question = replace(ASKED, crop=crop)
        with pytest.raises(TimmscopeError) as error:
            actions.predict(service, question)
        found = actions.no_prediction(question, error.value)
        assert "This picture cannot be used:" in found.notes
        assert "'whole' for all of it" in found.notes


def test_the_page_gets_the_part_as_json(service: Service) -> None:
    seen = actions.predict(service, ASKED).seen
    text = CropBox().postprocess(seen)
    assert '"box": [125.0, 25.0, 475.0, 375.0]' in text
    assert CropBox().postprocess(None) is None


# -- crop.js ------------------------------------------------------------------------------------

SEEN = {"width": 200, "height": 100, "aspect": 1}


@pytest.fixture
def empty(visit: Callable[..., Visit]) -> Page:
    page = visit("about:blank").page
    page.add_script_tag(path=COMPONENTS / "crop.js")
    return page


@pytest.mark.browser
@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("fitted", [[0, -50, 200, 150]], [50, 0, 150, 100]),  # of the whole picture
        ("fitted", [[10, 10, 60, 60]], [10, 10, 60, 60]),
        ("moved", [[10, 10, 60, 60], 30, 20], [40, 30, 90, 80]),
        ("moved", [[10, 10, 60, 60], -30, 900], [0, 50, 50, 100]),
        ("resized", [[10, 10, 60, 60], [1, 1], 90, 70], [10, 10, 90, 90]),
        ("resized", [[10, 10, 60, 60], [1, 1], 190, 70], [10, 10, 100, 100]),
        ("resized", [[10, 10, 60, 60], [0, 0], 40, 30], [30, 30, 60, 60]),
        ("resized", [[10, 10, 60, 60], [0, 0], 90, 90], [55, 55, 60, 60]),
        ("resized", [[10, 10, 60, 60], [1, 0], 80, 20], [10, 0, 70, 60]),
    ],
)
def test_a_box_keeps_its_aspect_and_stays_in_the_picture(
    empty: Page, function: str, values: list[object], expected: list[float]
) -> None:
    assert call(empty, f"crop.{function}", SEEN, *values) == pytest.approx(expected)


@pytest.mark.browser
def test_the_share_that_is_seen_is_told(empty: Page) -> None:
    said = [call(empty, "crop.sentence", SEEN, b) for b in ([0, -50, 200, 150], [0, 0, 50, 50])]
    assert said == ["The model sees the whole picture", "The model sees 13% of this picture"]


# -- the page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with launched(service) as address:
        yield address


def unfolded(page: Page) -> Locator:
    """The box, once its part of the column is open."""
    page.locator("#crop-options button").first.click()
    frame = page.locator(".ts-crop-box")
    expect(frame).to_be_visible(timeout=TIMEOUT)
    return frame


def said(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator(".ts-crop-said")).to_have_text(text)


def on_stage(page: Page, text: str) -> None:
    expect(page.locator("#result .ts-sees")).to_have_text(text, timeout=TIMEOUT)


@pytest.mark.browser
def test_the_box_is_dragged_and_everything_follows(visit: Callable[..., Visit], url: str) -> None:
    seen = opened(visit(url))
    settled(seen)
    page = seen.page
    frame = unfolded(page)
    said(page, "The model sees 51% of this picture")
    value = page.locator(".ts-class-value").first
    before = value.inner_text()
    corner = page.locator('.ts-crop-box [data-corner="1 1"]').bounding_box()
    stage = page.locator(".ts-crop-stage").bounding_box()
    page.mouse.move(corner["x"] + 12, corner["y"] + 12)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2, steps=5)
    words = page.locator(".ts-crop-said").inner_text()  # told while it is dragged
    page.mouse.up()
    share = int(re.search(r"(\d+)%", words)[1])
    assert 8 < share < 25
    on_stage(page, f"The model sees {share}% of this picture")
    expect(value).not_to_have_text(before)
    after = value.inner_text()
    page.wait_for_url(re.compile("crop="))
    assert violations(page) == []
    shot(page, "crop-1280-light")
    address = page.url
    page.goto("about:blank")
    seen.errors.clear()  # leaving a page ends its streams
    page.goto(address)
    on_stage(page, f"The model sees {share}% of this picture")
    expect(value).to_have_text(after)
    unfolded(page)
    said(page, f"The model sees {share}% of this picture")
    page.get_by_role("button", name="Whole picture").click()
    expect(page.locator("#result .ts-sees")).to_be_hidden(timeout=TIMEOUT)
    said(page, "The model sees the whole picture")
    page.wait_for_url(re.compile("crop=whole"))
    page.get_by_role("button", name="Model's own view").click()
    on_stage(page, "The model sees 51% of this picture")
    expect(value).to_have_text(before)
    expect(page).not_to_have_url(re.compile("crop="))
    frame.press("ArrowLeft")
    frame.press("Shift+ArrowUp")
    expect(page.locator("#result .ts-sees")).not_to_have_text("The model sees 51% of this picture")
    expect(value).not_to_have_text(before)


@pytest.mark.browser
def test_a_finger_moves_the_box_and_old_answers_are_greyed(
    visit: Callable[..., Visit], url: str
) -> None:
    page = opened(visit(url)).page
    page.get_by_role("tab", name="Features").click()
    page.locator("#feature-run").click()
    drawn(page, "#feature-maps")
    answer = page.locator("#features-answer")
    expect(answer).not_to_have_class(re.compile("ts-stale"))
    frame = unfolded(page)
    before = frame.bounding_box()
    at = {"bubbles": True, "pointerId": 1, "pointerType": "touch", "isPrimary": True, "button": 0}
    x, y = before["x"] + before["width"] / 2, before["y"] + before["height"] / 2
    page.evaluate("() => { Element.prototype.setPointerCapture = () => {}; }")
    for kind, right in (("pointerdown", 0), ("pointermove", 15), ("pointerup", 15)):
        frame.dispatch_event(kind, {**at, "clientX": x + right, "clientY": y})
    after = frame.bounding_box()
    assert after["x"] - before["x"] == pytest.approx(15, abs=2)
    assert after["width"] == pytest.approx(before["width"], abs=1)
    expect(answer).to_have_class(re.compile("ts-stale"))
    page.get_by_role("tab", name="Explain").click()
    page.wait_for_url(re.compile("crop="))


@pytest.mark.browser
def test_another_picture_is_seen_as_the_model_does(
    visit: Callable[..., Visit], url: str, tmp_path: Path
) -> None:
    page = opened(visit(f"{url}?crop=whole&x=")).page
    unfolded(page)
    said(page, "The model sees the whole picture")
    page.locator("#photographs").get_by_text("rocket", exact=True).click()
    title(page, re.compile("missile|projectile|space shuttle"))
    said(page, re.compile(r"The model sees \d+% of this picture"))
    expect(page.get_by_role("button", name="Model's own view")).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page).not_to_have_url(re.compile("crop="))
