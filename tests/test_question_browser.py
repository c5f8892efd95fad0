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
