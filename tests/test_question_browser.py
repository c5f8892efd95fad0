"""Which class is explained after pictures and models have changed, and what an address says."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dashboard.state import Service
from tests.browser import Visit, launched
from tests.test_dashboard_browser import TIMEOUT, choose, opened, title

pytestmark = pytest.mark.browser

PREDICT = importlib.import_module("dashboard.actions.predict")  # its function has the same name


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service(checks=False)) as address:
        yield address


def addressed(visit: Callable[..., Visit], address: str) -> Page:
    """The page, opened by an address of its own."""
    page: Page = visit("about:blank").page
    page.goto(address)
    return page


def example(page: Page, name: str, likeliest: str) -> None:
    """Take an example, and wait until it is predicted."""
    page.get_by_role("button", name=name, exact=True).click()
    expect(page.locator("#prediction .ts-class-main").first).to_contain_text(likeliest)


def test_back_at_the_picture_before_the_class_is_its_own(
    visit: Callable[..., Visit], url: str
) -> None:
    page = opened(visit(url)).page
    page.get_by_role("tab", name="Compare").click()  # here no map is drawn
    example(page, "rocket", "missile")
    example(page, "coffee", "espresso")
    expect(page.locator("#target input")).to_have_value(re.compile("espresso"))
    page.get_by_role("tab", name="Explain").click()
    title(page, "Why espresso?")


def test_a_class_chosen_while_the_prediction_is_under_way_stays(
    visit: Callable[..., Visit], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()
    original = PREDICT.load_and_predict

    def held(*values: Any) -> Any:
        asked.set()
        assert go_on.wait(60)
        return original(*values)

    page = opened(visit(url)).page
    monkeypatch.setattr(PREDICT, "load_and_predict", held)
    page.get_by_role("button", name="rocket", exact=True).click()
    assert asked.wait(60)
    choose(page, "#target", "lynx")
    go_on.set()
    title(page, "Why lynx?")
    expect(page.locator("#prediction .ts-class-main").first).to_contain_text("missile")
    expect(page.locator("#target input")).to_have_value(re.compile("lynx"))


@pytest.mark.parametrize("target", ["504", "coffee mug"])
def test_an_address_may_say_the_class_alone(
    visit: Callable[..., Visit], url: str, target: str
) -> None:
    page = addressed(visit, f"{url}?target={target}")
    title(page, "Why coffee mug?")
    example(page, "rocket", "missile")
    title(page, "Why missile?")


def test_a_class_that_is_none_does_not_stay_with_the_next_picture(
    visit: Callable[..., Visit], url: str
) -> None:
    page = addressed(visit, f"{url}?target=no+such+class&picture=rocket.jpg")
    expect(page.locator("#result")).to_contain_text("no such class", timeout=TIMEOUT)
    example(page, "cat", "tiger cat")
    title(page, "Why tiger cat?")


def reloaded(seen: Visit, address: re.Pattern[str]) -> Page:
    """The page opened anew by its own address, once that tells something."""
    seen.page.wait_for_url(address)
    url = seen.page.url
    seen.page.goto("about:blank")
    seen.errors.clear()  # leaving a page ends its streams
    seen.page.goto(url)
    return seen.page


def test_a_reload_shows_what_was_compared(visit: Callable[..., Visit], url: str) -> None:
    seen = opened(visit(url))
    page = seen.page
    example(page, "rocket", "missile")
    page.get_by_role("tab", name="Compare").click()
    choose(page, "#compare-methods", "Eigen-CAM")
    page.click("#compare-run")
    result = page.locator("#compare-result")
    expect(result).to_contain_text("Eigen-CAM", timeout=TIMEOUT)
    page = reloaded(seen, re.compile(r"tab=compare.*compare\.methods=.*eigencam"))
    expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
    expect(result).to_contain_text("Eigen-CAM", timeout=TIMEOUT)
    expect(page.locator("#compare-answer")).not_to_have_class(re.compile("ts-stale"))
    expect(page.locator("#prediction .ts-class-main").first).to_contain_text("missile")
    page.get_by_role("tab", name="Explain").click()
    title(page, "Why missile?")
    page.wait_for_url(re.compile("^((?!compare).)*$"))


def test_a_reload_shows_the_layer_of_features(visit: Callable[..., Visit], url: str) -> None:
    seen = opened(visit(url))
    page = seen.page
    page.get_by_role("tab", name="Features").click()
    choose(page, "#feature-layer", "blocks.4.0.conv_pw")
    page.click("#feature-run")
    maps = page.locator("#feature-maps .ts-card[data-kind=map]")
    expect(maps.first).to_be_attached(timeout=TIMEOUT)
    page = reloaded(seen, re.compile(r"tab=features.*features\.layer=blocks\.4\.0\.conv_pw"))
    expect(maps.first).to_be_attached(timeout=TIMEOUT)
    expect(page.locator("#feature-layer input")).to_have_value("blocks.4.0.conv_pw")
    page.wait_for_timeout(2000)
    expect(page.locator("#feature-layer input")).to_have_value("blocks.4.0.conv_pw")
    expect(page.locator("#features-answer")).not_to_have_class(re.compile("ts-stale"))


def test_a_reload_measures_again(visit: Callable[..., Visit], url: str) -> None:
    page = addressed(
        visit, f'{url}?tab=metrics&metrics.methods=["gradcam"]&metrics.metrics=["complexity"]'
    )
    expect(page.locator("#scores")).to_contain_text("Grad-CAM", timeout=TIMEOUT)
    expect(page.get_by_role("tab", name="Metrics")).to_have_attribute("aria-selected", "true")
