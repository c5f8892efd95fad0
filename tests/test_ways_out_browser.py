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
    expect(page.locator("#explain-answer.ts-stale")).to_have_count(
        0
    )  # greyed, until the card holds
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


def test_a_press_on_the_card_of_one_of_several_changes_the_list(
    visit: Callable[..., Visit], url: str
) -> None:
    page = opened(visit(url)).page
    page.get_by_role("tab", name="Compare").click()
    choose(page, "#compare-methods", "Attention rollout")
    page.click("#compare-run")
    card = page.locator("#compare-result [data-tone=error]")
    expect(card).to_contain_text("no softmax attention", timeout=TIMEOUT)
    chips = page.locator("#compare-methods .token")
    count = chips.count()
    card.get_by_role("button", name="Remove it").click()
    expect(card).to_have_count(0, timeout=TIMEOUT)
    expect(chips).to_have_count(count - 1)
    expect(page.locator("#compare-result .js-plotly-plot").first).to_be_visible(timeout=TIMEOUT)

    page.get_by_role("tab", name="Metrics").click()
    page.locator("#metrics input[value=pointing_game]").check()
    page.click("#metric-run")
    card = page.locator("#metric-others [data-tone=error]")
    expect(card).to_contain_text("Pointing game", timeout=TIMEOUT)
    card.get_by_role("button", name="Remove it").click()
    expect(page.locator("#metrics input[value=pointing_game]")).not_to_be_checked()
    expect(card).to_have_count(0, timeout=TIMEOUT)
