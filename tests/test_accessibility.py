"""Every tab can be used by everybody: axe-core finds nothing, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from dashboard.state import Service
from tests.browser import Visit, launched, violations
from tests.test_dashboard_browser import TIMEOUT, drawn, opened

pytestmark = pytest.mark.browser

TABS = ("Explain", "Compare", "Features", "Metrics")
Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service(checks=False)) as address:
        yield address


def choose_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_tabs_that_were_just_opened(visit: Open, url: str, width: int, dark: bool) -> None:
    page = opened(visit(url, width=width, height=900, dark=dark)).page
    expect(page.locator("#film button").first).to_be_visible(timeout=TIMEOUT)
    found = {}
    for tab in TABS:
        choose_tab(page, tab)
        page.wait_for_timeout(300)
        found[tab] = violations(page)
    assert found == {key: [] for key in TABS}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_stage_with_a_part_hidden_and_a_verdict(visit: Open, url: str, dark: bool) -> None:
    page = opened(visit(url, dark=dark)).page
    page.get_by_role("button", name="Draw a box to hide").press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator(".ts-effect")).to_contain_text("espresso goes from")
    page.click("#test")
    expect(page.locator("#verdict .ts-card").first).to_contain_text("Verdict", timeout=TIMEOUT)
    page.get_by_role("button", name="Slide", exact=True).click()
    page.locator("#prediction .ts-class-versus:visible").first.click()
    expect(page.locator("#result .ts-title")).to_contain_text("rather than", timeout=TIMEOUT)
    assert violations(page) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_filled_features_and_metrics(visit: Open, url: str, dark: bool) -> None:
    page = opened(visit(url, dark=dark)).page
    choose_tab(page, "Features")
    page.click("#feature-run")
    drawn(page, "#feature-maps")
    assert violations(page) == []
    choose_tab(page, "Metrics")
    page.click("#metric-run")
    drawn(page, "#metric-result")
    assert violations(page) == []


def test_sheets_of_a_phone(visit: Open, url: str) -> None:
    page = opened(visit(url, width=390, height=844, touch=True)).page
    found = {}
    for name in ("Picture", "Model", "Class", "Method", "View"):
        page.locator(".ts-phone-bar").get_by_role("button", name=name).tap()
        page.wait_for_timeout(200)
        found[name] = violations(page)
        page.keyboard.press("Escape")
    assert found == {key: [] for key in found}


def test_twice_as_large_nothing_is_cut_off(visit: Open, url: str) -> None:
    """A window of 640 CSS pixels is one of 1280 at 200 %."""
    page = opened(visit(url, width=640, height=450)).page
    for tab in TABS:
        choose_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, tab
        for name in TABS:
            expect(page.get_by_role("tab", name=name)).to_be_visible()


@pytest.mark.parametrize(
    ("style", "found"),
    [
        ("color: #fff; background: linear-gradient(#333, #000)", 0),
        ("color: #777; background: linear-gradient(#888, #666)", 1),
        ("color: rgb(0 0 0 / 20%); background: linear-gradient(#fff, #eee)", 1),
        ("color: #000; width: 9em; background: linear-gradient(90deg, #fff 50%, #000 50%)", 1),
    ],
)
def test_contrast_that_axe_leaves_undecided_is_decided(
    visit: Callable[..., Visit], style: str, found: int
) -> None:
    page = visit("about:blank").page
    page.set_content(
        f"<html lang=en><title>a</title><main><p style='{style}'>Some words in a line</p></main>"
    )
    assert [rule for rule, *_ in violations(page)] == ["contrast by pixels"] * found
