"""A card that says what went wrong has buttons for the ways out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from dashboard.state import Service
from tests.browser import Visit, launched, violations
from tests.test_dashboard_browser import TIMEOUT, choose, opened, title

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service(checks=False)) as address:
        yield address


def model(page: Page, name: str) -> None:
    page.locator("#model input").fill(name)
    page.locator("#model input").press("Enter")


def test_a_press_changes_the_question_and_asks_again(visit: Callable[..., Visit], url: str) -> None:
    page = opened(visit(url)).page
    choose(page, "#method", "Attention rollout")
    expect(page.locator("#result .ts-caption")).to_contain_text(
        "no softmax attention", timeout=TIMEOUT
    )
    page.get_by_role("button", name="Use Grad-CAM").click()
    title(page, "Why espresso?Grad-CAM")
    expect(page.locator("#method input")).to_have_value("CAM · Grad-CAM")

    model(page, "botnet50ts_256")
    expect(page.locator("#about-model")).to_contain_text("no pretrained weights", timeout=TIMEOUT)
    expect(page.get_by_text("no pretrained weights")).to_have_count(1)
    offered = page.locator("#result").get_by_role("button", name="Use random weights")
    offered.click()
    expect(page.locator("#about-model")).to_contain_text("Random weights", timeout=TIMEOUT)
    model(page, "test_resnt")
    offered = page.locator("#result").get_by_role("button", name="Use test_resnet")
    expect(offered).to_be_visible(timeout=TIMEOUT)
    assert violations(page) == []
    offered.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#about-model")).to_contain_text("M parameters", timeout=TIMEOUT)
    expect(page.locator("#model input")).to_have_value("test_resnet")
    title(page, "Grad-CAM")


def test_a_press_on_another_tab_asks_there(visit: Callable[..., Visit], url: str) -> None:
    page = opened(visit(url)).page
    model(page, "world_vt")
    expect(page.locator("#about-model")).to_contain_text("no model", timeout=TIMEOUT)
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-run")
    card = page.locator("#compare-result")
    card.get_by_role("button", name="Use world_vit").click()
    expect(card.locator(".js-plotly-plot").first).to_be_visible(timeout=TIMEOUT)
